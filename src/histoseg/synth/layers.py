"""The maps that an organ's plan paints, where its objects may lie, and the objects that every organ has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from histoseg.synth.canvas import Scene, blob_outline, inset, jittered_points, paint


@dataclass(kw_only=True)
class Layers:
    """Maps of one image, each (H, W) float32; 0 to 1 unless said otherwise.

    Attributes:
        depth: Distance from the tissue's edge in pixels, positive inside, about.
        ftu: 1 where a functional tissue unit is, else 0.
        cyto: Amount of cytoplasm or fibre; 0 in lumens.
        nuclei: Share of the places for a nucleus that hold one.
        epithelium: 1 where cells line a lumen: round nuclei, the target of some antibodies.
        mucin: Mucin and basement membranes: what PAS stains.
        fibre_angle: Direction of the long nuclei outside epithelium in radians, or None for any.
    """

    depth: np.ndarray
    ftu: np.ndarray
    cyto: np.ndarray
    nuclei: np.ndarray
    epithelium: np.ndarray
    mucin: np.ndarray
    fibre_angle: float | None = None


def blank_layers(depth_HW: np.ndarray, cyto: float, nuclei: float) -> Layers:
    """Layers of even tissue without any structure."""
    shape = depth_HW.shape
    empty = [np.zeros(shape, dtype=np.float32) for _ in range(3)]
    return Layers(
        depth=depth_HW,
        ftu=empty[0],
        cyto=np.full(shape, cyto, dtype=np.float32),
        nuclei=np.full(shape, nuclei, dtype=np.float32),
        epithelium=empty[1],
        mucin=empty[2],
    )


def lattice_spots(
    rng: np.random.Generator, scene: Scene, layers: Layers, *, spacing_um: float, radius_um: float, keep: float
) -> list[tuple[float, float]]:
    """Centres for FTUs on a jittered lattice inside the tissue; at least one, and that one inside the image."""
    points = jittered_points(rng, scene.shape_hw, max(scene.px(spacing_um), 4.0), jitter=0.12)
    at = points.astype(np.intp)
    fits = (layers.depth[at[:, 0], at[:, 1]] > scene.px(radius_um) * 0.6) & (rng.random(len(points)) < keep)
    chosen = points[fits]
    return [tuple(point) for point in chosen] if len(chosen) else [_deepest_point(layers)]


def _deepest_point(layers: Layers) -> tuple[float, float]:
    """The point farthest from the tissue's and the image's edge, about."""
    height, width = layers.depth.shape
    to_side_y = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
    to_side_x = np.minimum(np.arange(width), np.arange(width)[::-1])[None, :]
    room = np.minimum(layers.depth, np.minimum(to_side_y, to_side_x))
    y, x = np.unravel_index(int(np.argmax(room)), room.shape)
    return float(y), float(x)


def row_spots(
    rng: np.random.Generator,
    scene: Scene,
    layers: Layers,
    angle: float,
    spacing_um: tuple[float, float],
    radius_um: float,
) -> list[tuple[float, float]]:
    """Centres in rows along `angle`; some neighbouring rows on one side of the image are left out."""
    height, width = scene.shape_hw
    row_px, column_px = max(scene.px(spacing_um[0]), 4.0), max(scene.px(spacing_um[1]), 4.0)
    half = np.hypot(height, width) / 2
    rows, columns = np.arange(-half, half, row_px), np.arange(-half, half, column_px)
    across, along = np.meshgrid(rows + rng.uniform(0, row_px), columns + rng.uniform(0, column_px), indexing="ij")
    along = along + rng.uniform(-0.5, 0.5, (len(rows), 1)) * column_px
    across = across + rng.normal(0, 0.05, across.shape) * row_px
    bare = across > rng.uniform(0.15, 0.35) * min(height, width)
    along = along + rng.normal(0, 0.05, along.shape) * column_px
    y = height / 2 + along * np.sin(angle) + across * np.cos(angle)
    x = width / 2 + along * np.cos(angle) - across * np.sin(angle)
    points = np.stack([y, x], axis=-1)[~bare & (rng.random(bare.shape) < 0.93)]
    points = points[((points >= 0) & (points < [height, width])).all(axis=1)]
    at = points.astype(np.intp)
    points = points[layers.depth[at[:, 0], at[:, 1]] > scene.px(radius_um) * 0.6]
    return [tuple(point) for point in points] if len(points) else [_deepest_point(layers)]


def free_outlines(
    rng: np.random.Generator,
    scene: Scene,
    layers: Layers,
    draw: Callable[[tuple[float, float]], np.ndarray],
    wanted: int,
) -> Iterator[np.ndarray]:
    """Outlines in the tissue that touch no FTU.

    Args:
        rng: Source of the places.
        scene: The grid.
        layers: Where the FTUs are; those painted between two outlines count, too.
        draw: Makes an outline round a centre.
        wanted: How many at most; fewer where there is no room.

    Yields:
        Outlines, (P, 2).
    """
    height, width = scene.shape_hw
    for _ in range(wanted):
        for y, x in rng.uniform(0, 1, (16, 2)) * (height - 1, width - 1):
            outline = draw((y, x))
            # The centre and a rim a little wider than the outline: FTUs are too large to slip between these points.
            probes = np.concatenate([inset(outline, -scene.px(6)), outline, [[y, x]]])
            at = np.clip(np.round(probes).astype(np.intp), 0, (height - 1, width - 1))
            in_tissue = layers.depth[at[:, 0], at[:, 1]] > 0
            if in_tissue.all() and not layers.ftu[at[:, 0], at[:, 1]].any():
                yield outline
                break


def add_lymphoid(layers: Layers, outline: np.ndarray) -> None:
    """Packed round nuclei inside an outline (P, 2)."""
    paint(layers.nuclei, outline, 0.95)
    paint(layers.cyto, outline, 0.32)
    paint(layers.epithelium, outline, 0)
    paint(layers.mucin, outline, 0)


def add_vessel(rng: np.random.Generator, layers: Layers, outer: np.ndarray) -> None:
    """A smooth wall of muscle inside an outline (P, 2), its lumen empty or full of red cells."""
    radius_px = float(np.hypot(*(outer - outer.mean(axis=0)).T).mean())
    lumen = inset(outer, radius_px * rng.uniform(0.25, 0.5))
    filling = 0.03 if rng.random() < 0.6 else 0.8
    for map_HW, wall, hollow in (
        (layers.cyto, 0.8, filling),
        (layers.nuclei, 0.16, 0.0),
        (layers.epithelium, 0, 0),
        (layers.mucin, 0.3, 0.0),
    ):
        paint(map_HW, outer, wall)
        paint(map_HW, lumen, hollow)


def add_distractors(rng: np.random.Generator, scene: Scene, layers: Layers) -> None:
    """What is no FTU though it has an FTU's colours: vessels with a pale lumen, small clusters of nuclei."""

    def draw(centre_yx: tuple[float, float]) -> np.ndarray:
        radius_px, stretch, angle = scene.px(rng.uniform(24, 47)), rng.uniform(1, 1.5), rng.uniform(0, np.pi)
        return blob_outline(rng, centre_yx, radius_px, wobble=0.1, stretch=stretch, angle=angle)

    vessels = max(2, round(scene.area_mm2 * rng.uniform(4, 8)))
    for outline in free_outlines(rng, scene, layers, draw, vessels):
        add_vessel(rng, layers, outline)
    clusters = max(2, round(scene.area_mm2 * rng.uniform(4, 9)))
    for outline in free_outlines(rng, scene, layers, draw, clusters):
        add_lymphoid(layers, outline)
