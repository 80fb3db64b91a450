"""What notebook 02 compares: arms of the heads, tuned baselines, arms of the loop, facts on the announced rules.

Symbols as in graph.py; every function takes noisy or clean images (B, 3, H, W) in [0, 1] and returns values per image.
M images of the subset on which slow methods run.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from lib.common import data, intervals, quality
from lib.diffusion import announced, em, experts, graph, heads, tokens

BASELINES = {  # what each is tuned over: width in pixels, weight, noise level and bandwidth in units of sigma
    "gauss": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    "tv": (0.03, 0.05, 0.07, 0.09, 0.11, 0.13, 0.16),
    "wavelet": (0.8, 0.9, 1.0, 1.1, 1.2),
    "nlm": (0.4, 0.5, 0.6, 0.7, 0.8),
}
SSIM = ("noisy", "texture", "learned", "light")  # dear, so not for every arm


def baseline(name, images, sigma, value):
    """One method of SciPy or scikit-image with the same correction for clamping that ours get.

    Gaussian blur; total variation (Chambolle 2004); BayesShrink of Haar wavelets in YCbCr (Chang, Yu and Vetterli
    2000); non-local means (Buades, Coll and Morel 2005).
    """
    call, options = {
        "gauss": (lambda x, channel_axis: gaussian_filter(x, (0, value, value)), {}),
        "tv": (denoise_tv_chambolle, {"weight": value}),
        "wavelet": (
            denoise_wavelet,
            {"sigma": value * sigma, "convert2ycbcr": True, "rescale_sigma": True},
        ),
        "nlm": (
            denoise_nl_means,
            {"h": value * sigma, "sigma": sigma, "patch_size": 5, "patch_distance": 6},
        ),
    }[name]
    done = np.stack([call(x, channel_axis=0, **options) for x in images])
    return heads.unclip(np.clip(done, 0, 1), sigma)


def tune_baselines(clean, noisy, sigma):
    """The value of BASELINES with the best mean PSNR on training images, by method."""
    score = {
        n: [quality.psnr(clean, baseline(n, noisy, sigma, v)).mean() for v in vs]
        for n, vs in BASELINES.items()
    }
    return {name: BASELINES[name][int(np.argmax(values))] for name, values in score.items()}


def main_arms(model, clean, index, sigma, seed, ridge):
    """Denoise by four heads with weights chosen in five ways, by the texture head alone and by the full denoiser.

    Args:
        index: (B,) of the images in their set; with the seed it decides noise and probe.
        ridge: pull of an image's weights towards the global ones.

    Returns:
        by method its PSNR (1, B), or PSNR and SSIM (2, B) for those in SSIM; the learned weights (B, 4).
    """
    level, table, shares = model.level(sigma), {}, []
    for start in range(0, len(clean), em.BATCH):
        part, names = clean[start : start + em.BATCH], index[start : start + em.BATCH]
        noisy = data.add_noise(part, sigma, seed, indices=names)
        outputs, gram, rhs = heads.probed_heads(
            noisy, sigma, level.settings, seed=seed, indices=names
        )
        true = (
            np.einsum("kbchw,bchw->bk", outputs, heads.clip_mean(part, sigma), dtype=np.float64)
            / part[0].size
        )
        shares.append(learned := heads.attend(gram, rhs, level.weights, ridge))
        weights = {
            "uniform": np.full_like(learned, 0.25),
            "tuned": np.tile(level.weights, (len(part), 1)),
        }
        weights |= {"learned": learned, "shuffled": np.roll(learned, 1, axis=0)}
        weights["oracle"] = heads.attend(gram, true, level.weights, 1e-6)
        images = {arm: heads.unclip(heads.mix(outputs, w), sigma) for arm, w in weights.items()}
        images |= {"noisy": noisy, "texture": heads.unclip(outputs[0], sigma)}
        images["light"] = experts.apply_experts(
            model.prior, level.maps, noisy, images["tuned"], sigma
        )
        for name, values in images.items():
            measures = (quality.psnr, quality.ssim)[: 1 + (name in SSIM)]
            table.setdefault(name, []).append([measure(part, values) for measure in measures])
    return {name: np.concatenate(parts, axis=1) for name, parts in table.items()}, np.concatenate(
        shares
    )


def gain(table, a, b, subset):
    """PSNR of method a minus b, an Interval over images; on the rows `subset` (M,) if only these have both."""
    a, b = table[a][0], table[b][0]  # (B,) or (M,)
    if len(a) != len(b):
        a, b = (values if len(values) == len(subset) else values[subset] for values in (a, b))
    return intervals.paired_difference(a, b)


def edge_pictures(images, sigma, settings, spots):
    """P (B, S, H, W) of the texture features, unaveraged; for each spot (y, x) of image 0 its weights as (H, W)."""
    feat = graph.features(images, graph.filter_bank(3, 9))
    noise, reach = (
        np.full((len(images), *images.shape[2:]), sigma**2, np.float32),
        int(settings.radius),
    )
    shape = {"sigma_f": settings.sigma_f, "sigma_s": settings.sigma_s, "radius": settings.radius}
    walk, pictures = graph.random_walk(graph.edge_weights(feat, noise, **shape)), []
    for y, x in spots:
        picture = np.zeros(
            np.add(images.shape[2:], 2 * reach)
        )  # the graph has no edges into the margin
        picture[tuple(np.add(graph.stencil(settings.radius), (y + reach, x + reach)).T)] = walk[
            0, :, y, x
        ]
        pictures.append(picture[reach:-reach, reach:-reach] / picture.max())
    return walk, pictures


def steps_saved(faster, slower):
    """Percent of the steps saved to the worse of two final validation errors; arguments are histories of `train`."""
    goal, needed = max(faster[-1]["mse"], slower[-1]["mse"]), []
    for history in (faster, slower):
        steps, error = (np.array([row[name] for row in history], float) for name in ("step", "mse"))
        last = int(np.argmax(error <= goal))
        needed.append(
            np.interp(-goal, -error[last - 1 : last + 1], steps[last - 1 : last + 1])
            if last
            else steps[0]
        )
    return 100 * (1 - needed[0] / max(needed[1], 1e-9))


def train_arms(images, validation, exam, chosen):
    """All arms of the loop: histories by (arm, seed), exam errors (N,) averaged over seeds and fewest codes by arm.

    Args:
        images, validation, exam: (N, 3, 64, 64) from `tokens.to_loop`. chosen: section em of params.yaml.
    """
    histories, errors, codes = {}, {}, {}
    plan = {"steps": chosen.loop_steps, "batch": chosen.loop_batch, "every": chosen.loop_every}
    for seed in range(chosen.loop_seeds):
        initial = tokens.start(images, seed)
        for arm in tokens.ARMS:
            loop, history = tokens.train(
                arm, images, validation, seed=seed, initial=initial, **plan
            )
            error, used = tokens.evaluate(loop, exam)
            histories[arm, seed] = history
            errors.setdefault(arm, []).append(error)
            codes[arm] = min(used, codes.get(arm, used))
    return histories, {arm: np.mean(found, axis=0) for arm, found in errors.items()}, codes


def em_fits(images, sigmas, patches, components, seed):
    """Priors from clean patches and from noisy ones: {sigma: (Prior, history, noise level found)}; 0 means clean."""
    fits = {}
    for sigma in (0.0, *sigmas):
        seen = data.add_noise(images, sigma, 3)
        level = em.estimate_noise(seen) if sigma else 0.0  # clamping leaves less than sigma
        pool = em.extract(seen, 6)
        chosen = pool[np.random.default_rng(seed).choice(len(pool), patches, replace=False)]
        fits[sigma] = *em.fit_prior(chosen, components, 48, 12, seed=seed, sigma=level), level
    return fits


def component_picture(prior, rows=2, columns=6):
    """The second main direction of the most frequent components as tiles (3, H, W); the first is mostly brightness."""
    side, rank, tiles = prior.patch, prior.means.shape[1], []
    for k in np.argsort(-prior.weights)[: rows * columns]:
        direction = (prior.basis[:, :rank] @ prior.vectors[k][:, -2]).reshape(3, side, side)
        tiles.append(
            np.pad(direction / np.abs(direction).max() / 2 + 0.5, ((0, 0), (1, 1), (1, 1)))
        )
    strips = [np.concatenate(tiles[r * columns : (r + 1) * columns], axis=2) for r in range(rows)]
    return np.concatenate(strips, axis=1)


def sure_trials(clean, noisy, sigma, settings, seed):
    """SURE and true error over each grid, {name: (V, 3) value, SURE, error}, and their correlation."""
    trials, target = {}, heads.clip_mean(clean, sigma)
    for name in ("sigma_f", "sigma_s", "radius", "tau"):
        rows = []
        for value in heads.GRIDS[name]:
            outputs, *system = heads.probed_heads(
                noisy, sigma, replace(settings, **{name: value}), seed=seed
            )
            risk, weights = heads.global_weights(*system)
            error = np.square(heads.mix(outputs, np.tile(weights, (len(noisy), 1))) - target).mean()
            rows.append((value, risk, error))
        trials[name] = np.array(rows)
    centred = np.concatenate([rows[:, 1:] - rows[:, 1:].mean(0) for rows in trials.values()])
    return trials, float(np.corrcoef(centred.T)[0, 1])


def class_psnr(prior, train, labels, clean, noisy, sigma):
    """PSNR (B,) with the mixture weights of the inferred class, and the inferred classes (B,)."""
    by_class = em.fit_class_weights(prior, train, labels)
    posterior = em.class_posterior(by_class, noisy, sigma)
    estimate = em.denoise(noisy, by_class, sigma, posterior @ by_class.class_weights)
    return quality.psnr(clean, heads.unclip(estimate, sigma)), posterior.argmax(1)


def announced_facts(clean, noisy, seed):
    """What the announced rules do on clean (B, 3, H, W) and {sigma: noisy images}: {name: (values, meaning)}."""
    views = clean.transpose(0, 2, 3, 1).astype(float)  # (B, H, W, 3)
    scores = np.array(
        [announced.compute_patch_features(*announced.patches(view)) for view in views]
    )
    weights = np.array([announced.compute_attention_weights(score) for score in scores])
    example = announced.compute_attention_weights([0.8, 0.3, 0.6, 0.5]) - [0.45, 0.1, 0.3, 0.15]
    losses = np.random.default_rng(seed).normal(
        0.3, 0.02, 2010
    )  # ten epochs of a loss that does not change
    path, floats = _announced_run(losses, scores)
    inert = [
        np.array_equal(path, _announced_run(losses, scores, **{n: v})[0]) for n, v in _OTHER.items()
    ]
    graphs = [
        announced.similarity_graph(*announced.patches(v))[0]
        for v in (np.full((32, 32, 3), 0.5), *views)
    ]
    flat, *eigenvalues = [np.linalg.eigvalsh(np.diag(w.sum(1)) - w)[-1] for w in graphs]
    facts = {
        f"weight_{head}": (weights[:, h], f"weight of {head}")
        for h, head in enumerate(announced.HEADS)
    }
    facts |= {
        f"gain_db_{s * 100:.0f}": (_announced_gain(views, y), f"gain in dB, sigma {s}")
        for s, y in noisy.items()
    }
    return facts | {
        "same_heads": (np.abs(weights[:, 0] - weights[:, 2]), "texture minus color weight"),
        "sum_gap": (np.abs(weights.sum(1) - 1), "distance of the weights' sum from 1"),
        "example_gap": (np.abs(example).max(), "worked example, largest error"),
        "eigenvalue": (np.array(eigenvalues), "largest eigenvalue of L"),
        "growth": (abs(1 - 0.3 * flat), "growth a step, flat image, tau 0.3"),
        "sigma": (path[:, 0], "sigma while the loss stays the same"),
        "inert": (sum(inert), f"parameters never read, of {len(inert)}"),
        "memory_kb": (8 * floats / 1000, "kB of histories after 2,010 steps"),
    }


_OTHER = {"sigma": 0.2, "tau": 0.2, "radius": 6, "sigma_s": 6, "sigma_f": 0.2}
_OTHER |= {"learning_rate": 0.1, "smoothing_window": 1, "embed_dim": 8, "attention_heads": 2}


def _announced_run(losses, features, **changes):
    """Sigma and tau (T, 2) of the announced rules over losses (T,), and the floats that their histories hold."""
    state = announced.ParameterLearning(**changes)
    for loss, scores in zip(losses, np.resize(features, (len(losses), 4)), strict=True):
        state.update_global_params(loss, scores)
    kept = state.attention_weights, state.param_updates
    return np.array(state.param_updates), sum(len(row) for rows in kept for row in rows) + len(
        state.loss_history
    )


def _announced_gain(views, noisy):
    """PSNR gain in dB (B,) of the announced filter over doing nothing, on the pixels that it covers."""
    gains = []
    for x, y in zip(views, noisy.transpose(0, 2, 3, 1).astype(float), strict=True):
        done, covered = announced.denoise(y)
        gains.append(
            -10 * np.log10(np.square(done - x)[covered].mean() / np.square(y - x)[covered].mean())
        )
    return np.array(gains)
