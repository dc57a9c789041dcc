"""A rebuilt wheel holds the installed files and no more, has the same bytes every time, and installs and imports."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from histofold.core.faults import InputError
from histofold.kaggle.wheel import build_wheel

SMP = "segmentation-models-pytorch"
INFO = "toy_pack-1.2.dist-info"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n"


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def install_toy(site: Path, **changes: str | None) -> Path:
    """Lay out an installed distribution Toy.Pack as pip would; changes add, replace or (None) leave out files."""
    files: dict[str, str | None] = {
        "toy/__init__.py": "from toy.größe import VALUE\n",
        "toy/größe.py": "VALUE = 5\n",
        "toy/data,with comma.txt": "text\r\n",
        "toy/__pycache__/__init__.cpython-311.pyc": "compiled",
        f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: Toy.Pack\nVersion: 1.2\n",
        f"{INFO}/WHEEL": WHEEL,
        f"{INFO}/entry_points.txt": "[console_scripts]\ntoy = toy:main\n",
        f"{INFO}/INSTALLER": "pip\n",
        f"{INFO}/REQUESTED": "",
        f"{INFO}/direct_url.json": json.dumps({"url": "file:///somewhere/toy.whl", "archive_info": {}}),
        "../bin/toy": "#!python\n",
        **changes,
    }
    kept = {name: text for name, text in files.items() if text is not None}
    for name, text in kept.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    with (site / INFO / "RECORD").open("w", newline="", encoding="utf-8") as stream:
        rows = [(name, f"sha256={digest(text.encode())}", len(text.encode())) for name, text in kept.items()]
        csv.writer(stream).writerows([*rows, (f"{INFO}/RECORD", "", "")])
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lib" / "site"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def isolated(code: str, *arguments: str) -> str:
    """Standard output of a program that sees no environment of ours."""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-I", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_holds_the_installed_files_and_no_more(site: Path, tmp_path: Path) -> None:
    path = build_wheel("toy.pack", install_toy(site).parent / "out")
    assert path.name == "toy_pack-1.2-py2.py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names == [
            "toy/__init__.py",
            "toy/data,with comma.txt",
            "toy/größe.py",
            *(f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "RECORD")),
        ]
        for name in names[:-1]:
            assert archive.read(name) == (site / name).read_bytes()


def test_the_record_hashes_every_file(site: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel("toy-pack", install_toy(site).parent / "out")) as archive:
        rows = list(csv.reader(archive.read(f"{INFO}/RECORD").decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, hashed, size in rows[:-1]:
            content = archive.read(name)
            assert (hashed, size) == (f"sha256={digest(content)}", str(len(content)))
        assert rows[-1] == [f"{INFO}/RECORD", "", ""]


def test_time_and_mode_of_the_files_do_not_matter(site: Path, tmp_path: Path) -> None:
    first = build_wheel("toy-pack", install_toy(site).parent / "a").read_bytes()
    for path in site.rglob("*.py"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o600)
    assert build_wheel("toy-pack", tmp_path / "b").read_bytes() == first


def test_the_wheel_imports_from_the_path(site: Path, tmp_path: Path) -> None:
    path = build_wheel("toy-pack", install_toy(site).parent / "out")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import toy; print(toy.VALUE, toy.__file__)"
    assert isolated(code, str(path)) == f"5 {path}{os.sep}toy{os.sep}__init__.py"


def test_a_wheel_is_written_whole_over_an_older_one(site: Path, tmp_path: Path) -> None:
    install_toy(site)
    out = tmp_path / "out"
    out.mkdir()
    (out / "toy_pack-1.2-py2.py3-none-any.whl").write_bytes(b"x" * 100_000)
    path = build_wheel("toy-pack", out)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert [entry.name for entry in out.iterdir()] == [path.name]


REFUSED: dict[str, tuple[dict[str, str | None], str, str]] = {
    "editable": (
        {f"{INFO}/direct_url.json": json.dumps({"url": "file:///x", "dir_info": {"editable": True}})},
        "direct_url.json",
        "editable",
    ),
    "impure": ({f"{INFO}/WHEEL": WHEEL.replace("true", "false")}, "WHEEL", "not pure Python"),
    "one platform": (
        {f"{INFO}/WHEEL": WHEEL.replace("py3-none-any", "cp311-cp311-linux_x86_64")},
        "WHEEL",
        "cp311-cp311-linux_x86_64",
    ),
    "no tags": ({f"{INFO}/WHEEL": "Root-Is-Purelib: true\n"}, "WHEEL", "not pure Python"),
    "no WHEEL": ({f"{INFO}/WHEEL": None}, "WHEEL", "not pure Python"),
    "data elsewhere": ({"../share/toy.txt": "x"}, "../share/toy.txt", "outside the import path"),
    "a script of its own": ({"../bin/other": "x"}, "../bin/other", "outside the import path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_travel_is_refused_in_words(case: str, site: Path, tmp_path: Path) -> None:
    changes, file, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        build_wheel("toy-pack", install_toy(site, **changes).parent / "out")
    assert [fault.file for fault in caught.value.faults] == [file]
    assert words in str(caught.value)
    assert not (tmp_path / "lib" / "out").exists()


def test_all_faults_of_an_installation_come_at_once(site: Path, tmp_path: Path) -> None:
    install_toy(site, **{"../share/toy.txt": "x"})
    (site / "toy/größe.py").write_text("VALUE = 6\n")
    (site / "toy/data,with comma.txt").unlink()
    with pytest.raises(InputError) as caught:
        build_wheel("toy-pack", tmp_path / "out")
    rules = {fault.file: fault.rule for fault in caught.value.faults}
    assert rules == {
        "../share/toy.txt": "lies outside the import path",
        "toy/größe.py": "changed since it was installed",
        "toy/data,with comma.txt": "is listed but missing",
    }


def test_a_distribution_that_is_not_there_is_refused(site: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such distribution is installed"):
        build_wheel("nobody-has-this", tmp_path)
    install_toy(site)
    (site / INFO / "RECORD").unlink()
    with pytest.raises(InputError, match="lists no files"):
        build_wheel("toy-pack", tmp_path)


def test_compiled_distributions_of_this_environment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compiled"):
        build_wheel("numpy", tmp_path)


# --- the wheel that travels beside the weights ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smp_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(SMP, tmp_path_factory.mktemp("wheel"))


def test_the_smp_wheel_has_its_name_and_the_same_bytes_twice(smp_wheel: Path, tmp_path: Path) -> None:
    assert smp_wheel.name == f"segmentation_models_pytorch-{distribution(SMP).version}-py3-none-any.whl"
    assert build_wheel(SMP, tmp_path).read_bytes() == smp_wheel.read_bytes()
    with zipfile.ZipFile(smp_wheel) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = archive.namelist()
    assert "segmentation_models_pytorch/__init__.py" in names
    left_out = (".pyc", "/INSTALLER", "/REQUESTED", "/direct_url.json")
    assert not [name for name in names if name.endswith(left_out)]


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed in this environment")
def test_pip_installs_the_smp_wheel(smp_wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    options = ["--isolated", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, str(target), str(smp_wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(smp_wheel) as archive:
        code = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert code
        assert all((target / name).read_bytes() == archive.read(name) for name in code)


@pytest.mark.slow
def test_the_smp_wheel_imports_and_builds_a_net_from_the_path(smp_wheel: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import segmentation_models_pytorch as smp, torch\n"
        "net = smp.Unet('resnet18', encoder_weights=None, classes=2).eval()\n"
        "with torch.inference_mode():\n"
        "    logits = net(torch.zeros(1, 3, 32, 64))\n"
        "print(smp.__file__.startswith(sys.argv[1]), tuple(logits.shape))"
    )
    assert isolated(code, str(smp_wheel)).splitlines()[-1] == "True (1, 2, 32, 64)"
