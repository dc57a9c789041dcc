"""A run that is killed and resumed has the weights of one that never was, to the bit."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from histofold.commands.main import main
from histofold.schema.augment import AugmentConfig
from histofold.schema.parse import to_toml
from histofold.train.checkpoint import save_state
from small_runs import same_tensors, small_dataset, small_experiment

VARIANTS = {
    "ranger": {"optim": {"optimizer": "ranger"}, "train": {"accumulate": 2}},
    "plateau": {
        "optim": {"schedule": "plateau", "plateau_patience": 0, "ema": 0.0, "average_from": 0.3, "average_every": 1},
        "loss": {"deep_supervision": 0.2, "pixel_size": 0.1},
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("resume"))


@pytest.fixture(autouse=True)
def one_thread():
    """As many as the process that is killed has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(folder, dataset, **sections):
    """The words that train the small network on fold 0, with all augmentations, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    train = {"steps": 12, "validate_every": 4, "save_every": 2, **sections.get("train", {})}
    experiment = small_experiment(dataset, **{**sections, "train": train, "augment": asdict(AugmentConfig())})
    (folder / "small.toml").write_text(to_toml(experiment))
    return ["train", str(folder / "small.toml"), "--runs", str(folder), "--fold", "0", "--resume"]


def states_of(folder):
    return folder / "small" / "fold0"


def assert_the_same(first, second):
    assert same_tensors(*(load_file(states_of(folder) / "model.safetensors") for folder in (first, second)))


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_to_the_bit(dataset, tmp_path):
    """Killed at a random moment, with a reader beside the loop."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(command(whole, dataset, train={"workers": 1})) == 0
    words = command(cut, dataset, train={"workers": 1})
    wanted = states_of(cut) / f"state_{2 * random.Random(0).randint(1, 5):07d}.pt"
    process = subprocess.Popen(
        [sys.executable, "-m", "histofold", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not wanted.is_file():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (states_of(cut) / "run.json").exists()
    assert main(words) == 0
    assert_the_same(whole, cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_interrupted_and_resumed_is_the_same_to_the_bit(dataset, tmp_path, monkeypatch, name):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(command(whole, dataset, **VARIANTS[name])) == 0
    words = command(cut, dataset, **VARIANTS[name])
    stop_at = 2 * random.Random(name).randint(1, 5)

    def save_and_stop(folder, step, state):
        save_state(folder, step, state)
        if step == stop_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr("histofold.train.loop.save_state", save_and_stop)
        assert main(words) != 0
    assert not (states_of(cut) / "run.json").exists()
    assert main(words) == 0
    assert_the_same(whole, cut)
