"""Sampled softmax over in-batch and extra negatives: loss and every gradient in one pass over blocks of rows.

    L = sum_i w_i (log sum_j exp(s_ij) - s_ii) / B,    s_ij = <q_i, c_j> / tau - logQ_j

(T. Yao et al., CIKM 2021, section 2 after X. Yi et al., RecSys 2019, section 4). The `[rows, candidates]` logits never
exist as a whole. Scale and logQ are folded into the first matrix product as augmented columns, so what is left of
elementwise work on a block of logits is its softmax. Everything that the backward pass needs comes out of the forward
pass, so memory grows with (rows + candidates) x dim.

Rows of one item whose vector and logQ are the item's alone may share one column, which then stands for so many `copies`
and weighs as much. Of a row's own column one copy counts: the others would be accidental hits. The products are as wide
as the batch has items, and there are no hits to look for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from recsys._tensorflow import tf
from recsys.features.ragged import repeated

LEAST = 1e-30
"""The logarithm of a smaller probability is not taken: float32 has lost digits of it from 1e-38 on."""

BUCKETS = 1 << 17
"""Size of the hashed set of candidates."""


@dataclass(frozen=True, eq=False)
class Distinct:
    """What is left to say when equal candidates are one: `own` `[rows] int32`, the column of each row's positive, and
    `copies` `[candidates] float32`, how many candidates each column stands for: 0 for one that only fills up."""

    own: tf.Tensor
    copies: tf.Tensor


def sampled_softmax_loss(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    log_q: tf.Tensor,
    inverse_temperature: tf.Tensor,
    *,
    stored: tf.Tensor | None = None,
    candidate_ids: tf.Tensor | None = None,
    seen_ids: tf.RaggedTensor | None = None,
    distinct: Distinct | None = None,
    weights: tf.Tensor | None = None,
    block_rows: int = 512,
    products: tf.DType = tf.float32,
) -> tf.Tensor:
    """Mean softmax cross-entropy of each query against all candidates; row i's positive is candidate i.

    `queries` is `[rows, dim] float32` and `candidates` `[rows + extra, dim] float32`: the rows' positives, then any
    extra negatives. `stored` `[stored, dim] float32` are further negatives, constants to which no gradient is worked
    out; they come after the candidates. `log_q` `[rows + extra + stored] float32` is subtracted from every logit of its
    column, the positive's included; a common constant in it cancels. `inverse_temperature` is a scalar. With
    `candidate_ids` (`[rows + extra + stored]` integers), a candidate with the id of the row's positive is no negative
    of that row (accidental hit); nor, then, is one that stands in the row of `seen_ids` (ragged `[rows, None]`
    integers). With `distinct`, equal candidates share a column: ids are then all different, row i's positive is
    candidate `own[i]`, `log_q` is that of one copy, and there is nothing `stored`. `weights` `[rows] float32` are the
    rows' rewards (1 where left out). With `products` bfloat16 the two matrix products that give the gradients take
    operands and give results of that type, added up in float32. Logits, and so the loss, stay float32: of some tens
    they would lose whole tenths.

    Returns the scalar loss, differentiable in queries, candidates and inverse_temperature (not in log_q or weights).
    """
    rows = tf.shape(queries)[0]
    weights = tf.ones([rows], queries.dtype) if weights is None else tf.convert_to_tensor(weights, queries.dtype)
    log_q = tf.stop_gradient(tf.convert_to_tensor(log_q, queries.dtype))
    own = tf.range(rows) if distinct is None else distinct.own
    copies = tf.ones_like(log_q) if distinct is None else distinct.copies
    # So many copies weigh as one candidate that is drawn so much more rarely; none weigh nothing.
    columns = tf.where(copies > 0.0, log_q - tf.math.log(tf.maximum(copies, 1.0)), math.inf)
    shifts = None if candidate_ids is None else _shift_finder(candidate_ids, own, seen_ids, distinct)

    @tf.custom_gradient
    def loss(queries: tf.Tensor, candidates: tf.Tensor, inverse_temperature: tf.Tensor):
        moving = None if stored is None else tf.shape(candidates)[0]
        everything = candidates if stored is None else tf.concat([candidates, stored], axis=0)
        share = weights / tf.cast(rows, queries.dtype)
        log_shares, means, pulled = _blocks(
            queries, everything, moving, columns, own, inverse_temperature, share, shifts, block_rows, products
        )
        positives = candidates[:rows] if distinct is None else tf.gather(candidates, own)
        cosines = tf.reduce_sum(queries * positives, axis=1)
        if distinct is not None and shifts is None:  # the row's own column holds all its copies
            log_shares -= tf.math.log(tf.gather(copies, own))
        value = -tf.reduce_sum(share * log_shares)
        # means_i is the softmax-weighted mean candidate, so <q_i, means_i> is the mean cosine: tau's gradient.
        grad_inverse = tf.reduce_sum(share * (tf.reduce_sum(queries * means, axis=1) - cosines))
        grad_queries = (inverse_temperature * share)[:, None] * (means - positives)
        pushed = share[:, None] * queries
        if distinct is None:
            pushed = tf.pad(pushed, [[0, tf.shape(candidates)[0] - rows], [0, 0]])
        else:
            pushed = tf.math.unsorted_segment_sum(pushed, own, tf.shape(candidates)[0])
        grad_candidates = inverse_temperature * (pulled - pushed)

        def grad(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return upstream * grad_queries, upstream * grad_candidates, upstream * grad_inverse

        return value, grad

    return loss(queries, candidates, tf.convert_to_tensor(inverse_temperature, queries.dtype))


def _blocks(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    moving: tf.Tensor | None,
    log_q: tf.Tensor,
    own: tf.Tensor,
    inverse_temperature: tf.Tensor,
    share: tf.Tensor,
    shifts: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None,
    block_rows: int,
    products: tf.DType,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The pass: log p of each row's positive `[rows]`, means sum_j p_ij c_j `[rows, dim]`, what pulls each candidate.

    p is the softmax. The last is sum_i share_i p_ij q_i, `[candidates, dim]`; with `moving`, of so many first
    candidates only.
    """
    rows, dim = tf.shape(queries)[0], queries.shape[1]
    ones = tf.ones([rows, 1], queries.dtype)
    scaled = tf.concat([queries * inverse_temperature, ones], axis=1)
    shifted = tf.concat([candidates, -log_q[:, None]], axis=1)
    pooled = tf.cast(candidates, products)
    weighted = tf.cast(share[:, None] * queries, products)
    count = (rows + block_rows - 1) // block_rows

    def body(index: tf.Tensor, sums: tf.TensorArray, pulled: tf.Tensor):
        start = index * block_rows
        stop = tf.minimum(start + block_rows, rows)

        def of_own(block: tf.Tensor) -> tf.Tensor:
            return tf.gather(block, own[start:stop], axis=1, batch_dims=1)

        def logits() -> tf.Tensor:
            found = tf.matmul(scaled[start:stop], shifted, transpose_b=True)
            return found if shifts is None else tf.tensor_scatter_nd_add(found, *shifts(start, stop))

        def exactly() -> tf.Tensor:
            found = logits()
            return of_own(found) - tf.reduce_logsumexp(found, axis=1)

        shares = tf.nn.softmax(logits())
        positive = of_own(shares)
        log_shares = tf.cond(tf.reduce_min(positive) > LEAST, lambda: tf.math.log(positive), exactly)
        shares = tf.cast(shares, products)
        means = tf.cast(tf.matmul(shares, pooled), queries.dtype)
        live = shares if moving is None else shares[:, :moving]
        pulled += tf.cast(tf.matmul(live, weighted[start:stop], transpose_a=True), queries.dtype)
        return index + 1, sums.write(index, tf.concat([means, log_shares[:, None]], axis=1)), pulled

    sums = tf.TensorArray(queries.dtype, size=count, infer_shape=False, element_shape=[None, dim + 1])
    start = (tf.constant(0), sums, tf.zeros_like(candidates if moving is None else candidates[:moving]))
    # One block at a time: running ahead would hold several blocks of logits in memory.
    _, sums, pulled = tf.while_loop(lambda index, *_: index < count, body, start, parallel_iterations=1)
    joined = tf.ensure_shape(sums.concat(), [None, dim + 1])
    return joined[:, dim], joined[:, :dim], pulled


def _shift_finder(
    candidate_ids: tf.Tensor, own: tf.Tensor, seen_ids: tf.RaggedTensor | None, distinct: Distinct | None
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function of a block's bounds: places in it (row in the block, candidate) `[n, 2]`, and what is added there.

    That is -inf for accidental hits and, where given, for what a row has seen, never for the row's own positive. Of
    distinct candidates the row's own is brought down to one copy.
    """
    masked = None
    if distinct is None or seen_ids is not None:
        masked = _hit_finder(candidate_ids, own, seen_ids, repeats=distinct is None)

    def shifts(start: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        places, amounts = [], []
        if masked is not None:
            places.append(masked(start, stop))
            amounts.append(tf.fill(tf.shape(places[0])[:1], -math.inf))
        if distinct is not None:
            column = own[start:stop]
            places.append(tf.stack([tf.range(stop - start), column], axis=1))
            amounts.append(-tf.math.log(tf.gather(distinct.copies, column)))
        return tf.concat(places, axis=0), tf.concat(amounts, axis=0)

    return shifts


def _hit_finder(
    candidate_ids: tf.Tensor, own: tf.Tensor, seen_ids: tf.RaggedTensor | None, *, repeats: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function of a block's bounds that lists what is masked in it as (row in the block, candidate) `[hits, 2]`.

    Masked are, with `repeats`, accidental hits and, where given, what a row has seen; never the row's own positive,
    candidate `own` of it. Sorting the ids once makes each id a run, so a block's hits are found in time of their
    number, not of its logits.
    """
    order = tf.argsort(candidate_ids, stable=True)
    runs = tf.gather(candidate_ids, order)

    def run_of(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        first = tf.searchsorted(runs, ids, side="left")
        return first, tf.searchsorted(runs, ids, side="right") - first

    of_own = run_of(tf.gather(candidate_ids, own)) if repeats else None
    if seen_ids is not None:
        seen, reader = seen_ids.values, repeated(tf.cast(seen_ids.row_lengths(), tf.int32))
        # Most of what was seen is no candidate: a hashed set tells nearly all of it without a search.
        buckets = tf.scatter_nd(candidate_ids[:, None] % BUCKETS, tf.ones_like(candidate_ids), [BUCKETS])
        possible = tf.gather(buckets, tf.cast(seen, candidate_ids.dtype) % BUCKETS) > 0
        seen, reader = tf.cast(tf.boolean_mask(seen, possible), candidate_ids.dtype), tf.boolean_mask(reader, possible)
        of_seen = run_of(seen)

    def hits(start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        parts = []  # of each list of runs: their first places, their lengths, whose they are
        if of_own is not None:
            parts.append((of_own[0][start:stop], of_own[1][start:stop], tf.range(start, stop)))
        if seen_ids is not None:
            span = tf.searchsorted(reader, tf.stack([start, stop]))
            parts.append(tuple(part[span[0] : span[1]] for part in (*of_seen, reader)))
        first, length, owner = (tf.concat(part, axis=0) for part in zip(*parts, strict=True))
        place = repeated(length)
        within = tf.range(tf.size(place)) - tf.gather(tf.cumsum(length, exclusive=True), place)
        row = tf.gather(owner, place)
        column = tf.gather(order, tf.gather(first, place) + within)
        return tf.boolean_mask(tf.stack([row - start, column], axis=1), tf.not_equal(column, tf.gather(own, row)))

    return hits
