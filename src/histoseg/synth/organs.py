"""The organs that can be drawn; each one's tissue, units and what is easily taken for one stand in its own module."""

from __future__ import annotations

from collections.abc import Callable

from histoseg.synth.frame import Scene
from histoseg.synth.ground import Ground, make_ground
from histoseg.synth.intestine import plan_largeintestine
from histoseg.synth.kidney import plan_kidney
from histoseg.synth.lung import plan_lung
from histoseg.synth.prostate import plan_prostate
from histoseg.synth.sites import Plan
from histoseg.synth.spleen import plan_spleen

_PLANS: dict[str, Callable[[Ground], Plan]] = {
    "kidney": plan_kidney,
    "largeintestine": plan_largeintestine,
    "lung": plan_lung,
    "prostate": plan_prostate,
    "spleen": plan_spleen,
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
