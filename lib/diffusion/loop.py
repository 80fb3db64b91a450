"""The announced loop on noisy images: image -> tokens -> graph -> loss -> EM update, so that every part can earn.

A noisy image y becomes 64 tokens, the decoder answers R0 at 32 pixels, and graph filters join the answer and the noisy
image. Each filter h has a walk P_h whose edges come from patches of y and of R0:

    w_ij = k( |f_i(y) - f_j(y)|^2 / sigma^2 + |f_i(R0) - f_j(R0)|^2 / sigma_f^2 + |i - j|^2 / (2 sigma_s^2) )
    F_h = rho R0 + d + tau (P_h d - d),  d = y - rho R0        R = sum_h a_h F_h,  a = softmax of a gate, per pixel

The clean image stands in the loss and in the EM step on training images, nowhere else. EM treats the head that explains
a pixel as hidden:

    E:  g_h = softmax_h( log a_h - 3 |x - F_h|^2 / (2 s_h^2) - 3/2 log s_h^2 )      |.|^2 a mean over three colours
    M:  s_h^2 in closed form;  for each head one damped Gauss-Newton step of (log sigma, log sigma_f, log sigma_s, tau,
        rho) on sum g_h |x - F_h|^2, kept only if that falls;  radius one up or down;  the gate by a few gradient steps

Departures from the announced loop: there the graph never touched the output; the input was clean; the update followed
the sign of the loss. SSIM stands for the announced VGG features.

Symbols: B images, H = W = 32, K heads; y, R0, F_h, x (B, 3, 32, 32) in [0, 1], float32.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from lib.diffusion import gate_training, gates, graph, tokens

RUNGS = ("tokens only", "graph", "graph + EM", "graph + EM + heads")
CONTROLS = ("no tokens", "uniform heads", "random heads", "graph + gradient")
HEADS = ("texture", "structure", "colour", "spatial")
BANKS = {"texture": (3, 9, 3), "structure": (5, 12, 5), "colour": (1, 3, 1)}  # side, filters, patch
LIMITS = {
    "sigma": (0.2, 4.0),
    "sigma_f": (0.01, 2.0),
    "sigma_s": (0.4, 12.0),
    "tau": (0.05, 1.0),
    "rho": (0.0, 1.0),
}
LINEAR = ("tau", "rho")  # moved as they are; the others by their logarithms
EM_IMAGES, EM_EVERY = 24, 10  # training images of an EM step, and training steps between two
DAMPINGS = (0.03, 1.0, 20.0)


@dataclass(frozen=True)
class Filter:
    """Parameters of one head: sigma in units of the noise, sigma_f in pixel values, sigma_s and radius in pixels."""

    sigma: float = 1.41
    sigma_f: float = 0.141
    sigma_s: float = 5.0
    radius: int = 5
    tau: float = 0.41
    rho: float = 0.5


def moved(parameters, name, step):
    """A Filter with one parameter moved by `step`, in its logarithm unless it is in LINEAR, within LIMITS."""
    value = getattr(parameters, name)
    value = value + step if name in LINEAR else value * math.exp(step)
    return replace(parameters, **{name: float(np.clip(value, *LIMITS[name]))})


class Walk(torch.autograd.Function):
    """W x with its gradient W' g; the weights themselves (B, S, H, W), NumPy, have none."""

    @staticmethod
    def forward(ctx, images, weights, radius):
        """images (B, 3, H, W) -> the same shape."""
        ctx.weights, ctx.radius = weights, radius
        return torch.from_numpy(graph.apply(weights, images.detach().numpy(), radius))

    @staticmethod
    def backward(ctx, gradient):
        """The gradient with respect to the images; none for weights and radius."""
        back = graph.apply_transpose(
            ctx.weights, np.ascontiguousarray(gradient.numpy()), ctx.radius
        )
        return torch.from_numpy(back), None, None


def walk_of(head, parameters, noisy, answer, guide, noise):
    """Rows of P_h (B, S, H, W) from the noisy image, the decoder's answer and a guide (B, 3, H, W each).

    Without an answer (None) the noisy image alone decides. `noise` is the deviation of the noise.
    """
    shape = (len(noisy), *noisy.shape[2:])
    places = {"sigma_s": parameters.sigma_s, "radius": parameters.radius}
    if head == "spatial":
        nothing = np.zeros((shape[0], 0, *shape[1:]), np.float32)
        return graph.random_walk(
            graph.edge_weights(nothing, np.ones(shape, np.float32), sigma_f=1.0, **places)
        )
    side, count, patch = BANKS[head]
    bank = graph.filter_bank(side, count)
    variance = noise**2 if head != "colour" else 0.05 * noise**2  # the guide holds less noise
    found = graph.features(guide if head == "colour" else noisy, bank)
    if answer is not None:
        scale = np.float32(parameters.sigma * math.sqrt(variance) / parameters.sigma_f)
        found = np.concatenate([found, scale * graph.features(answer, bank)], axis=1)
        variance = variance / 2  # twice as many features, the noise of half of them
    per_pixel = np.full(shape, variance, np.float32)
    weights = graph.edge_weights(found, per_pixel, sigma_f=parameters.sigma, patch=patch, **places)
    return weights if patch > 1 else graph.random_walk(weights)


def announced_walk(noisy, answer):
    """P with the announced constants: sigma = sigma_f = 0.3 on whole patches, sigma_s and radius 10 at 64 pixels."""
    bank = graph.filter_bank(3, 27)  # all 27: distances of patches
    found = np.concatenate([graph.features(noisy, bank), graph.features(answer, bank)], axis=1)
    nearly_none = 1e-6  # variance: the announced distance is not corrected for noise
    width = math.sqrt(4 * 0.3**2 / (2 * nearly_none * found.shape[1]))
    variance = np.full((len(noisy), *noisy.shape[2:]), nearly_none, np.float32)
    weights = graph.edge_weights(found, variance, sigma_f=width, sigma_s=5.0, radius=5)
    return graph.random_walk(weights)


def filtered(parameters, weights, noisy, answer):
    """F_h for NumPy images; the answer may be None, which counts as zero."""
    base = np.float32(parameters.rho) * answer if answer is not None else np.float32(0)
    left = noisy - base
    return (
        base
        + left
        + np.float32(parameters.tau) * (graph.apply(weights, left, parameters.radius) - left)
    )


class GraphPart:
    """What stands between decoder and output in one arm: its filters, their EM step, and the gate.

    Args:
        arm: one of RUNGS or CONTROLS, else ValueError. noise: deviation of the noise. seed: of the gate's start.
        rate: of Adam in the arm "graph + gradient".
    """

    def __init__(self, arm, noise, seed, rate=0.1):
        if arm not in RUNGS + CONTROLS:
            raise ValueError(f"unknown arm {arm!r}; there are {', '.join(RUNGS + CONTROLS)}")
        self.arm, self.noise, self.rate = arm, noise, rate
        self.learned = arm not in ("tokens only", "graph")
        names = HEADS if "heads" in arm else ("texture",)
        self.filters = {name: Filter() for name in names} if self.learned else {}
        if "spatial" in self.filters:
            self.filters["spatial"] = Filter(sigma_s=1.0, radius=3)
        if arm == "no tokens":
            self.filters["texture"] = Filter(rho=0.0)
        self.variance = np.full(len(self.filters), 0.002)
        self.moments = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.gate, self.standard, self.optimiser = None, None, None

    def answer_of(self, decoded):
        """What the filters see of the decoder's R0 (B, 3, H, W); nothing in the arm without tokens."""
        return None if self.arm == "no tokens" else np.clip(decoded, -0.2, 1.2)

    def walks(self, noisy, answer):
        """P_h of every head, and the guide that the colour head looks at."""
        found, guide = {}, None
        for head, parameters in self.filters.items():
            found[head] = walk_of(head, parameters, noisy, answer, guide, self.noise)
            if head == "texture":
                guide = graph.apply(found[head], noisy, parameters.radius)
        return found, guide

    def __call__(self, noisy, decoded):
        """The loop's output (B, 3, H, W), a tensor with a gradient to `decoded`, from noisy (NumPy) and R0 (tensor)."""
        if self.arm == "tokens only":
            return decoded
        answer = self.answer_of(decoded.detach().numpy())
        seen = torch.from_numpy(noisy)
        if self.arm == "graph":
            weights = announced_walk(noisy, answer)
            left = seen - 0.5 * decoded
            for _ in range(5):
                left = left + 0.1 * (Walk.apply(left, weights, 5) - left)
            return 0.5 * decoded + left
        walks, _ = self.walks(noisy, answer)
        outputs = []
        for head, parameters in self.filters.items():
            base = parameters.rho * decoded if answer is not None else torch.zeros_like(seen)
            left = seen - base
            walked = Walk.apply(left, walks[head], parameters.radius)
            outputs.append(base + left + parameters.tau * (walked - left))
        if len(outputs) == 1:
            return outputs[0]
        stacked = torch.stack(outputs)  # (K, B, 3, H, W)
        shares = self.shares(noisy, stacked.detach().numpy())  # (B, K, H, W)
        return (torch.from_numpy(shares).transpose(0, 1)[:, :, None] * stacked).sum(0)

    def shares(self, noisy, outputs):
        """Weights of the heads at each pixel (B, K, H, W) from the noisy images and the heads (K, B, 3, H, W)."""
        if self.arm == "uniform heads":
            return np.full((len(noisy), len(outputs), *noisy.shape[2:]), 0.25, np.float32)
        found, _ = gates.features(noisy, outputs, self.noise)
        if self.gate is None:
            self._start_gate(found)
        mean, scale = self.standard
        found = gate_training.rows((found - mean[:, None, None]) / scale[:, None, None])
        with torch.no_grad():
            shares = torch.softmax(self.gate(found), dim=1)  # (B H W, K)
        return shares.view(len(noisy), *noisy.shape[2:], -1).permute(0, 3, 1, 2).numpy()

    def _start_gate(self, found):
        """A gate that begins uniform, or random in its control; features are standardised as in these first images."""
        _, *self.standard = gate_training.standardised(found)
        uniform = np.full(len(self.filters), 1 / len(self.filters))
        self.gate = gate_training.network(found.shape[1], (32,), uniform, self.generator)
        if self.arm == "random heads":
            last = self.gate[-1]
            last.weight.data = torch.randn(last.weight.shape, generator=self.generator)
        self.optimiser = torch.optim.Adam(self.gate.parameters(), 4e-3)

    def fit_gate(self, clean, noisy, decoded, rounds=40):
        """The gate's part of the M step: gradient steps on the squared error of the mixed heads, 4,096 pixels each."""
        answer = self.answer_of(decoded)
        walks, _ = self.walks(noisy, answer)
        outputs = np.stack(
            [filtered(p, walks[head], noisy, answer) for head, p in self.filters.items()]
        )
        found, _ = gates.features(noisy, outputs, self.noise)
        mean, scale = self.standard
        found = gate_training.rows((found - mean[:, None, None]) / scale[:, None, None])
        made, target = gate_training.head_rows(outputs), gate_training.rows(clean)
        for _ in range(rounds):
            drawn = torch.randint(len(found), (4096,), generator=self.generator)
            estimate = gate_training.mixed(self.gate, found[drawn], made[drawn])
            loss = 1e3 * F.mse_loss(estimate, target[drawn])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def em_step(self, clean, noisy, decoded):
        """One EM step on training images (B, 3, H, W), NumPy; returns the mean log-likelihood of a pixel before it."""
        answer = self.answer_of(decoded)
        walks, guide = self.walks(noisy, answer)
        outputs = np.stack(
            [filtered(p, walks[head], noisy, answer) for head, p in self.filters.items()]
        )
        error = ((outputs - clean) ** 2).mean(2)  # (K, B, H, W)
        share, likelihood = self._responsibilities(noisy, outputs, error)
        self.variance = (share * error).sum((1, 2, 3)) / share.sum((1, 2, 3))
        for index, head in enumerate(self.filters):
            task = HeadTask(head, clean, noisy, answer, guide, share[index], self.noise)
            if self.arm == "graph + gradient":
                self._gradient_step(task, walks[head], outputs[index])
            else:
                self.filters[head] = task.newton(self.filters[head], walks[head], outputs[index])
        if self.arm == "graph + EM + heads":
            self.fit_gate(clean, noisy, decoded)
        return likelihood

    def _responsibilities(self, noisy, outputs, error):
        """g (K, B, H, W) and the mean log-likelihood of a pixel."""
        if len(self.filters) == 1:
            prior = np.ones_like(error)
        else:
            prior = self.shares(noisy, outputs).swapaxes(0, 1)  # (K, B, H, W)
        variance = self.variance[:, None, None, None]
        logs = np.log(prior + 1e-6) - 1.5 * error / variance
        logs -= 1.5 * np.log(2 * np.pi * variance)
        top = logs.max(0)
        share = np.exp(logs - top)
        total = share.sum(0)
        return share / total, float((top + np.log(total)).mean())

    def _gradient_step(self, task, walk, output):
        """The control: one step of Adam on the same parameters, images and derivatives."""
        parameters = self.filters[task.head]
        names, slopes = task.slopes(parameters, walk, output)
        gradient = -(slopes * (task.clean - output)).mean((1, 2, 3, 4))
        first, second, count = self.moments.get(task.head, (0.0, 0.0, 0))
        count += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        self.moments[task.head] = (first, second, count)
        size = np.sqrt(second / (1 - 0.99**count)) + 1e-12
        steps = -self.rate * first / (1 - 0.9**count) / size
        for name, step in zip(names, steps, strict=True):
            parameters = moved(parameters, name, step)
        self.filters[task.head] = parameters


@dataclass(frozen=True)
class HeadTask:
    """The M step of one head: images (B, 3, H, W) each, and the head's responsibilities (B, H, W)."""

    head: str
    clean: np.ndarray
    noisy: np.ndarray
    answer: np.ndarray | None
    guide: np.ndarray | None
    share: np.ndarray
    noise: float

    def output(self, parameters, walk=None):
        """F_h (B, 3, H, W) with these parameters."""
        if walk is None:
            walk = walk_of(self.head, parameters, self.noisy, self.answer, self.guide, self.noise)
        return filtered(parameters, walk, self.noisy, self.answer)

    def cost(self, output):
        """The responsible part of the squared error: a number."""
        return float((self.share[:, None] * (self.clean - output) ** 2).mean(dtype=np.float64))

    def slopes(self, parameters, walk, output):
        """Names of the free parameters, and the derivatives of F_h by them (P, B, 3, H, W), by small differences."""
        names = ["sigma_s", "tau", "rho"] if self.head == "spatial" else list(LIMITS)
        if self.answer is None:
            names = [name for name in names if name not in ("sigma_f", "rho")]
        found = []
        for name in names:
            if name in LINEAR:  # the walk stays, so this is cheap; away from the nearer limit
                step = -0.02 if getattr(parameters, name) > 0.5 else 0.02
                changed = self.output(moved(parameters, name, step), walk)
            else:
                step = 0.05
                changed = self.output(moved(parameters, name, step))
            found.append((changed - output) / np.float32(step))
        return names, np.stack(found)

    def newton(self, parameters, walk, output):
        """A Filter after one damped Gauss-Newton step and one trial of each neighbouring radius; never worse."""
        names, slopes = self.slopes(parameters, walk, output)
        weighted = slopes * self.share[:, None]
        axes = (1, 2, 3, 4)
        gram = np.tensordot(weighted, slopes, axes=(axes, axes)).astype(np.float64)
        rhs = np.tensordot(weighted, self.clean - output, axes=(axes, (0, 1, 2, 3)))
        best, cost = parameters, self.cost(output)
        for damping in DAMPINGS:
            system = gram + damping * np.diag(np.diag(gram) + 1e-9)
            trial = parameters
            for name, step in zip(names, np.linalg.solve(system, rhs), strict=True):
                bound = 1.0 if name in LINEAR else 0.7
                trial = moved(trial, name, float(np.clip(step, -bound, bound)))
            reached = self.cost(self.output(trial))
            if reached < cost:
                best, cost = trial, reached
                break
        return best if self.head == "spatial" else self._other_radius(best, cost)

    def _other_radius(self, parameters, cost):
        """One pixel more if that lowers the cost by a thousandth, else one less if it costs nothing."""
        for change, allowed in ((1, 1 - 1e-3), (-1, 1.0)):
            radius = int(np.clip(parameters.radius + change, 2, 8))
            trial = replace(parameters, radius=radius)
            if radius != parameters.radius and self.cost(self.output(trial)) < cost * allowed:
                return trial
        return parameters


@dataclass(frozen=True)
class Pairs:
    """Clean and noisy images (N, 3, 32, 32) in [0, 1]."""

    clean: np.ndarray
    noisy: np.ndarray


def decode(net, noisy):
    """Tokens of noisy images (NumPy) and the decoder's R0 in [0, 1] (tensor), with what the codebook needs."""
    z = net.tokens(tokens.to_loop(noisy))
    codes, index, commitment = net.codebook(z)
    decoded, _, _ = net.render(codes, len(noisy))
    return (decoded + 1) / 2, z, index, commitment


@torch.no_grad()
def errors(net, part, pairs, batch=50):
    """Squared error of each image in [-1, 1], at 64 and at 32 pixels, (2, N)."""
    found = []
    for start in range(0, len(pairs.noisy), batch):
        noisy = pairs.noisy[start : start + batch]
        clean = torch.from_numpy(pairs.clean[start : start + batch])
        output = part(noisy, decode(net, noisy)[0])
        found.append(squared_errors(output, clean))
    return torch.cat(found, dim=1).numpy()


def squared_errors(output, clean):
    """(B, 3, 32, 32) twice, [0, 1] -> squared error of each image in [-1, 1], at 64 and at 32 pixels, (2, B)."""
    small = 2 * (output - clean)
    return torch.stack(
        [values.square().mean((1, 2, 3)) for values in (tokens.enlarge(small), small)]
    )


def train(
    arm, training, validation, *, noise, steps, seed, initial, batch=16, rate=2e-3, at, adam=0.1
):
    """Train one arm; equal seeds see equal images in equal order, whatever the arm.

    Args:
        training, validation: Pairs. noise: deviation of their noise. initial: what `tokens.start` gave.
        at: steps at which the validation error is taken. adam: rate of the arm "graph + gradient".

    Returns:
        the token network, its GraphPart, and a history: dicts with step, CPU seconds of training so far, mse and,
        after the first EM step, its likelihood.
    """
    torch.manual_seed(seed)
    encoder, codes = initial
    net = tokens.Loop("none", [part.clone() for part in encoder], codes, seed)
    part = GraphPart(arm, noise, seed, adam)
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=rate)
    order = torch.Generator().manual_seed(seed)
    em_order = np.random.default_rng(seed)
    history, seconds, likelihood = [], 0.0, None
    for step in range(steps + 1):
        started = time.process_time()
        if part.learned and step % EM_EVERY == 0 and step < steps:
            drawn = em_order.integers(len(training.clean), size=EM_IMAGES)
            with torch.no_grad():
                decoded = decode(net, training.noisy[drawn])[0].numpy()
            likelihood = part.em_step(training.clean[drawn], training.noisy[drawn], decoded)
        seconds += time.process_time() - started
        if step in at:
            mse = float(errors(net, part, validation)[0].mean())
            history.append({"step": step, "seconds": seconds, "mse": mse, "likelihood": likelihood})
        if step < steps:
            started = time.process_time()
            drawn = torch.randint(len(training.clean), (batch,), generator=order).numpy()
            optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
            learn(net, part, training.clean[drawn], training.noisy[drawn], optimiser, order)
            seconds += time.process_time() - started
    return net, part, history


def learn(net, part, clean, noisy, optimiser, generator):
    """One training step of encoder, decoder and codes on images (B, 3, 32, 32)."""
    decoded, z, index, commitment = decode(net, noisy)
    output = part(noisy, decoded)
    target = torch.from_numpy(clean)
    answer, wanted = tokens.enlarge(2 * output - 1), tokens.enlarge(2 * target - 1)
    loss = F.mse_loss(answer, wanted) + 0.2 * tokens.ssim_loss(answer, wanted) + 0.1 * commitment
    if part.arm != "tokens only":  # the decoder is to be right itself, or the graph would excuse it
        loss = loss + 0.5 * F.mse_loss(2 * decoded - 1, 2 * target - 1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    net.codebook.update(z.detach(), index, generator)
