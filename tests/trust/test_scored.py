"""What is kept of a held-out slide: equal to what arrays say, and the same after a journal."""

import json

import numpy as np
import pytest
from scipy import ndimage

from histofold.core.metrics.errors import object_errors
from histofold.core.metrics.masks import dice
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import join_classes, runs_from_mask
from histofold.schema.parse import parse_dataclass, plain
from histofold.trust import scored
from histofold.trust.scored import COUNTED_ERRORS, PROBABILITY_CUTS, ScoredSlide, decode_map, encode_map, scored_slide
from histofold.trust.thresholds import THRESHOLD_GRID
from small_masks import discs, probabilities

SHAPE = (40, 70)


def scored_of(probs, truths, ignored_HW=None, shift=0.1):
    """A slide whose cleaned masks are those of other thresholds than the raw ones, so that nothing mixes them up."""
    raw = [join_classes([runs_from_mask(each >= cut) for each in probs]) for cut in PROBABILITY_CUTS]
    cleaned = [join_classes([runs_from_mask(each >= cut + shift) for each in probs]) for cut in THRESHOLD_GRID]
    ignored = None if ignored_HW is None else runs_from_mask(ignored_HW)
    return scored_slide(raw, cleaned, join_classes([runs_from_mask(each) for each in truths]), ignored, seconds=1.5)


def scene(seed, classes=2):
    rng = np.random.default_rng(seed)
    truths = [discs(rng, SHAPE, 4) for _ in range(classes)]
    return [probabilities(rng, truth_HW, blur=5) for truth_HW in truths], truths


@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_those_of_arrays_and_ignored_ones_do_not_count(seed):
    probs, truths = scene(seed)
    ignored_HW = np.zeros(SHAPE, bool)
    ignored_HW[:, 60:] = True
    truths = [truth_HW & ~ignored_HW for truth_HW in truths]
    slide = scored_of(probs, truths, ignored_HW)
    assert slide.counted_px == 40 * 60
    for prob_HW, truth_HW, each in zip(probs, truths, slide.classes, strict=True):
        assert each.truth_px == truth_HW.sum()
        for place, cut in enumerate(PROBABILITY_CUTS):
            mask_HW = (prob_HW >= cut) & ~ignored_HW
            assert (each.raw_px[place], each.raw_hit_px[place]) == (mask_HW.sum(), (mask_HW & truth_HW).sum())
        for place, cut in enumerate(THRESHOLD_GRID):
            mask_HW = (prob_HW >= cut + 0.1) & ~ignored_HW
            assert each.dice(place) == pytest.approx(dice(mask_HW, truth_HW))
    assert slide.scores == [[each.dice(place) for place in range(16)] for each in slide.classes]


def labelled(mask_HW):
    return Objects.from_labels(ndimage.label(mask_HW, np.ones((3, 3)))[0])


@pytest.mark.parametrize("seed", range(3))
def test_pieces_and_their_errors_are_those_of_label_images(seed):
    (prob_HW,), (truth_HW,) = scene(seed, classes=1)
    (each,) = scored_of([prob_HW], [truth_HW]).classes
    for counts, cut in zip(each.objects, THRESHOLD_GRID, strict=True):
        found, true = labelled(prob_HW >= cut + 0.1), labelled(truth_HW)
        errors = object_errors(found, true)
        assert (counts["true"], counts["found"], counts["matches"]) == (len(true), len(found), len(errors.matches))
        assert {name: counts[name] for name in COUNTED_ERRORS} == {name: errors.counts[name] for name in COUNTED_ERRORS}
        swallowed = {part for parts in errors.merged.values() for part in parts}
        parts = {part for parts in errors.split.values() for part in parts}
        # Each object is explained: without a match it is an error of its own, or a part of one of the other side.
        assert counts["matches"] + counts["missed"] <= len(true)
        assert len(true) <= counts["matches"] + counts["missed"] + counts["split"] + len(swallowed)
        assert len(found) <= counts["matches"] + counts["hallucinated"] + counts["merged"] + len(parts)
        largest = max((true.areas[index] for index in errors.missed), default=0)
        assert counts["missed_px"] == largest


def test_small_maps_show_the_pixels_under_them(monkeypatch):
    monkeypatch.setattr(scored, "MAP_SIDE", 35)
    (prob_HW,), (truth_HW,) = scene(3, classes=1)
    (each,) = scored_of([prob_HW], [truth_HW]).classes
    assert each.masks, "cleaning changed them"
    middles = np.ix_(np.arange(20) * 2 + 1, np.arange(35) * 2 + 1)
    for cut in (0.05, 0.5, 0.8):
        np.testing.assert_array_equal(each.small_mask(cut), (prob_HW >= cut + 0.1)[middles])
    levels_HW = np.searchsorted(PROBABILITY_CUTS, prob_HW[middles], side="right")
    np.testing.assert_array_equal(each.small_probabilities(), levels_HW)


def test_empty_and_full_slides():
    empty_HW, full_HW = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    for truth_HW, prob, expected in ((empty_HW, 0, 1.0), (empty_HW, 1, 0.0), (full_HW, 1, 1.0), (full_HW, 0, 0.0)):
        slide = scored_of([np.full(SHAPE, prob, np.float32)], [truth_HW])
        assert set(slide.scores[0]) == {expected}
        assert slide.classes[0].objects[0]["true"] == int(truth_HW.any())


def test_a_journal_gives_back_what_it_was_given():
    slide = scored_of(*scene(4))
    assert parse_dataclass(ScoredSlide, json.loads(json.dumps(plain(slide))), "journal") == slide
    rng = np.random.default_rng(0)
    for kind in (np.uint8, np.uint16):
        map_HW = rng.integers(0, np.iinfo(kind).max, (7, 12)).astype(kind)
        np.testing.assert_array_equal(decode_map(encode_map(map_HW)), map_HW)


def test_slices_have_no_pieces_and_no_probabilities():
    masks = [runs_from_mask(np.eye(5, 9) > 0)] * len(THRESHOLD_GRID)
    (each,) = scored_slide([], masks, masks[0], seconds=0.0, pieces=False).classes
    assert (each.objects, each.probabilities, each.raw_px) == ((), "", ())
    assert each.dice(0) == 1.0


def test_masks_that_cleaning_leaves_as_they_are_are_kept_once():
    (prob_HW,), (truth_HW,) = scene(5, classes=1)
    (each,) = scored_of([prob_HW], [truth_HW], shift=0.0).classes
    assert each.masks == ""
    for cut in (0.05, 0.5, 0.8):
        np.testing.assert_array_equal(each.small_mask(cut), prob_HW >= cut)
