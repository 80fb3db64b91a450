"""One causal head of width 256 whose gradients keep their size, from basic operations.

The announced layer (128 symbols, width 256, one head, W_q, W_k, W_v without bias, scale 1/16, causal mask, dropout
0.1 behind the softmax) starts with gradients from 1e-5 (W_q) to 1 (bias). Three changes bring all of them to the same
order of magnitude and leave the layer's operations as they are: the input is normed to unit root mean square, so that
scores and values do not vanish; a residual path carries the input round the attention; and each array starts with
a spread, or a fixed factor in front, that balances its gradient against the others.
`attend_in_chunks` computes the same attention with memory that grows with the length, not with its square.
Shapes: B windows, T symbols, D width, V vocabulary, c symbols of a chunk.
"""

import numpy as np
import tensorflow as tf

from lib.language import causal
from lib.language.symbols import dropper, normal

LENGTH, WIDTH, DROPOUT = 128, 256, 0.1
QUERY_GAIN = 2.0  # in front of queries and of keys
BIAS_GAIN = 8.0  # in front of the output's bias


def init(vocab: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Fresh arrays; the spreads were chosen so that no gradient norm is below 0.1 or above 10."""
    rng = np.random.default_rng(seed)
    return {
        "symbols": normal(rng, vocab, WIDTH, std=1 / 8),
        "positions": normal(rng, LENGTH, WIDTH, std=1 / 8),
        "layer.wq": normal(rng, WIDTH, WIDTH, std=1 / 32),
        "layer.wk": normal(rng, WIDTH, WIDTH, std=1 / 32),
        "layer.wv": normal(rng, WIDTH, WIDTH, std=1 / 16),
        "out": normal(rng, WIDTH, vocab, std=1 / 16),
        "bias": np.zeros(vocab, np.float32),
    }


def unit_scale(x):
    """Each vector divided by its root mean square: (..., D) -> (..., D)."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6)


def attend(q, k, v, drop=lambda weights: weights):
    """Values (B, T, D) and weights (B, T, T) of one causal head from q, k, v (B, T, D).

    The shape of every result is checked axis by axis while the graph is traced; ValueError names both shapes.
    """
    b, t, d = q.shape
    scores = causal.expect(tf.matmul(q, k, transpose_b=True), b, t, t) * d**-0.5
    hidden = causal.HIDE * tf.cast(tf.logical_not(causal.visible(t, t)), scores.dtype)  # (T, T)
    weights = causal.expect(tf.nn.softmax(scores + hidden), b, t, t)
    return causal.expect(tf.matmul(drop(weights), v), b, t, d), weights


def inputs(params, ids):
    """Symbols and positions, normed: (B, T) ids -> (B, T, D)."""
    x = tf.gather(params["symbols"], ids) + params["positions"][: ids.shape[1]]
    return unit_scale(x)


def layer(params, x, drop=lambda weights: weights):
    """Attention over x (B, T, D): values (B, T, D), weights (B, T, T), queries, keys and values (B, T, D)."""
    b, t, d = x.shape
    q = QUERY_GAIN * causal.expect(tf.matmul(x, params["layer.wq"]), b, t, d)
    k = QUERY_GAIN * causal.expect(tf.matmul(x, params["layer.wk"]), b, t, d)
    v = causal.expect(tf.matmul(x, params["layer.wv"]), b, t, d)
    mixed, weights = attend(q, k, v, drop)
    return mixed, weights, (q, k, v)


def scores(params, x, seed=None, residual: bool = True):
    """Logits (B, T, V) from inputs (B, T, D); a seed pair switches dropout on."""
    mixed, *_ = layer(params, x, dropper(DROPOUT, seed))
    if residual:
        mixed = x + mixed
    return tf.matmul(unit_scale(mixed), params["out"]) + BIAS_GAIN * params["bias"]


def scores_without_residual(params, x, seed=None):
    """The same without the path round the attention."""
    return scores(params, x, seed, residual=False)


# --- memory that grows with the length ---------------------------------------------------------------------------------


def attend_in_chunks(q, k, v, chunk: int = 128):
    """The values (B, T, D) that `attend` gives without dropout, in memory of the order B x T x (D + c).

    The softmax is taken online (Milakov and Gimelshein 2018): a chunk of queries meets one chunk of keys after the
    other and keeps the largest score so far, the sum of the exponentials and the weighted sum of the values. The
    gradient computes the weights again chunk by chunk (Dao et al. 2022), so that no T x T array is ever held.
    """
    length = q.shape[1]
    chunk = min(chunk, length)
    missing = -length % chunk
    padded = [tf.pad(x, [[0, 0], [0, missing], [0, 0]]) for x in (q, k, v)]
    blocks = [
        _cut(x, chunk) for x in padded
    ]  # (n, B, c, D); padded keys lie behind all real queries
    return _join(_attend_blocks(*blocks))[:, :length]


def _cut(x, chunk: int):
    """(B, T, D) -> (T/c, B, c, D)."""
    b, t, d = x.shape
    return tf.transpose(tf.reshape(x, [b, t // chunk, chunk, d]), [1, 0, 2, 3])


def _join(blocks):
    """(n, B, c, D) -> (B, n c, D)."""
    n, b, c, d = blocks.shape
    return tf.reshape(tf.transpose(blocks, [1, 0, 2, 3]), [b, n * c, d])


def _chunk_scores(q, k, at_q, at_k):
    """Scaled, masked scores (B, c, c) of the chunk of queries `at_q` against the chunk of keys `at_k`."""
    c, d = q.shape[1:]
    later = tf.logical_not(causal.visible(c, c, (at_q - at_k) * c))
    return tf.matmul(q, k, transpose_b=True) * d**-0.5 + causal.HIDE * tf.cast(later, q.dtype)


def _loop(start, end, body, state):
    """body(i, *state) for i from start to end - 1, one after the other."""

    def advance(i, *held):
        return (i + 1, *body(i, *held))

    return tf.while_loop(lambda i, *_: i < end, advance, (start, *state), parallel_iterations=1)[1:]


def _for_each_block(count: int, like, number: int, body):
    """`number` tensors (n, B, c, ...) stacked from body(i); `like` gives their element shapes and type."""
    arrays = [
        tf.TensorArray(like[j].dtype, count, element_shape=like[j].shape) for j in range(number)
    ]

    def write(i, *held):
        return [array.write(i, x) for array, x in zip(held, body(i), strict=True)]

    return [array.stack() for array in _loop(0, count, write, arrays)]


@tf.custom_gradient
def _attend_blocks(q, k, v):
    """Values (n, B, c, D) of blocks of queries, keys and values of that shape."""
    count, (b, c, _) = q.shape[0], q.shape[1:]
    row = tf.zeros([b, c, 1], q.dtype)

    def attend_one(i):
        """Values (B, c, D) of one chunk of queries, and the logarithm (B, c, 1) of its sums."""

        def meet(j, largest, total, mixed):
            found = _chunk_scores(q[i], k[j], i, j)  # (B, c, c)
            new_largest = tf.maximum(largest, tf.reduce_max(found, -1, keepdims=True))
            shrink = tf.exp(largest - new_largest)
            weights = tf.exp(found - new_largest)
            total = shrink * total + tf.reduce_sum(weights, -1, keepdims=True)
            return new_largest, total, shrink * mixed + tf.matmul(weights, v[j])

        begin = (row + causal.HIDE, row, tf.zeros_like(q[0]))
        largest, total, mixed = _loop(0, i + 1, meet, begin)
        return mixed / total, largest + tf.math.log(total)

    out, log_sums = _for_each_block(count, (q[0], row), 2, attend_one)

    def gradient(g):
        rows = tf.reduce_sum(g * out, -1, keepdims=True)  # (n, B, c, 1)

        def weights_and_slope(i, j):
            """Weights (B, c, c) of a pair of chunks and the gradient of its scores."""
            weights = tf.exp(_chunk_scores(q[i], k[j], i, j) - log_sums[i])
            slope = weights * (tf.matmul(g[i], v[j], transpose_b=True) - rows[i])
            return weights, slope * q.shape[-1] ** -0.5

        def by_query(i):
            def add(j, total):
                _, slope = weights_and_slope(i, j)
                return (total + tf.matmul(slope, k[j]),)

            return _loop(0, i + 1, add, (tf.zeros_like(q[0]),))

        def by_key_and_value(j):
            def add(i, key_total, value_total):
                weights, slope = weights_and_slope(i, j)
                key_total += tf.matmul(slope, q[i], transpose_a=True)
                return key_total, value_total + tf.matmul(weights, g[i], transpose_a=True)

            return _loop(j, count, add, (tf.zeros_like(k[0]), tf.zeros_like(v[0])))

        (dq,) = _for_each_block(count, (q[0],), 1, by_query)
        dk, dv = _for_each_block(count, (k[0], v[0]), 2, by_key_and_value)
        return dq, dk, dv

    return out, gradient
