"""`histoseg package runs/A [runs/B ...] --out weights`: a flat folder, ready to upload as a Kaggle dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from histoseg.commands.options import parse_options
from histoseg.core.faults import Fault, InputError
from histoseg.kaggle.import_weights import ImportSettings, import_package
from histoseg.kaggle.package import package_runs
from histoseg.schema.joint import JointRuns
from histoseg.schema.parse import load_toml


@dataclass(frozen=True, kw_only=True)
class PackageOptions:
    """Put the weights of runs, their manifest and what the kernel needs beside them into a flat folder.

    With --import it takes published .pth files of UneXt50 and EffUnet instead of runs; the options from
    --architecture on say what such a file does not.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The runs, runs/A runs/B ..., or files that name some, as experiments/group_ensemble.toml."""
    out: Path = Path("weights")
    """Where to write."""
    slug: str = ""
    """Name of the dataset on Kaggle; histoseg-weights, as the kernel expects it, where it is not given."""
    licence: str = "other"
    """Licence of the dataset, as Kaggle knows it."""
    files: Annotated[tuple[Path, ...], tyro.conf.arg(name="import", metavar="FILE [FILE ...]")] = ()
    """Published state dicts, each one member of the ensemble."""
    settings: Annotated[ImportSettings, tyro.conf.arg(name="")] = field(default_factory=ImportSettings)


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(PackageOptions, "package", arguments)
    if options.files and options.runs:
        rule = "runs and --import in one package, which has one way to predict"
        raise InputError([Fault("import", "command line", rule, "package them apart: a kernel joins several packages")])
    if options.files:
        manifest = import_package(options.files, options.settings, options.out, options.slug, options.licence)
    elif options.settings != ImportSettings():
        rule = "options of an import, and runs say all this themselves"
        raise InputError([Fault("import", "command line", rule, "add --import FILE, or leave them out")])
    else:
        manifest = package_runs(_named_runs(options.runs), options.out, options.slug, options.licence)
    megabytes = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file()) / 1e6
    print(f"{len(manifest.members)} members, {megabytes:.1f} MB in {options.out}")
    return 0


def _named_runs(paths: Sequence[Path]) -> list[Path]:
    """The runs, those of every ensemble file in its place."""
    runs: list[Path] = []
    for path in paths:
        runs += map(Path, load_toml(JointRuns, path).runs) if path.suffix == ".toml" else [path]
    return runs
