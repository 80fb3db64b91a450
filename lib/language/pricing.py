"""What a network pays for text: its loss, the price of held-out parts, and dynamic evaluation.

Prices are in nats per symbol. Held-out text is read in windows that overlap, so that every symbol has at least
T - stride symbols of context, which may lie before the part.
Shapes: B windows, T symbols, K windows over a text, N priced symbols.
"""

import functools

import numpy as np
import tensorflow as tf

from lib.language import causal, lstm, rivals
from lib.language.symbols import Config

CORES = {"attention": causal, "lstm": lstm}


def network(config: Config):
    """The module that builds and runs this configuration."""
    return rivals if isinstance(config, rivals.Rival) else CORES[config.kind]


def nats_of(params, windows, config: Config, seed=None):
    """Price (B, T) of every symbol but the first of windows (B, T+1)."""
    scores = network(config).logits(params, windows[:, :-1], config, seed)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], scores)


def windows_over(ids, before, length: int, stride: int):
    """Windows (K, T+1) whose last `stride` symbols tile the text; ValueError: fewer than T + 1 symbols in `before`."""
    if len(before) <= length:
        raise ValueError(f"pricing needs {length + 1} symbols before the text, found {len(before)}")
    size = length + 1
    joined = np.concatenate([before[len(before) - size :], ids]).astype(np.int32)
    priced = np.arange(stride, len(ids) + stride, stride)  # symbols priced after each window
    ends = np.minimum(priced, len(ids)) + size  # the last window ends with the text
    return np.stack([joined[end - size : end] for end in ends])


def _tile(rows, total: int, stride: int) -> np.ndarray:
    """Last `stride` prices of every window, laid side by side (N,)."""
    whole = [row[-stride:] for row in rows[:-1]]
    rest = total - len(whole) * stride
    return np.concatenate([*whole, rows[-1][-rest:]]).astype(np.float64)


@functools.cache
def _pricer(config: Config):
    return tf.function(lambda params, windows: nats_of(params, windows, config), autograph=False)


def prices(params, config: Config, ids, before, stride: int = 32, batch: int = 64) -> np.ndarray:
    """Price in nats (N,) of every symbol of a text, with at least T - stride symbols of context."""
    rows = windows_over(ids, before, config.context, stride)
    missing = -len(rows) % batch
    padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])  # one shape, one trace
    held = {name: tf.convert_to_tensor(a) for name, a in params.items()}
    price = _pricer(config)
    found = []
    for start in range(0, len(rows), batch):
        found.append(price(held, tf.constant(padded[start : start + batch])).numpy())
    return _tile(np.concatenate(found)[: len(rows)], len(ids), stride)


def adaptive_prices(
    arrays, config: Config, texts, train, rate: float, stride: int = 32
) -> list[np.ndarray]:
    """Dynamic evaluation (Krause et al. 2018) of texts (ids, before): price `stride` symbols, then step on them.

    A weight moves by rate x gradient / (r + mean of r), r its root mean square gradient on windows `train` (K, T+1).
    """
    params = {name: tf.Variable(a) for name, a in arrays.items() if not name.startswith("frozen")}
    scales = {name: tf.Variable(tf.zeros_like(v)) for name, v in params.items()}
    everything = arrays | params

    def gradients(window):
        """Prices (T,) of a window (1, T+1), and the gradient of its last `stride` by name."""
        with tf.GradientTape() as tape:
            nats = nats_of(everything, window, config)
            loss = tf.reduce_mean(nats[:, -stride:])
        slopes = tape.gradient(loss, list(params.values()))
        dense = [tf.convert_to_tensor(slope) for slope in slopes]
        return nats[0], dict(zip(params, dense, strict=True))

    @tf.function(autograph=False)
    def measure(window):
        """Add the squares of a training window's gradient to the mean squares."""
        _, slopes = gradients(window)
        for name, slope in slopes.items():
            scales[name].assign_add(tf.square(slope) / len(train))

    @tf.function(autograph=False, jit_compile=config.kind == "attention")
    def read(window):
        """Prices (T,) as they were before the step on them."""
        nats, slopes = gradients(window)
        for name, slope in slopes.items():
            params[name].assign_sub(scales[name] * slope)
        return nats

    for row in train:
        measure(tf.constant(row[None]))
    for scale in scales.values():  # from mean squares to step sizes
        root = tf.sqrt(scale)
        scale.assign(tf.math.divide_no_nan(rate, root + tf.reduce_mean(root)))
    found = []
    for ids, before in texts:
        for name, variable in params.items():
            variable.assign(arrays[name])
        windows = windows_over(ids, before, config.context, stride)  # (K, T+1)
        rows = [read(tf.constant(window[None])) for window in windows]
        found.append(_tile(np.stack(rows), len(ids), stride))
    return found
