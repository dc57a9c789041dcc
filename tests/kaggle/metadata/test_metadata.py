"""Metadata that the builders write passes the checks; every rule has an input that breaks it alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from histofold.commands.main import main
from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.bundler import LIMIT_BYTES
from histofold.kaggle.metadata.dataset import LICENCES, check_dataset_metadata, dataset_metadata, wheels_notice
from histofold.kaggle.metadata.kernel import (
    MACHINE_SHAPES,
    RETIRED_SHAPES,
    check_kernel_metadata,
    kernel_metadata,
    slugify,
)
from histofold.kaggle.metadata.report import PLACEHOLDER_OWNER, with_owner

REMOVE = object()


@pytest.fixture
def kernel_folder(tmp_path: Path) -> Path:
    (tmp_path / "kernel.py").write_text("print(1)\n")
    (tmp_path / "kernel.ipynb").write_text(json.dumps({"cells": []}))
    return tmp_path


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    for name in ("dataset-metadata.json", "manifest.json", "a.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def kernel() -> dict[str, Any]:
    return kernel_metadata("hubmap-organ-segmentation", "histofold-hubmap_2022", "kernel.py", ["someone/their-weights"])


def dataset() -> dict[str, Any]:
    return dataset_metadata("histofold-weights", "histofold weights", "CC-BY-NC-SA-4.0")


def changed(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (data | changes).items() if value is not REMOVE}


# --- builders ---------------------------------------------------------------------------------------------------------


def test_the_kernel_builder_writes_what_kaggle_wants() -> None:
    assert kernel() == {
        "id": "your-kaggle-name/histofold-hubmap-2022",
        "title": "histofold hubmap 2022",
        "code_file": "kernel.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": ["someone/their-weights"],
        "competition_sources": ["hubmap-organ-segmentation"],
        "kernel_sources": [],
        "model_sources": [],
    }


def test_a_notebook_is_called_one_and_no_competition_is_no_source() -> None:
    data = kernel_metadata("", "hubmap_2022", "kernel.ipynb", [])
    assert (data["kernel_type"], data["competition_sources"]) == ("notebook", [])


@pytest.mark.parametrize("name", ["hubmap_2022", "histofold-hubmap-2022", "A  kernel, with SIGNS!", "vasculature 2023"])
@pytest.mark.parametrize("code_file", ["kernel.py", "kernel.ipynb"])
def test_built_kernels_pass_the_check(name: str, code_file: str, kernel_folder: Path) -> None:
    data = with_owner(kernel_metadata("hubmap-organ-segmentation", name, code_file, ["x/weights-1/3"]), "somebody")
    assert check_kernel_metadata(data, kernel_folder) == ([], [])
    assert slugify(data["title"]) == data["id"].split("/")[1]


def test_the_placeholder_is_a_notice_and_can_be_filled_in(kernel_folder: Path) -> None:
    data = changed(kernel(), {"dataset_sources": [f"{PLACEHOLDER_OWNER}/histofold-weights", "x/your-kaggle-name"]})
    faults, notices = check_kernel_metadata(data, kernel_folder)
    assert faults == []
    assert len(notices) == 2
    assert all("placeholder" in notice for notice in notices)
    filled = with_owner(data, "ada")
    assert check_kernel_metadata(filled, kernel_folder) == ([], [])
    assert filled["id"] == "ada/histofold-hubmap-2022"
    assert filled["dataset_sources"] == ["ada/histofold-weights", "x/your-kaggle-name"]
    assert data["id"].startswith(PLACEHOLDER_OWNER), "the given data stay as they were"


def test_the_dataset_builder_writes_what_kaggle_wants(dataset_folder: Path) -> None:
    data = dataset()
    assert data == {
        "id": "your-kaggle-name/histofold-weights",
        "title": "histofold weights",
        "licenses": [{"name": "CC-BY-NC-SA-4.0"}],
    }
    faults, notices = check_dataset_metadata(data, dataset_folder)
    assert faults == []
    assert len(notices) == 1
    assert check_dataset_metadata(with_owner(data, "ada"), dataset_folder) == ([], [])


def test_builders_refuse_what_the_checks_would() -> None:
    with pytest.raises(InputError, match="5 characters or more"):
        kernel_metadata("c", "name", "kernel.py", [])
    with pytest.raises(InputError, match="dataset_sources"):
        kernel_metadata("c", "kernel-name", "kernel.py", ["weights"])
    with pytest.raises(InputError) as caught:
        dataset_metadata("short", "t" * 51, "MIT")
    assert [fault.id for fault in caught.value.faults] == ["id", "title", "licenses"]


# --- one rule after the other -----------------------------------------------------------------------------------------

KERNEL_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (changes, key at fault, words)
    "unknown key": ({"enable_intenet": False}, "enable_intenet", "unknown key"),
    "no id": ({"id": REMOVE}, "id", "missing"),
    "id without owner": ({"id": "histofold-hubmap-2022"}, "id", "owner/slug"),
    "id with version": ({"id": "me/histofold-hubmap-2022/1"}, "id", "owner/slug"),
    "id in capitals": ({"id": "me/Histofold-hubmap-2022"}, "id", "lower case"),
    "id with two hyphens": ({"id": "me/histofold--hubmap"}, "id", "single hyphens"),
    "id with an underscore": ({"id": "me/histofold_hubmap"}, "id", "lower case"),
    "short id": ({"id": "me/hubm", "title": "hubm."}, "id", "5 characters"),
    "empty owner": ({"id": "/histofold-hubmap-2022"}, "id", "owner/slug"),
    "id of another type": ({"id": 5}, "id", "owner/slug"),
    "id number": ({"id_no": "x"}, "id_no", "not a number"),
    "no title": ({"title": REMOVE}, "title", "missing"),
    "short title": ({"title": "hubm"}, "title", "at least 5"),
    "title of another type": ({"title": ["x"]}, "title", "not a text"),
    "title of another slug": ({"title": "histofold 2022"}, "title", "gives the slug 'histofold-2022'"),
    "title not ASCII": ({"title": "histofold hübmap 2022"}, "title", "not ASCII"),
    "no code": ({"code_file": REMOVE}, "code_file", "missing"),
    "no such code": ({"code_file": "other.py"}, "code_file", "no file other.py"),
    "code elsewhere": ({"code_file": "../kernel.py"}, "code_file", "outside"),
    "absolute code": ({"code_file": "/kernel.py"}, "code_file", "outside"),
    "notebook as script": ({"code_file": "kernel.ipynb"}, "code_file", "kernel_type"),
    "script as notebook": ({"kernel_type": "notebook"}, "code_file", "kernel_type"),
    "no language": ({"language": REMOVE}, "language", "missing"),
    "other language": ({"language": "r"}, "language", "python"),
    "no type": ({"kernel_type": REMOVE}, "kernel_type", "script, notebook"),
    "other type": ({"kernel_type": "module"}, "kernel_type", "script, notebook"),
    "odd privacy": ({"is_private": "yes"}, "is_private", "true or false"),
    "no word on the internet": ({"enable_internet": REMOVE}, "enable_internet", "the internet is on"),
    "internet": ({"enable_internet": True}, "enable_internet", "set it to false"),
    "internet as a word": ({"enable_internet": "True"}, "enable_internet", "set it to false"),
    "odd internet": ({"enable_internet": 0}, "enable_internet", "true or false"),
    "odd gpu": ({"enable_gpu": 1}, "enable_gpu", "true or false"),
    "no machine": ({"machine_shape": REMOVE}, "machine_shape", "missing"),
    "empty machine": ({"machine_shape": ""}, "machine_shape", "NvidiaTeslaT4"),
    "unknown machine": ({"machine_shape": "nvidiateslat4"}, "machine_shape", "NvidiaTeslaT4"),
    "retired machine": ({"machine_shape": "NvidiaTeslaP100"}, "machine_shape", "retired"),
    "machines": ({"machine_shape": ["NvidiaTeslaT4"]}, "machine_shape", "use one of"),
    "dataset without owner": ({"dataset_sources": ["weights"]}, "dataset_sources", "owner/slug"),
    "dataset of four parts": ({"dataset_sources": ["a/bcd/1/2"]}, "dataset_sources", "owner/slug"),
    "dataset of an odd version": ({"dataset_sources": ["a/bcd/v1"]}, "dataset_sources", "version"),
    "dataset with a mount": ({"dataset_sources": ["datasets/a/bcd"]}, "dataset_sources", "version"),
    "dataset twice": ({"dataset_sources": ["a/bcd", "a/bcd"]}, "dataset_sources", "twice"),
    "dataset no list": ({"dataset_sources": "a/bcd"}, "dataset_sources", "list of texts"),
    "kernel source": ({"kernel_sources": ["a/b"]}, "kernel_sources", "owner/slug"),
    "model source": ({"model_sources": ["a/b/pytorch/c"]}, "model_sources", "framework"),
    "model version": ({"model_sources": ["a/b/pytorch/c/latest"]}, "model_sources", "framework"),
    "competition with c": ({"competition_sources": ["c/hubmap"]}, "competition_sources", "without c/"),
    "competition no texts": ({"competition_sources": [1]}, "competition_sources", "list of texts"),
    "keywords": ({"keywords": "gpu"}, "keywords", "list of texts"),
    "pinning": ({"docker_image_pinning_type": "newest"}, "docker_image_pinning_type", "original, latest"),
    "image": ({"docker_image": 5}, "docker_image", "not a text"),
}


@pytest.mark.parametrize("case", KERNEL_FAULTS)
def test_each_kernel_rule_is_named(case: str, kernel_folder: Path) -> None:
    changes, key, words = KERNEL_FAULTS[case]
    faults, _ = check_kernel_metadata(changed(kernel(), changes), kernel_folder)
    assert {fault.id for fault in faults} == {key}, faults
    assert all(fault.file == "kernel-metadata.json" and fault.rule and fault.remedy for fault in faults)
    assert words in " ".join(map(str, faults))


LAWFUL: dict[str, dict[str, Any]] = {
    "words for truth": {"enable_internet": "false", "is_private": "true"},
    "privacy left out": {"is_private": REMOVE},
    "sources left out": {"dataset_sources": REMOVE, "kernel_sources": REMOVE, "model_sources": REMOVE},
    "all sources": {
        "dataset_sources": ["a/bcd", "a/bcd-e/12"],
        "kernel_sources": ["a/kernel"],
        "model_sources": ["google/some-model/pyTorch/base/3"],
        "competition_sources": ["GiveMeSomeCredit"],
    },
    "image": {"docker_image": "gcr.io/kaggle-images/python@sha256:0", "docker_image_pinning_type": "original"},
    "title with signs": {"title": "HistoFold: HuBMAP, 2022!"},
    "keywords": {"keywords": ["gpu"]},
}


@pytest.mark.parametrize("case", LAWFUL)
def test_lawful_kernels_pass(case: str, kernel_folder: Path) -> None:
    data = with_owner(changed(kernel(), LAWFUL[case]), "ada")
    assert check_kernel_metadata(data, kernel_folder) == ([], [])


@pytest.mark.parametrize("shape", MACHINE_SHAPES)
def test_known_machines_pass(shape: str, kernel_folder: Path) -> None:
    data = changed(with_owner(kernel(), "ada"), {"machine_shape": shape})
    faults, notices = check_kernel_metadata(data, kernel_folder)
    assert faults == []
    assert bool(notices) == shape.startswith("Tpu")
    assert not set(MACHINE_SHAPES) & set(RETIRED_SHAPES)


@pytest.mark.parametrize("changes", [{"is_private": False}, {"enable_gpu": True}, {"enable_tpu": "false"}])
def test_what_is_only_odd_gives_a_notice(changes: dict[str, Any], kernel_folder: Path) -> None:
    faults, notices = check_kernel_metadata(changed(with_owner(kernel(), "ada"), changes), kernel_folder)
    assert faults == []
    assert len(notices) == 1
    assert next(iter(changes)) in notices[0]


def test_all_faults_come_at_once(kernel_folder: Path) -> None:
    faults, _ = check_kernel_metadata({"oops": 1}, kernel_folder)
    needed = ["oops", "id", "title", "language", "kernel_type", "enable_internet", "machine_shape", "code_file"]
    assert [fault.id for fault in faults] == needed
    assert all(isinstance(fault, Fault) for fault in faults)


@pytest.mark.parametrize("data", [None, [], "text", 5])
def test_what_is_no_object_is_refused(data: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for check in (check_kernel_metadata, check_dataset_metadata):
        faults, notices = check(data, tmp_path)
        assert len(faults) == 1
        assert "not an object" in faults[0].rule
        assert notices == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("kernel.py", b"#" * (LIMIT_BYTES + 1), "more than the 1000000"),
        ("kernel.py", b"\xff", "no readable script"),
        ("kernel.ipynb", b"print(1)", "no readable notebook"),
        ("kernel.ipynb", b"[]", "no readable notebook"),
        ("kernel.ipynb", b'{"cells": 1}', "no readable notebook"),
    ],
)
def test_code_that_kaggle_would_not_take(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    faults, _ = check_kernel_metadata(kernel_metadata("c", "kernel-name", name, []), tmp_path)
    assert len(faults) == 1
    assert words in faults[0].rule


def test_code_of_just_the_limit_passes(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_bytes(b"#" * LIMIT_BYTES)
    assert check_kernel_metadata(kernel_metadata("c", "kernel-name", "kernel.py", []), tmp_path)[0] == []


DATASET_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown key": ({"license": "x"}, "license", "unknown key"),
    "no id": ({"id": REMOVE}, "id", "missing"),
    "short slug": ({"id": "me/short"}, "id", "6 to 50"),
    "long slug": ({"id": f"me/{'a' * 51}"}, "id", "6 to 50"),
    "template's slug": ({"id": "me/INSERT_SLUG_HERE"}, "id", "lower case"),
    "no title": ({"title": REMOVE}, "title", "missing"),
    "short title": ({"title": "title"}, "title", "6 to 50"),
    "long title": ({"title": "t" * 51}, "title", "6 to 50"),
    "template's title": ({"title": "INSERT_TITLE_HERE"}, "title", "template"),
    "short subtitle": ({"subtitle": "s" * 19}, "subtitle", "20 to 80"),
    "long subtitle": ({"subtitle": "s" * 81}, "subtitle", "20 to 80"),
    "odd description": ({"description": 5}, "description", "not a text"),
    "no licence": ({"licenses": REMOVE}, "licenses", "missing"),
    "empty licences": ({"licenses": []}, "licenses", "exactly one"),
    "two licences": ({"licenses": [{"name": "other"}, {"name": "CC0-1.0"}]}, "licenses", "exactly one"),
    "licence as a text": ({"licenses": ["CC0-1.0"]}, "licenses", "exactly one"),
    "unknown licence": ({"licenses": [{"name": "MIT"}]}, "licenses", "use `other`"),
    "missing resource": ({"resources": [{"path": "x.csv"}]}, "resources", "no file x.csv"),
    "resource twice": ({"resources": [{"path": "manifest.json"}] * 2}, "resources", "twice"),
    "odd resources": ({"resources": ["manifest.json"]}, "resources", "list such as"),
}


@pytest.mark.parametrize("case", DATASET_FAULTS)
def test_each_dataset_rule_is_named(case: str, dataset_folder: Path) -> None:
    changes, key, words = DATASET_FAULTS[case]
    faults, _ = check_dataset_metadata(changed(dataset(), changes), dataset_folder)
    assert {fault.id for fault in faults} == {key}, faults
    assert all(fault.file == "dataset-metadata.json" and fault.rule and fault.remedy for fault in faults)
    assert words in " ".join(map(str, faults))


@pytest.mark.parametrize("length", [6, 50])
def test_the_ends_of_the_ranges_pass(length: int, dataset_folder: Path) -> None:
    data = with_owner(dataset_metadata("s" * length, "t" * length, "other"), "ada") | {
        "subtitle": "s" * (length * 14 // 11 + 13)
    }
    assert check_dataset_metadata(data, dataset_folder) == ([], [])


@pytest.mark.parametrize("licence", LICENCES)
def test_known_licences_pass(licence: str) -> None:
    assert dataset_metadata("weights", "weights", licence)["licenses"] == [{"name": licence}]
    assert len(set(LICENCES)) == len(LICENCES)


def test_sub_folders_are_refused_each_by_name(dataset_folder: Path) -> None:
    for name in ("fold1", "fold0"):
        (dataset_folder / name).mkdir()
    faults, _ = check_dataset_metadata(dataset(), dataset_folder)
    assert [fault.id for fault in faults] == ["fold0", "fold1"]
    assert all("flat" in fault.remedy for fault in faults)


def test_a_dataset_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset-metadata.json").touch()
    assert "no file to upload" in check_dataset_metadata(dataset(), tmp_path)[0][0].rule
    assert "no such folder" in check_dataset_metadata(dataset(), tmp_path / "nowhere")[0][0].rule


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        # What python-slugify, which Kaggle's command line uses, makes of them.
        ("Don't a_b 1,000 x&y", "don-t-a-b-1000-x-y"),
        ("  HuBMAP + HPA  ", "hubmap-hpa"),
        ("a,b 1,b 1,2", "a-b-1-b-12"),
        ("--", ""),
    ],
)
def test_slugs_are_kaggles(title: str, slug: str) -> None:
    assert slugify(title) == slug


def test_a_slug_is_its_own_slug() -> None:
    draw = random.Random(0)
    for _ in range(500):
        slug = slugify("".join(draw.choice("abXY019 -_,.'&;") for _ in range(draw.randint(1, 12))))
        assert slugify(slug) == slug
        assert slugify(slug.replace("-", " ")) == slug


def test_the_verb_finds_every_planted_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fault alone, in a real file: `histofold check kernel` exits 2 and names it, and never misses one."""
    (tmp_path / "kernel.py").write_text("print(1)\n")
    (tmp_path / "kernel.ipynb").write_text(json.dumps({"cells": []}))
    found = 0
    for case, (changes, key, words) in KERNEL_FAULTS.items():
        (tmp_path / "kernel-metadata.json").write_text(json.dumps(changed(kernel(), changes)))
        assert main(["check", "kernel", str(tmp_path)]) == 2, case
        told = capsys.readouterr().err
        assert f"{key}: kernel-metadata.json: " in told
        assert words in told
        assert "1 fault in the input" in told
        found += 1
    assert found >= 30


@pytest.mark.parametrize("name", ["model-metadata.json", "dataset-cover-image.png"])
def test_files_that_an_upload_passes_over_are_noticed(name: str, dataset_folder: Path) -> None:
    (dataset_folder / name).touch()
    faults, notices = check_dataset_metadata(with_owner(dataset(), "ada"), dataset_folder)
    assert faults == []
    assert [name in notice for notice in notices] == [True]


def test_a_description_names_every_wheel_that_is_not_ours() -> None:
    notice = wheels_notice([Path("a_b-1.2-py3-none-any.whl"), Path("c-3-py3-none-any.whl")])
    assert "a_b 1.2, c 3" in notice
    assert wheels_notice([]) == ""
    data = dataset_metadata("histofold-weights", "histofold weights", "other", description=notice)
    assert data["description"] == notice
    assert "description" not in dataset()
