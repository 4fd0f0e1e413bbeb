"""When gates are how soft, and whether one that nothing needs will have closed in time. Without TensorFlow.

Source: OptFS (Lyu et al., WWW 2023), temperature law as in the authors' code.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np

from recsys.errors import UserError

BETA_1, BETA_2 = 0.9, 0.999
"""Decay of Adam's moments of the gates."""


@dataclass(frozen=True)
class GateSearch:
    """One search: `epochs` epochs of `epoch_steps` steps.

    Gate k, with logit m_k (`start` at first), adds `penalty` x S(t m_k) to the loss, S the logistic function; the
    temperature t grows from 1 to `final_temperature`, from epoch to epoch or `by_step`. Adam with `learning_rate` and
    `epsilon` moves the logits. In `warmup` epochs before the `epochs` gates rest, at temperature 1.
    """

    start: float
    penalty: float
    final_temperature: float
    epochs: int
    epoch_steps: int
    learning_rate: float
    epsilon: float
    by_step: bool = False
    warmup: int = 0

    def rests(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 0, the warm-up's among them) moves no gate."""
        return epoch < self.warmup

    def temperature(self, epoch: int, step: int = 0) -> float:
        """t = T^p of step `step` of epoch `epoch` (both from 0), p the progress from 0 to 1 (section 2.2).

        By epoch, p = e / (E - 1) whatever the step, E >= 2. By step, p = s / (S - 1) of step s of S. Epochs of the
        warm-up come first and count for neither.
        """
        if self.rests(epoch):
            return 1.0
        epoch -= self.warmup
        if self.by_step:
            step += epoch * self.epoch_steps
            return self.final_temperature ** (step / (self.epochs * self.epoch_steps - 1))
        return self.final_temperature ** (epoch / (self.epochs - 1))

    def changes_at(self, step: int) -> bool:
        """Whether the temperature is another one at this step of an epoch than at the step before."""
        return self.by_step or step == 0


def unused_gate(search: GateSearch) -> list[float]:
    """The logit after each epoch (past the warm-up) of a gate that no example needs: Adam on the penalty's slope alone.

    Where occurrences have their price, this is a value that every row has; a rarer one moves less.
    """
    logit, mean, square, step, temperature = search.start, 0.0, 0.0, 0, 1.0
    after = []
    for epoch in range(search.epochs):
        for place in range(search.epoch_steps):
            if search.changes_at(place):
                temperature = search.temperature(search.warmup + epoch, place)
            step += 1
            soft = 0.5 * (1.0 + math.tanh(0.5 * temperature * logit))
            slope = search.penalty * temperature * soft * (1.0 - soft)
            mean = BETA_1 * mean + (1.0 - BETA_1) * slope
            square = BETA_2 * square + (1.0 - BETA_2) * slope * slope
            root = math.sqrt(square / (1.0 - BETA_2**step))
            logit -= search.learning_rate * mean / (1.0 - BETA_1**step) / (root + search.epsilon)
        after.append(logit)
    return after


def fewest_occurrences(search: GateSearch, examples: int) -> int:
    """The fewest occurrences in training, spread evenly, with which a value that no example needs closes in time, where
    occurrences have their price.

    A value that occurs n times moves in n steps of an epoch at the price of one occurrence in a batch; from n =
    `epoch_steps` on at every step, at the price of n / `epoch_steps`. At most `examples` (a value of every row), which
    `require_closable` has found to be enough.
    """
    once = search.penalty * search.epoch_steps / examples

    def closes(occurrences: int) -> bool:
        a_step = max(1.0, occurrences / search.epoch_steps)
        steps = min(occurrences, search.epoch_steps)
        return unused_gate(replace(search, epoch_steps=steps, penalty=once * a_step))[-1] <= 0.0

    most = 1
    while most < examples and not closes(most):
        most *= 2
    most = min(most, examples)
    return bisect_left(range(most), True, lo=most // 2, key=closes)


def too_rare_to_close(search: GateSearch, counts: np.ndarray, examples: int, path: str, of: str = "") -> str | None:
    """Of how many values a lazy search moves the gates too seldom to close, in words for the terminal; None of none.

    `counts` `[values]` are their occurrences in the training `examples`. Values too rare stay open, needed or not.
    `path` is the configuration section's, `of` says whose values they are.
    """
    if search.penalty == 0.0:
        return None
    needed = fewest_occurrences(search, examples)
    rare = int(np.sum(counts < needed))
    if not rare:
        return None
    return (
        f"{path}: {rare:,} of {len(counts):,} values{of} occur fewer than {needed:,} times in training and stay open, "
        "needed or not. Raise learning_rate or search_epochs to reach more of them."
    )


def require_closable(search: GateSearch, path: str) -> None:
    """Fail before the search where even a gate that nothing needs would end open.

    Keras' own epsilon of 1e-7, say, keeps every gate open with penalties of the paper's size. Without a penalty nothing
    is to close. `path` is the configuration section's, `train.gates`. Raises UserError.
    """
    if search.penalty == 0.0:
        return
    logit = unused_gate(search)[-1]
    if logit <= 0.0:
        return
    raise UserError(
        f"{path}: a gate that nothing needs would end at logit {logit:+.3f} after {search.epochs * search.epoch_steps} "
        f"steps (start {search.start}, penalty {search.penalty:.3g}, learning_rate {search.learning_rate:.3g}, epsilon "
        f"{search.epsilon:.3g}) and so stay open, and with it every other; expected below 0. Raise learning_rate "
        "(times the steps it should well exceed start), raise search_epochs, or lower epsilon to well below penalty."
    )
