"""The rooms of the package: imports go down only, so that a room can be read, and replaced, without those above it."""

import ast
import pathlib

import pytest

import ufm

PACKAGE = pathlib.Path(ufm.__file__).parent
# from the top down; rooms of one level don't know each other
LEVELS = (
    ("__main__",),
    ("cli",),
    ("sweeps",),
    ("verification",),
    ("minima", "training", "hessian", "theory", "targets"),
    ("model", "metrics"),
    ("geometry", "plot", "console"),
    ("_core",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def room_of(name):
    """The room of a dotted name below `ufm`, or None of the face and of other packages."""
    first, *rest = name.split(".")
    return rest[0] if first == "ufm" and rest else None


def imported(file):
    """Names that a module imports, anywhere in it: `from ufm import x` is ufm.x."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports are needed"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_room_and_every_room_modules():
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in MODULES}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file):
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(file):
        there = room_of(name)
        if there not in (None, here):
            assert LEVEL[there] > LEVEL[here], f"{here} imports {name}"


def test_modules_form_no_circle():
    """A module that could not be imported before another one: the relation has a topological order."""
    graph = {}
    for file in MODULES:
        dotted = ".".join(("ufm", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        graph[dotted] = set(imported(file))
    modules = set(graph)
    edges = {
        name: {m for i in found for m in (i, i.rpartition(".")[0]) if m in modules} for name, found in graph.items()
    }
    while leaves := {name for name, needed in edges.items() if not needed & (edges.keys() - {name})}:
        edges = {name: needed for name, needed in edges.items() if name not in leaves}
    assert not edges, sorted(edges)
