"""Denoising of files and arrays: every kind of image, the estimate of the noise, grey, clean and compressed pictures.

Colours go through a network that subtracts nothing, unless a test says "shipped"; grey pictures are real ones of
scikit-image, and none of those chose anything in benchmarks/grey.py.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures
from skimage.restoration import denoise_nl_means

from lib.common.params import UserError, root
from lib.mixture import adaptive, bank, denoiser, router
from lib.mixture.run import SIGMAS
from lib.tools import cli as command_line
from lib.tools import photo

HELD_OUT = ("camera", "coins", "moon")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that subtracts nothing, so that what comes out must be what went in."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    network = denoiser.build("unet", 0)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    denoiser.save_tensors(path, network.state_dict(), {"arm": "unet"})
    return path


def picture(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_file(values):
    """Values in [0, 1] as 8 bits keep them."""
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)


def noisy_and_clean(name, sigma):
    """The middle of a real grey picture, (192, 192) uint8, with and without noise."""
    clean = getattr(pictures, name)()[56:248, 96:288]
    noise = sigma * np.random.default_rng(1).standard_normal(clean.shape)
    return as_file(clean / 255 + noise), clean


def decibels(clean, image):
    return -10 * np.log10(np.mean((clean / 255 - image / 255) ** 2))


# every kind of image


@pytest.mark.parametrize("shape", [(20, 31, 3), (20, 31, 4), (2, 2, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_shape_and_type_stay_and_a_network_that_changes_nothing_changes_nothing(
    weights, shape, kind
):
    image = picture(*shape) if kind == np.uint8 else (picture(*shape) / 255).astype(kind)
    clean = photo.denoise_array(image, weights=weights)
    assert clean.dtype == kind and clean.shape == shape
    np.testing.assert_allclose(clean, image, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_a_grey_image_keeps_shape_type_and_range(kind):
    image, _ = noisy_and_clean("coins", 0.1)
    if kind != np.uint8:
        image = (image / 255).astype(kind)
    clean = photo.denoise_array(image)
    assert clean.dtype == kind and clean.shape == image.shape
    assert clean.min() >= 0 and clean.max() <= (255 if kind == np.uint8 else 1)


def test_alpha_is_kept_and_colours_are_denoised(tmp_path):
    path = tmp_path / "weights.safetensors"
    network = denoiser.build("unet", 0)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.constant_(network.head.bias, -1.0)
    denoiser.save_tensors(path, network.state_dict(), {"arm": "unet"})
    image = picture(16, 16, 4) // 2
    clean = photo.denoise_array(image, 51 / 255, path)
    assert np.array_equal(clean[..., 3], image[..., 3])
    assert np.array_equal(clean[..., :3], image[..., :3] + 51)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_of_every_mode_are_read_and_written(tmp_path, weights, mode, suffix):
    source, target = tmp_path / "in.png", tmp_path / f"out.{suffix}"
    Image.fromarray(picture(9, 14, 3)).convert(mode).save(source)
    photo.denoise_file(source, target, 0.1, weights)
    with Image.open(target) as written, Image.open(source) as read:
        assert written.size == (14, 9)
        if suffix == "png" and mode in ("L", "RGB", "RGBA"):
            assert written.mode == mode
        if suffix == "png" and mode in ("RGB", "RGBA"):
            assert np.array_equal(np.asarray(written), np.asarray(read))


def test_the_levels_that_may_be_asked_for_are_those_of_the_training():
    assert photo.LEVELS == SIGMAS


# the level of the noise


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_the_noise_of_a_smooth_image_is_estimated_within_a_tenth(sigma):
    smooth = np.linspace(0.3, 0.7, 64)[:, None, None] * np.ones((64, 64, 3))
    noisy = smooth + sigma * np.random.default_rng(0).standard_normal(smooth.shape)
    assert photo.estimate_sigma(noisy) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("name", HELD_OUT)
@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_the_noise_of_a_real_grey_file_is_estimated_on_the_whole_of_it(tmp_path, name, sigma):
    """Its first columns alone are another picture: they were all that was looked at, once."""
    noisy, _ = noisy_and_clean(name, sigma)
    noisy[:, :8] = 0
    Image.fromarray(noisy).save(tmp_path / "in.png")
    outcome = photo.denoise_file(tmp_path / "in.png", tmp_path / "out.png")
    assert outcome.level == pytest.approx(sigma, rel=0.2)


def test_the_constants_are_what_the_benchmark_chose():
    chosen = json.loads((root() / "benchmarks" / "grey.json").read_text())["chosen"]
    assert chosen["estimate"] == "haar over middling grey"
    assert chosen["way"] == "non-local means"
    assert photo.GREY_STRENGTH == chosen["strengths"]["non-local means"]
    assert photo.LEFT_ALONE == {
        "grey": chosen["left_alone_grey"],
        "colour": chosen["left_alone_colour"],
    }


# grey pictures


@pytest.mark.parametrize("sigma, gain", [(0.05, 1), (0.1, 3), (0.2, 6), (0.3, 6)])
def test_real_grey_pictures_become_better_and_are_near_non_local_means(sigma, gain):
    """Near: in the mean at most 0.5 dB below scikit-image's filter with the strength that its examples use."""
    below = []
    for name in HELD_OUT:
        noisy, clean = noisy_and_clean(name, sigma)
        before = decibels(clean, noisy)
        known = decibels(clean, photo.denoise_array(noisy, sigma))
        assert known > before + gain
        assert decibels(clean, photo.denoise_array(noisy)) > before + gain  # the level estimated
        means = denoise_nl_means(
            noisy / 255, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma
        )
        below.append(decibels(clean, 255 * means) - known)
    assert np.mean(below) < 0.5


@pytest.mark.parametrize("alpha", [False, True])
def test_grey_saved_as_rgb_is_treated_as_grey(alpha):
    noisy, _ = noisy_and_clean("camera", 0.2)
    channels = [noisy] * 3
    if alpha:
        channels.append(picture(*noisy.shape))
    clean = photo.denoise_array(np.stack(channels, axis=2))
    for channel in range(3):
        assert np.array_equal(clean[..., channel], photo.denoise_array(noisy))
    if alpha:
        assert np.array_equal(clean[..., 3], channels[3])


def test_shipped_weights_denoise_a_real_picture_in_colour():
    clean = pictures.coffee()[100:228, 200:328]
    noise = 0.2 * np.random.default_rng(1).standard_normal(clean.shape)
    noisy = as_file(clean / 255 + noise)
    assert decibels(clean, photo.denoise_array(noisy)) > decibels(clean, noisy) + 8


# clean, compressed, and other pictures that are better not denoised


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("name", ["moon", "rocket"])
def test_a_clean_picture_is_left_alone_and_the_estimate_is_printed(tmp_path, capsys, name, suffix):
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    Image.fromarray(getattr(pictures, name)()[:200, :200]).save(source)
    assert command_line.main(["denoise", str(source), str(target)]) == 0
    raw = photo.estimate_sigma(np.asarray(Image.open(source)) / np.float32(255))
    said = capsys.readouterr().out
    assert f"left alone: the estimated noise of {raw:.4f}" in said
    assert np.array_equal(np.asarray(Image.open(target)), np.asarray(Image.open(source)))


def test_a_level_that_is_given_is_used_on_a_clean_picture_too(tmp_path):
    Image.fromarray(pictures.moon()[:64, :64]).save(tmp_path / "in.png")
    outcome = photo.denoise_file(tmp_path / "in.png", tmp_path / "out.png", 0.1)
    assert outcome == (0.1, False, True, "")


@pytest.mark.fault("noise under JPEG, no level given", "a warning of one line")
def test_jpeg_is_warned_of_in_one_line_and_only_where_the_level_is_estimated(tmp_path, capsys):
    noisy, _ = noisy_and_clean("camera", 0.2)
    source = tmp_path / "in.jpg"
    Image.fromarray(noisy).save(source, quality=75)
    target = str(tmp_path / "out.png")
    assert command_line.main(["denoise", str(source), target]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "JPEG hides a part of the noise" in line
    assert command_line.main(["denoise", str(source), target, "--sigma", "0.2"]) == 0
    assert not capsys.readouterr().err
    Image.fromarray(noisy).save(tmp_path / "in.png")
    assert command_line.main(["denoise", str(tmp_path / "in.png"), target]) == 0
    assert not capsys.readouterr().err


@pytest.mark.fault("picture of two values, no level given", "one line; no picture is written")
def test_a_picture_of_two_values_is_refused_unless_the_level_is_given(tmp_path):
    dots = 255 * np.random.default_rng(0).integers(0, 2, (32, 32), dtype=np.uint8)
    Image.fromarray(dots).convert("1").save(tmp_path / "in.png")
    with pytest.raises(UserError, match=r"in\.png: a picture of two values"):
        photo.denoise_file(tmp_path / "in.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
    assert photo.denoise_file(tmp_path / "in.png", tmp_path / "out.png", 0.5).changed


def test_a_pattern_that_looks_like_more_noise_than_there_can_be_is_refused():
    stripes = np.indices((32, 32)).sum(axis=0) % 2
    with pytest.raises(UserError, match=r"above 0\.5: a pattern"):
        photo.denoise_array(0.9 * stripes + 0.05 * np.indices((32, 32))[0] / 32)


# wrong input


def test_wrong_input_is_one_clear_error_and_writes_nothing(tmp_path, weights):
    broken = tmp_path / "in.png"
    with pytest.raises(UserError, match="no such file"):
        photo.denoise_file(broken, tmp_path / "out.png")
    broken.write_bytes(b"\x89PNG no image")
    with pytest.raises(UserError, match="not an image"):
        photo.denoise_file(broken, tmp_path / "out.png")
    Image.fromarray(picture(4, 4)).save(broken)
    with pytest.raises(UserError, match=r"write a \.png"):
        photo.denoise_file(broken, tmp_path / "out.gif", weights=weights)
    with pytest.raises(UserError, match=r"sigma = 0\.7: allowed are 0\.05 to 0\.5"):
        photo.denoise_file(broken, tmp_path / "out.png", 0.7, weights)
    with pytest.raises(ValueError, match="expected"):
        photo.denoise_array(picture(4, 4, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png"]


def test_the_command_denoises_and_says_which_level_it_took(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(photo, "WEIGHTS", weights)
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(picture(12, 12, 3)).save(source)
    assert command_line.main(["denoise", str(source), str(target)]) == 0
    assert target.is_file() and "(estimated)" in capsys.readouterr().out
    assert command_line.main(["denoise", str(source), str(target), "--sigma", "0.1"]) == 0
    assert "sigma 0.100\n" in capsys.readouterr().out


# the adaptive mixture


@pytest.fixture(scope="module")
def small_bank(tmp_path_factory):
    """A bank of two untrained networks that subtract nothing."""
    members = []
    for size in (bank.Size(8, 0), bank.Size(8, 1, attends=True)):
        network = bank.Member(size).eval()
        torch.nn.init.zeros_(network.head.weight)
        torch.nn.init.zeros_(network.head.bias)
        members.append(network)
    path = tmp_path_factory.mktemp("bank") / "bank.safetensors"
    adaptive.save(path, adaptive.Mixture(members, router.Router(2).eval()), {})
    return path


@pytest.mark.parametrize("shape", [(20, 31, 3), (150, 90, 4)])
@pytest.mark.parametrize("budget", [0.01, 0.5, 1])
@pytest.mark.parametrize("sigma", [None, 0.2])
def test_with_a_budget_colour_goes_through_the_bank(small_bank, shape, budget, sigma):
    image = picture(*shape)
    if sigma is None:  # so much noise that it is not refused, and not so much that it is
        image = np.clip(128 + image / 4, 0, 255).astype(np.uint8)
    clean = photo.denoise_array(image, sigma, small_bank, budget=budget)
    assert np.array_equal(clean, image)


@pytest.mark.parametrize("budget", [0, -1, 1.5, float("nan")])
def test_a_budget_out_of_range_is_refused(small_bank, budget):
    with pytest.raises(UserError, match="allowed are shares above 0 and up to 1"):
        photo.denoise_array(picture(20, 31, 3), 0.2, small_bank, budget=budget)


def test_shipped_bank_denoises_with_more_budget_better():
    clean = pictures.astronaut()[:256, 100:356]
    noise = np.random.default_rng(2).standard_normal(clean.shape)
    level = np.where(np.arange(256) < 128, 0.1, 0.3)[None, :, None]
    noisy = as_file(clean / 255 + level * noise)
    quality = []
    for budget in (0.1, 0.4, 1.0):
        quality.append(decibels(clean, photo.denoise_array(noisy, budget=budget)))
    assert decibels(clean, noisy) + 5 < quality[0] < quality[1] <= quality[2] + 0.05
