"""What a trained network expects: log-probabilities of every symbol of the vocabulary along a text.

`pricing.py` keeps what the symbol that came has cost. A mixer and an arithmetic code need the whole row of V numbers
before it comes. `static_rows` reads with fixed weights; `AdaptiveReader` takes a step on what it has read (dynamic
evaluation, Krause et al. 2018), always after the symbols have been priced.
Shapes: N symbols of a text, V vocabulary, T symbols of a window, K windows, s the stride (symbols between two steps).
"""

import numpy as np
import tensorflow as tf

from lib.language.pricing import network, windows_over
from lib.language.symbols import Config


def log_probs(params, windows, config: Config):
    """Log-probabilities (B, T, V) of the symbol behind each of the first T symbols of windows (B, T+1)."""
    scores = network(config).logits(params, windows[:, :-1], config)
    return tf.nn.log_softmax(scores)


def laid_side_by_side(rows, total: int, stride: int) -> np.ndarray:
    """The last `stride` rows of every window, and of the last window what is left: (K, T, V) -> (N, V)."""
    whole = [row[-stride:] for row in rows[:-1]]
    rest = total - len(whole) * stride
    return np.concatenate([*whole, rows[-1][-rest:]])


def fixed_reader(arrays, config: Config):
    """A traced function: windows (B, T+1) -> log-probabilities (B, T, V) with these weights."""
    params = {name: tf.constant(a) for name, a in arrays.items()}
    traced = tf.function(lambda windows: log_probs(params, windows, config), autograph=False)
    return lambda windows: traced(tf.constant(windows)).numpy()


def static_rows(arrays, config: Config, ids, before, stride: int, batch: int = 32) -> np.ndarray:
    """Log-probabilities (N, V) with fixed weights; every symbol has at least T - stride symbols of context.

    Args:
        ids: (N,) the text; before: at least T + 1 symbols that stand before it.
    """
    read = fixed_reader(arrays, config)
    windows = windows_over(ids, before, config.context, stride)  # (K, T+1)
    missing = -len(windows) % batch
    padded = np.concatenate([windows, np.repeat(windows[-1:], missing, axis=0)])
    rows = []
    for start in range(0, len(padded), batch):
        rows.extend(read(padded[start : start + batch]))
    return laid_side_by_side(rows[: len(windows)], len(ids), stride)


class AdaptiveReader:
    """A network that prices `stride` symbols, then takes one gradient step on them.

    A weight moves by rate x gradient / (r + mean of r), where r is the root mean square of its gradient on windows of
    the training text.

    Args:
        arrays, config: a trained network.
        train: (K, T+1) windows of the training text, for r.
        rate, stride: size of a step, symbols between two steps.
    """

    def __init__(self, arrays, config: Config, train, rate: float, stride: int):
        self.arrays, self.config, self.stride = arrays, config, stride
        self.params = {name: tf.Variable(a) for name, a in arrays.items()}
        moving = [name for name in arrays if not name.startswith("frozen")]
        self.moving = {name: self.params[name] for name in moving}
        self.sizes = {name: tf.Variable(tf.zeros_like(v)) for name, v in self.moving.items()}
        self._measure = tf.function(self._add_squares, autograph=False)
        compiled = config.kind == "attention"
        self._step = tf.function(self._read_and_step, autograph=False, jit_compile=compiled)
        self._peek = tf.function(self._read, autograph=False)
        for window in train:
            self._measure(tf.constant(window[None]), 1.0 / len(train))
        for size in self.sizes.values():
            root = tf.sqrt(size)
            size.assign(tf.math.divide_no_nan(rate, root + tf.reduce_mean(root)))

    def _gradients(self, window):
        with tf.GradientTape() as tape:
            rows = log_probs(self.params, window, self.config)  # (1, T, V)
            paid = tf.gather(rows, window[:, 1:], batch_dims=2)  # (1, T)
            loss = -tf.reduce_mean(paid[:, -self.stride :])
        found = tape.gradient(loss, list(self.moving.values()))
        return rows[0], dict(zip(self.moving, map(tf.convert_to_tensor, found), strict=True))

    def _add_squares(self, window, share):
        _, gradients = self._gradients(window)
        for name, gradient in gradients.items():
            self.sizes[name].assign_add(share * tf.square(gradient))

    def _read_and_step(self, window):
        rows, gradients = self._gradients(window)
        for name, gradient in gradients.items():
            self.moving[name].assign_sub(self.sizes[name] * gradient)
        return rows

    def _read(self, window):
        return log_probs(self.params, window, self.config)[0]

    def restart(self) -> None:
        """Back to the trained weights."""
        for name, variable in self.moving.items():
            variable.assign(self.arrays[name])

    def peek(self, window) -> np.ndarray:
        """Log-probabilities (T, V) along a window (T+1,); nothing is learned."""
        return self._peek(tf.constant(window[None])).numpy()

    def step(self, window) -> np.ndarray:
        """The same as they were before the step that is taken on the window's last `stride` symbols."""
        return self._step(tf.constant(window[None])).numpy()

    def rows(self, ids, before) -> np.ndarray:
        """Log-probabilities (N, V) along a text, from the trained weights on."""
        self.restart()
        windows = windows_over(ids, before, self.config.context, self.stride)
        read = [self.step(window)[-self.stride :] for window in windows]
        return laid_side_by_side(read, len(ids), self.stride)


class OneByOne:
    """A network, static and adaptive, and a mixer, one symbol at a time: the model that an arithmetic code needs.

    The symbols that have not come yet are zeros in the windows; attention is causal, so they change nothing.

    Args:
        reader: the network; it starts from its trained weights.
        mixer: a mixer of two networks that has read the training texts.
        before: at least T + 1 symbols that stand before the text.
    """

    def __init__(self, reader: AdaptiveReader, mixer, before):
        self.reader, self.mixer = reader, mixer
        self.fixed = fixed_reader(reader.arrays, reader.config)
        self.stride = reader.stride
        self.context = (
            reader.config.context + 1 - self.stride
        )  # symbols of a window before the stride
        self.past = list(before[len(before) - self.context :])
        reader.restart()

    def _window(self):
        """The window (T+1,) of the present stride, zeros where nothing has come yet, and how much has come."""
        known = len(self.past) - self.context
        return np.array(self.past + [0] * (self.stride - known), np.int32), known

    def expect(self) -> np.ndarray:
        """Probabilities (V,) of the next symbol."""
        window, known = self._window()
        place = len(window) - 1 - self.stride + known
        static, adaptive = self.fixed(window[None])[0, place], self.reader.peek(window)[place]
        return self.mixer.expect(np.stack([static, adaptive]))

    def see(self, symbol: int) -> None:
        """Learn from the symbol that came: the mixer at once, the network when a stride is full."""
        self.mixer.see(symbol)
        self.past.append(symbol)
        window, known = self._window()
        if known == self.stride:
            self.reader.step(window)
            self.past = self.past[self.stride :]
