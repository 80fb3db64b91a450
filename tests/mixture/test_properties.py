"""Properties of windows and their router that hold for any input that hypothesis draws."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.mixture.announced import Routing
from lib.mixture.windows import WindowRouter, from_windows, to_windows

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)


@FEW
@given(
    SEEDS,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_windows_come_back(seed, batch, channels, rows, columns, t):
    image = torch.randn(
        batch, channels, rows * t, columns * t, generator=torch.Generator().manual_seed(seed)
    )
    windows = to_windows(image, t)
    assert windows.shape == (batch, rows * columns, t * t, channels)
    assert torch.equal(from_windows(windows, t, rows * t, columns * t), image)


@FEW
@given(
    SEEDS,
    st.integers(1, 40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["learned", "random", "fixed"]),
)
def test_every_window_has_one_expert_and_capacities_are_exact(seed, m, share_global, part, how):
    share_local = (1 - share_global) * part
    generator = torch.Generator().manual_seed(seed)
    router = WindowRouter(8, share_global, share_local)
    with torch.no_grad():
        for values in router.score.parameters():
            values.copy_(torch.randn(values.shape, generator=generator))
    windows = torch.randn(2, m, 4, 8, generator=generator)
    order, gates, first, second = router(windows, Routing(how, generator))
    assert torch.equal(
        order.sort(1).values, torch.arange(m).expand(2, m)
    )  # each window stands in one place
    assert (first, second) == (round(m * share_global), round(m * (share_global + share_local)))
    assert 0 <= first <= second <= m and torch.equal(gates, torch.ones(2, m))
