"""What a network pays for text: its loss, the price of held-out parts, and dynamic evaluation.

Prices are in nats per symbol. Held-out text is read in windows that overlap, so that every symbol has at least
T - stride symbols of context, which may lie before the part.
Shapes: B windows, T symbols, K windows over a text, N priced symbols.
"""

import functools

import numpy as np
import tensorflow as tf

from lib.language import causal, lstm
from lib.language.symbols import Config

CORES = {"attention": causal, "lstm": lstm}


def network(config: Config):
    """The room (causal or lstm) that builds and runs this configuration."""
    return CORES[config.kind]


def nats_of(params, windows, config: Config, seed=None):
    """Price (B, T) of every symbol but the first of windows (B, T+1)."""
    scores = network(config).logits(params, windows[:, :-1], config, seed)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], scores)


def windows_over(ids, before, length: int, stride: int):
    """Windows (K, T+1) whose last `stride` symbols tile the text; ValueError: fewer than T + 1 symbols in `before`."""
    if len(before) <= length:
        raise ValueError(f"pricing needs {length + 1} symbols before the text, found {len(before)}")
    joined = np.concatenate([before[len(before) - length - 1 :], ids]).astype(np.int32)
    ends = np.minimum(np.arange(stride, len(ids) + stride, stride), len(ids)) + length + 1
    return np.stack([joined[end - length - 1 : end] for end in ends])


def _tile(rows, total: int, stride: int) -> np.ndarray:
    """Last `stride` prices of every window, laid side by side (N,)."""
    rest = total - (len(rows) - 1) * stride
    return np.concatenate([*(row[-stride:] for row in rows[:-1]), rows[-1][-rest:]]).astype(
        np.float64
    )


@functools.cache
def _pricer(config: Config):
    return tf.function(lambda params, windows: nats_of(params, windows, config), autograph=False)


def prices(params, config: Config, ids, before, stride: int = 32, batch: int = 64) -> np.ndarray:
    """Price in nats (N,) of every symbol of a text, with at least T - stride symbols of context."""
    rows = windows_over(ids, before, config.context, stride)
    padded = np.concatenate(
        [rows, np.repeat(rows[-1:], -len(rows) % batch, axis=0)]
    )  # one shape, one trace
    held = {name: tf.convert_to_tensor(a) for name, a in params.items()}
    found = [
        _pricer(config)(held, tf.constant(padded[i : i + batch])).numpy()
        for i in range(0, len(rows), batch)
    ]
    return _tile(np.concatenate(found)[: len(rows)], len(ids), stride)


def adaptive_prices(
    arrays, config: Config, texts, train, rate: float, stride: int = 32
) -> list[np.ndarray]:
    """Dynamic evaluation (Krause et al. 2018) of texts (ids, before): price `stride` symbols, then step on them.

    A weight moves by rate x gradient / (r + mean of r), r its root mean square gradient on windows `train` (K, T+1).
    """
    params = {name: tf.Variable(a) for name, a in arrays.items() if not name.startswith("frozen")}
    scales, fixed = {n: tf.Variable(tf.zeros_like(v)) for n, v in params.items()}, arrays | params

    def gradients(window):
        with tf.GradientTape() as tape:
            nats = nats_of(fixed, window, config)
            loss = tf.reduce_mean(nats[:, -stride:])
        return nats[0], zip(
            params,
            map(tf.convert_to_tensor, tape.gradient(loss, list(params.values()))),
            strict=True,
        )

    @tf.function(autograph=False)
    def measure(window):
        for name, g in gradients(window)[1]:
            scales[name].assign_add(tf.square(g) / len(train))

    @tf.function(autograph=False, jit_compile=config.kind == "attention")
    def read(window):
        nats, grads = gradients(window)
        for name, g in grads:
            params[name].assign_sub(scales[name] * g)
        return nats

    for row in train:
        measure(tf.constant(row[None]))
    for scale in scales.values():
        scale.assign(tf.math.divide_no_nan(rate, tf.sqrt(scale) + tf.reduce_mean(tf.sqrt(scale))))
    found = []
    for ids, before in texts:
        for name, variable in params.items():
            variable.assign(arrays[name])
        windows = windows_over(ids, before, config.context, stride)
        rows = [read(tf.constant(row[None])) for row in windows]
        found.append(_tile(np.stack(rows), len(ids), stride))
    return found
