"""A rectangle of a slide that is drawn at one go: its grid, its noise, fibres and cells, and the maps painted on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from histofold.synth.drawing.canvas import paint, stroke
from histofold.synth.drawing.lattice import hash_seed, jittered_nodes, nearest_cells, node_places, noise_grid

# Frames begin at multiples of this many drawn pixels, so that coarse grids of every frame fall on the same places.
GRID_PX = 16
# The longest over which cytoplasm fades: margins of blocks are wide enough for it.
SOFT_UM = 2.5


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The whole slide as it is drawn."""

    key: tuple[int, ...]
    """Numbers that all randomness comes from."""
    shape_hw: tuple[int, int]
    """Height and width in drawn pixels."""
    pixel_size_um: float
    """Side of a drawn pixel in um of the (shrunken) tissue."""
    shrink: float
    """Size of an object over its real size; below 1, an image holds more objects than a real one of its field."""

    def px(self, length_um: float) -> float:
        """Drawn pixels of a real length in um."""
        return length_um * self.shrink / self.pixel_size_um

    def seed(self, purpose: str) -> int:
        """The seed of a purpose's lattice."""
        return hash_seed(self.key, purpose)

    @property
    def extent_um(self) -> tuple[float, float]:
        """Height and width in um of real anatomy."""
        return self.shape_hw[0] / self.px(1), self.shape_hw[1] / self.px(1)

    @property
    def area_mm2(self) -> float:
        """Area in mm2 of real anatomy, for counts of objects a mm2."""
        return self.extent_um[0] * self.extent_um[1] * 1e-6


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Voronoi cells on a coarse grid with one point more at each side of the frame."""

    wide_border_px: np.ndarray
    """Distance to the cell's border, float32, with `beyond` points more at each side."""
    wide_label: np.ndarray
    """Index of the cell into `rows` and `columns`, int32, likewise."""
    rows: np.ndarray
    """Row of each cell's node, (N,) int64."""
    columns: np.ndarray
    """Column of each cell's node, (N,) int64."""
    factor: int
    """Drawn pixels a grid step."""
    sigma: float
    """Standard deviation of the blur that rounds the corners, in grid steps."""
    beyond: int
    """Points that the blur reads beyond the grid."""

    @property
    def label(self) -> np.ndarray:
        """Index of the cell, (h, w) int32."""
        return self.wide_label[self.beyond : -self.beyond, self.beyond : -self.beyond]

    def border_px(self, inside_N: np.ndarray | None = None) -> np.ndarray:
        """Distance to the cell's border, (h, w) float32, corners rounded; negative in cells that are not `inside_N`."""
        border = self.wide_border_px
        if inside_N is not None:
            border = border * np.where(inside_N, np.float32(1), np.float32(-1))[self.wide_label]
        rounded = cv2.GaussianBlur(border, (2 * self.beyond + 1,) * 2, self.sigma)
        return rounded[self.beyond : -self.beyond, self.beyond : -self.beyond]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle of the scene; it may reach over the scene's edge."""

    scene: Scene
    """The whole slide."""
    y0: int
    """First row, a multiple of `GRID_PX`; may be negative."""
    x0: int
    """First column, likewise."""
    shape_hw: tuple[int, int]
    """Height and width, multiples of `GRID_PX`."""

    def coarse(self, factor: int) -> tuple[tuple[float, float], tuple[int, int]]:
        """First point and shape of the grid of every `factor`-th pixel, one point more at each side."""
        origin_yx = self.y0 - (factor + 1) / 2, self.x0 - (factor + 1) / 2
        return origin_yx, (self.shape_hw[0] // factor + 2, self.shape_hw[1] // factor + 2)

    def enlarge(self, coarse_HW: np.ndarray, factor: int) -> np.ndarray:
        """A map on the coarse grid, (h, w), on every pixel, (H, W); linear between the points."""
        height, width = coarse_HW.shape
        if factor == 1:
            return coarse_HW[1:-1, 1:-1]
        fine = cv2.resize(coarse_HW, (width * factor, height * factor), interpolation=cv2.INTER_LINEAR)
        return fine[factor:-factor, factor:-factor]

    def pick(self, coarse_HW: np.ndarray, factor: int) -> np.ndarray:
        """A map on the coarse grid, (h, w), on every pixel, (H, W); the value of the nearest point."""
        height, width = coarse_HW.shape
        fine = cv2.resize(coarse_HW, (width * factor, height * factor), interpolation=cv2.INTER_NEAREST)
        return fine[factor:-factor, factor:-factor]

    def noise(
        self,
        purpose: str,
        wavelength_px: float,
        *,
        octaves: int = 4,
        persistence: float = 0.6,
        factor: int | None = None,
    ) -> np.ndarray:
        """Noise of a purpose on every pixel, (H, W) float32; drawn on a coarse grid where it is smooth enough."""
        finest_px = max(wavelength_px / 2**octaves, 1.0)
        factor = factor or factor_below(finest_px / 1.5)
        return self.enlarge(self.coarse_noise(purpose, wavelength_px, factor, octaves, persistence), factor)

    def coarse_noise(
        self, purpose: str, wavelength_px: float, factor: int, octaves: int = 4, persistence: float = 0.6
    ) -> np.ndarray:
        """The same on the coarse grid, (h, w) float32."""
        origin_yx, shape_hw = self.coarse(factor)
        seed = self.scene.seed(purpose)
        return noise_grid(seed, origin_yx, shape_hw, factor, wavelength_px, octaves=octaves, persistence=persistence)

    def nodes(self, purpose: str, spacing_px: float, jitter: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points of a purpose's jittered lattice, (N, 2) (y, x) from the frame's corner; their rows and columns."""
        origin_yx = float(self.y0), float(self.x0)
        points, rows, columns = jittered_nodes(self.scene.seed(purpose), origin_yx, self.shape_hw, spacing_px, jitter)
        return points - origin_yx, rows, columns

    def fibres(self, purpose: str, wavelength_um: float, angle: float) -> np.ndarray:
        """Wavy parallel strands, as of collagen or smooth muscle.

        Args:
            purpose: Names the waviness.
            wavelength_um: Distance of neighbouring strands.
            angle: Direction of the strands in radians from the x axis.

        Returns:
            (H, W) float32 in -1 to 1.
        """
        strand_px = max(self.scene.px(wavelength_um), 3.0)
        factor = factor_below(strand_px / 8)
        (top, left), (height, width) = self.coarse(factor)
        frequency = 2 * np.pi / strand_px
        y = (top + factor * np.arange(height))[:, None] * frequency * np.cos(angle)
        x = (left + factor * np.arange(width))[None, :] * frequency * np.sin(angle)
        # Whole turns are taken off in float64: a far corner of a large slide has thousands of them.
        turns = (np.mod(y, 2 * np.pi) - np.mod(x, 2 * np.pi)).astype(np.float32)
        phase = turns + 5 * self.coarse_noise(purpose, strand_px * 12, factor, octaves=3)
        return self.enlarge(np.sin(phase), factor)

    def cells(
        self, purpose: str, spacing_um: float, *, jitter: float = 0.3, angle: float = 0.0, stretch: float = 1.0
    ) -> Cells:
        """Voronoi cells of a purpose's jittered lattice.

        Args:
            purpose: Names the lattice.
            spacing_um: Distance of neighbouring cells' centres, across the long axis.
            jitter: As of `jittered_nodes`.
            angle: Direction of the long axis in radians from the x axis.
            stretch: Long axis over short axis.
        """
        spacing_px = max(self.scene.px(spacing_um), 4.0)
        factor = factor_below(spacing_px / 24)
        sigma = max(spacing_px * 0.07 / factor, 0.5)
        # So far beyond the frame, else its neighbour would round a shared corner differently.
        beyond = int(np.ceil(3 * sigma))
        origin_yx, shape_hw = self.coarse(factor)
        origin_yx = origin_yx[0] - beyond * factor, origin_yx[1] - beyond * factor
        shape_hw = shape_hw[0] + 2 * beyond, shape_hw[1] + 2 * beyond
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin / stretch, cos / stretch]])
        far = origin_yx + factor * (np.array(shape_hw) - 1.0)
        corners = turn @ np.array([[origin_yx[0], origin_yx[0], far[0], far[0]], [origin_yx[1], far[1]] * 2])
        step = np.array([spacing_px * np.sqrt(3) / 2, spacing_px])
        first = np.floor(corners.min(axis=1) / step).astype(np.int64) - 3
        last = np.floor(corners.max(axis=1) / step).astype(np.int64) + 4
        shape = tuple(last - first)
        rows, columns = (grid.ravel() + start for grid, start in zip(np.indices(shape), first, strict=True))
        y, x = node_places(self.scene.seed(purpose), rows, columns, spacing_px, jitter)
        border, label = np.empty(shape_hw, dtype=np.float32), np.empty(shape_hw, dtype=np.int32)
        points_RC2 = np.stack([y, x], axis=-1).reshape(*shape, 2)
        nearest_cells((border, label), np.array([*origin_yx, factor]), points_RC2, first, spacing_px, turn)
        return Cells(
            wide_border_px=border,
            wide_label=label,
            rows=rows,
            columns=columns,
            factor=factor,
            sigma=sigma,
            beyond=beyond,
        )


def factor_below(length_px: float) -> int:
    """The largest power of two that is at most a length, 1 to `GRID_PX`."""
    return int(2 ** np.clip(np.floor(np.log2(max(length_px, 1.0))), 0, np.log2(GRID_PX)))


@dataclass(kw_only=True)
class Layers:
    """Maps of one frame, each (H, W) uint8 with 255 for one, unless said otherwise."""

    frame: Frame
    """Where."""
    depth: np.ndarray
    """Distance from the tissue's edge in pixels, positive inside, about; float32."""
    ftu: np.ndarray
    """Functional tissue units, 0 or 255."""
    lumen: np.ndarray
    """Pale hollows inside them, 0 or 255."""
    cyto: np.ndarray
    """Amount of cytoplasm or fibre; 0 in lumens."""
    nuclei: np.ndarray
    """Share of the places for a nucleus that hold one."""
    epithelium: np.ndarray
    """255 where cells line a lumen: round nuclei, the target of some antibodies."""
    mucin: np.ndarray
    """Mucin and basement membranes: what PAS stains."""
    fibre_angle: float | None = field(default=None)
    """Direction of the long nuclei outside epithelium in radians, or None for any."""
    soft_um: float = SOFT_UM
    """Cytoplasm and membranes fade into their neighbourhood over this length, `SOFT_UM` at most."""
    placed: list[np.ndarray] = field(default_factory=list)
    """Nuclei with a place of their own, (N, 5) each: y, x on the slide, half axes in pixels, direction in radians."""

    def fill(self, outline_P2: np.ndarray, **values: float) -> None:
        """Fill the inside of an outline, in slide pixels, with a value 0 to 1 in each of the named maps."""
        local_P2 = outline_P2 - (self.frame.y0, self.frame.x0)
        for name, value in values.items():
            paint(getattr(self, name), local_P2, round(255 * value))

    def line(self, outline_P2: np.ndarray, width_px: float, closed: bool = True, **values: float) -> None:
        """Draw an outline, in slide pixels, as a line into each of the named maps."""
        local_P2 = outline_P2 - (self.frame.y0, self.frame.x0)
        for name, value in values.items():
            stroke(getattr(self, name), local_P2, round(255 * value), width_px, closed)


def blank_layers(frame: Frame, depth_HW: np.ndarray, *, cyto: float, nuclei: float) -> Layers:
    """Layers of even tissue without any structure."""
    shape = frame.shape_hw
    empty = [np.zeros(shape, dtype=np.uint8) for _ in range(4)]
    return Layers(
        frame=frame,
        depth=depth_HW,
        ftu=empty[0],
        lumen=empty[1],
        cyto=np.full(shape, round(255 * cyto), dtype=np.uint8),
        nuclei=np.full(shape, round(255 * nuclei), dtype=np.uint8),
        epithelium=empty[2],
        mucin=empty[3],
    )


def as_level(values: np.ndarray) -> np.ndarray:
    """Values 0 to 1 as uint8."""
    return (np.clip(values, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
