"""Settings of the optimiser: what is refused, and that the words say why."""

import dataclasses

import pytest

from histofold.schema.experiment import Experiment
from histofold.schema.optim import _SETTING_OWNERS, OptimConfig
from histofold.schema.parse import load_toml, to_toml

OTHER_VALUES = {
    "momentum": 0.8,
    "betas": (0.95, 0.99),
    "eps": 1e-5,
    "final_lr": 0.2,
    "start_lr": 0.2,
    "low_momentum": 0.5,
    "gamma": 0.5,
    "step_epochs": 2.5,
    "milestones": (0.1, 0.2, 0.9),
    "plateau_patience": 0,
}
NAMES = {
    "optimizer": ("sgd", "adam", "adamw", "radam", "ranger"),
    "schedule": ("constant", "cosine", "one_cycle", "step", "multi_step", "plateau", "poly"),
}


@pytest.mark.parametrize("name", sorted(_SETTING_OWNERS))
def test_a_setting_is_taken_where_it_is_read_and_refused_where_it_would_be_dead(name):
    key, owners = _SETTING_OWNERS[name]
    for choice in NAMES[key]:
        settings = {key: choice, name: OTHER_VALUES[name]}
        if choice in owners:
            assert getattr(OptimConfig(**settings), name) == OTHER_VALUES[name]
        else:
            with pytest.raises(ValueError, match=rf"{name}=.* has no effect with {key}='{choice}'.*{owners[0]}"):
                OptimConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"encoder_lr_factor": -0.1}, "encoder_lr_factor must not be negative"),
        ({"betas": (0.9, 1.0)}, "betas must lie"),
        ({"warmup": 1.0}, "warmup must lie"),
        ({"schedule": "step", "gamma": 0.0}, "gamma must lie"),
        ({"schedule": "multi_step", "milestones": (0.5, 0.5)}, "must ascend within"),
        ({"schedule": "multi_step", "milestones": (0.5, 1.0)}, "must ascend within"),
        ({"schedule": "multi_step", "milestones": ()}, "must ascend within"),
        ({"schedule": "one_cycle", "low_momentum": 0.95}, "the first of betas, 0.9"),
        ({"average_from": 0.5}, "set ema = 0"),
        ({"average_every": 3}, "average_every=3 has no effect with average_from=1.0"),
        ({"average_from": 0.5, "ema": 0.0, "average_every": 0}, "average_every be at least 1"),
    ],
)
def test_values_out_of_range_are_refused_in_words(settings, words):
    with pytest.raises(ValueError, match=words):
        OptimConfig(**settings)


def test_every_setting_survives_a_file(tmp_path):
    optim = OptimConfig(
        optimizer="sgd", momentum=0.8, schedule="multi_step", milestones=(0.2, 0.7), average_from=0.6, ema=0.0
    )
    path = tmp_path / "E.toml"
    path.write_text(to_toml(dataclasses.replace(Experiment(), optim=optim)))
    assert load_toml(Experiment, path).optim == optim
