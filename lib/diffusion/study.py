"""What notebook 02 compares: arms of the heads, tuned baselines, arms of the loop, facts on the announced rules.

Symbols as in graph.py; every function takes noisy or clean images (B, 3, H, W) in [0, 1] and returns values per image.
"""

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from lib import data, metrics
from lib.diffusion import announced, graph, heads, tokens

BASELINES = {  # what each is tuned over: width in pixels, weight, nothing, bandwidth in units of sigma
    "gauss": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    "tv": (0.03, 0.05, 0.07, 0.09, 0.11, 0.13, 0.16),
    "wavelet": (0.0,),
    "nlm": (0.4, 0.5, 0.6, 0.7, 0.8),
}
BATCH = 50  # images of a step of the heads; bounds the memory of their edges


def baseline(name, images, sigma, value):
    """One method of SciPy or scikit-image with the same correction for clamping that ours get."""
    if name == "gauss":
        done = gaussian_filter(images, (0, 0, value, value))
    elif name == "tv":
        done = np.stack([denoise_tv_chambolle(x, weight=value, channel_axis=0) for x in images])
    elif name == "wavelet":
        done = np.stack([denoise_wavelet(x, sigma=sigma, channel_axis=0, convert2ycbcr=True) for x in images])
    else:
        options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": 0}
        done = np.stack([denoise_nl_means(x, h=value * sigma, sigma=sigma, **options) for x in images])
    return heads.unclip(np.clip(done, 0, 1), sigma)


def tune_baselines(clean, noisy, sigma):
    """The value of BASELINES with the best mean PSNR on training images, by method."""
    score = {n: [metrics.psnr(clean, baseline(n, noisy, sigma, v)).mean() for v in vs] for n, vs in BASELINES.items()}
    return {name: BASELINES[name][int(np.argmax(values))] for name, values in score.items()}


def head_arms(model, clean, index, sigma, seed, ridge):
    """Denoise by the four heads with weights chosen in five ways.

    Args:
        index: (B,) of the images in their set; decides noise and probe. ridge: pull towards the global weights.

    Returns:
        PSNR (B,) by arm, the learned weights (B, 4), and the estimates of the learned arm and of the texture head.
    """
    level, found, made = model.level(sigma), {}, {"free": [], "texture": [], "weights": []}
    for start in range(0, len(clean), BATCH):
        part, names = clean[start : start + BATCH], index[start : start + BATCH]
        noisy, target = data.add_noise(part, sigma, seed, indices=names), heads.clip_mean(part, sigma)
        outputs, gram, rhs = heads.probed_heads(noisy, sigma, level.settings, seed=seed, indices=names)
        learned = heads.attend(gram, rhs, level.weights, ridge)
        true = np.einsum("kbchw,bchw->bk", outputs, target, dtype=np.float64) / target[0].size
        arms = {
            "uniform": np.full_like(learned, 0.25),
            "tuned-global": np.tile(level.weights, (len(part), 1)),
            "learned": learned,
            "shuffled": np.roll(learned, 1, axis=0),
            "oracle": heads.attend(gram, true, level.weights, 1e-6),
        }
        images = {arm: heads.unclip(heads.mix(outputs, weights), sigma) for arm, weights in arms.items()}
        for arm, estimate in images.items():
            found.setdefault(arm, []).append(metrics.psnr(part, estimate))
        parts = {"free": images["learned"], "texture": heads.unclip(outputs[0], sigma), "weights": learned}
        for name, values in parts.items():
            made[name].append(values)
    made = {name: np.concatenate(values) for name, values in made.items()}
    return {arm: np.concatenate(values) for arm, values in found.items()}, made.pop("weights"), made


def edge_picture(walk, y, x, radius):
    """Where the weight of one pixel goes: P (S, H, W) -> (H, W), its largest value 1."""
    picture = np.zeros(walk.shape[1:])
    for (dy, dx), value in zip(graph.stencil(radius), walk[:, y, x], strict=True):
        if 0 <= y + dy < len(picture) and 0 <= x + dx < picture.shape[1]:
            picture[y + dy, x + dx] = value
    return picture / picture.max()


def steps_saved(faster, slower):
    """Percent of the steps saved to the worse of two final validation errors; arguments are histories of `train`."""
    goal, needed = max(faster[-1]["mse"], slower[-1]["mse"]), []
    for history in (faster, slower):
        steps, error = (np.array([row[name] for row in history], float) for name in ("step", "mse"))
        last = int(np.argmax(error <= goal))
        needed.append(np.interp(-goal, -error[last - 1 : last + 1], steps[last - 1 : last + 1]) if last else steps[0])
    return 100 * (1 - needed[0] / max(needed[1], 1e-9))


def train_arms(images, validation, exam, *, seeds, **options):
    """All arms of the loop for `seeds` seeds: histories by (arm, seed), errors of the exam images (N,) by arm, codes."""
    histories, errors, codes = {}, {}, {}
    for seed in range(seeds):
        initial = tokens.start(images, seed)
        for arm in tokens.ARMS:
            loop, histories[arm, seed] = tokens.train(arm, images, validation, seed=seed, initial=initial, **options)
            error, used = tokens.evaluate(loop, exam)
            errors.setdefault(arm, []).append(error)
            codes[arm] = min(used, codes.get(arm, used))
    return histories, {arm: np.mean(found, axis=0) for arm, found in errors.items()}, codes


def announced_run(losses, features, **changes):
    """Sigma and tau (T, 2) of the announced rules over losses (T,), and the floats that their histories hold."""
    state = announced.ParameterLearning(**changes)
    for loss, scores in zip(losses, np.resize(features, (len(losses), 4)), strict=True):
        state.update_global_params(loss, scores)
    kept = state.attention_weights, state.param_updates
    return np.array(state.param_updates), sum(len(row) for rows in kept for row in rows) + len(state.loss_history)


def announced_eigenvalue(image):
    """Largest eigenvalue of the announced Laplacian of an image (H, W, 3)."""
    weights, _ = announced.similarity_graph(*announced.patches(image))
    return np.linalg.eigvalsh(np.diag(weights.sum(1)) - weights)[-1]


def announced_gain(clean, noisy):
    """PSNR gain in dB (B,) of the announced filter over doing nothing, on the pixels that it covers."""
    gains = []
    for x, y in zip(clean.transpose(0, 2, 3, 1), noisy.transpose(0, 2, 3, 1), strict=True):
        done, covered = announced.denoise(y.astype(float))
        gains.append(-10 * np.log10(np.square(done - x)[covered].mean() / np.square(y - x)[covered].mean()))
    return np.array(gains)
