import itertools

import pytest

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.parse import load_toml, to_toml
from histofold.schema.sweep import SettingSpace, SweepConfig, load_sweep, setting_type, with_settings


def write(folder, text, name="s.toml"):
    (folder / "base.toml").write_text("[optim]\nlr = 3e-4\n")
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "space",
    [
        '[space]\n"optim.lr" = [1e-4, 1]\n"train.steps" = {low = 2, high = 8, step = 3}',
        "[space]\noptim.lr = [1e-4, 1]\ntrain.steps = {low = 2, high = 8, step = 3}",
        "[space.optim]\nlr = [1e-4, 1]\n[space.train.steps]\nlow = 2\nhigh = 8\nstep = 3",
        '[space]\n"optim.lr" = {values = [1e-4, 1]}\n"train.steps" = [2, 5, 8]',
    ],
)
def test_every_way_to_write_a_space_gives_the_same_grid(tmp_path, space):
    config = load_sweep(write(tmp_path, f'experiment = "base.toml"\n{space}\n'))
    pairs = [(point["optim.lr"], point["train.steps"]) for point in config.grid()]
    assert pairs == list(itertools.product([1e-4, 1], [2, 5, 8]))
    assert all(isinstance(steps, int) for _, steps in pairs)
    assert config.size() == 6
    assert config.experiment.optim.lr == 3e-4


def test_the_experiment_may_stand_in_the_file(tmp_path):
    text = "[experiment.optim]\nlr = 0.5\n[experiment.train]\nsteps = 7\n[space]\ntrain.batch = [2]\n"
    config = load_sweep(write(tmp_path, text))
    assert (config.experiment.optim.lr, config.experiment.train.steps) == (0.5, 7)


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({"optim.lr": 1}, lambda e: e.optim.lr == 1.0 and isinstance(e.optim.lr, float)),
        ({"train.balanced": False}, lambda e: e.train.balanced is False),
        ({"model.encoder": "resnet18", "train.seed": 3}, lambda e: (e.model.encoder, e.train.seed) == ("resnet18", 3)),
        ({"predict.views": ["identity"]}, lambda e: e.predict.views == ("identity",)),
        ({"train.organs.large intestine": 0.5}, lambda e: e.train.organs == {"large intestine": 0.5}),
        ({"train.organs": {"lung": 0.25}}, lambda e: e.train.organs == {"lung": 0.25}),
        ({"data.sources": [{"dataset": "a", "weight": 2.0}]}, lambda e: e.data.sources[0].weight == 2.0),
        ({}, lambda e: e == Experiment()),
    ],
)
def test_any_setting_can_be_set_and_reads_back(tmp_path, settings, read):
    changed = with_settings(Experiment(), settings, "s.toml")
    assert read(changed)
    (tmp_path / "e.toml").write_text(to_toml(changed))
    assert load_toml(Experiment, tmp_path / "e.toml") == changed


def test_all_faults_at_once_with_file_rule_and_remedy(tmp_path):
    text = (
        'experiment = "base.toml"\nsampler = "gird"\nseeds = 1\n[space]\n'
        '"optim.lr" = {low = 1e-4, hihg = 1e-2}\n"train.steps" = {low = 9, high = 2}\n'
    )
    with pytest.raises(InputError) as caught:
        load_sweep(write(tmp_path, text))
    told = str(caught.value)
    assert len(caught.value.faults) == 4
    assert all(str(tmp_path / "s.toml") in str(fault) for fault in caught.value.faults)
    assert "'grid', 'random', 'tpe'" in told
    assert "space.optim.lr.hihg" in told
    assert "must be less than high" in told
    assert "known keys here: experiment, folds, metric" in told


@pytest.mark.parametrize("sampler", ['sampler = "grid"', 'sampler = "random"\ntrials = 3'])
def test_all_faults_of_the_space_at_once(tmp_path, sampler):
    text = f'experiment = "base.toml"\n{sampler}\n[space]\n'
    text += '"optim.learning_rate" = [1]\n"train.precision" = ["fp8"]\n"optim.lr.x" = [1]\n"train.steps" = [10, 0]\n'
    with pytest.raises(InputError) as caught:
        load_sweep(write(tmp_path, text))
    told = str(caught.value)
    assert "space.optim.learning_rate" in told
    assert "known keys here: " in told
    if "random" in sampler:
        assert all(words in told for words in ("'fp8' is not a choice", "optim.lr is no table", "steps=0"))


@pytest.mark.parametrize(
    ("head", "space", "words"),
    [
        ("", "optim.lr = [1e-3, 0.001]", "stands twice"),
        ("", "optim.lr = [1, 1.0]", "stands twice"),
        ("", "optim.lr = {low = 1e-4, high = 1e-3}", "give a step"),
        ("", "optim.lr = []", "list of values"),
        ("", "optim.lr = {low = 0.0, high = 1e-3, log = true}", "logarithmic"),
        ("", "train.balanced = {low = 0, high = 1, step = 1}", "write a list"),
        ("", "optim = [{lr = 1}]\noptim2.lr = [1]", "optim2"),
        ("", '"train.organs" = [{a = 0.5}]\n"train.organs.b" = [0.5]', "holds train.organs.b too"),
        ("", "train.steps = [10, 0]", "steps=0"),
        ("", '"model.encoder" = ["", "resnet18"]\n"model.architecture" = ["unet", "unext50"]', "encoder of its own"),
        ("trials = 3", "optim.lr = [1]", "leave trials out"),
        ('sampler = "tpe"', "optim.lr = [1]", "at least 1"),
        ('sampler = "tpe"\ntrials = 2', "train.steps = {low = 1.5, high = 3}", "whole"),
        ("folds = []", "optim.lr = [1]", "fold"),
        ("folds = [1, 1]", "optim.lr = [1]", "fold"),
        ('metric = "loss"\npruner = "median"', "optim.lr = [1]", "val_dice"),
        ('metric = "shift"\npruner = "halving"', "optim.lr = [1]", "looks at validation scores, and metric='shift'"),
        ("", "train.seed = {low = 0, high = 20000, step = 1}", "20001 points"),
        ("", "", "space is empty"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(tmp_path, head, space, words):
    with pytest.raises(InputError, match=words):
        load_sweep(write(tmp_path, f'experiment = "base.toml"\n{head}\n[space]\n{space}\n'))


def test_a_missing_experiment_is_told(tmp_path):
    with pytest.raises(InputError, match="no experiment is named"):
        load_sweep(write(tmp_path, "[space]\noptim.lr = [1]\n"))
    with pytest.raises(InputError, match="No such file"):
        load_sweep(write(tmp_path, 'experiment = "nowhere.toml"\n[space]\noptim.lr = [1]\n'))


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [(0.1, 0.3, 0.1, (0.1, 0.2, 0.3)), (0, 1, 0.4, (0.0, 0.4, 0.8)), (2, 4, 2, (2.0, 4.0)), (-1, 0, 1, (-1.0, 0.0))],
)
def test_a_stepped_range_holds_its_ends_and_nothing_beyond(low, high, step, values):
    assert SettingSpace(low=low, high=high, step=step).grid_values() == values


def test_a_grid_of_one_point_is_that_point():
    config = SweepConfig(space={"optim.lr": SettingSpace(values=(0.5,))})
    assert config.grid() == [{"optim.lr": 0.5}] == [config.first_point()]
    assert setting_type("optim.nothing") is None
    assert setting_type("train.organs.lung") is float


def test_the_committed_sweeps_can_be_read(project_root):
    paths = [path for path in (project_root / "experiments").glob("*.toml") if "[space]" in path.read_text()]
    assert project_root / "experiments" / "sweep_lr.toml" in paths
    for path in paths:
        assert load_sweep(path).size() > 1
