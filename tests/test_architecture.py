"""The direction of imports and the habits of the code (design, sections 1, 2 and 5), read from the source."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "foodray"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
ROOMS = ("storage", "corpus", "nn", "tasks", "training", "analyzer", "scoring", "serving", "report", "cli")


def rooms(*names: str) -> tuple[str, ...]:
    """The modules of rooms."""
    return tuple(f"foodray.{name}" for name in names)


# Each room: what its files may not import. An entry stands for the module and everything below it.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "__init__": ("foodray", "ray", "torch"),
    "__main__": rooms(*ROOMS[:-1]),
    "errors": ("foodray", "ray", "torch", "numpy"),
    "config": (*rooms(*ROOMS), "ray", "torch", "numpy"),
    "cluster": rooms(*ROOMS[1:], "doctor"),
    "doctor": rooms(*ROOMS[1:]),
    "provenance": (*rooms(*ROOMS), "ray", "torch", "numpy"),
    "storage": (*rooms(*ROOMS[1:]), "ray", "torch"),
    "corpus": (*rooms(*ROOMS[2:]), "ray"),
    "nn": (*rooms("storage", "corpus", *ROOMS[3:]), "ray"),
    "tasks": (*rooms("storage", "corpus", *ROOMS[4:]), "ray"),
    "training": (*rooms(*ROOMS[5:]), "ray.serve"),
    "analyzer": (*rooms("training", *ROOMS[6:]), "ray"),
    "scoring": (*rooms("training", "serving", "report", "cli"), "ray.train", "ray.tune", "ray.serve"),
    "serving": (*rooms("training", "scoring", "report", "cli"), "ray.data", "ray.train", "ray.tune"),
    "report": (*rooms("nn", "tasks", "training", "analyzer", "scoring", "serving", "cli"), "ray", "torch"),
    "cli": (),
}
# What a room, or one file, may import all the same; the most particular rule decides.
ALLOWED: dict[str, tuple[str, ...]] = {
    "storage/bundle.py": ("torch.Tensor",),  # the type of what safetensors reads
    "corpus": ("ray.data",),
    "corpus/index.py": ("ray",),
    "corpus/cutting.py": ("ray",),
    "corpus/progress.py": ("ray",),
    # the tables of a run and their comparison: plain Arrow, no Ray
    "report": rooms("scoring.files", "scoring.schema", "scoring.dictionary", "scoring.truth", "scoring.diff"),
    "tasks": rooms("corpus.samples", "corpus.schema", "corpus.label_file"),  # the vocabulary: what a sample is, what columns and classes are called
}
LONGEST = 400


@cache
def tree(file: str) -> ast.Module:
    """The parsed source of a file."""
    return ast.parse((ROOT / file).read_text())


def room(file: str) -> str:
    """The room of a file: its folder, or its own name at the top."""
    return file.split("/")[0].removesuffix(".py")


def imports(source: ast.Module, file: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, inside functions too."""
    package = ["foodray", *file.split("/")[:-1]]
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (above, node.module)))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def covers(rules: tuple[str, ...], name: str) -> int:
    """Length of the longest rule that holds for a name, 0 for none."""
    return max((len(rule) for rule in rules if name == rule or name.startswith(f"{rule}.")), default=0)


def breaks(source: ast.Module, file: str) -> list[str]:
    """The imports of a file that run against the direction, as file:line."""
    mine = room(file)
    forbidden, allowed = FORBIDDEN[mine], ALLOWED.get(mine, ()) + ALLOWED.get(file, ())
    return [f"foodray/{file}:{line}: {mine} may not import {name}" for line, name in imports(source, file) if covers(forbidden, name) > covers(allowed, name)]


def test_imports_flow_in_one_direction() -> None:
    found = [line for file in FILES for line in breaks(tree(file), file)]
    assert not found, "\n" + "\n".join(found)


def test_every_folder_and_file_belongs_to_a_room() -> None:
    assert {room(file) for file in FILES} <= FORBIDDEN.keys()


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nn/x.py", "import ray"),
        ("nn/x.py", "from foodray.storage.store import Store"),
        ("nn/x.py", "def f():\n    from ..corpus import photo"),
        ("nn/x.py", "from .. import corpus"),
        ("storage/x.py", "import torch.nn"),
        ("storage/bundle.py", "from torch import nn"),
        ("corpus/x.py", "import ray"),
        ("corpus/x.py", "from ray import train"),
        ("corpus/index.py", "import foodray.tasks.mtl as mtl"),
        ("tasks/x.py", "if True:\n    from foodray.corpus.corpus import Corpus"),
        ("training/x.py", "from foodray import scoring"),
        ("serving/x.py", "import ray.data"),
        ("report/x.py", "import torch"),
        ("errors.py", "from foodray.config import nearest"),
    ],
)
def test_a_wrong_import_would_be_found_with_its_line(file: str, source: str) -> None:
    (found,) = breaks(ast.parse("'''Docs.'''\n" + source), file)
    assert found.startswith(f"foodray/{file}:{2 + source.count(chr(10))}: ")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("storage/bundle.py", "from torch import Tensor"),
        ("corpus/x.py", "import ray.data, torch"),
        ("corpus/x.py", "from ray import data"),
        ("corpus/index.py", "import ray"),
        ("tasks/x.py", "from foodray.corpus.samples import SampleSpec"),
        ("training/x.py", "from ray import train, tune"),
        ("serving/x.py", "from ray import serve"),
        ("nn/x.py", "import raytracing"),
    ],
)
def test_a_right_import_is_left_alone(file: str, source: str) -> None:
    assert not breaks(ast.parse(source), file)


def test_the_command_line_imports_rooms_only_inside_functions() -> None:
    found = []
    for file in (file for file in FILES if room(file) == "cli"):
        top = ast.Module([node for node in tree(file).body if isinstance(node, ast.Import | ast.ImportFrom)], [])  # not those for types alone
        found += [f"foodray/{file}:{line}: {name}" for line, name in imports(top, file) if covers((*rooms(*ROOMS[:-1]), "ray", "torch"), name)]
    assert not found, "\n" + "\n".join(found)


def test_no_file_is_longer_than_400_lines() -> None:
    found = {file: lines for file in FILES if (lines := len((ROOT / file).read_text().splitlines())) > LONGEST}
    assert not found


def test_only_the_command_line_prints() -> None:
    calls = [(file, node) for file in FILES if room(file) != "cli" for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    found = [f"foodray/{file}:{node.lineno}" for file, node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert not found, found


def test_whatever_is_public_says_what_it_is() -> None:
    found = [f"foodray/{file}:{line}: {name}" for file in FILES for line, name in undocumented(tree(file))]
    assert not found, "\n" + "\n".join(found)


def undocumented(node: ast.Module | ast.ClassDef, inside: str = "") -> Iterator[tuple[int, str]]:
    """Public modules, classes, functions and methods without a docstring; what is inside a function is its own affair."""
    if ast.get_docstring(node) is None:
        yield (getattr(node, "lineno", 1), inside or "the module")
    for child in node.body:
        name = getattr(child, "name", "_")
        if isinstance(child, ast.ClassDef) and not name.startswith("_"):
            yield from undocumented(child, f"{inside}{name}.")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not name.startswith("_") and ast.get_docstring(child) is None:
            yield child.lineno, inside + name


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
connections = []
sys.addaudithook(lambda event, args: connections.append(args[1]) if event in ("socket.connect", "socket.getaddrinfo") else None)
import foodray.tasks
for name in {notebook}:
    importlib.import_module(name)
assert "ray" not in sys.modules, "a task needs Ray"
for module in pkgutil.walk_packages(foodray.__path__, "foodray."):
    if module.name != "foodray.__main__":
        importlib.import_module(module.name)
import ray
assert not ray.is_initialized(), "an import started Ray"
assert not connections, f"an import reached for the network: {{connections}}"
"""


def test_importing_starts_no_ray_makes_no_folder_and_reads_no_network(tmp_path: Path) -> None:
    """And the rooms of a notebook, nn and tasks, load no Ray, whatever they import in turn."""
    notebook = [f"foodray.{file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}" for file in FILES if room(file) in ("nn", "tasks")]
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    settings = {**os.environ, "PYTHONPATH": str(ROOT.parent), "MPLCONFIGDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    settings.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING.format(notebook=notebook)], cwd=here, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(here.iterdir())
