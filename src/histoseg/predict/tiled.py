"""Tiles through a network and back, with accumulators one tile row high and reading beside the forward pass."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from histoseg.core.tiles import Tile, TileGrid

Item = TypeVar("Item")
# uint8 tiles NHWC -> float32 probabilities NKHW
Forward = Callable[[np.ndarray], np.ndarray]


class RegionReader(Protocol):
    """What tiles are read from: an image of a known size that gives uint8 regions (h, w, 3)."""

    @property
    def shape_hw(self) -> tuple[int, int]: ...  # noqa: D102

    def read(self, y: slice, x: slice) -> np.ndarray: ...  # noqa: D102


def read_tile(reader: RegionReader, tile: Tile) -> np.ndarray:
    """Read a tile as uint8 (size, size, 3); images smaller than a tile are reflected on both sides."""
    image_HWC = reader.read(*tile.read)
    if tile.pad == ((0, 0), (0, 0)):
        return image_HWC
    return np.pad(image_HWC, (*tile.pad, (0, 0)), mode="reflect")


def predict_bands(
    forward: Forward, reader: RegionReader, grid: TileGrid, batch: int, blend: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict an image tile by tile and give its probabilities as consecutive row bands.

    Batches never span images; only the last one of an image may be smaller. One thread reads the tiles of the next
    batch while the network works on the current one.

    Args:
        forward: The network.
        reader: The image at the network's scale.
        grid: Its tiles.
        batch: Tiles of a forward pass.
        blend: Average overlapping tiles by a smooth weight; else each pixel comes from the one tile that writes it.

    Yields:
        (y, probs_KhW): the first row of the band and its float32 probabilities over the whole width. The bands
        partition the image from top to bottom.
    """

    def batches() -> Iterator[tuple[list[Tile], np.ndarray]]:
        tiles = list(grid)
        for start in range(0, len(tiles), batch):
            chosen = tiles[start : start + batch]
            images_NHWC = np.empty((len(chosen), grid.size, grid.size, 3), np.uint8)
            for place, tile in enumerate(chosen):
                images_NHWC[place] = read_tile(reader, tile)
            yield chosen, images_NHWC

    accumulator: _CutRows | _BlendedRows = _BlendedRows(grid) if blend else _CutRows(grid)
    for tiles, images_NHWC in read_ahead(batches()):
        probs_NKHW = forward(images_NHWC)
        for tile, probs_KHW in zip(tiles, probs_NKHW, strict=True):
            yield from accumulator.add(tile, probs_KHW)
    yield from accumulator.finish()


def read_ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Iterate in a thread, at most `depth` items ahead; errors of the thread are raised here, and it ends with us."""
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # handed over whole: the consumer raises it
            put("error", error)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


class _CutRows:
    """One row of tiles; each pixel is written by exactly one of them."""

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._row = 0
        self._band_KHW: np.ndarray | None = None

    def add(self, tile: Tile, probs_KHW: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the probabilities of the next tile; gives the row before when a new one begins."""
        if tile.index[0] != self._row:
            yield from self.finish()
            self._row = tile.index[0]
        if self._band_KHW is None:
            height = tile.write[0].stop - tile.write[0].start
            self._band_KHW = np.empty((probs_KHW.shape[0], height, self._grid.shape_hw[1]), np.float32)
        self._band_KHW[:, :, tile.write[1]] = probs_KHW[(slice(None), *tile.crop)]

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give the row that is still held."""
        if self._band_KHW is not None:
            yield self._grid.row_spans[self._row].write.start, self._band_KHW
        self._band_KHW = None


class _BlendedRows:
    """A weighted sum as high as one tile, shifted down as rows become final."""

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._row = 0
        self._weights_HW = blending_weights(grid.size)
        self._sum_KHW: np.ndarray | None = None
        self._total_HW = np.zeros((min(grid.size, grid.shape_hw[0]), grid.shape_hw[1]), np.float32)

    def add(self, tile: Tile, probs_KHW: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the probabilities of the next tile; gives the rows that no later tile touches."""
        if tile.index[0] != self._row:
            spans = self._grid.row_spans
            yield self._shift(spans[tile.index[0]].read.start - spans[self._row].read.start)
            self._row = tile.index[0]
        if self._sum_KHW is None:
            self._sum_KHW = np.zeros((probs_KHW.shape[0], *self._total_HW.shape), np.float32)
        weights_HW = self._weights_HW[tile.inner]
        self._sum_KHW[:, :, tile.read[1]] += probs_KHW[(slice(None), *tile.inner)] * weights_HW
        self._total_HW[:, tile.read[1]] += weights_HW

    def _shift(self, rows: int) -> tuple[int, np.ndarray]:
        """Give the first rows as final and move the others up."""
        assert self._sum_KHW is not None
        band_KHW = self._sum_KHW[:, :rows] / self._total_HW[:rows]
        for held in (self._sum_KHW, self._total_HW[None]):
            held[:, : -rows or None] = held[:, rows:].copy()
            held[:, held.shape[1] - rows :] = 0
        return self._grid.row_spans[self._row].read.start, band_KHW

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give the rows that are still held."""
        if self._sum_KHW is not None:
            yield self._shift(self._total_HW.shape[0])
        self._sum_KHW = None


def blending_weights(size: int) -> np.ndarray:
    """Smooth weights of a tile, float32 (size, size): a Gaussian of sigma = size / 8 with a floor of 1e-3.

    The shape is the one that nnU-Net blends with (Isensee 2021, doi:10.1038/s41592-020-01008-z).
    """
    offsets = (np.arange(size) - (size - 1) / 2) / (size / 8)
    profile = np.exp(-0.5 * offsets**2)
    return np.maximum(np.outer(profile, profile), 1e-3).astype(np.float32)
