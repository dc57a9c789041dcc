"""Ids are dealt to shards completely, evenly and alike everywhere; only what is finished and the same is kept."""

import dataclasses
import random

import pytest

from histofold.core.faults import InputError
from histofold.predict.submission.shards import (
    WholeRun,
    deal_places,
    finish_shard,
    finished_shard,
    network_pixels,
    plan_shards,
)
from histofold.schema.files import csv_text
from histofold.schema.manifest import Manifest
from histofold.schema.parse import load_json
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from histofold.schema.shard import Shard, sidecar_path

MANIFEST = Manifest(competition="hubmap_2022", preprocessing=Preprocessing(target_pixel_size_um=1.0))


def test_every_place_is_dealt_once_whatever_the_work():
    rng = random.Random(0)
    for _ in range(200):
        count, shards = rng.randrange(30), rng.randrange(1, 12)
        works = [rng.choice([None, 0.0, 1.0, rng.random() * 100]) for _ in range(count)]
        shares = deal_places(works, shards)
        assert len(shares) == shards
        assert sorted(place for share in shares for place in share) == list(range(count))
        assert all(share == sorted(share) for share in shares)
        assert shares == deal_places(works, shards)


def test_equal_and_unknown_work_is_dealt_in_turns():
    for works in ([None] * 7, [5.0] * 7, [0.0] * 7):
        assert deal_places(works, 3) == [[0, 3, 6], [1, 4], [2, 5]]
    assert deal_places([], 3) == [[], [], []]
    assert deal_places([None, None], 4) == [[0], [1], [], []]


def test_no_shard_has_much_more_work_than_its_part():
    """Graham's bound: at most the mean and the largest piece together."""
    rng = random.Random(1)
    for shards in (2, 3, 7):
        works = [rng.paretovariate(1.2) for _ in range(60)]
        loads = [sum(works[place] for place in share) for share in deal_places(works, shards)]
        assert max(loads) <= sum(works) / shards + max(works)
        turns = [sum(works[shard::shards]) for shard in range(shards)]
        assert max(loads) <= max(turns)


def test_work_is_of_the_tables_alone(tmp_path):
    sample = Sample(id="a", image_path=tmp_path / "none.tiff", pixel_size_um=0.5, shape_hw=(300, 200))
    assert network_pixels(sample, MANIFEST) == 150 * 100
    assert network_pixels(dataclasses.replace(sample, shape_hw=None), MANIFEST) is None
    assert network_pixels(dataclasses.replace(sample, shape_hw=(10**300, 10**300)), MANIFEST) is None


def whole_run(folder, count=5, written=True):
    samples = [Sample(id=f"0{n}", image_path=folder / f"0{n}.tiff") for n in range(count)]
    for sample in samples if written else ():
        sample.image_path.write_bytes(b"pixels")
    return WholeRun("hubmap_2022", ("id", "rle"), (MANIFEST,), tuple(samples))


def test_the_parts_of_a_run_share_all_but_their_ids(tmp_path):
    whole = whole_run(tmp_path)
    parts = [plan_shards(whole, 2)(shard) for shard in range(2)]
    assert [part.ids for part in parts] == [("00", "02", "04"), ("01", "03")]
    assert [part.places for part in parts] == [(0, 2, 4), (1, 3)]
    assert parts[0].manifests == parts[1].manifests
    assert (
        parts[0].all_ids_sha256 == parts[1].all_ids_sha256 != plan_shards(whole_run(tmp_path, 4), 2)(0).all_ids_sha256
    )
    for num_shards, shard_id in ((0, 0), (2, 2), (2, -1)):
        with pytest.raises(ValueError, match="shard"):
            plan_shards(whole, num_shards)(shard_id)


def finished(path, planned):
    path.write_text(csv_text(planned.columns, [(key, "1 1") for key in planned.ids]))
    return finish_shard(path, planned, {planned.ids[0]: "ImageError: broken"}, planned.ids[1:2])


def test_a_finished_shard_is_found_again_to_the_letter(tmp_path):
    path, planned = tmp_path / "s.csv", plan_shards(whole_run(tmp_path), 2)(1)
    assert finished_shard(path, planned) is None
    shard = finished(path, planned)
    assert (shard.fallback, shard.degraded) == ({"01": "ImageError: broken"}, ("03",))
    assert {"python", "torch", "numpy"} <= set(shard.versions)
    assert load_json(Shard, sidecar_path(path)) == shard
    assert finished_shard(path, planned) == shard
    assert sidecar_path(path).name == "s.csv.json"


CHANGES = {
    "another image": lambda path, folder: (folder / "01.tiff").write_bytes(b"other pixels"),
    "no csv": lambda path, folder: path.unlink(),
    "a changed csv": lambda path, folder: path.write_text(path.read_text() + "x,1 1\n"),
    "a cut sidecar": lambda path, folder: sidecar_path(path).write_text(sidecar_path(path).read_text()[:-20]),
    "a clock that ran out": lambda path, folder: (folder / "s.csv.journal").write_text(""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_not_finished(change, tmp_path):
    path, planned = tmp_path / "s.csv", plan_shards(whole_run(tmp_path), 2)(1)
    finished(path, planned)
    CHANGES[change](path, tmp_path)
    assert finished_shard(path, plan_shards(whole_run(tmp_path, written=False), 2)(1)) is None


def test_other_weights_are_predicted_and_another_shard_is_not_overwritten(tmp_path):
    path, whole = tmp_path / "s.csv", whole_run(tmp_path)
    finished(path, plan_shards(whole, 2)(1))
    other = dataclasses.replace(whole, manifests=(dataclasses.replace(MANIFEST, batch=7),))
    assert finished_shard(path, plan_shards(other, 2)(1)) is None
    assert finished_shard(path, plan_shards(whole, 3)(1)) is None
    with pytest.raises(InputError, match="give each shard an --out of its own"):
        finished_shard(path, plan_shards(whole, 2)(0))
