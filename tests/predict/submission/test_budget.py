import time

import pytest

from histofold.predict.stages import Level, OutOfTimeError
from histofold.predict.submission.budget import Budget


def budget_after(seconds_spent, limit_s, seconds=0.0, work=0.0):
    started = time.monotonic() - seconds_spent
    return Budget(limit_s, started=started, batches=9, forward_s=seconds, forward_work=work)


def megapixels(count):
    return lambda level: count * level.members * level.views


def test_no_limit_means_everything():
    assert budget_after(1e9, None, 10.0, 10.0).affordable(megapixels(1e9), Level(5, 8)) == Level(5, 8)


def test_before_anything_is_measured_everything_is_tried():
    assert budget_after(0, 3600).affordable(megapixels(1e9), Level(5, 8)) == Level(5, 8)


def test_views_go_first_then_members_then_everything():
    # 1 s for a megapixel and pass; 3600 - 300 s of reserve are left.
    def affordable(count, beside_s=0.0):
        return budget_after(0, 3600, 10.0, 10.0).affordable(megapixels(count), Level(5, 8), beside_s)

    assert affordable(80) == Level(5, 8)
    assert affordable(100) == Level(5, 6)
    assert affordable(100, beside_s=700) == Level(5, 5)
    assert affordable(600) == Level(5, 1)
    assert affordable(1000) == Level(3, 1)
    assert affordable(3000) == Level(1, 1)
    assert affordable(10_000) == Level(1, 1)
    with pytest.raises(OutOfTimeError):
        budget_after(3301, 3600, 10.0, 10.0).affordable(megapixels(1), Level(5, 8))


def test_the_first_batch_of_each_device_and_network_pays_for_warming_up():
    budget = Budget(100.0)
    for where in ("cuda:0 0", "cuda:1 0", "cuda:0 1"):
        budget.record_batch(50.0, 0.2, where)
    assert budget.rate() is None
    budget.record_batch(6.0, 6.0, "cuda:0 0")
    assert budget.rate() is None
    budget.record_batch(6.0, 6.0, "cuda:1 0")
    assert budget.rate() == 1.0


def test_one_slow_stretch_is_forgotten():
    budget = Budget(100.0)
    budget.record_batch(1.0, 1.0)
    for _ in range(20):
        budget.record_batch(10.0, 1.0)
    for _ in range(200):
        budget.record_batch(1.0, 1.0)
    assert 1.0 < budget.rate() < 1.2


def beside(costs, images_left, megapixels_left):
    """The forecast after images of (seconds, megapixels); the first one pays for warming up."""
    budget = Budget(100.0)
    budget.record_image(99.0, 1.0)
    for seconds, size in costs:
        budget.record_image(seconds, size)
    return budget.beside_s(images_left, megapixels_left)


def test_what_images_cost_beside_their_passes_is_told_by_number_and_by_size():
    assert beside([], 10, 10.0) == 0.0
    sizes = [1.0, 2.0, 5.0, 9.0, 20.0]
    assert beside([(2.0, size) for size in sizes], 100, 37.0) == pytest.approx(200.0), "so much an image"
    assert beside([(0.1 * size, size) for size in sizes], 100, 37.0) == pytest.approx(3.7), "so much a megapixel"
    assert beside([(2.0 + 0.1 * size, size) for size in sizes], 10, 50.0) == pytest.approx(25.0), "both"


def test_of_images_of_one_size_the_higher_forecast_counts_once_there_are_some():
    assert beside([(2.0, 4.0)] * 3, 10, 400.0) == pytest.approx(20.0)
    assert beside([(2.0, 4.0)] * 30, 10, 400.0) == pytest.approx(200.0)
    assert beside([(2.0, 4.0)] * 30, 1000, 4.0) == pytest.approx(2000.0)


def test_slow_small_images_leave_nothing_out():
    budget = Budget(9 * 3600.0)
    for _ in range(3):
        budget.record_batch(0.05, 0.0256 * 8)
        budget.record_image(15.0, 0.0256)
    assert budget.affordable(megapixels(2200), Level(4, 2), budget.beside_s(550, 2200)) == Level(4, 2)


def test_blank_tiles_make_the_forecast_smaller():
    budget = Budget(100.0)
    assert budget.seen_share() == 1.0
    budget.record_image(1.0, 10.0, 2.5)
    assert budget.seen_share() == 0.25
