"""One training run on several processes, as `torchrun` starts them.

Every process draws the whole batch, its noise and its random routes from the same seeds and keeps its share of the
images; gradients, losses and the router's mean gates are averaged over all. So the run is that of one process, up to
the order of sums, and a checkpoint of either goes on in the other. gloo joins processes on CPUs, nccl on GPUs.

Shapes: B images of the whole batch.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lib.common.params import UserError


class Ranks(NamedTuple):
    """This process among `world`; alone, every method returns what it got."""

    rank: int = 0
    world: int = 1

    def own(self, batch: Tensor) -> Tensor:
        """This process's rows of a tensor (B, ...); UserError: B is no multiple of the number of processes."""
        if len(batch) % self.world:
            raise UserError(
                f"a batch of {len(batch)} does not split over {self.world} processes; choose a divisor"
            )
        return batch.chunk(self.world)[self.rank]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, through which gradients flow."""
        if self.world == 1:
            return value
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(value) / self.world

    def average(self, tensors: list[Tensor]) -> None:
        """Put the mean over all processes in place of each tensor, in one exchange."""
        if self.world > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, part in zip(
                tensors, flat.div_(self.world).split([t.numel() for t in tensors]), strict=True
            ):
                tensor.copy_(part.view_as(tensor))


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, for as long as the block lasts; without it, this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
