import numpy as np
import pandas as pd
import pytest

from histofold.competitions.hubmap_2022 import HUBMAP_2022_NEAR_DUPLICATES
from histofold.core.faults import InputError
from histofold.data.folds import imbalance, plan_folds, stratum_names
from histofold.data.folds_file import read_folds
from histofold.schema.dataset import TilesConfig
from histofold.schema.sample import Sample


def made_samples(count, groups, seed=0):
    rng = np.random.default_rng(seed)
    organs = rng.choice(["kidney", "lung", "spleen"], count, p=[0.6, 0.3, 0.1])
    names = [f"g{g}" for g in rng.permutation(np.arange(count) % groups)]
    samples = [
        Sample(id=str(i), image_path=f"{i}.tiff", organ=organ, group=group)
        for i, (organ, group) in enumerate(zip(organs, names, strict=True))
    ]
    return samples, {s.id: float(f) for s, f in zip(samples, rng.random(count), strict=True)}


@pytest.mark.parametrize(("count", "groups", "folds"), [(60, 20, 5), (17, 4, 3), (40, 40, 2), (5, 5, 5)])
def test_folds_split_groups_never_and_cover_everything(count, groups, folds):
    samples, fractions = made_samples(count, groups)
    table = plan_folds(samples, fractions, TilesConfig(folds=folds, seed=0))
    assert table["id"].tolist() == [s.id for s in samples]
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    assert set(table["fold"]) == set(range(folds))


def test_folds_are_reproducible_and_seeded():
    samples, fractions = made_samples(60, 30)
    first = plan_folds(samples, fractions, TilesConfig(folds=4, seed=1))
    pd.testing.assert_frame_equal(first, plan_folds(samples, fractions, TilesConfig(folds=4, seed=1)))
    assert (first["fold"] != plan_folds(samples, fractions, TilesConfig(folds=4, seed=2))["fold"]).any()


def test_folds_are_balanced_where_groups_allow_it():
    samples, fractions = made_samples(100, 100)
    table = plan_folds(samples, fractions, TilesConfig(folds=5, seed=0))
    sizes = table["fold"].value_counts()
    assert sizes.max() - sizes.min() <= 2
    for _, part in table.groupby("stratum"):
        counts = part["fold"].value_counts().reindex(range(5), fill_value=0)
        assert counts.max() - counts.min() <= 2


def test_strata_are_terciles_within_an_organ():
    samples = [Sample(id=str(i), image_path="x", organ="lung") for i in range(6)]
    samples += [Sample(id="k", image_path="x", organ="kidney"), Sample(id="none", image_path="x")]
    fractions = {str(i): i / 10 for i in range(6)} | {"k": 0.5, "none": 0.1}
    names = stratum_names(samples, fractions)
    assert names[:6] == ["lung-low"] * 2 + ["lung-middle"] * 2 + ["lung-high"] * 2
    assert names[6:] == ["kidney-high", "any-high"]


def test_too_few_groups_are_refused():
    samples, fractions = made_samples(10, 2)
    with pytest.raises(InputError, match="2 groups cannot fill 3 folds"):
        plan_folds(samples, fractions, TilesConfig(folds=3, seed=0))


def test_imbalance_is_zero_for_equal_folds():
    assert imbalance(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"], 2) == 0
    assert imbalance(np.array([0, 0, 1, 1]), ["a", "a", "b", "b"], 2) > 0


def test_a_folds_file_is_held_against_the_samples(tmp_path):
    samples, fractions = made_samples(12, 6)
    path = tmp_path / "folds.csv"
    table = plan_folds(samples, fractions, TilesConfig(folds=3, seed=0))
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_folds(path, samples), table, check_dtype=False)
    broken = table.astype({"fold": str})
    broken.loc[0, "fold"] = "one"
    broken.drop(index=[5]).to_csv(path, index=False)
    with pytest.raises(InputError) as caught:
        read_folds(path, samples)
    rules = "\n".join(str(fault) for fault in caught.value.faults)
    assert "'one' is not a number" in rules
    assert "image without a fold" in rules


def test_a_folds_file_that_splits_a_group_leaks(tmp_path):
    samples = [Sample(id=str(i), image_path="x", group="p") for i in range(2)]
    path = tmp_path / "folds.csv"
    path.write_text("id,group,stratum,fold\n0,p,s,0\n1,p,s,1\n")
    with pytest.raises(InputError, match="leaks"):
        read_folds(path, samples)
    path.write_text("id,group,stratum,fold\n0,p,s,0\n1,1,s,1\n")
    with pytest.raises(InputError, match="leaks"):
        read_folds(path, samples)
    # The file may call the images groups of their own; our table knows better.
    path.write_text("id,group,stratum,fold\n0,0,s,0\n1,1,s,1\n")
    with pytest.raises(InputError, match="leaks"):
        read_folds(path, samples)


def test_the_committed_folds_of_the_main_competition(project_root):
    table = pd.read_csv(project_root / "folds.csv", dtype=str)
    assert list(table.columns) == ["id", "group", "stratum", "fold"]
    assert len(table) == table["id"].nunique() == 351
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    organs = table["stratum"].str.split("-").str[0]
    assert organs.value_counts().to_dict() == {
        "kidney": 99,
        "prostate": 93,
        "largeintestine": 58,
        "spleen": 53,
        "lung": 48,
    }
    fold_of = table.set_index("id")["fold"]
    for cluster in HUBMAP_2022_NEAR_DUPLICATES:
        assert fold_of[list(cluster)].nunique() == 1
    sizes = table["fold"].value_counts()
    assert sizes.max() - sizes.min() <= 5
    by_organ = pd.crosstab(organs, table["fold"])
    assert (by_organ.max(axis=1) - by_organ.min(axis=1)).max() <= 4


def test_a_refusal_for_too_few_groups_names_the_near_duplicates_that_made_them_few():
    samples = [Sample(id=f"i{number}", image_path="a.tif", group=f"g{number}") for number in range(4)]
    clusters = {"i0": "i0", "i2": "i0", "i3": "i0"}
    with pytest.raises(InputError, match="2 groups cannot fill 4 folds") as caught:
        plan_folds(samples, {sample.id: 0.5 for sample in samples}, TilesConfig(folds=4), clusters=clusters)
    assert "i0, i2, i3" in caught.value.faults[1].rule
    assert "--folds" in caught.value.faults[1].remedy


def written_folds(tmp_path, folds, ids="abcd"):
    path = tmp_path / "folds.csv"
    rows = [f"{key},,,{fold}" for key, fold in zip(ids, folds, strict=True)]
    path.write_text("\n".join(["id,group,stratum,fold", *rows]))
    return path, [Sample(id=key, image_path=f"{key}.png") for key in "abcd"]


def test_folds_with_a_decimal_are_numbers_and_rows_of_no_image_are_named(tmp_path, caplog):
    """Tables write 0.0 where a cell was empty once."""
    path, samples = written_folds(tmp_path, ("0.0", "1.0", "-1.0", "2", "2"), "abcdz")
    assert read_folds(path, samples)["fold"].tolist() == [0, 1, -1, 2]
    assert "1 rows are of no image, the first is z" in caplog.text


@pytest.mark.parametrize("fold", ["0", "3"])
def test_one_fold_of_all_images_leaves_none_to_train_on(tmp_path, fold):
    with pytest.raises(InputError, match="all images are in one fold"):
        read_folds(*written_folds(tmp_path, [fold] * 4))
    with pytest.raises(InputError, match="all images are in one fold"):  # a row of no image is in no fold
        read_folds(*written_folds(tmp_path, [fold] * 4 + ["1"], "abcdz"))
    path, samples = written_folds(tmp_path, [fold] * 3 + ["-1"])
    assert read_folds(path, samples)["fold"].tolist() == [int(fold)] * 3 + [-1]
