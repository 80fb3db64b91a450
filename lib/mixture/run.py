"""A training run: its configuration, one step, and all the state that decides the next one.

Shapes: M training images, B batch.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.common import weights
from lib.common.params import UserError
from lib.mixture import denoiser, levels
from lib.mixture.announced import Routing, balance_loss
from lib.mixture.ranks import ALONE, Ranks

SIGMAS = 0.05, 0.5  # the range of noise levels, where they vary
WARM_UP = 50  # steps from zero to the full learning rate ("trapezoid")
FLOOR, SCALE = (
    1e-5,
    0.01,
)  # of the logarithmic loss: 50 dB, and a gradient near that of the squared error


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run except the images, the device and the number of threads.

    schedule: "cosine" (half a cosine over the epochs, constant within one: announced) or "trapezoid" (a short
    rise, a plateau, a straight line to zero over the last `cooling` of the steps). muon: learning rate of the
    hidden matrices under Muon; 0 leaves all to AdamW. average: decay of the mean of the weights that is kept as
    the result; 0 keeps the last weights. varied: share of the images whose sigma is log-uniform in SIGMAS.
    logarithm: the loss is the mean logarithm of the images' squared errors, which is their mean PSNR, instead of the
    mean squared error. whole: share of the steps before windows may be skipped.
    """

    arm: str = "announced"
    init_seed: int = 0
    order_seed: int = 0
    noise_seed: int = 0
    images: int = 4000
    steps: int = 310
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    balance: float = 0.01
    sigma: float = 0.2
    log_every: int = 25
    val_every: int = 62
    save_every: int = 62
    schedule: str = "cosine"
    cooling: float = 0.6
    muon: float = 0.0
    average: float = 0.0
    varied: float = 0.0
    flips: bool = False
    bf16: bool = False
    logarithm: bool = False
    whole: float = 0.0

    @property
    def epoch(self) -> int:
        """Steps per epoch; the few images beyond the last whole batch wait for another order."""
        return self.images // self.batch

    def rate(self, step: int) -> float:
        """The learning rate after `step` steps, as a share of the full one."""
        if self.schedule == "cosine":
            return (
                1 + math.cos(math.pi * (step // self.epoch) / math.ceil(self.steps / self.epoch))
            ) / 2
        return min(1, (step + 1) / WARM_UP, (self.steps - step) / (self.cooling * self.steps))


@dataclass(frozen=True)
class BankConfig(TrainConfig):
    """The configuration of a network of the bank.

    lowest, highest: its levels, log-uniform. maps: share of the images whose level changes over the image, from one of these
    to any in SIGMAS.
    """

    lowest: float = SIGMAS[0]
    highest: float = SIGMAS[1]
    maps: float = 0.25


class Diverged(UserError):
    """The loss left the finite numbers, or grew beyond what any image can give."""


class Run:
    """A training run that can stop after any step and go on from its state."""

    def __init__(
        self, config: TrainConfig, images: np.ndarray, device: torch.device, ranks: Ranks = ALONE
    ):
        if images.dtype != np.uint8 or images.shape[1:2] != (3,) or len(images) != config.images:
            raise ValueError(
                f"images: expected uint8 ({config.images}, 3, H, W), found {images.dtype} {images.shape}"
            )
        if not 1 <= config.batch <= config.images:
            raise ValueError(
                f"batch = {config.batch}: allowed are 1 to {config.images}, the training images"
            )
        self.config, self.device, self.ranks, self.step, self.lines = config, device, ranks, 0, []
        self.identity = weights.identity(images, config)  # the configuration holds the seeds
        self.images = torch.from_numpy(images).to(device)
        self.model = denoiser.build(config.arm, config.init_seed).to(device)
        self.result = copy.deepcopy(self.model).eval() if config.average else self.model
        self.optimisers, self.flat = optimisers(self.model, config)
        self.order = torch.Generator().manual_seed(config.order_seed)
        self.noise = torch.Generator(device).manual_seed(config.noise_seed)
        self.routing = Routing(denoiser.ARMS[config.arm].exploring, self.noise, ranks=ranks)
        self.epoch_order = torch.empty(0, dtype=torch.long)

    def advance(self) -> dict:
        """One step of the optimiser; the step's log line."""
        config, share = self.config, self.config.rate(self.step)
        clean, sigma = self._batch(), self._sigmas()  # (B, 3, H, W), (B,)
        level = self._maps(sigma) if isinstance(config, BankConfig) else sigma
        noise = torch.randn(clean.shape, generator=self.noise, device=self.device)
        clean, sigma, level, noise = map(self.ranks.own, (clean, sigma, level, noise))
        spread = level if level.ndim == 4 else level[:, None, None, None]
        noisy = (clean + spread * noise).clamp_(0, 1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            routing = self.routing._replace(skip=self.step >= config.whole * config.steps)
            image, gates = self.model.train()(noisy, level, routing)
        errors = (image.float() - clean).square().mean((1, 2, 3))  # (B,)
        mse = (
            errors * (config.sigma / sigma)
        ).mean()  # errors grow with sigma: in units of it every level counts
        balance = balance_loss(gates, self.ranks) if config.balance else torch.zeros(())
        loss = SCALE * (errors + FLOOR).log().mean() if config.logarithm else mse
        self._descend(loss + config.balance * balance, loss, mse, share)
        self.step += 1
        line = {
            "step": self.step,
            "loss": loss.item(),
            "mse": mse.item(),
            "lr": share * config.learning_rate,
        }
        if config.balance:
            shares = [self.ranks.mean(g.detach().mean((0, 1))).tolist() for g in gates]
            line |= {"balance": balance.item(), "gates": shares}
        return line

    def _descend(self, total: Tensor, loss: Tensor, mse: Tensor, share: float) -> None:
        self.model.zero_grad()
        total.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.ranks.average([*gradients, *(value.detach() for value in (total, loss, mse))])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if not (norm.isfinite() and total.isfinite() and mse < 1):
            raise Diverged(
                f"step {self.step + 1}: loss {total.item()}, gradient norm {norm.item()}"
            )
        for weight, matrix in self.flat:
            matrix.grad = by_rows(weight.grad).reshape(matrix.shape)
        for optimiser, full in self.optimisers:
            optimiser.param_groups[0]["lr"] = share * full
            optimiser.step()
        if self.config.average:
            decay = min(self.config.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for mean, value in zip(
                    self.result.parameters(), self.model.parameters(), strict=True
                ):
                    mean.lerp_(value, 1 - decay)

    def _batch(self) -> Tensor:
        config, place = self.config, self.step % self.config.epoch
        if place == 0:
            self.epoch_order = torch.randperm(config.images, generator=self.order)
        chosen = self.epoch_order[place * config.batch : (place + 1) * config.batch]
        clean = self.images[chosen.to(self.device)].float() / 255  # (B, 3, H, W)
        if config.flips and torch.rand((), generator=self.order) < 0.5:
            clean = clean.flip(3)
        return clean

    def _sigmas(self) -> Tensor:
        config = self.config
        sigma = torch.full((config.batch,), config.sigma, device=self.device)
        if isinstance(config, BankConfig):
            draw = torch.rand(config.batch, generator=self.noise, device=self.device)
            return config.lowest * (config.highest / config.lowest) ** draw
        if config.varied:
            draw = torch.rand(2, config.batch, generator=self.noise, device=self.device)
            spread = SIGMAS[0] * (SIGMAS[1] / SIGMAS[0]) ** draw[1]
            sigma = torch.where(draw[0] < config.varied, spread, sigma)
        return sigma

    def _maps(self, sigma: Tensor) -> Tensor:
        """The level of each pixel: some images get a ramp that starts at their level. (B,) -> (B, 1, H, W)"""
        size = self.images.shape[2:]
        varies = torch.rand(len(sigma), generator=self.noise, device=self.device) < self.config.maps
        ramps = levels.ramp_maps(sigma, self.noise, *size)
        return torch.where(varies[:, None, None, None], ramps, levels.uniform_map(sigma, *size))

    def _networks(self) -> list[tuple[str, nn.Module]]:
        return [("model/", self.model)] + (
            [("result/", self.result)] if self.config.average else []
        )

    def state(self) -> dict[str, Tensor]:
        """All tensors that decide the rest of the run, by name."""
        tensors = {}
        for part, network in self._networks():
            tensors |= {part + name: value for name, value in network.state_dict().items()}
        for number, (optimiser, _) in enumerate(self.optimisers):
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {
                    f"optimiser/{number}/{index}/{name}": value for name, value in slots.items()
                }
        generators = {"order": self.order.get_state(), "noise": self.noise.get_state()}
        return tensors | generators | {"epoch_order": self.epoch_order}

    def restore(self, tensors: dict[str, Tensor], step: int, lines: list[dict]) -> None:
        """The inverse of `state`."""
        for part, network in self._networks():
            network.load_state_dict(
                {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
            )
        for number, (optimiser, _) in enumerate(self.optimisers):
            slots: dict[int, dict] = {}
            owners = [p for group in optimiser.param_groups for p in group["params"]]
            for name, value in tensors.items():
                if name.startswith(f"optimiser/{number}/"):
                    index, slot = name.split("/")[2:]
                    owner = owners[
                        int(index)
                    ]  # the fused step wants its sums in the memory order of the weights
                    value = (
                        torch.empty_like(owner).copy_(value)
                        if value.shape == owner.shape
                        else value
                    )
                    slots.setdefault(int(index), {})[slot] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": slots, "param_groups": groups})
        self.order.set_state(tensors["order"])
        self.noise.set_state(tensors["noise"])
        self.epoch_order, self.step, self.lines = tensors["epoch_order"], step, list(lines)


def optimisers(model: nn.Module, config: TrainConfig) -> tuple[list, list]:
    """Pairs (optimiser, full learning rate), and pairs (weight, its matrix for Muon).

    Muon (Jordan 2024) orthogonalises the momentum of a matrix. A convolution's weight is the matrix of output by
    places and input channels; it shares its memory with the parameter, so a step on one is a step on both.
    """
    hidden = denoiser.hidden_weights(model) if config.muon else []
    flat = [(weight, nn.Parameter(by_rows(weight.data).view(len(weight), -1))) for weight in hidden]
    taken = {id(weight) for weight in hidden}
    rest = [p for p in model.parameters() if id(p) not in taken]
    adam = torch.optim.AdamW(
        rest, config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    pairs = [(adam, config.learning_rate)]
    if flat:
        muon = torch.optim.Muon(
            [matrix for _, matrix in flat], config.muon, weight_decay=config.weight_decay
        )
        pairs.append((muon, config.muon))
    return pairs, flat


def by_rows(weight: Tensor) -> Tensor:
    """A convolution's weight (O, I, h, w), kept channels last, in the order of its memory (O, h, w, I)."""
    return weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight


def save_checkpoint(run: Run, path: Path) -> None:
    """The whole state of a run, atomically."""
    about = {"identity": run.identity, "step": run.step, "lines": run.lines}
    denoiser.save_tensors(path, run.state(), about)


def load_checkpoint(run: Run, path: Path) -> None:
    """Set a fresh run to a checkpoint; one of other settings or images is a UserError that names both."""
    tensors, about = denoiser.load_tensors(path)
    weights.check_same(path, about.get("identity", {}), run.identity)
    run.restore(tensors, about["step"], about["lines"])
