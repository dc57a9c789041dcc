"""The kernels of the competitions: a folder of kernel.py (or .ipynb) and its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from histofold.competitions.base import Competition
from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import bundle
from histofold.kaggle.bundle.notebook import to_notebook
from histofold.kaggle.metadata.kernel import kernel_metadata
from histofold.schema.files import write_atomically

KERNELS = ("hubmap_2022", "kidney_2020")
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
    source = bundle(f"histofold.kernels.{name}", Path(__file__).parents[2], sections=KERNEL_SECTIONS)
    folder = out / name
    path = folder / ("kernel.ipynb" if notebook else "kernel.py")
    metadata = kernel_metadata(
        competition_slug=competition.slug,
        kernel_name=f"histofold-{name.replace('_', '-')}",
        code_file=path.name,
        dataset_sources=[dataset],
    )
    write_atomically(path, to_notebook(source, kernel_introduction(competition, dataset)) if notebook else source)
    write_atomically(folder / "kernel-metadata.json", json.dumps(metadata, indent=2) + "\n")
    return path


def kernel_introduction(competition: Competition, dataset: str) -> str:
    """What a kernel's notebook says before all else, in Markdown.

    Args:
        competition: The adapter.
        dataset: The dataset of the weights, owner/slug.
    """
    id_column, row_column = competition.columns
    return f"""# Inference: {competition.name}

Predicts every test image of [{competition.slug}](https://www.kaggle.com/competitions/{competition.slug}) with the
networks of a packaged ensemble, and writes the submission.

**Inputs.** Add two: the competition, and the dataset of weights (`{dataset}`) that `histofold package` made. Both are
found by their content, wherever they are mounted, and every weight file is checked against its SHA-256. Leave the
internet off; an accelerator makes it faster and is not needed.

**Output.** `submission.csv` with the columns `{id_column}` and `{row_column}`. It holds a legal fallback row for
each id before any network is loaded, and then the rows as they are predicted. The last cell shows a table of the
images, the worst first.

**To change.** The first cell after the imports says where inputs and output are and how long the run may take. What
decides pixels stands in `manifest.json` beside the weights. The other cells are the package's own modules."""
