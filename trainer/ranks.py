"""What the processes of one run tell each other; with one process, nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def gathered(values: Sequence[T]) -> list[T]:
    """The values of all ranks, in the order of the ranks."""
    import torch

    if not _several():
        return list(values)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(values))
    return list(itertools.chain.from_iterable(parts))


def shared(value: T) -> T:
    """The first rank's value, on every rank."""
    import torch

    if not _several():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for all ranks."""
    import torch

    if _several():
        torch.distributed.barrier()


def leave() -> None:
    """End what the ranks have in common, once all are here: from now on each is alone."""
    import torch

    if _several():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _several() -> bool:
    import torch

    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())
