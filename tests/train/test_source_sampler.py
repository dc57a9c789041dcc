"""Several sources: weights are realised, each source keeps its own order, and resuming is starting later."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest

from histoseg.core.faults import InputError
from histoseg.train.dataset import BalancedSampler
from histoseg.train.source_sampler import SourceSampler, make_sampler, source_quotas

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
        assert shares["none"] == pytest.approx(0.5, abs=0.05)


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
