"""The EM denoiser and its peers on the first 100 test images: `python benchmarks/em_cbm3d.py`.

CBM3D is the package bm3d 4.0.3 (Makinen, Azzari and Foi, TIP 2020; free for research only, so no dependency of this
project); install it with `pip install bm3d==4.0.3` in an environment of your own. EPLL (Zoran and Weiss, ICCV 2011)
runs with our patch prior. NLM, wavelets and total variation are scikit-image's, tuned on training images. All are told
the noise deviation before clamping; all but the full denoiser, which is fitted to clamped noise, get the same
correction of the clamping bias. Times are CPU milliseconds of one thread, so that other work on the machine disturbs
them little. Some four CPU minutes a noise level; `... em_cbm3d.py 0.1` does one level and keeps the other.
Writes benchmarks/em_cbm3d.json.
"""

import importlib
import sys
import time

import numba
import numpy as np
import recording

from lib.common import data, intervals, params, quality, record
from lib.diffusion import denoiser, em, heads
from lib.studies import diffusion as study

IMAGES, SEED = 100, 11
TUNING_IMAGES, TUNING_SEED = 60, 1
STEPS = (1, 4, 8, 16, 32)  # of EPLL: precision of its patches in units of the noise's
NAMES = {
    "full": "full denoiser",
    "sure_heads": "four heads, gate by SURE",
    "clean_heads": "four heads, gate trained on clean images",
    "cbm3d": "CBM3D",
    "epll": "EPLL with our prior",
    "nlm": "scikit-image NLM",
    "wavelets": "scikit-image wavelets",
    "tv": "scikit-image TV",
}
COMPARED = (  # ours, the peer
    ("full", "cbm3d"),
    ("full", "epll"),
    ("sure_heads", "cbm3d"),
    ("clean_heads", "cbm3d"),
)


def cbm3d(noisy, sigma):
    """CBM3D of images (B, 3, H, W), with the correction for clamping."""
    bm3d_rgb = importlib.import_module("bm3d").bm3d_rgb
    made = [bm3d_rgb(image.transpose(1, 2, 0), sigma).transpose(2, 0, 1) for image in noisy]
    return heads.unclip(np.clip(np.stack(made), 0, 1), sigma)


def epll(noisy, sigma, prior):
    """Half-quadratic splitting of EPLL for images (B, 3, H, W), with the correction for clamping.

    Each step denoises the patches for the noise that is assumed to be left, sigma / sqrt(step), and joins their mean
    with the noisy image: x = (y + step z) / (1 + step). Departure: z has the posterior mean of a patch instead of the
    answer of its likeliest component.
    """
    image = noisy
    for step in STEPS:
        patches = em.denoise(image, prior, sigma / np.sqrt(step))
        image = np.clip((noisy + step * patches) / (1 + step), 0, 1).astype(np.float32)
    return heads.unclip(image, sigma)


def methods(model, strengths):
    """Each method as a function of noisy images (B, 3, H, W) and the level.

    `strengths` are those of scikit-image's methods, by name.
    """

    def tuned(name):
        return lambda noisy, sigma: study.baseline(name, noisy, sigma, strengths[name])

    return {
        "full": model.denoise,
        "sure_heads": lambda noisy, sigma: model.pilot(noisy, sigma, "sure"),
        "clean_heads": model.pilot,
        "cbm3d": cbm3d,
        "epll": lambda noisy, sigma: epll(noisy, sigma, model.prior),
        "nlm": tuned("NLM"),
        "wavelets": tuned("wavelets"),
        "tv": tuned("TV"),
    }


def timed(call, noisy, sigma):
    """What a call gives for images (B, 3, H, W), and its CPU milliseconds an image after one call to compile."""
    call(noisy[:2], sigma)
    start = time.process_time()
    result = call(noisy, sigma)
    return result, 1000 * (time.process_time() - start) / len(noisy)


def tuned_strengths(sigma):
    """Strengths of scikit-image's methods on training images that nothing else uses here, by method."""
    raw, _ = data.load_cifar("train")
    index, _ = data.split(len(raw), 0)
    clean = (raw[index[:TUNING_IMAGES]] / 255).astype(np.float32)
    return study.tune_baselines(clean, data.add_noise(clean, sigma, TUNING_SEED), sigma)


def measure(model, clean, sigma):
    """The metrics of one noise level, on clean images (B, 3, H, W)."""
    noisy = data.add_noise(clean, sigma, SEED)
    key = round(100 * sigma)
    out, psnr, ssim = {}, {}, {}
    for name, call in methods(model, tuned_strengths(sigma)).items():
        made, spent = timed(call, noisy, sigma)
        psnr[name] = quality.psnr(clean, made)
        ssim[name] = quality.ssim(clean, made)
        text = f"{NAMES[name]}, first {len(clean)} test images, sigma {sigma} clamped"
        stem = f"em_{name}_first{len(clean)}"
        out[f"{stem}_psnr_db_{key}"] = record.metric(
            intervals.bootstrap_mean(psnr[name]), unit="dB", band=0.01, what=f"PSNR, {text}"
        )
        out[f"{stem}_ssim_{key}"] = record.metric(
            intervals.bootstrap_mean(ssim[name]), band=0.001, what=f"SSIM, {text}"
        )
        out[f"{stem}_ms_{key}"] = record.metric(
            spent, unit="ms", n=len(clean), what=f"CPU an image, one thread, {text}"
        )
        print(f"{sigma} {name:12} {psnr[name].mean():.3f} dB {spent:.1f} ms", flush=True)
    for ours, peer in COMPARED:
        text = f"{NAMES[ours]} minus {NAMES[peer]}, same images, sigma {sigma}"
        out[f"em_{ours}_over_{peer}_db_{key}"] = record.metric(
            intervals.paired_difference(psnr[ours], psnr[peer]),
            unit="dB",
            band=0.01,
            what=f"PSNR, {text}",
            headline=(ours, peer) == ("full", "cbm3d"),
        )
        out[f"em_{ours}_over_{peer}_ssim_{key}"] = record.metric(
            intervals.paired_difference(ssim[ours], ssim[peer]), band=0.001, what=f"SSIM, {text}"
        )
    return out


def main():
    numba.set_num_threads(1)
    test, _ = data.load_cifar("test")  # in the canonical order, so these are the first of all
    clean = (test[:IMAGES] / 255).astype(np.float32)
    model = denoiser.load(params.root() / "models" / "em_denoiser.safetensors")
    out = recording.metrics_of("em_cbm3d")
    for sigma in [float(word) for word in sys.argv[1:]] or model.levels:
        out |= measure(model, clean, sigma)
        recording.write("em_cbm3d", out, {"device": "cpu", "seed": SEED, "threads": 1})


if __name__ == "__main__":
    recording.run(main)
