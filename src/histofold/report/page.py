"""One static HTML page: pictures inside or in a folder beside it, no scripts, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from histofold import __version__
from histofold.report.blocks import (
    IMAGE_ALONE,
    MOST_LAYERS,
    Block,
    Browser,
    Facts,
    Figure,
    Gallery,
    Legend,
    Linked,
    Section,
    Table,
    Viewer,
)
from histofold.report.pictures.overlays import encode_jpeg, encode_png, fit_image
from histofold.schema.files import write_atomically

_PHOTO_MAX_SIDE_PX = 1600
_SMALL_PHOTO_PX = 128 * 128
_LONG_TABLE_ROWS = 15
_PNG_START, _JPEG_START = b"\x89PNG", b"\xff\xd8\xff"


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    sections: Sequence[Section]

    def render(self) -> str:
        """Return the page as one HTML document.

        Raises:
            FileNotFoundError: If a figure's file is missing.
            ValueError: If a figure's array is not RGB uint8.
        """
        loader = PackageLoader("histofold", "report")
        environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
        numbers = itertools.count(1)
        sections = [
            {
                "title": section.title,
                "anchor": f"section-{number}",
                "blocks": [_view(block, numbers) for block in section.blocks],
            }
            for number, section in enumerate(self.sections, start=1)
        ]
        named = [section for section in sections if section["title"]]
        linked = any(isinstance(block, Browser) for section in self.sections for block in section.blocks)
        template = environment.get_template("page.html.j2")
        about = {"linked": linked, "most_layers": MOST_LAYERS, "version": __version__}
        return template.render(page=self, sections=sections, named=named, **about) + "\n"


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Render a page and write it whole or not at all: whatever fails leaves an older file as it was.

    Args:
        path: Where to; missing folders are made.
        title: The page's heading.
        subtitle: The line below it.
        sections: What it holds, in order.

    Raises:
        FileNotFoundError: If a figure's file is missing.
        ValueError: If a figure's array is not RGB uint8.
    """
    write_atomically(path, Page(title, subtitle, sections).render())


def _view(block: Block, numbers: Iterator[int]) -> dict[str, Any]:
    """A block as the template wants it: texts and addresses only; each switch has a number of its own."""
    if isinstance(block, Figure):
        return {"type": "figure", **_figure_view(block)}
    if isinstance(block, Viewer):
        switch = {"names": [IMAGE_ALONE, *block.layers], "shown": block.shown, "number": next(numbers)}
        return {"type": "viewer", "switch": switch, **_viewer_view(block)}
    if isinstance(block, Browser):
        slides = [
            {
                "thumbnail": _figure_view(slide.thumbnail),
                "viewers": [{"switch": None, **_viewer_view(viewer)} for viewer in slide.viewers],
            }
            for slide in block.slides
        ]
        switch = {"names": [IMAGE_ALONE, *block.layers], "shown": block.shown, "number": next(numbers)}
        return {"type": "browser", "switch": switch, "slides": slides}
    if isinstance(block, Gallery):
        return {"type": "gallery", "figures": [_view(figure, numbers) for figure in block.figures]}
    if isinstance(block, Table):
        return {"type": "table", **_table_view(block)}
    if isinstance(block, Facts):
        return {"type": "facts", "pairs": [(_label(name), _fact(value)) for name, value in block.values.items()]}
    if isinstance(block, Legend):
        entries = [(meaning, "#" + bytes(colour).hex()) for meaning, colour in block.entries]
        return {"type": "legend", "entries": entries}
    return {"type": "text", "tone": block.tone, "paragraphs": list(block.paragraphs)}


def _viewer_view(viewer: Viewer) -> dict[str, Any]:
    """A picture and the layers over it."""
    return {"picture": _figure_view(viewer.picture), "layers": [_figure_view(each) for each in viewer.layers.values()]}


def _figure_view(figure: Figure) -> dict[str, Any]:
    """A picture as an address, with its size so that the page does not jump while it loads."""
    texts = {"caption": figure.caption, "alt": figure.alt or figure.caption}
    if isinstance(figure.image, Linked):
        return {"uri": figure.image.url, "kind": "photo", "size": figure.image.shape_hw, "lazy": True, **texts}
    kind = "photo"
    if isinstance(figure.image, np.ndarray):
        content = _encode(figure.image)
    else:
        content = figure.image if isinstance(figure.image, bytes) else figure.image.read_bytes()
        if content.startswith(_PNG_START):
            kind = "graph"
        elif not content.startswith(_JPEG_START):
            content = _encode(np.array(Image.open(io.BytesIO(content)).convert("RGB")))
    subtype = "png" if content.startswith(_PNG_START) else "jpeg"
    with Image.open(io.BytesIO(content)) as header:
        size_hw = (header.height, header.width)
    uri = f"data:image/{subtype};base64,{base64.b64encode(content).decode()}"
    return {"uri": uri, "kind": kind, "size": size_hw, "lazy": False, **texts}


def _encode(image_HWC: np.ndarray) -> bytes:
    """A photo as JPEG of a page's size, or as PNG where it is too small to gain by that."""
    if image_HWC.shape[0] * image_HWC.shape[1] <= _SMALL_PHOTO_PX:
        return encode_png(image_HWC)
    return encode_jpeg(fit_image(image_HWC, _PHOTO_MAX_SIDE_PX))


def _table_view(table: Table) -> dict[str, Any]:
    """Cells as texts, with their alignment and the length of their bar in percent."""
    columns = range(len(table.header))
    numbers = [_is_number_column([row[column] for row in table.rows]) for column in columns]
    header = [{"text": str(name), "number": numbers[column]} for column, name in enumerate(table.header)]
    barred = [name in table.bars for name in table.header]
    rows = [
        [
            {
                "text": _cell(row[column], table.decimals),
                "number": numbers[column],
                "bar": _percent(row[column]) if barred[column] else None,
            }
            for column in columns
        ]
        for row in table.rows
    ]
    return {"header": header, "rows": rows, "caption": table.caption, "long": len(rows) > _LONG_TABLE_ROWS}


def _is_number_column(values: list[Any]) -> bool:
    """Whether a column holds numbers and blanks only, and at least one number."""
    known = [value for value in values if not _is_blank(value)]
    return bool(known) and all(isinstance(value, Real) and not isinstance(value, bool | np.bool_) for value in known)


def _is_blank(value: Any) -> bool:
    """Whether a value is None, NaN or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, Real) and bool(np.isnan(float(value))))


def _percent(value: Any) -> float | None:
    """Bar length of a value from 0 to 1; no bar for a blank."""
    return None if _is_blank(value) else round(100 * min(1.0, max(0.0, float(value))), 1)


def _cell(value: Any, decimals: int = 4) -> str:
    """A value as a table shows it."""
    if _is_blank(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral | str) or not isinstance(value, Real):
        return str(value)
    return f"{float(value):.{decimals}f}" if abs(float(value)) < 1000 else f"{float(value):,.0f}"


def _fact(value: Any) -> str:
    """A value as a headline shows it: grouped thousands, a pair as an interval."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return f"{_fact(value[0])} – {_fact(value[1])}"
    is_count = isinstance(value, Integral) and not isinstance(value, bool)
    return f"{int(value):,}" if is_count else _cell(value)


def _label(name: str) -> str:
    """A key as words: `median_dice` becomes `Median dice`."""
    words = str(name).replace("_", " ")
    return words[:1].upper() + words[1:]
