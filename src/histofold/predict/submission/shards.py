"""One submission predicted in parts, on as many machines as there are: how ids are dealt, what finishes a part."""

from __future__ import annotations

import hashlib
import heapq
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from histofold.competitions.base import Competition, TableForm, submission_columns
from histofold.competitions.registry import detect_competition, get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.predict.objects.rows import ObjectRows
from histofold.predict.submission.earlier import earlier_kept
from histofold.predict.submission.journal import inputs_digest
from histofold.predict.submission.results import ResultSink, forget_rows
from histofold.predict.submission.rows import MaskRows, RowsFactory
from histofold.predict.submission.runner import RunSummary, run_submission
from histofold.predict.submission.volumes import VolumeRows
from histofold.schema.files import remove_leftovers, write_atomically
from histofold.schema.manifest import Manifest, file_sha256, installed_versions, load_manifest, manifest_json
from histofold.schema.parse import load_json
from histofold.schema.sample import Sample
from histofold.schema.shard import Shard, check_shard_numbers, shard_json, sidecar_path

SHARD_PACKAGES = ("histofold", "torch", "numpy", "segmentation-models-pytorch", "timm", "opencv-python-headless")
"""Packages whose versions a sidecar holds."""


@dataclass(frozen=True)
class WholeRun:
    """The submission that shards are parts of."""

    competition: str
    """Name of the adapter."""
    columns: tuple[str, ...]
    """Columns of the csv."""
    manifests: tuple[Manifest, ...]
    """Those of the ensemble, in order."""
    samples: tuple[Sample, ...]
    """All samples, in the order of the rows."""


def deal_places(works: Sequence[float | None], num_shards: int) -> list[list[int]]:
    """Deal places out to shards so that each has about as much work: the largest first, to whom has least.

    Equal work is dealt in turns. Nothing but the arguments decides. (Graham 1969, doi:10.1137/0117039: the busiest
    shard has at most 4/3 of what the best deal would give it.)

    Args:
        works: Work of each place in any unit; None where it is not known, which counts as the median of the others.
        num_shards: How many shares to make.

    Returns:
        For each shard its places, rising; empty ones where there are more shards than places.
    """
    known = sorted(work for work in works if work is not None)
    typical = known[len(known) // 2] if known else 1.0
    sized = [typical if work is None else work for work in works]
    shares: list[list[int]] = [[] for _ in range(num_shards)]
    least = [(0.0, 0, shard) for shard in range(min(num_shards, len(works)))]  # work, places, shard
    for place in sorted(range(len(works)), key=lambda place: (-sized[place], place)):
        work, count, shard = least[0]
        shares[shard].append(place)
        heapq.heapreplace(least, (work + sized[place], count + 1, shard))
    return [sorted(share) for share in shares]


def network_pixels(sample: Sample, manifest: Manifest) -> float | None:
    """Pixels of a sample at the network's scale as its tables give its size, None where they do not.

    The file is not looked at: each machine must deal alike, and may hold its own images alone.
    """
    if sample.shape_hw is None:
        return None
    try:
        height, width = manifest.preprocessing.scaled_hw(sample.shape_hw, sample.pixel_size_um, sample.organ)
    except OverflowError:  # a size that no image has
        return None
    return float(height * width)


def plan_shards(whole: WholeRun, num_shards: int) -> Callable[[int], Shard]:
    """What plans the shards of a submission one by one, the dealing done once.

    Args:
        whole: The submission.
        num_shards: Its parts.

    Returns:
        Gives for the number of a shard what its sidecar will say, without what only its prediction shows; raises
        ValueError if the number names none.

    Raises:
        ValueError: If there are no shards.
    """
    check_shard_numbers(num_shards, 0)
    shares = deal_places([network_pixels(sample, whole.manifests[0]) for sample in whole.samples], num_shards)
    manifests = tuple(hashlib.sha256(manifest_json(m).encode()).hexdigest() for m in whole.manifests)
    all_ids = ids_digest([sample.id for sample in whole.samples])

    def planned(shard_id: int) -> Shard:
        places = shares[shard_id] if 0 <= shard_id < num_shards else []
        own = [whole.samples[place] for place in places]
        return Shard(
            competition=whole.competition,
            columns=whole.columns,
            classes=whole.manifests[0].row_classes,
            manifests=manifests,
            all_ids_sha256=all_ids,
            num_ids=len(whole.samples),
            num_shards=num_shards,
            shard_id=shard_id,
            ids=tuple(sample.id for sample in own),
            places=tuple(places),
            csv_sha256="",
            inputs_sha256=inputs_digest(whole.manifests, own),
        )

    return planned


def ids_digest(ids: Sequence[str]) -> str:
    """SHA-256 of ids in order; JSON keeps ids apart whatever they hold."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def finished_shard(path: Path, planned: Shard) -> Shard | None:
    """The sidecar of an earlier run, where it finished this shard with these weights, tables and images; else None.

    A run that its clock stopped leaves a journal: it is not finished, it goes on.

    Raises:
        InputError: If another shard of the same submission lies there: it would be lost.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return None
    try:
        found = load_json(Shard, sidecar)
    except InputError:
        logger.info("%s is no sidecar of a shard: the shard is predicted", sidecar)
        return None
    if shard_run(found) == shard_run(planned) and found.shard_id != planned.shard_id:
        rule = f"shard {found.shard_id} of this submission lies there, and this is shard {planned.shard_id}"
        raise InputError([Fault(path.name, str(path), rule, "give each shard an --out of its own")])
    if replace(found, fallback={}, degraded=(), csv_sha256="", versions={}) != planned:
        logger.info("%s is of other weights, tables or images: the shard is predicted anew", path)
        return None
    if path.with_name(f"{path.name}.journal").is_file():
        logger.info("%s: its clock ran out before; what is missing is predicted", path)
        return None
    if not path.is_file() or file_sha256(path) != found.csv_sha256:
        logger.info("%s is missing or was changed after it was finished: the shard is predicted anew", path)
        return None
    return found


def shard_run(shard: Shard) -> tuple[object, ...]:
    """What the shards of one submission have in common."""
    return (
        shard.competition,
        shard.columns,
        shard.classes,
        shard.manifests,
        shard.all_ids_sha256,
        shard.num_ids,
        shard.num_shards,
    )


def finish_shard(path: Path, planned: Shard, fallback: Mapping[str, str], degraded: Sequence[str]) -> Shard:
    """Write the sidecar beside a shard's csv, whole or not at all; it comes last, and finishes the shard.

    Args:
        path: The csv with all its rows.
        planned: What is known beforehand.
        fallback: For each id that kept its fallback row, the reason.
        degraded: Ids that were predicted with less than all members and views.
    """
    shard = replace(
        planned,
        fallback=dict(fallback),
        degraded=tuple(degraded),
        csv_sha256=file_sha256(path),
        versions=shard_versions(),
    )
    write_atomically(sidecar_path(path), shard_json(shard))
    return shard


def shard_versions() -> dict[str, str]:
    """Versions of Python and of `SHARD_PACKAGES`, as far as they are installed."""
    return {"python": platform.python_version(), **installed_versions(SHARD_PACKAGES)}


def rows_of(manifest: Manifest, sink: ResultSink | None = None, form: Competition | None = None) -> RowsFactory:
    """What makes the rows for weights: of objects, volumes or masks.

    Args:
        manifest: Of the weights.
        sink: Told of each image what else than its row is to be kept.
        form: Writes the file; None: the adapter.
    """
    if manifest.volume is not None:
        return partial(VolumeRows, sink=sink)
    if manifest.objects is None:
        return partial(MaskRows, sink=sink)
    return partial(ObjectRows, sink=sink, form=form)


@dataclass(frozen=True)
class FolderRun:
    """What is predicted with what."""

    weights: Path
    """What `histofold package` has written."""
    data: Path
    """The folder; its test split is predicted."""
    out: Path
    """The submission, or the rows of a part of it."""
    limit_s: float | None = None
    """Seconds that the run may take; None means no limit."""
    competition: str = ""
    """Name of the adapter of the folder; without it the manifest's, or what the folder is seen to be."""
    results: ResultSink | None = None
    """What writes further files of each image."""

    def predict(
        self, adapter: Competition, samples: Sequence[Sample], manifest: Manifest, form: Competition | None = None
    ) -> RunSummary:
        """Predict some of the samples: those without a row or without their files; `form` writes the file."""
        remove_leftovers(self.out.parent)
        if self.results is not None:
            forget_rows(self.out, self.results.open(samples, manifest, self.out))
        packages = [(self.weights, manifest)]
        make_rows = rows_of(manifest, self.results, form)
        summary = run_submission(adapter, samples, packages, self.out, self.limit_s, make_rows=make_rows)
        if self.results is not None:
            self.results.discard(summary.failed)
        return summary


def predict_folder(
    weights: Path,
    data: Path,
    out: Path,
    limit_s: float | None = None,
    competition: str = "",
    results: ResultSink | None = None,
) -> RunSummary:
    """Predict the test split of a folder with packaged weights; the arguments are those of `FolderRun`.

    A better submission that lies at `out` is kept beside it, see `earlier_kept`.

    Raises:
        InputError: If weights or tables are at fault; single images never are.
    """
    run = FolderRun(weights, data, out, limit_s, competition, results)
    manifest = load_manifest(weights)
    adapter, samples = adapter_of_folder(manifest, data, competition)
    with earlier_kept(out, adapter, manifest.row_classes):
        return run.predict(adapter, samples, manifest)


def predict_shard(run: FolderRun, part: tuple[int, int]) -> tuple[Shard, bool]:
    """Predict one part of what `predict_folder` predicts, and write its sidecar; a finished part is left as it is.

    Args:
        run: What is predicted, and where the rows of this part go.
        part: How many parts there are, and which of them this is, counted from 0.

    Returns:
        What the sidecar says, and whether anything was predicted.

    Raises:
        InputError: As `predict_folder`; also if another shard of the same submission lies at `out`.
        ValueError: If the numbers name no shard.
    """
    adapter, whole = open_folder(run)
    return predict_planned(run, adapter, whole, plan_shards(whole, part[0])(part[1]))


def open_folder(run: FolderRun) -> tuple[Competition, WholeRun]:
    """The adapter of a folder, and the submission that its shards are parts of.

    Raises:
        InputError: If weights or tables are at fault.
    """
    manifest = load_manifest(run.weights)
    adapter, samples = adapter_of_folder(manifest, run.data, run.competition)
    columns = submission_columns(adapter, manifest.row_classes)
    return adapter, WholeRun(adapter.name, columns, (manifest,), tuple(samples))


def predict_planned(run: FolderRun, adapter: Competition, whole: WholeRun, planned: Shard) -> tuple[Shard, bool]:
    """Predict a shard that `plan_shards` has planned; the rest is as in `predict_shard`."""
    (manifest,) = whole.manifests
    own = [whole.samples[place] for place in planned.places]
    finished = finished_shard(run.out, planned)
    if finished is not None:
        missing = set() if run.results is None else set(run.results.open(own, manifest, run.out))
        if missing <= set(finished.fallback):
            return finished, False
        logger.info("%s: files of %d images are missing: the shard is predicted anew", run.out, len(missing))
    table = TableForm(adapter)  # whatever the form of the submission
    with earlier_kept(run.out, table, manifest.row_classes):
        sidecar_path(run.out).unlink(missing_ok=True)  # from here on the csv is not finished
        summary = run.predict(adapter, own, manifest, table)
    degraded = [image.id for image in summary.images if image.outcome == "degraded"]
    return finish_shard(run.out, planned, summary.failed, degraded), True


def adapter_of_folder(manifest: Manifest, data: Path, name: str = "") -> tuple[Competition, list[Sample]]:
    """The adapter that a folder is read and its rows are written by, and its images.

    Args:
        manifest: Of the weights; its adapter is taken where it can read the folder.
        data: The folder.
        name: Name of the adapter that is wanted; empty where nobody says.

    Raises:
        InputError: With the faults of the folder by the adapter that is named, or by the manifest's.
    """
    adapter = get_competition(name or manifest.competition)
    found = None if name else _other_adapter(manifest, data)
    is_plain = not adapter.slug  # reads any folder of images, that of a competition too
    try:
        if found is None or not is_plain:
            return adapter, adapter.samples(data, "test")
    except InputError as error:
        if found is None:
            raise _with_missing_submission(error, adapter.name, data) from None
    logger.warning("%s: weights of %s predict a folder of %s, in its form of rows", data, adapter.name, found.name)
    try:
        return found, found.samples(data, "test")
    except InputError as error:
        raise _with_missing_submission(error, found.name, data) from None


def _other_adapter(manifest: Manifest, data: Path) -> Competition | None:
    """The adapter that a folder is seen to be of, where it is not the manifest's."""
    try:
        found = detect_competition(data)
    except InputError:
        return None
    return None if found.name == manifest.competition else found


def _with_missing_submission(error: InputError, name: str, data: Path) -> InputError:
    """The error; where the table is missing that names what is to be predicted, with what it is for."""
    path = data / "sample_submission.csv"
    if not data.is_dir() or path.is_file() or not any(fault.file == str(path) for fault in error.faults):
        return error
    rule = f"no such file: a folder of {name} names in it the images to predict, and their order"
    remedy = "add it with a row for each image, or put the images into images/ and say --competition folder"
    return InputError([Fault("sample_submission", str(path), rule, remedy)])
