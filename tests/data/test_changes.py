"""What has changed since a dataset was built: pixels, masks and rows, by image, and nothing where only times differ."""

import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.core.rle.runs import runs_from_mask
from histofold.data.changes import changed_inputs, refuse_changed_data
from histofold.data.contents import folder_listing, masks_digest
from histofold.data.demo import changed_since
from histofold.data.sources import load_sources
from histofold.data.store import dataset_root, load_dataset
from histofold.schema.dataset import DataConfig
from small_datasets import BASE, build, draw, make_folder
from small_runs import small_setup


@pytest.fixture
def made(tmp_path):
    """A project: a folder of four pictures of two patients and the dataset built from it."""
    folder = make_folder(tmp_path / "old" / "raw", {f"p{n}": draw(n) for n in range(4)}, group=lambda name: name[-1])
    build(folder, tmp_path / "old" / "dataset")
    return tmp_path / "old"


def refused(project):
    """The words of the refusal; empty where there is none."""
    try:
        refuse_changed_data(load_sources(replace(BASE, data=DataConfig(dataset=str(project / "dataset")))))
    except InputError as error:
        return str(error)
    return ""


def repaint(path, value):
    """Change one pixel of a picture."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    picture[-1, -1] = value if (picture[-1, -1] != value).any() else 255 - value
    cv2.imwrite(str(path), picture)


def test_unchanged_folders_pass_and_touched_files_too(made):
    assert refused(made) == ""
    for path in (made / "raw").rglob("*.png"):
        os.utime(path, (1, 1))
    assert refused(made) == ""


def test_every_change_is_named_by_its_image_with_the_remedy(made):
    repaint(made / "raw" / "masks" / "p1.png", 255)
    repaint(made / "raw" / "images" / "p2.png", 0)
    table = made / "raw" / "images.csv"
    table.write_text(table.read_text().replace("p3,3", "p3,1"))
    told = refused(made)
    assert "other pixels: p2; other masks: p1; other rows of the tables: p3 (group 3 then, 1 now)" in told
    assert f"python build_dataset.py --data {made / 'raw'} --out {made / 'dataset'}" in told


def test_new_and_lost_images_are_told_and_do_not_stop_a_training(made, caplog):
    for name in ("images", "masks"):
        (made / "raw" / name / "p0.png").rename(made / "raw" / name / "q0.png")
    (made / "raw" / "images.csv").unlink()
    assert "other rows of the tables" in refused(made), "without the table a patient is another"
    assert "1 images are new and not trained on: q0" in caplog.text
    assert "1 images are gone; their tiles stay: p0" in caplog.text


def test_a_run_of_changed_data_is_another_and_says_of_which_images(made):
    before = small_setup(made / "dataset", made / "runs")
    repaint(made / "raw" / "masks" / "p1.png", 255)
    build(made / "raw", made / "dataset")
    assert refused(made) == ""
    after = small_setup(made / "dataset", made / "runs")
    assert after.digest != before.digest
    assert changed_inputs(before.inputs, after.inputs) == ["other masks: p1"]
    assert changed_inputs(before.inputs, before.inputs) == []


def test_images_of_other_folds_and_other_shares_are_told():
    before = {"part a": "held out", "part b": "trained on", "pixels b": "1", "share main": "1.0"}
    now = {"part a": "trained on", "part c": "trained on", "pixels c": "2", "share main": "2.0"}
    assert changed_inputs(before, now) == [
        "other folds: a (held out then, trained on now), b (trained on then, not there now), "
        "c (not there then, trained on now)",
        "other shares of the draws: main (1.0 then, 2.0 now)",
    ]


def test_a_demo_sees_new_and_lost_images(made):
    competition = get_competition("folder")
    assert changed_since(made / "dataset", competition, competition.samples(made / "raw", "train")) == []
    for name in ("images", "masks"):
        (made / "raw" / name / "p0.png").rename(made / "raw" / name / "q0.png")
    (made / "raw" / "images.csv").unlink()
    told = changed_since(made / "dataset", competition, competition.samples(made / "raw", "train"))
    assert told[-2:] == ["new images: q0", "images gone: p0"]
    assert changed_since(made / "nothing", competition, []) == []


def test_a_project_moved_to_another_place_finds_its_images(made, tmp_path):
    moved = tmp_path / "elsewhere" / "new"
    shutil.copytree(made, moved)
    info = load_dataset(moved / "dataset")[0]
    assert dataset_root(moved / "dataset", info) == moved / "raw", "a copy has its own images"
    shutil.rmtree(made)
    assert refused(moved) == ""
    earlier = replace(info, root_beside="")
    assert dataset_root(moved / "dataset", earlier) == moved / "raw", "of an earlier version: by the end of the path"
    shutil.rmtree(moved / "raw")
    assert "give its place as data.root" in refused(moved)


def test_masks_differ_by_any_pixel_size_or_class():
    mask = np.zeros((5, 7), bool)
    mask[0, 0] = mask[4, 6] = True
    masks = [runs_from_mask(mask), runs_from_mask(mask.T.copy()), runs_from_mask(~mask)]
    digests = {masks_digest(each) for each in (*masks, tuple(masks[:2]), tuple(masks[1::-1]))}
    assert len(digests) == 5
    assert masks_digest(masks[0], masks[2]) != masks_digest(masks[0])


def test_a_listing_leaves_the_dataset_itself_aside(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    before = folder_listing(tmp_path, tmp_path / "dataset")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "index.csv").write_text("x")
    assert folder_listing(tmp_path, tmp_path / "dataset") == before
    (tmp_path / "images" / "a.png").write_bytes(b"12")
    assert folder_listing(tmp_path, tmp_path / "dataset") != before
