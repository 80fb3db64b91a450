"""One training loop for every denoiser of the mixture wing; arms differ by configuration.

Images stay on the device as bytes and noise is made there from a generator. All randomness comes from three seeds
(initial weights, order of the images, noise). A checkpoint holds weights, optimiser and generator states, so a
resumed run on the CPU equals an uninterrupted one bit for bit. Nothing written holds a time.

    python -m lib.mixture.training --arm announced --seed 0 --profile sample --out runs/sample/mixture/announced-0

Shapes: M training images, V validation images, B batch.
"""

import argparse
import ctypes
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lib import data, files, metrics
from lib.mixture import denoiser
from lib.mixture.experts import balance_loss
from lib.params import Params, UserError, load, root

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and numbers of glibc's malloc.h


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run except the images, the device and the number of threads."""

    arm: str = "announced"
    init_seed: int = 0
    order_seed: int = 0
    noise_seed: int = 0
    images: int = 4000
    steps: int = 310
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    balance: float = 0.01
    sigma: float = 0.2
    log_every: int = 25
    val_every: int = 62
    save_every: int = 62

    @property
    def epoch(self) -> int:
        """Steps per epoch; the few images beyond the last whole batch wait for another order."""
        return self.images // self.batch


class Diverged(UserError):
    """The loss left the finite numbers, or grew beyond what any image can give."""


class Run:
    """A training run that can stop after any step and go on from its state."""

    def __init__(self, config: TrainConfig, images: np.ndarray, device: torch.device):
        if images.dtype != np.uint8 or images.shape[1:2] != (3,) or len(images) != config.images:
            raise ValueError(f"images: expected uint8 ({config.images}, 3, H, W), found {images.dtype} {images.shape}")
        if not 1 <= config.batch <= config.images:
            raise ValueError(f"batch = {config.batch}: allowed are 1 to {config.images}, the training images")
        self.config, self.device, self.step, self.lines = config, device, 0, []
        self.images = torch.from_numpy(images).to(device)
        self.model = denoiser.build(config.arm, config.init_seed).to(device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.order = torch.Generator().manual_seed(config.order_seed)
        self.noise = torch.Generator(device).manual_seed(config.noise_seed)
        self.epoch_order = torch.empty(0, dtype=torch.long)

    def advance(self) -> dict:
        """One step of the optimiser; the step's log line."""
        rate = self._set_rate()
        clean = self._batch()  # (B, 3, H, W)
        noisy = clean + self.config.sigma * torch.randn(clean.shape, generator=self.noise, device=self.device)
        image, gates = self.model.train()(noisy.clamp_(0, 1))
        mse, balance = F.mse_loss(image, clean), balance_loss(gates)
        loss = mse + self.config.balance * balance
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if not (norm.isfinite() and mse < 1):
            raise Diverged(f"step {self.step + 1}: loss {loss.item()}, gradient norm {norm.item()}")
        self.optimiser.step()
        self.step += 1
        means = {"gates": [gate.detach().mean((0, 1)).tolist() for gate in gates], "lr": rate}
        return {"step": self.step, "loss": loss.item(), "mse": mse.item(), "balance": balance.item(), **means}

    def _set_rate(self) -> float:
        """The announced schedule: half a cosine over the epochs, constant within an epoch."""
        config, epoch = self.config, self.step // self.config.epoch
        rate = config.learning_rate * (1 + math.cos(math.pi * epoch / math.ceil(config.steps / config.epoch))) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _batch(self) -> Tensor:
        config, place = self.config, self.step % self.config.epoch
        if place == 0:
            self.epoch_order = torch.randperm(config.images, generator=self.order)
        chosen = self.epoch_order[place * config.batch : (place + 1) * config.batch]
        return self.images[chosen.to(self.device)].float() / 255  # (B, 3, H, W)

    def state(self) -> dict[str, Tensor]:
        """All tensors that decide the rest of the run, by name."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for index, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in slots.items()}
        generators = {"order": self.order.get_state(), "noise": self.noise.get_state()}
        return tensors | generators | {"epoch_order": self.epoch_order}

    def restore(self, tensors: dict[str, Tensor], step: int, lines: list[dict]) -> None:
        """The inverse of `state`."""
        model = {name[6:]: value for name, value in tensors.items() if name.startswith("model/")}
        self.model.load_state_dict(model)
        slots: dict[int, dict] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser/"):
                _, index, slot = name.split("/")
                slots.setdefault(int(index), {})[slot] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        self.order.set_state(tensors["order"])
        self.noise.set_state(tensors["noise"])
        self.epoch_order, self.step, self.lines = tensors["epoch_order"], step, list(lines)


def save_checkpoint(run: Run, path: Path) -> None:
    """The whole state of a run, atomically."""
    config = denoiser.describe(run.config)
    denoiser.save_tensors(path, run.state(), {"config": config, "step": run.step, "lines": run.lines})


def load_checkpoint(run: Run, path: Path) -> None:
    """Set a fresh run to a checkpoint; one of another configuration is a UserError that names both."""
    tensors, about = denoiser.load_tensors(path)
    denoiser.check_same(path, about.get("config", {}), denoiser.describe(run.config))
    run.restore(tensors, about["step"], about["lines"])


def fit(
    config: TrainConfig,
    images: np.ndarray,
    clean: np.ndarray,
    noisy: np.ndarray,
    *,
    device: str = "cpu",
    threads: int = 1,
    log: Path | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> tuple[torch.nn.Module, dict]:
    """Train one arm; the trained network in evaluation mode, and its record.

    Args:
        images: (M, 3, H, W) uint8; clean, noisy: (V, 3, H, W) float32 in [0, 1], the validation pairs.
        log: gets one JSON line per log step.
        checkpoint: written every `save_every` steps, removed at the end; with `resume` the run goes on from it.

    Diverged (a UserError) names the step and the checkpoint of the last good state, which stays; a checkpoint of
    another configuration is a UserError.
    """
    _prepare(threads)
    run = Run(config, images, pick_device(device))
    if resume and checkpoint and checkpoint.exists():
        load_checkpoint(run, checkpoint)
    try:
        for _ in tqdm(range(run.step, config.steps), desc=config.arm, disable=None):
            _advance_and_log(run, torch.from_numpy(noisy), clean, log)
            if checkpoint and run.step % config.save_every == 0:
                save_checkpoint(run, checkpoint)
    except Diverged as fault:
        kept = f"; the last good state is {checkpoint.name}" if checkpoint and checkpoint.exists() else ""
        raise Diverged(f"{config.arm}: {fault}{kept}") from None
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return run.model.eval(), _record(run, torch.from_numpy(noisy), threads)


def _advance_and_log(run: Run, noisy: Tensor, clean: np.ndarray, log: Path | None) -> None:
    line, config = run.advance(), run.config
    last = run.step == config.steps
    validate = run.step % config.val_every == 0 or last
    if validate:
        image = denoiser.denoise(run.model, noisy, config.sigma)
        line["val_psnr"] = float(metrics.psnr(clean, image.numpy()).mean())
    if validate or run.step % config.log_every == 0:
        run.lines.append(line)
        if log:
            files.write_text(log, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in run.lines))


def _record(run: Run, noisy: Tensor, threads: int) -> dict:
    record = {
        "config": denoiser.describe(run.config),
        "parameters": denoiser.parameters(run.model),
        "steps": run.step,
        "device": run.device.type,
        "threads": threads,
        "val_psnr": [[line["step"], line["val_psnr"]] for line in run.lines if "val_psnr" in line],
    }
    if isinstance(run.model, denoiser.Announced):
        record["dead_outputs"] = denoiser.dead_outputs(run.model, noisy.to(run.device))
    return record


def _prepare(threads: int) -> None:
    _keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA when it starts
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def _keep_memory() -> None:
    """Let glibc keep freed memory: fresh pages for every large tensor cost about a quarter of a training step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU when there is one; "cuda" without one is a UserError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = cuda: this torch sees no GPU; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def configure(params: Params, arm: str, seed: int) -> TrainConfig:
    """The configuration of an arm in a profile, from `params.yaml`."""
    section = params.announced
    epoch = section.train_images // section.batch
    recipe = section.model_dump(include={"batch", "learning_rate", "weight_decay", "clip", "balance", "sigma"})
    return TrainConfig(arm, seed, seed, seed, images=section.train_images, steps=section.epochs * epoch,
                       log_every=section.log_every, val_every=epoch, save_every=epoch, **recipe)  # fmt: skip


def training_data(params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images (M, 3, 32, 32) uint8; validation images clean and noisy, (V, 3, 32, 32) float32 in [0, 1]."""
    images, _ = data.load_cifar("train", params.profile)
    train, val = data.split(len(images), params.seed)
    section, chosen = params.announced, val[: params.announced.val_images]
    clean = images[chosen].astype(np.float32) / 255
    # the test images have the noise of `noise_seed` itself; another set needs another seed
    noisy = data.add_noise(clean, section.sigma, params.noise_seed + 1, indices=chosen)
    return images[train[: section.train_images]], clean, noisy


def train(params: Params, arm: str, seed: int, out: Path) -> None:
    """Train an arm into the folder `out`: weights.safetensors, record.json, log.jsonl.

    An interrupted run goes on from its checkpoint, which lies outside `out` because DVC empties that first.
    """
    config = configure(params, arm, seed)
    checkpoint = root() / "checkpoints" / f"{'-'.join(out.parts[-3:])}.safetensors"
    model, record = fit(config, *training_data(params), device=params.device, threads=params.threads,
                        log=out / "log.jsonl", checkpoint=checkpoint, resume=True)  # fmt: skip
    denoiser.save_tensors(out / "weights.safetensors", model.state_dict(), {"arm": arm, "config": record["config"]})
    files.write_json(out / "record.json", record)


def load_or_train(params: Params, arm: str, seed: int, out: Path) -> tuple[torch.nn.Module, dict, list[dict]]:
    """The trained network of an arm, its record and its log: from `out` when it is there, else trained now.

    UserError: what lies in `out` was made with other settings than `params` asks for; both are named.
    """
    if not (out / "record.json").is_file():
        train(params, arm, seed, out)
    record = json.loads((out / "record.json").read_text())
    denoiser.check_same(out / "record.json", record["config"], denoiser.describe(configure(params, arm, seed)))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return denoiser.load_weights(out / "weights.safetensors", arm), record, log


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.mixture.training", description="Train one denoiser.")
    parser.add_argument("--arm", required=True, choices=list(denoiser.ARMS))
    parser.add_argument("--profile", choices=["sample", "full"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights.safetensors and record.json")
    options = parser.parse_args(arguments)
    try:
        train(load(options.profile), options.arm, options.seed, options.out)
    except UserError as fault:
        sys.exit(f"error: {fault}")


if __name__ == "__main__":
    main()
