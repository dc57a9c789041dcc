"""COCO files that are at fault: each fault in words, with its annotation."""

import json

import numpy as np
import pytest

from histofold.competitions.truth.coco import coco_counts, paint_coco, read_coco

RING = [1, 1, 5, 1, 5, 4]


def read(path, annotations, images=None, shapes=None):
    images = [{"id": 7, "file_name": "a.png", "height": 9, "width": 12}] if images is None else images
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return read_coco(path, {"a": (9, 12)} if shapes is None else shapes)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([], "without rings"),
        ([[]], "ring 0 has 0 numbers"),
        ([RING, [1, 2, 3, 4]], "ring 1 has 4 numbers"),
        ([[1, 1, 5, 1, 5, 4, 2]], "7 numbers"),
        ([[1, 1, float("nan"), 1, 5, 4]], "not finite"),
        ([[1, 1, float("inf"), 1, 5, 4]], "not finite"),
        ([[1, 1, 1e9, 1, 5, 4]], "far outside"),
        ([["x", 1, 2, 3, 4, 5]], "not a list of numbers"),
        (None, "neither"),
        ("text", "neither"),
        ({"size": [9, 12]}, "counts"),
        ({"size": [12, 9], "counts": [108]}, "size"),
        ({"size": 3, "counts": [108]}, "annotation 5"),
        ({"counts": []}, "counts"),
        ({"counts": [107]}, "add up"),
        ({"counts": [2**62, 2**62, 2**62, 2**62, 108]}, "add up"),
        ({"counts": [10**40]}, "counts"),
        ({"counts": [-1, 109]}, "counts"),
        ({"counts": [1.5, 106.5]}, "counts"),
        ({"counts": [[1], [2, 3]]}, "annotation 5"),
        ({"counts": "o"}, "end within"),
        ({"counts": "o" * 99}, "malformed"),
        ({"counts": "\u00e9"}, "malformed"),
    ],
)
def test_each_malformed_segmentation_is_named(tmp_path, segmentation, words):
    annotations = [{"id": 4, "image_id": 7, "segmentation": [RING]}]
    annotations.append({"id": 5, "image_id": 7, "segmentation": segmentation})
    targets, faults = read(tmp_path / "c.json", annotations)
    assert targets == {}
    assert len(faults) == 1
    assert faults[0].id == "a"
    assert "annotation 5: " in faults[0].rule
    assert words in faults[0].rule


def test_faults_of_images_and_annotations_at_once(tmp_path):
    images = [
        {"id": 1, "file_name": "a.png", "height": 12, "width": 9},
        {"id": 1, "file_name": "b.png", "height": 9, "width": 12},
        {"id": 2, "file_name": "deep/a.tif", "height": 9, "width": 12},
        {"id": 3, "file_name": "ok.png", "height": 9, "width": 12},
        {"id": 4, "file_name": "gone.png", "height": 10**9, "width": 10**9},
        {"file_name": "c.png"},
    ]
    annotations = [{"image_id": 99, "segmentation": [RING]}, {"id": "x", "image_id": [], "segmentation": [RING]}]
    annotations.append({"id": 8, "image_id": 3, "segmentation": [RING]})
    shapes = {"a": (9, 12), "b": (9, 12), "ok": (9, 12), "gone": None}
    targets, faults = read(tmp_path / "c.json", annotations, images, shapes)
    assert list(targets) == ["ok"]
    assert [(fault.id, fault.rule[:16]) for fault in faults] == [
        ("a", "image is (9, 12)"),
        ("b", "image 1 (b.png) "),
        ("a", "image 2 (deep/a."),
        ("image no. 5", "has no id or no "),
        ("b", "image is not lis"),
        ("annotation no. 0", "image_id 99 is n"),
        ("annotation x", "image_id [] is n"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"images": []}', '{"images": [1], "annotations": {}}'])
def test_what_is_no_coco_file_is_one_fault(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    targets, faults = read_coco(tmp_path / "c.json", {"a": (9, 12)})
    assert targets == {}
    assert len(faults) == 1


def test_counts_add_to_what_is_painted_already():
    rng = np.random.default_rng(3)
    for _ in range(50):
        height, width = rng.integers(1, 12, 2)
        masks = rng.random((3, height, width)) < rng.random()
        canvas = np.zeros((height, width), np.uint8)
        for mask in masks:
            flat = mask.T.ravel()
            edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int)))
            counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            paint_coco(canvas, {"counts": counts})
        np.testing.assert_array_equal(canvas, masks.any(axis=0))


def test_counts_agree_with_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(4).random((57, 31)) < 0.02
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    canvas = np.zeros(mask.shape, np.uint8)
    paint_coco(canvas, {"size": [57, 31], "counts": text})
    np.testing.assert_array_equal(canvas, mask)
    assert sum(coco_counts(text)) == mask.size
