"""Adam for gates: the gradient of the loss, the slope of the penalty, and nothing for who is not asked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import tf
from recsys.features.gate_catch_up import Moments, catch_up, one_step, penalty_slope
from recsys.features.gate_schedule import GateSearch
from recsys.features.gates import Gates

EXACT_GATES = 1 << 20
"""Up to so many gates, a pass over all of them at every step costs no more than catching up with those of a batch of
4096 rows, and it is exact."""

BLOCK = 1 << 18
"""Gates at a time when all are brought to the present: bounds the memory of intermediate values."""


@dataclass(frozen=True, eq=False)
class Occurrences:
    """The rows that a batch of `batch` examples looks up in a table, one entry an occurrence: `rows` `[values] int64`.

    A row's share of the batch is its entries over `batch`: more than 1 where examples have it several times.
    """

    rows: tf.Tensor
    batch: tf.Tensor


class GateOptimiser(tf.Module):
    """Minimises loss + penalty x sum of S(t m_k) over gate logits m_k, with Adam (Kingma and Ba 2015, algorithm 1).

    `dense`: the sum runs over all gates at every step (OptFS). Of a set of more than `exact_gates` only those are moved
    that a step looks up, after they have caught up with the steps that they missed (gate_catch_up.py). Gates that no
    step ever looked up are all at the same place, which is kept once. So a step costs what its batch costs; `settle`
    brings all gates to the present, and must be called before anyone but a step reads them or the temperature changes
    from one epoch to the next.

    Not `dense`: the sum runs over the gates whose rows the step looked up; other gates rest, and so do their moments.
    Where the step says how often rows occur, each is priced by its share of the batch, as what it is worth to the mean
    loss grows with that too: a value is judged by its worth an occurrence, be it frequent or rare, at the price that a
    gate of a field has (section 11). Where it does not, each row is priced once. Adam's bias correction counts the
    updates of a gate, not the steps, so a gate that is looked up rarely moves by the same law. Gates of fields, which
    are looked up by no row, are in every step.
    """

    def __init__(
        self, gates: Sequence[Gates], search: GateSearch, *, dense: bool, exact_gates: int = EXACT_GATES
    ) -> None:
        super().__init__(name="gate_optimiser")
        self.gates, self.search, self.dense = list(gates), search, dense
        self.late = [dense and one.size > exact_gates for one in self.gates]
        """Which of `gates` are moved only when looked up, and catch up."""
        self.clock = tf.Variable(0, dtype=tf.int64, trainable=False, name="clock")
        """Steps of the search so far."""
        self.untouched = tf.Variable([search.start, 0.0, 0.0], trainable=False, name="untouched")
        """Logit, mean and square of a gate that no step ever looked up."""
        self._by_row = [late or not dense for late in self.late]
        self.state = [
            [tf.Variable(tf.zeros([one.size, 3]), trainable=False, name=f"{one.name}/state")]
            if by_row
            else [
                tf.Variable(tf.zeros([one.size]), trainable=False, name=f"{one.name}/{n}") for n in ("mean", "square")
            ]
            for one, by_row in zip(self.gates, self._by_row, strict=True)
        ]
        """Of gates that are looked up, mean, square and number of updates, beside each other so that a row costs one
        access to memory; where all gates move at every step, means and squares."""
        self._settle_block = tf.function(self._settle)

    @property
    def kept_state(self) -> list[tf.Variable]:
        """What a resumed search needs besides the logits."""
        return [self.clock, self.untouched, *(variable for one in self.state for variable in one)]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within it, as the forward pass of a step is traced, gates catch up before they are read."""
        for place, one in enumerate(self.gates):
            if self.late[place]:
                one.before_reading = self._reader(place)
        try:
            yield
        finally:
            for one in self.gates:
                one.before_reading = None

    def apply(
        self,
        gradients: Sequence[tf.Tensor | tf.IndexedSlices],
        occurrences: Sequence["Occurrences | None"] | None = None,
        *,
        distinct: bool = False,
    ) -> None:
        """One step, given the gradients of the loss, and perhaps occurrences, in the order of the gates.

        `distinct` says that all places were looked up within `reading`, by one lookup, each once; else they are
        gathered here, and caught up with where no one did.
        """
        for place, gradient in enumerate(gradients):
            occurred = occurrences[place] if occurrences is not None else None
            if not isinstance(gradient, tf.IndexedSlices):
                self._update(place, None, gradient)
            elif not self.dense and occurred is not None:
                self._update(place, *_priced(gradient, occurred))
            elif self.dense and not self.late[place]:
                self._update(place, None, tf.convert_to_tensor(gradient))
            elif distinct:
                self._update(place, gradient.indices, gradient.values)
            else:
                rows, positions = tf.unique(gradient.indices)
                if self.late[place]:
                    self._bring(place, rows)
                self._update(place, rows, tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(rows)))
        if any(self.late):
            now = Moments._make([*tf.unstack(self.untouched), tf.cast(self.clock, tf.float32)])
            slope = penalty_slope(now.logit, self._temperature, self.search.penalty)
            self.untouched.assign(tf.stack(one_step(now, slope, self.search)[:3]))
        self.clock.assign_add(1)

    def settle(self) -> None:
        """Bring all gates to the present."""
        for place, one in enumerate(self.gates):
            if self.late[place]:
                for start in range(0, one.size, BLOCK):
                    rows = tf.range(start, min(start + BLOCK, one.size), dtype=tf.int64)
                    self._settle_block(place, rows)

    def met(self) -> list[np.ndarray]:
        """Which gates were ever updated, `[size] bool` each."""
        if self.dense:
            return [np.full(one.size, int(self.clock) > 0) for one in self.gates]
        return [state[0].numpy()[:, 2] > 0 for state in self.state]

    @property
    def _temperature(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.gates[0].temperature)

    def _reader(self, place: int) -> Callable[[tf.Tensor], None]:
        return lambda rows: self._bring(place, rows)

    def _bring(self, place: int, rows: tf.Tensor) -> None:
        """Bring the gates of `rows` to the present, in the variables; rows that occur twice are written twice."""
        never, now = self._caught_up(place, rows)
        untouched = Moments._make([*tf.unstack(self.untouched), tf.cast(self.clock, tf.float32)])
        self._write(place, rows, Moments(*(tf.where(never, one, own) for one, own in zip(untouched, now, strict=True))))

    def _settle(self, place: int, rows: tf.Tensor) -> None:
        """The same for who reads logits: gates that no step ever looked up stay such."""
        never, now = self._caught_up(place, rows)
        self._write(place, rows, now._replace(logit=tf.where(never, self.untouched[0], now.logit)))

    def _caught_up(self, place: int, rows: tf.Tensor) -> tuple[tf.Tensor, Moments]:
        """Which of `rows` no step ever looked up, and where all others are now."""
        now = self._read(place, rows)
        never = now.updates <= 0.0
        missed = tf.where(never, 0.0, tf.cast(self.clock, tf.float32) - now.updates)
        return never, catch_up(now, missed, self._temperature, self.search)

    def _update(self, place: int, rows: tf.Tensor | None, slope: tf.Tensor, share: tf.Tensor | float = 1.0) -> None:
        """Move the gates of `rows` (None: all), whose gradients of the loss are `slope`, at `share` of the price."""
        now = self._read(place, rows)
        slope += share * penalty_slope(now.logit, self._temperature, self.search.penalty)
        self._write(place, rows, one_step(now, slope, self.search))

    def _read(self, place: int, rows: tf.Tensor | None) -> Moments:
        logits, state = self.gates[place].logits, self.state[place]
        if not self._by_row[place]:
            mean, square = (tf.convert_to_tensor(one) for one in state)
            return Moments(tf.convert_to_tensor(logits), mean, square, tf.cast(self.clock, tf.float32))
        if rows is None:
            return Moments._make([tf.convert_to_tensor(logits), *tf.unstack(tf.convert_to_tensor(state[0]), axis=1)])
        return Moments._make([tf.gather(logits, rows), *tf.unstack(tf.gather(state[0], rows), axis=1)])

    def _write(self, place: int, rows: tf.Tensor | None, moved: Moments) -> None:
        logits, state = self.gates[place].logits, self.state[place]
        if rows is not None:
            logits.scatter_update(tf.IndexedSlices(moved.logit, rows))
            state[0].scatter_update(tf.IndexedSlices(tf.stack(moved[1:], axis=1), rows))
            return
        values = moved[1:3] if not self._by_row[place] else [tf.stack(moved[1:], axis=1)]
        for variable, value in zip((logits, *state), (moved.logit, *values), strict=True):
            variable.assign(value)


def _priced(gradient: tf.IndexedSlices, occurred: Occurrences) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The rows that have a gradient or occur, each once; their gradients, and their shares of the batch."""
    seen = tf.cast(occurred.rows, gradient.indices.dtype)
    rows, place = tf.unique(tf.concat([gradient.indices, seen], axis=0))
    of_loss, of_batch = tf.split(place, [tf.size(gradient.indices), tf.size(seen)])
    slope = tf.math.unsorted_segment_sum(gradient.values, of_loss, tf.size(rows))
    counts = tf.math.unsorted_segment_sum(tf.ones(tf.shape(seen)), of_batch, tf.size(rows))
    return rows, slope, counts / tf.cast(occurred.batch, tf.float32)
