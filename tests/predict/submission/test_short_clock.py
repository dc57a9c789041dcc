"""A clock for a fifth of the work: the submission is complete, legal, and there before the limit."""

import pytest

from slow_network import SMALL_IMAGES, run_slowly, skipping_clock


@pytest.mark.parametrize("giant_place", [0, SMALL_IMAGES])
def test_work_of_fifty_minutes_in_ten(tmp_path, giant_place):
    with skipping_clock() as nap:
        slow = run_slowly(tmp_path, 600.0, 3000.0, giant_place, nap)
    assert slow.faults == []
    assert slow.work_s > 5 * 600.0 * 0.95
    assert slow.giant_s > 600.0, "one image alone takes longer than the limit"
    assert slow.seconds < 600.0
    outcomes = [image.outcome for image in slow.summary.images]
    assert len(outcomes) == SMALL_IMAGES + 1
    assert set(outcomes) <= {"predicted", "degraded", "fallback"}
    assert slow.summary.done > 0, "some rows are the network's"
    assert slow.summary.steps, "what was left out is told"
    assert all(image.reason for image in slow.summary.images if image.outcome != "predicted")
