import time

import pytest

from histoseg.predict.budget import Budget, OutOfTimeError


def budget_after(seconds_spent, limit_s, seconds=0.0, work=0.0):
    started = time.monotonic() - seconds_spent
    return Budget(limit_s, started=started, batches=9, forward_s=seconds, forward_work=work)


def megapixels(count):
    return lambda members, views: count * members * views


def test_no_limit_means_everything():
    assert budget_after(1e9, None, 10.0, 10.0).affordable(megapixels(1e9), 5, 8) == (5, 8)


def test_before_anything_is_measured_everything_is_tried():
    assert budget_after(0, 3600).affordable(megapixels(1e9), 5, 8) == (5, 8)


def test_views_go_first_then_members_then_everything():
    # 1 s for a megapixel and pass; 3600 - 300 s of reserve are left.
    def affordable(count, beside_s=0.0):
        return budget_after(0, 3600, 10.0, 10.0).affordable(megapixels(count), 5, 8, beside_s)

    assert affordable(80) == (5, 8)
    assert affordable(100) == (5, 6)
    assert affordable(100, beside_s=700) == (5, 5)
    assert affordable(600) == (5, 1)
    assert affordable(1000) == (3, 1)
    assert affordable(3000) == (1, 1)
    assert affordable(10_000) == (1, 1)
    with pytest.raises(OutOfTimeError):
        budget_after(3301, 3600, 10.0, 10.0).affordable(megapixels(1), 5, 8)


def test_the_first_batch_and_the_first_image_pay_for_warming_up():
    budget = Budget(100.0)
    budget.record_batch(50.0, 0.2)
    assert budget.rate() is None
    budget.record_batch(6.0, 6.0)
    budget.record_batch(6.0, 6.0)
    assert budget.rate() == 1.0
    budget.record_image(40.0, 1.0)
    assert budget.beside_s(10, 10.0) == 0.0
    budget.record_image(2.0, 4.0)
    assert budget.beside_s(10, 8.0) == 4.0, "by megapixels"
    assert budget.beside_s(1, 800.0) == 2.0, "by images"


def test_slow_small_images_leave_nothing_out():
    budget = Budget(9 * 3600.0)
    for _ in range(3):
        budget.record_batch(0.05, 0.0256 * 8)
        budget.record_image(15.0, 0.0256)
    assert budget.affordable(megapixels(2200), 4, 2, budget.beside_s(550, 2200)) == (4, 2)


def test_blank_tiles_make_the_forecast_smaller():
    budget = Budget(100.0)
    assert budget.seen_share() == 1.0
    budget.record_image(1.0, 10.0, 2.5)
    assert budget.seen_share() == 0.25
