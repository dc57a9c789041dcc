"""Which device is chosen, in what precision; GPUs are pretended, since the tests' machines have none."""

import platform
import resource

import pytest
import torch

from histofold.predict import devices
from histofold.predict.devices import all_devices, best_device, best_precision, describe_device, release_memory

APPLE = torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """Pretends a machine of so many GPUs of NVIDIA's, or one of Apple's."""
    monkeypatch.delenv("HISTOFOLD_PRECISION", raising=False)

    def pretend(cuda=0, apple=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
        if apple:
            monkeypatch.setattr(devices.sys, "platform", "darwin")

    return pretend


def test_gpus_go_before_the_cpu(machine):
    machine()
    assert all_devices() == [torch.device("cpu")]
    machine(cuda=2)
    assert all_devices() == [torch.device("cuda", 0), torch.device("cuda", 1)]
    machine(cuda=1, apple=True)
    assert best_device() == torch.device("cuda", 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator gives back at once")
def test_a_cpu_reuses_the_memory_of_freed_tensors(machine):
    machine()
    all_devices()
    for _ in range(12):  # the first ones may leave gaps too narrow for their like
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pages = torch.ones(10 * 2**20).nbytes // resource.getpagesize()
        fresh = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert fresh < pages // 10, "the last one's pages were there already"


def test_apples_gpu_is_used_in_full_precision(machine):
    machine(apple=True)
    assert all_devices() == [best_device()] == [APPLE]
    assert best_precision(APPLE) == torch.float32
    assert describe_device(APPLE).startswith("MPS")
    release_memory()  # asks no GPU of NVIDIA's


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_precision_of_a_gpu_is_its_generations(machine, monkeypatch, capability, precision):
    machine(cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert best_precision(torch.device("cuda", 0)) == precision


def test_autocast_that_is_off_stands_on_every_device():
    for kind in ("cpu", "mps"):
        with torch.autocast(kind, torch.float32, enabled=False):
            assert not torch.is_autocast_enabled(kind)
