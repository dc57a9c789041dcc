"""What is cut of raw detections, and that the raw ones stay as they are."""

import dataclasses

import numpy as np
import pytest

from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.predict.objects.cut import cut_detections
from histofold.schema.objects import ObjectConfig

OPEN = ObjectConfig(min_score=0, max_objects=1000)


def raw_detections():
    """Squares of 1, 4, 9 and 16 pixels, the last with a fragment of one pixel, and one without a pixel."""
    masks = np.zeros((5, 12, 30), bool)
    for place in range(4):
        masks[place, 2 : 3 + place, 6 * place : 7 * place + 1] = True
    masks[3, 11, 29] = True
    return Detections(Objects.from_masks(masks), np.array([0.4, 0.9, 0.1, 0.7, 0.8]))


def test_the_best_come_first_without_fragments_and_empty_ones():
    detections = cut_detections(raw_detections(), OPEN)
    np.testing.assert_array_equal(detections.scores, [0.9, 0.7, 0.4, 0.1])
    np.testing.assert_array_equal(detections.objects.areas, [4, 16, 1, 9])


@pytest.mark.parametrize(
    ("change", "scores"),
    [
        ({"min_score": 0.4}, [0.9, 0.7, 0.4]),
        ({"min_area_px": 9}, [0.7, 0.1]),
        ({"max_objects": 2}, [0.9, 0.7]),
        ({"grow_px": -1.0}, [0.7, 0.1]),
        ({"grow_px": 1.0, "min_area_px": 6}, [0.9, 0.7, 0.1]),
    ],
)
def test_each_setting_cuts(change, scores):
    raw = raw_detections()
    areas = raw.objects.areas.copy()
    np.testing.assert_array_equal(cut_detections(raw, dataclasses.replace(OPEN, **change)).scores, scores)
    np.testing.assert_array_equal(raw.objects.areas, areas)


def test_nothing_stays_nothing():
    assert len(cut_detections(Detections(Objects.from_masks([], (3, 4)), np.zeros(0)), OPEN)) == 0
