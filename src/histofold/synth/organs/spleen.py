"""Spleen: white pulp, large patches of densely packed nuclei with a central arteriole, in red pulp with sinuses."""

from __future__ import annotations

from functools import partial

import numpy as np

from histofold.synth.drawing.canvas import blob_outline, inset
from histofold.synth.drawing.frame import Frame, Layers, blank_layers
from histofold.synth.drawing.ground import Ground
from histofold.synth.drawing.sites import (
    Objects,
    Plan,
    add_lymphoid,
    add_vessel,
    distractors,
    free_places,
    lattice_units,
)

_PULP_UM = 165 * 1.5 * 1.25
_TRABECULA_UM, _TRABECULA_STEPS = 40.0, 24


def plan_spleen(ground: Ground) -> Plan:
    """White pulp on a loose lattice; trabeculae cross the red pulp."""
    scene = ground.scene
    units = lattice_units(ground, "white pulp", spacing_um=480, radius_um=140, keep=0.75)
    unit_px = scene.px(_PULP_UM)
    beams = free_places(ground, "beams", per_mm2=1.4, clear_um=20, units=units[:0], unit_px=0)
    reach_px = scene.px(_TRABECULA_UM * _TRABECULA_STEPS + 60)
    objects = (
        Objects(name="beam", points=beams, reach_px=reach_px, draw=_draw_trabecula),
        Objects(name="pulp", points=units, reach_px=unit_px + 4, draw=_draw_pulp),
        *distractors(ground, units, scene.px(165 * 1.3)),
    )
    return Plan(scene=scene, ground=ground, units=units, unit_px=unit_px, objects=objects, base=partial(_lay_red_pulp))


def _lay_red_pulp(frame: Frame, depth_HW: np.ndarray) -> Layers:
    """Loose cells, and sinuses that are holes in them."""
    layers = blank_layers(frame, depth_HW, cyto=0.55, nuclei=0.2)
    sinus = frame.noise("sinus", frame.scene.px(60), octaves=3) > 0.78
    np.copyto(layers.cyto, round(255 * 0.12), where=sinus)
    np.copyto(layers.nuclei, round(255 * 0.05), where=sinus)
    return layers


def _draw_trabecula(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    """A thick band of fibre."""
    px = layers.frame.scene.px
    bend = np.cumsum(rng.normal(0, 0.12, _TRABECULA_STEPS)) + rng.uniform(0, 2 * np.pi)
    steps = np.stack([np.sin(bend), np.cos(bend)], axis=1) * px(_TRABECULA_UM)
    layers.line(centre + np.cumsum(steps, axis=0), px(rng.uniform(25, 55)), False, cyto=0.85, nuclei=0.07, mucin=0.3)


def _draw_pulp(rng: np.random.Generator, layers: Layers, centre: np.ndarray, index: int) -> None:
    px = layers.frame.scene.px
    radius_px, stretch, angle = px(rng.uniform(100, 165)), rng.uniform(1, 1.5), rng.uniform(0, np.pi)
    outer = blob_outline(rng, (centre[0], centre[1]), radius_px, wobble=0.13, stretch=stretch, angle=angle)
    add_lymphoid(layers, outer)
    layers.fill(outer, ftu=1)
    if rng.random() < 0.5:
        layers.fill(inset(outer, px(60), least=0.3), nuclei=0.6, cyto=0.36)
    beside = outer.mean(axis=0) + rng.normal(0, px(30), 2)
    add_vessel(rng, layers, blob_outline(rng, (beside[0], beside[1]), px(rng.uniform(14, 22))))
