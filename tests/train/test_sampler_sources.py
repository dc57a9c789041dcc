"""Several sources: weights are realised, each source keeps its own order, and resuming is starting later."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest

from histofold.core.faults import InputError
from histofold.train.sampler import BalancedSampler, SourceSampler, make_sampler, source_quotas

SIZES = {"main": 37, "b": 8, "c": 90}


def made_index():
    rng = np.random.default_rng(0)
    names = rng.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    bins = rng.choice(["none", "small", "large"], len(names), p=[0.6, 0.1, 0.3])
    return pd.DataFrame({"dataset": names, "bin": bins})


INDEX = made_index()


def draws(count, weights, start=0, rank=0, ranks=1, batch=4, **options):
    settings = {"seed": 3, "balanced": True, "batch": batch, "start_step": start, "rank": rank, "ranks": ranks}
    return list(islice(iter(make_sampler(INDEX, weights, **{**settings, **options})), count))


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 0.5), (0.01, 5, 2), (1e-9, 1, 1e-9)])
def test_quotas_add_up_follow_the_weights_and_leave_nobody_out(weights):
    for count in (3, 4, 10, 135, 1001):
        quotas = source_quotas(weights, count)
        assert sum(quotas) == count
        assert min(quotas) >= 1
        ideal = np.array(weights) / sum(weights) * count
        if ideal.min() >= 1:
            assert np.abs(np.array(quotas) - ideal).max() < 1


@pytest.mark.parametrize("weights", [{"main": 1, "b": 1, "c": 1}, {"main": 4, "b": 1, "c": 0.5}])
def test_every_epoch_realises_the_weights_within_rounding(weights):
    count = len(INDEX)
    for epoch in range(4):
        drawn = draws(count, weights, start=epoch * count, batch=1)
        assert {e for _, e, _ in drawn} == {epoch}
        assert [position for _, _, position in drawn] == list(range(count))
        found = INDEX["dataset"].iloc[[tile for tile, _, _ in drawn]].value_counts()
        for name, weight in weights.items():
            assert abs(found[name] - weight / sum(weights.values()) * count) < 1


def test_within_a_source_bins_are_as_balanced_as_the_source_alone():
    weights = {"main": 1, "b": 1, "c": 1}
    tiles = [tile for tile, _, _ in draws(len(INDEX) * 40, weights)]
    drawn = INDEX.iloc[tiles]
    for name in SIZES:
        shares = drawn.loc[drawn["dataset"] == name, "bin"].value_counts(normalize=True)
        bins = INDEX.loc[INDEX["dataset"] == name, "bin"]
        alone = BalancedSampler(bins, 0, True, 4, 0)
        order = np.concatenate([alone.epoch_order(epoch) for epoch in range(40)])
        expected = pd.Series(bins.to_numpy()[order]).value_counts(normalize=True)
        assert shares["none"] == pytest.approx(expected["none"], abs=0.05)


def test_each_source_goes_through_its_own_order():
    """What is drawn of a source over several epochs is, as a multiset, the beginning of its own endless order."""
    weights = {"main": 1.0, "b": 2.0, "c": 0.4}
    drawn = np.array([tile for tile, _, _ in draws(len(INDEX) * 5, weights)])
    for name in SIZES:
        places = np.flatnonzero(INDEX["dataset"] == name)
        alone = BalancedSampler(INDEX["bin"].iloc[places], 3, True, 1, 0)
        found = drawn[np.isin(drawn, places)]
        expected = [places[tile] for tile, _, _ in islice(iter(alone), len(found))]
        assert sorted(found) == sorted(expected)


def test_no_tile_of_a_source_with_little_weight_is_left_out():
    drawn = {tile for tile, _, _ in draws(len(INDEX) * 30, {"main": 10, "b": 10, "c": 2}, balanced=False)}
    assert drawn == set(range(len(INDEX)))


def test_starting_late_is_the_rest_of_the_same_order():
    weights = {"main": 1, "b": 3, "c": 1}
    everything = draws(600, weights)
    for start in (1, 7, 33, 34, 100):
        assert draws(600 - start * 4, weights, start=start) == everything[start * 4 :]


def test_processes_share_the_order_of_one():
    weights = {"main": 1, "b": 3, "c": 1}
    whole = draws(320, weights, batch=8)
    parts = [draws(160, weights, rank=rank, ranks=2, batch=4) for rank in range(2)]
    for step in range(40):
        both = parts[0][step * 4 : step * 4 + 4] + parts[1][step * 4 : step * 4 + 4]
        assert both == whole[step * 8 : step * 8 + 8]


def test_one_source_alone_is_drawn_as_ever():
    part = INDEX[INDEX["dataset"] == "c"].reset_index(drop=True)
    sampler = make_sampler(part, {"c": 7.0}, seed=3, balanced=True, batch=4, start_step=2)
    assert not isinstance(sampler, SourceSampler)
    expected = BalancedSampler(part["bin"], 3, True, 4, 2)
    assert list(islice(iter(sampler), 300)) == list(islice(iter(expected), 300))


def test_regions_are_asked_only_of_datasets_that_have_them():
    regions = np.where(INDEX["dataset"] == "main", np.where(np.arange(len(INDEX)) % 2, "cortex", ""), "")
    index = INDEX.assign(region=regions)
    settings = {"seed": 0, "balanced": False, "batch": 1, "start_step": 0, "region_shares": {"cortex": 0.9}}
    sampler = make_sampler(index, {"main": 1, "b": 1, "c": 1}, **settings)
    drawn = index.iloc[[tile for tile, _, _ in islice(iter(sampler), len(index) * 20)]]
    assert (drawn.loc[drawn["dataset"] == "main", "region"] == "cortex").mean() == pytest.approx(0.9, abs=0.03)
    assert set(drawn["dataset"]) == set(SIZES)


def test_a_region_that_no_dataset_has_is_refused():
    index = INDEX.assign(region=np.where(INDEX["dataset"] == "main", "cortex", ""))
    settings = {"seed": 0, "balanced": True, "batch": 1, "start_step": 0, "region_shares": {"Cortxe": 0.9}}
    for part in (index, index[index["dataset"] == "main"]):
        with pytest.raises(InputError, match=r"train\.regions\.Cortxe"):
            make_sampler(part, {"main": 1, "b": 1, "c": 1}, **settings)


ORGANS = np.random.default_rng(1).choice(["kidney", "lung", "spleen", ""], len(INDEX), p=[0.6, 0.2, 0.15, 0.05])


def organ_order(index, shares, balanced, weights=(2, 1, 1)):
    settings = {"seed": 5, "balanced": balanced, "batch": 4, "start_step": 0, "shares": {"organ": shares}}
    return make_sampler(index, dict(zip(SIZES, weights, strict=True)), **settings)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("names", [["main", "b", "c"], ["c"]])
@pytest.mark.parametrize("shares", [{"lung": 0.5}, {"lung": 0.4, "kidney": 0.11, "spleen": 0.49}, {"spleen": 1.0}])
def test_organs_get_their_shares_within_one_draw_in_every_epoch(names, shares, balanced):
    index = INDEX.assign(organ=ORGANS)
    index = index[index["dataset"].isin(names)]
    sampler = organ_order(index, shares, balanced)
    for epoch in range(5):
        order = sampler.epoch_order(epoch)
        assert len(order) == len(index)
        found = index["organ"].iloc[order].value_counts()
        for name, share in shares.items():
            assert abs(found[name] - share * len(index)) < 1
        if sum(shares.values()) == 1:
            assert set(found.index) == set(shares)


def test_within_an_organ_datasets_keep_their_weights_and_bins_their_balance():
    index = INDEX.assign(organ=ORGANS)
    sampler = organ_order(index, {"lung": 0.6}, balanced=True)
    drawn = index.iloc[np.concatenate([sampler.epoch_order(epoch) for epoch in range(60)])]
    lung = drawn[drawn["organ"] == "lung"]
    weights = {name: {"main": 2, "b": 1, "c": 1}[name] for name in index.loc[index["organ"] == "lung", "dataset"]}
    for name, weight in weights.items():
        assert (lung["dataset"] == name).mean() == pytest.approx(weight / sum(weights.values()), abs=0.03)
    main = lung[lung["dataset"] == "main"]
    has_both = {"none"} < set(index.loc[(index["organ"] == "lung") & (index["dataset"] == "main"), "bin"])
    assert has_both
    assert (main["bin"] == "none").mean() == pytest.approx(0.5, abs=0.05)


def test_no_tile_of_an_organ_with_a_small_share_is_left_out():
    index = INDEX.assign(organ=ORGANS)
    sampler = organ_order(index, {"kidney": 0.02}, balanced=False)
    drawn = np.concatenate([sampler.epoch_order(epoch) for epoch in range(120)])
    assert set(drawn) == set(range(len(index)))


def test_organ_shares_start_late_and_are_dealt_out_like_any_order():
    index = INDEX.assign(organ=ORGANS)
    settings = {"seed": 5, "balanced": True, "shares": {"organ": {"lung": 0.5, "spleen": 0.3}}}

    def drawn(count, **place):
        return list(islice(iter(make_sampler(index, {"main": 2, "b": 1, "c": 1}, **settings, **place)), count))

    whole = drawn(320, batch=8, start_step=0)
    assert drawn(320 - 7 * 8, batch=8, start_step=7) == whole[7 * 8 :]
    parts = [drawn(160, batch=4, start_step=0, rank=rank, ranks=2) for rank in range(2)]
    for step in range(40):
        both = parts[0][step * 4 : step * 4 + 4] + parts[1][step * 4 : step * 4 + 4]
        assert both == whole[step * 8 : step * 8 + 8]


def test_an_organ_without_tiles_is_refused_with_the_known_ones():
    index = INDEX.assign(organ=ORGANS)
    with pytest.raises(InputError, match=r"train\.organs\.lungs.*no tile.*organ") as caught:
        organ_order(index, {"lungs": 0.5, "kidney": 0.2}, balanced=True)
    assert [fault.remedy for fault in caught.value.faults] == ["organs of the tiles: kidney, lung, spleen"]
    with pytest.raises(InputError, match="none, the competition names no organ"):
        organ_order(index.assign(organ=""), {"kidney": 0.2}, balanced=True)


def test_without_shares_the_order_does_not_know_organs():
    plain = draws(300, {"main": 1, "b": 3, "c": 1})
    index = INDEX.assign(organ=ORGANS)
    settings = {"seed": 3, "balanced": True, "batch": 4, "start_step": 0, "shares": {}}
    assert list(islice(iter(make_sampler(index, {"main": 1, "b": 3, "c": 1}, **settings)), 300)) == plain


def test_sources_get_their_shares_as_organs_do():
    index = INDEX.assign(source=ORGANS, organ="kidney")
    shares = {"lung": 0.6, "spleen": 0.4}
    settings = {"seed": 5, "balanced": True, "batch": 4, "start_step": 0}
    weights = dict(zip(SIZES, (2, 1, 1), strict=True))
    of_sources = make_sampler(index, weights, shares={"organ": {}, "source": shares}, **settings)
    of_organs = organ_order(INDEX.assign(organ=ORGANS), shares, balanced=True)
    for epoch in range(3):
        np.testing.assert_array_equal(of_sources.epoch_order(epoch), of_organs.epoch_order(epoch))
    with pytest.raises(InputError, match=r"train\.sources\.kidneys.*no tile.*source"):
        make_sampler(index, weights, shares={"source": {"kidneys": 0.5}}, **settings)
