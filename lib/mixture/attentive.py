"""The quality network: a convolutional trunk of two resolutions, with attention at the coarser one.

2x2 pixels become one position of `width` channels, 4x4 pixels one token of twice as many. The prediction is the noise in
units of its level, and is subtracted from the input. The level is a map, a number for each pixel: its logarithm is an
input channel, and scales and shifts the channels inside every residual block (FiLM, Perez et al. 2018). Nothing is clamped
in training.

Attention works on windows of 4x4 tokens: a window attends to itself and to the three best others by pooled
queries and keys. In an image of 32 pixels these are all windows, so that attention is dense there; in a photograph it is
block-sparse, and its cost grows in step with the pixels. A bias is learned for each head and relative position.

The control without attention has residual blocks in its place, and nothing else differs.
Images of any size are padded by reflection to whole windows and cut back.
Shapes: B images, C channels, h x w positions, M windows of T tokens, D = 2C channels of a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.mixture.announced import LEARNED, Routing
from lib.mixture.network import pad
from lib.mixture.windows import WindowAttention, from_windows, to_windows

LEVEL = 8  # channels that describe the noise level
HEADS = 4
WINDOW = 4  # tokens a side, 16 pixels
REACH = 3  # other windows that a window attends to


class Residual(nn.Module):
    """Two 3x3 convolutions with a residual; the noise level of each position acts between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Conv2d(LEVEL, 2 * channels, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x (B, C, h, w), level (B, LEVEL, h, w) or (B, LEVEL, 1, 1) -> (B, C, h, w)"""
        scale, shift = self.film(level).chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.first(x), 1 + scale)
        return x + self.second(F.relu(hidden))


class AttentionBlock(nn.Module):
    """Attention between windows, then a layer of twice the width for each token; both with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = WindowAttention(width, HEADS, WINDOW, REACH)
        self.norm2 = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.back = nn.Linear(2 * width, width)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x (B, D, h, w) -> (B, D, h, w); the level is not used."""
        h, w = x.shape[2:]
        tokens = to_windows(x, WINDOW)  # (B, M, T, D)
        tokens = tokens + self.attend(self.norm(tokens), w // WINDOW)
        hidden = F.gelu(self.wide(self.norm2(tokens)))
        return from_windows(tokens + self.back(hidden), WINDOW, h, w)

    def attend(self, tokens: Tensor, across: int) -> Tensor:
        """Every window to itself and the best others: (B, M, T, D) -> (B, M, T, D)"""
        if tokens.shape[1] == 1 + REACH:
            return self.attend_to_all(tokens, across)
        everyone = torch.arange(tokens.shape[1], device=tokens.device)
        own = everyone.expand(tokens.shape[:2])  # (B, M)
        return self.attention(tokens, tokens, own, across)

    def attend_to_all(self, tokens: Tensor, across: int) -> Tensor:
        """The same where all windows are attended: nothing has to be chosen or gathered."""
        layer = self.attention
        b, m, t, _ = tokens.shape
        k, v = layer.kv(tokens).chunk(2, dim=-1)
        q, k, v = (split_heads(x) for x in (layer.q(tokens), k, v))  # (B, H, M * T, d)
        mixed = attend(q, k, v, dense_bias(layer, m, across))  # (B, H, M * T, d)
        joined = mixed.transpose(1, 2).reshape(b, m, t, -1)
        return layer.out(joined)


def split_heads(tokens: Tensor) -> Tensor:
    """(B, M, T, D) -> (B, H, M * T, d)"""
    return tokens.flatten(1, 2).unflatten(2, (HEADS, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention with a bias (H, N, N) on the scores; q, k, v (B, H, N, d)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT + bias.to(q.dtype)
    return scores.softmax(-1) @ v


def dense_bias(layer: WindowAttention, m: int, across: int) -> Tensor:
    """The bias of every token towards every other, window by window: (H, M * T, M * T)."""
    place = torch.arange(m, device=layer.bias.device)
    down = (place // across - place[:, None] // across).clamp(-1, 1)  # (M, M), other minus own
    right = (place % across - place[:, None] % across).clamp(-1, 1)
    towards = 3 * (down + 1) + right + 1
    bias = layer.bias[:, layer.offset][:, towards]  # (H, M, M, T, T)
    return bias.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Attentive(nn.Module):
    """Encoder, middle at a quarter of the resolution, decoder.

    Args:
        middle: the blocks at a quarter of the resolution, "a" attention, "r" residual.
        before, after: residual blocks at half the resolution.
        width: channels there.
    """

    def __init__(
        self, middle: str = "ara", before: int = 2, after: int = 3, width: int = 48
    ) -> None:
        super().__init__()
        self.level = nn.Sequential(
            nn.Conv2d(1, 16, 1), nn.SiLU(), nn.Conv2d(16, LEVEL, 1), nn.SiLU()
        )
        self.stem = nn.Conv2d(12, width, 3, padding=1)
        self.before = nn.ModuleList(Residual(width) for _ in range(before))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        kinds = {"a": AttentionBlock, "r": Residual}
        self.middle = nn.ModuleList(kinds[kind](2 * width) for kind in middle)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.after = nn.ModuleList(Residual(width) for _ in range(after))
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # a tenth faster on a CPU

    def forward(
        self, noisy: Tensor, sigma: Tensor, routing: Routing = LEARNED
    ) -> tuple[Tensor, list[Tensor]]:
        """noisy (B, 3, H, W), sigma (B,) or a map (B, 1, H, W) -> (image (B, 3, H, W), no gates)."""
        h, w = noisy.shape[2:]
        padded = pad(noisy, 4 * WINDOW).contiguous(memory_format=torch.channels_last)
        spread = sigma[:, None, None, None] if sigma.ndim == 1 else pad(sigma, 4 * WINDOW)
        half, quarter = self.levels(spread)
        x = self.stem(F.pixel_unshuffle(padded - 0.5, 2))  # (B, C, h, w)
        for block in self.before:
            x = block(x, half)
        skip = x
        x = self.down(x)  # (B, D, h / 2, w / 2)
        for block in self.middle:
            x = block(x, quarter)
        x = skip + self.up(x)
        for block in self.after:
            x = block(x, half)
        noise = F.pixel_shuffle(self.head(x), 2)  # (B, 3, H', W')
        image = (padded - spread * noise)[:, :, :h, :w].contiguous()
        return (image if self.training else image.clamp(0, 1)), []

    def levels(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        """What describes the noise level at half and at a quarter of the resolution; 1 x 1 where it is uniform."""
        logarithm = spread.log()
        if spread.shape[2:] == (1, 1):
            level = self.level(logarithm)
            return level, level
        half = self.level(F.avg_pool2d(logarithm, 2))
        return half, self.level(F.avg_pool2d(logarithm, 4))
