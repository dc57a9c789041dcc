"""A PostgreSQL of the test's own: in a new folder, on a socket there, gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

OWNER = "postgres"
"""Whom the server runs as where the tests run as root, whom it refuses."""


def program(name):
    """One of PostgreSQL's programs, on the path or where Debian lays them; skips where there is none."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, places)]))
    if found is None:
        pytest.skip(f"{name} of PostgreSQL is not installed: apt-get install postgresql")
    return found


@contextmanager
def postgres_server():
    """The address of an empty database, as `--storage` takes it."""
    initdb, postgres, ready = (program(name) for name in ("initdb", "postgres", "pg_isready"))
    user = {}
    if os.geteuid() == 0:
        if OWNER not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip(f"no user {OWNER}, and PostgreSQL does not run as root")
        user = {"user": OWNER, "group": pwd.getpwnam(OWNER).pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="postgres_"))  # the path of a socket may have a hundred characters
    if user:
        shutil.chown(folder, OWNER)
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    try:
        subprocess.run([initdb, "-D", "data", "-U", OWNER, "-A", "trust", "--no-sync"], check=True, **quiet)
        settings = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        with subprocess.Popen([postgres, "-D", str(folder / "data"), *settings], **quiet) as server:
            try:
                tries = [ready, "--quiet", "-h", str(folder), "-t", "1"]
                while subprocess.run(tries, check=False).returncode:
                    assert server.poll() is None, "it did not start"
                yield f"postgresql://{OWNER}@/{OWNER}?host={folder}"
            finally:
                server.send_signal(signal.SIGINT)  # it ends its sessions and then itself
                server.wait(timeout=60)
    finally:
        shutil.rmtree(folder)
