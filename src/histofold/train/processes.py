"""What several processes of one training do together: meet, agree, add up their sums, and start again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import distributed, nn

from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.schema.claims import Claims
from histofold.train.losses.scores import identity

JOIN_LIMIT = timedelta(minutes=10)
"""How long processes wait for each other at the start."""
VALIDATION_LIMIT = timedelta(hours=12)
"""How long the other processes wait while the first one validates."""


def restarts() -> int:
    """How often torchrun has started this process again, because one of its group had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join_group(device: torch.device) -> None:
    """Join the processes that torchrun has started with this one, unless that is done; alone, do nothing.

    torchrun keeps one store for all its starts: without names of its own a process that starts again may find the
    address of one that is dead, and wait for it. Of several machines each counts its own starts, so they need another
    remedy (docs/training.md).

    Args:
        device: CPU processes talk through gloo, others through NCCL.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        return
    store, rank, ranks = next(distributed.rendezvous("env://", timeout=JOIN_LIMIT))
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        store = distributed.PrefixStore(f"start_{restarts()}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=JOIN_LIMIT)
    distributed.set_timeout(VALIDATION_LIMIT)


@contextmanager
def alone_at(folder: Path, fold: int) -> Iterator[None]:
    """Keep other trainings off a fold as long as this one is at it; of the processes of torchrun the first one does.

    Args:
        folder: runs/E.
        fold: Its number.

    Raises:
        InputError: If another process trains it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with Claims(folder / ".folds.lock") as claims:
        try:
            is_free = claims.take(fold)
        except InputError as error:
            logger.warning("nobody would notice if two processes trained this fold: %s", error)
            is_free = True
        if not is_free:
            remedy = "wait for it, or end it first: whoever goes on starts from what it has saved"
            raise InputError([Fault(f"fold {fold}", str(folder), "another process trains this fold", remedy)])
        yield


def broadcast(value: float, accelerator: Accelerator) -> float:
    """The first process's value, on all of them."""
    if accelerator.num_processes == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=accelerator.device)
    distributed.broadcast(tensor, 0)
    return float(tensor)


def sum_over_processes(accelerator: Accelerator) -> Callable[[torch.Tensor], torch.Tensor]:
    """What adds up sums over all processes, with their gradients, so that a loss is that of the joint batch."""
    return _JointSum.apply if accelerator.num_processes > 1 else identity


def sync_batch_norm(model: nn.Module, accelerator: Accelerator) -> None:
    """Have batch normalisation on GPUs see the images of all processes, in place.

    On CPUs, where torch has none that does, each process normalises by its own images.
    """
    if accelerator.num_processes == 1:
        return
    if accelerator.device.type == "cuda":
        convert_sync_batchnorm(model)


class _JointSum(torch.autograd.Function):
    """The sum over all processes; since each of them takes its loss from it, gradients are added up as well."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
