"""What a GPU gives: `make gpu`, or `PYTHONPATH=. python benchmarks/gpu.py` on a machine with a CUDA GPU.

Trains an arm of the mixture's study with every seed for the same number of images, and times block-sparse attention
against dense (flash) attention by number of tokens. Needs all of CIFAR-10 (`python -m lib data fetch`). Writes
results/gpu/gpu.json; its record names the card, the driver, CUDA, cuDNN and whether TF32 was on.

`--small` tries the same code on a CPU, with the shipped sample, a few steps and few tokens, and writes to a temporary
folder: it shows that the commands run, its numbers say nothing.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import recording
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.common import data, gpu, params, quality, record
from lib.common.params import UserError
from lib.mixture import denoiser, training, windows
from lib.mixture.run import Run

ARMS = ("attentive", "residual")  # what attention is worth, at equal size, data and recipe
SIGMA, NOISE_SEED = 0.2, 1234  # of the test images
ANNOUNCED_DB = 25.12
BLOCK, REACH, HEADS, WIDTH = 64, 2, 4, 128  # of the attention that is timed


class Size(NamedTuple):
    """How much is trained and timed."""

    profile: str
    seeds: tuple[int, ...]
    batch: int
    steps: int
    validations: int
    test_images: int
    tokens: tuple[int, ...]
    rounds: int


FULL = Size(
    profile="full",
    seeds=(0, 1, 2, 3, 4),
    batch=512,
    steps=20_000,
    validations=40,
    test_images=10_000,
    tokens=(1024, 4096, 16384, 65536),
    rounds=20,
)
SMALL = Size(
    profile="sample",
    seeds=(0,),
    batch=8,
    steps=4,
    validations=2,
    test_images=8,
    tokens=(256, 1024),
    rounds=2,
)


# --- training --------------------------------------------------------------------------------------------------------


def train(size: Size, device: torch.device, arm: str, seed: int) -> dict:
    """Train one arm with one seed; its PSNR, its speed, and the seconds until it passed what was announced.

    The seconds are those of the wall, from a cold start: the choice of the first kernels is among them.
    """
    chosen = params.load(size.profile)
    images, clean, noisy = training.training_data(chosen, training.section_of(chosen, arm))
    config = dataclasses.replace(
        training.configure(chosen, arm, seed), batch=size.batch, steps=size.steps
    )
    every = size.steps // size.validations
    started = time.perf_counter()
    run = Run(config, images, device)
    validations = []  # seconds, PSNR of the validation images
    while run.step < size.steps:
        run.advance()
        if run.step % every == 0:
            image = denoiser.denoise(run.result, torch.from_numpy(noisy), SIGMA)
            decibels = float(quality.psnr(clean, image.cpu().numpy()).mean())
            validations.append((time.perf_counter() - started, decibels))
    seconds = time.perf_counter() - started
    passed = [at for at, decibels in validations if decibels >= ANNOUNCED_DB]
    return {
        "psnr": float(test_psnr(run.result.eval(), size).mean()),
        "images_per_second": size.batch * size.steps / seconds,
        "seconds": seconds,
        "seconds_to_announced": passed[0] if passed else None,
        "validations": validations,
    }


def test_psnr(network: torch.nn.Module, size: Size) -> np.ndarray:
    """PSNR of each noisy test image after denoising, in dB. (N,)."""
    raw, _ = data.load_cifar("test", size.profile)
    clean = raw[: size.test_images].astype(np.float32) / 255
    noisy = data.add_noise(clean, SIGMA, NOISE_SEED)
    image = denoiser.denoise(network, torch.from_numpy(noisy), SIGMA)
    return quality.psnr(clean, image.cpu().numpy())


# --- attention -------------------------------------------------------------------------------------------------------


def attention(size: Size, device: torch.device) -> dict:
    """Dense over block-sparse attention, forward and with its gradient, by number of tokens."""
    out = {}
    for tokens in size.tokens:
        for key, gradient in (("forward", False), ("step", True)):
            dense = milliseconds(dense_attention, tokens, device, gradient, size.rounds)
            sparse = milliseconds(sparse_attention, tokens, device, gradient, size.rounds)
            each = sorted(d / s for d, s in zip(dense, sparse, strict=True))
            out[f"gpu_attention_{key}_speedup_{tokens}"] = record.metric(
                statistics.median(each),
                low=each[0],
                high=each[-1],
                n=len(each),
                unit="times",
                what=f"dense over block-sparse attention, {key}, {tokens:,} tokens",
            )
    return out


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token to every token: q, k, v (B, M, T, C) -> (B, H, N, d)."""
    whole = [split(x) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*whole)


def split(blocks: Tensor) -> Tensor:
    """Blocks (B, M, T, C) as heads (B, H, N, d)."""
    tokens = blocks.flatten(1, 2)  # (B, N, C)
    return tokens.unflatten(2, (HEADS, -1)).transpose(1, 2)


def sparse_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each block to itself and the two best others: q, k, v (B, M, T, C) -> (B, M, T, C)."""
    own = torch.arange(q.shape[1], device=q.device).expand(q.shape[:2])
    return windows.block_attention(q, k, v, own, REACH, HEADS)


def milliseconds(
    function, tokens: int, device: torch.device, gradient: bool, rounds: int
) -> list[float]:
    """Milliseconds of each round in bfloat16; the first round warms up and is left out."""
    batch = max(1, 16384 // tokens)
    generator = torch.Generator().manual_seed(0)
    shape = (3, batch, tokens // BLOCK, BLOCK, WIDTH)
    drawn = torch.randn(shape, generator=generator).to(device, torch.bfloat16)
    q, k, v = (x.clone().requires_grad_(gradient) for x in drawn)
    times = []
    for _ in range(rounds + 1):
        wait(device)
        started = time.perf_counter()
        out = function(q, k, v)
        if gradient:
            out.sum().backward()
        wait(device)
        times.append(1e3 * (time.perf_counter() - started))
    return times[1:]


def wait(device: torch.device) -> None:
    """Wait until the GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_share(images_per_second: float, arm: str, device: torch.device) -> float:
    """Operations of the training over those of a large product in bfloat16 on the same card, as a share."""
    from torch.utils.flop_counter import FlopCounterMode

    network = denoiser.build(arm, 0).train()
    image, level = torch.rand(1, 3, 32, 32), torch.full((1,), SIGMA)
    with FlopCounterMode(display=False) as counter:
        network(image, level)[0].sum().backward()
    side = 8192 if device.type == "cuda" else 256
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    a @ a
    wait(device)
    started = time.perf_counter()
    for _ in range(10):
        a @ a
    wait(device)
    peak = 10 * 2 * side**3 / (time.perf_counter() - started)  # operations a second
    return counter.get_total_flops() * images_per_second / peak


# --- the record ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="try it on a CPU, at small size")
    small = parser.parse_args().small
    size = SMALL if small else FULL
    if not small and not torch.cuda.is_available():
        raise UserError("this torch sees no GPU; `make gpu SMALL=1` tries the commands on a CPU")
    device = torch.device("cpu" if small else "cuda")
    with tempfile.TemporaryDirectory() as scratch, gpu.alone(device.type):
        folder = Path(scratch) if small else recording.ROOT / "results" / "gpu"
        runs = {}
        for arm in ARMS:
            for seed in size.seeds:
                runs[f"{arm}-{seed}"] = train(size, device, arm, seed)
                print(f"{arm}, seed {seed}: {runs[f'{arm}-{seed}']['psnr']:.3f} dB", flush=True)
        metrics = summary(runs, size, device) | attention(size, device)
        run = {"device": device.type, "seeds": size.seeds, "batch": size.batch}
        path = recording.write("gpu", metrics, run, folder=folder, runs=runs)
        for name, entry in metrics.items():
            print(f"{name}: {entry['value']:.4g} {entry['unit']}")
        print(f"tried on a CPU: {len(metrics)} numbers, not kept" if small else f"wrote {path}")


def summary(runs: dict[str, dict], size: Size, device: torch.device) -> dict:
    """Mean over seeds with the lowest and the highest, of each arm."""
    out = {}
    for arm in ARMS:
        own = [runs[f"{arm}-{seed}"] for seed in size.seeds]
        for key, unit, what in (
            ("psnr", "dB", f"PSNR of {size.test_images:,} test images"),
            ("images_per_second", "images/s", "training images a second"),
            ("seconds", "s", "seconds of the training"),
        ):
            out[f"gpu_{arm}_{key}"] = over_seeds([run[key] for run in own], unit, f"{arm}: {what}")
        reached = [run["seconds_to_announced"] for run in own]
        if None not in reached:
            out[f"gpu_{arm}_seconds_to_announced"] = over_seeds(
                reached, "s", f"{arm}: seconds from a cold start to {ANNOUNCED_DB} dB"
            )
        speed = out[f"gpu_{arm}_images_per_second"]["value"]
        share = 100 * peak_share(speed, arm, device)
        out[f"gpu_{arm}_peak_share"] = record.metric(
            share, n=len(own), unit="%", what=f"{arm}: operations over a large bfloat16 product's"
        )
    return out


def over_seeds(values: list[float], unit: str, what: str) -> dict:
    """The mean over training seeds, with the lowest and the highest."""
    ends = {"low": min(values), "high": max(values)}
    return record.metric(statistics.fmean(values), n=len(values), unit=unit, what=what, **ends)


if __name__ == "__main__":
    recording.run(main)
