"""What is chosen of objects: only what gains beyond chance, and never on the fold that is scored."""

from dataclasses import replace

import pytest

from histofold.core.metrics.ranked import ApRule
from histofold.schema.objects import ObjectConfig
from histofold.trust.objects.choices import Scorer, nested_choices
from small_objects import found_image

RULE = ApRule(host="openimages", iou=0.6)
OWN = ObjectConfig()


def scorer(**changes):
    return Scorer([found_image(number, **changes) for number in range(8)], RULE)


def test_objects_that_are_found_too_small_grow_and_others_keep_the_runs_own():
    shrunk = scorer(shrunk=3)
    chosen = shrunk.choose(range(8), OWN).config
    assert chosen.grow_px >= 2
    assert shrunk.pool(range(8), chosen).ap() > shrunk.pool(range(8), OWN).ap() + 0.1
    assert scorer(stray=0).choose(range(8), OWN).config == OWN, "all are found as they are: nothing is gained"


def test_a_gain_in_one_group_is_luck():
    images = [found_image(number, shrunk=3, group="one") for number in range(8)]
    assert Scorer(images, RULE).choose(range(8), OWN).config == OWN


def test_small_false_alarms_are_dropped_where_that_gains():
    noisy = scorer(stray=30)
    chosen = noisy.choose(range(8), OWN).config
    assert chosen.min_area_px >= 40, "the false alarms have 29 pixels, the objects 113 and more"
    assert noisy.pool(range(8), chosen).ap() > noisy.pool(range(8), OWN).ap() + 0.01


def test_objects_show_from_the_score_that_parts_them_from_false_alarms():
    clear = scorer(stray=0).choose(range(8), OWN).shown_score
    noisy = scorer(stray=30).choose(range(8), replace(OWN, min_area_px=0))
    assert clear <= 0.3
    assert 0 < noisy.shown_score < 1


def test_no_fold_is_scored_with_what_it_chose_itself():
    images = [found_image(number, shrunk=3 if number % 2 else 0) for number in range(8)]
    nested, shipped = nested_choices(Scorer(images, RULE), OWN)
    assert nested[0].config.grow_px > 0, "fold 1 alone, which is shrunk, chose for it"
    assert nested[1].config.grow_px == 0
    assert shipped.config.grow_px >= 0


def test_one_fold_alone_keeps_the_runs_own():
    images = [found_image(number, shrunk=3, folds=1) for number in range(4)]
    nested, shipped = nested_choices(Scorer(images, RULE), OWN)
    assert nested == {0: shipped}
    assert (shipped.config, shipped.shown_score) == (OWN, 0.5)


@pytest.mark.parametrize("max_detections", [None, 3])
def test_hits_are_those_of_cutting_first(max_detections):
    rule = replace(RULE, host="coco", max_detections=max_detections)
    images = [found_image(number, stray=10) for number in range(3)]
    for config in (OWN, replace(OWN, min_score=0.4), replace(OWN, min_score=0.4, min_area_px=40)):
        whole = Scorer(images, rule)
        whole.hits(0, OWN)
        assert whole.hits(0, config).scores.tolist() == sorted(whole.cut(0, config).scores.tolist(), reverse=True)
