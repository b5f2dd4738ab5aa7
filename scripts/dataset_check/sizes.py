"""Which sizes of pictures the options can use."""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator

from data.base_dataset import preprocess_of, resized_size
from models.networks import DISCRIMINATORS, GENERATORS
from scripts.dataset_check.findings import Finding

Size = tuple[int, int]


def final_size(opt: Namespace, size: Size) -> Size:
    """(width, height) of a picture of `size` after --preprocess."""
    resized = resized_size(opt, size)
    cropped = preprocess_of(opt).crops and max(resized) > opt.crop_size
    return (opt.crop_size, opt.crop_size) if cropped else resized


def misfit(opt: Namespace, size: Size, trained: bool) -> tuple[str, str] | None:
    """(problem, remedy) if pictures of `size` are not what the options need.

    Args:
        opt: reads preprocess, load_size, crop_size, netG, netD, n_layers_D.
        size: (width, height) in the file.
        trained: whether the picture is trained on; in testing there is no discriminator.
    """
    resized = resized_size(opt, size)
    if preprocess_of(opt).crops and min(resized) < opt.crop_size:
        problem = f"{named(resized)} is smaller than --crop_size {opt.crop_size}"
        return problem, "lower --crop_size, or use --preprocess resize_and_crop"
    return network_misfit(opt, final_size(opt, size), trained)


def network_misfit(opt: Namespace, size: Size, trained: bool) -> tuple[str, str] | None:
    """The same for (width, height) after preprocessing; networks of a plug-in take any size."""
    if opt.netG in GENERATORS:
        row = GENERATORS[opt.netG]
        if any(side % row.multiple for side in size):
            problem = f"{named(size)}: --netG {opt.netG} needs multiples of {row.multiple}"
            return problem, "use --preprocess resize_and_crop, or --netG resnet_9blocks"
        if min(size) < row.minimum:
            problem = f"{named(size)} is too small for --netG {opt.netG}"
            return problem, f"{row.minimum} pixels or more are needed both ways"
    if trained and opt.netD in DISCRIMINATORS:
        least = DISCRIMINATORS[opt.netD].minimum(opt.n_layers_D)
        if min(size) < least:
            remedy = f"{least} pixels or more are needed both ways; or use --netD pixel"
            return f"{named(size)} is too small for --netD {opt.netD}", remedy
    return None


def unequal_sizes(opt: Namespace, final: dict[str, Size]) -> Iterator[Finding]:
    """The pictures that cannot share a batch with most others, of {path: final size}."""
    if opt.batch_size == 1:
        return
    usual = max(Counter(final.values()).items(), key=lambda item: (item[1], item[0]), default=None)
    for path, size in final.items():
        if usual and size != usual[0]:
            problem = f"{named(size)}, and most are {named(usual[0])}"
            remedy = (
                f"for --batch_size {opt.batch_size} make all equal, or use --preprocess "
                "resize_and_crop"
            )
            yield Finding(problem, path, remedy)


def named(size: Size) -> str:
    """640x480."""
    return f"{size[0]}x{size[1]}"
