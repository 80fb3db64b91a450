"""Our mixture in the six announced layers of tests; test_announced.py holds those of the announced network.

Every test here and there fails under at least one of the mutations that tests/mutations.py applies.
"""

import dataclasses
import functools
import math
import time

import numpy as np
import pytest
import torch
from reference_mixture import masked_dense, slow_routed

from lib.common import params
from lib.mixture import denoiser, training
from lib.mixture.announced import Routing
from lib.mixture.network import Trunk, pad
from lib.mixture.run import Run, TrainConfig, load_checkpoint, save_checkpoint
from lib.mixture.windows import (
    RoutedBlock,
    WindowAttention,
    WindowRouter,
    attend,
    block_attention,
    choose_blocks,
    direction,
    from_windows,
    take,
    to_windows,
)

RECIPE = TrainConfig(
    arm="ours", images=12, steps=6, batch=4, log_every=1, val_every=4, save_every=2, balance=0.0, muon=0.02,
    schedule="trapezoid", average=0.9, varied=0.5, flips=True,
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(module, seed=0):
    """The module with its zero-initialised parts set to something, so that all of it shows in the output."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2, generator=seeded(seed))
    return module


def routed_block(**options):
    torch.manual_seed(0)
    return awake(RoutedBlock(8, 2, t=2, **options))


def trunk(routed=True):
    torch.manual_seed(0)
    return awake(Trunk(routed, width=8))


@pytest.fixture
def narrow(monkeypatch):
    """The arms with networks of a sixth of their width, so that a training takes a moment."""
    for name in ("ours", "ours_committed"):
        arm = denoiser.ARMS[name]
        small = arm._replace(
            network=lambda network=arm.network: Trunk(len(network().after) == 4, width=8)
        )
        monkeypatch.setitem(denoiser.ARMS, name, small)


def blocks(b=2, m=6, t=4, c=8, seed=0, grad=False):
    return [
        x.requires_grad_(grad) for x in torch.randn(3, b, m, t, c, generator=seeded(seed)).unbind()
    ]


def everyone(b, m):
    return torch.arange(m).expand(b, m)


# 1. shapes and gradients


def test_windows_hold_neighbouring_tokens_and_come_back():
    image = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    windows = to_windows(image, 2)
    assert windows.shape == (2, 6, 4, 3)
    assert torch.equal(windows[1, 4, :, 2], image[1, 2, 2:4, 2:4].flatten())
    assert torch.equal(from_windows(windows, 2, 4, 6), image)


def test_an_image_that_does_not_fit_its_windows_is_refused():
    with pytest.raises(ValueError, match="4 x 5; both must be multiples of the window, 2"):
        to_windows(torch.zeros(1, 3, 4, 5), 2)


def test_our_denoiser_has_at_most_the_announced_number_of_parameters():
    ours, control = (denoiser.parameters(denoiser.build(arm, 0)) for arm in ("ours", "unet"))
    assert ours <= 599_689 and control <= 599_689
    assert ours <= control < 1.04 * ours  # the control has a little more


@pytest.mark.parametrize("h, w", [(32, 32), (16, 48), (33, 17), (7, 5), (1, 1)])
def test_any_size_of_image_comes_back_in_its_size(h, w):
    out = denoiser.denoise(trunk(), torch.rand(1, 3, h, w, generator=seeded()))
    assert out.shape == (1, 3, h, w) and out.isfinite().all()


def test_padding_reflects_and_repeats_only_where_it_must():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)

    reflected = pad(image, 5)  # (1, 1, 5, 5)
    new_column = reflected[0, 0, :, 4]
    assert torch.equal(new_column, torch.tensor([2.0, 6, 10, 6, 2]))

    one_row = image[:, :, :1]  # too small to reflect: repeated
    assert pad(one_row, 4).shape == (1, 1, 4, 4)

    square = image[..., :3]  # 3 x 3 needs nothing
    assert torch.equal(pad(square, 3), square)


def test_padding_does_not_change_what_needs_none():
    network, image = trunk(), torch.rand(1, 3, 32, 32, generator=seeded())
    whole = denoiser.denoise(network, image)
    with torch.no_grad():
        sigma = torch.tensor([0.2])
        assert torch.equal(network.eval()(image, sigma)[0], whole)


def test_the_gradient_reaches_every_parameter():
    network = trunk().train()
    out = network(torch.rand(4, 3, 32, 32, generator=seeded()), torch.full((4,), 0.2))[0]
    out.square().sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_the_gradient_of_block_attention_is_that_of_the_masked_reference():
    fast, slow = blocks(grad=True), blocks(grad=True)
    own, bias = everyone(2, 6), torch.randn(9, 2, 4, 4, generator=seeded(3))
    weight = torch.randn(2, 6, 4, 8, generator=seeded(4))
    (block_attention(*fast, own, 2, 2, bias, 3) * weight).sum().backward()
    chosen = choose_blocks(slow[0], slow[1], own, 2)
    (masked_dense(*slow, chosen, own, 2, bias, 3) * weight).sum().backward()
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


# 2. routing validity


def route(m=8, how="learned", shares=(0.5, 0.25), generator=None, seed=0):
    torch.manual_seed(seed)
    router = WindowRouter(8, *shares)
    windows = torch.randn(3, m, 4, 8, generator=seeded(5))
    return router, windows, *router(windows, Routing(how, generator))


@pytest.mark.parametrize(
    "m, first, second", [(4, 2, 3), (8, 4, 6), (16, 8, 12), (6, 3, 4), (1, 0, 1)]
)
def test_capacities_are_fixed_shares_of_the_windows(m, first, second):
    *_, got_first, got_second = route(m)
    assert (got_first, got_second) == (first, second)


def test_without_skipping_the_global_expert_takes_what_would_be_skipped():
    torch.manual_seed(0)
    windows = torch.randn(3, 8, 4, 8, generator=seeded(5))
    *_, first, second = WindowRouter(8, 0.5, 0.25)(windows, Routing(skip=False))
    assert (first, second) == (6, 8)


@pytest.mark.parametrize("how", ["learned", "random", "fixed", "all", "none"])
def test_every_window_has_exactly_one_expert(how):
    _, _, order, gates, first, second = route(how=how, generator=seeded())
    assert torch.equal(order.sort(1).values, everyone(3, 8))
    assert gates.shape == (3, 8) and 0 <= first <= second <= 8


def test_the_learned_order_gives_the_global_expert_the_highest_scores_and_the_local_one_the_next():
    router, windows, order, _, first, second = route()
    features = torch.cat([windows.mean(2), windows.abs().mean(2)], -1)
    probabilities = router.score(features).softmax(-1)
    for p, row in zip(probabilities, order, strict=True):
        taken, others = row[:first], row[first:]
        assert p[taken, 0].min() >= p[others, 0].max()
        assert p[row[first:second], 1].min() >= p[row[second:], 1].max()


def test_the_router_looks_at_the_mean_and_at_the_spread_of_a_window():
    router, windows, *_ = route()
    flat = windows.mean(2, keepdim=True).expand_as(windows)
    for other in (windows + 1, flat):
        score = [router(x, Routing())[0] for x in (windows, other)]
        assert not torch.equal(*score)


def test_the_gate_has_the_value_one_and_the_gradient_of_the_chosen_probability():
    router, windows, order, gates, first, _ = route()
    assert torch.equal(gates, torch.ones_like(gates))
    gates[0, 0].backward()
    got = router.score.bias.grad.clone()
    router.zero_grad()
    features = torch.cat([windows.mean(2), windows.abs().mean(2)], -1)
    router.score(features).softmax(-1)[0, order[0, 0], 0].backward()
    assert first > 0
    torch.testing.assert_close(got, router.score.bias.grad)


def test_random_routing_needs_a_generator_and_follows_it():
    with pytest.raises(ValueError, match=r"needs a torch\.Generator"):
        route(how="random")
    orders = [route(how="random", generator=seeded(s))[2] for s in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0][0], orders[0][1])


def test_fixed_routing_ignores_the_image_and_spreads_the_experts():
    order = route(16, "fixed")[2]
    assert torch.equal(order[0], order[1])
    quarters = order[0, :8] // 4
    assert quarters.bincount(minlength=4).min() >= 1


def test_an_unknown_plan_is_refused():
    with pytest.raises(ValueError, match="learned, random, fixed, all, none"):
        route(how="top1")


# 3. kernel correctness


@pytest.mark.parametrize("reach", [0, 1, 3, 5, 9])
def test_block_attention_equals_the_masked_dense_reference(reach):
    q, k, v = blocks()
    own, bias = everyone(2, 6), torch.randn(9, 2, 4, 4, generator=seeded(3))
    chosen = choose_blocks(q, k, own, reach)
    expected = masked_dense(q, k, v, chosen, own, 2, bias, 3)
    torch.testing.assert_close(
        block_attention(q, k, v, own, reach, 2, bias, 3), expected, atol=1e-5, rtol=1e-5
    )


def test_the_written_out_attention_of_bfloat16_equals_the_other():
    q, k, v = torch.randn(3, 2, 2, 4, 8, generator=seeded()).unbind()
    q_half, k_half, v_half = q.bfloat16(), k.bfloat16(), v.bfloat16()
    bias = torch.randn(2, 2, 4, 4, generator=seeded(1))

    with_bias = attend(q_half, k_half, v_half, bias.bfloat16())
    without = attend(q_half, k_half, v_half, None)

    assert with_bias.dtype == without.dtype == torch.bfloat16
    close = {"atol": 0.03, "rtol": 0.03}
    torch.testing.assert_close(with_bias.float(), attend(q, k, v, bias), **close)
    torch.testing.assert_close(without.float(), attend(q, k, v, None), **close)


def test_directions_of_blocks():
    middle = torch.full((1, 25), 12)  # of 5 x 5
    rows = direction(middle, everyone(1, 25), 5).reshape(5, 5)
    assert rows.tolist() == [
        [0, 0, 1, 2, 2],
        [0, 0, 1, 2, 2],
        [3, 3, 4, 5, 5],
        [6, 6, 7, 8, 8],
        [6, 6, 7, 8, 8],
    ]


def test_with_all_blocks_in_reach_it_is_dense_attention():
    q, k, v = blocks()
    heads = [x.reshape(2, 24, 2, 4).transpose(1, 2) for x in (q, k, v)]
    dense = (
        torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(q.shape)
    )
    torch.testing.assert_close(
        block_attention(q, k, v, everyone(2, 6), 5, 2), dense, atol=1e-5, rtol=1e-5
    )


def test_chosen_blocks_are_the_own_one_and_the_best_others():
    q, k, _ = blocks()
    own = torch.tensor([[3, 1], [0, 5]])
    queries = torch.stack([q[b, own[b]] for b in range(2)])
    chosen = choose_blocks(queries, k, own, 2)
    assert torch.equal(chosen[..., 0], own)
    scores = torch.einsum("bqc,bmc->bqm", queries.mean(2), k.mean(2))
    for b, row in enumerate(chosen):
        for i, some in enumerate(row):
            assert len(set(some.tolist())) == 3
            others = [m for m in range(6) if m not in some]
            assert scores[b, i, some[1:]].min() >= scores[b, i, others].max()


def test_queries_of_some_windows_only_give_the_same_as_all_of_them():
    q, k, v = blocks()
    own = torch.tensor([[4, 2], [1, 0]])
    some = torch.stack([q[b, own[b]] for b in range(2)])
    everything = block_attention(q, k, v, everyone(2, 6), 2, 2)
    expected = torch.stack([everything[b, own[b]] for b in range(2)])
    torch.testing.assert_close(
        block_attention(some, k, v, own, 2, 2), expected, atol=1e-6, rtol=1e-5
    )


def test_chunks_of_queries_change_nothing(monkeypatch):
    q, k, v = blocks()
    whole = block_attention(q, k, v, everyone(2, 6), 2, 2)
    monkeypatch.setattr("lib.mixture.windows.CHUNK", 4)
    torch.testing.assert_close(
        block_attention(q, k, v, everyone(2, 6), 2, 2), whole, atol=1e-6, rtol=1e-5
    )


def test_take_picks_windows_within_each_image():
    windows = blocks()[0]
    index = torch.tensor([[5, 0, 0], [2, 3, 1]])
    expected = torch.stack([windows[b, index[b]] for b in range(2)])
    assert torch.equal(take(windows, index), expected)


def test_the_bias_depends_on_the_relative_place_within_and_across_windows():
    expert = WindowAttention(8, 2, 3, 0)
    places = [(r, c) for r in range(3) for c in range(3)]
    seen = {}
    for towards, (down, right) in enumerate(places):
        for i, a in enumerate(places):
            for j, b in enumerate(places):
                apart = 3 * (down - 1) + b[0] - a[0], 3 * (right - 1) + b[1] - a[1]
                seen.setdefault(apart, set()).add(int(expert.offset[towards, i, j]))
    assert all(len(slots) == 1 for slots in seen.values())
    assert len({slot for slots in seen.values() for slot in slots}) == 121 == expert.bias.shape[1]


@pytest.mark.parametrize("how", ["learned", "fixed", "all"])
def test_the_routed_block_equals_its_slow_version_window_by_window(how):
    block, image = routed_block(reach=1), torch.randn(2, 8, 8, 4, generator=seeded(7))
    with torch.no_grad():
        windows = block.norm(to_windows(image, 2))
        order, _, first, second = block.router(windows, Routing(how))
        expected = from_windows(slow_routed(block, image, order, first, second), 2, 8, 4)
        got, expert = block(image, Routing(how))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    counts = [(expert == e).sum(1).tolist() for e in range(3)]
    assert counts == [[first] * 2, [second - first] * 2, [8 - second] * 2]


def test_skipped_windows_pass_unchanged_and_others_do_not():
    block, image = routed_block(), torch.randn(2, 8, 8, 8, generator=seeded(7))
    out, expert = block(image)
    change = (to_windows(out - image, 2)).abs().amax((2, 3))  # (B, M)
    assert (change[expert == 2] == 0).all() and (change[expert < 2] > 0).all()


def test_routing_none_is_the_identity():
    block, image = routed_block(), torch.randn(2, 8, 8, 8, generator=seeded(7))
    out, expert = block(image, Routing("none"))
    assert torch.equal(out, image) and (expert == 2).all()


# 4. performance, as ratios within this process


def fastest(function, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def long_sequence(tokens, t=64, c=128):
    return torch.randn(3, 1, tokens // t, t, c, generator=seeded()).unbind()


def dense_attention(q, k, v, heads=4):
    split = [x.reshape(1, -1, heads, x.shape[3] // heads).transpose(1, 2) for x in (q, k, v)]
    return torch.nn.functional.scaled_dot_product_attention(*split)


def sparse_attention(q, k, v):
    return block_attention(q, k, v, everyone(1, q.shape[1]), 2, 4)


def test_block_attention_is_faster_than_dense_attention_at_4096_tokens():
    q, k, v = long_sequence(4096)
    torch.set_num_threads(1)
    assert 3 * fastest(lambda: sparse_attention(q, k, v), 3) < fastest(
        lambda: dense_attention(q, k, v), 3
    )


def test_the_cost_of_block_attention_grows_about_linearly():
    torch.set_num_threads(1)
    short, long = (
        fastest(functools.partial(sparse_attention, *long_sequence(n))) for n in (2048, 8192)
    )
    assert (
        long < 9 * short
    )  # four times the tokens; dense attention would take sixteen times as long


def test_skipping_windows_saves_time():
    block, image = routed_block(), torch.randn(8, 8, 64, 64, generator=seeded())
    torch.set_num_threads(1)
    with torch.no_grad():
        times = {
            how: fastest(lambda how=how: block(image, Routing(how)))
            for how in ("all", "learned", "none")
        }
    assert times["none"] < times["learned"] < times["all"]


# 5. task level


def test_a_few_steps_on_one_batch_lower_the_error(monkeypatch):
    monkeypatch.setattr("lib.mixture.run.WARM_UP", 5)
    images = (
        np.random.default_rng(0)
        .integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
        .repeat(4, 2)
        .repeat(4, 3)
    )
    config = dataclasses.replace(RECIPE, images=4, steps=30, average=0.0, varied=0.0)
    run = Run(config, images, torch.device("cpu"))
    losses = [run.advance()["mse"] for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_prediction_is_noise_in_units_of_sigma_subtracted_from_the_input():
    network, noisy = trunk().train(), torch.rand(1, 3, 32, 32, generator=seeded())
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(network.head.bias, 0.5)
    out = network(noisy, torch.tensor([0.2]))[0]
    torch.testing.assert_close(out, noisy - 0.1)


def test_fine_features_pass_by_the_middle():
    network, noisy = trunk(), torch.rand(1, 3, 32, 32, generator=seeded())
    for parameter in network.up.parameters():
        torch.nn.init.zeros_(parameter)
    outs = []
    for scale in (1, 2):
        network.before[-1].second.weight.data.mul_(scale)
        outs.append(denoiser.denoise(network, noisy))
    assert (outs[0] - outs[1]).abs().max() > 1e-3


def test_the_noise_level_is_an_input():
    network, noisy = trunk(), torch.rand(1, 3, 32, 32, generator=seeded())
    change = [(denoiser.denoise(network, noisy, sigma) - noisy) / sigma for sigma in (0.1, 0.4)]
    assert (change[0] - change[1]).abs().max() > 1e-3


def test_nothing_is_clamped_in_training_and_everything_at_evaluation():
    network, noisy = trunk(), torch.rand(2, 3, 32, 32, generator=seeded()).round()
    sigma = torch.full((2,), 0.5)
    raw, final = network.train()(noisy, sigma)[0], network.eval()(noisy, sigma)[0]
    assert raw.min() < 0 or raw.max() > 1
    assert torch.equal(final, raw.clamp(0, 1))


def test_the_levels_of_noise_are_half_fixed_and_half_spread_over_the_range():
    config = dataclasses.replace(RECIPE, images=2000, batch=2000)
    sigma = Run(config, np.zeros((2000, 3, 32, 32), np.uint8), torch.device("cpu"))._sigmas()
    assert 0.45 < (sigma == 0.2).float().mean() < 0.55
    spread = sigma[sigma != 0.2]
    assert 0.05 <= spread.min() < 0.055 and 0.45 < spread.max() <= 0.5
    assert abs(spread.log().mean() - (math.log(0.05) + math.log(0.5)) / 2) < 0.1


# 6. ablation and stability


def fit(config=RECIPE, **options):
    images = np.random.default_rng(0).integers(0, 256, (config.images, 3, 32, 32), dtype=np.uint8)
    clean = images[:2].astype(np.float32) / 255
    return training.fit(config, images, clean, clean, **options)[0].state_dict()


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_our_training_resumes_bit_for_bit_with_averages_and_both_optimisers(
    narrow, tmp_path, monkeypatch
):
    whole, path = fit(), tmp_path / "run.safetensors"
    advance = Run.advance
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", lambda run: advance(run) if run.step < 5 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(checkpoint=path)
    assert equal(whole, fit(checkpoint=path, resume=True))


def test_two_threads_give_the_same_bits_twice(narrow):
    try:
        assert equal(fit(threads=2), fit(threads=2))
    finally:
        torch.set_num_threads(1)


def test_resuming_with_adamw_alone_keeps_its_sums_in_the_order_of_the_weights(tmp_path):
    config = dataclasses.replace(RECIPE, muon=0.0, average=0.0)
    runs = [Run(config, np.zeros((12, 3, 32, 32), np.uint8), torch.device("cpu")) for _ in "ab"]
    runs[0].advance()
    save_checkpoint(runs[0], tmp_path / "run.safetensors")
    load_checkpoint(runs[1], tmp_path / "run.safetensors")
    for run in runs:
        run.advance()
    assert equal(*(run.model.state_dict() for run in runs))


@pytest.mark.parametrize(
    "change", ["muon", "average", "flips", "varied", "bf16", "logarithm", "whole"]
)
def test_each_part_of_the_recipe_has_an_effect(narrow, change):
    other = {"flips": False, "bf16": True, "logarithm": True, "whole": 0.5}.get(change, 0.0)
    assert not equal(fit(), fit(dataclasses.replace(RECIPE, **{change: other})))


def test_windows_are_skipped_only_after_the_first_share_of_the_steps(narrow, monkeypatch):
    seen, forward = [], WindowRouter.forward
    monkeypatch.setattr(
        WindowRouter, "forward", lambda *args: seen.append(args[2].skip) or forward(*args)
    )
    run = Run(
        dataclasses.replace(RECIPE, whole=0.5),
        np.zeros((12, 3, 32, 32), np.uint8),
        torch.device("cpu"),
    )
    for _ in range(6):
        run.advance()
    assert seen == [False] * 6 + [True] * 6  # two blocks a step


def test_the_logarithmic_loss_is_the_mean_psnr():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    images[::2] = 0  # half of the noise is clipped here
    config = dataclasses.replace(RECIPE, logarithm=True, varied=0.0)
    one = Run(dataclasses.replace(config, batch=1), images, torch.device("cpu")).advance()
    assert one["loss"] == pytest.approx(0.01 * math.log(one["mse"] + 1e-5), rel=1e-5)
    all_of_them = Run(dataclasses.replace(config, batch=12), images, torch.device("cpu")).advance()
    assert all_of_them["loss"] < 0.01 * math.log(all_of_them["mse"] + 1e-5) - 1e-4


def test_an_arm_that_steps_faster_makes_more_steps():
    full = params.load("full")
    ours, control = (training.configure(full, arm, 0) for arm in ("ours", "unet"))
    assert control.steps == round(denoiser.ARMS["unet"].pace * ours.steps) > ours.steps


def test_arms_differ_by_their_routing_alone(narrow):
    ours, other = (denoiser.build(arm, 0).state_dict() for arm in ("ours", "ours_committed"))
    assert equal(ours, other)
    assert [denoiser.ARMS[arm].exploring for arm in ("ours", "ours_committed")] == [
        "random",
        "learned",
    ]
    assert [denoiser.ARMS[arm].routing for arm in ("ours", "ours_committed")] == [
        "learned",
        "learned",
    ]
    assert not equal(fit(), fit(dataclasses.replace(RECIPE, arm="ours_committed")))


@pytest.mark.parametrize("arm", ["ours", "ours_committed"])
def test_the_router_learns_from_routes_it_chose_and_from_random_ones(narrow, arm):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
    run = Run(dataclasses.replace(RECIPE, arm=arm), images, torch.device("cpu"))
    routers = [block.router.score.weight for block in run.model.middle]
    before = [weight.detach().clone() for weight in routers]
    for _ in range(
        3
    ):  # the experts begin as zero, so that the first step moves them and not the router
        run.advance()
    assert not any(torch.equal(old, new) for old, new in zip(before, routers, strict=True))


def test_a_validation_follows_the_router(narrow, monkeypatch):
    seen, denoise = [], denoiser.denoise
    monkeypatch.setattr(
        denoiser, "denoise", lambda *a, **b: seen.append(b["routing"].how) or denoise(*a, **b)
    )
    fit()
    assert set(seen) == {"learned"}


def test_the_schedule_rises_stays_and_falls_to_zero():
    config = dataclasses.replace(RECIPE, steps=500, cooling=0.5)
    rates = [config.rate(step) for step in range(500)]
    assert rates[0] == pytest.approx(1 / 50) and rates[49:251] == [1.0] * 202
    assert rates[375] == pytest.approx(0.5) and rates[-1] == pytest.approx(1 / 250)


def test_the_schedule_reaches_both_optimisers(monkeypatch):
    monkeypatch.setattr(TrainConfig, "rate", lambda config, step: 0.0)
    run = Run(
        RECIPE,
        np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8),
        torch.device("cpu"),
    )
    before = [p.detach().clone() for p in run.model.parameters()]
    run.advance()
    assert all(torch.equal(old, p) for old, p in zip(before, run.model.parameters(), strict=True))


@pytest.mark.parametrize("flips", [True, False])
def test_images_are_flipped_from_left_to_right_and_only_when_asked(flips):
    images = np.zeros((4, 3, 32, 32), np.uint8)
    images[..., 16:] = 255
    run = Run(dataclasses.replace(RECIPE, images=4, flips=flips), images, torch.device("cpu"))
    batches = [run._batch() for _ in range(16)]
    assert all(batch.shape == (4, 3, 32, 32) for batch in batches)
    bright_side = {bool(batch[..., :16].sum() < batch[..., 16:].sum()) for batch in batches}
    assert bright_side == ({True, False} if flips else {True})


def test_muon_trains_the_hidden_matrices_and_adamw_the_rest():
    run = Run(RECIPE, np.zeros((12, 3, 32, 32), np.uint8), torch.device("cpu"))
    names = {id(p): name for name, p in run.model.named_parameters()}
    hidden = {names[id(weight)] for weight, _ in run.flat}
    assert "before.0.first.weight" in hidden and "middle.1.far.kv.weight" in hidden
    assert not any(
        part in name
        for name in hidden
        for part in ("stem", "head", "level", "film", "router", "bias")
    )
    adam = run.optimisers[0][0].param_groups[0]["params"]
    assert len(adam) + len(hidden) == len(list(run.model.parameters()))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    for _ in range(2):
        run.advance()
    assert not torch.equal(before["before.0.first.weight"], run.model.before[0].first.weight)
    weight, matrix = next(pair for pair in run.flat if pair[0] is run.model.before[0].first.weight)
    rows = weight.grad.permute(0, 2, 3, 1).flatten(1)  # output by places and input channels
    assert torch.equal(matrix.grad, rows) and torch.equal(
        matrix, weight.permute(0, 2, 3, 1).flatten(1)
    )


def test_routing_changes_the_result_and_its_extremes_are_all_and_none():
    network, noisy = trunk().eval(), torch.rand(1, 3, 64, 64, generator=seeded())
    sigma = torch.tensor([0.2])
    with torch.no_grad():
        outs = {how: network(noisy, sigma, Routing(how)) for how in ("learned", "all", "none")}
    assert [int((outs[how][1][0] == 2).sum()) for how in ("learned", "all", "none")] == [4, 0, 16]
    assert not torch.equal(outs["learned"][0], outs["all"][0])
    assert not torch.equal(outs["learned"][0], outs["none"][0])
