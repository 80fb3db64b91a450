"""The four heads: SURE against the true error, what the attention does, that every setting matters."""

from dataclasses import replace

import numpy as np
import pytest

from lib.common import data
from lib.diffusion import heads

SIGMA = 0.15


@pytest.fixture(scope="module")
def noisy():
    images, _ = data.load_cifar("train")
    clean = (images[:24] / 255).astype(np.float32)
    return clean, data.add_noise(clean, SIGMA, 4)


@pytest.fixture(scope="module")
def probed(noisy):
    return heads.probed_heads(noisy[1], SIGMA, heads.Settings(radius=4.0), seed=0)


def test_sure_system_is_near_the_true_one(noisy, probed):
    outputs, _, rhs = probed
    target = heads.clip_mean(noisy[0], SIGMA)
    true = np.einsum("kbchw,bchw->bk", outputs, target, dtype=float) / target[0].size
    assert np.abs((rhs - true).mean(0)).max() < 0.003


def test_learned_weights_beat_uniform_ones(noisy, probed):
    outputs, gram, rhs = probed
    target = heads.clip_mean(noisy[0], SIGMA)
    error = lambda w: np.square(heads.mix(outputs, w) - target).mean()  # noqa: E731
    _, anchor = heads.global_weights(gram, rhs)
    uniform = np.full((24, 4), 0.25)
    assert error(heads.attend(gram, rhs, anchor, 1e-3)) < error(uniform)
    np.testing.assert_allclose(heads.attend(gram, rhs, uniform[0], 1e9), uniform, atol=1e-6)


def test_attention_minimises_its_quadratic(probed):
    _, gram, rhs = probed
    best = heads.attend(gram, rhs, np.zeros(4), 0.01)

    def risk(weights):
        squares = np.einsum("bk,bkl,bl->b", weights, gram, weights)
        penalty = 0.01 * (weights**2).sum(1)
        return (squares - 2 * (weights * rhs).sum(1) + penalty).sum()

    rng = np.random.default_rng(0)
    assert all(risk(best + 0.01 * rng.standard_normal(best.shape)) > risk(best) for _ in range(20))


@pytest.mark.parametrize(
    "name,value",
    [
        ("sigma_f", 0.5),
        ("sigma_s", 2.0),
        ("radius", 3.0),
        ("tau", 0.8),
        ("colour", 0.2),
        ("spatial", 1.5),
    ],
)
def test_every_setting_changes_the_output(noisy, name, value):
    part, base = noisy[1][:2], heads.Settings(radius=4.0)
    first, second = (
        heads.head_outputs(part, SIGMA, s) for s in (base, replace(base, **{name: value}))
    )
    assert np.abs(first - second).max() > 1e-3
    assert (
        np.abs(heads.head_outputs(part, 0.1, base) - first).max() > 1e-3
    )  # and so does the noise level


def test_an_image_does_not_depend_on_its_batch(noisy, probed):
    alone = heads.probed_heads(noisy[1][:1], SIGMA, heads.Settings(radius=4.0), seed=0)
    for whole, part in zip(probed, alone, strict=True):
        assert np.allclose(whole[:, :1] if whole.ndim == 5 else whole[:1], part, atol=1e-7)


def test_tune_lowers_the_risk(noisy):
    settings, trail = heads.tune(
        noisy[1][:4],
        SIGMA,
        heads.Settings(radius=3.0),
        seed=0,
        grids={"sigma_f": (0.2, 0.8), "tau": (0.0, 1.0)},
    )
    assert len(trail) == 5 and trail[-1]["risk"] == min(t["risk"] for t in trail)
    assert settings.sigma_f in (0.2, 0.8)


def test_bad_input():
    with pytest.raises(ValueError, match="sigma must be"):
        heads.head_outputs(np.zeros((1, 3, 8, 8), np.float32), 0.0)
    with pytest.raises(ValueError, match="ridge"):
        heads.attend(np.eye(4)[None], np.ones((1, 4)), np.ones(4), -1)
