"""The processes that train one model together: this one alone, unless torchrun started several.

The communication is PyTorch's: gradients are averaged by DistributedDataParallel, and what the
processes must agree on (the clock, whether to stop) is summed up once an update.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Processes", "together"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model.

    Args:
        rank: the number of this process; process 0 writes files and speaks.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Return this process's part of a global batch: every count-th, from the rank on.

        Example:
            >>> Processes(rank=1, count=2).share([10, 11, 12, 13, 14])
            [11, 13]
        """
        return items[self.rank :: self.count]

    def total(self, *values: float) -> list[float]:
        """Add up numbers over the processes, in float64; each gets the sums."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def from_first(self, value: Any) -> Any:
        """Return to each process what process 0 passes in; the others' values are ignored."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return to process 0 the tensors of all, in the order of ranks; to the others nothing."""
        if self.count == 1:
            return [tensors]
        found: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(tensors, found, dst=0)
        return found or []

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as it is to be called in training, gradients averaged over processes."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)


@contextmanager
def together() -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun this process is alone.

    Yields:
        This process among them.

    Example:
        >>> with together() as processes:
        ...     processes.count
        1
    """
    if not dist.is_available() or "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield (
            Processes(dist.get_rank(), dist.get_world_size())
            if dist.is_available() and dist.is_initialized()
            else Processes()
        )
        return
    dist.init_process_group("gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
        # The end of the group waits, with the interpreter's lock, for a thread of gloo's that needs
        # that lock to put away the last message. Asleep, this one gives it up.
        dist.barrier()
        time.sleep(0.2)
    finally:
        dist.destroy_process_group()
