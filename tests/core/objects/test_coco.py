import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hard_masks import hard_masks
from histofold.core.objects import Objects
from histofold.core.objects.coco import counts_text, read_deltas_jit, runs_from_counts, write_deltas_jit
from histofold.core.rle.runs import Runs, runs_from_mask


def coco_code(mask_HW):
    return coco_mask.encode(np.asfortranarray(mask_HW, np.uint8))


def test_counts_are_pycocotools_both_ways():
    for mask_HW in hard_masks(400, seed=4):
        code = coco_code(mask_HW)
        assert counts_text(runs_from_mask(mask_HW)) == code["counts"].decode()
        assert runs_from_counts(code["counts"], mask_HW.shape) == runs_from_mask(mask_HW)
        assert runs_from_counts(code["counts"].decode(), mask_HW.shape) == runs_from_mask(mask_HW)


@pytest.mark.parametrize("shape_hw", [(1000, 1300), (1, 1), (1, 70000), (70000, 1)])
def test_large_counts_and_lone_pixels_are_pycocotools(shape_hw):
    for pixels in ([0], [-1], [0, -1], [shape_hw[0] * shape_hw[1] // 2]):
        mask_HW = np.zeros(shape_hw, bool)
        mask_HW.reshape(-1)[pixels] = True
        for each in (mask_HW, ~mask_HW):
            assert counts_text(runs_from_mask(each)) == coco_code(each)["counts"].decode()
            assert runs_from_counts(coco_code(each)["counts"], shape_hw) == runs_from_mask(each)


def test_runs_that_touch_are_written_as_one():
    whole = Objects.from_masks([np.ones((3, 4))])[0]
    assert len(whole) == 4
    assert counts_text(whole) == coco_code(np.ones((3, 4)))["counts"].decode()


def test_the_compiled_functions_are_their_own_source():
    for mask_HW in hard_masks(24, seed=5):
        text = np.frombuffer(coco_code(mask_HW)["counts"], np.uint8)
        plain = [getattr(function, "py_func", function) for function in (read_deltas_jit, write_deltas_jit)]
        results = []
        for read, write in (plain, (read_deltas_jit, write_deltas_jit)):
            counts, codes = np.zeros(len(text), np.int64), np.zeros(13 * len(text), np.uint8)
            results.append((read(text, mask_HW.size, counts), counts.tolist(), write(counts, codes), codes.tolist()))
        assert results[0] == results[1]


def test_zero_counts_within_a_text_join_what_they_part():
    counts = coco_mask.frPyObjects({"counts": [1, 2, 0, 3, 4, 0, 2], "size": [3, 4]}, 3, 4)
    mask_HW = coco_mask.decode(counts)
    assert runs_from_counts(counts["counts"], (3, 4)) == runs_from_mask(mask_HW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "counts of 0 pixels"),
        ("X", "within a number"),
        ("34 5", "character 2 of counts is ' '"),
        ("34\x7f", "compressed counts"),
        ("é", "is 'é': .* compressed counts"),
        ("O", "no number of pixels"),
        ("<<", "another size"),
        ("o" * 40, "damaged"),
    ],
)
def test_garbage_is_refused_with_words(text, message):
    with pytest.raises(ValueError, match=message):
        runs_from_counts(text, (3, 4))


def test_every_cut_and_every_wrong_size_is_refused():
    mask_HW = np.random.default_rng(0).random((40, 70)) < 0.3
    text = coco_code(mask_HW)["counts"]
    for end in range(len(text)):
        with pytest.raises(ValueError, match="cut"):
            runs_from_counts(text[:end], mask_HW.shape)
    with pytest.raises(ValueError, match="another size"):
        runs_from_counts(text, (41, 70))


def test_rows_are_refused():
    with pytest.raises(ValueError, match="columns"):
        counts_text(Runs(np.array([1]), np.array([2]), (3, 4), "C"))


def test_two_thousand_objects_take_no_time():
    centres = np.random.default_rng(0).integers(0, 980, (2000, 2))
    labels_HW = np.zeros((1000, 1000), int)
    for label, (y, x) in enumerate(centres, start=1):
        labels_HW[y : y + 20, x : x + 18] = label
    objects = Objects.from_labels(labels_HW)
    texts = [counts_text(runs) for runs in objects]
    started = time.perf_counter()
    again = [counts_text(runs_from_counts(text, (1000, 1000))) for text in texts]
    assert time.perf_counter() - started < 5
    assert again == texts
