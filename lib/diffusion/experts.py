"""The lightly trained denoiser: the E step picks a linear map of the noisy patch and of what the heads made of it.

For each component k of the prior, one ridge regression from a window of the noisy image and of the heads' estimate
to the clean patch in its middle. The choice is the E step's largest responsibility; overlapping answers are
averaged. Since the maps are fitted on clamped noise, they need no separate correction of the bias that clamping
brings.

Sources: Jordan and Jacobs, "Hierarchical mixtures of experts and the EM algorithm", Neural Computation 1994;
Romano, Isidoro and Milanfar, RAISR, 2017 (a bank of filters chosen by hashing; here the posterior chooses).

Symbols: B images, H, W; p window side (the prior's patch), q = p - 2 side of the answer, I inputs = 2 * 3 p^2 + 1.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lib.common import data, params, weights
from lib.diffusion import em, heads


@dataclass(frozen=True)
class Level:
    """What was learned for one noise level: filter settings and head weights (by SURE, without clean data), maps."""

    settings: heads.Settings
    weights: tuple[float, ...]
    maps: np.ndarray  # (K, I, 3 q^2)


@dataclass(frozen=True)
class Model:
    """A patch prior and, by noise level, the rest of the denoiser."""

    prior: em.Prior
    levels: dict[float, Level]

    def level(self, sigma):
        """The level of a noise deviation; ValueError if the model was not fitted for it."""
        if sigma not in self.levels:
            raise ValueError(
                f"sigma = {sigma}: the model was fitted for {', '.join(map(str, self.levels))}"
            )
        return self.levels[sigma]

    def pilot(self, noisy, sigma):
        """The four heads by their learned global weights, no clean data used: (B, 3, H, W) -> the same shape."""
        level, out = self.level(sigma), np.empty_like(noisy)
        for start in range(0, len(noisy), em.BATCH):
            outputs = heads.head_outputs(noisy[start : start + em.BATCH], sigma, level.settings)
            shares = np.tile(level.weights, (outputs.shape[1], 1))
            out[start : start + em.BATCH] = heads.unclip(heads.mix(outputs, shares), sigma)
        return out

    def denoise(self, noisy, sigma):
        """Clean images in [0, 1] from clamped noisy ones, (B, 3, H, W) float32 each."""
        noisy = heads.graph.check_images(noisy, self.prior.patch)
        return apply_experts(
            self.prior, self.level(sigma).maps, noisy, self.pilot(noisy, sigma), sigma
        )


def _windows(images, patch):
    """Windows (N, D) of images mirrored by one pixel at the border, N = B (H - q + 1)(W - q + 1)."""
    return em.extract(np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="symmetric"), patch)


def _inputs(prior, noisy, estimate, sigma):
    """Inputs (N, I) of the maps and the component (N,) that the E step chooses."""
    seen = _windows(noisy, prior.patch)
    chosen = np.empty(len(seen), np.int64)
    for start in range(0, len(seen), em.CHUNK):
        coordinates = (seen[start : start + em.CHUNK] - prior.mean) @ prior.basis[
            :, : prior.means.shape[1]
        ]
        chosen[start : start + em.CHUNK] = em.log_joint(prior, coordinates, sigma).argmax(axis=1)
    half = np.float32(0.5)
    columns = [
        seen - half,
        _windows(estimate, prior.patch) - half,
        np.ones((len(seen), 1), np.float32),
    ]
    return np.concatenate(columns, axis=1), chosen


def fit_experts(prior, clean, noisy, estimate, sigma, *, ridge=3.0):
    """Linear maps (K, I, 3 q^2) float32 from clean, noisy and pilot images (B, 3, H, W) each.

    Args:
        ridge: pull of every map towards the one map fitted on all patches, in patches' worth of unit variance.

    Raises:
        ValueError: the three stacks differ in shape.
    """
    if not clean.shape == noisy.shape == estimate.shape:
        raise ValueError(
            f"clean, noisy and pilot differ in shape: {clean.shape}, {noisy.shape}, {estimate.shape}"
        )
    count, inputs, answer = len(prior.weights), 6 * prior.patch**2 + 1, prior.patch - 2
    gram = np.zeros((count, inputs, inputs))
    cross = np.zeros((count, inputs, 3 * answer**2))
    for start in range(0, len(clean), em.BATCH):
        part = slice(start, start + em.BATCH)
        x, chosen = _inputs(prior, noisy[part], estimate[part], sigma)
        target = em.extract(clean[part], answer) - np.float32(0.5)
        for k in np.unique(chosen):
            own = chosen == k
            gram[k] += x[own].T @ x[own]
            cross[k] += x[own].T @ target[own]
    unit = ridge * np.eye(inputs)
    shared = np.linalg.solve(gram.sum(0) + unit, cross.sum(0))
    maps = [np.linalg.solve(g + unit, c + ridge * shared) for g, c in zip(gram, cross, strict=True)]
    return np.stack(maps).astype(np.float32)


def apply_experts(prior, maps, noisy, estimate, sigma):
    """Clean images in [0, 1] from noisy ones and their pilot, (B, 3, H, W) each, by maps of `fit_experts`."""
    out = np.empty_like(noisy)
    for start in range(0, len(noisy), em.BATCH):
        part = slice(start, start + em.BATCH)
        x, chosen = _inputs(prior, noisy[part], estimate[part], sigma)
        answers = np.empty((len(x), maps.shape[2]), np.float32)
        for k in np.unique(chosen):
            own = chosen == k
            answers[own] = x[own] @ maps[k]
        out[part] = em.overlap(answers, noisy[part].shape, prior.patch - 2) + np.float32(0.5)
    return np.clip(out, 0, 1)


def fit(
    clean, sigmas, *, patch, components, rank, iterations, patches, tune_images, seed, report=print
):
    """A Model of clean images (N, 3, H, W): settings and weights by SURE, the prior by EM, the maps by regression."""
    rng = np.random.default_rng(seed)
    pool = em.extract(clean[: max(1, 5 * patches // clean[0, 0].size)], patch)
    chosen = pool[rng.choice(len(pool), min(patches, len(pool)), replace=False)]
    prior, history = em.fit_prior(chosen, components, rank, iterations, seed=seed)
    rising = (np.diff(history) >= 0).all()
    report(f"prior: {history[0]:.3f} to {history[-1]:.3f} nats per patch, never falling: {rising}")
    model = Model(prior, {})
    for sigma in sigmas:
        noisy = data.add_noise(clean, sigma, seed + 1)
        settings, trail = heads.tune(noisy[:tune_images], sigma, heads.Settings(), seed=seed)
        weights = trail[-1]["weights"]
        model.levels[sigma] = Level(settings, tuple(weights), np.empty(0))
        report(f"sigma {sigma}: {settings}, weights {np.round(weights, 3)}")
        maps = fit_experts(prior, clean, noisy, model.pilot(noisy, sigma), sigma)
        model.levels[sigma] = Level(settings, tuple(weights), maps)
    return model


def save_model(path, model):
    """Write a model as safetensors; the maps in half precision, which changes an estimate by less than 0.001 dB."""
    tensors = {f"prior.{name}": value for name, value in asdict(model.prior).items()}
    about = {}
    for sigma, level in model.levels.items():
        tensors[f"maps.{sigma}"] = level.maps.astype(np.float16)
        about[str(sigma)] = {"settings": asdict(level.settings), "weights": level.weights}
    weights.save(path, tensors, {"levels": about, "patch": model.prior.patch})


def load_model(path, patch=None):
    """Read a model; UserError if the file is missing, corrupted, or made for another patch size than `patch`."""
    path = Path(path)
    kind = {"kind": "readable prior", "cure": "restore it, or run: python -m lib train em"}
    with weights.readable(path, **kind):
        tensors, about = weights.load(path, **kind)
        prior_arrays = {k: v for k, v in tensors.items() if k.startswith("prior.")}
        prior = em.Prior(**{k.removeprefix("prior."): v for k, v in prior_arrays.items()})
        levels = {}
        for sigma, learned in about["levels"].items():
            settings = heads.Settings(**learned["settings"])
            maps = tensors[f"maps.{sigma}"].astype(np.float32)
            levels[float(sigma)] = Level(settings, tuple(learned["weights"]), maps)
    if patch is not None and prior.patch != patch:
        raise params.UserError(
            f"{path.name}: made for patches of {prior.patch} pixels, not {patch}; fit it again"
        )
    return Model(prior, levels)


def train(chosen, out):
    """Fit the denoiser of a profile on its training images and write it to `out`."""
    images, _ = data.load_cifar("train", chosen.profile)
    index, _ = data.split(len(images), chosen.seed, chosen.data.val_share)
    settings = chosen.em
    clean = (images[index[: settings.fit_images]] / 255).astype(np.float32)
    names = ("patch", "components", "rank", "iterations", "tune_images")
    shape = {name: getattr(settings, name) for name in names}
    model = fit(clean, settings.sigmas, seed=chosen.seed, patches=settings.fit_patches, **shape)
    save_model(out, model)
