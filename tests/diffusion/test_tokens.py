"""The token loop: gradients reach every part, the codebook lives, the arms differ only where they should."""

import numpy as np
import pytest
import torch

from lib.common import data
from lib.diffusion import announced, tokens


@pytest.fixture(scope="module")
def images():
    raw, _ = data.load_cifar("train")
    return tokens.to_loop((raw[:40] / 255).astype(np.float32))


@pytest.fixture(scope="module")
def initial(images):
    return tokens.start(images, 0, rounds=2)


@pytest.mark.parametrize("arm", tokens.ARMS)
def test_gradients_reach_every_trained_part(images, initial, arm):
    loop = tokens.Loop(arm, [p.clone() for p in initial[0]], initial[1])
    torch.nn.init.normal_(loop.context[2].weight, std=0.01)
    output, made = loop(images[:4])
    loss = torch.nn.functional.mse_loss(tokens.enlarge(output), images[:4]) + made["commitment"]
    (loss + loop.heads.em(torch.nn.functional.avg_pool2d(images[:4], 2), *made["em"])).backward()
    used = {"none": set(), "graph": set(), "graph + EM": {"sigma_f", "sigma_s", "tau"}}.get(arm)
    for name, value in loop.named_parameters():
        if "heads" in name and used is not None and not any(word in name for word in used):
            continue
        if value.requires_grad:
            assert value.grad is not None and value.grad.abs().max() > 0, name


def test_arms_start_from_the_same_decoder_and_heads_matter(images, initial):
    outputs = {}
    for arm in tokens.ARMS:
        loop = tokens.Loop(arm, [p.clone() for p in initial[0]], initial[1])
        outputs[arm] = loop(images[:4])[0]
    assert torch.equal(outputs["graph"], outputs["graph + EM"])  # they differ in learning only
    assert torch.equal(outputs["uniform heads"], outputs["graph + EM + heads"])
    for a, b in (("none", "graph"), ("graph", "uniform heads"), ("uniform heads", "random heads")):
        assert (outputs[a] - outputs[b]).abs().max() > 1e-4


def test_training_repeats_and_learns(images, initial):
    runs = [
        tokens.train(
            "graph + EM + heads",
            images,
            images[:8],
            steps=4,
            seed=1,
            batch=8,
            every=2,
            initial=initial,
        )
        for _ in range(2)
    ]
    assert runs[0][1] == runs[1][1]
    start, end = runs[0][1][0], runs[0][1][-1]
    for name in ("sigma_f", "sigma_s", "tau", "noise"):
        assert start[name] != end[name], name


def test_dead_codes_restart():
    book = tokens.Codebook(torch.randn(tokens.CODES, 6) + 100)  # far from all data
    z, generator = torch.randn(700, 6), torch.Generator().manual_seed(0)
    for _ in range(250):
        book.update(z, book.nearest(z), generator)
    assert len(book.nearest(z).unique()) > 100
    out, _, _ = book(z.requires_grad_())
    out.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))  # straight through


def test_bad_input():
    with pytest.raises(ValueError, match="32 x 32"):
        tokens.to_loop(np.zeros((1, 3, 40, 40), np.float32))
    with pytest.raises(ValueError, match="unknown arm"):
        tokens.GraphHeads("graph plus")


def test_announced_rules():
    shares = announced.compute_attention_weights([0.8, 0.3, 0.6, 0.5])
    np.testing.assert_allclose(shares, [0.387, 0.142, 0.259, 0.212], atol=5e-4)
    image = np.random.default_rng(0).random((32, 32, 3))
    vectors, centres = announced.patches(image)
    features = announced.compute_patch_features(vectors, centres)
    assert features[0] == features[2] and features[3] == pytest.approx(0.7071, abs=1e-4)
    state = announced.ParameterLearning()
    for loss in np.linspace(1, 0, 60):
        state.update_global_params(loss, features)
    assert (state.sigma, state.tau) == (
        0.5,
        0.3,
    )  # any falling loss drives both to their upper bounds
    assert (state.radius, state.sigma_s, state.sigma_f) == (10, 10, 0.3) and len(
        state.loss_history
    ) == 60
    out, covered = announced.denoise(image)
    assert covered.mean() == pytest.approx(28**2 / 32**2)
    np.testing.assert_allclose(out[covered], image[covered], atol=1e-6)  # on noise it does nothing
