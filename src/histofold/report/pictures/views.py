"""A contact sheet of what the network is shown: tiles as they were cut, and draws of their augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import cv2
import numpy as np
import pandas as pd
import torch

from histofold.data.tiles.files import middle_channels
from histofold.data.tiles.labels import IGNORED_LABEL, separate_objects
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.predict.views import normalise_tiles
from histofold.report.pictures.overlays import contact_sheet, draw_overlay, fit_image
from histofold.schema.preprocessing import Preprocessing

_GREY, _HATCH = 150, 90
_SPREAD_SEED = 0
# Normalised by its own moments, a tile has no scale of its own: 2.5 standard deviations to either side are shown.
_OWN_MOMENTS_MEAN, _OWN_MOMENTS_STD = 0.5, 0.2


class TileSource(Protocol):
    """What gives tiles and their draws, as the training's dataset does."""

    def read(self, tile: int) -> tuple[np.ndarray, np.ndarray]:
        """A tile as it was cut: image uint8 HWC and mask uint8 HW of bits, or uint16 labels of objects."""

    def __getitem__(self, draw: tuple[int, int, int]) -> dict[str, Any]:
        """An example of (tile, epoch, position): tensors `image`, `mask` or `labels`, `organ` and `log_zoom`."""


def spread_tiles(index: pd.DataFrame, count: int = 5) -> list[int]:
    """Tiles that show as many organs as they can, those with structures first; the same ones at every call.

    Args:
        index: Tiles with the columns bin and organ.
        count: Of tiles, at most.

    Returns:
        Their places in the index.
    """
    order = np.random.default_rng(_SPREAD_SEED).permutation(len(index))
    shuffled = pd.DataFrame({"empty": index["bin"].to_numpy() == "none", "organ": index["organ"].to_numpy()}).iloc[
        order
    ]
    shuffled["turn"] = shuffled.groupby(["empty", "organ"]).cumcount()
    return shuffled.sort_values(["empty", "turn", "organ"], kind="stable").index[:count].tolist()


def draw_view_sheet(
    tiles: TileSource,
    chosen: Sequence[int],
    preprocessing: Preprocessing,
    organs: Sequence[str] = (),
    *,
    draws: int = 5,
    cell: int = 224,
) -> np.ndarray:
    """Draw a row for each tile: as it was cut, then as the network is shown it, structures outlined.

    Draws are normalised as the network's input is, and mapped back to grey levels. Pixels that the loss leaves out are
    greyed and hatched. Titles hold the organ and the pixel size shown over the tile's own.

    Args:
        tiles: The training's tiles.
        chosen: Which of them.
        preprocessing: How the network's input is normalised.
        organs: Names of the organs by their places.
        draws: Columns beside the first.
        cell: Side of a picture in pixels.

    Returns:
        RGB sheet, uint8, (h, w, 3).
    """
    pictures, titles = [], []
    for row, tile in enumerate(chosen):
        pictures.append(_outlined(*tiles.read(tile), cell))
        titles.append("as cut")
        for column in range(draws):
            example = tiles[tile, 0, row * draws + column]
            image_HWC = network_picture(example["image"].numpy(), preprocessing)
            shown = example["mask"] if "mask" in example else example["labels"]
            pictures.append(_outlined(image_HWC, shown.numpy(), cell))
            place, ratio = int(example["organ"]), math.exp(float(example["log_zoom"]))
            organ = organs[place] if 0 <= place < len(organs) else "organ unknown"
            titles.append(f"{organ}, pixel ×{ratio:.2f}")
    return contact_sheet(pictures, titles, 1 + draws, cell)


def network_picture(image_HWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The network's input as a picture: normalised, and mapped back by constants that depend on no tile.

    Args:
        image_HWC: RGB uint8 tile, (H, W, 3), or of more slices, of which the three in the middle are shown.
        preprocessing: How it is normalised. Of `none`, `imagenet` and `dataset` the picture is the tile itself; of
            `per_image` it lacks the tile's own colour and contrast, as the input does.

    Returns:
        RGB uint8, (H, W, 3).
    """
    tiles_NCHW = torch.from_numpy(middle_channels(image_HWC))[None].permute(0, 3, 1, 2)
    values_HWC = normalise_tiles(tiles_NCHW, replace(preprocessing, slices=3))[0].permute(1, 2, 0).numpy()
    if preprocessing.normalise == "per_image":
        values_HWC = values_HWC * _OWN_MOMENTS_STD + _OWN_MOMENTS_MEAN
    elif preprocessing.normalise != "none":
        values_HWC = values_HWC * np.asarray(preprocessing.std, np.float32) + np.asarray(preprocessing.mean, np.float32)
    return np.rint(np.clip(values_HWC * 255, 0, 255)).astype(np.uint8)


def _outlined(image_HWC: np.ndarray, mask_HW: np.ndarray, side: int) -> np.ndarray:
    """A picture of at most `side` pixels: each class or object outlined, what is ignored greyed and hatched."""
    picture_HWC = fit_image(middle_channels(image_HWC), side)
    if mask_HW.dtype == np.uint8:
        present = int(np.bitwise_or.reduce(mask_HW, axis=None))
        masks = {bit: _fitted(mask_HW >> bit & 1, picture_HWC.shape) for bit in range(8) if present >> bit & 1}
        ignored_HW = masks.pop(IGNORED_BIT.bit_length() - 1, None)
    else:
        labels_HW = mask_HW.astype(np.uint16)
        masks = {0: _fitted(separate_objects(labels_HW).view(np.uint8), picture_HWC.shape)}
        ignored_HW = _fitted((labels_HW == IGNORED_LABEL).view(np.uint8), picture_HWC.shape)
    if ignored_HW is not None:
        rows, columns = np.nonzero(ignored_HW)
        greyed = picture_HWC[rows, columns] // 3 + 2 * _GREY // 3
        greyed[(rows + columns) % 8 < 2] = _HATCH
        picture_HWC[rows, columns] = greyed
    for shown_HW in masks.values():
        picture_HWC = draw_overlay(picture_HWC, shown_HW, None, max_side=side)
    return picture_HWC


def _fitted(mask_HW: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at the size of a picture: every pixel that holds some of it, so that nothing small is lost."""
    shares_HW = cv2.resize(mask_HW * np.uint8(255), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(shares_HW > 0)
