import numpy as np
import pytest

from histofold.core.metrics import object_errors
from histofold.core.objects import Objects
from object_scenes import moved, pixel_sets, random_labels, random_masks, set_iou


def naive_errors(predicted, true):
    """The definitions, by sets of pixels."""
    ranking = sorted((-set_iou(t, p), i, j) for i, t in enumerate(true) for j, p in enumerate(predicted))
    matches = {}
    for iou, i, j in ranking:
        if -iou >= 0.5 and i not in matches and j not in matches.values():
            matches[i] = j
    parts = {i: tuple(j for j, p in enumerate(predicted) if p and len(p & t) >= len(p) / 2) for i, t in enumerate(true)}
    split = {
        i: found
        for i, found in parts.items()
        if len(found) > 1 and len(true[i] & frozenset().union(*(predicted[j] for j in found))) >= len(true[i]) / 2
    }
    swallowed = {
        j: tuple(i for i, t in enumerate(true) if t and len(p & t) >= len(t) / 2) for j, p in enumerate(predicted)
    }
    merged = {j: found for j, found in swallowed.items() if len(found) > 1}
    within = {i for found in merged.values() for i in found}
    pieces = {j for found in split.values() for j in found}
    shares = {(i, j): len(predicted[j]) / len(true[i]) for i, j in matches.items()}
    return {
        "matches": sorted(matches.items()),
        "missed": [i for i, t in enumerate(true) if t and i not in {*matches, *split, *within}],
        "hallucinated": [j for j, p in enumerate(predicted) if p and j not in {*matches.values(), *merged, *pieces}],
        "split": split,
        "merged": merged,
        "too_thin": sorted(pair for pair, share in shares.items() if share < 0.7),
        "too_fat": sorted(pair for pair, share in shares.items() if share > 1.4),
    }


def as_plain(errors):
    """The same with lists and tuples."""
    plain = {name: getattr(errors, name) for name in errors.counts}
    for name, value in plain.items():
        if isinstance(value, np.ndarray):
            plain[name] = [tuple(row) if isinstance(row, list) else row for row in value.tolist()]
    return plain


def test_errors_are_the_definitions_on_random_scenes():
    rng, totals = np.random.default_rng(0), {}
    for scene in range(300):
        shape_hw = tuple(rng.choice(np.arange(8, 16), 2, replace=False).tolist())
        if scene % 3:
            true = random_labels(rng, shape_hw)
            predicted = moved(rng, true)
        else:  # objects that overlap, or hold nothing
            true, predicted = random_masks(rng, shape_hw), random_masks(rng, shape_hw)
            predicted += [mask_HW | np.roll(mask_HW, 1, axis=1) for mask_HW in true]
        errors = object_errors(
            *(
                each if isinstance(each, np.ndarray) else Objects.from_masks(each, shape_hw)
                for each in (predicted, true)
            )
        )
        assert as_plain(errors) == naive_errors(pixel_sets(predicted), pixel_sets(true))
        for name, count in errors.counts.items():
            totals[name] = totals.get(name, 0) + count
    assert min(totals.values()) > 10, totals


def drawn(*boxes):
    """A label image of boxes (y, x, bottom, right)."""
    labels_HW = np.zeros((12, 20), int)
    for label, (y, x, bottom, right) in enumerate(boxes, start=1):
        labels_HW[y:bottom, x:right] = label
    return labels_HW


@pytest.mark.parametrize(
    ("predicted", "true", "kinds"),
    [
        (drawn((0, 0, 4, 4)), drawn((0, 0, 4, 4)), {"matches"}),
        (drawn(), drawn((0, 0, 4, 4)), {"missed"}),
        (drawn((0, 0, 4, 4)), drawn(), {"hallucinated"}),
        (drawn((0, 0, 4, 4)), drawn((8, 10, 12, 20)), {"missed", "hallucinated"}),
        (drawn((0, 0, 4, 3), (0, 3, 4, 7), (0, 7, 4, 10)), drawn((0, 0, 4, 10)), {"split"}),
        (drawn((0, 0, 4, 6), (0, 6, 4, 10)), drawn((0, 0, 4, 10)), {"matches", "split", "too_thin"}),
        (drawn((0, 0, 4, 10)), drawn((0, 0, 4, 4), (0, 6, 4, 10)), {"merged"}),
        (drawn((0, 0, 4, 6)), drawn((0, 0, 4, 10)), {"matches", "too_thin"}),
        (drawn((0, 0, 4, 7)), drawn((0, 0, 4, 10)), {"matches"}),
        (drawn((0, 0, 4, 15)), drawn((0, 0, 4, 10)), {"matches", "too_fat"}),
        (drawn((0, 0, 4, 14)), drawn((0, 0, 4, 10)), {"matches"}),
        (drawn((0, 0, 1, 2), (3, 8, 4, 10)), drawn((0, 0, 4, 10)), {"missed", "hallucinated"}),
    ],
)
def test_each_kind_alone(predicted, true, kinds):
    counts = object_errors(predicted, true).counts
    assert {name for name, count in counts.items() if count} == kinds


def test_objects_without_a_pixel_keep_their_place_and_are_no_errors():
    masks = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.zeros((5, 7), bool)]
    errors = object_errors(masks, masks)
    assert as_plain(errors)["matches"] == [(1, 1)]
    assert sum(errors.counts.values()) == 1
    assert sum(object_errors([], []).counts.values()) == 0


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match="the truth's size"):
        object_errors(np.ones((3, 4), int), np.ones((4, 3), int))
