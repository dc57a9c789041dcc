"""Which settings make another run of an experiment, and how they are told."""

from dataclasses import replace

import pytest

from histofold.schema.dataset import DataConfig, SourceConfig
from histofold.schema.experiment import AugmentConfig, Experiment, LossConfig, ModelConfig, OptimConfig, TrainConfig
from histofold.schema.parse import to_toml
from histofold.train.fingerprint import changed_settings, training_settings

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
