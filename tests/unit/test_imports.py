"""The rules of the house: who may import whom, and who may ask torch.distributed about ranks."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("options", "models", "data", "util")
FORBIDDEN = {
    "util": {"models", "data", "options"},
    "data": {"models", "options"},
    "models": {"data", "options"},
}


def modules():
    """Dotted name to path of every module of the core."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


MODULES = modules()


def imports(path, inside_functions=True):
    """(module, name or None) of each import in a file."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if inside_functions else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_one_above_it(room):
    for name, path in MODULES.items():
        if name.split(".")[0] == room:
            rooms = {module.split(".")[0] for module, _ in imports(path)}
            assert not rooms & FORBIDDEN[room], name


def test_no_module_imports_itself_by_way_of_others():
    edges = {}
    for name, path in MODULES.items():
        found = set()
        for module, part in imports(path, inside_functions=False):
            target = f"{module}.{part}" if f"{module}.{part}" in MODULES else module
            found |= {target} & MODULES.keys()
        edges[name] = found - {name}
    done = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in edges[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_only_one_package_asks_about_ranks():
    for name, path in [*MODULES.items(), ("train", ROOT / "train.py"), ("test", ROOT / "test.py")]:
        if not name.startswith("util.distributed"):
            found = {f"{module}.{part}" for module, part in imports(path)}
            assert not any(i.startswith("torch.distributed") for i in found), name
            assert "WORLD_SIZE" not in path.read_text(), name
