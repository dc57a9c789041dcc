"""Submissions of objects come back as they were written, and every fault of them is named."""

import json

import cv2
import numpy as np
import pytest

from histofold.competitions.answers import read_prediction_string
from histofold.competitions.check import check_submission
from histofold.competitions.vasculature_2023 import Vasculature2023
from histofold.competitions.vrdl_nuclei import VrdlNuclei
from histofold.core.faults import InputError
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects

SHAPE = (30, 41)


def found(seed=0, shape=SHAPE):
    generator = np.random.default_rng(seed)
    masks_NHW = generator.random((5, *shape)) < 0.3
    masks_NHW[0] = True
    return Detections(Objects.from_masks(masks_NHW), generator.random(5).round(6))


def write_images(root, *names):
    for name in names:
        path = root / "test" / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*SHAPE, 3), np.uint8))


@pytest.fixture
def vessels(tmp_path):
    write_images(tmp_path, "a.tif", "b.tif")
    (tmp_path / "tile_meta.csv").write_text("id,source_wsi,dataset,i,j\n")
    (tmp_path / "sample_submission.csv").write_text("id,height,width,prediction_string\na,30,41,\nb,30,41,\n")
    return tmp_path


def vessel_text(**changed):
    competition = Vasculature2023()
    rows = {"a": competition.object_row("a", found()), "b": "30,41,", **changed}
    return competition.submission_text(rows)


def test_prediction_strings_come_back_best_first():
    row = Vasculature2023().object_row("a", found())
    height, width, text = row.split(",")
    back, ranked = read_prediction_string(text, (int(height), int(width))), found().best(5)
    np.testing.assert_allclose(back.scores, ranked.scores)
    for one, other in zip(back.objects, ranked.objects, strict=True):
        np.testing.assert_array_equal(one.to_mask(), other.to_mask())
    assert len(read_prediction_string("", SHAPE)) == 0


def test_whole_submissions_of_vessels_pass(vessels):
    path = vessels / "submission.csv"
    path.write_text(vessel_text())
    assert check_submission(path, vessels) == []
    assert check_submission(path) == ["without --data neither ids nor sizes were checked"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("41,30,", "its image has (30, 41)"),
        ("x,41,", "not positive numbers"),
        ("30,41,0 0.5", "no triples"),
        ("30,41,1 0.5 eNo=", "class '1'"),
        ("30,41,0 nan eNo=", "score 'nan'"),
        ("30,41,0 0.5 ***", "no base64"),
        ("30,41,0 0.5 eNoLTDAw", "mask is cut"),
    ],
)
def test_faults_of_vessels_are_named(vessels, row, words):
    path = vessels / "submission.csv"
    path.write_text(vessel_text(b=row))
    with pytest.raises(InputError) as caught:
        check_submission(path, vessels)
    (fault,) = caught.value.faults
    assert fault.id == "b"
    assert words in fault.rule


def test_masks_of_another_size_are_refused():
    text = Vasculature2023().object_row("a", found(shape=(41, 30))).split(",")[2]
    with pytest.raises(ValueError, match="item 1"):
        read_prediction_string(text, (20, 20))


@pytest.fixture
def nuclei(tmp_path):
    write_images(tmp_path, "t1.png", "t2.png")
    entries = [
        {"id": number, "file_name": f"t{number}.png", "height": SHAPE[0], "width": SHAPE[1]} for number in (1, 2)
    ]
    (tmp_path / "test_img_ids.json").write_text(json.dumps(entries))
    competition = VrdlNuclei()
    competition.test_samples(tmp_path)
    rows = {"t1": competition.object_row("t1", found()), "t2": ""}
    (tmp_path / "answer.json").write_text(competition.submission_text(rows))
    return tmp_path


def test_whole_answers_of_nuclei_pass(nuclei):
    assert check_submission(nuclei / "answer.json", nuclei) == ["1 of 2 images have no result"]
    assert check_submission(nuclei / "answer.json") == ["without --data neither images nor sizes were checked"]
    (nuclei / "answer.json").write_text("[]")
    assert check_submission(nuclei / "answer.json", nuclei) == ["2 of 2 images have no result"]


def test_every_fault_of_an_answer_is_named(nuclei):
    (good, *_) = json.loads((nuclei / "answer.json").read_text())
    changes = [
        ({"image_id": 9}, "not asked for"),
        ({"image_id": [1]}, "not asked for"),
        ({"category_id": 2}, "category_id 2"),
        ({"score": None}, "no finite number"),
        ({"bbox": [0, 0, 1, 1]}, "not that of its mask"),
        ({"bbox": "x"}, "not that of its mask"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no size"),
        ({"segmentation": {**good["segmentation"], "size": [41, 30]}}, "its image of (30, 41)"),
        ({"segmentation": {"size": [30, 41], "counts": [1, 2]}}, "no counts"),
        ({"segmentation": {"size": [30, 41], "counts": "~"}}, "character"),
    ]
    results = [good, *({**good, **change} for change, _ in changes), 3]
    (nuclei / "answer.json").write_text(json.dumps(results))
    with pytest.raises(InputError) as caught:
        check_submission(nuclei / "answer.json", nuclei)
    faults = caught.value.faults
    assert [fault.id for fault in faults] == [f"result {number}" for number in range(2, 13)]
    for fault, words in zip(faults, [*(words for _, words in changes), "no image_id"], strict=True):
        assert words in fault.rule
