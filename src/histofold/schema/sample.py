"""One image of a competition, as every layer above sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One slide or image with what its tables say of it."""

    id: str
    """The id as a string, exactly as the tables write it."""
    image_path: Path
    """Where the image should lie; it need not exist when a hidden set is predicted."""
    organ: str = ""
    """Organ name of the competition, empty where unknown."""
    source: str = ""
    """Data source (HPA, Hubmap, ...), empty where unknown."""
    group: str = ""
    """What folds must not split: the patient, the donor, or a cluster of near-duplicates."""
    pixel_size_um: float | None = None
    """Micrometres per pixel; None where the tables do not say or say nonsense."""
    shape_hw: tuple[int, int] | None = None
    """Height and width in pixels as the tables say; the file's own size always wins."""
