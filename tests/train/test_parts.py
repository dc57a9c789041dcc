import math

import pytest
import torch

from histoseg.core.faults import InputError
from histoseg.schema.experiment import LossConfig, ModelConfig, OptimConfig
from histoseg.train.checkpoint import load_state, save_state, state_paths
from histoseg.train.losses import segmentation_loss, soft_dice_loss
from histoseg.train.optim import learning_rate, make_optimizer


def test_soft_dice_of_certain_logits():
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, 0, :4] = 1
    assert soft_dice_loss(masks * 200 - 100, masks).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(100 - masks * 200, masks).item() == pytest.approx(1, abs=0.02)


def test_a_batch_without_mask_still_teaches():
    logits = torch.zeros(2, 1, 8, 8, requires_grad=True)
    soft_dice_loss(logits, torch.zeros(2, 1, 8, 8)).backward()
    assert (logits.grad > 0).all()


def test_loss_is_the_weighted_sum_of_its_terms():
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 1, 5, 7), (torch.rand(2, 1, 5, 7) > 0.5).float()
    losses = segmentation_loss(logits, masks, LossConfig(bce=0.3, dice=1.1))
    assert losses["loss"].item() == pytest.approx(0.3 * losses["loss_bce"].item() + 1.1 * losses["loss_dice"].item())
    assert losses["loss_bce"].item() == pytest.approx(torch.nn.BCEWithLogitsLoss()(logits, masks).item(), rel=1e-5)


def test_learning_rate_warms_up_and_decays_to_its_end():
    config = OptimConfig(lr=1.0, warmup=0.1, final_lr=0.01)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)
    middle = rates[10 + 45]
    assert middle == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 45 / 89)))


def test_decay_spares_biases_and_norms():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decayed, spared = make_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert decayed["weight_decay"] == 0.1
    assert {p.ndim for p in spared["params"]} == {1}
    assert spared["weight_decay"] == 0.0


def test_two_states_are_kept_and_the_newest_readable_one_is_taken(tmp_path):
    for step in (10, 20, 30):
        save_state(tmp_path, step, {"digest": "d", "step": step})
    assert [path.name for path in state_paths(tmp_path)] == ["state_0000020.pt", "state_0000030.pt"]
    assert load_state(tmp_path, "d")["step"] == 30
    path = tmp_path / "state_0000030.pt"
    path.write_bytes(path.read_bytes()[:50])
    assert load_state(tmp_path, "d")["step"] == 20
    assert load_state(tmp_path / "empty", "d") is None


def test_a_state_of_another_run_is_refused(tmp_path):
    save_state(tmp_path, 10, {"digest": "d", "step": 10})
    with pytest.raises(InputError, match="other settings"):
        load_state(tmp_path, "e")


def test_encoder_weights_from_a_file(tmp_path):
    from safetensors.torch import save_file

    from histoseg.models.build import build_model
    from histoseg.models.weights import load_encoder_weights

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
