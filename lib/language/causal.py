"""Causal multi-head attention from matmul, softmax and element-wise operations, with a cache for generation.

Attention after Vaswani et al. (2017), rotary positions after Su et al. (2021), pre-norm blocks with a GELU
feed-forward. Shapes are checked per axis while the graph is traced.
Shapes: B windows, T queries, S keys, D width, h heads, e = D / h, C slots of the cache.
"""

import numpy as np
import tensorflow as tf

from lib.language.symbols import Config, dropper, embed, init_symbols, normal, rms_norm, to_logits

HIDE = -1e9


def init(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Fresh arrays; layers that write to the residual path start smaller by sqrt(2 layers)."""
    rng = np.random.default_rng(seed)
    arrays = init_symbols(config, rng)
    wide = config.width
    deep = (2 * config.layers) ** -0.5  # of what writes to the residual path
    for i in range(config.layers):
        at = f"layer{i}."
        for name in ("wq", "wk", "wv"):
            arrays[at + name] = normal(rng, wide, wide, std=wide**-0.5)
        if config.project:
            arrays[at + "wo"] = normal(rng, wide, wide, std=deep * wide**-0.5)
        arrays[at + "up"] = normal(rng, wide, config.hidden, std=wide**-0.5)
        arrays[at + "down"] = normal(rng, config.hidden, wide, std=deep * config.hidden**-0.5)
        arrays[at + "norm1"] = arrays[at + "norm2"] = np.ones(wide, np.float32)
    return arrays


def expect(x, *shape):
    """Check every known axis while tracing; raises ValueError with both shapes."""
    if not x.shape.is_compatible_with(tf.TensorShape(shape)):
        raise ValueError(f"expected shape {shape}, got {tuple(x.shape)}")
    return x


def linear(x, weight):
    """x @ weight (..., D) x (D, E) as one product of two matrices, which is cheaper than a batch of small ones."""

    @tf.custom_gradient
    def product(flat, weight):
        def gradient(g):  # the small gradient first, so that fewer large ones are held at once
            by_weight = tf.matmul(flat, g, transpose_a=True)
            with tf.control_dependencies([by_weight]):
                return tf.matmul(g, weight, transpose_b=True), by_weight

        return tf.matmul(flat, weight), gradient

    rows = tf.reshape(x, [-1, x.shape[-1]])
    found = product(rows, tf.convert_to_tensor(weight))
    outer = [-1 if size is None else size for size in x.shape[:-1]]
    return tf.reshape(found, [*outer, weight.shape[-1]])


def visible(queries: int, keys: int, offset: int = 0):
    """(T, S) booleans: query i + offset may see key j <= i + offset."""
    return tf.range(queries)[:, None] + offset >= tf.range(keys)[None, :]


def attend(q, k, v, seen, drop=lambda x: x, scaled: bool = True):
    """Values (B, h, T, e) and weights (B, h, T, S) from q (B, h, T, e), k and v (B, h, S, e), booleans seen (T, S)."""
    (b, h, t, e), s = q.shape, k.shape[2]
    if scaled:
        q = q * e**-0.5
    scores = expect(tf.matmul(q, k, transpose_b=True), b, h, t, s)
    wide = tf.float64 if scores.dtype == tf.float64 else tf.float32
    hidden = tf.cast(tf.logical_not(seen), wide) * HIDE  # (T, S)
    weights = tf.cast(tf.nn.softmax(tf.cast(scores, wide) + hidden), scores.dtype)
    return expect(tf.matmul(drop(weights), v), b, h, t, e), weights


def attend_lean(q, k, v, seen):
    """`attend` without dropout and weights, with a gradient that reads fewer (T, S) arrays.

    The row sums of weights x gradient equal those of output x gradient (Dao et al. 2022), which are T x e only.
    """

    @tf.custom_gradient
    def run(q, k, v):
        out, weights = attend(q, k, v, seen, scaled=False)

        def gradient(g):
            sums = tf.reduce_sum(g * out, -1, keepdims=True)
            with tf.control_dependencies([sums]):  # an order that holds few arrays at once
                by_v = tf.matmul(weights, g, transpose_a=True)
            with tf.control_dependencies([by_v]):
                slope = weights * (tf.matmul(g, v, transpose_b=True) - sums)
            return tf.matmul(slope, k), tf.matmul(slope, q, transpose_a=True), by_v

        return out, gradient

    return run(q * q.shape[-1] ** -0.5, k, v)


def attend_in_blocks(q, k, v, block: int = 512):
    """The same output (B, h, T, e) for long windows: a block of queries meets only the keys it may see."""
    length = q.shape[2]
    parts = []
    for start in range(0, length, block):
        end = min(start + block, length)
        seen = visible(end - start, end, offset=start)  # (end - start, end)
        queries = q[:, :, start:end]
        parts.append(attend_lean(queries, k[:, :, :end], v[:, :, :end], seen))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=2)


def split_heads(x, heads: int):
    """(B, T, D) -> (B, h, T, e)."""
    b, t, d = x.shape
    x = tf.reshape(x, [-1 if b is None else b, t, heads, d // heads])
    return expect(tf.transpose(x, [0, 2, 1, 3]), b, heads, t, d // heads)


def join_heads(x):
    """(B, h, T, e) -> (B, T, D)."""
    b, h, t, e = x.shape
    x = tf.transpose(x, [0, 2, 1, 3])  # (B, T, h, e)
    joined = tf.reshape(x, [-1 if b is None else b, t, h * e])
    return expect(joined, b, t, h * e)


def rotate(x, positions):
    """Turn pairs of features (B, h, T, e) by an angle proportional to their position (T,)."""
    half = x.shape[-1] // 2
    speed = tf.constant(10000.0 ** (-np.arange(half) / half), x.dtype)
    angle = tf.cast(positions, x.dtype)[:, None] * speed  # (T, e/2)
    a, b = x[..., :half], x[..., half:]  # a pair is one of a and one of b
    turned_a = a * tf.cos(angle) - b * tf.sin(angle)
    turned_b = a * tf.sin(angle) + b * tf.cos(angle)
    return tf.concat([turned_a, turned_b], -1)


def heads_of(params, at: str, x, config: Config, positions):
    """Queries, keys and values (B, h, T, e) of one layer."""
    q, k, v = (
        split_heads(linear(x, params[at + name]), config.heads) for name in ("wq", "wk", "wv")
    )
    if config.positions == "rope":
        q, k = rotate(q, positions), rotate(k, positions)
    return q, k, v


def _finish(params, at: str, x, mixed, config: Config, drop):
    """Output projection, residual paths and feed-forward: (B, T, D) -> (B, T, D)."""
    mixed = join_heads(mixed)
    if config.project:
        mixed = linear(mixed, params[at + "wo"])
    mixed = drop(mixed)
    x = x + mixed if config.residual else mixed
    normed = rms_norm(x, params[at + "norm2"])
    up = tf.nn.gelu(linear(normed, params[at + "up"]), approximate=True)  # (B, T, hidden)
    down = drop(linear(up, params[at + "down"]))
    return x + down if config.residual else down


def core(params, x, config: Config, drop=lambda x: x, weights: list | None = None):
    """All blocks: (B, T, D) -> (B, T, D). A list given as `weights` receives (B, h, T, T) of every layer."""
    length = x.shape[1]
    for i in range(config.layers):
        at = f"layer{i}."
        normed = rms_norm(x, params[at + "norm1"])
        q, k, v = heads_of(params, at, normed, config, tf.range(length))
        seen = visible(length, length)
        if weights is None and config.scaled:
            mixed = attend_lean(q, k, v, seen)
        else:
            mixed, found = attend(q, k, v, seen, scaled=config.scaled)
            if weights is not None:
                weights.append(found)
        x = _finish(params, at, x, mixed, config, drop)
    return x


def logits(params, ids, config: Config, seed=None):
    """(B, T) ids -> (B, T, V); a seed pair switches dropout on."""
    drop = dropper(config.dropout, seed)
    return to_logits(params, core(params, drop(embed(params, ids, config, drop)), config, drop))


class Generator:
    """Writes text symbol by symbol; keys and values in a ring of C slots per layer, which the oldest leave."""

    def __init__(self, params, config: Config):
        if config.positions == "frozen":
            raise ValueError(
                "a model with a frozen position table cannot write past its window: use rope"
            )
        self.params = {name: tf.convert_to_tensor(a) for name, a in params.items()}
        self.config = config
        shape = (1, config.heads, config.context, config.width // config.heads)
        kind = self.params["symbols"].dtype
        self.ring = [
            [tf.Variable(tf.zeros(shape, kind)) for _ in "kv"] for _ in range(config.layers)
        ]
        self.write = tf.function(self._write, reduce_retracing=True)

    def step(self, recent, position):
        """Logits (V,) after the last symbol of `recent` (n,), which stands at `position`."""
        config, params = self.config, self.params
        x = embed(params, recent[None, :], config)[:, -1:]  # (1, 1, D)
        x = tf.ensure_shape(x, (1, 1, config.width))
        slot, seen = position % config.context, tf.range(config.context)[None, :] <= position
        for i, (keys, values) in enumerate(self.ring):
            at = f"layer{i}."
            q, k, v = heads_of(
                params, at, rms_norm(x, params[at + "norm1"]), config, position[None]
            )
            keys[:, :, slot].assign(k[:, :, 0])
            values[:, :, slot].assign(v[:, :, 0])
            mixed, _ = attend(q, keys.value(), values.value(), seen, scaled=config.scaled)
            x = _finish(params, at, x, mixed, config, lambda y: y)
        return to_logits(params, x)[0, 0]

    def _write(self, prompt, length, temperature, top_k, top_p, seed):
        """Prompt ids (P,) -> prompt and continuation (P + length,)."""
        start, memory = tf.size(prompt), max([n for n, _ in self.config.grams], default=1)
        ids = tf.concat([tf.zeros(memory - 1, tf.int32), prompt, tf.zeros(length, tf.int32)], 0)
        for t in tf.range(start + length - 1):
            scores = self.step(ids[t : t + memory], t)
            if t + 1 >= start:
                drawn = choose(scores, temperature, top_k, top_p, tf.stack([seed, t]))
                ids = tf.tensor_scatter_nd_update(ids, [[t + memory]], [drawn])
        return ids[memory - 1 :]

    def __call__(self, prompt, length, temperature=1.0, top_k=0, top_p=1.0, seed=0) -> np.ndarray:
        """Sampled continuation (length,) of prompt ids; temperature 0: the likeliest. ValueError: a bad setting."""
        if len(prompt) == 0 or length < 1:
            raise ValueError(
                "generation needs a prompt of one symbol or more and a length of 1 or more"
            )
        if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError(
                f"need temperature >= 0, top_k >= 0, 0 < top_p <= 1: {temperature}, {top_k}, {top_p}"
            )
        prompt = np.asarray(prompt, np.int32)[-self.config.context :]
        ints = [tf.constant(int(n), tf.int32) for n in (length, top_k, seed)]
        floats = [tf.constant(float(x), tf.float32) for x in (temperature, top_p)]
        return self.write(
            tf.constant(prompt), ints[0], floats[0], ints[1], floats[1], ints[2]
        ).numpy()[len(prompt) :]


def choose(scores, temperature, top_k, top_p, seed):
    """One id from logits (V,): the top_k likeliest (0: all) that make up the mass top_p, seeded."""
    scores = tf.cast(scores, tf.float32) / tf.maximum(temperature, 1e-6)
    ranked = tf.sort(scores, direction="DESCENDING")
    chances = tf.nn.softmax(ranked)
    last = tf.reduce_sum(tf.cast(tf.cumsum(chances) - chances < top_p, tf.int32)) - 1
    last = tf.minimum(last, tf.where(top_k > 0, top_k, tf.size(scores)) - 1)
    scores = tf.where(scores >= ranked[last], scores, HIDE)
    return tf.random.stateless_categorical(scores[None], 1, seed, dtype=tf.int32)[0, 0]
