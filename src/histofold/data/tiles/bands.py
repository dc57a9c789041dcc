"""Tiles of several scales from one passage over a slide: each row is decoded once and kept only as long as needed.

A slide is read in groups of rows from top to bottom. Each scale makes blocks of its scaled rows from them, as soon as
tiles need them, and gives its tiles out when their last row is there. Memory holds one tile's height of scaled rows for
each scale, and a few groups of the slide's rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from histofold.data.tiles.plan import PlannedTile
from histofold.imaging.resample import ScaledSlide
from histofold.imaging.slide import Slide

GROUP_ROWS = 128
"""Rows of a slide that are read at once; strips and tiles of a TIFF rarely end within a group that begins at 0."""
_BLOCK_PIXELS = 2 << 20  # pixels of the slide that a block of scaled rows is made of, about


class RowWindow:
    """Consecutive rows of an image, appended below and dropped above."""

    stop: int
    """The row after the last one."""

    def __init__(self) -> None:
        self.stop = 0
        self._chunks: deque[tuple[int, np.ndarray]] = deque()

    def append(self, rows_HWC: np.ndarray) -> None:
        """Add the next rows."""
        self._chunks.append((self.stop, rows_HWC))
        self.stop += len(rows_HWC)

    def skip_to(self, row: int) -> None:
        """Leave out the rows before one that is not there yet; none of them will be asked for."""
        self.stop = row

    def drop(self, before: int) -> None:
        """Forget rows that will not be asked for again."""
        while self._chunks and self._chunks[0][0] + len(self._chunks[0][1]) <= before:
            self._chunks.popleft()

    def copy_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill a canvas with the region whose first pixel is (y, x)."""
        height, width = canvas_HWC.shape[:2]
        filled = 0
        for first, rows_HWC in self._chunks:
            top, bottom = max(y, first), min(y + height, first + len(rows_HWC))
            if top < bottom:
                canvas_HWC[top - y : bottom - y] = rows_HWC[top - first : bottom - first, x : x + width]
                filled += bottom - top
        if filled != height:
            raise ValueError(f"rows {y} to {y + height} are not all there: ask for regions from top to bottom")


class SlideRows:
    """The rows of a slide, each decoded once; a reader for `Slide`. Regions must be asked for from top to bottom.

    Args:
        slide: The slide; it is read by one thread at a time.
        ahead: Where the next group is read while the last one is worked on; None reads when rows are asked for.
        channels: Planes of a volume to see; pictures have 3.
    """

    def __init__(self, slide: Slide, ahead: ThreadPoolExecutor | None, channels: int = 3) -> None:
        self.shape_hw = slide.shape_hw
        self._slide, self._ahead, self._channels = slide, ahead, channels
        self._rows = RowWindow()
        self._next: tuple[int, Future[np.ndarray]] | None = None

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill the canvas with the region at (y, x), reading on where rows are missing."""
        if y >= self._rows.stop:
            self._rows.skip_to(y // GROUP_ROWS * GROUP_ROWS)
        while self._rows.stop < y + len(canvas_HWC):
            self._rows.append(self._read_group(self._rows.stop))
        self._rows.copy_into(canvas_HWC, y, x)

    def drop(self, before: int) -> None:
        """Forget rows that will not be asked for again."""
        self._rows.drop(before)

    def close(self) -> None:
        """Wait for what is being read; the slide itself stays open."""
        if self._next is not None:
            self._next[1].cancel()
            if not self._next[1].cancelled():
                self._next[1].exception()
            self._next = None

    def _read_group(self, start: int) -> np.ndarray:
        if self._ahead is None:
            return self._decoded(start)
        if self._next is not None and self._next[0] == start:
            rows_HWC = self._next[1].result()
        else:
            self.close()
            rows_HWC = self._ahead.submit(self._decoded, start).result()
        following = start + GROUP_ROWS
        self._next = (following, self._ahead.submit(self._decoded, following)) if following < self.shape_hw[0] else None
        return rows_HWC

    def _decoded(self, start: int) -> np.ndarray:
        rows = slice(start, min(start + GROUP_ROWS, self.shape_hw[0]))
        return self._slide.read(rows, slice(None), self._channels)


class _ScaledRows:
    """The rows of one scale, made in blocks as its tiles need them."""

    def __init__(self, slide: Slide, view_hw: tuple[int, int], channels: int, tiles: Sequence[PlannedTile]) -> None:
        self._view = ScaledSlide(slide, view_hw, channels)
        self._rows = RowWindow()
        self._waiting = deque(sorted(tiles, key=lambda tile: (tile.y.stop, tile.x.start)))
        starts = np.array([tile.y.start for tile in self._waiting], int)
        self._lowest = deque(np.minimum.accumulate(starts[::-1])[::-1].tolist())  # first row that this tile on needs
        step = max(1.0, slide.shape_hw[0] / view_hw[0])
        self._block = max(1, int(_BLOCK_PIXELS / (slide.shape_hw[1] * step)))

    @property
    def is_done(self) -> bool:
        """Whether all tiles were given out."""
        return not self._waiting

    def next_block(self) -> range:
        """The scaled rows that are made next; those that no tile needs are left out."""
        start = max(self._rows.stop, self._lowest[0] // self._block * self._block)
        return range(start, min(start + self._block, self._view.shape_hw[0]))

    @property
    def source_start(self) -> int:
        """First row of the slide that the next block needs."""
        return self._view.source_rows(self.next_block()).start

    def make_block(self) -> Iterator[tuple[PlannedTile, np.ndarray]]:
        """Make the next block and give out the tiles that end in it, uint8 (h, w, C)."""
        block = self.next_block()
        self._rows.drop(self._lowest[0])
        self._rows.skip_to(block.start)
        self._rows.append(self._view.read(slice(block.start, block.stop), slice(None)))
        while self._waiting and self._waiting[0].y.stop <= block.stop:
            tile = self._waiting.popleft()
            self._lowest.popleft()
            shape = (tile.y.stop - tile.y.start, tile.x.stop - tile.x.start, self._view.channels)
            image_HWC = np.empty(shape, np.uint8)
            self._rows.copy_into(image_HWC, tile.y.start, tile.x.start)
            yield tile, image_HWC


def stream_tiles(
    slide: Slide,
    views: Sequence[tuple[int, int]],
    tiles: Sequence[PlannedTile],
    ahead: ThreadPoolExecutor | None,
    channels: int = 3,
) -> Iterator[tuple[PlannedTile, np.ndarray]]:
    """Read tiles of all scales in one passage over a slide, from top to bottom.

    A tile's pixels are those that `ScaledSlide` reads, and so those that prediction sees.

    Args:
        slide: The slide.
        views: Height and width of each scale.
        tiles: What to cut.
        ahead: A pool of one thread that decodes ahead; None decodes in this thread.
        channels: Planes of a volume to see; pictures have 3.

    Yields:
        Each tile and its pixels, uint8 (h, w, channels), without padding.

    Raises:
        ImageError: If the slide's data cannot be decoded.
    """
    rows = SlideRows(slide, ahead, channels)
    once = Slide(slide.path, rows)
    of_view = [[tile for tile in tiles if tile.view == view] for view in range(len(views))]
    scales = [_ScaledRows(once, hw, channels, own) for hw, own in zip(views, of_view, strict=True)]
    try:
        while waiting := [scale for scale in scales if not scale.is_done]:
            first = min(waiting, key=lambda scale: scale.source_start)
            rows.drop(first.source_start)
            yield from first.make_block()
    finally:
        rows.close()
