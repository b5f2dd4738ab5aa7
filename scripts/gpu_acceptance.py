"""Does training hold on this GPU? Checks that tests on a CPU cannot make, and tables of its speed.

    python scripts/gpu_acceptance.py > acceptance.md   # one CUDA GPU, under 20 minutes
    python scripts/gpu_acceptance.py --device cpu      # the same program, small, under 2 minutes
    python scripts/gpu_acceptance.py --only gradients resume

Prints Markdown, for docs/performance.md. Exit status 1 if a check fails.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import harness  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import train  # noqa: E402
from benchmarks.plain_step import PLAIN, plain_networks, without_kinks  # noqa: E402
from models import create_model  # noqa: E402
from models.base_model import BaseModel  # noqa: E402
from models.networks import cpu_layers  # noqa: E402
from models.recorded_step import WARM_UPS  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from util import distributed, precision, rng  # noqa: E402
from util.distributed import program, sync_batch_norm  # noqa: E402
from util.training.interrupts import StepMonitor  # noqa: E402
from util.training.progress import Progress  # noqa: E402

MODELS = ("cycle_gan", "pix2pix")
# errors of a network's gradient, relative to its length, that rounding of this type may make
LIMITS = {"fp32": 1e-4, "tf32": 0.01, "fp16": 0.01, "bf16": 0.1}
SMALL = {  # for a CPU
    "cycle_gan": "--netG resnet_6blocks --ngf 8 --ndf 8 --crop_size 64 --load_size 64".split(),
    "pix2pix": "--netG unet_128 --ngf 8 --ndf 8 --crop_size 128 --load_size 128".split(),
}
FULL = dict.fromkeys(MODELS, ["--load_size", "256"])
RUN = "--model pix2pix --netG unet_128 --ngf 8 --ndf 8 --crop_size 128 --load_size 128".split()
RUN += "--print_freq 1 --num_threads 1 --no_html --n_epochs_decay 0 --save_epoch_freq 1".split()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
STEPS = {"cpu": 1, "cuda": WARM_UPS + 2}  # on CUDA the last is a replay
Gradients = dict[str, Tensor]


# ---- one step against the textbook's -----------------------------------------------------------


def build(device: str, name: str, *more: str, full: bool) -> BaseModel:
    """A model whose steps change no weights, so that each step has the same gradients."""
    argv = ["--dataroot", "none", "--model", name, *(FULL if full else SMALL)[name], "--lr", "0"]
    argv += ["--pool_size", "0", "--no_dropout", *more, "--gpu_ids"]
    with contextlib.redirect_stdout(io.StringIO()):
        opt = TrainOptions().parse([*argv, "0" if device == "cuda" else "-1"])
        precision.configure(opt.device, opt.precision, fixed_shapes=True)
        rng.seed_everything(0)
        model = create_model(opt)
        model.setup(opt)
    return model


def batch_for(model: BaseModel, count: int = 1, seed: int = 1) -> dict[str, Any]:
    """Images of the model's size, on its device, the same for every model of that size."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, 3, model.opt.crop_size, model.opt.crop_size)
    images = {side: torch.rand(size, generator=generator) * 2 - 1 for side in "AB"}
    batch: dict[str, Any] = {side: image.to(model.device) for side, image in images.items()}
    return batch | {"A_paths": ["a"] * count, "B_paths": ["b"] * count}


def gradients(nets: dict[str, nn.Module]) -> Gradients:
    """The gradient of each network, (weights,) float64 on the CPU."""
    return {
        name: torch.cat([w.grad.detach().double().cpu().flatten() for w in net.parameters()])
        for name, net in nets.items()
    }


@cache
def reference(name: str, full: bool, count: int) -> Gradients:
    """The gradients of the textbook's step, on the CPU in float64, in one process."""
    with mock.patch.dict(os.environ, {"WORLD_SIZE": "1", "RANK": "0"}):
        model = build("cpu", name, "--batch_size", str(count), full=full)
    nets = {name: net.double() for name, net in plain_networks(model).items()}
    batch = batch_for(model, count)
    with without_kinks():
        PLAIN[name](nets, model.opt.gan_mode, lr=0.0).step(batch["A"].double(), batch["B"].double())
    return gradients(nets)


def compare(model: BaseModel, name: str, full: bool) -> str:
    """Make steps and say how far the gradients of the last one are from the textbook's."""
    ranks, rank, limit = distributed.world_size(), distributed.rank(), LIMITS[model.opt.precision]
    batch = {key: value[rank : rank + 1] for key, value in batch_for(model, ranks).items()}
    with without_kinks():
        for _ in range(STEPS[model.device.type]):
            model.train_on(batch)
    nets = {key: distributed.unwrap(net) for key, net in model.named_networks().items()}
    found, expected = gradients(nets), reference(name, full, ranks)
    errors = {k: float((found[k] - g).norm() / g.norm()) for k, g in expected.items()}
    told = "relative errors " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
    assert all(error < limit for error in errors.values()), f"{told}, and {limit:g} is the limit"
    return told


def check_gradients(device: str, name: str, *more: str) -> str:
    """One step, in a precision, compiled or not."""
    full = device == "cuda"
    with quick_compiler() if device == "cpu" else contextlib.nullcontext():
        return compare(build(device, name, *more, full=full), name, full)


def is_recorded(model: BaseModel) -> bool:
    """Whether its steps are replays by now."""
    return model._recorded_step is not None and model._recorded_step.graph is not None


def check_replays(device: str, name: str) -> str:
    """Steps with image pools, recorded and not: the same bits."""
    more = (
        "--precision fp32 --netG unet_128 --crop_size 128 --load_size 128 --ngf 8 --ndf 8".split()
    )
    more += ["--lr", "0.001", "--pool_size", "2", "--batch_size", "2"]
    found = []
    for flags in ([], ["--no_cuda_graph"]):
        model = build(device, name, *more, *flags, full=False)
        random.seed(0)
        with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
            for seed in range(10):
                model.train_on(batch_for(model, 2, seed))
        weights = [w for net in model.named_networks().values() for w in net.parameters()]
        losses = [torch.as_tensor(loss) for loss in model.losses_so_far().values()]
        found.append(torch.cat([value.detach().cpu().flatten() for value in weights + losses]))
        assert device == "cpu" or bool(flags) != is_recorded(model)
    assert torch.equal(*found), f"they differ by up to {float((found[0] - found[1]).abs().max())}"
    return "the same bits"


@contextlib.contextmanager
def quick_compiler() -> Iterator[None]:
    """Within this block graphs are compiled, and no kernels for them: that takes minutes."""
    compile_ = nn.Module.compile
    nn.Module.compile = lambda net, **_: compile_(net, backend="aot_eager", dynamic=False)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.compile = compile_  # type: ignore[method-assign]
        torch._dynamo.reset()


def check_no_waiting(device: str, name: str, *more: str) -> str:
    """A step, and what is around it, in which the host waits for nothing."""
    model = build(device, name, *more, "--pool_size", "2", full=device == "cuda")
    monitor = StepMonitor()
    batch = batch_for(model)

    def step() -> None:
        model.train_on(batch)
        model.end_step()
        monitor.after_step("", model.losses_so_far(), model.get_image_paths())

    for _ in range(STEPS[device]):
        step()
    if device == "cpu":
        return "made; only a GPU is waited for"
    assert is_recorded(model)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "the host waits for nothing"


# ---- ranks, each a process that runs this file with --part -----------------------------------


def part(name: str, device: str, ranks: int) -> str:
    """Run one of `PARTS` on some ranks; what rank 0 printed."""
    command = [*TORCHRUN, str(ranks), __file__, "--part", name, "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[:3000]
    return done.stdout.strip()


def collectives(device: str) -> None:
    """Everything that ranks exchange, in a process group of this device (NCCL on CUDA)."""
    where = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
    precision.configure(where, "fp32", fixed_shapes=True)
    program._join(where, device == "cuda", timedelta(minutes=1))
    size = dist.get_world_size()
    value = {"a": [1, torch.ones(2)]}
    assert distributed.broadcast(value)["a"][0] == 1
    assert distributed.scatter(list(range(size))) == dist.get_rank()
    assert distributed.gather(1) in ([1] * size, [])
    assert distributed.gather_everywhere(dist.get_rank()) == list(range(size))
    assert distributed.mean({"x": torch.ones((), device=where)}) == {"x": 1.0}
    assert distributed.maxima([dist.get_rank()]) == [size - 1]
    distributed.check_same("lines", lambda: ["a"])
    distributed.barrier()
    flags = distributed.StepFlags()
    found = [*flags.cast(torch.ones(1, device=where)), *flags.settle()]
    assert found == [1.0]
    x = torch.ones(3, device=where, requires_grad=True)
    sync_batch_norm.SumOverRanks.apply(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [size] * 3
    net = distributed.Wrapper(nn.Linear(2, 1).to(where), gradient_as_bucket_view=True)
    net(torch.ones(1, 2, device=where)).sum().backward()
    distributed.check_ddp_consistency({"net": net})
    dist.destroy_process_group()
    print(f"backend {'nccl beside gloo' if device == 'cuda' else 'gloo'}")


def gradients_of_ranks(device: str) -> None:
    """A step of pix2pix with SyncBatchNorm, a batch of all ranks, against one process."""
    full = device == "cuda"
    where = torch.device(device, 0) if full else torch.device("cpu")
    with distributed.job(where, 2.0):
        more = ["--precision", "fp32", "--norm", "syncbatch", "--batch_size", "1"]
        told = compare(build(device, "pix2pix", *more, full=full), "pix2pix", full)
        distributed.print0(told)


PARTS = {"collectives": collectives, "gradients": gradients_of_ranks}


# ---- whole runs ----------------------------------------------------------------------------------


def run_of(how: str, argv: list[str]) -> None:
    """Train as train.py does, with arithmetic that repeats; with "die" rank 1 dies in step 3."""
    torch.backends.cudnn.deterministic = True
    advance, configure = Progress.advance, precision.configure

    def dying(progress: Progress) -> None:
        advance(progress)
        if progress.total_iters >= 6 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    if how == "die":
        Progress.advance = dying  # type: ignore[method-assign]
    precision.configure = lambda *what, fixed_shapes: configure(*what, False)  # type: ignore[assignment]
    train.main(argv)


def start(device: str, *argv: str, ranks: int = 1, how: str = "plain") -> tuple[int, str]:
    """Run that; exit status and output."""
    launch = [*TORCHRUN, str(ranks)] if ranks > 1 else [sys.executable]
    argv = ("--dataroot", "data", *RUN, "--gpu_ids", "0" if device == "cuda" else "-1", *argv)
    if ranks > 1 and device == "cuda":
        argv = (*argv, "--precision", "fp32")
    done = subprocess.run(
        [*launch, __file__, "--how", how, "--", *argv], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def draw(count: int) -> None:
    """Pairs of images in data/train."""
    os.makedirs("data/train")
    drawn = np.random.default_rng(0)
    for number in range(count):
        pixels = drawn.integers(0, 256, (128, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"data/train/{number}.png")


def check_resume(device: str) -> str:
    """Two epochs at once, and one after the other."""
    draw(4)
    for name, epochs, more in (
        ("whole", "2", []), ("halves", "1", []), ("halves", "2", ["--continue_train"])
    ):  # fmt: skip
        status, output = start(device, "--name", name, "--n_epochs", epochs, *more)
        assert status == 0, output[-2000:]
    whole, halves = (Path("checkpoints", name) for name in ("whole", "halves"))
    for net in ("latest_net_G.pth", "latest_net_D.pth"):
        assert (whole / net).read_bytes() == (halves / net).read_bytes(), f"{net} differs"
    return "the same bytes"


def check_killed_rank(device: str) -> str:
    """Of two ranks that share the device; the state of before is whole."""
    draw(8)
    began = time.monotonic()
    more = ["--name", "n", "--n_epochs", "99", "--save_latest_freq", "2"]
    status, output = start(device, *more, ranks=2, how="die")
    assert status != 0 and "SIGKILL" in output and output.count("error: ") <= 1, output[-2000:]
    state = torch.load("checkpoints/n/latest_train_state.pth", weights_only=True)
    assert state["progress"]["total_iters"] >= 4
    return f"ended in {time.monotonic() - began:.0f} s, start included"


def check_unreadable_image(device: str) -> str:
    """One message, and what was trained is saved."""
    draw(4)
    Path("data/train/2.png").write_bytes(b"no image")
    status, output = start(device, "--name", "n", "--serial_batches")
    assert status == 2 and output.count("error: cannot read the image") == 1, output[-2000:]
    assert "Traceback" not in output and "saved after 2 images" in output, output[-2000:]
    return "one message; saved after 2 images"


# ---- speed ------------------------------------------------------------------------------------


def speed(device: str) -> str:
    """Tables of benchmarks/step.py, against the plain step, with the share of the floor."""
    argv = ["--only", "cycle_gan 1", "--ways", "default", "--rounds", "1", "--size", "32"]
    if device == "cuda":
        cases = [f"{model} {batch}" for model in MODELS for batch in (1, 16)]
        argv = ["--device", "cuda", "--only", *cases, "--rounds", "3", "--limit", "120"]
    command = [sys.executable, str(ROOT / "benchmarks" / "step.py"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def layouts(device: str) -> str:
    """A table: milliseconds of each convolution, forward and backward, in both memory formats."""
    name_of = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}
    kind = "bf16" if device == "cuda" else "fp32"
    dtype = precision.PRECISIONS[kind].dtype or torch.float32
    rows = {}
    for name in MODELS:
        for layer, shape in convolutions(build(device, name, full=device == "cuda")).items():
            if (str(layer), shape) in rows:
                continue
            cpu_layers.swap_out(layer.to(dtype))
            times = [milliseconds(layer, shape, dtype, layout, device) for layout in name_of]
            size = "x".join(map(str, shape))
            rows[str(layer), shape] = name, str(layer), size, *(f"{t:.3f}" for t in times)
    head = ("model", f"convolution, {kind}", "input", *name_of.values())
    return harness.markdown(head, rows.values())


def convolutions(model: BaseModel) -> dict[nn.Module, tuple[int, ...]]:
    """The convolutions of a model's first generator, and the shape of what they are given."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    net = next(iter(model.named_networks().values()))
    handles = [
        layer.register_forward_hook(lambda m, x, _: shapes.update({m: tuple(x[0].shape)}))
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        net(batch_for(model)["A"])
    for handle in handles:
        handle.remove()
    return shapes


def milliseconds(
    layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format,
    device: str,
) -> float:  # fmt: skip
    """The least time of a forward and backward pass."""
    layer.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(shape, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()

    def step() -> None:
        layer(x).sum().backward()

    count = 20 if device == "cuda" else 1
    return 1000 * min(harness.timed(step, device, count) for _ in range(3))


# ---- the program ------------------------------------------------------------------------------


def checks(device: str) -> dict[str, Callable[[], str]]:
    """Every check by its name; each returns what it found, or raises."""
    kinds = list(LIMITS) if device == "cuda" else ["fp32", "bf16"]
    made: dict[str, Callable[[], str]] = {}
    for name in MODELS:
        for kind in kinds:
            how = ["--precision", kind]
            made[f"gradients: {name}, {kind}"] = partial(check_gradients, device, name, *how)
            made[f"no waiting: {name}, {kind}"] = partial(check_no_waiting, device, name, *how)
        made[f"replays: {name}"] = partial(check_replays, device, name)
        how = ["--precision", "fp32", "--compile"]
        made[f"gradients: {name}, compiled"] = partial(check_gradients, device, name, *how)
        if device == "cuda":
            how += ["--no_cuda_graph"]
            told = f"gradients: {name}, compiled, not recorded"
            made[told] = partial(check_gradients, device, name, *how)
    made["collectives of one rank"] = partial(part, "collectives", device, 1)
    made["gradients: two ranks, SyncBatchNorm"] = partial(part, "gradients", device, 2)
    made["resume"] = partial(check_resume, device)
    made["a killed rank"] = partial(check_killed_rank, device)
    made["an unreadable image"] = partial(check_unreadable_image, device)
    return made


def main() -> int:
    """Run the checks that the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--only", nargs="+", default=[""], metavar="WORD", help="checks whose names have a WORD")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)  # be a rank
    add("--how", help=argparse.SUPPRESS)  # train; the options come after --
    add("argv", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.how:
        distributed.run(partial(run_of, args.how, args.argv))
    elif args.part:
        distributed.run(partial(PARTS[args.part], args.device))
    else:
        return report(args)
    return 0


def report(args: argparse.Namespace) -> int:
    """Print the tables; 1 if a check failed."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu_acceptance.py: error: no CUDA GPU is here; try it with --device cpu")
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{os.cpu_count()} cores"
    print(f"{where}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n", flush=True)
    print(harness.markdown(("check", "result", "found", "seconds"), []), end="", flush=True)
    failed, home = 0, os.getcwd()
    for name, check in checks(args.device).items():
        if not any(word in name for word in args.only):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                result, found = "good", check()
            except Exception as error:
                result, found = "FAILED", f"{type(error).__name__}: {error}"
                failed += 1
            os.chdir(home)
        found = " ".join(found.replace("|", "/").split())
        print(f"| {name} | {result} | {found} | {time.monotonic() - began:.0f} |", flush=True)
    for table in (layouts, speed):
        if any(word in table.__name__ for word in args.only):
            print(f"\n{table(args.device)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
