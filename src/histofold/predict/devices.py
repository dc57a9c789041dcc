"""Where networks run, and in what precision."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
import threading
from pathlib import Path

import torch

from histofold.core.faults import InputError

_DEVICE_LOCKS: dict[str, threading.RLock] = {}
_LOCKS_LOCK = threading.Lock()
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them


def device_lock(device: torch.device) -> threading.RLock:
    """The lock of a device: one forward pass at a time, so that activations of several networks never add up."""
    with _LOCKS_LOCK:
        return _DEVICE_LOCKS.setdefault(str(device), threading.RLock())


def best_device() -> torch.device:
    """The first GPU where there is one, NVIDIA's or Apple's, else the CPU."""
    return all_devices()[0]


def all_devices() -> list[torch.device]:
    """Every GPU, or the CPU where there is none.

    Apple's counts where there is none of NVIDIA's. Of a CPU's memory what is freed is kept from then on.
    """
    if torch.cuda.is_available():
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [torch.device("mps")]
    keep_freed_memory()
    return [torch.device("cpu")]


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones; other systems' allocators stay as they are.

    Left alone it gives back what is larger than 32 MB, as activations are, and the system clears new pages for the
    next pass: up to a third of a training step. Arrays beyond 512 MB still come and go, so that a mask of a whole
    slide costs no more than what is written of it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**29)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def best_precision(device: torch.device) -> torch.dtype:
    """bf16 where the hardware computes it, fp16 on older GPUs, else fp32.

    On Apple's GPUs it is fp32: half precision was never seen at work there.

    It is read from the hardware's own description, not timed, so that one machine always answers the same. The
    environment variable HISTOFOLD_PRECISION, bf16 or fp32, overrules it: tests run in either on any processor.

    Raises:
        InputError: If the variable is neither.
    """
    wanted = os.environ.get("HISTOFOLD_PRECISION", "")
    if wanted:
        if wanted not in ("bf16", "fp32"):
            raise InputError(f"HISTOFOLD_PRECISION={wanted}: set it to bf16 or fp32, or leave it out")
        return torch.bfloat16 if wanted == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    cpuinfo = Path("/proc/cpuinfo")
    if sys.platform == "linux" and cpuinfo.is_file():
        text = cpuinfo.read_text(errors="replace")
        if "avx512_bf16" in text or "amx_bf16" in text:
            return torch.bfloat16
    return torch.float32


def free_bytes(device: torch.device) -> float:
    """Memory that a device has left, in bytes; of the CPU what the system calls available, else infinite."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def release_memory() -> None:
    """Give back what nothing refers to any more, on the GPUs too.

    Without a GPU of NVIDIA's torch does nothing here; Apple's gives back by itself before it runs out.
    """
    gc.collect()
    torch.cuda.empty_cache()


def describe_device(device: torch.device) -> str:
    """A device in words."""
    words = f"{device.type.upper()}, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else words


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; only CUDA and Python have types of their own for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = (
        *("can't allocate memory", "annot allocate memory", "out of memory", "ALLOC_FAILED", "Insufficient memory"),
        *("could not create a primitive", "failed to map segment", "can't start new thread"),  # oneDNN, dlopen, Python
        "unable to find an engine to execute this computation",  # cuDNN's way to say so
    )
    return any(word in str(error) for word in words)
