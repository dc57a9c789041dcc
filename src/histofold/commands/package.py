"""`histofold package runs/A [runs/B ...] --out weights`: a flat folder, ready to upload as a Kaggle dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from histofold.commands.options import parse_options
from histofold.core.faults import Fault, InputError
from histofold.kaggle.package import package_runs
from histofold.kaggle.published.weights import ImportSettings, import_package
from histofold.schema.ensemble import JointRuns
from histofold.schema.manifest import Manifest
from histofold.schema.parse import load_toml


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
    shares: tuple[float, ...] = ()
    """Part of each run in the average, in their order, divided among its folds; else every member counts alike."""
    tune: bool = False
    """Time batches of growing size here and write the best one into the manifest."""
    slug: str = ""
    """Name of the dataset on Kaggle; histofold-weights, as the kernel expects it, where it is not given."""
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
        runs, shares = _named_runs(options.runs, options.shares)
        tune = _tuned_batch if options.tune else None
        manifest = package_runs(runs, options.out, options.slug, options.licence, shares, tune)
    megabytes = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file()) / 1e6
    print(f"{len(manifest.members)} members, {megabytes:.1f} MB in {options.out}")
    return 0


def _named_runs(paths: Sequence[Path], shares: Sequence[float]) -> tuple[list[Path], dict[Path, float] | None]:
    """The runs, those of every ensemble file in its place, and their shares where some are given.

    Raises:
        InputError: If not every run has a positive share.
    """
    runs: list[Path] = []
    given: list[float] = []
    for path in paths:
        joint = load_toml(JointRuns, path) if path.suffix == ".toml" else JointRuns(runs=(str(path),))
        runs += map(Path, joint.runs)
        given += joint.shares
    if shares and given:
        raise InputError([Fault("shares", "command line", "given here and in a file", "give them in one place")])
    given = given or list(shares)
    if given and (len(given) != len(runs) or not all(0 < share < math.inf for share in given)):
        rule = f"{len(given)} shares for {len(runs)} runs"
        raise InputError([Fault("shares", "command line", rule, "give each run a positive share, or none of them")])
    return runs, dict(zip(runs, given, strict=True)) if given else None


def _tuned_batch(manifest: Manifest, folder: Path) -> int:
    """The batch that this machine predicts fastest with."""
    from histofold.predict.tuner import propose_batch  # with torch, which --help spares

    proposal = propose_batch(folder, manifest)
    for line in proposal.lines():
        print(line)
    return proposal.batch
