"""What a build says before its long work, and of what it does not know."""

import logging
from dataclasses import replace

import pandas as pd
import pytest

from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.core.rle.runs import encode_rle, parse_rle
from histofold.data import build as build_module
from histofold.data.build import build_dataset, scale_hints
from histofold.data.leaks import patients_in_words
from histofold.report.dataset import write_build_report
from histofold.schema.dataset import TilesConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from small_datasets import BASE, draw, make_folder


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "raw", {f"m{n}": draw(n) for n in range(4)})


@pytest.fixture
def no_image(monkeypatch):
    """Whoever opens an image fails."""
    monkeypatch.setattr(build_module, "audit_images", lambda *_, **__: pytest.fail("an image was opened"))


def refused(root, out, experiment=BASE, folds_path=None):
    with pytest.raises(InputError) as caught:
        build_dataset(root, get_competition("folder"), experiment, out, folds_path, 1)
    assert not out.exists()
    return caught.value.faults


def test_folds_of_other_data_are_refused_before_an_image_is_opened(root, tmp_path, no_image):
    path = tmp_path / "folds.csv"
    path.write_text("id,group,stratum,fold\nx,x,s,0\ny,y,s,1\n")
    (fault,) = refused(root, tmp_path / "out", folds_path=path)
    assert "none of the 4 images stands in this file" in fault.rule


@pytest.mark.parametrize(
    ("tiles", "words"),
    [
        (TilesConfig(folds=5), "4 groups cannot fill 5 folds"),
        (TilesConfig(fold_by="organ"), "no organ to fold by"),
        (TilesConfig(fold_by="column:scanner"), "no table here has the columns id and scanner"),
    ],
)
def test_folds_that_cannot_be_made_are_refused_before_an_image_is_opened(root, tmp_path, no_image, tiles, words):
    assert words in refused(root, tmp_path / "out", replace(BASE, tiles=tiles))[0].rule


def test_folds_and_images_csv_are_at_fault_at_once(root, tmp_path, no_image):
    (root / "images.csv").write_text("id,patient_id\nm0,a\nm1,a\nm2,b\n")
    faults = refused(root, tmp_path / "out", replace(BASE, tiles=TilesConfig(folds=5)))
    assert [fault.id for fault in faults] == ["patient_id", "m3", "folds"]


def test_folds_that_a_spreadsheet_saved_are_read(root, tmp_path, caplog):
    path = tmp_path / "folds.csv"
    path.write_text("ID;group;stratum;fold\nm0.png;a;s;0\nM1;b;s;1\nm2;a;s;0\nm3;b;s;1\n", encoding="utf-16")
    built = build_dataset(root, get_competition("folder"), BASE, tmp_path / "out", path, 1)
    assert built.folds[["id", "fold"]].values.tolist() == [["m0", 0], ["m1", 1], ["m2", 0], ["m3", 1]]
    assert "'m0.png' is 'm0', 'M1' is 'm1'" in caplog.text
    assert built.patients == "", "the file names groups"


def test_no_badge_claims_what_is_not_known(root, tmp_path, caplog):
    """The same folder with patients, without, and with some of them."""
    pages = {}
    for name, patients in (("all", "ppqq"), ("none", "    "), ("some", "pp  ")):
        rows = "".join(f"m{number},{patient.strip()}\n" for number, patient in enumerate(patients))
        (root / "images.csv").write_text(f"id,patient\n{rows}")
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="histofold"):
            built = build_dataset(root, get_competition("folder"), BASE, tmp_path / name, None, 1)
        page = write_build_report(built).read_text()
        pages[name] = ("No leak between folds" in page, built.patients in page and bool(built.patients), caplog.text)
    assert pages["all"][:2] == (True, False)
    assert "patient" not in pages["all"][2]
    assert pages["none"][:2] == pages["some"][:2] == (False, True)
    assert "no patient is known: each image counts as its own patient" in pages["none"][2]
    assert "of 2 images no patient is known (m2, m3)" in pages["some"][2]


def test_what_is_known_of_patients():
    groups = {"a": "p", "b": "p", "c": "c", "d": "near-1"}
    assert "of 2 images no patient is known (c, d)" in patients_in_words(groups)
    filed = pd.DataFrame({"id": ["a", "b", "c", "d"], "group": ["p", "p", "q", "q"]})
    assert patients_in_words(groups, filed) == "", "a folds.csv may name what the tables do not"
    merged = pd.DataFrame({"id": ["a", "b"], "group": ["a", "a"]})
    assert patients_in_words({"a": "a", "b": "b"}, merged).startswith("no patient is known"), "near-duplicates"
    assert patients_in_words({"p1": "p1", "p1_b": "p1"}) == "", "a patient named as one of his images"
    assert patients_in_words({}) == ""


@pytest.mark.parametrize(
    ("size", "pixel_size_um", "kinds"),
    [(64, 0.5, []), (256, 0.5, ["tiles.size"]), (64, None, ["pixel_size"]), (1024, None, ["pixel_size", "tiles.size"])],
)
def test_scales_that_nobody_meant_are_hints(size, pixel_size_um, kinds):
    """An image of 200 x 120 pixels is 100 x 60 at the network's scale, or 768 wide where its size is not known."""
    sample = Sample(id="a", image_path=None, pixel_size_um=pixel_size_um)
    experiment = replace(
        BASE,
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        tiles=TilesConfig(size=size, stride=size // 2),
    )
    hints = scale_hints([sample], {"a": parse_rle("1 1", (120, 200))}, experiment)
    assert [hint.ids[0] for hint in hints] == kinds
    whole = replace(experiment, preprocessing=Preprocessing(scale_mode="whole"))
    assert scale_hints([sample], {"a": parse_rle("1 1", (120, 200))}, whole) == []


def test_tiles_of_odd_names_stay_in_their_folder(tmp_path):
    image, mask = draw(0)
    root = make_folder(tmp_path / "raw", {"100%_a": (image, mask), "b": draw(1)})
    built = build_dataset(root, get_competition("folder"), BASE, tmp_path / "out", None, 1)
    assert sorted(built.index["id"]) == ["100%_a", "b"]
    assert (tmp_path / "out" / "parts" / "100%25_a.json").is_file()
    assert encode_rle(mask) == encode_rle(get_truth(root, "100%_a"))


def get_truth(root, key):
    competition = get_competition("folder")
    return next(competition.target(s) for s in competition.samples(root, "train") if s.id == key).to_mask()
