"""lib/mixture/ranks.py: the command that trains an arm, on two processes joined by torchrun and on one."""

import contextlib

import processes
import pytest
import torch

from lib.common import params
from lib.common.params import UserError
from lib.mixture import denoiser, training
from lib.mixture.announced import Routing, balance_loss
from lib.mixture.ranks import Ranks, joined
from lib.mixture.windows import WindowRouter


@pytest.mark.parametrize("arm, images", [("announced", 320), ("ours", 80)])
def test_two_processes_train_as_one(tmp_path, arm, images):
    copy = processes.project(tmp_path / "copy", bf16=False, images=images)
    one, two = (processes.trained(copy, arm, number) for number in (1, 2))
    assert len(one) == 5
    for alone, shared in zip(one, two, strict=True):
        for name in ("loss", "mse"):
            assert shared[name] == pytest.approx(alone[name], abs=1e-6)
        for mine, ours in zip(
            alone.get("gates", []), shared.get("gates", []), strict=True
        ):  # of all tokens
            assert ours == pytest.approx(mine, abs=1e-5)
    assert two[-1]["val_psnr"] == pytest.approx(one[-1]["val_psnr"], abs=0.01)
    folders = [copy / "runs" / f"{arm}-{number}" for number in (1, 2)]
    written = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert written == [["log.jsonl", "record.json", "weights.safetensors"]] * 2
    a, b = (denoiser.load_tensors(folder / "weights.safetensors") for folder in folders)
    assert a[1] == b[1]
    moved = sum((a[0][name] - b[0][name]).square().sum() for name in a[0]) ** 0.5
    assert moved < 0.01 * sum(value.square().sum() for value in a[0].values()) ** 0.5
    assert not list((copy / "checkpoints").glob("*"))


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(UserError, match="a batch of 10 does not split over 4 processes"):
        Ranks(1, 4).own(torch.zeros(10, 2))


def test_the_shares_of_all_processes_are_the_batch():
    batch = torch.arange(12).view(6, 2)
    assert torch.equal(torch.cat([Ranks(rank, 3).own(batch) for rank in range(3)]), batch)


def test_random_routes_are_shares_of_those_of_the_whole_batch():
    """Experts begin as zero, so that the first steps of a training would not show other routes."""
    router, windows = (
        WindowRouter(8, 0.5, 0.25),
        torch.randn(4, 16, 4, 8, generator=torch.Generator().manual_seed(0)),
    )

    def order(part, ranks):
        return router(part, Routing("random", torch.Generator().manual_seed(1), ranks=ranks))[0]

    shares = [order(part, Ranks(rank, 2)) for rank, part in enumerate(windows.chunk(2))]
    assert torch.equal(torch.cat(shares), order(windows, Ranks()))


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_writes(tmp_path, monkeypatch, rank):
    found = params.load("sample")
    monkeypatch.setattr(training, "joined", lambda device: contextlib.nullcontext(Ranks(rank, 2)))
    monkeypatch.setattr(training, "training_data", lambda *_: ())
    monkeypatch.setattr(training, "fit", lambda *_, **__: (torch.nn.Linear(1, 1), {"config": {}}))
    training.train(found, "announced", 0, tmp_path / "out")
    assert (tmp_path / "out").exists() is (rank == 0)


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == Ranks()
        gates = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
        kept = gates.clone()
        ranks.average([gates])
        assert torch.equal(gates, kept) and ranks.mean(gates) is gates
        assert torch.equal(balance_loss([gates]), balance_loss([gates], ranks))
    assert not torch.distributed.is_initialized()
