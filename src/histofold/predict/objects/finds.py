"""What detectors find in a batch of tiles: every pass of a stage, its view undone, its boxes fused where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from histofold.core.log import logger
from histofold.core.objects.fusion import weighted_boxes_fusion
from histofold.models.instances.finds import TileFinds
from histofold.predict.devices import device_lock
from histofold.predict.stages import Networks, Pass
from histofold.predict.views import SQUARE_VIEWS, network_input
from histofold.schema.manifest import Manifest
from histofold.schema.objects import ObjectConfig
from histofold.schema.prediction import parse_view


@dataclass(frozen=True, eq=False)
class PassFinds:
    """What one pass found in one tile."""

    boxes: np.ndarray
    """(M, 4): (y0, x0, y1, x1) in pixels of the tile, float32."""
    scores: np.ndarray
    """(M,): scores, float32, above 0."""
    masks: np.ndarray
    """(M, h, w): probabilities spread over each box, float32."""
    weight: float
    """Weight of the pass among those of its tile."""

    def is_finite(self) -> bool:
        """Whether all of it are numbers."""
        return all(np.isfinite(part).all() for part in (self.boxes, self.scores, self.masks))


def find_in_tiles(
    networks: Networks, images_NHWC: np.ndarray, passes: Sequence[Pass], manifest: Manifest
) -> list[list[PassFinds]]:
    """Find objects in tiles.

    Args:
        networks: Detectors.
        images_NHWC: uint8 RGB tiles, their sides divisible by 32.
        passes: Members and views.
        manifest: Says how tiles are normalised, and how what the passes found is fused.

    Returns:
        For each tile what each pass found; where boxes are fused, one in place of all.

    Raises:
        ArithmeticError: If the result is not finite, even in full precision.
    """
    found = _found(networks, images_NHWC, passes, manifest, networks.precision)
    if not _is_finite(found) and networks.precision is not torch.float32:
        logger.warning("%s overflowed: the tiles are computed again in full precision", networks.precision)
        found = _found(networks, images_NHWC, passes, manifest, torch.float32)
    if not _is_finite(found):
        raise ArithmeticError("the network gives boxes or masks that are not numbers: its weights are broken")
    return found


def _is_finite(found: Sequence[Sequence[PassFinds]]) -> bool:
    return all(finds.is_finite() for of_tile in found for finds in of_tile)


def _found(
    networks: Networks, images_NHWC: np.ndarray, passes: Sequence[Pass], manifest: Manifest, precision: torch.dtype
) -> list[list[PassFinds]]:
    config = manifest.objects or ObjectConfig()
    of_tiles: list[list[PassFinds]] = [[] for _ in images_NHWC]
    shape_hw = (images_NHWC.shape[1], images_NHWC.shape[2])
    with device_lock(networks.device), torch.inference_mode():
        tiles_NCHW = networks.on_device(images_NHWC)
        for one, of_pass in networks.outputs(tiles_NCHW, passes, manifest, precision):
            for of_tile, finds in zip(of_tiles, of_pass, strict=True):
                of_tile.append(_on_cpu(undo_finds(finds, one.view, shape_hw), one.weight))
        if config.fusion != "boxes" or len(passes) == 1 or not _is_finite(of_tiles):
            return of_tiles
        fused = [_fused_boxes(of_tile, config) for of_tile in of_tiles]
        boxes = [torch.from_numpy(boxes_M4).to(networks.device) for boxes_M4, _ in fused]
        inputs_NCHW = network_input(tiles_NCHW, "identity", manifest.preprocessing)
        with torch.autocast(networks.device.type, precision, enabled=precision is not torch.float32):
            masks = networks.models[passes[0].member].masks_in(inputs_NCHW, boxes)  # type: ignore[operator]
    return [[PassFinds(*boxes_scores, _array(each), 1.0)] for boxes_scores, each in zip(fused, masks, strict=True)]


def _fused_boxes(of_tile: Sequence[PassFinds], config: ObjectConfig) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of all passes as one list, float32, and their scores, best first."""
    boxes_M4, scores_M = weighted_boxes_fusion(
        [finds.boxes for finds in of_tile],
        [finds.scores for finds in of_tile],
        [finds.weight for finds in of_tile],
        config.fusion_iou,
    )
    return boxes_M4[: config.max_objects].astype(np.float32), scores_M[: config.max_objects].astype(np.float32)


def undo_finds(finds: TileFinds, view: str, shape_hw: tuple[int, int]) -> TileFinds:
    """What was found in a tile that a view has turned, as found in the tile itself; boxes and masks move exactly.

    Args:
        finds: Found in the turned tile.
        view: Name of the view.
        shape_hw: Height and width of the tile itself.
    """
    transposed, flips = SQUARE_VIEWS[parse_view(view).square]
    height, width = shape_hw[::-1] if transposed else shape_hw
    boxes_M4, masks_Mhw = finds.boxes_M4, finds.masks_Mhw
    y0_M, x0_M, y1_M, x1_M = boxes_M4.unbind(1)
    if 2 in flips:
        y0_M, y1_M = height - y1_M, height - y0_M
    if 3 in flips:
        x0_M, x1_M = width - x1_M, width - x0_M
    masks_Mhw = masks_Mhw.flip([axis - 1 for axis in flips])
    if transposed:
        return TileFinds(torch.stack([x0_M, y0_M, x1_M, y1_M], 1), finds.scores_M, masks_Mhw.transpose(1, 2))
    return TileFinds(torch.stack([y0_M, x0_M, y1_M, x1_M], 1), finds.scores_M, masks_Mhw)


def _on_cpu(finds: TileFinds, weight: float) -> PassFinds:
    """Finds with a score above 0 as arrays."""
    kept = ~(finds.scores_M <= 0)  # what is not a number stays, and is reported
    boxes_M4, scores_M, masks_Mhw = (_array(part[kept]) for part in (finds.boxes_M4, finds.scores_M, finds.masks_Mhw))
    return PassFinds(boxes_M4, scores_M, masks_Mhw, weight)


def _array(part: torch.Tensor) -> np.ndarray:
    return part.float().cpu().numpy()
