"""One causal head: against NumPy, finite differences and its own chunks; hooks; the twelve requirements and their faults."""

import numpy as np
import pytest

from lib.language import causal, gradients, requirements, single_head
from lib.language.requirements import ANNOUNCED, BARE, OURS

tf = pytest.importorskip("tensorflow")
VOCAB = 40


def windows(rows=4, length=129, seed=0):
    """Text-like ids: words drawn again and again, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(1, VOCAB, rng.integers(2, 7)) for _ in range(30)]
    stream = np.concatenate([words[i] for i in rng.integers(30, size=rows * length)])
    return stream[: rows * length].reshape(rows, length).astype(np.int32)


def params_of(model, dtype=np.float32):
    return {name: tf.constant(a.astype(dtype)) for name, a in model.init(VOCAB).items()}


def qkv(length, width=16, dtype=np.float64):
    rng = np.random.default_rng(length)
    return [tf.Variable(rng.standard_normal((2, length, width)).astype(dtype)) for _ in range(3)]


def test_a_head_equals_numpy():
    q, k, v = (x.numpy() for x in qkv(9))
    found = q @ np.swapaxes(k, 1, 2) / 4
    found[:, ~np.tril(np.ones((9, 9), bool))] = -np.inf
    weights = np.exp(found) / np.exp(found).sum(-1, keepdims=True)
    mixed, ours = single_head.attend(*(tf.constant(x) for x in (q, k, v)))
    assert np.abs(ours - weights).max() < 1e-12
    assert np.abs(mixed - weights @ v).max() < 1e-12


@pytest.mark.parametrize("length", [1, 7, 16, 37])
def test_chunks_give_the_values_and_gradients_of_the_whole(length):
    def values_and_gradients(attend):
        tensors = qkv(length)
        with tf.GradientTape() as tape:
            mixed = attend(*tensors)
            loss = tf.reduce_sum(tf.sin(3 * mixed))
        return [mixed, *tape.gradient(loss, tensors)]

    whole = values_and_gradients(lambda q, k, v: single_head.attend(q, k, v)[0])
    chunked = values_and_gradients(lambda q, k, v: single_head.attend_in_chunks(q, k, v, chunk=8))
    for a, b in zip(whole, chunked, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < 1e-12


def test_chunks_hold_no_square_array():
    spec = tf.TensorSpec((1, 512, 16), tf.float32)

    def largest(attend):
        def step(q, k, v):
            with tf.GradientTape() as tape:
                tape.watch([q, k, v])
                loss = tf.reduce_sum(tf.square(attend(q, k, v)))
            return tape.gradient(loss, [q, k, v])

        graph = tf.function(step, autograph=False).get_concrete_function(spec, spec, spec).graph
        graphs = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
        sizes = [
            output.shape.num_elements() or 0
            for one in graphs
            for op in one.get_operations()
            for output in op.outputs
            if output.shape.is_fully_defined()
        ]
        return max(sizes)

    assert largest(lambda q, k, v: single_head.attend(q, k, v)[0]) == 512 * 512
    assert largest(lambda q, k, v: single_head.attend_in_chunks(q, k, v, chunk=32)) < 512 * 64


@pytest.mark.parametrize("model", [OURS, BARE, ANNOUNCED], ids=lambda model: model.name)
def test_gradients_equal_finite_differences(model):
    params = {n: tf.Variable(a.astype(np.float64)) for n, a in model.init(VOCAB).items()}
    rows = tf.constant(windows(2, 17))
    _, found, _ = gradients.loss_and_gradients(model, params, rows)
    rng = np.random.default_rng(0)
    for name, variable in params.items():
        direction = rng.standard_normal(variable.shape)
        direction /= np.linalg.norm(direction)
        start, ends = variable.numpy(), []
        for step in (1e-4, -1e-4):
            variable.assign(start + step * direction)
            loss, _, _ = gradients.loss_and_gradients(model, params, rows)
            ends.append(float(loss))
        variable.assign(start)
        slope = (ends[0] - ends[1]) / 2e-4
        assert slope == pytest.approx(float(np.sum(found[name] * direction)), rel=1e-5, abs=1e-9)


def test_the_residual_path_is_what_the_arm_lacks():
    params, x = params_of(OURS), OURS.inputs(params_of(OURS), tf.constant(windows()[:, :-1]))
    silent = params | {"layer.wv": tf.zeros_like(params["layer.wv"])}
    with_path = OURS.scores(silent, x, None).numpy()
    without = BARE.scores(silent, x, None).numpy()
    assert with_path.std() > 0.1  # the input still reaches the output
    assert without.std() == 0  # nothing does


def test_hooks_note_the_norms_of_the_real_gradient():
    rows = windows()
    flow, trained = gradients.train_and_watch(OURS, np.stack([rows] * 3), VOCAB)
    assert flow.by_variable.shape == (3, 7)
    assert flow.by_position.shape == (3, 128)
    assert set(flow.names) == set(trained) == set(OURS.init(VOCAB))
    held = {name: tf.Variable(a) for name, a in OURS.init(VOCAB).items()}
    key = tf.constant([0, 0])
    loss, found, by_input = gradients.loss_and_gradients(OURS, held, tf.constant(rows), key)
    expected = [np.linalg.norm(found[name]) for name in flow.names]
    assert flow.losses[0] == pytest.approx(float(loss), rel=1e-5)
    assert np.allclose(flow.by_variable[0], expected, rtol=1e-4)
    whole = np.linalg.norm(by_input)
    assert np.linalg.norm(flow.by_position[0]) == pytest.approx(whole, rel=1e-4)
    assert flow.losses[-1] < flow.losses[0]


def test_the_announced_layer_meets_eleven_and_ours_twelve():
    for model, met in ((ANNOUNCED, 11), (OURS, 12)):
        flow, _ = gradients.train_and_watch(model, np.stack([windows()] * 4), VOCAB)
        norms = flow.by_variable.min(), flow.by_variable.max()
        found = requirements.twelve(model, windows(), VOCAB, norms)
        missed = [r.name for r in found if not r.met]
        assert len(found) == 12
        assert 12 - len(missed) == met, missed
        assert missed == ([] if met == 12 else ["gradient norms"])


def faulty(change):
    """Our model with another layer."""
    return OURS._replace(layer=change)


ready_made = tf.keras.layers.Dense(4)
ready_made.build((None, 256))


def with_keras(params, x, drop=lambda w: w):
    ready_made(x)
    return single_head.layer(params, x, drop)


def with_einsum(params, x, drop=lambda w: w):
    mixed, weights, parts = single_head.layer(params, x, drop)
    return mixed + 0 * tf.einsum("btd,de->bte", x, params["layer.wq"]), weights, parts


def without_a_check(params, x, drop=lambda w: w):
    _, weights, (q, k, v) = single_head.layer(params, x, drop)
    return tf.matmul(drop(weights), v), weights, (q, k, v)


def with_one_matrix(params, x, drop=lambda w: w):
    return single_head.layer(params | {"layer.wk": params["layer.wq"]}, x, drop)


def with_another_scale(params, x, drop=lambda w: w):
    mixed, weights, (q, k, v) = single_head.layer(params, x, drop)
    return mixed, weights, (2 * q, k, v)


def without_mask(params, x, drop=lambda w: w):
    mixed, weights, parts = single_head.layer(params, x, drop)
    return mixed + tf.reduce_mean(x, 1, keepdims=True), weights, parts


def with_early_dropout(params, x, drop=lambda w: w):
    mixed, weights, parts = single_head.layer(params, x)
    drop(2 * weights)
    return mixed, weights, parts


def without_dropout(params, x, drop=lambda w: w):
    return single_head.layer(params, x)


def with_loose_sums(params, x, drop=lambda w: w):
    mixed, weights, parts = single_head.layer(params, x, drop)
    return mixed, weights * 1.001, parts


@pytest.mark.parametrize(
    ("fault", "missed"),
    [
        (with_keras, "no ready-made layer"),
        (with_einsum, "matmul, softmax, basic operations"),
        (without_a_check, "a shape check after each"),
        (with_one_matrix, "query, key, value of their own"),
        (with_another_scale, "scaled scores"),
        (without_mask, "causal mask"),
        (with_early_dropout, "dropout behind the softmax"),
        (without_dropout, "dropout behind the softmax"),
        (with_loose_sums, "weights sum to 1"),
    ],
)
def test_a_fault_is_noticed_by_its_requirement(fault, missed):
    found = requirements.twelve(faulty(fault), windows(), VOCAB, (0.2, 1.0))
    assert missed in [r.name for r in found if not r.met]


@pytest.mark.parametrize("norms", [(0.05, 1.0), (0.2, 12.0)])
def test_a_norm_outside_the_range_is_noticed(norms):
    found = requirements.twelve(OURS, windows(), VOCAB, norms)
    assert [r.name for r in found if not r.met] == ["gradient norms"]


def test_a_check_that_accepts_everything_is_noticed(monkeypatch):
    monkeypatch.setattr(causal, "expect", lambda x, *shape: x)
    found = requirements.twelve(OURS, windows(), VOCAB, (0.2, 1.0))
    assert "a shape check after each" in [r.name for r in found if not r.met]


def test_a_constant_hook_is_noticed(monkeypatch):
    constant = lambda found: tf.stack([tf.size(g, tf.float32) ** -0.5 for g in found.values()])  # noqa: E731
    monkeypatch.setattr(gradients, "norms_by_variable", constant)
    found = requirements.twelve(OURS, windows(), VOCAB, (0.2, 1.0))
    assert "hooks for gradients" in [r.name for r in found if not r.met]


def test_details_of_the_announced_layer():
    norms = gradients.gradient_norms(ANNOUNCED, ANNOUNCED.init(VOCAB), windows())
    found = {r.name: r for r in requirements.details(windows(), VOCAB, norms)}
    missed = {name for name, r in found.items() if not r.met}
    assert missed == {"gradient norms", "memory", "operations"}
    assert found["operations"].measured == 3 * 128 * 256**2 + 2 * 128**2 * 256
    assert found["memory"].measured == 3.0
