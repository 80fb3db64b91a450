"""The announced mixture of sparse-attention experts and nothing else: same mathematics, written for speed.

The network: 4x4 patches of a 32x32 image as 64 tokens of width 128, two pre-norm blocks of a soft mixture of
sparse-attention experts and a GELU layer of width 256, patches back to pixels; 599,689 parameters. Its output is
clamped to [0, 1] inside forward, in training too: that is part of what was announced, and it kills output units (an
output that is always outside has no gradient). `clamp_training=False` clamps at evaluation only.

Every token asks a small router for a soft mixture of three attention experts; expert e keeps the k_e largest
scores of each query before the softmax. Departures from the announced code, none of which changes a value: the
projections of all experts are one product, experts with k >= N run as plain dense attention, for k < N a mask
of the k largest scores replaces the gather of expanded keys and values, and the gates are folded into one
output product.

Shapes: B images, N tokens, D width, H heads, d = D / H, E experts, L blocks.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.mixture.ranks import ALONE, Ranks

ROUTINGS = ("learned", "uniform", "shuffled", "hard")


class Routing(NamedTuple):
    """How forward uses the router: `how` is one of ROUTINGS; "shuffled" needs a generator; skip: see windows.py.

    With several processes (`ranks`) a generator draws for the whole batch, and each process takes its own.
    """

    how: str = "learned"
    generator: torch.Generator | None = None
    skip: bool = True
    ranks: Ranks = ALONE


LEARNED = Routing()


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """True at exactly k entries of each row of scores (..., N): the largest.

    Among scores that tie at rank k an unspecified choice is kept, never more than k (a threshold would keep all).
    """
    top = scores.topk(k, dim=-1, sorted=False).indices  # (..., k)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, top, True)


def attend(q: Tensor, k: Tensor, v: Tensor, keep: int) -> Tensor:
    """Attention over q, k, v (B, H, N, d) with the `keep` largest scores of each query -> (B, H, N, d)."""
    if keep >= k.shape[-2]:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.no_grad():
        kept = keep_largest(q @ k.mT, keep)  # (B, H, N, N)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=kept)


def replace_gates(gates: Tensor, routing: Routing) -> Tensor:
    """The gates (B, N, E) that forward mixes with, after the replacement that `routing` names.

    uniform: 1/E everywhere; shuffled: tokens exchange their gates; hard: the largest gate becomes 1, the rest 0.
    """
    if routing.how == "learned":
        return gates
    if routing.how == "uniform":
        return torch.full_like(gates, 1 / gates.shape[-1])
    if routing.how == "hard":
        return F.one_hot(gates.argmax(-1), gates.shape[-1]).to(gates.dtype)
    if routing.how == "shuffled":
        if routing.generator is None:
            raise ValueError(
                "routing 'shuffled' needs a torch.Generator (Routing('shuffled', generator))"
            )
        order = torch.randperm(
            gates.shape[1], generator=routing.generator, device=routing.generator.device
        )
        return gates[:, order.to(gates.device)]
    raise ValueError(f"routing is {routing.how!r}; choose one of {', '.join(ROUTINGS)}")


class SparseExperts(nn.Module):
    """E attention experts of H heads that see the same tokens and keep a different number of keys."""

    def __init__(self, width: int = 128, heads: int = 4, keep: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        self.heads, self.keep = heads, tuple(keep)
        self.project = nn.Linear(width, 3 * len(keep) * width)
        bound = 1 / math.sqrt(width)
        self.out_weight = nn.Parameter(torch.empty(len(keep), width, width).uniform_(-bound, bound))
        self.out_bias = nn.Parameter(torch.empty(len(keep), width).uniform_(-bound, bound))

    def forward(self, tokens: Tensor, gates: Tensor) -> Tensor:
        """The mixture of the experts' outputs: tokens (B, N, D), gates (B, N, E) -> (B, N, D)."""
        b, n, width = tokens.shape
        experts = len(self.keep)
        qkv = self.project(tokens).view(b, n, 3, experts * self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, E * H, N, d)
        parts = zip(self.keep, *(x.split(self.heads, dim=1) for x in (q, k, v)), strict=True)
        heads = torch.cat([attend(*part, keep) for keep, *part in parts], dim=1)  # (B, E * H, N, d)
        values = (
            heads.transpose(1, 2).reshape(b, n, experts, width) * gates[..., None]
        )  # (B, N, E, D)
        mixed = values.flatten(2) @ self.out_weight.transpose(1, 2).reshape(-1, width)  # (B, N, D)
        return mixed + gates @ self.out_bias


class MixtureAttention(nn.Module):
    """Router, experts and merge projection of one announced block (223,107 parameters at D = 128)."""

    def __init__(self, width: int = 128, heads: int = 4, keep: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        self.router = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, len(keep)),
            nn.Softmax(dim=-1),
        )
        self.experts = SparseExperts(width, heads, keep)
        self.merge = nn.Linear(width, width)

    def forward(self, tokens: Tensor, routing: Routing = LEARNED) -> tuple[Tensor, Tensor]:
        """tokens (B, N, D) -> (mixture (B, N, D), gates of the router before any replacement (B, N, E))."""
        gates = self.router(tokens)  # (B, N, E)
        return self.merge(self.experts(tokens, replace_gates(gates, routing))), gates


def balance_loss(gates: list[Tensor], ranks: Ranks = ALONE) -> Tensor:
    """The announced balance term: KL(uniform || mean gate), divided by E once more (its `batchmean`), blocks summed.

    The mean is over the tokens (B, N) of all processes.
    An undecided router is its optimum, so it pushes towards uniform gates; it is kept because it was announced.
    """
    means = ranks.mean(torch.stack([g.flatten(0, 1).mean(0) for g in gates]))  # (L, E)
    experts = means.shape[1]
    kl = (-math.log(experts) - means.log()).mean(1)  # (L,) sum over E of 1/E * (log 1/E - log mean)
    return kl.sum() / experts


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


@torch.no_grad()
def gate_statistics(model: nn.Module, images: Tensor, batch: int = 250) -> list[dict]:
    """How the router of each block uses its experts on images (N, 3, H, W).

    Returns, per block: `mean` (E,) soft share, `argmax` (E,) share of tokens whose largest gate it is, `entropy`
    of a token's gates in percent of its maximum ln E; and the means of each image, `image_mean` (N, E) and
    `image_entropy` (N,), for intervals.
    """
    batches, summary = [model(part)[1] for part in images.split(batch)], []
    for block in zip(*batches, strict=True):
        by_image = torch.cat(block)  # (N, tokens of an image, E)
        gates = by_image.flatten(0, 1)  # (tokens, E)
        entropy = 100 * torch.special.entr(gates).sum(1).mean().item() / math.log(gates.shape[1])
        image_entropy = torch.special.entr(by_image.double()).sum(2).mean(1)  # (N,)
        largest = gates.argmax(1).bincount(minlength=gates.shape[1]) / len(gates)
        summary.append(
            {
                "mean": gates.double().mean(0).tolist(),
                "argmax": largest.tolist(),
                "entropy": entropy,
                "image_mean": by_image.double().mean(1).cpu().numpy(),
                "image_entropy": 100 * image_entropy.cpu().numpy() / math.log(gates.shape[1]),
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
