"""lib/mixture/attentive.py and symmetry.py: sizes, levels, attention in both forms, orientations, training."""

import numpy as np
import pytest
import torch

from lib.mixture import attentive, denoiser, symmetry
from lib.mixture.run import Run, TrainConfig

MOST = 599_689  # parameters of the announced network


def awake(network):
    """A network whose zero-initialised weights are drawn, so that every part has a say."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.abs().sum():
                parameter.normal_(0, 0.1, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return awake(denoiser.build("attentive", 0))


def pictures(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


# --- size, levels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["attentive", "residual"])
def test_neither_network_has_more_parameters_than_announced(arm):
    assert 0.9 * MOST < denoiser.parameters(denoiser.build(arm, 0)) <= MOST


def test_the_control_attends_nowhere():
    kinds = {type(module) for module in denoiser.build("residual", 0).modules()}
    assert attentive.AttentionBlock not in kinds


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (5, 7), (50, 70), (96, 33)])
def test_any_size_goes_in_and_comes_out_within_the_range_of_pixels(network, size):
    noisy = pictures(1, 3, *size)
    with torch.no_grad():
        image, gates = network(noisy, torch.full((1,), 0.2))
    assert image.shape == noisy.shape and gates == []
    assert image.min() >= 0 and image.max() <= 1


def test_in_training_nothing_is_clamped():
    network = awake(denoiser.build("attentive", 0)).train()
    image, _ = network(pictures(4, 3, 32, 32), torch.full((4,), 0.5))
    assert image.min() < 0 or image.max() > 1


def test_a_uniform_map_is_the_same_as_one_number(network):
    noisy = pictures(2, 3, 48, 32)
    numbers = torch.tensor([0.1, 0.3])
    maps = numbers[:, None, None, None].expand(2, 1, 48, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(noisy, numbers)[0], network(noisy, maps)[0])


def test_another_level_is_another_image_and_each_image_has_its_own(network):
    noisy = pictures(1, 3, 32, 32).expand(2, 3, 32, 32)
    with torch.no_grad():
        image, _ = network(noisy, torch.tensor([0.1, 0.3]))
        alone, _ = network(noisy[:1], torch.tensor([0.1]))
    assert (image[0] - image[1]).abs().max() > 1e-3
    torch.testing.assert_close(image[:1], alone)


def test_without_noise_to_remove_the_picture_stays(network):
    noisy = pictures(1, 3, 32, 32)
    with torch.no_grad():
        image, _ = network(noisy, torch.full((1,), 1e-6))
    torch.testing.assert_close(image, noisy, atol=1e-4, rtol=0)


def test_a_map_acts_where_it_changes(network):
    noisy = pictures(1, 3, 128, 128)
    even = torch.full((1, 1, 128, 128), 0.1)
    changed = even.clone()
    changed[..., :32, :32] = 0.4
    with torch.no_grad():
        moved = (network(noisy, even)[0] - network(noisy, changed)[0]).abs().amax(1)[0]
    assert moved[:32, :32].mean() > 5 * moved[96:, 96:].mean()


# --- attention -------------------------------------------------------------------------------------------------------


def test_attending_to_all_windows_equals_attending_to_chosen_ones(network):
    block = network.middle[0]
    torch.nn.init.normal_(block.attention.bias, std=1.0)
    tokens = pictures(2, 4, 16, 96)
    own = torch.arange(4).expand(2, 4)
    with torch.no_grad():
        chosen = block.attention(tokens, tokens, own, 2)
        torch.testing.assert_close(block.attend_to_all(tokens, 2), chosen, atol=1e-5, rtol=1e-5)


def test_the_bias_is_that_of_the_place_of_the_other_token(network):
    layer = network.middle[0].attention
    with torch.no_grad():
        bias = attentive.dense_bias(layer, 4, 2)  # (H, 64, 64)
    side = 4 * attentive.WINDOW - 1

    def place(token):
        window, inside = divmod(token, 16)
        return 4 * (window // 2) + inside // 4, 4 * (window % 2) + inside % 4

    for own, other in ((0, 0), (0, 63), (63, 0), (5, 40), (17, 30)):
        (row, column), (other_row, other_column) = place(own), place(other)
        down, right = other_row - row, other_column - column
        wanted = layer.bias[:, (down + side // 2) * side + right + side // 2]
        torch.testing.assert_close(bias[:, own, other], wanted)


def test_attention_reaches_the_whole_image_of_32_pixels(network):
    x = pictures(1, 96, 8, 8)
    changed = x.clone()
    changed[..., 7, 7] += 5
    block = network.middle[0]
    with torch.no_grad():
        moved = (block(x, None) - block(changed, None)).abs().amax(1)[0]
    assert (moved > 1e-7).all()


def test_on_a_photograph_a_window_sees_four_windows_and_no_more(network):
    x = pictures(1, 96, 32, 32)
    block = network.middle[0]
    with torch.no_grad():
        before = block(x, None)
        seen = 0
        for row in range(0, 32, 4):
            for column in range(0, 32, 4):
                changed = x.clone()
                changed[:, 0, row, column] += 0.02  # too little to change which are chosen
                moved = (block(changed, None) - before).abs().amax(1)[0, :4, :4].max()
                seen += bool(moved > 1e-7)
    assert seen == 1 + attentive.REACH


# --- orientations ----------------------------------------------------------------------------------------------------


def test_eight_orientations_differ_and_can_be_undone():
    images = pictures(2, 3, 6, 6)
    found = [symmetry.orient(images, number) for number in range(symmetry.COUNT)]
    for number, image in enumerate(found):
        assert torch.equal(symmetry.restore(image, number), images)
        assert not any(torch.equal(image, other) for other in found[:number])
    assert symmetry.orient(pictures(1, 3, 4, 6), 4).shape == (1, 3, 6, 4)


def test_the_average_over_orientations_does_not_depend_on_the_orientation(network):
    images = pictures(1, 3, 32, 32)

    def once(noisy):
        return denoiser.denoise(network, noisy, 0.2)

    averaged = symmetry.self_ensemble(once, images)
    for number in (1, 2, 4, 7):
        turned = symmetry.self_ensemble(once, symmetry.orient(images, number))
        back = symmetry.restore(turned, number)
        torch.testing.assert_close(back, averaged, atol=1e-5, rtol=0)
    assert (averaged - once(images)).abs().max() > 1e-4


# --- training --------------------------------------------------------------------------------------------------------


def test_a_training_lowers_the_error_below_that_of_the_noisy_images():
    generator = np.random.default_rng(0)
    smooth = generator.integers(0, 256, (64, 3, 2, 2), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
    config = TrainConfig(
        arm="attentive", images=64, steps=60, batch=16, learning_rate=2e-3, balance=0.0,
        schedule="trapezoid", muon=0.02, logarithm=True,
    )  # fmt: skip
    run = Run(config, smooth, torch.device("cpu"))
    errors = [run.advance()["mse"] for _ in range(config.steps)]
    assert np.mean(errors[-5:]) < 0.6 * errors[0]
    moved = dict(run.model.named_parameters())
    start = dict(denoiser.build("attentive", 0).named_parameters())
    still = [name for name, value in moved.items() if torch.equal(value, start[name])]
    assert still == []


def test_muon_trains_what_lies_between_the_first_and_the_last_layer():
    network = denoiser.build("attentive", 0)
    taken = {id(weight) for weight in denoiser.hidden_weights(network)}
    names = {name for name, value in network.named_parameters() if id(value) in taken}
    assert "middle.0.attention.q.weight" in names and "before.0.first.weight" in names
    assert not any(part in name for name in names for part in ("stem", "head", "film", "level"))
