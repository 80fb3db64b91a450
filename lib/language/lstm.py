"""A long short-term memory (Hochreiter and Schmidhuber 1997) from basic operations, and the announced baseline.

Gates in the order of Keras (input, forget, candidate, output), forget bias 1. The products with the inputs of all
steps are one matmul; only the recurrent product runs step by step. The gradient is written by hand, which costs
about half of what automatic differentiation of the loop costs.
Shapes: B windows, T symbols, D width, H state units, V vocabulary.
"""

import numpy as np
import tensorflow as tf

from lib.language.symbols import Config, dropper, embed, init_symbols, normal, to_logits


def init(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Fresh arrays for `config.layers` layers of `config.hidden` units and a projection back to D."""
    rng = np.random.default_rng(seed)
    arrays, state, wide = init_symbols(config, rng), config.hidden, config.width
    for i in range(config.layers):
        arrays[f"layer{i}.wx"] = normal(rng, wide, 4 * state, std=wide**-0.5)
        arrays[f"layer{i}.wh"] = normal(rng, state, 4 * state, std=state**-0.5)
        arrays[f"layer{i}.bias"] = np.repeat(np.array([0, 1, 0, 0], np.float32), state)
        wide = state
    return arrays | {"back": normal(rng, wide, config.width, std=wide**-0.5)}


def _gates(z):
    """Input, forget, candidate and output (..., H) each from their sums (..., 4H)."""
    i, f, g, o = tf.split(z, 4, axis=-1)
    return tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)


def _shifted(zero, states):
    """The states (T, B, H) before each step: zero, then all but the last."""
    return tf.concat([zero[None], states[:-1]], 0)


@tf.custom_gradient
def recur(z, wh):
    """States (T, B, H) from input products z (T, B, 4H) and recurrent weights (H, 4H), zero at the start."""
    steps, batch, state = z.shape[0], tf.shape(z)[1], wh.shape[0]
    zero = tf.zeros([batch, state], z.dtype)

    def forward(t, h, c, hs, cs):
        i, f, g, o = _gates(z[t] + tf.matmul(h, wh))  # (B, H) each
        c = f * c + i * g
        h = o * tf.tanh(c)
        return t + 1, h, c, hs.write(t, h), cs.write(t, c)

    arrays = [tf.TensorArray(z.dtype, steps, element_shape=[z.shape[1], state]) for _ in range(2)]
    *_, hs, cs = tf.while_loop(
        lambda t, *_: t < steps, forward, (0, zero, zero, *arrays), maximum_iterations=steps
    )
    hs, cs = hs.stack(), cs.stack()  # (T, B, H)

    def gradient(grad):
        # What does not depend on the gradient is computed for all steps at once.
        before_h, before_c = _shifted(zero, hs), _shifted(zero, cs)
        recurrent = tf.einsum("tbh,hk->tbk", before_h, wh)  # one large matmul instead of T
        i, f, g, o = _gates(z + recurrent)
        squashed = tf.tanh(cs)
        cell_by_state = o * (1 - squashed**2)  # how h = o tanh(c) moves with c
        slope_i, slope_f, slope_g = g * i * (1 - i), before_c * f * (1 - f), i * (1 - g**2)
        by_c = tf.concat([slope_i, slope_f, slope_g], -1)  # (T, B, 3H): how c moves with the sums
        by_h = squashed * o * (1 - o)  # how h moves with the sum of the output gate
        back = tf.transpose(wh)  # once, not in every step

        def backward(t, dh, dc, out):
            dh = dh + grad[t]
            dc = dc + dh * cell_by_state[t]
            dz = tf.concat([tf.tile(dc, [1, 3]) * by_c[t], dh * by_h[t]], -1)  # (B, 4H)
            return t - 1, tf.matmul(dz, back), dc * f[t], out.write(t, dz)

        out = tf.TensorArray(z.dtype, steps, element_shape=[z.shape[1], 4 * state])
        *_, out = tf.while_loop(
            lambda t, *_: t >= 0, backward, (steps - 1, zero, zero, out), maximum_iterations=steps
        )
        dz = out.stack()  # (T, B, 4H)
        return dz, tf.einsum("tbh,tbk->hk", before_h, dz)

    return hs, gradient


def core(params, x, config: Config, drop=lambda x: x):
    """All layers and the projection back: (B, T, D) -> (B, T, D)."""
    x = tf.transpose(x, [1, 0, 2])  # (T, B, D)
    for i in range(config.layers):
        at = f"layer{i}."
        z = tf.einsum("tbd,dk->tbk", x, params[at + "wx"]) + params[at + "bias"]
        x = drop(recur(z, tf.convert_to_tensor(params[at + "wh"])))  # (T, B, H)
    return tf.einsum("tbh,hd->btd", x, params["back"])


def logits(params, ids, config: Config, seed=None):
    """(B, T) ids -> (B, T, V); a seed pair switches dropout on."""
    drop = dropper(config.dropout, seed)
    return to_logits(params, core(params, drop(embed(params, ids, config, drop)), config, drop))
