"""What the shipped mixture is worth: `python benchmarks/mixture_quality.py [PART ...]`, see PARTS below.

Needs all of CIFAR-10 (`python -m lib data fetch`), the weights in models/, and in runs/full/mixture the controls of
nearly as many CPU seconds of training, which do not ship (a missing one is named with its command and minutes). All 10,000 test images at sigma 0.2 clamped; windows sent elsewhere than the router
would; noise levels from 0.05 to 0.5; classical filters; operations and milliseconds; whole photographs that
scikit-image brings along. About eight minutes of one thread. Writes benchmarks/mixture_quality.json and the figures of
the model card; with names of parts, only those are measured again.

`seeds` compares trainings of other seeds, too: it takes those that lie in runs/full/mixture.
"""

import json
import re
import statistics
import sys
import time

import full_runs
import numpy as np
import recording
import torch
from recording import ROOT
from scipy.ndimage import gaussian_filter
from skimage import data as photographs
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet
from torch.utils.flop_counter import FlopCounterMode

from lib.common import data, intervals, params, quality, record
from lib.mixture import denoiser
from lib.mixture.announced import Routing

SIGMA, LEVELS, SEED = 0.2, (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5), 0
PLANS = ("learned", "random", "fixed", "all", "none")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
CONTROLS = ("unet", "ours_committed")
WHAT = {
    "ours": "ours",
    "unet": "no attention, nearly as many CPU seconds",
    "ours_committed": "windows routed by the router in training, too",
}
RIVALS = {
    "over_unet": ("unet", "the control without attention"),
    "over_committed": ("ours_committed", "the same network that followed its router in training"),
    "router_gain": ("random", "the same weights along random routes, as in their training"),
}
FEW = 1000  # test images, where a filter or a level is slow


def weights(arm):
    """Ours ships; the controls are made, and a UserError says how."""
    if arm == "ours":
        return ROOT / "models" / "mixture_denoiser.safetensors"
    return full_runs.weights_of(arm, SEED)


def restore(model, noisy, sigma, how="learned"):
    """Denoised images, as numpy; random plans have the same seed everywhere."""
    routing = Routing(how, torch.Generator().manual_seed(SEED))
    return denoiser.denoise(model, torch.from_numpy(noisy), sigma, routing=routing).numpy()


def decibels(values, what, **options):
    """A metric of PSNR values or of their differences, one per image."""
    mean = values if isinstance(values, intervals.Interval) else intervals.bootstrap_mean(values)
    return record.metric(mean, unit="dB", band=0.02, what=what, **options)


def arms(models, clean, noise_seed):
    """Ours (three noise seeds) and its controls (the first of them) on all test images."""
    what = "10,000 test images, sigma 0.2 clamped"
    noisy = data.add_noise(clean, SIGMA, noise_seed)
    out, psnr = {}, {}
    for arm, model in models.items():
        image = restore(model, noisy, SIGMA, denoiser.ARMS[arm].routing)
        psnr[arm] = quality.psnr(clean, image)
        out |= measures(f"mixture_full_{arm}", clean, image, f"{WHAT[arm]}, {what}")
        size = denoiser.parameters(model)
        out[f"mixture_full_{arm}_params"] = record.metric(size, n=1, what=WHAT[arm])
    trained = training_seconds()
    spent = f"{trained['mixture_training_seconds']['value']:,.0f} CPU s of training"
    out["mixture_cpu10_psnr_db"] = decibels(
        over_noise_seeds(models["ours"], psnr["ours"], clean, noise_seed),
        f"PSNR, ours, {spent}, 3 noise seeds, {what}",
        headline=True,
    )
    before = quality.psnr(clean, noisy)
    out["mixture_full_noisy_psnr_db"] = decibels(before, f"PSNR, noisy input, {what}")
    psnr["random"] = quality.psnr(clean, restore(models["ours"], noisy, SIGMA, "random"))
    for name, (other, text) in RIVALS.items():
        gain = intervals.paired_difference(psnr["ours"], psnr[other])
        out[f"mixture_full_{name}_db"] = decibels(gain, f"PSNR of ours minus {text}, {what}")
    return out | trained


def measures(name, clean, image, what):
    """Mean PSNR, PSNR of the pooled error and SSIM of denoised images."""
    pooled = quality.pooled_psnr(clean, image)
    ssim = intervals.bootstrap_mean(quality.ssim(clean, image))
    return {
        f"{name}_psnr_db": decibels(quality.psnr(clean, image), f"PSNR, {what}"),
        f"{name}_psnr_pooled_db": record.metric(
            pooled,
            unit="dB",
            n=len(clean),
            band=0.02,
            what=f"PSNR of the mean squared error, {what}",
        ),
        f"{name}_ssim": record.metric(ssim, band=0.002, what=f"SSIM, {what}"),
    }


def over_noise_seeds(model, first, clean, noise_seed):
    """The PSNR of each image (N,), its mean over three noise seeds; `first` is that of the first seed."""
    found = [first]
    for seed in (noise_seed + 2, noise_seed + 3):  # noise_seed + 1 is that of the validation images
        noisy = data.add_noise(clean, SIGMA, seed)
        found.append(quality.psnr(clean, restore(model, noisy, SIGMA)))
    return np.mean(found, axis=0)


def training_seconds():
    """CPU seconds of the trainings, and of ours until its validation images first passed what was announced."""
    out = {}
    prefixes = {"unet": "unet_", "ours_committed": "ours_committed_", "ours": ""}
    for arm, prefix in prefixes.items():
        _, about = denoiser.load_tensors(weights(arm))
        steps = about["config"]["steps"]
        what = f"training of {WHAT[arm].split(',')[0]}, {steps:,} steps"
        out[f"mixture_{prefix}training_seconds"] = record.metric(
            about["cpu_seconds"], unit="CPU s", n=1, what=what
        )
    every = about["config"]["val_every"]  # of ours, the last one
    passed = next((step for step, value in about["val_psnr"] if value > 25.12), steps)
    what = f"CPU seconds of training until 500 validation images, looked at every {every:,} steps, pass 25.12 dB"
    out["mixture_seconds_to_2512"] = record.metric(
        passed / steps * about["cpu_seconds"], unit="CPU s", n=1, what=what, headline=True
    )
    return out


def seeds(models, clean, noise_seed):
    """Ours against each control over all training seeds for which both are there; an image counts with its mean."""
    trained = {(arm, SEED): model for arm, model in models.items()}
    for path in sorted((ROOT / "runs" / "full" / "mixture").glob("*/weights.safetensors")):
        arm, seed = path.parent.name.rsplit("-", 1)
        if arm in models and int(seed) != SEED:
            trained[arm, int(seed)] = denoiser.load_weights(path, arm)
    noisy = data.add_noise(clean, SIGMA, noise_seed)
    found = {}
    for (arm, seed), model in trained.items():
        image = restore(model, noisy, SIGMA, denoiser.ARMS[arm].routing)
        found[arm, seed] = quality.psnr(clean, image)
        if arm == "ours":
            found["random", seed] = quality.psnr(clean, restore(model, noisy, SIGMA, "random"))
    ours = [seed for arm, seed in found if arm == "ours"]
    mean = np.mean([found["ours", seed] for seed in ours], axis=0)
    what = f"ours, training seeds {ours}, one noise seed"
    out = {"mixture_seeds_ours_psnr_db": decibels(mean, what)}
    for name, (other, text) in RIVALS.items():
        gains = {}
        for seed in ours:
            if (other, seed) in found:
                gains[seed] = found["ours", seed] - found[other, seed]
        each = ", ".join(f"{gain.mean():+.4f} ({seed})" for seed, gain in gains.items())
        what = f"PSNR of ours minus {text}, training seeds {sorted(gains)}: {each}"
        out[f"mixture_seeds_{name}_db"] = decibels(np.mean(list(gains.values()), axis=0), what)
        worst = min(gain.mean() for gain in gains.values())
        out[f"mixture_seeds_{name}_worst_db"] = record.metric(
            worst, unit="dB", n=len(gains), what="its worst seed"
        )
    return out


def plans(models, clean, noise_seed):
    """What becomes of ours when its windows are routed otherwise than in its training."""
    clean = clean[: 2 * FEW]
    noisy = data.add_noise(clean, SIGMA, noise_seed)
    psnr = {how: quality.psnr(clean, restore(models["ours"], noisy, SIGMA, how)) for how in PLANS}
    out = {}
    for how in PLANS[1:]:
        gain = intervals.paired_difference(psnr[how], psnr["learned"])
        what = f"PSNR change of ours when windows are routed: {how}; {len(clean):,} test images"
        out[f"mixture_full_plan_{how}_db"] = decibels(gain, what)
    return out


def levels(models, clean, noise_seed):
    """Ours, the control and the noisy input by noise level."""
    out = {}
    for sigma in LEVELS:
        noisy, key = data.add_noise(clean[:FEW], sigma, noise_seed), round(100 * sigma)
        found = {arm: restore(models[arm], noisy, sigma) for arm in ("ours", "unet")} | {
            "noisy": noisy
        }
        for name, image in found.items():
            what = f"PSNR, {name}, sigma {sigma} clamped, first {FEW:,} test images"
            out[f"mixture_level_{name}_psnr_db_{key}"] = decibels(
                quality.psnr(clean[:FEW], image), what
            )
    return out


def pixels(function, **options):
    """A filter of scikit-image for one image (H, W, 3), as a function of images (N, 3, H, W) and one strength."""

    def filtered(noisy, strength):
        out = [
            function(image.transpose(1, 2, 0), strength, channel_axis=2, **options)
            for image in noisy
        ]
        return np.clip(np.stack(out).transpose(0, 3, 1, 2), 0, 1).astype(np.float32)

    return filtered


FILTERS = {
    "blur": (
        lambda noisy, s: gaussian_filter(noisy, (0, 0, s, s)),
        (0.75, 1.0, 1.25),
        "Gaussian blur",
    ),
    "tv": (pixels(denoise_tv_chambolle), (0.1, 0.125, 0.15), "total variation, Chambolle"),
    "wavelet": (
        pixels(
            denoise_wavelet,
            wavelet="sym4",
            wavelet_levels=3,
            convert2ycbcr=True,
            method="BayesShrink",
        ),
        (0.16, 0.17, 0.18, 0.19, 0.2),
        "wavelet shrinkage, BayesShrink, sym4, 3 levels, YCbCr",
    ),
    "nlm": (
        pixels(lambda image, h, **rest: denoise_nl_means(image, 5, 7, h, sigma=SIGMA, **rest)),
        (0.03, 0.045, 0.06, 0.08, 0.1),
        "non-local means, 5 x 5 patches, radius 7",
    ),
}


def wiener(images, noise_seed):
    """The affine map that is best on noisy training images (ridge 1e-4): 9.4 million numbers, no network."""
    noisy = np.concatenate(
        [
            data.add_noise(part, SIGMA, noise_seed + 10 + i)
            for i, part in enumerate(np.split(images, 8))
        ]
    )
    x, y = (torch.from_numpy(some.reshape(len(some), -1)) for some in (noisy, images))
    centre, target = x.mean(0), y.mean(0)
    x, y = x - centre, y - target
    square = (x.T @ x / len(x)).double() + 1e-4 * torch.eye(x.shape[1], dtype=torch.float64)
    matrix = torch.linalg.solve(square, (x.T @ y / len(x)).double()).float()
    return lambda some: (
        ((torch.from_numpy(some).flatten(1) - centre) @ matrix + target)
        .view(some.shape)
        .clamp(0, 1)
        .numpy()
    )


def anchors(models, clean, noise_seed):
    """Classical filters, tuned on 100 training images, and the Wiener matrix."""
    images, _ = data.load_cifar("train", "full")
    train = (images[data.split(len(images), SEED)[0]] / 255).astype(np.float32)
    noisy = data.add_noise(clean[:FEW], SIGMA, noise_seed)
    tune, out = data.add_noise(train[:100], SIGMA, noise_seed + 5), {}
    found = {
        "wiener": (wiener(train, noise_seed)(noisy), "best affine map of the whole image (Wiener)")
    }
    for name, (function, strengths, text) in FILTERS.items():
        best = max(
            strengths, key=lambda s, f=function: quality.psnr(train[:100], f(tune, s)).mean()
        )
        found[name] = function(noisy, best), f"{text}, strength {best}"
    theirs = json.loads((ROOT / "benchmarks" / "em_cbm3d.json").read_text())["metrics"][
        "em_cbm3d_first100_psnr_db_20"
    ]
    out["mixture_anchor_cbm3d_psnr_db"] = theirs | {
        "what": f"{theirs['what']} (benchmarks/em_cbm3d.py)"
    }
    same = data.add_noise(clean[:100], SIGMA, 11)  # images and noise of that benchmark
    values = quality.psnr(clean[:100], restore(models["ours"], same, SIGMA))
    out["mixture_anchor_cbm3d_ours_psnr_db"] = decibels(
        values, "PSNR, ours, on the images and noise of CBM3D"
    )
    for name, (image, text) in found.items():
        what = f"{text}; first {FEW:,} test images, sigma 0.2 clamped"
        out[f"mixture_anchor_{name}_psnr_db"] = decibels(quality.psnr(clean[:FEW], image), what)
        ssim = intervals.bootstrap_mean(quality.ssim(clean[:FEW], image))
        out[f"mixture_anchor_{name}_ssim"] = record.metric(ssim, band=0.002, what=what)
    return out


def costs(models, clean, noise_seed):
    """Multiply-adds and CPU milliseconds of a 32 x 32 image in a batch of 64, by plan; taking turns, median of 9."""
    images, sigma = torch.from_numpy(clean[:64]), torch.full((64,), SIGMA)
    calls = {f"plan_{how}": (models["ours"], Routing(how, torch.Generator())) for how in PLANS}
    calls["unet"] = models["unet"], Routing()
    times, out = {name: [] for name in calls}, {}
    for _ in range(10):
        for name, (model, routing) in calls.items():
            start = time.process_time()
            with torch.no_grad():
                model(images, sigma, routing)
            times[name].append((time.process_time() - start) / 64 * 1e3)
    for name, (model, routing) in calls.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images[:1], sigma[:1], routing)
        ms = sorted(times[name][1:])
        out[f"mixture_cost_{name}_mmac"] = record.metric(
            counter.get_total_flops() / 2e6,
            unit="million",
            n=1,
            what=f"multiply-adds of a 32 x 32 image, {name}",
        )
        out[f"mixture_cost_{name}_ms"] = record.metric(
            statistics.median(ms),
            unit="CPU ms",
            n=len(ms),
            low=ms[0],
            high=ms[-1],
            what=f"a 32 x 32 image, {name}",
        )
    return out


def photos(models, clean, noise_seed):
    """Ours on whole photographs by plan: decibels, and seconds of this process."""
    out = {}
    for number, name in enumerate(PHOTOGRAPHS):
        picture = (getattr(photographs, name)() / np.float32(255)).transpose(2, 0, 1)[None]
        noisy = data.add_noise(np.ascontiguousarray(picture), SIGMA, noise_seed + number)
        for how in (*PLANS, "unet"):
            start = time.process_time()
            image = restore(
                models["unet" if how == "unet" else "ours"],
                noisy,
                SIGMA,
                how.replace("unet", "learned"),
            )
            seconds = time.process_time() - start
            size = f"{picture.shape[3]} x {picture.shape[2]} pixels"
            what = f"{name}, {size}, sigma {SIGMA} clamped, windows routed: {how}".replace(
                "windows routed: unet", "no attention"
            )
            value = quality.psnr(picture, image)[0]
            out[f"mixture_{name}_{how}_psnr_db"] = record.metric(
                value, unit="dB", n=1, band=0.02, what=what
            )
            out[f"mixture_{name}_{how}_cpu_s"] = record.metric(seconds, unit="s", n=1, what=what)
    return out


CARD = ROOT / "models" / "mixture_denoiser.md"
PARTS = {part.__name__: part for part in (arms, seeds, plans, levels, anchors, costs, photos)}


def card(found):
    """Put the measured numbers into the model card, between its two marks."""

    def interval(name):
        entry = found[name]
        return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"

    rows = [
        f"* Ours: {interval('mixture_cpu10_psnr_db')} dB, mean over the 10,000 test images and three noise seeds; "
        f"{found['mixture_full_ours_psnr_pooled_db']['value']:.3f} dB of the pooled error; "
        f"SSIM {interval('mixture_full_ours_ssim')}; "
        f"{found['mixture_training_seconds']['value']:,.0f} CPU seconds of training.",
        f"* Above the control without attention, {found['mixture_unet_training_seconds']['value']:,.0f} CPU seconds: "
        f"{interval('mixture_full_over_unet_db')} dB.",
    ]
    rows += [
        f"* Above {RIVALS[name][1]}: {interval(f'mixture_full_{name}_db')} dB."
        for name in list(RIVALS)[1:]
    ]
    if "mixture_seeds_over_unet_db" in found:
        n = found["mixture_seeds_over_unet_worst_db"]["n"]
        rows.append(
            f"* Over {n} training seeds: {interval('mixture_seeds_ours_psnr_db')} dB with one noise seed, "
            f"{interval('mixture_seeds_over_unet_db')} dB above the control."
        )
    rows += [
        f"* Windows routed otherwise after training, {how}: {interval(f'mixture_full_plan_{how}_db')} dB."
        for how in PLANS[1:]
    ]
    text = CARD.read_text(encoding="utf-8")
    marked = re.sub(
        r"(<!-- figures -->\n).*(<!-- end -->)",
        lambda m: m[1] + "\n".join(rows) + "\n" + m[2],
        text,
        flags=re.S,
    )
    CARD.write_text(marked, encoding="utf-8")


def main():
    torch.set_num_threads(1)
    noise_seed = params.load("full").noise_seed
    models = {arm: denoiser.load_weights(weights(arm), arm) for arm in ("ours", *CONTROLS)}
    test, _ = data.load_cifar("test", "full")
    clean = (test / 255).astype(np.float32)
    out = recording.metrics_of("mixture_quality") if sys.argv[1:] else {}
    for name in sys.argv[1:] or PARTS:
        found = PARTS[name](models, clean, noise_seed)
        print({name: round(entry["value"], 4) for name, entry in found.items()}, flush=True)
        out |= found
        run = {"device": "cpu", "seed": SEED, "threads": 1}
        recording.write("mixture_quality", out, run)
    card(out)


if __name__ == "__main__":
    recording.run(main)
