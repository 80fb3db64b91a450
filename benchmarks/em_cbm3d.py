"""The EM denoiser beside CBM3D and NLM on the first 100 test images: `python benchmarks/em_cbm3d.py`.

CBM3D is the package bm3d 4.0.3 (Makinen, Azzari and Foi, TIP 2020), no dependency of this project; install it with
`pip install bm3d==4.0.3` in an environment of your own. It is told the noise deviation before clamping and gets
the same correction of the clamping bias as our training-free filter. Times are CPU milliseconds of one thread in this
one process, so that other work on the machine disturbs them little. Some ten minutes a noise level;
`... em_cbm3d.py 0.1` does one level and keeps the other. Writes benchmarks/em_cbm3d.json.
"""

import importlib
import sys
import time

import numba
import numpy as np
import recording

from lib.common import data, intervals, params, quality, record
from lib.diffusion import denoiser, heads
from lib.studies import diffusion as study

IMAGES, SEED = 100, 11
NAMES = {
    "cbm3d": "CBM3D",
    "free": "graph, weights by SURE",
    "light": "full denoiser",
    "nlm": "scikit-image NLM",
}


def cbm3d(noisy, sigma):
    """CBM3D of images (B, 3, H, W), with the correction for clamping."""
    bm3d_rgb = importlib.import_module("bm3d").bm3d_rgb
    out = np.stack(
        [bm3d_rgb(image.transpose(1, 2, 0), sigma).transpose(2, 0, 1) for image in noisy]
    )
    return heads.unclip(np.clip(out, 0, 1), sigma)


def timed(call, *inputs):
    """What a call gives for images (B, 3, H, W), and its CPU milliseconds an image after one call to compile."""
    call(inputs[0][:2], *inputs[1:])
    start = time.process_time()
    result = call(*inputs)
    return result, 1000 * (time.process_time() - start) / len(inputs[0])


def main():
    numba.set_num_threads(1)
    test, _ = data.load_cifar(
        "test"
    )  # the sample keeps the canonical order, so its first 100 are the first 100 of all
    clean = (test[:IMAGES] / 255).astype(np.float32)
    model = denoiser.load(params.root() / "models" / "em_denoiser.safetensors")
    out = recording.metrics_of("em_cbm3d")
    for sigma in [float(word) for word in sys.argv[1:]] or model.levels:
        noisy, key = data.add_noise(clean, sigma, SEED), round(100 * sigma)
        strength = {0.1: 0.6, 0.2: 0.4}[sigma]  # as tuned in notebook 02
        calls = {
            "free": lambda images, level: model.pilot(images, level, "sure"),
            "light": model.denoise,
            "cbm3d": cbm3d,
            "nlm": lambda images, level, h=strength: study.baseline("NLM", images, level, h),
        }
        found = {name: timed(call, noisy, sigma) for name, call in calls.items()}
        psnr = {name: quality.psnr(clean, images) for name, (images, _) in found.items()}
        ssim = {name: quality.ssim(clean, images) for name, (images, _) in found.items()}
        for name, what in NAMES.items():
            text = f"{what}, first {IMAGES} test images, sigma {sigma} clamped"
            mean, same = (
                intervals.bootstrap_mean(psnr[name]),
                intervals.bootstrap_mean(ssim[name]),
            )
            out[f"em_{name}_first100_psnr_db_{key}"] = record.metric(
                mean, unit="dB", band=0.01, what=f"PSNR, {text}"
            )
            out[f"em_{name}_first100_ssim_{key}"] = record.metric(
                same, band=0.001, what=f"SSIM, {text}"
            )
            text = f"{what}, CPU milliseconds an image, one thread, sigma {sigma}"
            out[f"em_{name}_first100_ms_{key}"] = record.metric(
                found[name][1], unit="ms", n=IMAGES, what=text
            )
        for name, metric in (("light", "em_cbm3d_gap"), ("free", "em_cbm3d_free_gap")):
            text = f"of ours ({name}) minus CBM3D, same images, sigma {sigma}"
            gap = intervals.paired_difference(psnr[name], psnr["cbm3d"])
            out[f"{metric}_db_{key}"] = record.metric(
                gap, unit="dB", band=0.01, what=f"PSNR {text}", headline=name == "light"
            )
            gap = intervals.paired_difference(ssim[name], ssim["cbm3d"])
            out[f"{metric}_ssim_{key}"] = record.metric(gap, band=0.001, what=f"SSIM {text}")
        out.pop(f"em_cbm3d_ms_{key}", None)  # of an older version: wall time
        print({name: round(entry["value"], 3) for name, entry in out.items()}, flush=True)
        recording.write("em_cbm3d", out, {"device": "cpu", "seed": SEED, "threads": 1})


if __name__ == "__main__":
    main()
