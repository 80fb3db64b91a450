"""The loop with noisy images: gradients, the EM step, what differs between arms, and what may not be seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.common import data
from lib.diffusion import graph, loop, tokens

NOISE = 0.1


@pytest.fixture(scope="module")
def pairs():
    raw, _ = data.load_cifar("train")
    clean = (raw[:60] / 255).astype(np.float32)
    return loop.Pairs(clean, data.add_noise(clean, NOISE, 3))


@pytest.fixture(scope="module")
def initial(pairs):
    return tokens.start(tokens.to_loop(pairs.noisy), 0, rounds=2)


def network(initial):
    encoder, codes = initial
    return tokens.Loop("none", [part.clone() for part in encoder], codes, 0)


def test_the_gradient_of_a_walk_is_its_transpose(pairs):
    rng = np.random.default_rng(0)
    weights = rng.random((2, len(graph.stencil(2)), 9, 11)).astype(np.float32)
    images, other = rng.random((2, 2, 3, 9, 11)).astype(np.float32)
    seen = torch.from_numpy(images).requires_grad_()
    (loop.Walk.apply(seen, weights, 2) * torch.from_numpy(other)).sum().backward()
    forward = (graph.apply(weights, images, 2) * other).sum(dtype=float)
    assert float((seen.grad * seen).sum()) == pytest.approx(forward, rel=1e-4)
    assert np.array_equal(seen.grad.numpy(), graph.apply_transpose(weights, other, 2))


@pytest.mark.parametrize("arm", loop.RUNGS + loop.CONTROLS)
def test_every_arm_answers_and_its_decoder_learns(pairs, initial, arm):
    net = network(initial)
    part = loop.GraphPart(arm, NOISE, 0)
    decoded, *_ = loop.decode(net, pairs.noisy[:2])
    output = part(pairs.noisy[:2], decoded)
    assert output.shape == (2, 3, 32, 32) and torch.isfinite(output).all()
    if arm == "no tokens":
        assert not output.requires_grad
    else:
        output.square().sum().backward()
        assert net.decode.grad.abs().max() > 0


def test_arms_differ_where_they_should(pairs, initial):
    net = network(initial)
    with torch.no_grad():
        decoded, *_ = loop.decode(net, pairs.noisy[:2])
        outputs = {
            arm: loop.GraphPart(arm, NOISE, 0)(pairs.noisy[:2], decoded)
            for arm in loop.RUNGS + loop.CONTROLS
        }
    assert torch.equal(outputs["graph + EM"], outputs["graph + gradient"])  # until they learn
    torch.testing.assert_close(outputs["graph + EM + heads"], outputs["uniform heads"])
    for one, other in (
        ("tokens only", "graph"),
        ("graph", "graph + EM"),
        ("graph + EM", "uniform heads"),
        ("uniform heads", "random heads"),
        ("graph + EM", "no tokens"),
    ):
        assert (outputs[one] - outputs[other]).abs().max() > 1e-4, (one, other)
    with pytest.raises(ValueError, match="unknown arm"):
        loop.GraphPart("graph plus", NOISE, 0)


def test_an_em_step_never_raises_the_error_it_is_responsible_for(pairs, initial):
    net = network(initial)
    with torch.no_grad():
        decoded = loop.decode(net, pairs.noisy[:8])[0].numpy()
    part = loop.GraphPart("graph + EM", NOISE, 0)
    costs, likelihoods = [], []
    for _ in range(4):
        with torch.no_grad():
            output = part(pairs.noisy[:8], torch.from_numpy(decoded)).numpy()
        costs.append(((output - pairs.clean[:8]) ** 2).mean())
        likelihoods.append(part.em_step(pairs.clean[:8], pairs.noisy[:8], decoded))
    assert (np.diff(costs) <= 1e-7).all() and costs[-1] < 0.8 * costs[0]
    assert (np.diff(likelihoods[1:]) > -1e-4).all()


def test_every_parameter_changes_the_output(pairs, initial):
    noisy = pairs.noisy[:1]
    with torch.no_grad():
        answer = loop.decode(network(initial), noisy)[0].numpy()
    base = loop.Filter()
    others = {"sigma": 0.7, "sigma_f": 0.05, "sigma_s": 1.5, "radius": 3, "tau": 0.9, "rho": 0.1}

    def output(parameters):
        walk = loop.walk_of("texture", parameters, noisy, answer, None, NOISE)
        return loop.filtered(parameters, walk, noisy, answer)

    for name, value in others.items():
        changed = output(replace(base, **{name: value}))
        assert np.abs(changed - output(base)).max() > 1e-3, name


@pytest.mark.parametrize("arm", ["graph + EM", "graph + EM + heads"])
def test_training_repeats_and_no_clean_pixel_reaches_the_output(pairs, initial, arm):
    training = loop.Pairs(pairs.clean[:30], pairs.noisy[:30])
    judge = loop.Pairs(pairs.clean[30:34], pairs.noisy[30:34])
    runs = [
        loop.train(
            arm, training, judge, noise=NOISE, steps=2, seed=1, initial=initial, batch=4, at=(0, 2)
        )
        for _ in range(2)
    ]
    histories = [[row["mse"] for row in history] for _, _, history in runs]
    assert histories[0] == histories[1]
    net, part, _ = runs[0]
    with torch.no_grad():
        decoded, *_ = loop.decode(net, judge.noisy)
        output = part(judge.noisy, decoded)
    judged = loop.errors(net, part, judge)
    other = loop.Pairs(1 - judge.clean, judge.noisy)  # another target, the same input
    assert not np.array_equal(judged, loop.errors(net, part, other))
    with torch.no_grad():
        assert torch.equal(output, part(judge.noisy, loop.decode(net, judge.noisy)[0]))


def test_moved_parameters_stay_within_their_limits():
    for name, (low, high) in loop.LIMITS.items():
        assert getattr(loop.moved(loop.Filter(), name, 50.0), name) == pytest.approx(high)
        assert getattr(loop.moved(loop.Filter(), name, -50.0), name) == pytest.approx(low)
