"""The loop: what a step is, what is logged, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from histofold.core.faults import InputError
from histofold.report.graphs.run import draw_fold_curves
from histofold.train import loop, step
from histofold.train.loop import train_fold
from histofold.train.run import Stopped, make_room
from small_runs import TinyNet, same_tensors, small_dataset, small_setup, use_tiny_nets

pytestmark = pytest.mark.usefixtures("precision")

SGD = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "clip": 0.0, "ema": 0.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("loop"))


def weights_of(setup):
    return load_file(setup.folder / "model.safetensors")


def trained(dataset, runs, **sections):
    setup = small_setup(dataset, runs, **sections)
    train_fold(setup, False)
    return setup


def largest_gap(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_accumulated_batches_are_one_large_batch(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch, norm=lambda channels: nn.GroupNorm(2, channels))
    loss = {"bce": 1.0, "dice": 0.0}
    exact = {"optim": SGD, "loss": loss}
    # In fp32: the law is about sums, which bf16 would round differently.
    whole = trained(dataset, tmp_path / "a", **exact, train={"precision": "fp32", "batch": 4})
    parts = trained(dataset, tmp_path / "b", **exact, train={"precision": "fp32", "batch": 2, "accumulate": 2})
    other = trained(dataset, tmp_path / "c", **exact, train={"precision": "fp32", "batch": 2})
    assert largest_gap(weights_of(whole), weights_of(parts)) < 1e-6
    assert largest_gap(weights_of(whole), weights_of(other)) > 1e-4
    logs = [pd.read_csv(setup.folder / "log.csv") for setup in (whole, parts)]
    assert logs[0]["epoch"].equals(logs[1]["epoch"])
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-5)


def test_log_has_fixed_columns_and_the_active_terms(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    loss = {"bce": 0.5, "dice": 0.0, "tversky": 0.5, "pixel_size": 0.1, "deep_supervision": 0.2}
    setup = trained(dataset, tmp_path, loss=loss, train={"steps": 12, "validate_every": 4})
    log = pd.read_csv(setup.folder / "log.csv")
    terms = ["loss_bce", "loss_tversky", "loss_pixel_size", "loss_deep"]
    last = ["val_dice", "images_per_s", "seconds"]
    assert list(log.columns) == ["step", "epoch", "lr", "loss", *terms, *last]
    assert log["step"].tolist() == [4, 8, 10, 12]
    assert log["val_dice"].notna().tolist() == [True, True, False, True]
    weights = [0.5, 0.5, 0.1, 0.2]
    np.testing.assert_allclose(log["loss"], log[terms].to_numpy() @ weights, rtol=1e-4)
    assert (log["images_per_s"] > 0).all()
    assert draw_fold_curves(setup.folder).stat().st_size > 10_000


@pytest.mark.parametrize("order", [("fp32", "bf16"), ("bf16", "fp32")])
def test_one_process_trains_in_one_precision_after_another(dataset, tmp_path, monkeypatch, order):
    use_tiny_nets(monkeypatch)
    for name in order:
        trained(dataset, tmp_path / name, train={"precision": name, "steps": 2})
    first, second = (weights_of(small_setup(dataset, tmp_path / name)) for name in order)
    assert not same_tensors(first, second), "they have been computed differently"


def test_heads_are_in_the_state_and_not_in_the_weights(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    setup = trained(dataset, tmp_path, loss={"pixel_size": 0.1, "deep_supervision": 0.2})
    assert weights_of(setup).keys() == TinyNet().state_dict().keys()
    state = torch.load(setup.folder / "state_0000006.pt", weights_only=True)
    assert state["model"].keys() == TinyNet().state_dict().keys()
    assert {name.split(".")[0] for name in state["heads"]} == {"log_zoom", "deep"}


def test_each_group_has_its_own_rate(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    start = TinyNet()
    monkeypatch.setattr("histofold.train.run.build_network", lambda *_: start)
    begun = {name: value.clone() for name, value in start.state_dict().items()}
    optim = {"encoder_lr_factor": 0.0, "weight_decay": 0.0, "ema": 0.0}
    setup = trained(dataset, tmp_path, optim=optim)
    now = weights_of(setup)
    learned = {name for name, _ in start.named_parameters() if not torch.equal(begun[name], now[name])}
    assert learned == {"head.weight", "head.bias"}


def test_a_plateau_in_the_scores_lowers_the_rate(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    scores = iter([0.5, 0.4, 0.4, 0.4, 0.4, 0.4])
    monkeypatch.setattr("histofold.train.loop.validate_slides", lambda *_: {"a": next(scores)})
    optim = {"schedule": "plateau", "plateau_patience": 1, "gamma": 0.5, "warmup": 0.0, "lr": 0.01}
    setup = trained(dataset, tmp_path, optim=optim, train={"steps": 10, "validate_every": 2})
    log = pd.read_csv(setup.folder / "log.csv")
    assert log["lr"].tolist() == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.005])


@pytest.mark.parametrize("average", [{"ema": 0.9}, {"ema": 0.0, "average_from": 0.5, "average_every": 1}, {"ema": 0.0}])
def test_what_is_saved_is_the_average(dataset, tmp_path, monkeypatch, average):
    use_tiny_nets(monkeypatch)
    setup = trained(dataset, tmp_path, optim=average)
    state = torch.load(setup.folder / "state_0000006.pt", weights_only=True)
    assert same_tensors(weights_of(setup), state["model"]) == (average == {"ema": 0.0})


def test_a_moving_average_equals_the_formula(monkeypatch):
    from histofold.train.optim import MovingAverage

    torch.manual_seed(0)
    net = TinyNet()
    average = MovingAverage(net, 0.9)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    for number in range(6):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        net(torch.randn(2, 3, 16, 16))
        decay = min(0.9, 1 - 1 / number) if number > 1 else 0.0  # a plain mean at first
        for name, value in net.state_dict().items():
            is_count = name.endswith("num_batches_tracked")
            expected[name] = value.clone() if is_count else decay * expected[name] + (1 - decay) * value
        average.update(net, step=number)
    assert all(torch.allclose(average.module.state_dict()[name], value, atol=1e-6) for name, value in expected.items())


def test_a_loss_that_is_no_number_stops_the_run_before_anything_learns_from_it(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    seen = {}
    real = step.batch_losses

    def broken(run, setup, batch):
        seen["run"] = run
        losses = real(run, setup, batch)
        if run.step == 4:
            seen["average"] = {name: value.clone() for name, value in run.averaged().state_dict().items()}
            losses["loss"] = losses["loss"] * float("nan")
        return losses

    monkeypatch.setattr(step, "batch_losses", broken)
    setup = small_setup(dataset, tmp_path)
    with pytest.raises(InputError, match=r"loss is nan at step 4.*lower optim.lr"):
        train_fold(setup, False)
    assert same_tensors(seen["run"].averaged().state_dict(), seen["average"])
    assert all(torch.isfinite(value).all() for value in seen["average"].values())
    assert [path.name for path in setup.folder.glob("state_*")] == ["state_0000003.pt"]


def test_several_classes_are_refused_before_a_step(dataset, tmp_path):
    setup = small_setup(dataset, tmp_path)
    several = replace(setup.experiment, model=replace(setup.experiment.model, classes=2))
    setup = replace(setup, experiment=several)
    with pytest.raises(InputError, match="one class, not for 2"):
        train_fold(setup, False)


def test_half_floats_without_a_gpu_are_refused(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    monkeypatch.setattr("histofold.train.run.best_device", lambda: torch.device("cpu"))
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        train_fold(small_setup(dataset, tmp_path, train={"precision": "fp16"}), False)


def test_softmax_trains_and_validates(dataset, tmp_path):
    setup = small_setup(
        dataset, tmp_path, model={"activation": "softmax"}, loss={"bce": 0.0, "ce": 0.5}, train={"steps": 2}
    )
    assert 0 <= train_fold(setup, False) <= 1
    assert {"loss_ce", "loss_dice"} < set(pd.read_csv(setup.folder / "log.csv").columns)


def test_whoever_watches_may_stop_the_run(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    told = []

    def watch(number, dice):
        told.append((number, dice))
        return number >= 4

    setup = small_setup(dataset, tmp_path, train={"validate_every": 2})
    with pytest.raises(Stopped, match="step 4"):
        train_fold(setup, False, watch)
    assert [number for number, _ in told] == [2, 4]
    assert not (setup.folder / "run.json").exists()


def test_every_step_seeds_its_own_draws():
    def draws(*key):
        step._seed_step(*key)
        return torch.rand(4).tolist()

    assert draws(0, 5, 0) == draws(0, 5, 0)
    assert len({tuple(draws(*key)) for key in [(0, 5, 0), (0, 6, 0), (0, 5, 1), (1, 5, 0)]}) == 4


def test_restarted_processes_go_on_without_a_word(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    whole = trained(dataset, tmp_path / "whole")
    setup = small_setup(dataset, tmp_path / "cut")
    save = loop.save_state

    def save_and_die(folder, number, state):
        save(folder, number, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train_fold(setup, False)
    monkeypatch.setattr(loop, "save_state", save)
    with pytest.raises(InputError, match="--resume"):
        make_room(setup, False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train_fold(setup, False)
    assert same_tensors(weights_of(whole), weights_of(setup))


def test_a_state_of_more_processes_is_refused(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    setup = trained(dataset, tmp_path)
    path = setup.folder / "state_0000006.pt"
    torch.save({**torch.load(path, weights_only=True), "processes": 2}, path)
    (setup.folder / "run.json").unlink()
    with pytest.raises(InputError, match="made by 2 processes, not by 1"):
        train_fold(setup, True)


def test_the_refusal_names_what_has_changed(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    setup = trained(dataset, tmp_path)
    other = small_setup(dataset, tmp_path, optim={"lr": 0.5})
    with pytest.raises(InputError, match=r"the finished run was made with other settings: optim\.lr: 0\.001.*0\.5"):
        train_fold(other, True)
    (setup.folder / "run.json").unlink()
    with pytest.raises(InputError, match=r"the state was made with other settings: optim\.lr: 0\.001.*0\.5"):
        train_fold(other, True)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_other_views_are_refused_only_where_the_rate_follows_their_scores(dataset, tmp_path, monkeypatch, schedule):
    use_tiny_nets(monkeypatch)
    setup = trained(dataset, tmp_path, optim={"schedule": schedule})
    (setup.folder / "run.json").unlink()
    other = small_setup(dataset, tmp_path, optim={"schedule": schedule}, predict={"views": ("identity", "vflip")})
    assert other.experiment.predict != setup.experiment.predict
    if schedule == "cosine":
        assert isinstance(train_fold(other, True), float)
        return
    with pytest.raises(InputError, match=r"follows validation scores, and \[predict\]"):
        train_fold(other, True)


def test_another_encoder_file_under_the_same_name_is_another_run(dataset, tmp_path):
    path = tmp_path / "encoder.pth"
    digests = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        digests.append(small_setup(dataset, tmp_path, model={"encoder_weights": f"file:{path}"}).digest)
    assert digests[0] == digests[2] != digests[1]


def test_the_record_of_a_finished_run(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    setup = trained(dataset, tmp_path)
    record = json.loads((setup.folder / "run.json").read_text())
    log = pd.read_csv(setup.folder / "log.csv")
    assert record["steps"] == 6
    assert record["dice"] == pytest.approx(np.mean(list(record["dice_by_id"].values())))
    assert record["best_dice_optimistic"] == pytest.approx(log["val_dice"].max(), abs=1e-5)
