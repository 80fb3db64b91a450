"""How a grey picture is denoised best with what is at hand: `python benchmarks/grey.py choose`, `low`, `judge`.

The rule stands in docs/log.md, "2026-11-25, grey, clean and compressed pictures", and was written before the first
run. `choose` tunes the strength of each way and compares the ways and the estimates of the noise's level (four minutes of
one core), and `low` finds the level below which a picture is better left alone; both see only the pictures that
choose. `judge` measures the ways with these strengths on the other pictures (two minutes). Writes benchmarks/grey.json.

Shapes: a picture is (H, W), float32 in [0, 1].
"""

import json
import sys
import time

import numpy as np
import recording
import torch
from recording import ROOT
from skimage import color
from skimage import data as pictures
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet
from skimage.restoration import estimate_sigma as wavelet_estimate

from lib.common import record
from lib.diffusion import denoiser as em_denoiser
from lib.diffusion import em
from lib.mixture import denoiser
from lib.mixture.run import SIGMAS

CHOOSE = ("brick", "cell", "clock", "grass", "microaneurysms", "page", "astronaut", "chelsea")
COLOURS = ("astronaut", "chelsea", "immunohistochemistry")  # for the level left alone only
JUDGE = ("camera", "coins", "moon", "text", "gravel", "coffee", "rocket")
SIDE = 192  # of the central square, in pixels
LEVELS = (0.05, 0.1, 0.2, 0.3)
LOW_LEVELS = (0.0, 0.01, 0.02, 0.03, 0.05)
THRESHOLDS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05)
CAP = 50.0  # dB; a picture that is left alone and clean would count as infinite
SLOWEST = 10  # times the CPU seconds of the network as it was
NEAR = 0.05  # dB within which the cheaper way wins
SEED = 0


# Pictures


def luma_square(name: str) -> np.ndarray:
    """The central square of a picture of scikit-image, grey: (H, W) float32 in [0, 1], 8 bits of resolution."""
    picture = getattr(pictures, name)()
    if picture.ndim == 3:
        picture = np.round(255 * color.rgb2gray(picture))
    return (central_square(picture) / 255).astype(np.float32)


def central_square(picture: np.ndarray) -> np.ndarray:
    """At most SIDE pixels each way."""
    top = max(0, (picture.shape[0] - SIDE) // 2)
    left = max(0, (picture.shape[1] - SIDE) // 2)
    return picture[top : top + SIDE, left : left + SIDE]


def as_file(picture: np.ndarray) -> np.ndarray:
    """What an 8-bit file keeps of a picture: clamped to [0, 1] and rounded."""
    return (np.round(255 * np.clip(picture, 0, 1)) / 255).astype(np.float32)


def add_noise(clean: np.ndarray, sigma: float, number: int) -> np.ndarray:
    """The noisy file of picture `number`; each picture and level has a noise of its own."""
    rng = np.random.default_rng([SEED, number, round(1000 * sigma)])
    return as_file(clean + sigma * rng.standard_normal(clean.shape))


def psnr(clean: np.ndarray, test: np.ndarray) -> float:
    """Decibels, at most CAP."""
    error = np.mean((clean.astype(np.float64) - test) ** 2)
    return min(CAP, -10 * np.log10(max(error, 1e-12)))


# Ways to denoise: (picture, level, strength) -> picture

MODEL = denoiser.load_weights(ROOT / "models" / "mixture_denoiser.safetensors", "ours")
PRIOR = em_denoiser.load(ROOT / "models" / "em_denoiser.safetensors").prior


def run_network(channels: np.ndarray, told: float) -> np.ndarray:
    """The network's answer to three channels (3, H, W), told a level: their mean (H, W)."""
    told = float(np.clip(told, *SIGMAS))
    batch = torch.from_numpy(np.ascontiguousarray(channels, dtype=np.float32))[None]
    return denoiser.denoise(MODEL, batch, told)[0].mean(0).numpy()


def network_equal(noisy, sigma, strength):
    """Three equal channels, told `strength` times the level."""
    return run_network(np.repeat(noisy[None], 3, axis=0), strength * sigma)


def three_independent(noisy, sigma, rng):
    """Three channels (3, H, W) with independent noise of sqrt(3) sigma each, whose mean is the picture.

    The picture's noise n is in all three; m sums to zero over them. var(n + m_c) = sigma^2 + 2 sigma^2, and
    cov(n + m_c, n + m_d) = sigma^2 - sigma^2 = 0.
    """
    added = rng.standard_normal((3, *noisy.shape))
    added = np.sqrt(3) * sigma * (added - added.mean(axis=0))
    return noisy + added


def network_independent(noisy, sigma, strength, draws=1):
    """Three channels with independent noise, told `strength` times the level; the mean over some draws."""
    rng = np.random.default_rng(SEED)
    found = [
        run_network(three_independent(noisy, sigma, rng), strength * sigma) for _ in range(draws)
    ]
    return np.mean(found, axis=0)


def network_four_draws(noisy, sigma, strength):
    return network_independent(noisy, sigma, strength, draws=4)


def non_local_means(noisy, sigma, strength):
    return denoise_nl_means(
        noisy, patch_size=5, patch_distance=7, h=strength * sigma, sigma=sigma, fast_mode=True
    )


def total_variation(noisy, sigma, strength):
    return denoise_tv_chambolle(noisy, weight=strength * sigma)


def wavelets(noisy, sigma, strength):
    return denoise_wavelet(
        noisy, sigma=strength * sigma, wavelet="sym4", method="BayesShrink", rescale_sigma=True
    )


def grey_mixture(prior):
    """The Gaussian mixture of patches (D,) seen through the mean of the channels (p^2,): weights, means, covariances.

    A linear map of a Gaussian is a Gaussian: mean A mu, covariance A C A'.
    """
    rank = prior.means.shape[1]
    to_grey = np.kron(np.full((1, 3), 1 / 3), np.eye(prior.patch**2))  # (p^2, D)
    seen = to_grey @ prior.basis  # (p^2, D)
    mixed, rest = seen[:, :rank], seen[:, rank:]
    means = to_grey @ prior.mean + prior.means @ mixed.T  # (K, p^2)
    common_part = (rest * prior.rest) @ rest.T
    covariances = []
    for vectors, values in zip(prior.vectors, prior.values, strict=True):
        directions = mixed @ vectors
        covariances.append((directions * values) @ directions.T + common_part)
    return prior.weights, means, np.stack(covariances)


def patch_prior(noisy, sigma, strength):
    """The posterior mean of every patch under the grey mixture, overlapping patches averaged."""
    level = strength * sigma
    weights, means, covariances = grey_mixture(PRIOR)
    side = PRIOR.patch
    windows = np.lib.stride_tricks.sliding_window_view(noisy, (side, side))
    patches = windows.reshape(-1, side**2)  # (N, p^2)
    scores = np.empty((len(patches), len(weights)), np.float32)
    for k, covariance in enumerate(covariances):
        values, vectors = np.linalg.eigh(covariance + level**2 * np.eye(side**2))
        whiten = (vectors / np.sqrt(values)).astype(np.float32)
        z = (patches - means[k].astype(np.float32)) @ whiten
        scores[:, k] = (
            np.log(weights[k]) - 0.5 * np.log(values).sum() - 0.5 * np.einsum("nd,nd->n", z, z)
        )
    shares, _ = em.attention(scores)  # (N, K)
    estimate = np.zeros_like(patches)
    for k, covariance in enumerate(covariances):
        near = np.flatnonzero(shares[:, k] > 1e-4)
        gain = covariance @ np.linalg.inv(covariance + level**2 * np.eye(side**2))
        mean = means[k].astype(np.float32)
        answer = mean + (patches[near] - mean) @ gain.T.astype(np.float32)
        estimate[near] += shares[near, k, None] * answer
    stacked = np.repeat(estimate[:, None], 3, axis=1).reshape(len(patches), -1)
    return em.overlap(stacked, (1, 3, *noisy.shape), side)[0, 0]


ROOT_3 = float(np.sqrt(3))
WAYS = {
    "network as it was": (network_equal, (1.0,)),
    "network, level scaled": (network_equal, (1.5, ROOT_3, 2.0, 2.5, 3.0, 4.0)),
    "network, independent channels": (network_independent, (1.5, ROOT_3, 2.0)),
    "network, independent channels, four draws": (network_four_draws, (ROOT_3,)),
    "non-local means": (non_local_means, (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)),
    "total variation": (total_variation, (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5)),
    "wavelets": (wavelets, (0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)),
    "patch prior, grey": (patch_prior, (0.9, 1.0, 1.15, 1.3)),
}


def denoised(way: str, noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    return as_file(WAYS[way][0](noisy, sigma, strength))


# Estimates of the level


def haar_details(picture):
    """Absolute diagonal Haar details and the mean of each 2 x 2 square, (H/2, W/2) each."""
    height, width = (size - size % 2 for size in picture.shape[:2])
    a = picture[0:height:2, 0:width:2]
    b = picture[0:height:2, 1:width:2]
    c = picture[1:height:2, 0:width:2]
    d = picture[1:height:2, 1:width:2]
    return np.abs(a - b - c + d) / 2, (a + b + c + d) / 4


def haar_estimate(picture):
    """The median detail over 0.6745, where few values are clipped (Donoho and Johnstone 1994)."""
    detail, mean = haar_details(picture)
    middle = detail[np.abs(mean - 0.5) < 0.2]
    return float(np.median(middle if middle.size >= 100 else detail) / 0.6745)


def flat_estimate(picture, share, block=16):
    """`haar_estimate` of the flattest `share` of blocks of 16 x 16 pixels whose mean is not near black or white.

    Flattest: with the smallest root mean square of the details. Choosing the smallest biases the estimate; the factor
    that puts pure noise right is measured once on noise alone.
    """
    return _flat_level(picture, share, block) / _flat_bias(share, block)


def _flat_level(picture, share, block):
    detail, mean = haar_details(picture)
    half = block // 2
    rows, columns = detail.shape[0] // half, detail.shape[1] // half
    if rows * columns == 0:
        return haar_estimate(picture)
    shape = (rows, half, columns, half)
    detail = detail[: rows * half, : columns * half].reshape(shape).swapaxes(1, 2)
    mean = mean[: rows * half, : columns * half].reshape(shape).mean(axis=(1, 3))
    blocks = detail.reshape(rows * columns, -1)
    middle = np.abs(mean.reshape(-1) - 0.5) < 0.2
    if middle.sum() >= 8:
        blocks = blocks[middle]
    energy = (blocks**2).mean(axis=1)
    flattest = blocks[energy <= np.quantile(energy, share)]
    return float(np.median(flattest) / 0.6745)


BIAS: dict[tuple, float] = {}


def _flat_bias(share, block):
    if (share, block) not in BIAS:
        noise = 0.5 + 0.01 * np.random.default_rng(SEED).standard_normal((1024, 1024))
        BIAS[share, block] = _flat_level(noise, share, block) / 0.01
    return BIAS[share, block]


ESTIMATES = {
    "haar over middling grey": haar_estimate,
    "scikit-image": lambda picture: float(wavelet_estimate(picture)),
    "haar, flattest tenth": lambda picture: flat_estimate(picture, 0.1),
    "haar, flattest quarter": lambda picture: flat_estimate(picture, 0.25),
    "haar, flattest half": lambda picture: flat_estimate(picture, 0.5),
}


# Choosing and judging


def noisy_pictures(names, levels):
    """(name, level, clean, noisy) of every picture and level."""
    numbers = {name: number for number, name in enumerate((*CHOOSE, *JUDGE))}
    found = []
    for name in names:
        clean = luma_square(name)
        for sigma in levels:
            found.append((name, sigma, clean, add_noise(clean, sigma, numbers[name])))
    return found


def measure_estimates(cases):
    """Estimated level by estimate, picture and level."""
    rows = []
    for how, estimate in ESTIMATES.items():
        for name, sigma, _, noisy in cases:
            rows.append(
                {"estimate": how, "picture": name, "level": sigma, "found": estimate(noisy)}
            )
    return rows


def best_estimate(rows):
    """The name of the estimate with the smallest mean |log(found / true)|, and that mean of each."""
    errors = {}
    for how in ESTIMATES:
        own = [row for row in rows if row["estimate"] == how]
        ratios = [max(row["found"], 1e-4) / row["level"] for row in own]
        errors[how] = float(np.mean(np.abs(np.log(ratios))))
    return min(errors, key=errors.get), errors


def measure_ways(cases, strengths):
    """Decibels and CPU seconds of every way, strength, picture and level, the level known.

    Args:
        strengths: by way, those to try.
    """
    rows = []
    for way, tried in strengths.items():
        for name, sigma, clean, noisy in cases:
            for strength in tried:
                start = time.process_time()
                image = denoised(way, noisy, sigma, strength)
                row = {"way": way, "strength": strength, "picture": name, "level": sigma}
                row["cpu_s"] = time.process_time() - start
                row["known_db"] = psnr(clean, image)
                rows.append(row)
        print(way, "done", flush=True)
    return rows


def add_estimated(rows, cases, estimate):
    """The decibels of the same rows when the level is estimated from the noisy picture."""
    by_case = {(name, sigma): (clean, noisy) for name, sigma, clean, noisy in cases}
    for row in rows:
        clean, noisy = by_case[row["picture"], row["level"]]
        image = denoised(row["way"], noisy, estimate(noisy), row["strength"])
        row["estimated_db"] = psnr(clean, image)
    return rows


def mean_of(rows, key, **wanted):
    """Mean of `key` over the rows that have all of `wanted`."""
    values = [row[key] for row in rows if all(row[k] == v for k, v in wanted.items())]
    return float(np.mean(values))


def best_strength(rows, way):
    """The strength with the best mean at the known level."""
    return max(WAYS[way][1], key=lambda s: mean_of(rows, "known_db", way=way, strength=s))


def best_way(rows):
    """The way that wins by the rule: half known, half estimated level, not too slow, the cheapest of the near ones."""
    score, seconds = {}, {}
    for way in WAYS:
        known = mean_of(rows, "known_db", way=way)
        score[way] = (known + mean_of(rows, "estimated_db", way=way)) / 2
        seconds[way] = mean_of(rows, "cpu_s", way=way)
    limit = SLOWEST * seconds["network as it was"]
    allowed = [way for way in WAYS if seconds[way] <= limit]
    best = max(score[way] for way in allowed)
    near = [way for way in allowed if score[way] >= best - NEAR]
    return min(near, key=seconds.get), score, seconds


def best_threshold(found):
    """The estimated level below which a picture is better left alone, and the mean decibels of each threshold.

    Args:
        found: (estimated level, decibels of the noisy picture, decibels of the denoised one) of each case.
    """
    score = {}
    for threshold in THRESHOLDS:
        values = [alone if level < threshold else done for level, alone, done in found]
        score[threshold] = float(np.mean(values))
    return max(score, key=score.get), score


def low_noise_grey(way, strength, estimate):
    """What leaving alone and denoising give for grey pictures with little noise."""
    found = []
    for _, _, clean, noisy in noisy_pictures(CHOOSE, LOW_LEVELS):
        level = estimate(noisy)
        done = psnr(clean, denoised(way, noisy, level, strength))
        found.append((level, psnr(clean, noisy), done))
    return found


def low_noise_colour(estimate):
    """The same for pictures in colour, (H, W, 3), and the network."""
    found = []
    for number, name in enumerate(COLOURS):
        clean = (central_square(getattr(pictures, name)()) / 255).astype(np.float32)
        for sigma in LOW_LEVELS:
            noisy = add_noise(clean, sigma, 100 + number)
            level = estimate(noisy)
            told = max(level, SIGMAS[0])
            batch = torch.from_numpy(np.ascontiguousarray(noisy.transpose(2, 0, 1)))[None]
            image = denoiser.denoise(MODEL, batch, told)[0].numpy().transpose(1, 2, 0)
            found.append((level, psnr(clean, noisy), psnr(clean, as_file(image))))
    return found


def choose() -> None:
    """Everything that the rule decides, on the pictures that choose."""
    cases = noisy_pictures(CHOOSE, LEVELS)
    estimates = measure_estimates(cases)
    how, errors = best_estimate(estimates)
    print(how, errors, flush=True)
    tuning = measure_ways(cases, {way: tried for way, (_, tried) in WAYS.items()})
    strengths = {way: best_strength(tuning, way) for way in WAYS}
    print(strengths, flush=True)
    chosen_rows = [dict(row) for row in tuning if row["strength"] == strengths[row["way"]]]
    rows = add_estimated(chosen_rows, cases, ESTIMATES[how])
    way, score, seconds = best_way(rows)
    chosen = {
        "estimate": how,
        "errors_of_estimates": errors,
        "strengths": strengths,
        "way": way,
        "score_db": score,
        "cpu_s": seconds,
    }
    print(json.dumps(chosen, indent=1), flush=True)
    write(chosen, {"choose": rows, "tuning": tuning, "estimates": estimates})


def choose_low() -> None:
    """The thresholds below which pictures are left alone."""
    before = json.loads((recording.FOLDER / "grey.json").read_text(encoding="utf-8"))
    chosen = before["chosen"]
    way = chosen["way"]
    estimate = ESTIMATES[chosen["estimate"]]
    low = {
        "grey": low_noise_grey(way, chosen["strengths"][way], estimate),
        "colour": low_noise_colour(estimate),
    }
    for kind, found in low.items():
        threshold, by_threshold = best_threshold(found)
        chosen[f"left_alone_{kind}"] = threshold
        chosen[f"left_alone_{kind}_db"] = {str(k): v for k, v in by_threshold.items()}
        print(kind, threshold, by_threshold, flush=True)
    write(chosen, before["rows"] | {"low": low})


def judge() -> None:
    """The ways with the strengths that were chosen, on the pictures that judge."""
    before = json.loads((recording.FOLDER / "grey.json").read_text(encoding="utf-8"))
    chosen = before["chosen"]
    cases = noisy_pictures(JUDGE, LEVELS)
    strengths = {way: (strength,) for way, strength in chosen["strengths"].items()}
    rows = add_estimated(measure_ways(cases, strengths), cases, ESTIMATES[chosen["estimate"]])
    for name, sigma, clean, noisy in cases:
        row = {"way": "noisy", "strength": 0, "picture": name, "level": sigma, "cpu_s": 0}
        rows.append(row | {key: psnr(clean, noisy) for key in ("known_db", "estimated_db")})
    write(chosen, before["rows"] | {"judge": rows, "estimates_judge": measure_estimates(cases)})


def metrics(chosen, judged):
    """What the gather stage reads: each way's mean over the pictures that judge."""
    out = {}
    for way in (*WAYS, "noisy"):
        name = way.replace(",", "").replace(" ", "_").replace("-", "_")
        for sigma in LEVELS:
            values = [r["known_db"] for r in judged if r["way"] == way and r["level"] == sigma]
            out[f"grey_{name}_psnr_db_{round(100 * sigma)}"] = record.metric(
                float(np.mean(values)),
                unit="dB",
                n=len(values),
                sd=float(np.std(values, ddof=1)),
                low=min(values),
                high=max(values),
                band=0.05,
                what=f"PSNR of grey pictures, {way}, sigma {sigma} known; worst and best picture",
            )
    return out


def write(chosen, rows) -> None:
    run = {"device": "cpu", "seed": SEED, "threads": 1}
    found = metrics(chosen, rows["judge"]) if "judge" in rows else {}
    recording.write("grey", found, run, chosen=chosen, rows=rows)


def main() -> None:
    torch.set_num_threads(1)
    parts = {"choose": choose, "low": choose_low, "judge": judge}
    if sys.argv[1:] not in ([name] for name in parts):
        raise SystemExit("usage: python benchmarks/grey.py choose | low | judge")
    parts[sys.argv[1]]()


if __name__ == "__main__":
    main()
