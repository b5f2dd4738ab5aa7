"""scripts/combine_A_and_B.py: which images meet, and what the combined one shows."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts.combine_A_and_B import main
from util.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PROGRAM = Path(__file__).parents[2] / "scripts" / "combine_A_and_B.py"
ORIENTATION = 0x0112  # the EXIF tag; 6 means: turn clockwise to see it upright


def image_file(path: Path, colour, size=(6, 4), **save_options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **save_options)
    return path


def arguments(root: Path, *more: str) -> list[str]:
    return [
        *("--fold_A", str(root / "A"), "--fold_B", str(root / "B"), "--fold_AB", str(root / "AB")),
        *more,
    ]


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("more", [[], ["--no_multiprocessing"]])
def test_a_is_left_and_b_is_right_in_every_split(tmp_path, more):
    for split in ("train", "val", "test"):
        image_file(tmp_path / "A" / split / "x.png", RED)
        image_file(tmp_path / "B" / split / "x.png", BLUE)
    main(arguments(tmp_path, *more))
    assert files(tmp_path / "AB") == ["test/x.png", "train/x.png", "val/x.png"]
    combined = Image.open(tmp_path / "AB" / "val" / "x.png")
    assert combined.size == (12, 4)
    assert combined.crop((0, 0, 6, 4)).getcolors() == [(24, RED)]
    assert combined.crop((6, 0, 12, 4)).getcolors() == [(24, BLUE)]


def test_a_pair_may_differ_in_suffix_and_keeps_that_of_a(tmp_path):
    image_file(tmp_path / "A" / "train" / "x.JPG", RED)
    image_file(tmp_path / "B" / "train" / "x.png", BLUE)
    main(arguments(tmp_path))
    assert files(tmp_path / "AB") == ["train/x.JPG"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".ppm", ".bmp", ".tif", ".tiff", ".webp"])
def test_a_sharp_edge_between_colours_survives_the_file_format(tmp_path, suffix):
    for fold in "AB":
        path = image_file(tmp_path / fold / "train" / "x.png", GREEN, (32, 32))
        image = Image.open(path)
        image.paste(RED, (0, 0, 15, 32))  # 15: within a block of JPEG's halved colours
        image.save(path)
    (tmp_path / "A" / "train" / "x.png").rename(tmp_path / "A" / "train" / f"x{suffix}")
    main(arguments(tmp_path))
    combined = Image.open(tmp_path / "AB" / "train" / f"x{suffix}").convert("RGB")
    for x, colour in ((14, RED), (15, GREEN), (46, RED), (47, GREEN)):
        assert max(abs(p - q) for p, q in zip(combined.getpixel((x, 16)), colour, strict=True)) < 30


def test_use_ab_matches_x_a_with_x_b_in_one_folder(tmp_path):
    for name, colour in (("x_A.png", RED), ("x_B.png", BLUE), ("other.png", GREEN)):
        image_file(tmp_path / "A" / "train" / name, colour)
    (tmp_path / "B").symlink_to(tmp_path / "A")
    main(arguments(tmp_path, "--use_AB"))
    assert files(tmp_path / "AB") == ["train/x.png"]
    combined = Image.open(tmp_path / "AB" / "train" / "x.png")
    assert [combined.getpixel((x, 0)) for x in (0, 11)] == [RED, BLUE]


def test_a_split_that_is_a_link_to_a_folder_is_read(tmp_path):
    image_file(tmp_path / "elsewhere" / "x.png", RED)
    for fold in "AB":
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "train").symlink_to(tmp_path / "elsewhere")
    main(arguments(tmp_path))
    assert files(tmp_path / "AB") == ["train/x.png"]


def test_num_imgs_counts_per_split_and_takes_the_first(tmp_path):
    for fold in "AB":
        for name in ("train/3.png", "train/1.png", "train/2.png", "val/9.png"):
            image_file(tmp_path / fold / name, RED)
    main(arguments(tmp_path, "--num_imgs", "2"))
    assert files(tmp_path / "AB") == ["train/1.png", "train/2.png", "val/9.png"]


def test_images_without_a_partner_are_named_and_the_rest_is_done(tmp_path, capsys):
    for name in ("A/train/x.png", "B/train/x.png", "A/train/only_a.png", "B/val/only_b.png"):
        image_file(tmp_path / name, RED)
    main(arguments(tmp_path))
    said = capsys.readouterr().err
    assert str(tmp_path / "A/train/only_a.png") in said
    assert str(tmp_path / "B/val/only_b.png") in said
    assert "2 without a partner" in said and "x.png" not in said
    assert files(tmp_path / "AB") == ["train/x.png"]


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    lying = image_file(tmp_path / "A" / "train" / "x.jpg", RED, (16, 8), exif=exif)
    image = Image.open(lying)
    image.paste(BLUE, (0, 0, 8, 8))  # left half as stored: the upper half when upright
    image.save(lying, exif=exif, quality=100, subsampling=0)
    image_file(tmp_path / "B" / "train" / "x.jpg", GREEN, (8, 16))
    main(arguments(tmp_path))
    combined = Image.open(tmp_path / "AB" / "train" / "x.jpg")
    assert combined.size == (16, 16)
    assert combined.getpixel((4, 2))[2] > 200 and combined.getpixel((4, 13))[0] > 200
    assert ORIENTATION not in combined.getexif()  # or it would be turned again


def a_pair_of_sizes(root):
    image_file(root / "A" / "train" / "x.png", RED, (6, 4))
    image_file(root / "B" / "train" / "x.png", RED, (6, 5))
    return ["A/train/x.png is 6x4", "B/train/x.png is 6x5"]


def a_truncated_image(root):
    image_file(root / "A" / "train" / "x.png", RED)
    broken = image_file(root / "B" / "train" / "x.png", RED, (64, 64))
    broken.write_bytes(broken.read_bytes()[:60])
    return ["cannot read", "B/train/x.png"]


def a_16_bit_image(root):
    image_file(root / "A" / "train" / "x.png", RED)
    (root / "B" / "train").mkdir(parents=True)
    Image.new("I;16", (6, 4), 40000).save(root / "B" / "train" / "x.png")
    return ["A/train/x.png", "uint8", "B/train/x.png", "uint16"]


def two_candidates(root):
    image_file(root / "A" / "train" / "x.png", RED)
    image_file(root / "A" / "train" / "x.jpg", RED)
    image_file(root / "B" / "train" / "x.png", RED)
    return ["A/train/x.jpg", "A/train/x.png", "suffix"]


def no_common_name(root):
    image_file(root / "A" / "train" / "x.png", RED)
    image_file(root / "B" / "train" / "y.png", RED)
    return ["--fold_A", "--fold_B", "no name"]


def no_folder(root):
    image_file(root / "A" / "train" / "x.png", RED)
    return ["--fold_B", "B is not a folder"]


MISTAKES = [
    a_pair_of_sizes,
    a_truncated_image,
    a_16_bit_image,
    two_candidates,
    no_common_name,
    no_folder,
]


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("more", [[], ["--no_multiprocessing"]])
def test_a_mistake_is_named_and_leaves_nothing(tmp_path, mistake, more):
    expected = mistake(tmp_path)
    with pytest.raises(UserError) as error:
        main(arguments(tmp_path, *more))
    assert all(words in str(error.value) for words in expected), error.value
    assert files(tmp_path / "AB") == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    for name in ("A/train/x.png", "B/train/x.png", "AB/train/x.png"):
        image_file(tmp_path / name, RED)

    def half(self, file, *args, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(UserError, match="AB/train/x.png.*No space left.*--fold_AB"):
        main(arguments(tmp_path))
    assert files(tmp_path / "AB") == ["train/x.png"]
    assert Image.open(tmp_path / "AB" / "train" / "x.png").size == (6, 4)


def test_the_sources_are_never_overwritten(tmp_path):
    before = image_file(tmp_path / "A" / "train" / "x.png", RED).read_bytes()
    argv = arguments(tmp_path)
    argv[argv.index("--fold_AB") + 1] = str(tmp_path / "A" / "train" / "..")
    argv[argv.index("--fold_B") + 1] = str(tmp_path / "A")
    with pytest.raises(UserError, match="--fold_AB"):
        main(argv)
    assert (tmp_path / "A" / "train" / "x.png").read_bytes() == before


def test_as_a_program_from_elsewhere_a_mistake_is_one_message_and_status_2(tmp_path):
    a_pair_of_sizes(tmp_path)
    run = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and "Traceback" not in run.stderr
