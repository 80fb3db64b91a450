"""Denoising of files and arrays: every kind of image, the estimate of the noise, wrong input. No trained weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.common.params import UserError
from lib.mixture import denoiser
from lib.tools import cli as command_line
from lib.tools import photo


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


@pytest.mark.parametrize("shape", [(20, 31), (20, 31, 3), (20, 31, 4), (2, 2, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_shape_and_type_stay_and_a_network_that_changes_nothing_changes_nothing(
    weights, shape, kind
):
    image = picture(*shape) if kind == np.uint8 else (picture(*shape) / 255).astype(kind)
    clean = photo.denoise_array(image, weights=weights)
    assert clean.dtype == kind and clean.shape == shape
    np.testing.assert_allclose(clean, image, atol=1e-6)


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


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_the_noise_of_a_smooth_image_is_estimated_within_a_tenth(sigma):
    smooth = np.linspace(0.3, 0.7, 64)[:, None, None] * np.ones((64, 64, 3))
    noisy = smooth + sigma * np.random.default_rng(0).standard_normal(smooth.shape)
    assert photo.estimate_sigma(noisy) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_of_every_mode_are_read_and_written(tmp_path, weights, mode, suffix):
    source, target = tmp_path / "in.png", tmp_path / f"out.{suffix}"
    Image.fromarray(picture(9, 14, 3)).convert(mode).save(source)
    photo.denoise_file(source, target, 0.1, weights)
    with Image.open(target) as written, Image.open(source) as read:
        assert written.size == (14, 9)
        if suffix == "png" and mode in ("L", "RGB", "RGBA"):
            assert written.mode == mode and np.array_equal(np.asarray(written), np.asarray(read))


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
