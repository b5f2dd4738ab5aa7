"""How much memory training took."""

import sys

import torch


def peak(device: torch.device) -> str:
    """A phrase: the most memory that this process has taken so far on `device`."""
    if device.type == "cuda":
        return f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on {device}"
    if device.type == "mps":
        return f"memory {torch.mps.driver_allocated_memory() / 2**30:.1f} GiB on {device}"
    try:
        import resource  # not on Windows
    except ImportError:
        return "peak memory unknown"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"peak memory {used / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB"
