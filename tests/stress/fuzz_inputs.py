"""Inputs to fuzz the readers with: damaged files, and files that someone made up with care.

Every maker takes a `random.Random`, so that a seed names an input and hypothesis can shrink one.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

import torch

EXTREMES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
HOSTILE_NAMES = (
    "../../../up.png", "/etc/up.png", "a/../../up.png", "..\\up.png", "C:\\up.png",
    "a\nerror: fake.png",
    "\x1b[2J\x1b]0;title\x07.png", "\u202egnp.exe", "</script><script>alert(1)</script>.png",
    "\"'&<>.png", "x\x00.png", ".", "..", "", "/", "a/", "n" * 300 + ".png", "a/" * 60 + "b.png",
    "\udcff.png", "con", "-rf", "%2e%2e%2fup", "a/b.png", "a",
)  # fmt: skip


# ---- any bytes -------------------------------------------------------------------------------


def mutated(rng, data: bytes, other: bytes = b"", most: int = 6) -> bytes:
    """The bytes with 1 to `most` small damages."""
    for _ in range(rng.randint(1, most)):
        start = rng.randrange(len(data) + 1)
        size, count = rng.choice((1, 2, 4, 8)), rng.randint(1, 64)
        number = rng.choice(EXTREMES) % 256**size
        before, part, after = data[:start], data[start : start + count], data[start:]
        flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in after[:1])
        data = rng.choice((
            before + flipped + after[1:],
            before + rng.randbytes(1) + after[1:],
            before + number.to_bytes(size, rng.choice(("little", "big"))) + after[size:],
            before,
            before + after[count:],
            before + part * rng.randint(1, 4) + after,
            before + rng.randbytes(rng.randint(1, 8)) + after,
            before + rng.choice((b"\0", b"\xff")) * len(part) + after[count:],
            before + other[rng.randrange(len(other) + 1) :],
        ))  # fmt: skip
    return data


# ---- checkpoints -----------------------------------------------------------------------------


def zip_of(members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_zip(pickled: bytes, storages=(bytes(64),), compression=zipfile.ZIP_STORED) -> bytes:
    members = {"archive/data.pkl": pickled, "archive/version": b"3\n"}
    members |= {"archive/byteorder": b"little"}
    members |= {f"archive/data/{i}": storage for i, storage in enumerate(storages)}
    return zip_of(members, compression)


def inner_mutated(rng, data: bytes) -> bytes:
    """A zip, whole, in which the content of one member is damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    name = names[0] if rng.randrange(4) else rng.choice(names)
    members[name] = mutated(rng, members[name])
    return zip_of(
        members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    )


CALLED = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"cposix\nsystem\n",
    b"ctorch\nload\n", b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n",
    b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"ctorch\nSize\n",
    b"ctorch\nFloatTensor\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nfloat32\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch._utils\n_rebuild_qtensor\n", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch.storage\n_load_from_bytes\n",
    b"ctorch\ndevice\n",
    b"ctorch\nFloatStorage\n", b"ctorch\nQInt8Storage\n", b"ctorch.storage\nUntypedStorage\n",
    b"ctorch.jit._pickle\nrestore_type_tag\n",
)  # fmt: skip
SHORT_OPS = (b"(", b")", b"}", b"]", b"N", b"t", b"\x85", b"\x86", b"\x87", b"R", b"R", b"b", b"s",
             b"u", b"e", b"a", b"Q", b"\x81", b"\x89", b"G\x7f\xf0\0\0\0\0\0\0")  # fmt: skip
KEYS = ("items", "model.0.weight", "format", "_metadata", "keys", "get", "ranks", "objects")


def random_pickle(rng) -> bytes:
    """Opcodes in any order; what hurts most is often the short ones."""

    def op() -> bytes:
        text = rng.choice((*KEYS, "touch executed", "storage", "cpu", "0")).encode()
        return rng.choice((
            rng.choice(CALLED),
            b"K" + rng.randbytes(1),
            integer(rng.choice((-1, 0, 4, 10**6, 2**31 - 1, 2**40, 10**11, 2**63 - 1))),
            b"X" + struct.pack("<I", len(text)) + text,
            rng.choice((b"q", b"h")) + bytes([rng.randrange(4)]),
            *[rng.choice(SHORT_OPS) for _ in range(6)],
        ))  # fmt: skip

    return b"\x80\x02" + b"".join(op() for _ in range(rng.randint(1, 40))) + b"."


def nested_tuples(rng) -> bytes:
    """A key whose hash takes forever or overflows the stack, or nearly."""
    count = rng.choice((3, 20, 60, 2000, 100_000))
    nest = rng.choice((b"\x85", b"q\x00h\x00\x86", b"q\x00h\x00h\x00\x87"))
    return b"\x80\x02})" + nest * count + b"K\x01s."


def code(rng) -> bytes:
    """Pickles that would run something."""
    argument = b"X\x0e\x00\x00\x00touch executed"
    call = rng.choice((
        b"cos\nsystem\n(" + argument + b"tR.",
        b"(" + argument + b"ios\nsystem\n.",
        argument + b"cos\nsystem\n\x93.",
        b"cbuiltins\neval\n(X\x1e\x00\x00\x00__import__('os').mkdir('executed')tR.",
        b"cbuiltins\ngetattr\n(cos\n\nX\x06\x00\x00\x00systemtR(" + argument + b"tR.",
        b"ctorch.storage\n_load_from_bytes\n(" + argument + b"tR.",
    ))  # fmt: skip
    return b"\x80" + bytes([rng.choice((2, 3, 4))]) + call


def integer(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


def _sizes(rng) -> bytes:
    numbers = [
        rng.choice((0, 1, 2, 4, -1, 10**6, 10**12, 2**63 - 1)) for _ in range(rng.randrange(5))
    ]
    return b"(" + b"".join(map(integer, numbers)) + b"t"


def odd_tensor(rng, key: str = "model.0.weight") -> bytes:
    """A state dict with one tensor whose declared sizes may be anything."""
    name = key.encode()
    kind = rng.choice(("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool",
                       "ComplexFloat", "QInt8", "Char", "Untyped")).encode()  # fmt: skip
    where = rng.choice((b"cpu", b"cuda:0", b"meta", b"xla", b"mps", b"\xff"))
    numel = rng.choice((0, 1, 4, 16, 17, -1, 10**6, 10**12, 2**62))
    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"Storage\nX\x01\x00\x00\x000"
    storage += b"X" + struct.pack("<I", len(where)) + where + integer(numel) + b"tQ"
    offset = integer(rng.choice((0, 0, 1, -1, 10**12)))
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + _sizes(rng) + _sizes(rng)
    call += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X" + struct.pack("<I", len(name)) + name + call + b"s."


def bomb(rng) -> bytes:
    """A small file that declares or unpacks to a large one."""
    if rng.randrange(2):
        return torch_zip(b"\x80\x02}.", (bytes(1 << 22),), zipfile.ZIP_DEFLATED)
    size = integer(rng.choice((10**9, 3 * 10**9, 10**12)))
    return torch_zip(b"\x80\x02cbuiltins\nbytearray\n" + size + b"\x85R.")


ODD_VALUES = (
    lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 3, lambda: 2**70, lambda: 1.5,
    lambda: float("nan"), lambda: "x", lambda: "\x1b[2J", lambda: [], lambda: {}, lambda: (),
    lambda: [None], lambda: {"a": 1}, lambda: {1: 2, None: 3}, lambda: torch.zeros(()),
    lambda: torch.zeros(3), lambda: torch.zeros(0), lambda: torch.zeros(2, 2, 2, 2),
    lambda: torch.zeros(4, dtype=torch.long), lambda: torch.zeros(4, dtype=torch.bool),
    lambda: torch.zeros(4, dtype=torch.complex64), lambda: torch.zeros(1, dtype=torch.uint16),
    lambda: torch.zeros(1).expand(10**6, 10**6), lambda: torch.eye(3).to_sparse(),
    lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8),
    lambda: torch.zeros(4, device="meta"), lambda: torch.full((5056,), 255, dtype=torch.uint8),
    lambda: torch.nn.Parameter(torch.zeros(1)), lambda: torch.zeros(1, 1, 4, 4).half(),
)  # fmt: skip


def altered(rng, value, depth: int = 0):
    """The object with one part, at any depth, changed, renamed or left out."""
    deeper = rng.randrange(8) > 0 if depth else True
    if isinstance(value, dict) and value and deeper:
        key, how = rng.choice(list(value)), rng.randrange(12)
        changed = dict(value)
        part = changed.pop(key)
        if how > 1:
            changed[key] = altered(rng, part, depth + 1)
        elif how:
            changed[rng.choice((5, None, "netD", "step", "x\n", f"module.{key}"))] = part
        return changed
    if isinstance(value, (list, tuple)) and value and deeper:
        changed, place = list(value), rng.randrange(len(value))
        changed[place : place + 1] = [altered(rng, value[place], depth + 1)] * rng.choice(
            (0, 1, 1, 2)
        )
        return type(value)(changed)
    return rng.choice(ODD_VALUES)()


def altered_checkpoint(rng, seeds: list[bytes]) -> bytes:
    """A file that torch.save wrote, of something else."""
    value = torch.load(io.BytesIO(rng.choice(seeds)), weights_only=True)
    for _ in range(rng.randint(1, 2)):
        value = altered(rng, value)
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def checkpoint(rng, seeds: list[bytes]) -> bytes:
    """A file for the reader of checkpoints."""
    kind, whole = rng.randrange(22), rng.choice(seeds)
    if kind < 5:
        return mutated(rng, whole, rng.choice(seeds))
    if kind < 9:
        return inner_mutated(rng, rng.choice([s for s in seeds if s.startswith(b"PK")]))
    if kind < 15:
        made = rng.choice((random_pickle, random_pickle, code, odd_tensor, nested_tuples))(rng)
        return made if rng.randrange(4) == 0 else torch_zip(made)
    if kind == 15:
        return rng.choice((whole, whole, whole, b"", b"PK\x03\x04", b"hello", bomb(rng)))
    return altered_checkpoint(rng, seeds)


# ---- options, tables, pages ------------------------------------------------------------------

JSON_KEYS = ("input_nc", "netG", "model", "epoch", "total_iters", "losses", "visuals", "x")
JSON_VALUES = (
    None, True, 0, 1, 3, 4, 8, -1, 2**31, 10**18, 10**400, 0.5, -1.0, 1e308, float("inf"),
    float("nan"), "instance", "batch", "resnet_9blocks", "unet_256", "AtoB", "pix2pix", "",
    "\ud800", "\x1b[2J", "a\nb", "x" * 300, *HOSTILE_NAMES[:4],
)  # fmt: skip


def json_value(rng, depth: int = 0):
    kind = rng.randrange(10)
    if kind < 8 or depth > 2:
        return rng.choice(JSON_VALUES)
    if kind == 8:
        return [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(JSON_KEYS): json_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def options(rng, seeds: list[bytes]) -> bytes:
    """A train_opt.json."""
    kind = rng.randrange(8)
    if kind < 3:
        return mutated(rng, rng.choice(seeds), rng.choice(seeds))
    if kind == 3:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"",
                           b"\xff\xfe", b"null",
                           b" " * (1 << 21), b'{"ngf": 1e999}', b'{"ngf": NaN}'))  # fmt: skip
    values = json.loads(seeds[0])
    for name in rng.sample(list(values), rng.randint(1, 4)):
        values[name] = json_value(rng)
        if rng.randrange(3) == 0:
            del values[name]
    return json.dumps(values).encode()


def table(rng, seeds: list[bytes]) -> bytes:
    """A losses.csv or loss_log.txt."""
    if rng.randrange(4):
        return mutated(rng, rng.choice(seeds), rng.choice(seeds))
    tokens = ("epoch", "iters", "total_iters", "G", ",", ",", "\n", "\r\n", "\r", '"', "\0",
              "9" * 5000, "\u0661", "-1", "nan", "x" * 140_000, "\x1b[2J", "=====", "(epoch: ",
              ", iters: ", "1", "2",
              '"\n', "é")  # fmt: skip
    return "".join(rng.choices(tokens, k=rng.randint(0, 60))).encode()


def page_data(rng, seeds: list[bytes]) -> bytes:
    """A web/data.js."""
    kind = rng.randrange(8)
    if kind < 4:
        return mutated(rng, rng.choice(seeds), rng.choice(seeds))
    if kind == 4:
        return b"add(" + rng.choice((b"[" * 100_000, b'{"total_iters":' + b"9" * 4000 + b"}",
                                     b'{"total_iters": 1e999}',
                                     b"x" * (1 << 21))) + b");\n"  # fmt: skip
    lines = ""
    for _ in range(rng.randrange(4)):
        entry = {"epoch": 1, "total_iters": 5, "losses": [["G", 1.0]]}
        entry |= {rng.choice(JSON_KEYS): json_value(rng) for _ in range(rng.randrange(3))}
        lines += f"add({json.dumps(entry)});\n"
    return lines.encode()


# ---- images ----------------------------------------------------------------------------------


def png_with_sums(data: bytes) -> bytes:
    """The bytes with the checksums of their PNG chunks made right, so that all are read."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(data):
            break
        out += data[place:end] + struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(out + data[place:])


def image(rng, seeds: list[bytes]) -> bytes:
    """An image of some format, damaged."""
    whole = rng.choice(seeds)
    if rng.randrange(3) == 0:  # headers matter most, and they are at the start
        start = rng.choice((16, 64, 256))
        data = mutated(rng, whole[:start]) + whole[start:]
    else:
        data = mutated(rng, whole, rng.choice(seeds))
    return png_with_sums(data) if data[:4] == b"\x89PNG" and rng.randrange(4) else data


# ---- archives --------------------------------------------------------------------------------


def crafted_zip(rng) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for _ in range(rng.randint(1, 4)):
            info = zipfile.ZipInfo(
                rng.choice(("a.png", "d/", *HOSTILE_NAMES[:10], *HOSTILE_NAMES[11:]))
            )
            info.external_attr = rng.choice((0, 0, 0o100644, 0o120777, 0o040755, 0o060000)) << 16
            info.compress_type = rng.choice((0, 8, 8, 12, 14))
            try:
                archive.writestr(info, rng.choice((b"x", b"../../up", bytes(100_000))))
            except (UnicodeEncodeError, ValueError):
                archive.writestr("a.png", b"x")
    return file.getvalue()


TAR_TYPES = b"0\x00123456789LKxgSVDMNX"


def crafted_tar(rng) -> bytes:
    """Tar headers with right checksums and wrong all else."""
    blocks = []
    for _ in range(rng.randint(1, 4)):
        info = tarfile.TarInfo(rng.choice(("a.png", "d", *HOSTILE_NAMES)))
        info.type = bytes([rng.choice(TAR_TYPES)]) if rng.randrange(2) else tarfile.REGTYPE
        info.linkname = rng.choice(("", "../up", "/etc/passwd"))
        content = rng.choice((b"", b"x" * 20, b"30 size=-512\n", b"20 path=../../up\n",
                              b"29 GNU.sparse.size=99999999\n",
                              b"23 GNU.sparse.map=a,b\n"))  # fmt: skip
        info.size = len(content)
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[:512])
        if rng.randrange(3) == 0:
            numbers = (2**30, 2**40, -512, -1, 2**60)
            header[124:136] = tarfile.itn(rng.choice(numbers), 12, tarfile.GNU_FORMAT)
        if rng.randrange(3) == 0:
            header = bytearray(mutated(rng, bytes(header), most=3)[:512].ljust(512, b"\0"))
        blocks.append(_with_checksum(header) + content.ljust(-(-len(content) // 512) * 512, b"\0"))
    end = bytes(1024 if rng.randrange(4) else rng.choice((0, 512, 10_000)))
    return gzip.compress(b"".join(blocks) + end, 1, mtime=0)


def _with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % (sum(header) % 8**6)
    return bytes(header)


def zip_archive(rng, seeds: list[bytes]) -> bytes:
    if rng.randrange(2):
        return crafted_zip(rng)
    return mutated(rng, rng.choice(seeds), rng.choice(seeds))


def tar_archive(rng, seeds: list[bytes]) -> bytes:
    kind = rng.randrange(4)
    if kind < 2:
        return crafted_tar(rng)
    if kind == 2:
        return mutated(rng, rng.choice(seeds), rng.choice(seeds))
    return gzip.compress(mutated(rng, gzip.decompress(rng.choice(seeds))), 1, mtime=0)
