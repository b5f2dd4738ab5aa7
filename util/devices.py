"""Which device to train on, among those that this machine has."""

import torch

from util.errors import UserError


def best_device() -> torch.device:
    """CUDA, MPS or CPU: the first that works here."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def gpus_to_use(gpu_ids: str | None) -> list[int]:
    """The CUDA GPUs that --gpu_ids allows.

    Args:
        gpu_ids: what the user typed: "0", "0,1", "-1" for the CPU; None for all that there are.

    Raises:
        UserError: no such GPU; the message lists those that exist.
    """
    count = torch.cuda.device_count()
    if gpu_ids is None:
        return list(range(count))
    ids = parse_gpu_ids(gpu_ids)
    missing = [i for i in ids if i >= count]
    if missing:
        raise UserError(
            f"--gpu_ids {gpu_ids}: there is no GPU {missing[0]} here; {existing_gpus()}. "
            "Leave the flag out for the best device, or use --gpu_ids -1 for the CPU"
        )
    return ids


def parse_gpu_ids(gpu_ids: str) -> list[int]:
    """The non-negative ids of a list like "0,2"; empty for "-1", the CPU."""
    try:
        return [i for i in map(int, gpu_ids.split(",")) if i >= 0]
    except ValueError:
        raise UserError(
            f"--gpu_ids {gpu_ids} is not a list of numbers; write 0, or 0,1, or -1 for the CPU"
        ) from None


def existing_gpus() -> str:
    """A phrase that lists the GPUs of this machine."""
    names = [f"{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return f"GPUs here: {', '.join(names)}" if names else "this machine has no CUDA GPU"
