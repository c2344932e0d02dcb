"""Users' own files and packages, which register methods and tasks when they are loaded."""

import hashlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from absl import flags

from diffjax.errors import UserError, first_line

ENTRY_POINTS = "diffjax.plugins"
"""The group under which an installed package names its module."""


def define_plugin(values: flags.FlagValues) -> None:
    """The flag of every command that looks a method or a task up."""
    flags.DEFINE_multi_string(
        "plugin",
        None,
        "FILE.py: A file of your own that registers methods or tasks (docs/method.md); repeatable. Installed packages "
        f"name theirs as entry points of {ENTRY_POINTS}.",
        flag_values=values,
    )


def load_plugins(args: flags.FlagValues) -> None:
    """Loads what is installed, and the files that ``--plugin`` names.

    Raises:
      UserError: one cannot be loaded.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise UserError(f"plugin {point.name} ({point.value}) cannot be loaded: {_reason(error)}") from error
    for path in args.plugin or ():
        load_plugin(path)


def load_plugin(path: str | Path) -> ModuleType:
    """Runs a file, which registers its methods and tasks, as a module named like it.

    Raises:
      UserError: there is no such file, or an error in it; with its line.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"--plugin={path} is no Python file; give the path of one that registers a method or a task")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.append(str(file.parent))  # for what it imports from beside itself
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}{_line(error, file)}: {_reason(error)}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def fingerprints(paths: Iterable[str] | None) -> tuple[str, ...]:
    """What a results folder records of plugins: each file's name and the first digits of its SHA-256."""
    files = [Path(path).expanduser() for path in paths or ()]
    return tuple(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}" for file in files)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _line(error: Exception, file: Path) -> str:
    """Where in the file it happened."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno}"
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {frames[-1]}" if frames else ""
