import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from formulas import reference
from torch import nn

from models import networks
from models.networks import infer_options
from util import checkpoint
from util.errors import UserError
from util.version import VERSION


def generator(netG="resnet_6blocks", norm="instance", dropout=False, nc=(3, 3), ngf=4):
    return networks.define_G(*nc, ngf, netG, norm, dropout)


@pytest.mark.parametrize("norm", ["instance", "batch", "syncbatch", "none"])
@pytest.mark.parametrize("netG", ["resnet_6blocks", "unet_128"])
def test_saved_weights_are_a_plain_state_dict_with_the_keys_of_the_original(netG, norm, tmp_path):
    path = checkpoint.weights_path(tmp_path, "latest", "G")
    checkpoint.save_weights(generator(netG, norm, nc=(3, 2)), path)
    assert path.name == "latest_net_G.pth"
    state = torch.load(path, weights_only=True)
    saved_as = "batch" if norm == "syncbatch" else norm
    keys = reference("state_dicts")[f"G {netG} {saved_as} dropout=False"]
    assert [[key, list(value.shape)] for key, value in state.items()] == keys
    assert type(state) is dict


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_load_without_the_prefixes_of_wrappers(prefix, tmp_path):
    net, other = generator(), generator()
    torch.save({prefix + key: value for key, value in net.state_dict().items()}, tmp_path / "a.pth")
    checkpoint.load_weights(other, tmp_path / "a.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_running_statistics_of_old_instance_norms_are_dropped(tmp_path):
    net = generator()
    state = net.state_dict()
    for name, module in net.named_modules():
        if isinstance(module, nn.InstanceNorm2d):
            state[f"{name}.running_mean"] = torch.zeros(module.num_features)
            state[f"{name}.running_var"] = torch.ones(module.num_features)
    torch.save(state, tmp_path / "old.pth")
    checkpoint.load_weights(generator(), tmp_path / "old.pth")


def test_batch_norm_from_before_num_batches_tracked_loads(tmp_path):
    net = generator(norm="batch")
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    other = generator(norm="batch")
    checkpoint.load_weights(other, tmp_path / "old.pth")
    assert torch.equal(net.model[2].weight, other.model[2].weight)


FLAGS = [
    ({"norm": "batch"}, {"norm": "instance"}, "--norm batch"),
    ({"norm": "instance"}, {"norm": "batch"}, "--norm instance"),
    ({"norm": "none"}, {"norm": "instance"}, "--norm none"),
    ({"netG": "unet_128"}, {"netG": "resnet_6blocks"}, "--netG unet_128"),
    ({"netG": "unet_256"}, {"netG": "unet_128"}, "--netG unet_256"),
    ({"netG": "resnet_9blocks"}, {"netG": "resnet_6blocks"}, "--netG resnet_9blocks"),
    ({"dropout": True}, {"dropout": False}, "--dropout"),
    ({"dropout": False, "norm": "batch"}, {"dropout": True, "norm": "batch"}, "--no_dropout"),
    ({"ngf": 8}, {"ngf": 4}, "--ngf 8"),
    ({"nc": (1, 3)}, {"nc": (3, 3)}, "--input_nc 1"),
    ({"nc": (3, 1), "netG": "unet_128"}, {"nc": (3, 3), "netG": "unet_128"}, "--output_nc 1"),
]


@pytest.mark.parametrize(("trained", "asked", "flag"), FLAGS, ids=[case[2] for case in FLAGS])
def test_a_wrong_architecture_names_the_flag_in_one_message(trained, asked, flag, tmp_path):
    checkpoint.save_weights(generator(**trained), tmp_path / "a.pth")
    net = generator(**asked)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(UserError) as error:
        checkpoint.load_weights(net, tmp_path / "a.pth", infer_options.differences)
    message = str(error.value)
    assert f"trained with {flag}," in message and "a.pth" in message and len(message) < 300
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_discriminator_is_described_too(tmp_path):
    checkpoint.save_weights(networks.define_D(3, 4, "n_layers", 2), tmp_path / "a.pth")
    with pytest.raises(UserError, match="--n_layers_D 2,"):
        checkpoint.load_weights(
            networks.define_D(3, 4, "basic"), tmp_path / "a.pth", infer_options.differences
        )


class Payload:
    """Pickles as a call that would leave a trace."""

    def __reduce__(self):
        return (os.system, ("touch executed",))


BAD = {
    "code": lambda path: torch.save({"a": Payload()}, path),
    "text": lambda path: path.write_text("hello, this is no checkpoint"),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: (
        torch.save(generator().state_dict(), path),
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    ),
    "list": lambda path: torch.save([1, 2, 3], path),
    "numbers": lambda path: torch.save({"model.1.weight": 3}, path),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_one_message_and_run_no_code(kind, here):
    path = here / "latest_net_G.pth"
    BAD[kind](path)
    with pytest.raises(UserError, match="latest_net_G.pth"):
        checkpoint.load_weights(generator(), path)
    assert not (here / "executed").exists()


def test_a_missing_file_says_what_is_there(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="no weights at all; .*--name"):
            checkpoint.load(folder / "latest_net_G.pth")
    checkpoint.save_weights(generator(), tmp_path / "latest_net_G_A.pth")
    with pytest.raises(UserError, match="latest_net_G_A.pth; choose with .*--model_suffix"):
        checkpoint.load(tmp_path / "latest_net_G.pth")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "latest_net_G.pth"
    checkpoint.save({"a": torch.zeros(1)}, path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="latest_net_G.pth: No space left on device"):
        checkpoint.save({"a": torch.ones(1)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["latest_net_G.pth"]


KILLED = """
import os, sys, torch
from util import checkpoint
from pathlib import Path
os.replace = lambda *_: os._exit(9)  # killed before the rename
checkpoint.save({"a": torch.ones(10)}, Path(sys.argv[1]))
"""


def test_a_kill_during_a_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "latest_net_G.pth"
    checkpoint.save({"a": torch.zeros(1)}, path)
    root = str(Path(__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", KILLED, path], cwd=root, timeout=120)
    assert killed.returncode == 9
    assert torch.load(path, weights_only=True)["a"].item() == 0


def test_train_state_goes_out_and_comes_back(tmp_path):
    assert checkpoint.load_train_state(tmp_path, "latest") is None
    checkpoint.save_train_state(tmp_path, "latest", STATE)
    versions = {"format": 1, "program": VERSION, "torch": str(torch.__version__)}
    assert checkpoint.load_train_state(tmp_path, "latest") == STATE | versions


STATE = {
    "progress": {"epoch": 2, "position": 0, "total_iters": 36, "images": 36},
    "options": {"lr": 0.1},
    "objects": {},
    "ranks": [{"objects": {}, "numbers": {}, "random": {}}],
}
NO_STATE = {
    "something else": {"other": 1},
    "a list": [1],
    "no format": STATE,
    "another format": STATE | {"format": 0},
    "a format in words": STATE | {"format": "1"},
    "no progress": {k: v for k, v in STATE.items() if k != "progress"} | {"format": 1},
    "a negative counter": STATE | {"format": 1, "progress": STATE["progress"] | {"epoch": -1}},
    "a counter in words": STATE | {"format": 1, "progress": STATE["progress"] | {"images": "9"}},
    "a counter that is true": STATE
    | {"format": 1, "progress": STATE["progress"] | {"epoch": True}},
    "options in a list": STATE | {"format": 1, "options": []},
    "no rank": STATE | {"format": 1, "ranks": []},
}


@pytest.mark.parametrize("case", NO_STATE)
def test_what_is_no_training_state_says_so(case, tmp_path):
    torch.save(NO_STATE[case], tmp_path / "latest_train_state.pth")
    with pytest.raises(UserError, match="latest_train_state.pth holds no training state; remove"):
        checkpoint.load_train_state(tmp_path, "latest")


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_of_a_checkpoint_is_all_of_it_and_stands_alone(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: os.stat(""))  # raises OSError
    for name in ("a", "b"):
        checkpoint.save({name: torch.ones(1)}, checkpoint.weights_path(tmp_path, "[1]", name))
    checkpoint.save(STATE, checkpoint.state_path(tmp_path, "[1]"))
    for _ in range(2):  # again over itself
        checkpoint.copy_checkpoint(tmp_path, "[1]", "latest")
    names = {f"{tag}{end}" for tag in ("[1]", "latest") for end in ENDS}
    assert set(os.listdir(tmp_path)) == names
    checkpoint.save({"a": torch.zeros(1)}, checkpoint.weights_path(tmp_path, "[1]", "a"))
    assert torch.load(tmp_path / "latest_net_a.pth")["a"].item() == 1
    assert torch.load(tmp_path / "latest_train_state.pth") == STATE


ENDS = ("_net_a.pth", "_net_b.pth", "_train_state.pth")


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path):
    kept = ["latest_net_G.pth", ".hidden.pth", "notes.pth.tmp", ".notes.pth.tmp"]
    (tmp_path / "web").mkdir()
    for name in [*kept, ".0123abcd.pth.tmp", ".abcdef01.csv.tmp", "web/.00000000.html.tmp"]:
        (tmp_path / name).touch()
    with checkpoint.locked_folder(tmp_path, ""):
        assert sorted(os.listdir(tmp_path)) == sorted([*kept, "web", ".lock"])
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "web"])
    assert os.listdir(tmp_path / "web") == []


def images_of(path):
    state = torch.load(path, weights_only=True)
    return state["progress"]["total_iters"]


def write_checkpoint(folder, tag, images):
    """A state that was trained on so many images, and weights that tell it; None for no state."""
    (folder / f"{tag}_net_G.pth").write_text(str(images))
    if images is not None:
        torch.save({"progress": {"total_iters": images}}, folder / f"{tag}_train_state.pth")


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_kill_amid_setting_aside_loses_no_state(done, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, "previous", 3)
    write_checkpoint(tmp_path, "latest", 9)
    replace, calls = os.replace, []

    def dying(*paths):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(replace(*paths))

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt) if done < 2 else nullcontext():
        checkpoint.set_aside(tmp_path, "previous")
    monkeypatch.undo()
    checkpoint.set_aside(tmp_path, "previous")  # of the next start
    assert images_of(tmp_path / "previous_train_state.pth") == 9
    weights = tmp_path / "previous_net_G.pth"
    assert not weights.exists() or weights.read_text() == "9"


@pytest.mark.parametrize(
    ("previous", "latest", "kept"),
    [(9, 3, 9), (3, 9, 9), (None, 3, 3), (9, None, 9), (None, None, None), ("damaged", 3, 3)],
)
def test_a_checkpoint_that_does_not_say_how_far_it_is_gives_way(previous, latest, kept, tmp_path):
    for tag, images in (("previous", previous), ("latest", latest)):
        write_checkpoint(tmp_path, tag, None if images == "damaged" else images)
        if images == "damaged":
            (tmp_path / f"{tag}_train_state.pth").write_bytes(b"half")
    checkpoint.set_aside(tmp_path, "previous")
    assert (tmp_path / "previous_net_G.pth").read_text() == str(kept)
    if kept:
        assert images_of(tmp_path / "previous_train_state.pth") == kept


def test_what_is_set_aside_is_one_checkpoint(tmp_path):
    """Weights alone, as of the original, in the place of a state with other networks."""
    for name in ("previous_net_G_A.pth", "previous_train_state.pth", "latest_net_G.pth"):
        (tmp_path / name).write_bytes(name.encode())
    checkpoint.set_aside(tmp_path, "previous")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "previous_net_G.pth": "latest_net_G.pth"
    }
