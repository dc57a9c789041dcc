"""Objects that every organ has and that are no functional tissue units: vessels and clusters of lymphocytes."""

from __future__ import annotations

import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import stream
from histofold.synth.drawing.sites import Objects, free_places

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
