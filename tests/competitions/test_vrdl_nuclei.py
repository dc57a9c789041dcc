import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from histofold.competitions.registry import detect_competition
from histofold.competitions.vrdl_nuclei import VrdlNuclei
from histofold.core.faults import InputError
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.data.check import audit_folder

SHAPE = (30, 41)
NAMES = ("TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592-01Z-00-DX2", "other")


def write_picture(path, picture=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*SHAPE, 3), 200, np.uint8) if picture is None else picture
    cv2.imwrite(str(path), picture)


def box_mask(top, left, bottom, right):
    mask_HW = np.zeros(SHAPE, np.uint8)
    mask_HW[top:bottom, left:right] = 255
    return mask_HW


BOXES = [(0, 0, 6, 5), (10, 12, 19, 20), (25, 36, 30, 41)]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        write_picture(tmp_path / "train" / name / "images" / f"{name}.png")
        for number, box in enumerate(BOXES, 1):
            write_picture(tmp_path / "train" / name / "masks" / f"mask_{number:04d}.png", box_mask(*box))
    for name in ("t1", "t2"):
        write_picture(tmp_path / "test" / f"{name}.png")
    write_ids(tmp_path, [(7, "t2.png"), (3, "t1.png")])
    return tmp_path


def write_ids(root, images):
    entries = [{"id": key, "file_name": name, "height": 30, "width": 41} for key, name in images]
    (root / "test_img_ids.json").write_text(json.dumps(entries))


def mask_path(folder, number, name=NAMES[0]):
    return folder / "train" / name / "masks" / f"mask_{number:04d}.png"


def test_a_mask_is_a_nucleus_and_a_patient_a_group(folder):
    competition = detect_competition(folder)
    samples, faults = audit_folder(competition, folder, decode=True)
    assert (competition.name, faults, competition.notices) == ("vrdl_nuclei", [], [])
    assert [(sample.id, sample.group) for sample in samples] == [
        (NAMES[0], "TCGA-18-5592"),
        (NAMES[1], "TCGA-18-5592"),
        ("other", "other"),
    ]
    objects = competition.objects(samples[0])
    assert objects.boxes.tolist() == [list(box) for box in BOXES]
    assert competition.target(samples[0]).area == 30 + 72 + 25
    assert competition.ignored(samples[0]) is None


def test_what_is_odd_about_masks_is_repaired_with_a_notice(folder):
    write_picture(mask_path(folder, 4), box_mask(*BOXES[0]))
    write_picture(mask_path(folder, 5), np.zeros(SHAPE, np.uint8))
    write_picture(mask_path(folder, 6), box_mask(0, 30, 5, 35) | box_mask(10, 30, 15, 35))
    write_picture(mask_path(folder, 7), np.dstack([box_mask(18, 15, 22, 19) // 255] * 3))
    (folder / "train" / NAMES[0] / "masks" / "note.txt").write_text("")
    competition = VrdlNuclei()
    samples, faults = audit_folder(competition, folder, decode=True)
    assert faults == []
    assert competition.objects(samples[0]).areas.tolist() == [30, 72, 25, 50, 16]
    words = [notice.rule for notice in competition.notices]
    expected = ("1 files are no PNG", "1 masks without", "1 masks are exact copies", "1 masks have several", "4 pixels")
    assert [line.startswith(start) for line, start in zip(words, expected, strict=True)] == [True] * 5
    assert all(notice.id == NAMES[0] for notice in competition.notices)


def test_every_mask_that_cannot_be_used_is_named_at_once(folder):
    write_picture(mask_path(folder, 1), np.zeros(SHAPE[::-1], np.uint8))
    mask_path(folder, 2).write_bytes(mask_path(folder, 2).read_bytes()[:60])
    for path in (folder / "train" / "other" / "masks").iterdir():
        path.unlink()
    write_picture(folder / "train" / NAMES[1] / "images" / "second.png")
    _, faults = audit_folder(VrdlNuclei(), folder, decode=True)
    assert [fault.id for fault in faults] == [NAMES[1], "other", NAMES[0], NAMES[0]]
    words = [fault.rule for fault in faults]
    for line, part in zip(words, ("2 images", "no masks", "mask is (41, 30)", "truncated"), strict=True):
        assert part in line
    assert faults[2].file.endswith("mask_0001.png")
    (folder / "train").rename(folder / "training")
    assert VrdlNuclei().inspect(folder, "train")[1][0].rule == "no such folder"


def test_the_answer_is_what_cocoeval_reads(folder, capsys):
    competition = VrdlNuclei()
    samples = competition.test_samples(folder)
    assert [(sample.id, sample.shape_hw) for sample in samples] == [("t2", SHAPE), ("t1", SHAPE)]
    found = Detections(Objects.from_masks([box_mask(*box) for box in BOXES]), np.array([0.5, 0.9, 0.7]))
    row = competition.object_row("t2", found)
    results = json.loads(competition.submission_text({"t2": row, "t1": competition.fallback(samples[1])}))
    assert [result["score"] for result in results] == [0.9, 0.7, 0.5]
    assert results[0]["bbox"] == [12, 10, 8, 9]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": 30, "width": 41}],
        "categories": [{"id": 1}],
        "annotations": [{**result, "id": number, "area": 1, "iscrowd": 0} for number, result in enumerate(results, 1)],
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval["precision"][0, :, 0, 0, -1].mean() == 1.0
    assert json.loads(competition.submission_text({"t2": "", "t1": ""})) == []
    with pytest.raises(InputError, match="no such image"):
        competition.object_row("t3", found)


def test_scores_come_with_their_ceilings(folder):
    competition = VrdlNuclei()
    samples = competition.samples(folder, "train")
    generator = np.random.default_rng(0)
    labels_HW = np.arange(1, 30 * 41 + 1).reshape(SHAPE) * (generator.random(SHAPE) < 0.2)
    many = Objects.from_labels(labels_HW)
    for number, runs in enumerate(many, 10):
        write_picture(mask_path(folder, number, "other"), runs.to_mask().astype(np.uint8))
    competition.samples(folder, "train")
    found = {sample.id: competition.objects(sample) for sample in samples}
    perfect = {key: Detections(objects, np.ones(len(objects))) for key, objects in found.items()}
    score = competition.score_objects(perfect, samples)
    assert score.mean == score.further["ceiling"] < 1
    assert score.further["AP50_1000"] == score.further["ceiling_1000"] == 1
    assert list(score.further) == ["AP50_1000", "ceiling", "ceiling_1000"]
    assert score.by_id[NAMES[0]] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "no list of images"),
        ('[{"id": 1, "file_name": "../x.png", "height": 1, "width": 1}]', "no name of a file"),
        ('[{"id": 1, "file_name": "x.png", "height": "1", "width": 1}]', "not positive"),
        ('[{"file_name": "x.png"}]', "no object with an id"),
        ('[{"id": 1, "file_name": "x.png", "height": 1, "width": 1}, "x"]', "no object with an id"),
    ],
)
def test_lists_of_test_images_that_cannot_be_used_are_refused(folder, text, words):
    (folder / "test_img_ids.json").write_text(text)
    with pytest.raises(InputError, match=words):
        VrdlNuclei().test_samples(folder)


def test_images_that_are_listed_twice_are_named(folder):
    write_ids(folder, [(7, "t2.png"), (7, "t1.png"), (8, "t2.png")])
    (first, second) = VrdlNuclei().inspect(folder, "test")[1]
    assert (first.id, second.id) == ("image 2", "image 3")
