"""The trials of a sweep in an Optuna study, in a database that many processes and machines share.

A trial of the sweep is a point of its space, numbered from 0. Optuna runs it in attempts, which are trials to Optuna:
whoever is killed or interrupted leaves an attempt behind, Optuna's heartbeat shows that it is dead, and the trial is
entered again as a new attempt, which goes on in the same folder. Of the attempts of a trial the first that is not dead
stands for it, so that a trial entered twice by two processes at once still runs once.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from histofold.core.faults import Fault, InputError
from histofold.schema.files import disk_fault
from histofold.schema.parse import plain
from histofold.schema.sweep import SettingSpace, SweepConfig, as_setting, setting_type

HEARTBEAT_S = 10
"""How often a process that runs a trial says that it is alive."""
GRACE_S = 60
"""After so long without a word it is taken for dead."""
NUMBER, WORDS = "number", "words"
"""What an attempt carries in the study: the number of its trial, and why it failed."""


class Sweep:
    """A study, as one process sees it.

    Example:
        >>> sweep = Sweep(Path("runs/sweep_lr"), load_sweep(Path("experiments/sweep_lr.toml")))  # doctest: +SKIP
        >>> sweep.best().value  # doctest: +SKIP
        0.7912
    """

    def __init__(self, folder: Path, config: SweepConfig, digest: str = "", address: str = "") -> None:
        """Open the study of a folder, or begin it and enter all of its trials.

        Args:
            folder: runs/S.
            config: The search.
            digest: Identifies the data and everything else outside the file that decides the results.
            address: The database, as postgresql://me@host/name; empty for the file study.db in the folder.

        Raises:
            InputError: If the database cannot be opened, or the study is one of another search; with what differs.
        """
        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = _open_storage(address, folder / "study.db")
        self._seen_running: set[int] = set()
        try:
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=folder.name,
                direction="minimize" if config.metric == "loss" else "maximize",
                pruner=_pruner(config.pruner),
                load_if_exists=True,
            )
            self._check_or_record(digest)
            self._enter_trials()
        except (StorageInternalError, sqlalchemy.exc.DatabaseError) as error:
            if disk_fault(error) is not None:
                raise
            file = address.partition("://")[0] or str(folder / "study.db")
            remedy = "copy it again, or remove it: folds that are trained already are not trained again"
            raise InputError([Fault("storage", file, "the study cannot be read: cut short?", remedy)]) from None

    def trials(self) -> list[FrozenTrial]:
        """The attempt that stands for each trial, by the trials' numbers."""
        standing: dict[int, FrozenTrial] = {}
        for attempt in self.study.get_trials(deepcopy=False):
            number = attempt.user_attrs.get(NUMBER)
            if number is not None and (number not in standing or is_cut_short(standing[number])):
                standing[number] = attempt
        return [standing[number] for number in sorted(standing)]

    def unfinished(self) -> list[FrozenTrial]:
        """The trials that wait, are under way, or were cut short."""
        return [trial for trial in self.trials() if not trial.state.is_finished() or is_cut_short(trial)]

    def stands(self, attempt: Trial) -> bool:
        """Whether an attempt is to be run: no earlier one of its trial is alive or has ended by itself."""
        return any(trial._trial_id == attempt._trial_id for trial in self.trials())

    def take_up_lost(self) -> None:
        """Enter every trial again whose process is dead, or that was interrupted."""
        for attempt in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if attempt._trial_id not in self._seen_running:
                # Optuna would wait for ever for one that was killed before its first heartbeat: this one counts.
                self.storage.record_heartbeat(attempt._trial_id)
                self._seen_running.add(attempt._trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.trials():
            # Interrupted, or its finder was killed before it had entered it again.
            if is_cut_short(trial):
                _enter_again(self.study, trial)

    def best(self) -> FrozenTrial | None:
        """The best complete trial; of equals the first."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE and trial.value is not None]
        sign = 1 if self.config.metric == "loss" else -1
        return min(done, key=lambda trial: (sign * float(trial.value or 0.0), number_of(trial)), default=None)

    def trial_folder(self, number: int) -> Path:
        """Where a trial writes."""
        return self.folder / "trials" / f"{number:04d}"

    def settings_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """Dotted setting to value of a trial, as far as they are drawn."""
        given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        return {name: _decoded(space, given[name]) for name, space in self.config.space.items() if name in given}

    def draw_settings(self, attempt: Trial) -> dict[str, Any]:
        """Dotted setting to value; what the trial does not have yet is drawn.

        Each draw has a seed of its own, of the trial's number and the setting's name, so that it depends neither on the
        process that makes it nor on whether the trial was interrupted.
        """
        drawn = {}
        for name, space in self.config.space.items():
            text = f"{self.config.seed}/{number_of(attempt)}/{name}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            make = optuna.samplers.TPESampler if self.config.sampler == "tpe" else optuna.samplers.RandomSampler
            self.study.sampler = make(seed=seed)
            drawn[name] = _decoded(space, _drawn(attempt, name, space, self.config.sampler == "grid"))
        return drawn

    def _check_or_record(self, digest: str) -> None:
        """Compare the search with the study's, or write it into a new one."""
        now = {"config": plain(self.config), "digest": digest}
        held = self.study.user_attrs.get("sweep")
        if held is None:
            self.study.set_user_attr("sweep", now)
            return
        changes = changed_keys(held["config"], json.loads(json.dumps(now["config"])))
        more = held["config"]["trials"], self.config.trials
        if self.config.sampler != "grid" and more[0] < more[1]:
            changes = [change for change in changes if not change.startswith("trials:")]
        if not changes and held["digest"] != digest:
            changes = ["the dataset, or the package's version"]
        if changes:
            rule = f"holds a sweep with other settings ({'; '.join(changes)})"
            remedy = "undo the change, or give the file another name"
            raise InputError([Fault(self.folder.name, str(self.folder), rule, remedy)])
        if held["config"]["trials"] != self.config.trials:
            self.study.set_user_attr("sweep", now)

    def _enter_trials(self) -> None:
        """Enter the trials that the study lacks; their numbers are the places of the grid's points."""
        points, known = self.config.grid(), {number_of(trial) for trial in self.trials()}
        for number in range(self.config.size()):
            if number not in known:
                settings = {name: _encoded(value) for name, value in (points[number] if points else {}).items()}
                self.study.enqueue_trial(settings, user_attrs={NUMBER: number})


def number_of(trial: Trial | FrozenTrial) -> int:
    """The number of the trial that an attempt belongs to."""
    return int(trial.user_attrs[NUMBER])


def is_cut_short(trial: FrozenTrial) -> bool:
    """Whether an attempt neither ended by itself nor can go on."""
    return trial.state == TrialState.FAIL and WORDS not in trial.user_attrs


def _open_storage(address: str, file: Path) -> RDBStorage:
    # Python's driver begins a transaction only where something is written, so that two processes could both read that
    # a trial waits and both take it. Without the driver's own transactions every one of ours begins as a writer, and
    # waits for the others: the five seconds that it would wait by itself are few on a busy disk.
    own = {} if address else {"connect_args": {"isolation_level": None, "timeout": 60}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                address or f"sqlite:///{file}",
                engine_kwargs=own,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=_enter_again,
            )
    except (ImportError, ValueError, RuntimeError, sqlalchemy.exc.SQLAlchemyError) as error:
        # No word of the address, which may hold a password.
        rule = f"the database cannot be opened ({type(error).__name__})"
        remedy = "check the address, that its driver is installed and that the server runs"
        raise InputError([Fault("storage", address.partition("://")[0] or str(file), rule, remedy)]) from None
    if own:
        sqlalchemy.event.listen(storage.engine, "begin", _begin_as_writer)
    return storage


def _begin_as_writer(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _enter_again(study: optuna.Study, attempt: FrozenTrial) -> None:
    """Enter the trial of a dead attempt again, with all that is known of it; others that Optuna may find are left."""
    if NUMBER in attempt.user_attrs and WORDS not in attempt.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, attempt)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two nested tables of plain data, as `key: old -> new`."""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key, 'nothing')} -> {after.get(key, 'nothing')}" for key in keys]


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in table.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
    return flat


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner()
    return optuna.pruners.SuccessiveHalvingPruner() if name == "halving" else optuna.pruners.NopPruner()


def _drawn(attempt: Trial, name: str, space: SettingSpace, is_grid: bool) -> Any:
    """The study's value of a setting, drawn now where it has none."""
    values = space.grid_values() if is_grid else space.values
    if values or space.low is None or space.high is None:
        return attempt.suggest_categorical(name, [_encoded(as_setting(name, value)) for value in values])
    high = space.grid_values()[-1] if space.step else space.high
    if setting_type(name) is int:
        return attempt.suggest_int(name, int(space.low), int(high), step=int(space.step or 1), log=space.log)
    return attempt.suggest_float(name, space.low, high, step=space.step, log=space.log)


def _encoded(value: Any) -> Any:
    """A value as a study takes it: lists and tables as JSON."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(plain(value))


def _decoded(space: SettingSpace, value: Any) -> Any:
    """A study's value as the setting takes it; a stepped one without the rounding of its sum."""
    if space.step and isinstance(value, float):
        return float(f"{value:.12g}")
    return next((one for one in space.values if _encoded(one) == value), value)
