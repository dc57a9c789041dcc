"""One synthetic slide of any size, drawn block by block: whatever part is read, its pixels are those of the whole.

A slide is planned at once (outline, zones, centres of objects: points and one small map) and painted where it is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from histofold.synth.drawing.artefacts import ARTEFACTS
from histofold.synth.drawing.painter import Painter, Picture, SlideSpec, copy_picture, empty_picture
from histofold.synth.organs import ORGANS

__all__ = ["ARTEFACTS", "ORGANS", "Picture", "SlideSpec", "SyntheticSlide"]

# Blocks that were drawn are kept up to this size: tiles that overlap would draw them again and again.
_KEPT_BYTES = 24 * 2**20


class SyntheticSlide:
    """A slide that is drawn where it is read."""

    spec: SlideSpec
    """What it shows."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    ftu_count: int
    """Functional tissue units on it, at least one; those that touch count one by one."""
    artefact_regions: list[tuple[str, tuple[int, int, int, int]]]
    """Kind and bounds (y0, x0, y1, x1) in pixels of every artefact that lies on the slide."""
    zones: dict[str, list[list[list[float]]]]
    """Of kidneys, closed rings [[x, y], ...] in pixels: "Cortex", and "Medulla" (none on small fields)."""

    def __init__(self, spec: SlideSpec) -> None:
        self.spec, self.shape_hw = spec, spec.shape_hw
        self._painter = Painter(spec)
        self._kept: OrderedDict[tuple[int, int], Picture] = OrderedDict()
        self.ftu_count = len(self._painter.plan.units)
        self.artefact_regions = self._painter.artefact_regions()
        self.zones = self._painter.zones()

    def read(self, y: slice, x: slice) -> Picture:
        """A rectangle of the slide.

        Raises:
            ValueError: A step is not 1.
        """
        (y0, y1, step_y), (x0, x1, step_x) = y.indices(self.shape_hw[0]), x.indices(self.shape_hw[1])
        if (step_y, step_x) != (1, 1):
            raise ValueError(f"steps {step_y} and {step_x} must be 1: read all and take every so-many-th pixel")
        return self._assemble((y0, y1), (x0, x1), self._block)

    def whole(self) -> Picture:
        """The whole slide: 5 bytes a pixel."""
        return self.read(slice(None), slice(None))

    def bands(self, rows: int = 512) -> Iterator[tuple[slice, Picture]]:
        """Bands of full width from top to bottom.

        Args:
            rows: Height of a band, at least 1; of a multiple of the blocks' height (256 at usual pixel sizes) each
                block is drawn once.

        Yields:
            The band's rows and its picture, 5 bytes a pixel.
        """
        height, width = self.shape_hw
        for start in range(0, height, rows):
            band = slice(start, min(start + rows, height))
            yield band, self._assemble((start, band.stop), (0, width), self._painter.draw_block)

    def _assemble(
        self, rows_of: tuple[int, int], columns_of: tuple[int, int], block_at: Callable[[int, int], Picture]
    ) -> Picture:
        """A rectangle from its blocks."""
        (y0, y1), (x0, x1) = rows_of, columns_of
        rectangle = empty_picture((max(y1 - y0, 0), max(x1 - x0, 0)))
        block_h, block_w = self._painter.block_hw
        for top in range(y0 // block_h * block_h, y1, block_h):
            for left in range(x0 // block_w * block_w, x1, block_w):
                block = block_at(top, left)
                rows = slice(max(y0, top), min(y1, top + block_h))
                columns = slice(max(x0, left), min(x1, left + block_w))
                target = rectangle[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
                source = block[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                copy_picture(target, source)
        return rectangle

    def _block(self, top: int, left: int) -> Picture:
        """A block of the grid, drawn or remembered."""
        if (top, left) not in self._kept:
            block = self._painter.draw_block(top, left)
            self._kept[top, left] = block
            block_bytes = 5 * self._painter.block_hw[0] * self._painter.block_hw[1]
            while len(self._kept) > _KEPT_BYTES // block_bytes:
                self._kept.popitem(last=False)
            return block
        return self._kept[top, left]
