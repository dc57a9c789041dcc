"""HuBMAP - Hacking the Human Vasculature (2023): blood vessels of kidneys, one by one.

Layout::

    train/{id}.tif, test/{id}.tif    tiles of 512 x 512
    polygons.jsonl                   outlines of the labelled tiles: blood_vessel, glomerulus, unsure
    tile_meta.csv                    id, source_wsi, dataset, i, j
    wsi_meta.csv                     of four slides age, sex, race and so on; it is not read
    sample_submission.csv            id, height, width, prediction_string: the ids to predict and their order
    vasculature_2023.toml            ours, optional: `VasculatureSettings`

i and j are x and y of a tile's first pixel in its slide (seen on two neighbours: the right column of one goes on in the
left column of the next along i). Datasets 1 and 2 are labelled, and samples of the train split; dataset 3 is not.
Most tiles may be absent: a copy of part of the data is of use. Of labelled tiles it is a fault where fewer than half
are absent, which a broken download explains; where more are, a notice counts them.

No table gives a pixel size. The kidneys of HuBMAP in the competition of 2022 have 0.5 um, which is assumed here.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from histofold.competitions.base import IMAGE_SUFFIXES, ObjectScore, Split, find_image
from histofold.competitions.objects import ObjectAdapter, pooled_scores
from histofold.competitions.polygons import PolygonFile, drawn_objects, outlined_tiles, read_polygons
from histofold.competitions.surroundings import PlacedTruth
from histofold.competitions.tables import TableScan, header_shape_of, rows_by_id, scan_table, submission_ids
from histofold.core.faults import Fault, InputError, InputNotice
from histofold.core.metrics.detections import openimages_ap
from histofold.core.metrics.ranked import ApRule
from histofold.core.objects.coco import counts_text
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.imaging.slide import Neighbour
from histofold.imaging.surroundings import open_among, tile_neighbours
from histofold.schema.parse import load_toml
from histofold.schema.preprocessing import MOST_CONTEXT_PX
from histofold.schema.sample import Sample

VASCULATURE_META = "tile_meta.csv"
VASCULATURE_POLYGONS = "polygons.jsonl"
VASCULATURE_TYPES = ("blood_vessel", "glomerulus", "unsure")
VASCULATURE_IOU = 0.6
VASCULATURE_TILE = (512, 512)
VASCULATURE_PIXEL_SIZE_UM = 0.5
_META_COLUMNS = ("id", "source_wsi", "dataset", "i", "j")
_SETTINGS = "vasculature_2023.toml"


@dataclass(frozen=True, kw_only=True)
class VasculatureSettings:
    """What is a choice and no fact, in vasculature_2023.toml beside the tables."""

    unsure: Literal["ignore", "background", "vessel"] = "ignore"
    """What `unsure` outlines are. Nobody says how the host scores them: ignored, they count neither way."""
    scored_datasets: tuple[int, ...] = (1,)
    """Datasets that folds by groups are scored on; all test tiles are of dataset 1. Others are always trained on, but
    for tiles that touch a scored one."""
    strip_tiles: int = 3
    """Width in tiles of the strips of a slide that folds keep whole. (On the host's 422 tiles of dataset 1 strips of 3
    give five even folds, each of which loses 14% of its training tiles to those that touch a scored one; squares of
    4 x 4 lose 20%.)"""

    def __post_init__(self) -> None:
        if self.strip_tiles < 1:
            raise ValueError(f"strip_tiles={self.strip_tiles} must be at least 1")
        if not set(self.scored_datasets) <= {1, 2, 3}:
            raise ValueError(f"scored_datasets={self.scored_datasets} must be of 1, 2 and 3")


@dataclass(frozen=True)
class _TileFacts:
    """What tile_meta.csv says of a tile."""

    slide: str = ""
    dataset: str = ""
    place_yx: tuple[int, int] | None = None


class Vasculature2023(ObjectAdapter):
    """Adapter of hubmap-hacking-the-human-vasculature."""

    name = "vasculature_2023"
    slug = "hubmap-hacking-the-human-vasculature"
    classes: tuple[str, ...] = ("blood_vessel",)
    columns: tuple[str, ...] = ("id", "height", "width", "prediction_string")
    visible_test_images = 1
    hidden_test_images = 650  # not stated by the host: an assumption
    hidden_image_side = 512

    def __init__(self) -> None:
        super().__init__()
        self._settings = VasculatureSettings()
        self._neighbours: dict[str, tuple[Neighbour, ...]] = {}
        self._labelled: set[str] = set()

    @property
    def ap_rule(self) -> ApRule:
        """Average precision of Open Images at IoU 0.6."""
        return ApRule(host="openimages", iou=VASCULATURE_IOU)

    def _inspect(self, root: Path, split: Split) -> tuple[list[Sample], list[Fault]]:
        """Samples of polygons.jsonl, or of sample_submission.csv, and every fault of the tables and outlines.

        In a folder without a sample_submission.csv the test split are the tiles of train/ without outlines, as dataset
        3: what labels can be predicted for.
        """
        if split == "train":
            return self._train_samples(root)
        if (root / "sample_submission.csv").is_file():
            return self.test_samples(root, scan_table), []
        return self._unlabelled_samples(root)

    def _unlabelled_samples(self, root: Path) -> tuple[list[Sample], list[Fault]]:
        """The tiles of train/ that have a row and no outlines, in the order of tile_meta.csv."""
        table, faults = scan_table(root / VASCULATURE_META, _META_COLUMNS)
        rows = {row["id"]: row for row in table.to_dict("records")} if "id" in table.columns else {}
        facts = {key: _tile_facts(key, row, root / VASCULATURE_META, faults) for key, row in rows.items()}
        images, outlines = _listed_images(root / "train", faults), root / VASCULATURE_POLYGONS
        labelled = outlined_tiles(outlines) if outlines.is_file() else set()
        self._neighbours = _neighbours_of(facts, images)
        plain = [key for key in facts if key in images and key not in labelled]
        if not plain:
            rule = "neither a sample_submission.csv nor tiles in train/ without outlines: nothing to predict"
            faults.append(Fault("sample_submission", str(root), rule, "add the table, or unpack the tiles"))
        return [self._sample(key, images[key], facts[key]) for key in plain], faults

    def _train_samples(self, root: Path) -> tuple[list[Sample], list[Fault]]:
        if (root / _SETTINGS).is_file():
            self._settings = load_toml(VasculatureSettings, root / _SETTINGS)
        table, faults = scan_table(root / VASCULATURE_META, _META_COLUMNS)
        rows = {row["id"]: row for row in table.to_dict("records")} if "id" in table.columns else {}
        facts = {key: _tile_facts(key, row, root / VASCULATURE_META, faults) for key, row in rows.items()}
        images = _listed_images(root / "train", faults)
        shapes: dict[str, tuple[int, int]] = {}

        def shape_of(key: str) -> tuple[int, int] | None:
            if key in facts:
                header = header_shape_of(images[key]) if key in images else None
                shapes[key] = header or VASCULATURE_TILE
            return shapes.get(key)

        found = read_polygons(root / VASCULATURE_POLYGONS, VASCULATURE_TYPES, shape_of)
        faults += found.faults + _coverage(root, found, images, facts)
        self._use_truth(partial(_drawn_truth, found, shapes, self._settings.unsure))
        self._labelled = set(found.by_tile)
        self._neighbours = _neighbours_of(facts, images)
        labelled = [key for key in found.by_tile if key in images]
        return [self._sample(key, images[key], facts[key], shapes[key]) for key in labelled], faults

    def test_samples(self, root: Path, scan: TableScan = scan_table) -> list[Sample]:
        """What sample_submission.csv asks for, with what tile_meta.csv says of it; the hidden one knows test tiles.

        Args:
            root: The competition folder.
            scan: How tile_meta.csv is read.

        Raises:
            InputError: If sample_submission.csv is missing or cannot be used.
        """
        ids = submission_ids(root / "sample_submission.csv", self.columns)
        meta = root / VASCULATURE_META
        rows = rows_by_id(meta, _META_COLUMNS, scan) if meta.is_file() else {}
        unknown = _TileFacts(dataset="dataset_1")  # as all test tiles are
        facts = {key: _tile_facts(key, row, meta, []) for key, row in rows.items()}
        images = {key: path for name in ("train", "test") for key, path in _listed_images(root / name, []).items()}
        self._neighbours = _neighbours_of(facts, images)
        return [self._sample(key, find_image(root / "test", key), facts.get(key, unknown)) for key in ids]

    def _sample(self, key: str, image_path: Path, facts: _TileFacts, shape_hw: tuple[int, int] | None = None) -> Sample:
        """A tile with what is known of it."""
        group = f"{facts.slide}-{facts.dataset}" if facts.slide else ""
        if facts.place_yx:
            group += f"-{facts.place_yx[1] // (VASCULATURE_TILE[1] * self._settings.strip_tiles)}"
        return Sample(
            id=key,
            image_path=image_path,
            organ="kidney",
            source=facts.dataset,
            group=group,
            pixel_size_um=VASCULATURE_PIXEL_SIZE_UM,
            shape_hw=shape_hw,
            place=(facts.slide, *facts.place_yx) if facts.place_yx else None,
            is_scored=facts.dataset in {f"dataset_{number}" for number in self._settings.scored_datasets},
            opened_by=partial(open_among, self._neighbours[key]) if self._neighbours.get(key) else None,
        )

    def _labelled_neighbours(self, sample: Sample) -> list[PlacedTruth]:
        """The truth of labelled tiles around a sample."""
        around = [
            (y, x, path.stem) for y, x, path in self._neighbours.get(sample.id, ()) if path.stem in self._labelled
        ]
        return [PlacedTruth(y, x, *self._known_truth(replace(sample, id=key))) for y, x, key in around]

    def score_objects(self, predictions: Mapping[str, Detections], samples: Sequence[Sample]) -> ObjectScore:
        """Average precision at IoU 0.6 by the rule of Open Images, and at two others."""
        at = {"AP": VASCULATURE_IOU, "AP50": 0.5, "AP75": 0.75}
        metrics = {name: partial(openimages_ap, iou=iou) for name, iou in at.items()}
        return pooled_scores(self, predictions, samples, metrics)

    def object_row(self, sample_id: str, detections: Detections) -> str:
        """Height, width and the detections, best first: `0 SCORE BASE64` of zlib of COCO's counts, joined by blanks."""
        height, width = detections.objects.shape_hw
        ranked = detections.best(len(detections))
        items = [
            f"0 {score:.6f} {base64.b64encode(zlib.compress(counts_text(runs).encode(), 9)).decode()}"
            for runs, score in zip(ranked.objects, ranked.scores, strict=True)
            if runs.area
        ]
        return f"{height},{width},{' '.join(items)}"

    def fallback(self, sample: Sample) -> str:
        """A row without a detection, of the file's own size where its header can be read."""
        height, width = header_shape_of(sample.image_path) or VASCULATURE_TILE
        return f"{height},{width},"


def _neighbours_of(facts: Mapping[str, _TileFacts], images: Mapping[str, Path]) -> dict[str, tuple[Neighbour, ...]]:
    """The tiles around each tile, as far as their images are there."""
    places = {
        (each.slide, *each.place_yx): images[key] for key, each in facts.items() if each.place_yx and key in images
    }
    found = tile_neighbours(places, VASCULATURE_TILE[0] + MOST_CONTEXT_PX)
    return {path.stem: neighbours for path, neighbours in found.items()}


def _drawn_truth(
    found: PolygonFile, shapes: Mapping[str, tuple[int, int]], policy: str, sample: Sample
) -> tuple[Objects, Objects]:
    """The vessels of a labelled tile and what people were unsure of, in the order of its line.

    Raises:
        InputError: Without further faults, if polygons.jsonl has no line of it that can be used.
    """
    if sample.id not in found.by_tile:
        raise InputError(f"{sample.id}: {VASCULATURE_POLYGONS} gave no outlines: check the dataset first")
    vessel_types = {"blood_vessel", "unsure"} if policy == "vessel" else {"blood_vessel"}
    unsure_types = {"unsure"} if policy == "ignore" else set()
    polygons, shape_hw = found.by_tile[sample.id], shapes[sample.id]
    vessels, unsure = ([each for each in polygons if each.kind in types] for types in (vessel_types, unsure_types))
    return drawn_objects(vessels, shape_hw), drawn_objects(unsure, shape_hw)


def _tile_facts(key: str, row: Mapping[str, str], path: Path, faults: list[Fault]) -> _TileFacts:
    """What a row says of its tile; adds what is wrong with it. An absent column is wrong with the table alone."""
    slide, dataset = row.get("source_wsi", "1"), row.get("dataset", "1")
    if not slide:
        faults.append(Fault(key, str(path), "no source_wsi", "write the slide that it was cut from"))
    if dataset not in ("1", "2", "3"):
        faults.append(Fault(key, str(path), f"dataset {dataset!r} is none of 1, 2, 3", "write its dataset"))
    texts = [row.get(name, "0") for name in ("j", "i")]
    if not all(text.isdecimal() for text in texts):
        rule = f"i {texts[1]!r} and j {texts[0]!r} are not both whole numbers of at least 0"
        faults.append(Fault(key, str(path), rule, "write x and y of its first pixel in the slide"))
        return _TileFacts(f"wsi_{slide}", f"dataset_{dataset}")
    return _TileFacts(f"wsi_{slide}", f"dataset_{dataset}", (int(texts[0]), int(texts[1])))


def _listed_images(folder: Path, faults: list[Fault]) -> dict[str, Path]:
    """The images of a folder by their id; that it is not there is a fault."""
    if not folder.is_dir():
        faults.append(Fault(folder.name, str(folder), "no such folder", f"unpack the tiles into {folder.name}"))
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def _coverage(
    root: Path, found: PolygonFile, images: Mapping[str, Path], facts: Mapping[str, _TileFacts]
) -> list[Fault]:
    """Labelled tiles without an image, and images without labels or without a row; see the module's rule."""
    path = root / VASCULATURE_POLYGONS
    absent = [key for key in found.by_tile if key not in images]
    remedy = "download them if they shall be trained on"
    if found.by_tile and len(absent) == len(found.by_tile):
        return [Fault(path.stem, str(path), "no labelled tile has an image", "download the tiles into train")]
    if 2 * len(absent) > len(found.by_tile):
        rule = f"{len(absent)} of {len(found.by_tile)} labelled tiles are absent, the first is {absent[0]}"
        faults: list[Fault] = [InputNotice(path.stem, str(path), rule, remedy)]
    else:
        rule, mend = "a labelled tile without its image", "download its image, or drop its line"
        faults = [Fault(key, found.places[key], rule, mend) for key in absent]
    lost = [key for key in images if key not in facts]
    if lost:
        rule = f"{len(lost)} tiles have no row in {VASCULATURE_META}, the first is {lost[0]}"
        faults.append(InputNotice("train", str(root / "train"), rule, "add their rows, or they are not used"))
    plain = [key for key in images if key in facts and key not in found.places and facts[key].dataset != "dataset_3"]
    if plain:
        rule = f"{len(plain)} tiles of datasets 1 and 2 have no outlines, the first is {plain[0]}"
        faults.append(InputNotice(path.stem, str(path), rule, "add their lines, or they are not trained on"))
    return faults
