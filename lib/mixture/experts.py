"""The announced mixture of sparse-attention experts, same mathematics, written for speed.

Every token asks a small router for a soft mixture of three attention experts; expert e keeps the k_e largest
scores of each query before the softmax. Departures from the announced code, none of which changes a value: the
projections of all experts are one product, experts with k >= N run as plain dense attention, for k < N a mask
of the k largest scores replaces the gather of expanded keys and values, and the gates are folded into one
output product.

Shapes: B images, N tokens, D width, H heads, d = D / H, E experts.
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
