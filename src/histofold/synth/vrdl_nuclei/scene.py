"""One field of crowded nuclei in H&E, drawn at one go with the label of each nucleus.

Nuclei are painted one after the other: of two that touch, the earlier one keeps its pixels. Sizes in um are those of
real anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from histofold.synth.drawing.canvas import blob_outline, paint
from histofold.synth.drawing.frame import GRID_PX, Frame, Scene
from histofold.synth.drawing.lattice import jittered_nodes, stream
from histofold.synth.drawing.tissue import Stain, draw_stain, jpeg_traces, read_out, transmit

# How much of haematoxylin and of eosin a laboratory's slides hold, and how much blue its eosin takes, over the usual.
STAIN_STYLES = {
    "pink": (1.0, 1.1, 1.3),
    "deep": (1.5, 1.5, 1.0),
    "grey": (1.2, 0.35, 1.0),
    "red": (0.9, 1.5, 2.0),
    "pale": (0.75, 0.8, 1.6),
}
_MOST_HIDDEN = 0.35  # a nucleus of which more lies under others is left out
_LEAST_AREA_UM2 = 4.0
_THICKNESS_UM = 4.0


@dataclass(frozen=True, kw_only=True)
class NucleiSpec:
    """What a field shows.

    Raises:
        ValueError: A value is out of its range.
    """

    key: tuple[int, ...]
    """Numbers, not negative, that all randomness comes from; same key and spec, same field."""
    tissue: str
    """Of `TISSUES`."""
    style: str
    """Of `STAIN_STYLES`."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    pixel_size_um: float = 0.25
    """Side of a pixel."""

    def __post_init__(self) -> None:
        if self.tissue not in TISSUES or self.style not in STAIN_STYLES:
            raise ValueError(
                f"tissue {self.tissue!r} must be of {', '.join(TISSUES)}, style {self.style!r} of "
                f"{', '.join(STAIN_STYLES)}"
            )
        if min(self.shape_hw) < 1 or not self.pixel_size_um > 0:
            raise ValueError(f"shape_hw={self.shape_hw} and pixel_size_um={self.pixel_size_um} must be above 0")


@dataclass(kw_only=True)
class Tissue:
    """A field before its nuclei: amounts of stain, and which kind of nucleus lies where."""

    frame: Frame
    """Of the whole field, its sides multiples of the drawing's grid."""
    eosin: np.ndarray
    """Amount of eosin, (H, W) float32."""
    epithelium: np.ndarray
    """Chance of a large round nucleus at each place of their lattice, (H, W) float32."""
    fibre: np.ndarray
    """The same of a long one."""
    lymphoid: np.ndarray
    """The same of a small dark one."""
    angle: np.ndarray
    """Direction of the long ones in radians, (H, W) float32."""
    epithelium_um: tuple[float, float] = (3.0, 4.6)
    """Least and largest radius of the large ones."""


def draw_nuclei_field(spec: NucleiSpec) -> tuple[np.ndarray, np.ndarray]:
    """The image, (H, W, 3) uint8 RGB, and its nuclei, (H, W) int32, numbered from 1."""
    height, width = (int(np.ceil(side / GRID_PX)) * GRID_PX for side in spec.shape_hw)
    scene = Scene(key=spec.key, shape_hw=(height, width), pixel_size_um=spec.pixel_size_um, shrink=1.0)
    tissue = TISSUES[spec.tissue](Frame(scene=scene, y0=0, x0=0, shape_hw=(height, width)))
    labels = np.zeros((height, width), dtype=np.int32)
    haematoxylin = _draw_nuclei(tissue, labels)
    eosin = tissue.eosin * (1 - 0.45 * (labels > 0))
    amounts_HW2 = np.stack([0.01 + 0.16 * tissue.eosin + haematoxylin, eosin], axis=-1).astype(np.float32)
    stain = _styled(spec)
    light_HWC = transmit(tissue.frame, amounts_HW2, stain, _THICKNESS_UM)
    flat = np.zeros(height, dtype=np.float32), np.zeros(width, dtype=np.float32)
    image_HWC = read_out(light_HWC, (0, 0), flat, stain.noise, scene.seed("sensor"))
    image_HWC = jpeg_traces(image_HWC, 90)
    inside = np.s_[: spec.shape_hw[0], : spec.shape_hw[1]]
    return np.ascontiguousarray(image_HWC[inside]), _numbered(labels[inside])


def _styled(spec: NucleiSpec) -> Stain:
    """The stain of a laboratory, with the usual differences between its slides."""
    stain = draw_stain(stream(spec.key, "stain"), "eosin")
    haematoxylin, eosin, blue = STAIN_STYLES[spec.style]
    factors_23 = np.array([[haematoxylin] * 3, [eosin, eosin, eosin * blue]])
    return replace(stain, density_23=stain.density_23 * factors_23)


def _numbered(labels_HW: np.ndarray) -> np.ndarray:
    """The labels that are left at the field's edge without gaps, int32."""
    _, dense = np.unique(labels_HW, return_inverse=True)
    dense = dense.reshape(labels_HW.shape).astype(np.int32)
    return np.ascontiguousarray(dense if (labels_HW == 0).any() else dense + 1)


def _draw_nuclei(tissue: Tissue, labels_HW: np.ndarray) -> np.ndarray:
    """Paint all nuclei: their labels in place, and their haematoxylin (H, W) float32."""
    frame = tissue.frame
    scene, amount = frame.scene, np.zeros(labels_HW.shape, dtype=np.float32)
    chromatin = frame.noise("chromatin", scene.px(2.4), octaves=3)
    kinds = (
        ("lymphoid", tissue.lymphoid, 6.2, _lymphocyte),
        ("epithelium", tissue.epithelium, 2.05 * tissue.epithelium_um[1], _epithelial),
        ("fibre", tissue.fibre, 13.0, _fibrous),
    )
    number = 0
    for name, chance_HW, spacing_um, shape in kinds:
        rng = stream(scene.key, name)
        points, _, _ = jittered_nodes(scene.seed(name), (0.0, 0.0), labels_HW.shape, scene.px(spacing_um), 0.33)
        y, x = points.astype(np.intp).T
        taken = rng.random(len(points)) < chance_HW[y, x]
        for centre in points[taken]:
            outline, depth, nucleoli = shape(rng, tissue, centre)
            number += _paint_nucleus((labels_HW, amount, chromatin), outline, (number + 1, depth, nucleoli), rng, scene)
    return amount


def _epithelial(rng: np.random.Generator, tissue: Tissue, centre: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Outline, strength and nucleoli of a large oval nucleus."""
    radius_px = tissue.frame.scene.px(rng.uniform(*tissue.epithelium_um))
    stretch, angle = rng.uniform(1.0, 1.55), rng.uniform(0, np.pi)
    outline = blob_outline(
        rng, (centre[0], centre[1]), radius_px / np.sqrt(stretch) * 1.05, wobble=0.07, stretch=stretch, angle=angle
    )
    return outline, rng.uniform(0.34, 0.68), int(rng.integers(0, 3))


def _lymphocyte(rng: np.random.Generator, tissue: Tissue, centre: np.ndarray) -> tuple[np.ndarray, float, int]:
    """The same of a small dark round one."""
    radius_px = tissue.frame.scene.px(rng.uniform(2.2, 3.1))
    outline = blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.05, stretch=rng.uniform(1, 1.2))
    return outline, rng.uniform(0.75, 1.0), 0


def _fibrous(rng: np.random.Generator, tissue: Tissue, centre: np.ndarray) -> tuple[np.ndarray, float, int]:
    """The same of a long one along the fibres."""
    radius_px = tissue.frame.scene.px(rng.uniform(1.3, 2.2))
    along = float(tissue.angle[int(centre[0]), int(centre[1])]) + rng.normal(0, 0.25)
    outline = blob_outline(
        rng, (centre[0], centre[1]), radius_px, wobble=0.06, stretch=rng.uniform(2.2, 4.2), angle=along
    )
    return outline, rng.uniform(0.5, 0.85), 0


def _paint_nucleus(
    maps: tuple[np.ndarray, np.ndarray, np.ndarray],
    outline_P2: np.ndarray,
    looks: tuple[int, float, int],
    rng: np.random.Generator,
    scene: Scene,
) -> bool:
    """Paint one nucleus where no earlier one is; False where too little of it would show.

    Args:
        maps: Labels, amounts of haematoxylin, and the chromatin's noise, (H, W) each; the first two are changed.
        outline_P2: Points (y, x).
        looks: Its label, its strength and its nucleoli.
        rng: Where the nucleoli lie.
        scene: The field.
    """
    labels_HW, amount_HW, chromatin_HW = maps
    low = np.maximum(np.floor(outline_P2.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline_P2.max(axis=0)).astype(int) + 2, labels_HW.shape)
    if (high - low).min() < 1:
        return False
    inside = np.zeros(high - low, dtype=np.uint8)
    paint(inside, outline_P2 - low, 1)
    window = np.s_[low[0] : high[0], low[1] : high[1]]
    free = _largest_part(inside * (labels_HW[window] == 0))
    area = int(free.sum())
    if area < (1 - _MOST_HIDDEN) * inside.sum() or area < scene.px(1) ** 2 * _LEAST_AREA_UM2:
        return False
    label, strength, nucleoli = looks
    depth = cv2.distanceTransform(np.pad(free, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    body = 0.8 + 0.3 * np.exp(-depth / scene.px(0.5)) + 0.22 * chromatin_HW[window]
    for _ in range(nucleoli):
        place = outline_P2.mean(axis=0) - low + rng.normal(0, scene.px(1.0), 2)
        spot = np.zeros_like(inside)
        paint(spot, blob_outline(rng, (place[0], place[1]), scene.px(rng.uniform(0.5, 0.9))), 1)
        body += 0.5 * spot
    shown = free > 0
    labels_HW[window][shown] = label
    amount_HW[window][shown] = (strength * np.clip(body, 0.3, 2))[shown]
    return True


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask, uint8."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count <= 2:
        return (parts > 0).astype(np.uint8)
    return (parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)


def _even(frame: Frame, level: float) -> np.ndarray:
    return np.full(frame.shape_hw, level, dtype=np.float32)


def _step(values: np.ndarray, width: float = 0.1) -> np.ndarray:
    """0 below 0, 1 above it, soft over a width."""
    return np.clip(values / width + 0.5, 0, 1).astype(np.float32)


def _stroma(frame: Frame) -> Tissue:
    """Bundles of fibre with long nuclei; a few lymphocytes."""
    scene = frame.scene
    turn = float(stream(scene.key, "bundles").uniform(0, np.pi))
    waves = 0.6 * frame.fibres("bundles", 9, turn) + 0.4 * frame.fibres("strands", 4, turn)
    gaps = _step(frame.noise("gaps", scene.px(22), octaves=3) - 1.5, 0.2)
    eosin = (0.42 + 0.16 * waves + 0.06 * frame.noise("texture", scene.px(3), octaves=3)) * (1 - 0.9 * gaps)
    crowd = frame.noise("lymph", scene.px(60), octaves=2)
    return Tissue(
        frame=frame,
        eosin=np.maximum(eosin, 0.02).astype(np.float32),
        epithelium=_even(frame, 0.0),
        fibre=0.75 * (1 - gaps),
        lymphoid=0.85 * _step(crowd - 1.5) + 0.015,
        angle=_even(frame, turn) + 0.25 * frame.noise("turn", scene.px(60), octaves=2),
    )


def _sheet(frame: Frame) -> Tissue:
    """A tumour's sheet of crowded nuclei, crossed by strands of stroma."""
    tissue, scene = _stroma(frame), frame.scene
    solid = _step(np.abs(frame.noise("strands of stroma", scene.px(75), octaves=2)) - 0.22, 0.15)
    cytoplasm = 0.3 + 0.05 * frame.noise("cytoplasm", scene.px(9), octaves=4)
    tissue.eosin = np.maximum(tissue.eosin * (1 - solid) + cytoplasm * solid, 0.02).astype(np.float32)
    tissue.epithelium, tissue.fibre = 0.9 * (solid > 0.6), tissue.fibre * (solid < 0.3)
    tissue.lymphoid = tissue.lymphoid * (solid < 0.3)
    return tissue


def _glands(frame: Frame) -> Tissue:
    """Glands lined by one or two rows of nuclei round an open hollow."""
    tissue, scene = _stroma(frame), frame.scene
    cells = frame.cells("glands", 88)
    border_um = frame.enlarge(cells.border_px(), cells.factor) / scene.px(1)
    border_um = border_um + 2.5 * frame.noise("ragged", scene.px(25), octaves=3)
    lining, hollow = _step(border_um - 9, 1.5), _step(border_um - 33, 3)
    cytoplasm = 0.27 + 0.04 * frame.noise("cytoplasm", scene.px(7), octaves=4)
    eosin = tissue.eosin * (1 - lining) + cytoplasm * lining
    tissue.eosin = np.maximum(eosin * (1 - hollow) + 0.03 * hollow, 0.02).astype(np.float32)
    tissue.epithelium = 0.95 * ((border_um > 12) & (border_um < 25))
    tissue.fibre, tissue.lymphoid = tissue.fibre * (border_um < 7), tissue.lymphoid * (border_um < 7)
    return tissue


def _clear(frame: Frame) -> Tissue:
    """Large pale cells between thin membranes, a nucleus in most of them."""
    tissue, scene = _stroma(frame), frame.scene
    cells = frame.cells("clear cells", 17, jitter=0.35)
    border_um = frame.enlarge(cells.border_px(), cells.factor) / scene.px(1)
    band = _step(np.abs(frame.noise("bands", scene.px(80), octaves=2)) - 0.12, 0.08)
    foam = 0.1 + 0.07 * frame.noise("foam", scene.px(4), octaves=3)
    pale = np.maximum(foam, 0.02) + 0.4 * np.exp(-((border_um / 0.9) ** 2))
    tissue.eosin = np.maximum(tissue.eosin * (1 - band) + pale * band, 0.02).astype(np.float32)
    tissue.epithelium, tissue.fibre = 0.42 * (band > 0.6), tissue.fibre * (band < 0.4)
    tissue.lymphoid = tissue.lymphoid * (band < 0.4)
    tissue.epithelium_um = (2.6, 3.8)
    return tissue


def _loose(frame: Frame) -> Tissue:
    """Cells that lie loose, clear glass between their clumps; large dark nuclei."""
    tissue, scene = _stroma(frame), frame.scene
    clump = _step(frame.noise("clumps", scene.px(30), octaves=3) + 0.45, 0.25)
    cytoplasm = 0.36 + 0.08 * frame.noise("cytoplasm", scene.px(8), octaves=4)
    tissue.eosin = np.maximum(cytoplasm * clump, 0.015).astype(np.float32)
    tissue.epithelium, tissue.fibre = 0.85 * (clump > 0.5), _even(frame, 0.0)
    tissue.lymphoid = 0.1 * (clump > 0.5)
    tissue.epithelium_um = (3.0, 5.2)
    return tissue


TISSUES: dict[str, Callable[[Frame], Tissue]] = {
    "sheet": _sheet,
    "glands": _glands,
    "clear": _clear,
    "stroma": _stroma,
    "loose": _loose,
}
