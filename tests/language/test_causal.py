"""Attention from basic operations against NumPy, Keras, finite differences and its own faults."""

import numpy as np
import pytest

from lib.language import causal, lstm, optimiser, symbols, training
from lib.language.symbols import Config

tf = pytest.importorskip("tensorflow")
TINY = Config(11, width=16, layers=2, heads=2, hidden=32, context=12, grams=((2, 31), (3, 37)))
TINY_LSTM = Config(11, kind="lstm", width=16, layers=2, hidden=10, context=12, grams=((2, 31),))


def arrays(config, dtype=np.float64, seed=0):
    """Fresh weights, made large enough that attention is not uniform and finite differences are smooth."""
    scale = {"wq": 3, "wk": 3, "symbols": 100, "gram2": 100, "gram3": 100}
    weights = training.network(config).init(config, seed)
    larger = {}
    for name, values in weights.items():
        kind = name.split(".")[-1]  # "blocks.0.wq" is a "wq"
        larger[name] = (values * scale.get(kind, 1)).astype(dtype)
    return larger


def tensors(config, dtype=np.float64):
    return {name: tf.constant(a) for name, a in arrays(config, dtype).items()}


def ids_of(config, rows=2, seed=1):
    return tf.constant(
        np.random.default_rng(seed).integers(1, config.vocab, (rows, config.context)), tf.int32
    )


def qkv(shape=(2, 3, 9, 4), seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.standard_normal(shape).astype(dtype)) for _ in range(3)]


def numpy_attention(q, k, v):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights @ v, weights


def test_attend_equals_numpy_float64():
    q, k, v = qkv()
    out, weights = causal.attend(q, k, v, causal.visible(9, 9))
    expected, expected_weights = numpy_attention(*(x.numpy() for x in (q, k, v)))
    assert np.abs(out - expected).max() < 1e-12
    assert np.abs(weights - expected_weights).max() < 1e-12


@pytest.mark.parametrize("kwargs", [{"scaled": False}, {"drop": lambda w: w * 0.5}])
def test_numpy_equality_notices_a_wrong_scale_and_touched_weights(kwargs):
    q, k, v = qkv()
    out, _ = causal.attend(q, k, v, causal.visible(9, 9), **kwargs)
    assert np.abs(out - numpy_attention(*(x.numpy() for x in (q, k, v)))[0]).max() > 1e-3


def test_numpy_equality_notices_a_missing_mask():
    q, k, v = qkv()
    out, _ = causal.attend(q, k, v, tf.ones((9, 9), bool))
    assert np.abs(out - numpy_attention(*(x.numpy() for x in (q, k, v)))[0]).max() > 1e-2


@pytest.mark.parametrize("heads", [1, 4])
def test_attend_equals_keras(heads):
    x = tf.random.stateless_normal((2, 12, 16), [0, heads])
    layer = tf.keras.layers.MultiHeadAttention(heads, 16 // heads, use_bias=False)
    expected = layer(x, x, use_causal_mask=True)
    wq, wk, wv, wo = (tf.reshape(w, (16, 16)) for w in layer.get_weights())
    q, k, v = (causal.split_heads(tf.matmul(x, w), heads) for w in (wq, wk, wv))
    ours = tf.matmul(causal.join_heads(causal.attend(q, k, v, causal.visible(12, 12))[0]), wo)
    assert np.abs(ours - expected).max() < 1e-5


@pytest.mark.parametrize("block", [1, 4, 9, 20])
def test_blocks_change_nothing(block):
    q, k, v = qkv()
    whole, _ = causal.attend(q, k, v, causal.visible(9, 9))
    assert np.abs(causal.attend_in_blocks(q, k, v, block) - whole).max() < 1e-12


@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.3e-16), (np.float32, 1.2e-7)])
def test_rows_sum_to_one(dtype, eps):
    q, k, v = qkv((2, 3, 64, 8), dtype=dtype)
    _, weights = causal.attend(q, k, v, causal.visible(64, 64))
    weights = weights.numpy()  # (2, 3, 64, 64)

    sums = weights.astype(np.float64).sum(axis=-1)
    assert np.abs(sums - 1).max() <= 8 * eps

    future = np.triu(np.ones((64, 64), bool), k=1)
    assert weights[..., future].max() == 0.0


def test_swapped_axes_are_refused():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="expected shape"):
        causal.expect(tf.transpose(q, [0, 2, 1, 3]), 2, 3, 9, 4)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        causal.attend(q, tf.transpose(k, [0, 2, 1, 3]), v, causal.visible(9, 9))


def test_dropout_comes_after_softmax_and_keeps_the_mean():
    q, k, v = qkv((1, 1, 6, 4))
    seen = []
    causal.attend(q, k, v, causal.visible(6, 6), drop=lambda w: seen.append(w) or w)
    assert np.abs(seen[0].numpy().sum(-1) - 1).max() < 1e-12  # what dropout receives is a softmax
    ones = tf.ones((200, 200))
    kept = symbols.dropper(0.25, tf.constant([0, 1]))(ones).numpy()
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    assert abs(kept.mean() - 1) < 4 * np.sqrt(0.25 / 0.75 / kept.size)


def test_dropout_masks_differ_between_sites_and_steps_and_repeat_with_the_seed():
    ones = tf.ones((30, 30))
    drop = symbols.dropper(0.5, tf.constant([0, 1]))
    first, second = drop(ones).numpy(), drop(ones).numpy()
    assert (first != second).any()
    assert (symbols.dropper(0.5, tf.constant([0, 2]))(ones).numpy() != first).any()
    assert (symbols.dropper(0.5, tf.constant([0, 1]))(ones).numpy() == first).all()
    assert symbols.dropper(0.5, None)(ones) is ones


@pytest.mark.parametrize("config", [TINY, TINY_LSTM], ids=["attention", "lstm"])
def test_a_later_symbol_changes_nothing_before_it(config):
    params, ids = tensors(config), ids_of(config).numpy()
    model = training.network(config)
    base = model.logits(params, tf.constant(ids), config).numpy()
    for t in (1, 5, config.context - 1):
        changed = ids.copy()
        changed[:, t] = 1 + changed[:, t] % (config.vocab - 1)
        now = model.logits(params, tf.constant(changed), config).numpy()
        assert np.array_equal(now[:, :t], base[:, :t])
        assert (now[:, t:] != base[:, t:]).any()


@pytest.mark.parametrize("config", [TINY, TINY_LSTM], ids=["attention", "lstm"])
def test_jacobian_is_zero_above_the_diagonal_only(config):
    params, model = tensors(config), training.network(config)
    x = tf.Variable(np.random.default_rng(0).standard_normal((1, 6, config.width)))
    with tf.GradientTape(persistent=True) as tape:
        y = model.core(params, x, config)
        rows = [tf.reduce_sum(y[0, t]) for t in range(6)]
    reach = np.stack([np.abs(tape.gradient(row, x).numpy()[0]).max(-1) for row in rows])  # (6, 6)
    assert (reach[~np.tril(np.ones((6, 6), bool))] == 0).all()
    assert (reach[np.tril(np.ones((6, 6), bool))] > 0).all()


@pytest.mark.parametrize("config", [TINY, TINY_LSTM], ids=["attention", "lstm"])
def test_gradients_equal_finite_differences(config):
    params = {name: tf.Variable(a) for name, a in arrays(config).items()}
    windows = tf.constant(np.random.default_rng(2).integers(1, 11, (2, 9)), tf.int32)

    def loss():
        return tf.reduce_mean(training.nats_of(params, windows, config))

    with tf.GradientTape() as tape:
        value = loss()
    grads = tape.gradient(value, params)
    rng = np.random.default_rng(3)
    for name, variable in params.items():
        way = rng.standard_normal(variable.shape)
        way *= 1e-4 / np.linalg.norm(way)
        ends = []
        for sign in (1, -1):
            variable.assign_add(sign * way)
            ends.append(float(loss()))
            variable.assign_sub(sign * way)
        expected = float(np.sum(tf.convert_to_tensor(grads[name]).numpy() * way))
        assert abs((ends[0] - ends[1]) / 2 - expected) < 1e-4 * abs(expected) + 1e-10, name


def test_lstm_equals_keras():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 7, 5)).astype(np.float32)
    layer = tf.keras.layers.LSTM(6, return_sequences=True)
    expected = layer(x).numpy()
    wx, wh, bias = layer.get_weights()
    z = np.einsum("btd,dk->tbk", x, wx) + bias
    ours = tf.transpose(lstm.recur(tf.constant(z), tf.constant(wh)), [1, 0, 2])
    assert np.abs(ours - expected).max() < 1e-5


def test_untrained_model_prices_every_symbol_at_log_vocabulary():
    for config in (
        Config(73, width=32, layers=2, hidden=64),
        Config(73, kind="lstm", width=32, layers=1, hidden=32),
    ):
        params = {n: tf.constant(a) for n, a in training.network(config).init(config).items()}
        windows = tf.constant(np.random.default_rng(0).integers(0, 73, (8, 65)), tf.int32)
        nats = float(tf.reduce_mean(training.nats_of(params, windows, config)))
        assert abs(nats / np.log(2) - np.log2(73)) < 0.03


def test_cache_equals_the_full_forward_at_every_step():
    generator = causal.Generator(tensors(TINY), TINY)
    ids = ids_of(TINY, rows=1)
    full = causal.logits(generator.params, ids, TINY).numpy()[0]
    padded = np.concatenate([[0, 0], ids.numpy()[0]]).astype(np.int32)
    for t in range(TINY.context):
        now = generator.step(tf.constant(padded[t : t + 3]), tf.constant(t)).numpy()
        assert np.abs(now - full[t]).max() < 1e-9, t


def test_generation_repeats_with_the_seed_and_greedy_needs_none():
    generator = causal.Generator(tensors(TINY, np.float32), TINY)
    first = generator([1, 2, 3], 20, seed=1)
    assert first.shape == (20,) and first.max() < 11
    assert np.array_equal(first, generator([1, 2, 3], 20, seed=1))
    assert not np.array_equal(first, generator([1, 2, 3], 20, seed=2))
    greedy = generator([1, 2, 3], 6, temperature=0, seed=1)
    assert np.array_equal(greedy, generator([1, 2, 3], 6, temperature=0, seed=9))
    assert np.array_equal(greedy, generator([1, 2, 3], 6, top_k=1, seed=5))
    full = causal.logits(generator.params, tf.constant([[1, 2, 3]]), TINY).numpy()[0, -1]
    assert greedy[0] == full.argmax()


def test_top_k_and_top_p_keep_the_likeliest():
    scores = tf.math.log(tf.constant([0.5, 0.3, 0.15, 0.05]))

    def drawn(k, p):
        settings = (tf.constant(1.0), tf.constant(k), tf.constant(p))
        return {int(causal.choose(scores, *settings, tf.constant([s, 0]))) for s in range(200)}

    assert drawn(0, 1.0) == {0, 1, 2, 3}
    assert drawn(2, 1.0) == {0, 1}
    assert drawn(0, 0.7) == {0, 1}
    assert drawn(3, 0.4) == {0}


@pytest.mark.parametrize(
    "bad", [{"prompt": []}, {"length": 0}, {"temperature": -1.0}, {"top_p": 0.0}]
)
def test_generation_refuses_bad_settings(bad):
    generator = causal.Generator(tensors(TINY, np.float32), TINY)
    with pytest.raises(ValueError):
        generator(**({"prompt": [1], "length": 3} | bad))


def test_a_prompt_longer_than_the_context_keeps_its_end():
    generator = causal.Generator(tensors(TINY, np.float32), TINY)
    long = np.arange(40) % 10 + 1
    assert np.array_equal(generator(long, 5, seed=0), generator(long[-TINY.context :], 5, seed=0))


def test_frozen_positions_do_not_train_and_rope_has_no_table():
    config = Config(
        11, width=16, layers=1, heads=2, hidden=32, context=12, grams=(), positions="frozen"
    )
    params = {n: tf.Variable(a) for n, a in causal.init(config).items()}
    before = params["frozen_positions"].numpy()
    made = optimiser.Optimiser(params, training.Recipe(1))
    training.make_step(
        params, lambda p, w, _: tf.reduce_mean(training.nats_of(p, w, config)), made
    )(tf.constant(np.arange(26).reshape(2, 13) % 11, tf.int32), 1.0, tf.constant(0), tf.constant(0))
    assert np.array_equal(params["frozen_positions"].numpy(), before)
    assert "frozen_positions" not in causal.init(TINY)
    with pytest.raises(ValueError, match="frozen"):
        causal.Generator(params, config)


def test_config_refuses_what_cannot_be_built():
    with pytest.raises(ValueError, match="heads"):
        Config(11, width=16, heads=3)
    with pytest.raises(ValueError, match="kind"):
        Config(11, kind="gru")
