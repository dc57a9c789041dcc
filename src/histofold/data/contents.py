"""What a dataset was built from, by content: the pixels, mask and table row of each image; and what of it has changed.

A digest of tiles alone does not see a mended mask or a replaced image: whoever trains or scores on a dataset compares
what lies in its folder now with what was there when it was built, and says which images differ in what.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from histofold.competitions.base import Truth
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.data.leaks import listed_ids
from histofold.schema.manifest import file_sha256
from histofold.schema.sample import Sample

READERS = 4
CHANGES = {
    "pixels": "other pixels",
    "mask": "other masks",
    "row": "other rows of the tables",
    "part": "other folds",
    "weights": "other first weights",
    "share": "other shares of the draws",
}
"""What may differ between two trainings beside their settings, by the first word of a key of `fold_inputs`."""
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
            row=_row_of(sample),
        )
    return contents


def masks_digest(masks: Masks, ignored: Runs | None = None) -> str:
    """SHA-256 of a truth: sizes and runs of every class, and of what is ignored."""
    digest = hashlib.sha256()
    for runs in (*class_runs(masks), *([] if ignored is None else [ignored])):
        digest.update(f"{runs.shape_hw}{runs.order}{len(runs)}".encode())
        digest.update(runs.starts.tobytes() + runs.lengths.tobytes())
    return digest.hexdigest()


def truth_digest(truth: Truth, sample: Sample) -> str:
    """SHA-256 of the truth that an adapter has of a sample."""
    ignored: Callable[[Sample], Runs | None] = getattr(truth, "ignored", lambda sample: None)
    return masks_digest(truth.target(sample), ignored(sample))


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


def changed_contents(
    contents: Mapping[str, Content], samples: Mapping[str, Sample], mask_digest: Callable[[Sample], str]
) -> list[str]:
    """What differs between a folder and what was built from it, in words; images that are new or gone are left aside.

    Args:
        contents: What was there.
        samples: The images that are there now, by id.
        mask_digest: As for `measure_contents`.
    """
    before: dict[str, str] = {}
    now: dict[str, str] = {}
    for key, content in contents.items():
        sample = samples.get(key)
        if sample is None or not sample.image_path.is_file():
            continue
        status = sample.image_path.stat()
        is_same = (status.st_size, status.st_mtime_ns) == (content.size, content.time_ns)
        mask = mask_digest(sample) if content.mask else ""
        pixels = content.pixels if is_same else file_sha256(sample.image_path)
        before |= _keyed(key, content.pixels, content.mask, content.row)
        now |= _keyed(key, pixels, mask, _row_of(sample))
    return changed_inputs(before, now)


def _row_of(sample: Sample) -> dict[str, str]:
    return {name: str(getattr(sample, name)) for name in _ROW}


def _keyed(key: str, pixels: str, mask: str, row: Mapping[str, str]) -> dict[str, str]:
    told = "; ".join(f"{name} {value or 'not known'}" for name, value in row.items())
    return {f"pixels {key}": pixels[:32], f"mask {key}": mask[:32], f"row {key}": told}


def content_inputs(contents: Mapping[str, Content]) -> dict[str, str]:
    """What each image is, as `changed_inputs` compares it."""
    inputs: dict[str, str] = {}
    for key, content in contents.items():
        inputs |= _keyed(key, content.pixels, content.mask, content.row)
    return inputs


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between the inputs of two trainings, in words: kind by kind, the images that differ.

    An image that only one of them has is of another fold, and has no other pixels.
    """
    words = []
    for kind, told in CHANGES.items():
        keys = [key for key in dict.fromkeys([*before, *now]) if key.split(" ", 1)[0] == kind]
        both = kind != "part"
        changed = [k for k in keys if before.get(k) != now.get(k) and (not both or (k in before and k in now))]
        if changed:
            words.append(f"{told}: {listed_ids(_described(kind, key, before, now) for key in changed)}")
    return words


def _described(kind: str, key: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """A changed image by its id; of what can be read both values are told."""
    name = key.partition(" ")[2]
    if kind == "row":
        pairs = zip(before[key].split("; "), now[key].split("; "), strict=False)
        told = "; ".join(f"{old} then, {new.partition(' ')[2]} now" for old, new in pairs if old != new)
        return f"{name} ({told})"
    if kind == "part":
        return f"{name} ({before.get(key, 'not there')} then, {now.get(key, 'not there')} now)"
    return f"{name} ({before[key]} then, {now[key]} now)" if kind == "share" else name
