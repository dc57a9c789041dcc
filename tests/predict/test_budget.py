import time

from histoseg.predict.budget import Budget


def budget_after(seconds_spent, limit_s, seconds=0.0, megapixel_passes=0.0):
    return Budget(
        limit_s, started=time.monotonic() - seconds_spent, seconds=seconds, megapixel_passes=megapixel_passes, images=9
    )


def test_no_limit_means_everything():
    assert budget_after(1e9, None, 10.0, 10.0).affordable(1e9, 5, 8) == (5, 8)


def test_before_anything_is_measured_everything_is_tried():
    assert budget_after(0, 3600).affordable(1e9, 5, 8) == (5, 8)


def test_views_go_first_then_members_then_everything():
    # 1 s for a megapixel and pass; 3600 - 300 s of reserve are left.
    def affordable(megapixels):
        return budget_after(0, 3600, 10.0, 10.0).affordable(megapixels, 5, 8)

    assert affordable(80) == (5, 8)
    assert affordable(600) == (5, 1)
    assert affordable(1000) == (3, 1)
    assert affordable(3000) == (1, 1)
    assert affordable(10_000) == (1, 1)
    assert budget_after(3301, 3600, 10.0, 10.0).affordable(1, 5, 8) == (0, 0)


def test_recording_adds_up():
    budget = Budget(100.0)
    budget.record(50.0, 0.1, 2)
    assert budget.megapixel_passes == 0, "the first image pays for warming up"
    budget.record(6.0, 3.0, 2)
    assert budget.seconds / budget.megapixel_passes == 1.0


def test_one_slow_image_leaves_nothing_out():
    budget = Budget(9 * 3600.0)
    budget.record(15.0, 0.0256, 8)
    budget.record(15.0, 0.0256, 8)
    assert budget.affordable(2200, 4, 2) == (4, 2)
