"""EM over neighbours: its likelihood, its steps against plain loops, and what it does to images."""

import numpy as np
import pytest

from lib.common import data, quality
from lib.diffusion import graph, heads, neighbours

SIGMA = 0.1


@pytest.fixture(scope="module")
def task():
    raw, _ = data.load_cifar("train")
    clean = (raw[:3] / 255).astype(np.float32)
    noisy = data.add_noise(clean, SIGMA, 4)
    pilot = heads.head_outputs(noisy, SIGMA, heads.Settings(radius=3.0))[0]
    near = neighbours.neighbourhood(noisy, pilot, SIGMA, radius=3)
    target = heads.clip_mean(clean, SIGMA)
    apart = neighbours.shifted_distances(target, graph.stencil(3), noisy)
    return clean, noisy, near, apart


def test_the_likelihood_never_falls(task):
    _, _, near, apart = task
    fit, found = neighbours.start(), []
    for _ in range(8):
        fit = neighbours.em_step(near, apart, fit)
        found.append(fit.likelihood)
    assert (np.diff(found) > -1e-6).all() and found[-1] > found[0] + 0.1


def test_distances_and_walk_equal_their_definition(task):
    _, noisy, near, apart = task
    clean = task[0]
    logs = neighbours.walk(near, neighbours.start().parameters)
    np.testing.assert_allclose(np.exp(logs).sum(1), 1, rtol=1e-4)
    offsets = graph.stencil(3)
    target = heads.clip_mean(clean, SIGMA)
    for s in (0, 5, 20):
        dy, dx = offsets[s]
        wanted = ((target[1, :, 10, 12] - noisy[1, :, 10 + dy, 12 + dx]) ** 2).mean()
        assert apart[1, s, 10, 12] == pytest.approx(wanted, rel=1e-4)
    weights = np.exp(logs)[0, :, 0, 0]
    outside = ~near.inside[:, 0, 0]
    assert outside.any() and (weights[outside] == 0).all()


def test_the_variance_is_the_responsible_mean(task):
    _, _, near, apart = task
    fit = neighbours.start(variance=0.03)
    logs = neighbours.walk(near, fit.parameters).astype(float) - 1.5 * apart / 0.03
    share = np.exp(logs - logs.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    wanted = (share * apart).sum() / share.sum()
    assert neighbours.em_step(near, apart, fit).variance == pytest.approx(wanted, rel=1e-4)


def test_a_few_steps_denoise_and_no_clean_pixel_reaches_the_estimate(task):
    clean, noisy, near, apart = task
    fit = neighbours.start()
    before = neighbours.estimate(near, fit.parameters, noisy, SIGMA)
    for _ in range(3):
        fit = neighbours.em_step(near, apart, fit)
    after = neighbours.estimate(near, fit.parameters, noisy, SIGMA)
    psnr = [quality.psnr(clean, image).mean() for image in (noisy, before, after)]
    assert psnr[2] > psnr[1] + 1 and psnr[2] > psnr[0] + 3
