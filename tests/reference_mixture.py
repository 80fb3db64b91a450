"""The announced mixture written slowly and obviously: separate projections, topk, a gather of expanded values."""

import torch
from torch import nn

from lib.mixture.announced import MixtureAttention


class Expert(nn.Module):
    def __init__(self, width: int, heads: int, keep: int):
        super().__init__()
        self.heads, self.keep = heads, keep
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = (
            f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, H, N, N)
        best, where = scores.topk(min(self.keep, n), dim=-1)  # (B, H, N, K)
        values = v[:, :, None].expand(-1, -1, n, -1, -1)  # (B, H, N, N, d)
        values = values.gather(
            3, where[..., None].expand(*where.shape, v.shape[-1])
        )  # (B, H, N, K, d)
        heads = (best.softmax(-1)[..., None, :] @ values)[..., 0, :]  # (B, H, N, d)
        return self.out(heads.transpose(1, 2).reshape(b, n, width))


class Reference(nn.Module):
    """Copies the weights of a MixtureAttention; forward returns (mixture, gates) like it."""

    def __init__(self, fast: MixtureAttention):
        super().__init__()
        width, experts = fast.merge.in_features, fast.experts
        self.router, self.merge = fast.router, fast.merge
        self.experts = nn.ModuleList(Expert(width, experts.heads, keep) for keep in experts.keep)
        for index, expert in enumerate(self.experts):
            for part, name in enumerate("qkv"):
                rows = slice((part * len(self.experts) + index) * width, None)
                getattr(expert, name).weight.data = experts.project.weight.data[rows][
                    :width
                ].clone()
                getattr(expert, name).bias.data = experts.project.bias.data[rows][:width].clone()
            expert.out.weight.data = experts.out_weight.data[index].clone()
            expert.out.bias.data = experts.out_bias.data[index].clone()

    def forward(self, x):
        gates = self.router(x)  # (B, N, E)
        mixed = sum(gates[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return self.merge(mixed), gates


def gradient_pairs(fast: MixtureAttention, slow: Reference):
    """(fast, slow) gradients of every expert parameter; router and merge are shared."""
    parts = ("q", "k", "v")
    project = {
        kind: torch.cat([getattr(getattr(e, p), kind).grad for p in parts for e in slow.experts])
        for kind in ("weight", "bias")
    }
    yield fast.experts.project.weight.grad, project["weight"]
    yield fast.experts.project.bias.grad, project["bias"]
    yield fast.experts.out_weight.grad, torch.stack([e.out.weight.grad for e in slow.experts])
    yield fast.experts.out_bias.grad, torch.stack([e.out.bias.grad for e in slow.experts])


def sign(number):
    return (number > 0) - (number < 0)


def masked_dense(q, k, v, chosen, own, heads, bias=None, across=1):
    """Block attention from all pairs of tokens and a mask; shapes as in lib.mixture.windows.block_attention."""
    b, m, t, c = k.shape
    split = [
        x.reshape(b, -1, heads, c // heads).transpose(1, 2) for x in (q, k, v)
    ]  # (B, H, tokens, d)
    scores = split[0] @ split[1].transpose(-2, -1) / (c // heads) ** 0.5
    for image in range(b):
        for block in range(q.shape[1]):
            rows = slice(block * t, (block + 1) * t)
            for other in range(m):
                columns = slice(other * t, (other + 1) * t)
                if other not in chosen[image, block]:
                    scores[image, :, rows, columns] = float("-inf")
                elif bias is not None:
                    mine = int(own[image, block])
                    down, right = (
                        sign(other // across - mine // across),
                        sign(other % across - mine % across),
                    )
                    scores[image, :, rows, columns] += bias[3 * (down + 1) + right + 1]
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).reshape(q.shape)


def slow_routed(block, image, order, first, second):
    """A RoutedBlock for a given order of the windows, window by window, without gates (their value is one)."""
    from lib.mixture.windows import choose_blocks, to_windows

    windows = to_windows(image, block.t)
    normed, result = block.norm(windows), windows.clone()
    for b in range(len(image)):
        for place in range(second):
            w = int(order[b, place])
            expert = block.far if place < first else block.near
            reach = expert.reach
            k, v = expert.kv(normed[b : b + 1]).chunk(2, dim=-1)
            own = torch.tensor([[w]])
            q = expert.q(normed[b : b + 1, w : w + 1])
            chosen = choose_blocks(q, k, own, reach)
            bias, across = expert.bias[:, expert.offset].transpose(0, 1), image.shape[3] // block.t
            mixed = expert.out(masked_dense(q, k, v, chosen, own, expert.heads, bias, across))[0, 0]
            result[b, w] = windows[b, w] + mixed + block.ffn(block.norm2(windows[b, w] + mixed))
    return result
