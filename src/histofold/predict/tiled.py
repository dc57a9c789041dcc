"""Tiles through a network and back: reading, forward passes and joining as a pipeline, its memory one tile row high.

One thread reads ahead into a few buffers that are used again and again. On the CPU the network runs where it is called;
on GPUs each copy of it has a thread, fed in turn, their results taken in order, so that joining and encoding take their
place beside the next passes.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from histofold.core.threads import map_here, map_in_order, read_ahead
from histofold.core.tiles import Tile, TileGrid
from histofold.predict.canvas import Canvas, normalised_weights
from histofold.predict.stages import Pass
from histofold.schema.manifest import Manifest
from histofold.schema.prediction import NETWORK_MULTIPLE

READ_AHEAD = 2  # batches
BLANK_LEVEL = 200  # bare glass: no pixel of a tile is darker in any channel
LONGEST_RUN = 256  # tiles that are held at most, blank ones included
FLAT_RANGE = 2  # scanner fill: grey levels of a tile differ by no more than this


class RegionReader(Protocol):
    """What tiles are read from: an image of a known size that gives uint8 regions (h, w, C)."""

    @property
    def shape_hw(self) -> tuple[int, int]: ...  # noqa: D102

    def read(self, y: slice, x: slice) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class BlankTiles:
    """What stands for tiles that the network need not see."""

    classes: int
    """Channels of the network."""
    value: float
    """Its value for a blank tile: probability 0, or a logit that means it."""


@dataclass(frozen=True)
class Tiling:
    """How an image goes through a network and what becomes of its tiles."""

    grid: TileGrid
    """The tiles of the image at the network's scale."""
    batch: int
    """Tiles of a forward pass."""
    blend: bool = False
    """Average overlapping tiles by a smooth weight; else each pixel comes from the one tile that writes it."""
    blank: BlankTiles | None = None
    """Leave blank tiles out, and what stands for them."""
    channels: int = 3
    """Channels of a tile."""


@dataclass(frozen=True)
class TileBatch:
    """Tiles in reading order, and those among them that go through the network."""

    tiles: list[Tile]
    """All of them."""
    places: list[int]
    """Places of those that are not blank."""
    images: np.ndarray
    """These as uint8 NHWC; there may be none."""

    def values(self, values_NKHW: np.ndarray, blank: BlankTiles | None) -> Iterator[tuple[Tile, np.ndarray]]:
        """Each tile with its values (K, H, W): the network's, or those of a blank tile."""
        by_place = dict(zip(self.places, values_NKHW, strict=True))
        for place, tile in enumerate(self.tiles):
            if place in by_place:
                yield tile, by_place[place]
            elif blank is not None:
                yield tile, np.full((blank.classes, *self.images.shape[1:3]), blank.value, np.float32)


Answer = TypeVar("Answer")
Forward = Callable[[TileBatch], np.ndarray]
"""The images of a batch, of which there may be none, to float32 values NKHW."""
PassesCall = Callable[[np.ndarray, Sequence[Pass], Manifest], Answer]
"""Takes tiles, uint8 NHWC, through passes of a stage; `Networks` averages them."""


def dense_values(values_NKHW: np.ndarray | None) -> np.ndarray:
    """Values of a batch, none where no tile went through the network."""
    return np.empty((0, 0, 0, 0), np.float32) if values_NKHW is None else values_NKHW


def grid_of(manifest: Manifest, scaled_hw: tuple[int, int]) -> TileGrid:
    """The tiles of an image at the network's scale, as the manifest says; a smaller image has a tile of its own size.

    An image that is seen whole keeps the square that its network was trained on.
    """
    if manifest.preprocessing.scale_mode == "whole":
        return TileGrid(scaled_hw, manifest.preprocessing.whole_size)
    stride = manifest.stride or (manifest.tile // 2 if manifest.blend else 0)
    return TileGrid(scaled_hw, manifest.tile, stride, 0 if manifest.blend else manifest.halo, NETWORK_MULTIPLE)


def predict_bands(
    forwards: Sequence[Forward], reader: RegionReader, tiling: Tiling, threaded: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict an image tile by tile and give its values as consecutive row bands.

    Batches never span images; only the last one of an image may be smaller.

    Args:
        forwards: The network on each device.
        reader: The image at the network's scale.
        tiling: Its tiles, and what becomes of them.
        threaded: Give each device a thread, or run the only one where it is called.

    Yields:
        (y, values_KhW): the first row of the band and its float32 values over the whole width, valid until the next
        band is asked for. The bands partition the image from top to bottom.
    """
    grid, blend = tiling.grid, tiling.blend
    height, width = grid.shape_hw
    written = [span.write.stop - span.write.start for span in grid.row_spans]
    canvas = Canvas(min(grid.tile_hw[0], height) if blend else max(written), width)
    row_weights = normalised_weights(grid.row_spans, grid.tile_hw[0], height) if blend else []
    column_weights = normalised_weights(grid.column_spans, grid.tile_hw[1], width) if blend else []
    results = predict_batches(forwards, reader, tiling, threaded)
    try:
        for batch, values_NKHW in results:
            for tile, values_KHW in batch.values(values_NKHW, tiling.blank):
                if blend:
                    yield from canvas.rows_above(tile.read[0].start)
                    weights = row_weights[tile.index[0]], column_weights[tile.index[1]]
                    canvas.add(tile.read, values_KHW[:, *tile.inner], weights)
                else:
                    yield from canvas.rows_above(tile.write[0].start)
                    canvas[tile.write] = values_KHW[:, *tile.crop]
        yield from canvas.rows_above(height)
    finally:
        results.close()


def predict_batches(
    forwards: Sequence[Callable[[TileBatch], Answer]], reader: RegionReader, tiling: Tiling, threaded: bool = False
) -> Generator[tuple[TileBatch, Answer], None, None]:
    """Batches in reading order with what the networks say of them, each valid until the next is asked for."""
    shape, count = (tiling.batch, *tiling.grid.tile_hw, tiling.channels), READ_AHEAD + 3 + len(forwards) * threaded
    buffers = TileBuffers(shape, count)
    batches = read_ahead(read_batches(reader, tiling, buffers), READ_AHEAD)
    results = map_in_order(forwards, batches) if threaded else map_here(forwards[0], batches)
    try:
        for batch, answer in results:
            yield batch, answer
            buffers.give_back(batch.images)
    finally:
        results.close()
        batches.close()


def read_batches(reader: RegionReader, tiling: Tiling, buffers: TileBuffers) -> Iterator[TileBatch]:
    """The tiles of an image in batches of those that go through the network."""
    tiles: list[Tile] = []
    places: list[int] = []
    buffer_NHWC = buffers.take()
    for tile in tiling.grid:
        image_HWC = read_padded(reader, tile)
        tiles.append(tile)
        if tiling.blank is None or not is_blank_tile(image_HWC):
            buffer_NHWC[len(places)] = image_HWC
            places.append(len(tiles) - 1)
        if len(places) == tiling.batch or len(tiles) == LONGEST_RUN:
            yield TileBatch(tiles, places, buffer_NHWC[: len(places)])
            tiles, places, buffer_NHWC = [], [], buffers.take()
    if tiles:
        yield TileBatch(tiles, places, buffer_NHWC[: len(places)])


def read_padded(reader: RegionReader, tile: Tile) -> np.ndarray:
    """Read a tile as uint8 (H, W, channels); images smaller than a tile are reflected on both sides."""
    image_HWC = reader.read(*tile.read)
    if tile.pad == ((0, 0), (0, 0)):
        return image_HWC
    return np.pad(image_HWC, (*tile.pad, (0, 0)), mode="reflect")


def is_blank_tile(tile_HWC: np.ndarray) -> bool:
    """Whether a tile shows nothing: all of it bare glass (almost white), or one colour (a scanner's fill).

    Args:
        tile_HWC: uint8 (h, w, C).
    """
    if tile_HWC.min() >= BLANK_LEVEL:
        return True
    flat_PC = tile_HWC.reshape(-1, tile_HWC.shape[2])
    return bool((flat_PC.max(axis=0) - flat_PC.min(axis=0)).max() <= FLAT_RANGE)


class TileBuffers:
    """Buffers for batches of tiles, used again and again: fresh memory costs more than filling it.

    Args:
        shape: Of a buffer: tiles, their height, width and channels.
        count: Buffers that may be out at once.
    """

    def __init__(self, shape: tuple[int, int, int, int], count: int) -> None:
        self._shape = shape
        self._free: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self) -> np.ndarray:
        """A buffer, uint8 (batch, H, W, channels); waits until one is free."""
        buffer_NHWC = self._free.get()
        return np.empty(self._shape, np.uint8) if buffer_NHWC is None else buffer_NHWC

    def give_back(self, images_NHWC: np.ndarray) -> None:
        """Free the buffer that some images are the first of."""
        self._free.put(images_NHWC.base if images_NHWC.base is not None else images_NHWC)
