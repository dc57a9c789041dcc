"""Organs of glands: the large intestine's crypts in rows, and the prostate's large irregular glands."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Frame, Layers, as_level, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import stamp_ellipses, stream, uniform_at
from histofold.synth.drawing.sites import Objects, Plan, distractors, inside_tissue, lattice_units

_CRYPT_UM = 46 * 3.1 * 1.15


def plan_largeintestine(ground: Ground) -> Plan:
    """Crypts cut along or across, in rows that bend on wide fields."""
    scene = ground.scene
    rng = stream(scene.key, "rows")
    angle, along = rng.uniform(0, np.pi), rng.random() < 0.6
    mucosa = _mucosa(ground, rng, angle)
    spots = _row_spots(ground, rng, angle, (300, 105) if along else (120, 110))
    units, angles = _with_angles(ground, inside_tissue(ground, spots, 50, mucosa - scene.px(50)), angle)
    # Only the shape along the long axis is that long; half of it is the usual distance to a row's neighbour.
    unit_px = scene.px(_CRYPT_UM if along else 46 * 1.3 * 1.15)
    draw = partial(_draw_crypt, angles, (2.3, 3.1) if along else (1.0, 1.3))
    objects = (
        Objects(name="crypt", points=units, reach_px=scene.px(_CRYPT_UM) + 4, draw=draw),
        *distractors(ground, units, unit_px),
    )
    base = partial(_lay_mucosa, ground, mucosa, angle)
    return Plan(
        scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=base, finish=_add_goblets
    )


def _mucosa(ground: Ground, rng: np.random.Generator, angle: float) -> np.ndarray:
    """Distance from the border of the mucosa in drawn pixels, positive inside, on the ground's map."""
    scene = ground.scene
    if ground.is_section:
        return (ground.noise("mucosa", scene.px(3000), octaves=3) + 0.25) * scene.px(900)
    height, width = scene.shape_hw
    y = (np.arange(ground.depth.shape[0])[:, None] + 0.5) * ground.cell_px - height / 2
    x = (np.arange(ground.depth.shape[1])[None, :] + 0.5) * ground.cell_px - width / 2
    limit = rng.uniform(0.15, 0.35) * min(height, width)
    return (limit + x * np.sin(angle) - y * np.cos(angle)).astype(np.float32)


def _row_spots(ground: Ground, rng: np.random.Generator, angle: float, spacing_um: tuple[float, float]) -> np.ndarray:
    """Places in rows along `angle`, (N, 2), on a plane that is not bent yet."""
    scene = ground.scene
    height, width = scene.shape_hw
    row_px, column_px = (max(scene.px(length_um), 4.0) for length_um in spacing_um)
    half = np.hypot(height, width) / 2
    rows, columns = np.arange(-half, half, row_px), np.arange(-half, half, column_px)
    across, along = np.meshgrid(rows + rng.uniform(0, row_px), columns + rng.uniform(0, column_px), indexing="ij")
    along = along + rng.uniform(-0.5, 0.5, (len(rows), 1)) * column_px
    across = across + rng.normal(0, 0.05, across.shape) * row_px
    along = along + rng.normal(0, 0.05, along.shape) * column_px
    y = height / 2 + along * np.sin(angle) + across * np.cos(angle)
    x = width / 2 + along * np.cos(angle) - across * np.sin(angle)
    points = np.stack([y, x], axis=-1)[rng.random(across.shape) < 0.93]
    return points + _bend(ground, points)


def _bend(ground: Ground, points_N2: np.ndarray) -> np.ndarray:
    """How far wide fields are bent at points, (N, 2) in drawn pixels."""
    reach_px = ground.scene.px(150)
    wavelength_px = ground.scene.px(2500)
    return np.stack(
        [reach_px * ground.at(ground.noise(name, wavelength_px), points_N2) for name in ("bend y", "bend x")], axis=1
    )


def _with_angles(ground: Ground, units: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The units and the direction of each one's long axis: across its row, which is bent with the field."""
    step = ground.scene.px(100) * np.array([np.sin(angle), np.cos(angle)])
    row = 2 * step + _bend(ground, units + step) - _bend(ground, units - step)
    return units, np.arctan2(row[:, 0], row[:, 1]) + np.pi / 2


def _lay_mucosa(ground: Ground, mucosa: np.ndarray, angle: float, frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Cellular ground of the mucosa; smooth muscle, with fibres and few nuclei, beside it."""
    layers = blank_layers(frame, depth_HW, cyto=0.42, nuclei=0.28)
    layers.fibre_angle = angle
    muscle = ground.on(mucosa, frame) < -frame.scene.px(60)
    if muscle.any():
        strands = as_level(0.62 + 0.15 * frame.fibres("muscle", 16, angle))
        np.copyto(layers.cyto, strands, where=muscle)
        layers.nuclei[muscle] = round(255 * 0.09)
    return layers


def _draw_crypt(
    angles: np.ndarray,
    stretch: tuple[float, float],
    rng: np.random.Generator,
    layers: Layers,
    centre: np.ndarray,
    index: int,
) -> None:
    px = layers.frame.scene.px
    outer = blob_outline(
        rng,
        (centre[0], centre[1]),
        px(rng.uniform(37, 46)),
        wobble=0.05,
        stretch=rng.uniform(*stretch),
        angle=angles[index] + rng.normal(0, 0.06),
    )
    layers.line(outer, px(4), mucin=0.5)
    layers.fill(outer, ftu=1, cyto=0.6, nuclei=0.9, epithelium=1)
    layers.fill(inset(outer, px(11)), cyto=0.55, nuclei=0.04)
    layers.fill(inset(outer, px(rng.uniform(27, 33))), lumen=1, cyto=0.1, nuclei=0, epithelium=0, mucin=0.3)


def _add_goblets(layers: Layers) -> None:
    """Pale round holes full of mucin, in the crypts' walls only."""
    frame, scene = layers.frame, layers.frame.scene
    points, rows, columns = frame.nodes("goblets", max(scene.px(21), 3.0))
    y, x = points.astype(np.intp).T
    chosen = (layers.epithelium[y, x] > 0) & (layers.nuclei[y, x] < 128)
    chosen &= uniform_at(scene.seed("goblet kept"), rows, columns) < 0.8
    points, rows, columns = points[chosen], rows[chosen], columns[chosen]
    size = scene.px(8.5) * (0.7 + 0.5 * uniform_at(scene.seed("goblet size"), rows, columns)).astype(np.float64)
    turn = np.pi * uniform_at(scene.seed("goblet turn"), rows, columns).astype(np.float64)
    holes = np.zeros(frame.shape_hw, dtype=np.uint8)
    radii = np.stack([size * 1.14, size / 1.14], axis=1)
    stamp_ellipses(holes, points, radii, turn, np.full(len(points), 255.0))
    cv2.multiply(layers.cyto, 255 - cv2.convertScaleAbs(holes, alpha=0.85), dst=layers.cyto, scale=1 / 255)
    layers.nuclei[holes > 77] = 0
    np.maximum(layers.mucin, cv2.convertScaleAbs(holes, alpha=0.9), out=layers.mucin)


_GLAND_UM = 115 * 1.5 * 1.25


def plan_prostate(ground: Ground) -> Plan:
    """Glands on a loose lattice."""
    scene = ground.scene
    units = lattice_units(ground, "glands", spacing_um=290, radius_um=90, keep=0.8)
    unit_px = scene.px(_GLAND_UM)
    objects = (
        Objects(name="gland", points=units, reach_px=unit_px + 4, draw=_draw_gland),
        *distractors(ground, units, scene.px(115 * 1.2), scale=1.5),
    )
    base = partial(_lay_stroma, stream(scene.key, "stroma").uniform(0, np.pi))
    return Plan(scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=base)


def _lay_stroma(angle: float, frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Bundles of muscle and fibre."""
    layers = blank_layers(frame, depth_HW, cyto=0.6, nuclei=0.13)
    layers.fibre_angle = angle
    layers.cyto = as_level(0.6 + 0.16 * frame.fibres("stroma", 18, angle))
    return layers


def _draw_gland(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    px = layers.frame.scene.px
    outer = blob_outline(
        rng,
        (centre[0], centre[1]),
        px(rng.uniform(65, 115)),
        wobble=0.16,
        harmonics=7,
        stretch=rng.uniform(1, 1.5),
        angle=rng.uniform(0, np.pi),
    )
    folds = 1 + 0.45 * np.sin(np.linspace(0, 2 * np.pi * rng.integers(8, 15), len(outer)) + rng.uniform(0, 6))
    lumen = inset(outer, px(10) + px(19) * folds, least=0.3)
    layers.fill(outer, ftu=1, cyto=0.55, nuclei=0.75, epithelium=1, mucin=0.15)
    layers.fill(inset(outer, px(10)), cyto=0.5, nuclei=0.22)
    layers.fill(lumen, lumen=1, cyto=0.09, nuclei=0, epithelium=0, mucin=0)
    if rng.random() < 0.25:
        middle = lumen.mean(axis=0)
        stone = blob_outline(rng, (middle[0], middle[1]), px(rng.uniform(9, 20)), wobble=0.04)
        layers.fill(stone, cyto=0.85)
