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
        self.matrices = []  # inside the blocks, for Muon
        self.others = []  # for Adam
        for name, variable in params.items():
            if recipe.muon and "." in name and variable.shape.rank == 2:
                self.matrices.append(name)
            elif not name.startswith("frozen"):
                self.others.append(name)
        self.slots = {}  # running means of the gradients, and for Adam of their squares
        for name, variable in params.items():
            self.slots[f"first.{name}"] = tf.Variable(tf.zeros_like(variable))
        for name in self.others:
            self.slots[f"second.{name}"] = tf.Variable(tf.zeros_like(params[name]))

    def apply(self, grads: dict, scale, step):
        """Move every variable by its gradient; `step` counts from 0."""
        dense = {name: tf.convert_to_tensor(grads[name]) for name in self.others}
        self._adam(dense, scale, tf.cast(step, tf.float32) + 1)
        names_of_shape: dict[tuple, list[str]] = {}
        for name in self.matrices:  # equal shapes share one batched Newton-Schulz
            names_of_shape.setdefault(tuple(self.params[name].shape), []).append(name)
        for shape, names in names_of_shape.items():
            gradients = tf.stack([grads[name] for name in names])  # (L, m, n)
            self._muon(shape, names, gradients, scale)

    def _adam(self, grads, scale, t):
        """`t` counts the steps from 1."""
        rate = self.recipe.adam * scale
        for name, g in grads.items():
            mean, square = self.slots[f"first.{name}"], self.slots[f"second.{name}"]
            first = mean.assign(0.9 * mean + 0.1 * g)
            second = square.assign(0.98 * square + 0.02 * g * g)
            spread = tf.sqrt(second / (1 - 0.98**t))
            step = first / (1 - 0.9**t) / (spread + 1e-8)
            self.params[name].assign_sub(rate * step)

    def _muon(self, shape, names, g, scale):
        """Matrices `names` of one shape (m, n), with gradients g (L, m, n)."""
        slots = [self.slots[f"first.{n}"] for n in names]
        momentum = 0.95 * tf.stack(slots) + g
        g = g + 0.95 * momentum  # Nesterov: one step ahead
        if shape[0] <= shape[1]:
            x = orthogonal(g)
        else:  # `orthogonal` wants m <= n
            x = tf.linalg.matrix_transpose(orthogonal(tf.linalg.matrix_transpose(g)))
        x = x * max(1.0, shape[1] / shape[0]) ** 0.5
        rate = self.recipe.muon * scale
        for i, name in enumerate(names):
            slots[i].assign(momentum[i])
            self.params[name].assign_sub(rate * x[i])


def schedule(recipe: Recipe) -> np.ndarray:
    """Share of the peak rate at every step (S,)."""
    done = (np.arange(recipe.steps) + 0.5) / recipe.steps
    rising = done / max(recipe.warmup, 1e-9)
    falling = (1 - done) / (1 - recipe.warmup)
    return np.minimum(rising, falling).astype(np.float32)
