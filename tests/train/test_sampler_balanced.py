"""One dataset's order: balanced over bins, shared by regions, resumable, dealt out to processes."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment, TrainConfig
from histofold.schema.parse import load_toml, to_toml
from histofold.train.sampler import MAX_DRAW_RATIO, BalancedSampler

BINS = pd.Series(["none"] * 40 + ["very_small"] * 8 + ["small"] * 14 + ["large"] * 18)


def draws(count, start=0, rank=0, ranks=1, batch=4, balanced=True, seed=0):
    sampler = BalancedSampler(BINS, seed, balanced, batch, start, rank, ranks)
    return list(islice(iter(sampler), count))


def test_bins_are_drawn_equally():
    drawn = BINS.to_numpy()[[tile for tile, _, _ in draws(80 * 30)]]
    shares = pd.Series(drawn).value_counts(normalize=True)
    assert shares["none"] == pytest.approx(0.5, abs=0.02)
    for name in ("very_small", "small", "large"):
        assert shares[name] == pytest.approx(0.5 / 3, abs=0.02)


def test_within_a_bin_no_tile_comes_much_more_often_than_another():
    tiles = np.array([tile for tile, _, _ in draws(80)])
    for name in BINS.unique():
        members = np.flatnonzero(BINS.to_numpy() == name)
        counts = np.bincount(tiles, minlength=80)[members]
        assert counts.max() - counts.min() <= 1


RARE_BINS = [
    {"large": 118, "some": 9, "very_small": 4},
    {"none": 500, "very_small": 1, "small": 30, "some": 400, "large": 2},
    {"none": 3, "large": 200},
]


@pytest.mark.parametrize("sizes", RARE_BINS)
def test_no_tile_is_drawn_more_than_three_times_as_often_as_another(sizes):
    bins = pd.Series([name for name, size in sizes.items() for _ in range(size)])
    sampler = BalancedSampler(bins, 0, True, 4, 0)
    drawn = pd.Series(bins.to_numpy()[np.concatenate([sampler.epoch_order(epoch) for epoch in range(300)])])
    rates = drawn.value_counts() / pd.Series(sizes) / 300
    assert rates.max() == pytest.approx(MAX_DRAW_RATIO * rates.min(), rel=0.05), "as near to equal bins as is allowed"


def test_unbalanced_order_is_a_permutation():
    assert sorted(tile for tile, _, _ in draws(80, balanced=False)) == list(range(80))


def test_starting_late_is_the_rest_of_the_same_order():
    everything = draws(200)
    for start in (1, 7, 30):
        assert draws(200 - start * 4, start=start) == everything[start * 4 :]


def test_processes_share_the_order_of_one():
    whole = draws(160, batch=8)
    parts = [draws(80, rank=rank, ranks=2, batch=4) for rank in range(2)]
    for step in range(20):
        both = parts[0][step * 4 : step * 4 + 4] + parts[1][step * 4 : step * 4 + 4]
        assert both == whole[step * 8 : step * 8 + 8]


def test_only_masked_or_only_unmasked_tiles():
    for name in ("none", "some"):
        sampler = BalancedSampler(pd.Series([name] * 5), 0, True, 2, 0)
        assert sorted(tile for tile, _, _ in islice(iter(sampler), 5)) == list(range(5))


REGIONS = pd.Series((["Cortex"] * 5 + ["Medulla"] * 2 + [""]) * 10)


def region_shares(shares, balanced, epochs=40):
    sampler = BalancedSampler(BINS, 0, balanced, 4, 0, regions=REGIONS, shares=shares)
    tiles = np.concatenate([sampler.epoch_order(epoch) for epoch in range(epochs)])
    return tiles, pd.Series(REGIONS.to_numpy()[tiles]).value_counts(normalize=True)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(
    "shares", [{"Medulla": 0.5}, {"Cortex": 0.2, "Medulla": 0.7}, {"Cortex": 0.25, "Medulla": 0.75}]
)
def test_regions_get_their_shares_of_the_draws(shares, balanced):
    _, found = region_shares(shares, balanced)
    for name, share in shares.items():
        assert found[name] == pytest.approx(share, abs=0.04)
    others = [name for name in ("Cortex", "Medulla", "") if name not in shares]
    assert sum(found.get(name, 0) for name in others) == pytest.approx(1 - sum(shares.values()), abs=0.04)


@pytest.mark.parametrize("balanced", [True, False])
def test_regions_and_bins_get_their_shares_within_one_draw_in_every_epoch(balanced):
    shares = {"Medulla": 0.37, "Cortex": 0.21}
    sampler = BalancedSampler(BINS, 0, balanced, 4, 0, regions=REGIONS, shares=shares)
    for epoch in range(30):
        order = sampler.epoch_order(epoch)
        assert len(order) == len(BINS)
        found = pd.Series(REGIONS.to_numpy()[order]).value_counts()
        for name, share in (*shares.items(), ("", 0.42)):
            assert abs(found[name] - share * len(BINS)) < 1
        if balanced:
            in_cortex = BINS.to_numpy()[order[REGIONS.to_numpy()[order] == "Cortex"]]
            assert abs((in_cortex == "none").sum() - 0.105 * len(BINS)) < 1


def test_within_a_region_bins_are_balanced_and_tiles_drawn_evenly():
    tiles, _ = region_shares({"Cortex": 0.8}, balanced=True, epochs=200)
    drawn = BINS.to_numpy()[tiles[REGIONS.to_numpy()[tiles] == "Cortex"]]
    shares = pd.Series(drawn).value_counts(normalize=True)
    assert shares["none"] == pytest.approx(0.5, abs=0.04)
    masked = set(BINS[REGIONS == "Cortex"]) - {"none"}
    for name in masked:
        assert shares[name] == pytest.approx(0.5 / len(masked), abs=0.04)
    order = BalancedSampler(BINS, 0, False, 4, 0, regions=REGIONS, shares={"Cortex": 0.8}).epoch_order(0)
    for name in ("Cortex", "Medulla"):
        counts = np.bincount(order, minlength=80)[REGIONS.eq(name)]
        assert counts.max() - counts.min() <= 1


def test_without_shares_the_order_does_not_know_regions():
    for balanced in (True, False):
        plain = BalancedSampler(BINS, 3, balanced, 4, 0).epoch_order(2)
        for shares in (None, {}):
            known = BalancedSampler(BINS, 3, balanced, 4, 0, regions=REGIONS, shares=shares)
            np.testing.assert_array_equal(known.epoch_order(2), plain)


def test_a_region_without_tiles_is_named_with_those_that_have_some():
    with pytest.raises(InputError, match=r"train\.regions\.Papilla") as caught:
        BalancedSampler(BINS, 0, True, 4, 0, regions=REGIONS, shares={"Papilla": 0.5})
    assert "Cortex, Medulla" in caught.value.faults[0].remedy


@pytest.mark.parametrize("regions", [{"Cortex": 0.0}, {"Cortex": -0.5}, {"Cortex": 0.6, "Medulla": 0.5}])
def test_shares_that_are_none_are_refused(regions):
    with pytest.raises(ValueError, match="regions"):
        TrainConfig(regions=regions)


def test_shares_of_regions_survive_the_experiment_file(tmp_path):
    experiment = Experiment(train=TrainConfig(regions={"Cortex": 0.75, "Outer stripe": 0.25}))
    (tmp_path / "e.toml").write_text(to_toml(experiment))
    assert load_toml(Experiment, tmp_path / "e.toml") == experiment


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("bins", [["none"], ["small"], ["none", "small", "large", "some"], [*["none"] * 8, "some"]])
def test_no_tile_is_left_out_for_good(bins, balanced):
    sampler = BalancedSampler(pd.Series(bins), 0, balanced, 4, 0)
    drawn = np.concatenate([sampler.epoch_order(epoch) for epoch in range(40)])
    assert set(drawn) == set(range(len(bins)))
    assert len(drawn) == 40 * len(bins)
