"""Verbs as jobs: on this machine, and through a SLURM that is three small scripts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit

from histofold.commands import launch, parse_options
from histofold.commands.launch import CommandJob, LauncherOptions, job_command, run_jobs, without_options
from histofold.commands.main import main
from histofold.commands.sweep import SweepOptions
from histofold.commands.train import TrainOptions
from histofold.commands.train import run as train
from histofold.core.faults import InputError
from histofold.schema.parse import to_toml
from small_datasets import draw, make_folder
from small_runs import small_dataset, small_experiment

SBATCH = """#!/bin/bash
echo "$1" >> "$FAKE_SLURM/queue"
cp "$1" "$FAKE_SLURM/script.sh"
echo SubmittedError batch job 42
[ -e "$FAKE_SLURM/full" ] && exit
bash "$FAKE_SLURM/run" > "$FAKE_SLURM/log" 2>&1 &
"""
# All tasks of the array, one after the other.
RUN = """for task in $(seq 0 $(sed -n 's/.*--array=0-\\([0-9]*\\).*/\\1/p' "$FAKE_SLURM/script.sh")); do
    export SLURM_JOB_ID=$((42 + task)) SLURM_ARRAY_JOB_ID=42 SLURM_ARRAY_TASK_ID=$task
    bash "$FAKE_SLURM/script.sh"
    echo $task >> "$FAKE_SLURM/ended"
done
"""
SRUN = """#!/bin/bash
while [ "${1:0:2}" = -- ]; do
    case $1 in --output) log=$2; shift 2;; --error) err=$2; shift 2;; *) shift;; esac
done
for word in A a t; do
    case $word in A) value=42;; a) value=$SLURM_ARRAY_TASK_ID;; t) value=0;; esac
    log=${log//%$word/$value} err=${err//%$word/$value}
done
"$@" > "$log" 2> "$err"
"""
SACCT = """#!/bin/bash
echo 'JobID|State|NodeList'
for task in 0 1 2; do
    state=PENDING
    grep -qx $task "$FAKE_SLURM/ended" 2> /dev/null && state=COMPLETED
    echo "42_$task|$state|node7"
done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder where `queue` lists what was submitted; while `full` lies in it, nothing is run."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT), ("run", RUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setitem(launch.POLL_S, "slurm", 0.1)
    submitit.SlurmJob.watcher.clear()
    return folder


def cluster(name, *options):
    return LauncherOptions(launcher=name, launcher_options=options)


VERSIONS = {"fold 0": ["--version"], "fold 1": ["--version"], "fold 2": ["--help"]}


@pytest.mark.parametrize(
    "line",
    [
        "E.toml --fold 1 --optim.lr 1e-3",
        "--launcher slurm E.toml --fold 1 --optim.lr 1e-3",
        "--launcher=slurm --launcher-options a=1 b=[2] --workers 3 E.toml --fold 1 --optim.lr 1e-3",
        "E.toml --fold 1 --workers=3 --launcher_options slurm_partition=gpu --launcher local --optim.lr 1e-3",
        "E.toml --fold 1 --optim.lr 1e-3 --launcher local --launcher-options a=1 b=2",
    ],
)
def test_a_piece_has_the_command_line_without_the_launcher(line):
    assert without_options(line.split(), "--workers") == ["E.toml", "--fold", "1", "--optim.lr", "1e-3"]


def test_values_are_read_as_json_where_they_are():
    options = cluster("slurm", "timeout_min=90", "mem_gb=1.5", "slurm_partition=gpu", 'slurm_setup=["module load x"]')
    parameters = options.parameters()
    given = {"timeout_min": 90, "mem_gb": 1.5, "slurm_partition": "gpu", "slurm_setup": ["module load x"]}
    assert parameters == {**parameters, **given}
    assert cluster("slurm").parameters()["timeout_min"] > 5, "submitit's own limit is 5 minutes"


def test_training_on_several_gpus_is_under_torchrun():
    assert job_command(["train", "E.toml"]) == [sys.executable, "-m", "histofold.commands.main", "train", "E.toml"]
    assert "--nproc-per-node=2" in job_command(["train", "E.toml"], 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--launcher-options", "timeout_min=3"], "give --launcher"),
        (["--launcher", "local", "--launcher-options", "timeout_min"], "NAME=VALUE"),
        (["--launcher", "local"], "give --num-shards"),
        (["--launcher", "local", "--num-shards", "2", "--shard-id", "1"], "no --shard-id"),
        (["--num-shards", "2", "--workers", "2"], "jobs of --launcher"),
        (["--num-shards", "2", "--limit-s", "9"], "leave it out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words, capsys):
    assert main(["predict", "--weights", "w", "--data", "d", "--out", "o.csv", *options]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_kind_of_gpu_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match=r"gpus_per_node=a100:2: give a number; .*slurm_constraint"):
        run_jobs({"fold 0": ["train", "e.toml"]}, tmp_path, cluster("slurm", "gpus_per_node=a100:2"))


@pytest.mark.slow
def test_a_prediction_of_jobs_ends_with_the_merged_submission(small_package, tmp_path, capsys):
    make_folder(tmp_path / "data", {f"image{number}": draw(number) for number in range(4)})
    out = tmp_path / "all.csv"
    line = ["predict", "--weights", str(small_package), "--data", str(tmp_path / "data"), "--out", str(out)]
    assert main([*line, "--num-shards", "3", "--launcher", "local", "--workers", "2"]) == 0, capsys.readouterr().err
    merged = out.read_bytes()
    assert "images, 0 of them with fallback rows" in capsys.readouterr().out
    assert main([*line[:-1], str(tmp_path / "one.csv")]) == 0
    assert (tmp_path / "one.csv").read_bytes() == merged


def test_a_sweep_over_machines_needs_a_database(tmp_path, capsys):
    (tmp_path / "s.toml").write_text("[space]\noptim.lr = [1]\n")
    assert parse_options(SweepOptions, "sweep", ["s.toml", "--launcher", "local"]).jobs.launcher == "local"
    assert main(["sweep", str(tmp_path / "s.toml"), "--workers", "2", "--launcher", "slurm"]) == 2
    assert "--storage" in capsys.readouterr().err


class SubmittedError(Exception):
    """Stands for the jobs, and carries their pieces."""


def submitted(pieces, folder, options):
    raise SubmittedError(pieces, folder)


@pytest.mark.slow
def test_a_fold_is_a_job_that_resumes(tmp_path, monkeypatch):
    (tmp_path / "e.toml").write_text(to_toml(small_experiment(small_dataset(tmp_path))))
    monkeypatch.setattr("histofold.commands.train.run_jobs", submitted)
    line = [str(tmp_path / "e.toml"), "--runs", str(tmp_path / "runs"), "--launcher", "local"]
    experiment = parse_options(TrainOptions, "train", line).path
    for arguments, folds in (([], (0, 1)), (["--fold", "1"], (1,)), (["--resume", "--fold=0"], (0,))):
        with pytest.raises(SubmittedError) as jobs:
            train([*line, *arguments])
        pieces, folder = jobs.value.args
        assert folder == tmp_path / "runs" / "e" / "jobs"
        assert list(pieces) == [f"fold {fold}" for fold in folds]
        for fold, (verb, *command) in zip(folds, pieces.values(), strict=True):
            options = parse_options(TrainOptions, verb, command)
            assert (options.path, options.fold, options.resume) == (experiment, fold, True)
            assert options.jobs == LauncherOptions()


@pytest.mark.slow
def test_jobs_of_this_machine_have_their_logs_and_a_line_in_the_table(tmp_path, capsys):
    pieces = {**VERSIONS, "fold 2": ["nonsense"]}
    with pytest.raises(InputError, match=r"fold 2: .*_0_log.err: the job failed; mend") as refused:
        run_jobs(pieces, tmp_path / "jobs", cluster("local"))
    assert len(refused.value.faults) == 1
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows[0] == ["job", "what", "state", "log"]
    last = {what: (state, Path(log)) for _, what, state, log in rows[1:]}
    assert {what: state for what, (state, _) in last.items()} == dict.fromkeys(pieces, "FINISHED")
    assert "0.1.0" in last["fold 0"][1].read_text()
    assert "unknown verb" in last["fold 2"][1].with_suffix(".err").read_text()


@pytest.mark.parametrize("option", ["nonsense=1", "slurm_nonsense=1", "timeout_min=soon"])
def test_what_submitit_does_not_know_is_refused_in_words(tmp_path, slurm, option):
    with pytest.raises(InputError, match="submitit's names"):
        run_jobs(VERSIONS, tmp_path / "jobs", cluster("slurm", option))
    assert not (slurm / "queue").exists()


def test_without_a_cluster_slurm_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"srun.*this machine can queue jobs"):
        run_jobs(VERSIONS, tmp_path / "jobs", cluster("slurm"))


@pytest.mark.slow
def test_slurm_is_given_one_array_with_our_options(tmp_path, slurm, capsys):
    options = ("timeout_min=720", "mem_gb=64", "gpus_per_node=2", "slurm_partition=gpu", "slurm_account=lab")
    run_jobs(VERSIONS, tmp_path / "jobs", cluster("slurm", *options))
    assert len((slurm / "queue").read_text().splitlines()) == 1
    flags = {line.removeprefix("#SBATCH --") for line in (slurm / "script.sh").read_text().splitlines()}
    wanted = {"time=720", "mem=64GB", "gpus-per-node=2", "partition=gpu", "account=lab", "array=0-2%3"}
    assert wanted <= flags
    assert {"signal=USR2@120", "open-mode=append", "job-name=histofold---version"} <= flags
    logs = [tmp_path / "jobs" / f"42_{task}_0_log.out" for task in range(3)]
    assert ["0.1.0" in log.read_text() for log in logs] == [True, True, False]
    assert "usage: histofold VERB" in logs[2].read_text()
    assert "42_2" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_leaves_jobs_alone_and_the_same_command_waits_for_them(tmp_path, slurm, capsys, monkeypatch):
    (slurm / "full").touch()

    def interrupted(seconds):
        raise KeyboardInterrupt

    def run_queue(seconds):
        subprocess.run(["bash", str(slurm / "run")], check=True)

    monkeypatch.setattr(launch, "time", SimpleNamespace(sleep=interrupted))
    with pytest.raises(SystemExit) as left:
        run_jobs(VERSIONS, tmp_path / "jobs", cluster("slurm"))
    assert left.value.code == 130
    assert "the jobs go on: squeue --me" in capsys.readouterr().err
    monkeypatch.setattr(launch, "time", SimpleNamespace(sleep=run_queue))
    run_jobs(VERSIONS, tmp_path / "jobs", cluster("slurm"))
    assert len((slurm / "queue").read_text().splitlines()) == 1, "nothing is queued a second time"
    (slurm / "ended").unlink()
    run_jobs({"fold 0": ["--help"], "fold 1": ["--help"]}, tmp_path / "jobs", cluster("slurm"))
    assert len((slurm / "queue").read_text().splitlines()) == 2, "another command is another piece"
    assert "0.1.0" in (tmp_path / "jobs" / "42_1_0_log.out").read_text()


STOPPABLE = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def save(number, frame):
    time.sleep(0.5)
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
with (folder / "starts").open("a") as stream:
    stream.write(f"{(folder / 'saved').exists()}\\n")
while not (folder / "saved").exists():
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_job_that_has_to_go_saves_first_and_comes_back_with_the_same_command(tmp_path):
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=10)
    job = executor.submit(CommandJob([sys.executable, "-c", STOPPABLE, str(tmp_path)], (tmp_path / "lock", 0)))
    starts, deadline = tmp_path / "starts", time.monotonic() + 120
    while not starts.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # as SLURM does before it takes the nodes away
    assert job.exception() is None
    assert starts.read_text().split() == ["False", "True"], "it came back once, when the first one had saved"
