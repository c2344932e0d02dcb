"""The rooms of the package: data flows one way, so no import runs back up, and there is no circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOUNDATION = ("types", "errors", "clock", "words", "files", "locks", "ranges", "numerics", "version")
ROOMS = (
    *FOUNDATION,
    *("diffusion", "nn", "losses"),
    "methods",
    *("envs", "data", "tasks"),
    "training",
    "records",
    "experiment",
    "policy",
    "assess",
    "export",
    "results",
    "studies",
    "launch",
    "library",
    "measure",
    "commands",
)
"""From the lowest to the highest; a room may import those before it."""
METHODS_MAY_IMPORT = {"methods", "diffusion", "nn", "losses", "types", "errors", "ranges"}
RECORDS_MAY_IMPORT = {"records", "types", "errors", "clock", "words", "files", "locks"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below ``diffjax``."""
    files = sorted((ROOT / "diffjax").rglob("*.py"))
    names = {path.relative_to(ROOT / "diffjax").with_suffix("").as_posix().replace("/", "."): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items() if name != "__init__"}


def imports(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "diffjax":
            base = node.module.removeprefix("diffjax").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".removeprefix(".")
                if name in known:
                    yield name
                elif base in known:
                    yield base
        elif isinstance(node, ast.Import):
            yield from (name for alias in node.names if (name := alias.name.removeprefix("diffjax.")) in known)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    found = modules()
    return {name: set(imports(path, set(found))) - {name} for name, path in found.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_folder_is_a_room_and_every_room_is_there(graph):
    assert {room(module) for module in graph} == set(ROOMS)


def test_no_import_runs_back_up(graph):
    place = {name: index for index, name in enumerate(ROOMS)}
    upward = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if place[room(other)] > place[room(module)]
    ]
    assert upward == []


def test_no_circle(graph):
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize(("name", "allowed"), [("methods", METHODS_MAY_IMPORT), ("records", RECORDS_MAY_IMPORT)])
def test_what_a_room_may_know(graph, name, allowed):
    """A method knows nothing of data, tasks or training; records know nothing of who writes or reads them."""
    known = {room(other) for module, others in graph.items() if room(module) == name for other in others}
    assert known <= allowed


def test_training_knows_no_records_and_results_read_them(graph):
    of_training = {room(other) for module, others in graph.items() if room(module) == "training" for other in others}
    assert not of_training & {"records", "experiment", "results"}


def test_nobody_but_the_registry_knows_a_method_by_its_name(graph):
    """The toy problems of the papers are about particular methods."""
    own = {module for module in graph if room(module) in ("methods", "studies")}
    shared = {"methods.base", "methods.checks", "methods.registry", "methods.candidates"}
    named = {
        f"{module} imports {other}"
        for module, others in graph.items()
        if module not in own
        for other in others
        if room(other) == "methods" and other not in shared | {"methods"}
    }
    assert named == set()
