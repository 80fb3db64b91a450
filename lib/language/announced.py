"""The announced attention model, made to run, and what its cost was announced to be.

As announced: 128 symbols, width 256, one head, separate W_q, W_k, W_v without bias, scale 1 / sqrt(256), causal
mask, dropout 0.1 behind the softmax; an embedding, a table of positions, this one layer, a dense output. Departures:
positions are a variable that trains and is saved, and shapes are checked axis by axis.
Shapes: B windows (4), T symbols (128), D width (256), V vocabulary.
"""

import numpy as np
import tensorflow as tf

from lib.language import causal, single_head
from lib.language.symbols import dropper, normal

LENGTH, WIDTH, DROPOUT = 128, 256, 0.1


def init(vocab: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of the announced model, with the spreads that Keras gives its layers."""
    rng = np.random.default_rng(seed)
    square = (6 / (2 * WIDTH)) ** 0.5 / 3**0.5  # standard deviation of glorot_uniform
    return {
        "layer.wq": normal(rng, WIDTH, WIDTH, std=square),
        "layer.wk": normal(rng, WIDTH, WIDTH, std=square),
        "layer.wv": normal(rng, WIDTH, WIDTH, std=square),
        "symbols": normal(rng, vocab, WIDTH, std=0.029),
        "positions": normal(rng, LENGTH, WIDTH, std=0.029),
        "out": normal(rng, WIDTH, vocab, std=(2 / (WIDTH + vocab)) ** 0.5),
        "bias": np.zeros(vocab, np.float32),
    }


def inputs(params, ids):
    """Symbols and positions: (B, T) ids, T <= 128 -> (B, T, D)."""
    return tf.gather(params["symbols"], ids) + params["positions"][: ids.shape[1]]


def layer(params, x, drop=lambda weights: weights):
    """One head over x (B, T, D): values (B, T, D), weights (B, T, T), queries, keys and values (B, T, D)."""
    b, t, d = x.shape
    q = causal.expect(tf.matmul(x, params["layer.wq"]), b, t, d)
    k = causal.expect(tf.matmul(x, params["layer.wk"]), b, t, d)
    v = causal.expect(tf.matmul(x, params["layer.wv"]), b, t, d)
    mixed, weights = single_head.attend(q, k, v, drop)
    return mixed, weights, (q, k, v)


def scores(params, x, seed=None):
    """Logits (B, T, V) from inputs (B, T, D); a seed pair switches dropout on."""
    mixed, *_ = layer(params, x, dropper(DROPOUT, seed))
    return tf.matmul(mixed, params["out"]) + params["bias"]


def loss_of(params, windows, seed=None):
    """Mean price in nats of windows (B, T+1)."""
    logits = scores(params, inputs(params, windows[:, :-1]), seed)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], logits))


# --- announced figures that are no requirements --------------------------------------------------------------------------


def matmul_macs(fn, *specs) -> int:
    """Multiply-adds of all matrix products in a traced graph (static shapes)."""
    total = 0
    for op in tf.function(fn).get_concrete_function(*specs).graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            across = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += op.outputs[0].shape.num_elements() * op.inputs[0].shape[-2 if across else -1]
    return total


def layer_macs(vocab: int) -> int:
    """Multiply-adds of the layer for one window of 128 symbols."""
    params = {name: tf.constant(a) for name, a in init(vocab).items()}
    spec = tf.TensorSpec((1, LENGTH, WIDTH), tf.float32)
    return matmul_macs(lambda x: layer(params, x)[0], spec)


def few_steps(windows, vocab: int, seed: int = 0, steps: int = 5) -> tuple[float, float]:
    """Change of the price after a few steps of Adam on windows (B, T+1), and how far the positions moved."""
    params = {name: tf.Variable(a) for name, a in init(vocab, seed).items()}
    variables = list(params.values())
    positions = params["positions"].numpy()
    adam, prices = tf.keras.optimizers.Adam(1e-3), []
    for _ in range(steps + 1):
        with tf.GradientTape() as tape:
            price = loss_of(params, tf.constant(windows))
        prices.append(float(price))
        adam.apply_gradients(zip(tape.gradient(price, variables), variables, strict=True))
    moved = np.abs(params["positions"].numpy() - positions).max()
    return prices[-1] - prices[0], float(moved)
