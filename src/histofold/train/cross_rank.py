"""What several processes of one training do together: batch normalisation, agreement, and starting again."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import distributed, nn
from torch.nn.functional import batch_norm

from histofold.train.losses.scores import same

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


def agreed(value: float, accelerator: Accelerator) -> float:
    """The first process's value, on all of them."""
    if accelerator.num_processes == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=accelerator.device)
    distributed.broadcast(tensor, 0)
    return float(tensor)


def sum_over_ranks(accelerator: Accelerator) -> Callable[[torch.Tensor], torch.Tensor]:
    """What adds up sums over all processes, with their gradients, so that a loss is that of the joint batch."""
    return _JointSum.apply if accelerator.num_processes > 1 else same


def share_batch_norm(model: nn.Module, accelerator: Accelerator) -> None:
    """Have batch normalisation see the images of all processes, in place; one process is left as it is."""
    if accelerator.num_processes == 1:
        return
    if accelerator.device.type == "cuda":
        convert_sync_batchnorm(model)
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, CrossRankBatchNorm2d.of(child))


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over all processes on the CPU, where torch has none.

    With the activation that timm builds into its own kind of batch normalisation.
    """

    act: nn.Module
    drop: nn.Module

    @classmethod
    def of(cls, plain: nn.BatchNorm2d) -> CrossRankBatchNorm2d:
        """The same layer, with the very tensors of `plain`."""
        shared = cls(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        for name, parameter in plain._parameters.items():
            shared.register_parameter(name, parameter)
        for name, buffer in plain._buffers.items():
            shared.register_buffer(name, buffer)
        shared.drop = getattr(plain, "drop", nn.Identity())
        shared.act = getattr(plain, "act", nn.Identity())
        return shared.train(plain.training)

    def forward(self, maps_NCHW: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.BatchNorm2d`, in training with the statistics of all processes' maps."""
        if not self.training:
            return self.act(self.drop(super().forward(maps_NCHW)))
        mean_C, variance_C, count = joint_moments(maps_NCHW.detach())
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean_C, share)
            self.running_var.lerp_(variance_C * (count / (count - 1)), share)
        normalised = _Normalise.apply(maps_NCHW, self.weight, self.bias, mean_C, variance_C, self.eps, count)
        return self.act(self.drop(normalised))


def joint_moments(maps_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and biased variance (C,) of each channel over all processes, and the values they are over.

    In float32 at least. The processes' moments are joined as Chan et al. (1983) do, which loses no digits to large
    means.
    """
    dtype = torch.promote_types(maps_NCHW.dtype, torch.float32)
    own_3C = torch.empty(3, maps_NCHW.shape[1], dtype=dtype)
    own_3C[1], own_3C[0] = torch.var_mean(maps_NCHW.to(dtype), dim=(0, 2, 3), correction=0)
    own_3C[2] = maps_NCHW.numel() / maps_NCHW.shape[1]
    each = [torch.empty_like(own_3C) for _ in range(distributed.get_world_size())]
    distributed.all_gather(each, own_3C)
    means_RC, variances_RC, counts_RC = torch.stack(each).unbind(1)
    total = float(counts_RC[:, 0].sum())
    shares_RC = counts_RC / total
    mean_C = (shares_RC * means_RC).sum(0)
    return mean_C, (shares_RC * (variances_RC + (means_RC - mean_C).square())).sum(0), total


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


class _Normalise(torch.autograd.Function):
    """Normalisation by joint moments; its gradient also goes through the moments, to every process's maps."""

    @staticmethod
    def forward(
        ctx: Any,
        maps_NCHW: torch.Tensor,
        weight_C: torch.Tensor | None,
        bias_C: torch.Tensor | None,
        mean_C: torch.Tensor,
        variance_C: torch.Tensor,
        eps: float,
        count: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(maps_NCHW, weight_C, mean_C, (variance_C + eps).rsqrt())
        ctx.count = count
        return batch_norm(maps_NCHW, mean_C, variance_C, weight_C, bias_C, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps_NCHW, weight_C, mean_C, scale_C = ctx.saved_tensors
        gradient_NCHW = gradients[0].to(mean_C.dtype)
        standard_NCHW = (maps_NCHW.to(mean_C.dtype) - mean_C[:, None, None]) * scale_C[:, None, None]
        own_2C = torch.stack([gradient_NCHW.sum((0, 2, 3)), (gradient_NCHW * standard_NCHW).sum((0, 2, 3))])
        joint_2C = own_2C.clone()
        distributed.all_reduce(joint_2C)
        mean_2C11 = (joint_2C / ctx.count)[:, :, None, None]
        factor_C = scale_C if weight_C is None else scale_C * weight_C
        through_NCHW = (gradient_NCHW - mean_2C11[0] - standard_NCHW * mean_2C11[1]) * factor_C[:, None, None]
        weights = (None, None) if weight_C is None else (own_2C[1], own_2C[0])
        return through_NCHW.to(maps_NCHW.dtype), *weights, None, None, None, None
