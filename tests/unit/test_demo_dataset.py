import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from scripts.demo_facades.building import random_building
from scripts.demo_facades.drawing import draw_pair, warp
from scripts.demo_facades.tables import (
    ASSEMBLIES,
    FAMILIES,
    LAYERS,
    MATERIALS,
    PALETTE,
    SHAPES,
    TEXTURES,
)  # fmt: skip
from scripts.make_demo_dataset import NOTE, main
from util.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo_dataset.py"
SMALL = ["--size", "64", "--train", "3", "--val", "1", "--test", "2", "--workers", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small pair of sets, made once; tests only read it."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    main(["--out", str(out), *SMALL])
    return out


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def building(index):
    """Family and parts of a building of the training set of seed 0."""
    return random_building(np.random.default_rng([0, zlib.crc32(b"train"), index]))


def read(path):
    return np.asarray(Image.open(path))


def colours(label):
    return {tuple(c) for c in np.unique(label.reshape(-1, 3), axis=0).tolist()}


def of_class(label, name):
    return (label == PALETTE[name]).all(axis=2)


def near(mask, pixels=4):
    grown = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(grown) > 0


def luminance(photo):
    return photo @ np.array([0.299, 0.587, 0.114]) / 255


# what draw_pair promises


def test_a_pair_depends_on_its_arguments_only():
    photo, label = draw_pair(7, "train", 3, 64)
    draw_pair(7, "train", 4, 64)
    np.random.seed(1)
    again = draw_pair(7, "train", 3, 64)
    assert np.array_equal(photo, again[0]) and np.array_equal(label, again[1])
    assert photo.shape == label.shape == (64, 64, 3)
    assert photo.dtype == label.dtype == np.uint8


@pytest.mark.parametrize("other", [(8, "train", 3), (7, "val", 3), (7, "train", 4)])
def test_seed_split_and_index_each_give_another_building(other):
    photo, label = draw_pair(7, "train", 3, 64)
    other_photo, other_label = draw_pair(*other, 64)
    assert not np.array_equal(photo, other_photo)
    assert not np.array_equal(label, other_label)


def test_the_same_building_at_another_size():
    (_, small), (_, large) = (draw_pair(0, "train", 1, size) for size in (64, 256))
    # sample the large one at the centres of the small one's pixels; only edges may differ
    assert (small == large[2::4, 2::4]).all(axis=2).mean() > 0.9


def test_labels_have_the_palettes_colours_and_every_class_occurs():
    assert len(set(PALETTE.values())) == len(PALETTE)
    seen = set().union(*(colours(draw_pair(0, "train", i, 64)[1]) for i in range(60)))
    assert seen == set(PALETTE.values())


def test_every_family_occurs_and_the_tables_name_what_they_have():
    assert {building(i)[0] for i in range(60)} == FAMILIES.keys()
    parts = [part for i in range(60) for part in building(i)[1]]
    assert {part.kind for part in parts} == PALETTE.keys()
    assert {part.layers or part.kind for part in parts} <= LAYERS.keys()
    layers = [layer for row in LAYERS.values() for layer in row]
    assert {layer.material for layer in layers} == MATERIALS.keys()
    assert {thing.shape for thing in (*parts, *layers)} - {"="} == SHAPES.keys()
    known = TEXTURES.keys() | {"-", "wall", "ground", "roof"}
    assert {material.texture for material in MATERIALS.values()} <= known
    assert {family.roof for family in FAMILIES.values()} < ASSEMBLIES.keys()


@pytest.mark.parametrize("size", [64, 65, 100])
def test_sizes_that_no_power_of_two_divides(size):
    for index in range(6):
        photo, label = draw_pair(1, "odd", index, size)
        assert photo.shape == label.shape == (size, size, 3)
        assert colours(label) <= set(PALETTE.values())


# the photograph shows what the label says


def test_camera_shows_photo_and_label_at_the_same_place():
    rng = np.random.default_rng(0)
    corners = np.array([(0.05, 0.08), (0.07, 0.95), (0.96, 0.93), (0.93, 0.05)])
    blocks = np.kron(rng.integers(0, 2, (16, 16)), np.ones((16, 16))).astype(np.uint8) * 255
    scene = np.repeat(blocks[..., None], 3, axis=2)
    photo = np.asarray(warp(scene, corners, 256, Image.Resampling.BILINEAR).reduce(2)) > 127
    label = np.asarray(warp(scene, corners, 128, Image.Resampling.NEAREST)) > 127
    assert (photo == label).mean() > 0.99
    assert all((photo == np.roll(label, n, axis)).mean() < 0.97 for n in (-1, 1) for axis in (0, 1))


def test_dark_windows_lie_exactly_where_the_label_has_them():
    modern = [i for i in range(40) if building(i)[0] == "modern"]
    for index in modern:  # whose window frames are as dark as the glass
        photo, label = draw_pair(0, "train", index, 128)
        grey, windows = luminance(photo), of_class(label, "window")
        moved = [grey[np.roll(windows, n, axis)].mean() for n in (-1, 1) for axis in (0, 1)]
        assert grey[windows].mean() < min(moved) - 0.01
    assert len(modern) > 2


def test_glass_is_darker_than_the_wall_beside_it():
    # glass is 0.5 at the top and 0.1 at the foot; no wall is darker than brick, 0.5, and the rest
    # of a window is frame and curtain
    for index in range(24):
        photo, label = draw_pair(1, "train", index, 128)
        grey, windows = luminance(photo), of_class(label, "window")
        wall = np.median(grey[near(windows) & of_class(label, "wall")])
        assert wall - np.percentile(grey[windows], 25) > 0.1


def test_doors_differ_from_the_wall_beside_them():
    for index in range(24):
        photo, label = draw_pair(1, "train", index, 128)
        doors = of_class(label, "door")
        wall = np.median(photo[near(doors) & of_class(label, "wall")], axis=0)
        assert np.abs(np.median(photo[doors], axis=0) - wall).mean() > 25


def test_the_sky_is_bluer_than_the_street():
    for index in range(12):
        photo, label = draw_pair(1, "train", index, 64)
        sky, street = (photo[of_class(label, name)].mean(axis=0) for name in ("sky", "street"))
        assert (sky - street)[2] > (sky - street)[0] + 20


# the folders


def test_layout_of_both_sets(made):
    pairs = {"train/0001.png", "train/0002.png", "train/0003.png"}
    pairs |= {"val/0001.png", "test/0001.png", "test/0002.png"}
    assert tree(made).keys() == pairs | {NOTE}
    numbers = {"train": ("0001", "0002", "0003"), "test": ("0001", "0002")}
    unpaired = {f"{split}A/photo{n}.jpg" for split in numbers for n in numbers[split]}
    unpaired |= {f"{split}B/label{n}.png" for split in numbers for n in numbers[split]}
    assert tree(made.with_name("demo_unpaired")).keys() == unpaired | {NOTE}


def test_a_pair_is_photo_left_and_label_right_without_loss(made):
    photo, label = draw_pair(0, "val", 1, 64)
    pair = read(made / "val" / "0001.png")
    assert np.array_equal(pair[:, :64], photo) and np.array_equal(pair[:, 64:], label)


def test_unpaired_a_is_a_photo_and_b_a_label(made):
    unpaired = made.with_name("demo_unpaired")
    photo = read(unpaired / "trainA" / "photo0002.jpg").astype(int)
    assert np.abs(photo - draw_pair(0, "train", 2, 64)[0]).mean() < 4  # JPEG, quality 95
    assert colours(read(unpaired / "trainB" / "label0002.png")) <= set(PALETTE.values())


def test_unpaired_names_make_no_pairs(made):
    sides = [made.with_name("demo_unpaired") / f"train{side}" for side in "AB"]
    a, b = ({path.stem for path in side.iterdir()} for side in sides)
    assert len(a) == len(b) == 3 and not a & b


def test_unpaired_sets_share_no_building(made):
    unpaired = made.with_name("demo_unpaired")
    of_photos = [read(path)[:, 64:] for path in made.rglob("*.png")]
    labels = [read(path) for path in unpaired.rglob("*.png")]
    assert len(of_photos) == 6 and len(labels) == 5
    for label in labels:
        assert not any(np.array_equal(label, other) for other in of_photos)


def test_the_number_of_workers_changes_nothing(made, tmp_path):
    out = tmp_path / "demo"
    main(["--out", str(out), *SMALL, "--workers", "3"])
    assert tree(out) == tree(made)
    assert tree(tmp_path / "demo_unpaired") == tree(made.with_name("demo_unpaired"))


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    out = tmp_path / "demo"
    main(["--out", str(out), *SMALL])
    before, kept = tree(out), (out / "train" / "0001.png").stat().st_mtime_ns
    (out / "train" / "0002.png").unlink()
    main(["--out", str(out), *SMALL])
    assert tree(out) == before
    assert (out / "train" / "0001.png").stat().st_mtime_ns == kept  # not drawn again


def test_the_last_line_says_where_and_how_to_train(tmp_path, capsys):
    main(["--out", str(tmp_path / "my data"), *SMALL])
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{tmp_path / 'my data'}" in line and f"{tmp_path / 'my data_unpaired'}" in line
    assert line.endswith(
        f"python train.py --dataroot '{tmp_path / 'my data'}' "
        "--name demo_pix2pix --model pix2pix --direction BtoA"
    )


@pytest.mark.parametrize("given", [".", "../demo/../demo/.", "sub/.."])
def test_a_folder_may_be_named_by_its_place(tmp_path, monkeypatch, given):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path / "demo")
    main(["--out", given, "--size", "64", "--train", "1", "--val", "0", "--test", "0",
          "--workers", "1"])  # fmt: skip
    assert sorted(tree(tmp_path)) == [
        f"demo/{NOTE}", "demo/train/0001.png", f"demo_unpaired/{NOTE}",
        "demo_unpaired/trainA/photo0001.jpg", "demo_unpaired/trainB/label0001.png",
    ]  # fmt: skip


# mistakes


def test_the_root_of_all_folders_is_not_empty():
    with pytest.raises(UserError, match="^/ is not empty.*--out"):
        main(["--out", "/", *SMALL])


@pytest.mark.parametrize("taken", ["demo", "demo_unpaired"])
def test_a_folder_with_other_things_is_left_alone(tmp_path, taken):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=rf"{taken} is not empty.*--out"):
        main(["--out", str(tmp_path / "demo"), *SMALL])
    assert tree(tmp_path) == {f"{taken}/thesis.txt": b"mine"}


def test_a_set_of_other_options_is_left_alone(made):
    before = tree(made)
    with pytest.raises(UserError, match=rf"other options.*{NOTE}.*--out"):
        main(["--out", str(made), *SMALL, "--seed", "5"])
    assert tree(made) == before
    assert json.loads((made / NOTE).read_text())["seed"] == 0


def test_no_write_permission(tmp_path, monkeypatch):
    def mkdir(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)  # a real one stops everybody but root
    with pytest.raises(UserError, match="--out .*Permission denied.*give a folder"):
        main(["--out", str(tmp_path / "demo"), *SMALL])


def test_a_mistake_ends_the_program_with_one_message_and_status_2(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "file" / "demo"), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "file/demo" in line and "--out" in line


@pytest.mark.parametrize(
    "flag, value",
    [("--size", "63"), ("--size", "big"), ("--train", "0"), ("--val", "-1"), ("--workers", "0"),
     ("--seed", "-1")],
)  # fmt: skip
def test_impossible_numbers_are_named(flag, value, capsys):
    with pytest.raises(SystemExit) as stop:
        main([flag, value])
    assert stop.value.code == 2
    assert f"argument {flag}" in capsys.readouterr().err
