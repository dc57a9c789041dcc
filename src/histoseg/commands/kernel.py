"""`histoseg kernel C`: write the self-contained inference kernel of a competition."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

import histoseg
from histoseg.commands.options import parse_options
from histoseg.competitions.registry import get_competition
from histoseg.core.faults import Fault, InputError
from histoseg.kaggle.bundler import bundle, to_notebook
from histoseg.kaggle.metadata import kernel_metadata
from histoseg.schema.atomic import write_atomically

KERNELS = ("hubmap_2022", "kidney_2020")


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """Write kernel.py (or .ipynb) and kernel-metadata.json."""

    competition: tyro.conf.Positional[str]
    """The competition."""
    notebook: bool = False
    """Write a notebook instead of a script."""
    out: Path = Path("kaggle_kernels")
    """Where the folder of the kernel lies."""
    dataset: str = "your-kaggle-name/histoseg-weights"
    """The dataset of the weights, owner/slug."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(KernelOptions, "kernel", arguments)
    path = write_kernel(options.competition, options.out, options.notebook, options.dataset)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return 0


def write_kernel(name: str, out: Path, notebook: bool, dataset: str) -> Path:
    """Write the kernel of a competition and its metadata.

    Raises:
        InputError: If the competition has no kernel.
    """
    if name not in KERNELS:
        raise InputError([Fault(name, "kernel", "no kernel of this competition", f"known ones: {', '.join(KERNELS)}")])
    source = bundle(f"histoseg.kernels.{name}", Path(histoseg.__file__).parent)
    folder = out / name
    path = folder / ("kernel.ipynb" if notebook else "kernel.py")
    write_atomically(path, to_notebook(source) if notebook else source)
    metadata = kernel_metadata(
        competition_slug=get_competition(name).slug,
        kernel_name=f"histoseg-{name.replace('_', '-')}",
        code_file=path.name,
        dataset_sources=[dataset],
    )
    write_atomically(folder / "kernel-metadata.json", json.dumps(metadata, indent=2) + "\n")
    return path
