"""The formulas of tests/reference: images, weights and digests, computed in float64."""

import json
import math
from pathlib import Path

import torch

REFERENCE = Path(__file__).parent / "reference"


def reference(name: str):
    """The parsed content of tests/reference/NAME.json."""
    return json.loads((REFERENCE / f"{name}.json").read_text())


def formula_image(n: int, c: int, h: int, w: int, phase: float = 0.0) -> torch.Tensor:
    """(n, c, h, w) float64: sin(0.11 x + 0.07 y (1 + channel) + 1.9 sample + phase)."""
    sample, channel, y, x = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (n, c, h, w)), indexing="ij"
    )
    return torch.sin(0.11 * x + 0.07 * y * (1 + channel) + 1.9 * sample + phase)


def fill_with_formula(net: torch.nn.Module, phase: float, amplitude: float) -> None:
    """Overwrite the state of `net` with the formula weights, in state_dict order."""
    k = 0
    for key, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        i = torch.arange(tensor.numel(), dtype=torch.float64)
        s = torch.sin(1.3 * i + 0.7 * k + phase)
        if key.endswith("running_var"):
            values = 1 + 0.5 * s.abs()
        elif tensor.dim() == 1 and key.endswith("weight"):
            values = 1 + 0.2 * s
        else:
            values = amplitude * s
        tensor.copy_(values.reshape(tensor.shape))
        k += 1


def assert_digest(tensor: torch.Tensor, expected: dict, rel: float, abs: float) -> None:
    """Compare `tensor` with a digest: mean, abs_mean, dot, first and last four elements.

    Errors are relative to the element or to the tensor's mean magnitude, whichever is larger: one
    element near zero has the rounding of the others.
    """
    t = tensor.detach().double().cpu().flatten()
    i = torch.arange(t.numel(), dtype=torch.float64)
    assert t.numel() == expected["numel"]
    got = [t.mean(), t.abs().mean(), (t * torch.sin(0.9 * i)).sum() / t.numel(), *t[:4], *t[-4:]]
    want = [expected["mean"], expected["abs_mean"], expected["dot"]]
    want += expected["first"] + expected["last"]
    abs = max(abs, rel * expected["abs_mean"])
    for g, w in zip(got, want, strict=True):
        assert math.isclose(float(g), w, rel_tol=rel, abs_tol=abs), (float(g), w)
