"""COCO files that are at fault: each fault in words, with its annotation."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest
from pycocotools import mask as coco

from histofold.competitions.truth.coco import coco_categories, coco_counts, coco_runs, load_coco, read_coco
from histofold.competitions.truth.found import FoundTruth
from histofold.competitions.truth.names import ImageNames
from histofold.core.rle.sets import union_runs

RING = [1, 1, 5, 1, 5, 4]


def read_file(path, *arguments, **settings):
    data, faults = load_coco(path)
    return FoundTruth(faults=faults) if faults else read_coco(path, data, *arguments, **settings)


def read(path, annotations, images=None, shapes=None):
    images = [{"id": 7, "file_name": "a.png", "height": 9, "width": 12}] if images is None else images
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    truth = read_file(path, {"a": (9, 12)} if shapes is None else shapes)
    return truth.targets, truth.faults


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
        ([[0.1, 0.2, 0.9, 0.2, 0.9, 1]], "shares of the image's sides"),
        ([["x", 1, 2, 3, 4, 5]], "not a list of numbers"),
        (None, "a box alone is no mask"),
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
        ("image no. 5", "has no id, or no"),
        ("b", "image is not lis"),
        ("annotation no. 0", "image_id 99 is n"),
        ("annotation x", "image_id [] is n"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"images": []}', '{"images": [1], "annotations": {}}'])
def test_what_is_no_coco_file_is_one_fault(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    truth = read_file(tmp_path / "c.json", {"a": (9, 12)})
    assert truth.targets == {}
    assert len(truth.faults) == 1


def test_counts_agree_with_pycocotools():
    rng = np.random.default_rng(4)
    for share in (0, 0.02, 0.5, 1):
        mask = rng.random((57, 31)) < share
        text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        (packed,) = coco_runs({"size": [57, 31], "counts": text}, (57, 31))
        (plain,) = coco_runs({"counts": coco_counts(text)}, (57, 31))
        np.testing.assert_array_equal(packed.to_mask(), mask)
        assert packed == plain
        assert sum(coco_counts(text)) == mask.size


def test_polygons_agree_with_pycocotools():
    rng = np.random.default_rng(5)
    for _ in range(60):
        shape_hw = tuple(int(side) for side in rng.integers(5, 60, 2))
        turns = np.sort(rng.random(rng.integers(3, 20))) * 2 * np.pi
        rings = [
            (np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(1, 40) + rng.uniform(0, 40, 2)).clip(-5, 60)
            for _ in range(rng.integers(1, 4))
        ]
        polygons = [np.clip(ring, None, 2 * np.array(shape_hw[::-1])).ravel().round(2).tolist() for ring in rings]
        wanted = coco.decode(coco.merge(coco.frPyObjects(polygons, *shape_hw)))
        np.testing.assert_array_equal(union_runs(coco_runs(polygons, shape_hw)).to_mask(), wanted)


def test_ids_that_annotations_write_as_texts_are_those_of_their_numbers(tmp_path):
    images = [{"id": n, "file_name": f"{key}.png", "height": 9, "width": 12} for n, key in enumerate("ab")]
    notes = [{"image_id": str(n), "category_id": str(n + 3), "segmentation": [RING]} for n in range(2)]
    categories = [{"id": 3, "name": "g "}, {"id": 4, "name": "l"}, {"id": [5], "name": "no id"}]
    content = {"images": images, "annotations": notes, "categories": categories}
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert coco_categories(load_coco(tmp_path / "c.json")[0]) == {3: "g", 4: "l"}
    truth = read_file(tmp_path / "c.json", {"a": (9, 12), "b": (9, 12)}, (3, 4))
    assert truth.faults == []
    area = coco_runs([RING], (9, 12))[0].area
    assert [[runs.area for runs in truth.targets[key]] for key in "ab"] == [[area, 0], [0, area]]


@pytest.mark.parametrize(("near", "count"), [(1, 1), (2, 0)])
def test_polygons_of_another_origin_are_refused(tmp_path, near, count):
    """Those of a cut-out that keep the place in the slide would be cut off without a word."""
    away = [[point + 8 * (place % 2 == 0) + 9 for place, point in enumerate(RING)]]
    notes = [{"image_id": 7, "segmentation": each} for each in [[RING]] * near + [away] * 2]
    targets, faults = read(tmp_path / "c.json", notes)
    assert [fault.rule[:42] for fault in faults] == ["2 of 3 polygons have no pixel of the image"] * count
    assert list(targets) == ["a"] * (1 - count)


def test_a_ring_of_ten_by_ten_has_a_hundred_pixels():
    (square,) = coco_runs([[2, 3, 12, 3, 12, 13, 2, 13]], (20, 30))
    assert square.area == 100
    assert square.to_mask()[3:13, 2:12].all()


def test_what_a_crowd_covers_beside_the_objects_is_ignored(tmp_path):
    images = [{"id": 7, "file_name": "a.png", "height": 9, "width": 12}]
    annotations = [
        {"id": 1, "image_id": 7, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]},
        {"id": 2, "image_id": 7, "iscrowd": 1, "segmentation": {"size": [9, 12], "counts": [9, 45, 54]}},
    ]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    truth = read_file(tmp_path / "c.json", {"a": (9, 12)})
    assert truth.faults == []
    assert truth.targets["a"].area == 12
    wanted = np.zeros((9, 12), bool)
    wanted[:, 1:6] = True
    wanted[1:4, 1:5] = False
    np.testing.assert_array_equal(truth.ignored["a"].to_mask(), wanted)


@pytest.mark.parametrize("name", ["one\\a.png", "C:\\data\\images\\one\\a.png", "images/one/a.jpg", "one/a"])
def test_a_file_name_means_its_image_whatever_folders_stand_before_it(tmp_path, name):
    names = ImageNames({"one/a": PurePosixPath("one/a.png"), "two/a": PurePosixPath("two/a.png")})
    images = [{"id": 1, "file_name": name, "height": 9, "width": 12}]
    note = {"image_id": 1, "segmentation": [RING]}
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": [note]}))
    truth = read_file(tmp_path / "c.json", {"one/a": (9, 12), "two/a": (9, 12)}, names=names)
    assert list(truth.targets) == ["one/a"]
    assert [(fault.id, fault.rule) for fault in truth.faults] == [("two/a", "image is not listed")]
