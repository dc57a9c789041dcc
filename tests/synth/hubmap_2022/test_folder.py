"""Sources, workers and interruptions of the synthetic folder of 2022."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile

import histofold.synth.hubmap_2022.folder
from histofold.synth.files import SynthKey
from histofold.synth.hubmap_2022.folder import make_hubmap_2022, make_image
from histofold.synth.hubmap_2022.options import ARTEFACTS, HPA, HUBMAP, SYNTH_ORGANS, ImageSource, Planted

PLAIN = Planted(artefacts={}, jpeg=0.0)


def make(root: Path, **options: object) -> SynthKey:
    return make_hubmap_2022(
        root, **{"num_train": 6, "num_test": 5, "seed": 2, "max_side": 170, "progress": False} | options
    )


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_table(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10**8)
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def mean_colours(key: SynthKey, split: str) -> np.ndarray:
    """Mean RGB of each image of a split, (N, 3)."""
    names = key.train_ids if split == "train" else key.test_ids
    return np.array([tifffile.imread(key.root / f"{split}_images" / f"{name}.tiff").mean((0, 1)) for name in names])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    """All five organs of one source in both splits."""
    root = tmp_path_factory.mktemp("plain") / "competition"
    return make(root, planted=PLAIN, test_sources=(HPA,))


def test_a_shift_of_stain_alone(plain: SynthKey, tmp_path: Path) -> None:
    key = make(tmp_path / "c", planted=PLAIN, test_sources=(ImageSource(name="Hubmap", stain="eosin"),))
    columns = ("id", "organ", "img_height", "img_width", "pixel_size", "tissue_thickness")
    before, after = read_table(plain.root / "test.csv"), read_table(key.root / "test.csv")
    assert [[row[column] for column in columns] for row in before] == [
        [row[column] for column in columns] for row in after
    ]
    assert {row["data_source"] for row in after} == {"Hubmap"}
    assert np.array_equal(mean_colours(key, "train"), mean_colours(plain, "train"))
    # Eosin is pink: it takes away green far more than red, which DAB's brown does not.
    redness = [colours[:, 0] - colours[:, 1] for colours in (mean_colours(key, "test"), mean_colours(plain, "test"))]
    assert (redness[0] > redness[1] + 5).all()


def test_a_shift_of_pixel_size_alone(plain: SynthKey, tmp_path: Path) -> None:
    key = make(tmp_path / "c", planted=PLAIN, test_sources=(ImageSource(name="HPA", pixel_size_um=0.37),))
    before, after = read_table(plain.root / "test.csv"), read_table(key.root / "test.csv")
    assert {row["pixel_size"] for row in after} == {"0.37"}
    same = ("id", "organ", "data_source", "tissue_thickness")
    assert [[row[column] for column in same] for row in before] == [[row[column] for column in same] for row in after]
    assert (np.abs(mean_colours(key, "test") - mean_colours(plain, "test")).mean(axis=1) < 25).all()


def test_a_shift_of_thickness_alone_makes_darker(plain: SynthKey, tmp_path: Path) -> None:
    key = make(tmp_path / "c", planted=PLAIN, test_sources=(ImageSource(name="HPA", thickness_um=10.0),))
    before, after = read_table(plain.root / "test.csv"), read_table(key.root / "test.csv")
    assert [{**row, "tissue_thickness": "10"} for row in before] == after
    assert (mean_colours(key, "test").mean(1) < mean_colours(plain, "test").mean(1)).all()


def test_by_default_the_hidden_half_is_of_hubmap(tmp_path: Path) -> None:
    rows = read_table(make(tmp_path / "c").root / "test.csv")
    assert [row["data_source"] for row in rows] == ["Hubmap", "HPA", "Hubmap", "HPA", "Hubmap"]
    for row in rows:
        source = HUBMAP if row["data_source"] == "Hubmap" else HPA
        pixel_size = source.pixel_size_um if source is HPA else source.pixel_size_um[row["organ"]]
        thickness = source.thickness_um if source is HPA else source.thickness_um[row["organ"]]
        assert float(row["pixel_size"]) == pixel_size
        assert float(row["tissue_thickness"]) == thickness


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pixel_size_um of source X: add kidney, largeintestine"):
        ImageSource(name="X", pixel_size_um={"lung": 0.4, "spleen": 0.4, "prostate": 0.4})
    with pytest.raises(ValueError, match="at least one source"):
        make(tmp_path / "c", test_sources=())
    with pytest.raises(ValueError, match="silver"):
        make(tmp_path / "c", train_sources=(ImageSource(name="X", stain="silver"),))
    assert not any(tmp_path.iterdir())


def test_artefacts_are_in_the_key_and_leave_the_truth(plain: SynthKey, tmp_path: Path) -> None:
    key = make(tmp_path / "c", planted=Planted(artefacts=dict.fromkeys(ARTEFACTS, 1.0), jpeg=0.0), test_sources=(HPA,))
    assert set(key.artefacts) == {*key.train_ids, *key.test_ids}
    assert plain.artefacts == {}
    assert {place.kind for places in key.artefacts.values() for place in places} == set(ARTEFACTS)
    assert key.planted == {}
    assert key.clean_rles == plain.clean_rles
    for row in read_table(key.root / "train.csv"):
        image, clean = (tifffile.imread(made.root / "train_images" / f"{row['id']}.tiff") for made in (key, plain))
        assert not np.array_equal(image, clean)
        for place in key.artefacts[row["id"]]:
            y0, x0, y1, x1 = place.box_yxyx
            assert 0 <= y0 < y1 <= image.shape[0]
            assert 0 <= x0 < x1 <= image.shape[1]


@pytest.mark.slow
def test_workers_write_the_same_bytes(tmp_path: Path) -> None:
    keys = [make(tmp_path / f"{n}/c", num_train=3, num_test=1, num_workers=n) for n in (0, 2)]
    assert files_below(keys[0].root) == files_below(keys[1].root)
    assert keys[0].clean_rles == keys[1].clean_rles


def test_an_interrupted_run_does_not_look_done_and_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path / "whole")
    key = make(tmp_path / "c", seed=9)
    calls = []

    def fail_later(root: Path, *rest: object) -> object:
        calls.append(rest)
        if len(calls) == 4:
            (root / "train_images" / ".1.tiff.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return make_image(root, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(histofold.synth.hubmap_2022.folder, "make_image", fail_later)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "c")
    assert not [name for name in files_below(key.root) if name.endswith(".csv")]
    assert not key.truth_path.exists()
    make(tmp_path / "c")
    after = files_below(key.root)
    assert {name: after[name] for name in files_below(whole.root)} == files_below(whole.root)
    assert not [name for name in after if name.endswith(".tmp")]
    assert key.truth_path.read_bytes() == whole.truth_path.read_bytes()


def test_organs_come_in_turn(plain: SynthKey) -> None:
    organs = [row["organ"] for row in read_table(plain.root / "train.csv")]
    assert organs == [*SYNTH_ORGANS, SYNTH_ORGANS[0]]
