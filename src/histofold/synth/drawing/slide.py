"""One synthetic slide of any size, drawn block by block: whatever part is read, its pixels are those of the whole.

A slide is planned at once (outline, zones, centres of objects: points and one small map) and painted where it is read.
Blocks lie on a fixed grid. Each is drawn with a margin that covers what its pixels depend on, so neighbours join.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from histofold.synth.drawing.artefacts import ARTEFACTS, REACH_PX, Artefact, disturb_light, fold_tissue, plan_artefacts
from histofold.synth.drawing.frame import GRID_PX, Frame, Scene, blank_layers
from histofold.synth.drawing.lattice import stream
from histofold.synth.drawing.tissue import Stain, jpeg_traces, lens_px, read_out, soft_px, stain_amounts, transmit
from histofold.synth.organs import ORGANS, plan_organ

# Blocks that were drawn are kept up to this size: tiles that overlap would draw them again and again.
_KEPT_BYTES = 24 * 2**20


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """What a slide shows.

    Raises:
        ValueError: A value is out of its range.
    """

    key: tuple[int, ...]
    """Numbers, not negative, that all randomness comes from; same key and spec, same slide."""
    organ: str
    """One of `ORGANS`."""
    stain: Stain
    """How the donor's slides are stained."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    pixel_size_um: float
    """Side of a pixel."""
    shrink: float = 1.0
    """Size of objects over their real size; small images hold small objects."""
    thickness_um: float = 4.0
    """Of the section: a thicker one is darker and less sharp."""
    artefacts: tuple[str, ...] = ()
    """Of `ARTEFACTS`; where they lie comes from the key."""
    jpeg_quality: int = 0
    """Traces of an earlier JPEG compression of this quality, 1 to 100; 0: none."""

    def __post_init__(self) -> None:
        if self.organ not in ORGANS:
            raise ValueError(f"organ {self.organ!r} is not one of {', '.join(ORGANS)}")
        unknown = sorted(set(self.artefacts) - set(ARTEFACTS))
        if unknown:
            raise ValueError(f"artefacts {', '.join(unknown)} are not of {', '.join(ARTEFACTS)}")
        if min(self.shape_hw) < 1:
            raise ValueError(f"shape_hw={self.shape_hw} must be at least one pixel each way")
        for name in ("pixel_size_um", "shrink", "thickness_um"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality={self.jpeg_quality} must be 1 to 100, or 0 for none")
        if min(self.key, default=0) < 0:
            raise ValueError(f"key={self.key} must not hold negative numbers")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A part of a slide."""

    image_HWC: np.ndarray  # noqa: N815
    """(H, W, 3) uint8 RGB."""
    mask_HW: np.ndarray  # noqa: N815
    """(H, W) bool, True on functional tissue units, their lumens included."""
    lumen_HW: np.ndarray  # noqa: N815
    """(H, W) bool, True on the hollows of glands, crypts and alveoli, a part of the mask."""

    def __getitem__(self, place: tuple[slice, slice]) -> Picture:
        """The same rectangle of all three, without a copy."""
        return Picture(image_HWC=self.image_HWC[place], mask_HW=self.mask_HW[place], lumen_HW=self.lumen_HW[place])


def empty_picture(shape_hw: tuple[int, int]) -> Picture:
    """A picture to be filled."""
    return Picture(
        image_HWC=np.empty((*shape_hw, 3), dtype=np.uint8),
        mask_HW=np.empty(shape_hw, dtype=bool),
        lumen_HW=np.empty(shape_hw, dtype=bool),
    )


def copy_picture(target: Picture, source: Picture) -> None:
    """Copy all three parts of a picture into another of the same shape."""
    target.image_HWC[...] = source.image_HWC
    target.mask_HW[...] = source.mask_HW
    target.lumen_HW[...] = source.lumen_HW


# Coarser pixels than this are drawn finer and averaged, as a camera does; else nuclei would vanish between the pixels.
_COARSEST_PIXEL_UM = 1.3
# Drawn pixels of a block: the larger, the less margin is drawn in vain; the smaller, the more of it stays in the cache.
_BLOCK_HW = (256, 640)


class Painter:
    """Draws the blocks of a slide.

    Attributes:
        spec: What the slide shows.
        plan: Where its objects lie.
        block_hw: Height and width of a block in pixels of the slide.
    """

    def __init__(self, spec: SlideSpec) -> None:
        self.spec = spec
        # Drawn pixels a pixel, each way.
        self._finer = max(1, int(np.ceil(spec.pixel_size_um / _COARSEST_PIXEL_UM)))
        self._scene = Scene(
            key=spec.key,
            shape_hw=(spec.shape_hw[0] * self._finer, spec.shape_hw[1] * self._finer),
            pixel_size_um=spec.pixel_size_um / self._finer,
            shrink=spec.shrink,
        )
        self.plan = plan_organ(self._scene, spec.organ, core=spec.stain.second == "dab")
        self._artefacts = plan_artefacts(self.plan.ground, spec.artefacts)
        self._tilt_2 = stream(spec.key, "lamp").normal(0, 0.012, 2)
        self._noise_seed = self._scene.seed("sensor")
        self.block_hw = tuple(max(side // self._finer // GRID_PX, 2) * GRID_PX for side in _BLOCK_HW)

    def draw_block(self, top: int, left: int) -> Picture:
        """Draw a block with its margin; at the slide's right and lower side only as much as lies on it."""
        height, width = self.spec.shape_hw
        inner_hw = min(self.block_hw[0], height - top), min(self.block_hw[1], width - left)
        frame = self._frame(top, left, inner_hw, self._margin_px(disturbed=False))
        artefacts = [artefact for artefact in self._artefacts if artefact.touches(frame)]
        margin = self._margin_px(disturbed=bool(artefacts))
        if artefacts:
            frame = self._frame(top, left, inner_hw, margin)
        light_HWC, masks = self._draw(frame, artefacts)
        origin_yx = frame.y0 // self._finer, frame.x0 // self._finer
        image_HWC = read_out(
            light_HWC, origin_yx, self._lamp(origin_yx, light_HWC), self.spec.stain.noise, self._noise_seed
        )
        if self.spec.jpeg_quality:
            image_HWC = jpeg_traces(image_HWC, self.spec.jpeg_quality)
        core = np.s_[margin : margin + inner_hw[0], margin : margin + inner_hw[1]]
        ftu_HW, lumen_HW = (map_HW[core] > 127 for map_HW in masks)
        return Picture(image_HWC=np.ascontiguousarray(image_HWC[core]), mask_HW=ftu_HW, lumen_HW=lumen_HW & ftu_HW)

    def _margin_px(self, disturbed: bool) -> int:
        """Pixels round a block that its own may depend on, a multiple of the JPEG's and the drawing's grid."""
        blurs_px = 3 * soft_px(self._scene.px(1))
        blurs_px += 3 * lens_px(self.spec.stain, self.spec.thickness_um, self._scene.pixel_size_um)
        reach_px = (blurs_px + 2 + (REACH_PX if disturbed else 0)) / self._finer
        return int(np.ceil(reach_px / GRID_PX)) * GRID_PX

    def _frame(self, top: int, left: int, inner_hw: tuple[int, int], margin: int) -> Frame:
        height, width = (int(np.ceil(side / GRID_PX)) * GRID_PX + 2 * margin for side in inner_hw)
        return Frame(
            scene=self._scene,
            y0=(top - margin) * self._finer,
            x0=(left - margin) * self._finer,
            shape_hw=(height * self._finer, width * self._finer),
        )

    def _draw(self, frame: Frame, artefacts: list[Artefact]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Light (H, W, 3) float32, and FTUs and lumens (H, W) uint8 of 0 to 255, in pixels of the slide."""
        depth_HW = self.plan.ground.depth_on(frame)
        if depth_HW.max() > -1:
            layers = self.plan.lay(frame, depth_HW)
        else:
            layers = blank_layers(frame, depth_HW, cyto=0, nuclei=0)
        outside = depth_HW <= 0
        layers.ftu[outside] = 0
        amounts_HW2 = stain_amounts(layers, self.spec.stain)
        fold_tissue(frame, amounts_HW2, artefacts)
        light_HWC = transmit(frame, amounts_HW2, self.spec.stain, self.spec.thickness_um)
        disturb_light(frame, light_HWC, self.spec.stain.white_3, artefacts)
        if self._finer == 1:
            return light_HWC, (layers.ftu, layers.lumen)
        size = frame.shape_hw[1] // self._finer, frame.shape_hw[0] // self._finer
        light_HWC, ftu_HW, lumen_HW = (
            cv2.resize(map_HW, size, interpolation=cv2.INTER_AREA) for map_HW in (light_HWC, layers.ftu, layers.lumen)
        )
        return light_HWC, (ftu_HW, lumen_HW)

    def _lamp(self, origin_yx: tuple[int, int], light_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lamp's brightness over the slide, minus 1, of each row and column of a frame."""
        tilts = []
        for axis in (0, 1):
            place = origin_yx[axis] + np.arange(light_HWC.shape[axis])
            tilts.append((self._tilt_2[axis] * (2 * place / self.spec.shape_hw[axis] - 1)).astype(np.float32))
        return tilts[0], tilts[1]

    def artefact_regions(self) -> list[tuple[str, tuple[int, int, int, int]]]:
        """Kind and bounds (y0, x0, y1, x1) in pixels of every artefact that lies on the slide."""
        regions = []
        for artefact in self._artefacts:
            y0, x0, y1, x1 = (value / self._finer for value in artefact.box)
            low = max(int(np.floor(y0)), 0), max(int(np.floor(x0)), 0)
            high = min(int(np.ceil(y1)), self.spec.shape_hw[0]), min(int(np.ceil(x1)), self.spec.shape_hw[1])
            if low[0] < high[0] and low[1] < high[1]:
                regions.append((artefact.kind, (*low, *high)))
        return regions

    def zones(self) -> dict[str, list[list[list[float]]]]:
        """Cortex and medulla of a kidney as closed rings [[x, y], ...] in pixels; nothing for other organs."""
        ground = self.plan.ground
        if self.spec.organ != "kidney":
            return {}
        tissue = ground.depth > 0
        medulla = np.zeros_like(tissue) if ground.medulla is None else tissue & (ground.medulla > 0)
        zones = {"Cortex": tissue & ~medulla, "Medulla": medulla}
        return {
            name: [[[x / self._finer, y / self._finer] for x, y in ring] for ring in ground.rings(inside)]
            for name, inside in zones.items()
        }

    def outlines(self) -> dict[str, list[np.ndarray]]:
        """Outlines of the plan's objects by kind, (P, 2) points (y, x) in pixels of the slide."""
        return {
            kind: [(outline + 0.5) / self._finer - 0.5 for outline in outlines]
            for kind, outlines in self.plan.outlines.items()
        }


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
    outlines: dict[str, list[np.ndarray]]
    """Of organs whose objects are counted one by one, by kind: (P, 2) points (y, x) in pixels."""

    def __init__(self, spec: SlideSpec) -> None:
        self.spec, self.shape_hw = spec, spec.shape_hw
        self._painter = Painter(spec)
        self._kept: OrderedDict[tuple[int, int], Picture] = OrderedDict()
        self.ftu_count = len(self._painter.plan.units)
        self.artefact_regions = self._painter.artefact_regions()
        self.zones = self._painter.zones()
        self.outlines = self._painter.outlines()

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
