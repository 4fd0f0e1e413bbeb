"""Cross-batch negatives: the candidates of the last steps, kept as constants (cross-batch memory).

J. Wang et al., SIGIR 2021 (cross-batch negative sampling for two towers), after X. Wang et al., CVPR 2020 (cross-batch
memory). The correction is worked out here; docs/training.md says what it rests on and what staleness does.
"""

from dataclasses import dataclass

from recsys._tensorflow import tf
from recsys.retrieval.softmax import Distinct


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a row chooses among: vectors `[n, dim] float32`, item ids `[n] int32` and their logQ `[n] float32`.

    logQ is the log of an item's expected count in the step that the candidate was drawn for, times the strength.
    `distinct`: of candidates that hold each item once, which is whose; None where row i's positive is candidate i.
    """

    vectors: tf.Tensor
    ids: tf.Tensor
    log_q: tf.Tensor
    distinct: Distinct | None = None


class CandidateQueue(tf.Module):
    """The last `capacity` candidates, first in, first out; all state is in variables, for checkpoints.

    A candidate keeps the logQ of its own step. The candidates of one step, each weighted by 1 / its expected count, sum
    to an unbiased estimate of sum_j exp(s_j) over the catalogue, whatever law they were drawn from. The mean of such
    estimates over steps is one too, and the number of steps is a constant of all columns, which the softmax cancels.
    Hence live and stored logits take off their own logQ and nothing else, also where popularity drifts, with uniform
    negatives, and with frequencies that belong to one batch. Of the step that is half out of the queue a random part
    remains, so any capacity holds every kind of candidate in its right share.
    """

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__(name="candidate_queue")
        self.capacity = capacity
        self.vectors = tf.Variable(tf.zeros([capacity, dim]), trainable=False, name="vectors")
        self.ids = tf.Variable(tf.zeros([capacity], tf.int32), trainable=False, name="ids")
        self.log_q = tf.Variable(tf.zeros([capacity]), trainable=False, name="log_q")
        self.pushed = tf.Variable(0, dtype=tf.int64, trainable=False, name="pushed")

    def stored(self) -> Candidates:
        """What is in the queue, in no particular order: nothing at first, `capacity` candidates once it is full."""
        filled = tf.minimum(self.pushed, self.capacity)
        return Candidates(self.vectors[:filled], self.ids[:filled], self.log_q[:filled])

    def push(self, candidates: Candidates, seed: tf.Tensor) -> None:
        """Take in a step's candidates in random order, by `seed` `[2] int32`, in place of the oldest."""
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(candidates.ids)), seed)[: self.capacity]
        count = tf.size(order, tf.int64)
        place = ((self.pushed + tf.range(count)) % self.capacity)[:, None]
        for variable, values in (
            (self.vectors, candidates.vectors),
            (self.ids, candidates.ids),
            (self.log_q, candidates.log_q),
        ):
            variable.scatter_nd_update(place, tf.gather(tf.stop_gradient(values), order))
        self.pushed.assign_add(count)
