"""Properties of graph and EM that hold for any input that hypothesis draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_graph import dense

from lib.diffusion import em, graph

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
GRAPHS = st.fixed_dictionaries(
    {
        "radius": st.sampled_from([1, 1.5, 2.5, 4]),
        "sigma_f": st.floats(0.05, 20),
        "sigma_s": st.floats(0.5, 20),
        "variance": st.floats(1e-4, 0.2),
    }
)


def weights_of(seed, size, options, patch=1):
    """A random image (1, 3, H, W) and the edge weights (1, S, H, W) of its graph."""
    image = np.random.default_rng(seed).random((1, 3, *size), dtype=np.float32)
    feat = graph.features(image, graph.filter_bank(3, 5))
    rest = dict(options)
    noise = np.full((1, *size), rest.pop("variance"), np.float32)
    return image, graph.edge_weights(feat, noise, patch=patch, **rest)


@FEW
@given(SEEDS, st.tuples(st.integers(8, 14), st.integers(8, 14)), GRAPHS, st.sampled_from([1, 3, 5]))
def test_rows_of_the_walk_are_chances(seed, size, options, patch):
    _, weights = weights_of(seed, size, options, patch)
    walk = graph.random_walk(weights)
    assert walk.min() >= 0
    np.testing.assert_allclose(walk.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(
        dense(walk, options["radius"]).sum(1), 1, atol=1e-5
    )  # no edge leaves the image


@FEW
@given(
    SEEDS,
    GRAPHS,
    st.sampled_from([("step", 0.3), ("step", 1.0), ("heat", 1.7), ("resolvent", 3.0)]),
)
def test_the_balanced_operator_is_symmetric_stochastic_and_lowers_the_energy(seed, options, how):
    image, weights = weights_of(seed, (8, 9), options)
    walk = graph.sinkhorn(weights, options["radius"], rounds=80)
    matrix = dense(walk, options["radius"])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), 1, atol=5e-3)
    kind, tau = how
    after = graph.diffuse(walk, image, options["radius"], tau, kind)

    def energy(x):  # sum of W_ij (x_i - x_j)^2 / 2, which is x' (D - W) x
        flat = x[0].reshape(3, -1).T.astype(float)
        return np.sum(flat * (np.diag(matrix.sum(1)) @ flat - matrix @ flat))

    assert energy(after) <= energy(image) * (1 + 1e-4) + 1e-6
    assert after.mean() == pytest.approx(image.mean(), rel=5e-3)  # grey is neither made nor lost


@FEW
@given(
    SEEDS,
    st.integers(1, 5),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.floats(0.02, 2),
)
def test_no_em_step_lowers_the_likelihood_on_random_data(seed, components, rank, sigma, spread):
    rng = np.random.default_rng(seed)
    centres = spread * rng.standard_normal((components, 8))
    patches = centres[rng.integers(components, size=120)] + 0.1 * rng.standard_normal((120, 8))
    prior, history = em.fit_prior(patches, components, rank, 6, seed=seed % 1000, sigma=sigma)
    assert np.isfinite(history).all()
    assert (np.diff(history) > -1e-4 * np.maximum(1, np.abs(history[1:]))).all(), history
    assert prior.weights.sum() == pytest.approx(1, abs=1e-4) and prior.weights.min() >= 0
