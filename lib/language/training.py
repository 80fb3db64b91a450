"""One training loop for every network of this wing, and how a trained network is priced on held-out text.

Optimiser: Muon for matrices (Jordan et al. 2024: momentum, then five Newton-Schulz steps towards the nearest
orthogonal matrix) and Adam for the rest (Kingma and Ba 2015; decoupled weight decay, Loshchilov and Hutter 2019).
Learning rates rise linearly, then fall linearly to zero. Runs are limited by steps, never by time.
Shapes: B windows, T symbols, N scored symbols, V vocabulary.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from lib.language import causal, corpus, lstm
from lib.language.symbols import Config

CORES = {"attention": causal, "lstm": lstm}


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; `adam` and `muon` are peak learning rates, muon 0 means Adam for everything."""

    steps: int
    batch: int = 16
    adam: float = 3e-3
    muon: float = 0.02
    decay: float = 0.0
    warmup: float = 0.05  # share of the steps


def network(config: Config):
    return CORES[config.kind]


def nats_of(params, windows, config: Config, seed=None):
    """Price (B, T) of every symbol but the first of windows (B, T+1)."""
    scores = network(config).logits(params, windows[:, :-1], config, seed)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], scores)


def orthogonal(g):
    """Newton-Schulz towards the orthogonal factor of each matrix (L, m, n), m <= n."""
    x = g / (tf.norm(g, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        s = tf.matmul(x, x, transpose_b=True)  # (L, m, m)
        x = 3.4445 * x + tf.matmul(-4.775 * s + 2.0315 * tf.matmul(s, s), x)
    return x


class Optimiser:
    """Slots per variable and one update; `scale` is the share of the peak learning rates."""

    def __init__(self, params: dict, recipe: Recipe):
        self.recipe, self.params = recipe, params
        self.matrices = [n for n, v in params.items() if recipe.muon and "." in n and v.shape.rank == 2]
        self.others = [n for n in params if n not in self.matrices and not n.startswith("frozen")]
        self.slots = {f"first.{n}": tf.Variable(tf.zeros_like(v)) for n, v in params.items()}
        self.slots |= {f"second.{n}": tf.Variable(tf.zeros_like(params[n])) for n in self.others}

    def apply(self, grads: dict, scale, step):
        self._adam({n: tf.convert_to_tensor(grads[n]) for n in self.others}, scale, tf.cast(step, tf.float32) + 1)
        shapes = {}
        for name in self.matrices:  # equal shapes share one batched Newton-Schulz
            shapes.setdefault(tuple(self.params[name].shape), []).append(name)
        for shape, names in shapes.items():
            self._muon(shape, names, tf.stack([grads[n] for n in names]), scale)

    def _adam(self, grads, scale, t):
        rate, decay = self.recipe.adam * scale, self.recipe.decay
        for name, g in grads.items():
            first = self.slots[f"first.{name}"].assign(0.9 * self.slots[f"first.{name}"] + 0.1 * g)
            second = self.slots[f"second.{name}"].assign(0.98 * self.slots[f"second.{name}"] + 0.02 * g * g)
            step = first / (1 - 0.9**t) / (tf.sqrt(second / (1 - 0.98**t)) + 1e-8)
            self.params[name].assign_sub(rate * (step + decay * self.params[name]))

    def _muon(self, shape, names, g, scale):
        slots = [self.slots[f"first.{n}"] for n in names]
        momentum = 0.95 * tf.stack(slots) + g
        flat = shape[0] <= shape[1]
        g = g + 0.95 * momentum
        x = orthogonal(g if flat else tf.linalg.matrix_transpose(g))
        x = (x if flat else tf.linalg.matrix_transpose(x)) * max(1.0, shape[1] / shape[0]) ** 0.5
        rate = self.recipe.muon * scale
        for i, name in enumerate(names):
            slots[i].assign(momentum[i])
            self.params[name].assign_sub(rate * (x[i] + self.recipe.decay * self.params[name]))


def schedule(recipe: Recipe) -> np.ndarray:
    """Share of the peak rate at every step (S,)."""
    done = (np.arange(recipe.steps) + 0.5) / recipe.steps
    return np.minimum(done / max(recipe.warmup, 1e-9), (1 - done) / (1 - recipe.warmup)).astype(np.float32)


def make_step(params, config: Config, optimiser: Optimiser, compiled: bool = False):
    """A graph that takes one step: (windows, scale, seed, step) -> mean price in nats before the step."""

    @tf.function(jit_compile=compiled)
    def step(windows, scale, seed, index):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(nats_of(params, windows, config, tf.stack([seed, index])))
        names = [n for n in params if not n.startswith("frozen")]
        grads = tape.gradient(loss, [params[n] for n in names])
        optimiser.apply(dict(zip(names, grads, strict=True)), scale, index)
        return loss

    return step


def windows_over(ids, before, length: int, stride: int):
    """Windows (K, T+1) whose last `stride` symbols tile the text; `before` supplies the earlier context.

    Raises:
        ValueError: fewer than T + 1 symbols stand before the text.
    """
    if len(before) <= length:
        raise ValueError(f"pricing needs {length + 1} symbols before the text, found {len(before)}")
    joined = np.concatenate([before[len(before) - length - 1 :], ids]).astype(np.int32)
    ends = np.minimum(np.arange(stride, len(ids) + stride, stride), len(ids)) + length + 1
    return np.stack([joined[end - length - 1 : end] for end in ends])


def _tile(rows, total: int, stride: int) -> np.ndarray:
    """Last `stride` prices of every window, laid side by side (N,)."""
    rest = total - (len(rows) - 1) * stride
    return np.concatenate([*(row[-stride:] for row in rows[:-1]), rows[-1][-rest:]]).astype(np.float64)


def prices(params, config: Config, ids, before, stride: int = 32, batch: int = 64) -> np.ndarray:
    """Price in nats (N,) of every symbol of a text, with at least T - stride symbols of context."""
    rows = windows_over(ids, before, config.context, stride)
    price = tf.function(lambda w: nats_of(params, w, config), reduce_retracing=True)
    found = [price(tf.constant(rows[i : i + batch])).numpy() for i in range(0, len(rows), batch)]
    return _tile(np.concatenate(found), len(ids), stride)


def adaptive_prices(arrays, config: Config, ids, before, recipe: Recipe, stride: int = 64) -> np.ndarray:
    """Dynamic evaluation (Krause et al. 2018): price `stride` symbols, then take one training step on them."""
    params = {name: tf.Variable(a) for name, a in arrays.items()}
    optimiser = Optimiser(params, recipe)
    mask = tf.constant((np.arange(config.context) >= config.context - stride).astype(np.float32))

    @tf.function
    def step(window, index):
        with tf.GradientTape() as tape:
            nats = nats_of(params, window, config)
            loss = tf.reduce_sum(nats * mask) / stride
        names = [n for n in params if not n.startswith("frozen")]
        grads = tape.gradient(loss, [params[n] for n in names])
        optimiser.apply(dict(zip(names, grads, strict=True)), 1.0, index)
        return nats[0]

    rows = windows_over(ids, before, config.context, stride)
    found = [step(tf.constant(row[None]), tf.constant(i)).numpy() for i, row in enumerate(rows)]
    return _tile(np.stack(found), len(ids), stride)
