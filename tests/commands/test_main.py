import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histofold.commands.main import VERBS, main
from histofold.commands.train import ShortHelp
from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


def test_unknown_verbs_and_no_verb_are_the_users_fault(capsys):
    assert main(["trian"]) == 2
    assert "unknown verb 'trian': did you mean 'train'?" in capsys.readouterr().err
    assert main([]) == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_help_of_train_is_short_and_its_settings_are_those_of_an_experiment(capsys):
    assert main(["train", "nowhere.toml", "--help"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 60
    shown = re.findall(r"--([a-z]+)\.([a-z_-]+)", printed)
    assert len(shown) == 10
    usual, short = Experiment(), ShortHelp(path=Path("E.toml"))
    for section, name in shown:
        field = name.replace("-", "_")
        assert getattr(short, field) == getattr(getattr(usual, section), field)
    assert all(f"--{name}" in printed for name in ("fold", "resume", "runs", "help-all"))
    assert main(["train", "--help-all"]) == 0
    everything = capsys.readouterr().out
    assert all(f"--{section}.{name}" in everything for section, name in shown)
    assert "--predict.seed-threshold" in everything


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--data", "nowhere"],
        ["train", "nowhere.toml"],
        ["evaluate", "nowhere"],
        ["package", "nowhere", "--out", "{tmp}"],
        ["kernel", "nothing"],
        ["predict", "--weights", "nowhere", "--data", "nowhere", "--out", "{tmp}/x.csv"],
        ["predict", "--weights", "nowhere", "--data", "nowhere", "--out", "{tmp}/x.csv", "--num-shards", "2"],
        ["merge", "nowhere.csv", "--out", "{tmp}/x.csv"],
        ["check", "dataset", "nowhere"],
        ["check", "weights", "nowhere"],
        ["check", "submission", "nowhere"],
        ["check", "kernel", "nowhere"],
        ["demo", "--data", "nowhere", "--out", "{tmp}/demo"],
        ["train", "--unknown-option"],
    ],
)
def test_bad_input_exits_2_in_words(arguments, tmp_path, capsys):
    assert main([part.format(tmp=tmp_path) for part in arguments]) == 2
    caught = capsys.readouterr()
    assert "Traceback" not in caught.err
    assert caught.err.strip() or caught.out.strip()


HEAVY = ("torch", "timm", "pandas", "matplotlib", "sklearn", "scipy", "skimage", "optuna", "accelerate", "numba")


def test_help_and_mistyped_options_load_nothing_heavy():
    code = f"""
import contextlib, io, sys
from histofold.commands.main import VERBS, main
from histofold.commands.train import ShortHelp
for verb in VERBS:
    for arguments, status in (([verb, "--help"], 0), ([verb, "--no-such-option"], 2)):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            found = main(arguments)
        heavy = sorted(set(sys.modules) & set({HEAVY!r}))
        assert found == status, (verb, arguments, found)
        assert not heavy, (verb, arguments, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["predict", "--weigths", "x", "--data", "y", "--out", "z"], "--weights"),
        (["demo", "--stepz", "3"], "--steps"),
        (["train", "experiments/unet_resnet34.toml", "--optim.lrr", "1"], "--optim.lr"),
    ],
)
def test_a_mistyped_option_is_refused_with_the_one_that_was_meant(arguments, meant, project_root, monkeypatch, capsys):
    monkeypatch.chdir(project_root)
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert meant in caught.err + caught.out


def test_a_fault_that_a_loader_s_worker_met_is_told_in_words(monkeypatch, capsys):
    def broken(arguments):
        raise InputError(
            "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n"
            "histofold.core.faults.InputError: t1: masks/t1.png: the file is cut short; build the dataset anew\n"
        )

    monkeypatch.setattr("histofold.commands.train.run", broken)
    assert main(["train", "x"]) == 2
    assert capsys.readouterr().err.startswith("t1: masks/t1.png: the file is cut short; build the dataset anew\n")


def test_our_own_fault_exits_1(monkeypatch, capsys):
    def broken(arguments):
        raise RuntimeError("bug")

    monkeypatch.setattr("histofold.commands.kernel.run", broken)
    assert main(["kernel", "x"]) == 1
    assert "our own fault" in capsys.readouterr().err


def test_a_lack_of_memory_exits_2_in_words(monkeypatch, capsys):
    import torch

    def array(arguments):
        np.empty(1 << 60, np.uint8)

    def tensor(arguments):
        torch.empty(1 << 60, dtype=torch.uint8)

    for lacking in (array, tensor):
        monkeypatch.setattr("histofold.commands.kernel.run", lacking)
        assert main(["kernel", "x"]) == 2
        assert capsys.readouterr().err.startswith("memory does not suffice")


def test_check_never_loads_torch(tmp_path):
    (tmp_path / "train.csv").write_text("id,organ,rle\n")
    code = (
        "import sys; from histofold.commands.main import main; status = main(['check', 'dataset', sys.argv[1]]); "
        "assert status == 2, status; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
