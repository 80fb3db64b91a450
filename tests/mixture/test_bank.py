"""The bank, its router, the allocation and the regions: the adaptive mixture in the six announced layers of tests."""

import functools
import itertools

import numpy as np
import pytest
import torch

from lib.common.params import UserError
from lib.mixture import adaptive, allocate, bank, denoiser, judge, levels, regions, router
from lib.mixture.bank import Member, Sides, Size
from lib.mixture.regions import Rectangle

SMALL, LARGE = Size(8, 0), Size(8, 1, attends=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@functools.cache
def member(size):
    """An untrained member none of whose weights is zero, so that every part acts."""
    torch.manual_seed(3)
    network = Member(size)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(0, 0.05)
    return network.eval()


def picture(height, width, seed=0):
    """A noisy image with a level that changes from place to place: (1, 3, H, W), (1, 1, H, W)."""
    noisy = torch.rand(1, 3, height, width, generator=seeded(seed))
    level = levels.log_uniform(torch.rand(1, 1, height, width, generator=seeded(seed + 1)))
    return noisy, level


# --- layer 1: shapes and gradients


def test_together_the_members_have_no_more_parameters_than_announced():
    total = sum(denoiser.parameters(denoiser.build(name, 0)) for name in bank.MEMBERS)
    total += denoiser.parameters(router.Router(len(bank.MEMBERS)))
    assert total == 480_312 + 5_447 <= 599_689


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("height, width", [(32, 32), (7, 50), (100, 33)])
def test_a_member_takes_any_size_and_a_number_or_a_map(size, height, width):
    noisy, _ = picture(height, width)
    number = torch.tensor([0.2])
    by_number, gates = member(size)(noisy, number)
    by_map, _ = member(size)(noisy, levels.uniform_map(number, height, width))
    assert by_number.shape == noisy.shape and gates == []
    assert torch.equal(by_number, by_map)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_every_weight_of_a_member_gets_a_gradient(size):
    noisy, level = picture(32, 64)
    network = member(size)
    network.zero_grad()
    network.train()(noisy, level)[0].square().mean().backward()
    network.eval()
    for name, weight in network.named_parameters():
        assert weight.grad.abs().sum() > 0, name


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    noisy, level = picture(64, 64)
    for size in (SMALL, LARGE):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            member(size)(noisy, level)
        counted = counter.get_total_flops() / 2
        if (
            size.attends
        ):  # torch does not count its attention on a CPU: 16 x 16 tokens, 48 keys, two products
            counted += 256 * 2 * 48 * 2 * size.width
        assert bank.operations(size, 64, 64) == pytest.approx(counted, rel=0.01)


# --- layer 2: the router and the allocation


def test_the_features_know_noise_from_texture():
    flat = torch.full((1, 3, 32, 32), 0.5)
    level = torch.full((1, 1, 32, 32), 0.1)
    noisy = flat + 0.1 * torch.randn(flat.shape, generator=seeded())
    found = dict(zip(router.FEATURES, router.features(noisy, level)[0, 0].tolist(), strict=True))
    assert found["excess at scale 1"] == pytest.approx(0, abs=0.1)  # the noise and nothing else
    assert found["level"] == pytest.approx(np.log(0.1), abs=1e-4)
    assert found["brightness"] == pytest.approx(0.5, abs=0.02)
    stripes = flat + 0.4 * torch.tensor([1.0, -1.0]).repeat(16)
    assert router.features(stripes, level)[0, 0, 0] > 2


def test_units_of_an_image_have_the_features_of_the_units_alone():
    noisy, level = picture(64, 96)
    together = router.features(noisy, level)  # (1, 6, F)
    assert together.shape == (1, 6, len(router.FEATURES))
    alone = router.features(noisy[..., 32:64, 64:], level[..., 32:64, 64:])
    plain = [router.FEATURES.index(name) for name in ("brightness", "clipped", "colour", "level")]
    torch.testing.assert_close(together[:, 5, plain], alone[:, 0, plain])
    torch.testing.assert_close(together[:, 5], alone[:, 0], rtol=0, atol=0.2)


def test_a_fitted_router_finds_what_decides():
    generator = seeded()
    found = torch.randn(600, len(router.FEATURES), generator=generator)
    errors = torch.stack([found[:, 3].exp(), torch.ones(600)], dim=1) * 0.01
    fitted = router.fit(found, errors, steps=400)
    with torch.no_grad():
        predicted = fitted(found)
    right = predicted.argmin(1) == errors.argmin(1)
    assert right.float().mean() > 0.95
    blind = router.fit(found, errors, seen=router.LEVEL, steps=400)
    with torch.no_grad():
        guessed = blind(found).argmin(1) == errors.argmin(1)
    assert guessed.float().mean() < 0.7
    told = router.fit(found, errors, seen=[3], steps=400)
    with torch.no_grad():
        known = told(found).argmin(1) == errors.argmin(1)
    assert known.float().mean() > 0.95  # the one number that decides is enough
    again = router.fit(found, errors, steps=400)
    with torch.no_grad():
        assert torch.equal(again(found), predicted)


def test_the_allocation_is_the_best_of_all_plans_within_the_budget():
    errors = torch.rand(5, 3, generator=seeded(4)).sort(dim=1, descending=True).values
    costs = torch.tensor([1.0, 2.0, 4.0])
    plan = allocate.allocate(errors, costs, 2.2)
    spent, error = costs[plan].mean(), errors.gather(1, plan[:, None]).sum()
    assert spent <= 2.2
    for other in itertools.product(range(3), repeat=5):
        rival = torch.tensor(other)
        if costs[rival].mean() <= spent:
            assert errors.gather(1, rival[:, None]).sum() >= error - 1e-6


def test_the_budget_is_met_and_more_budget_never_errs_more():
    errors = torch.rand(400, 4, generator=seeded(5))
    costs = torch.tensor([1.0, 1.7, 3.0, 5.0])
    before = torch.inf
    for budget in (1.0, 1.3, 2.0, 3.5, 5.0):
        plan = allocate.allocate(errors, costs, budget)
        assert costs[plan].mean() <= budget + 1e-6
        error = errors.gather(1, plan[:, None]).sum()
        assert error <= before + 1e-6
        before = error
    assert torch.equal(plan, errors.argmin(1))  # enough for everybody
    with pytest.raises(ValueError, match="below the cheapest"):
        allocate.allocate(errors, costs, 0.9)


# --- layer 3: regions are exact


@pytest.mark.parametrize("size", [SMALL, Size(8, 3), LARGE, Size(8, 4, attends=True)])
@pytest.mark.parametrize(
    "area",
    [
        Rectangle(0, 64, 64, 128, 192),
        Rectangle(0, 0, 64, 64, 128),
        Rectangle(0, 128, 128, 256, 256),
    ],
)
def test_a_region_equals_the_same_place_of_the_whole_image(size, area):
    noisy, level = picture(256, 256)
    with torch.no_grad():
        whole, _ = member(size)(noisy, level)
    alone = regions.compute([member(size)], noisy, level, [area])
    place = np.s_[:, :, area.top : area.bottom, area.left : area.right]
    torch.testing.assert_close(alone[place], whole[place], rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_narrower_halo_would_not_do(size, monkeypatch):
    noisy, level = picture(256, 256)
    area = Rectangle(0, 64, 64, 128, 128)
    right = regions.compute([member(size)], noisy, level, [area])[:, :, 64:128, 64:128]
    around = bank.halo(size)
    changed = noisy.clone()
    changed[:, :, 64 - around : 64 - around + 2, 64:128] += 0.3  # the outermost rows of the halo
    other = regions.compute([member(size)], changed, level, [area])[:, :, 64:128, 64:128]
    if (
        size.attends
    ):  # its spare rows complete windows, and whether they are looked at is up to the choice
        changed[:, :, 64 - around + 4 : 64, 64:128] += 0.3
        other = regions.compute([member(size)], changed, level, [area])[:, :, 64:128, 64:128]
    assert (other - right).abs().max() > 1e-6


def test_a_routed_photograph_has_each_members_own_result_in_its_cells():
    sizes = [SMALL, Size(8, 3), LARGE]
    members = [member(size) for size in sizes]
    noisy, level = picture(200, 330)
    padded, maps = bank.pad(noisy), bank.pad(level)
    plan = np.random.default_rng(0).integers(3, size=(3, 5))
    areas = regions.rectangles(plan, *padded.shape[2:])
    routed = regions.compute(members, padded, maps, areas)
    rows, columns = regions.edges(padded.shape[2]), regions.edges(padded.shape[3])
    with torch.no_grad():
        whole = [one(padded, maps)[0] for one in members]
    for r, s in np.ndindex(*plan.shape):
        place = np.s_[:, :, rows[r] : rows[r + 1], columns[s] : columns[s + 1]]
        torch.testing.assert_close(routed[place], whole[plan[r, s]][place], rtol=0, atol=2e-6)


@pytest.mark.parametrize("height, width", [(64, 64), (208, 336), (16, 500)])
def test_rectangles_cover_every_pixel_once_with_its_member(height, width):
    rows, columns = regions.edges(height), regions.edges(width)
    plan = np.random.default_rng(1).integers(2, size=(len(rows) - 1, len(columns) - 1))
    covered = np.full((height, width), -1)
    for area in regions.rectangles(plan, height, width):
        inside = covered[area.top : area.bottom, area.left : area.right]
        assert (inside == -1).all()
        inside[:] = area.member
    for r, s in np.ndindex(*plan.shape):
        cell = covered[rows[r] : rows[r + 1], columns[s] : columns[s + 1]]
        assert (cell == plan[r, s]).all()


def test_the_halo_is_paid():
    alone = bank.operations(LARGE, 64, 64)
    with_halo = bank.operations(LARGE, 64, 64, Sides(True, True, True, True))
    assert with_halo > 1.5 * alone
    areas = [Rectangle(0, 0, 0, 64, 64), Rectangle(0, 0, 64, 64, 128)]
    joined = regions.operations([Rectangle(0, 0, 0, 64, 128)], [LARGE], 64, 128)
    assert regions.operations(areas, [LARGE], 64, 128) > joined == 2 * alone


def test_a_plan_keeps_its_budget_halos_counted_and_beats_one_member_for_all():
    sizes = [SMALL, Size(8, 4)]
    height = width = 512
    errors = np.ones((8, 8, 2))
    errors[..., 1] = 0.9
    errors[2:6, 2:6] = (40.0, 20.0)  # where more operations help
    whole = bank.operations(sizes[1], height, width)
    plan = regions.plan_for(errors, sizes, height, width, 0.6 * whole)
    assert (
        regions.operations(regions.rectangles(plan, height, width), sizes, height, width)
        <= 0.6 * whole
    )
    assert plan[2:6, 2:6].all()
    nothing = regions.plan_for(errors, sizes, height, width, 0)
    assert not nothing.any()


# --- layer 5: the task, and the judge


def test_denoise_keeps_shape_and_meets_its_budget():
    members = [member(SMALL), member(LARGE)]
    mixture = adaptive.Mixture(members, router.Router(2).eval())
    for shape in ((5, 3, 32, 32), (1, 3, 20, 41), (2, 3, 150, 90)):
        noisy = torch.rand(shape, generator=seeded())
        for sigma in (None, 0.2, torch.full((shape[0], 1, *shape[2:]), 0.1)):
            clean = adaptive.denoise(mixture, noisy, sigma, budget=0.7)
            assert clean.shape == noisy.shape and 0 <= clean.min() <= clean.max() <= 1
    noisy = torch.rand(40, 3, 32, 32, generator=seeded())
    level = adaptive.levels_of(noisy, 0.2)
    costs = torch.tensor([bank.operations(size, 32, 32) for size in mixture.sizes]).double()
    for share in (0.3, 0.6, 1.0):
        plan = adaptive.plan_of_images(mixture, noisy, level, share)
        assert costs[plan].mean() <= max(share * costs[1], costs[0])


def test_a_bank_is_the_same_after_saving(tmp_path):
    mixture = adaptive.Mixture([member(SMALL), member(LARGE)], router.Router(2).eval())
    adaptive.save(tmp_path / "bank.safetensors", mixture, {"about": "test"})
    again = adaptive.load(tmp_path / "bank.safetensors")
    noisy, level = picture(150, 90)
    assert torch.equal(
        adaptive.denoise(again, noisy, level, 0.7), adaptive.denoise(mixture, noisy, level, 0.7)
    )
    denoiser.save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="holds no bank"):
        adaptive.load(tmp_path / "other.safetensors")


def test_the_level_is_found_place_by_place():
    clean = torch.full((1, 3, 128, 128), 0.5)
    level = torch.full((1, 1, 128, 128), 0.08)
    level[..., 64:] = 0.2
    noisy = clean + level * torch.randn(clean.shape, generator=seeded())
    found = levels.estimate_map(noisy)
    assert found.shape == level.shape
    assert found[..., :32].mean() == pytest.approx(0.08, rel=0.05)
    assert found[..., 96:].mean() == pytest.approx(0.2, rel=0.05)


def test_patches_and_smooth_maps_stay_in_range():
    patches = levels.patchy_map(300, 500, seeded())
    assert patches.shape == (1, 1, 300, 500)
    assert sorted(set(patches.flatten().tolist())) == pytest.approx([0.1, 0.4])
    smooth = levels.smooth_map(100, 140, seeded())
    assert smooth.min() == pytest.approx(levels.LOWEST) and smooth.max() == pytest.approx(
        levels.HIGHEST
    )
    ramps = levels.ramp_maps(torch.tensor([0.1, 0.3]), seeded(), 32, 32)
    assert ramps.shape == (2, 1, 32, 32)
    assert levels.LOWEST <= ramps.min() and ramps.max() <= levels.HIGHEST


def test_the_judge_pays_the_router_and_random_routes_have_the_same_shares():
    generator = seeded(6)
    found = torch.randn(500, len(router.FEATURES), generator=generator)
    errors = 0.01 * torch.stack([found[:, 3].exp(), torch.ones(500), 0.9 * torch.ones(500)], dim=1)
    sizes = [SMALL, Size(8, 2), Size(8, 4)]
    frontier = judge.Frontier(judge.decibels(errors.double().numpy()), judge.costs_of(sizes))
    fitted = judge.routers(found, errors, seed=0)
    budget = float(judge.costs_of(sizes)[1])
    judged = judge.judge_images(fitted, found, errors, sizes, frontier, budget)
    assert judged.spent <= budget
    spent = judge.costs_of(sizes)[judged.plan].mean() + router.operations(3)
    assert judged.spent == pytest.approx(spent)
    means = {rule: values.mean() for rule, values in judged.psnr.items()}
    assert means["oracle"] >= means["learned"] > means["random"] + 0.1
    assert means["learned"] > means["level"]
    shares = np.bincount(judged.plan, minlength=3) / 500
    assert means["random"] == pytest.approx((frontier.psnr @ shares).mean())


def test_the_frontier_goes_through_its_networks():
    psnr = np.array([[20.0, 24.0, 25.0], [22.0, 23.0, 26.0]])
    frontier = judge.Frontier(psnr, np.array([1e6, 4e6, 8e6]))
    np.testing.assert_allclose(frontier.at(4e6), psnr[:, 1])
    np.testing.assert_allclose(frontier.at(2e6), psnr[:, :2].mean(1))
    np.testing.assert_allclose(frontier.at(8e6), psnr[:, 2])
    assert judge.saved(24.0, 2e6, psnr[0], frontier.costs) == pytest.approx(0.5)
