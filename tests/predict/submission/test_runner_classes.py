"""Submissions of several classes: a row for each id and class, all rows of an image or none."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from histofold.competitions.folder import Folder
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.faults import InputError
from histofold.core.rle.runs import parse_rle
from histofold.models.build import build_model
from histofold.predict.submission import runner
from histofold.predict.submission.journal import SubmissionJournal
from histofold.predict.submission.predictor import SubmissionPredictor
from histofold.schema.manifest import Manifest, Member, file_sha256
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample
from small_datasets import SMALL_UNET

NAMES = ("gland", "lumen")


def package(folder, state, names, thresholds):
    """A folder of one network with these weights."""
    folder.mkdir()
    save_file(state, folder / "net.safetensors")
    arguments = {**SMALL_UNET, "classes": len(names)}
    digest = file_sha256(folder / "net.safetensors")
    member = Member(file="net.safetensors", sha256=digest, architecture="unet", arguments=arguments)
    manifest = Manifest(
        competition="folder",
        preprocessing=Preprocessing(target_pixel_size_um=1.0),
        classes=names,
        members=(member,),
        thresholds=thresholds,
        tile=64,
        halo=8,
    )
    return folder, manifest


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A random network of two classes, and each of its classes as a network of its own."""
    root = tmp_path_factory.mktemp("classes")
    torch.manual_seed(0)
    state = build_model("unet", {**SMALL_UNET, "classes": 2}).state_dict()
    table = {"default": 0.5, "class:gland": 0.47, "class:lumen": 0.52}
    packages = {"both": package(root / "both", state, NAMES, table)}
    for number, name in enumerate(NAMES):
        own = {
            key: value[number : number + 1] if key.startswith("segmentation_head.0") else value
            for key, value in state.items()
        }
        own = {key: value.contiguous() for key, value in own.items()}
        packages[name] = package(root / name, own, (name,), {"default": table[f"class:{name}"]})
    rng = np.random.default_rng(0)
    samples = []
    for key in "ba":
        tifffile.imwrite(root / f"{key}.tif", rng.integers(0, 256, (70, 90, 3), np.uint8))
        samples.append(Sample(id=key, image_path=root / f"{key}.tif", pixel_size_um=1.0))
    return packages, samples


def rows_of(packages, samples, out, competition=None):
    runner.run_submission(competition or Folder(), samples, packages, out)
    return [line.split(",") for line in out.read_text().splitlines()]


def test_each_class_has_the_row_that_a_network_of_it_alone_gives(work, tmp_path):
    packages, samples = work
    together = rows_of([packages["both"]], samples, tmp_path / "both.csv")
    assert together[0] == ["id", "class", "rle"]
    assert [row[:2] for row in together[1:]] == [[key, name] for key in "ba" for name in NAMES]
    for name in NAMES:
        alone = rows_of([packages[name]], samples, tmp_path / f"{name}.csv")
        assert alone[0] == ["id", "rle"], "of one class the file stays as it was"
        assert alone[1:] == [[key, rle] for key, label, rle in together[1:] if label == name]
    assert all(0 < parse_rle(rle, (70, 90)).area < 70 * 90 for _, _, rle in together[1:])


def test_an_unreadable_image_keeps_an_empty_row_for_each_class(work, tmp_path):
    packages, samples = work
    (tmp_path / "c.tif").write_bytes(b"no image")
    broken = Sample(id="c", image_path=tmp_path / "c.tif")
    out = tmp_path / "s.csv"
    rows = rows_of([packages["both"]], [broken, samples[0]], out)
    assert rows[1:3] == [["c", "gland", ""], ["c", "lumen", ""]]
    assert [row[:2] for row in rows[3:]] == [["b", "gland"], ["b", "lumen"]]


def test_a_killed_run_takes_all_rows_of_a_finished_image_over(work, tmp_path, monkeypatch):
    packages, samples = work
    out = tmp_path / "s.csv"
    original = SubmissionPredictor.row

    def killed(self, sample, own, later):
        if sample.id == "a":
            raise SystemExit(137)
        return original(self, sample, own, later)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(SubmissionPredictor, "row", killed)
        runner.run_submission(Folder(), samples, [packages["both"]], out)
    assert out.read_text().splitlines()[3:] == ["a,gland,", "a,lumen,"]
    assert runner.run_submission(Folder(), samples, [packages["both"]], out).taken_over == 1
    whole = rows_of([packages["both"]], samples, tmp_path / "whole.csv")
    assert out.read_text().splitlines() == [",".join(row) for row in whole]


def test_packages_of_other_classes_or_for_a_host_of_one_mask_are_refused(work, tmp_path):
    packages, samples = work
    folder, manifest = packages["both"]
    turned = (folder, dataclasses.replace(manifest, classes=NAMES[::-1]))
    with pytest.raises(InputError, match="its classes are lumen, gland and those of the first gland, lumen"):
        runner.run_submission(Folder(), samples, [packages["both"], turned], tmp_path / "s.csv")
    with pytest.raises(InputError, match="hubmap_2022 takes one mask an image"):
        runner.run_submission(Hubmap2022(), samples, [packages["both"]], tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_rows_of_a_journal_are_whole_images(tmp_path):
    fallbacks = {"a": "\n", "b": "\n"}
    text = partial(Folder().submission_text, classes=NAMES)
    with SubmissionJournal(tmp_path / "s.csv", text, fallbacks, "k") as journal:
        assert (tmp_path / "s.csv").read_text() == "id,class,rle\na,gland,\na,lumen,\nb,gland,\nb,lumen,\n"
        journal.add("b", "1 2\n3 4")
        entries = [json.loads(line) for line in (tmp_path / "s.csv.journal").read_text().splitlines()]
        assert entries == [{"key": "k"}, {"id": "b", "row": "1 2\n3 4"}]
    assert (tmp_path / "s.csv").read_text().splitlines()[3:] == ["b,gland,1 2", "b,lumen,3 4"]
    with pytest.raises(ValueError, match="zip"):
        text({"a": "1 2"})
