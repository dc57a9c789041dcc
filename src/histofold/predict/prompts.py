"""Segment Anything asked by boxes and points that are given in the frame of the whole image, tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.tiles import Tile
from histofold.imaging.slide import Slide
from histofold.predict.image import forward_batch
from histofold.predict.objects.finds import find_in_tiles
from histofold.predict.objects.image import predict_objects
from histofold.predict.stages import Networks, Stage
from histofold.predict.tiled import PassesCall, TileBatch
from histofold.schema.preprocessing import Preprocessing


def segment_prompts(
    stages: Sequence[Stage], slide: Slide, pixel_size_um: float | None, prompts_MK: np.ndarray
) -> Detections:
    """What Segment Anything finds at boxes or points of a slide.

    A box is asked in every tile that answers for some of it, cut to what the tile sees, and what tiles found of one
    object is joined; a point in the tile that answers for it. Answers that are nearly one are one.

    Args:
        stages: Of one `Sam`, as `stages_of` gives them, in the view `identity`; its settings of prompts do not count.
        slide: The opened slide.
        pixel_size_um: Its pixel size; None (unknown) means the whole-image scale.
        prompts_MK: Boxes (M, 4) as (y0, x0, y1, x1), or points (M, 2) as (y, x), in pixels of the slide, counted from
            its corner: the middle of the first pixel is 0.5.

    Returns:
        Objects at the slide's size, their scores the IoU that the network expects.

    Raises:
        ValueError: If the prompts are neither boxes nor points.
    """
    asked = [scaled_prompts(prompts_MK, slide.shape_hw, pixel_size_um, slide.organ, stages[0].manifest.preprocessing)]
    return predict_objects(stages, slide, pixel_size_um, PromptedSlides(asked, finds_objects=True).run).raw


def scaled_prompts(
    prompts_MK: np.ndarray,
    shape_hw: tuple[int, int],
    pixel_size_um: float | None,
    organ: str,
    preprocessing: Preprocessing,
) -> np.ndarray:
    """Boxes or points of a slide at the scale of the network, float64.

    Raises:
        ValueError: If they are neither.
    """
    prompts_MK = np.asarray(prompts_MK, np.float64)
    if prompts_MK.ndim != 2 or prompts_MK.shape[1] not in (2, 4) or not np.isfinite(prompts_MK).all():
        rule = f"prompts of the shape {prompts_MK.shape}, or no finite numbers"
        raise ValueError(f"{rule}: give points (M, 2) as (y, x), or boxes (M, 4) as (y0, x0, y1, x1)")
    factors_2 = np.divide(preprocessing.scaled_hw(shape_hw, pixel_size_um, organ), shape_hw)
    return prompts_MK * np.tile(factors_2, prompts_MK.shape[1] // 2)


def tile_prompts(prompts_MK: np.ndarray, tile: Tile) -> np.ndarray:
    """Those boxes or points of an image that a tile is asked, in its own pixels.

    Points lie in its write region; boxes meet it, and are cut to what it sees.
    """
    lows_2 = np.array([span.start for span in tile.write])
    highs_2 = np.array([span.stop for span in tile.write])
    first_M2, last_M2 = prompts_MK[:, :2], prompts_MK[:, -2:]
    if prompts_MK.shape[1] == 2:
        chosen_M = ((first_M2 >= lows_2) & (first_M2 < highs_2)).all(axis=1)
    else:
        chosen_M = ((last_M2 > lows_2) & (first_M2 < highs_2)).all(axis=1)
    seen_22 = np.array([[span.start, span.stop] for span in tile.read], np.float64).T
    repeats = prompts_MK.shape[1] // 2
    cut_MK = np.clip(prompts_MK[chosen_M], *(np.tile(corner, repeats) for corner in seen_22))
    return cut_MK + np.tile([inner.start for inner in tile.inner] - seen_22[0], repeats)


class PromptedSlides:
    """Takes batches through a `Sam` that is asked of each slide its own prompts; slides come one after another.

    `forward` is a `StageForward` and `run` a `BatchRunner`.

    Args:
        prompts: Of each slide in its turn, at the network's scale.
        finds_objects: What is wanted of the network.
    """

    def __init__(self, prompts: Iterable[np.ndarray], finds_objects: bool = False) -> None:
        self._prompts, self._finds_objects = iter(prompts), finds_objects
        self._of_slide_MK = np.zeros((0, 2))

    def forward(self, stage: Stage, networks: Networks, batch: TileBatch) -> np.ndarray:
        """Values of a batch, as `forward_batch`."""
        return forward_batch(stage, self._asked(networks, batch), batch)

    def run(self, stage: Stage, networks: Networks, batch: TileBatch, call: PassesCall[Any]) -> Any:
        """Finds of a batch, as `run_batch` gives them with `find_in_tiles`, whatever `call` would do."""
        asked = self._asked(networks, batch)
        return find_in_tiles(asked, batch.images, stage.passes, stage.manifest) if batch.places else None

    def _asked(self, networks: Networks, batch: TileBatch) -> Networks:
        """The networks with the prompts of a batch; a slide begins with its first tile."""
        if batch.tiles[0].index == (0, 0):
            self._of_slide_MK = next(self._prompts)
        prompts = [tile_prompts(self._of_slide_MK, batch.tiles[place]) for place in batch.places]
        sam: Any = partial(networks.models[0], prompts=prompts, finds_objects=self._finds_objects)
        return replace(networks, models=[sam])


def truth_prompts(objects: Objects, kind: str) -> np.ndarray:
    """What tells a network where true objects are.

    Args:
        objects: The objects, each of one pixel or more.
        kind: `truth_boxes`: the box of each, (M, 4); `truth_points`: the middle of its longest run, (M, 2).
    """
    if kind == "truth_boxes":
        return objects.boxes.astype(np.float64)
    points = []
    for runs in objects:
        longest = runs.lengths.argmax()
        column, row = divmod(int(runs.starts[longest]), objects.shape_hw[0])
        points.append((row + runs.lengths[longest] / 2, column + 0.5))
    return np.array(points, np.float64).reshape(-1, 2)
