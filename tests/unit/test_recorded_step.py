"""models/recorded_step.py: a step in a CUDA graph is the step, shown with a stand-in on a CPU.

The stand-in is what a graph is: it notes the operations on tensors, and a replay does these again,
on the same memory. What Python decided stays as it was, and reading a number from a tensor fails.
"""

import copy
import random
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from same import difference
from small_models import batch_of, build, own, parameters
from torch.utils._python_dispatch import TorchDispatchMode

from models import recorded_step
from models.pix2pix_model import Pix2PixModel
from models.recorded_step import WARM_UPS, RecordedStep
from util.checkpoint.train_state import before_training, collect, restore
from util.image_pool import ImagePool


class Tape(TorchDispatchMode):
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self):
        super().__init__()
        self.calls, self.before, self.own = [], {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "the host reads a number"
        for tensor in (tensor for value in args for tensor in tensors(value)):
            if memory_of(tensor) not in self.own:
                self.before.setdefault(tensor.data_ptr(), (tensor, tensor.detach().clone()))
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            if memory_of(tensor) not in {memory_of(old) for old, _ in self.before.values()}:
                self.own.setdefault(memory_of(tensor), tensor)
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def undo(self):
        """Recording computes nothing on CUDA."""
        for tensor, value in self.before.values():
            tensor.data.copy_(value)

    @torch.no_grad()
    def replay(self):
        for tensor in self.own.values():
            tensor.data.fill_(77)  # a graph uses the memory of one tensor for others, too
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tensors(out), tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.data.copy_(new)  # autograd hears nothing of a replay


def memory_of(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors(value):
    parts = value if isinstance(value, (tuple, list)) else [value]
    return [part for part in parts if isinstance(part, torch.Tensor)]


@pytest.fixture(autouse=True)
def graphs_on_a_cpu(monkeypatch):
    @contextmanager
    def graph(tape, stream, capture_error_mode):
        drawn = torch.get_rng_state()
        with tape:
            yield
        tape.undo()
        torch.set_rng_state(drawn)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())


def train(model, batches, warm_ups=WARM_UPS, start=0):
    """Steps on batches, at a rate that falls; what was seen of each.

    `batches` are numbers of images, or the size of a single one.
    """
    if not start:
        model._recorded_step = RecordedStep(model, model.optimizers)
        random.seed(5)
    seen = []
    for place, batch in enumerate(batches, start):
        recorded_step.WARM_UPS = warm_ups
        count, size = (1, batch) if isinstance(batch, tuple) else (batch, (32, 32))
        model.train_on(batch_of(count, size, seed=place))
        for optimizer in model.optimizers:
            optimizer.param_groups[0]["lr"] *= 0.9
        images = {k: v.detach().clone() for k, v in model.get_current_visuals().items()}
        seen.append((model.losses_so_far(), images, model.image_paths))
    recorded_step.WARM_UPS = WARM_UPS
    return seen


def lacking(model):
    return recorded_step.missing(model, model.optimizers)


CASES = {
    "pix2pix": ["pix2pix", "--norm", "batch", "--pool_size", "0"],
    "pix2pix, pool": ["pix2pix", "--pool_size", "3"],
    "CycleGAN": ["cycle_gan", "--pool_size", "3"],
    "CycleGAN, a pool that does not fill": ["cycle_gan", "--pool_size", "50"],
    "CycleGAN, no identity": ["cycle_gan", "--lambda_identity", "0", "--pool_size", "1"],
    "fp16": ["pix2pix", "--precision", "fp16"],
    "bf16": ["cycle_gan", "--precision", "bf16", "--pool_size", "3"],
}


@pytest.mark.parametrize("case", CASES)
def test_replays_are_the_steps(case):
    """Bit for bit: weights, losses, images, pools, what is drawn; a smaller batch in between."""
    name, *more = CASES[case]
    counts = [2, 2, 2, 1, 2, 2, 1, 2, 2]
    usual, recorded = (build(name, "--batch_size", "2", *more) for _ in range(2))
    expected = train(usual, counts, warm_ups=99)
    drawn = random.getstate()
    found = train(recorded, counts)
    assert recorded._recorded_step.graph.calls and not usual._recorded_step.graph
    assert random.getstate() == drawn
    for group in recorded.optimizers[0].param_groups:  # as schedulers and states know them
        assert isinstance(group["lr"], float) and not group["capturable"]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[2] == theirs[2]
        for ours, others in zip(mine[:2], theirs[:2], strict=True):
            assert ours.keys() == others.keys() and ours
            for key, value in others.items():
                assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(value)), key
    ours, theirs = (collect(m, before_training(m), m.device) for m in (recorded, usual))
    assert torch.equal(
        ours["ranks"][0].pop("random")["torch"], theirs["ranks"][0].pop("random")["torch"]
    )
    assert difference(ours, theirs) is None


def test_a_state_that_is_put_back_is_trained_on(tmp_path):
    """Restoring gives an optimizer new groups."""
    argv = ["cycle_gan", "--pool_size", "3"]
    whole, first, second = (build(*argv) for _ in range(3))
    train(whole, [1] * 12, warm_ups=99)
    before = before_training(second)
    train(first, [1] * 6)
    state = copy.deepcopy(collect(first, before, first.device))
    second._recorded_step = RecordedStep(second, second.optimizers)
    restore(second, state)
    train(second, [1] * 6, start=6)
    assert second._recorded_step.graph
    ours, theirs = (parameters(model) for model in (second, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_images_of_another_size_end_the_recording(capsys):
    """As from somebody's own dataset."""
    sizes = [(32, 32)] * 6 + [(32, 64)] + [(32, 32)] * 5 + [(48, 48)]
    models = [build("pix2pix", "--pool_size", "2") for _ in range(2)]
    for model, warm_ups in zip(models, (WARM_UPS, 99), strict=True):
        train(model, sizes, warm_ups)
    assert capsys.readouterr().out.count("several sizes") == 1
    ours, theirs = (parameters(model) for model in models)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_pools_of_a_recorded_step_are_saved_and_continued():
    model = build("cycle_gan", "--pool_size", "3")
    train(model, [1] * 6)
    pool = ImagePool(3)
    pool.load_state_dict(model.fake_A_pool.state_dict())
    assert len(pool.images) == 3 and all(image.any() for image in pool.images)


def test_a_number_that_python_reads_stops_the_recording():
    class Reading(Pix2PixModel):
        def backward_G(self):
            super().backward_G()
            self.last = self.loss_G.item()

    model, _ = own(Reading, name="pix2pix")
    model.setup(model.opt)
    with pytest.raises(AssertionError, match="the host reads a number"):
        train(model, [1] * 5)


WITHOUT = {
    "--preprocess none": "images of one size",
    "--batch_size 4 --accumulate 2": "--accumulate 1",
    "--checkpoint_activations": "no --checkpoint_activations",
    "--gan_mode wgangp --norm instance": "no gradient penalty",
}


@pytest.mark.parametrize("flags", WITHOUT)
def test_what_cannot_be_recorded_says_why(flags):
    (reason,) = lacking(build("pix2pix", *flags.split()))
    assert WITHOUT[flags] in reason


def test_models_of_the_project_are_recorded_and_others_where_they_say_so():
    assert not lacking(build("pix2pix"))
    assert not lacking(build("cycle_gan"))
    assert not lacking(build("colorization"))

    class Own(Pix2PixModel):
        pass

    class Declared(Pix2PixModel):
        records_step = True

    for kind, reasons in ((Own, 1), (Declared, 0)):
        model, opt = own(kind, name="pix2pix")
        model.setup(opt)
        assert len(lacking(model)) == reasons
