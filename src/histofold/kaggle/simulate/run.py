"""Run a packaged kernel as Kaggle would: alone, without network; watched and limited, or held against our own rows."""

from __future__ import annotations

import contextlib
import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from histofold.kaggle.simulate import alone as alone_module
from histofold.kaggle.simulate.files import FakeKaggle

KAGGLE_MEMORY_BYTES = 29 * 10**9
KAGGLE_DISK_BYTES = 20 * 10**9
_POLL_S = 0.05
_DISK_POLL_S = 2.0


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """What the host allows."""

    seconds: float
    """Wall time."""
    memory_bytes: int = KAGGLE_MEMORY_BYTES
    """Resident memory of the process."""
    disk_bytes: int = KAGGLE_DISK_BYTES
    """Files in the working folder."""


@dataclass
class Watched:
    """What was seen of a run."""

    status: int = 0
    """Exit status; negative: ended by that signal."""
    seconds: float = 0.0
    """Wall time."""
    memory_bytes: int = 0
    """Peak of the resident memory, 0 where the system does not say."""
    disk_bytes: int = 0
    """Peak of the files in the working folder."""
    stopped: str = ""
    """The limit that was passed (time, memory, disk) and for which it was ended; empty for none."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage, in order."""
    output: str = ""
    """What it printed."""


def watch_kernel(
    kernel: Path, tree: FakeKaggle, limits: HostLimits, on_rows: Callable[[int], None] = lambda rows: None
) -> Watched:
    """Run a kernel in a process of its own until it ends or passes a limit, for which it is killed.

    The kernel is told its time; `on_rows` is called now and then with the count of rows that are done.
    """
    variables = {
        **os.environ,
        "HISTOFOLD_KAGGLE_ROOT": str(tree.root.resolve()),
        "HISTOFOLD_LIMIT_S": str(limits.seconds),
    }
    alone = [sys.executable, "-I", alone_module.__file__, str(kernel.resolve())]
    watched = Watched()
    pieces: list[str] = []
    started = time.monotonic()
    process = subprocess.Popen(
        [*no_network(), *alone],
        cwd=tree.working,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    output = process.stdout
    reader = threading.Thread(target=lambda: pieces.extend(output), name="kernel-log", daemon=True)
    reader.start()
    try:
        _watch(process, tree, limits, watched, started, on_rows)
    finally:
        if process.poll() is None:
            _kill_session(process)
        reader.join()
        output.close()
    watched.seconds, watched.output = time.monotonic() - started, "".join(pieces)
    watched.status = process.wait()
    return watched


def _watch(
    process: subprocess.Popen[str],
    tree: FakeKaggle,
    limits: HostLimits,
    watched: Watched,
    started: float,
    on_rows: Callable[[int], None],
) -> None:
    """Look at a process until it ends, or a limit is passed; what is seen goes into `watched`."""
    moments = {"start": started}
    next_disk = started
    while process.poll() is None and not watched.stopped:
        now = time.monotonic()
        watched.memory_bytes = max(watched.memory_bytes, peak_memory_bytes(process.pid))
        if now >= next_disk:
            watched.disk_bytes = max(watched.disk_bytes, folder_bytes(tree.working))
            next_disk = now + _DISK_POLL_S
            on_rows(_journalled_rows(tree.journal))
        for path in (tree.answer, tree.journal):
            if path.name not in moments and path.exists():
                moments[path.name] = now
        for name, used, allowed in (
            ("time", now - started, limits.seconds),
            ("memory", watched.memory_bytes, limits.memory_bytes),
            ("disk", watched.disk_bytes, limits.disk_bytes),
        ):
            if used > allowed:
                watched.stopped = name
        time.sleep(_POLL_S)
    watched.disk_bytes = max(watched.disk_bytes, folder_bytes(tree.working))
    watched.stages = _stages(moments, tree, time.monotonic())


def _stages(moments: dict[str, float], tree: FakeKaggle, end: float) -> dict[str, float]:
    """Seconds of the stages between the moments that were seen."""
    names = {
        "start": "start, imports, the legal file",
        tree.answer.name: "tables read, weights found and checked",
        tree.journal.name: "networks loaded, images predicted",
    }
    known = [name for name in names if name in moments]
    later = [*(moments[name] for name in known[1:]), end]
    return {names[name]: stop - moments[name] for name, stop in zip(known, later, strict=True)}


def _journalled_rows(path: Path) -> int:
    """Rows that a journal holds; its first line is no row. 0 where there is none."""
    try:
        with path.open("rb") as stream:
            return max(0, sum(1 for _ in stream) - 1)
    except OSError:
        return 0


def _kill_session(process: subprocess.Popen[str]) -> None:
    """End a process and what it started; it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def peak_memory_bytes(pid: int) -> int:
    """The largest resident memory that a process ever had, 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; those that vanish meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def no_network() -> list[str]:
    """The words before a command that take the network away, none where this machine allows no such namespace."""
    words = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return words if allowed else []


def rehearse_kernel(kernel: Path, competition: Path, weights: Path, submission: Path, log: Path) -> None:
    """Run a kernel alone, as Kaggle would, and hold its file against that of `histofold predict`, of the same name.

    What the kernel prints goes to the log.

    Raises:
        RuntimeError: If the kernel fails, or its submission differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        kaggle = Path(folder)
        (kaggle / "input").mkdir()
        (kaggle / "working").mkdir()
        for name, target in (("competition", competition), ("weights", weights)):
            (kaggle / "input" / name).symlink_to(target.resolve(), target_is_directory=True)
        done = subprocess.run(
            [sys.executable, "-I", str(kernel.resolve())],
            cwd=kaggle,
            env={**os.environ, "HISTOFOLD_KAGGLE_ROOT": str(kaggle)},
            capture_output=True,
            text=True,
            check=False,
        )
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            raise RuntimeError(f"the kernel failed, see {log}")
        if not filecmp.cmp(kaggle / "working" / submission.name, submission, shallow=False):
            raise RuntimeError(f"the kernel's submission differs from histofold predict's, see {log}")
