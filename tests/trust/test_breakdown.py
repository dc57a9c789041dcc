"""Parts of a run's slides: bins part them, counts sum up, figures are those of plain arithmetic."""

import numpy as np
import pytest

from histofold.trust.breakdown import (
    SHARE_EDGES,
    SIZE_EDGES_PX,
    part_table,
    share_bin,
    share_bins,
    size_bin,
    size_bins,
)
from histofold.trust.intervals import grouped_interval


def test_bins_rise_with_what_they_are_of_and_every_value_has_one():
    sides = sorted({1, 10**6, *(edge + step for edge in SIZE_EDGES_PX for step in (-1, 0, 1))})
    places = [size_bins().index(size_bin((side, 1))) for side in sides]
    assert places == sorted(places)
    assert set(places) == set(range(len(SIZE_EDGES_PX) + 1))
    assert size_bin((3, 4096)) == size_bin((4096, 3)) != size_bin((4095, 3))
    shares = sorted({0.0, 1.0, *(edge + step for edge in SHARE_EDGES for step in (-1e-9, 0, 1e-9))})
    places = [share_bins().index(share_bin(share)) for share in shares]
    assert places == sorted(places)
    assert set(places) == set(range(len(share_bins())))
    assert share_bin(0) == "no mask" != share_bin(1e-12)
    with pytest.raises(ValueError, match="0 to 1"):
        share_bin(1.01)


def test_parts_partition_the_images_and_say_what_arithmetic_says():
    rng = np.random.default_rng(0)
    scores, groups = rng.random(60), [f"g{number % 7}" for number in range(60)]
    parts = [("kidney", "lung", "")[number % 3] for number in range(60)]
    table = part_table(scores, groups, parts)
    assert table["images"].sum() == 60
    assert table["part"].tolist() == ["", "kidney", "lung"]
    assert (table["mean"] * table["images"]).sum() == pytest.approx(scores.sum())
    for row in table.to_dict("records"):
        own = np.array([score for score, part in zip(scores, parts, strict=True) if part == row["part"]])
        members = [group for group, part in zip(groups, parts, strict=True) if part == row["part"]]
        assert (row["low"], row["high"]) == pytest.approx(grouped_interval(own, members))
        assert (row["min"], row["median"], row["max"]) == (own.min(), np.median(own), own.max())
        assert row["groups"] == len(set(members))


def test_images_without_a_score_and_parts_without_an_image_are_left_out():
    table = part_table([0.5, np.nan, 0.7], ["a", "b", "a"], ["x", "x", "y"], order=["z", "y", "x"])
    assert table["part"].tolist() == ["y", "x"]
    assert table["images"].tolist() == [1, 1]
    assert table["low"].isna().all(), "one group says nothing of others"
