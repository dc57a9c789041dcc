"""`histoseg package runs/A [runs/B ...] --out weights`: a flat folder, ready to upload as a Kaggle dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from histoseg.commands.options import parse_options
from histoseg.kaggle.package import package_runs


@dataclass(frozen=True, kw_only=True)
class PackageOptions:
    """Put the weights of runs, their manifest and what the kernel needs beside them into a flat folder."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The runs, runs/A runs/B ..."""
    out: Path = Path("weights")
    """Where to write."""
    slug: str = ""
    """Name of the dataset on Kaggle; histoseg-weights, as the kernel expects it, where it is not given."""
    licence: str = "other"
    """Licence of the dataset, as Kaggle knows it."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(PackageOptions, "package", arguments)
    manifest = package_runs(options.runs, options.out, options.slug, options.licence)
    megabytes = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file()) / 1e6
    print(f"{len(manifest.members)} members, {megabytes:.1f} MB in {options.out}")
    return 0
