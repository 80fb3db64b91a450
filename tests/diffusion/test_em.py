"""The EM prior: likelihood, recovery, noise, classes."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from lib.common import data, quality
from lib.diffusion import em, heads


@pytest.fixture(scope="module")
def clean():
    images, _ = data.load_cifar("train")
    return (images[:60] / 255).astype(np.float32)


@pytest.fixture(scope="module")
def prior(clean):
    return em.fit_prior(em.extract(clean, 3)[::5], 4, 12, 6, seed=0)[0]


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_likelihood_never_falls(clean, sigma, seed):
    seen = data.add_noise(clean, sigma, 3, clamp=False) if sigma else clean
    _, history = em.fit_prior(em.extract(seen, 3)[::7], 5, 12, 12, seed=seed, sigma=sigma)
    assert (np.diff(history) > -1e-5 * np.abs(history[1:])).all()
    assert history[-1] > history[0]


def test_e_step_equals_the_definition(prior, clean):
    coordinates = (em.extract(clean[:1], 3)[:20] - prior.mean) @ prior.basis[:, :12]
    scores = em.log_joint(prior, coordinates, 0.1)
    for k in range(4):
        cov = (prior.vectors[k] * prior.values[k]) @ prior.vectors[k].T + 0.01 * np.eye(12)
        wanted = np.log(prior.weights[k]) + multivariate_normal.logpdf(
            coordinates, prior.means[k], cov
        )
        np.testing.assert_allclose(scores[:, k], wanted, rtol=1e-3)
    share, logs = em.attention(scores)
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(logs, np.log(np.exp(scores.astype(float)).sum(1)), rtol=1e-4)


def test_posterior_mean_of_one_component_is_the_wiener_filter(clean):
    prior, _ = em.fit_prior(em.extract(clean, 3)[::3], 1, 27, 3, seed=0)
    image = clean[:1]
    cov = (prior.vectors[0] * prior.values[0]) @ prior.vectors[0].T
    patches = em.extract(image, 3)
    mean = prior.basis @ prior.means[0] + prior.mean
    gain = prior.basis @ cov @ np.linalg.inv(cov + 0.04 * np.eye(27)) @ prior.basis.T
    wanted = em.overlap((mean + (patches - mean) @ gain.T).astype(np.float32), image.shape, 3)
    np.testing.assert_allclose(em.denoise(image, prior, 0.2), wanted, atol=1e-4)


def test_em_denoises_also_when_fitted_on_noise_alone(clean):
    noisy = data.add_noise(clean, 0.2, 5, clamp=False)
    prior, _ = em.fit_prior(em.extract(noisy, 4)[::4], 5, 20, 8, seed=0, sigma=0.2)
    gain = quality.psnr(clean, em.denoise(noisy, prior, 0.2)) - quality.psnr(clean, noisy)
    assert gain.mean() > 5


def test_noise_level_is_found(clean):
    for sigma in (0.05, 0.1, 0.2):
        found = em.estimate_noise(data.add_noise(clean, sigma, 7, clamp=False))
        assert abs(found - sigma) < 0.12 * sigma
    assert em.estimate_noise(np.full((1, 3, 16, 16), 0.5, np.float32)) < 1e-6


def test_zero_noise_changes_nothing(prior, clean):
    images = clean[:2]
    assert np.array_equal(em.denoise(images, prior, 0), images)


def test_a_constant_image_stays_nearly_constant(prior):
    flat = np.full((1, 3, 16, 16), 0.5, np.float32)
    denoised = em.denoise(flat, prior, 0.1)
    assert np.abs(denoised - 0.5).max() < 0.05


def test_a_prior_of_constant_patches_is_finite():
    patches = np.full((50, 27), 0.5, np.float32)
    constant, history = em.fit_prior(patches, 2, 5, 3, seed=0)
    assert np.isfinite(history).all()
    assert np.isfinite(constant.values).all()


def test_overlap_undoes_extract(clean):
    np.testing.assert_allclose(
        em.overlap(em.extract(clean[:2], 5), clean[:2].shape, 5), clean[:2], atol=1e-6
    )


def test_classes_change_the_weights(prior):
    images, labels = data.load_cifar("train")
    images, labels = (images[:100] / 255).astype(np.float32), labels[:100]
    by_class = em.fit_class_weights(prior, images, labels)
    np.testing.assert_allclose(by_class.class_weights.sum(1), 1)
    posterior = em.class_posterior(by_class, images[:5], 0.1)
    np.testing.assert_allclose(posterior.sum(1), 1, atol=1e-6)
    other = em.denoise(images[:5], by_class, 0.2, posterior @ by_class.class_weights)
    assert np.abs(other - em.denoise(images[:5], by_class, 0.2)).max() > 1e-4
    with pytest.raises(ValueError, match="no image of class"):
        em.fit_class_weights(prior, images[labels == 0], labels[labels == 0])


def test_bad_input(clean, prior):
    patches = em.extract(clean[:1], 3)
    for bad in (
        lambda: em.fit_prior(patches[:10], 8, 5, 2, seed=0),
        lambda: em.fit_prior(patches, 2, 99, 2, seed=0),
        lambda: em.fit_prior(np.full((30, 27), np.nan), 2, 5, 2, seed=0),
        lambda: em.fit_prior(patches, 2, 5, 2, seed=0, sigma=-1),
        lambda: em.extract(clean[:1, :, :4], 7),
        lambda: em.denoise(np.full((1, 3, 9, 9), np.nan, np.float32), prior, 0.1),
        lambda: em.denoise(np.full((1, 3, 9, 9), np.inf, np.float32), prior, 0),
        lambda: em.denoise(clean[:1] * 255, prior, 0.1),
        lambda: em.denoise(clean[:1, :, :2], prior, 0.1),
        lambda: em.denoise(clean[:1], prior, np.nan),
        lambda: em.estimate_noise(np.full((1, 3, 9, 9), np.nan, np.float32)),
        lambda: em.class_posterior(prior, clean[:1], 0.1),
        lambda: heads.unclip(clean[:1], 0),
    ):
        with pytest.raises(ValueError):
            bad()


def test_clip_curves_follow_the_noise():
    for sigma in (0.1, 0.2):
        level = np.full((1, 3, 200, 200), 0.9, np.float32)
        seen = data.add_noise(level, sigma, 1)
        mean = heads.clip_mean(level, sigma)
        assert abs(mean.mean() - seen.mean()) < 2e-3
        assert abs(heads.clip_variance(mean, sigma).mean() - seen.var()) < 2e-3
        np.testing.assert_allclose(heads.unclip(mean, sigma), level, atol=1e-3)
