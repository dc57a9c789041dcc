"""polygons.jsonl: what is drawn of it, what is repaired, what is refused and with which words."""

import json

import numpy as np
import pytest
from skimage.measure import find_contours, label

from histofold.competitions.polygons import TilePolygon, read_polygons
from histofold.core.faults import InputNotice
from histofold.core.rle.sets import is_simple_ring
from small_vessels import box, vessel

TYPES = ("blood_vessel", "glomerulus", "unsure")
SHAPE = (40, 56)


def host_corners(mask_HW):
    """An outline as the host writes them."""
    ring_P2 = max(find_contours(np.pad(mask_HW, 1).astype(float), 0.5), key=len) - 1
    return np.trunc(ring_P2[:, ::-1]).astype(int).tolist()


def read(path, *lines, tiles=("a", "b")):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_polygons(path, TYPES, lambda key: SHAPE if key in tiles else None)


def tile(*annotations, key="a"):
    return {"id": key, "annotations": list(annotations)}


def test_masks_come_back_from_the_outlines_that_the_host_writes_of_them():
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(20):
        noise = rng.random((4, 7))
        blobs = np.kron(noise, np.ones((10, 8))) > 0.6
        blobs[0] = blobs[:, 0] = False  # no object of the host has a pixel there
        for region in range(1, label(blobs, connectivity=1).max() + 1):
            mask_HW = label(blobs, connectivity=1) == region
            if label(~mask_HW, connectivity=1).max() > 1:
                continue  # with a hole, which one ring cannot say
            polygon = TilePolygon("blood_vessel", (np.array(host_corners(mask_HW), np.float32),))
            drawn = polygon.draw(SHAPE).to_mask()
            differing = drawn ^ mask_HW
            # A corner that was cut off to a whole number may have stood a pixel before it: corners alone may differ.
            assert differing.sum() <= 0.05 * mask_HW.sum()
            count += 1
    assert count > 30


def test_what_is_repaired_is_counted_once_a_kind(tmp_path):
    eight = [[10, 10], [20, 20], [20, 10], [10, 20], [10, 10]]
    found = read(
        tmp_path / "polygons.jsonl",
        tile(vessel(box(2, 2, 8, 9)), vessel(box(2, 2, 8, 9)), vessel(box(2, 2, 8, 9), kind="unsure")),
        "",
        tile(
            vessel(box(4, 4, 9, 9)[:-1]),
            vessel(box(-5, 30, 5, 45)),
            vessel(eight),
            vessel(box(10, 10, 30, 30), box(15, 15, 20, 20)),
            vessel([[3, 3], [3, 3], [4, 4]]),
            vessel([]),
            key="b",
        ),
    )
    assert all(isinstance(fault, InputNotice) for fault in found.faults)
    words = " ".join(fault.rule for fault in found.faults)
    assert len(found.faults) == 6
    for expected in (
        "exact duplicates are dropped: 1, in 1 tiles, the first in a",
        "corners are dropped: 2",
        "cut off: 1",
    ):
        assert expected in words
    assert words.count("even-odd rule: 1") == 2
    assert "open rings are closed: 1" in words
    assert [polygon.kind for polygon in found.by_tile["a"]] == ["blood_vessel", "unsure"]
    opened, clipped, _, holed = (polygon.draw(SHAPE).to_mask() for polygon in found.by_tile["b"])
    assert opened.sum() == 25
    assert clipped.sum() == 6 * 9
    assert clipped[-1, 5]
    assert clipped[31, 0]
    assert holed.sum() == 400 - 25
    assert not holed[16:21, 16:21].any()


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("{", "line 2", "no JSON"),
        ("[1]", "line 2", "no object with an id"),
        ({"id": "b"}, "line 2", "no list of annotations"),
        (tile(key="c"), "c", "no row of this tile"),
        (tile(), "a", "second line of this tile"),
        (tile(vessel(kind="vein"), key="b"), "b", "polygon 1: type 'vein' is none of blood_vessel, glomerulus, unsure"),
        (tile(vessel(), key="b"), "b", "no ring"),
        (tile("x", key="b"), "b", "no object with a type"),
        (tile(vessel([[1, 2], [3]]), key="b"), "b", "ring 1 is no list of [x, y]"),
        (tile(vessel([[1, 2], [3, float("nan")], [4, 5]]), key="b"), "b", "finite"),
        (tile(vessel(box(1, 1, 5, 5)), vessel(box(60, 2, 70, 9)), key="b"), "b", "polygon 2: it lies outside"),
        (tile(vessel(box(5, 5, 1e6, 9)), key="b"), "b", "far beyond"),
        (tile(vessel(box(0.2, 0.2, 0.8, 0.9)), key="b"), "b", "shares of the tile's sides"),
    ],
)
def test_what_is_refused_is_named_with_its_line(tmp_path, line, key, words):
    found = read(tmp_path / "polygons.jsonl", tile(vessel(box(2, 2, 9, 9))), line)
    (fault,) = found.faults
    assert not isinstance(fault, InputNotice)
    assert (fault.id, fault.file) == (key, f"{tmp_path / 'polygons.jsonl'}:2")
    assert words in fault.rule
    assert found.by_tile["a"][0].draw(SHAPE).area == 49


def test_a_missing_or_foreign_file_is_one_fault(tmp_path):
    (tmp_path / "utf16.jsonl").write_bytes("{}".encode("utf-16"))
    for name in ("none.jsonl", "utf16.jsonl"):
        (fault,) = read_polygons(tmp_path / name, TYPES, lambda key: SHAPE).faults
        assert "cannot be read" in fault.rule


def test_outlines_that_cross_themselves_are_told_from_those_that_touch():
    square = np.array(box(0, 0, 10, 7), float)
    assert is_simple_ring(square)
    assert is_simple_ring(square[::-1])
    assert is_simple_ring(square[:-1] + 3.3)
    assert not is_simple_ring(square[[0, 2, 1, 3]])
    assert not is_simple_ring(np.vstack([square, square]))
    spur = np.array([[0, 0], [5, 0], [5, -6], [5, 0], [10, 0], [20, 0], [10, 0], [10, 7], [0, 7]])
    pinched = np.array([[0, 0], [10, 0], [5, 5], [10, 10], [0, 10], [5, 5]])
    assert is_simple_ring(spur)
    assert is_simple_ring(pinched)
