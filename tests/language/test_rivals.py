"""The race's networks: equal sizes, causal, what each switch does."""

from dataclasses import replace

import numpy as np
import pytest

from lib.language import causal, lstm, rivals
from lib.language.pricing import nats_of, network

tf = pytest.importorskip("tensorflow")
SMALL = {"width": 16, "heads": 2, "hidden": 48, "context": 12, "dropout": 0.0, "gram_dropout": 0.0}
ARMS = rivals.race_arms(11, grams=((2, 31),), **SMALL)


def tensors(config, seed=0):
    """Fresh weights, the inputs large enough that a change is seen."""
    arrays = rivals.init(config, seed)
    arrays["symbols"] = arrays["symbols"] * 100
    return {name: tf.constant(array.astype(np.float64)) for name, array in arrays.items()}


def test_arms_of_the_race_are_equal_in_core_parameters():
    sizes = {name: rivals.core_size(arm) for name, arm in rivals.race_arms(73).items()}
    for name, size in sizes.items():
        assert abs(size / sizes["attention"] - 1) < 0.01, (name, sizes)


@pytest.mark.parametrize("name", ARMS)
def test_a_later_symbol_changes_nothing_before_it(name):
    config = ARMS[name]
    params = tensors(config)
    ids = np.random.default_rng(1).integers(1, 11, (2, config.context)).astype(np.int32)
    base = rivals.logits(params, tf.constant(ids), config).numpy()
    for t in (1, 6, 11):
        changed = ids.copy()
        changed[:, t] = 1 + changed[:, t] % 10
        now = rivals.logits(params, tf.constant(changed), config).numpy()
        assert np.array_equal(now[:, :t], base[:, :t])
        assert (now[:, t:] != base[:, t:]).any()


def test_convolution_equals_numpy():
    x = np.random.default_rng(0).standard_normal((2, 7, 3))
    taps = np.random.default_rng(1).standard_normal((3, 3))
    expected = np.zeros_like(x)
    for t in range(7):
        for lag in range(min(t, 2) + 1):
            expected[:, t] += taps[lag] * x[:, t - lag]
    found = rivals.convolve(tf.constant(x), tf.constant(taps)).numpy()
    assert np.abs(found - expected).max() < 1e-12


@pytest.mark.parametrize(("kind", "plain"), [("attention", causal), ("lstm", lstm)])
def test_without_its_switches_a_rival_is_the_plain_network(kind, plain):
    config = replace(ARMS[kind], convolution=False, value_residual=False, skip=False, head=False)
    params = tensors(config)
    ids = tf.constant(np.random.default_rng(2).integers(1, 11, (2, 12)), tf.int32)
    found = rivals.logits(params, ids, config).numpy()
    assert np.abs(found - plain.logits(params, ids, config).numpy()).max() < 1e-12


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("attention", {"convolution": False}),
        ("attention", {"value_residual": False}),
        ("lstm", {"skip": False}),
        ("lstm", {"convolution": False}),
        ("lstm-head", {"head": False}),
    ],
)
def test_each_switch_changes_the_outcome(name, change):
    config = ARMS[name]
    params = tensors(config)
    ids = tf.constant(np.random.default_rng(2).integers(1, 11, (2, 12)), tf.int32)
    base = rivals.logits(params, ids, config).numpy()
    without = rivals.logits(params, ids, replace(config, **change)).numpy()
    assert np.abs(without - base).max() > 1e-6


@pytest.mark.parametrize("name", ARMS)
def test_every_weight_of_a_rival_gets_a_gradient(name):
    config = ARMS[name]
    params = {n: tf.Variable(a) for n, a in tensors(config).items()}
    windows = tf.constant(np.random.default_rng(3).integers(1, 11, (2, 13)), tf.int32)
    assert network(config) is rivals
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(nats_of(params, windows, config))
    for name, slope in tape.gradient(loss, params).items():
        assert np.abs(tf.convert_to_tensor(slope).numpy()).max() > 0, name
