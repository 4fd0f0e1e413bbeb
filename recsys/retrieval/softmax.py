"""Sampled softmax over in-batch and extra negatives: loss and every gradient in one pass over blocks of rows.

    L = sum_i w_i (log sum_j exp(s_ij) - s_ii) / B,    s_ij = <q_i, c_j> / tau - logQ_j

(T. Yao et al., CIKM 2021, section 2 after X. Yi et al., RecSys 2019, section 4). The `[rows, candidates]` logits never
exist as a whole. Scale and logQ are folded into the first matrix product as augmented columns, and the division by the
sum of exponentials into the small operand of the third. What is left of elementwise work on a block of logits is one
exp and one sum. Everything that the backward pass needs comes out of the forward pass, so memory grows with (rows +
candidates) x dim.
"""

from collections.abc import Callable

from recsys._tensorflow import tf
from recsys.features.ragged import repeated

SAFE_EXPONENT = 80.0
"""exp of up to this, summed and inverted, stays well within the normal range of float32 (about exp(+-87))."""

BUCKETS = 1 << 17
"""Size of the hashed set of candidates."""


def sampled_softmax_loss(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    log_q: tf.Tensor,
    inverse_temperature: tf.Tensor,
    *,
    stored: tf.Tensor | None = None,
    candidate_ids: tf.Tensor | None = None,
    seen_ids: tf.RaggedTensor | None = None,
    weights: tf.Tensor | None = None,
    block_rows: int = 256,
    products: tf.DType = tf.float32,
) -> tf.Tensor:
    """Mean softmax cross-entropy of each query against all candidates; row i's positive is candidate i.

    `queries` is `[rows, dim] float32` and `candidates` `[rows + extra, dim] float32`: the rows' positives, then any
    extra negatives. `stored` `[stored, dim] float32` are further negatives, constants to which no gradient is worked
    out; they come after the candidates. `log_q` `[rows + extra + stored] float32` is subtracted from every logit of its
    column, the positive's included; a common constant in it cancels. `inverse_temperature` is a scalar. With
    `candidate_ids` (`[rows + extra + stored]` integers), a candidate with the id of the row's positive is no negative
    of that row (accidental hit); nor, then, is one that stands in the row of `seen_ids` (ragged `[rows, None]`
    integers). `weights` `[rows] float32` are the rows' rewards (1 where left out). With `products` bfloat16 the two
    matrix products that give the gradients take operands and give results of that type, added up in float32. Logits,
    and so the loss, stay float32: of some tens they would lose whole tenths.

    Where norms bound the logits so that no exponential can leave the range of float32, which the L2-normalised outputs
    of the towers grant at usual temperatures, there is no running maximum; else each row's maximum is taken off.
    Returns the scalar loss, differentiable in queries, candidates and inverse_temperature (not in log_q or weights).
    """
    rows = tf.shape(queries)[0]
    weights = tf.ones([rows], queries.dtype) if weights is None else tf.convert_to_tensor(weights, queries.dtype)
    log_q = tf.stop_gradient(tf.convert_to_tensor(log_q, queries.dtype))
    hits = None if candidate_ids is None else _hit_finder(candidate_ids, rows, seen_ids)

    @tf.custom_gradient
    def loss(queries: tf.Tensor, candidates: tf.Tensor, inverse_temperature: tf.Tensor):
        # Only differences of logQ matter, so take off the middle of their range: the exponents become smallest.
        centred = log_q - 0.5 * (tf.reduce_max(log_q) + tf.reduce_min(log_q))
        moving = None if stored is None else tf.shape(candidates)[0]
        everything = candidates if stored is None else tf.concat([candidates, stored], axis=0)
        bound = _logit_bound(queries, everything, centred, inverse_temperature)

        def one_pass(stable: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return _blocks(
                queries, everything, moving, centred, inverse_temperature, weights, hits, block_rows, stable, products
            )

        log_sums, means, pulled = tf.cond(bound < SAFE_EXPONENT, lambda: one_pass(False), lambda: one_pass(True))
        positives = candidates[:rows]
        cosines = tf.reduce_sum(queries * positives, axis=1)
        share = weights / tf.cast(rows, queries.dtype)
        value = tf.reduce_sum(share * (log_sums - cosines * inverse_temperature + centred[:rows]))
        # means_i is the softmax-weighted mean candidate, so <q_i, means_i> is the mean cosine: tau's gradient.
        grad_inverse = tf.reduce_sum(share * (tf.reduce_sum(queries * means, axis=1) - cosines))
        grad_queries = (inverse_temperature * share)[:, None] * (means - positives)
        pushed = tf.pad(share[:, None] * queries, [[0, tf.shape(candidates)[0] - rows], [0, 0]])
        grad_candidates = inverse_temperature * (pulled - pushed)

        def grad(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return upstream * grad_queries, upstream * grad_candidates, upstream * grad_inverse

        return value, grad

    return loss(queries, candidates, tf.convert_to_tensor(inverse_temperature, queries.dtype))


def _logit_bound(
    queries: tf.Tensor, candidates: tf.Tensor, log_q: tf.Tensor, inverse_temperature: tf.Tensor
) -> tf.Tensor:
    """An upper bound of |logit| plus log(candidates), which bounds the log of any row's sum and of its inverse."""
    norms = tf.reduce_max(tf.norm(queries, axis=1)) * tf.reduce_max(tf.norm(candidates, axis=1))
    count = tf.cast(tf.shape(candidates)[0], queries.dtype)
    return norms * tf.abs(inverse_temperature) + tf.reduce_max(tf.abs(log_q)) + tf.math.log(count)


def _blocks(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    moving: tf.Tensor | None,
    log_q: tf.Tensor,
    inverse_temperature: tf.Tensor,
    weights: tf.Tensor,
    hits: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None,
    block_rows: int,
    stable: bool,
    products: tf.DType,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The pass: log-sums `[rows]`, softmax-weighted mean candidates `[rows, dim]`, and what pulls each candidate.

    The last is sum_i share_i p_ij q_i, `[candidates, dim]`; with `moving`, of so many first candidates only.
    """
    rows, dim = tf.shape(queries)[0], queries.shape[1]
    share = weights / tf.cast(rows, queries.dtype)
    ones = tf.ones([rows, 1], queries.dtype)
    scaled = tf.concat([queries * inverse_temperature, ones], axis=1)
    shifted = tf.concat([candidates, -log_q[:, None]], axis=1)
    pooled = tf.cast(candidates, products)
    count = (rows + block_rows - 1) // block_rows

    def body(index: tf.Tensor, sums: tf.TensorArray, pulled: tf.Tensor):
        start = index * block_rows
        stop = tf.minimum(start + block_rows, rows)
        logits = tf.matmul(scaled[start:stop], shifted, transpose_b=True)
        top = tf.zeros([stop - start, 1], queries.dtype)
        if hits is not None and stable:  # a masked logit must not become the maximum
            pairs = hits(start, stop)
            logits = tf.tensor_scatter_nd_min(logits, pairs, tf.fill([tf.shape(pairs)[0]], queries.dtype.min))
        if stable:
            top = tf.reduce_max(logits, axis=1, keepdims=True)
            logits -= top
        exponentials = tf.exp(logits)
        if hits is not None and not stable:
            pairs = hits(start, stop)
            exponentials = tf.tensor_scatter_nd_update(exponentials, pairs, tf.zeros([tf.shape(pairs)[0]]))
        # Not as a column of ones in the next product: kernels like widths of 16 or 32, and 33 costs half as much again.
        total = tf.reduce_sum(exponentials, axis=1, keepdims=True)
        exponentials = tf.cast(exponentials, products)
        means = tf.cast(tf.matmul(exponentials, pooled), queries.dtype) / total
        weighted = queries[start:stop] * (share[start:stop, None] / total)
        live = exponentials if moving is None else exponentials[:, :moving]
        pulled += tf.cast(tf.matmul(live, tf.cast(weighted, products), transpose_a=True), queries.dtype)
        return index + 1, sums.write(index, tf.concat([means, tf.math.log(total) + top], axis=1)), pulled

    sums = tf.TensorArray(queries.dtype, size=count, infer_shape=False, element_shape=[None, dim + 1])
    start = (tf.constant(0), sums, tf.zeros_like(candidates if moving is None else candidates[:moving]))
    # One block at a time: running ahead would hold several blocks of logits in memory.
    _, sums, pulled = tf.while_loop(lambda index, *_: index < count, body, start, parallel_iterations=1)
    joined = tf.ensure_shape(sums.concat(), [None, dim + 1])
    return joined[:, dim], joined[:, :dim], pulled


def _hit_finder(
    candidate_ids: tf.Tensor, rows: tf.Tensor, seen_ids: tf.RaggedTensor | None = None
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function of a block's bounds that lists what is masked in it as (row in the block, candidate) `[hits, 2]`.

    Masked are accidental hits and, where given, what a row has seen; never the row's own positive. Sorting the ids once
    makes each id a run, so a block's hits are found in time of their number, not of its logits.
    """
    order = tf.argsort(candidate_ids, stable=True)
    runs = tf.gather(candidate_ids, order)

    def run_of(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        first = tf.searchsorted(runs, ids, side="left")
        return first, tf.searchsorted(runs, ids, side="right") - first

    own = run_of(candidate_ids[:rows])
    if seen_ids is not None:
        seen, reader = seen_ids.values, repeated(tf.cast(seen_ids.row_lengths(), tf.int32))
        # Most of what was seen is no candidate: a hashed set tells nearly all of it without a search.
        buckets = tf.scatter_nd(candidate_ids[:, None] % BUCKETS, tf.ones_like(candidate_ids), [BUCKETS])
        possible = tf.gather(buckets, tf.cast(seen, candidate_ids.dtype) % BUCKETS) > 0
        seen, reader = tf.cast(tf.boolean_mask(seen, possible), candidate_ids.dtype), tf.boolean_mask(reader, possible)
        of_seen = run_of(seen)

    def hits(start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        first, length = (part[start:stop] for part in own)
        owner = tf.range(start, stop)
        if seen_ids is not None:
            span = tf.searchsorted(reader, tf.stack([start, stop]))
            first, length, owner = (
                tf.concat([mine, theirs[span[0] : span[1]]], axis=0)
                for mine, theirs in ((first, of_seen[0]), (length, of_seen[1]), (owner, reader))
            )
        place = repeated(length)
        within = tf.range(tf.size(place)) - tf.gather(tf.cumsum(length, exclusive=True), place)
        row = tf.gather(owner, place)
        column = tf.gather(order, tf.gather(first, place) + within)
        return tf.boolean_mask(tf.stack([row - start, column], axis=1), tf.not_equal(column, row))

    return hits
