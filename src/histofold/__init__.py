"""From a histology competition's folder to a scored submission.

>>> import histofold
>>> model = histofold.load("weights")       # what `histofold package` has written
>>> mask_HW = model.predict("slide.tif")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histofold.core.metrics import dice
    from histofold.core.rle.runs import decode_rle, encode_rle
    from histofold.library import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "decode_rle", "dice", "encode_rle", "load"]

_HOMES = {
    "Model": "histofold.library",
    "decode_rle": "histofold.core.rle.runs",
    "dice": "histofold.core.metrics",
    "encode_rle": "histofold.core.rle.runs",
    "load": "histofold.library",
}


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in: `import histofold` itself loads neither torch nor numpy."""
    if name not in _HOMES:
        raise AttributeError(f"histofold has no {name!r}: its public names are {', '.join(__all__)}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
