"""Probabilities as OME-TIFF files, written as they come: a row of tiles is held, never the map."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from histofold.schema.files import written_whole
from histofold.schema.preprocessing import has_pixel_size

TILE_SIDE = 512
FULL_SCALE = 255
"""Grey level of probability 1."""
PACKING = 1
"""Level of zlib: 6 takes eight times as long for a fifth less."""
_CLASSIC_BYTES = 4_000_000_000  # a TIFF of more needs the offsets of a BigTIFF


class ProbabilityFile:
    """The probabilities of an image as they come, from top to bottom.

    Tiles are compressed at once and kept in a file without a name, from which `write` makes the TIFF: its channels
    follow each other, and their rows come together.

    Args:
        path: The file to be.
        classes: Names of its channels.
        shape_hw: Height and width of the image.
        pixel_size_um: Its pixel size; None where that is unknown.
    """

    def __init__(
        self, path: Path, classes: tuple[str, ...], shape_hw: tuple[int, int], pixel_size_um: float | None
    ) -> None:
        self._path, self._classes, self._shape_hw, self._pixel_size_um = path, classes, shape_hw, pixel_size_um
        self._columns = -(-shape_hw[1] // TILE_SIDE)
        self._rows_KHW = np.zeros((len(classes), TILE_SIDE, self._columns * TILE_SIDE), np.uint8)
        self._filled, self._tile_rows = 0, 0
        self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  it lives as long as this object
        self._places: list[list[tuple[int, int]]] = [[] for _ in classes]
        self._digest = hashlib.sha256()

    def add(self, probs_KHW: np.ndarray) -> None:
        """Take the next rows, float32 (K, h, W)."""
        done, width = 0, self._shape_hw[1]
        while done < probs_KHW.shape[1]:
            count = min(probs_KHW.shape[1] - done, TILE_SIDE - self._filled)
            levels_KHW = np.rint(probs_KHW[:, done : done + count] * np.float32(FULL_SCALE))
            self._rows_KHW[:, self._filled : self._filled + count, :width] = levels_KHW
            self._filled, done = self._filled + count, done + count
            if self._filled == TILE_SIDE:
                self._pack()

    def _pack(self) -> None:
        """Compress the row of tiles that is held, and begin the next one."""
        for levels_HW, places in zip(self._rows_KHW, self._places, strict=True):
            for column in range(self._columns):
                tile_HW = levels_HW[:, column * TILE_SIDE : (column + 1) * TILE_SIDE].copy()
                tile_HW[:, 1:] -= tile_HW[:, :-1].copy()  # TIFF's horizontal predictor
                packed = zlib.compress(tile_HW.data, PACKING)
                places.append((self._spool.tell(), len(packed)))
                self._spool.write(packed)
                self._digest.update(packed)
        self._rows_KHW[:] = 0
        self._filled, self._tile_rows = 0, self._tile_rows + 1

    def write(self) -> None:
        """Write the file; rows that never came are 0."""
        while self._tile_rows < -(-self._shape_hw[0] // TILE_SIDE):
            self._pack()
        name = uuid.UUID(bytes=self._digest.digest()[:16])  # the same for the same probabilities
        metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(self._classes)}, "UUID": str(name)}
        resolution: dict[str, Any] = {}
        if has_pixel_size(self._pixel_size_um):
            side_um = float(self._pixel_size_um or 1)
            metadata |= {f"PhysicalSize{axis}": side_um for axis in "XY"}
            metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
            resolution = {"resolution": (1e4 / side_um, 1e4 / side_um), "resolutionunit": "CENTIMETER"}
        is_big = self._spool.tell() > _CLASSIC_BYTES
        with (
            written_whole(self._path) as temporary,
            tifffile.TiffWriter(temporary, bigtiff=is_big, ome=True) as writer,
        ):
            writer.write(
                self._packed_tiles(),
                shape=(len(self._classes), *self._shape_hw),
                dtype=np.uint8,
                tile=(TILE_SIDE, TILE_SIDE),
                photometric="minisblack",
                compression="zlib",
                predictor=True,
                metadata=metadata,
                **resolution,
            )
        self.close()

    def _packed_tiles(self) -> Iterator[bytes]:
        for places in self._places:
            for start, length in places:
                self._spool.seek(start)
                yield self._spool.read(length)

    def close(self) -> None:
        """Give the disk's room back; closing twice is harmless."""
        self._spool.close()
