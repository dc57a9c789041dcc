"""Heads that only training knows: organ, pixel size and deep supervision, around a plain network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from histofold.core.faults import InputError
from histofold.models.build import first_layer
from histofold.schema.loss import LossConfig

PROBE_SIDE = 64  # pixels a side of the picture that tells the channels of all maps


class TrainingNetwork(nn.Module):
    """A plain network with the heads that the loss wants; without any it is the plain network. Detectors have none.

    Organ and pixel size are read from the global average of the encoder's coarsest map. Deep supervision puts a 1x1
    convolution on each coarse map on the way to the logits (Lee et al. 2015, arXiv:1409.5185): on the stages of
    U-shaped decoders, else on the encoder's maps. The maps are caught as they pass, so the network runs once.
    """

    def __init__(self, model: nn.Module, *, classes: int, organs: int, config: LossConfig) -> None:
        """Build the heads.

        Args:
            model: The plain network; its `encoder` gives NCHW maps, finest first.
            classes: Channels of the logits in training: K, or K + 1 with softmax.
            organs: Number of organs in the training fold.
            config: Weights of the auxiliary losses: a head is built where its weight is above 0.

        Raises:
            InputError: If the organ is to be learned and the fold knows none.
        """
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict()
        self._stages: list[nn.Module] = deep_stages(model) if config.deep_supervision else []
        if not (config.organ or config.pixel_size or config.deep_supervision):
            return
        if config.organ and not organs:
            raise InputError(f"loss.organ={config.organ}: no training slide has an organ to learn; set it to 0")
        coarsest, deep = self._probe()
        if config.organ:
            self.heads["organ"] = nn.Linear(coarsest, organs)
        if config.pixel_size:
            self.heads["log_zoom"] = nn.Linear(coarsest, 1)
        if config.deep_supervision:
            self.heads["deep"] = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in deep)

    def forward(
        self, images_NCHW: torch.Tensor, targets: Sequence[dict[str, torch.Tensor]] | None = None
    ) -> dict[str, Any]:
        """Images to `logits` NKHW and, of the heads that are there, `organ` NO, `log_zoom` N and `deep`, maps NKhw.

        A detector is given targets, and its losses by name come back.
        """
        if targets is not None:
            return self.model(images_NCHW, targets)
        if not self.heads:
            return {"logits": self.model(images_NCHW)}
        outputs, coarsest_NCHW, deep = self._watched(images_NCHW)
        pooled_NC = coarsest_NCHW.mean(dim=(2, 3))
        if "organ" in self.heads:
            outputs["organ"] = self.heads["organ"](pooled_NC)
        if "log_zoom" in self.heads:
            outputs["log_zoom"] = self.heads["log_zoom"](pooled_NC)[:, 0]
        if "deep" in self.heads:
            deep_heads = self.heads["deep"]
            assert isinstance(deep_heads, nn.ModuleList)
            outputs["deep"] = [head(maps_NCHW) for head, maps_NCHW in zip(deep_heads, deep, strict=True)]
        return outputs

    def _watched(self, images_NCHW: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor, list[torch.Tensor]]:
        """The logits, the encoder's coarsest map, and the maps that are supervised."""
        encoder = self.model.encoder
        assert isinstance(encoder, nn.Module)
        with caught_calls([encoder, *self._stages]) as calls:
            outputs = {"logits": self.model(images_NCHW)}
        (inputs_NCHW, features), *stages = calls
        # Some encoders begin with the image itself, or with maps that have no channels.
        maps = [m for m in features if m.shape[1] and m.shape[2] < inputs_NCHW.shape[2]]
        deep = [maps_NCHW for _, maps_NCHW in stages] or maps
        return outputs, maps[-1], [_without_padding(m, inputs_NCHW, images_NCHW) for m in deep]

    @torch.no_grad()
    def _probe(self) -> tuple[int, list[int]]:
        """Channels of the encoder's coarsest map and of the maps that are supervised."""
        was_training = self.model.training
        device = next(self.model.parameters()).device
        self.model.eval()
        shape = (1, first_layer(self.model).in_channels, PROBE_SIDE, PROBE_SIDE)
        _, coarsest_NCHW, deep = self._watched(torch.zeros(*shape, device=device))
        self.model.train(was_training)
        return coarsest_NCHW.shape[1], [maps_NCHW.shape[1] for maps_NCHW in deep]


def _without_padding(maps_NCHW: torch.Tensor, inputs_NCHW: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
    """The part of maps that shows the images, which were padded below and on the right: to the nearest whole cell."""
    if inputs_NCHW.shape == images_NCHW.shape:
        return maps_NCHW
    sides = zip(maps_NCHW.shape[2:], images_NCHW.shape[2:], inputs_NCHW.shape[2:], strict=True)
    height, width = (max(1, round(side * shown / padded)) for side, shown, padded in sides)
    return maps_NCHW[:, :, :height, :width]


def deep_stages(model: nn.Module) -> list[nn.Module]:
    """The decoder's stages between the encoder and the finest one, coarse to fine; empty for other decoders.

    Of UNet++ these are the nodes of the deepest row of skips, each of which feeds the next finer one.
    """
    decoder = next((module.decoder for module in model.modules() if hasattr(module, "decoder")), None)
    blocks = decoder if isinstance(decoder, nn.ModuleList) else getattr(decoder, "blocks", None)
    if isinstance(blocks, nn.ModuleDict):
        blocks = [blocks[name] for name in sorted(blocks) if name.startswith("x_0_")]
    return list(blocks)[:-1] if isinstance(blocks, nn.ModuleList | list) else []


@contextmanager
def caught_calls(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """First argument and output of one call of each module, in the order of `modules`, filled as they are called.

    The hooks live no longer than the call, so that copies of a network, as for averaging, never carry them.
    """
    calls: list[Any] = [None] * len(modules)

    def hook(place: int) -> Any:
        def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            calls[place] = (arguments[0], output)

        return keep

    handles = [module.register_forward_hook(hook(place)) for place, module in enumerate(modules)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
