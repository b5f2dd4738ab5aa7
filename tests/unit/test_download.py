"""scripts/download.py against a server on loopback that can be as bad as real ones."""

import gzip
import io
import os
import random
import re
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from scripts import fetch
from scripts.download import NOTE, main
from util.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"
ZIP = "/cyclegan/datasets/maps.zip"
TAR = "/pix2pix/datasets/maps.tar.gz"
MODEL = "/cyclegan/pretrained_models/horse2zebra.pth"
PHOTO = random.Random(0).randbytes(5000)  # does not compress, so that cuts fall within it


def zip_of(*members: tuple[str, bytes, int]) -> bytes:
    """A zip of (name, content, Unix file type)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, kind in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # the constructor would clean it
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def tar_of(*members: tuple[str, bytes, bytes], linkname: str = "") -> bytes:
    """A tar.gz of (name, content, tar type)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(content), 0o4777
            info.linkname = "" if kind == tarfile.REGTYPE else linkname
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


GOOD_ZIP = zip_of(("maps/trainA/1.jpg", PHOTO, stat.S_IFREG), ("maps/trainB/1.jpg", b"b", 0))
GOOD_TAR = tar_of(("maps", b"", tarfile.DIRTYPE), ("./maps/train/1.jpg", PHOTO, tarfile.REGTYPE))


UNPACKED = [NOTE, "trainA/1.jpg", "trainB/1.jpg"]  # GOOD_ZIP


class Server(ThreadingHTTPServer):
    """Serves `files`; `cuts` are the bytes after which the next answers break off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.refusals: list[int] = []  # status codes of the next answers
        self.requests: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.validators = {"ETag": '"one"'}
        self.ranges = self.heeds_if_range = self.tells_length = True

    def ranges_asked(self) -> list[str | None]:
        return [asked for _, asked, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked, condition = self.headers["Range"], self.headers["If-Range"]
        server.requests.append((self.path, asked, condition))
        if server.refusals:
            return self.send_error(server.refusals.pop(0))
        if self.path not in server.files:
            return self.send_error(404)
        changed = condition is not None and condition not in server.validators.values()
        if not asked or not server.ranges or (changed and server.heeds_if_range):
            return self.answer(200, server.files[self.path], {})
        return self.answer_range(
            server.files[self.path], int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        )

    def answer_range(self, content: bytes, start: int):
        if start >= len(content):
            return self.send_error(416)
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206, content[start:], {"Content-Range": span})

    def answer(self, status: int, body: bytes, headers: dict[str, str]):
        self.send_response(status)
        if self.server.tells_length:
            headers = {**headers, "Content-Length": str(len(body))}
        for name, value in {**self.server.validators, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "WAIT", 0)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def get(server, tmp_path, kind="cyclegan-dataset", name="maps"):
    main([kind, name, "--base_url", server.url, "--out", str(tmp_path / "out")])


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def refused(server, tmp_path, *words, **which) -> str:
    """The message of a download that must fail with a UserError holding these words."""
    with pytest.raises(UserError) as error:
        get(server, tmp_path, **which)
    assert all(word in str(error.value) for word in words), error.value
    return str(error.value)


# --- what comes and where it goes


def test_a_zip_becomes_a_folder_and_leaves_nothing_else(server, tmp_path):
    server.files[ZIP] = GOOD_ZIP
    get(server, tmp_path)
    assert files(tmp_path) == [f"out/maps/{name}" for name in UNPACKED]
    assert (tmp_path / "out/maps/trainA/1.jpg").read_bytes() == PHOTO
    assert (tmp_path / "out/maps" / NOTE).read_text() == f"{server.url}{ZIP}\n"
    assert os.listdir(tmp_path / "out") == ["maps"]


def test_a_tar_becomes_a_folder_without_its_owners_and_modes(server, tmp_path):
    server.files[TAR] = GOOD_TAR
    get(server, tmp_path, kind="pix2pix-dataset")
    assert files(tmp_path) == [f"out/maps/{NOTE}", "out/maps/train/1.jpg"]
    photo = tmp_path / "out/maps/train/1.jpg"
    assert photo.read_bytes() == PHOTO
    assert stat.S_IMODE(photo.stat().st_mode) & (stat.S_ISUID | stat.S_IWGRP | stat.S_IWOTH) == 0


def test_an_archive_without_its_own_folder_gets_one(server, tmp_path):
    server.files[ZIP] = zip_of(("trainA/1.jpg", PHOTO, 0), ("trainB/1.jpg", b"b", 0))
    get(server, tmp_path)
    assert files(tmp_path / "out/maps") == UNPACKED


def test_a_dataset_that_is_there_is_left_alone(server, tmp_path, capsys):
    (tmp_path / "out/maps").mkdir(parents=True)
    get(server, tmp_path)
    assert "already there" in capsys.readouterr().out
    assert server.requests == [] and files(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("cyclegan-model", "horse2zebra", MODEL),
        ("pix2pix-model", "day2night", "/pix2pix/models-pytorch/day2night.pth"),
    ],
)
@pytest.mark.parametrize("legacy", [True, False], ids=["old format", "zip format"])
def test_a_model_becomes_the_latest_generator(server, tmp_path, kind, name, path, legacy):
    buffer = io.BytesIO()
    weights = {"model.1.weight": torch.arange(6.0).reshape(2, 3)}
    torch.save(weights, buffer, _use_new_zipfile_serialization=not legacy)
    server.files[path] = buffer.getvalue()
    get(server, tmp_path, kind, name)
    assert files(tmp_path / f"out/{name}_pretrained") == [NOTE, "latest_net_G.pth"]
    state = torch.load(tmp_path / f"out/{name}_pretrained/latest_net_G.pth", weights_only=True)
    assert torch.equal(state["model.1.weight"], weights["model.1.weight"])


def weights() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model.1.weight": torch.zeros(1)}, buffer)
    return buffer.getvalue()


TWINS = {  # name: (what is downloaded first, what then)
    "maps": (("cyclegan-dataset", ZIP, GOOD_ZIP), ("pix2pix-dataset", TAR, GOOD_TAR)),
    "facades": (
        ("pix2pix-dataset", "/pix2pix/datasets/facades.tar.gz", GOOD_TAR),
        ("cyclegan-dataset", "/cyclegan/datasets/facades.zip", GOOD_ZIP),
    ),
    "sat2map": (
        ("cyclegan-model", "/cyclegan/pretrained_models/sat2map.pth", weights()),
        ("pix2pix-model", "/pix2pix/models-pytorch/sat2map.pth", weights()),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_what_bears_the_same_name_in_the_other_family_is_not_taken_for_it(
    server, tmp_path, capsys, name
):
    (first, path, content), (second, other_path, other) = TWINS[name]
    server.files = {path: content, other_path: other}
    get(server, tmp_path, first, name)
    before = {path: (tmp_path / path).read_bytes() for path in files(tmp_path)}
    words = (str(tmp_path / "out"), f"from {server.url}{path}", other_path[1:], "--out")
    refused(server, tmp_path, *words, kind=second, name=name)
    assert {path: (tmp_path / path).read_bytes() for path in files(tmp_path)} == before
    main([first, name, "--base_url", "http://a.mirror", "--out", str(tmp_path / "out")])
    assert "already there" in capsys.readouterr().out
    assert [asked for asked, *_ in server.requests] == [path]
    main([second, name, "--base_url", server.url, "--out", str(tmp_path / "elsewhere")])
    assert files(tmp_path / "elsewhere")


# --- connections that break


def test_a_cut_connection_goes_on_from_the_byte_where_it_broke(server, tmp_path):
    server.files[ZIP], server.cuts = GOOD_ZIP, [1000, 500]
    get(server, tmp_path)
    assert server.requests == [
        (ZIP, None, None),
        (ZIP, "bytes=1000-", '"one"'),
        (ZIP, "bytes=1500-", '"one"'),
    ]
    assert (tmp_path / "out/maps/trainA/1.jpg").read_bytes() == PHOTO


@pytest.mark.parametrize("length", [True, False], ids=["with length", "without length"])
def test_the_fetched_bytes_are_those_of_the_server(server, tmp_path, length):
    server.files["/x"], server.tells_length = PHOTO, length
    server.cuts = [1, 1000] if length else []
    part = fetch.fetch(f"{server.url}/x", tmp_path / "x")
    assert part == tmp_path / "x.part" and part.read_bytes() == PHOTO


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.files[ZIP], server.cuts = GOOD_ZIP, [1000] + [0] * 50
    refused(server, tmp_path, "1000 of", "1000 bytes are kept", "same command", "--base_url")
    assert len(server.requests) < 10 and not (tmp_path / "out/maps").exists()
    server.requests, server.cuts = [], []
    get(server, tmp_path)
    assert server.ranges_asked() == ["bytes=1000-"]
    assert (tmp_path / "out/maps/trainA/1.jpg").read_bytes() == PHOTO


def test_attempts_that_bring_something_are_not_counted_as_failures(server, tmp_path):
    server.files[ZIP], server.cuts = GOOD_ZIP, [300] * (len(GOOD_ZIP) // 300)
    get(server, tmp_path)
    assert len(server.requests) > 3 * fetch.ATTEMPTS
    assert (tmp_path / "out/maps/trainA/1.jpg").read_bytes() == PHOTO


def test_a_complete_download_is_not_asked_for_again_after_a_full_disk(
    server, tmp_path, monkeypatch
):
    def full(*args):
        raise OSError(28, "No space left on device")

    server.files[ZIP] = GOOD_ZIP
    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "extractall", full)
        refused(server, tmp_path, "No space left", "--out")
    assert files(tmp_path) == ["out/maps.zip.part", "out/maps.zip.part.json"]
    get(server, tmp_path)
    assert len(server.requests) == 1
    assert files(tmp_path) == [f"out/maps/{name}" for name in UNPACKED]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.files[ZIP], server.cuts, server.ranges = GOOD_ZIP, [1000], False
    get(server, tmp_path)
    assert server.ranges_asked() == [None, "bytes=1000-"]
    assert (tmp_path / "out/maps/trainA/1.jpg").read_bytes() == PHOTO


def test_a_server_without_ranges_that_always_breaks_ends_in_an_error(server, tmp_path):
    server.files[ZIP], server.cuts, server.ranges = GOOD_ZIP, [1000] * 50, False
    refused(server, tmp_path, "1000 of")
    assert len(server.requests) < 10


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds If-Range", "ignores If-Range"])
@pytest.mark.parametrize(
    ("before", "after", "sent"),
    [
        ({"ETag": '"one"'}, {"ETag": '"two"'}, '"one"'),
        ({"ETag": 'W/"a"', "Last-Modified": "x"}, {"ETag": 'W/"a"', "Last-Modified": "y"}, "x"),
    ],
    ids=["ETag", "Last-Modified"],
)
def test_a_file_that_changed_is_fetched_anew(server, tmp_path, before, after, sent, heeds):
    other = random.Random(1).randbytes(len(PHOTO))
    old = zip_of(("maps/trainA/1.jpg", other, stat.S_IFREG), ("maps/trainB/1.jpg", b"o", 0))
    assert len(old) == len(GOOD_ZIP)  # so that only its version tells
    server.files[ZIP], server.validators = old, before
    server.cuts = [1000] + [0] * 50
    refused(server, tmp_path, "kept")
    server.files[ZIP], server.validators, server.heeds_if_range = GOOD_ZIP, after, heeds
    server.requests, server.cuts = [], []
    get(server, tmp_path)
    assert server.requests[0] == (ZIP, "bytes=1000-", sent)
    assert (tmp_path / "out/maps/trainA/1.jpg").read_bytes() == PHOTO


def test_a_server_that_names_no_version_starts_over(server, tmp_path):
    server.validators = {}
    server.files["/x"], server.cuts = PHOTO, [1000] + [0] * 50
    with pytest.raises(UserError):
        fetch.fetch(f"{server.url}/x", tmp_path / "x")
    server.files["/x"], server.cuts, server.requests = b"n" * len(PHOTO), [], []
    assert fetch.fetch(f"{server.url}/x", tmp_path / "x").read_bytes() == b"n" * len(PHOTO)
    assert server.ranges_asked() == [None]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.files["/x"], server.cuts = PHOTO, [1000] + [0] * 50
    with pytest.raises(UserError):
        fetch.fetch(f"{server.url}/x", tmp_path / "x")
    server.files["/x"], server.cuts, server.requests = b"n" * 500, [], []  # the answer is 416
    assert fetch.fetch(f"{server.url}/x", tmp_path / "x").read_bytes() == b"n" * 500
    assert server.ranges_asked() == ["bytes=1000-", None]


def test_a_part_from_another_mirror_is_not_continued(server, tmp_path):
    server.files = {"/x": PHOTO, "/y": b"other" * 1000}
    server.cuts = [1000] + [0] * 50
    with pytest.raises(UserError):
        fetch.fetch(f"{server.url}/x", tmp_path / "x")
    server.cuts, server.requests = [], []
    assert fetch.fetch(f"{server.url}/y", tmp_path / "x").read_bytes() == b"other" * 1000
    assert server.requests == [("/y", None, None)]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files[ZIP], server.refusals = GOOD_ZIP, [503, 429]
    get(server, tmp_path)
    assert len(server.requests) == 3 and (tmp_path / "out/maps/trainA/1.jpg").exists()


def test_a_silent_server_ends_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "WAIT", 0)
    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        with pytest.raises(UserError, match="timed out"):
            fetch.fetch(url, tmp_path / "x")


# --- what is not what it should be


@pytest.fixture
def unpacked(monkeypatch):
    """Notes in place of unpacking: what was asked for."""
    asked = []
    for archive in (zipfile.ZipFile, tarfile.TarFile):
        monkeypatch.setattr(archive, "extractall", lambda *args, **_: asked.append(args))
    return asked


def flipped(content: bytes) -> bytes:
    """One bit changed inside the stored photo."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut_before_packing() -> bytes:
    """A sound gzip of a tar that ends within a header, which tarfile alone takes for its end."""
    two = tar_of(("maps/1.jpg", b"a" * 512, tarfile.REGTYPE), ("maps/2.jpg", b"b", tarfile.REGTYPE))
    return gzip.compress(gzip.decompress(two)[: 512 + 512 + 300])


DAMAGED = {
    "a truncated zip": (ZIP, GOOD_ZIP[:-300]),
    "a zip with a wrong checksum": (ZIP, flipped(GOOD_ZIP)),
    "a page of HTML": (ZIP, b"<html>please log in</html>"),
    "an empty zip": (ZIP, zip_of()),
    "a zip of folders only": (ZIP, zip_of(("maps/", b"", stat.S_IFDIR))),
    "a truncated tar.gz": (TAR, GOOD_TAR[:-300]),
    "a tar.gz without its last byte": (TAR, GOOD_TAR[:-1]),
    "a tar.gz with a wrong checksum": (TAR, flipped(GOOD_TAR)),
    "a tar cut before it was packed": (TAR, cut_before_packing()),
    "not a tar.gz": (TAR, GOOD_ZIP),
    "nothing": (TAR, b""),
}


@pytest.mark.parametrize(("path", "content"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_is_deleted_and_nothing_unpacked(
    server, tmp_path, unpacked, path, content
):
    server.files[path] = content
    kind = path.split("/")[1] + "-dataset"
    refused(server, tmp_path, server.url + path, "deleted", "--base_url", kind=kind)
    assert unpacked == [] and files(tmp_path) == [] and os.listdir(tmp_path / "out") == []


REGULAR, GOOD = stat.S_IFREG, "maps/good.jpg"
HOSTILE = {
    "zip, absolute": (ZIP, zip_of((GOOD, b"g", 0), ("/evil", b"e", REGULAR))),
    "zip, ..": (ZIP, zip_of((GOOD, b"g", 0), ("maps/../../evil", b"e", REGULAR))),
    "zip, drive": (ZIP, zip_of((GOOD, b"g", 0), ("C:evil", b"e", REGULAR))),
    "zip, .. with backslashes": (ZIP, zip_of((GOOD, b"g", 0), ("maps\\..\\..\\evil", b"e", 0))),
    "zip, symbolic link": (ZIP, zip_of((GOOD, b"g", 0), ("maps/l", b"/etc", stat.S_IFLNK))),
    "zip, device": (ZIP, zip_of((GOOD, b"g", 0), ("maps/d", b"", stat.S_IFCHR))),
    "tar, absolute": (
        TAR,
        tar_of((GOOD, b"g", tarfile.REGTYPE), ("/evil", b"e", tarfile.REGTYPE)),
    ),
    "tar, ..": (TAR, tar_of((GOOD, b"g", tarfile.REGTYPE), ("../evil", b"e", tarfile.REGTYPE))),
    "tar, folder ..": (TAR, tar_of((GOOD, b"g", tarfile.REGTYPE), ("..", b"", tarfile.DIRTYPE))),
    **{
        f"tar, {kind}": (
            TAR,
            tar_of((GOOD, b"g", tarfile.REGTYPE), ("maps/l", b"", code), linkname="/etc/passwd"),
        )
        for kind, code in {
            "symbolic link": tarfile.SYMTYPE,
            "hard link": tarfile.LNKTYPE,
            "character device": tarfile.CHRTYPE,
            "block device": tarfile.BLKTYPE,
            "named pipe": tarfile.FIFOTYPE,
        }.items()
    },
}


@pytest.mark.parametrize(("path", "content"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(
    server, tmp_path, unpacked, path, content
):
    server.files[path] = content
    kind = path.split("/")[1] + "-dataset"
    refused(server, tmp_path, "not unpacked", kind=kind)
    assert unpacked == [] and files(tmp_path) == [] and os.listdir(tmp_path / "out") == []


class Runs:
    """Makes the folder `path` when it is unpickled by somebody careless."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def saved(thing) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda evil: saved({"w": torch.zeros(9)})[:-40],
        lambda evil: b"<html>please log in</html>",
        lambda evil: b"",
        lambda evil: saved({"w": Runs(evil)}),
        lambda evil: saved([1, 2]),
        lambda evil: saved({"epoch": 3}),
    ],
    ids=["truncated", "HTML", "empty", "code", "a list", "no tensors"],
)
def test_what_is_not_weights_is_deleted(server, tmp_path, make):
    server.files[MODEL] = make(str(tmp_path / "evil"))
    refused(server, tmp_path, MODEL, "deleted", kind="cyclegan-model", name="horse2zebra")
    assert files(tmp_path) == [] and not (tmp_path / "evil").exists()


# --- mistakes and bad days


def test_404_is_said_at_once(server, tmp_path):
    refused(server, tmp_path, f"{server.url}{ZIP}", "404", "--base_url")
    assert len(server.requests) == 1


def test_no_network_is_said_after_a_few_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "WAIT", 0)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    argv = ["cyclegan-model", "style_monet", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="(?i)refused.*network"):
        main([*argv, "--base_url", f"http://127.0.0.1:{port}"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(server, tmp_path):
    server.files[ZIP] = GOOD_ZIP
    (tmp_path / "out").mkdir()
    (tmp_path / "out/maps.zip.part").symlink_to("/dev/full")
    refused(server, tmp_path, "out/maps", "No space left", "--out")


def test_a_folder_that_cannot_be_made_is_said(server, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    refused(server, tmp_path, str(tmp_path / "out"), "--out")
    assert server.requests == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["cyclegan-dataset", "hors2zebra"],
            ["'hors2zebra'", "did you mean horse2zebra", "ukiyoe"],
        ),
        (["pix2pix-model", "../../x"], ["'../../x'", "day2night"]),
        (["pix2pix-dataset"], ["which pix2pix-dataset", "edges2shoes"]),
        (["pix2pix-dataset", "cityscapes"], ["licence", "https://www.cityscapes-dataset.com"]),
        (["cyclegan-dataset", "cityscapes"], ["licence", "https://www.cityscapes-dataset.com"]),
        (["cyclegan-dataset", "maps", "--base_url", "file:///etc"], ["--base_url file:///etc"]),
    ],
)
def test_a_mistake_is_named(tmp_path, argv, words):
    with pytest.raises(UserError) as error:
        main([*argv, "--out", str(tmp_path)])
    assert all(word in str(error.value) for word in words), error.value
    assert os.listdir(tmp_path) == []


def test_a_mirror_may_have_cityscapes(server, tmp_path):
    server.files["/pix2pix/datasets/cityscapes.tar.gz"] = GOOD_TAR
    get(server, tmp_path, kind="pix2pix-dataset", name="cityscapes")
    assert files(tmp_path / "out/cityscapes") == [NOTE, "maps/train/1.jpg"]


def run_script(script: str, *args: str, cwd: Path) -> subprocess.CompletedProcess:
    folder = Path(sys.executable).parent  # where a `python` is, in an environment
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_script_downloads_from_any_folder(server, tmp_path):
    server.files[ZIP] = GOOD_ZIP
    args = ["maps", "--base_url", server.url, "--out", "here"]
    done = run_script("download_cyclegan_dataset.sh", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "here/maps") == UNPACKED


def test_an_error_is_one_message_and_status_2(server, tmp_path):
    args = ["facades_label2photo", "--base_url", server.url, "--out", "here"]
    done = run_script("download_pix2pix_model.sh", *args, cwd=tmp_path)
    assert done.returncode == 2
    path = "/pix2pix/models-pytorch/facades_label2photo.pth"
    assert done.stderr.startswith(f"error: {server.url}{path}: ")
    assert done.stderr.count("\n") == 1


def test_a_python_without_tar_filters_is_refused_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    server.files[TAR] = GOOD_TAR
    refused(server, tmp_path, "tar.gz", "3.10.12", "3.11.4", kind="pix2pix-dataset")
    assert server.requests == [] and files(tmp_path) == []
