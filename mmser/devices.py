"""The device that torch computes on."""

import torch

from mmser.errors import MmserError


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
