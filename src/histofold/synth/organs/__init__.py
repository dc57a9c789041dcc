"""The organs that can be drawn; each one's tissue, units and what is easily taken for one stand in its own module."""

from __future__ import annotations

from collections.abc import Callable

from histofold.synth.drawing.frame import Scene
from histofold.synth.drawing.ground import Ground, make_ground
from histofold.synth.drawing.sites import Plan
from histofold.synth.organs.glands import plan_largeintestine, plan_prostate
from histofold.synth.organs.solid import plan_kidney, plan_lung, plan_spleen
from histofold.synth.organs.vessels import plan_vessels

_PLANS: dict[str, Callable[[Ground], Plan]] = {
    "kidney": plan_kidney,
    "largeintestine": plan_largeintestine,
    "lung": plan_lung,
    "prostate": plan_prostate,
    "spleen": plan_spleen,
    "kidney vessels": plan_vessels,
}
ORGANS = tuple(_PLANS)


def plan_organ(scene: Scene, organ: str, core: bool) -> Plan:
    """Decide what lies where on a slide.

    Args:
        scene: The slide.
        organ: One of `ORGANS`.
        core: Whether a small field is one of a tissue array (round) or of a section.

    Returns:
        The plan; at least one functional tissue unit lies inside slide and tissue.
    """
    return _PLANS[organ](make_ground(scene, organ, core))
