"""The twelve announced requirements, each measured on a layer that runs, on real text.

They are tested in meaning: each gives one number, and a bound that the number can miss. The same tests judge the
announced layer and ours. Figures that were announced beside them (2.75 MB, 4.2 million operations) are claims of
another table and are not counted here.
Shapes: B windows (4), T symbols (128), D width (256).
"""

import contextlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lib.language import announced, causal, gradients, lstm, single_head
from lib.language.gradients import HIGHEST, LOWEST, Model
from lib.language.symbols import dropper

ANNOUNCED = Model("announced", announced.init, announced.inputs, announced.layer, announced.scores)
OURS = Model("ours", single_head.init, single_head.inputs, single_head.layer, single_head.scores)
BARE = OURS._replace(name="ours, no residual", scores=single_head.scores_without_residual)

LENGTH, WIDTH, DROPOUT = 128, 256, 0.1
ROUNDINGS = 8 * float(np.finfo(np.float32).eps)
PRODUCTS = {"MatMul", "BatchMatMulV2"}
SOFTMAX = {"Softmax"}
BASIC = {
    *(
        "AddV2",
        "Sub",
        "Mul",
        "RealDiv",
        "Square",
        "Rsqrt",
        "Mean",
        "Sum",
    ),  # element by element, and sums
    *("Cast", "Const", "Identity", "NoOp", "Placeholder", "ReadVariableOp", "Shape"),
    *("ExpandDims", "Reshape", "Squeeze", "StridedSlice", "Transpose", "Pack", "ConcatV2"),
    *("Range", "GreaterEqual", "LogicalNot", "SelectV2", "ZerosLike", "Fill"),  # the mask
    *("StatelessRandomGetKeyCounter", "StatelessRandomUniformV2"),  # of dropout
}


class Requirement(NamedTuple):
    """One requirement: its name, the bound in words, the measured number, and whether it holds."""

    name: str
    bound: str
    measured: float
    met: bool


def twelve(model: Model, windows, vocab: int, norms: tuple[float, float], seed: int = 0):
    """The announced twelve in their order: a list of Requirement.

    Args:
        windows: (4, 129) ids of real text.
        norms: smallest and largest gradient norm of a training, from `gradients.train_and_watch`.
    """
    params = {name: tf.constant(a) for name, a in model.init(vocab, seed).items()}
    x = model.inputs(params, tf.constant(windows[:, :-1]))  # (B, T, D)
    mixed, weights, (q, k, v) = model.layer(params, x)
    keras = keras_layers(model, params, x)
    foreign = foreign_operations(model, params, x)
    unchecked = unchecked_results(model, params, x) + accepted_swaps(model, params, x)
    hook = hook_follows_loss(model, params, windows)
    own = own_projections(model, params, x)
    scale = scale_error(q, k, weights)
    leak = future_leak(model, params, x)
    entering, share = dropout(model, params, x)
    tested = x.shape == mixed.shape == (len(windows), LENGTH, WIDTH)
    rows = row_error(weights)
    ratio = kept_mebibytes(x, q, k, v, weights, weights, mixed) / lstm_mebibytes(x)
    low, high = (float(norm) for norm in norms)
    inside = low >= LOWEST and high <= HIGHEST
    worst = high if high > HIGHEST else low
    dropped = entering <= ROUNDINGS and abs(share - DROPOUT) < 0.005
    return [
        Requirement("no ready-made layer", "0 Keras layers called", keras, keras == 0),
        Requirement("matmul, softmax, basic operations", "0 others", foreign, foreign == 0),
        Requirement("a shape check after each", "0 without or fooled", unchecked, unchecked == 0),
        Requirement("hooks for gradients", "twice the loss: 2", hook, abs(hook - 2) < 1e-4),
        Requirement("query, key, value of their own", "3 projections", own, own == 3),
        Requirement("scaled scores", "from float64 at 1/16: < 1e-6", scale, scale < 1e-6),
        Requirement("causal mask", "change by later symbols: 0", leak, leak == 0),
        Requirement("dropout behind the softmax", "0.1 within 0.005", share, dropped),
        Requirement("128 symbols, width 256", "output 128 x 256", tested * LENGTH * WIDTH, tested),
        Requirement("weights sum to 1", "within 8 roundings", rows, rows <= ROUNDINGS),
        Requirement("gradient norms", "all in [0.1, 10], the worst", worst, inside),
        Requirement("memory beside an LSTM's", "counted alike, its share", ratio, ratio > 0),
    ]


def details(windows, vocab: int, norms: dict[str, float], seed: int = 0) -> list[Requirement]:
    """What was said of the announced layer's form and cost, each under the name that the ledger knows.

    Args:
        windows: (4, 129) ids of real text.
        norms: gradient norm of each variable before training.
    """
    params = {name: tf.constant(a) for name, a in announced.init(vocab, seed).items()}
    x = announced.inputs(params, tf.constant(windows[:, :-1]))
    mixed, weights, (q, k, v) = announced.layer(params, x)
    met = {r.name: r for r in twelve(ANNOUNCED, windows, vocab, (0, 0), seed)}
    numbers = sum(params[f"layer.{name}"].shape.num_elements() for name in ("wq", "wk", "wv"))
    own = met["query, key, value of their own"].met and numbers == 3 * WIDTH**2
    memory = kept_mebibytes(x, q, k, v, weights, weights, mixed)
    macs = announced.layer_macs(vocab)
    fallen, moved = announced.few_steps(windows, vocab, seed)
    inside = sum(LOWEST <= norm <= HIGHEST for norm in norms.values())
    shaped = mixed.shape == (len(windows), LENGTH, WIDTH)
    trains = fallen < 0 and moved > 0

    def again(name: str, bound: str, number: str) -> Requirement:
        return Requirement(name, bound, met[number].measured, met[number].met)

    return [
        again("matmul and softmax only", "no others", "matmul, softmax, basic operations"),
        Requirement("output shape", "(4, 128, 256)", mixed.shape.num_elements(), shaped),
        again("shape checks per axis", "after each operation", "a shape check after each"),
        Requirement("separate Q, K, V without bias", "3 x 256 x 256", numbers, own),
        again("scale", "1/sqrt(256) = 0.0625", "scaled scores"),
        again("causal mask", "no leak from later symbols", "causal mask"),
        again("weights sum to 1", "exactly 1.0", "weights sum to 1"),
        again("dropout after softmax", "rate 0.1 in training", "dropout behind the softmax"),
        Requirement("gradient norms", "all within [0.1, 10]", inside, inside == len(norms)),
        Requirement("memory", "2.75 MB", memory, memory <= 2.75),
        Requirement("operations", "4.2 million", macs, macs <= 4.25e6),
        Requirement("trains, positions too", "loss falls", fallen, trains),
    ]


@contextlib.contextmanager
def counted_keras_layers():
    """Names of the Keras layers that are called inside the block."""
    kind, called = tf.keras.layers.Layer, []
    original = kind.__call__

    def counting(self, *args, **kwargs):
        called.append(type(self).__name__)
        return original(self, *args, **kwargs)

    kind.__call__ = counting
    try:
        yield called
    finally:
        kind.__call__ = original


def keras_layers(model, params, x) -> int:
    """How many Keras layers a forward pass calls."""
    with counted_keras_layers() as called:
        model.layer(params, x)
    return len(called)


def traced(model, params, x):
    """Graph of the layer in training, dropout included."""

    @tf.function(autograph=False)
    def run(x, key):
        return model.layer(params, x, dropper(0.1, key))[0]

    keys = tf.TensorSpec((2,), tf.int32)
    return run.get_concrete_function(tf.TensorSpec(x.shape, x.dtype), keys).graph


def foreign_operations(model, params, x) -> int:
    """Operations of the layer's graph that are neither product nor softmax nor basic."""
    kinds = [op.type for op in traced(model, params, x).get_operations()]
    return sum(kind not in PRODUCTS | SOFTMAX | BASIC for kind in kinds)


@contextlib.contextmanager
def replaced_check(check):
    """`causal.expect` replaced inside the block."""
    original = causal.expect
    causal.expect = check
    try:
        yield original
    finally:
        causal.expect = original


def unchecked_results(model, params, x) -> int:
    """Products and softmaxes in the graph whose results go through no shape check."""
    names = set()

    def noting(tensor, *shape):
        names.add(tensor.name)
        return original(tensor, *shape)

    with replaced_check(noting) as original:
        operations = traced(model, params, x).get_operations()
    results = [op.outputs[0].name for op in operations if op.type in PRODUCTS | SOFTMAX]
    return sum(name not in names for name in results)


def accepted_swaps(model, params, x) -> int:
    """Shape checks of a forward pass that accept a tensor whose first and last axis are swapped."""
    calls = 0

    def counting(tensor, *shape):
        nonlocal calls
        calls += 1
        return original(tensor, *shape)

    with replaced_check(counting) as original:
        model.layer(params, x)
    return sum(not _refuses(model, params, x, number) for number in range(1, calls + 1))


def _refuses(model, params, x, wrong: int) -> bool:
    calls = 0

    def swapping(tensor, *shape):
        nonlocal calls
        calls += 1
        if calls == wrong:
            original(tf.transpose(tensor, [2, 1, 0]), *shape)
        return tensor

    with replaced_check(swapping) as original:
        try:
            model.layer(params, x)
        except ValueError:
            return True
    return False


def hook_follows_loss(model, params, windows) -> float:
    """Recorded norms for twice the loss over those for the loss: the ratio that is furthest from 2."""
    held = {name: tf.Variable(a) for name, a in params.items()}
    norms = []
    for factor in (1.0, 2.0):
        with tf.GradientTape() as tape:
            x = model.inputs(held, tf.constant(windows[:, :-1]))
            logits = model.scores(held, x, None)
            paid = tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], logits)
            loss = factor * tf.reduce_mean(paid)
        *found, by_input = tape.gradient(loss, [*held.values(), x])
        named = dict(zip(held, map(tf.convert_to_tensor, found), strict=True))
        by_variable = gradients.norms_by_variable(named)
        norms.append(np.concatenate([by_variable, gradients.norms_by_position(by_input)]))
    ratios = norms[1] / norms[0]
    return float(ratios[np.argmax(np.abs(ratios - 2))])


def own_projections(model, params, x) -> int:
    """How many of W_q, W_k, W_v move their own projection and no other."""
    _, _, before = model.layer(params, x)
    own = 0
    for index, name in enumerate(("layer.wq", "layer.wk", "layer.wv")):
        _, _, after = model.layer(params | {name: params[name] * 1.5}, x)
        moved = [bool(tf.reduce_any(a != b)) for a, b in zip(before, after, strict=True)]
        own += moved == [index == i for i in range(3)]
    return own


def scale_error(q, k, weights) -> float:
    """Largest difference of the weights from float64 NumPy with the announced scale of 1/16."""
    q, k = q.numpy().astype(float), k.numpy().astype(float)
    found = np.einsum("btd,bsd->bts", q, k) / 16
    later = ~np.tril(np.ones(found.shape[1:], bool))
    found[:, later] = -np.inf
    expected = np.exp(found - found.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    return float(np.abs(weights - expected).max())


def future_leak(model, params, x) -> float:
    """Largest change of the first half's values when the second half's inputs change."""
    edge = x.shape[1] // 2
    other = tf.concat([x[:, :edge], x[:, edge:] + 1.0], 1)
    before, after = model.layer(params, x)[0], model.layer(params, other)[0]
    return float(tf.reduce_max(tf.abs(after - before)[:, :edge]))


def row_error(weights) -> float:
    """Largest distance of a row's sum from 1."""
    return float(np.abs(weights.numpy().astype(float).sum(-1) - 1).max())


def dropout(model, params, x) -> tuple[float, float]:
    """Largest distance from 1 of the row sums that enter dropout, and the share of weights that it drops."""
    entered = []
    drop = dropper(0.1, tf.constant([0, 0]))

    def watching(weights):
        dropped = drop(weights)
        entered.append((row_error(weights), weights.numpy(), dropped.numpy()))
        return dropped

    model.layer(params, x, watching)
    if len(entered) != 1:  # no dropout, or more than one
        return np.inf, 0.0
    error, before, after = entered[0]
    return error, float((after[before > 0] == 0).mean())


def kept_mebibytes(*tensors) -> float:
    """MiB of tensors of float32."""
    return sum(tensor.shape.num_elements() for tensor in tensors) * 4 / 2**20


def lstm_mebibytes(x) -> float:
    """The same bookkeeping for an LSTM of equal width: input, four gates, cell, its tanh, output; x (B, T, D)."""
    b, t, d = x.shape
    gates = tf.zeros((t, b, 4 * d))
    states = lstm.recur(gates, tf.zeros((d, 4 * d)))  # (T, B, D)
    return kept_mebibytes(x, gates, states, states, states)
