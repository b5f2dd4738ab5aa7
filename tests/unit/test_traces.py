"""The first steps of training, against numbers that the original computed in float64."""

import pytest
import torch
from formulas import assert_digest, fill_with_formula, formula_image, reference

from models import create_model
from options.train_options import TrainOptions

TRACES = reference("traces")


def build(trace, tmp_path):
    argv = ["--dataroot", "none", "--checkpoints_dir", str(tmp_path), *trace["argv"]]
    # The traces were fed directly, at sizes of their own; --crop_size 64 is no size for a U-Net.
    argv += ["--gpu_ids", "-1", "--load_size", "128", "--crop_size", "128"]
    opt = TrainOptions().parse(argv)
    model = create_model(opt)
    model.setup(opt)
    return model


def as_float64(model, phase):
    for value in vars(model).values():
        if isinstance(value, torch.nn.Module):
            value.double()
    for j, net in enumerate(model.named_networks().values()):
        fill_with_formula(net, phase=phase + 0.3 * j, amplitude=0.05)


def batch_of_step(trace, step):
    n, (h, w) = trace["batch"], trace["sizes"]
    a = formula_image(n, 3, h, w, trace["phase"] + 0.5 * step)
    b = formula_image(n, 3, h, w, trace["phase"] + 2 + 0.8 * step)
    paths = {"A_paths": ["a"] * n, "B_paths": ["b"] * n}
    return {"A": a.float().double(), "B": b.float().double(), **paths}


def absolute_tolerance(key, state):
    """Rounding noise is all the gradient that a bias before an instance norm has.

    The mean subtraction cancels the bias. Adam divides the noise of about 1e-14 by its epsilon of
    1e-8 and multiplies it by the learning rate of 2e-4: up to 1e-9 a step, and no digit of it
    means anything.
    """
    uncancelled = ("model.0.bias", "net.0.bias", list(state)[-1])
    batch_norm = any("running" in other for other in state)
    return 1e-8 if key.endswith("bias") and not batch_norm and key not in uncancelled else 1e-12


@pytest.fixture(autouse=True)
def one_thread():
    """The order of float additions is then the original's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: " ".join(t["argv"][1:6:2]))
def test_first_steps_equal_the_original(trace, tmp_path):
    model = build(trace, tmp_path)
    as_float64(model, trace["phase"])
    for step, expected in enumerate(trace["losses"]):
        model.set_input(batch_of_step(trace, step))
        model.optimize_parameters()
        assert model.get_current_losses() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    for name, tensors in trace["weights_after"].items():
        state = model.named_networks()[name].state_dict()
        for key, digest in tensors.items():
            assert_digest(state[key], digest, rel=1e-8, abs=absolute_tolerance(key, state))
