"""Ranks, devices, and what is said once for the whole job: the only module that knows of ranks."""

import logging
import os
import random
import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from util.errors import UserError


def rank() -> int:
    """This process's number in the job, 0 to world_size() - 1."""
    return 0


def world_size() -> int:
    """How many processes train together."""
    return 1


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def say(message: str) -> None:
    """Print one line for the whole job; a progress bar on the terminal stays whole."""
    if is_main():
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()


def complain(message: str) -> None:
    """Print an error on stderr, once for the whole job."""
    if is_main():
        print(message, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a program: a UserError ends in its one message and exit status 2, without a traceback."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        refuse_several_ranks()
        main()
    except UserError as error:
        complain(f"{os.path.basename(sys.argv[0])}: error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)


def refuse_several_ranks() -> None:
    """Stop a torchrun job of several processes: each would train a model of its own."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(2)
        raise UserError(
            f"torchrun started {size} processes, and this version trains in one only; "
            "use python, or --nproc_per_node=1"
        )


def choose_device(gpu_ids: str | None) -> torch.device:
    """The device to train on.

    Args:
        gpu_ids: what the user typed after --gpu_ids ("0", "0,1", "-1" for the CPU), or None for
            the best device at hand: CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: no such GPU; the message lists those that exist.
    """
    if gpu_ids is None:
        return best_device()
    ids = parse_gpu_ids(gpu_ids)
    if not ids:
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if not count and ids == [0]:  # in everybody's scripts, being the default of the original
        device = best_device()
        say(f"--gpu_ids 0: there is no CUDA GPU here, so this runs on {device}")
        return device
    missing = [i for i in ids if i >= count]
    if missing:
        raise UserError(
            f"--gpu_ids {gpu_ids}: there is no GPU {missing[0]} here; {existing_gpus()}. "
            "Leave the flag out for the best device, or use --gpu_ids -1 for the CPU"
        )
    if len(ids) > 1:
        say(
            f"--gpu_ids {gpu_ids}: one process trains on one GPU, this one on GPU {ids[0]}; for "
            f"all of them: CUDA_VISIBLE_DEVICES={gpu_ids} torchrun --nproc_per_node={len(ids)} …"
        )
    return torch.device("cuda", ids[0])


def best_device() -> torch.device:
    """CUDA, MPS or CPU: the first that works here."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


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


def seed_everything(seed: int) -> None:
    """Seed initialisation, dropout and image pools; the loader seeds each sample by itself."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def wrap(net: nn.Module, norm: str) -> nn.Module:
    """Make a network ready for the job; in a job of one process, the network itself."""
    return net


def unwrap(net: nn.Module) -> nn.Module:
    """The network that `wrap` was given."""
    return net


def mean(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Each value averaged over the ranks, as floats; waits for the device once, not per value."""
    tensors = {k: v.detach().reshape(()) for k, v in values.items() if isinstance(v, Tensor)}
    floats = dict(values)
    if tensors:
        floats.update(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
    return {name: float(value) for name, value in floats.items()}
