"""The files of a tile: its image as an uncompressed BMP, its mask as a PNG of one or eight bits, its labels of sixteen.

Chosen by measurement (docs/benchmarks.md): an uncompressed tile is read about thirty times faster than a PNG, which
takes longer to decode than the augmentation of a 256 pixel piece of it, and fifteen times faster than lossless WebP. It
takes 1.4 to 1.9 times the disk of these. Any picture viewer opens both files. Masks compress to nothing in either.
Of slices of a volume that are more than three channels the BMP is grey, and shows them one below the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from histofold.core.faults import Fault, InputError
from histofold.data.tiles.masks import IGNORED_BIT
from histofold.schema.files import written_whole
from histofold.schema.sample import id_file_name

IMAGE_SUFFIX, MASK_SUFFIX = ".bmp", ".png"
TILE_FOLDERS = ("images", "masks")
REBUILD = "build the dataset anew: tiles that are whole are kept"
_BMP_START = struct.Struct("<2sI")  # magic and length of the file
_PNG_END = b"IEND\xaeB`\x82"


def tile_paths(folder: Path, tile_id: str) -> tuple[Path, Path]:
    """Image and mask of a tile."""
    name = id_file_name(tile_id)
    return folder / "images" / f"{name}{IMAGE_SUFFIX}", folder / "masks" / f"{name}{MASK_SUFFIX}"


def write_tile(
    folder: Path, tile_id: str, image_HWC: np.ndarray, mask_HW: np.ndarray, classes: int, soft: bool = False
) -> None:
    """Write a tile; the slide's part file is what says that it is whole, so nothing is synced here.

    Args:
        folder: The dataset.
        tile_id: Id of the tile.
        image_HWC: uint8 (H, W, 3), RGB; or more channels.
        mask_HW: uint8 (H, W), bit k for class k, `IGNORED_BIT` for pixels that do not count; or uint16, labels of
            objects.
        classes: Number of classes; the mask of a single one is black and white, and grey where it does not count.
        soft: Whether the mask holds probabilities of a single class instead, 255 for certain, and `IGNORED_BIT`.
    """
    image_path, mask_path = tile_paths(folder, tile_id)
    is_colour = image_HWC.shape[2] == 3
    picture = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR) if is_colour else np.concatenate(cv2.split(image_HWC))
    _write_picture(image_path, picture, [])
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if soft:
        _write_picture(mask_path, mask_HW, options)
    elif classes == 1 and mask_HW.dtype == np.uint8 and not (mask_HW & IGNORED_BIT).any():
        _write_picture(mask_path, mask_HW * np.uint8(255), [*options, cv2.IMWRITE_PNG_BILEVEL, 1])
    elif classes == 1 and mask_HW.dtype == np.uint8:
        _write_picture(mask_path, np.where(mask_HW >= IGNORED_BIT, IGNORED_BIT, mask_HW * np.uint8(255)), options)
    else:
        _write_picture(mask_path, mask_HW, [*options, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def _write_picture(path: Path, picture: np.ndarray, options: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, picture, options)
    assert done, path
    with written_whole(path) as temporary:  # a new file: the old one may be shared with another dataset as a hard link
        temporary.write_bytes(data.data)


def read_tile(folder: Path, tile_id: str, classes: int = 1, level: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Read a tile.

    Args:
        folder: The dataset.
        tile_id: Id of the tile.
        classes: Number of classes.
        level: What a pixel of a soft mask must reach to be mask, 1 to 255; others are the same at every level.

    Returns:
        Image uint8 (H, W, 3), RGB, or of more channels, and mask uint8 (H, W): 0, 1 and `IGNORED_BIT` for one class,
        else its bits; of objects their labels, uint16.

    Raises:
        InputError: If a file of the tile is missing or cannot be decoded.
    """
    image_path, mask_path = tile_paths(folder, tile_id)
    picture = cv2.imread(str(image_path), cv2.IMREAD_UNCHANGED)
    mask_HW = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if picture is None or mask_HW is None:
        path = image_path if picture is None else mask_path
        raise InputError([Fault(tile_id, str(path), "the file of a tile is missing or cut short", REBUILD)])
    if classes == 1 and mask_HW.dtype == np.uint8:
        mask_HW = cv2.LUT(mask_HW, _one_class_bits(level))
    if picture.ndim == 2:
        return cv2.merge(list(picture.reshape(-1, *mask_HW.shape))), mask_HW
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), mask_HW


def middle_channels(image_HWC: np.ndarray, count: int = 3) -> np.ndarray:
    """So many channels in the middle, (H, W, count): a picture of three is what is shown of more of them."""
    beside = (image_HWC.shape[2] - count) // 2
    return np.ascontiguousarray(image_HWC[..., beside : beside + count])


@cache
def _one_class_bits(level: int) -> np.ndarray:
    """The bits of each value of a mask file of one class."""
    bits = (np.arange(256) >= level).astype(np.uint8)
    bits[IGNORED_BIT] = IGNORED_BIT
    return bits


def reflected(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture, (H, W) or (H, W, C), reflected at its borders to `side` pixels along each axis that has fewer."""
    missing, across = (max(0, side - length) for length in picture.shape[:2])
    if not missing and not across:
        return picture
    top, left = missing // 2, across // 2
    return cv2.copyMakeBorder(picture, top, missing - top, left, across - left, cv2.BORDER_REFLECT_101)


def has_tile(folder: Path, tile_id: str) -> bool:
    """Whether both files of a tile are there, none of them cut short."""
    image_path, mask_path = tile_paths(folder, tile_id)
    try:
        with mask_path.open("rb") as stream:
            stream.seek(-len(_PNG_END), os.SEEK_END)
            is_whole = stream.read() == _PNG_END
        with image_path.open("rb") as stream:  # which says how long it is
            _, stated = _BMP_START.unpack(stream.read(_BMP_START.size))
        return is_whole and image_path.stat().st_size == stated
    except (OSError, struct.error):
        return False


def refuse_cut_tiles(tiles: Iterable[tuple[str, str]]) -> None:
    """Refuse tiles that are missing or cut short before a run has begun that would meet them in its midst.

    Args:
        tiles: Folder and id of each.

    Raises:
        InputError: With the first of them, and how many there are.
    """
    broken = [(folder, tile) for folder, tile in tiles if not has_tile(Path(folder), tile)]
    if broken:
        rule = f"{len(broken)} tiles are missing or cut short, the first is {broken[0][1]}"
        raise InputError([Fault("tiles", broken[0][0], rule, REBUILD)])


def remove_tile(folder: Path, tile_id: str) -> None:
    """Remove what is there of a tile."""
    for path in tile_paths(folder, tile_id):
        path.unlink(missing_ok=True)
