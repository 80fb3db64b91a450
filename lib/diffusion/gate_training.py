"""Training of the gates: on clean images, or by SURE on noisy images alone.

With x = sum_h a_h(f) F_h the estimate of u = E[y], before the bias of clamping is undone, a gate minimises

    clean:  mean of  w s^2 |x - u|^2                           s = slope of `unclip` at the pilot
    SURE:   mean of  w (|x - y|^2 + 2 v b (x' - x) / step)     Stein's unbiased estimate of |x - u|^2, up to a constant

where x' is the estimate for y + step b with a random b of +-1, through heads, features and gate, and v the variance of
the clamped noise at the pilot. w is one weight an image: the inverse of its error, since the mean PSNR is a mean of
logarithms; for SURE it is estimated from the noisy image, too.

Sources: Stein, "Estimation of the mean of a multivariate normal distribution", 1981; Ramani, Blu and Unser, TIP 2008.

Symbols as in gates.py; N pixels of all training images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lib.diffusion import gates, heads

STEP = 0.01  # length of the probe
BATCH = 16384  # pixels of one training step


@dataclass(frozen=True)
class Recipe:
    """How a gate is trained: widths of its hidden layers, number of steps, largest rate."""

    hidden: tuple[int, ...]
    steps: int
    rate: float


@dataclass(frozen=True)
class Pixels:
    """Training pixels, a row each: features (N, M), heads (N, 3, K), target (N, 3), weight of the error (N, 3).

    For SURE the target is the noisy pixel, and moved_features, moved_heads and probe (N, 3) are there, too.
    """

    features: torch.Tensor
    heads: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    mean: np.ndarray
    scale: np.ndarray
    announced: int
    moved_features: torch.Tensor | None = None
    moved_heads: torch.Tensor | None = None
    probe: torch.Tensor | None = None


def rows(images):
    """(B, C, H, W) -> (B H W, C), a torch tensor."""
    return torch.from_numpy(np.moveaxis(images, 1, -1).reshape(-1, images.shape[1]).copy())


def head_rows(outputs):
    """(K, B, 3, H, W) -> (B H W, 3, K), a torch tensor."""
    return torch.from_numpy(outputs.transpose(1, 3, 4, 2, 0).reshape(-1, 3, len(outputs)).copy())


def standardised(found):
    """Features (B, M, H, W) with mean 0 and deviation 1 over all pixels, the mean (M,) and the deviation (M,)."""
    pixels = (0, 2, 3)  # every axis but the features'
    mean = found.mean(pixels, dtype=np.float64).astype(np.float32)  # (M,)
    scale = found.std(pixels, dtype=np.float64).astype(np.float32)  # (M,)
    scale += np.float32(1e-3)  # a feature that never changes
    return standardise(found, mean, scale), mean, scale


def standardise(found, mean, scale):
    """Features (B, M, H, W) in units of a deviation (M,) around a mean (M,)."""
    return (found - mean[:, None, None]) / scale[:, None, None]


def pilot_of(outputs, weights):
    """The heads (K, B, 3, H, W) by one set of weights (K,): the estimate of u that is there before any gate."""
    return np.einsum("kbchw,k->bchw", outputs, np.asarray(weights, np.float32))


def clean_pixels(clean, noisy, outputs, sigma, weights):
    """Pixels for training on clean images (B, 3, H, W); `weights` (K,) are the heads' global ones."""
    found, announced = gates.features(noisy, outputs, sigma)
    found, mean, scale = standardised(found)
    pilot = pilot_of(outputs, weights)
    error = ((heads.unclip(pilot, sigma) - clean) ** 2).mean((1, 2, 3))  # (B,)
    importance = error.mean() / error
    slope = unclip_slope(pilot, sigma)
    return Pixels(
        features=rows(found),
        heads=head_rows(outputs),
        target=rows(heads.clip_mean(clean, sigma)),
        weight=rows(slope**2 * importance[:, None, None, None].astype(np.float32)),
        mean=mean,
        scale=scale,
        announced=announced,
    )


def unclip_slope(pilot, sigma):
    """How much an error of u counts in the clean image: the slope of `unclip` at the pilot, from 0.2 to 3."""
    reach = np.float32(1e-3)
    rise = heads.unclip(pilot + reach, sigma) - heads.unclip(pilot - reach, sigma)
    return np.clip(rise / (2 * reach), 0.2, 3)


def all_heads(noisy, sigma, settings, batch=50):
    """`heads.head_outputs` of many images, some at a time to bound the memory."""
    parts = [
        heads.head_outputs(noisy[start : start + batch], sigma, settings)
        for start in range(0, len(noisy), batch)
    ]
    return np.concatenate(parts, axis=1)


def sure_pixels(noisy, outputs, sigma, settings, weights, *, seed):
    """Pixels for training by SURE, from noisy images (B, 3, H, W) and their heads alone; `weights` as above.

    The probe of image b depends on (seed, b) only.
    """
    probe = heads.probes(noisy.shape, seed)  # (B, 3, H, W) of +-1
    moved = noisy + np.float32(STEP) * probe
    moved_outputs = all_heads(moved, sigma, settings)
    found, announced = gates.features(noisy, outputs, sigma)
    found, mean, scale = standardised(found)
    moved_found, _ = gates.features(moved, moved_outputs, sigma)
    moved_found = standardise(moved_found, mean, scale)
    pilot = pilot_of(outputs, weights)
    variance = heads.clip_variance(np.clip(pilot, 0, 1), sigma)
    divergence = (pilot_of(moved_outputs, weights) - pilot) * probe / np.float32(STEP)
    risk = ((pilot - noisy) ** 2 - variance + 2 * variance * divergence).mean((1, 2, 3))  # (B,)
    risk = np.maximum(risk, 0.3 * risk.mean())  # a single estimate may be far off, even negative
    importance = (risk.mean() / risk)[:, None, None, None].astype(np.float32)
    return Pixels(
        features=rows(found),
        heads=head_rows(outputs),
        target=rows(noisy),
        weight=rows(np.broadcast_to(importance, noisy.shape)),
        mean=mean,
        scale=scale,
        announced=announced,
        moved_features=rows(moved_found),
        moved_heads=head_rows(moved_outputs),
        probe=rows(variance * probe / np.float32(STEP)),
    )


def network(inputs, hidden, weights, generator):
    """Layers that start as the heads' global weights (K,), whatever the features: the last one begins at zero."""
    layers, width = [], inputs
    for size in (*hidden, len(weights)):
        layer = nn.Linear(width, size)
        bound = 1 / width**0.5
        layer.weight.data = (2 * torch.rand(size, width, generator=generator) - 1) * bound
        layer.bias.data = (2 * torch.rand(size, generator=generator) - 1) * bound
        layers += [layer, nn.ReLU()]
        width = size
    last = layers[-2]
    last.weight.data.zero_()
    last.bias.data = torch.log(torch.clamp(torch.tensor(weights, dtype=torch.float32), min=0.02))
    return nn.Sequential(*layers[:-1])


def train_gate(pixels, recipe, weights, *, seed, announced_only=False):
    """Train one gate on Pixels, by SURE where they hold a probe; equal arguments give equal gates.

    Args:
        weights: (K,) global weights of the heads, where every gate starts.
        announced_only: let the gate see the features of the announced groups alone.
    """
    generator = torch.Generator().manual_seed(seed)
    count = pixels.announced if announced_only else pixels.features.shape[1]
    net = network(count, recipe.hidden, weights, generator)
    optimiser = torch.optim.AdamW(net.parameters(), recipe.rate, weight_decay=1e-4)
    for step in range(recipe.steps):
        warm = min(1, (step + 1) / 100)
        falling = 0.5 * (1 + np.cos(np.pi * step / recipe.steps)) + 0.01
        optimiser.param_groups[0]["lr"] = recipe.rate * warm * falling
        drawn = torch.randint(len(pixels.features), (BATCH,), generator=generator)
        loss = risk(net, pixels, drawn, count)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    layers = tuple(
        (layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())
        for layer in linear
    )
    return gates.Gate(pixels.mean[:count], pixels.scale[:count], layers)


def risk(net, pixels, drawn, count):
    """The loss of the module's docstring on the pixels `drawn`, with the first `count` features."""
    estimate = mixed(net, pixels.features[drawn, :count], pixels.heads[drawn])
    error = (estimate - pixels.target[drawn]) ** 2
    if pixels.probe is not None:
        moved = mixed(net, pixels.moved_features[drawn, :count], pixels.moved_heads[drawn])
        error = error + 2 * pixels.probe[drawn] * (moved - estimate)
    return (pixels.weight[drawn] * error).mean()


def mixed(net, found, outputs):
    """Heads (N, 3, K) mixed by the network's softmax over features (N, M) -> (N, 3)."""
    shares = torch.softmax(net(found), dim=1)  # (N, K)
    return (outputs * shares[:, None]).sum(-1)
