"""Shards merge to the bytes of one run, in any order, and every reason against it is told at once."""

import dataclasses
import json
import random
import tracemalloc

import pytest

from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.predict.submission.merge import merge_shards
from histofold.predict.submission.shards import WholeRun, finish_shard, plan_shards
from histofold.schema.files import csv_text
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.schema.shard import sidecar_path

ONE = Manifest(competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0))
TWO = dataclasses.replace(ONE, classes=("gland", "lumen, wide"))


def ids_of(count):
    """Ids that a csv must quote, and that a number would spoil."""
    return [["007", "7", 'a "b", c', "two\nlines", "é", "1e5"][n % 6] + "-" * (n // 6) for n in range(count)]


def write_run(folder, manifest, count, num_shards, largest=None):
    """The submission of one run with random rows, and its shards; gives the csvs' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(count)
    several = manifest.classes if len(manifest.classes) > 1 else ()
    columns = ("id", "class", "rle") if several else ("id", "rle")
    samples = tuple(
        Sample(id=key, image_path=folder / "none", shape_hw=(rng.randint(1, largest), 7) if largest else None)
        for key in ids_of(count)
    )
    rows = {
        sample.id: "\n".join(f"{rng.randrange(1, 10**6)} {rng.randrange(1, 99)}" for _ in manifest.classes)
        for sample in samples
    }
    (folder / "whole.csv").write_text(Folder().submission_text(rows, manifest.classes), newline="")
    whole = WholeRun("folder", columns, (manifest,), samples)
    paths = []
    for shard_id in range(num_shards):
        planned = plan_shards(whole, num_shards)(shard_id)
        paths.append(folder / f"s{shard_id}.csv")
        own = {key: rows[key] for key in planned.ids}
        paths[-1].write_text(Folder().submission_text(own, manifest.classes), newline="")
        finish_shard(paths[-1], planned, dict.fromkeys(planned.ids[:1], "it is broken"), planned.ids[1:2])
    return paths


@pytest.mark.parametrize("manifest", [ONE, TWO], ids=["one class", "two classes"])
@pytest.mark.parametrize("num_shards", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_merged_shards_are_the_bytes_of_one_run(manifest, num_shards, count, tmp_path):
    paths = write_run(tmp_path, manifest, count, num_shards, largest=90)
    random.Random(count).shuffle(paths)
    held = [len(json.loads(sidecar_path(path).read_text())["ids"]) for path in paths]
    merged = merge_shards(paths, tmp_path / "deep" / "merged.csv")
    assert (tmp_path / "deep" / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (merged.images, sum(held)) == (count, count)
    assert len(merged.fallback) == sum(number > 0 for number in held)
    assert len(merged.degraded) == sum(number > 1 for number in held)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["merged.csv"]


def rows_longer_than_csvs_limit(tmp_path):
    planned = plan_shards(WholeRun("folder", ("id", "rle"), (ONE,), (Sample(id="a", image_path=tmp_path / "a"),)), 1)(0)
    path = tmp_path / "s.csv"
    path.write_text(csv_text(("id", "rle"), [("a", "1 2 " * 100_000)]))
    finish_shard(path, planned, {}, ())
    return path


@pytest.mark.slow
def test_memory_holds_the_rows_of_one_shard_not_of_all(tmp_path):
    samples = tuple(Sample(id=f"s{n:02d}", image_path=tmp_path / "none") for n in range(99))
    whole = WholeRun("folder", ("id", "rle"), (ONE,), samples)
    paths, row = [], "1 2 " * 25_000
    for shard_id in range(len(samples)):
        planned = plan_shards(whole, len(samples))(shard_id)
        paths.append(tmp_path / f"{shard_id}.csv")
        paths[-1].write_text(csv_text(planned.columns, [(key, row) for key in planned.ids]))
        finish_shard(paths[-1], planned, {}, ())
    tracemalloc.start()
    merge_shards(paths, tmp_path / "merged.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(samples) * len(row) / 2
    assert (tmp_path / "merged.csv").read_text() == csv_text(("id", "rle"), [(each.id, row) for each in samples])


def test_rows_may_be_long(tmp_path):
    path = rows_longer_than_csvs_limit(tmp_path)
    merge_shards([path], tmp_path / "merged.csv")
    assert (tmp_path / "merged.csv").read_bytes() == path.read_bytes()


def faults_of(paths, out):
    before = out.read_bytes() if out.is_file() else None
    with pytest.raises(InputError) as caught:
        merge_shards(paths, out)
    assert (out.read_bytes() if out.is_file() else None) == before, "a refused merge writes nothing"
    return [str(fault) for fault in caught.value.faults] or [str(caught.value)]


def edit_sidecar(path, **changes):
    sidecar = sidecar_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def test_gaps_and_overlaps_are_refused(tmp_path):
    paths = write_run(tmp_path, ONE, 9, 4)
    out = tmp_path / "merged.csv"
    (gap,) = faults_of([paths[0], paths[2]], out)
    assert "of 4 shards these are missing: 1, 3" in gap
    twice, missing = faults_of([paths[0], paths[1], paths[2], paths[1]], out)
    assert "shard 1 is given twice" in twice
    assert "these are missing: 3" in missing
    (twice,) = faults_of([*paths, paths[0]], out)
    assert "give each shard once" in twice
    assert "no shards are given" in faults_of([], out)[0]
    many = write_run(tmp_path / "many", ONE, 3, 30)
    (gap,) = faults_of(many[:1], out)
    assert "missing: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 19 more" in gap


def test_ids_that_two_shards_claim_or_none_holds_are_refused(tmp_path):
    paths = write_run(tmp_path, ONE, 4, 2)
    edit_sidecar(paths[1], places=[2, 3])
    overlap, hole = faults_of(paths, tmp_path / "merged.csv")
    assert "1 of its ids are those of another shard too" in overlap
    assert "hold" in hole
    paths = write_run(tmp_path, ONE, 2, 2)
    edit_sidecar(paths[0], places=[1])
    edit_sidecar(paths[1], places=[0])
    (order,) = faults_of(paths, tmp_path / "merged.csv")
    assert "in another order" in order


def test_shards_of_other_runs_are_refused_with_what_differs(tmp_path):
    paths = write_run(tmp_path / "a", ONE, 6, 2)
    others = {
        "classes ftu and gland": write_run(tmp_path / "b", TWO, 6, 2),
        "other weights": write_run(tmp_path / "c", dataclasses.replace(ONE, batch=9), 6, 2),
        "other ids": write_run(tmp_path / "d", ONE, 7, 2),
        "3 shards and 2": write_run(tmp_path / "e", ONE, 6, 3),
    }
    renamed = write_run(tmp_path / "f", ONE, 6, 2)
    edit_sidecar(renamed[1], competition="kidney_2020")
    others["competition kidney_2020 and folder"] = renamed
    for words, other in others.items():
        found = faults_of([paths[0], other[1]], tmp_path / "merged.csv")
        assert any("it is of another submission than s0.csv" in line for line in found), words
        assert words in found[0] or f"{words.split()[-1]}" in found[0]
    columns, *_ = faults_of([paths[0], others["classes ftu and gland"][1]], tmp_path / "merged.csv")
    assert "columns id, class, rle and id, rle" in columns


def test_broken_and_changed_files_are_told_all_at_once(tmp_path):
    paths = write_run(tmp_path, ONE, 14, 7)
    sidecar_path(paths[0]).unlink()
    paths[1].unlink()
    sidecar_path(paths[2]).write_text("{")
    paths[3].write_bytes(paths[3].read_bytes()[:-3])
    edit_sidecar(paths[4], shard_id=7)
    edit_sidecar(paths[5], ids=["x", "y"], fallback={}, degraded=[])
    found = faults_of(paths, tmp_path / "merged.csv")
    words = (
        "the shard is not finished",
        "no such file; check the path",
        "not a JSON file",
        "its bytes are not those that its sidecar names",
        "7 shards are counted from 0 to 6",
        "its columns or ids are not those",
        "these are missing: 0, 1, 2, 3, 4, 5",
    )
    assert len(found) == len(words)
    for line, expected in zip(found, words, strict=True):
        assert expected in line
    assert "--out is one of the shards" in faults_of(paths[6:], paths[6])[0]


def test_other_versions_are_told_and_not_refused(tmp_path, caplog):
    paths = write_run(tmp_path, ONE, 4, 2)
    edit_sidecar(paths[1], versions={"torch": "1.0"})
    with caplog.at_level("WARNING"):
        merge_shards(paths, tmp_path / "merged.csv")
    assert "2 different sets of package versions" in caplog.text
