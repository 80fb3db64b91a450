"""The EM denoiser beside CBM3D on the first 100 test images: `python benchmarks/em_cbm3d.py`.

CBM3D is the package bm3d 4.0.3 (Makinen, Azzari and Foi, TIP 2020), no dependency of this project; install it with
`pip install bm3d==4.0.3` in an environment of your own. It is told the noise deviation before clamping and gets
the same correction of the clamping bias as our training-free filter. Some ten minutes a noise level;
`... em_cbm3d.py 0.1` does one level and keeps the other. Writes benchmarks/em_cbm3d.json.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import data, evidence, files, metrics, params
from lib.diffusion import experts, heads

IMAGES, SEED = 100, 11


def cbm3d(noisy, sigma):
    """CBM3D of images (B, 3, H, W): the estimate after the correction for clamping, and seconds a image."""
    bm3d_rgb = importlib.import_module("bm3d").bm3d_rgb
    start = time.perf_counter()
    out = np.stack([bm3d_rgb(image.transpose(1, 2, 0), sigma).transpose(2, 0, 1) for image in noisy])
    seconds = (time.perf_counter() - start) / len(noisy)
    return heads.unclip(np.clip(out, 0, 1), sigma), seconds


def main():
    test, _ = data.load_cifar("test")  # the sample keeps the canonical order, so its first 100 are the first 100 of all
    clean = (test[:IMAGES] / 255).astype(np.float32)
    model = experts.load_model(params.root() / "models" / "em_prior.safetensors")
    target = params.root() / "benchmarks" / "em_cbm3d.json"
    out = json.loads(target.read_text())["metrics"] if target.exists() else {}
    for sigma in [float(word) for word in sys.argv[1:]] or model.levels:
        noisy, key = data.add_noise(clean, sigma, SEED), round(100 * sigma)
        theirs, seconds = cbm3d(noisy, sigma)
        found = {"cbm3d": theirs, "free": model.pilot(noisy, sigma), "light": model.denoise(noisy, sigma)}
        quality = {name: metrics.psnr(clean, images) for name, images in found.items()}
        for name, what in (("cbm3d", "CBM3D"), ("free", "training-free graph"), ("light", "lightly trained")):
            text = f"PSNR, {what}, first {IMAGES} test images, sigma {sigma} clamped"
            out[f"em_{name}_first100_psnr_db_{key}"] = evidence.metric(
                evidence.bootstrap_mean(quality[name]), unit="dB", band=0.01, what=text
            )
        for name, metric in (("light", "em_cbm3d_gap_db"), ("free", "em_cbm3d_free_gap_db")):
            gap = evidence.paired_difference(quality[name], quality["cbm3d"])
            text = f"PSNR of ours ({name}) minus CBM3D, same images, sigma {sigma}"
            out[f"{metric}_{key}"] = evidence.metric(gap, unit="dB", band=0.01, what=text, headline=name == "light")
        out[f"em_cbm3d_ms_{key}"] = evidence.metric(
            1000 * seconds, unit="ms", n=IMAGES, what=f"CBM3D, milliseconds an image, sigma {sigma}"
        )
        print({name: round(entry["value"], 3) for name, entry in out.items()}, flush=True)
        run = {"device": "cpu", "seed": SEED, "threads": 1, **evidence.environment()}
        files.write_json(target, {"study": "em_cbm3d", "metrics": out, "run": run})


if __name__ == "__main__":
    main()
