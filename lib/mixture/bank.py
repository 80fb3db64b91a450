"""A bank of complete denoisers of neighbouring cost: what the router chooses from, before anything is computed.

Every member is a whole network of its own and is trained alone, like any static network, for weak or for strong noise: so the
bank has more parameters than any member computes with. 2x2 pixels become one position;
a member has one wide block (3x3 convolution to twice the channels, ReLU, 1x1 back), the larger ones then block-sparse
attention at a quarter of the resolution, and then as many wide blocks as its size asks for. The prediction is the noise in
units of its level and is subtracted from the input. The level is a map, a number for each pixel, uniform or not.

Nothing in a member looks at the whole image: convolutions reach one position, attention the neighbouring windows. So a
region can be computed alone, exactly, from the region and a halo around it, and the halo is cut off layer by layer as soon
as nothing needs it any more (`Sides`).

Departures from ClassSR (Kong et al. 2021) and APE (Wang et al. 2022), whose idea this is: the members share no weights, differ in kind
(attention or not, weak or strong noise), and know the level of the noise.

Shapes: B images, C channels, H x W pixels, h x w positions, M windows of T tokens, D = 2C channels of a token.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.mixture.windows import WindowAttention, from_windows, to_windows

HEADS = 4
WINDOW = 4  # tokens a side, 16 pixels
REACH = 2  # neighbouring windows that a window attends to, beside itself
UNIT = 4 * WINDOW  # pixels; images are padded to multiples of it, regions start at multiples of it
SMALLEST = 2 * UNIT  # pixels a side, so that every window has three neighbours at least


class Size(NamedTuple):
    """Channels of a position, wide blocks behind the first, and whether attention stands between them."""

    width: int
    blocks: int
    attends: bool = False


class Network(NamedTuple):
    """A size, and the levels of noise that it is trained for, log-uniform from `lowest` to `highest`."""

    size: Size
    lowest: float = 0.05
    highest: float = 0.5


SIZES = [Size(16, 2), Size(32, 1), Size(32, 3), Size(32, 4, attends=True)]  # in rising cost
WEAK = {
    "lowest": 0.05,
    "highest": 0.18,
}  # noise; the two ranges overlap where the router changes over
STRONG = {"lowest": 0.14, "highest": 0.5}
MEMBERS = {  # of the bank, in rising cost
    "weak_1": Network(SIZES[0], **WEAK),
    "strong_1": Network(SIZES[0], **STRONG),
    "weak_2": Network(SIZES[1], **WEAK),
    "strong_2": Network(SIZES[1], **STRONG),
    "weak_3": Network(SIZES[2], **WEAK),
    "strong_3": Network(SIZES[2], **STRONG),
    "strong_4": Network(SIZES[3], **STRONG),  # reach pays where noise is strong
}
STATICS = {  # the frontier: one network of each size for everything, trained for as many CPU seconds as each member
    "static_1": Network(SIZES[0]),
    "static_2": Network(SIZES[1]),
    "static_3": Network(SIZES[2]),
    "static_4": Network(SIZES[3]),
}
NETWORKS = MEMBERS | STATICS


class Sides(NamedTuple):
    """Which sides of a region have a halo (True) and which are a border of the image (False)."""

    top: bool = False
    bottom: bool = False
    left: bool = False
    right: bool = False


WHOLE = Sides()


def trim(x: Tensor, by: int, sides: Sides) -> Tensor:
    """Cut `by` rows or columns off every side that has a halo. (B, C, h, w) -> (B, C, h - ..., w - ...)"""
    h, w = x.shape[2:]
    top, left = by * sides.top, by * sides.left
    bottom, right = h - by * sides.bottom, w - by * sides.right
    return x[:, :, top:bottom, left:right]


class WideBlock(nn.Module):
    """3x3 convolution to twice the channels, ReLU, 1x1 back, and a residual. (B, C, h, w) -> (B, C, h, w)"""

    def __init__(self, channels: int):
        super().__init__()
        self.wide = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.back = nn.Conv2d(2 * channels, channels, 1)
        with torch.no_grad():
            self.back.weight.mul_(0.3)  # a block starts as a small change
            self.back.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(F.relu(self.wide(x)))


class AttentionBlock(nn.Module):
    """Windows of 16 x 16 pixels attend to themselves and their best neighbours, at a quarter of the resolution."""

    def __init__(self, channels: int):
        super().__init__()
        width = 2 * channels
        self.down = nn.Conv2d(channels, width, 2, stride=2)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, HEADS, WINDOW, REACH, near=True)
        self.ffn = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.up = nn.ConvTranspose2d(width, channels, 2, stride=2)
        nn.init.zeros_(self.ffn[2].weight)
        nn.init.zeros_(self.ffn[2].bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w); h and w are multiples of eight positions."""
        small = self.down(x)  # (B, D, h / 2, w / 2)
        rows, columns = small.shape[2:]
        tokens = to_windows(small, WINDOW)  # (B, M, T, D)
        own = torch.arange(tokens.shape[1], device=x.device).expand(len(x), -1)  # (B, M)
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, own, columns // WINDOW)
        tokens = tokens + self.ffn(self.norm2(tokens))
        return x + self.up(from_windows(tokens, WINDOW, rows, columns))


class Member(nn.Module):
    """One complete denoiser of the bank."""

    def __init__(self, size: Size):
        super().__init__()
        self.size, width = size, size.width
        self.stem = nn.Conv2d(16, width, 3, padding=1)  # three colours and the level, four pixels
        self.before = WideBlock(width)
        self.middle = AttentionBlock(width) if size.attends else None
        self.after = nn.ModuleList(WideBlock(width) for _ in range(size.blocks))
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def noise(self, noisy: Tensor, level: Tensor, sides: Sides = WHOLE) -> Tensor:
        """The predicted noise in units of its level.

        Args:
            noisy: (B, 3, H, W) in [0, 1]; level: (B, 1, H, W) > 0. H and W are multiples of 16 without the halo; with
                one, the halo of `halo(size)` pixels stands on every side that `sides` names.

        Returns:
            (B, 3, H', W') of the region without its halo.
        """
        planes = torch.cat([noisy - 0.5, level.log() + 1.6], dim=1)  # 0.2 is about -1.6
        planes = planes.contiguous(memory_format=torch.channels_last)
        x = self.stem(F.pixel_unshuffle(planes, 2))  # (B, C, h, w)
        x = trim(x, 1, sides)
        x = trim(self.before(x), 1, sides)
        if self.middle is not None:
            x = trim(self.middle(x), UNIT // 2, sides)
            x = trim(x, spare(self.size) // 2, sides)
        for block in self.after:
            x = trim(block(x), 1, sides)
        x = trim(self.head(x), 1, sides)
        return F.pixel_shuffle(x, 2)

    def forward(
        self, noisy: Tensor, level: Tensor, routing: object = None
    ) -> tuple[Tensor, list[Tensor]]:
        """noisy (B, 3, H, W), level (B,) or (B, 1, H, W) -> (image (B, 3, H, W), no gates); any H and W.

        `routing` is what other networks of the training loop need, and is not used.
        """
        if level.ndim == 1:
            level = level[:, None, None, None].expand(-1, 1, *noisy.shape[2:])
        h, w = noisy.shape[2:]
        padded, levels = pad(noisy), pad(level)
        image = padded - levels * self.noise(padded, levels)
        image = image[:, :, :h, :w].contiguous()
        return (image if self.training else image.clamp(0, 1)), []

    def region(self, noisy: Tensor, level: Tensor, sides: Sides) -> Tensor:
        """A region alone: the same values as `forward` gives there for the whole image.

        Args:
            noisy, level: (B, 3, H, W) and (B, 1, H, W) of the region and its halo, cut out of the padded image.

        Returns:
            (B, 3, H', W') without the halo, in [0, 1].
        """
        around = halo(self.size)
        inner, levels = trim(noisy, around, sides), trim(level, around, sides)
        return (inner - levels * self.noise(noisy, level, sides)).clamp(0, 1)


def pad(image: Tensor) -> Tensor:
    """Pad (B, C, H, W) right and below to multiples of 16 and to 32 at least, by reflection or, where too small, repetition."""
    h, w = image.shape[2:]
    down = max(SMALLEST - h, -h % UNIT)
    right = max(SMALLEST - w, -w % UNIT)
    if not down and not right:
        return image
    mode = "reflect" if down < h and right < w else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode)


# --- what a member costs


def behind(size: Size) -> int:
    """Pixels of halo that the blocks after the attention and the head use: one position each."""
    return 2 * (size.blocks + 1)


def spare(size: Size) -> int:
    """Pixels of halo that only complete the windows of the attention, and are cut off right behind it."""
    return -behind(size) % UNIT


def halo(size: Size) -> int:
    """Pixels around a region that decide what a member gives inside of it."""
    before = 4  # stem and first block, one position each
    if not size.attends:
        return before + behind(size)
    return before + UNIT + spare(size) + behind(size)


def operations(size: Size, height: int, width: int, sides: Sides = WHOLE) -> int:
    """Multiply-adds of a member for a region of height x width pixels (without its halo), the halo counted.

    The attention counts its projections, the products of queries with keys and of weights with values, and its two
    linear layers; norms, ReLU and the choice of windows are left out, a few per cent.
    """
    channels = size.width
    wide = 9 * channels * 2 * channels + 2 * channels * channels  # of a position
    left = halo(size)  # pixels of halo that the layer at hand still computes

    def positions() -> int:
        rows = height + left * (sides.top + sides.bottom)
        columns = width + left * (sides.left + sides.right)
        return rows * columns // 4

    total = positions() * 9 * 16 * channels
    left -= 2
    total += positions() * wide
    left -= 2
    if size.attends:
        total += positions() // 4 * attention_operations(2 * channels)
        left -= UNIT + spare(size)
    for _ in range(size.blocks):
        total += positions() * wide
        left -= 2
    return total + positions() * 9 * channels * 12


def attention_operations(width: int) -> int:
    """Multiply-adds of the attention block for one token of `width` channels."""
    ways = 2 * (width // 2) * 4 * width  # down and up: four positions of half the channels
    projections = 4 * width * width
    products = 2 * (1 + REACH) * WINDOW**2 * width
    linear = 4 * width * width
    return ways + projections + products + linear
