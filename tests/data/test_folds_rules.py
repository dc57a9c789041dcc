"""Folds by other rules than the usual one, and what every rule must keep."""

import numpy as np
import pandas as pd
import pytest

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.faults import InputError
from histofold.core.rle.runs import parse_rle
from histofold.data.folds import ALWAYS_TRAINED, merge_groups, plan_folds, stratum_names
from histofold.data.folds_file import read_folds
from histofold.data.leaks import find_leaks
from histofold.schema.dataset import TilesConfig
from histofold.schema.sample import Sample


def random_table(seed, count=None, sources=("HPA", "Hubmap")):
    """Samples of random organs, sources, groups of very unequal sizes, and random clusters."""
    rng = np.random.default_rng(seed)
    count = count or int(rng.integers(30, 90))
    groups = np.floor(rng.random(count) ** 1.5 * count * 0.7).astype(int)
    samples = [
        Sample(
            id=f"i{number}",
            image_path=f"{number}.tiff",
            organ=str(rng.choice(["kidney", "lung", "spleen"])),
            source=str(rng.choice(sources)),
            group=f"g{group}",
        )
        for number, group in enumerate(groups)
    ]
    clusters = {f"i{number}": f"c{rng.integers(count // 6)}" for number in rng.permutation(count)[: count // 8]}
    return samples, {sample.id: float(rng.random()) for sample in samples}, clusters


def components(samples, clusters):
    """Connected samples by brute force: labels spread until nothing changes."""
    label = {sample.id: number for number, sample in enumerate(samples)}
    changed = True
    while changed:
        changed = False
        for a in samples:
            for b in samples:
                tied = a.group == b.group or (a.id in clusters and clusters[a.id] == clusters.get(b.id))
                if tied and label[a.id] > label[b.id]:
                    label[a.id], changed = label[b.id], True
    return label


@pytest.mark.parametrize("seed", range(6))
def test_merged_groups_are_the_connected_components(seed):
    samples, _, clusters = random_table(seed, 40)
    groups = {sample.id: sample.group for sample in samples}
    merged = merge_groups(groups, clusters)
    label = components(samples, clusters)
    assert list(merged) == list(groups)
    for a in samples:
        for b in samples:
            assert (merged[a.id] == merged[b.id]) == (label[a.id] == label[b.id])
    assert set(merged.values()) <= set(groups.values()), "a merged group keeps a name that is known"
    assert merge_groups(merged, clusters) == merged
    assert merge_groups(groups, {}) == groups


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tiles", [TilesConfig(folds=3), TilesConfig(holdout=9), TilesConfig(folds=2, seed=5)])
def test_every_sample_has_one_fold_and_no_group_or_cluster_is_split(seed, tiles):
    samples, fractions, clusters = random_table(seed)
    table = plan_folds(samples, fractions, tiles, clusters=clusters)
    assert table["id"].tolist() == [sample.id for sample in samples]
    wanted = {0, ALWAYS_TRAINED} if tiles.holdout else set(range(tiles.folds))
    assert set(table["fold"]) == wanted
    fold_of = dict(zip(table["id"], table["fold"], strict=True))
    for names in ({s.id: s.group for s in samples}, clusters, dict(zip(table["id"], table["group"], strict=True))):
        for name in set(names.values()):
            assert len({fold_of[key] for key, found in names.items() if found == name}) == 1


@pytest.mark.parametrize(("count", "holdout"), [(351, 95), (30, 1), (30, 29), (61, 20)])
def test_a_hold_out_of_single_images_has_exactly_the_size_that_was_asked_for(count, holdout):
    samples, fractions, _ = random_table(count, count)
    singles = [Sample(id=s.id, image_path=s.image_path, organ=s.organ, source=s.source) for s in samples]
    table = plan_folds(singles, fractions, TilesConfig(holdout=holdout))
    held_out = table["fold"] == 0
    assert held_out.sum() == holdout
    assert (table.loc[~held_out, "fold"] == ALWAYS_TRAINED).all()
    shares = table.assign(held_out=held_out).groupby("stratum")["held_out"].agg(["sum", "count"])
    ideal = shares["count"] * holdout / count
    assert (shares["sum"] - ideal).abs().max() < 1.5, "strata are spread as in the whole"


def test_a_hold_out_follows_its_seed():
    samples, fractions, _ = random_table(1, 60)
    first, again, other = (plan_folds(samples, fractions, TilesConfig(holdout=20, seed=s))["fold"] for s in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_a_hold_out_that_one_group_fills_is_refused():
    samples = [Sample(id=str(i), image_path="x", group="one") for i in range(4)]
    with pytest.raises(InputError, match="a group is never split"):
        plan_folds(samples, dict.fromkeys("0123", 0.1), TilesConfig(holdout=2))


def test_leaving_one_source_out_holds_out_exactly_that_source():
    samples, fractions, _ = random_table(3, 50, sources=("HPA", "Hubmap", "own"))
    free = [Sample(id=s.id, image_path="x", organ=s.organ, source=s.source) for s in samples]
    table = plan_folds(free, fractions, TilesConfig(fold_by="source"))
    assert sorted(table["fold"].unique()) == [0, 1, 2]
    for fold, source in enumerate(("HPA", "Hubmap", "own")):
        assert set(table.loc[table["fold"] == fold, "id"]) == {s.id for s in free if s.source == source}
    by_organ = plan_folds(free, fractions, TilesConfig(fold_by="organ"))
    assert (by_organ.assign(organ=[s.organ for s in free]).groupby("organ")["fold"].nunique() == 1).all()
    assert by_organ["fold"].nunique() == 3


def test_sources_that_share_a_group_share_a_fold():
    sources = ["a", "a", "b", "b", "c"]
    groups = ["p", "q", "q", "r", "s"]
    samples = [
        Sample(id=str(i), image_path="x", source=source, group=group)
        for i, (source, group) in enumerate(zip(sources, groups, strict=True))
    ]
    fractions = dict.fromkeys("01234", 0.1)
    assert plan_folds(samples, fractions, TilesConfig(fold_by="source"))["fold"].tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(InputError, match="nothing would be left to train on"):
        plan_folds(samples[:4], fractions, TilesConfig(fold_by="source"))
    with pytest.raises(InputError, match="no organ to fold by"):
        plan_folds(samples, fractions, TilesConfig(fold_by="organ"))


def test_a_column_of_a_table_is_never_split(tmp_path):
    samples, fractions, _ = random_table(4, 40)
    free = [Sample(id=s.id, image_path="x", organ=s.organ) for s in samples]
    scanner = {s.id: f"scanner{number % 7}" for number, s in enumerate(free)}
    (tmp_path / "a.csv").write_text("id,other\ni0,1\n")
    pd.DataFrame({"id": list(scanner), "scanner": list(scanner.values())}).to_csv(tmp_path / "train.csv", index=False)
    table = plan_folds(free, fractions, TilesConfig(folds=3, fold_by="column:scanner"), root=tmp_path)
    assert set(table["fold"]) == {0, 1, 2}
    assert (table.assign(scanner=list(scanner.values())).groupby("scanner")["fold"].nunique() == 1).all()
    with pytest.raises(InputError, match=r"no table here has the columns id and lens.*other"):
        plan_folds(free, fractions, TilesConfig(fold_by="column:lens"), root=tmp_path)


def test_folds_by_image_split_groups_and_are_read_back_only_under_that_rule(tmp_path):
    samples = [Sample(id=str(i), image_path="x", group="one") for i in range(8)]
    table = plan_folds(samples, {str(i): i / 9 for i in range(8)}, TilesConfig(folds=4, fold_by="image"))
    assert table["fold"].value_counts().tolist() == [2, 2, 2, 2]
    assert set(table["group"]) == {"one"}, "the table says what belongs together even where it is split"
    path = tmp_path / "folds.csv"
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_folds(path, samples, "image"), table, check_dtype=False)
    with pytest.raises(InputError, match="leaks"):
        read_folds(path, samples)


def test_a_hold_out_is_read_back_and_one_without_held_out_images_is_refused(tmp_path):
    samples, fractions, _ = random_table(2, 30)
    path = tmp_path / "folds.csv"
    table = plan_folds(samples, fractions, TilesConfig(holdout=8))
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_folds(path, samples), table, check_dtype=False)
    table.assign(fold=ALWAYS_TRAINED).to_csv(path, index=False)
    with pytest.raises(InputError, match="no image is held out"):
        read_folds(path, samples)
    table.assign(fold=-2).to_csv(path, index=False)
    with pytest.raises(InputError, match="'-2' is not a number"):
        read_folds(path, samples)


def test_several_sources_stand_in_the_strata_and_a_single_one_does_not():
    fractions = {"0": 0.1, "1": 0.2}
    one = [Sample(id=str(i), image_path="x", organ="lung", source="HPA") for i in range(2)]
    assert stratum_names(one, fractions) == ["lung-middle", "lung-high"]
    two = [one[0], Sample(id="1", image_path="x", organ="lung", source="")]
    assert stratum_names(two, fractions) == ["lung-HPA-high", "lung-unknown-high"]


@pytest.mark.parametrize("settings", [{"fold_by": "patient"}, {"fold_by": "column:"}, {"holdout": -1}])
def test_unknown_rules_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        TilesConfig(**settings)
    with pytest.raises(ValueError, match="holdout"):
        TilesConfig(fold_by="source", holdout=3)


@pytest.mark.slow
def test_the_committed_folds_are_made_again_from_the_published_labels(shared_data, project_root):
    path = shared_data / "hubmap2022_labels" / "train_rebuilt.csv.gz"
    if not path.is_file():
        pytest.skip("the labels of the main competition are not beside the project")
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    samples, fractions = [], {}
    for row, group in zip(rows.to_dict("records"), Hubmap2022.fold_groups(rows.to_dict("records")), strict=True):
        shape_hw = int(row["img_height"]), int(row["img_width"])
        fractions[row["id"]] = parse_rle(row["rle"], shape_hw).area / (shape_hw[0] * shape_hw[1])
        sample = Sample(id=row["id"], image_path="x", organ=row["organ"], source=row["data_source"], group=group)
        samples.append(sample)
    made = plan_folds(samples, fractions, TilesConfig(folds=5, seed=0))
    assert made.to_csv(index=False, lineterminator="\n") == (project_root / "folds.csv").read_text()
    held_out = plan_folds(samples, fractions, TilesConfig(holdout=95))
    assert (held_out["fold"] == 0).sum() == 95
    assert (held_out.groupby("group")["fold"].nunique() == 1).all()


def test_a_merged_group_has_the_name_of_its_first_member():
    groups = {"1": "A", "2": "B", "3": "C", "4": "C", "5": "D"}
    merged = merge_groups(groups, {"1": "p", "3": "p", "2": "q", "4": "q"})
    assert merged == {"1": "A", "2": "A", "3": "A", "4": "A", "5": "D"}


def test_a_folds_file_need_not_name_groups(tmp_path):
    samples = [Sample(id=str(i), image_path=tmp_path / "x", group=f"g{i // 2}") for i in range(4)]
    path = tmp_path / "folds.csv"
    path.write_text("id,group,stratum,fold\n0,,,0\n1,,,0\n2,,,1\n3,,,1\n")
    assert read_folds(path, samples)["fold"].tolist() == [0, 0, 1, 1]
    assert find_leaks(read_folds(path, samples), samples).notices == []
    path.write_text("id,group,stratum,fold\n0,,,0\n1,,,1\n2,,,1\n3,,,1\n")
    with pytest.raises(InputError, match="images of group g0 stand in folds 0, 1: it leaks"):
        read_folds(path, samples)
