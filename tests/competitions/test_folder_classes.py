"""Truth of several classes in tables and COCO files, and the rows of several classes."""

import json

import cv2
import numpy as np
import pytest

from histofold.competitions.base import class_dice, masks_dice, mean_dice_score, submission_columns
from histofold.competitions.folder import Folder
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.kidney_2020 import Kidney2020
from histofold.competitions.registry import submission_competition
from histofold.core.faults import InputError
from histofold.core.rle.runs import class_runs, runs_from_mask, runs_to_text

SHAPE = (23, 37)
NAMES = ("tubule", "artery", "glomerulus")


def masks_of(seed, classes=3):
    """Overlapping masks, the first with its corners set, the last empty."""
    masks_KHW = np.random.default_rng(seed).random((classes, *SHAPE)) < 0.3
    masks_KHW[0, 0, 0] = masks_KHW[0, -1, -1] = True
    masks_KHW[-1] = False
    return masks_KHW


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((*SHAPE, 3), 150, np.uint8))
    return tmp_path


def write_rows(path, names=NAMES):
    rows = [
        f"{key},{name},{runs_to_text(runs_from_mask(mask_HW))}"
        for seed, key in enumerate("ab")
        for name, mask_HW in zip(names, masks_of(seed, len(names)), strict=True)
    ]
    path.write_text("\n".join(["id,class,rle", *rows]) + "\n")
    return rows


def test_rows_of_classes_come_back_as_masks_and_as_rows(root):
    rows = write_rows(root / "rles.csv")
    folder = Folder()
    samples = folder.samples(root, "train")
    assert folder.classes == NAMES, "in the order of the table"
    for seed, sample in enumerate(samples):
        for runs, mask_HW in zip(folder.target(sample), masks_of(seed), strict=True):
            np.testing.assert_array_equal(runs.to_mask(), mask_HW)
    written = [
        f"{sample.id},{name},{folder.row(runs)}"
        for sample in samples
        for name, runs in zip(folder.classes, folder.target(sample), strict=True)
    ]
    assert written == rows


def test_a_table_of_one_class_is_one_mask_by_name(root):
    (root / "rles.csv").write_text("id,class,rle\na,gland,1 3\nb,gland,\n")
    folder = Folder()
    first, second = folder.samples(root, "train")
    assert folder.classes == ("gland",)
    assert (folder.target(first).area, folder.target(second).area) == (3, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,x,1 3\na,y,\nb,x,\n", "b.*image without a row of class y"),
        ("a,x,1 3\na,y,\nb,x,\nb,y,3\n", "b.*malformed rle of class y"),
        ("a,x,1 3\na,y,\nb,x,\nb,y,\nb,y,4 1\n", "b y.*duplicate id and class"),
        ("a,x,1 3\na,,\nb,x,\n", "a.*row without a class"),
    ],
)
def test_rows_that_are_at_fault_are_named(root, text, words):
    (root / "rles.csv").write_text(f"id,class,rle\n{text}")
    with pytest.raises(InputError, match=words):
        Folder().samples(root, "train")


def coco(root, categories, notes):
    images = [{"id": n, "file_name": f"{k}.png", "height": 23, "width": 37} for n, k in enumerate("ab")]
    ring = {7: [1, 1, 5, 1, 5, 4, 1, 4], 9: [3, 3, 9, 3, 9, 9, 3, 9], None: [0, 0, 3, 0, 3, 3]}
    annotations = [
        {"id": n, "image_id": image, "category_id": key, "segmentation": [ring.get(key, ring[None])]}
        for n, (image, key) in enumerate(notes)
    ]
    listed = [{"id": key, "name": name} for key, name in categories]
    text = json.dumps({"images": images, "annotations": annotations, "categories": listed})
    (root / "annotations.json").write_text(text)


def test_used_categories_are_classes_and_overlap(root):
    coco(root, [(9, "nerve"), (1, "unused"), (7, "gland")], [(0, 7), (0, 9), (1, 7)])
    folder = Folder()
    first, second = folder.samples(root, "train")
    assert folder.classes == ("nerve", "gland")
    assert [runs.area for runs in folder.target(first)] == [36, 12]
    assert [runs.area for runs in folder.target(second)] == [0, 12]


@pytest.mark.parametrize("categories", [[], [(7, "gland")], [(7, "gland"), (9, "unused")]])
def test_fewer_than_two_used_categories_are_one_class(root, categories):
    coco(root, categories, [(0, 7), (1, 7)])
    folder = Folder()
    samples = folder.samples(root, "train")
    assert folder.classes == ("ftu",)
    assert [folder.target(sample).area for sample in samples] == [12, 12]


@pytest.mark.parametrize(
    ("categories", "notes", "words"),
    [
        ([(7, "gland"), (9, "gland")], [(0, 7), (0, 9)], "categories of one name"),
        ([(7, "gland"), (9, "nerve")], [(0, 7), (0, 9), (1, 5)], "b.*category_id 5 is not among"),
        ([(7, "gland"), (9, "nerve")], [(0, 7), (0, 9), (1, [9])], r"b.*category_id \[9\] is not among"),
    ],
)
def test_categories_that_are_at_fault_are_named(root, categories, notes, words):
    if isinstance(notes[-1][1], list):
        coco(root, categories, notes[:-1])
        data = json.loads((root / "annotations.json").read_text())
        data["annotations"].append({"id": 8, "image_id": 1, "category_id": [9], "segmentation": [[0, 0, 3, 0, 3, 3]]})
        (root / "annotations.json").write_text(json.dumps(data))
    else:
        coco(root, categories, notes)
    with pytest.raises(InputError, match=words):
        Folder().samples(root, "train")


def test_a_sample_submission_of_classes_names_each_id_once(root, caplog):
    (root / "sample_submission.csv").write_text("id,class,rle\nb,x,\nb,y,\na,x,\na,y,\n")
    assert [sample.id for sample in Folder().samples(root, "test")] == ["b", "a"]
    assert caplog.text == ""


def test_the_score_of_an_image_is_the_mean_over_its_classes():
    truth_KHW = np.zeros((3, 4, 6), bool)
    truth_KHW[0, :, :3] = truth_KHW[1, 0, 0] = True
    found_KHW = truth_KHW.copy()
    found_KHW[0, :, 0] = found_KHW[1, 0, 0] = False
    truth, found = (tuple(map(runs_from_mask, masks)) for masks in (truth_KHW, found_KHW))
    expected = [2 * 8 / (8 + 12), 0.0, 1.0]
    assert class_dice(found, truth) == pytest.approx(expected)
    assert masks_dice(found, truth) == pytest.approx(np.mean(expected))
    assert masks_dice(found[0], truth[0]) == class_dice(found[0], truth[0])[0], "of one class it is that class's"
    score = mean_dice_score({"a": found}, {"a": truth, "b": truth})
    assert score.by_id == pytest.approx({"a": np.mean(expected), "b": 1 / 3})
    with pytest.raises(ValueError, match="zip"):
        class_dice(found, truth[:2])
    assert [runs.area for runs in class_runs(found)] == [8, 0, 0]


def test_only_a_plain_folder_takes_several_classes():
    assert submission_columns(Folder(), NAMES) == ("id", "class", "rle")
    for competition in (Folder(), Hubmap2022(), Kidney2020()):
        assert submission_columns(competition, ("any",)) == competition.columns
    for competition in (Hubmap2022(), Kidney2020()):
        with pytest.raises(InputError, match="takes one mask an image, and there are 3 classes"):
            submission_columns(competition, NAMES)


def test_a_submission_with_classes_is_that_of_a_folder(tmp_path):
    for header, name in (("id,class,rle", "folder"), ("id,rle", "hubmap_2022"), ("id,predicted", "kidney_2020")):
        (tmp_path / "s.csv").write_text(f"{header}\n")
        assert submission_competition(tmp_path / "s.csv").name == name
