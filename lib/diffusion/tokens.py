"""The announced loop, repaired: image -> tokens -> reconstruction through a graph that can learn -> loss -> EM
update.

Images in [-1, 1] of 32 pixels are seen at 64 (bilinear), as announced: 64 tokens of 8 x 8 pixels from 512 codes.
The codebook is vector-quantised with a straight-through gradient, moving averages and restarts of dead codes (van
den Oord, Vinyals and Kavukcuoglu, NeurIPS 2017, its appendix on averages); encoder and codebook start from
principal directions and k-means, so nothing can collapse. The decoder answers at 32 pixels; four graph filters of
its answer R0 are mixed by attention:

    F_h = (1 - tau_h) R0 + tau_h P_h R0        R = sum_h a_h F_h,  a = softmax of a per-pixel score
    E:  g_h = softmax_h( log a_h - |x - F_h|^2 / (2 s_h^2) - 3 log s_h )
    M:  s_h^2 in closed form from g;  scores and bandwidths by a gradient step on -sum_h g_h log a_h and the loss

The loss is MSE + 0.2 (1 - SSIM) at 64 pixels plus commitment; SSIM stands for the announced VGG features, whose
weights are not shipped. Departures: the graph works at 32 pixels on R0 itself, never on the target.

Symbols: B images, T = 64 tokens, C = 512 codes, E code size, K = 4 heads, S = 9 offsets.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lib.diffusion import graph

ARMS = ("none", "graph", "graph + EM", "graph + EM + heads", "uniform heads", "random heads")
CODES, CODE_SIZE, TILE = 512, 48, 8


def to_loop(images):
    """Images (B, 3, 32, 32) in [0, 1], NumPy -> torch (B, 3, 64, 64) in [-1, 1]; ValueError for another size."""
    images = graph.check_images(images)
    if images.shape[2:] != (32, 32):
        raise ValueError(
            f"the token loop takes images of 32 x 32 pixels, got {images.shape[2]} x {images.shape[3]}"
        )
    return enlarge(torch.from_numpy(images) * 2 - 1)


def enlarge(images):
    """(B, 3, 32, 32) -> (B, 3, 64, 64), bilinear."""
    return F.interpolate(images, size=(64, 64), mode="bilinear", align_corners=False)


def tiles(images):
    """(B, 3, 64, 64) -> (B, T, 192), tiles of 8 x 8 pixels row by row."""
    return F.unfold(images, TILE, stride=TILE).transpose(1, 2)


def ssim_loss(a, b):
    """1 - mean SSIM over 7 x 7 windows of images in [-1, 1] (Wang et al. 2004), differentiable."""
    squares_a, squares_b, products = a * a, b * b, a * b
    mean_a, mean_b = window_mean(a), window_mean(b)
    variance_a = window_mean(squares_a) - mean_a**2
    variance_b = window_mean(squares_b) - mean_b**2
    covariance = window_mean(products) - mean_a * mean_b
    c1, c2 = 0.02**2, 0.06**2  # (0.01 L)^2 and (0.03 L)^2 for the range L = 2
    alike = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    most = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return 1 - (alike / most).mean()


def window_mean(images):
    """Mean over every window of 7 x 7 pixels: (B, 3, H, W) -> (B, 3, H - 6, W - 6)."""
    return F.avg_pool2d(images, 7, stride=1)


class Codebook(nn.Module):
    """Nearest code with a straight-through gradient; codes follow moving averages, unused ones restart in the data."""

    def __init__(self, codes, decay=0.98):
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", codes.clone())  # (C, E)
        self.register_buffer("mass", torch.ones(len(codes)))
        self.register_buffer("sums", codes.clone())

    def nearest(self, z):
        """z (N, E) -> indices (N,)."""
        return ((self.codes**2).sum(1) - 2 * z @ self.codes.T).argmin(dim=1)

    def forward(self, z):
        """z (N, E) -> codes with z's gradient (N, E), indices (N,), commitment loss."""
        index = self.nearest(z.detach())
        code = self.codes[index]
        return z + (code - z).detach(), index, F.mse_loss(z, code)

    @torch.no_grad()
    def update(self, z, index, generator):
        """Move the codes towards the z (N, E) that chose them (index (N,)); dead codes restart at random z."""
        # a product with hits, not a scatter, so that it repeats exactly
        hits = F.one_hot(index, len(self.codes)).to(z.dtype)  # (N, C)
        self.mass.lerp_(hits.sum(0), 1 - self.decay)
        self.sums.lerp_(hits.T @ z, 1 - self.decay)
        dead = (self.mass < 0.05).nonzero()[:, 0]
        fresh = z[torch.randperm(len(z), generator=generator)[: len(dead)]]
        dead = dead[: len(fresh)]
        self.sums[dead], self.mass[dead] = fresh, torch.ones(len(dead))
        self.codes.copy_(self.sums / self.mass[:, None])


class GraphHeads(nn.Module):
    """Four differentiable graph filters of an image and the attention that mixes them; `arm` is one of ARMS."""

    def __init__(self, arm, radius=1, seed=0):
        super().__init__()
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}; there are {', '.join(ARMS)}")
        self.arm, self.radius = arm, radius
        self.register_buffer("texture", torch.from_numpy(graph.filter_bank(3, 6)))
        self.register_buffer("structure", torch.from_numpy(graph.filter_bank(5, 6)))
        side = torch.arange(-radius, radius + 1.0)
        distance = (side[:, None] ** 2 + side**2).flatten()
        self.register_buffer("distance", distance[:, None, None])  # (S, 1, 1)
        learn = arm not in ("none", "graph")
        self.log_sigma_f = nn.Parameter(torch.zeros(4), requires_grad=learn)
        self.log_sigma_s = nn.Parameter(torch.zeros(4), requires_grad=learn)
        self.tau_logit = nn.Parameter(torch.zeros(4), requires_grad=learn)
        self.register_buffer("variance", torch.full((4,), 0.02))  # s_h^2, of an error in [-1, 1]
        self.gate = nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate")
        self.gate.requires_grad_(arm == "graph + EM + heads")
        spread = 1.0 if arm == "random heads" else 0.0
        generator = torch.Generator().manual_seed(seed)
        for tensor in (self.gate.weight, self.gate.bias):
            tensor.data = spread * torch.randn(tensor.shape, generator=generator)

    def filters(self, x):
        """x (B, 3, H, W) in [-1, 1] -> F (B, K, 3, H, W)."""
        texture = self._responses(x, self.texture, 1)
        structure = self._responses(x, self.structure, 2)
        features = [texture, structure, x, None]  # of the four heads; None: distance alone
        if self.arm in ("none", "graph", "graph + EM"):
            features = features[:1]
        colours = self._around(x)  # (B, 3, S, H, W)
        outputs = [self._filter(h, found, x, colours) for h, found in enumerate(features)]
        return torch.stack(outputs, dim=1)

    def _responses(self, x, bank, margin):
        """Filter responses (B, M, H, W) of x (B, 3, H, W), edges repeated."""
        return F.conv2d(F.pad(x, (margin, margin, margin, margin), mode="replicate"), bank)

    def _filter(self, head, features, x, colours):
        """One filter of x (B, 3, H, W), whose neighbours' `colours` are (B, 3, S, H, W)."""
        scores = -self.distance * torch.exp(-2 * self.log_sigma_s[head]) / 2  # (S, 1, 1)
        if features is not None:
            apart = (self._around(features) - features[:, :, None]).square().mean(1)  # (B, S, H, W)
            noise = 2 * self.variance[head]
            scores = scores - apart * torch.exp(-2 * self.log_sigma_f[head]) / noise
        scores = scores.expand(len(x), -1, *x.shape[2:])
        walk = torch.softmax(scores, dim=1)  # (B, S, H, W), rows of P
        tau = torch.sigmoid(self.tau_logit[head])
        return (1 - tau) * x + tau * (walk[:, None] * colours).sum(2)

    def _around(self, x):
        """(B, M, H, W) -> (B, M, S, H, W): the neighbours of each pixel, edges repeated."""
        r, (b, m, h, w) = self.radius, x.shape
        return F.unfold(F.pad(x, (r, r, r, r), mode="replicate"), 2 * r + 1).view(b, m, -1, h, w)

    def forward(self, x):
        """x (B, 3, H, W) -> R (B, 3, H, W), filters (B, K, 3, H, W), log a (B, K, H, W)."""
        if self.arm == "none":
            return x, x[:, None], torch.zeros_like(x[:, :1])
        outputs = self.filters(x)
        if outputs.shape[1] == 1:
            return outputs[:, 0], outputs, torch.zeros_like(x[:, :1])
        # what each filter would do to a pixel, brought to about 1
        change = (outputs - x[:, None]).abs().mean(2) * 10  # (B, K, H, W)
        log_share = torch.log_softmax(self.gate(change), dim=1)
        return (log_share.exp()[:, :, None] * outputs).sum(1), outputs, log_share

    def em(self, target, outputs, log_share):
        """One EM step against the target (B, 3, H, W): updates s_h^2, returns the mean of -sum_h g_h log a_h."""
        count = outputs.shape[1]
        error = (outputs - target[:, None]).square().mean(2)  # (B, K, H, W)
        variance = self.variance[:count, None, None]
        joint = log_share - 1.5 * error / variance - 1.5 * torch.log(variance)
        share = torch.softmax(joint.detach(), dim=1)  # (B, K, H, W)
        if self.arm not in ("none", "graph"):
            found = (share * error.detach()).sum((0, 2, 3)) / share.sum((0, 2, 3)).clamp(min=1e-6)
            self.variance[:count] = self.variance[:count].lerp(found, 0.1).clamp(min=1e-4)
        return -(share * log_share).sum(1).mean()


class Loop(nn.Module):
    """Encoder, codebook, decoder and graph heads; `start` gives them values from the data."""

    def __init__(self, arm, encoder, codes, seed=0):
        super().__init__()
        self.mean = nn.Parameter(encoder[0])  # (192,)
        self.encode = nn.Parameter(encoder[1])  # (192, E)
        self.decode = nn.Parameter(encoder[2])  # (E, 48)
        self.codebook = Codebook(codes)
        first = nn.Conv2d(CODE_SIZE, 96, 3, padding=1)
        last = nn.Conv2d(96, 48, 3, padding=1)
        self.context = nn.Sequential(first, nn.GELU(), last)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(first.weight.shape, generator=generator)
        first.weight.data = drawn / math.sqrt(9 * CODE_SIZE)
        for tensor in (first.bias, last.weight, last.bias):
            nn.init.zeros_(tensor)  # at first, context adds nothing
        self.heads = GraphHeads(arm, seed=seed)

    def tokens(self, images):
        """(B, 3, 64, 64) in [-1, 1] -> code vectors z (B T, E)."""
        return ((tiles(images) - self.mean) @ self.encode).flatten(0, 1)

    def render(self, codes, batch):
        """Codes (B T, E) -> R (B, 3, 32, 32) and what the heads made on the way."""
        grid = codes.view(batch, 8, 8, -1).permute(0, 3, 1, 2)  # (B, E, 8, 8)
        small_mean = self.mean.view(3, 4, 2, 4, 2).mean((2, 4)).flatten()  # (48,), at 32 pixels
        base = codes.view(batch, 64, -1) @ self.decode + small_mean
        base = base.view(batch, 8, 8, -1).permute(0, 3, 1, 2)  # (B, 48, 8, 8)
        return self.heads(F.pixel_shuffle(base + self.context(grid), 4))

    def forward(self, images):
        z = self.tokens(images)
        codes, index, commitment = self.codebook(z)
        reconstruction, outputs, log_share = self.render(codes, len(images))
        return reconstruction, {
            "z": z,
            "index": index,
            "commitment": commitment,
            "em": (outputs, log_share),
        }


def start(images, seed, rounds=10, sample=20000):
    """Principal directions of the tiles and k-means codes of images (N, 3, 64, 64): (mean, encode, decode), codes."""
    generator = torch.Generator().manual_seed(seed)
    flat = tiles(images).flatten(0, 1)  # (N T, 192)
    flat = flat[torch.randperm(len(flat), generator=generator)[:sample]]
    mean = flat.mean(0)
    _, directions = torch.linalg.eigh((flat - mean).T @ (flat - mean))  # the largest last
    encode = directions.flip(1)[:, :CODE_SIZE].contiguous()  # (192, E)
    z = (flat - mean) @ encode  # (N T, E)
    codes = z[:CODES].clone()
    for _ in range(rounds):
        distances = (codes**2).sum(1) - 2 * z @ codes.T  # (N T, C)
        hits = F.one_hot(distances.argmin(1), CODES).to(z.dtype)
        mass = hits.sum(0)[:, None]  # (C, 1)
        codes = torch.where(mass > 0, hits.T @ z / mass.clamp(min=1), codes)
    tile = encode.T.view(CODE_SIZE, 3, 4, 2, 4, 2)
    decode = tile.mean((3, 5)).flatten(1)  # (E, 48), a tile at 32 pixels
    return (mean, encode, decode), codes


def train(arm, images, validation, *, steps, seed, batch=32, rate=2e-3, every=20, initial=None):
    """Train one arm; equal seeds see equal data in equal order, whatever the arm.

    Args:
        images, validation: (N, 3, 64, 64) in [-1, 1] from `to_loop`. every: steps between validations.
        initial: what `start` gave, to share it between arms.

    Returns:
        the Loop and a history: list of dicts with step, mse, and the parameters of the heads.
    """
    encoder, codes = initial or start(images, seed)
    loop = Loop(arm, [part.clone() for part in encoder], codes, seed)
    optimiser = torch.optim.Adam(_groups(loop), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for step in range(steps + 1):
        if step % every == 0:
            errors, _ = evaluate(loop, validation)
            history.append({"step": step, "mse": float(errors.mean()), **_parameters(loop)})
        if step < steps:
            picked = images[torch.randint(len(images), (batch,), generator=generator)]
            for group in optimiser.param_groups:
                group["lr"] = group["scale"] * rate * (1 - step / steps)
            _step(loop, picked, optimiser, generator)
    return loop, history


def _groups(loop):
    """The trained parameters in groups, each with the scale of its rate.

    Those of the heads are few and slow to move: ten times the rate of the rest.
    """
    of_heads = {id(parameter) for parameter in loop.heads.parameters()}
    slow, fast = [], []
    for parameter in loop.parameters():
        if parameter.requires_grad:
            (fast if id(parameter) in of_heads else slow).append(parameter)
    groups = [{"params": slow, "scale": 1}, {"params": fast, "scale": 10}]
    return [group for group in groups if group["params"]]


def _step(loop, images, optimiser, generator):
    output, made = loop(images)
    target = F.avg_pool2d(images, 2)  # (B, 3, 32, 32)
    answer = enlarge(output)
    loss = F.mse_loss(answer, images) + 0.2 * ssim_loss(answer, images) + 0.1 * made["commitment"]
    outputs, log_share = made["em"]
    loss = loss + 0.05 * loop.heads.em(target, outputs, log_share)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    loop.codebook.update(made["z"].detach(), made["index"], generator)


def _parameters(loop):
    heads = loop.heads
    found = {"sigma_f": heads.log_sigma_f.exp(), "sigma_s": heads.log_sigma_s.exp()}
    found |= {"tau": torch.sigmoid(heads.tau_logit), "noise": heads.variance.sqrt()}
    return {name: value.tolist() for name, value in found.items()}


@torch.no_grad()
def evaluate(loop, images, batch=100):
    """Per image: MSE in [-1, 1] at 64 pixels (N,), 1 - SSIM is left to lib.common.quality; and the number of codes in use."""
    errors, used = [], set()
    for part in images.split(batch):
        output, made = loop(part)
        errors.append((enlarge(output) - part).square().mean((1, 2, 3)))
        used.update(made["index"].tolist())
    return torch.cat(errors).numpy(), len(used)
