"""Properties of the noise that hold for any input that hypothesis draws."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.common import data

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)


@FEW
@given(SEEDS, st.integers(0, 1000), st.sampled_from([0.0, 0.01, 0.2, 1.0]), st.booleans())
def test_noise_depends_on_seed_and_index_alone(seed, index, sigma, clamp):
    images = np.full((2, 3, 4, 4), 0.5, np.float32)
    both = data.add_noise(images, sigma, seed, indices=[index, index + 1], clamp=clamp)
    alone = data.add_noise(images[:1], sigma, seed, indices=[index + 1], clamp=clamp)
    assert np.array_equal(both[1:], alone)
    other = data.add_noise(images, sigma, seed + 1, indices=[index, index + 1], clamp=clamp)
    assert np.array_equal(both, other) == (sigma == 0)  # another seed, other numbers
