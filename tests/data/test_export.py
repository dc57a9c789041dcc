"""Objects that other tools read: COCO's own loader, and outlines of YOLO that are filled again."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO

from histofold.competitions.registry import get_competition
from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.core.faults import InputError
from histofold.core.rle.sets import fill_rings
from histofold.data.export import export_objects
from histofold.data.places import trained_ids
from small_vessels import box, vessel

SHAPE = (48, 60)
PLACES = {"a": (0, 0), "b": (60, 0), "c": (6000, 0), "d": (12000, 0)}


@pytest.fixture
def vessels(tmp_path):
    root = tmp_path / "raw"
    (root / "train").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for key in PLACES:
        cv2.imwrite(str(root / "train" / f"{key}.tif"), generator.integers(0, 255, (*SHAPE, 3), np.uint8))
    rows = [f"{key},1,1,{x},{y}\n" for key, (x, y) in PLACES.items()]
    (root / "tile_meta.csv").write_text("id,source_wsi,dataset,i,j\n" + "".join(rows))
    ring = vessel(box(10, 10, 40, 40), box(20, 20, 30, 30))
    polygons = {
        "a": [vessel(box(2, 3, 9, 14)), ring, vessel(box(50, 30, 70, 60))],
        "b": [],
        "c": [vessel([[5, 5], [25, 8], [14, 30]]), vessel(box(30, 2, 40, 9), kind="unsure")],
        "d": [vessel(box(0, 0, 20, 20))],
    }
    lines = [json.dumps({"id": key, "annotations": notes}) for key, notes in polygons.items()]
    (root / "polygons.jsonl").write_text("\n".join(lines))
    competition = Vasculature2023()
    samples = competition.samples(root, "train")
    folds = pd.DataFrame({"id": list(PLACES), "group": ["w", "w2", "x", "y"], "fold": [0, 1, 1, 0]})
    return competition, samples, folds


def test_coco_reads_the_same_masks(vessels, tmp_path, capsys):
    competition, samples, folds = vessels
    folder = export_objects("coco", competition, samples, folds, tmp_path)
    read = COCO(str(folder / "all.json"))
    ids = {Path(image["file_name"]).stem: image["id"] for image in read.loadImgs(read.getImgIds())}
    assert list(ids) == list(PLACES)
    for sample in samples:
        for is_crowd, objects in ((0, competition.objects(sample)), (1, competition.unsure(sample))):
            notes = read.loadAnns(read.getAnnIds(imgIds=[ids[sample.id]], iscrowd=is_crowd))
            assert len(notes) == len(objects)
            for note, runs in zip(notes, objects, strict=True):
                np.testing.assert_array_equal(read.annToMask(note), runs.to_mask())
                ys, xs = np.nonzero(runs.to_mask())
                assert note["area"] == runs.area
                assert note["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    assert len({note["id"] for note in read.dataset["annotations"]}) == 6


def test_folds_have_lists_without_tiles_that_touch(vessels, tmp_path):
    competition, samples, folds = vessels
    coco, yolo = (export_objects(form, competition, samples, folds, tmp_path) for form in ("coco", "yolo"))
    by_id = {sample.id: sample for sample in samples}
    for fold in (0, 1):
        expected = {"train": trained_ids(folds, by_id, fold), "valid": folds.loc[folds["fold"] == fold, "id"].tolist()}
        assert expected["train"] == [["c"], ["d"]][fold]
        for name, keys in expected.items():
            images = json.loads((coco / f"fold{fold}_{name}.json").read_text())["images"]
            assert [Path(image["file_name"]).stem for image in images] == keys
            lines = (yolo / f"fold{fold}_{name}.txt").read_text().split()
            assert lines == [f"./images/{key}.tif" for key in keys]
            assert all((yolo / line).is_file() for line in lines)
        text = (yolo / f"fold{fold}.yaml").read_text()
        assert f"train: fold{fold}_train.txt" in text
        assert "0: blood_vessel" in text


def test_outlines_of_yolo_fill_to_the_masks_but_for_holes(vessels, tmp_path):
    competition, samples, folds = vessels
    folder = export_objects("yolo", competition, samples, folds, tmp_path)
    export_objects("yolo", competition, samples, folds, tmp_path)  # over itself
    for sample in samples:
        lines = (folder / "labels" / f"{sample.id}.txt").read_text().splitlines()
        objects = competition.objects(sample)
        assert len(lines) == len(objects)
        for place, (line, runs) in enumerate(zip(lines, objects, strict=True)):
            number, *shares = map(float, line.split())
            assert number == 0
            ring_P2 = np.array(shares).reshape(-1, 2) * [SHAPE[1], SHAPE[0]]
            drawn_HW, mask_HW = fill_rings([ring_P2], SHAPE).to_mask(), runs.to_mask()
            if (sample.id, place) == ("a", 1):
                mask_HW[21:31, 21:31] = True  # the hole
            np.testing.assert_array_equal(drawn_HW, mask_HW)


def test_masks_are_not_exported(vessels, tmp_path):
    _, samples, folds = vessels
    with pytest.raises(InputError, match="no single objects"):
        export_objects("coco", get_competition("folder"), samples, folds, tmp_path)
