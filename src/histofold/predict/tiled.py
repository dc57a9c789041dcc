"""Tiles through a network and back: reading, forward passes and joining as a pipeline, its memory one tile row high.

One thread reads ahead into a few buffers that are used again and again. On the CPU the network runs where it is called;
on GPUs each copy of it has a thread, fed in turn, their results taken in order, so that joining and encoding take their
place beside the next passes.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from histofold.core.tiles import Tile, TileGrid
from histofold.predict.blend import BlendedRows, CutRows
from histofold.predict.threads import map_here, map_in_order, read_ahead

# uint8 tiles NHWC -> float32 values NKHW
Forward = Callable[[np.ndarray], np.ndarray]
READ_AHEAD = 2  # batches
BLANK_LEVEL = 200  # bare glass: no pixel of a tile is darker in any channel
LONGEST_RUN = 256  # tiles that are held at most, blank ones included
FLAT_RANGE = 2  # scanner fill: grey levels of a tile differ by no more than this


class RegionReader(Protocol):
    """What tiles are read from: an image of a known size that gives uint8 regions (h, w, 3)."""

    @property
    def shape_hw(self) -> tuple[int, int]: ...  # noqa: D102

    def read(self, y: slice, x: slice) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class BlankTiles:
    """What stands for tiles that the network need not see.

    Attributes:
        classes: Channels of the network.
        value: Its value for a blank tile: probability 0, or a logit that means it.
    """

    classes: int
    value: float


def read_tile(reader: RegionReader, tile: Tile) -> np.ndarray:
    """Read a tile as uint8 (size, size, 3); images smaller than a tile are reflected on both sides."""
    image_HWC = reader.read(*tile.read)
    if tile.pad == ((0, 0), (0, 0)):
        return image_HWC
    return np.pad(image_HWC, (*tile.pad, (0, 0)), mode="reflect")


def is_blank_tile(tile_HWC: np.ndarray) -> bool:
    """Whether a tile shows nothing: all of it bare glass (almost white), or one colour (a scanner's fill).

    Args:
        tile_HWC: uint8 (h, w, 3).
    """
    if tile_HWC.min() >= BLANK_LEVEL:
        return True
    flat_PC = tile_HWC.reshape(-1, tile_HWC.shape[2])
    return bool((flat_PC.max(axis=0) - flat_PC.min(axis=0)).max() <= FLAT_RANGE)


@dataclass(frozen=True)
class _Batch:
    """Tiles in reading order, the places of those among them that go through the network, and these as uint8 NHWC."""

    tiles: list[Tile]
    places: list[int]
    images: np.ndarray


def predict_bands(
    forward: Forward,
    reader: RegionReader,
    grid: TileGrid,
    batch: int,
    blend: bool = False,
    blank: BlankTiles | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict an image tile by tile and give its values as consecutive row bands.

    Batches never span images; only the last one of an image may be smaller.

    Args:
        forward: The network; where it has `replicas`, itself on each of some devices, all of them work.
        reader: The image at the network's scale.
        grid: Its tiles.
        batch: Tiles of a forward pass.
        blend: Average overlapping tiles by a smooth weight; else each pixel comes from the one tile that writes it.
        blank: Leave blank tiles out, and what stands for them.

    Yields:
        (y, values_KhW): the first row of the band and its float32 values over the whole width, valid until the next
        band is asked for. The bands partition the image from top to bottom.
    """
    replicas: Sequence[Forward] = getattr(forward, "replicas", ())
    buffers = TileBuffers(batch, grid.size, READ_AHEAD + 3 + len(replicas))
    works = [_forward_of(replica) for replica in replicas]
    batches = read_ahead(_read_batches(reader, grid, batch, buffers, blank is not None), READ_AHEAD)
    joined: CutRows | BlendedRows = BlendedRows(grid) if blend else CutRows(grid)
    results = map_in_order(works, batches) if works else map_here(_forward_of(forward), batches)
    try:
        note_blank = getattr(forward, "note_blank", None)
        for done, values_NKHW in results:
            if note_blank is not None and len(done.tiles) > len(done.places):
                note_blank(len(done.tiles) - len(done.places), grid.size)
            values = dict(zip(done.places, values_NKHW, strict=True))
            for place, tile in enumerate(done.tiles):
                values_KHW = values[place] if place in values else _blank_values(blank, grid.size)
                yield from joined.add(tile, values_KHW)
            buffers.give_back(done.images)
        yield from joined.finish()
    finally:
        results.close()
        batches.close()


def _forward_of(forward: Forward) -> Callable[[_Batch], np.ndarray]:
    return lambda batch: forward(batch.images) if batch.places else np.empty((0, 0, 0, 0), np.float32)


def _blank_values(blank: BlankTiles | None, size: int) -> np.ndarray:
    assert blank is not None
    return np.full((blank.classes, size, size), blank.value, np.float32)


class TileBuffers:
    """Buffers for batches of tiles, used again and again: fresh memory costs more than filling it.

    Args:
        batch: Tiles of a buffer.
        size: Side of a tile.
        count: Buffers that may be out at once.
    """

    def __init__(self, batch: int, size: int, count: int) -> None:
        self._shape = batch, size, size, 3
        self._free: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self) -> np.ndarray:
        """A buffer, uint8 (batch, size, size, 3); waits until one is free."""
        buffer_NHWC = self._free.get()
        return np.empty(self._shape, np.uint8) if buffer_NHWC is None else buffer_NHWC

    def give_back(self, images_NHWC: np.ndarray) -> None:
        """Free the buffer that some images are the first of."""
        self._free.put(images_NHWC.base if images_NHWC.base is not None else images_NHWC)


def _read_batches(
    reader: RegionReader, grid: TileGrid, batch: int, buffers: TileBuffers, skip_blank: bool
) -> Iterator[_Batch]:
    """The tiles of an image in batches of those that go through the network."""
    tiles: list[Tile] = []
    places: list[int] = []
    buffer_NHWC = buffers.take()
    for tile in grid:
        image_HWC = read_tile(reader, tile)
        tiles.append(tile)
        if not (skip_blank and is_blank_tile(image_HWC)):
            buffer_NHWC[len(places)] = image_HWC
            places.append(len(tiles) - 1)
        if len(places) == batch or len(tiles) == LONGEST_RUN:
            yield _Batch(tiles, places, buffer_NHWC[: len(places)])
            tiles, places, buffer_NHWC = [], [], buffers.take()
    if tiles:
        yield _Batch(tiles, places, buffer_NHWC[: len(places)])
