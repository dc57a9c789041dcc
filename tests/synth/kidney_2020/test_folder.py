"""The synthetic folder of 2020: complete, read back as drawn, and made in bands."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from histofold.competitions.registry import detect_competition
from histofold.core.rle.runs import decode_rle, runs_from_mask
from histofold.data.check import audit_folder
from histofold.imaging.slide import open_slide
from histofold.synth.drawing.slide import Picture, SyntheticSlide
from histofold.synth.files import SynthKey
from histofold.synth.hubmap_2022.habits import shifted_mask
from histofold.synth.hubmap_2022.options import Planted
from histofold.synth.hubmap_2022.plan import TEST, TRAIN
from histofold.synth.kidney_2020.files import (
    BAND_ROWS,
    KIDNEY_LAYOUTS,
    annotation_json,
    polygon_area,
    runs_rings,
    shifted_runs,
    write_tiff_bands,
    zone_polygons,
)
from histofold.synth.kidney_2020.folder import (
    KIDNEY_INFORMATION,
    KIDNEY_INFORMATION_COLUMNS,
    make_kidney_2020,
    plan_kidneys,
)

SHAPE_HW, SHIFT_YX = (300, 420), (-20, 13)


def make(root: Path, **options: object) -> SynthKey:
    usual = {"num_train": 5, "num_test": 2, "seed": 1, "shape_hw": SHAPE_HW, "progress": False}
    return make_kidney_2020(root, **usual | options)


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_table(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10**8)
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def drawn_rings(rings: list[list[list[int]]], shape_hw: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(shape_hw, dtype=np.uint8)
    for ring in rings:
        cv2.fillPoly(canvas, [np.array(ring, dtype=np.int32)], color=1)
    return canvas > 0


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    return make(tmp_path_factory.mktemp("kidney") / "competition", shifted_truth_yx=SHIFT_YX)


@pytest.fixture(scope="module")
def slides(key: SynthKey) -> dict[str, Picture]:
    """What each slide shows, drawn as a whole."""
    plans = [
        *plan_kidneys(1, TRAIN, [SHAPE_HW] * 5, shrink=None, planted=Planted()),
        *plan_kidneys(1, TEST, [SHAPE_HW] * 2, shrink=None, planted=Planted()),
    ]
    return {plan.id: SyntheticSlide(plan.spec).whole() for plan in plans}


def test_the_folder_is_complete_and_holds_nothing_else(key: SynthKey) -> None:
    expected = {"train.csv", "sample_submission.csv", KIDNEY_INFORMATION}
    expected |= {f"train/{name}{end}" for name in key.train_ids for end in (".tiff", ".json")}
    expected |= {f"train/{name}-anatomical-structure.json" for name in key.train_ids}
    expected |= {f"test/{name}{end}" for name in key.test_ids for end in (".tiff", "-anatomical-structure.json")}
    assert set(files_below(key.root)) == expected
    assert all(re.fullmatch("[0-9a-f]{9}", name) for name in (*key.train_ids, *key.test_ids))
    assert len({*key.train_ids, *key.test_ids}) == 7


def test_tables_have_the_hosts_columns(key: SynthKey) -> None:
    assert [tuple(row) for row in read_table(key.root / "train.csv")] == [("id", "encoding")] * 5
    assert [row["id"] for row in read_table(key.root / "train.csv")] == list(key.train_ids)
    assert read_table(key.root / "sample_submission.csv") == [{"id": name, "predicted": ""} for name in key.test_ids]
    rows = read_table(key.root / KIDNEY_INFORMATION)
    assert tuple(rows[0]) == KIDNEY_INFORMATION_COLUMNS
    assert [row["image_file"] for row in rows] == [f"{name}.tiff" for name in (*key.train_ids, *key.test_ids)]
    for row in rows:
        name = row["image_file"].removesuffix(".tiff")
        assert (row["height_pixels"], row["width_pixels"]) == ("300", "420")
        assert row["glomerulus_segmentation_file"] == f"{name}.json"
        assert row["anatomical_structures_segmentation_file"] == f"{name}-anatomical-structure.json"
        assert row["patient_number"] == key.donors[name]
        assert int(row["percent_cortex"]) + int(row["percent_medulla"]) == 100
        bmi = float(row["weight_kilograms"]) / (float(row["height_centimeters"]) / 100) ** 2
        assert float(row["bmi_kg/m^2"]) == pytest.approx(bmi, abs=0.11)


def test_the_adapter_takes_the_folder_without_fault(key: SynthKey) -> None:
    competition = detect_competition(key.root)
    assert competition.name == "kidney_2020"
    samples, faults = audit_folder(competition, key.root, decode=True)
    assert faults == []
    assert [(sample.id, sample.group) for sample in samples] == [(name, key.donors[name]) for name in key.train_ids]
    assert [sample.id for sample in competition.samples(key.root, "test")] == list(key.test_ids)


def test_patients_have_several_slides_of_one_split(key: SynthKey) -> None:
    train, test = ([key.donors[name] for name in names] for names in (key.train_ids, key.test_ids))
    assert [train.count(patient) for patient in dict.fromkeys(train)] == [2, 3]
    assert set(train).isdisjoint(test)
    facts = {}
    for row in read_table(key.root / KIDNEY_INFORMATION):
        facts.setdefault(row["patient_number"], set()).add((row["age"], row["sex"], row["weight_kilograms"]))
    assert all(len(found) == 1 for found in facts.values())


def test_slides_hold_what_was_drawn_in_every_layout(key: SynthKey, slides: dict[str, Picture]) -> None:
    shapes = set()
    for name, picture in slides.items():
        path = key.root / ("train" if name in key.train_ids else "test") / f"{name}.tiff"
        stored = tifffile.imread(path)
        shapes.add(stored.shape)
        flat = stored.reshape(stored.shape[-3:])
        assert np.array_equal(flat if flat.shape[-1] == 3 else np.moveaxis(flat, 0, -1), picture.image_HWC)
        with open_slide(path) as slide:
            assert np.array_equal(slide.read_all(), picture.image_HWC)
        with tifffile.TiffFile(path) as tiff:
            pixels_per_cm = tiff.pages[0].tags["XResolution"].value
            pixel_size_um = 1e4 * pixels_per_cm[1] / pixels_per_cm[0]
            assert tiff.pages[0].tags["ResolutionUnit"].value == 3
            assert {"Software", "DateTime"}.isdisjoint(tag.name for tag in tiff.pages[0].tags)
        assert round(pixel_size_um, 3) in (0.5, 0.65)
    assert shapes == {(300, 420, 3), (1, 1, 3, 300, 420), (3, 300, 420)}


def test_encodings_and_polygons_are_the_drawn_mask(key: SynthKey, slides: dict[str, Picture]) -> None:
    for row in read_table(key.root / "train.csv"):
        mask = slides[row["id"]].mask_HW
        assert mask.any()
        assert np.array_equal(decode_rle(row["encoding"], SHAPE_HW), mask)
        features = json.loads((key.root / "train" / f"{row['id']}.json").read_text())
        rings = []
        for feature in features:
            assert feature["type"] == "Feature"
            assert feature["geometry"]["type"] == "Polygon"
            assert feature["properties"]["classification"]["name"] == "glomerulus"
            (ring,) = feature["geometry"]["coordinates"]
            assert ring[0] == ring[-1]
            rings.append(ring)
        drawn = drawn_rings(rings, SHAPE_HW)
        assert (drawn & mask).sum() > 0.95 * (drawn | mask).sum()
        anatomy = json.loads((key.root / "train" / f"{row['id']}-anatomical-structure.json").read_text())
        assert {feature["properties"]["classification"]["name"] for feature in anatomy} <= {"Cortex", "Medulla"}


def test_one_truth_is_shifted_and_the_key_says_so(key: SynthKey, slides: dict[str, Picture]) -> None:
    rows = read_table(key.truth_path)
    assert [row["id"] for row in rows] == list(key.test_ids)
    masks = [decode_rle(row["encoding"], SHAPE_HW) for row in rows]
    clean = [slides[name].mask_HW for name in key.test_ids]
    assert np.array_equal(masks[0], shifted_mask(clean[0], *SHIFT_YX))
    assert not np.array_equal(masks[0], clean[0])
    assert np.array_equal(masks[1], clean[1])
    ((name, (fault,)),) = key.planted.items()
    assert (name, fault.kind) == (key.test_ids[0], "shifted_truth")
    assert (fault.numbers["dy"], fault.numbers["dx"]) == SHIFT_YX
    assert np.array_equal(decode_rle(key.clean_rles[name], SHAPE_HW), clean[0])


def test_the_truth_is_nowhere_in_the_folder(key: SynthKey, tmp_path: Path) -> None:
    contents = files_below(key.root).values()
    for row in read_table(key.truth_path):
        assert not any(row["encoding"].encode() in content for content in contents)
    with pytest.raises(ValueError, match="the truth is hidden"):
        make(tmp_path / "c", truth_path=tmp_path / "c" / "truth.csv")
    assert not any(tmp_path.iterdir())


def test_same_seed_same_bytes_and_more_slides_change_none(key: SynthKey, tmp_path: Path) -> None:
    fewer = make(tmp_path / "c", num_train=3, num_test=1, shifted_truth_yx=SHIFT_YX)
    former, content = files_below(key.root), files_below(fewer.root)
    slides = [name for name in content if name.endswith((".tiff", ".json"))]
    assert len(slides) == 3 * 3 + 2
    assert all(content[name] == former[name] for name in slides)
    assert make(tmp_path / "c", num_train=3, num_test=1, shifted_truth_yx=SHIFT_YX) == fewer
    assert files_below(fewer.root) == content
    other = make(tmp_path / "d", num_train=1, num_test=1, seed=2)
    assert set(files_below(other.root).values()).isdisjoint(former.values())


def test_the_smallest_slides(tmp_path: Path) -> None:
    key = make(tmp_path / "c", num_train=2, num_test=1, shape_hw=(64, 97))
    for row in read_table(key.root / "train.csv"):
        assert decode_rle(row["encoding"], (64, 97)).any()
    free = make(tmp_path / "d", num_train=2, num_test=1, shape_hw=None, max_side=90)
    sizes = [
        (int(row["height_pixels"]), int(row["width_pixels"])) for row in read_table(free.root / KIDNEY_INFORMATION)
    ]
    assert all(64 <= min(size) <= max(size) <= 90 for size in sizes)
    assert len(set(sizes)) > 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_train": 0}, "num_train"),
        ({"num_test": 0}, "num_test"),
        ({"seed": -1}, "seed"),
        ({"shape_hw": (63, 500)}, "at least 64"),
        ({"shrink": 0.0}, "shrink"),
        ({"planted": Planted(faults={"shifted": 0.5})}, "faults and habits"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make(tmp_path / "c", **wrong)
    assert not any(tmp_path.iterdir())


def noise_bands(image_HWC: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for top in range(0, image_HWC.shape[0], BAND_ROWS):
        rows = slice(top, min(top + BAND_ROWS, image_HWC.shape[0]))
        yield rows, image_HWC[rows]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("layout", KIDNEY_LAYOUTS)
@pytest.mark.parametrize("shape_hw", [(1, 300), (255, 257), (BAND_ROWS * 2, 64), (700, 515)])
def test_bands_become_the_whole(layout: str, big: bool, shape_hw: tuple[int, int], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape_hw, 3), dtype=np.uint8)
    path = tmp_path / "slide.tiff"
    write_tiff_bands(path, shape_hw, noise_bands(image), layout, pixel_size_um=0.5, big=big)
    stored = tifffile.imread(path)
    planar = stored.reshape(3, *shape_hw) if layout in KIDNEY_LAYOUTS[2:] else None
    assert np.array_equal(stored if planar is None else np.moveaxis(planar, 0, -1), image)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff == big
        assert len(tiff.pages) == (3 if layout == "three pages" else 1)
        assert tiff.pages[0].is_tiled == (layout == "tiled deflate")
    assert [found.name for found in tmp_path.iterdir()] == ["slide.tiff"]


@pytest.mark.parametrize("layout", KIDNEY_LAYOUTS)
def test_memory_is_that_of_bands(layout: str, tmp_path: Path) -> None:
    shape_hw = (5000, 1500)
    band = np.random.default_rng(0).integers(0, 256, (BAND_ROWS, shape_hw[1], 3), dtype=np.uint8)

    def bands() -> Iterator[tuple[slice, np.ndarray]]:
        for top in range(0, shape_hw[0], BAND_ROWS):
            rows = slice(top, min(top + BAND_ROWS, shape_hw[0]))
            yield rows, band[: rows.stop - rows.start]

    tracemalloc.start()
    write_tiff_bands(tmp_path / "slide.tiff", shape_hw, bands(), layout, pixel_size_um=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "slide.tiff").stat().st_size > 20_000_000
    assert peak < 4 * band.nbytes


def test_a_writing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[slice, np.ndarray]]:
        yield slice(0, BAND_ROWS), np.zeros((BAND_ROWS, 40, 3), dtype=np.uint8)
        raise RuntimeError("no more")

    for layout in KIDNEY_LAYOUTS:
        with pytest.raises(RuntimeError, match="no more"):
            write_tiff_bands(tmp_path / "slide.tiff", (900, 40), broken(), layout, pixel_size_um=0.5)
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_runs_move_and_are_outlined_as_masks_are(share: float) -> None:
    rng = np.random.default_rng(7)
    coarse = (rng.random((6, 9)) < share).astype(np.uint8)
    mask = cv2.resize(coarse, (61, 43), interpolation=cv2.INTER_NEAREST) > 0
    runs = runs_from_mask(mask)
    assert np.array_equal(drawn_rings(runs_rings(runs), mask.shape) & mask, mask)
    for dy, dx in ((0, 0), (3, -5), (-42, 60), (43, 0), (0, -61), (-7, 11)):
        assert shifted_runs(runs, dy, dx) == runs_from_mask(shifted_mask(mask, dy, dx))


def test_outlines_go_round_each_piece_alone() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[0, 0] = mask[-1, -1] = True
    mask[5:30, 5:40] = True
    mask[8:27, 8:37] = False
    mask[12:20, 12:20] = True
    rings = runs_rings(runs_from_mask(mask))
    assert len(rings) == 2, "two outlines; a single pixel has none of three corners"
    boxes = sorted((min(x for x, _ in ring), max(y for _, y in ring)) for ring in rings)
    assert boxes == [(5, 29), (12, 19)]
    with pytest.raises(ValueError, match="order F"):
        runs_rings(runs_from_mask(mask, order="C"))


def test_polygon_files_close_their_rings() -> None:
    hole = [[1, 1], [2, 1], [2, 2]]
    features = json.loads(annotation_json({"Cortex": [[[[0, 0], [4.5, 0], [4.5, 2]], hole]], "Medulla": []}))
    closed = [[[0, 0], [4.5, 0], [4.5, 2], [0, 0]], [*hole, hole[0]]]
    assert [feature["geometry"]["coordinates"] for feature in features] == [closed]


def test_a_zone_within_another_is_its_hole() -> None:
    def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]

    outer, inner, beside = box(0, 0, 20, 10), box(5, 2, 9, 8), box(20, 0, 30, 10)
    polygons = zone_polygons({"Cortex": [outer], "Medulla": [inner, beside]})
    assert polygons == {"Cortex": [[outer, inner]], "Medulla": [[inner], [beside]]}
    assert polygon_area(polygons["Cortex"][0]) == 20 * 10 - 4 * 6
    assert zone_polygons({}) == {}


def test_sections_tell_their_zones(tmp_path: Path) -> None:
    """A section large enough for a medulla: its zones do not overlap, and the table gives their shares."""
    shape_hw = (700, 900)
    key = make(tmp_path / "c", num_train=1, num_test=1, shape_hw=shape_hw, shrink=0.08)
    zones = {"Cortex": np.zeros(shape_hw, dtype=np.uint8), "Medulla": np.zeros(shape_hw, dtype=np.uint8)}
    for feature in json.loads((key.root / "train" / f"{key.train_ids[0]}-anatomical-structure.json").read_text()):
        rings = [np.array(ring).round().astype(np.int32) for ring in feature["geometry"]["coordinates"]]
        cv2.fillPoly(zones[feature["properties"]["classification"]["name"]], rings, color=1)
    assert (zones["Cortex"] & zones["Medulla"]).mean() < 0.01
    areas = zones["Cortex"].sum(), zones["Medulla"].sum()
    assert min(areas) > 0
    row = read_table(key.root / KIDNEY_INFORMATION)[0]
    assert int(row["percent_medulla"]) == pytest.approx(100 * areas[1] / sum(areas), abs=2)
