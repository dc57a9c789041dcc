"""The laws of a sweep, with an objective that is a formula."""

import json
import math
import multiprocessing
import os
import random
import time
from contextlib import nullcontext
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.sweep import SettingSpace, SweepConfig
from histofold.train.run import Stopped
from histofold.train.sweep.results import NOTES, trial_costs, trial_table
from histofold.train.sweep.study import NUMBER, Sweep, changed_keys, number_of
from histofold.train.sweep.workers import Outcome, quiet_optuna, run_worker, run_workers
from postgres_server import postgres_server

pytestmark = pytest.mark.slow

RATES, DECAYS = (1e-4, 1e-3, 1e-2), (0.01, 0.1)
GRID = SweepConfig(
    space={"optim.lr": SettingSpace(values=RATES), "optim.weight_decay": SettingSpace(values=DECAYS)},
)
SPACE = {
    "optim.lr": SettingSpace(low=1e-5, high=1e-1, log=True),
    "optim.ema": SettingSpace(low=0.0, high=0.9, step=0.3),
    "train.steps": SettingSpace(low=2, high=9),
    "train.seed": SettingSpace(low=0, high=11, step=5),
    "predict.views": SettingSpace(values=(["identity"], ["identity", "hflip"])),
    "train.balanced": SettingSpace(values=(True, False)),
    "model.encoder": SettingSpace(values=("resnet18", "resnet34")),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("histofold.train.sweep.workers.POLL_S", 0.02)
    quiet_optuna()


def formula(experiment, folder, report):
    score = 1 / (1 + (math.log10(experiment.optim.lr) + 3) ** 2 + experiment.optim.weight_decay)
    return Outcome(score, {"val_dice": score, "loss": 1 - score, "steps": 3, "seconds": 0.5})


def random_search(sampler="random", trials=6, seed=0):
    return SweepConfig(space=SPACE, sampler=sampler, trials=trials, seed=seed)


def settings_by_number(sweep):
    return [sweep.settings_of(trial) for trial in sweep.trials()]


def test_a_grid_runs_every_point_once_and_ranks_them(tmp_path):
    seen = []

    def objective(experiment, folder, report):
        seen.append((experiment.optim.lr, experiment.optim.weight_decay, folder.name))
        return formula(experiment, folder, report)

    sweep = run_workers(tmp_path / "s", GRID, "", objective)
    assert seen == [(lr, wd, f"{n:04d}") for n, (lr, wd) in enumerate((a, b) for a in RATES for b in DECAYS)]
    table = trial_table(sweep)
    assert list(table.columns[:5]) == ["trial", "optim.lr", "optim.weight_decay", "val_dice", "loss"]
    assert table["val_dice"].is_monotonic_decreasing
    assert (table["optim.lr"].iloc[0], table["optim.weight_decay"].iloc[0]) == (1e-3, 0.01)
    assert table["note"].tolist() == [NOTES["val_dice"], "", "", "", "", ""]
    run_workers(tmp_path / "s", GRID, "", objective)
    assert len(seen) == 6, "a finished sweep has nothing left to do"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_draws_lie_in_the_space_and_fit_the_experiment(tmp_path, sampler):
    got = []

    def objective(experiment, folder, report):
        got.append(experiment)
        return formula(experiment, folder, report)

    sweep = run_workers(tmp_path / "s", random_search(sampler, trials=14), "", objective)
    assert len(got) == 14
    assert all(isinstance(experiment, Experiment) for experiment in got)
    assert all(1e-5 <= experiment.optim.lr <= 1e-1 for experiment in got)
    assert {experiment.optim.ema for experiment in got} <= {0.0, 0.3, 0.6, 0.9}
    assert {experiment.train.seed for experiment in got} <= {0, 5, 10}
    assert {experiment.predict.views for experiment in got} == {("identity",), ("identity", "hflip")}
    assert {experiment.train.balanced for experiment in got} == {True, False}
    assert len({experiment.optim.lr for experiment in got}) == 14
    assert [settings["optim.ema"] for settings in settings_by_number(sweep)] == [e.optim.ema for e in got]
    assert trial_table(sweep)["predict.views"].isin(['["identity"]', '["identity", "hflip"]']).all()


@pytest.mark.slow
def test_random_draws_hang_on_seed_and_number_alone(tmp_path):
    """Whoever draws them, in whichever order, and though a trial was cut short between two draws."""
    whole = run_workers(tmp_path / "a", random_search(), "", formula)
    other = Sweep(tmp_path / "b", random_search())
    # Optuna hands trials out by number; here all but the last two have begun, and die before or between their draws.
    waiting = other.trials()
    for trial in waiting[:4]:
        other.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    narrow = SweepConfig(space={"optim.lr": SPACE["optim.lr"]}, sampler="random", trials=6)
    other.config, config = narrow, other.config
    other.draw_settings(optuna.Trial(other.study, waiting[2]._trial_id))
    other.config = config
    for trial in waiting[:4]:
        other.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    run_worker(other, formula)
    assert settings_by_number(whole) == settings_by_number(other)
    different = run_workers(tmp_path / "c", random_search(seed=1), "", formula)
    assert settings_by_number(whole) != settings_by_number(different)


def test_more_trials_go_on_and_any_other_change_is_refused_by_name(tmp_path):
    first = settings_by_number(run_workers(tmp_path / "s", random_search(trials=3), "d", formula))
    more = run_workers(tmp_path / "s", random_search(trials=5), "d", formula)
    assert settings_by_number(more)[:3] == first
    assert len(more.trials()) == 5
    with pytest.raises(InputError, match="trials: 5 -> 3"):
        Sweep(tmp_path / "s", random_search(trials=3), "d")
    with pytest.raises(InputError, match=r"seed: 0 -> 7.*undo the change"):
        Sweep(tmp_path / "s", random_search(trials=5, seed=7), "d")
    with pytest.raises(InputError, match="the dataset"):
        Sweep(tmp_path / "s", random_search(trials=5), "another")
    narrower = SweepConfig(space={**SPACE, "train.steps": SettingSpace(low=2, high=8)}, sampler="random", trials=5)
    with pytest.raises(InputError, match=r"space.train.steps.high: 9.* -> 8"):
        Sweep(tmp_path / "s", narrower, "d")


def test_changed_keys_tell_what_came_and_went():
    assert changed_keys({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": {}}) == ["a.c: 2 -> nothing", "d: nothing -> {}"]
    assert changed_keys({"a": [1, 2]}, {"a": [1, 2]}) == []


def test_a_failed_trial_keeps_its_words_and_the_sweep_goes_on(tmp_path, caplog):
    def objective(experiment, folder, report):
        if experiment.optim.lr == 1e-2:
            raise InputError("the loss is nan at step 10")
        if experiment.optim.lr == 1e-4 and experiment.optim.weight_decay == 0.1:
            raise RuntimeError("out of memory\nmore words")
        if experiment.optim.lr == 1e-4:
            return Outcome(float("nan"), {})
        return formula(experiment, folder, report)

    table = trial_table(run_workers(tmp_path / "s", GRID, "", objective)).set_index("trial")
    assert table["state"].to_dict() == dict(enumerate(["failed", "failed", "complete", "complete", "failed", "failed"]))
    assert table.at[4, "note"] == "the loss is nan at step 10"
    assert table.at[1, "note"] == "RuntimeError: out of memory more words"
    assert "the score is nan" in table.at[0, "note"]
    assert "trial 4 failed: the loss is nan" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interruptions_and_disk_faults_leave_the_trial_to_be_taken_up(tmp_path, error):
    runs = []

    def objective(experiment, folder, report):
        runs.append(folder.name)
        if len(runs) == 3:
            raise error("no")
        return formula(experiment, folder, report)

    with pytest.raises(error):
        run_workers(tmp_path / "s", GRID, "", objective)
    states = trial_table(Sweep(tmp_path / "s", GRID))["state"].value_counts().to_dict()
    assert states == {"complete": 2, "waiting": 4}
    sweep = run_workers(tmp_path / "s", GRID, "", objective)
    assert runs == ["0000", "0001", "0002", "0003", "0004", "0005", "0002"]
    assert not sweep.unfinished()


def test_an_interruption_that_a_library_renamed_is_one(tmp_path):
    def objective(experiment, folder, report):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("while saving")  # noqa: B904 - this is what such a library does

    with pytest.raises(KeyboardInterrupt):
        run_workers(tmp_path / "s", GRID, "", objective)
    assert len(Sweep(tmp_path / "s", GRID).unfinished()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_trial_that_is_behind_is_stopped_and_not_ranked_as_a_whole_run(tmp_path, pruner):
    levels = (0.9, 0.8, 0.85, 0.7, 0.95, 0.75, 0.5, 0.4, 0.3)
    config = SweepConfig(space={"optim.ema": SettingSpace(values=levels)}, pruner=pruner)
    steps = {}

    def objective(experiment, folder, report):
        for step in range(1, 9):
            steps[experiment.optim.ema] = step
            if report(step, experiment.optim.ema * step / 8):
                raise Stopped
        score = experiment.optim.ema
        return Outcome(score, {"val_dice": score, "loss": 0.1, "steps": 8, "seconds": 1.0})

    table = trial_table(run_workers(tmp_path / "s", config, "", objective))
    pruned = table[table["state"] == "pruned"]
    assert len(pruned)
    assert steps[0.3] < 8 == steps[0.95]
    assert pruned["note"].str.contains("not that of a whole run").all()
    assert table["state"].tolist() == sorted(table["state"].tolist()), "complete ones stand first"
    assert table["optim.ema"].iloc[0] == 0.95


def test_a_trial_that_went_back_to_its_last_state_reports_the_same_steps_again(tmp_path):
    config = SweepConfig(space={"optim.ema": SettingSpace(values=(0.9,))}, pruner="median")

    def objective(experiment, folder, report, fails=[True]):  # noqa: B006 - it must fail once
        for step in (1, 2):
            report(step, 0.5)
        if fails.pop() if fails else False:
            raise KeyboardInterrupt
        return formula(experiment, folder, report)

    with pytest.raises(KeyboardInterrupt):
        run_workers(tmp_path / "s", config, "", objective)
    sweep = run_workers(tmp_path / "s", config, "", objective)
    assert sweep.trials()[0].intermediate_values == {1: 0.5, 2: 0.5}
    assert number_of(sweep.best()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("reports", [True, False])
def test_a_trial_that_was_taken_over_is_left_to_its_new_holder(tmp_path, caplog, reports):
    runs = []

    def objective(experiment, folder, report):
        runs.append(folder.name)
        if runs == ["0000", "0001"]:  # as if this process had slept for long, and another had seen no heartbeat
            other = Sweep(tmp_path / "s", GRID)
            held = next(trial for trial in other.trials() if trial.state == TrialState.RUNNING)
            other.storage.set_trial_state_values(held._trial_id, TrialState.FAIL)
            other.take_up_lost()
            if reports:
                report(1, 0.5)
        return formula(experiment, folder, report)

    sweep = run_workers(tmp_path / "s", GRID, "", objective)
    assert "trial 1 was taken over" in caplog.text
    assert runs == [*(f"{number:04d}" for number in range(6)), "0001"]
    assert trial_table(sweep)["state"].eq("complete").all()


def test_a_trial_that_was_entered_twice_runs_once(tmp_path):
    """As when two processes find the same dead one, or begin a sweep at the same moment."""
    sweep = Sweep(tmp_path / "s", GRID)
    for number in (0, 3):
        sweep.study.enqueue_trial(sweep.trials()[number].system_attrs["fixed_params"], user_attrs={NUMBER: number})
    sweep.study.add_trial(optuna.create_trial(state=TrialState.WAITING))  # as Optuna makes one where none waits
    runs = []

    def objective(experiment, folder, report):
        runs.append(folder.name)
        return formula(experiment, folder, report)

    run_worker(sweep, objective)
    assert runs == [f"{number:04d}" for number in range(6)]
    assert len(trial_table(sweep)) == 6


def test_a_database_that_cannot_be_opened_is_refused_without_its_password(tmp_path):
    for address in ("postgresql://me:secret@nowhere/x", "mysql+nodriver://me:secret@nowhere/x", "nonsense secret"):
        with pytest.raises(InputError, match="the database cannot be opened") as caught:
            Sweep(tmp_path / "s", GRID, "", address)
        assert "secret" not in str(caught.value).replace("nonsense secret", "")


@pytest.mark.slow
def test_the_least_loss_is_best_where_loss_decides(tmp_path):
    config = SweepConfig(space=GRID.space, metric="loss")

    def objective(experiment, folder, report):
        loss = experiment.optim.lr
        return Outcome(loss, {"val_dice": 0.5, "loss": loss, "steps": 1, "seconds": 0.1})

    sweep = run_workers(tmp_path / "s", config, "", objective)
    assert number_of(sweep.best()) == 0, "of equals the first"
    assert trial_table(sweep)["loss"].is_monotonic_increasing


def test_the_highest_shift_score_is_best_where_it_decides(tmp_path):
    config = replace(GRID, metric="shift")

    def objective(experiment, folder, report):
        outcome = formula(experiment, folder, report)
        shift = experiment.optim.lr  # ranks the trials otherwise than their plain score
        return Outcome(shift, {"shift": shift, **outcome.values})

    sweep = run_workers(tmp_path / "s", config, "", objective)
    assert number_of(sweep.best()) == 4
    table = trial_table(sweep)
    assert list(table.columns[3:6]) == ["shift", "val_dice", "loss"]
    assert table["shift"].is_monotonic_decreasing
    assert not table["val_dice"].is_monotonic_decreasing
    assert table["note"].tolist() == [NOTES["shift"], "", "", "", "", ""]


def slow_formula(experiment, folder, report):
    """Notes when it begins and ends, and what it finds begun by a process that is alive.

    The first trial ends only where it was taken up again: whoever begins it is there to be killed in it.
    """
    mark = folder / f"alive.{os.getpid()}"
    mark.touch()
    others = [int(file.suffix[1:]) for file in folder.glob("alive.*") if file != mark]
    again = bool(others)
    alive = [pid for pid in others if os.path.exists(f"/proc/{pid}") and is_running(pid)]
    with (folder.parent / "log.jsonl").open("a") as stream:
        stream.write(json.dumps({"trial": folder.name, "pid": os.getpid(), "beside": alive, "again": again}) + "\n")
    time.sleep(0.1 if again or folder.name != "0000" else 600)
    outcome = formula(experiment, folder, report)
    mark.unlink()
    return outcome


def is_running(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] not in ("Z", "X")


def killable_worker(folder, config, address):
    run_worker(Sweep(folder, config, "", address), slow_formula)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request):
    """The file of the sweep's folder, and a real server."""
    with postgres_server() if request.param == "postgresql" else nullcontext("") as given:
        yield given


@pytest.mark.slow
def test_killed_workers_lose_no_trial_and_none_runs_twice(tmp_path, monkeypatch, address):
    """Workers are killed, one within a trial and three at random moments, and replaced; the last ones end the grid."""
    monkeypatch.setattr("histofold.train.sweep.study.HEARTBEAT_S", 1)
    monkeypatch.setattr("histofold.train.sweep.study.GRACE_S", 6)
    config = SweepConfig(space={**GRID.space, "train.seed": SettingSpace(values=(0, 1))})
    context, chance, folder = multiprocessing.get_context("fork"), random.Random(0), tmp_path / "s"
    Sweep(folder, config, "", address).storage.engine.dispose()  # children must not inherit its connection

    def start():
        worker = context.Process(target=killable_worker, args=(folder, config, address), daemon=True)
        worker.start()
        return worker

    def log():
        path = folder / "trials" / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def within_the_first_trial():
        (pid,) = (entry["pid"] for entry in log() if entry["trial"] == "0000")
        return next(number for number, worker in enumerate(running) if worker.pid == pid)

    running = [start(), start()]
    for kill in range(4):
        while len(log()) <= 2 * kill or (kill == 0 and all(entry["trial"] != "0000" for entry in log())):
            time.sleep(0.05)  # each one begins something before the next is killed
        time.sleep(chance.uniform(0.0, 0.1))
        victim = running.pop(chance.randrange(2) if kill else within_the_first_trial())
        victim.kill()
        victim.join()
        running.append(start())
    for worker in running:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    sweep = Sweep(folder, config, "", address)
    table = trial_table(sweep)
    assert table["state"].eq("complete").all()
    points = table[list(config.space)].itertuples(index=False, name=None)
    assert sorted(points) == sorted((a, b, c) for a in RATES for b in DECAYS for c in (0, 1))
    assert {entry["trial"] for entry in log()} == {f"{number:04d}" for number in range(12)}
    assert all(entry["beside"] == [] for entry in log()), "no trial ran twice at a time"
    attempts = sweep.study.get_trials(states=(TrialState.COMPLETE,))
    assert sorted(map(number_of, attempts)) == list(range(12)), "no trial ran twice to its end"
    assert "0000" in {entry["trial"] for entry in log() if entry["again"]}, "a killed one was taken up in its folder"
    sweep.storage.engine.dispose()


def formula_of_a_group_of_its_own(experiment, folder, report):
    """A terminal's interrupt must not reach a worker beside the one that is passed on to it."""
    assert os.getpgrp() == os.getpid()
    return formula(experiment, folder, report)


@pytest.mark.slow
def test_several_processes_share_a_grid(tmp_path, monkeypatch):
    monkeypatch.setattr("histofold.train.sweep.workers.POLL_S", 0.2)
    before = dict(os.environ)
    sweep = run_workers(tmp_path / "s", GRID, "", formula_of_a_group_of_its_own, workers=2)
    assert trial_table(sweep)["state"].eq("complete").all()
    assert dict(os.environ) == before


def test_costs_are_read_from_the_logs(tmp_path):
    assert math.isnan(trial_costs(tmp_path)["loss"])
    for fold, loss in ((0, 0.5), (1, 0.3)):
        (tmp_path / f"fold{fold}").mkdir()
        rows = [f"{step},{9 if step < 90 else loss},{step / 10}" for step in range(10, 101, 10)]
        (tmp_path / f"fold{fold}" / "log.csv").write_text("\n".join(["step,loss,seconds", *rows]) + "\n")
    costs = trial_costs(tmp_path)
    assert costs["loss"] == pytest.approx(0.4)
    assert (costs["steps"], costs["seconds"]) == (200, 20.0)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_study_that_was_cut_short_is_refused_by_its_file(tmp_path, share):
    Sweep(tmp_path / "s", GRID).storage.engine.dispose()
    path = tmp_path / "s" / "study.db"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"study.db: .+; .*(copy it again|check the address)"):
        Sweep(tmp_path / "s", GRID)
