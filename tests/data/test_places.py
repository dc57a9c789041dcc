"""Tiles of one slide: folds keep strips whole, and leave out of training what lies beside a scored tile."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofold.data.folds import ALWAYS_TRAINED, check_fold_rule, plan_folds
from histofold.data.folds_file import read_folds
from histofold.data.leaks import find_leaks
from histofold.data.places import touching_ids, trained_ids
from histofold.schema.dataset import TilesConfig
from histofold.schema.sample import Sample


def tile(key, place=("w", 0, 0), shape_hw=(10, 20), **further):
    return Sample(id=key, image_path=Path(f"{key}.tif"), place=place, shape_hw=shape_hw, **further)


@pytest.mark.parametrize(
    ("place", "touches"),
    [
        (("w", 10, 0), True),
        (("w", 10, 20), True),
        (("w", -10, -20), True),
        (("w", 0, 20), True),
        (("w", 5, 5), True),
        (("w", 11, 0), False),
        (("w", 0, 21), False),
        (("v", 10, 0), False),
        (None, False),
    ],
)
def test_tiles_touch_at_sides_and_corners_of_one_slide(place, touches):
    assert touching_ids([tile("held")], [tile("other", place)]) == ({"other"} if touches else set())
    assert touching_ids([tile("other", place)], [tile("held")]) == ({"held"} if touches else set())


def test_touching_is_that_of_pixels_that_are_neighbours():
    generator = np.random.default_rng(0)
    tiles = [
        tile(str(number), ("w", *generator.integers(0, 30, 2).tolist()), tuple(generator.integers(1, 8, 2).tolist()))
        for number in range(40)
    ]

    def pixels(each, rim):
        (_, y, x), (height, width) = each.place, each.shape_hw
        return {(j, i) for j in range(y - rim, y + height + rim) for i in range(x - rim, x + width + rim)}

    for held in tiles[:10]:
        expected = {each.id for each in tiles if pixels(held, 1) & pixels(each, 0)}
        assert touching_ids([held], tiles) == expected


def slide_tiles():
    """A scored region of 12 x 3 tiles in strips of two, and unscored tiles beside it, on it, and on another slide."""
    scored = [
        tile(f"{x}.{y}", ("w", 10 * y, 20 * x), group=f"w-{x // 2}", source="1") for x in range(12) for y in range(3)
    ]
    further = [
        tile("beside", ("w", 30, 0), group="w-2-0", source="2", is_scored=False),
        tile("corner", ("w", 30, 240), group="w-2-6", source="2", is_scored=False),
        tile("far", ("w", 60, 0), group="w-2-0", source="2", is_scored=False),
        tile("elsewhere", ("v", 0, 0), group="v-2-0", source="2", is_scored=False),
    ]
    return [*scored, *further]


def planned(samples, **settings):
    return plan_folds(samples, dict.fromkeys((each.id for each in samples), 0.1), TilesConfig(**settings))


def test_folds_hold_out_scored_tiles_alone_and_train_on_nothing_that_touches_them():
    samples = slide_tiles()
    by_id = {sample.id: sample for sample in samples}
    folds = planned(samples, folds=3)
    assert folds["fold"].value_counts().to_dict() == {0: 12, 1: 12, 2: 12, ALWAYS_TRAINED: 4}
    for fold in range(3):
        held = [by_id[key] for key in folds.loc[folds["fold"] == fold, "id"]]
        trained = trained_ids(folds, by_id, fold)
        rim = {each.id for each in samples if touching_ids(held, [each])}
        assert set(trained) == set(by_id) - rim
        assert {"elsewhere", "far"} <= set(trained)
    assert sum("beside" in trained_ids(folds, by_id, fold) for fold in range(3)) == 2


def test_unscored_tiles_of_a_scored_group_leave_its_fold(tmp_path):
    samples = slide_tiles()
    by_id = {sample.id: sample for sample in samples}
    clusters = {"far": "near-1", "0.0": "near-1"}
    fractions = dict.fromkeys(by_id, 0.1)
    folds = plan_folds(samples, fractions, TilesConfig(folds=3), clusters=clusters)
    own = int(folds.loc[folds["id"] == "0.0", "fold"].iloc[0])
    assert ["far" in trained_ids(folds, by_id, fold) for fold in range(3)] == [fold != own for fold in range(3)]
    folds.to_csv(tmp_path / "folds.csv", index=False)
    pd.testing.assert_frame_equal(read_folds(tmp_path / "folds.csv", samples), folds)
    assert find_leaks(folds, [], clusters=clusters).notices != []
    assert not any("stands in folds" in line for line in find_leaks(folds, samples, clusters=clusters).notices)


def test_folds_by_slide_leave_out_all_of_a_slide(tmp_path):
    samples = [*slide_tiles(), tile("v0", ("v", 100, 0), group="v-0", source="1")]
    by_id = {sample.id: sample for sample in samples}
    table = pd.DataFrame({"id": list(by_id), "slide": [sample.place[0] for sample in samples]})
    table.to_csv(tmp_path / "tile_meta.csv", index=False)
    settings = TilesConfig(fold_by="column:slide", folds=2)
    check_fold_rule(samples, settings, tmp_path)
    folds = plan_folds(samples, dict.fromkeys(by_id, 0.1), settings, root=tmp_path)
    fold = int(folds.loc[folds["id"] == "v0", "fold"].iloc[0])
    assert "elsewhere" not in trained_ids(folds, by_id, fold)
    assert set(trained_ids(folds, by_id, 1 - fold)) == {"v0", "elsewhere"}


def test_folds_by_source_score_every_source_and_folders_without_scored_tiles_all_of_them():
    samples = slide_tiles()
    folds = planned(samples, fold_by="source")
    assert folds.groupby("fold")["id"].count().to_dict() == {0: 36, 1: 4}
    unscored = [tile(f"{x}", ("w", 0, 40 * x), group=f"{x}", is_scored=False) for x in range(6)]
    assert set(planned(unscored, folds=3)["fold"]) == {0, 1, 2}
