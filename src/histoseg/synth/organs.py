"""What each organ looks like: tissue, its functional tissue units (FTU) and what is easily taken for one.

A plan paints `Layers`; it knows nothing of stains or of noise. Sizes are those of real anatomy in um. Every plan leaves
at least one FTU in the image, whatever the image's size.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from histoseg.synth.canvas import (
    Scene,
    blob_outline,
    ellipse_templates,
    fibres,
    fractal_noise,
    inset,
    jittered_points,
    paint,
    stamp,
    stroke,
    voronoi_cells,
)
from histoseg.synth.layers import (
    Layers,
    add_distractors,
    add_lymphoid,
    add_vessel,
    blank_layers,
    free_outlines,
    lattice_spots,
    row_spots,
)


def plan_organ(rng: np.random.Generator, scene: Scene, organ: str, depth_HW: np.ndarray) -> Layers:
    """Lay out one image.

    Args:
        rng: Source of the layout.
        scene: The grid.
        organ: A key of `ORGAN_PLANS`.
        depth_HW: Distance from the tissue's edge in pixels, (H, W) float32.

    Returns:
        The layers; the FTUs lie inside the tissue and there is at least one.

    Raises:
        ValueError: The organ is not known.
    """
    if organ not in ORGAN_PLANS:
        raise ValueError(f"organ {organ!r} is not one of {', '.join(ORGAN_PLANS)}")
    layers = ORGAN_PLANS[organ](rng, scene, depth_HW)
    layers.ftu *= depth_HW > 0
    add_distractors(rng, scene, layers)
    return layers


def _plan_kidney(rng: np.random.Generator, scene: Scene, depth_HW: np.ndarray) -> Layers:
    """Cortex: tubules with lumens, and glomeruli: a round cellular tuft in a pale space with a capsule."""
    layers = blank_layers(depth_HW, cyto=0.3, nuclei=0.15)
    border_px, cell_HW, count = voronoi_cells(rng, scene, 62)
    open_cell = rng.random(count) < 0.65
    tint = rng.uniform(0.55, 0.85, count).astype(np.float32)
    wall = border_px > scene.px(3)
    lumen = (border_px > scene.px(19)) & open_cell[cell_HW]
    layers.cyto[wall] = tint[cell_HW[wall]]
    layers.nuclei[wall] = 0.06
    layers.nuclei[(border_px > scene.px(7)) & (border_px < scene.px(14))] = 0.28
    layers.cyto[lumen], layers.nuclei[lumen] = 0.08, 0.0
    layers.epithelium[wall & ~lumen] = 1.0
    layers.mucin[np.abs(border_px - scene.px(4)) < scene.px(2)] = 0.6
    for centre in lattice_spots(rng, scene, layers, spacing_um=330, radius_um=90, keep=0.75):
        _add_glomerulus(rng, scene, layers, centre)
    return layers


def _add_glomerulus(rng: np.random.Generator, scene: Scene, layers: Layers, centre: tuple[float, float]) -> None:
    outer = blob_outline(rng, centre, scene.px(rng.uniform(80, 110)), wobble=0.05, stretch=rng.uniform(1.0, 1.2))
    tuft = inset(outer, scene.px(rng.uniform(14, 24))) + rng.normal(0, scene.px(3), 2)
    paint(layers.ftu, outer, 1)
    for map_HW, space, capsule, body in (
        (layers.cyto, 0.06, 0.8, 0.5),
        (layers.nuclei, 0.0, 0.5, 0.85),
        (layers.epithelium, 0, 0, 0),
        (layers.mucin, 0, 0.9, 0.25),
    ):
        paint(map_HW, outer, space)
        stroke(map_HW, outer, capsule, scene.px(5))
        paint(map_HW, tuft, body)
    # Capillary loops: pale holes that break the tuft into lobules.
    reach = np.abs(tuft - tuft.mean(axis=0)).max()
    for hole in tuft.mean(axis=0) + rng.uniform(-reach, reach, (18, 2)) * 0.75:
        loop = blob_outline(rng, hole, scene.px(rng.uniform(4, 8)), wobble=0.1)
        paint(layers.cyto, loop, 0.15)
        paint(layers.nuclei, loop, 0.0)
        stroke(layers.mucin, loop, 0.7, scene.px(2))


def _plan_largeintestine(rng: np.random.Generator, scene: Scene, depth_HW: np.ndarray) -> Layers:
    """Mucosa: rows of crypts with goblet holes in a cellular lamina propria, over a band of muscle."""
    angle = rng.uniform(0, np.pi)
    layers = blank_layers(depth_HW, cyto=0.42, nuclei=0.34)
    layers.fibre_angle = angle
    along = rng.random() < 0.6
    row_um, column_um = (300, 105) if along else (120, 110)
    for centre in row_spots(rng, scene, layers, angle, (row_um, column_um), radius_um=50):
        stretch = rng.uniform(2.3, 3.1) if along else rng.uniform(1.0, 1.3)
        radius_px = scene.px(rng.uniform(37, 46))
        tilt = angle + np.pi / 2 + rng.normal(0, 0.06)
        _add_crypt(rng, scene, layers, blob_outline(rng, centre, radius_px, wobble=0.05, stretch=stretch, angle=tilt))
    _add_goblets(rng, scene, layers)
    _add_muscle(rng, scene, layers, angle)
    return layers


def _add_crypt(rng: np.random.Generator, scene: Scene, layers: Layers, outer: np.ndarray) -> None:
    lumen = inset(outer, scene.px(rng.uniform(27, 33)))
    rim = inset(outer, scene.px(11))
    stroke(layers.mucin, outer, 0.5, scene.px(4))
    for map_HW, edge, body, hollow in (
        (layers.ftu, 1, 1, 1),
        (layers.cyto, 0.6, 0.55, 0.1),
        (layers.nuclei, 0.9, 0.04, 0.0),
        (layers.epithelium, 1, 1, 0),
    ):
        paint(map_HW, outer, edge)
        paint(map_HW, rim, body)
        paint(map_HW, lumen, hollow)
    paint(layers.mucin, lumen, 0.3)


def _add_goblets(rng: np.random.Generator, scene: Scene, layers: Layers) -> None:
    """Pale round holes full of mucin, in the crypts' walls only."""
    points = jittered_points(rng, scene.shape_hw, max(scene.px(21), 3.0))
    at = points.astype(np.intp)
    wall = (layers.epithelium[at[:, 0], at[:, 1]] > 0) & (layers.nuclei[at[:, 0], at[:, 1]] < 0.5)
    points = points[wall & (rng.random(len(points)) < 0.8)]
    holes = np.zeros(scene.shape_hw, dtype=np.float32)
    stamp(holes, points, ellipse_templates(rng, scene.px(17), 1.3, None), np.ones(len(points), dtype=np.float32))
    layers.cyto *= 1 - 0.85 * holes
    layers.nuclei[holes > 0.3] = 0.0
    layers.mucin += holes * (0.9 - layers.mucin)


def _add_muscle(rng: np.random.Generator, scene: Scene, layers: Layers, angle: float) -> None:
    """Smooth muscle wherever no row of crypts came: fibres and few nuclei."""
    reach = max(3, round(scene.px(110)) | 1)
    small = cv2.resize(layers.ftu, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    near = cv2.blur(small, (max(3, reach // 4 | 1),) * 2, borderType=cv2.BORDER_REFLECT)
    muscle = cv2.resize(near, scene.shape_hw[::-1], interpolation=cv2.INTER_LINEAR) < 0.03
    muscle &= layers.ftu == 0
    strands = 0.62 + 0.15 * fibres(rng, scene, 16, angle)
    layers.cyto[muscle] = strands[muscle]
    layers.nuclei[muscle] = 0.09


def _plan_lung(rng: np.random.Generator, scene: Scene, depth_HW: np.ndarray) -> Layers:
    """Alveoli: large pale polygons between thin septa; solid tissue with airways and tears beside them."""
    layers = blank_layers(depth_HW, cyto=0.5, nuclei=0.2)
    layers.fibre_angle = rng.uniform(0, np.pi)
    layers.cyto += 0.12 * fibres(rng, scene, 22, layers.fibre_angle)
    border_px, cell_HW, count = voronoi_cells(rng, scene, rng.uniform(120, 160))
    airy = _airy_cells(rng, scene, layers, cell_HW, count)
    wall_px = scene.px(9) * np.clip(1 + 0.45 * fractal_noise(rng, scene.shape_hw, scene.px(80), octaves=3), 0.2, 2)
    alveolus = airy & (border_px > wall_px)
    septum = airy & ~alveolus
    layers.cyto[septum], layers.nuclei[septum] = 0.62, 0.5
    # A trace of protein: not quite the white of bare glass.
    layers.cyto[alveolus], layers.nuclei[alveolus] = 0.09, 0.012
    # Some are full of fluid: pink, not pale, and yet alveoli.
    wet = alveolus & (rng.random(count) < 0.16)[cell_HW]
    layers.cyto[wet] = 0.33
    layers.epithelium[septum] = 1.0
    layers.ftu[airy & (border_px > 0.4 * wall_px)] = 1

    def draw_airway(centre_yx: tuple[float, float]) -> np.ndarray:
        radius_px, stretch, angle = scene.px(rng.uniform(55, 105)), rng.uniform(1, 1.5), rng.uniform(0, np.pi)
        return blob_outline(rng, centre_yx, radius_px, wobble=0.09, stretch=stretch, angle=angle)

    for outline in free_outlines(rng, scene, layers, draw_airway, max(1, round(scene.area_mm2 * 4))):
        _add_airway(rng, scene, layers, outline)
    return layers


def _airy_cells(rng: np.random.Generator, scene: Scene, layers: Layers, cell_HW: np.ndarray, count: int) -> np.ndarray:
    """True in the cells that are alveoli: whole cells, in large patches, about two thirds of the tissue."""
    noise = fractal_noise(rng, scene.shape_hw, scene.px(900), octaves=2)
    inside = layers.depth > scene.px(70)
    if not inside.any():
        inside = layers.depth >= np.percentile(layers.depth, 90)
    size = np.maximum(np.bincount(cell_HW.ravel(), minlength=count), 1)
    level = np.bincount(cell_HW.ravel(), weights=noise.ravel(), minlength=count) / size
    whole = np.bincount(cell_HW.ravel(), weights=inside.ravel(), minlength=count) > 0.7 * size
    present = np.unique(cell_HW[inside])
    whole[present[np.argmax(size[present])]] = True
    limit = np.quantile(level[whole], rng.uniform(0.25, 0.45))
    return (whole & (level >= limit))[cell_HW]


def _add_airway(rng: np.random.Generator, scene: Scene, layers: Layers, outer: np.ndarray) -> None:
    """A bronchiole: a pale lumen as wide as an alveolus, but with a thick cellular wall. Or a tear: no wall at all."""
    if rng.random() < 0.35:
        paint(layers.cyto, outer, 0.03)
        paint(layers.nuclei, outer, 0.0)
        return
    rim, lumen = inset(outer, scene.px(14)), inset(outer, scene.px(32))
    for map_HW, muscle, wall, hollow in (
        (layers.cyto, 0.75, 0.6, 0.02),
        (layers.nuclei, 0.1, 0.85, 0.0),
        (layers.epithelium, 0, 1, 0),
    ):
        paint(map_HW, outer, muscle)
        paint(map_HW, rim, wall)
        paint(map_HW, lumen, hollow)


def _plan_spleen(rng: np.random.Generator, scene: Scene, depth_HW: np.ndarray) -> Layers:
    """Red pulp with sinuses and trabeculae, and white pulp: large patches of densely packed nuclei."""
    layers = blank_layers(depth_HW, cyto=0.55, nuclei=0.2)
    sinus = fractal_noise(rng, scene.shape_hw, scene.px(60), octaves=3) > 0.9
    layers.cyto[sinus], layers.nuclei[sinus] = 0.12, 0.05
    _add_trabeculae(rng, scene, layers)
    for centre in lattice_spots(rng, scene, layers, spacing_um=480, radius_um=140, keep=0.75):
        outline = blob_outline(
            rng,
            centre,
            scene.px(rng.uniform(100, 165)),
            wobble=0.13,
            stretch=rng.uniform(1, 1.5),
            angle=rng.uniform(0, np.pi),
        )
        add_lymphoid(layers, outline)
        paint(layers.ftu, outline, 1)
        if rng.random() < 0.5:
            centre_HW = inset(outline, scene.px(60), least=0.3)
            paint(layers.nuclei, centre_HW, 0.6)
            paint(layers.cyto, centre_HW, 0.36)
        off_centre = outline.mean(axis=0) + rng.normal(0, scene.px(30), 2)
        add_vessel(rng, layers, blob_outline(rng, off_centre, scene.px(rng.uniform(14, 22))))
    return layers


def _add_trabeculae(rng: np.random.Generator, scene: Scene, layers: Layers) -> None:
    """Thick bands of fibre that cross the image."""
    for _ in range(int(rng.integers(1, 4))):
        start = rng.uniform(0, 1, 2) * scene.shape_hw
        direction = rng.uniform(0, 2 * np.pi)
        steps = np.arange(24)[:, None] * scene.px(40)
        bend = np.cumsum(rng.normal(0, 0.12, 24))[:, None] + direction
        line = start + np.cumsum(np.concatenate([np.sin(bend), np.cos(bend)], axis=1) * steps[1], axis=0)
        width_px = scene.px(rng.uniform(25, 55))
        stroke(layers.cyto, line, 0.85, width_px, closed=False)
        stroke(layers.nuclei, line, 0.07, width_px, closed=False)
        stroke(layers.mucin, line, 0.3, width_px, closed=False)


def _plan_prostate(rng: np.random.Generator, scene: Scene, depth_HW: np.ndarray) -> Layers:
    """Fibromuscular stroma with large irregular glands, their walls folded into the lumen."""
    layers = blank_layers(depth_HW, cyto=0.6, nuclei=0.13)
    layers.fibre_angle = rng.uniform(0, np.pi)
    layers.cyto += 0.16 * fibres(rng, scene, 18, layers.fibre_angle)
    for centre in lattice_spots(rng, scene, layers, spacing_um=290, radius_um=90, keep=0.8):
        _add_gland(rng, scene, layers, centre)
    return layers


def _add_gland(rng: np.random.Generator, scene: Scene, layers: Layers, centre: tuple[float, float]) -> None:
    radius_px = scene.px(rng.uniform(65, 115))
    outer = blob_outline(
        rng, centre, radius_px, wobble=0.16, harmonics=7, stretch=rng.uniform(1, 1.5), angle=rng.uniform(0, np.pi)
    )
    rim = inset(outer, scene.px(10))
    fold = 1 + 0.45 * np.sin(np.linspace(0, 2 * np.pi * rng.integers(8, 15), len(outer)) + rng.uniform(0, 6))
    lumen = inset(outer, scene.px(10) + scene.px(19) * fold, least=0.3)
    for map_HW, edge, body, hollow in (
        (layers.ftu, 1, 1, 1),
        (layers.cyto, 0.55, 0.5, 0.09),
        (layers.nuclei, 0.75, 0.22, 0.0),
        (layers.epithelium, 1, 1, 0),
        (layers.mucin, 0.15, 0.15, 0.0),
    ):
        paint(map_HW, outer, edge)
        paint(map_HW, rim, body)
        paint(map_HW, lumen, hollow)
    if rng.random() < 0.25:
        stone = blob_outline(rng, tuple(lumen.mean(axis=0)), scene.px(rng.uniform(9, 20)), wobble=0.04)
        paint(layers.cyto, stone, 0.85)


ORGAN_PLANS: dict[str, Callable[[np.random.Generator, Scene, np.ndarray], Layers]] = {
    "kidney": _plan_kidney,
    "largeintestine": _plan_largeintestine,
    "lung": _plan_lung,
    "prostate": _plan_prostate,
    "spleen": _plan_spleen,
}
