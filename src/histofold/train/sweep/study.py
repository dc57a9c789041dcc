"""The trials of a sweep as an Optuna study in one journal file that many processes write.

All trials are entered when the study begins, each is run under a lease of its own, and its state in the study is only
changed by the lease's holder. So a trial is never run twice at a time and never lost, whoever is killed and when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from histofold.core.faults import Fault, InputError
from histofold.schema.parse import plain
from histofold.schema.sweep import SettingSpace, SweepConfig, as_setting, setting_type
from histofold.train.sweep.lease import Lease, try_lease, wait_for_lease

LOCK_GRACE_S = 15
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Claim:
    """One trial that this process, and no other, may run.

    Attributes:
        trial: The trial; with a state in the study of "running".
        settings: Dotted setting to value.
        folder: Where it writes.
        lease: The right to run it.
    """

    trial: Trial
    settings: dict[str, Any]
    folder: Path
    lease: Lease


class Sweep:
    """A study on disk, as one process sees it."""

    def __init__(self, folder: Path, config: SweepConfig, digest: str = "") -> None:
        """Open the study of a folder, or begin it and enter all of its trials.

        Args:
            folder: runs/S.
            config: The search.
            digest: Identifies the data and everything else outside the file that decides the results.

        Raises:
            InputError: If the folder holds a study of another search; with what differs.
        """
        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "study.log"
        lock = JournalFileOpenLock(str(path), grace_period=LOCK_GRACE_S)
        lease = wait_for_lease(folder / "setup.lease")
        try:
            _drop_torn_end(path, lock)
            self.storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
            if not optuna.get_all_study_names(self.storage):
                direction = StudyDirection.MAXIMIZE if config.metric == "val_dice" else StudyDirection.MINIMIZE
                optuna.create_study(storage=self.storage, study_name="sweep", direction=direction)
            self.study = optuna.load_study(study_name="sweep", storage=self.storage, pruner=_pruner(config.pruner))
            self._check_or_record(digest)
            self._enter_trials()
        finally:
            lease.release()

    def claim(self) -> Claim | None:
        """Take the first trial that is neither finished nor held by anybody alive; None where there is none now."""
        for seen in self.unfinished():
            folder = self.trial_folder(seen.number)
            folder.mkdir(parents=True, exist_ok=True)
            lease = try_lease(folder / "lease")
            if lease is None:
                continue
            state = self.storage.get_trial(seen._trial_id).state
            if state.is_finished():
                lease.release()
                continue
            if state == TrialState.WAITING:
                self.storage.set_trial_state_values(seen._trial_id, TrialState.RUNNING)
            trial = Trial(self.study, seen._trial_id)
            return Claim(trial, self._settings(trial), folder, lease)
        return None

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def unfinished(self) -> list[FrozenTrial]:
        """The trials that wait or are under way."""
        return [trial for trial in self.trials() if not trial.state.is_finished()]

    def best(self) -> FrozenTrial | None:
        """The best complete trial; of equals the first."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE and trial.value is not None]
        sign = -1 if self.config.metric == "val_dice" else 1
        return min(done, key=lambda trial: (sign * float(trial.value or 0.0), trial.number), default=None)

    def trial_folder(self, number: int) -> Path:
        """Where a trial writes."""
        return self.folder / "trials" / f"{number:04d}"

    def settings_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """Dotted setting to value of a trial, as far as they are drawn."""
        given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        return {name: _decoded(space, given[name]) for name, space in self.config.space.items() if name in given}

    def _settings(self, trial: Trial) -> dict[str, Any]:
        """Draw the settings that the trial does not have yet.

        Each draw has a seed of its own, of the trial's number and the setting's name, so that it hangs neither on the
        process that makes it nor on whether the trial was interrupted.
        """
        drawn = {}
        for name, space in self.config.space.items():
            text = f"{self.config.seed}/{trial.number}/{name}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            make = optuna.samplers.TPESampler if self.config.sampler == "tpe" else optuna.samplers.RandomSampler
            self.study.sampler = make(seed=seed)
            drawn[name] = _decoded(space, _drawn(trial, name, space, self.config.sampler == "grid"))
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
        points = self.config.grid()
        for number in range(len(self.trials()), self.config.size()):
            settings = points[number] if points else {}
            self.study.enqueue_trial({name: _encoded(value) for name, value in settings.items()})


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


def _drop_torn_end(path: Path, lock: JournalFileOpenLock) -> None:
    """Drop a last line that a kill or a full disk cut short: what it told is told again."""
    if not path.is_file():
        return
    lock.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner()
    return optuna.pruners.SuccessiveHalvingPruner() if name == "halving" else optuna.pruners.NopPruner()


def _drawn(trial: Trial, name: str, space: SettingSpace, is_grid: bool) -> Any:
    """The study's value of a setting, drawn now where it has none."""
    values = space.grid_values() if is_grid else space.values
    if values or space.low is None or space.high is None:
        return trial.suggest_categorical(name, [_encoded(as_setting(name, value)) for value in values])
    high = space.grid_values()[-1] if space.step else space.high
    if setting_type(name) is int:
        return trial.suggest_int(name, int(space.low), int(high), step=int(space.step or 1), log=space.log)
    return trial.suggest_float(name, space.low, high, step=space.step, log=space.log)


def _encoded(value: Any) -> Any:
    """A value as a study takes it: lists and tables as JSON."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(plain(value))


def _decoded(space: SettingSpace, value: Any) -> Any:
    """A study's value as the setting takes it; a stepped one without the crumbs of adding steps up."""
    if space.step and isinstance(value, float):
        return float(f"{value:.12g}")
    return next((one for one in space.values if _encoded(one) == value), value)
