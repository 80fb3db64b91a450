"""Denoisers for Gaussian noise of 0.1 meet other noise: `python benchmarks/em_robust.py`.

Gaussian noise of four levels; Laplace, salt-and-pepper, correlated and signal-dependent noise whose mean squared error,
before clamping, is that of Gaussian noise of 0.1. Each denoiser is told 0.1, and the level that `em.estimate_noise`
finds in the images; graph and full denoiser take the nearest of their two levels. Nothing is tuned to any of it. CBM3D
joins where its package is installed (`pip install bm3d==4.0.3`, no dependency of this project) and sees the first
images only. Writes benchmarks/em_robust.json.
"""

import argparse
import importlib.util

import numba
import numpy as np
import recording
import torch
from scipy.ndimage import gaussian_filter

from lib.common import data, intervals, params, quality, record
from lib.diffusion import denoiser, em, heads
from lib.mixture import denoiser as mixture

TOLD, SEED, IMAGES, CBM3D_IMAGES = 0.1, 11, 100, 10


def gaussian(clean, rng, level):
    """White Gaussian noise."""
    return clean + level * rng.standard_normal(clean.shape)


def laplace(clean, rng):
    """Heavier tails, the variance of Gaussian noise of TOLD."""
    return clean + rng.laplace(0, TOLD / np.sqrt(2), clean.shape)


def salt_and_pepper(clean, rng):
    """Some values become 0 or 1, so many that the mean squared error is TOLD^2."""
    changed = (clean**2 + (1 - clean) ** 2).mean() / 2  # squared error of a value that is hit
    hit = rng.random(clean.shape) < TOLD**2 / changed
    return np.where(hit, rng.integers(0, 2, clean.shape), clean)


def correlated(clean, rng):
    """White noise blurred by 0.7 pixels, brought back to a deviation of TOLD."""
    noise = gaussian_filter(rng.standard_normal(clean.shape), (0, 0, 0.7, 0.7), mode="wrap")
    return clean + TOLD * noise / noise.std()


def signal_dependent(clean, rng):
    """Variance proportional to the value, as of counted light, TOLD^2 on average."""
    return clean + TOLD * np.sqrt(clean / clean.mean()) * rng.standard_normal(clean.shape)


NOISES = {
    "Gaussian 0.05": lambda clean, rng: gaussian(clean, rng, 0.05),
    "Gaussian 0.1": lambda clean, rng: gaussian(clean, rng, 0.1),
    "Gaussian 0.15": lambda clean, rng: gaussian(clean, rng, 0.15),
    "Gaussian 0.2": lambda clean, rng: gaussian(clean, rng, 0.2),
    "Laplace": laplace,
    "salt and pepper": salt_and_pepper,
    "correlated": correlated,
    "signal-dependent": signal_dependent,
}


def methods(model, network):
    """Each denoiser as a function of noisy images (B, 3, H, W) and the level it is told."""

    def prior(noisy, level):
        return heads.unclip(em.denoise(noisy, model.prior, level), level)

    def full(noisy, level):
        return model.denoise(noisy, model.nearest(level))

    def graph(noisy, level):
        return model.pilot(noisy, model.nearest(level), "sure")

    def trained(noisy, level):
        told = float(np.clip(level, 0.05, 0.5))
        with torch.no_grad():
            return mixture.denoise(network, torch.from_numpy(noisy), told).numpy()

    return {"graph": graph, "prior": prior, "full": full, "mixture": trained}


def cbm3d(noisy, level):
    """CBM3D with the correction of the clamping bias that our training-free filters get."""
    bm3d_rgb = importlib.import_module("bm3d").bm3d_rgb
    made = [bm3d_rgb(image.transpose(1, 2, 0), level).transpose(2, 0, 1) for image in noisy]
    return heads.unclip(np.clip(np.stack(made), 0, 1), level)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-cbm3d", action="store_true", help="leave CBM3D out")
    asked = parser.parse_args()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    test, _ = data.load_cifar("test")
    clean = (test[:IMAGES] / 255).astype(np.float32)
    model = denoiser.load(params.root() / "models" / "em_denoiser.safetensors")
    network = mixture.load_weights(params.root() / "models" / "mixture_denoiser.safetensors")
    calls = methods(model, network)
    with_cbm3d = importlib.util.find_spec("bm3d") is not None and not asked.no_cbm3d
    out = {}

    def add(kind, told, method, psnr):
        name = (
            f"em_robust_{kind}_{told}_{method}".lower()
            .replace(",", "")
            .replace(" ", "_")
            .replace(".", "")
        )
        what = f"{kind}, told {told}: {method}"
        out[name] = record.metric(intervals.bootstrap_mean(psnr), unit="dB", band=0.05, what=what)
        print(f"{what:50} {psnr.mean():6.2f} dB", flush=True)

    for kind, noise in NOISES.items():
        rng = np.random.default_rng([SEED, list(NOISES).index(kind)])
        noisy = np.clip(noise(clean.astype(float), rng), 0, 1).astype(np.float32)
        found = em.estimate_noise(noisy)
        name = f"em_robust_level_{kind}".lower().replace(" ", "_").replace(".", "")
        out[name.replace("robust", "found")] = record.metric(
            found, n=IMAGES, band=0.002, what=f"noise level found in {kind} noise"
        )
        add(kind, "nothing", "noisy", quality.psnr(clean, noisy))
        for told, level in (("0.1", TOLD), ("the estimate", found)):
            for method, call in calls.items():
                add(kind, told, method, quality.psnr(clean, call(noisy, level)))
            if with_cbm3d:
                few = noisy[:CBM3D_IMAGES]
                psnr = quality.psnr(clean[:CBM3D_IMAGES], cbm3d(few, level))
                add(kind, told, f"CBM3D, first {CBM3D_IMAGES}", psnr)
    recording.write("em_robust", out, {"device": "cpu", "seed": SEED, "threads": 1})


if __name__ == "__main__":
    recording.run(main)
