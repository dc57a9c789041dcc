"""Intervals over groups, of means and of paired differences."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from histofold.core.faults import InputError
from histofold.trust.intervals import grouped_interval, paired_difference, run_difference, score_bounds


def test_the_interval_is_wider_when_groups_are_few():
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.random(10), 10)
    by_image = grouped_interval(scores, [str(i) for i in range(100)])
    by_group = grouped_interval(scores, [str(i // 10) for i in range(100)])
    assert by_group[1] - by_group[0] > 2 * (by_image[1] - by_image[0])
    assert by_group[0] < scores.mean() < by_group[1]


@pytest.mark.parametrize("count", [3, 8, 30])
def test_the_interval_holds_the_truth_as_often_as_it_says(count):
    rng, hits, above = np.random.default_rng(count), 0, 0
    for _ in range(1500):
        sizes = 1 + rng.geometric(0.2, count)
        codes = np.repeat(np.arange(count), sizes)
        scores = 0.8 + 0.1 * rng.normal(size=count)[codes] + 0.1 * rng.normal(size=len(codes))
        low, high = grouped_interval(scores, [str(code) for code in codes])
        hits += low <= 0.8 <= high
        above += low > 0.8
    assert 0.93 <= hits / 1500 <= 0.97
    assert above / 1500 <= 0.035


def test_of_one_image_a_group_it_is_students():
    scores = np.random.default_rng(0).random(7)
    expected = ttest_1samp(scores, 0).confidence_interval()
    assert grouped_interval(scores, list("abcdefg")) == pytest.approx((expected.low, expected.high))


def test_one_group_says_nothing_of_others():
    assert grouped_interval([0.8, 0.9], ["a", "a"]) == (-np.inf, np.inf)


def test_the_interval_of_equal_scores_is_a_point():
    assert grouped_interval(np.full(5, 0.25), list("abcde")) == (0.25, 0.25)


def test_a_steady_gain_is_worth_it_and_noise_is_not():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.6, 0.9, 60)
    groups = [str(place // 3) for place in range(60)]
    steady = paired_difference(raw, raw + 0.01 + rng.normal(0, 0.002, 60), groups)
    noise = paired_difference(raw, raw + rng.normal(0, 0.05, 60) - 0.01, groups)
    assert steady.is_gain
    assert not noise.is_gain
    assert not paired_difference(raw, raw, groups).is_gain
    assert paired_difference(raw, raw[::-1], groups).second == pytest.approx(raw.mean())


def test_one_group_alone_has_no_interval_and_shows_no_gain():
    alone = paired_difference([0.5, 0.6], [0.7, 0.8], ["a", "a"])
    assert not alone.is_gain
    assert str(alone) == "Dice 0.5500 to 0.7500, +0.2000 (no interval: one group) on 2 slides"
    assert paired_difference([0.5, 0.6], [0.7, 0.8], ["a", "b"]).is_gain


@pytest.mark.parametrize("lengths", [(0, 0, 0), (2, 1, 2), (2, 2, 1)])
def test_scores_that_do_not_belong_together_are_refused(lengths):
    first, second, third = lengths
    with pytest.raises(ValueError, match="at least one slide"):
        paired_difference([0.5] * first, [0.5] * second, ["a"] * third)


def test_two_runs_are_compared_slide_by_slide(tmp_path):
    groups = {key: key for key in "abc"}
    for name, rows in (("raw", "a,0.5\nb,0.6\nc,0.7\n"), ("cleaned", "c,0.8\na,0.6\nb,0.7\n"), ("less", "a,0.6\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oof.csv").write_text(f"id,dice\n{rows}")
    gain = run_difference(tmp_path / "raw", tmp_path / "cleaned", groups)
    assert gain.second - gain.first == pytest.approx(0.1)
    assert gain.is_gain
    with pytest.raises(InputError, match="other slides"):
        run_difference(tmp_path / "raw", tmp_path / "less", groups)
    with pytest.raises(InputError, match="no such file"):
        run_difference(tmp_path / "raw", tmp_path / "none", groups)


def test_two_patients_that_are_one_say_as_much_as_one(tmp_path):
    rng, ids = np.random.default_rng(0), [f"i{number}" for number in range(12)]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        rows = "".join(f"{key},{score:.6f}\n" for key, score in zip(ids, rng.random(12), strict=True))
        (tmp_path / name / "oof.csv").write_text(f"id,dice\n{rows}")
    apart = {key: str(place // 4) for place, key in enumerate(ids)}
    merged = {key: group.replace("1", "0") for key, group in apart.items()}
    three, two = (run_difference(tmp_path / "first", tmp_path / "second", groups) for groups in (apart, merged))
    assert (three.first, three.second) == (two.first, two.second)
    assert three.interval != two.interval
    differences = [run_difference(tmp_path / "first", tmp_path / "second", dict.fromkeys(ids, "one"))]
    assert differences[0].interval == (-np.inf, np.inf)


def test_the_interval_of_a_score_ends_where_scores_do():
    assert score_bounds((-0.1, 0.4)) == [0.0, 0.4]
    assert score_bounds((0.6, 1.2)) == [0.6, 1.0]
    assert score_bounds((-np.inf, np.inf)) is None
