"""Training tiles, written in parallel, with what sampling needs to know of each."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Masks, Runs, class_runs, runs_to_text
from histofold.core.threads import map_here, map_in_order
from histofold.data.contents import objects_digest
from histofold.data.tiles.bands import stream_tiles
from histofold.data.tiles.files import TILE_FOLDERS, has_tile, middle_channels, reflected, remove_tile, write_tile
from histofold.data.tiles.labels import IGNORED_LABEL, structure_pixels, target_labels
from histofold.data.tiles.masks import (
    IGNORED_BIT,
    check_class_count,
    class_fractions,
    mean_certainty,
    soft_values,
    target_bits,
)
from histofold.data.tiles.plan import PlannedTile, Rings, SlidePlan, keeps_background
from histofold.imaging.formats.door import use_formats
from histofold.imaging.slide import open_sample
from histofold.imaging.surroundings import with_surroundings
from histofold.imaging.tissue import tissue_fraction
from histofold.schema.dataset import TilesConfig
from histofold.schema.files import write_bytes_atomically
from histofold.schema.parse import kept_json, plain
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample, id_file_name

TILE_BINS = ("none", "very_small", "small", "some", "large")
INDEX_COLUMNS = (
    *("tile_id", "id", "fold", "y", "x", "size", "scale", "mask_fraction", "tissue_fraction", "bin"),
    *("source", "grid", "region", "label_origin", "label_fold", "organ"),
)
COLOUR_FIELDS = ("normalise", "mean", "std", "stain", "stain_reference")
"""Fields of the preprocessing that change no stored pixel: they are applied when tiles are read."""
_TILE_FORM = "as far as the slide"  # tiles of another form, as reflected ones once were, are cut anew
TRUE_LABELS = ("truth", -1)
"""label_origin and label_fold of tiles whose mask is the host's truth, which every fold may train on."""
Row = dict[str, str | int | float]
Moments = tuple[float, float, float]
Sums = tuple[int, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TileJob:
    """What a worker needs to cut one slide; its truth is that of the slide with its surroundings where it has any."""

    sample: Sample
    target: Masks
    fold: int
    preprocessing: Preprocessing
    tiles: TilesConfig
    out: Path
    classes: tuple[str, ...] = ("mask",)
    """Names of the mask classes."""
    regions: Rings = field(default_factory=dict)
    """Regions of the anatomy in slide pixels."""
    ignored: Runs | None = None
    """Pixels that training passes over."""
    objects: Objects | None = None
    """The single objects, in competitions of objects: tiles keep their labels then, instead of the target's masks."""
    owner: str = ""
    """The image whose id the rows of the index have; empty: the sample's own. Planes across slices are no images."""
    contents: str = ""
    """Identifies what the sample is made of; empty: size and time of its file do."""
    levels: tuple[Runs, ...] = ()
    """Nested masks that hold the probabilities of one class, as `soft_values` takes them."""
    soft: bool = False
    """Whether tiles keep these probabilities instead of the target."""
    min_certainty: float = 0.0
    """Tiles of a lower `mean_certainty` are left out; 0 keeps all."""
    threads: int = 1
    """Threads that finish tiles; where there are several, one more decodes ahead."""


@dataclass(frozen=True)
class CutSlide:
    """What became of one slide: its rows of the index, and sums and sums of squares of its tiles' channels."""

    rows: list[Row]
    pixels: int
    sums: list[int]
    squares: list[int]
    unsure: int = 0
    """Tiles that were left out by their certainty."""


class CutTiles(NamedTuple):
    """The tiles of a dataset: the table of `index_columns`, and the moments of their channels in 0 to 1."""

    index: pd.DataFrame
    mean: Moments
    std: Moments
    unsure: int = 0
    """Tiles that were left out by their certainty."""


def bin_of(mask_fraction: float, area_bins: Sequence[float]) -> str:
    """Bin of a tile by its mask fraction: none, very_small, small, some or large."""
    if mask_fraction == 0:
        return TILE_BINS[0]
    return TILE_BINS[1 + int(np.searchsorted(area_bins, mask_fraction))]


def index_columns(classes: Sequence[str]) -> list[str]:
    """Columns of index.csv; of several classes each has its own mask fraction."""
    return [*INDEX_COLUMNS, *(f"fraction_{name}" for name in classes if len(classes) > 1)]


def cut_slides(jobs: Sequence[TileJob], workers: int) -> CutTiles:
    """Cut all slides in parallel; slides that an earlier, interrupted call finished are not cut again.

    Args:
        jobs: One a slide, all of the same classes.
        workers: Processes; where there are more of them than slides, the rest become threads within a slide.

    Raises:
        InputError: With every slide that cannot be decoded, or if there are too many classes.
    """
    classes = jobs[0].classes if jobs else ()
    for job in jobs[:1]:
        check_class_count(classes, str(job.out))
        for name in (*TILE_FOLDERS, "parts"):
            (job.out / name).mkdir(parents=True, exist_ok=True)
    jobs = [replace(job, threads=max(1, workers // len(jobs))) for job in jobs]
    progress = partial(tqdm, total=len(jobs), desc="cut tiles", unit="slide", dynamic_ncols=True)
    if min(workers, len(jobs)) <= 1:
        results = list(progress(map(_cut_or_fault, jobs)))
    else:
        # Spawned, not forked: a fork of a process whose libraries hold threads can stop for ever.
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
            results = list(progress(pool.map(_cut_or_fault, jobs)))
    faults = [result for result in results if isinstance(result, Fault)]
    if faults:
        raise InputError(faults)
    parts = [result for result in results if isinstance(result, CutSlide)]
    index = pd.DataFrame([row for part in parts for row in part.rows], columns=index_columns(classes))
    pixels = max(1, sum(part.pixels for part in parts))
    mean = np.sum([part.sums for part in parts], axis=0) / pixels / 255
    variance = np.sum([part.squares for part in parts], axis=0) / pixels / 255**2 - mean**2
    unsure = sum(part.unsure for part in parts)
    return CutTiles(index, _moments(mean), _moments(np.sqrt(np.maximum(variance, 1e-6))), unsure)


def _moments(values_3: np.ndarray) -> Moments:
    return float(values_3[0]), float(values_3[1]), float(values_3[2])


def _cut_or_fault(job: TileJob) -> CutSlide | Fault:
    """Cut a slide, or say why it cannot be read: the other slides go on, and all faults are raised together."""
    try:
        return cut_slide(job)
    except ImageError as error:
        return Fault(job.sample.id, str(job.sample.image_path), error.rule, error.remedy)


def cut_slide(job: TileJob) -> CutSlide:
    """Cut one slide into images and masks; its part file is written last and makes it done."""
    cv2.setNumThreads(1)
    part = job.out / "parts" / f"{id_file_name(job.sample.id)}.json"
    digest = _job_digest(job)
    before: list[Row] = []
    known = kept_json(part)
    if {"digest", "cut"} <= known.keys():
        done, before = CutSlide(**known["cut"]), known["cut"]["rows"]
        if known["digest"] == digest and all(has_tile(job.out, str(r["tile_id"])) for r in done.rows):
            return done
        # What follows overwrites tiles of the earlier settings, so that going back to them must cut anew.
        write_bytes_atomically(part, json.dumps({"digest": "", "cut": known["cut"]}).encode())
    cut = _cut_tiles(job)
    write_bytes_atomically(part, json.dumps({"digest": digest, "cut": vars(cut)}).encode())
    for tile_id in {str(row["tile_id"]) for row in before} - {str(row["tile_id"]) for row in cut.rows}:
        remove_tile(job.out, tile_id)
    return cut


def _cut_tiles(job: TileJob) -> CutSlide:
    """Read the slide once, and write what is kept of its tiles."""
    use_formats()  # in this process too, which may be one of several
    with ExitStack() as stack:
        slide = stack.enter_context(open_sample(job.sample))
        if job.preprocessing.context_px:
            slide = with_surroundings(slide, job.preprocessing.context_px)
        ahead = stack.enter_context(ThreadPoolExecutor(1)) if job.threads > 1 else None
        plan = SlidePlan(
            sample_id=job.sample.id,
            shape_hw=slide.shape_hw,
            pixel_size_um=job.sample.pixel_size_um,
            organ=job.sample.organ,
            target=job.target,
            objects=job.objects,
            regions=job.regions,
            preprocessing=job.preprocessing,
            tiles=job.tiles,
        )
        all_planned, views = plan.planned(), plan.views()
        planned = [tile for tile in all_planned if _is_sure(job, tile, views[tile.view])]
        finish = partial(_finish_tile, job, plan, views)
        cut = stream_tiles(slide, views, planned, ahead, job.preprocessing.channels)
        threaded = job.threads > 1
        done = map_in_order([finish] * job.threads, cut, job.threads + 2) if threaded else map_here(finish, cut)
        finished = [tile for _, tile in done]
    place = {tile.tile_id: number for number, tile in enumerate(planned)}
    kept = sorted((tile for tile in finished if tile is not None), key=lambda tile: place[str(tile[0]["tile_id"])])
    pixels, sums, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
    for _, (count, sums_3, squares_3) in kept:
        pixels, sums, squares = pixels + count, sums + sums_3, squares + squares_3
    unsure = len(all_planned) - len(planned)
    return CutSlide([row for row, _ in kept], pixels, sums.tolist(), squares.tolist(), unsure)


def _is_sure(job: TileJob, tile: PlannedTile, view_hw: tuple[int, int]) -> bool:
    """Whether the label of a tile is certain enough to be learnt from."""
    return job.min_certainty == 0 or mean_certainty(job.levels, view_hw, tile.y, tile.x) >= job.min_certainty


def _finish_tile(
    job: TileJob, plan: SlidePlan, views: Sequence[tuple[int, int]], cut: tuple[PlannedTile, np.ndarray]
) -> tuple[Row, Sums] | None:
    """Decode a tile's truth and write the tile; where the slide is shorter, so is the tile, but for a whole image.

    Returns:
        Its row of the index and the `Sums` of its channels; None if it is dropped.
    """
    tile, image_HWC = cut
    view_hw = views[tile.view]
    mask_HW, structures_HW = _tile_mask(job, tile, view_hw)
    shown_HWC = middle_channels(image_HWC)
    fraction, tissue = np.count_nonzero(structures_HW) / mask_HW.size, tissue_fraction(shown_HWC)
    if fraction == 0 and not _keeps_unmasked(job.tiles, tile.tile_id, shown_HWC, tissue):
        return None
    own = class_fractions(structures_HW, len(job.classes)) if len(job.classes) > 1 else []
    if (mask_HW == IGNORED_BIT if job.soft else mask_HW >= _least_ignored(job)).all():
        return None  # nothing to learn from
    least = plan.size if plan.is_whole else 0
    image_HWC, stored_HW = reflected(image_HWC, least), reflected(mask_HW, least)
    write_tile(job.out, tile.tile_id, image_HWC, stored_HW, len(job.classes), soft=job.soft)
    values = [
        *(tile.tile_id, job.owner or job.sample.id, job.fold, tile.y.start, tile.x.start, plan.size),
        *(round(view_hw[0] / plan.shape_hw[0], 6), round(fraction, 6), round(tissue, 6)),
        *(bin_of(fraction, job.tiles.area_bins), job.sample.source, tile.grid, tile.region, *TRUE_LABELS),
        *(job.sample.organ, *(round(share, 6) for share in own)),
    ]
    return dict(zip(index_columns(job.classes), values, strict=True)), _channel_sums(shown_HWC)


def _tile_mask(job: TileJob, tile: PlannedTile, view_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What is stored of a tile's truth, bits or probabilities (uint8) or labels (uint16), and what of it is structure.

    Structure may be ignored. Of labels, objects lie on top of what is ignored.
    """
    if job.objects is not None:
        labels_HW = target_labels(job.objects, view_hw, tile.y, tile.x, job.ignored)
        return labels_HW, structure_pixels(labels_HW)
    bits_HW = target_bits(job.target, view_hw, tile.y, tile.x)
    stored_HW = soft_values(job.levels, view_hw, tile.y, tile.x) if job.soft else bits_HW
    if job.ignored is None:
        return stored_HW, bits_HW
    ignored_HW = target_bits(job.ignored, view_hw, tile.y, tile.x)
    if job.soft:
        return np.where(ignored_HW > 0, np.uint8(IGNORED_BIT), stored_HW), bits_HW
    return bits_HW | ignored_HW * np.uint8(IGNORED_BIT), bits_HW


def _least_ignored(job: TileJob) -> int:
    """The least value of a mask or of labels where a pixel does not count."""
    return IGNORED_BIT if job.objects is None else IGNORED_LABEL


def _keeps_unmasked(tiles: TilesConfig, tile_id: str, image_HWC: np.ndarray, tissue: float) -> bool:
    """Whether a tile without mask passes the filters."""
    if tissue < tiles.min_tissue or not keeps_background(tiles.keep_background, tiles.seed, tile_id):
        return False
    return tiles.min_saturation == 0 or mean_saturation(image_HWC) >= tiles.min_saturation


def mean_saturation(image_HWC: np.ndarray) -> float:
    """Mean of the pixels' saturation as HSV defines it, largest less smallest channel over the largest; 0 of black."""
    largest_HW, smallest_HW = image_HWC.max(axis=2).astype(np.float32), image_HWC.min(axis=2)
    return float(((largest_HW - smallest_HW) / np.maximum(largest_HW, 1)).mean(dtype=np.float64))


def _channel_sums(image_HWC: np.ndarray) -> Sums:
    """Pixels, and each channel's sum and sum of squares: whole numbers, exact in any order of the tiles."""
    channels = cv2.split(image_HWC)
    # Rounded, since OpenCV may take a root and square it again.
    sums, squares = ([round(cv2.norm(each, kind)) for each in channels] for kind in (cv2.NORM_L1, cv2.NORM_L2SQR))
    return channels[0].size, np.array(sums), np.array(squares)


def _job_digest(job: TileJob) -> str:
    """Identifies what a slide's tiles are made of: image file, truth, fold, scale and tile settings."""
    status = job.sample.image_path.stat()
    stamp: list[str | int] = [job.contents] if job.contents else [status.st_size, status.st_mtime_ns]
    # Planes of each axis have jobs of their own.
    tiles = {name: value for name, value in plain(job.tiles).items() if name not in ("axes", "tilt")}
    scale = plain(job.preprocessing)
    for name in (*COLOUR_FIELDS, *(["slices"] if job.preprocessing.channels == 3 else [])):
        scale.pop(name, None)
    sample = [job.sample.id, job.sample.organ, job.sample.source, job.sample.pixel_size_um, job.fold]
    truth = [job.classes, [runs_to_text(runs) for runs in class_runs(job.target)], dict(job.regions)]
    parts = [_TILE_FORM, sample, *stamp, scale, tiles, truth]
    if job.ignored is not None:
        parts.append(runs_to_text(job.ignored))
    if job.objects is not None:
        parts.append(objects_digest(job.objects))
    if job.levels:
        parts.append([runs_to_text(runs) for runs in job.levels])
    if job.min_certainty:
        parts.append([job.soft, job.min_certainty])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
