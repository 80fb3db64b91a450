"""Make the shipped denoiser: `python -m lib train em` writes models/em_denoiser.safetensors.

In this order, all from training images of the shipped sample: a patch prior by EM on clean patches; settings and global
weights of the four heads by SURE on noisy images alone; gates, on clean images and by SURE, several training seeds
each; maps of both passes. No validation and no test image is used. Equal settings give equal bytes on one machine.

Each part is kept as a checkpoint as soon as it is made, so a run that was cut off goes on, and several processes may
make different parts at the same time (`--sigma 0.1 --kind sure --no-passes`); the last run puts all together.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lib.common import data, params, weights
from lib.diffusion import denoiser, em, gate_training, gates, heads

RECIPES = {  # chosen in the trials of docs/log.md, 2026-11-25
    "clean": gate_training.Recipe(hidden=(64, 64), steps=2500, rate=4e-3),
    "announced": gate_training.Recipe(hidden=(64, 64), steps=2500, rate=4e-3),
    "sure": gate_training.Recipe(hidden=(8,), steps=800, rate=4e-3),
}
SEEDS = {
    "clean": 5,
    "announced": 1,
    "sure": 5,
}  # training seeds 0, 1, ...; the denoiser has clean 0
SURE_IMAGES = 2000  # noisy images that SURE gates learn from: each costs the heads twice
LEFT = {
    0.1: 0.03,
    0.2: 0.05,
}  # deviation of the error that the second choice assumes in the first answer
RIDGE = 3.0
NOISE_SEED, PROBE_SEED = 1, 77


@dataclass(frozen=True)
class Checkpoints:
    """Parts that are made once: files in a folder, each with the identity of what it was made from."""

    folder: Path
    identity: dict

    def part(self, name, make, **decides):
        """The arrays of a part, a dict: from its file, or from make(), which is then kept.

        `decides` is what else than the common identity decides this part.
        """
        path = self.folder / f"{name}.safetensors"
        identity = weights.plain(self.identity | decides)
        if path.is_file():
            stored = weights.load(path, cure="delete it, the next run makes it again")
            weights.check_same(path, stored.about["identity"], identity)
            return stored.arrays
        arrays = make()
        weights.save(path, arrays, {"identity": identity})
        print(f"{name} made", flush=True)
        return arrays


class Level:
    """The making of one noise level; heads and pixels are made when the first part asks for them."""

    def __init__(self, checkpoints, prior, clean, sigma, chosen, seed):
        self.checkpoints, self.prior, self.clean, self.sigma = checkpoints, prior, clean, sigma
        self.seed, self.tune_images = seed, chosen.tune_images
        self.noisy = data.add_noise(clean, sigma, seed + NOISE_SEED)
        self._outputs = None
        arrays = checkpoints.part(f"{sigma}.heads", self._tune)
        values = [arrays["settings"][i] for i in range(len(heads.Settings.__dataclass_fields__))]
        self.settings = heads.Settings(*map(float, values))
        self.weights = tuple(arrays["weights"].tolist())

    def _tune(self):
        few = self.noisy[: self.tune_images]
        settings, trail = heads.tune(few, self.sigma, heads.Settings(), seed=self.seed)
        return {
            "settings": np.array(list(asdict(settings).values())),
            "weights": np.array(trail[-1]["weights"]),
        }

    def outputs(self):
        """The four heads of all training images (K, N, 3, H, W)."""
        if self._outputs is None:
            self._outputs = gate_training.all_heads(self.noisy, self.sigma, self.settings)
        return self._outputs

    def gates(self, kind):
        """Gates of one kind, one for each of its training seeds."""
        pixels = None
        found = []
        for seed in range(SEEDS[kind]):

            def make(seed=seed):
                nonlocal pixels
                pixels = pixels or self.pixels(kind)
                only = kind == "announced"
                recipe = RECIPES[kind]
                return gates.to_arrays(
                    gate_training.train_gate(
                        pixels, recipe, self.weights, seed=seed, announced_only=only
                    )
                )

            arrays = self.checkpoints.part(
                f"{self.sigma}.{kind}.{seed}",
                make,
                recipe=asdict(RECIPES[kind]),
                images=SURE_IMAGES if kind == "sure" else len(self.clean),
            )
            found.append(gates.from_arrays(arrays))
        return tuple(found)

    def pixels(self, kind):
        """What gates of this kind learn from."""
        if kind == "sure":
            few = slice(0, SURE_IMAGES)
            return gate_training.sure_pixels(
                self.noisy[few],
                self.outputs()[:, few],
                self.sigma,
                self.settings,
                self.weights,
                seed=PROBE_SEED,
            )
        return gate_training.clean_pixels(
            self.clean, self.noisy, self.outputs(), self.sigma, self.weights
        )

    def passes(self, gate):
        """Maps of both passes, behind a pilot by this gate."""
        arrays = self.checkpoints.part(
            f"{self.sigma}.passes",
            lambda: self._fit_passes(gate),
            left=LEFT[self.sigma],
            ridge=RIDGE,
            recipe=asdict(RECIPES["clean"]),
        )
        return denoiser.Passes(arrays["first"], arrays["second"], LEFT[self.sigma])

    def _fit_passes(self, gate):
        pilot = heads.unclip(attended(gate, self.noisy, self.outputs(), self.sigma), self.sigma)
        made = denoiser.fit_passes(
            self.prior,
            self.clean,
            self.noisy,
            pilot,
            self.sigma,
            left=LEFT[self.sigma],
            ridge=RIDGE,
        )
        return {"first": made.first, "second": made.second}


def attended(gate, noisy, outputs, sigma):
    """The heads (K, B, 3, H, W) of many images mixed by a gate, some images at a time."""
    mixed = np.empty_like(noisy)
    for start in range(0, len(noisy), em.BATCH):
        part = slice(start, start + em.BATCH)
        own = np.ascontiguousarray(outputs[:, part])
        mixed[part] = gate.attend(noisy[part], own, sigma)[1]
    return mixed


def fit_prior(clean, chosen, seed):
    """The patch prior by EM on patches drawn from clean images (N, 3, H, W), as arrays."""
    rng = np.random.default_rng(seed)
    images = max(1, 5 * chosen.fit_patches // clean[0, 0].size)
    pool = em.extract(clean[:images], chosen.patch)
    drawn = rng.choice(len(pool), min(chosen.fit_patches, len(pool)), replace=False)
    prior, history = em.fit_prior(
        pool[drawn], chosen.components, chosen.rank, chosen.iterations, seed=seed
    )
    rising = (np.diff(history) >= 0).all()
    print(f"prior: {history[0]:.3f} to {history[-1]:.3f} nats per patch, never falling: {rising}")
    return asdict(prior)


def fit(clean, chosen, *, seed, folder, sigmas=None, kinds=tuple(RECIPES), passes=True):
    """Make the parts of a denoiser that are missing in `folder`.

    Args:
        clean: training images (N, 3, H, W) in [0, 1]. chosen: section em of params.yaml.
        sigmas, kinds, passes: which parts; without them all.

    Returns:
        the Denoiser, or None when only some parts were asked for.
    """
    settings = {name: getattr(chosen, name) for name in FIT_SETTINGS}
    checkpoints = Checkpoints(Path(folder), weights.identity(clean, seed=seed, **settings))
    arrays = checkpoints.part("prior", lambda: fit_prior(clean, chosen, seed))
    prior = em.Prior(**arrays)
    levels = {}
    for sigma in sigmas or chosen.sigmas:
        level = Level(checkpoints, prior, clean, sigma, chosen, seed)
        trained = {kind: level.gates(kind) for kind in kinds}
        if passes:
            maps = level.passes(trained["clean"][0])
            levels[sigma] = denoiser.Level(level.settings, level.weights, trained, maps)
    whole = passes and set(kinds) == set(RECIPES) and set(levels) == set(chosen.sigmas)
    return denoiser.Denoiser(prior, levels) if whole else None


FIT_SETTINGS = (
    "patch",
    "components",
    "rank",
    "iterations",
    "fit_images",
    "fit_patches",
    "tune_images",
)


def train(chosen, out, folder, *, sigma=None, kinds=(), passes=True):
    """Fit the denoiser of a profile on its training images and write it to `out`.

    Args:
        chosen: Params of the profile. folder: of the checkpoints.
        sigma, kinds, passes: make these parts only, and write nothing but their checkpoints.
    """
    torch.set_num_threads(1)  # more threads would change the last bits
    if unknown := set(kinds) - set(RECIPES):
        raise params.UserError(f"kind {min(unknown)!r}: allowed are {', '.join(RECIPES)}")
    if sigma is not None and sigma not in chosen.em.sigmas:
        raise params.UserError(f"sigma = {sigma}: allowed are {chosen.em.sigmas}")
    images, _ = data.load_cifar("train", chosen.profile)
    index, _ = data.split(len(images), chosen.seed, chosen.data.val_share)
    clean = (images[index[: chosen.em.fit_images]] / 255).astype(np.float32)
    made = fit(
        clean,
        chosen.em,
        seed=chosen.seed,
        folder=folder,
        sigmas=None if sigma is None else [sigma],
        kinds=tuple(kinds) or tuple(RECIPES),
        passes=passes,
    )
    if made:
        denoiser.save(out, made)
