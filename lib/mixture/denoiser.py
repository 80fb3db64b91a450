"""The denoisers by name, their weights on disk, and batched inference.

Every network here maps (noisy (B, 3, H, W) in [0, 1], sigma (B,)) to (image (B, 3, H, W), gates of its routers).
Shapes: B images, N images of a set.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.common import weights
from lib.common.params import UserError
from lib.mixture.announced import LEARNED, Announced, Routing
from lib.mixture.attentive import Attentive
from lib.mixture.bank import NETWORKS, Member
from lib.mixture.bank import SIZES as BANK_SIZES
from lib.mixture.network import Trunk

OUTER = ("stem", "head", "level", "film", "router")  # parts of our network that AdamW trains


class Arm(NamedTuple):
    """A network, how its windows are routed in training and after it, and its steps for the CPU seconds of ours.

    Ours explores: windows go to random experts in training, so that the router does not only see what becomes of its
    own choices, and the gates teach it all the while.
    """

    network: Callable[[], nn.Module]
    exploring: str = "learned"
    routing: str = "learned"
    pace: float = 1.0


ARMS = {
    "announced": Arm(Announced),
    "announced_unclamped": Arm(lambda: Announced(clamp_training=False)),
    "ours": Arm(lambda: Trunk(routed=True), "random"),
    "ours_committed": Arm(lambda: Trunk(routed=True)),
    "unet": Arm(lambda: Trunk(routed=False), pace=1.35),
    "attentive": Arm(Attentive),
    "residual": Arm(lambda: Attentive(middle="rr", before=2, after=3)),
}
PACES = {  # steps of each size that fit into the CPU seconds of an epoch of the largest
    1: 3.86,
    2: 3.43,
    3: 2.3,
    4: 1.0,
}
for _name, _network in NETWORKS.items():
    ARMS[_name] = Arm(
        partial(Member, _network.size), pace=PACES[1 + BANK_SIZES.index(_network.size)]
    )


def build(arm: str, seed: int) -> nn.Module:
    """The network of an arm with the initial weights of `seed`, drawn apart from torch's global generator."""
    if arm not in ARMS:
        raise UserError(f"arm = {arm!r}: allowed are {', '.join(ARMS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARMS[arm].network()


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """Convolutions and linear layers between the first and the last: what Muon trains."""
    parts = [
        part for name, part in model.named_modules() if not any(outer in name for outer in OUTER)
    ]
    layers = [p for p in parts if isinstance(p, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    return [layer.weight for layer in layers]


def parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def save_tensors(path: Path | str, tensors: dict[str, Tensor], about: dict) -> None:
    """A safetensors file, whole or absent; `about` is its only metadata, as JSON with sorted keys."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    in_order = json.loads(json.dumps(about, sort_keys=True))
    weights.save(path, arrays, {"about": in_order})


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """What `save_tensors` wrote: the tensors on the CPU and `about`."""
    with weights.readable(path):
        stored = weights.load(path)
        about = stored.about["about"]
    return {name: torch.from_numpy(array) for name, array in stored.arrays.items()}, about


def load_weights(path: Path | str, arm: str | None = None) -> nn.Module:
    """The trained network of a weights file, in evaluation mode, on the CPU.

    Raises:
        UserError: no such file, not a weights file, or it belongs to another arm than the one asked for.
    """
    tensors, about = load_tensors(path)
    if arm is not None:
        weights.check_same(path, {"arm": about.get("arm")}, {"arm": arm})
    model = build(about.get("arm"), seed=0)
    weights.check_shapes(path, tensors, {k: tuple(v.shape) for k, v in model.state_dict().items()})
    model.load_state_dict(tensors)
    return model.eval()


@torch.no_grad()
def denoise(
    model: nn.Module,
    images: Tensor,
    sigma: float = 0.2,
    batch: int = 250,
    routing: Routing = LEARNED,
) -> Tensor:
    """Denoise images (N, 3, H, W), float in [0, 1] -> the same shape, on the images' device."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = [
        model(part.to(device), torch.full((len(part),), sigma, device=device), routing)[0].to(
            images.device
        )
        for part in images.split(batch)
    ]
    model.train(was_training)
    return torch.cat(parts)
