"""The quality network, its control and its peers: `python benchmarks/quality_network.py STEP ...`.

    train attentive 0 42000   the network (lib/mixture/attentive.py), about an hour of one core
    train residual 1 920      its control without attention: residual blocks in place of those that attend
    pace                      milliseconds of a step of both, in turns: how many steps of the control fit into the same time
    peers                     CBM3D and scikit-image's filters on photographs; needs the package bm3d, for this step only
    measure                   looks at the 10,000 test images once and writes benchmarks/quality_network.json
    control                   adds ours against the control, five seeds each

Needs all of CIFAR-10 (`python -m lib data fetch`). What is finished lies under checkpoints/quality/ and is not made again; a
training keeps a checkpoint every 500 steps there and goes on from it.
"""

import dataclasses
import importlib
import json
import statistics
import sys
import time

import numpy as np
import recording
import skimage.data
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lib.common import data, files, intervals, quality, record, tables
from lib.common.params import UserError
from lib.mixture import denoiser, symmetry, training
from lib.mixture.run import Run, TrainConfig, load_checkpoint, save_checkpoint

FOLDER = recording.ROOT / "checkpoints" / "quality"
RECIPE = TrainConfig(
    images=40_000,
    batch=32,
    learning_rate=2e-3,
    muon=0.02,
    weight_decay=1e-4,
    clip=1.0,
    balance=0.0,
    sigma=0.2,
    varied=0.25,
    schedule="trapezoid",
    cooling=0.6,
    average=0.998,
    bf16=True,
    logarithm=True,
)
SAVE_EVERY, VALIDATE_EVERY = 500, 2500  # steps
VALIDATION_IMAGES, VALIDATION_NOISE = 500, 1235
STEPS = 42_000  # of the network that ships
SEEDS = (1, 2, 3, 4, 5)  # of the comparison with the control; the search used 1000
SHORT = {"attentive": 600, "residual": 817}  # steps there, for the same CPU seconds (`pace`)
TEST_NOISE = 1234
LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
LEVEL_IMAGES = 2000
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle")
PHOTO_LEVELS = (0.1, 0.2, 0.3)
SIDE = 256  # pixels of the central squares that are used


class QualityRun(Run):
    """A training run whose batches come in all eight orientations."""

    def _batch(self) -> Tensor:
        number = int(torch.randint(0, symmetry.COUNT, (), generator=self.order))
        return symmetry.orient(super()._batch(), number)


def train(arm: str, seed: int, steps: int) -> None:
    """Train one network and keep its weights and its record under `FOLDER`."""
    out = FOLDER / f"{arm}-{seed}-{steps}.safetensors"
    if out.is_file():
        return
    training._prepare(threads=1)
    images, clean, noisy = training_images()
    config = dataclasses.replace(
        RECIPE, arm=arm, init_seed=seed, order_seed=seed, noise_seed=seed, steps=steps
    )
    run = QualityRun(config, images, torch.device("cpu"))
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    if checkpoint.is_file():
        load_checkpoint(run, checkpoint)
    while run.step < steps:
        started = time.process_time()
        line = run.advance()
        run.lines.append(time.process_time() - started)  # CPU seconds of each step
        if run.step % VALIDATE_EVERY == 0 or run.step == steps:
            decibels = psnr_of(run.result, clean, noisy)
            spent = sum(run.lines)
            print(f"{run.step} {spent:.0f} s {decibels:.4f} dB, {line['mse']:.5f}", flush=True)
        if run.step % SAVE_EVERY == 0:
            save_checkpoint(run, checkpoint)
    about = {"arm": arm, "seed": seed, "steps": steps, "cpu_seconds": round(sum(run.lines), 1)}
    about |= {"validation_psnr_db": psnr_of(run.result, clean, noisy)}
    denoiser.save_tensors(out, run.result.state_dict(), about)
    files.write_json(out.with_suffix(".json"), about)
    checkpoint.unlink(missing_ok=True)


def training_images() -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Training images as bytes, and validation images clean and noisy."""
    raw, _ = data.load_cifar("train", "full")
    kept, held_out = data.split(len(raw), 0)
    chosen = held_out[:VALIDATION_IMAGES]
    clean = raw[chosen].astype(np.float32) / 255
    noisy = data.add_noise(clean, RECIPE.sigma, VALIDATION_NOISE, indices=chosen)
    return raw[kept[: RECIPE.images]], clean, torch.from_numpy(noisy)


def psnr_of(network: torch.nn.Module, clean: np.ndarray, noisy: Tensor) -> float:
    """Mean PSNR after one pass, in dB."""
    image = denoiser.denoise(network, noisy, RECIPE.sigma)
    return float(quality.psnr(clean, image.numpy()).mean())


def trained(arm: str, seed: int, steps: int) -> tuple[torch.nn.Module, dict]:
    """A finished training's network and what is known of it. UserError: it is not there."""
    path = FOLDER / f"{arm}-{seed}-{steps}.safetensors"
    if not path.is_file():
        command = f"python benchmarks/quality_network.py train {arm} {seed} {steps}"
        raise UserError(f"{path.name}: not trained yet; `{command}` does it")
    _, about = denoiser.load_tensors(path)
    return denoiser.load_weights(path, arm), about


def pace() -> None:
    """CPU milliseconds of a step of both arms, which take turns in one process."""
    training._prepare(threads=1)
    images, _, _ = training_images()
    runs = {}
    for arm in SHORT:
        config = dataclasses.replace(RECIPE, arm=arm, steps=1000)
        runs[arm] = QualityRun(config, images, torch.device("cpu"))
    seconds = {arm: [] for arm in runs}
    for _ in range(60):
        for arm, run in runs.items():
            started = time.process_time()
            run.advance()
            seconds[arm].append(time.process_time() - started)
    for arm, values in seconds.items():
        print(f"{arm}: {1000 * statistics.median(values[10:]):.1f} ms a step")


# --- photographs -----------------------------------------------------------------------------------------------------


def photograph(name: str) -> np.ndarray:
    """The central square of one of scikit-image's photographs, (3, SIDE, SIDE) in [0, 1]."""
    picture = getattr(skimage.data, name)()
    if isinstance(picture, tuple):  # left and right view
        picture = picture[0]
    top = (picture.shape[0] - SIDE) // 2
    left = (picture.shape[1] - SIDE) // 2
    square = picture[top : top + SIDE, left : left + SIDE, :3]
    return square.transpose(2, 0, 1).astype(np.float32) / 255


def noisy_photographs() -> dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]:
    """(name, sigma) -> clean and noisy square, each (1, 3, SIDE, SIDE)."""
    found = {}
    for number, name in enumerate(PHOTOGRAPHS):
        clean = photograph(name)[None]
        for sigma in PHOTO_LEVELS:
            found[name, sigma] = clean, data.add_noise(clean, sigma, TEST_NOISE + number)
    return found


# Each filter with the strengths that are tried; the best on the very picture counts, which favours the filters.
FILTERS = {
    "NLM": (0.4, 0.5, 0.6, 0.7, 0.8),
    "wavelets": (0.7, 0.85, 1.0, 1.15),
    "TV": (0.4, 0.5, 0.6, 0.7, 0.8),
    "CBM3D": (0.85, 1.0),
}


def filtered(name: str, noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    """One filter on a picture (1, 3, H, W), told the level times `strength`."""
    picture = noisy[0].transpose(1, 2, 0)
    if name == "CBM3D":
        out = importlib.import_module("bm3d").bm3d_rgb(picture, strength * sigma)
    elif name == "NLM":
        out = denoise_nl_means(
            picture, h=strength * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=2
        )
    elif name == "wavelets":
        out = denoise_wavelet(
            picture, sigma=strength * sigma, convert2ycbcr=True, rescale_sigma=True, channel_axis=2
        )
    else:
        out = denoise_tv_chambolle(picture, weight=strength * sigma, channel_axis=2)
    return np.clip(out, 0, 1).transpose(2, 0, 1)[None].astype(np.float32)


def peers() -> None:
    """PSNR of every filter on every photograph, at its best strength there; kept under `FOLDER`."""
    rows = []
    for (name, sigma), (clean, noisy) in noisy_photographs().items():
        row = {"photograph": name, "sigma": sigma, "noisy": float(quality.psnr(clean, noisy)[0])}
        for way, strengths in FILTERS.items():
            tried = [filtered(way, noisy, sigma, strength) for strength in strengths]
            row[way] = max(float(quality.psnr(clean, image)[0]) for image in tried)
        rows.append(row)
        print(row, flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    files.write_json(FOLDER / "peers.json", rows)


def photographs(networks: dict[str, torch.nn.Module]) -> tuple[dict, list[dict]]:
    """Ours and the control beside the filters, mean over photographs and levels; and the rows behind it."""
    rows = json.loads((FOLDER / "peers.json").read_text())
    noisy_ones = noisy_photographs()
    for row in rows:
        clean, noisy = noisy_ones[row["photograph"], row["sigma"]]
        for name, network in networks.items():
            image = denoiser.denoise(network, torch.from_numpy(noisy), row["sigma"])
            row[name] = float(quality.psnr(clean, image.numpy())[0])
    out = {}
    ways = [*FILTERS, *networks]
    for way in ways:
        values = np.array([row[way] for row in rows])
        out[f"mixture_quality_photo_{key(way)}_db"] = decibels(
            intervals.bootstrap_mean(values),
            f"PSNR of {way}, {len(PHOTOGRAPHS)} photographs, three levels",
        )
    best = np.array([max(row[way] for way in FILTERS) for row in rows])
    ours = np.array([row["quality network"] for row in rows])
    out["mixture_quality_photo_over_best_filter_db"] = decibels(
        intervals.paired_difference(ours, best),
        "quality network minus the best filter of each photograph",
    )
    return out, rows


def key(way: str) -> str:
    """A name's form in metrics."""
    return way.lower().replace(" ", "_")


def decibels(value, what: str, **options) -> dict:
    """An entry in dB."""
    return record.metric(value, unit="dB", what=what, band=0.01, **options)


# --- the test images -------------------------------------------------------------------------------------------------


def measure() -> None:
    """Everything about the network that ships, on the test images, once."""
    training._prepare(threads=1)
    raw, _ = data.load_cifar("test", "full")
    clean = raw.astype(np.float32) / 255
    network, about = trained("attentive", 0, STEPS)
    metrics = on_test_images(network, clean)
    metrics |= over_levels(network, clean[:LEVEL_IMAGES]) | costs(network, about)
    shipped = denoiser.load_weights(recording.ROOT / "models" / "mixture_denoiser.safetensors")
    photo, rows = photographs({"quality network": network, "shipped before": shipped})
    write(metrics | photo, photographs=rows)


def control() -> None:
    """Ours and the control without attention, five seeds each; joins what `measure` wrote."""
    raw, _ = data.load_cifar("test", "full")
    metrics, by_seed = over_control(raw.astype(np.float32) / 255)
    write(metrics, by_seed=by_seed)


def write(metrics: dict, **details) -> None:
    """Add metrics and the values behind them to the record, and bring the card up to date."""
    path = recording.FOLDER / "quality_network.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    kept = {key: before[key] for key in ("photographs", "by_seed") if key in before}
    everything = before.get("metrics", {}) | metrics
    run = {"device": "cpu", "seed": 0, "threads": 1}
    recording.write("quality_network", everything, run, **(kept | details))
    write_card(everything)
    for name, entry in metrics.items():
        print(f"{name}: {entry['value']:.5g}")


CARD = recording.ROOT / "models" / "quality_denoiser.md"


def write_card(metrics: dict) -> None:
    """Put the measured numbers into the model card, between its two marks."""
    rows = []
    for name in (
        "psnr_db",
        "ensemble_psnr_db",
        "ssim",
        "over_control_db",
        "level_gain_min_db",
        "photo_over_best_filter_db",
        "params",
        "training_seconds",
    ):
        entry = metrics.get(f"mixture_quality_{name}")
        if entry is None:
            continue
        rows.append(f"* {entry['what']}: {tables.number(entry)}")
    before, rest = CARD.read_text(encoding="utf-8").split("<!-- figures -->")
    _, after = rest.split("<!-- end -->")
    marked = "\n".join(["<!-- figures -->", *rows, "<!-- end -->"])
    files.write_text(CARD, before + marked + after)


def on_test_images(network: torch.nn.Module, clean: np.ndarray) -> dict:
    """Single pass and self-ensemble on all test images at the level of the announcement."""
    noisy = torch.from_numpy(data.add_noise(clean, RECIPE.sigma, TEST_NOISE))

    def once(images: Tensor) -> Tensor:
        return denoiser.denoise(network, images, RECIPE.sigma)

    single, averaged = once(noisy).numpy(), symmetry.self_ensemble(once, noisy).numpy()
    psnr, more = quality.psnr(clean, single), quality.psnr(clean, averaged)
    what = f"quality network, {len(clean):,} test images, sigma {RECIPE.sigma} clamped"
    return {
        "mixture_quality_psnr_db": decibels(
            intervals.bootstrap_mean(psnr), f"PSNR, single pass, {what}", headline=True
        ),
        "mixture_quality_ensemble_psnr_db": decibels(
            intervals.bootstrap_mean(more),
            f"PSNR, mean of eight orientations, {what}",
            headline=True,
        ),
        "mixture_quality_ensemble_gain_db": decibels(
            intervals.paired_difference(more, psnr), f"eight orientations minus one, {what}"
        ),
        "mixture_quality_ssim": record.metric(
            intervals.bootstrap_mean(quality.ssim(clean, single)),
            what=f"SSIM, single pass, {what}",
            band=0.001,
            headline=True,
        ),
        "mixture_quality_pooled_psnr_db": decibels(
            float(quality.pooled_psnr(clean, single)),
            f"PSNR of the mean error, {what}",
            n=len(clean),
        ),
    }


def over_levels(network: torch.nn.Module, clean: np.ndarray) -> dict:
    """PSNR at seven levels, and the smallest gain over the noisy input."""
    out, gains = {}, []
    for sigma in LEVELS:
        noisy = data.add_noise(clean, sigma, TEST_NOISE)
        image = denoiser.denoise(network, torch.from_numpy(noisy), sigma).numpy()
        gain = intervals.paired_difference(quality.psnr(clean, image), quality.psnr(clean, noisy))
        gains.append(gain)
        what = f"quality network over the noisy input, {len(clean):,} test images, sigma {sigma}"
        out[f"mixture_quality_level_gain_db_{round(100 * sigma)}"] = decibels(gain, what)
    worst = min(gains, key=lambda gain: gain.mean)
    out["mixture_quality_level_gain_min_db"] = decibels(
        worst, "smallest gain over the noisy input from 0.05 to 0.5"
    )
    return out


def over_control(clean: np.ndarray) -> tuple[dict, dict]:
    """Ours minus the control for the same CPU seconds, over seeds and test images; and the means by seed."""
    noisy = torch.from_numpy(data.add_noise(clean, RECIPE.sigma, TEST_NOISE))
    psnr, seconds = {}, {}
    for arm, steps in SHORT.items():
        found = []
        for seed in SEEDS:
            network, about = trained(arm, seed, steps)
            image = denoiser.denoise(network, noisy, RECIPE.sigma).numpy()
            found.append(quality.psnr(clean, image))
            seconds.setdefault(arm, []).append(about["cpu_seconds"])
        psnr[arm] = np.array(found)  # (seeds, N)
    difference = psnr["attentive"] - psnr["residual"]
    by_seed = {arm: values.mean(1).tolist() for arm, values in psnr.items()} | {"seconds": seconds}
    spent = statistics.fmean(seconds["attentive"])
    what = f"attention minus the control, {len(SEEDS)} seeds, {spent:.0f} CPU s each, test images"
    worst = float(difference.mean(1).min())
    return {
        "mixture_quality_over_control_db": decibels(
            intervals.crossed_mean(difference), f"{what}; seeds and images resampled", headline=True
        ),
        "mixture_quality_over_control_worst_seed_db": decibels(
            worst, f"{what}; the worst seed", n=len(SEEDS)
        ),
    }, by_seed


def costs(network: torch.nn.Module, about: dict) -> dict:
    """Parameters, operations, milliseconds beside the announced network's, and the training's seconds."""
    images, level = torch.rand(64, 3, 32, 32), torch.full((64,), RECIPE.sigma)
    announced = denoiser.build("announced", 0).eval()
    milliseconds = {"quality": [], "announced": []}
    with torch.no_grad():
        for _ in range(16):
            for name, one in (("quality", network), ("announced", announced)):
                started = time.process_time()
                one(images, level)
                spent = time.process_time() - started
                milliseconds[name].append(1000 * spent / len(images))
        with FlopCounterMode(display=False) as counter:
            network(images[:1], level[:1])
    out = {
        "mixture_quality_params": record.metric(
            denoiser.parameters(network), n=1, what="parameters of the quality network"
        ),
        "mixture_quality_mmac": record.metric(
            counter.get_total_flops() / 2e6, n=1, what="million multiply-adds an image of 32 pixels"
        ),
        "mixture_quality_training_seconds": record.metric(
            about["cpu_seconds"],
            n=1,
            unit="CPU s",
            what=f"training of {about['steps']:,} steps of 32",
        ),
    }
    for name, values in milliseconds.items():
        kept = sorted(values[1:])
        out[f"mixture_quality_{name}_ms"] = record.metric(
            statistics.median(kept),
            low=kept[0],
            high=kept[-1],
            n=len(kept),
            unit="CPU ms",
            what=f"an image of 32 pixels, batch 64, one thread: {name} network",
        )
    return out


def main() -> None:
    words = sys.argv[1:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    if len(words) == 4 and words[0] == "train":
        train(words[1], int(words[2]), int(words[3]))
        return
    steps = {"pace": pace, "peers": peers, "measure": measure, "control": control}
    if len(words) != 1 or words[0] not in steps:
        raise UserError(f"use `train ARM SEED STEPS`, or one of {', '.join(steps)}")
    steps[words[0]]()


if __name__ == "__main__":
    recording.run(main)
