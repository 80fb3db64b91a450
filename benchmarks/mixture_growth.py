"""What three times the training is worth: `python benchmarks/mixture_growth.py [train ARM]`.

`train ours` and `train unet` (no attention) take three quarters of an hour of a core each and go on where they were
stopped; they write models/mixture_long_ARM.safetensors. Without arguments the two are measured on all 10,000 test
images beside the full profile's own runs of the same seed (`dvc pull` inside `.full/tree`, or runs/full/mixture),
three minutes of one thread; writes benchmarks/mixture_growth.json.

The rule, fixed before the runs: everything but the number of epochs is the full profile's, a test image counts once
with the same noise everywhere, and nothing that ships is chosen by what comes out. Needs all of CIFAR-10.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib import data, evidence, files, metrics, params
from lib.mixture import denoiser, training
from lib.mixture.experts import Routing

ARMS = {"ours": "ours", "unet": "the network without attention"}
SEED, TIMES, SIGMA = 1, 3, 0.2
TREES = ROOT, ROOT / ".full" / "tree"


def weights(arm: str) -> Path:
    return ROOT / "models" / f"mixture_long_{arm}.safetensors"


def train(arm: str) -> None:
    """The full profile's training with TIMES as many epochs; its CPU seconds are known if it ran in one sitting."""
    chosen = params.load("full")
    recipe = chosen.mixture.model_copy(update={"epochs": TIMES * chosen.mixture.epochs})
    config = training.configure(chosen.model_copy(update={"mixture": recipe}), arm, SEED)
    folder, checkpoint = ROOT / "runs" / "growth" / arm, ROOT / "checkpoints" / f"growth-{arm}.safetensors"
    whole = not checkpoint.exists()
    start = time.process_time()
    model, record = training.fit(
        config, *training.training_data(chosen, recipe), log=folder / "log.jsonl", checkpoint=checkpoint, resume=True
    )
    spent = {"cpu_seconds": round(time.process_time() - start)} if whole else {}
    about = {"arm": arm, "config": record["config"], "val_psnr": record["val_psnr"], **spent}
    denoiser.save_tensors(weights(arm), model.state_dict(), about)


def short(arm: str) -> Path:
    """The full profile's own run of the same seed."""
    places = [tree / "runs" / "full" / "mixture" / f"{arm}-{SEED}" / "weights.safetensors" for tree in TREES]
    for path in places:
        if path.is_file():
            return path
    raise SystemExit(f"error: the full profile's run of {arm} is missing; expected at {places[0]}")


def measure() -> dict:
    """Metrics of the long and the short runs on the test images, and their paired differences."""
    chosen = params.load("full")
    test, _ = data.load_cifar("test", "full")
    clean = (test / 255).astype(np.float32)  # (10000, 3, 32, 32)
    noisy = torch.from_numpy(data.add_noise(clean, SIGMA, chosen.noise_seed))
    psnr, out = {}, {}

    def restored(name, path, arm, routing):
        model = denoiser.load_weights(path, arm)
        plan = Routing(routing, torch.Generator().manual_seed(SEED))
        image = denoiser.denoise(model, noisy, SIGMA, routing=plan).numpy()
        psnr[name] = metrics.psnr(clean, image)
        return image

    def note(name, values, what, **options):
        out[name] = evidence.metric(values, what=f"{what}; seed {SEED}, sigma {SIGMA} clamped", **options)

    def gain(name, more, less, what):
        note(name, evidence.paired_difference(psnr[more], psnr[less]), what, unit="dB", band=0.02)

    for arm, text in ARMS.items():
        routing = denoiser.ARMS[arm].routing
        restored(f"{arm} short", short(arm), arm, routing)
        image = restored(f"{arm} long", weights(arm), arm, routing)
        _, about = denoiser.load_tensors(weights(arm))
        spent = f"{text}, {TIMES} times the epochs of the full profile"
        note(f"growth_{arm}_psnr_db", evidence.bootstrap_mean(psnr[f"{arm} long"]), f"PSNR, {spent}", unit="dB",
             band=0.02, headline=arm == "ours")  # fmt: skip
        note(f"growth_{arm}_ssim", evidence.bootstrap_mean(metrics.ssim(clean, image)), f"SSIM, {spent}", band=0.002)
        gain(f"growth_{arm}_gain_db", f"{arm} long", f"{arm} short", f"PSNR, {spent}, minus the full profile's run")
        if "cpu_seconds" in about:
            note(f"growth_{arm}_cpu_s", about["cpu_seconds"], f"training, {spent}", unit="CPU s", n=1)
    gain("growth_over_unet_db", "ours long", "unet long", "PSNR of ours minus the network without attention, both long")
    gain("growth_over_unet_short_db", "ours short", "unet short", "the same difference in the full profile")
    restored("random long", weights("ours"), "ours", "random")
    gain("growth_router_gain_db", "ours long", "random long", "PSNR of ours, long, minus the same along random routes")
    return out


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["train"] and sys.argv[2:] in [[arm] for arm in ARMS]:
        train(sys.argv[2])
    elif not sys.argv[1:]:
        found = measure()
        print({name: round(entry["value"], 4) for name, entry in found.items()})
        run = {"device": "cpu", "seed": SEED, "threads": 1, **evidence.environment()}
        record = {"study": "mixture_growth", "metrics": found, "run": run}
        files.write_json(ROOT / "benchmarks" / "mixture_growth.json", record)
    else:
        raise SystemExit(f"usage: python benchmarks/mixture_growth.py [train {{{','.join(ARMS)}}}]")


if __name__ == "__main__":
    main()
