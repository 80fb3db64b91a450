"""The announced mixture: its size piece by piece, its mathematics against a slow reference, its training loop."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_mixture import Reference, gradient_pairs

from lib.common.params import UserError
from lib.mixture import announced, denoiser, run, training
from lib.mixture.announced import (
    Announced,
    MixtureAttention,
    Routing,
    attend,
    balance_loss,
    keep_largest,
    replace_gates,
)

TINY = training.TrainConfig(images=12, steps=6, batch=4, log_every=1, val_every=4, save_every=2)


def images(n, seed=0, size=32):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def pair(n=2):
    clean = images(n, 1).astype(np.float32) / 255
    return clean, np.clip(
        clean + 0.2 * np.random.default_rng(2).standard_normal(clean.shape), 0, 1
    ).astype("f4")


def train(config=TINY, **options):
    return training.fit(config, images(config.images), *pair(), **options)


def tokens(n=12, seed=0):
    return torch.randn(2, n, 16, generator=torch.Generator().manual_seed(seed))


def mixture(keep=(3, 8, 64), width=16):
    torch.manual_seed(0)
    return MixtureAttention(width, 4, keep)


# parameters


@pytest.mark.parametrize(
    "piece, count",
    [
        ("", 599_689),
        ("embed", 6_272),
        ("positions", 8_192),
        ("blocks.0.mixture", 223_107),
        ("blocks.1.mixture.router", 8_451),
        ("blocks.1.mixture.experts", 198_144),
        ("blocks.1.mixture.merge", 16_512),
        ("blocks.1.ffn", 65_920),
        ("blocks.0.norm", 512),
        ("unembed", 6_147),
    ],
)
def test_each_piece_has_the_announced_number_of_parameters(piece, count):
    network = denoiser.build("announced", 0)
    assert (
        sum(p.numel() for name, p in network.named_parameters() if name.startswith(piece)) == count
    )


# mathematics


@pytest.mark.parametrize("n", [6, 12])  # one and two sparse experts
def test_mixture_equals_the_slow_reference_in_value_and_gradient(n):
    fast = mixture()
    slow = Reference(fast)
    x = tokens(n).requires_grad_()
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for network in (fast, slow):
        x.grad = None
        fast.zero_grad()
        out, gates = network(x)
        (out - target).square().sum().backward()
        shared = [p.grad.clone() for p in [*fast.router.parameters(), *fast.merge.parameters()]]
        results.append([out, gates, x.grad.clone(), *shared])
    for a, b in [*zip(*results, strict=True), *_expert_gradients(fast, slow, x, target)]:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def _expert_gradients(fast, slow, x, target):
    for network in (fast, slow):
        network.zero_grad()
        (network(x)[0] - target).square().sum().backward()
        if network is fast:
            kept = {name: p.grad.clone() for name, p in fast.experts.named_parameters()}
    for name, p in fast.experts.named_parameters():
        p.grad = kept[name]
    return gradient_pairs(fast, slow)


def test_keeping_all_keys_is_dense_attention():
    q, k, v = torch.randn(3, 2, 4, 8, 5, generator=torch.Generator().manual_seed(0))
    dense = ((q @ k.mT) / math.sqrt(5)).softmax(-1) @ v
    for keep in (8, 9, 64):
        torch.testing.assert_close(attend(q, k, v, keep), dense, atol=1e-6, rtol=1e-5)
    assert (attend(q, k, v, 7) - dense).abs().max() > 1e-4


@pytest.mark.parametrize("k", [1, 3, 7])
def test_exactly_k_keys_are_kept_even_when_scores_tie(k):
    scores = torch.randint(0, 3, (4, 5, 8), generator=torch.Generator().manual_seed(0)).float()
    kept = keep_largest(scores, k)
    assert (kept.sum(-1) == k).all()
    assert (scores.masked_fill(~kept, 9).amin(-1) >= scores.masked_fill(kept, -9).amax(-1)).all()


def test_gates_sum_to_one_and_replacements_do_what_they_say():
    gates = mixture()(tokens())[1]
    generator = torch.Generator().manual_seed(0)
    for how in ("learned", "uniform", "hard", "shuffled"):
        torch.testing.assert_close(
            replace_gates(gates, Routing(how, generator)).sum(-1), torch.ones(2, 12)
        )
    assert (replace_gates(gates, Routing("uniform")) == 1 / 3).all()
    hard = replace_gates(gates, Routing("hard"))
    assert (hard.argmax(-1) == gates.argmax(-1)).all() and set(hard.unique().tolist()) == {0.0, 1.0}
    shuffled = replace_gates(gates, Routing("shuffled", generator))
    assert not torch.equal(shuffled, gates)
    assert torch.equal(shuffled.sort(1).values, gates.sort(1).values)


def test_a_wrong_routing_is_refused():
    with pytest.raises(ValueError, match="learned, uniform, shuffled, hard"):
        mixture()(tokens(), Routing("top1"))
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        mixture()(tokens(), Routing("shuffled"))


def test_balance_term_is_zero_for_uniform_gates_and_grows_with_imbalance():
    even = torch.full((2, 4, 3), 1 / 3)
    assert balance_loss([even]).abs() < 1e-6

    shares = (0.6, 0.3, 0.1)
    tilted = torch.tensor(shares).expand(2, 4, 3)
    divergence = sum(math.log(1 / 3 / share) for share in shares) / 3
    expected = divergence / 3  # by the experts once more, as announced; the even block adds nothing
    assert balance_loss([tilted, even]).item() == pytest.approx(expected, rel=1e-5)


# network


def test_clamp_in_training_is_a_switch_and_always_holds_at_evaluation():
    noisy = torch.from_numpy(pair()[1])
    for arm, inside in (("announced", True), ("announced_unclamped", False)):
        network = denoiser.build(arm, 0)
        training_output, evaluated = network.train()(noisy)[0], network.eval()(noisy)[0]
        assert (0 <= evaluated).all() and (evaluated <= 1).all()
        assert bool(((0 <= training_output) & (training_output <= 1)).all()) is inside


def test_another_image_size_is_refused():
    with pytest.raises(ValueError, match=r"expected \(B, 3, 32, 32\)"):
        Announced()(torch.zeros(1, 3, 16, 16))


def test_denoise_does_not_depend_on_the_batch_and_leaves_the_mode():
    network, noisy = denoiser.build("announced", 0).train(), torch.from_numpy(pair(3)[1])
    torch.testing.assert_close(
        denoiser.denoise(network, noisy, batch=2), denoiser.denoise(network, noisy, batch=3)
    )
    assert network.training


def test_gate_statistics_of_a_uniform_router():
    network = denoiser.build("announced", 0)
    for block in network.blocks:
        torch.nn.init.zeros_(block.mixture.router[2].weight)
        torch.nn.init.zeros_(block.mixture.router[2].bias)
    for row in announced.gate_statistics(network, torch.from_numpy(pair()[1])):
        assert row["mean"] == pytest.approx([1 / 3] * 3) and row["entropy"] == pytest.approx(
            100, abs=1e-3
        )


def test_dead_outputs_counts_the_units_that_are_always_outside():
    network = denoiser.build("announced", 0)
    torch.nn.init.zeros_(network.unembed.weight)
    noisy = torch.from_numpy(pair()[1])
    for bias, dead in (([0.5, 0.5, 0.5], 0), ([-0.1, 0.5, 0.5], 16), ([-0.1, 1.1, 0.5], 32)):
        network.unembed.bias.data = torch.tensor(bias)
        assert announced.dead_outputs(network, noisy) == dead


# training


def test_same_seeds_give_the_same_bits_and_each_seed_changes_the_result():
    def weights(**seeds):
        return train(dataclasses.replace(TINY, steps=2, **seeds))[0].state_dict()

    first = weights()
    assert all(torch.equal(a, b) for a, b in zip(first.values(), weights().values(), strict=True))
    for name in ("init_seed", "order_seed", "noise_seed"):
        assert not torch.equal(first["embed.weight"], weights(**{name: 1})["embed.weight"]), name


def test_building_a_network_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    denoiser.build("announced", 3)
    assert torch.equal(before, torch.random.get_rng_state())


class Interrupted(Exception):
    pass


def stop_after(monkeypatch, step):
    advance = training.Run.advance

    def stopping(run):
        if run.step == step:
            raise Interrupted
        return advance(run)

    monkeypatch.setattr(training.Run, "advance", stopping)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    whole, record = train(log=tmp_path / "whole.jsonl")
    kept = {
        "checkpoint": tmp_path / "run.safetensors",
        "log": tmp_path / "log.jsonl",
        "resume": True,
    }
    with monkeypatch.context() as patch:
        stop_after(patch, 5)  # the checkpoint is of step 4, in the middle of the second epoch
        with pytest.raises(Interrupted):
            train(**kept)
    resumed, again = train(**kept)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert again == record
    assert (tmp_path / "log.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not kept["checkpoint"].exists()


@pytest.mark.fault(
    "a loss that diverges (PyTorch)",
    "one line that names step and checkpoint, which is of a good state",
)
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    calls = iter(range(100))
    monkeypatch.setattr(
        run, "balance_loss", lambda *a: balance_loss(*a) * (math.nan if next(calls) == 4 else 1)
    )
    path = tmp_path / "run.safetensors"
    with pytest.raises(training.Diverged, match=r"announced: step 5: loss nan.*run\.safetensors"):
        train(checkpoint=path)
    tensors, about = denoiser.load_tensors(path)
    assert about["step"] == 4
    assert all(
        tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("model/")
    )


@pytest.mark.fault(
    "a checkpoint of another configuration (PyTorch)", "one line that names both; the file stays"
)
def test_a_checkpoint_of_another_configuration_is_refused_naming_both(tmp_path):
    path = tmp_path / "run.safetensors"
    training.save_checkpoint(training.Run(TINY, images(12), torch.device("cpu")), path)
    other = dataclasses.replace(TINY, learning_rate=2e-3)
    with pytest.raises(UserError, match=r"'learning_rate': 0\.001.*'learning_rate': 0\.002"):
        train(other, checkpoint=path, resume=True)
    assert path.exists()


@pytest.mark.fault(
    "weights of another arm, no weights, none at all", "one line that names both arms or the file"
)
def test_weights_of_another_arm_or_no_weights_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    network = denoiser.build("announced", 0)
    denoiser.save_tensors(path, network.state_dict(), {"arm": "announced"})
    loaded = denoiser.load_weights(path, "announced")
    assert torch.equal(loaded.embed.weight, network.embed.weight) and not loaded.training
    with pytest.raises(UserError, match=r"'announced'.*'announced_unclamped'"):
        denoiser.load_weights(path, "announced_unclamped")
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="no weights of this project"):
        denoiser.load_weights(path)
    with pytest.raises(UserError, match="not found"):
        denoiser.load_weights(tmp_path / "absent.safetensors")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    denoiser.save_tensors(path, {"a": torch.ones(3)}, {"arm": "x"})
    before, write = path.read_bytes(), Path.write_bytes

    def half(self, content):
        write(self, content[: len(content) // 2])
        raise Interrupted

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(Interrupted):
        denoiser.save_tensors(path, {"a": torch.zeros(3)}, {"arm": "x"})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_wrong_images_and_a_missing_gpu_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \(12, 3, H, W\), found float32"):
        training.Run(TINY, images(12).astype(np.float32), torch.device("cpu"))
    with pytest.raises(ValueError, match="allowed are 1 to 12"):
        training.Run(dataclasses.replace(TINY, batch=17), images(12), torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            training.pick_device("cuda")


def test_rate_follows_half_a_cosine_per_epoch():
    run = training.Run(dataclasses.replace(TINY, steps=8), images(12), torch.device("cpu"))
    rates = [run.advance()["lr"] for _ in range(8)]
    assert rates == pytest.approx([1e-3] * 3 + [7.5e-4] * 3 + [2.5e-4] * 2)


def test_log_lines_hold_what_they_promise(tmp_path):
    train(log=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "val_psnr" in line] == [4, 6]
    assert all(sum(gates) == pytest.approx(1) for line in lines for gates in line["gates"])
