"""What the shipped mixture is worth on all of CIFAR-10's test images: `python benchmarks/mixture_quality.py`.

Needs the full test set (`python -m lib data fetch`) and the weights in models/. Ours and its no-attention control,
10,000 images, sigma 0.2 clamped, three noise seeds; ours with its windows sent elsewhere; noise levels from 0.05 to
0.5; whole photographs that scikit-image brings along. About eight minutes of one thread. Writes mixture_quality.json.
"""

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

SIGMA, LEVELS, NOISES, SEED = 0.2, (0.05, 0.1, 0.3, 0.5), 3, 0
PLANS = ("learned", "random", "fixed", "all", "none")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
MODELS = {"ours": "mixture_denoiser", "unet": "mixture_unet", "ours_random": "mixture_random"}


def restore(model, noisy, sigma, how="learned"):
    """Denoised images, as numpy; random plans have the same seed everywhere."""
    routing = Routing(how, torch.Generator().manual_seed(SEED))
    return denoiser.denoise(model, torch.from_numpy(noisy), sigma, routing=routing).numpy()


def cifar(models, clean, noise_seed):
    """PSNR of every model and plan per image and noise seed, and what is derived from them."""
    psnr, out = {}, {}
    for number in range(NOISES):
        noisy = data.add_noise(clean, SIGMA, noise_seed + 10 * number)
        for arm, model in models.items():
            image = restore(model, noisy, SIGMA, denoiser.ARMS[arm].routing)
            psnr.setdefault(arm, []).append(metrics.psnr(clean, image))
            pooled = metrics.pooled_psnr(clean, image)
            if number == 0:
                what = f"SSIM, {arm}, shipped weights, all test images"
                ssim = evidence.bootstrap_mean(metrics.ssim(clean, image))
                out[f"mixture_full_{arm}_ssim"] = evidence.metric(ssim, band=0.002, what=what)
                what = f"PSNR of the mean squared error, {arm}, shipped weights, all test images"
                out[f"mixture_full_{arm}_psnr_pooled_db"] = evidence.metric(
                    pooled, unit="dB", n=len(clean), band=0.02, what=what
                )
                for how in PLANS[1:] if arm == "ours" else ():
                    psnr[how] = [metrics.psnr(clean, restore(model, noisy, SIGMA, how))]
    first = psnr["ours"][0]
    for how in PLANS[1:]:
        gain = evidence.paired_difference(psnr.pop(how)[0], first)
        what = f"PSNR change of ours when windows are routed: {how}"
        out[f"mixture_full_plan_{how}_db"] = evidence.metric(gain, unit="dB", band=0.02, what=what)
    mean = {arm: np.mean(values, axis=0) for arm, values in psnr.items()}  # over noise seeds
    for arm, values in mean.items():
        name = "mixture_cpu10_psnr_db" if arm == "ours" else f"mixture_full_{arm}_psnr_db"
        what = (
            f"PSNR, {arm}, shipped weights (below ten minutes of two cores), 10,000 test images, {NOISES} noise seeds"
        )
        interval = evidence.bootstrap_mean(values)
        out[name] = evidence.metric(interval, unit="dB", band=0.02, what=what, headline=arm == "ours")
    for arm in mean.keys() - {"ours"}:
        gain = evidence.paired_difference(mean["ours"], mean[arm])
        what = f"PSNR of ours minus {arm}, same training, same images, one training seed"
        out[f"mixture_full_over_{arm}_db"] = evidence.metric(gain, unit="dB", band=0.02, what=what)
    return out


def levels(model, clean, noise_seed):
    """Ours and the noisy input by noise level."""
    out = {}
    for sigma in LEVELS:
        noisy, key = data.add_noise(clean, sigma, noise_seed), round(100 * sigma)
        found = {"ours": metrics.psnr(clean, restore(model, noisy, sigma)), "noisy": metrics.psnr(clean, noisy)}
        for name, values in found.items():
            what = f"PSNR, {name}, sigma {sigma} clamped, first {len(clean):,} test images"
            interval = evidence.bootstrap_mean(values)
            out[f"mixture_level_{name}_psnr_db_{key}"] = evidence.metric(interval, unit="dB", band=0.02, what=what)
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


def main():
    torch.set_num_threads(1)
    noise_seed = params.load("full").noise_seed
    paths = {arm: ROOT / "models" / f"{name}.safetensors" for arm, name in MODELS.items()}
    models = {arm: denoiser.load_weights(path, arm) for arm, path in paths.items() if path.is_file()}
    test, _ = data.load_cifar("test", "full")
    clean = (test / 255).astype(np.float32)
    out = photos(models["ours"], noise_seed) | levels(models["ours"], clean[:1000], noise_seed)
    out |= cifar(models, clean, noise_seed)
    for name, entry in out.items():
        print(f"{name:40} {entry['value']:.4f}")
    run = {"device": "cpu", "seed": SEED, "threads": 1, **evidence.environment()}
    record = {"study": "mixture_quality", "metrics": out, "run": run}
    files.write_json(ROOT / "benchmarks" / "mixture_quality.json", record)


if __name__ == "__main__":
    main()
