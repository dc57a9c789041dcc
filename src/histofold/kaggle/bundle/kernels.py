"""The kernels of the competitions, as scripts or notebooks, each with its metadata."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histofold.competitions.base import Competition
from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import LIMIT_BYTES, Bundle, BundledModule, bundle, gather
from histofold.kaggle.bundle.syntax import is_main_guard
from histofold.kaggle.bundle.text import summary
from histofold.kaggle.metadata.kernel import kernel_metadata
from histofold.schema.files import write_atomically
from histofold.schema.parse import write_json

KERNELS = ("hubmap_2022", "kidney_2020", "sennet_2024", "vasculature_2023", "vrdl_nuclei")
KERNEL_SECTIONS = (
    ("Settings", ("histofold.kernels.configuration", "histofold.schema")),
    ("Reading", ("histofold.imaging",)),
    ("Network", ("histofold.models",)),
    ("Tiles", ("histofold.predict",)),
    ("Rows", ("histofold.competitions", "histofold.predict.submission")),
    ("Entry", ("histofold.kernels",)),
)
"""A kernel's parts in the order in which they are read. What people may change stands first."""


def write_kernel(name: str, out: Path, notebook: bool, dataset: str) -> Path:
    """Write the kernel of a competition and its metadata.

    Raises:
        InputError: If the competition has no kernel.
    """
    if name not in KERNELS:
        raise InputError([Fault(name, "kernel", "no kernel of this competition", f"known ones: {', '.join(KERNELS)}")])
    competition = get_competition(name)
    entry, root = f"histofold.kernels.{name}", Path(__file__).parents[2]
    folder = out / name
    path = folder / ("kernel.ipynb" if notebook else "kernel.py")
    metadata = kernel_metadata(
        competition_slug=competition.slug,
        kernel_name=f"histofold-{name.replace('_', '-')}",
        code_file=path.name,
        dataset_sources=[dataset],
    )
    if notebook:
        text = to_notebook(gather(entry, root, sections=KERNEL_SECTIONS), kernel_introduction(competition, dataset))
    else:
        text = bundle(entry, root, sections=KERNEL_SECTIONS)
    write_atomically(path, text)
    write_json(folder / "kernel-metadata.json", metadata)
    return path


def kernel_introduction(competition: Competition, dataset: str) -> str:
    """What a kernel's notebook says before all else, in Markdown.

    Args:
        competition: The adapter.
        dataset: The dataset of the weights, owner/slug.
    """
    url = f"[{competition.slug}](https://www.kaggle.com/competitions/{competition.slug})"
    images, source = (url, "the competition") if competition.slug else (competition.name, "its test images")
    columns = ", ".join(f"`{name}`" for name in competition.columns)
    file = f"`submission.csv` with the columns {columns}" if competition.slug else "`answer.json`, a list of results"
    return f"""# Inference: {competition.name}

Predicts every test image of {images} with the networks of a packaged ensemble, and writes the submission.

**Inputs.** Add two: {source}, and the dataset of weights (`{dataset}`) that `histofold package` made. Both are
found by their content, wherever they are mounted, and every weight file is checked against its SHA-256. Leave the
internet off; an accelerator makes it faster and is not needed.

**Output.** {file}. A legal file stands before any network is loaded; it then holds the rows as they are predicted. The
last cell shows a table of the images, the worst first.

**To change.** The first cell after the imports says where inputs and output are and how long the run may take. What
decides pixels stands in `manifest.json` beside the weights. The other cells are the package's own modules."""


Cell = tuple[str, str]
"""Kind (code, markdown) and text of a notebook's cell."""


def to_notebook(parts: Bundle, introduction: str = "") -> str:
    """Turn a bundle into a notebook (nbformat 4.5).

    Its code cells run in order as the script does: in a notebook, which keeps what the first cell takes from
    __future__, or joined with newlines. The modules' summaries become text; what the file runs as a program is the last
    cells, one a statement.

    Args:
        parts: What `gather` returned.
        introduction: Markdown for people, before all else.

    Raises:
        InputError: If the notebook is larger than Kaggle takes.
    """
    facts = "```text\n" + "\n".join(parts.words) + "\n```"
    words = "\n\n".join(part for part in (introduction.strip("\n"), facts) if part)
    cells = [("markdown", words), ("code", parts.imports)]
    for kept in parts.modules:
        cells += _module_cells(kept)
    text = notebook_json(cells)
    if (size := len(text.encode())) > LIMIT_BYTES:
        rule = f"the notebook has {size} bytes, more than the {LIMIT_BYTES} that Kaggle takes"
        entry = parts.modules[-1].module.name
        raise InputError([Fault(entry, "kernel.ipynb", rule, "write a script, or shorten the closure")])
    return text


def _module_cells(kept: BundledModule) -> list[Cell]:
    """A heading with the module's summary, its code, and what it runs as a program."""
    heading: Cell = ("markdown", f"## {kept.module.name}\n\n{summary(kept.module)}")
    guard = ast.parse(kept.body).body[-1]
    if not isinstance(guard, ast.If) or not is_main_guard(guard):
        return [heading, ("code", kept.body)]
    lines = kept.body.split("\n")
    starts = [statement.lineno - 1 for statement in guard.body]
    program = [_dedented(lines[start:stop]) for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True)]
    code = "\n".join(lines[: guard.lineno - 1])
    return [heading, ("code", code), ("markdown", "## Run"), *(("code", statement) for statement in program)]


def _dedented(lines: list[str]) -> str:
    """Statements without the indentation of their first line; the lines of a string in them may have less."""
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return "\n".join(line.removeprefix(indent) for line in lines)


def notebook_json(cells: Sequence[Cell]) -> str:
    """A notebook (nbformat 4.5); ids of cells come from their content, so that the same cells give the same bytes."""
    made = []
    for index, (kind, text) in enumerate((kind, text.strip("\n")) for kind, text in cells):
        cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
        cell |= {"execution_count": None, "outputs": []} if kind == "code" else {}
        made.append(cell | {"id": hashlib.sha256(f"{index}\0{kind}\0{text}".encode()).hexdigest()[:16]})
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": "python"}}
    notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
