"""Where a slide's objects lie, decided before any of it is drawn; and the objects that every organ has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Frame, Layers, Scene
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import jittered_nodes, stream, uniform_at

# Draws one object: its generator, the maps, its centre (y, x) in slide pixels and its index.
Draw = Callable[[np.random.Generator, Layers, np.ndarray, int], None]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Objects of one kind."""

    name: str
    """Of the kind; no two kinds of a slide share it."""
    points: np.ndarray
    """Centres (y, x) in drawn pixels, (N, 2) float64, sorted by y."""
    reach_px: float
    """No object reaches farther from its centre."""
    draw: Draw
    """Draws one of them."""

    def draw_on(self, layers: Layers) -> None:
        """Draw those that touch the frame, in their order."""
        frame = layers.frame
        low = np.array([frame.y0, frame.x0]) - self.reach_px
        high = np.array([frame.y0, frame.x0]) + frame.shape_hw + self.reach_px
        first, last = np.searchsorted(self.points[:, 0], [low[0], high[0]])
        across = self.points[first:last, 1]
        for index in np.flatnonzero((across >= low[1]) & (across <= high[1])) + first:
            rng = stream(frame.scene.key, self.name, int(index))
            self.draw(rng, layers, self.points[index], int(index))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What lies where on a slide of an organ."""

    scene: Scene
    """The slide."""
    ground: Ground
    """Tissue and zones."""
    units: np.ndarray
    """Centres of the functional tissue units, (N, 2)."""
    unit_px: float
    """Their largest radius in drawn pixels."""
    objects: tuple[Objects, ...]
    """All that is drawn one by one, in the order of drawing."""
    base: Callable[[Frame, np.ndarray], Layers]
    """Draws what has no place of its own, before the objects."""
    finish: Callable[[Layers], None] = field(default=lambda layers: None)
    """Draws what the objects decide, after them."""
    outlines: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    """Of organs whose objects are counted one by one: outlines (P, 2) of points (y, x) in drawn pixels, by kind."""

    def lay(self, frame: Frame, depth_HW: np.ndarray) -> Layers:
        """Draw the layers of a frame, the distance from the tissue's edge given."""
        layers = self.base(frame, depth_HW)
        for objects in self.objects:
            objects.draw_on(layers)
        self.finish(layers)
        return layers


def by_row(points_N2: np.ndarray) -> np.ndarray:
    """Points sorted by y."""
    return points_N2[np.argsort(points_N2[:, 0], kind="stable")]


def lattice_units(
    ground: Ground, purpose: str, *, spacing_um: float, radius_um: float, keep: float, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Centres for functional tissue units on a jittered lattice inside the tissue; at least one, inside the slide.

    Args:
        ground: Where the tissue is.
        purpose: Names the lattice.
        spacing_um: Distance of neighbours.
        radius_um: Of a unit; its centre lies at least 0.6 of it inside the tissue.
        keep: Share of the places that are taken.
        allowed: A map of the ground, positive where units may lie; everywhere by default.

    Returns:
        (N, 2) float64, sorted by y.
    """
    scene = ground.scene
    seed = scene.seed(purpose)
    points, rows, columns = jittered_nodes(seed, (0.0, 0.0), scene.shape_hw, max(scene.px(spacing_um), 4.0), 0.12)
    kept = uniform_at(scene.seed(purpose + " kept"), rows, columns) < keep
    return inside_tissue(ground, points[kept], radius_um, allowed)


def inside_tissue(
    ground: Ground, points_N2: np.ndarray, radius_um: float, allowed: np.ndarray | None = None
) -> np.ndarray:
    """The points whose unit fits into the tissue and the slide, sorted by y; the deepest place if there is none."""
    scene = ground.scene
    points = points_N2[((points_N2 >= 0) & (points_N2 <= np.array(scene.shape_hw) - 1)).all(axis=1)]
    if len(points):
        fits = ground.at(ground.depth, points) > 0.6 * scene.px(radius_um)
        if allowed is not None:
            fits &= ground.at(allowed, points) > 0
        points = points[fits]
    return by_row(points) if len(points) else np.array([ground.deepest()])


def free_places(
    ground: Ground, purpose: str, *, per_mm2: float, clear_um: float, units: np.ndarray, unit_px: float
) -> np.ndarray:
    """Random places in the tissue, away from all units.

    Args:
        ground: Where the tissue is.
        purpose: Names the places.
        per_mm2: How many a mm2, at most; up to two on a field however small.
        clear_um: Room that is needed round a place.
        units: Centres of the units, (N, 2).
        unit_px: Their largest radius.

    Returns:
        (N, 2) float64, sorted by y; may be empty.
    """
    scene = ground.scene
    rng = stream(scene.key, purpose)
    wanted = round(scene.area_mm2 * per_mm2)
    # Small fields get more tries, or most would have nothing; on wide ones more would crowd where no unit is.
    tries = max(32, round(1.5 * wanted))
    points = rng.uniform(0, 1, (tries, 2)) * scene.shape_hw
    clear_px = scene.px(clear_um)
    points = points[ground.at(ground.depth, points) > 0.7 * clear_px]
    if len(units) and len(points):
        away, _ = cKDTree(units).query(points)
        points = points[away > unit_px + clear_px]
    return by_row(points[: max(2, wanted)])


_LARGEST_UM = 47 * 1.5 * 1.2


def distractors(ground: Ground, units: np.ndarray, unit_px: float, scale: float = 1.0) -> tuple[Objects, Objects]:
    """What is no unit though it has a unit's colours: vessels with a pale lumen, small clusters of nuclei.

    Args:
        ground: Where the tissue is.
        units: Centres of the units, (N, 2); the distractors keep away from them.
        unit_px: Their largest radius.
        scale: How many over the usual number.
    """
    rng = stream(ground.scene.key, "distractors")
    vessels, clusters = (
        free_places(ground, kind, per_mm2=scale * rng.uniform(4, most), clear_um=60, units=units, unit_px=unit_px)
        for kind, most in (("vessels", 8), ("clusters", 9))
    )
    reach_px = ground.scene.px(_LARGEST_UM) + 2
    return (
        Objects(name="vessel", points=vessels, reach_px=reach_px, draw=_draw_vessel),
        Objects(name="cluster", points=clusters, reach_px=reach_px, draw=_draw_cluster),
    )


def _outline(rng: np.random.Generator, layers: Layers, centre: np.ndarray) -> np.ndarray:
    radius_px = layers.frame.scene.px(rng.uniform(24, 47))
    stretch, angle = rng.uniform(1, 1.5), rng.uniform(0, np.pi)
    return blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.08, stretch=stretch, angle=angle)


def _draw_vessel(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    add_vessel(rng, layers, _outline(rng, layers, centre))


def _draw_cluster(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    add_lymphoid(layers, _outline(rng, layers, centre))


def add_lymphoid(layers: Layers, outline: np.ndarray) -> None:
    """Packed round nuclei inside an outline (P, 2)."""
    layers.fill(outline, nuclei=0.95, cyto=0.32, epithelium=0, mucin=0)


def add_vessel(rng: np.random.Generator, layers: Layers, outer: np.ndarray) -> None:
    """A smooth wall of muscle inside an outline (P, 2), its lumen empty or full of red cells."""
    radius_px = float(np.hypot(*(outer - outer.mean(axis=0)).T).mean())
    hollow = inset(outer, radius_px * rng.uniform(0.25, 0.5))
    filling = 0.03 if rng.random() < 0.6 else 0.8
    layers.fill(outer, cyto=0.8, nuclei=0.16, epithelium=0, mucin=0.3)
    layers.fill(hollow, cyto=filling, nuclei=0, epithelium=0, mucin=0)
