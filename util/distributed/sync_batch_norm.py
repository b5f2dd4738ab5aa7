"""Batch norm over the batch of all ranks, on the CPU as on CUDA."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def convert(net: nn.Module) -> nn.Module:
    """Replace every BatchNorm in `net`, torch's SyncBatchNorm too; weights and buffers stay."""
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in net.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = SyncBatchNorm  # type: ignore[assignment]
    return net


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """nn.SyncBatchNorm on any device; unlike it, differentiable twice, for a gradient penalty.

    On CUDA the host waits for nothing.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the channels of (N, C, …) with the statistics of all ranks; N may differ."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # half is too coarse to sum
        own_count = x.new_full((1,), x.numel() // x.shape[1])
        sums = SumOverRanks.apply(torch.cat([x.sum(dims), own_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = SumOverRanks.apply(centred.square().sum(dims)) / count
        if self.track_running_stats:
            batches = self.get_buffer("num_batches_tracked").add_(1)
            weight = 1 / batches if self.momentum is None else self.momentum
            unbiased = variance * count / (count - 1)
            for name, value in (("running_mean", mean), ("running_var", unbiased)):
                running = self.get_buffer(name)
                running.add_((value.detach().to(running.dtype) - running) * weight)
        output = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            output = output * self.weight.view(shape)
        if self.bias is not None:  # newer torch has a BatchNorm with weights only
            output = output + self.bias.view(shape)
        return output.to(input.dtype)


class SumOverRanks(torch.autograd.Function):
    """The sum over the ranks, differentiable any number of times; torch's is deprecated."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: D102
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The losses of all ranks depend on this rank's tensor."""
        return SumOverRanks.apply(gradient)
