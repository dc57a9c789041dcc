"""`histofold kernel C`: write the self-contained inference kernel of a competition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from histofold.commands import parse_options


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """Write kernel.py (or .ipynb) and kernel-metadata.json."""

    competition: tyro.conf.Positional[str]
    """The competition."""
    notebook: bool = False
    """Write a notebook instead of a script."""
    out: Path = Path("kaggle_kernels")
    """Where the folder of the kernel lies."""
    dataset: str = "your-kaggle-name/histofold-weights"
    """The dataset of the weights, owner/slug."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(KernelOptions, "kernel", arguments)
    from histofold.kaggle.bundle.kernels import write_kernel

    path = write_kernel(options.competition, options.out, options.notebook, options.dataset)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return 0
