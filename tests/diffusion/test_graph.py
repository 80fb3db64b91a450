"""The image graph: kernels against plain NumPy, invariants of the operators, bad input."""

import numba
import numpy as np
import pytest
from reference_graph import dense
from scipy.ndimage import correlate

from lib.diffusion import graph


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 3, 11, 9), dtype=np.float32)


def make(images, patch=1, radius=2.5, sigma_f=1.0, sigma_s=2.0, variance=0.02):
    feat = graph.features(images, graph.filter_bank(3, 5))
    noise = np.full((len(images), *images.shape[2:]), variance, np.float32)
    return graph.edge_weights(
        feat, noise, sigma_f=sigma_f, sigma_s=sigma_s, radius=radius, patch=patch
    )


def reference(images, radius, sigma_f, sigma_s, variance, patch):
    """The docstring of graph.py, pixel by pixel: dense P (B, N, N) for a patch above 1, dense W for patch 1."""
    feat = graph.features(images, graph.filter_bank(3, 5)).astype(float)
    (count, m, height, width), offsets = feat.shape, graph.stencil(radius)
    inside = lambda y, x: 0 <= y < height and 0 <= x < width  # noqa: E731
    weights = np.zeros((count, height, width, len(offsets)))
    for b, y, x in np.ndindex(count, height, width):
        for s, (dy, dx) in enumerate(offsets[1:], 1):
            if inside(y + dy, x + dx):
                gap = np.square(feat[b, :, y, x] - feat[b, :, y + dy, x + dx]).sum()
                z = max(0, gap - 2 * m * variance) / (sigma_f**2 * m * variance) + (
                    dy**2 + dx**2
                ) / (2 * sigma_s**2)
                weights[b, y, x, s] = max(0, 1 - z / 16) ** 16
        weights[b, y, x, 0] = weights[b, y, x].max()
    if patch == 1:
        return weights
    weights /= weights.sum(-1, keepdims=True)
    out, half = np.zeros_like(weights), patch // 2
    for b, y, x in np.ndindex(count, height, width):
        square = weights[b, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].sum(
            (0, 1)
        )
        valid = [inside(y + dy, x + dx) for dy, dx in offsets]
        out[b, y, x] = square * valid / (square * valid).sum()
    return out


@pytest.mark.parametrize("patch", [1, 3, 5])
def test_kernel_equals_reference(images, patch):
    found = make(images, patch).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, reference(images, 2.5, 1.0, 2.0, 0.02, patch), atol=2e-5)


def test_features_equal_plain_correlations(images):
    bank = graph.filter_bank(5, 7)
    for b, m in np.ndindex(len(images), len(bank)):
        wanted = sum(correlate(images[b, c], bank[m, c], mode="reflect") for c in range(3))
        np.testing.assert_allclose(graph.features(images, bank)[b, m], wanted, atol=1e-5)
    np.testing.assert_allclose(np.einsum("mcyx,ncyx->mn", bank, bank), np.eye(7), atol=1e-6)


def test_apply_equals_dense_sum(images):
    weights, offsets = make(images), graph.stencil(2.5)
    wanted = np.zeros_like(images)
    for b, c, y, x in np.ndindex(images.shape):
        for s, (dy, dx) in enumerate(offsets):
            if 0 <= y + dy < 11 and 0 <= x + dx < 9:
                wanted[b, c, y, x] += weights[b, s, y, x] * images[b, c, y + dy, x + dx]
    np.testing.assert_allclose(graph.apply(weights, images, 2.5), wanted, rtol=1e-4)


def test_stencil_is_what_a_tree_finds():
    centres = np.stack(np.mgrid[0:9, 0:8], -1).reshape(-1, 2)
    for radius in (1, 2.5, 5):
        for (y, x), found in zip(centres, graph.tree_neighbours(centres, radius), strict=True):
            near = graph.stencil(radius) + np.array([y, x])
            near = near[((near >= 0) & (near < (9, 8))).all(1)]
            assert sorted(near[:, 0] * 8 + near[:, 1]) == found.tolist()


def test_threads_do_not_change_a_bit():
    big = np.random.default_rng(1).random((1, 3, 70, 40), dtype=np.float32)
    before, results = numba.get_num_threads(), []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append(graph.apply(make(big, 3), big, 2.5))
    numba.set_num_threads(before)
    assert np.array_equal(*results)


def test_strips_leave_no_seam():
    tall = np.random.default_rng(2).random((1, 3, 70, 12), dtype=np.float32)
    whole = make(tall, 5)
    part = make(np.ascontiguousarray(tall[:, :, 20:60]), 5)
    np.testing.assert_allclose(whole[:, :, 30:50], part[:, :, 10:30], atol=1e-6)


@pytest.mark.parametrize(
    "kind,tau", [("step", 0.0), ("step", 1.0), ("heat", 0.0), ("heat", 30.0), ("resolvent", 20.0)]
)
@pytest.mark.parametrize(
    "patch,radius,sigma_f,sigma_s", [(1, 1, 0.01, 0.1), (3, 5, 100.0, 100.0), (5, 2.5, 1.0, 2.0)]
)
def test_diffusion_is_stable_for_every_parameter(
    images, kind, tau, patch, radius, sigma_f, sigma_s
):
    walk = graph.random_walk(make(images, patch, radius, sigma_f, sigma_s))
    out = graph.diffuse(walk, images, radius, tau, kind)
    assert np.isfinite(out).all()
    assert (
        out.min() >= images.min() - 1e-3 and out.max() <= images.max() + 1e-3
    )  # an average never leaves the range
    constant = np.full_like(images, 0.4)
    np.testing.assert_allclose(graph.diffuse(walk, constant, radius, tau, kind), 0.4, atol=1e-4)


def test_heat_and_resolvent_equal_their_matrices(images):
    from scipy.linalg import expm

    walk = graph.random_walk(make(images[:1]))
    lap = np.eye(99) - dense(walk, 2.5)
    flat = images[0].reshape(3, -1).T
    for kind, matrix in (
        ("heat", expm(-1.7 * lap)),
        ("resolvent", np.linalg.inv(np.eye(99) + 1.7 * lap)),
    ):
        found = graph.diffuse(walk, images[:1], 2.5, 1.7, kind)[0].reshape(3, -1).T
        np.testing.assert_allclose(found, matrix @ flat, atol=1e-4)


def test_sinkhorn_is_symmetric_and_doubly_stochastic(images):
    weights = make(images[:1])
    assert np.allclose(
        dense(weights, 2.5) - np.diag(np.diag(dense(weights, 2.5))),
        dense(weights, 2.5).T - np.diag(np.diag(dense(weights, 2.5))),
        atol=1e-6,
    )
    balanced = dense(graph.sinkhorn(weights, 2.5, rounds=60), 2.5)
    np.testing.assert_allclose(balanced, balanced.T, atol=1e-6)
    np.testing.assert_allclose(balanced.sum(0), 1, atol=1e-3)


@pytest.mark.parametrize(
    "radius,sigma_f,sigma_s", [(1, 0.01, 0.1), (2.5, 0.3, 2.0), (5, 100.0, 100.0), (7, 1.0, 0.3)]
)
@pytest.mark.parametrize("variance", [0.0, 0.02, 1.0])
def test_sinkhorn_is_stable_for_every_parameter(images, radius, sigma_f, sigma_s, variance):
    weights = make(
        images, 1, radius, sigma_f, sigma_s, variance
    )  # some of these leave nodes without neighbours
    out = graph.apply(graph.sinkhorn(weights, radius), images, radius)
    assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1.02
    constant = np.full_like(images, 0.4)
    np.testing.assert_allclose(
        graph.apply(graph.sinkhorn(weights, radius), constant, radius), 0.4, atol=0.01
    )


def test_every_parameter_changes_the_output(images):
    base = dict(patch=3, radius=3, sigma_f=1.0, sigma_s=2.0, variance=0.02)
    first = graph.apply(make(images, **base), images, 3)
    for name, value in dict(patch=5, sigma_f=0.5, sigma_s=1.0, variance=0.01).items():
        assert (
            np.abs(graph.apply(make(images, **{**base, name: value}), images, 3) - first).max()
            > 1e-4
        ), name
    assert (
        np.abs(graph.apply(make(images, **{**base, "radius": 2}), images, 2) - first).max() > 1e-4
    )
    walk = make(images, **base)
    assert (
        np.abs(graph.diffuse(walk, images, 3, 0.5) - graph.diffuse(walk, images, 3, 0.6)).max()
        > 1e-4
    )


@pytest.mark.fault("NaN, wrong range or size given to the image graph", "refused with the reason")
def test_bad_input():
    good = np.zeros((1, 3, 8, 8), np.float32)
    for bad, word in (
        (good[0], "shape"),
        (good[:, :, :5], "at least 8"),
        (np.where(good == 0, np.nan, good), "NaN"),
        (good + 255, "scaled"),
    ):
        with pytest.raises(ValueError, match=word):
            graph.check_images(bad)
    for call in (
        lambda: make(good, patch=2),
        lambda: make(good, sigma_f=0),
        lambda: make(good, sigma_s=np.nan),
        lambda: make(good, radius=0.5),
        lambda: graph.diffuse(make(good), good, 2.5, -1),
        lambda: graph.diffuse(make(good), good, 2.5, 1.5),
        lambda: graph.diffuse(make(good), good, 2.5, 1, "unknown"),
    ):
        with pytest.raises(ValueError):
            call()


def test_a_constant_image_stays_constant():
    flat = np.full((1, 3, 12, 12), 0.3, np.float32)
    np.testing.assert_allclose(graph.apply(make(flat, 3, variance=0.0), flat, 2.5), 0.3, atol=1e-6)
