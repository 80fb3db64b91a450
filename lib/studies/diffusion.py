"""Notebook 02, a function for each of its tables and figures.

Symbols as in lib/diffusion: images (B, 3, H, W) in [0, 1], K = 4 heads; M images of the subset on which slow methods run.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from lib.common import data, intervals, quality, tables
from lib.diffusion import announced, em, gates, graph, heads, loop, neighbours, tokens

# baselines

BASELINES = {  # what each is tuned over: width in pixels, weight, noise level and bandwidth in units of sigma
    "Gaussian": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    "TV": (0.03, 0.05, 0.07, 0.09, 0.11, 0.13, 0.16),
    "wavelets": (0.8, 0.9, 1.0, 1.1, 1.2),
    "NLM": (0.4, 0.5, 0.6, 0.7, 0.8),
}


def baseline(name, images, sigma, value):
    """One method of SciPy or scikit-image with the same correction for clamping that ours get.

    Gaussian blur; total variation (Chambolle 2004); BayesShrink of Haar wavelets in YCbCr (Chang, Yu and Vetterli
    2000); non-local means (Buades, Coll and Morel 2005).
    """
    done = np.stack([_baseline_image(name, image, sigma, value) for image in images])
    return heads.unclip(np.clip(done, 0, 1), sigma)


def _baseline_image(name, image, sigma, value):
    if name == "Gaussian":
        return gaussian_filter(image, (0, value, value))
    if name == "TV":
        return denoise_tv_chambolle(image, weight=value, channel_axis=0)
    if name == "wavelets":
        return denoise_wavelet(
            image, sigma=value * sigma, convert2ycbcr=True, rescale_sigma=True, channel_axis=0
        )
    return denoise_nl_means(
        image, h=value * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=0
    )


def tune_baselines(clean, noisy, sigma):
    """The value of BASELINES with the best mean PSNR on training images, by method."""
    best = {}
    for name, values in BASELINES.items():
        scores = []
        for value in values:
            scores.append(quality.psnr(clean, baseline(name, noisy, sigma, value)).mean())
        best[name] = values[int(np.argmax(scores))]
    return best


# numbers for the record


def mean_with_interval(values):
    """The mean of one number an image (B,) with its interval, or the one number that there is."""
    if np.size(values) > 1:
        return intervals.bootstrap_mean(np.asarray(values, float))
    return float(np.mean(values))


# attention

SHUFFLE_SEED = 0


def attention_arms(model, clean, index, sigma, noise_seed, *, every_gate=True, passes=True):
    """PSNR of the heads by each kind of weights, and of the full denoiser.

    Args:
        model: a Denoiser. clean: (B, 3, H, W), and index (B,) of the images in their set; with the seed it decides
            their noise.
        every_gate: all training seeds, not only the first. passes: the full denoiser, too.

    Returns:
        by arm its PSNR (B,): noisy; texture alone; uniform, tuned; clean 0, 1, ..., sure 0, ..., announced 0, ...;
        shuffled and averaged weights of the gate clean 0; first and second pass.
    """
    table = {}
    for start in range(0, len(clean), em.BATCH):
        part = slice(start, start + em.BATCH)
        noisy = data.add_noise(clean[part], sigma, noise_seed, indices=index[part])
        for name, image in _arm_images(model, noisy, sigma, every_gate, passes):
            table.setdefault(name, []).append(quality.psnr(clean[part], image))
    return {name: np.concatenate(parts) for name, parts in table.items()}


def _arm_images(model, noisy, sigma, every_gate, passes):
    """Pairs of an arm's name and its images, one after the other, for noisy images (B, 3, H, W)."""
    level = model.level(sigma)
    outputs = heads.head_outputs(noisy, sigma, level.settings)
    yield "noisy", noisy
    yield "texture", heads.unclip(outputs[0], sigma)
    yield "uniform", heads.unclip(outputs.mean(0), sigma)
    yield "tuned", heads.unclip(heads.mix(outputs, tiled(level.weights, noisy)), sigma)
    found, _ = gates.features(noisy, outputs, sigma)
    for kind, trained in level.gates.items():
        for seed, gate in enumerate(trained if every_gate else trained[:1]):
            shares, mixed = gate.attend_features(found, outputs)
            image = heads.unclip(mixed, sigma)
            if (kind, seed) == ("clean", 0):
                first_shares, pilot = shares, image
            yield f"{kind} {seed}", image
    for name, shares in (
        ("shuffled", gates.shuffle_pixels(first_shares, SHUFFLE_SEED)),
        ("averaged", gates.average_pixels(first_shares)),
    ):
        yield name, heads.unclip(gates.mix_pixels(outputs, shares), sigma)
    if passes:
        first, second = model.both_passes(noisy, sigma, pilot)
        yield "first pass", first
        yield "second pass", second


def tiled(weights, images):
    """One set of weights (K,) for each of the images: (B, K)."""
    return np.tile(weights, (len(images), 1))


def image_weights(model, noisy, sigma, names, *, ridge, seed):
    """The heads with weights of each image by SURE, drawn towards the tuned ones: (B, 3, H, W), and the weights (B, K).

    `names` (B,) and the seed decide the probes; `ridge` is the pull.
    """
    level = model.level(sigma)
    outputs, gram, rhs = heads.probed_heads(noisy, sigma, level.settings, seed=seed, indices=names)
    shares = heads.attend(gram, rhs, level.weights, ridge)
    return heads.unclip(heads.mix(outputs, shares), sigma), shares


REGIONS = (32, 16, 8, 4)  # pixels a side; then each pixel


def headroom(model, clean, noisy, sigma):
    """What an oracle with convex weights for each region would gain over tuned weights: {region: Interval} in dB.

    The region "pixel" weighs each pixel by the heads' errors around it (Gaussian of 2 pixels).
    """
    level = model.level(sigma)
    outputs = heads.head_outputs(noisy, sigma, level.settings)
    tuned = heads.unclip(heads.mix(outputs, tiled(level.weights, noisy)), sigma)
    before = quality.psnr(clean, tuned)
    off = outputs - heads.clip_mean(clean, sigma)
    products = np.einsum("kbchw,lbchw->bklhw", off, off, dtype=np.float64)
    gains = {}
    for side in REGIONS:
        shares = _region_shares(products, side)
        image = heads.unclip(gates.mix_pixels(outputs, shares), sigma)
        gains[f"{side} x {side}"] = intervals.paired_difference(quality.psnr(clean, image), before)
    around = gaussian_filter(products, (0, 0, 0, 2, 2)).transpose(0, 3, 4, 1, 2)  # (B, H, W, K, K)
    shares = convex_weights(around, rounds=100).transpose(0, 3, 1, 2)
    image = heads.unclip(gates.mix_pixels(outputs, shares), sigma)
    gains["pixel"] = intervals.paired_difference(quality.psnr(clean, image), before)
    return gains


def _region_shares(products, side):
    """Best convex weights of each square of `side` pixels: (B, K, K, H, W) -> (B, K, H, W)."""
    batch, heads_count, _, height, width = products.shape
    squares = products.reshape(
        batch, heads_count, heads_count, height // side, side, width // side, side
    )
    errors = squares.mean((4, 6)).transpose(0, 3, 4, 1, 2)  # (B, H / side, W / side, K, K)
    shares = convex_weights(errors).transpose(0, 3, 1, 2)
    return shares.repeat(side, axis=2).repeat(side, axis=3)


def convex_weights(errors, rounds=300):
    """argmin a'Ea over weights a >= 0 that sum to 1, by accelerated projected gradients: (..., K, K) -> (..., K).

    Source: Beck and Teboulle, FISTA, 2009.
    """
    count = errors.shape[-1]
    weights = np.full(errors.shape[:-1], 1 / count)
    step = 1 / np.maximum(2 * np.trace(errors, axis1=-2, axis2=-1), 1e-12)[..., None]
    ahead, speed = weights, 1.0
    for _ in range(rounds):
        gradient = 2 * (errors @ ahead[..., None])[..., 0]
        moved = project(ahead - step * gradient)
        faster = (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = moved + (speed - 1) / faster * (moved - weights)
        weights, speed = moved, faster
    return weights


def project(values):
    """The nearest weights that are not negative and sum to 1: (..., K) -> (..., K). Source: Duchi et al., ICML 2008."""
    falling = -np.sort(-values, axis=-1)
    excess = np.cumsum(falling, axis=-1) - 1
    ranks = np.arange(1, values.shape[-1] + 1)
    kept = (falling - excess / ranks > 0).sum(-1, keepdims=True)
    shift = np.take_along_axis(excess, kept - 1, axis=-1) / kept
    return np.maximum(values - shift, 0)


def over_seeds(table, kind):
    """PSNR of each image, mean over the training seeds of a kind of gate: (B,)."""
    return np.mean([table[name] for name in table if name.startswith(f"{kind} ")], axis=0)


def gain(table, ours, other, subset=None):
    """PSNR of one arm minus that of another, an Interval over images.

    Where one has been measured on the rows `subset` (M,) only, the other is taken there, too.
    """
    first, second = table[ours], table[other]
    if len(first) > len(second):
        first = first[subset]
    if len(second) > len(first):
        second = second[subset]
    return intervals.paired_difference(first, second)


# the graph


def edge_pictures(images, sigma, settings, spots):
    """P (B, S, H, W) of the texture features, unaveraged; for each spot (y, x) of image 0 its weights as (H, W)."""
    found = graph.features(images, graph.filter_bank(3, 9))
    noise = np.full((len(images), *images.shape[2:]), sigma**2, np.float32)
    weights = graph.edge_weights(
        found,
        noise,
        sigma_f=settings.sigma_f,
        sigma_s=settings.sigma_s,
        radius=settings.radius,
    )
    walk = graph.random_walk(weights)
    return walk, [_edge_picture(walk[0], settings.radius, spot) for spot in spots]


def _edge_picture(walk, radius, spot):
    """The weights of one pixel of a walk (S, H, W), where they lie in the image, divided by the largest: (H, W)."""
    y, x = spot
    reach = int(radius)
    height, width = walk.shape[1:]
    picture = np.zeros(
        (height + 2 * reach, width + 2 * reach)
    )  # with the margin, where no edge leads
    rows, columns = (graph.stencil(radius) + np.array([y + reach, x + reach])).T
    picture[rows, columns] = walk[:, y, x]
    return picture[reach:-reach, reach:-reach] / picture.max()


# the loop with clean images


def steps_saved(faster, slower):
    """Percent of the steps saved to the worse of two final validation errors; arguments are histories of a training."""
    goal = max(faster[-1]["mse"], slower[-1]["mse"])
    return 100 * (1 - steps_to(faster, goal) / max(steps_to(slower, goal), 1e-9))


def steps_to(history, goal):
    """The step at which the validation error comes down to the goal, by straight lines between validations."""
    steps = [row["step"] for row in history]
    errors = [row["mse"] for row in history]
    last = next(index for index, error in enumerate(errors) if error <= goal)
    if last == 0:
        return steps[0]
    around = slice(last - 1, last + 1)
    return float(np.interp(-goal, [-error for error in errors[around]], steps[around]))


def train_clean_arms(images, validation, exam, chosen):
    """All arms of the loop with clean images.

    Args:
        images, validation, exam: (N, 3, 64, 64) from `tokens.to_loop`. chosen: section em of params.yaml.

    Returns:
        histories by (arm, seed); errors of the exam (N,), mean over seeds, by arm; fewest codes in use, by arm.
    """
    histories, errors, codes = {}, {}, {}
    for seed in range(chosen.loop_seeds):
        initial = tokens.start(images, seed)
        for arm in tokens.ARMS:
            network, history = tokens.train(
                arm,
                images,
                validation,
                seed=seed,
                initial=initial,
                steps=chosen.loop_steps,
                batch=chosen.loop_batch,
                every=chosen.loop_every,
            )
            error, used = tokens.evaluate(network, exam)
            histories[arm, seed] = history
            errors.setdefault(arm, []).append(error)
            codes[arm] = min(used, codes.get(arm, used))
    return histories, {arm: np.mean(found, axis=0) for arm, found in errors.items()}, codes


# EM


def em_fits(images, sigmas, patches, components, seed):
    """Priors from clean patches and from noisy ones: {sigma: (Prior, likelihoods, noise level found)}; 0 means clean."""
    fits = {}
    for sigma in (0.0, *sigmas):
        seen = data.add_noise(images, sigma, 3)
        level = em.estimate_noise(seen) if sigma else 0.0  # clamping leaves less than sigma
        pool = em.extract(seen, 6)
        drawn = np.random.default_rng(seed).choice(len(pool), patches, replace=False)
        prior, history = em.fit_prior(pool[drawn], components, 48, 12, seed=seed, sigma=level)
        fits[sigma] = (prior, history, level)
    return fits


def component_picture(prior, rows=2, columns=6):
    """The second main direction of the most frequent components as tiles (3, H, W); the first is mostly brightness."""
    side, rank = prior.patch, prior.means.shape[1]
    tiles = []
    for k in np.argsort(-prior.weights)[: rows * columns]:
        direction = prior.basis[:, :rank] @ prior.vectors[k][:, -2]
        tile = (direction / np.abs(direction).max() / 2 + 0.5).reshape(3, side, side)
        tiles.append(np.pad(tile, ((0, 0), (1, 1), (1, 1))))
    strips = []
    for row in range(rows):
        strips.append(np.concatenate(tiles[row * columns : (row + 1) * columns], axis=2))
    return np.concatenate(strips, axis=1)


# SURE


def sure_trials(clean, noisy, sigma, settings, seed):
    """SURE and true error over each grid: {name: rows of value, SURE, error}, and their correlation."""
    target = heads.clip_mean(clean, sigma)
    trials = {}
    for name in ("sigma_f", "sigma_s", "radius", "tau"):
        rows = []
        for value in heads.GRIDS[name]:
            trial = replace(settings, **{name: value})
            outputs, gram, rhs = heads.probed_heads(noisy, sigma, trial, seed=seed)
            risk, weights = heads.global_weights(gram, rhs)
            error = np.square(heads.mix(outputs, tiled(weights, noisy)) - target).mean()
            rows.append((value, risk, error))
        trials[name] = np.array(rows)
    curves = [rows[:, 1:] - rows[:, 1:].mean(0) for rows in trials.values()]
    return trials, float(np.corrcoef(np.concatenate(curves).T)[0, 1])


# EM over neighbours


def neighbour_fits(model, clean, noisy, judged_clean, judged_noisy, sigma, steps):
    """EM over neighbours on training images, judged on others: rows of step, likelihood, PSNR (M,), Fit.

    The likelihood of a row is that of its parameters on the training images.
    """
    near, apart = _neighbour_data(model, clean, noisy, sigma)
    judge = _neighbour_data(model, judged_clean, judged_noisy, sigma)[0]
    fit, rows = neighbours.start(), []
    for step in range(steps + 1):
        following = neighbours.em_step(near, apart, fit)
        image = neighbours.estimate(judge, fit.parameters, judged_noisy, sigma)
        psnr = quality.psnr(judged_clean, image)
        rows.append({"step": step, "likelihood": following.likelihood, "psnr": psnr, "fit": fit})
        fit = following
    return rows


def neighbour_psnr(model, fit, clean, noisy, sigma):
    """PSNR (B,) of a Fit on images (B, 3, H, W)."""
    near = _neighbour_data(model, clean, noisy, sigma)[0]
    return quality.psnr(clean, neighbours.estimate(near, fit.parameters, noisy, sigma))


def _neighbour_data(model, clean, noisy, sigma):
    """The Neighbourhood of noisy images, and how far each clean pixel lies from each noisy neighbour."""
    pilot = heads.head_outputs(noisy, sigma, model.level(sigma).settings)[0]
    near = neighbours.neighbourhood(noisy, pilot, sigma)
    offsets = graph.stencil(near.radius)
    target = heads.clip_mean(clean, sigma)  # what a noisy pixel is on average
    return near, neighbours.shifted_distances(target, offsets, noisy)


# classes


def class_psnr(prior, train, labels, clean, noisy, sigma):
    """PSNR (B,) with the mixture weights of the inferred class, and the inferred classes (B,)."""
    by_class = em.fit_class_weights(prior, train, labels)
    posterior = em.class_posterior(by_class, noisy, sigma)
    estimate = em.denoise(noisy, by_class, sigma, posterior @ by_class.class_weights)
    return quality.psnr(clean, heads.unclip(estimate, sigma)), posterior.argmax(1)


# the loop with noisy images

LOOP_ARMS = loop.RUNGS + loop.CONTROLS


def loop_key(arm):
    """An arm's name as it stands in the names of metrics."""
    return arm.replace(" + ", "_").replace(" ", "_")


# our own targets

AT_LEAST, AT_MOST = "at least", "at most"
TARGETS = (  # what, metric, side, bound: as claims.yaml and the log have them, set before the runs
    ("training-free heads, 0.1", "em_free_psnr_db_10", AT_LEAST, 27.7),
    ("training-free heads, 0.2", "em_free_psnr_db_20", AT_LEAST, 24.2),
    ("heads over uniform ones, 0.1", "em_heads_gain_low", AT_LEAST, 0),
    ("pixel gate over tuned weights, 0.1", "em_pixel_gain_db_10", AT_LEAST, 0.15),
    ("pixel gate over tuned weights, 0.2", "em_pixel_gain_db_20", AT_LEAST, 0.17),
    ("SURE gate over tuned weights, 0.1", "em_sure_gain_db_10", AT_LEAST, 0.09),
    ("SURE gate over tuned weights, 0.2", "em_sure_gain_db_20", AT_LEAST, 0.08),
    ("shuffled weights over tuned ones, 0.1", "em_shuffled_gain_db_10", AT_MOST, 0),
    ("heads with the SURE gate, 0.1", "em_attended_psnr_db_10", AT_LEAST, 27.97),
    ("heads with the SURE gate, 0.2", "em_attended_psnr_db_20", AT_LEAST, 24.28),
    ("first aim of the full denoiser, 0.1", "em_psnr_db_10", AT_LEAST, 28.4),
    ("first aim of the full denoiser, 0.2", "em_psnr_db_20", AT_LEAST, 24.6),
    ("full denoiser, 0.1", "em_full_psnr_db_10", AT_LEAST, 28.76),
    ("full denoiser, 0.2", "em_full_psnr_db_20", AT_LEAST, 24.98),
    ("full denoiser over CBM3D, 0.1", "em_full_over_cbm3d_db_10", AT_LEAST, 0.6),
    ("SURE gate over CBM3D, 0.1", "em_sure_heads_over_cbm3d_db_10", AT_LEAST, 0),
    ("CPU of the full denoiser", "em_whole_denoiser_cost_ms_32", AT_MOST, 25),
    ("ms of the graph, two threads", "em_ms_per_image", AT_MOST, 3),
    ("error of 512 tokens", "em_token_mse", AT_MOST, 0.0188),
    ("noisy loop, graph", "em_loop_noisy_graph_saved", AT_LEAST, 20),
    ("noisy loop, EM", "em_loop_em_saved", AT_LEAST, 25),
    ("noisy loop, heads", "em_loop_heads_saved", AT_LEAST, 7),
    ("noisy loop, steps that EM saves", "em_loop_em_steps_saved", AT_LEAST, 30),
)
STRETCH = (  # further than the targets; in the log, not in claims.yaml
    ("stretch: pixel gate, 0.1", "em_pixel_gain_db_10", AT_LEAST, 0.20),
    ("stretch: pixel gate, 0.2", "em_pixel_gain_db_20", AT_LEAST, 0.22),
    ("stretch: full denoiser, 0.1", "em_full_psnr_db_10", AT_LEAST, 28.85),
    ("stretch: full denoiser, 0.2", "em_full_psnr_db_20", AT_LEAST, 25.1),
)


def target_rows(metrics):
    """A row for each target: what, bound, measured, n, and whether it is reached; `metrics` by name."""
    rows = []
    for what, name, side, bound in (*TARGETS, *STRETCH):
        entry = metrics[name]
        value = entry["value"]
        reached = value >= bound if side == AT_LEAST else value <= bound
        word = "reached" if reached else "missed"
        rows.append([what, f"{side} {bound}", tables.measured(entry), entry["n"], word])
    return rows


# the announced rules

ANNOUNCED_HEADS = announced.HEADS
OTHER_VALUES = {  # another value for each announced parameter, to see whether it changes anything
    "sigma": 0.2,
    "tau": 0.2,
    "radius": 6,
    "sigma_s": 6,
    "sigma_f": 0.2,
    "learning_rate": 0.1,
    "smoothing_window": 1,
    "embed_dim": 8,
    "attention_heads": 2,
}


def announced_weights(clean):
    """What the announced scores and weights do on clean images (B, 3, H, W).

    Returns:
        the scores (B, 4), and by name: each head's weight (B,), how far texture's and color's differ (B,), how far the
        sum is from 1 (B,), and the largest error of the announced example (a number).
    """
    views = as_views(clean)
    scores = np.array(
        [announced.compute_patch_features(*announced.patches(view)) for view in views]
    )
    weights = np.array([announced.compute_attention_weights(score) for score in scores])
    example = announced.compute_attention_weights([0.8, 0.3, 0.6, 0.5])
    facts = {f"weight_{head}": weights[:, h] for h, head in enumerate(announced.HEADS)}
    facts["same_heads"] = np.abs(weights[:, 0] - weights[:, 2])
    facts["sum_gap"] = np.abs(weights.sum(1) - 1)
    facts["example_gap"] = np.abs(example - [0.45, 0.1, 0.3, 0.15]).max()
    return scores, facts


def announced_learning(scores, seed, steps=2010):
    """What the announced update rules do in ten epochs of a loss that does not change but for its noise.

    Returns:
        by name: sigma after each step (T,); how many parameters can change without any effect on sigma and tau; the
        floats that the histories hold, in kB.
    """
    losses = np.random.default_rng(seed).normal(0.3, 0.02, steps)
    path, floats = announced_path(losses, scores)
    inert = 0
    for name, value in OTHER_VALUES.items():
        other, _ = announced_path(losses, scores, **{name: value})
        inert += np.array_equal(path, other)
    return {"sigma": path[:, 0], "inert": int(inert), "memory_kb": 8 * floats / 1000}


def announced_path(losses, scores, **changes):
    """Sigma and tau (T, 2) of the announced rules over losses (T,), and the number of floats in their histories."""
    state = announced.ParameterLearning(**changes)
    for step, loss in enumerate(losses):
        state.update_global_params(loss, scores[step % len(scores)])
    floats = len(state.loss_history)
    floats += sum(len(row) for row in state.attention_weights)
    floats += sum(len(row) for row in state.param_updates)
    return np.array(state.param_updates), floats


def announced_graph(clean):
    """Largest eigenvalue of the announced Laplacian on each image (B,), and how fast tau = 0.3 grows on a flat one."""
    eigenvalues = np.array([largest_eigenvalue(view) for view in as_views(clean)])
    flat = largest_eigenvalue(np.full((32, 32, 3), 0.5))
    return {"eigenvalue": eigenvalues, "growth": abs(1 - 0.3 * flat)}


def largest_eigenvalue(view):
    """Of L = D - W of the announced graph of one image (H, W, 3)."""
    weights, _ = announced.similarity_graph(*announced.patches(view))
    return np.linalg.eigvalsh(np.diag(weights.sum(1)) - weights)[-1]


def announced_gain(clean, noisy):
    """PSNR gain in dB (B,) of the announced filter over doing nothing, on the pixels that it covers."""
    gains = []
    for clean_view, noisy_view in zip(as_views(clean), as_views(noisy), strict=True):
        answer, covered = announced.denoise(noisy_view)
        after = np.square(answer - clean_view)[covered].mean()
        before = np.square(noisy_view - clean_view)[covered].mean()
        gains.append(10 * np.log10(before / after))
    return np.array(gains)


def as_views(images):
    """(B, 3, H, W) -> (B, H, W, 3) float64, as the announced functions take images."""
    return images.transpose(0, 2, 3, 1).astype(float)
