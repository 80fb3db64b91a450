"""Attention for each pixel: the kernel against plain NumPy, what a gate sees, and that training it pays."""

import itertools

import numba
import numpy as np
import pytest
import torch

from lib.common import data, quality
from lib.diffusion import gate_training, gates, heads

SIGMA = 0.15
SETTINGS = heads.Settings(radius=3.0)


@pytest.fixture(scope="module")
def images():
    raw, _ = data.load_cifar("train")
    clean = (raw[:40] / 255).astype(np.float32)
    noisy = data.add_noise(clean, SIGMA, 4)
    return clean, noisy, heads.head_outputs(noisy, SIGMA, SETTINGS)


@pytest.fixture(scope="module")
def tuned(images):
    _, noisy, _ = images
    _, weights = heads.global_weights(*heads.probed_heads(noisy, SIGMA, SETTINGS, seed=0)[1:])
    return weights


def random_gate(inputs, hidden=(7, 5)):
    rng = np.random.default_rng(0)
    sizes = (inputs, *hidden, 4)
    layers = tuple(
        (rng.normal(size=(a, b)).astype(np.float32), rng.normal(size=b).astype(np.float32))
        for a, b in itertools.pairwise(sizes)
    )
    mean, scale = rng.normal(size=inputs), 1 + rng.random(inputs)
    return gates.Gate(mean.astype(np.float32), scale.astype(np.float32), layers)


@pytest.mark.parametrize("hidden", [(), (6,), (7, 5)])
def test_a_gate_equals_plain_numpy(images, hidden):
    _, noisy, outputs = images
    found, _ = gates.features(noisy[:2], outputs[:, :2], SIGMA)
    gate = random_gate(found.shape[1], hidden)
    values = np.moveaxis((found - gate.mean[:, None, None]) / gate.scale[:, None, None], 1, -1)
    for depth, (weight, bias) in enumerate(gate.layers):
        values = values @ weight + bias
        if depth < len(gate.layers) - 1:
            values = np.maximum(values, 0)
    wanted = np.exp(values - values.max(-1, keepdims=True))
    wanted = np.moveaxis(wanted / wanted.sum(-1, keepdims=True), -1, 1)
    shares, mixed = gate.attend(noisy[:2], np.ascontiguousarray(outputs[:, :2]), SIGMA)
    np.testing.assert_allclose(shares, wanted, atol=2e-5)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(mixed, gates.mix_pixels(outputs[:, :2], shares), atol=1e-5)


def test_threads_do_not_change_a_bit(images):
    _, noisy, outputs = images
    gate = random_gate(gates.features(noisy[:1], outputs[:, :1], SIGMA)[0].shape[1])
    before, results = numba.get_num_threads(), []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append(gate.attend(noisy, outputs, SIGMA))
    numba.set_num_threads(before)
    for one, many in zip(*results, strict=True):
        assert np.array_equal(one, many)


def test_features_are_finite_and_those_of_an_image_do_not_depend_on_its_batch(images):
    _, noisy, outputs = images
    found, announced = gates.features(noisy, outputs, SIGMA)
    alone, _ = gates.features(noisy[3:4], outputs[:, 3:4], SIGMA)
    assert np.array_equal(found[3:4], alone)
    flat = np.full((1, 3, 12, 9), 0.5, np.float32)
    constant, _ = gates.features(flat, np.stack([flat] * 4), SIGMA)
    assert np.isfinite(found).all() and np.isfinite(constant).all()
    assert 0 < announced < found.shape[1]
    assert (found.std((0, 2, 3)) > 1e-3).all()  # every feature tells pixels apart


def test_shuffled_weights_are_the_same_in_other_places(images):
    shares = np.random.default_rng(1).random((2, 4, 8, 8)).astype(np.float32)
    shuffled = gates.shuffle_pixels(shares, 0)
    as_sets = [np.sort(part.reshape(2, 4, -1), axis=2) for part in (shares, shuffled)]
    assert np.array_equal(*as_sets) and not np.array_equal(shares, shuffled)
    own = shares.reshape(2, 4, -1).swapaxes(1, 2)[0]
    other = shuffled.reshape(2, 4, -1).swapaxes(1, 2)[0]
    assert {row.tobytes() for row in own} == {row.tobytes() for row in other}  # four stay together
    averaged = gates.average_pixels(shares)
    np.testing.assert_allclose(averaged[:, :, 0, 0], shares.mean((2, 3)), rtol=1e-6)


def test_a_gate_starts_at_the_tuned_weights(images, tuned):
    clean, noisy, outputs = images
    pixels = gate_training.clean_pixels(clean, noisy, outputs, SIGMA, tuned)
    recipe = gate_training.Recipe(hidden=(8,), steps=0, rate=1e-3)
    gate = gate_training.train_gate(pixels, recipe, tuned, seed=0)
    shares, _ = gate.attend(noisy[:1], np.ascontiguousarray(outputs[:, :1]), SIGMA)
    wanted = np.maximum(tuned, 0.02) / np.maximum(tuned, 0.02).sum()
    np.testing.assert_allclose(shares[0, :, 5, 5], wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", ["clean", "sure"])
def test_training_pays_repeats_and_shuffling_undoes_it(images, tuned, kind):
    clean, noisy, outputs = images
    if kind == "clean":
        pixels = gate_training.clean_pixels(clean, noisy, outputs, SIGMA, tuned)
    else:
        pixels = gate_training.sure_pixels(noisy, outputs, SIGMA, SETTINGS, tuned, seed=7)
    recipe = gate_training.Recipe(hidden=(8,), steps=200, rate=4e-3)
    gate = gate_training.train_gate(pixels, recipe, tuned, seed=1)
    again = gate_training.train_gate(pixels, recipe, tuned, seed=1)
    for name, value in gates.to_arrays(gate).items():
        assert np.array_equal(value, gates.to_arrays(again)[name])
    raw, _ = data.load_cifar("train")
    other = (raw[100:140] / 255).astype(np.float32)
    seen = data.add_noise(other, SIGMA, 5)
    made = heads.head_outputs(seen, SIGMA, SETTINGS)
    shares, mixed = gate.attend(seen, made, SIGMA)
    before = quality.psnr(other, heads.unclip(gate_training.pilot_of(made, tuned), SIGMA)).mean()
    assert quality.psnr(other, heads.unclip(mixed, SIGMA)).mean() > before + 0.01
    moved = gates.mix_pixels(made, gates.shuffle_pixels(shares, 0))
    assert quality.psnr(other, heads.unclip(moved, SIGMA)).mean() < before


def test_sure_estimates_the_true_risk(images, tuned):
    clean, noisy, outputs = images
    pixels = gate_training.sure_pixels(noisy, outputs, SIGMA, SETTINGS, tuned, seed=7)
    net = gate_training.network(pixels.features.shape[1], (), tuned, torch.Generator())
    everything = torch.arange(len(pixels.features))
    estimate = gate_training.mixed(net, pixels.features, pixels.heads).detach()
    variance = heads.clip_variance(np.clip(gate_training.pilot_of(outputs, tuned), 0, 1), SIGMA)
    with torch.no_grad():
        risk = gate_training.risk(net, pixels, everything, pixels.features.shape[1])
    weighted = (pixels.weight * gate_training.rows(variance)).mean()
    target = gate_training.rows(heads.clip_mean(clean, SIGMA))
    true = (pixels.weight * (estimate - target) ** 2).mean()
    assert float(risk - weighted) == pytest.approx(float(true), rel=0.1)


def test_a_gate_for_announced_features_sees_no_other(images, tuned):
    clean, noisy, outputs = images
    pixels = gate_training.clean_pixels(clean, noisy, outputs, SIGMA, tuned)
    recipe = gate_training.Recipe(hidden=(4,), steps=3, rate=1e-2)
    gate = gate_training.train_gate(pixels, recipe, tuned, seed=0, announced_only=True)
    found, announced = gates.features(noisy[:2], outputs[:, :2], SIGMA)
    assert len(gate.mean) == announced
    changed = found.copy()
    changed[:, announced:] += 1
    assert np.array_equal(gate.scores(found), gate.scores(changed))


def test_a_gate_survives_its_arrays():
    gate = random_gate(6)
    again = gates.from_arrays(gates.to_arrays(gate, "a."), "a.")
    found = np.random.default_rng(2).random((1, 6, 8, 8)).astype(np.float32)
    assert np.array_equal(gate.scores(found), again.scores(found))
    with pytest.raises(KeyError):
        gates.from_arrays({}, "a.")
