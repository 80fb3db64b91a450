"""Muon for matrices, Adam for the rest, and the schedule of their rates.

Muon (Jordan et al. 2024): momentum, then five Newton-Schulz steps towards the nearest orthogonal matrix; matrices of
equal shape go through them together. Adam after Kingma and Ba (2015). Rates rise, then fall linearly to zero.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; `adam` and `muon` are peak learning rates, muon 0 means Adam for everything."""

    steps: int
    batch: int = 16
    adam: float = 3e-3
    muon: float = 0.02
    warmup: float = 0.05  # share of the steps
    average: float = 0.0  # decay at each hundredth of the steps of the mean weights (second half); 0: last weights


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
        self.matrices = [
            n for n, v in params.items() if recipe.muon and "." in n and v.shape.rank == 2
        ]
        self.others = [n for n in params if n not in self.matrices and not n.startswith("frozen")]
        self.slots = {f"first.{n}": tf.Variable(tf.zeros_like(v)) for n, v in params.items()}
        self.slots |= {f"second.{n}": tf.Variable(tf.zeros_like(params[n])) for n in self.others}

    def apply(self, grads: dict, scale, step):
        """Move every variable by its gradient; `step` counts from 0."""
        self._adam(
            {n: tf.convert_to_tensor(grads[n]) for n in self.others},
            scale,
            tf.cast(step, tf.float32) + 1,
        )
        shapes = {}
        for name in self.matrices:  # equal shapes share one batched Newton-Schulz
            shapes.setdefault(tuple(self.params[name].shape), []).append(name)
        for shape, names in shapes.items():
            self._muon(shape, names, tf.stack([grads[n] for n in names]), scale)

    def _adam(self, grads, scale, t):
        rate = self.recipe.adam * scale
        for name, g in grads.items():
            first = self.slots[f"first.{name}"].assign(0.9 * self.slots[f"first.{name}"] + 0.1 * g)
            second = self.slots[f"second.{name}"].assign(
                0.98 * self.slots[f"second.{name}"] + 0.02 * g * g
            )
            step = first / (1 - 0.9**t) / (tf.sqrt(second / (1 - 0.98**t)) + 1e-8)
            self.params[name].assign_sub(rate * step)

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
            self.params[name].assign_sub(rate * x[i])


def schedule(recipe: Recipe) -> np.ndarray:
    """Share of the peak rate at every step (S,)."""
    done = (np.arange(recipe.steps) + 0.5) / recipe.steps
    return np.minimum(done / max(recipe.warmup, 1e-9), (1 - done) / (1 - recipe.warmup)).astype(
        np.float32
    )
