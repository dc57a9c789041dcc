"""Commands as jobs of a scheduler: a verb is cut into pieces, each the verb itself with narrower arguments.

submitit starts, queues and requeues them; every command goes on where it was stopped, so a job that comes back runs the
same command again. Nothing is scheduled here.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from histofold.core.faults import Fault, InputError
from histofold.schema.claims import Claims
from histofold.schema.parse import kept_json, write_json

POLL_S = {"local": 1.0, "slurm": 30.0}
DEFAULTS = {
    "local": {"timeout_min": 30 * 24 * 60},
    "slurm": {"timeout_min": 24 * 60, "slurm_signal_delay_s": 120},
}
"""What submitit is told where the command line says nothing: it would end a job after 2 or 5 minutes."""
MOST_TIMEOUTS = 100
"""How often a job may come back after its time was over."""
RECORD = "jobs.json"


@dataclass(frozen=True, kw_only=True)
class LauncherOptions:
    """Where the work is done."""

    launcher: Literal["here", "local", "slurm"] = "here"
    """Jobs (docs/scale.md): `slurm` queues them, `local` starts all at once here."""
    launcher_options: tuple[str, ...] = ()
    """What submitit is told: timeout_min=720 gpus_per_node=2 slurm_partition=gpu ..."""

    def __post_init__(self) -> None:
        if self.launcher_options and self.launcher == "here":
            raise InputError("--launcher-options are for jobs: give --launcher slurm or local too")
        for option in self.launcher_options:
            if "=" not in option:
                raise InputError(f"--launcher-options {option}: write NAME=VALUE, as timeout_min=720")

    def parameters(self) -> dict[str, Any]:
        """Names and values for submitit, ours where the command line says nothing; a value is read as JSON if it is."""
        given: dict[str, Any] = {}
        for option in self.launcher_options:
            name, _, text = option.partition("=")
            try:
                given[name] = json.loads(text)
            except ValueError:
                given[name] = text
        return {**DEFAULTS[self.launcher], **given}


def without_options(arguments: Sequence[str], *names: str) -> list[str]:
    """A command line without some options of one value, and always without the launcher's."""
    kept, skip = [], 0
    for argument in arguments:
        name, has_value, _ = argument.replace("_", "-").partition("=")
        if name == "--launcher-options":
            skip = len(arguments)  # its values are pairs, as many as come
        elif name in (*names, "--launcher"):
            skip = 0 if has_value else 1
        elif skip and not argument.startswith("--") and (skip == 1 or has_value):
            skip -= 1
        else:
            skip = 0
            kept.append(argument)
    return kept


class CommandJob:
    """What a job runs: a process, which is ended by SIGTERM where the job has to go, and run again when it is back.

    Args:
        command: The words of the process.
        lock: File and piece that no other job of the same piece may be at meanwhile.
    """

    def __init__(self, command: Sequence[str], lock: tuple[Path, int]) -> None:
        self.command, self.lock, self.folder = list(command), lock, Path.cwd()
        self._pid = self._alive = 0

    def __call__(self) -> None:
        """Run it to its end.

        Raises:
            InputError: If it fails; why stands in the job's log.
        """
        path, piece = self.lock
        with Claims(path) as claims:
            claims.take(piece, wait=True)  # from a job of an earlier call, which is still at it
            print(shlex.join(self.command), flush=True)
            # The pipe ends with the process and all that it has started. `checkpoint` may interrupt this wait and waits
            # too, which on the lock of `Popen.wait` would be for ever.
            self._alive, inherited = os.pipe()
            process = subprocess.Popen(self.command, cwd=self.folder, pass_fds=[inherited])
            self._pid = process.pid
            os.close(inherited)
            os.read(self._alive, 1)
            if process.wait():
                raise InputError(f"it ended with status {process.returncode}")

    def checkpoint(self) -> Any:
        """Called by submitit where the job has to go: the process saves and ends; gives what is to run afterwards."""
        from submitit.helpers import DelayedSubmission

        if self._pid:
            os.kill(self._pid, signal.SIGTERM)
            os.read(self._alive, 1)
            self._pid = 0
        return DelayedSubmission(self)


def job_command(arguments: Sequence[str], processes: int = 1) -> list[str]:
    """The process of a verb: under torchrun where it is to have several."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--max-restarts=3"]
    return [sys.executable, *(torchrun if processes > 1 else []), "-m", "histofold.commands.main", *arguments]


def run_jobs(pieces: Mapping[str, Sequence[str]], folder: Path, options: LauncherOptions) -> None:
    """Run commands as jobs and wait for all of them; jobs of an earlier call that are not done are waited for.

    Args:
        pieces: Verb and arguments of each piece, by what it is called.
        folder: Where logs and submitit's own files go; all machines must see it.
        options: Which launcher, and what it is told.

    Raises:
        InputError: If submitit or its scheduler is not there or refuses an option, or jobs fail.
        SystemExit: On Ctrl-C, which the jobs outlive.
    """
    parameters, verb = options.parameters(), next(iter(pieces.values()))[0]
    processes = _gpus(parameters) if verb == "train" else 1
    lock = folder.resolve() / "pieces.lock"
    # A piece has the same lock in every call, whatever else that call runs.
    commands = {
        what: CommandJob(job_command(arguments, processes), (lock, zlib.crc32(what.encode())))
        for what, arguments in pieces.items()
    }
    jobs = _unfinished(folder, options.launcher, commands)
    new = {what: command for what, command in commands.items() if what not in jobs}
    if new:
        jobs |= _submit(new, folder.resolve(), options.launcher, {"name": f"histofold-{verb}", **parameters})
    records = {what: {"job": job.job_id, "command": commands[what].command} for what, job in jobs.items()}
    write_json(folder / RECORD, kept_json(folder / RECORD) | records)
    try:
        _watch({what: jobs[what] for what in pieces}, POLL_S[options.launcher])
    except KeyboardInterrupt:
        see = "squeue --me shows them; " if options.launcher == "slurm" else ""
        words = f"the jobs go on: {see}logs are in {folder}; the same command again waits for them"
        print(f"histofold {verb}: {words}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def _submitit() -> Any:
    """The library, which only jobs need."""
    try:
        return importlib.import_module("submitit")
    except ImportError:
        rule, remedy = "submitit is not installed", "install it as docs/scale.md says, or leave --launcher out"
        raise InputError([Fault("--launcher", "submitit", rule, remedy)]) from None


def _gpus(parameters: Mapping[str, Any]) -> int:
    """GPUs of a job, each of which has a process of its own."""
    given = parameters.get("gpus_per_node") or 1
    if not isinstance(given, int):
        remedy = 'a kind of GPU is asked for by slurm_constraint, or slurm_additional_parameters={"gres": "gpu:a100:2"}'
        raise InputError(f"--launcher-options gpus_per_node={given}: give a number; {remedy}")
    return given


def _unfinished(folder: Path, launcher: str, commands: Mapping[str, CommandJob]) -> dict[str, Any]:
    """Jobs of an earlier call of the same commands that still wait or run.

    Those of this machine, and of other commands, are left to the lock of their piece.
    """
    if launcher != "slurm":
        return {}
    record, library = kept_json(folder / RECORD), _submitit()
    same = {what: record[what]["job"] for what, job in commands.items() if _command(record.get(what)) == job.command}
    jobs = {what: library.SlurmJob(folder.resolve(), job_id) for what, job_id in same.items()}
    return {what: job for what, job in jobs.items() if not job.done(force_check=True)}


def _command(entry: Any) -> Any:
    """The command of a job in the record; None where there is none."""
    return entry.get("command") if isinstance(entry, dict) and "job" in entry else None


def _submit(
    commands: Mapping[str, CommandJob], folder: Path, launcher: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """submitit's job of each command, on SLURM an array of them."""
    library = _submitit()
    # Jobs that start on this machine inherit that Ctrl-C and the end of the terminal are ignored.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        limits = {f"{launcher}_max_num_timeout": MOST_TIMEOUTS}
        executor = library.AutoExecutor(folder=folder, cluster=launcher, **limits)
        executor.update_parameters(**parameters)
        return dict(zip(commands, executor.submit_array(list(commands.values())), strict=True))
    except (NameError, AssertionError, ValueError, TypeError, RuntimeError, OSError) as error:
        remedy = "check --launcher-options by submitit's names, and that this machine can queue jobs"
        raise InputError([Fault("--launcher", launcher, str(error).splitlines()[0], remedy)]) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(jobs: Mapping[str, Any], poll_s: float) -> None:
    """Print a table of the jobs, and a line again where a state changes, until all are done.

    Raises:
        InputError: If jobs have failed.
    """
    width = max(map(len, jobs))
    print(f"{'job':<12}  {'what':<{width}}  {'state':<10}  log", flush=True)
    states: dict[str, str] = {}
    while True:
        waiting = [what for what, job in jobs.items() if not job.done()]
        for what, job in jobs.items():
            if states.get(what) != job.state:
                states[what] = job.state
                print(f"{job.job_id:<12}  {what:<{width}}  {job.state:<10}  {job.paths.stdout}", flush=True)
        if not waiting:
            break
        time.sleep(poll_s)
    failed = {what: job for what, job in jobs.items() if job.exception() is not None}
    if failed:
        remedy = "mend what its log says and give the same command again: what is done is not done again"
        raise InputError([Fault(what, str(job.paths.stderr), "the job failed", remedy) for what, job in failed.items()])
