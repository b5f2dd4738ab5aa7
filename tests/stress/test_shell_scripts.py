"""The shell scripts that people expect: what they start, where, and with which options."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from formulas import reference

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
PLAIN = {  # script: (program, model)
    "train_pix2pix.sh": ("train", "pix2pix"),
    "train_cyclegan.sh": ("train", "cycle_gan"),
    "train_colorization.sh": ("train", "colorization"),
    "test_pix2pix.sh": ("test", "pix2pix"),
    "test_cyclegan.sh": ("test", "cycle_gan"),
    "test_single.sh": ("test", "test"),
    "test_colorization.sh": ("test", "colorization"),
}
DDP = {
    "train_pix2pix_ddp.sh": ("train", "pix2pix"),
    "train_cyclegan_ddp.sh": ("train", "cycle_gan"),
}
DOWNLOADS = {
    f"download_{family}_{kind}.sh": f"{family}-{kind}"
    for family in ("cyclegan", "pix2pix")
    for kind in ("dataset", "model")
}
# stands for python: answers 3 to "how many GPUs", else writes down how it was called
STAND_IN = """#!/bin/bash
if [ "$1" = -c ]; then echo 3; exit; fi
printf '%s\\0' "$0" "$PWD" "$@" > "$RECORD"
exit 7
"""
TORCHRUN = ["-m", "torch.distributed.run"]  # what the command torchrun runs
CHOICES = ("NPROC", "PYTHON", "VENV", "VIRTUAL_ENV")  # the variables that the scripts read


def stand_in(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def repository(tmp_path):
    """One that has shell scripts only, and no environment in .venv."""
    folder = tmp_path / "a repository"
    (folder / "scripts").mkdir(parents=True)
    for script in SCRIPTS.glob("*.sh"):
        shutil.copy(script, folder / "scripts")
    return folder


@pytest.fixture
def tools(tmp_path):
    """All that is on the PATH: what the scripts need, and python, but not python3."""
    folder = tmp_path / "bin"
    stand_in(folder / "python")
    for tool in ("bash", "dirname"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


@pytest.fixture
def call(tmp_path, repository, tools):
    """Run a script from another folder; returns (python, its folder, its arguments)."""
    elsewhere, record = tmp_path / "elsewhere", tmp_path / "record"
    elsewhere.mkdir()
    inherited = {key: value for key, value in os.environ.items() if key not in CHOICES}

    def run(script: str, *args: str, **env: str):
        done = subprocess.run(
            ["bash", os.path.relpath(repository / "scripts" / script, elsewhere), *args],
            env={**inherited, "PATH": str(tools), "RECORD": str(record), **env},
            cwd=elsewhere,
            timeout=30,
        )
        assert done.returncode == 7  # the program's own status reaches the caller
        python, folder, *arguments = record.read_text().split("\0")[:-1]
        return python, Path(folder), arguments

    return run


def flags(arguments: list[str]) -> dict[str, str]:
    """{option: value}, the value "" for a switch."""
    found = {}
    for i, word in enumerate(arguments):
        if word.startswith("--"):
            value = arguments[i + 1] if i + 1 < len(arguments) else "--"
            found[word] = "" if value.startswith("--") else value
    return found


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_bash_accepts_it(script):
    subprocess.run(["bash", "-n", str(SCRIPTS / script)], check=True, timeout=30)


@pytest.mark.parametrize("script", [*PLAIN, *DDP])
def test_its_options_exist_for_its_model(call, repository, script):
    _, folder, arguments = call(script)
    program, model = (PLAIN | DDP)[script]
    arguments = arguments[3:] if script in DDP else arguments  # those before are torchrun's
    assert folder == repository and arguments[0] == f"{program}.py"
    given = flags(arguments)
    assert given["--model"] == model and {"--dataroot", "--name"} < given.keys()
    known = reference("options")[f"{program} {model}"]
    assert given.keys() <= known.keys()
    for option, value in given.items():
        assert (value == "") == isinstance(known[option]["default"], bool), option


@pytest.mark.parametrize("script", PLAIN)
def test_it_is_a_line_that_users_of_the_original_have(call, script):
    _, _, arguments = call(script)
    lines = (ROOT / "tests" / "reference" / "commands.txt").read_text().splitlines()
    assert " ".join(arguments) in lines


@pytest.mark.parametrize("script", DDP)
def test_one_process_per_gpu_unless_nproc_says_otherwise(call, script):
    _, _, arguments = call(script)
    assert arguments[:3] == [*TORCHRUN, "--nproc_per_node=3"]
    assert call(script, NPROC="2")[2][:3] == [*TORCHRUN, "--nproc_per_node=2"]
    assert "batch" not in arguments  # --norm batch is refused on several ranks


@pytest.mark.parametrize("script", [*PLAIN, *DDP, *DOWNLOADS])
def test_further_arguments_are_passed_on_last_and_whole(call, script):
    assert call(script, "--name", "two  words")[2][-2:] == ["--name", "two  words"]


@pytest.mark.parametrize(("script", "kind"), DOWNLOADS.items())
def test_a_download_script_names_its_kind(call, repository, script, kind):
    _, folder, arguments = call(script, "maps")
    assert arguments[1:] == [kind, "maps"]
    assert (folder / arguments[0]).resolve() == repository / "scripts" / "download.py"


@pytest.mark.parametrize("script", ["train_pix2pix.sh", "train_cyclegan_ddp.sh", *DOWNLOADS])
def test_it_takes_the_nearest_python(call, repository, tools, tmp_path, script):
    places = [  # from the last that it looks at to the first
        ({}, tools / "python"),
        ({}, tools / "python3"),
        ({}, repository / ".venv" / "bin" / "python"),
        ({"VENV": str(tmp_path / "own")}, tmp_path / "own" / "bin" / "python"),
        ({"VIRTUAL_ENV": str(tmp_path / "active")}, tmp_path / "active" / "bin" / "python"),
        ({"PYTHON": str(tmp_path / "python3.99")}, tmp_path / "python3.99"),
    ]
    env = {}
    for variables, path in places:
        env |= variables
        stand_in(path)
        found, folder, _ = call(script, "maps", **env)
        assert os.path.realpath(folder / found) == str(path)


def test_a_demo_with_arguments_is_refused_before_anything_is_made(repository):
    done = subprocess.run(
        ["bash", str(repository / "scripts" / "demo.sh"), "--name", "x"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2 and done.stdout == "" and "no arguments" in done.stderr
    assert os.listdir(repository) == ["scripts"]


def test_the_links_of_the_demo_survive_a_space_in_the_path(tmp_path):
    """The whole script, with an environment whose python only makes links."""
    folder = tmp_path / "a folder # 100%"
    (folder / "scripts").mkdir(parents=True)
    for name in ("demo.sh", "environment.sh"):
        shutil.copy(SCRIPTS / name, folder / "scripts")
    (folder / "requirements.txt").write_text("")
    python = folder / ".venv" / "bin" / "python"
    stand_in(python)
    python.write_text(f'#!/bin/bash\n[ "$1" != -c ] || exec {sys.executable!r} "$@"\n')
    stand_in(python.with_name("pip"))
    python.with_name("activate").write_text(f"PATH={str(python.parent)!r}:$PATH\n")
    (folder / ".venv" / "installed.txt").write_text("\n")
    done = subprocess.run(
        ["bash", "scripts/demo.sh"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key not in CHOICES}
        | {"PYTHON": sys.executable, "RECORD": str(tmp_path / "record")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    links = re.findall(r"file://\S+", done.stdout)
    assert [Path(unquote(urlparse(link).path)) for link in links] == [
        folder / "results/demo/test_latest/index.html",
        folder / "checkpoints/demo/web/index.html",
    ]


# stand for SLURM's programs; each writes down what it was asked for
SRUN = """#!/bin/bash
echo $$ > "$RECORD.pid"
trap 'sleep 0.3; echo saved >> "$RECORD"; exit 143' TERM
while true; do sleep 0.05; done
"""
SCANCEL = """#!/bin/bash
echo scancel "$@" >> "$RECORD"
kill -TERM "$(cat "$RECORD.pid")"
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && { echo node1; exit; }
echo scontrol "$@" >> "$RECORD"
"""


def test_slurm_saves_and_requeues_before_the_time_is_up(repository, tools, tmp_path):
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for tool in ("sleep", "cat"):
        (tools / tool).symlink_to(shutil.which(tool))
    record = tmp_path / "record"
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node1"}
    job = subprocess.Popen(
        ["bash", str(repository / "scripts" / "train_slurm.sh")],
        env={
            "PATH": str(tools),
            "RECORD": str(record),
            "SLURM_SUBMIT_DIR": str(repository),
            **slurm,
        },
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "record.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # until the stand-in waits for signals
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0
    assert record.read_text().splitlines() == [
        "scancel --signal=TERM 77", "saved", "scontrol requeue 77",
    ]  # fmt: skip
