"""Who works on what, told by files on a disk that several machines may share.

A lease is a file `name.000001` that only one process can create. Its holder is known to be gone where its process has
ended on this machine, or where it has not touched the file for some minutes; then `name.000002` is for the taking, and
so on. No file that counts is ever removed, so no two processes can take the same one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

HEARTBEAT_S = 10.0
STALE_S = 300.0


class Lease:
    """The right to work on something, until it is released or its process ends; another thread keeps it alive."""

    def __init__(self, path: Path, number: int, token: str) -> None:
        """Take note of a lease that has just been created, and begin to keep it alive."""
        self._base, self._path, self._token = path, _numbered(path, number), token
        self._done = threading.Event()
        threading.Thread(target=self._keep_alive, daemon=True).start()
        for old in _leases(path):
            if old < number:
                _numbered(path, old).unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether nobody has taken it over meanwhile, as may happen to a process that slept for long."""
        newest = max(_leases(self._base), default=0)
        return not self._done.is_set() and _owner(_numbered(self._base, newest)).get("token") == self._token

    def release(self) -> None:
        """Leave it to others at once."""
        if self.held():
            temporary = self._base.with_name(f".{self._base.name}.{self._token}.tmp")
            temporary.write_text(json.dumps({"released": True}), encoding="utf-8")
            os.replace(temporary, self._path)
        self._done.set()

    def _keep_alive(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a disk that is away for a moment must not end the trial
                os.utime(self._path)


def try_lease(path: Path) -> Lease | None:
    """Take a lease if nobody alive holds it.

    Args:
        path: Its name, in a folder that exists; files beside it carry a number after it.

    Returns:
        The lease, or None where it is held.
    """
    token = uuid.uuid4().hex
    newest = max(_leases(path), default=0)
    temporary = path.with_name(f".{path.name}.{token}.tmp")
    temporary.write_text(json.dumps({"token": token, **_this_process()}), encoding="utf-8")
    try:
        # The age is told by the disk's clock, which this file has just been given: machines' own clocks may differ.
        if newest and not _is_free(_numbered(path, newest), temporary.stat().st_mtime):
            return None
        _create(temporary, _numbered(path, newest + 1))
    except (FileExistsError, FileNotFoundError):
        return None  # somebody was faster
    finally:
        temporary.unlink(missing_ok=True)
    if max(_leases(path)) > newest + 1:  # others have taken and passed it on since we looked
        _numbered(path, newest + 1).unlink(missing_ok=True)
        return None
    return Lease(path, newest + 1, token)


def wait_for_lease(path: Path, every_s: float = 0.1) -> Lease:
    """Take a lease, waiting until it is free; for short work only."""
    while (lease := try_lease(path)) is None:
        time.sleep(every_s)
    return lease


def _create(content: Path, target: Path) -> None:
    """Give a file a second name, where that name is free.

    Raises:
        FileExistsError: If it is not.
    """
    try:
        os.link(content, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        with target.open("x", encoding="utf-8") as stream:  # a disk without second names
            stream.write(content.read_text(encoding="utf-8"))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number:06d}")


def _leases(path: Path) -> list[int]:
    """Numbers of the files of a lease."""
    suffixes = (file.name.removeprefix(f"{path.name}.") for file in path.parent.glob(f"{path.name}.*"))
    return [int(suffix) for suffix in suffixes if suffix.isdigit()]


def _owner(file: Path) -> dict[str, Any]:
    """What a lease says of its holder; nothing where it is gone."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_free(file: Path, now: float) -> bool:
    """Whether a lease was released, or its holder is gone."""
    owner = _owner(file)
    if owner.get("released"):
        return True
    this = _this_process()
    if owner.get("machine") == this["machine"] and owner.get("started") is not None:
        return _started(int(owner["pid"])) != owner["started"]
    return now - file.stat().st_mtime > STALE_S


def _this_process() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str:
    """This machine since its last start, or this container of it: where process numbers mean the same."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine's start, so that a number given anew is not taken for it.

    None where there is no such process, it has ended and only waits to be collected, or the system does not tell.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]
