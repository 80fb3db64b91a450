"""Hooks that show how gradients flow: their norm in every variable and at every position, at every step of a training.

The announced hook differentiated the mean of a tensor by that tensor, which is 1 / sqrt(N) whatever the model does.
These hooks differentiate the price of real text.
Shapes: S steps, B windows, T positions, D width, P variables.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

LOWEST, HIGHEST = 0.1, 10.0  # the announced range of gradient norms
BATCH, RATE = 4, 1e-3  # windows of a step, learning rate of Adam, as announced


class Model(NamedTuple):
    """A one-layer language model in pieces, so that a hook can stand between them."""

    name: str
    init: Callable  # (vocab, seed) -> arrays
    inputs: Callable  # (params, ids (B, T)) -> (B, T, D)
    layer: Callable  # (params, x, drop) -> values, weights, (q, k, v)
    scores: Callable  # (params, x, seed) -> logits (B, T, V)


class Flow(NamedTuple):
    """What the hooks saw in a training."""

    names: list[str]  # of the variables
    losses: np.ndarray  # (S,) nats per symbol
    by_variable: np.ndarray  # (S, P) norms
    by_position: np.ndarray  # (S, T) norms of the gradient by the layer's input


def loss_and_gradients(model: Model, params, windows, seed=None):
    """Price in nats of windows (B, T+1), its gradients by variable and by the layer's input (B, T, D)."""
    with tf.GradientTape() as tape:
        x = model.inputs(params, windows[:, :-1])
        paid = tf.nn.sparse_softmax_cross_entropy_with_logits(
            windows[:, 1:], model.scores(params, x, seed)
        )
        loss = tf.reduce_mean(paid)
    names = list(params)
    *found, by_input = tape.gradient(loss, [*params.values(), x])
    gradients = dict(zip(names, map(tf.convert_to_tensor, found), strict=True))
    return loss, gradients, by_input


def norms_by_variable(gradients):
    """(P,) norms of the gradients."""
    return tf.stack([tf.norm(gradient) for gradient in gradients.values()])


def norms_by_position(by_input):
    """(T,) norms over windows and features of the gradient (B, T, D) by the layer's input."""
    return tf.sqrt(tf.reduce_sum(tf.square(by_input), [0, 2]))


def gradient_norms(model: Model, params, windows) -> dict[str, float]:
    """Norm of the gradient of the real loss in every variable, without dropout."""
    held = {name: tf.Variable(a) for name, a in params.items()}
    _, gradients, _ = loss_and_gradients(model, held, tf.constant(windows))
    return {name: float(tf.norm(gradient)) for name, gradient in gradients.items()}


def train_and_watch(model: Model, windows, vocab: int, seed: int = 0):
    """Train with Adam on windows (S, B, T+1) and note every gradient on the way.

    Returns:
        Flow, and the trained arrays.
    """
    params = {name: tf.Variable(a) for name, a in model.init(vocab, seed).items()}
    variables = list(params.values())
    adam = tf.keras.optimizers.Adam(RATE)
    adam.build(variables)

    @tf.function(autograph=False)
    def step(rows, key):
        loss, gradients, by_input = loss_and_gradients(model, params, rows, key)
        adam.apply_gradients(zip(gradients.values(), variables, strict=True))
        return loss, norms_by_variable(gradients), norms_by_position(by_input)

    seen = []
    for index, rows in enumerate(windows):
        seen.append(step(tf.constant(rows), tf.constant([seed, index])))
    losses, by_variable, by_position = (np.array(column) for column in zip(*seen, strict=True))
    arrays = {name: variable.numpy() for name, variable in params.items()}
    return Flow(list(params), losses, by_variable, by_position), arrays


def price(model: Model, arrays, windows) -> float:
    """Mean price in nats of windows (S, B, T+1), without dropout."""
    params = {name: tf.constant(a) for name, a in arrays.items()}

    @tf.function(autograph=False)
    def paid(rows):
        logits = model.scores(params, model.inputs(params, rows[:, :-1]), None)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(rows[:, 1:], logits))

    return float(np.mean([paid(tf.constant(rows)) for rows in windows]))
