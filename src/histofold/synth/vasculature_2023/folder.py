"""A synthetic competition in the folder layout of hubmap-hacking-the-human-vasculature (2023).

Tiles are cut from larger slides, so that neighbours fit; i is the column and j the row of a tile's first pixel. The
hidden truth lies outside the folder, as a folder of the same layout whose training tiles are the hidden ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from skimage.measure import find_contours

from histofold.core.log import logger
from histofold.schema.files import write_atomically, write_bytes_atomically
from histofold.synth.drawing.canvas import paint
from histofold.synth.drawing.frame import Scene
from histofold.synth.drawing.ground import make_ground
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.files import (
    PlantedFault,
    Row,
    SynthKey,
    begin_folder,
    folder_of_truth,
    random_stream,
    refuse_less,
    refuse_unknown_faults,
    run_jobs,
    spoilt_image,
    tiff_bytes,
    write_table,
)

VESSEL_TABLES = ("polygons.jsonl", "tile_meta.csv", "wsi_meta.csv", "sample_submission.csv")
TILE_COLUMNS = ("id", "source_wsi", "dataset", "i", "j")
WSI_COLUMNS = ("source_wsi", "age", "sex", "race", "height", "weight", "bmi")
VESSEL_COLUMNS = ("id", "height", "width", "prediction_string")
# The host's own example of a row.
_EXAMPLE = "0 1.0 eNoLTDAwyrM3yI/PMwcAE94DZA=="
_WORLD = 2023  # sets these random streams apart from those of the other competitions
_WSI, _IDS, _LABELS = range(3)
_PIXEL_UM = 0.5
_REAL_SIDE_PX, _LEAST_SHRINK = 512, 0.5
_COLUMNS, _LEAST_ROWS = 12, 8  # tiles of a slide
_TEST_WSI = 5  # the one that the host's tables leave out
_LEAST_TISSUE, _USUALLY_TISSUE = 0.3, 0.6
_LEAST_AREA_PX = 24
_DUPLICATED = 0.03  # share of annotations that stand twice in their line
_LABELLED = 0.6  # share of vessels that the sparse dataset labels


@dataclass(frozen=True, kw_only=True)
class PlannedWsi:
    """One slide before it is drawn."""

    number: int
    """As in the tables."""
    tiles: Mapping[str, tuple[int, int, int]]
    """Dataset (0: the hidden test), row and column of each tile by its id."""
    origin_xy: tuple[int, int]
    """Column and row of the drawn part's first pixel on the whole slide."""
    spec: SlideSpec
    """What it shows."""
    side: int
    """Of a tile in pixels."""


@dataclass(frozen=True, kw_only=True)
class WrittenTile:
    """What is known of a tile once it is written."""

    row: Row
    """Its cells of tile_meta.csv."""
    line: str
    """Its line of polygons.jsonl, empty for an unlabelled tile."""
    planted: tuple[PlantedFault, ...] = field(default=())
    """What was planted in it."""


def make_vasculature_2023(
    root: Path,
    *,
    num_train: int = 60,
    num_test: int = 12,
    seed: int = 0,
    max_side: int = 512,
    test_faults: Sequence[str] = (),
    hidden_meta: bool = False,
    truth_path: Path | None = None,
    progress: bool = True,
    num_workers: int = 0,
) -> SynthKey:
    """Write the folder: tiles as LZW TIFF, polygons and tables; the tables last, and the truth after all else.

    Of the training tiles two fifths are of dataset 1 (slides 1 and 2, every vessel outlined), two fifths of dataset 2
    (slides 1 to 4, sparse and thin labels), the rest of dataset 3 (unlabelled). The hidden tiles are of one more slide,
    labelled as dataset 1. Of tiles smaller than the host's the anatomy is shrunk with them, to half at most.

    Args:
        root: Folder to fill; made if missing.
        num_train: Count of training tiles, at least 5.
        num_test: Count of hidden tiles, at least 1.
        seed: Same seed and options, same bytes. Not negative.
        max_side: Side of a tile in pixels, at least 64.
        test_faults: Of `SPOILT`, planted in the first hidden tiles.
        hidden_meta: Whether tile_meta.csv has rows of the hidden tiles, so that their neighbours can be found.
        truth_path: Folder of the hidden truth, outside `root`; default ROOT_truth.
        progress: Show a progress bar.
        num_workers: Spawned processes that draw; 0 draws in this one.

    Returns:
        The key.

    Raises:
        ValueError: A count or size is not possible, or the truth would lie inside the folder.
    """
    truth_path = folder_of_truth(root, truth_path)
    refuse_less(("num_train", num_train, 5), ("num_test", num_test, 1), ("seed", seed, 0), ("max_side", max_side, 64))
    refuse_unknown_faults(test_faults, num_test)
    plans = plan_wsis(seed, num_train, num_test, max_side)
    hidden = [name for plan in plans for name, (dataset, _, _) in plan.tiles.items() if dataset == 0]
    faults = dict(zip(hidden, test_faults, strict=False))
    begin_folder(root, VESSEL_TABLES, truth_path / "polygons.jsonl")
    work = partial(_make_wsi, root, truth_path, seed, faults)
    parts = run_jobs(work, plans, num_workers=num_workers, progress=progress, description="synthetic vessels")
    tiles = {name: tile for part in parts for name, tile in part.items()}
    train = sorted(tiles.keys() - set(hidden))
    _write_tables(root, seed, [tiles[name] for name in train], [tiles[name] for name in hidden] if hidden_meta else [])
    example = [
        {"id": name, "height": str(max_side), "width": str(max_side), "prediction_string": _EXAMPLE}
        for name in sorted(hidden)
    ]
    write_table(root / "sample_submission.csv", VESSEL_COLUMNS, example)
    _write_tables(truth_path, seed, [tiles[name] for name in sorted(hidden)], [])
    logger.info("synthetic vessels: %d training and %d hidden tiles in %s", num_train, num_test, root)
    return SynthKey(
        root=root,
        truth_path=truth_path,
        seed=seed,
        train_ids=tuple(train),
        test_ids=tuple(sorted(hidden)),
        donors={name: tile.row["source_wsi"] for name, tile in tiles.items()},
        planted={name: tile.planted for name, tile in tiles.items() if tile.planted},
    )


def plan_wsis(seed: int, num_train: int, num_test: int, side: int) -> list[PlannedWsi]:
    """Which tiles of which slide there are; datasets 1 and 2 lie beside each other on slides 1 and 2."""
    of_1 = round(0.4 * num_train)
    of_2 = round(0.4 * num_train)
    of_3 = num_train - of_1 - of_2
    wanted: dict[int, dict[int, int]] = {
        number: {1: part} for number, part in zip((1, 2), _shares(of_1, 2), strict=True)
    }
    for number, part in zip((1, 2, 3, 4), _shares(of_2, 4), strict=True):
        wanted.setdefault(number, {})[2] = part
    wanted[_TEST_WSI] = {0: num_test}
    for number, part in zip((6, 7), _shares(of_3, 2), strict=True):
        wanted[number] = {3: part}
    return [_plan_wsi(seed, number, counts, side) for number, counts in wanted.items() if sum(counts.values())]


def _shares(count: int, parts: int) -> list[int]:
    """A count in parts as equal as can be, the larger first."""
    return [(count + parts - 1 - part) // parts for part in range(parts)]


def _plan_wsi(seed: int, number: int, counts: Mapping[int, int], side: int) -> PlannedWsi:
    """One slide with so many tiles of each dataset."""
    rng = random_stream(seed, _WORLD, _WSI, number)
    rows = max(_LEAST_ROWS, int(np.ceil(max(counts.values()) / (_COLUMNS / 2 * _USUALLY_TISSUE))))
    spec = SlideSpec(
        key=(seed, _WORLD, number),
        organ="kidney vessels",
        stain=draw_stain(rng, "pas"),
        shape_hw=(rows * side, _COLUMNS * side),
        pixel_size_um=_PIXEL_UM,
        shrink=min(max(side / _REAL_SIDE_PX, _LEAST_SHRINK), 1.0),
        thickness_um=6.0,
    )
    tissue = _tissue_shares(spec, side)
    middle = _COLUMNS // 2
    tiles = {}
    for dataset, count in counts.items():
        left, right = {1: (0, middle), 2: (middle, _COLUMNS)}.get(dataset, (0, _COLUMNS))
        for row, column in _block(tissue[:, left:right], count, middle - left):
            tiles[_tile_id(seed, number, row, left + column)] = (dataset, row, left + column)
    column, row = rng.integers(3, 40, 2) * _REAL_SIDE_PX + 417 * (
        number == 4
    )  # one slide's tiles begin between the others'
    return PlannedWsi(number=number, tiles=tiles, origin_xy=(int(column), int(row)), spec=spec, side=side)


def _tissue_shares(spec: SlideSpec, side: int) -> np.ndarray:
    """Share of tissue in each tile of a slide, (rows, columns)."""
    scene = Scene(key=spec.key, shape_hw=spec.shape_hw, pixel_size_um=spec.pixel_size_um, shrink=spec.shrink)
    ground = make_ground(scene, spec.organ, core=False)
    rows, columns = (length // side for length in spec.shape_hw)
    places = np.moveaxis(np.mgrid[: rows * 4, : columns * 4], 0, -1).reshape(-1, 2)
    inside = ground.at(ground.depth, (places + 0.5) * side / 4) > 0
    return inside.reshape(rows, 4, columns, 4).mean(axis=(1, 3))


def _block(tissue: np.ndarray, count: int, column: int) -> list[tuple[int, int]]:
    """Rows and columns of tiles that lie together round a column in the middle row, those with much tissue first.

    Blocks are wider than high: folds by position keep strips of columns whole.
    """
    places = [(row, at) for row in range(tissue.shape[0]) for at in range(tissue.shape[1])]

    def rank(place: tuple[int, int]) -> tuple[bool, float]:
        away = np.hypot(4 * (place[0] + 0.5 - tissue.shape[0] / 2), place[1] + 0.5 - column)
        return tissue[place] < _LEAST_TISSUE, float(away)

    return sorted(places, key=rank)[:count]


def _tile_id(seed: int, wsi: int, row: int, column: int) -> str:
    """Twelve hexadecimal digits."""
    return f"{random_stream(seed, _WORLD, _IDS, wsi, row, column).integers(16**12):012x}"


def _make_wsi(
    root: Path, truth: Path, seed: int, faults: Mapping[str, str], plan: PlannedWsi
) -> dict[str, WrittenTile]:
    """Draw a slide's tiles and write them, the hidden ones among the truth too."""
    slide, written = SyntheticSlide(plan.spec), {}
    for name, (dataset, row, column) in plan.tiles.items():
        top, left = row * plan.side, column * plan.side
        picture = slide.read(slice(top, top + plan.side), slice(left, left + plan.side))
        content = tiff_bytes(picture.image_HWC, "striped lzw")
        planted: tuple[PlantedFault, ...] = ()
        if dataset == 0:
            write_bytes_atomically(truth / "train" / f"{name}.tif", content)
        if name in faults:
            encode = partial(tiff_bytes, layout="striped lzw")
            spoilt = spoilt_image(faults[name], picture.image_HWC, encode)
            planted = (PlantedFault(kind=faults[name]),)
        else:
            spoilt = content
        if spoilt is not None:
            write_bytes_atomically(root / ("train" if dataset else "test") / f"{name}.tif", spoilt)
        column_px, row_px = plan.origin_xy[0] + left, plan.origin_xy[1] + top
        cells = (name, str(plan.number), str(dataset or 1), str(column_px), str(row_px))
        line = ""
        if dataset != 3:
            rng = random_stream(seed, _WORLD, _LABELS, plan.number, row, column)
            shapes = tile_shapes(slide.outlines, (top, left), plan.side, sparse=dataset == 2, rng=rng)
            line = json.dumps({"id": name, "annotations": shapes})
        written[name] = WrittenTile(row=dict(zip(TILE_COLUMNS, cells, strict=True)), line=line, planted=planted)
    return written


def tile_shapes(
    outlines: Mapping[str, Sequence[np.ndarray]],
    corner_yx: tuple[int, int],
    side: int,
    *,
    sparse: bool,
    rng: np.random.Generator,
) -> list[dict[str, object]]:
    """The annotations of a tile; some stand there twice.

    Args:
        outlines: Of the slide, as `SyntheticSlide.outlines`.
        corner_yx: The tile's first pixel.
        side: Of the tile in pixels.
        sparse: Only some of the vessels, and of them the hollow alone.
        rng: Decides which are labelled and which are doubled.
    """
    shapes: list[dict[str, object]] = []
    for kind in ("blood_vessel", "glomerulus", "unsure"):
        source = "vessel_lumen" if sparse and kind == "blood_vessel" else kind
        for outline in outlines[source]:
            low, high = outline.min(axis=0) - corner_yx, outline.max(axis=0) - corner_yx
            if high.min() < 0 or low.max() >= side or (sparse and kind != "glomerulus" and rng.random() > _LABELLED):
                continue
            for ring in _clipped(outline - corner_yx, side):
                shape: dict[str, object] = {"type": kind, "coordinates": [ring]}
                shapes += [shape, shape] if rng.random() < _DUPLICATED else [shape]
    return shapes


def _clipped(outline_P2: np.ndarray, side: int) -> list[list[list[int]]]:
    """Closed rings of [x, y] of what lies of an outline within a tile, written as the host does.

    Corners stand between the pixels, half a pixel outside the first and the last, and are cut off to whole numbers.
    """
    inside = np.zeros((side, side), dtype=np.uint8)
    paint(inside, outline_P2, 1)
    parts, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    large = [part for part in range(1, parts) if stats[part, cv2.CC_STAT_AREA] >= _LEAST_AREA_PX]
    corners = [find_contours(np.pad(labels == part, 1), 0.5)[0] - 1 for part in large]
    return [np.clip(np.floor(ring[:, ::-1]), 0, side - 1).astype(int).tolist() for ring in corners]


def _write_tables(root: Path, seed: int, tiles: Sequence[WrittenTile], hidden: Sequence[WrittenTile]) -> None:
    """The polygons of training tiles, and tile_meta.csv of them and of hidden ones; the tables last."""
    rng = random_stream(seed, _WORLD, _WSI)
    facts = [
        {
            "source_wsi": str(number),
            "age": str(int(rng.integers(30, 75))),
            "sex": str(rng.choice(("F", "M"))),
            "race": str(rng.choice(("W", "B"))),
            "height": f"{rng.uniform(150, 190):.1f}",
            "weight": f"{rng.uniform(50, 120):.1f}",
            "bmi": f"{rng.uniform(19, 40):.1f}",
        }
        for number in (1, 2, 3, 4)
    ]
    write_table(root / "wsi_meta.csv", WSI_COLUMNS, facts)
    write_table(root / "tile_meta.csv", TILE_COLUMNS, [tile.row for tile in (*tiles, *hidden)])
    write_atomically(root / "polygons.jsonl", "".join(tile.line + "\n" for tile in tiles if tile.line))
