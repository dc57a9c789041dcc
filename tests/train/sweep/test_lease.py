import json
import multiprocessing
import os
import subprocess
import threading
import time

import pytest

from histofold.train.sweep import lease as lease_module
from histofold.train.sweep.lease import try_lease, wait_for_lease


def test_only_one_holds_a_lease_and_a_released_one_is_free(tmp_path):
    path = tmp_path / "lease"
    for _ in range(3):
        lease = try_lease(path)
        assert lease.held()
        assert try_lease(path) is None
        lease.release()
        assert not lease.held()
    assert len(list(tmp_path.iterdir())) == 1, "older files are removed, and no temporary ones stay"


def test_of_many_threads_one_at_a_time_gets_it(tmp_path):
    inside, most, got = [], [], []

    def work():
        for _ in range(6):
            lease = try_lease(tmp_path / "lease")
            if lease is not None:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()
                got.append(1)
                lease.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got
    assert max(most) == 1


def hold(path, ready):
    lease = try_lease(path)
    ready.put(lease is not None)
    time.sleep(600)


def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    process = context.Process(target=hold, args=(tmp_path / "lease", ready), daemon=True)
    process.start()
    assert ready.get(timeout=60)
    assert try_lease(tmp_path / "lease") is None
    os.kill(process.pid, 9)
    process.join()
    lease = wait_for_lease(tmp_path / "lease")
    assert lease.held()
    lease.release()


def pose_as(path, monkeypatch, **changes):
    """Write a lease held by another process."""
    holder = {"token": "x", "machine": lease_module._machine(), "pid": os.getpid(), "started": "1", **changes}
    (path.parent / f"{path.name}.000001").write_text(json.dumps(holder))


def test_a_process_number_given_anew_is_not_taken_for_the_holder(tmp_path, monkeypatch):
    pose_as(tmp_path / "lease", monkeypatch)
    lease = try_lease(tmp_path / "lease")
    assert lease is not None
    lease.release()


def test_a_process_that_only_waits_to_be_collected_holds_nothing():
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 60
    while lease_module._started(process.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.wait() == 0
    assert lease_module._started(os.getpid()) is not None


@pytest.mark.parametrize(("age_s", "is_free"), [(0, False), (lease_module.STALE_S + 60, True)])
def test_another_machines_lease_lives_as_long_as_it_is_touched(tmp_path, monkeypatch, age_s, is_free):
    pose_as(tmp_path / "lease", monkeypatch, machine="elsewhere")
    file = tmp_path / "lease.000001"
    os.utime(file, (time.time() - age_s,) * 2)
    lease = try_lease(tmp_path / "lease")
    assert (lease is not None) == is_free


def test_a_holder_keeps_its_lease_fresh_and_sees_when_it_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.02)
    lease = try_lease(tmp_path / "lease")
    file = tmp_path / "lease.000001"
    os.utime(file, (0, 0))
    deadline = time.monotonic() + 60
    while file.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lease.held()
    (tmp_path / "lease.000002").write_text('{"token": "another"}')
    assert not lease.held()
    lease.release()
    assert json.loads((tmp_path / "lease.000002").read_text()) == {"token": "another"}


def test_a_disk_without_second_names_serves_too(tmp_path, monkeypatch):
    def refuse(content, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lease = try_lease(tmp_path / "lease")
    assert lease.held()
    assert try_lease(tmp_path / "lease") is None
    lease.release()
