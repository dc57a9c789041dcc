"""Where a slide holds tissue: its outline and zones, on one small map of the whole slide."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histofold.synth.drawing.canvas import blob_outline, paint
from histofold.synth.drawing.frame import GRID_PX, Frame, Scene
from histofold.synth.drawing.lattice import noise_grid, stream

# The map's longest side in cells.
_MAP_SIDE = 768
# A field whose shorter side is less shows a piece of tissue; a wider one a whole section with an outline of its own.
SECTION_UM = 2500.0


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Maps of the whole slide, (h, w) float32, one value a cell."""

    scene: Scene
    """The slide."""
    cell_px: float
    """Side of a cell in drawn pixels, at least 1."""
    depth: np.ndarray
    """Distance from the tissue's edge in drawn pixels, positive inside, about."""
    medulla: np.ndarray | None = None
    """Distance from the border of the medulla, positive inside; None where there is none."""

    @property
    def is_section(self) -> bool:
        """Whether the field is wide enough to show a whole section."""
        return is_section(self.scene)

    def at(self, map_hw: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
        """Values of a map at points (y, x) in drawn pixels, (N,) float32."""
        place = np.asarray(points_N2, dtype=np.float32).reshape(-1, 1, 2) / self.cell_px - 0.5 + 0.5 / self.cell_px
        if not len(place):
            return np.zeros(0, dtype=np.float32)
        # OpenCV's maps may hold no more than 32767 rows.
        parts = [
            cv2.remap(map_hw, part[..., 1], part[..., 0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for part in np.array_split(place, len(place) // 30000 + 1)
        ]
        return np.concatenate(parts).reshape(-1)

    def on(self, map_hw: np.ndarray, frame: Frame) -> np.ndarray:
        """A map on every pixel of a frame, (H, W) float32."""
        factor = GRID_PX // 2
        (top, left), (height, width) = frame.coarse(factor)
        y = ((top + factor * np.arange(height) + 0.5) / self.cell_px - 0.5).astype(np.float32)
        x = ((left + factor * np.arange(width) + 0.5) / self.cell_px - 0.5).astype(np.float32)
        grid_x, grid_y = np.meshgrid(x, y)
        coarse = cv2.remap(map_hw, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return frame.enlarge(coarse, factor)

    def depth_on(self, frame: Frame) -> np.ndarray:
        """Distance from the tissue's edge in pixels on every pixel of a frame, (H, W) float32, its edge rippled."""
        wavelength_px = _ripple_px(self.scene)
        ripple = frame.noise("ripple", wavelength_px, octaves=6, factor=min(GRID_PX // 2, 4))
        return self.on(self.depth, frame) + 0.06 * wavelength_px * ripple

    def deepest(self) -> tuple[float, float]:
        """The point farthest from the tissue's and the slide's edge, about, in drawn pixels."""
        height, width = self.depth.shape
        to_side_y = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None] * self.cell_px
        to_side_x = np.minimum(np.arange(width), np.arange(width)[::-1])[None, :] * self.cell_px
        room = np.minimum(self.depth, np.minimum(to_side_y, to_side_x))
        if self.medulla is not None:
            room = np.minimum(room, -self.medulla)
        y, x = np.unravel_index(int(np.argmax(room)), room.shape)
        height_px, width_px = self.scene.shape_hw
        return min((y + 0.5) * self.cell_px, height_px - 1.0), min((x + 0.5) * self.cell_px, width_px - 1.0)

    def noise(self, purpose: str, wavelength_px: float, octaves: int = 2) -> np.ndarray:
        """Noise on the map's cells."""
        origin_yx = (self.cell_px / 2, self.cell_px / 2)
        seed = self.scene.seed(purpose)
        return noise_grid(seed, origin_yx, self.depth.shape, self.cell_px, wavelength_px, octaves=octaves)

    def rings(self, inside_hw: np.ndarray) -> list[list[list[float]]]:
        """Outer outlines of a map's True cells as closed rings of [x, y] in drawn pixels, the first point repeated."""
        contours, _ = cv2.findContours(inside_hw.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        rings = []
        for contour in sorted(contours, key=cv2.contourArea, reverse=True):
            ring = (cv2.approxPolyDP(contour, 1.0, True)[:, 0] + 0.5) * self.cell_px
            if len(ring) >= 3:
                rings.append([*ring.tolist(), ring[0].tolist()])
        return rings


def is_section(scene: Scene) -> bool:
    """Whether a scene is wide enough to show a whole section."""
    return min(scene.extent_um) >= SECTION_UM


def make_ground(scene: Scene, organ: str, core: bool) -> Ground:
    """Decide where the tissue lies.

    Args:
        scene: The slide.
        organ: Kidney sections get a medulla.
        core: A field of a tissue array, round; else a section with one free side. Wide fields show a whole section.
    """
    height, width = scene.shape_hw
    cell_px = max(max(height, width) / _MAP_SIDE, 1.0)
    shape = (int(np.ceil(height / cell_px)), int(np.ceil(width / cell_px)))
    if not is_section(scene):
        return Ground(scene=scene, cell_px=cell_px, depth=_piece_depth(scene, shape, cell_px, core))
    rng = stream(scene.key, "outline")
    centre, reach = np.array(shape) / 2, np.array(shape) * rng.uniform(0.42, 0.46, 2)
    outline = _section_outline(rng, shape, reach)
    depth = _signed_distance(shape, outline) * cell_px
    medulla = None
    if organ == "kidney":
        direction = rng.uniform(0, 2 * np.pi)
        towards = np.array([np.sin(direction), np.cos(direction)])
        inner = centre + (outline - centre) * rng.uniform(0.45, 0.6) + towards * reach * 0.3
        medulla = (_signed_distance(shape, inner) * cell_px).astype(np.float32)
    return Ground(scene=scene, cell_px=cell_px, depth=depth.astype(np.float32), medulla=medulla)


def _section_outline(rng: np.random.Generator, shape_hw: tuple[int, int], reach_2: np.ndarray) -> np.ndarray:
    """A wobbly closed outline within a map, (P, 2) in cells; between an ellipse and a box."""
    unit = blob_outline(rng, (0.0, 0.0), 1000.0, wobble=0.05, harmonics=9) / 1000.0
    theta = np.arctan2(unit[:, 0], unit[:, 1])
    power = rng.uniform(2.3, 3.2)
    box = (np.abs(np.cos(theta)) ** power + np.abs(np.sin(theta)) ** power) ** (-1 / power)
    arms = unit * box[:, None]
    arms /= max(np.abs(arms).max(), 1.0)
    return np.array(shape_hw) / 2 + arms * reach_2


def _signed_distance(shape_hw: tuple[int, int], outline_P2: np.ndarray) -> np.ndarray:
    """Distance from an outline in cells, positive inside, (h, w) float32."""
    inside = np.zeros(shape_hw, dtype=np.uint8)
    paint(inside, outline_P2, 1)
    # The ring of cells round the map is outside: an outline that leaves the map still has a distance.
    padded = np.pad(inside, 1)
    within = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    without = cv2.distanceTransform(1 - padded, cv2.DIST_L2, 5)
    return (within - without)[1:-1, 1:-1]


def _piece_depth(scene: Scene, shape_hw: tuple[int, int], cell_px: float, core: bool) -> np.ndarray:
    """Depth in a small field: a round core, or tissue with one free side."""
    rng = stream(scene.key, "outline")
    height, width = scene.shape_hw
    y = (np.arange(shape_hw[0], dtype=np.float32)[:, None] + 0.5) * cell_px - height / 2
    x = (np.arange(shape_hw[1], dtype=np.float32)[None, :] + 0.5) * cell_px - width / 2
    direction = rng.uniform(0, 2 * np.pi)
    sin, cos = np.sin(direction), np.cos(direction)
    if core:
        shift_px = rng.uniform(0.0, 0.15) * np.hypot(height, width)
        radius_px = rng.uniform(0.46, 0.53) * np.hypot(height, width)
        depth = radius_px - np.hypot(y - shift_px * sin, x - shift_px * cos)
    else:
        reach_px = (abs(sin) * height + abs(cos) * width) / 2
        depth = rng.uniform(0.5, 0.8) * reach_px + y * sin + x * cos
    return depth.astype(np.float32)


def _ripple_px(scene: Scene) -> float:
    """Wavelength of the outline's coarsest ripple."""
    return max(min(0.4 * min(scene.shape_hw), scene.px(500)), 8.0)
