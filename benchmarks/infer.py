"""How fast does test.py test? Images/s of whole runs, and the ratio to a plain loop.

    python benchmarks/infer.py
    python benchmarks/infer.py --only unet --rounds 7
    python benchmarks/infer.py --device cuda
    python benchmarks/infer.py --large

The plain loop is the textbook: batch 1, float32, torch's own layers; read, translate, save, one
image after the other. Both sides build the network and load its weights in every run; starting
Python is left out.

resnet: --model test, one generator of a CycleGAN, which saves 2 images for each file. unet: --model
pix2pix with batch norm and dropout as in training, which saves 3. The weights are random: what is
computed does not depend on them, how well an image compresses does a little.
"""

from functools import partial

import harness
import large
import numpy as np
import torch
from PIL import Image
from runs import NETWORKS, TestingRun

MANY = ["--precision", "bf16", "--batch_size", "8"]
WAYS = {
    "test.py": [],
    "--batch_size 8": ["--batch_size", "8"],
    "--precision bf16": ["--precision", "bf16"],
    "--precision bf16 --batch_size 8": MANY,
    "the same, --eval": [*MANY, "--eval"],
}


class PlainLoop(TestingRun):
    """The textbook's way from the same files and weights to saved images."""

    def __call__(self) -> float:
        """Seconds of a run."""
        return harness.timed(self.run)

    @torch.no_grad()
    def run(self) -> None:
        """Build, load, then read, translate and save, image by image."""
        from models.networks import define_G
        from options.test_options import TestOptions

        opt = TestOptions().parse(self.argv)
        net = define_G(3, 3, opt.ngf, opt.netG, opt.norm, not opt.no_dropout)
        weights = torch.load(self.root / "n/latest_net_G.pth", weights_only=True)
        net.load_state_dict(weights)
        net.to(opt.device)
        for path in self.root.glob("test/*"):
            whole = Image.open(path).convert("RGB")
            images = {x: whole.crop((x, 0, x + 256, 256)) for x in range(0, whole.width, 256)}
            pixels = np.asarray(images[0], dtype=np.float32) / 127.5 - 1
            fake = net(torch.from_numpy(pixels).permute(2, 0, 1)[None].to(opt.device))
            pixels = (fake[0].cpu().permute(1, 2, 0).numpy() + 1) * 127.5
            images[-1] = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            for x, image in images.items():
                image.save(self.root / f"{path.stem}_{x}.png")


def main() -> None:
    """Measure every network and print its table."""
    parser = harness.parser(__doc__, 3, NETWORKS)
    parser.add_argument("--images", type=int, help="of a run, in place of the network's number")
    parser.add_argument("--large", action="store_true", help="one large image, see large.py")
    parser.add_argument("--sizes", nargs="+", default=large.SIZES, help="with --large")
    parser.add_argument("--tile", default="512", help="with --large")
    args = parser.parse_args()
    harness.start(parser, args)
    if args.large:
        large.main(args.only, args.sizes, args.rounds, args.tile)
        return
    place = ["--gpu_ids", "-1" if args.device == "cpu" else "0"]
    for name in args.only:
        images = args.images or NETWORKS[name].images * (8 if args.device == "cuda" else 1)
        builds = {"plain loop": partial(PlainLoop, harness.ROOT, name, place, images)}
        for way, flags in WAYS.items():
            builds[way] = partial(TestingRun, harness.ROOT, name, place + flags, images)
        with harness.workers(builds, args.threads) as workers:
            table = harness.compare(workers, args.rounds, args.limit)
        print(table.markdown(f"{name}, {images} images", images), flush=True)


if __name__ == "__main__":
    main()
