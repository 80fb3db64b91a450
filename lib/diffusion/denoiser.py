"""The full denoiser: attention for each pixel, then two passes of linear maps that the E step picks.

    pilot   = heads mixed by a gate, bias of clamping undone
    first   = for each window: component k of the noisy window, map A_k of [noisy, pilot, 1]
    second  = for each window: component k of `first`, map B_k of [noisy, pilot, first, 1]

Both passes average overlapping answers. The maps of the second pass must not see answers better than those of test
images, so the training images are cut in two: maps A of one half answer for the other, and B is fitted on these
answers of all images (stacked generalisation). The maps A that are kept come from all images.

Sources: Jordan and Jacobs, "Hierarchical mixtures of experts and the EM algorithm", Neural Computation 1994; Romano,
Isidoro and Milanfar, RAISR, 2017; Wolpert, "Stacked generalization", Neural Networks 1992.

Symbols: B images, H, W; p window side (the prior's patch), q = p - 2 side of the answer, N windows, K components,
I inputs of a map: 3 p^2 for each image seen, and 1.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lib.common import params, weights
from lib.diffusion import em, experts, gates, graph, heads

SHORTLIST = 8  # components compared in full; all 64 would take twice the time for about 0.01 dB
REMAKE = "restore it, or run: python -m lib train em"


@dataclass(frozen=True)
class Passes:
    """The maps (K, I, 3 q^2) of both passes at one noise level, and the noise that the second choice assumes."""

    first: np.ndarray
    second: np.ndarray
    left: float


@dataclass(frozen=True)
class Level:
    """What one noise level has: filter settings, global head weights (K,), gates by kind and training seed, passes."""

    settings: heads.Settings
    weights: tuple[float, ...]
    gates: dict[str, tuple[gates.Gate, ...]]
    passes: Passes


@dataclass(frozen=True)
class Denoiser:
    """A patch prior and, by noise level, the rest."""

    prior: em.Prior
    levels: dict[float, Level]

    def level(self, sigma):
        """The level of a noise deviation; ValueError if the denoiser was not fitted for it."""
        if sigma not in self.levels:
            known = ", ".join(map(str, self.levels))
            raise ValueError(f"sigma = {sigma}: the denoiser was fitted for {known}")
        return self.levels[sigma]

    def nearest(self, sigma):
        """The fitted noise level that is nearest to sigma."""
        return min(self.levels, key=lambda level: abs(level - sigma))

    def attend(self, noisy, sigma, kind="clean", seed=0):
        """Weights of the heads at each pixel (B, K, H, W) and their mix (B, 3, H, W), bias of clamping undone."""
        level = self.level(sigma)
        outputs = heads.head_outputs(noisy, sigma, level.settings)
        shares, mixed = level.gates[kind][seed].attend(noisy, outputs, sigma)
        return shares, heads.unclip(mixed, sigma)

    def pilot(self, noisy, sigma, kind="clean", seed=0):
        """The training-free heads, mixed by a gate: (B, 3, H, W) -> the same shape."""
        noisy = graph.check_images(noisy, self.prior.patch)
        out = np.empty_like(noisy)
        for start in range(0, len(noisy), em.BATCH):
            part = slice(start, start + em.BATCH)
            out[part] = self.attend(noisy[part], sigma, kind, seed)[1]
        return out

    def denoise(self, noisy, sigma, pilot=None):
        """Clean images in [0, 1] from clamped noisy ones, (B, 3, H, W) float32 each; `pilot` if it is there already."""
        return self.both_passes(noisy, sigma, pilot)[1]

    def both_passes(self, noisy, sigma, pilot=None):
        """The answers of the first and of the second pass, (B, 3, H, W) each."""
        noisy = graph.check_images(noisy, self.prior.patch)
        pilot = self.pilot(noisy, sigma) if pilot is None else pilot
        passes = self.level(sigma).passes
        first = np.empty_like(noisy)
        second = np.empty_like(noisy)
        for start in range(0, len(noisy), em.BATCH):
            part = slice(start, start + em.BATCH)
            seen = [noisy[part], pilot[part]]
            chosen = experts.choose(self.prior, noisy[part], sigma, SHORTLIST)
            first[part] = experts.answer(self.prior, passes.first, seen, chosen)
            chosen = experts.choose(self.prior, first[part], passes.left, SHORTLIST)
            second[part] = experts.answer(self.prior, passes.second, [*seen, first[part]], chosen)
        return first, second


def fit_passes(prior, clean, noisy, pilot, sigma, *, left, ridge=3.0):
    """Maps of both passes from clean, noisy and pilot images (B, 3, H, W) each.

    Args:
        left: deviation of the error that the second choice of a component assumes in the first answer.
        ridge: pull of every map towards the one map fitted on all windows, in windows' worth of unit variance.

    Raises:
        ValueError: the three stacks differ in shape.
    """
    if not clean.shape == noisy.shape == pilot.shape:
        raise ValueError(
            f"clean, noisy and pilot differ in shape: {clean.shape}, {noisy.shape}, {pilot.shape}"
        )
    halves = (slice(0, None, 2), slice(1, None, 2))
    sums = [
        experts.collect(prior, clean[half], [noisy[half], pilot[half]], noisy[half], sigma)
        for half in halves
    ]
    first = np.empty_like(noisy)
    for half, other in zip(halves, reversed(sums), strict=True):
        maps = experts.solve(*other, ridge)
        first[half] = apply_pass(prior, maps, [noisy[half], pilot[half]], noisy[half], sigma)
    both = [one + other for one, other in zip(*sums, strict=True)]
    second = experts.collect(prior, clean, [noisy, pilot, first], first, left)
    return Passes(experts.solve(*both, ridge), experts.solve(*second, ridge), left)


def apply_pass(prior, maps, seen, judged, sigma):
    """One pass over many images: `seen` is a list of (B, 3, H, W), the component is chosen on `judged`."""
    out = np.empty_like(judged)
    for start in range(0, len(judged), em.BATCH):
        part = slice(start, start + em.BATCH)
        chosen = experts.choose(prior, judged[part], sigma)
        out[part] = experts.answer(prior, maps, [image[part] for image in seen], chosen)
    return out


def save(path, denoiser):
    """Write a denoiser as safetensors; the maps in half precision, which moves an answer by less than 0.001 dB."""
    arrays = {f"prior.{name}": value for name, value in asdict(denoiser.prior).items()}
    levels = {}
    for sigma, level in denoiser.levels.items():
        arrays[f"{sigma}.first"] = level.passes.first.astype(np.float16)
        arrays[f"{sigma}.second"] = level.passes.second.astype(np.float16)
        for kind, trained in level.gates.items():
            for seed, gate in enumerate(trained):
                arrays |= gates.to_arrays(gate, f"{sigma}.{kind}.{seed}.")
        levels[str(sigma)] = {
            "settings": asdict(level.settings),
            "weights": level.weights,
            "left": level.passes.left,
            "gates": {kind: len(trained) for kind, trained in level.gates.items()},
        }
    weights.save(path, arrays, {"levels": levels})


def load(path, patch=None):
    """Read a denoiser.

    Raises:
        UserError: the file is missing, damaged, no denoiser, or made for other patches than `patch` pixels.
    """
    path = Path(path)
    stored = weights.load(path, kind="denoiser", cure=REMAKE)
    with weights.readable(path, kind="denoiser", cure=REMAKE):
        fields = em.Prior.__dataclass_fields__
        prior = em.Prior(**{name: stored.arrays[f"prior.{name}"] for name in fields})
        levels = {
            float(sigma): _level(sigma, stored.arrays, told)
            for sigma, told in stored.about["levels"].items()
        }
    if patch is not None and prior.patch != patch:
        raise params.UserError(
            f"{path.name}: made for patches of {prior.patch} pixels, not {patch}; {REMAKE}"
        )
    return Denoiser(prior, levels)


def _level(sigma, arrays, told):
    passes = Passes(
        first=arrays[f"{sigma}.first"].astype(np.float32),
        second=arrays[f"{sigma}.second"].astype(np.float32),
        left=told["left"],
    )
    trained = {}
    for kind, count in told["gates"].items():
        stems = [f"{sigma}.{kind}.{seed}." for seed in range(count)]
        trained[kind] = tuple(gates.from_arrays(arrays, stem) for stem in stems)
    settings = heads.Settings(**told["settings"])
    return Level(settings, tuple(told["weights"]), trained, passes)
