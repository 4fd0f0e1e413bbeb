"""Steps that gates missed, in few: Adam on the slope of the penalty alone, over whole stretches of steps at once.

A gate that no example looks up moves by its penalty alone. Over a stretch of steps its slope is close to a line,
a + b (i - 1) in the i-th step; then Adam's moments have a closed form,

    mean_i   = a + b (i - 10) + (mean_0 - a + 10 b) 0.9^i
    square_i = s^2 + (square_0 - s^2) 0.999^i, s^2 the mean square of the slope,

and the way is the sum of mean_i over a denominator that changes slowly: that of the straight part is taken in the
middle of the stretch, that of the fading part (the memory of the last example) at its centre of weight. A stretch of
one step is exact, as in the recursion. Each gate's stretches are as long as its slope allows: for hundreds of missed
steps some ten, dozens for a gate that falls through its threshold. The dense recursion passes over every gate at every
step instead (OptFS specification, section 9, item 12).
"""

from typing import NamedTuple

import numpy as np

from recsys._tensorflow import tf
from recsys.features.gate_schedule import BETA_1, BETA_2, GateSearch

TURN = 1.0
"""How far temperature x logit may go in a stretch, about: the slope's relative change there."""
LONGEST = 256
"""Steps of the longest stretch: the root of the second moment then changes by 12 %."""
YOUNGEST = 4
"""A gate with n updates takes stretches of at most n / YOUNGEST: Adam's bias corrections change like 1 / n."""
FLAT = 25.0
"""A gate whose temperature x logit stays beyond this has no slope that matters: S'(25) is 1e-11."""

_DELAY = 1.0 / (1.0 - BETA_1)
_LOG_1, _LOG_2 = float(np.log(BETA_1)), float(np.log(BETA_2))


class Moments(NamedTuple):
    """A gate's logit, Adam's two moments, and its number of updates, all `[gates] float32`."""

    logit: tf.Tensor
    mean: tf.Tensor
    square: tf.Tensor
    updates: tf.Tensor


def penalty_slope(logits: tf.Tensor, temperature: tf.Tensor, penalty: float) -> tf.Tensor:
    """d/dm of penalty x S(t m): penalty t S(t m) (1 - S(t m)), `logits.shape float32`."""
    soft = tf.sigmoid(temperature * logits)
    return penalty * temperature * soft * (1.0 - soft)


def one_step(now: Moments, slope: tf.Tensor, search: GateSearch) -> Moments:
    """Adam's step (Kingma and Ba 2015, algorithm 1) of gates whose loss and penalty have this slope."""
    updates = now.updates + 1.0
    mean = BETA_1 * now.mean + (1.0 - BETA_1) * slope
    square = BETA_2 * now.square + (1.0 - BETA_2) * tf.square(slope)
    root = tf.sqrt(square / (1.0 - tf.exp(_LOG_2 * updates)))
    way = mean / (1.0 - tf.exp(_LOG_1 * updates)) / (root + search.epsilon)
    return Moments(now.logit - search.learning_rate * way, mean, square, updates)


def catch_up(now: Moments, missed: tf.Tensor, temperature: tf.Tensor, search: GateSearch) -> Moments:
    """The gates after `missed` `[gates] float32` more steps without any example.

    Those steps were all at the scalar `temperature`, or where it grows by step, at that of each gate's own step: here a
    gate's updates are the search's steps. Gates that have arrived leave the loop.
    """

    def heat(updates: tf.Tensor) -> tf.Tensor:
        if not search.by_step:
            return temperature
        return tf.exp(_growth(search) * updates)

    def body(place: tf.Tensor, left: tf.Tensor, moving: Moments, arrived: tf.Tensor) -> tuple:
        steps = _stretch(moving, left, heat(moving.updates), search)
        moved = _over_stretch(moving, steps, heat(moving.updates), heat(moving.updates + steps), search)
        left -= steps
        done = tf.where(left <= 0.0)[:, 0]
        values = tf.stack([tf.gather(values, done) for values in moved], axis=1)
        arrived = tf.tensor_scatter_nd_update(arrived, tf.gather(place, done)[:, None], values)
        on = tf.where(left > 0.0)[:, 0]
        return tf.gather(place, on), tf.gather(left, on), Moments(*(tf.gather(v, on) for v in moved)), arrived

    start = tf.where(missed > 0.0)[:, 0]
    moving = Moments(*(tf.gather(values, start) for values in now))
    vector = tf.TensorShape([None])
    *_, arrived = tf.while_loop(
        lambda place, *_: tf.size(place) > 0,
        body,
        (start, tf.gather(missed, start), moving, tf.stack(now, axis=1)),
        shape_invariants=(vector, vector, Moments(*[vector] * 4), tf.TensorShape([None, 4])),
    )
    return Moments(*tf.unstack(arrived, axis=1))


def _stretch(now: Moments, left: tf.Tensor, temperature: tf.Tensor, search: GateSearch) -> tf.Tensor:
    """How many steps each gate takes at once, `[gates] float32`, from 1 to `left`."""
    slope = penalty_slope(now.logit, temperature, search.penalty)
    fading = tf.abs(now.mean - slope)
    square = BETA_2 * now.square + (1.0 - BETA_2) * tf.square(slope)
    pace = temperature * search.learning_rate / _denominator(square, now.updates + 1.0, search)
    # |d ln S'(z) / dz| = tanh(|z| / 2): where the slope is flat, the way may be longer.
    steepness = pace * tf.maximum(tf.abs(tf.tanh(0.5 * temperature * now.logit)), 0.25)
    # The way's straight and fading part; and where the temperature grows by step, what that does to the logit's place.
    steady = steepness * slope + (_growth(search) * tf.abs(temperature * now.logit) if search.by_step else 0.0)
    most = tf.where(
        steepness * _DELAY * fading < 0.5 * TURN,
        0.5 * TURN / tf.maximum(steady, 1e-30),
        TURN / tf.maximum(steady + steepness * fading, 1e-30),
    )
    reach = pace * (_DELAY * fading + LONGEST * slope)
    most = tf.where(tf.abs(temperature * now.logit) - reach > FLAT, float(LONGEST), most)
    most = tf.minimum(tf.minimum(most, float(LONGEST)), now.updates / YOUNGEST)
    return tf.minimum(tf.maximum(tf.floor(most), 1.0), left)


def _over_stretch(
    now: Moments, steps: tf.Tensor, temperature: tf.Tensor, hotter: tf.Tensor, search: GateSearch
) -> Moments:
    """The gates after `steps` `[gates] float32` steps each: a guess at a constant slope, then with the line to there.

    The temperature goes from `temperature` in the first of the steps to `hotter` in the one after them.
    """
    faded_1, faded_2 = tf.exp(_LOG_1 * steps), tf.exp(_LOG_2 * steps)
    weight = BETA_1 * (1.0 - faded_1) * _DELAY  # the sum of 0.9^i
    middle = 0.5 * (steps + 1.0)
    centre = tf.where(steps > 1.0, _DELAY - steps * faded_1 / (1.0 - faded_1), 1.0)

    def denominator(at: tf.Tensor, squared_slope: tf.Tensor) -> tf.Tensor:
        square = squared_slope + (now.square - squared_slope) * tf.exp(_LOG_2 * at)
        return _denominator(square, now.updates + at, search)

    first = penalty_slope(now.logit, temperature, search.penalty)
    straight, fading = denominator(middle, tf.square(first)), denominator(centre, tf.square(first))
    guess = now.logit - search.learning_rate * (steps * first / straight + (now.mean - first) * weight / fading)
    rise = (penalty_slope(guess, hotter, search.penalty) - first) / steps
    rise = tf.where(steps > 1.0, rise, 0.0)
    half = first + 0.5 * rise * (steps - 1.0)
    straight = denominator(middle, _mean_square(first, half))
    start = first - _DELAY * rise
    total = steps * first + rise * (0.5 * steps * (steps + 1.0) - _DELAY * steps)
    way = total / straight + (now.mean - start) * weight / fading
    squared = _mean_square(first, first + rise * (steps - 1.0))
    return Moments(
        now.logit - search.learning_rate * way,
        start + rise * steps + (now.mean - start) * faded_1,
        squared + (now.square - squared) * faded_2,
        now.updates + steps,
    )


def _growth(search: GateSearch) -> float:
    """By which the temperature's logarithm grows a step, where it grows by step."""
    return float(np.log(search.final_temperature)) / (search.epochs * search.epoch_steps - 1)


def _denominator(square: tf.Tensor, updates: tf.Tensor, search: GateSearch) -> tf.Tensor:
    """What Adam divides its first moment by, bias corrections of both included."""
    root = tf.sqrt(tf.maximum(square, 0.0) / (1.0 - tf.exp(_LOG_2 * updates)))
    return (root + search.epsilon) * (1.0 - tf.exp(_LOG_1 * updates))


def _mean_square(first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Of a line between two values."""
    return (tf.square(first) + first * last + tf.square(last)) / 3.0
