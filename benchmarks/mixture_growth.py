"""What more training alone is worth: `python benchmarks/mixture_growth.py [train ARM TIMES]`.

`train ours 6` trains for six times the epochs of the full profile; the arm `unet` is the network without attention, and
3 is the other number known here. Three times take three quarters of an hour of a core. A training goes on where it was
stopped, and writes runs/growth/ARM-TIMESx. Without arguments all are measured on the 10,000 test images, beside the full
profile's own runs of the same seed (`dvc pull`, or runs/full/mixture), in three minutes of one thread.

The rule, fixed before the runs: everything but the number of epochs is the full profile's, a test image counts once
with the same noise everywhere, and nothing that ships is chosen by what comes out. Six times was added when
three had been measured. Needs all of CIFAR-10. Writes benchmarks/mixture_growth.json.
"""

import sys
import time
from pathlib import Path

import full_runs
import numpy as np
import recording
import torch
from recording import ROOT

from lib.common import data, intervals, params, quality, record
from lib.common.params import UserError
from lib.mixture import denoiser, training
from lib.mixture.announced import Routing

ARMS = {"ours": "ours", "unet": "the network without attention"}
SEED = 1
TIMES = (3, 6)
SIGMA = 0.2


def growth_folder(arm: str, times: int) -> Path:
    return ROOT / "runs" / "growth" / f"{arm}-{times}x"


def weights(arm: str, times: int) -> Path:
    """The weights after so many times the full profile's epochs; after once, the profile's own run.

    Raises:
        UserError: they are not there; it says how to make them, and in how many minutes.
    """
    if times == 1:
        return full_runs.weights_of(arm, SEED)
    path = growth_folder(arm, times) / "weights.safetensors"
    if not path.is_file():
        seconds = recording.metrics_of("mixture_growth")[f"growth_{arm}_{times}x_cpu_s"]["value"]
        raise UserError(
            f"{path.relative_to(ROOT)}: not found; make it with `python benchmarks/mixture_growth.py "
            f"train {arm} {times}`, about {seconds / 60:.0f} CPU minutes"
        )
    return path


def train(arm: str, times: int) -> None:
    """The full profile's training with so many times the epochs; its CPU seconds are known if it was not stopped."""
    chosen = params.load("full")
    recipe = chosen.mixture.model_copy(update={"epochs": times * chosen.mixture.epochs})
    config = training.configure(chosen.model_copy(update={"mixture": recipe}), arm, SEED)
    folder = growth_folder(arm, times)
    checkpoint = ROOT / "checkpoints" / f"growth-{arm}-{times}x.safetensors"
    from_the_start = not checkpoint.exists()
    start = time.process_time()
    model, run = training.fit(
        config,
        *training.training_data(chosen, recipe),
        log=folder / "log.jsonl",
        checkpoint=checkpoint,
        resume=True,
    )
    about = {"arm": arm, "config": run["config"], "val_psnr": run["val_psnr"]}
    if from_the_start:
        about["cpu_seconds"] = round(time.process_time() - start)
    denoiser.save_tensors(folder / "weights.safetensors", model.state_dict(), about)


class Measured:
    """The metrics, and the PSNR of each test image by (arm, times, routing)."""

    def __init__(self):
        self.metrics = {}
        self.psnr = {}

    def add(self, name, values, what, **options):
        text = f"{what}; seed {SEED}, sigma {SIGMA} clamped"
        self.metrics[name] = record.metric(values, what=text, **options)

    def add_gain(self, name, more, less, what):
        """Decibels of run `more` minus those of run `less`, image by image."""
        gain = intervals.paired_difference(self.psnr[more], self.psnr[less])
        self.add(name, gain, what, unit="dB", band=0.02)


def measure() -> dict:
    """Metrics of the runs on the test images, and their paired differences."""
    test, _ = data.load_cifar("test", "full")
    clean = (test / 255).astype(np.float32)  # (10000, 3, 32, 32)
    noisy = torch.from_numpy(data.add_noise(clean, SIGMA, params.load("full").noise_seed))
    found = Measured()
    for times in (1, *TIMES):
        spent = f"{times} times the epochs of the full profile"
        for arm, text in ARMS.items():
            ssim = restore(found, clean, noisy, arm, times, denoiser.ARMS[arm].routing)
            if times > 1:
                add_growth(found, arm, times, ssim, f"{text}, {spent}")
        restore(found, clean, noisy, "ours", times, "random")
        learned = ("ours", times, denoiser.ARMS["ours"].routing)
        control = ("unet", times, denoiser.ARMS["unet"].routing)
        what = f"PSNR of ours minus {ARMS['unet']}, {spent}"
        found.add_gain(f"growth_over_unet_{times}x_db", learned, control, what)
        what = f"PSNR of ours minus the same along random routes, {spent}"
        found.add_gain(f"growth_router_{times}x_db", learned, ("ours", times, "random"), what)
    return found.metrics


def restore(found: Measured, clean, noisy, arm: str, times: int, routing: str) -> np.ndarray:
    """Note the PSNR of each test image denoised by one run; returns their SSIM (N,)."""
    model = denoiser.load_weights(weights(arm, times), arm)
    plan = Routing(routing, torch.Generator().manual_seed(SEED))
    image = denoiser.denoise(model, noisy, SIGMA, routing=plan).numpy()
    found.psnr[arm, times, routing] = quality.psnr(clean, image)
    return quality.ssim(clean, image)


def add_growth(found: Measured, arm: str, times: int, ssim: np.ndarray, what: str) -> None:
    """PSNR, SSIM, gain and CPU seconds of a longer training."""
    name = f"growth_{arm}_{times}x"
    long = (arm, times, denoiser.ARMS[arm].routing)
    once = (arm, 1, denoiser.ARMS[arm].routing)
    found.add(
        f"{name}_psnr_db",
        intervals.bootstrap_mean(found.psnr[long]),
        f"PSNR, {what}",
        unit="dB",
        band=0.02,
        headline=arm == "ours",
    )
    found.add(f"{name}_ssim", intervals.bootstrap_mean(ssim), f"SSIM, {what}", band=0.002)
    found.add_gain(f"{name}_gain_db", long, once, f"PSNR, {what} minus once")
    _, about = denoiser.load_tensors(weights(arm, times))
    if "cpu_seconds" in about:
        seconds = about["cpu_seconds"]
        found.add(f"{name}_cpu_s", seconds, f"training, {what}", unit="CPU s", n=1)


def main() -> None:
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    known = [["train", arm, str(times)] for arm in ARMS for times in TIMES]
    if arguments in known:
        train(arguments[1], int(arguments[2]))
    elif not arguments:
        metrics = measure()
        print({name: round(entry["value"], 4) for name, entry in metrics.items()})
        recording.write("mixture_growth", metrics, {"device": "cpu", "seed": SEED, "threads": 1})
    else:
        raise UserError("usage: python benchmarks/mixture_growth.py [train {ours,unet} {3,6}]")


if __name__ == "__main__":
    recording.run(main)
