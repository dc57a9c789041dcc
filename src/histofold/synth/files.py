"""Files of a synthetic folder, made one job an image, and the key to what they do not tell."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import tifffile
from tqdm import tqdm

from histofold.schema.files import csv_text, write_atomically

Job = TypeVar("Job")
Done = TypeVar("Done")
Row = dict[str, str]
"""Cells by their columns."""

# Layouts met in the wild, one after the other, so that a reader meets them all.
TIFF_LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled deflate": {"tile": (256, 256), "compression": "zlib", "predictor": True},
    "striped plain": {"rowsperstrip": 64},
    "striped lzw": {"rowsperstrip": 96, "compression": "lzw", "predictor": True},
    # The array is RGB; the encoder makes YCbCr of it, and says so in the file.
    "tiled jpeg": {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 92}},
}


def tiff_bytes(image: np.ndarray, layout: str) -> bytes:
    """A uint8 image, RGB (H, W, 3) or grey (H, W), as TIFF in one of `TIFF_LAYOUTS`; "tiled jpeg" loses a little."""
    stream = io.BytesIO()
    photometric = "rgb" if image.ndim == 3 else "minisblack"
    tifffile.imwrite(stream, image, photometric=photometric, metadata=None, software=False, **TIFF_LAYOUTS[layout])
    return stream.getvalue()


def png_bytes(image: np.ndarray) -> bytes:
    """A uint8 image, RGB (H, W, 3) or grey (H, W), as PNG."""
    done, coded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be stored as PNG")
    return coded.tobytes()


SPOILT = ("truncated", "missing", "one_pixel", "grey")


def refuse_unknown_faults(faults: Sequence[str], images: int) -> None:
    """Refuse faults that are not of `SPOILT`, and more of them than images.

    Raises:
        ValueError: Which.
    """
    unknown = sorted(set(faults) - set(SPOILT))
    if unknown or len(faults) > images:
        raise ValueError(f"test_faults={list(faults)}: at most one an image ({images}), of {', '.join(SPOILT)}")


def spoilt_image(fault: str, image_HWC: np.ndarray, encode: Callable[[np.ndarray], bytes]) -> bytes | None:
    """The file of an image (H, W, 3) with a fault of `SPOILT`; None where there is to be no file."""
    if fault == "missing":
        return None
    if fault == "truncated":
        content = encode(image_HWC)
        return content[: len(content) // 2]
    return encode(image_HWC[:1, :1] if fault == "one_pixel" else image_HWC[..., 1])


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write some columns of rows as csv, whole or not at all."""
    write_atomically(path, csv_text(columns, [[row[column] for column in columns] for row in rows]))


def begin_folder(root: Path, tables: Sequence[str], truth_path: Path) -> None:
    """Take away what tells that a folder is complete, and what a killed run left half-written."""
    for path in (truth_path, *(root / table for table in tables)):
        path.unlink(missing_ok=True)
    for temporary in root.rglob(".*.tmp"):
        temporary.unlink()


def run_jobs(
    work: Callable[[Job], Done], jobs: Sequence[Job], *, num_workers: int, progress: bool, description: str
) -> list[Done]:
    """Do every job and keep the order; a job that fails ends all.

    Workers are spawned: the work can be pickled, and a script that asks for some holds its own work under
    `if __name__ == "__main__"`, since they import it again. Without any the work is done in this process.
    """

    def shown(results: Iterator[Done]) -> list[Done]:
        return list(tqdm(results, desc=description, unit="image", total=len(jobs), disable=not progress))

    if num_workers == 0 or len(jobs) < 2:
        return shown(map(work, jobs))
    workers = min(num_workers, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return shown(pool.map(work, jobs))


def refuse_less(*asked: tuple[str, int, int]) -> None:
    """Refuse numbers, given with their names, that are less than their least.

    Raises:
        ValueError: For the first of them.
    """
    for name, value, least in asked:
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")


Numbers = Mapping[str, int | float | str]


@dataclass(frozen=True, kw_only=True)
class PlantedFault:
    """One thing that was planted on purpose."""

    kind: str
    """As in `histofold.synth.hubmap_2022.options.TRAIN_FAULTS` or `HABITS`, or shifted_truth."""
    numbers: Numbers = field(default_factory=dict)
    """What was done: pixels, shifts (dy, dx), radii, cells of tables, names of other images."""


@dataclass(frozen=True, kw_only=True)
class ArtefactPlace:
    """A fold, bubble, blurred area or pen stroke of an image."""

    kind: str
    """Of `histofold.synth.drawing.slide.ARTEFACTS`."""
    box_yxyx: tuple[int, int, int, int]
    """First row and column, and the row and column after the last."""


def artefact_places(regions: Sequence[tuple[str, Sequence[int]]]) -> tuple[ArtefactPlace, ...]:
    """The artefacts of a slide from its kinds and boxes (y0, x0, y1, x1)."""
    return tuple(
        ArtefactPlace(kind=kind, box_yxyx=(int(y0), int(x0), int(y1), int(x1))) for kind, (y0, x0, y1, x1) in regions
    )


@dataclass(frozen=True, kw_only=True)
class WrittenImage:
    """What is known of an image once it is written."""

    row: Row
    """Its cells of all columns of all tables."""
    clean_rle: str
    """Its mask without faults and habits where the key has it, else empty."""
    planted: tuple[PlantedFault, ...]
    """What was planted in it."""
    artefacts: tuple[ArtefactPlace, ...]
    """Where its folds, bubbles, blurred areas and pen strokes lie."""


@dataclass(frozen=True, kw_only=True)
class SynthKey:
    """What was made, and what the folder itself does not tell."""

    root: Path
    """The competition's folder."""
    truth_path: Path
    """The csv of the test images' truth, or the folder of it, outside the folder."""
    seed: int
    """What it was made from."""
    train_ids: tuple[str, ...]
    """Ids of train.csv in its order."""
    test_ids: tuple[str, ...]
    """Ids of the test images in their order."""
    donors: Mapping[str, str]
    """True donor of every id, test ids too; donors of the splits are distinct. Of a near-copy of another patient's
    image this is that patient, whatever its row says."""
    planted: Mapping[str, tuple[PlantedFault, ...]] = field(default_factory=dict)
    """Everything that was planted, by id; ids without any are left out."""
    clean_rles: Mapping[str, str] = field(default_factory=dict)
    """1-based column-major runs of masks without faults and habits: of every train image of hubmap_2022, and of the
    test slides of kidney_2020 whose truth was shifted."""
    artefacts: Mapping[str, tuple[ArtefactPlace, ...]] = field(default_factory=dict)
    """Where folds, bubbles, blurred areas and pen strokes lie, by id; ids without any are left out."""


def folder_key(
    root: Path, truth_path: Path, seed: int, donors: tuple[Mapping[str, str], ...], written: Sequence[WrittenImage]
) -> SynthKey:
    """The key of a folder: true donors by the ids of train and of test, and the images in the same order."""
    train, test = donors
    done = dict(zip([*train, *test], written, strict=True))
    return SynthKey(
        root=root,
        truth_path=truth_path,
        seed=seed,
        train_ids=tuple(train),
        test_ids=tuple(test),
        donors={**train, **test},
        planted={name: image.planted for name, image in done.items() if image.planted},
        clean_rles={name: image.clean_rle for name, image in done.items() if image.clean_rle},
        artefacts={name: image.artefacts for name, image in done.items() if image.artefacts},
    )


def truth_path_of(root: Path, truth_path: Path | None) -> Path:
    """Where the hidden truth goes: as asked, or ROOT_truth.csv beside the folder.

    Raises:
        ValueError: If it would lie inside the folder.
    """
    truth_path = truth_path or root.with_name(f"{root.name}_truth.csv")
    if truth_path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"truth_path {truth_path} lies inside {root}: name a file outside it, the truth is hidden")
    return truth_path


def folder_of_truth(root: Path, truth_path: Path | None) -> Path:
    """Where a hidden truth that is a folder goes: as asked, or ROOT_truth beside the folder.

    Raises:
        ValueError: If it would lie inside the folder.
    """
    return truth_path_of(root, truth_path or root.with_name(f"{root.name}_truth"))


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of a purpose: the same whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence([seed, *key]))
