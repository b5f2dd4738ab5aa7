"""Devices, options, messages and ends of a job, in the environment that torchrun makes."""

import atexit
import contextlib
import io
import os
import re
import signal
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrun import ranks

from options.train_options import TrainOptions
from util import devices, distributed
from util.distributed import program
from util.distributed import ranks as ranks_module
from util.errors import UserError


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    with ranks(4, tmp_path_factory.mktemp("four")) as call:
        yield call


# ---- options under torchrun, without a group -------------------------------------------------


@pytest.fixture
def job(monkeypatch):
    """Makes this process look like one rank of a job on one machine."""

    def pretend(world_size, rank=0):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, str(rank))
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, str(world_size))

    monkeypatch.setattr(distributed, "from_main", lambda name, compute: compute())
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    return pretend


def parse(*argv, model="pix2pix"):
    return TrainOptions().parse(["--dataroot", "d", "--gpu_ids", "-1", "--model", model, *argv])


NORM_POLICY = [
    # model, what is given, on one process, on several ranks (None: refused)
    ("pix2pix", [], "batch", "syncbatch"),
    ("pix2pix", ["--norm", "batch"], "batch", None),
    ("pix2pix", ["--norm=batch"], "batch", None),
    ("pix2pix", ["--norm", "syncbatch"], "syncbatch", "syncbatch"),
    ("pix2pix", ["--norm", "sync_batch"], "syncbatch", "syncbatch"),
    ("pix2pix", ["--norm", "instance"], "instance", "instance"),
    ("pix2pix", ["--norm", "none"], "none", "none"),
    ("cycle_gan", [], "instance", "instance"),
    ("cycle_gan", ["--norm", "batch"], "batch", None),
    ("cycle_gan", ["--norm", "sync_instance"], "instance", "instance"),
]


@pytest.mark.parametrize(("model", "given", "alone", "together"), NORM_POLICY)
def test_norm_policy(model, given, alone, together, job, capsys):
    assert parse(*given, model=model).norm == alone
    assert capsys.readouterr().out == ""
    job(2)
    if together is not None:
        assert parse(*given, model=model).norm == together
        said = capsys.readouterr().out
        changed = alone != together
        assert said.count("\n") == changed and ("becomes syncbatch" in said) == changed
        return
    with pytest.raises(SystemExit) as exit:
        parse(*given, model=model)
    message = capsys.readouterr().err
    assert exit.value.code == 2 and message.count("error:") == 1
    for part in ("--norm batch on 2 ranks", "--norm syncbatch", "--norm instance", "by itself"):
        assert part in message


def test_the_change_of_norm_is_said_by_rank_0_alone(job, capsys):
    job(2, rank=1)
    assert parse().norm == "syncbatch"
    assert capsys.readouterr().out == ""


def test_torchrun_with_one_process_is_one_process(job, capsys):
    job(1)
    assert parse("--norm", "batch").norm == "batch"


@pytest.mark.parametrize(
    ("ranks", "given", "each", "total"),
    [
        (4, [], 1, 4),
        (4, ["--batch_size", "3"], 3, 12),
        (4, ["--global_batch_size", "8"], 2, 8),
        (1, ["--global_batch_size", "8"], 8, 8),
    ],
)
def test_batch_sizes(ranks, given, each, total, job):
    job(ranks)
    opt = parse(*given)
    assert (opt.batch_size, opt.global_batch_size) == (each, total)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--global_batch_size", "6"], "--global_batch_size 6 .* 4 ranks; .*multiple of 4"),
        (["--global_batch_size", "0"], "--global_batch_size 0"),
        (["--global_batch_size", "-4"], "--global_batch_size -4"),
        (["--global_batch_size", "4", "--batch_size", "1"], "--batch_size .*--global_batch_size"),
    ],
)
def test_batch_sizes_that_cannot_be(given, message, job, capsys):
    job(4)
    with pytest.raises(SystemExit) as exit:
        parse(*given)
    assert exit.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_all_problems_of_a_rank_are_told_together(job, capsys):
    job(4)
    with pytest.raises(SystemExit):
        parse("--norm", "batch", "--global_batch_size", "6", "--n_epohcs", "3")
    message = capsys.readouterr().err
    for part in ("--norm syncbatch", "use a multiple of 4", "--n_epochs"):
        assert part in message


# ---- devices ---------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Makes this machine look as if it had some GPUs."""

    def pretend(count, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU model {i}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def device(given=None):
    return str(devices.choose_device(given))


def test_each_rank_has_a_gpu_of_its_own(job, gpus, capsys):
    gpus(4)
    for rank in range(4):
        job(4, rank)
        assert device() == f"cuda:{rank}"
    job(2, rank=1)
    assert device() == "cuda:1"  # more GPUs than ranks
    assert [device(given) for given in ("2,3", "3,0", "-1")] == ["cuda:3", "cuda:0", "cpu"]
    assert capsys.readouterr().out == ""


def test_the_device_is_that_of_the_rank_on_its_own_machine(job, gpus, monkeypatch):
    gpus(2)
    job(4, rank=3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device() == "cuda:1"


@pytest.mark.parametrize("given", [None, "0"])
def test_a_launcher_may_show_each_rank_one_gpu_only(given, job, gpus, capsys):
    """As SLURM does: all are called cuda:0."""
    gpus(1)
    for rank in range(2):
        job(2, rank)
        assert device(given) == "cuda:0"
    assert capsys.readouterr().out == ""


def backend_for(gpu_ids, path):
    """Which backend a rank asks for whose GPUs have these ids ("": none), and what it says."""
    store = dist.FileStore(str(path), dist.get_world_size())
    heard, asked = io.StringIO(), []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(heard):
        patch.setattr(ranks_module, "store", lambda: store)
        patch.setattr(ranks_module, "gpu_id", lambda device: gpu_ids[dist.get_rank()])
        patch.setattr(dist, "init_process_group", lambda name, **more: asked.append(name))
        patch.setattr(dist, "destroy_process_group", lambda: None)
        with distributed.job(torch.device("cpu"), 1.0):
            pass
    return asked, heard.getvalue()


@pytest.mark.parametrize(
    ("gpu_ids", "backend", "warns"),
    [
        (["GPU-1", "GPU-2", "GPU-3", "GPU-4"], "cpu:gloo,cuda:nccl", False),
        (["GPU-1", "GPU-2", "GPU-3", "GPU-1"], "gloo", True),  # the last one alone may know
        (["GPU-1", "GPU-2", "GPU-3", ""], "gloo", True),
        (["", "", "", ""], "gloo", False),
    ],
)
def test_all_ranks_agree_on_nccl_or_none_uses_it(four, tmp_path, gpu_ids, backend, warns):
    answers = four(backend_for, gpu_ids, tmp_path / "store")
    assert [asked for asked, _ in answers] == [[backend]] * 4
    assert ["which is slow" in said for _, said in answers] == [warns, False, False, False]


def test_a_given_list_shorter_than_the_ranks_is_refused(job, gpus):
    gpus(4)
    job(4)
    for given in ("0", "1,2", "0,0,1,1"):
        with pytest.raises(UserError, match=f"--gpu_ids {given} .*4 ranks"):
            device(given)


def test_ranks_without_gpus_run_on_the_cpu(job, gpus):
    gpus(0)
    assert device() == "cpu"
    job(2)
    assert device() == device("-1") == device("0") == "cpu"
    gpus(0, mps=True)
    assert device() == "cpu"  # it has no collectives
    job(1)
    assert device() == "mps"


def test_one_process_that_could_use_several_gpus_is_told_how(job, gpus, capsys):
    gpus(2)
    assert device() == "cuda:0"
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "torchrun --nproc_per_node=2 train.py" in said
    gpus(1)
    assert device() == "cuda:0"
    assert capsys.readouterr().out == ""


# ---- once for the whole job ------------------------------------------------------------------


def test_only_rank_0_speaks_and_writes(job, capsys):
    written = []
    write = distributed.main_only(written.append)
    for rank in range(3):
        job(3, rank)
        distributed.print0(f"rank {rank}")
        write(rank)
        assert bool(distributed.main_only(lambda: [1])()) == (rank == 0)
    assert capsys.readouterr().out == "rank 0\n" and written == [0]


def complaint(path):
    """All complain at once; what this rank printed, and how long it stayed."""
    store = dist.FileStore(str(path), dist.get_world_size())
    heard, stayed = io.StringIO(), []
    dist.barrier()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(heard):
        patch.setattr(ranks_module, "store", lambda: store)  # torchrun's, in a job
        patch.setattr(program.time, "sleep", stayed.append)
        distributed.print_error_once(f"rank {dist.get_rank()} has a problem")
    return heard.getvalue().count("has a problem\n"), stayed


def test_one_rank_complains_and_the_others_let_it_leave_first(four, tmp_path):
    assert sorted(four(complaint, tmp_path / "store")) == [(0, [5]), (0, [5]), (0, [5]), (1, [])]


def lose_rank_1(how, path):
    """Rank 1 dies; how rank 0 leaves the job, and what it prints."""
    net = distributed.wrap(nn.Conv2d(3, 3, 1), norm="none")
    if dist.get_rank() == 1:
        os._exit(9)

    def main():
        if how == "backward":  # not a collective of ours
            net(torch.ones(1, 3, 2, 2)).sum().backward()
        else:
            distributed.gather_everywhere(1)

    heard = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(heard):
        patch.setattr(os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as exit:
            distributed.run(main)
    path.write_text(f"{exit.value.code}: {heard.getvalue()}")


@pytest.mark.parametrize("how", ["collective", "backward"])
def test_a_rank_that_lost_the_others_says_so_without_a_traceback(how, tmp_path):
    with ranks(2, tmp_path) as two, pytest.raises(EOFError):  # from rank 1
        two(lose_rank_1, how, tmp_path / "said")
    said = (tmp_path / "said").read_text()
    assert said.startswith("1: ") and said.count("\n") == 1
    assert "error: rank 0 lost the other ranks" in said


@pytest.mark.parametrize(
    ("error", "rank", "leaves_with", "says"),
    [
        (UserError("no image"), 0, 2, "error: no image\n"),
        (UserError("no image"), 1, 2, ""),  # rank 0 is taken to have said it
        (ValueError("a bug"), 0, 1, "\nValueError: a bug\n"),
        (ValueError("a bug"), 1, 1, ""),
        (FileNotFoundError(2, "No such file", "/igloo/x.txt"), 0, 1, "\nFileNotFoundError: "),
        (RuntimeError("cannot open /data/gloo/x.cc"), 0, 1, "\nRuntimeError: cannot open"),
        (dist.DistNetworkError("the store is gone"), 0, 1, "rank 0 lost the other ranks"),
        (KeyboardInterrupt(), 0, 130, "interrupted\n"),
        (KeyboardInterrupt(), 1, 130, ""),
    ],
)
def test_a_rank_that_fails_says_so_and_waits_for_nobody(
    error, rank, leaves_with, says, job, monkeypatch, capsys
):
    """With NCCL the end of the process group waits for collectives that never come."""
    job(2, rank)

    def main():
        with distributed.job(torch.device("cpu"), 1.0):
            raise error

    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))  # put back afterwards
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr(program, "exchange", lambda name, value: ["", ""])
    monkeypatch.setattr(program, "_join", lambda *args: None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: pytest.fail("it would wait"))
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as exit:
        distributed.run(main)
    assert exit.value.code == leaves_with
    said = capsys.readouterr().err
    assert bool(said) == bool(says) and says in said


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"RANK": "1"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "9" * 5000, "WORLD_SIZE": "9" * 5001},  # more than Python would read
        {"RANK": "²", "WORLD_SIZE": "2"},  # a digit for str.isdecimal's kin alone
        {"TORCHELASTIC_RESTART_COUNT": "abc"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"},
        {"WORLD_SIZE": "2"},  # nor where to meet
    ],
)
def test_an_environment_that_torchrun_would_not_make_is_one_message(
    variables, job, monkeypatch, capsys
):
    """Others would wait minutes for ranks that do not come."""
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))  # put back afterwards
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranks_module._store_of_job.cache_clear()
    with pytest.raises(SystemExit) as exit:
        distributed.run(ranks_module.store)
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("error: ") == 1 and "torchrun" in said


def test_a_saved_state_is_noted_only_where_there_is_a_torchrun_to_ask(job, monkeypatch):
    """A shell may have its variables, and nothing that answers."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    ranks_module._store_of_job.cache_clear()
    distributed.note_saved()


def test_the_stand_in_takes_any_call():
    no_op = distributed.NoOp()
    assert no_op.anything(1, two=3) is None and not no_op


def test_programs_for_one_process_refuse_several(job):
    distributed.one_process_only()
    job(2)
    with pytest.raises(UserError, match="one process.*torchrun started 2"):
        distributed.one_process_only()
