"""States on disk, and which settings make another run of an experiment."""

import errno
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from histofold.core.faults import InputError
from histofold.schema.dataset import DataConfig, SourceConfig
from histofold.schema.experiment import AugmentConfig, Experiment, LossConfig, ModelConfig, OptimConfig, TrainConfig
from histofold.schema.files import disk_fault
from histofold.schema.parse import to_toml
from histofold.train.checkpoint import (
    changed_settings,
    load_state,
    save_state,
    save_weights,
    state_paths,
    training_settings,
)

PLAIN = Experiment()


def kept(folder, experiment):
    path = folder / "experiment.toml"
    path.write_text(to_toml(experiment))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"train": TrainConfig(accumulate=2)},
        {"train": TrainConfig(organs={"lung": 0.5})},
        {"train": TrainConfig(seed=1)},
        {"model": ModelConfig(classes=2)},
        {"loss": LossConfig(ignore="blank")},
        {"loss": LossConfig(organ_weights={"lung": 0.5})},
        {"augment": AugmentConfig(cutmix=0.5)},
        {"augment": AugmentConfig(preset="strong")},
        {"optim": OptimConfig(lr=0.5)},
    ],
)
def test_settings_that_decide_the_weights_make_another_run_and_are_told(tmp_path, change):
    changed = replace(PLAIN, **change)
    assert training_settings(changed) != training_settings(PLAIN)
    told = changed_settings(kept(tmp_path, PLAIN), changed)
    (section,) = change
    assert len(told) == 1
    assert told[0].startswith(f"{section}.")
    assert changed_settings(kept(tmp_path, changed), changed) == []


@pytest.mark.parametrize(
    "change", [{"workers": 9}, {"tracker": "tensorboard"}, {"save_every": 7}, {"validate_every": 7}]
)
def test_settings_that_only_watch_make_the_same_run(tmp_path, change):
    changed = replace(PLAIN, train=TrainConfig(**change))
    assert training_settings(changed) == training_settings(PLAIN)
    assert changed_settings(kept(tmp_path, PLAIN), changed) == []


def test_validations_decide_where_the_rate_follows_their_scores(tmp_path):
    plateau = replace(PLAIN, optim=OptimConfig(schedule="plateau"))
    changed = replace(plateau, train=TrainConfig(validate_every=7))
    assert training_settings(changed) != training_settings(plateau)
    assert changed_settings(kept(tmp_path, plateau), changed) == ["train.validate_every: 500 then, 7 now"]


def test_a_preset_is_the_values_that_it_stands_for():
    spelt_out = replace(PLAIN, augment=PLAIN.augment.resolved())
    assert training_settings(spelt_out) == training_settings(PLAIN)
    strong = AugmentConfig(preset="strong").resolved()
    assert training_settings(replace(PLAIN, augment=strong)) != training_settings(PLAIN)


def test_both_values_are_told_and_new_keys_have_their_defaults(tmp_path):
    """As in a file of an earlier version, which knows nothing of what came after it."""
    path = tmp_path / "experiment.toml"
    path.write_text('[optim]\nlr = 0.01\n\n[train]\nworkers = 3\n\n[train.organs]\n"large intestine" = 0.5\n')
    new = Experiment(
        optim=OptimConfig(lr=0.02),
        train=TrainConfig(organs={"lung": 0.25}),
        data=DataConfig(sources=(SourceConfig(dataset="b", weight=2.0),)),
    )
    told = changed_settings(path, new)
    assert told[0].startswith("data.sources: ")
    assert "'weight': 2.0" in told[0]
    assert told[1:] == [
        "optim.lr: 0.01 then, 0.02 now",
        "train.organs.large intestine: 0.5 then, not set now",
        "train.organs.lung: not set then, 0.25 now",
    ]


def test_without_a_readable_file_nothing_is_told(tmp_path):
    assert changed_settings(tmp_path / "none.toml", PLAIN) == []
    (tmp_path / "broken.toml").write_text("[optim\n")
    assert changed_settings(tmp_path / "broken.toml", PLAIN) == []


def test_two_states_are_kept_and_the_newest_readable_one_is_taken(tmp_path):
    for step in (10, 20, 30):
        save_state(tmp_path, step, {"digest": "d", "step": step})
    assert [path.name for path in state_paths(tmp_path)] == ["state_0000020.pt", "state_0000030.pt"]
    assert load_state(tmp_path, "d", Experiment())["step"] == 30
    path = tmp_path / "state_0000030.pt"
    path.write_bytes(path.read_bytes()[:50])
    assert load_state(tmp_path, "d", Experiment())["step"] == 20
    assert load_state(tmp_path / "empty", "d", Experiment()) is None


class FullStream(io.BytesIO):
    """A file on a disk that holds 4 KiB."""

    def write(self, content):
        if self.tell() + len(content) > 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_full_disk_is_named_and_leaves_the_states_that_are_there(tmp_path, monkeypatch):
    save_state(tmp_path, 10, {"digest": "d", "step": 10})
    monkeypatch.setattr(Path, "open", lambda *arguments, **options: FullStream())
    with pytest.raises(Exception, match=r".") as caught:  # torch makes an error of its own of it
        save_state(tmp_path, 20, {"digest": "d", "step": 20, "weights": torch.zeros(10_000)})
    fault = disk_fault(caught.value)
    assert (fault.id, fault.rule) == ("state_0000020.pt", "the disk is full")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["state_0000010.pt"]
    assert load_state(tmp_path, "d", Experiment())["step"] == 10


def test_weights_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("histofold.train.checkpoint.save_file", full)
    with pytest.raises(ValueError, match="os error 28") as caught:
        save_weights(torch.nn.Linear(2, 3), tmp_path / "model.safetensors")
    assert str(tmp_path / "model.safetensors") in str(disk_fault(caught.value))
    assert not list(tmp_path.iterdir())


def test_states_that_are_all_broken_are_said_to_begin_again(tmp_path, caplog):
    save_state(tmp_path, 10, {"digest": "d", "step": 10}).write_bytes(b"")
    assert load_state(tmp_path, "d", Experiment()) is None
    assert "none of its states can be read: training begins again at step 0" in caplog.text


def test_a_state_of_another_run_is_refused(tmp_path):
    save_state(tmp_path, 10, {"digest": "d", "step": 10})
    with pytest.raises(InputError, match="other data"):
        load_state(tmp_path, "e", Experiment())


def test_encoder_weights_from_a_file(tmp_path):
    from safetensors.torch import save_file

    from histofold.models.build import build_model
    from histofold.models.weights import load_encoder_weights

    source = build_model("unet", {"encoder": "resnet18"})
    target = build_model("unet", {"encoder": "resnet18"})
    state = {f"module.{name}": value for name, value in source.encoder.state_dict().items()}
    torch.save({"state_dict": {**state, "fc.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    load_encoder_weights(target, ModelConfig(encoder="resnet18", encoder_weights=f"file:{tmp_path / 'w.pth'}"))
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(target.encoder.state_dict()[name], value)

    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"layer1.*lack"):
        load_encoder_weights(target, ModelConfig(encoder="resnet18", encoder_weights=f"file:{tmp_path}/w.safetensors"))
    with pytest.raises(InputError, match="no such file"):
        load_encoder_weights(target, ModelConfig(encoder="resnet18", encoder_weights="file:nowhere.pth"))
