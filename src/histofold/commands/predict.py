"""`histofold predict --weights DIR --data DIR --out FILE.csv`: the submission, through the kernel's own code.

With --num-shards N any number of processes share its parts, with --shard-id I besides it is one part, for `histofold
merge`. With --masks, --geojson, --probabilities and --overlays it writes what people use of each image besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from histofold.commands import parse_options
from histofold.commands.launch import LauncherOptions, run_jobs, without_options
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.log import logger
from histofold.schema.kinds import require_kind
from histofold.schema.shard import check_shard_numbers, sidecar_path

if TYPE_CHECKING:
    from histofold.predict.submission.shards import FolderRun


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict a folder and write the submission."""

    weights: Path
    """Folder that `histofold package` filled."""
    data: Path
    """The competition folder; ids and order come from its sample_submission.csv (a plain folder needs none)."""
    out: Path
    """The submission."""
    competition: str = ""
    """Name of the adapter of --data (folder: any images); else that of the weights, or what --data is seen to be."""
    limit_s: float | None = None
    """Seconds that the run may take; it then leaves out views, members and images, in this order."""
    num_shards: int | None = None
    """Predict in so many parts, in FILE.csv.shards. The same call on any number of machines: each takes the next part
    that no other has, and the last one joins them."""
    shard_id: int | None = None
    """Predict this part alone, counted from 0, into --out; a sidecar FILE.csv.json then stands beside the rows, and
    `histofold merge` joins the parts."""
    masks: Path | None = None
    """Folder for a PNG of each image: 255 is mask; of several classes k is the k-th."""
    geojson: Path | None = None
    """Folder for outlines as QuPath reads them: polygons with holes, class, area, mean probability."""
    probabilities: Path | None = None
    """Folder for OME-TIFFs of the probabilities, 255 for 1, a channel for each class."""
    overlays: Path | None = None
    """Folder for small pictures of the slides with the outlines over them."""
    workers: int | None = None
    """Jobs of --launcher that share the parts; as many as there are parts where it is not given."""
    jobs: Annotated[LauncherOptions, tyro.conf.arg(name="")] = field(default_factory=LauncherOptions)
    """Jobs instead of this process."""

    def __post_init__(self) -> None:
        if self.limit_s is not None and not 0 < self.limit_s < math.inf:
            raise ValueError(f"--limit-s {self.limit_s:g} must be a positive number of seconds")
        if self.num_shards is not None:
            check_shard_numbers(self.num_shards, self.shard_id or 0)
        elif self.shard_id is not None:
            raise ValueError("--shard-id is one of several parts: give --num-shards too")
        is_shared = self.num_shards is not None and self.shard_id is None
        if is_shared and self.limit_s is not None:
            raise ValueError("--limit-s is for a whole submission or one part of it: leave it out, or give --shard-id")
        if self.jobs.launcher != "here" and not is_shared:
            raise ValueError("--launcher shares parts out: give --num-shards, and no --shard-id")
        if self.workers is not None and (self.jobs.launcher == "here" or self.workers < 1):
            raise ValueError("--workers are jobs of --launcher, at least 1: give both")
        if self.masks is not None and self.overlays is not None and self.masks.resolve() == self.overlays.resolve():
            raise ValueError("--masks and --overlays name one folder, and files of both one name: give each its own")

    def result_folders(self) -> dict[str, Path]:
        """The folders that are asked for, by the kind of their files."""
        asked = {kind: getattr(self, kind) for kind in ("masks", "geojson", "probabilities", "overlays")}
        return {kind: folder for kind, folder in asked.items() if folder is not None}


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(PredictOptions, "predict", arguments)
    require_kind(options.weights, "weights")
    require_kind(options.data, "data")
    if options.jobs.launcher != "here" and options.num_shards is not None:
        command = ["predict", *without_options(arguments, "--workers")]
        pieces = {f"worker {number}": command for number in range(options.workers or options.num_shards)}
        run_jobs(pieces, options.out.with_name(f"{options.out.name}.jobs"), options.jobs)
        _merge(options.out, options.num_shards)
        return 0
    from histofold.predict.submission.shards import FolderRun

    results, folders = None, options.result_folders()
    if folders:
        from histofold.report.results.files import ResultFiles

        results = ResultFiles(folders)
    run = FolderRun(options.weights, options.data, options.out, options.limit_s, options.competition, results)
    if options.num_shards is None:
        _run_whole(run)
    elif options.shard_id is None:
        _run_free_shards(run, options.num_shards)
    else:
        _run_shard(run, options.num_shards, options.shard_id)
    if results is not None and results.faults:
        raise InputError(results.faults)
    return 0


def _run_whole(run: FolderRun) -> None:
    from histofold.predict.submission.shards import predict_folder

    summary = predict_folder(run.weights, run.data, run.out, run.limit_s, run.competition, run.results)
    _tell_fallbacks(summary.failed)
    total = summary.done + summary.taken_over + len(summary.failed)
    print(f"{total} rows, {len(summary.failed)} of them fallback rows, in {run.out}")
    unread = [reason for reason in summary.failed.values() if reason.startswith(ImageError.__name__)]
    if total and len(unread) == total:
        rule = f"none of its {total} images can be read: {run.out} holds fallback rows alone"
        raise InputError([Fault("images", str(run.data), rule, "mend what the lines above say, and predict again")])


def _tell_fallbacks(failed: Mapping[str, str]) -> None:
    for sample_id, reason in failed.items():
        logger.warning("fallback row: %s: %s", sample_id, reason)


def _run_free_shards(run: FolderRun, num_shards: int) -> None:
    from histofold.predict.submission.archive import predict_free_shards, shards_folder

    others = predict_free_shards(run, num_shards)
    if others:
        done, folder = num_shards - len(others), shards_folder(run.out)
        print(f"{done} of {num_shards} shards are finished, in {folder}; other processes are at the rest and join all")
        return
    _merge(run.out, num_shards)


def _merge(out: Path, num_shards: int) -> None:
    from histofold.predict.submission.archive import shard_paths
    from histofold.predict.submission.merge import merge_shards

    merged = merge_shards(shard_paths(out, num_shards), out)
    print(f"{merged.words()}, in {out}")


def _run_shard(run: FolderRun, num_shards: int, shard_id: int) -> None:
    from histofold.predict.submission.shards import predict_shard

    shard, is_new = predict_shard(run, (num_shards, shard_id))
    if not is_new:
        print(
            f"shard {shard_id} of {num_shards} is finished, with the same weights, tables and images: left as it is; "
            f"delete {sidecar_path(run.out)} to predict it again"
        )
    _tell_fallbacks(shard.fallback)
    print(
        f"shard {shard_id} of {num_shards}: {len(shard.ids)} of {shard.num_ids} images, {len(shard.fallback)} of them "
        f"with fallback rows, in {run.out}"
    )
