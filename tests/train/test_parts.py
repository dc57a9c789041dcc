import pytest
import torch

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment, ModelConfig
from histofold.train.checkpoint import load_state, save_state, state_paths


def test_two_states_are_kept_and_the_newest_readable_one_is_taken(tmp_path):
    for step in (10, 20, 30):
        save_state(tmp_path, step, {"digest": "d", "step": step})
    assert [path.name for path in state_paths(tmp_path)] == ["state_0000020.pt", "state_0000030.pt"]
    assert load_state(tmp_path, "d", Experiment())["step"] == 30
    path = tmp_path / "state_0000030.pt"
    path.write_bytes(path.read_bytes()[:50])
    assert load_state(tmp_path, "d", Experiment())["step"] == 20
    assert load_state(tmp_path / "empty", "d", Experiment()) is None


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
