"""Training tiles at one scale, written in parallel, with what sampling needs to know of each."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from histoseg.core.faults import Fault, InputError
from histoseg.core.rle import Runs, runs_to_text
from histoseg.core.tiles import Tile, TileGrid
from histoseg.imaging.errors import ImageError
from histoseg.imaging.resample import ScaledSlide, resample_mask_region
from histoseg.imaging.slide import open_slide
from histoseg.imaging.tissue import tissue_fraction
from histoseg.schema.atomic import write_bytes_atomically
from histoseg.schema.experiment import TilesConfig
from histoseg.schema.parse import plain
from histoseg.schema.preprocessing import Preprocessing
from histoseg.schema.sample import Sample

TILE_BINS = ("none", "very_small", "small", "some", "large")
INDEX_COLUMNS = (
    *("tile_id", "id", "fold", "y", "x", "size", "scale", "mask_fraction", "tissue_fraction", "bin"),
    *("organ", "source"),
)


@dataclass(frozen=True)
class TileJob:
    """What a worker needs to cut one slide."""

    sample: Sample
    target: Runs
    fold: int
    preprocessing: Preprocessing
    tiles: TilesConfig
    out: Path


@dataclass(frozen=True)
class CutSlide:
    """What became of one slide: its rows of the index and the moments of its tiles' channels."""

    rows: list[dict[str, str | int | float]]
    pixels: int
    sums: list[float]
    squares: list[float]


def bin_of(mask_fraction: float, area_bins: Sequence[float]) -> str:
    """Bin of a tile by its mask fraction: none, very_small, small, some or large."""
    if mask_fraction == 0:
        return TILE_BINS[0]
    return TILE_BINS[1 + int(np.searchsorted(area_bins, mask_fraction))]


def training_grid(scaled_hw: tuple[int, int], preprocessing: Preprocessing, tiles: TilesConfig) -> TileGrid:
    """The grid of training tiles: one tile for a whole image, else tiles at the configured stride."""
    if preprocessing.scale_mode == "whole":
        return TileGrid(scaled_hw, preprocessing.whole_size)
    return TileGrid(scaled_hw, tiles.size, tiles.stride)


def cut_slides(jobs: Sequence[TileJob], workers: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Cut all slides in parallel; slides that an earlier, interrupted call finished are not cut again.

    Args:
        jobs: One a slide.
        workers: Processes.

    Returns:
        (index, mean, std): the table of `INDEX_COLUMNS`, and the moments (3,) of the tiles' channels in 0 to 1.

    Raises:
        InputError: With every slide that cannot be decoded.
    """
    for name in ("images", "masks", "parts"):
        for job in jobs[:1]:
            (job.out / name).mkdir(parents=True, exist_ok=True)
    progress = partial(tqdm, total=len(jobs), desc="cut tiles", unit="slide", dynamic_ncols=True)
    if workers <= 1:
        results = list(progress(map(_cut_or_fault, jobs)))
    else:
        # Spawned, not forked: a fork of a process whose libraries hold threads can stop for ever.
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
            results = list(progress(pool.map(_cut_or_fault, jobs)))
    faults = [result for result in results if isinstance(result, Fault)]
    if faults:
        raise InputError(faults)
    parts = [result for result in results if isinstance(result, CutSlide)]
    index = pd.DataFrame([row for part in parts for row in part.rows], columns=list(INDEX_COLUMNS))
    pixels = max(1, sum(part.pixels for part in parts))
    mean = np.sum([part.sums for part in parts], axis=0) / pixels / 255
    variance = np.sum([part.squares for part in parts], axis=0) / pixels / 255**2 - mean**2
    return index, mean, np.sqrt(np.maximum(variance, 1e-6))


def _cut_or_fault(job: TileJob) -> CutSlide | Fault:
    """Cut a slide, or say why it cannot be read: the other slides go on, and all faults are told together."""
    try:
        return cut_slide(job)
    except ImageError as error:
        return Fault(job.sample.id, str(job.sample.image_path), error.rule, error.remedy)


def cut_slide(job: TileJob) -> CutSlide:
    """Cut one slide into image and mask PNGs; its part file is written last and makes it done."""
    cv2.setNumThreads(1)
    part = job.out / "parts" / f"{job.sample.id}.json"
    digest = _job_digest(job)
    if part.is_file():
        known = json.loads(part.read_text(encoding="utf-8"))
        cut = CutSlide(**known["cut"])
        if known["digest"] == digest and all(_has_tile(job.out, str(row["tile_id"])) for row in cut.rows):
            return cut
    rows: list[dict[str, str | int | float]] = []
    pixels, sums, squares = 0, np.zeros(3), np.zeros(3)
    with open_slide(job.sample.image_path) as slide:
        scaled = ScaledSlide(slide, job.preprocessing.scaled_hw(slide.shape_hw, job.sample.pixel_size_um))
        for tile in training_grid(scaled.shape_hw, job.preprocessing, job.tiles):
            image_HWC = scaled.read(*tile.read)
            mask_HW = resample_mask_region(job.target.to_window, slide.shape_hw, scaled.shape_hw, *tile.read)
            mask_fraction, tissue = float(mask_HW.mean()), tissue_fraction(image_HWC)
            if mask_fraction == 0 and tissue < job.tiles.min_tissue:
                continue
            rows.append(_write_tile(job, tile, scaled.shape_hw[0] / slide.shape_hw[0], image_HWC, mask_HW, tissue))
            values = image_HWC.reshape(-1, 3).astype(np.float64)
            pixels += len(values)
            sums += values.sum(axis=0)
            squares += (values**2).sum(axis=0)
    cut = CutSlide(rows, pixels, sums.tolist(), squares.tolist())
    write_bytes_atomically(part, json.dumps({"digest": digest, "cut": asdict(cut)}).encode())
    return cut


def _has_tile(out: Path, tile_id: str) -> bool:
    return (out / "images" / f"{tile_id}.png").is_file() and (out / "masks" / f"{tile_id}.png").is_file()


def _write_tile(
    job: TileJob, tile: Tile, scale: float, image_HWC: np.ndarray, mask_HW: np.ndarray, tissue: float
) -> dict[str, str | int | float]:
    """Write a tile, reflected where the image is smaller than it; gives its row of the index."""
    y, x = tile.read[0].start, tile.read[1].start
    tile_id = f"{job.sample.id}_{y}_{x}"
    padded_HWC = np.pad(image_HWC, (*tile.pad, (0, 0)), mode="reflect")
    padded_HW = np.pad(mask_HW.astype(np.uint8) * 255, tile.pad, mode="reflect")
    _write_png(job.out / "images" / f"{tile_id}.png", cv2.cvtColor(padded_HWC, cv2.COLOR_RGB2BGR))
    _write_png(job.out / "masks" / f"{tile_id}.png", padded_HW)
    fraction = float(mask_HW.mean())
    return {
        "tile_id": tile_id,
        "id": job.sample.id,
        "fold": job.fold,
        "y": y,
        "x": x,
        "size": padded_HW.shape[0],
        "scale": round(scale, 6),
        "mask_fraction": round(fraction, 6),
        "tissue_fraction": round(tissue, 6),
        "bin": bin_of(fraction, job.tiles.area_bins),
        "organ": job.sample.organ,
        "source": job.sample.source,
    }


def _write_png(path: Path, image: np.ndarray) -> None:
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done, path
    write_bytes_atomically(path, data.tobytes())


def _job_digest(job: TileJob) -> str:
    """Identifies what a slide's tiles are made of: image file, truth, fold, scale and tile settings."""
    status = job.sample.image_path.stat()
    scale = plain(job.preprocessing)
    for key in ("normalise", "mean", "std", "stain"):
        del scale[key]
    parts = [job.sample.id, job.sample.organ, job.sample.source, job.sample.pixel_size_um, job.fold]
    text = json.dumps([parts, status.st_size, status.st_mtime_ns, scale, plain(job.tiles), runs_to_text(job.target)])
    return hashlib.sha256(text.encode()).hexdigest()
