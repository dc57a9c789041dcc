"""Objects from detectors: of each tile what all passes found, fused; tiles joined; stages fused at the slide's size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.fusion import fuse_masks, mask_nms
from histofold.core.objects.instances import Objects, join_objects
from histofold.core.objects.paste import paste_masks
from histofold.core.objects.resize import resize_objects
from histofold.core.objects.seams import TileObjects, merge_tiles
from histofold.core.tiles import Tile
from histofold.imaging.slide import Slide
from histofold.imaging.stain import network_view
from histofold.predict.objects.finds import PassFinds, find_in_tiles
from histofold.predict.objects.run import BatchRunner
from histofold.predict.stages import OutOfTimeError, Stage
from histofold.predict.tiled import BlankTiles, TileBatch, Tiling, grid_of, predict_batches
from histofold.schema.objects import ObjectConfig


def detect(
    stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None, config: ObjectConfig, run: BatchRunner
) -> tuple[Detections, int]:
    """What detectors find in a slide, fused, and the rows of the slide that they saw: time may run out.

    A later stage that time does not suffice for is left out.

    Raises:
        OutOfTimeError: If time ran out before the first tile was done.
    """
    parts: list[Detections] = []
    rows_done = 0
    for stage in stages:
        try:
            found, share = _stage_detections(stage, slide, pixel_size_um, config, run)
        except OutOfTimeError:
            if not parts:
                raise
            break
        if share == 1 or not parts:
            parts.append(found)
            rows_done = round(share * slide.shape_hw[0])
        if share < 1:
            break
    return fuse(parts, [stage.share for stage in stages[: len(parts)]], config), rows_done


def _stage_detections(
    stage: Stage, slide: Slide, pixel_size_um: float | None, config: ObjectConfig, run: BatchRunner
) -> tuple[Detections, float]:
    """What a stage finds, at the slide's size, and the share of the rows that it saw."""
    manifest = stage.manifest
    scaled = network_view(slide, manifest.preprocessing, pixel_size_um)
    grid = grid_of(manifest, scaled.shape_hw)
    tiling = Tiling(grid, manifest.batch, blank=BlankTiles(1, 0.0) if manifest.skip_blank else None)

    def forward(networks_place: int, batch: TileBatch) -> list[list[PassFinds]] | None:
        networks = stage.networks[networks_place]
        return run(stage, networks, batch, partial(find_in_tiles, networks))

    forwards = [partial(forward, place) for place in range(len(stage.networks))]
    tiles: list[TileObjects] = []
    seen, rows = 0, 0
    results = predict_batches(forwards, scaled, tiling, stage.threaded)
    try:
        for batch, of_tiles in results:
            seen, rows = seen + len(batch.tiles), batch.tiles[-1].write[0].start
            for place, found in zip(batch.places, of_tiles or [], strict=True):
                tiles.append(tile_objects(batch.tiles[place], found, config))
    except OutOfTimeError:
        if seen == 0:
            raise
    finally:
        results.close()
    merged = merge_tiles(tiles, scaled.shape_hw, config.merge_iou)
    found_here = Detections(resize_objects(merged[0], slide.shape_hw), merged[1])
    share = 1.0 if seen == len(grid) else rows / scaled.shape_hw[0]
    return found_here.select(found_here.objects.areas > 0), share


def tile_objects(tile: Tile, found: Sequence[PassFinds], config: ObjectConfig) -> TileObjects:
    """The objects of a tile that it answers for: those that reach into its write region, seen in full.

    Args:
        tile: The tile.
        found: What each pass found in it.
        config: Says how passes are fused, and what is one object.
    """
    parts = []
    for finds in found:
        objects = _pasted(tile, finds, config.mask_threshold)
        part = Detections(objects, finds.scores)
        part = part.select(_answered_for(tile, objects))
        parts.append(part.select(mask_nms(part.objects, part.scores, config.nms_iou)))
    fused = fuse(parts, [finds.weight for finds in found], config)
    return TileObjects(fused.objects, fused.scores, (tile.read[0].start, tile.read[1].start))


def _pasted(tile: Tile, finds: PassFinds, threshold: float) -> Objects:
    """The masks of a pass as objects of the pixels that the tile has of the image, exact at their centres."""
    corner = np.array([tile.inner[0].start, tile.inner[1].start] * 2, np.float32)
    shape_hw = (tile.read[0].stop - tile.read[0].start, tile.read[1].stop - tile.read[1].start)
    return paste_masks(finds.boxes - corner, finds.masks, shape_hw, threshold, framed=False)


def _answered_for(tile: Tile, objects: Objects) -> np.ndarray:
    """Whether each object has a box that meets the tile's write region, bool (M,)."""
    (y, x), boxes_M4 = tile.write, objects.boxes
    top, left = tile.read[0].start, tile.read[1].start
    reaches_M = (boxes_M4[:, 2] + top > y.start) & (boxes_M4[:, 0] + top < y.stop)
    reaches_M &= (boxes_M4[:, 3] + left > x.start) & (boxes_M4[:, 1] + left < x.stop)
    return np.asarray(reaches_M & (objects.areas > 0))


def fuse(parts: Sequence[Detections], weights: Sequence[float], config: ObjectConfig) -> Detections:
    """Detections of several passes or stages as one list; of a single one they stay as they are."""
    if len(parts) == 1:
        return parts[0]
    if config.fusion == "nms":
        scores = [part.scores * (weight / max(weights)) for part, weight in zip(parts, weights, strict=True)]
        joined = Detections(join_objects([part.objects for part in parts]), np.concatenate(scores))
        return joined.select(mask_nms(joined.objects, joined.scores, config.fusion_iou))
    return Detections(*fuse_masks([(part.objects, part.scores) for part in parts], weights, config.fusion_iou))
