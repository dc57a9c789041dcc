"""What a dataset is built from, by content: the pixels, the mask and the table row of each image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from histofold.competitions.base import ObjectCompetition, Truth
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.schema.manifest import file_sha256
from histofold.schema.sample import Sample

READERS = 4
_ROW = ("organ", "source", "group", "pixel_size_um")


@dataclass(frozen=True, kw_only=True)
class Content:
    """What an image and its truth were when the dataset was built."""

    pixels: str
    """SHA-256 of the image file."""
    size: int
    """Its bytes."""
    time_ns: int
    """When it was written: a file of this size and time is not read again."""
    mask: str = ""
    """SHA-256 of the truth, of every class and with what is ignored; empty where labels are predicted."""
    row: dict[str, str] = field(default_factory=dict)
    """What the tables say of it."""


def measure_contents(samples: Sequence[Sample], mask_digest: Callable[[Sample], str]) -> dict[str, Content]:
    """The content of each image by id.

    Args:
        samples: The images; their files are there.
        mask_digest: Gives the digest of the truth of each.
    """
    with ThreadPoolExecutor(READERS) as pool:
        pixels = list(pool.map(file_sha256, [sample.image_path for sample in samples]))
    contents = {}
    for sample, digest in zip(samples, pixels, strict=True):
        status = sample.image_path.stat()
        contents[sample.id] = Content(
            pixels=digest,
            size=status.st_size,
            time_ns=status.st_mtime_ns,
            mask=mask_digest(sample),
            row=table_row(sample),
        )
    return contents


def masks_digest(masks: Masks, ignored: Runs | None = None) -> str:
    """SHA-256 of a truth: sizes and runs of every class, and of what is ignored."""
    digest = hashlib.sha256()
    for runs in (*class_runs(masks), *([] if ignored is None else [ignored])):
        digest.update(f"{runs.shape_hw}{runs.order}{len(runs)}".encode())
        digest.update(runs.starts.tobytes() + runs.lengths.tobytes())
    return digest.hexdigest()


def objects_digest(objects: Objects) -> str:
    """SHA-256 of objects: the image's size, and which runs are whose."""
    digest = hashlib.sha256(repr(objects.shape_hw).encode())
    for part in (objects.starts, objects.lengths, objects.offsets):
        digest.update(np.ascontiguousarray(part, np.int64).tobytes())
    return digest.hexdigest()


def truth_digest(truth: Truth, sample: Sample) -> str:
    """SHA-256 of the truth that an adapter has of a sample: of its masks, or of them and the single objects."""
    ignored: Callable[[Sample], Runs | None] = getattr(truth, "ignored", lambda sample: None)
    digest = masks_digest(truth.target(sample), ignored(sample))
    single = true_objects(truth, sample)
    return digest if single is None else f"{digest} {objects_digest(single)}"


def true_objects(truth: Truth, sample: Sample) -> Objects | None:
    """The true objects of a sample; None in competitions of masks."""
    is_of_objects = getattr(truth, "task", "masks") == "instances"
    return cast(ObjectCompetition, truth).objects(sample) if is_of_objects else None


def folder_listing(root: Path, without: Path) -> str:
    """SHA-256 of names, sizes and times of all files of a folder: where it is the same, no file needs to be read.

    Args:
        root: The folder.
        without: A folder that is left aside where it lies in it: the dataset's own.
    """
    skipped, found = without.resolve(), []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if Path(folder, name).resolve() != skipped]
        for name in files:
            path = Path(folder, name)
            if path.exists():
                status = path.stat()
                found.append([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


def table_row(sample: Sample) -> dict[str, str]:
    """What the tables say of an image, as words."""
    return {name: str(getattr(sample, name)) for name in _ROW}
