"""The full denoiser: the choice of a component, the two passes, how it is made, and its file."""

import dataclasses

import numpy as np
import pytest

from lib.common import data, params, quality
from lib.diffusion import denoiser, em, experts, fit, gate_training, heads

SIGMA = 0.1
SHIPPED = params.root() / "models" / "em_denoiser.safetensors"
SMALL = {
    "patch": 5,
    "components": 3,
    "rank": 10,
    "iterations": 3,
    "fit_images": 60,
    "fit_patches": 2000,
    "tune_images": 4,
    "sigmas": (SIGMA,),
}


@pytest.fixture(scope="module")
def clean():
    raw, _ = data.load_cifar("train")
    return (raw[:60] / 255).astype(np.float32)


def make(clean, folder, monkeypatch):
    """A small denoiser, made by the code that makes the shipped one."""
    quick = gate_training.Recipe(hidden=(4,), steps=20, rate=4e-3)
    monkeypatch.setattr(fit, "RECIPES", dict.fromkeys(fit.RECIPES, quick))
    monkeypatch.setattr(fit, "SEEDS", dict.fromkeys(fit.SEEDS, 1))
    monkeypatch.setattr(fit, "SURE_IMAGES", 20)
    chosen = params.load("sample").em.model_copy(update=SMALL)
    return fit.fit(clean, chosen, seed=0, folder=folder)


@pytest.fixture(scope="module")
def model(clean, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return make(clean, tmp_path_factory.mktemp("parts"), monkeypatch)


def test_the_choice_is_the_largest_responsibility(clean):
    shipped = denoiser.load(SHIPPED)
    noisy = data.add_noise(clean[:4], SIGMA, 2)
    windows = experts.windows_of(noisy, shipped.prior.patch)
    rank = shipped.prior.means.shape[1]
    coordinates = (windows - shipped.prior.mean) @ shipped.prior.basis[:, :rank]
    exact = em.log_joint(shipped.prior, coordinates, SIGMA)
    chosen = experts.choose(shipped.prior, noisy, SIGMA)
    assert (
        chosen == exact.argmax(1)
    ).mean() > 0.97  # a few near-ties: small directions are left out
    lost = exact.max(1) - exact[np.arange(len(chosen)), chosen]
    assert lost.max() < 2


def test_nothing_left_out_is_the_exact_choice(clean, monkeypatch):
    monkeypatch.setattr(experts, "NEGLIGIBLE", 0.0)
    shipped = denoiser.load(SHIPPED)
    noisy = data.add_noise(clean[:2], SIGMA, 2)
    windows = experts.windows_of(noisy, shipped.prior.patch)
    rank = shipped.prior.means.shape[1]
    coordinates = (windows - shipped.prior.mean) @ shipped.prior.basis[:, :rank]
    exact = em.log_joint(shipped.prior, coordinates, SIGMA).argmax(1)
    assert (
        experts.choose(shipped.prior, noisy, SIGMA) == exact
    ).mean() > 0.9995  # single precision


def test_maps_are_ridge_regressions(clean):
    prior, _ = em.fit_prior(em.extract(clean, 5)[::9], 1, 10, 2, seed=0)
    noisy = data.add_noise(clean[:6], SIGMA, 2)
    gram, cross = experts.collect(prior, clean[:6], [noisy], noisy, SIGMA)
    inputs = experts.inputs_of([noisy], 5).astype(float)
    target = em.extract(clean[:6], 3) - 0.5
    np.testing.assert_allclose(gram[0], inputs.T @ inputs, rtol=1e-3, atol=1e-2)
    wanted = np.linalg.solve(inputs.T @ inputs + 3 * np.eye(76), inputs.T @ target)
    # one component: its map is drawn towards itself, half as strongly
    closer = np.linalg.solve(inputs.T @ inputs + 3 * np.eye(76), inputs.T @ target + 3 * wanted)
    np.testing.assert_allclose(experts.solve(gram, cross, 3.0)[0], closer, atol=1e-3)


def test_both_passes_denoise_and_the_pilot_may_be_given(model, clean):
    noisy = data.add_noise(clean[:10], SIGMA, 9)
    pilot = model.pilot(noisy, SIGMA)
    first, second = model.both_passes(noisy, SIGMA, pilot)
    quality_of = [quality.psnr(clean[:10], image).mean() for image in (noisy, pilot, first, second)]
    assert quality_of[0] < quality_of[1] < quality_of[2]
    assert quality_of[3] > quality_of[1]
    assert np.array_equal(model.denoise(noisy, SIGMA), second)
    assert second.min() >= 0 and second.max() <= 1


def test_the_second_pass_is_fitted_on_answers_to_unseen_images(model, clean, monkeypatch):
    noisy = data.add_noise(clean, SIGMA, 1)
    pilot = model.pilot(noisy, SIGMA)
    seen = []
    plain = experts.collect

    def watch(prior, target, images, judged, sigma):
        seen.append(images)
        return plain(prior, target, images, judged, sigma)

    monkeypatch.setattr(experts, "collect", watch)
    made = denoiser.fit_passes(model.prior, clean, noisy, pilot, SIGMA, left=0.03)
    assert len(seen) == 3 and len(seen[2]) == 3
    unseen = quality.psnr(clean, seen[2][2]).mean()
    fitted = denoiser.apply_pass(model.prior, made.first, [noisy, pilot], noisy, SIGMA)
    assert unseen < quality.psnr(clean, fitted).mean()  # the maps of all know these images


def test_making_repeats_goes_on_and_refuses_other_settings(clean, model, tmp_path, monkeypatch):
    again = make(clean, tmp_path, monkeypatch)
    for name in ("first", "second"):
        made, before = (getattr(m.level(SIGMA).passes, name) for m in (again, model))
        assert np.array_equal(made, before)
    monkeypatch.setattr(gate_training, "train_gate", None)  # nothing is made twice
    monkeypatch.setattr(fit, "fit_prior", None)
    chosen = params.load("sample").em.model_copy(update=SMALL)
    fit.fit(clean, chosen, seed=0, folder=tmp_path)
    with pytest.raises(params.UserError, match="another run"):
        fit.fit(clean, chosen, seed=1, folder=tmp_path)
    only = fit.fit(clean, chosen, seed=0, folder=tmp_path, kinds=("sure",), passes=False)
    assert only is None


def test_the_file_keeps_the_denoiser(model, clean, tmp_path):
    noisy = data.add_noise(clean[:6], SIGMA, 9)
    denoiser.save(tmp_path / "m.safetensors", model)
    again = denoiser.load(tmp_path / "m.safetensors", patch=5)
    np.testing.assert_allclose(again.denoise(noisy, SIGMA), model.denoise(noisy, SIGMA), atol=3e-3)
    assert np.array_equal(again.pilot(noisy, SIGMA), model.pilot(noisy, SIGMA))
    before = (tmp_path / "m.safetensors").read_bytes()
    denoiser.save(tmp_path / "m.safetensors", again)
    assert (tmp_path / "m.safetensors").read_bytes() == before
    with pytest.raises(params.UserError, match="patches of 5"):
        denoiser.load(tmp_path / "m.safetensors", patch=7)


@pytest.mark.fault("the prior of the EM model damaged or missing", "one line that names the file")
def test_broken_model_files(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    for name in ("broken.safetensors", "absent.safetensors"):
        with pytest.raises(params.UserError, match=name):
            denoiser.load(tmp_path / name)


def test_bad_input(model, clean):
    noisy = data.add_noise(clean[:2], SIGMA, 9)
    with pytest.raises(ValueError, match="fitted for"):
        model.denoise(noisy, 0.15)
    with pytest.raises(ValueError, match="NaN"):
        model.denoise(np.where(noisy > 0.5, np.nan, noisy), SIGMA)
    with pytest.raises(ValueError, match="scaled"):
        model.denoise(noisy * 255, SIGMA)
    with pytest.raises(ValueError, match="shape"):
        model.denoise(noisy[0], SIGMA)
    with pytest.raises(ValueError, match="differ in shape"):
        denoiser.fit_passes(model.prior, clean, noisy, noisy, SIGMA, left=0.03)


def test_the_shipped_denoiser_is_what_params_ask_for():
    """Its making takes an hour and is not run here; shapes, levels and settings must be those of params.yaml."""
    chosen, shipped = params.load("sample").em, denoiser.load(SHIPPED)
    assert shipped.prior.patch == chosen.patch
    assert shipped.prior.means.shape == (chosen.components, chosen.rank)
    assert tuple(shipped.levels) == chosen.sigmas
    window, answer = 3 * chosen.patch**2, 3 * (chosen.patch - 2) ** 2
    for level in shipped.levels.values():
        settings = dataclasses.asdict(level.settings)
        assert all(settings[name] in grid for name, grid in heads.GRIDS.items())
        assert level.passes.first.shape == (chosen.components, 2 * window + 1, answer)
        assert level.passes.second.shape == (chosen.components, 3 * window + 1, answer)
        assert {kind: len(trained) for kind, trained in level.gates.items()} == fit.SEEDS


def test_a_constant_image_stays_what_it_is():
    flat = np.full((1, 3, 9, 12), 0.4, np.float32)
    assert np.abs(denoiser.load(SHIPPED).denoise(flat, SIGMA) - 0.4).max() < 0.02
