"""The shell scripts that people expect: what they start, where, and with which options."""

import os
import subprocess
from pathlib import Path

import pytest
from formulas import reference

ROOT = Path(__file__).parents[1]
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
# stands for python and torchrun: answers 3 to "how many GPUs", else writes down how it was called
STAND_IN = """#!/usr/bin/env bash
if [ "$1" = -c ]; then echo 3; exit; fi
printf '%s\\0' "$(basename "$0")" "$PWD" "$@" > "$RECORD"
exit 7
"""


@pytest.fixture
def call(tmp_path):
    """Run a script from another folder; returns (program, its folder, its arguments)."""
    for name in ("python", "torchrun"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    record = tmp_path / "record"

    def run(script: str, *args: str, **env: str):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        inherited = {key: value for key, value in os.environ.items() if key != "NPROC"}
        done = subprocess.run(
            ["bash", os.path.relpath(SCRIPTS / script, tmp_path), *args],
            env={**inherited, "PATH": path, "RECORD": str(record), **env},
            cwd=tmp_path,
            timeout=30,
        )
        assert done.returncode == 7  # the program's own status reaches the caller
        program, folder, *arguments = record.read_text().split("\0")[:-1]
        return program, Path(folder), arguments

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
def test_its_options_exist_for_its_model(call, script):
    _, folder, arguments = call(script)
    program, model = (PLAIN | DDP)[script]
    arguments = arguments[1:] if script in DDP else arguments  # --nproc_per_node is torchrun's
    assert folder == ROOT and arguments[0] == f"{program}.py"
    given = flags(arguments)
    assert given["--model"] == model and {"--dataroot", "--name"} < given.keys()
    known = reference("options")[f"{program} {model}"]
    assert given.keys() <= known.keys()
    for option, value in given.items():
        assert (value == "") == isinstance(known[option]["default"], bool), option


@pytest.mark.parametrize("script", PLAIN)
def test_it_is_a_line_that_users_of_the_original_have(call, script):
    program, _, arguments = call(script)
    assert program == "python"
    lines = (ROOT / "tests" / "reference" / "commands.txt").read_text().splitlines()
    assert " ".join(arguments) in lines


@pytest.mark.parametrize("script", DDP)
def test_one_process_per_gpu_unless_nproc_says_otherwise(call, script):
    program, _, arguments = call(script)
    assert program == "torchrun" and arguments[0] == "--nproc_per_node=3"
    assert call(script, NPROC="2")[2][0] == "--nproc_per_node=2"
    assert "batch" not in arguments  # --norm batch is refused on several ranks


@pytest.mark.parametrize("script", [*PLAIN, *DDP, *DOWNLOADS])
def test_further_arguments_are_passed_on_last_and_whole(call, script):
    assert call(script, "--name", "two  words")[2][-2:] == ["--name", "two  words"]


@pytest.mark.parametrize(("script", "kind"), DOWNLOADS.items())
def test_a_download_script_names_its_kind(call, script, kind):
    program, folder, arguments = call(script, "maps")
    assert program == "python" and arguments[1:] == [kind, "maps"]
    assert (folder / arguments[0]).resolve() == SCRIPTS / "download.py"
