"""What notebook 02 compares: the baselines, the arms of the heads, and differences on common images."""

import numpy as np
import pytest

from lib.common import data, params, quality
from lib.diffusion import experts, graph, heads, study


@pytest.fixture(scope="module")
def clean():
    images, _ = data.load_cifar("test")
    return (images[:6] / 255).astype(np.float32)


@pytest.fixture(scope="module")
def arms(clean):
    model = experts.load_model(params.root() / "models" / "em_prior.safetensors")
    return model, *study.main_arms(model, clean, np.arange(6), 0.2, 11, 1e-3)


@pytest.mark.parametrize("name", study.BASELINES)
def test_every_baseline_denoises_and_its_strength_matters(clean, name):
    noisy = data.add_noise(clean, 0.1, 1)
    first, last = (study.baseline(name, noisy, 0.1, study.BASELINES[name][i]) for i in (0, -1))
    assert first.min() >= 0 and last.max() <= 1 and np.abs(first - last).max() > 1e-3
    best = study.tune_baselines(clean, noisy, 0.1)[name]
    assert (
        quality.psnr(clean, study.baseline(name, noisy, 0.1, best)).mean()
        > quality.psnr(clean, noisy).mean() + 1
    )


def test_arms_are_what_they_are_called(clean, arms):
    model, table, shares = arms
    noisy = data.add_noise(clean, 0.2, 11)
    assert shares.shape == (6, 4) and all(values.shape[1] == 6 for values in table.values())
    np.testing.assert_allclose(
        table["noisy"], [quality.psnr(clean, noisy), quality.ssim(clean, noisy)]
    )
    np.testing.assert_allclose(table["tuned"][0], quality.psnr(clean, model.pilot(noisy, 0.2)))
    np.testing.assert_allclose(
        table["light"][0], quality.psnr(clean, model.denoise(noisy, 0.2)), atol=1e-4
    )
    mean = {name: values[0].mean() for name, values in table.items()}
    assert mean["light"] > mean["oracle"] > mean["learned"] > mean["uniform"] > mean["noisy"]
    assert np.abs(table["shuffled"] - table["learned"][:1]).max() > 1e-4


def test_differences_are_taken_on_common_images(arms):
    table, subset = dict(arms[1]), np.array([1, 3, 4])
    table["slow"] = table["noisy"][:, subset] - 1
    assert study.gain(table, "light", "noisy", subset).n == 6
    gain = study.gain(table, "noisy", "slow", subset)
    assert gain.n == 3 and gain.mean == pytest.approx(1) and gain.sd == pytest.approx(0, abs=1e-9)


def test_a_constant_image_stays_what_it_is():
    flat = np.full((1, 3, 9, 12), 0.4, np.float32)
    np.testing.assert_allclose(
        heads.head_outputs(flat, 0.1), np.broadcast_to(flat, (4, *flat.shape)), atol=1e-4
    )
    model = experts.load_model(params.root() / "models" / "em_prior.safetensors")
    assert np.abs(model.denoise(flat, 0.1) - 0.4).max() < 0.02


def test_the_picture_of_edges_holds_the_weights_of_its_pixel(clean):
    walk, (picture,) = study.edge_pictures(clean[:1], 0.1, heads.Settings(radius=3.0), [(0, 30)])
    place = {
        tuple(offset): weight
        for offset, weight in zip(graph.stencil(3.0), walk[0, :, 0, 30], strict=True)
    }
    assert picture.shape == (32, 32) and picture.max() == 1
    for (dy, dx), weight in place.items():
        if dy >= 0 and dx <= 1:
            assert picture[dy, 30 + dx] == pytest.approx(weight / max(place.values()))
