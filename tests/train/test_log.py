"""Trackers: told what the log holds, and no step twice."""

import pandas as pd
import pytest

from histofold.core.faults import InputError
from histofold.train import loop
from histofold.train.log import check_tracker, flat_settings
from histofold.train.loop import train_fold
from small_runs import small_dataset, small_setup, use_tiny_nets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("tracking"))


def told(folder):
    """Steps and values that TensorBoard shows, by name."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tracker"))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_is_told_what_the_log_holds(dataset, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    use_tiny_nets(monkeypatch)
    setup = small_setup(dataset, tmp_path, train={"tracker": "tensorboard"})
    train_fold(setup, False)
    log = pd.read_csv(setup.folder / "log.csv").set_index("step")
    shown = told(setup.folder)
    assert set(shown) == set(log.columns)
    for name, values in shown.items():
        assert values == pytest.approx(log[name].dropna().to_dict(), rel=1e-4)


def test_a_resumed_run_tells_no_step_twice(dataset, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    use_tiny_nets(monkeypatch)
    train = {"tracker": "tensorboard", "steps": 8, "validate_every": 2, "save_every": 4}
    setup = small_setup(dataset, tmp_path, train=train)

    def die_at_six(number, dice):
        if number == 6:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train_fold(setup, False, die_at_six)
    assert set(told(setup.folder)["loss"]) == {2, 4, 6}, "told beyond the state of step 4"
    again = []
    tell = loop.log_to_tracker
    monkeypatch.setattr(
        loop, "log_to_tracker", lambda accelerator, row: (again.append(row["step"]), tell(accelerator, row))
    )
    train_fold(setup, True)
    assert min(again) == 6, "step 6 is told again"
    shown = told(setup.folder)
    log = pd.read_csv(setup.folder / "log.csv").set_index("step")
    assert list(shown["loss"]) == [2, 4, 6, 8]
    assert shown["val_dice"] == pytest.approx(log["val_dice"].to_dict(), rel=1e-4)
    assert shown["seconds"] == pytest.approx(log["seconds"].to_dict(), rel=1e-4)


def test_trackers_that_cannot_be_had_are_refused(dataset, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"knows no tracker 'tensorbord'.*known: .*tensorboard"):
        train_fold(small_setup(dataset, tmp_path, train={"tracker": "tensorbord"}), False)
    assert not (tmp_path / "small").exists()
    monkeypatch.setattr("histofold.train.log.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(InputError, match=r"wandb is not installed.*installed: tensorboard"):
        check_tracker("wandb")
    check_tracker("")
    check_tracker("tensorboard")


def test_settings_are_flattened():
    nested = {"optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "loss": {"organ_weights": {}}, "name": "x"}
    expected = {"optim.lr": 0.1, "optim.betas": "[0.9, 0.99]", "loss.organ_weights": "{}", "name": "x"}
    assert flat_settings(nested) == expected
