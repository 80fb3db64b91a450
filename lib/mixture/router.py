"""The router: from a dozen cheap numbers of the noisy input to the error that each member of the bank would make.

It is fitted by regression, not by gradients through a gate: all members denoise training images, their errors are
measured, and a small network learns log error of the smallest member and the others' gains over it. So there is no balance
loss, no straight-through gradient and no exploration: what a choice would have brought is known for every member. The idea
is that of APE (Wang et al. 2022), which regresses the gain of one more layer; here whole networks are compared.

Shapes: B images, U units (an image of 32 pixels, or the cells of 32 pixels of a larger one), F = 12 features, K members.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNIT = 32  # pixels of a unit: that of the training images
SCALES = 4
FEATURES = (
    *(
        f"{kind} at scale {scale}"
        for scale in range(1, SCALES + 1)
        for kind in ("excess", "energy")
    ),
    "brightness",
    "clipped",
    "colour",
    "level",
)
LEVEL = [FEATURES.index("level")]  # what a router by noise level sees
GRADIENT = [FEATURES.index("energy at scale 1")]  # what a router by edges sees
STEPS, BATCH, RATE = 2500, 512, 3e-3  # of the regression
HIDDEN = 64


def features(noisy: Tensor, level: Tensor, unit: int = UNIT) -> Tensor:
    """What the router sees of every unit. noisy (B, 3, H, W), level (B, 1, H, W) -> (B, U, F); H, W multiples of `unit`.

    At four scales, each the 2x2 mean of the one before: `excess`, log of the energy of differences between neighbours over
    what the noise alone would give, and `energy`, log of its square root, an edge score as that of ARM (Chen et al.
    2022). Then mean brightness, share of clipped values, spread of the colours, log level.
    """
    cells = noisy.shape[2] // unit, noisy.shape[3] // unit

    def per_unit(values: Tensor) -> Tensor:  # (B, C, h, w) -> (B, U)
        return F.adaptive_avg_pool2d(values.mean(1, keepdim=True), cells).flatten(1)

    variance = per_unit(level.square())  # (B, U)
    columns = []
    image = noisy
    for scale in range(SCALES):
        right = (image[:, :, :, 1:] - image[:, :, :, :-1]).square()
        down = (image[:, :, 1:] - image[:, :, :-1]).square()
        energy = per_unit(right) + per_unit(down)
        of_noise = 4 * variance / 4**scale  # two directions, two pixels each
        columns.append((energy / of_noise + 1e-3).log())
        columns.append((energy + 1e-5).log() / 2)
        image = F.avg_pool2d(image, 2)
    clipped = ((noisy <= 0) | (noisy >= 1)).float()
    colour = (noisy - noisy.mean(1, keepdim=True)).abs()
    columns += [per_unit(noisy), per_unit(clipped), per_unit(colour), variance.log() / 2]
    return torch.stack(columns, dim=2)


def operations(members: int, hidden: int = HIDDEN, unit: int = UNIT) -> int:
    """Multiply-adds of features and router for one unit, rounded up generously: 14 for each pixel of each scale."""
    pixels = unit * unit * (1 + 1 / 4 + 1 / 16 + 1 / 64)
    layers = len(FEATURES) * hidden + hidden * hidden + hidden * members
    return math.ceil(14 * pixels) + layers


class Router(nn.Module):
    """A small network that predicts the log error of every member.

    `seen` are the columns of the features that it may use; all of them, or one for the rules "by level", "by gradient".
    """

    def __init__(self, members: int, seen: list[int] | None = None, hidden: int = HIDDEN):
        super().__init__()
        self.seen = list(range(len(FEATURES))) if seen is None else seen
        self.register_buffer("centre", torch.zeros(len(self.seen)))
        self.register_buffer("spread", torch.ones(len(self.seen)))
        self.register_buffer("target_centre", torch.zeros(members))
        self.register_buffer("target_spread", torch.ones(members))
        self.layers = nn.Sequential(
            nn.Linear(len(self.seen), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, members),
        )

    def scores(self, found: Tensor) -> Tensor:
        """Standardised targets. (..., F) -> (..., K)"""
        inputs = (found[..., self.seen] - self.centre) / self.spread
        return self.layers(inputs)

    def forward(self, found: Tensor) -> Tensor:
        """Predicted log of the mean squared error of each member. (..., F) -> (..., K)"""
        targets = self.scores(found) * self.target_spread + self.target_centre
        smallest = targets[..., :1]
        return torch.cat([smallest, smallest + targets[..., 1:]], dim=-1)


def targets_of(errors: Tensor) -> Tensor:
    """Log error of the smallest member, then the log of each other's error over it. (N, K) -> (N, K)"""
    logarithm = errors.clamp_min(1e-7).log()
    return torch.cat([logarithm[:, :1], logarithm[:, 1:] - logarithm[:, :1]], dim=1)


def fit(
    found: Tensor, errors: Tensor, seed: int = 0, seen: list[int] | None = None, steps: int = STEPS
) -> Router:
    """A router from features (N, F) and the measured mean squared errors (N, K) of all members on the same units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        router = Router(errors.shape[1], seen)
    targets = targets_of(errors)
    columns = found[:, router.seen]
    router.centre.copy_(columns.mean(0))
    router.spread.copy_(columns.std(0) + 1e-6)
    router.target_centre.copy_(targets.mean(0))
    router.target_spread.copy_(targets.std(0) + 1e-6)
    wanted = (targets - router.target_centre) / router.target_spread  # (N, K)
    optimiser = torch.optim.AdamW(router.parameters(), lr=RATE, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        chosen = torch.randint(len(found), (min(BATCH, len(found)),), generator=generator)
        loss = F.mse_loss(router.scores(found[chosen]), wanted[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return router.eval()
