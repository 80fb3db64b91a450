"""The announced attention model, made to run, and its twelve requirements, each with a measured number.

As announced: 128 symbols, width 256, one head, separate W_q, W_k, W_v without bias, scale 1 / sqrt(256), causal
mask, dropout 0.1 after softmax; an embedding, a table of positions, this one layer, a dense output. Departures:
positions are a variable that trains and is saved, and shapes are checked axis by axis.
Shapes: B windows (4), T symbols (128), D width (256), V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lib.language import causal
from lib.language.symbols import dropper, normal

LENGTH, WIDTH, RATE = 128, 256, 0.1


class Requirement(NamedTuple):
    """One requirement: what was announced, the number measured here and whether it holds."""

    name: str
    announced: str
    measured: float
    met: bool


def init(vocab: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of the announced model, with the spreads that Keras gives its layers."""
    rng = np.random.default_rng(seed)
    square = (6 / (2 * WIDTH)) ** 0.5 / 3**0.5  # standard deviation of glorot_uniform
    arrays = {f"layer.{name}": normal(rng, WIDTH, WIDTH, std=square) for name in ("wq", "wk", "wv")}
    arrays |= {
        name: normal(rng, n, WIDTH, std=0.029)
        for name, n in (("symbols", vocab), ("positions", LENGTH))
    }
    return arrays | {
        "out": normal(rng, WIDTH, vocab, std=(2 / (WIDTH + vocab)) ** 0.5),
        "bias": np.zeros(vocab, "f"),
    }


def layer(params, x, drop=lambda w: w):
    """One head: (B, T, D) -> values (B, T, D), weights (B, T, T), queries and keys (B, T, D)."""
    b, t, d = x.shape
    q, k, v = (
        causal.expect(tf.matmul(x, params[f"layer.{n}"]), b, t, d) for n in ("wq", "wk", "wv")
    )
    out, weights = causal.attend(q[:, None], k[:, None], v[:, None], causal.visible(t, t), drop)
    return causal.expect(out[:, 0], b, t, d), causal.expect(weights[:, 0], b, t, t), q, k


def logits(params, ids, seed=None):
    """(B, T) ids, T <= 128 -> (B, T, V)."""
    x = tf.gather(params["symbols"], ids) + params["positions"][: ids.shape[1]]
    out, *_ = layer(params, x, dropper(RATE, seed))
    return tf.matmul(out, params["out"]) + params["bias"]


def loss_of(params, windows, seed=None):
    """Mean price in nats of windows (B, T+1)."""
    scores = logits(params, windows[:, :-1], seed)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], scores))


def gradient_norms(params, windows, loss=loss_of) -> dict[str, float]:
    """Norm of the gradient of the real loss per variable."""
    variables = {name: tf.Variable(a) for name, a in params.items()}
    with tf.GradientTape() as tape:
        price = loss(variables, tf.constant(windows))
    return {
        name: float(tf.norm(tf.convert_to_tensor(g)))
        for name, g in tape.gradient(price, variables).items()
    }


def matmul_macs(fn, *specs) -> int:
    """Multiply-adds of all matrix products in a traced graph (static shapes)."""
    total = 0
    for op in tf.function(fn).get_concrete_function(*specs).graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            across = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += op.outputs[0].shape.num_elements() * op.inputs[0].shape[-2 if across else -1]
    return total


def validate(windows: np.ndarray, vocab: int, seed: int = 0) -> list[Requirement]:
    """The twelve requirements on windows (4, 129) of real text."""
    params = {name: tf.constant(a) for name, a in init(vocab, seed).items()}
    x = tf.gather(params["symbols"], windows[:, :-1]) + params["positions"]  # (B, T, D)
    out, weights, q, k = layer(params, x)
    spec = tf.TensorSpec(x.shape, tf.float32)
    graph = tf.function(lambda y: layer(params, y)[0]).get_concrete_function(spec).graph
    foreign = sum(
        op.type.startswith(("Einsum", "XlaFused", "CudnnRNN")) for op in graph.get_operations()
    )
    parts = (
        x,
        q,
        k,
        q,
        tf.expand_dims(weights, 1),
        weights,
        out,
    )  # input, Q, K, V, scores, weights, output
    norms = gradient_norms(params, windows)
    macs = matmul_macs(lambda y: layer(params, y)[0], spec) / len(windows)
    size = sum(params[f"layer.{n}"].shape.num_elements() for n in ("wq", "wk", "wv"))
    mebibytes = sum(p.shape.num_elements() * 4 for p in parts) / 2**20
    inside = sum(0.1 <= norm <= 10 for norm in norms.values())
    rows = np.abs(weights.numpy().astype(float).sum(-1) - 1).max()
    trained, moved = _few_steps(windows, vocab, seed)
    return [
        Requirement("matmul and softmax only", "no ready-made layer", foreign, foreign == 0),
        Requirement(
            "output shape",
            "(4, 128, 256)",
            out.shape.num_elements(),
            out.shape == (4, LENGTH, WIDTH),
        ),
        Requirement("shape checks per axis", "after each operation", *_swap_refused(q)),
        Requirement("separate Q, K, V without bias", "3 x 256 x 256", size, size == 3 * WIDTH**2),
        Requirement("scale", "1/sqrt(256) = 0.0625", *_scale(q, k, weights)),
        Requirement("causal mask", "no leak from later symbols", *_leak(params, x, out)),
        Requirement("weights sum to 1", "exactly 1.0", rows, rows <= 8 * np.finfo(np.float32).eps),
        Requirement("dropout after softmax", "rate 0.1 in training", *_dropout(weights)),
        Requirement("gradient norms", "all within [0.1, 10]", inside, inside == len(norms)),
        Requirement("memory", "2.75 MB", mebibytes, mebibytes <= 2.75),
        Requirement("operations", "4.2 million", macs, macs <= 4.25e6),
        Requirement("trains, positions too", "loss falls", trained, trained < 0 and moved > 0),
    ]


def _swap_refused(q):
    try:
        causal.expect(tf.transpose(q, [0, 2, 1]), *q.shape)
    except ValueError:
        return 1, True
    return 0, False


def _scale(q, k, weights):
    """Largest difference of the weights from float64 NumPy with the announced scale."""
    scores = np.einsum("btd,bsd->bts", *(a.numpy().astype(float) for a in (q, k))) * 0.0625
    scores[:, ~np.tril(np.ones(scores.shape[1:], bool))] = -np.inf
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    error = float(np.abs(weights - expected / expected.sum(-1, keepdims=True)).max())
    return error, error < 1e-6


def _leak(params, x, out):
    """Largest change of an output when all symbols after it are replaced."""
    edge = LENGTH // 2
    other = tf.concat([x[:, :edge], x[:, edge:] + 1.0], 1)
    change = float(tf.reduce_max(tf.abs(layer(params, other)[0] - out)[:, :edge]))
    return change, change == 0.0


def _dropout(weights):
    """Share of dropped weights; what is kept is scaled by 1 / (1 - rate)."""
    dropped = dropper(RATE, tf.constant([0, 0]))(tf.ones_like(weights)).numpy()
    share = float((dropped == 0).mean())
    return share, abs(share - RATE) < 0.005 and bool(np.isclose(dropped.max(), 1 / (1 - RATE)))


def _few_steps(windows, vocab, seed, steps: int = 5):
    """Change of the price after a few Adam steps, and how far the positions moved."""
    params = {name: tf.Variable(a) for name, a in init(vocab, seed).items()}
    adam, before, first = tf.keras.optimizers.Adam(1e-3), params["positions"].numpy(), None
    for _ in range(steps + 1):
        with tf.GradientTape() as tape:
            price = loss_of(params, tf.constant(windows))
        first = float(price) if first is None else first
        adam.apply_gradients(
            zip(tape.gradient(price, list(params.values())), params.values(), strict=True)
        )
    return float(price) - first, float(np.abs(params["positions"].numpy() - before).max())
