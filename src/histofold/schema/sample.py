"""One image of a competition, as every layer above sees it, and what its id may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNSAFE_ID = re.compile(r"[\\\x00-\x1f]|(^|/)\.{0,2}(/|$)")
_NO_FILE_NAME = re.compile(r"[%/\\\x00-\x1f]")


def is_safe_id(text: str) -> bool:
    """Whether a text can be an id: no path out of its folder (`..`, `/abs`, `a\\b`), no character that ends a name.

    `case/slide` is safe: it names an image in a sub-folder.
    """
    return _UNSAFE_ID.search(text) is None


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON and file systems may hold halves of characters (lone surrogates)."""
    return text == text.encode(errors="ignore").decode()


def id_file_name(sample_id: str) -> str:
    """An id as the name of a file without its suffix, another one for each id: `case/slide` becomes `case%2Fslide`.

    Whatever is written under the name of an id goes through this, so that no id leads out of the folder.
    """
    return _NO_FILE_NAME.sub(lambda found: f"%{ord(found[0]):02X}", sample_id)


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
    opened_by: Callable[[Sample], Any] | None = None
    """Opens it as a slide, where that is more than the file `image_path`: its neighbours, or slices of a volume. A
    function of a module, so that other processes have it too."""
    place: tuple[str, int, int] | None = None
    """Slide that a tile was cut from, and y and x of its first pixel there; None where that is not known."""
    is_scored: bool = True
    """Whether folds are scored on it; else its labels are good for training alone."""
