"""What the shipped mixture is worth: `python benchmarks/mixture_quality.py [cifar plans levels photos]`.

Needs the full test set (`python -m lib data fetch`) and the weights in models/. All 10,000 test images at sigma 0.2
clamped; windows sent elsewhere than the router would; noise levels from 0.05 to 0.5; whole photographs that
scikit-image brings along. About a minute of one thread. Writes benchmarks/mixture_quality.json; with names of parts,
only those are measured again.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from skimage import data as photographs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib import data, evidence, files, metrics, params
from lib.mixture import denoiser
from lib.mixture.experts import Routing

SIGMA, LEVELS, SEED = 0.2, (0.05, 0.1, 0.3, 0.5), 0
PLANS = ("learned", "random", "fixed", "all", "none")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


def restore(model, noisy, sigma, how="learned"):
    """Denoised images, as numpy; random plans have the same seed everywhere."""
    routing = Routing(how, torch.Generator().manual_seed(SEED))
    return denoiser.denoise(model, torch.from_numpy(noisy), sigma, routing=routing).numpy()


def decibels(values, what, **options):
    """A metric of PSNR values, one per image."""
    return evidence.metric(evidence.bootstrap_mean(values), unit="dB", band=0.02, what=what, **options)


def cifar(model, clean, noise_seed):
    """Ours on all test images."""
    noisy = data.add_noise(clean, SIGMA, noise_seed)
    image = restore(model, noisy, SIGMA)
    what = "shipped weights, 10,000 test images, sigma 0.2 clamped"
    pooled, few = metrics.pooled_psnr(clean, image), len(clean) // 5
    ssim = evidence.bootstrap_mean(metrics.ssim(clean[:few], image[:few]))
    return {
        "mixture_cpu10_psnr_db": decibels(metrics.psnr(clean, image), f"PSNR, ours, {what}", headline=True),
        "mixture_full_noisy_psnr_db": decibels(metrics.psnr(clean, noisy), f"PSNR, noisy input, {what}"),
        "mixture_full_psnr_pooled_db": evidence.metric(
            pooled, unit="dB", n=len(clean), band=0.02, what=f"PSNR of the mean squared error, ours, {what}"
        ),
        "mixture_full_ssim": evidence.metric(ssim, band=0.002, what=f"SSIM, ours, first {few:,} test images"),
    }


def plans(model, clean, noise_seed):
    """What becomes of ours when its windows are routed otherwise."""
    noisy = data.add_noise(clean, SIGMA, noise_seed)
    psnr = {how: metrics.psnr(clean, restore(model, noisy, SIGMA, how)) for how in PLANS}
    out = {}
    for how in PLANS[1:]:
        gain = evidence.paired_difference(psnr[how], psnr["learned"])
        what = f"PSNR change of ours when windows are routed: {how}; first {len(clean):,} test images"
        out[f"mixture_full_plan_{how}_db"] = evidence.metric(gain, unit="dB", band=0.02, what=what)
    return out


def levels(model, clean, noise_seed):
    """Ours and the noisy input by noise level."""
    out = {}
    for sigma in LEVELS:
        noisy, key = data.add_noise(clean, sigma, noise_seed), round(100 * sigma)
        found = {"ours": metrics.psnr(clean, restore(model, noisy, sigma)), "noisy": metrics.psnr(clean, noisy)}
        for name, values in found.items():
            what = f"PSNR, {name}, sigma {sigma} clamped, first {len(clean):,} test images"
            out[f"mixture_level_{name}_psnr_db_{key}"] = decibels(values, what)
    return out


def photos(model, noise_seed):
    """Ours on whole photographs by plan: decibels, and seconds of this process."""
    out = {}
    for number, name in enumerate(PHOTOGRAPHS):
        clean = (getattr(photographs, name)() / np.float32(255)).transpose(2, 0, 1)[None]
        noisy = data.add_noise(np.ascontiguousarray(clean), SIGMA, noise_seed + number)
        for how in PLANS:
            start = time.process_time()
            value = metrics.psnr(clean, restore(model, noisy, SIGMA, how))[0]
            seconds = time.process_time() - start
            what = f"{name}, {clean.shape[3]} x {clean.shape[2]} pixels, sigma {SIGMA} clamped, windows routed: {how}"
            out[f"mixture_{name}_{how}_psnr_db"] = evidence.metric(value, unit="dB", n=1, band=0.02, what=what)
            out[f"mixture_{name}_{how}_cpu_s"] = evidence.metric(seconds, unit="s", n=1, what=what)
    return out


RECORD = ROOT / "benchmarks" / "mixture_quality.json"


def main():
    torch.set_num_threads(1)
    noise_seed = params.load("full").noise_seed
    model = denoiser.load_weights(ROOT / "models" / "mixture_denoiser.safetensors", "ours")
    test, _ = data.load_cifar("test", "full")
    clean = (test / 255).astype(np.float32)
    parts = {
        "cifar": lambda: cifar(model, clean, noise_seed),
        "plans": lambda: plans(model, clean[:2000], noise_seed),
        "levels": lambda: levels(model, clean[:1000], noise_seed),
        "photos": lambda: photos(model, noise_seed),
    }
    out = json.loads(RECORD.read_text())["metrics"] if sys.argv[1:] and RECORD.is_file() else {}
    for name in sys.argv[1:] or parts:
        found = parts[name]()
        print({name: round(entry["value"], 4) for name, entry in found.items()}, flush=True)
        out |= found
    run = {"device": "cpu", "seed": SEED, "threads": 1, **evidence.environment()}
    files.write_json(RECORD, {"study": "mixture_quality", "metrics": out, "run": run})


if __name__ == "__main__":
    main()
