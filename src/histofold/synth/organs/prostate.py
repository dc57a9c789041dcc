"""Prostate: large irregular glands, their walls folded into the lumen, in fibromuscular stroma."""

from __future__ import annotations

from functools import partial

import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Frame, Layers, as_level, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.lattice import stream
from histofold.synth.drawing.sites import Objects, Plan, lattice_units
from histofold.synth.organs.distractors import distractors

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
