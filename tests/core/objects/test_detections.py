import numpy as np
import pytest

from histofold.core.metrics import coco_ap, openimages_ap
from histofold.core.objects import Detections, Objects


def found(scores):
    labels = np.arange(1, len(scores) + 1)[:, None].repeat(3, axis=1)
    return Detections(Objects.from_labels(labels), scores)


def test_the_best_come_by_score_and_equal_ones_as_given():
    detections = found([0.2, 0.9, 0.5, 0.9])
    for count, rows in ((0, []), (2, [1, 3]), (3, [1, 3, 2]), (9, [1, 3, 2, 0])):
        best = detections.best(count)
        assert best.objects.boxes[:, 0].tolist() == rows
        assert best.scores.tolist() == detections.scores[rows].tolist()
        assert len(best) == len(rows)


@pytest.mark.parametrize("indices", [[], [2], [2, 0], [True, False, True], np.zeros(0, int)])
def test_a_selection_keeps_objects_and_scores_together(indices):
    detections = found([0.2, 0.9, 0.5])
    chosen = detections.select(indices)
    assert chosen.scores.dtype == np.float64
    assert (
        chosen.objects.boxes[:, 0].tolist() == np.arange(3)[np.array(indices, None if len(indices) else int)].tolist()
    )
    assert chosen.scores.tolist() == detections.scores[chosen.objects.boxes[:, 0]].tolist()


@pytest.mark.parametrize("scores", [[0.1], [[0.1, 0.2]], [0.1, np.nan], [0.1, np.inf]])
def test_each_object_needs_one_finite_score(scores):
    with pytest.raises(ValueError, match="one finite score"):
        Detections(found([1, 2]).objects, scores)
    with pytest.raises(ValueError, match="0 or more"):
        found([0.1]).best(-1)


def test_metrics_take_detections():
    detections = found([0.4, 0.6, 0.5])
    truth = detections.objects.select(np.array([1, 2]))
    for metric in (openimages_ap, coco_ap):
        assert metric([detections], [truth]) == metric([(detections.objects, detections.scores)], [truth]) == 1.0
