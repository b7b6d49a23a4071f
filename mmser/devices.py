"""The device that torch computes on, and its memory."""

import re
from pathlib import Path

import torch

from mmser.errors import MmserError

_MEMINFO = Path("/proc/meminfo")
"""Linux's."""


def pick_device(asked: str) -> torch.device:
    """The device to run on; ``auto`` takes a CUDA GPU where there is one.

    Raises:
        MmserError: the device is not there.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise MmserError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory: for a CPU torch has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def free_bytes(device: torch.device) -> float | None:
    """What a device's memory can still take, by what the system says; None where it says nothing.

    On a GPU what torch's allocator keeps of tensors that are gone is free too.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
    return None if found is None else 1024.0 * int(found[1])
