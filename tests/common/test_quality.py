"""lib/common/quality.py: hand values, and agreement with scikit-image."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from lib.common import quality


def pair(n=4, side=16, spread=0.1, seed=0, kind=np.float32):
    rng = np.random.default_rng(seed)
    clean = rng.random((n, 3, side, side)).astype(kind)
    levels = spread * np.linspace(0.5, 2, n).reshape(n, 1, 1, 1)
    return clean, np.clip(clean + levels * rng.standard_normal(clean.shape), 0, 1).astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_psnr_and_mse_agree_with_scikit_image(kind):
    clean, noisy = pair(kind=kind)
    wanted = [
        peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(clean, noisy, strict=True)
    ]
    errors = [mean_squared_error(a, b) for a, b in zip(clean, noisy, strict=True)]
    found = quality.psnr(clean, noisy)
    assert found.shape == (4,) and found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(quality.mse(clean, noisy), errors, rtol=1e-6)


@pytest.mark.parametrize(
    "gap, decibel", [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (0.2, 13.979400086720377)]
)
def test_psnr_by_hand(gap, decibel):
    black = np.zeros((2, 3, 4, 4))
    np.testing.assert_allclose(quality.psnr(black, black + gap), [decibel, decibel], atol=1e-9)
    assert quality.pooled_psnr(black, black + gap) == pytest.approx(decibel, abs=1e-9)


def test_pooled_psnr_by_hand():
    black = np.zeros((2, 3, 4, 4))
    gaps = np.array([0.1, 0.2]).reshape(2, 1, 1, 1)
    assert quality.pooled_psnr(black, black + gaps) == pytest.approx(-10 * math.log10(0.025))


def test_equal_images_have_infinite_psnr_and_similarity_one_without_a_warning(recwarn):
    clean, _ = pair(2)
    assert np.isposinf(quality.psnr(clean, clean)).all()
    np.testing.assert_array_equal(quality.ssim(clean, clean), [1, 1])
    assert not recwarn.list


def test_equal_images_have_infinite_pooled_psnr():
    clean, _ = pair(2)
    assert quality.pooled_psnr(clean, clean) == math.inf


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.floats(0.02, 0.5), st.integers(0, 10_000))
def test_pooled_psnr_is_never_above_the_mean(n, spread, seed):
    clean, noisy = pair(n, 4, spread, seed)
    assert quality.pooled_psnr(clean, noisy) <= quality.psnr(clean, noisy).mean() + 1e-9


def test_psnr_is_symmetric_and_leaves_its_inputs_alone():
    clean, noisy = pair()
    before = clean.copy(), noisy.copy()
    np.testing.assert_array_equal(quality.psnr(clean, noisy), quality.psnr(noisy, clean))
    np.testing.assert_array_equal(clean, before[0])
    np.testing.assert_array_equal(noisy, before[1])


def test_ssim_is_scikit_images_with_the_channel_last():
    clean, noisy = pair(3)
    wanted = [
        structural_similarity(
            np.moveaxis(a, 0, -1), np.moveaxis(b, 0, -1), data_range=1.0, channel_axis=-1
        )
        for a, b in zip(clean, noisy, strict=True)
    ]
    found = quality.ssim(clean, noisy)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert (found < 1).all()
    assert found[0] > found[2]  # the images are ever noisier


@pytest.mark.parametrize("measure", [quality.psnr, quality.pooled_psnr, quality.ssim, quality.mse])
@pytest.mark.parametrize("shape", [(4, 3, 16, 15), (1, 3, 16, 16), (3, 16, 16)])
def test_shapes_that_differ_are_refused_even_where_they_would_broadcast(measure, shape):
    clean, _ = pair()
    with pytest.raises(ValueError, match=r"equal shape.*\(4, 3, 16, 16\)"):
        measure(clean, np.zeros(shape, np.float32))
