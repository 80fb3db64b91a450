"""The denoisers by name, their weights on disk, batched inference and the router's statistics.

The announced network: 4x4 patches of a 32x32 image as 64 tokens of width 128, two pre-norm blocks of a soft
mixture of sparse-attention experts and a GELU layer of width 256, patches back to pixels; 599,689 parameters. Its
output is clamped to [0, 1] inside forward, in training too: that is part of what was announced, and it kills
output units (an output that is always outside has no gradient). `clamp_training=False` clamps at evaluation only.

Every network here maps (noisy (B, 3, H, W) in [0, 1], sigma (B,)) to (image (B, 3, H, W), gates of its routers).
Shapes: B images, N tokens, D width, E experts, L routed blocks.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.common import weights
from lib.common.params import UserError
from lib.mixture.experts import LEARNED, MixtureAttention, Routing
from lib.mixture.network import Trunk

OUTER = ("stem", "head", "level", "film", "router")  # parts of our network that AdamW trains


class Block(nn.Module):
    """Pre-norm mixture attention and a GELU layer, each with a residual."""

    def __init__(self, width: int, heads: int, keep: tuple[int, ...], hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixture = MixtureAttention(width, heads, keep)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        mixed, gates = self.mixture(self.norm1(tokens), routing)
        tokens = tokens + mixed  # (B, N, D)
        return tokens + self.ffn(self.norm2(tokens)), gates


class Announced(nn.Module):
    """The announced mixture denoiser. It knows no noise level; `sigma` is taken and not used."""

    def __init__(
        self, width: int = 128, heads: int = 4, keep: tuple[int, ...] = (32, 64, 128), hidden: int = 256,
        blocks: int = 2, size: int = 32, patch: int = 4, clamp_training: bool = True
    ):  # fmt: skip
        super().__init__()
        self.clamp_training, self.tokens, self.size = clamp_training, size // patch, size
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.tokens**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, keep, hidden) for _ in range(blocks))
        self.unembed = nn.ConvTranspose2d(width, 3, patch, stride=patch)

    def raw(self, noisy: Tensor, routing: Routing = LEARNED) -> tuple[Tensor, list[Tensor]]:
        """The output before the clamp (B, 3, H, W), and the gates (B, N, E) of each block."""
        if noisy.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"noisy is {tuple(noisy.shape)}; expected (B, 3, {self.size}, {self.size})"
            )
        tokens = self.embed(noisy).flatten(2).mT + self.positions  # (B, N, D)
        gates = []
        for block in self.blocks:
            tokens, gate = block(tokens, routing)
            gates.append(gate)
        return self.unembed(tokens.mT.unflatten(2, (self.tokens, self.tokens))), gates

    def forward(
        self, noisy: Tensor, sigma: Tensor | None = None, routing: Routing = LEARNED
    ) -> tuple[Tensor, list[Tensor]]:
        image, gates = self.raw(noisy, routing)
        return (image if self.training and not self.clamp_training else image.clamp(0, 1)), gates


class Arm(NamedTuple):
    """A network, how its windows are routed in training and after it, and its steps for the CPU seconds of ours.

    Ours explores: windows go to random experts in training, so that the router does not only see what becomes of its
    own choices, and the gates teach it all the while.
    """

    network: Callable[[], nn.Module]
    exploring: str = "learned"
    routing: str = "learned"
    pace: float = 1.0


ARMS = {
    "announced": Arm(Announced),
    "announced_unclamped": Arm(lambda: Announced(clamp_training=False)),
    "ours": Arm(lambda: Trunk(routed=True), "random"),
    "ours_committed": Arm(lambda: Trunk(routed=True)),
    "unet": Arm(lambda: Trunk(routed=False), pace=1.35),
}


def build(arm: str, seed: int) -> nn.Module:
    """The network of an arm with the initial weights of `seed`, drawn apart from torch's global generator."""
    if arm not in ARMS:
        raise UserError(f"arm = {arm!r}: allowed are {', '.join(ARMS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARMS[arm].network()


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """Convolutions and linear layers between the first and the last: what Muon trains."""
    parts = [
        part for name, part in model.named_modules() if not any(outer in name for outer in OUTER)
    ]
    layers = [p for p in parts if isinstance(p, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    return [layer.weight for layer in layers]


def parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def save_tensors(path: Path | str, tensors: dict[str, Tensor], about: dict) -> None:
    """A safetensors file, whole or absent; `about` is its only metadata, as JSON with sorted keys."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    in_order = json.loads(json.dumps(about, sort_keys=True))
    weights.save(path, arrays, {"about": in_order})


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """What `save_tensors` wrote: the tensors on the CPU and `about`."""
    with weights.readable(path):
        stored = weights.load(path)
        about = stored.about["about"]
    return {name: torch.from_numpy(array) for name, array in stored.arrays.items()}, about


def load_weights(path: Path | str, arm: str | None = None) -> nn.Module:
    """The trained network of a weights file, in evaluation mode, on the CPU.

    Raises:
        UserError: no such file, not a weights file, or it belongs to another arm than the one asked for.
    """
    tensors, about = load_tensors(path)
    if arm is not None:
        weights.check_same(path, {"arm": about.get("arm")}, {"arm": arm})
    model = build(about.get("arm"), seed=0)
    weights.check_shapes(path, tensors, {k: tuple(v.shape) for k, v in model.state_dict().items()})
    model.load_state_dict(tensors)
    return model.eval()


@torch.no_grad()
def denoise(
    model: nn.Module,
    images: Tensor,
    sigma: float = 0.2,
    batch: int = 250,
    routing: Routing = LEARNED,
) -> Tensor:
    """Denoise images (N, 3, H, W), float in [0, 1] -> the same shape, on the images' device."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = [
        model(part.to(device), torch.full((len(part),), sigma, device=device), routing)[0].to(
            images.device
        )
        for part in images.split(batch)
    ]
    model.train(was_training)
    return torch.cat(parts)


@torch.no_grad()
def gate_statistics(model: nn.Module, images: Tensor, batch: int = 250) -> list[dict]:
    """How the router of each block uses its experts on images (N, 3, H, W).

    Returns, per block: `mean` (E,) soft share, `argmax` (E,) share of tokens whose largest gate it is, `entropy`
    of a token's gates in percent of its maximum ln E.
    """
    batches, summary = [model(part)[1] for part in images.split(batch)], []
    for block in zip(*batches, strict=True):
        gates = torch.cat(block).flatten(0, 1)  # (tokens, E)
        entropy = 100 * torch.special.entr(gates).sum(1).mean().item() / math.log(gates.shape[1])
        largest = gates.argmax(1).bincount(minlength=gates.shape[1]) / len(gates)
        summary.append(
            {
                "mean": gates.double().mean(0).tolist(),
                "argmax": largest.tolist(),
                "entropy": entropy,
            }
        )
    return summary


@torch.no_grad()
def dead_outputs(model: Announced, images: Tensor, batch: int = 250) -> int:
    """How many of the un-embedding's 3 * patch * patch outputs lie outside [0, 1] everywhere on images (N, 3, H, W).

    Such an output shows a constant 0 or 1 and, trained through the clamp, gets no gradient.
    """
    patch = model.size // model.tokens
    alive = torch.zeros(3, patch, patch, dtype=torch.bool)
    for part in images.split(batch):
        raw = (
            model.raw(part)[0].unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        )  # (B, 3, h, p, w, p)
        inside = (raw > 0) & (raw < 1)
        alive |= inside.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).any(0).cpu()
    return int((~alive).sum())
