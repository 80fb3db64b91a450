"""Hard routing of windows to attention experts, and attention over chosen blocks of keys.

An image's tokens are cut into windows of t x t. A linear router sees each window's mean and spread and sends it to
exactly one of three experts of fixed capacity: global (own window and the `reach` best other windows), local (own
window), skip (nothing is computed). Shapes depend on the image size alone, so nothing is dropped or padded and no
balance loss is needed. The gradient reaches the router through the gate, the probability of the
expert taken, whose value is replaced by 1 (straight through).

Global attention is block-sparse as in Native Sparse Attention (Yuan et al. 2025) and MoBA (Lu et al. 2025): whole
windows of keys are chosen by the product of pooled queries and keys. Departures: the blocks are two-dimensional,
the own window is always among them, scores carry a bias for the relative position, and there is no causal order.

Shapes: B images, M windows of T = t * t tokens, Q of them with queries, S = 1 + reach blocks of keys, C channels,
H heads, d = C / H.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.mixture.announced import LEARNED, Routing

CHUNK = 1024  # query windows at a time: memory stays linear in tokens although all pairs of windows are scored
PLANS = ("learned", "random", "fixed", "all", "none")


def to_windows(image: Tensor, t: int) -> Tensor:
    """(B, C, H, W) with H and W multiples of t -> (B, M, T, C), windows and their tokens row by row."""
    b, c, h, w = image.shape
    if h % t or w % t:
        raise ValueError(f"image is {h} x {w}; both must be multiples of the window, {t}")
    cut = image.reshape(b, c, h // t, t, w // t, t)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, t * t, c)


def from_windows(windows: Tensor, t: int, h: int, w: int) -> Tensor:
    """The inverse of `to_windows`: (B, M, T, C) -> (B, C, h, w)."""
    b, _, _, c = windows.shape
    return windows.reshape(b, h // t, w // t, t, t, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def choose_blocks(
    q: Tensor, k: Tensor, own: Tensor, reach: int, across: int = 1, near: bool = False
) -> Tensor:
    """The key blocks of each query block: its own first, then the `reach` best others by pooled q . k.

    q (B, Q, T, C), k (B, M, T, C), own (B, Q) the place of each query block in k -> (B, Q, S). With `near`, only the
    eight neighbours in an image with `across` blocks in a row are asked.
    """
    if reach == 0:
        return own[..., None]
    with torch.no_grad():
        scores = q.mean(2) @ k.mean(2).mT  # (B, Q, M)
        if near:
            everyone = torch.arange(k.shape[1], device=own.device)
            down = everyone // across - own[..., None] // across  # (B, Q, M)
            right = everyone % across - own[..., None] % across
            far = (down.abs() > 1) | (right.abs() > 1)
            scores.masked_fill_(far, -math.inf)
        scores.scatter_(2, own[..., None], math.inf)
        return scores.topk(min(1 + reach, k.shape[1]), dim=2).indices  # (B, Q, S)


def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    own: Tensor,
    reach: int,
    heads: int,
    bias: Tensor | None = None,
    across: int = 1,
    near: bool = False,
) -> Tensor:
    """Attention of query blocks (B, Q, T, C) over the blocks of k, v (B, M, T, C) chosen for each -> (B, Q, T, C).

    `bias` (9, H, T, T) is added to the scores: one for each place of the other block, above left to below right, in
    an image with `across` blocks in a row; a distant block has the bias of the nearest one in its direction. Memory
    and time of the attention grow with Q * S, not with Q * M; only the choice compares all pairs of blocks, one
    number a pair and a chunk at a time.
    """
    parts = []
    for part, at in zip(q.split(CHUNK, 1), own.split(CHUNK, 1), strict=True):
        chosen = choose_blocks(part, k, at, reach, across, near)
        parts.append(
            _attend_chosen(
                part, k, v, chosen, heads, bias, direction(at[..., None], chosen, across)
            )
        )
    return torch.cat(parts, dim=1)


def direction(own: Tensor, other: Tensor, across: int) -> Tensor:
    """Where block `other` lies as seen from block `own`, 0 (above left) to 8 (below right); 4 is the same."""
    down = (other // across - own // across).clamp(-1, 1)
    return 3 * (down + 1) + (other % across - own % across).clamp(-1, 1) + 1


def _attend_chosen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: Tensor,
    heads: int,
    bias: Tensor | None,
    towards: Tensor,
) -> Tensor:
    # whole blocks are contiguous rows, so the gather is a copy of rows and the heads are views of it
    keys, values = (take(x, chosen.flatten(1)).view(-1, chosen.shape[2] * x.shape[2], heads, x.shape[3] // heads)
                    for x in (k, v))  # (B * Q, S * T, H, d)  # fmt: skip
    queries = q.reshape(-1, q.shape[2], heads, q.shape[3] // heads)  # (B * Q, T, H, d)
    if bias is not None:
        bias = bias.to(q.dtype).index_select(0, towards.flatten())  # (B * Q * S, H, T, T)
        bias = (
            bias.unflatten(0, (-1, chosen.shape[2])).permute(0, 2, 3, 1, 4).flatten(3)
        )  # (B * Q, H, T, S * T)
    out = attend(*(x.transpose(1, 2) for x in (queries, keys, values)), bias)
    return out.transpose(1, 2).reshape(q.shape)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of q (A, H, N, d) over k, v (A, H, K, d) with a bias (A, H, N, K) on the scores -> (A, H, N, d)."""
    if q.dtype != torch.bfloat16 or q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (
        q * q.shape[-1] ** -0.5
    ) @ k.mT  # torch's own backward pass takes six times as long in bfloat16
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def take(windows: Tensor, index: Tensor) -> Tensor:
    """The windows (B, M, T, C) at index (B, Q), image by image -> (B, Q, T, C)."""
    return (
        windows.flatten(0, 1)
        .index_select(0, _flat(index, windows.shape[1]))
        .unflatten(0, index.shape)
    )


def _flat(index: Tensor, windows: int) -> Tensor:
    """Places (B, Q) within images as places within the batch (B * Q,)."""
    return (index + windows * torch.arange(len(index), device=index.device)[:, None]).flatten()


class WindowRouter(nn.Module):
    """Sends every window to one expert; the capacities are shares of the windows of each image."""

    def __init__(self, width: int, share_global: float, share_local: float):
        super().__init__()
        self.shares = share_global, share_global + share_local
        self.score = nn.Linear(2 * width, 3)

    def forward(self, windows: Tensor, routing: Routing) -> tuple[Tensor, Tensor, int, int]:
        """windows (B, M, T, C) -> order (B, M), gates in that order (B, M), and two places in it.

        The windows before the first place go to the global expert, those before the second to the local one, the
        rest is skipped, or global with `routing.skip` off. `routing` replaces the learned order: random, fixed (one
        pattern for all images), all (every window global), none.
        """
        features = torch.cat([windows.mean(2), windows.abs().mean(2)], dim=-1)  # (B, M, 2C)
        probabilities = self.score(features).softmax(-1)  # (B, M, 3): global, local, skip
        total = windows.shape[1]
        shares = self.shares if routing.skip else (1 - self.shares[1] + self.shares[0], 1)
        shares = {"all": (1, 1), "none": (0, 0)}.get(routing.how, shares)
        first, second = (round(total * share) for share in shares)
        order = self._order(probabilities.detach(), first, routing)
        expert = torch.arange(total, device=order.device)
        expert = (expert >= first).long() + (expert >= second)  # (M,): 0, 1, 2
        taken = probabilities.flatten(1).gather(1, 3 * order + expert)  # (B, M)
        # value 1, gradient of the probability: a gate with a value of its own was driven to 0 and stayed there
        return order, 1 + (taken - taken.detach()), first, second

    @staticmethod
    def _order(probabilities: Tensor, first: int, routing: Routing) -> Tensor:
        b, m, _ = probabilities.shape
        if routing.how == "learned":
            far, near, _ = probabilities.unbind(-1)
            chosen = torch.zeros_like(far).scatter_(1, far.topk(first, 1).indices, 1)  # (B, M)
            return torch.where(chosen > 0, 1 + far, near).argsort(
                dim=1, descending=True, stable=True
            )
        if routing.how == "random":
            if routing.generator is None:
                raise ValueError(
                    "routing 'random' needs a torch.Generator: Routing('random', generator)"
                )
            all_of_them = routing.ranks.world * b, m
            keys = torch.rand(
                all_of_them, generator=routing.generator, device=routing.generator.device
            )
            return routing.ranks.own(keys).argsort(1).to(probabilities.device)
        if routing.how in PLANS:  # golden-ratio steps spread the experts evenly over the image
            keys = torch.arange(m, device=probabilities.device) * 0.6180339887 % 1
            return keys.argsort().expand(b, m)
        raise ValueError(f"routing is {routing.how!r}; choose one of {', '.join(PLANS)}")


class WindowAttention(nn.Module):
    """One expert: attention of some windows over blocks of all windows, with a bias for the relative position."""

    def __init__(self, width: int, heads: int, t: int, reach: int, near: bool = False):
        super().__init__()
        self.heads, self.reach, self.near = heads, reach, near
        self.q, self.kv, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        side = 4 * t - 1  # tokens of neighbouring windows are up to 2t - 1 apart, each way
        self.bias = nn.Parameter(torch.zeros(heads, side**2))
        place = torch.cartesian_prod(torch.arange(t), torch.arange(t))  # (T, 2): row, column
        window = t * (torch.cartesian_prod(torch.arange(3), torch.arange(3)) - 1)  # (9, 2)
        offset = (
            window[:, None, None] + place - place[:, None] + side // 2
        )  # (9, T, T, 2), other minus own
        self.register_buffer("offset", offset[..., 0] * side + offset[..., 1], persistent=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, queries: Tensor, windows: Tensor, own: Tensor, across: int = 1) -> Tensor:
        """queries (B, Q, T, C), windows (B, M, T, C), own (B, Q): their places in windows -> (B, Q, T, C)."""
        bias = self.bias[:, self.offset].transpose(0, 1)  # (9, H, T, T)
        k, v = self.kv(windows).chunk(2, dim=-1)
        q = self.q(queries)
        mixed = block_attention(q, k, v, own, self.reach, self.heads, bias, across, self.near)
        return self.out(mixed)


class RoutedBlock(nn.Module):
    """Windows -> router -> global, local or no attention, then a GELU layer on the windows that were not skipped."""

    def __init__(
        self, width: int, heads: int, t: int = 4, reach: int = 1, shares: tuple = (0.5, 0.25)
    ):
        super().__init__()
        self.t = t
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.router = WindowRouter(width, *shares)
        self.far, self.near = (
            WindowAttention(width, heads, t, reach),
            WindowAttention(width, heads, t, 0),
        )
        self.ffn = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        nn.init.zeros_(self.ffn[2].weight)
        nn.init.zeros_(self.ffn[2].bias)

    def forward(self, image: Tensor, routing: Routing = LEARNED) -> tuple[Tensor, Tensor]:
        """image (B, C, H, W) -> the same shape, and the expert of each window (B, M): 0 global, 1 local, 2 skip."""
        h, w = image.shape[2:]
        windows = to_windows(image, self.t)
        normed = self.norm(windows)
        order, gates, first, second = self.router(normed, routing)
        routed, far, near = order[:, :second], order[:, :first], order[:, first:second]
        expert = torch.full_like(order, 2).scatter_(1, routed, 1).scatter_(1, far, 0)
        if second == 0:
            return image, expert
        change = self.far(take(normed, far), normed, far, w // self.t) if first else normed[:, :0]
        if second > first:
            own = take(normed, near)
            places = torch.arange(second - first, device=own.device).expand_as(near)
            change = torch.cat([change, self.near(own, own, places)], dim=1)  # (B, Q, T, C)
        change = change + self.ffn(self.norm2(take(windows, routed) + change))
        change = gates[:, :second, None, None] * change
        rows, change = _flat(routed, order.shape[1]), change.flatten(0, 1).to(windows.dtype)
        result = windows.flatten(0, 1).index_add(0, rows, change).unflatten(0, order.shape)
        return from_windows(result, self.t, h, w), expert
