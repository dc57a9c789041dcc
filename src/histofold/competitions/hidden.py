"""How the hidden slides of a competition differ from those of training, as far as its host says.

No kernel needs it: it sees the slides themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from histofold.core.faults import Fault, InputError
from histofold.imaging.shift import Shift
from histofold.schema.preprocessing import has_pixel_size
from histofold.schema.sample import Sample

TRAINING_THICKNESS_UM = 4.0
"""Of HPA's sections."""


@dataclass(frozen=True)
class HiddenSlides:
    """The hidden slides of an organ."""

    pixel_size_um: float
    """Side of a pixel."""
    thickness_um: float
    """Of the section."""


HIDDEN_SLIDES: Mapping[str, Mapping[str, HiddenSlides]] = {
    "hubmap_2022": {
        "kidney": HiddenSlides(0.5, 10.0),
        "largeintestine": HiddenSlides(0.229, 8.0),
        "lung": HiddenSlides(0.7562, 5.0),
        "spleen": HiddenSlides(0.4945, 4.0),
        "prostate": HiddenSlides(6.263, 5.0),
    }
}
"""HuBMAP's slides, by competition and organ."""


def hidden_shift(stain: str, competition: str, sample: Sample) -> Shift:
    """A sample's slide as the hidden set would show it in a stain.

    Args:
        stain: Of `histofold.imaging.shift.STAINS`.
        competition: Name of the adapter; where nothing is known of its hidden slides, or of this organ's, detail and
            thickness stay.
        sample: Where its pixel size is not known, or larger than the hidden one, its detail stays.
    """
    hidden = HIDDEN_SLIDES.get(competition, {}).get(sample.organ)
    if hidden is None:
        return Shift(stain=stain)
    own_um = sample.pixel_size_um if has_pixel_size(sample.pixel_size_um) else None
    coarser = max(1.0, hidden.pixel_size_um / own_um) if own_um else 1.0
    return Shift(stain=stain, coarser=coarser, thicker=hidden.thickness_um / TRAINING_THICKNESS_UM)


def refuse_shift(task: str, id: str, file: str, remedy: str) -> None:
    """Refuse the shift score of what has none.

    Args:
        task: The competition's.
        id: What asked for it, as the fault names it.
        file: Where it stands.
        remedy: What to do instead.

    Raises:
        InputError: If other things than masks of slides are predicted.
    """
    if task != "masks":
        rule = f"slides are shifted where masks are predicted, and this is of {task}: it has no shift score"
        raise InputError([Fault(id, file, rule, remedy)])
