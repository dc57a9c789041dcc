"""Verbs are killed, and their second call makes what an unkilled one does."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

HURT = ("train", "predict")
"""The benchmark kills all of them, and often."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_verb_loses_nothing_and_its_second_call_makes_the_same(project_root, tmp_path):
    """In a process that runs nothing itself: a fork of one whose libraries hold threads can stop for ever."""
    program = [sys.executable, str(project_root / "benchmarks" / "kill_resume.py"), "--verbs", "1", "--only", *HURT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, "--out", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == list(HURT)
    assert lines[-1] == f"{len(HURT)} trials, 0 with a loss"
