"""What more training alone is worth: `python benchmarks/mixture_growth.py [train ARM TIMES]`.

`train ours 6` trains for six times the epochs of the full profile, `unet` is the network without attention, 3 is the
other number known here; three times take three quarters of an hour of a core, and a training goes on where it was
stopped. It writes models/mixture_ARM_TIMESx.safetensors. Without arguments all are measured on the 10,000 test images
beside the full profile's own runs of the same seed (`dvc pull` inside `.full/tree`, or runs/full/mixture), three
minutes of one thread; writes benchmarks/mixture_growth.json.

The rule, fixed before the runs: everything but the number of epochs is the full profile's, a test image counts once
with the same noise everywhere, and nothing that ships is chosen by what comes out. Six times was added when
three had been measured. Needs all of CIFAR-10.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.common import data, files, intervals, machine, params, quality, record
from lib.mixture import denoiser, training
from lib.mixture.experts import Routing

ARMS = {"ours": "ours", "unet": "the network without attention"}
SEED, TIMES, SIGMA = 1, (3, 6), 0.2
TREES = ROOT, ROOT / ".full" / "tree"


def weights(arm: str, times: int) -> Path:
    """Where the weights after so many times the full profile's epochs lie; once, the profile's own run."""
    if times > 1:
        return ROOT / "models" / f"mixture_{arm}_{times}x.safetensors"
    places = [
        tree / "runs" / "full" / "mixture" / f"{arm}-{SEED}" / "weights.safetensors"
        for tree in TREES
    ]
    for path in places:
        if path.is_file():
            return path
    raise SystemExit(f"error: the full profile's run of {arm} is missing; expected at {places[0]}")


def train(arm: str, times: int) -> None:
    """The full profile's training with so many times the epochs; CPU seconds are known if it was not interrupted."""
    chosen = params.load("full")
    recipe = chosen.mixture.model_copy(update={"epochs": times * chosen.mixture.epochs})
    config = training.configure(chosen.model_copy(update={"mixture": recipe}), arm, SEED)
    name = f"growth-{arm}-{times}x"
    log, checkpoint = (
        ROOT / "runs" / name / "log.jsonl",
        ROOT / "checkpoints" / f"{name}.safetensors",
    )
    whole = not checkpoint.exists()
    start = time.process_time()
    model, record = training.fit(
        config, *training.training_data(chosen, recipe), log=log, checkpoint=checkpoint, resume=True
    )
    spent = {"cpu_seconds": round(time.process_time() - start)} if whole else {}
    about = {"arm": arm, "config": record["config"], "val_psnr": record["val_psnr"], **spent}
    denoiser.save_tensors(weights(arm, times), model.state_dict(), about)


def measure() -> dict:
    """Metrics of the runs on the test images, and their paired differences."""
    chosen = params.load("full")
    test, _ = data.load_cifar("test", "full")
    clean = (test / 255).astype(np.float32)  # (10000, 3, 32, 32)
    noisy = torch.from_numpy(data.add_noise(clean, SIGMA, chosen.noise_seed))
    psnr, out = {}, {}

    def restored(arm, times, routing):
        model = denoiser.load_weights(weights(arm, times), arm)
        plan = Routing(routing, torch.Generator().manual_seed(SEED))
        image = denoiser.denoise(model, noisy, SIGMA, routing=plan).numpy()
        psnr[arm, times, routing] = quality.psnr(clean, image)
        return image

    def note(name, values, what, **options):
        out[name] = record.metric(
            values, what=f"{what}; seed {SEED}, sigma {SIGMA} clamped", **options
        )

    def gain(name, more, less, what):
        note(name, intervals.paired_difference(psnr[more], psnr[less]), what, unit="dB", band=0.02)

    mean = intervals.bootstrap_mean
    own = {arm: denoiser.ARMS[arm].routing for arm in ARMS}
    for times in (1, *TIMES):
        spent = f"{times} times the epochs of the full profile"
        for arm, text in ARMS.items():
            image = restored(arm, times, own[arm])
            if times == 1:
                continue
            name, what = f"growth_{arm}_{times}x", f"{text}, {spent}"
            long, once = (arm, times, own[arm]), (arm, 1, own[arm])
            note(
                f"{name}_psnr_db",
                mean(psnr[long]),
                f"PSNR, {what}",
                unit="dB",
                band=0.02,
                headline=arm == "ours",
            )
            note(f"{name}_ssim", mean(quality.ssim(clean, image)), f"SSIM, {what}", band=0.002)
            gain(f"{name}_gain_db", long, once, f"PSNR, {what} minus once")
            _, about = denoiser.load_tensors(weights(arm, times))
            if "cpu_seconds" in about:
                note(f"{name}_cpu_s", about["cpu_seconds"], f"training, {what}", unit="CPU s", n=1)
        both = [(arm, times, own[arm]) for arm in ("ours", "unet")]
        gain(f"growth_over_unet_{times}x_db", *both, f"PSNR of ours minus {ARMS['unet']}, {spent}")
        restored("ours", times, "random")
        routes = ("ours", times, own["ours"]), ("ours", times, "random")
        gain(
            f"growth_router_{times}x_db",
            *routes,
            f"PSNR of ours minus the same along random routes, {spent}",
        )
    return out


def main() -> None:
    torch.set_num_threads(1)
    known = [[arm, str(times)] for arm in ARMS for times in TIMES]
    if sys.argv[1:2] == ["train"] and sys.argv[2:] in known:
        train(sys.argv[2], int(sys.argv[3]))
    elif not sys.argv[1:]:
        found = measure()
        print({name: round(entry["value"], 4) for name, entry in found.items()})
        run = {"device": "cpu", "seed": SEED, "threads": 1, **machine.environment()}
        record = {"study": "mixture_growth", "metrics": found, "run": run}
        files.write_json(ROOT / "benchmarks" / "mixture_growth.json", record)
    else:
        choice = " ".join(f"{{{','.join(map(str, several))}}}" for several in (ARMS, TIMES))
        raise SystemExit(f"usage: python benchmarks/mixture_growth.py [train {choice}]")


if __name__ == "__main__":
    main()
