"""A decoder whose maps are scaled and shifted by the organ that an image shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn

SEEN: ContextVar[tuple[str, ...]] = ContextVar("organs", default=())
"""What the images show that this thread's networks see; each thread has its own."""


@contextmanager
def organs_seen(organs: Sequence[str]) -> Iterator[None]:
    """Tell the networks that are called in it what their images show; only those know that were built with organs.

    Args:
        organs: Of each image of a batch, or one for all; empty where unknown.
    """
    token = SEEN.set(tuple(organs))
    try:
        yield
    finally:
        SEEN.reset(token)


class OrganFilm(nn.Module):
    """Feature-wise scale and shift by organ (Perez 2018, arXiv:1709.07871), which starts as none.

    An organ that it does not know, or that nobody named, leaves the maps as they are.

    Args:
        organs: Names of the organs that it knows.
        channels: Of the maps.
    """

    def __init__(self, organs: Sequence[str], channels: int) -> None:
        super().__init__()
        self.organs = tuple(organs)
        self.table = nn.Parameter(torch.zeros(len(organs), 2 * channels))

    def forward(self, maps_NCHW: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to the same, by `organs_seen`."""
        places = [self.organs.index(organ) if organ in self.organs else -1 for organ in SEEN.get() or ("",)]
        if max(places) < 0 and not self.training:
            return maps_NCHW
        # Several processes wait for every gradient, so that in training even unknown organs ask the table.
        places_N = torch.tensor(places, device=maps_NCHW.device)
        rows = self.table[places_N.clamp(min=0)] * (places_N >= 0)[:, None]
        scale, shift = rows.to(maps_NCHW.dtype)[:, :, None, None].chunk(2, dim=1)
        return maps_NCHW * (1 + scale) + shift


def condition_on_organs(net: Any, organs: Sequence[str]) -> None:
    """Let a network's decoder know organs, in place: each stage of a U-shaped one, else what the decoder gives.

    Args:
        net: A network of smp, or built like one: `decoder`, then `segmentation_head`.
        organs: Their names.

    Raises:
        ValueError: If the network is built otherwise.
    """
    if not hasattr(net, "segmentation_head"):
        raise ValueError("organs are known by networks of smp and by dpt alone")
    blocks = getattr(net.decoder, "blocks", [net.decoder])
    stages = list(blocks.values() if isinstance(blocks, nn.ModuleDict) else blocks)
    net.film = nn.ModuleList()
    for stage in stages:
        channels = [part.out_channels for part in stage.modules() if isinstance(part, nn.Conv2d)][-1]
        film = OrganFilm(organs, channels)
        net.film.append(film)
        stage.register_forward_hook(partial(_filmed, film))  # a partial is copied with the network, a closure is not


def _filmed(film: nn.Module, _: nn.Module, __: Any, maps_NCHW: torch.Tensor) -> torch.Tensor:
    return film(maps_NCHW)
