"""`histofold package runs/A [runs/B ...] --out weights`: a flat folder, ready to upload as a Kaggle dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from histofold.commands import parse_options
from histofold.core.faults import Fault, InputError
from histofold.kaggle.published.settings import ImportSettings
from histofold.schema.kinds import require_kind
from histofold.schema.manifest import Manifest


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
    overwrite: bool = False
    """Write into a folder that holds other files, and no weights of ours."""
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
    if not options.files and options.settings != ImportSettings():
        rule = "options of an import, and runs say all this themselves"
        raise InputError([Fault("import", "command line", rule, "add --import FILE, or leave them out")])
    for run_folder in options.runs:
        require_kind(run_folder, "run", "joint runs")
    if not options.overwrite:
        from histofold.kaggle.weights_folder import refuse_foreign_target

        refuse_foreign_target(options.out)
    if options.files:
        from histofold.kaggle.published.weights import import_package

        manifest = import_package(options.files, options.settings, options.out, options.slug, options.licence)
    else:
        from histofold.kaggle.package import package_runs

        tune = _tuned_batch if options.tune else None
        manifest = package_runs(options.runs, options.out, options.slug, options.licence, options.shares, tune)
    megabytes = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file()) / 1e6
    print(f"{len(manifest.members)} members, {megabytes:.1f} MB in {options.out}")
    return 0


def _tuned_batch(manifest: Manifest, folder: Path) -> int:
    """The batch that this machine predicts fastest with."""
    from histofold.predict.tuner import propose_batch  # with torch, which --help spares

    proposal = propose_batch(folder, manifest)
    print("\n".join(proposal.lines()))
    return proposal.batch
