"""train.py as a whole, on tiny data."""

import csv
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import TINY, TWO_EPOCHS, write_images

import train
from models import create_model
from options.train_options import TrainOptions
from util.errors import UserError
from util.reports.loss_log import LossLog
from util.training.progress import due

LINE = (
    r"\(epoch: (\d+), iters: (\d+), time: (\d+\.\d{3}), data: (\d+\.\d{3})\) "
    r"(\w+: -?\d+\.\d{3} ?)+$"
)


def weights(name, tag="latest"):
    files = sorted(Path("checkpoints", name).glob(f"{tag}_net_*.pth"))
    assert files
    return {f.name: torch.load(f, weights_only=True) for f in files}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[f][k], b[f][k]) for f in a for k in a[f])


def run(data, name, *more, model="pix2pix"):
    argv = ["--dataroot", str(data), "--name", name, "--model", model]
    train.main([*argv, *TINY, *TWO_EPOCHS, *more])


def test_due_fires_on_crossing():
    fired = [seen for seen in range(3, 31, 3) if due(seen, 3, 10)]
    assert fired == [12, 21, 30]
    assert due(30, 30, 10) and not due(9, 3, 10)


def test_a_run_leaves_weights_logs_and_page(aligned, here):
    run(aligned, "n", "--save_epoch_freq", "1")
    folder = here / "checkpoints" / "n"
    names = {f.name for f in folder.iterdir()}
    assert {"latest_net_G.pth", "latest_net_D.pth", "1_net_G.pth", "2_net_D.pth"} <= names
    assert {"train_opt.txt", "train_opt.json", "loss_log.txt", "losses.csv", "web"} <= names
    assert (folder / "web" / "index.html").exists()
    assert len(list((folder / "web" / "images").glob("epoch00[12]_*.png"))) == 2 * 3


def test_loss_log_has_the_format_of_the_original_and_the_csv_the_same_numbers(aligned, here):
    run(aligned, "n", "--batch_size", "2")
    folder = here / "checkpoints" / "n"
    heading, *lines = (folder / "loss_log.txt").read_text().splitlines()
    assert heading.startswith("================ Training Loss (")
    assert all(re.match(LINE, line) for line in lines)
    iters = [tuple(map(int, re.match(LINE, line).groups()[:2])) for line in lines]
    assert iters == [(1, 2), (1, 4), (1, 5), (2, 2), (2, 4), (2, 5)]  # 5 images, batches of 2
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    assert [int(row["total_iters"]) for row in rows] == [2, 4, 5, 7, 9, 10]
    for line, row in zip(lines, rows, strict=True):
        for name, value in re.findall(r"(\w+): (-?\d+\.\d{3})", line.split(") ", 1)[1]):
            assert f"{float(row[name]):.3f}" == value


def test_the_same_seed_gives_the_same_weights_bit_for_bit(aligned, here):
    for name, more in {"a": [], "b": [], "workers": ["--num_threads", "4"]}.items():
        run(aligned, name, *more)
    run(aligned, "other", "--seed", "1")
    assert equal(weights("a"), weights("b"))
    assert equal(weights("a"), weights("workers"))
    assert not equal(weights("a"), weights("other"))


def test_the_page_and_the_logs_do_not_change_what_is_trained(unaligned, here):
    run(unaligned, "a", "--no_html", "--print_freq", "1000", model="cycle_gan")
    run(unaligned, "b", "--display_freq", "1", model="cycle_gan")
    assert equal(weights("a"), weights("b"))
    assert not (here / "checkpoints" / "a" / "web").exists()


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla", "wgangp"])
@pytest.mark.parametrize("model", ["pix2pix", "cycle_gan"])
def test_every_gan_mode_trains_every_network(model, gan_mode, aligned, unaligned, here):
    data = aligned if model == "pix2pix" else unaligned
    argv = ["--dataroot", str(data), "--model", model, "--gan_mode", gan_mode, *TINY]
    opt = TrainOptions().parse(argv)
    net = create_model(opt)
    net.setup(opt)
    before = {n: [p.clone() for p in m.parameters()] for n, m in net.named_networks().items()}
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    net.set_input({"A": image, "B": -image, "A_paths": ["a"], "B_paths": ["b"]})
    net.optimize_parameters()
    assert all(torch.isfinite(torch.tensor(v)) for v in net.get_current_losses().values())
    for name, network in net.named_networks().items():
        assert any(
            not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)
        ), name
        assert all(p.requires_grad for p in network.parameters())


def test_wgangp_applies_its_penalty(aligned, here):
    """Without the penalty nothing but the learning rate bounds D: with it |grad D| goes to 1."""
    for name, weight in {"with": "10", "without": "0"}.items():
        run(aligned, name, "--gan_mode", "wgangp", "--lambda_gp", weight)
    assert not equal(weights("with"), weights("without"))
    rows = list(csv.DictReader((here / "checkpoints/with/losses.csv").open()))
    assert all(float(row["D_gp"]) > 0 for row in rows)


def test_save_by_iter_and_the_last_epoch_is_always_saved(aligned, here):
    run(aligned, "n", "--save_by_iter", "--save_latest_freq", "4")
    names = {f.name for f in (here / "checkpoints/n").glob("*_net_G.pth")}
    assert names == {
        "iter_4_net_G.pth", "iter_8_net_G.pth", "latest_net_G.pth", "2_net_G.pth",
    }  # fmt: skip


def test_continue_train_goes_on_at_the_right_epoch(aligned, here, capsys):
    run(aligned, "n")
    first = weights("n")
    argv = ["--dataroot", str(aligned), "--name", "n", "--model", "pix2pix", *TINY]
    train.main([*argv, "--continue_train", "--n_epochs", "2", "--n_epochs_decay", "1"])
    rows = list(csv.DictReader((here / "checkpoints/n/losses.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1] * 5 + [2] * 5 + [3] * 5
    assert [int(row["total_iters"]) for row in rows] == list(range(1, 16))
    assert "epochs 3 to 3" in capsys.readouterr().out
    assert not equal(first, weights("n"))
    assert (here / "checkpoints/n/loss_log.txt").read_text().count("====== Training Loss") == 2


def csv_rows(name):
    return list(csv.DictReader(Path("checkpoints", name, "losses.csv").open()))


def test_going_back_to_an_earlier_epoch_drops_the_rows_after_it(aligned, here):
    run(aligned, "n", "--save_epoch_freq", "1")
    run(aligned, "n", "--continue_train", "--epoch", "1")
    assert [int(row["total_iters"]) for row in csv_rows("n")] == list(range(1, 11))


def test_a_continued_run_with_other_losses_keeps_one_table(here):
    """As when the code of a plug-in model was changed in between."""
    folder = here / "checkpoints" / "n"
    folder.mkdir(parents=True)
    LossLog(folder).add(1, 1, 1, 0.0, 0.0, {"G": 0.5})
    LossLog(folder, (1, 1, 1)).add(1, 2, 2, 0.0, 0.0, {"G": 0.25, "D": 0.125})
    rows = csv_rows("n")
    assert [(row["G"], row["D"]) for row in rows] == [("0.5", ""), ("0.25", "0.125")]
    assert all(None not in row for row in rows)


def test_a_new_run_of_the_same_name_starts_a_new_table(aligned, here):
    run(aligned, "n")
    run(aligned, "n")
    assert len(csv_rows("n")) == 10


def test_file_names_that_are_no_unicode(here, tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    write_images(root / "train", 1, width=64)
    run(root, "n", "--checkpoints_dir", os.fsdecode(b"check\xe9"))
    assert Path(os.fsdecode(b"check\xe9"), "n", "latest_net_G.pth").exists()


def test_continue_train_from_weights_alone_starts_from_them(aligned, here):
    run(aligned, "n")
    for state in (here / "checkpoints/n").glob("*_train_state.pth"):
        state.unlink()
    start = weights("n")
    run(aligned, "n", "--continue_train", "--epoch_count", "2", "--lr", "0")
    assert equal(
        {
            k: {n: v for n, v in s.items() if "running" not in n and "num_b" not in n}
            for k, s in start.items()
        },
        {
            k: {n: v for n, v in s.items() if "running" not in n and "num_b" not in n}
            for k, s in weights("n").items()
        },
    )  # fmt: skip  a learning rate of 0 shows where it started


def test_plateau_follows_the_mean_generator_loss_of_the_epoch(aligned, here):
    argv = ["--dataroot", str(aligned), "--model", "pix2pix", "--lr_policy", "plateau", *TINY]
    opt = TrainOptions().parse(argv)
    model = create_model(opt)
    model.setup(opt)
    for value in (3.0, 5.0):
        model.loss_G = torch.tensor(value, requires_grad=True)
        model.end_step()
    model.update_learning_rate()
    assert model.metric == 4.0
    for _ in range(6):  # patience 5: the sixth epoch in a row without progress lowers the rate
        assert model.optimizers[0].param_groups[0]["lr"] == opt.lr
        model.loss_G = torch.tensor(4.0)
        model.end_step()
        model.update_learning_rate()
    assert model.optimizers[0].param_groups[0]["lr"] == pytest.approx(opt.lr * 0.2)


def test_identity_loss_off_leaves_it_out(unaligned, here):
    run(unaligned, "n", "--lambda_identity", "0", model="cycle_gan")
    rows = list(csv.DictReader((here / "checkpoints/n/losses.csv").open()))
    assert {row["idt_A"] for row in rows} == {"0.0"}
    assert not list((here / "checkpoints/n/web/images").glob("*idt*"))


def test_direction_swaps_the_roles(aligned, here):
    for name, direction in {"ab": "AtoB", "ba": "BtoA"}.items():
        run(aligned, name, "--direction", direction, "--no_flip", "--serial_batches")
    images = here / "checkpoints"
    a = (images / "ab/web/images/epoch001_real_A.png").read_bytes()
    b = (images / "ba/web/images/epoch001_real_B.png").read_bytes()
    assert a == b


@pytest.mark.parametrize("model", ["colorization", "template"])
def test_the_other_models_train(model, aligned, here):
    more = ["--netG", "resnet_6blocks"]
    run(aligned, model, *more, model=model)
    assert "G" in {
        f.stem.split("_net_")[1] for f in (here / "checkpoints" / model).glob("latest_n*")
    }


@pytest.mark.parametrize("shape", [(45, 37), (33, 50)])
def test_images_of_odd_sizes_train(shape, unaligned, tmp_path, here):
    root = tmp_path / "odd"
    for part in ("trainA", "trainB"):
        write_images(root / part, 2, *shape)
    run(root, "odd", "--preprocess", "scale_width", "--load_size", "37", model="cycle_gan")


def test_a_name_that_leads_nowhere_is_a_clear_error(aligned, here):
    opt = TrainOptions().parse(["--dataroot", str(aligned), "--model", "template", *TINY])
    model = create_model(opt)
    model.model_names = ["G", "D"]
    with pytest.raises(UserError, match="TemplateModel: model_names has 'D'.*self.netD"):
        model.setup(opt)
    model.model_names, model.loss_names = ["G"], ["magic"]
    model.setup(opt)
    with pytest.raises(UserError, match="loss_names has 'magic'.*self.loss_magic"):
        model.get_current_losses()


def test_importing_and_running_with_a_list_of_arguments_works(aligned, here):
    from train import main

    main(["--dataroot", str(aligned), "--name", "list", "--model", "template", *TINY, *TWO_EPOCHS])
    assert weights("list")
