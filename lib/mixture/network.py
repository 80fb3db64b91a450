"""Our denoiser: a convolutional trunk with one routed mixture of window-attention experts, and its control.

2x2 pixels become one position of 48 channels, 4x4 pixels one token of 96 channels; the prediction is the noise
itself, in units of sigma, and is subtracted from the input. The noise level scales and shifts the channels inside
every residual block (FiLM, Perez et al. 2018). Nothing is clamped in training. The control has a convolutional
block where the mixture stands, and nothing else differs but one block that pays for the mixture's parameters.

Both denoise images of any size: they are padded by reflection to whole windows and cut back.
Shapes: B images, C channels, h x w positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.mixture.announced import LEARNED, Routing
from lib.mixture.windows import RoutedBlock

LEVEL = 8  # numbers that describe the noise level
WINDOW = 4  # tokens a side, 16 pixels


class Residual(nn.Module):
    """Two 3x3 convolutions with a residual; the noise level acts between them."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(LEVEL, 2 * channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.film(level)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1)
        return x + self.second(F.relu(torch.addcmul(shift, self.first(x), 1 + scale)))


class Trunk(nn.Module):
    """Encoder, middle at a quarter of the resolution, decoder. `routed` puts the mixture into the middle."""

    def __init__(self, routed: bool, width: int = 48, reach: int = 3, shares: tuple = (0.5, 0.25)):
        super().__init__()
        self.level = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, LEVEL), nn.SiLU())
        self.stem = nn.Conv2d(12, width, 3, padding=1)
        self.before = nn.ModuleList(Residual(width) for _ in range(3))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        middle = [
            RoutedBlock(2 * width, 4, WINDOW, reach, shares) if routed else Residual(2 * width)
            for _ in "12"
        ]
        self.middle = nn.ModuleList(middle)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.after = nn.ModuleList(Residual(width) for _ in range(4 if routed else 2))
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        self.to(
            memory_format=torch.channels_last
        )  # a tenth faster on a CPU, and windows are cut without a copy

    def forward(
        self, noisy: Tensor, sigma: Tensor, routing: Routing = LEARNED
    ) -> tuple[Tensor, list[Tensor]]:
        """noisy (B, 3, H, W), sigma (B,) -> (image (B, 3, H, W), [expert of each window (B, M)])."""
        h, w = noisy.shape[2:]
        padded = pad(noisy, 4 * WINDOW).contiguous(memory_format=torch.channels_last)
        level = self.level(sigma.log()[:, None])  # (B, LEVEL)
        x, experts = self.stem(F.pixel_unshuffle(padded - 0.5, 2)), []
        for block in self.before:
            x = block(x, level)
        skip, x = x, self.down(x)
        for block in self.middle:
            if isinstance(block, RoutedBlock):
                x, expert = block(x, routing)
                experts.append(expert)
            else:
                x = block(x, level)
        x = skip + self.up(x)
        for block in self.after:
            x = block(x, level)
        noise = F.pixel_shuffle(self.head(x), 2)  # (B, 3, H', W')
        image = (padded - sigma[:, None, None, None] * noise)[:, :, :h, :w].contiguous()
        return (image if self.training else image.clamp(0, 1)), experts


def pad(image: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) right and below to multiples by reflection, or by repetition where it is too small."""
    down, right = -image.shape[2] % multiple, -image.shape[3] % multiple
    mode = "reflect" if down < image.shape[2] and right < image.shape[3] else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode) if down or right else image
