"""Save the gradients that the first step of train.py leaves, in float32. Run by torchrun."""

import functools
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from data import create_dataset  # noqa: E402
from models import create_model  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from util import (  # noqa: E402
    checkpoint,
    distributed,
    rng,  # noqa: E402
)


def main(argv):
    opt = TrainOptions().parse(argv)
    with distributed.job(opt.device, opt.dist_timeout):
        rng.seed_everything(opt.seed)
        loader = create_dataset(opt)
        model = create_model(opt)
        model.setup(opt)
        loader.set_epoch(1)
        model.set_input(next(iter(loader)))
        model.optimize_parameters()
        gradients = {
            f"{name} {key}": parameter.grad
            for name, net in model.named_networks().items()
            for key, parameter in distributed.unwrap(net).named_parameters()
        }
        checkpoint.save(gradients, f"{opt.name}.pth")


if __name__ == "__main__":
    for line in sys.argv[1:]:  # each argument is a command line
        distributed.run(functools.partial(main, line.split()))
