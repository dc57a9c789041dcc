"""Files of a synthetic folder: one job an image, the same bytes for the same content, and no half-written ones."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from tqdm import tqdm

Job = TypeVar("Job")
Done = TypeVar("Done")

# Layouts met in the wild, one after the other, so that a reader meets them all.
TIFF_LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled deflate": {"tile": (256, 256), "compression": "zlib", "predictor": True},
    "striped plain": {"rowsperstrip": 64},
    "striped lzw": {"rowsperstrip": 96, "compression": "lzw", "predictor": True},
    # The array is RGB; the encoder makes YCbCr of it, and says so in the file.
    "tiled jpeg": {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 92}},
}


def tiff_bytes(image_HWC: np.ndarray, layout: str) -> bytes:
    """Encode an RGB image as TIFF.

    Args:
        image_HWC: (H, W, 3) uint8 RGB.
        layout: A key of `TIFF_LAYOUTS`; "tiled jpeg" loses a little.
    """
    stream = io.BytesIO()
    tifffile.imwrite(stream, image_HWC, photometric="rgb", metadata=None, software=False, **TIFF_LAYOUTS[layout])
    return stream.getvalue()


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """Encode rows of text under a header as csv with Unix line ends."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue().encode()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write a large file under, which becomes `path` only if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def begin_folder(root: Path, tables: Sequence[str], truth_path: Path) -> None:
    """Take away what tells that a folder is complete, and what a killed run left half-written.

    Args:
        root: The competition's folder, which need not exist.
        tables: Its tables.
        truth_path: The hidden truth.
    """
    for path in (truth_path, *(root / table for table in tables)):
        path.unlink(missing_ok=True)
    for temporary in root.rglob(".*.tmp"):
        temporary.unlink()


def run_jobs(
    work: Callable[[Job], Done], jobs: Sequence[Job], *, num_workers: int, progress: bool, description: str
) -> list[Done]:
    """Do every job and keep the order; a job that fails ends all.

    Args:
        work: A function that can be pickled where there are workers.
        jobs: Its arguments.
        num_workers: Spawned processes; 0 works in this one. A script that asks for some must hold its own work under
            `if __name__ == "__main__"`, since they import it again.
        progress: Show a progress bar.
        description: What stands before the bar.
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
