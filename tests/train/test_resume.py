"""A run that is killed and resumed has the weights of one that never was, to the bit."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from histofold.commands.main import main
from histofold.schema.parse import to_toml
from small_runs import same_tensors, small_dataset, small_experiment

VARIANTS = {
    "ema": {},
    "ranger": {"optim": {"optimizer": "ranger"}, "train": {"accumulate": 2}},
    "plateau": {
        "optim": {"schedule": "plateau", "plateau_patience": 0, "ema": 0.0, "average_from": 0.3, "average_every": 1},
        "loss": {"deep_supervision": 0.2, "pixel_size": 0.1},
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("resume"))


def command(folder, dataset, sections):
    folder.mkdir(parents=True, exist_ok=True)
    train = {"steps": 12, "validate_every": 4, "save_every": 2, "workers": 1, **sections.get("train", {})}
    experiment = small_experiment(dataset, **{**sections, "train": train})
    (folder / "small.toml").write_text(to_toml(experiment))
    return ["train", str(folder / "small.toml"), "--runs", str(folder), "--fold", "0", "--resume"]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_killed_and_resumed_is_the_same_to_the_bit(dataset, tmp_path, name):
    torch.set_num_threads(1)  # as many as the process that is killed has
    assert main(command(tmp_path / "whole", dataset, VARIANTS[name])) == 0
    cut = command(tmp_path / "cut", dataset, VARIANTS[name])
    folder = tmp_path / "cut" / "small" / "fold0"
    wanted = f"state_{2 * random.Random(name).randint(1, 5):07d}.pt"
    process = subprocess.Popen(
        [sys.executable, "-m", "histofold", *cut],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (folder / wanted).is_file():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "run.json").exists()
    assert main(cut) == 0
    folders = (tmp_path / "whole" / "small" / "fold0", folder)
    first, second = (load_file(path / "model.safetensors") for path in folders)
    assert same_tensors(first, second)
