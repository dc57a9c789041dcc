"""Trackers: told what the log holds, and no step twice."""

import json
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from accelerate import tracking

from histofold.core.faults import InputError
from histofold.core.rle.runs import runs_from_mask
from histofold.schema.sample import Sample
from histofold.train import log, loop
from histofold.train.log import check_tracker, draw_outlines, flat_settings, organ_dice
from histofold.train.loop import train_fold
from small_runs import small_dataset, small_setup, use_tiny_nets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("tracking"))


def events_of(folder):
    """What TensorBoard shows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tracker"))
    return events.Reload()


def told(folder):
    """Steps and values that TensorBoard shows, by name."""
    events = events_of(folder)
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


class FakeTrackers:
    """W&B and MLflow as far as Accelerate calls them, and what they were told: starts, and values by id and step."""

    def __init__(self, monkeypatch):
        self.starts, self.told, self.pictures, self.numbers = [], {}, set(), count()
        wandb = SimpleNamespace(init=self.start_wandb, config=SimpleNamespace(update=lambda *_, **__: None))
        wandb.Image = lambda picture_HWC: picture_HWC.shape
        experiment = SimpleNamespace(experiment_id="7")
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=250, MAX_PARAMS_TAGS_PER_BATCH=1000)
        self.params = []
        mlflow = SimpleNamespace(
            search_experiments=lambda filter_string: [experiment],
            start_run=self.start_mlflow,
            log_metrics=lambda values, step: self.tell(self.id, values, step),
            log_params=self.params.append,
            log_image=lambda picture_HWC, key, step: self.pictures.add((key, step)),
            end_run=lambda: None,
            utils=SimpleNamespace(validation=limits),
        )
        for name, module in (("wandb", wandb), ("mlflow", mlflow)):
            monkeypatch.setitem(sys.modules, name, module)
        kinds = [tracking.LoggerType.WANDB, tracking.LoggerType.MLFLOW]
        monkeypatch.setattr(tracking, "_available_trackers", kinds)
        monkeypatch.delenv("WANDB_PROJECT", raising=False)

    def start_wandb(self, **settings):
        self.starts.append(settings)
        self.id = settings["id"]
        return SimpleNamespace(log=lambda values, step: self.tell(settings["id"], values, step), finish=lambda: None)

    def start_mlflow(self, **settings):
        self.starts.append({name: value for name, value in settings.items() if value})
        self.id = settings["run_id"] or f"made{next(self.numbers)}"
        return SimpleNamespace(info=SimpleNamespace(run_id=self.id))

    def tell(self, key, values, step):
        for name, value in values.items():
            if isinstance(value, list):
                self.pictures.add((name, step))
            else:
                self.told.setdefault(key, {})[name, step] = value


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


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_resumed_fold_goes_on_under_its_id(dataset, tmp_path, monkeypatch, name):
    use_tiny_nets(monkeypatch)
    trackers = FakeTrackers(monkeypatch)
    train = {"tracker": name, "steps": 6, "validate_every": 2, "save_every": 2}
    setup = small_setup(dataset, tmp_path, train=train)
    organs = [
        replace(sample, organ="kidney" if place else "ne/phron?") for place, sample in enumerate(setup.validation)
    ]
    setup = replace(setup, validation=organs)

    def stop_at_four(step, dice):
        return step == 4

    with pytest.raises(loop.Stopped):
        loop.train_fold(setup, False, stop_at_four)
    loop.train_fold(setup, True)
    first, second = trackers.starts
    (key,) = trackers.told
    if name == "wandb":
        assert first == second
        assert first.items() >= {"project": "histofold", "group": "small", "name": "small fold0", "id": key}.items()
        assert first["resume"] == "allow"
    else:
        assert first == {"experiment_id": "7", "run_name": "fold0"}
        assert second == {"experiment_id": "7", "run_id": key}
        assert len(trackers.params) == 1, "settings are told once: MLflow refuses others"
    told_of = trackers.told[key]
    assert {step for name, step in told_of if name == "val_dice"} == {2, 4, 6}
    mean = (told_of["organ_dice/ne/phron_", 6] + (len(organs) - 1) * told_of["organ_dice/kidney", 6]) / len(organs)
    assert told_of["val_dice", 6] == pytest.approx(mean)
    assert trackers.pictures == {(f"validation/{sample.id}", step) for sample in organs for step in (2, 4, 6)}

    trackers.starts.clear()
    loop.train_fold(replace(setup, folder=tmp_path / "other" / "fold0"), False)
    assert trackers.id != key, "a fold that begins anew is another run"
    assert json.loads((tmp_path / "other" / "fold0" / "tracker.json").read_text()) == {
        "tracker": name,
        "id": trackers.id,
    }


def test_tensorboard_shows_the_validated_slides(dataset, tmp_path, monkeypatch):
    use_tiny_nets(monkeypatch)
    setup = small_setup(dataset, tmp_path, train={"tracker": "tensorboard", "steps": 2, "validate_every": 1})
    train_fold(setup, False)
    events = events_of(setup.folder)
    names = {f"validation/{sample.id}" for sample in setup.validation}
    assert set(events.Tags()["images"]) == names
    (first, last) = events.Images(names.pop())
    assert (first.step, last.step) == (1, 2)
    assert (last.height, last.width) == (52, 64)


def test_outlines_are_the_inner_edges(tmp_path):
    grey_HWC = np.full((40, 60, 3), 128, np.uint8)
    log.cv2.imwrite(str(tmp_path / "a.png"), grey_HWC)
    truth_HW, prediction_HW = np.zeros((2, 40, 60), bool)
    truth_HW[5:20, 0:30] = prediction_HW[25:35, 40:50] = True
    picture_HWC = draw_outlines(
        Sample(id="a", image_path=tmp_path / "a.png"), runs_from_mask(truth_HW), runs_from_mask(prediction_HW)
    )
    blue_HW, yellow_HW = ((picture_HWC == colour).all(axis=2) for colour in (log.TRUTH_RGB, log.PREDICTION_RGB))
    assert blue_HW[5, 0:30].all()
    assert blue_HW[5:20, 0].all(), "at the image's border too"
    assert not blue_HW[6:19, 1:29].any()
    assert blue_HW.sum() + yellow_HW.sum() == (15 * 30 - 13 * 28) + (10 * 10 - 8 * 8)
    np.testing.assert_array_equal(picture_HWC[~blue_HW & ~yellow_HW], 128)


def test_dice_of_organs_are_means_over_their_slides(tmp_path):
    samples = [Sample(id=key, image_path=tmp_path, organ=key[:-1]) for key in ("a1", "a2", "b1", "2", "c1")]
    by_id = {"a1": 0.5, "a2": 1.0, "b1": 0.25, "2": 0.0}
    assert organ_dice(by_id, samples) == {"organ_dice/a": 0.75, "organ_dice/b": 0.25}
