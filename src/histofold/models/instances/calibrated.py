"""Scores of a detector as chances of a hit, so that detectors of different kinds can be ranked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from histofold.models.shells import Shell


class Calibrated(Shell):
    """A detector whose scores s become sigmoid(slope * logit(s) + offset): Platt's scaling (1999), of what is found.

    Args:
        net: A detector, to predict with.
        line: The slope, which is positive, and the offset.
    """

    def __init__(self, net: nn.Module, line: Sequence[float]) -> None:
        super().__init__(net)
        self.slope, self.offset = line

    def forward(self, images_NCHW: torch.Tensor) -> Any:
        """A `TileFinds` an image."""
        return [
            replace(finds, scores_M=(self.slope * finds.scores_M.logit(1e-6) + self.offset).sigmoid())
            for finds in self.net(images_NCHW)
        ]

    def masks_in(self, images_NCHW: torch.Tensor, boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The detector's masks in boxes that others have found."""
        return self.net.masks_in(images_NCHW, boxes)  # type: ignore[operator]
