"""The quality network and its control: `python benchmarks/quality_network.py train ARM SEED STEPS`, then `... measure`.

Needs all of CIFAR-10 (`python -m lib data fetch`). A training keeps a checkpoint every 500 steps under
checkpoints/quality/ and goes on from it; what is finished lies there, too, and is not trained again. `measure` looks at the
10,000 test images once and writes benchmarks/quality_network.json.

    attentive   the network (lib/mixture/attentive.py)
    residual    its control: residual blocks where it attends, one fewer elsewhere, so that it is no larger
"""

import dataclasses
import sys
import time

import numpy as np
import recording
import torch
from torch import Tensor

from lib.common import data, files
from lib.common.params import UserError
from lib.mixture import denoiser, symmetry, training
from lib.mixture.run import Run, TrainConfig, load_checkpoint, save_checkpoint

FOLDER = recording.ROOT / "checkpoints" / "quality"
RECIPE = TrainConfig(
    images=40_000,
    batch=32,
    learning_rate=2e-3,
    muon=0.02,
    weight_decay=1e-4,
    clip=1.0,
    balance=0.0,
    sigma=0.2,
    varied=0.25,
    schedule="trapezoid",
    cooling=0.6,
    average=0.998,
    bf16=True,
    logarithm=True,
)
SAVE_EVERY, VALIDATE_EVERY = 500, 2500  # steps
VALIDATION_IMAGES, VALIDATION_NOISE = 500, 1235


class QualityRun(Run):
    """A training run whose batches come in all eight orientations."""

    def _batch(self) -> Tensor:
        number = int(torch.randint(0, symmetry.COUNT, (), generator=self.order))
        return symmetry.orient(super()._batch(), number)


def train(arm: str, seed: int, steps: int) -> None:
    """Train one network and keep its weights and its record under `FOLDER`."""
    out = FOLDER / f"{arm}-{seed}-{steps}.safetensors"
    if out.is_file():
        return
    training._prepare(threads=1)
    images, clean, noisy = training_images()
    config = dataclasses.replace(
        RECIPE, arm=arm, init_seed=seed, order_seed=seed, noise_seed=seed, steps=steps
    )
    run = QualityRun(config, images, torch.device("cpu"))
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    if checkpoint.is_file():
        load_checkpoint(run, checkpoint)
    while run.step < steps:
        started = time.process_time()
        line = run.advance()
        run.lines.append(time.process_time() - started)  # CPU seconds of each step
        if run.step % VALIDATE_EVERY == 0 or run.step == steps:
            decibels = psnr_of(run.result, clean, noisy)
            spent = sum(run.lines)
            print(f"{run.step} {spent:.0f} s {decibels:.4f} dB, {line['mse']:.5f}", flush=True)
        if run.step % SAVE_EVERY == 0:
            save_checkpoint(run, checkpoint)
    about = {"arm": arm, "seed": seed, "steps": steps, "cpu_seconds": round(sum(run.lines), 1)}
    about |= {"validation_psnr_db": psnr_of(run.result, clean, noisy)}
    denoiser.save_tensors(out, run.result.state_dict(), about)
    files.write_json(out.with_suffix(".json"), about)
    checkpoint.unlink(missing_ok=True)


def training_images() -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Training images as bytes, and validation images clean and noisy."""
    raw, _ = data.load_cifar("train", "full")
    kept, held_out = data.split(len(raw), 0)
    chosen = held_out[:VALIDATION_IMAGES]
    clean = raw[chosen].astype(np.float32) / 255
    noisy = data.add_noise(clean, RECIPE.sigma, VALIDATION_NOISE, indices=chosen)
    return raw[kept[: RECIPE.images]], clean, torch.from_numpy(noisy)


def psnr_of(network: torch.nn.Module, clean: np.ndarray, noisy: Tensor) -> float:
    """Mean PSNR after one pass, in dB."""
    from lib.common import quality

    image = denoiser.denoise(network, noisy, RECIPE.sigma)
    return float(quality.psnr(clean, image.numpy()).mean())


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "train":
        FOLDER.mkdir(parents=True, exist_ok=True)
        train(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    raise UserError("use `train ARM SEED STEPS` or `measure`")


if __name__ == "__main__":
    recording.run(main)
