"""Diffusion-based offline reinforcement learning as pure functions of arrays; see :mod:`diffjax.library`."""

import importlib
from typing import TYPE_CHECKING, Any

from diffjax.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffjax.errors import UserError
    from diffjax.library import (
        evaluate,
        load_dataset,
        load_plugin,
        load_policy,
        register_method,
        register_task,
        train,
    )
    from diffjax.methods.registry import METHODS
    from diffjax.tasks.registry import Task

    TASKS: Mapping[str, Task]

__all__ = [
    "METHODS",
    "TASKS",
    "UserError",
    "__version__",
    "evaluate",
    "load_dataset",
    "load_plugin",
    "load_policy",
    "register_method",
    "register_task",
    "train",
]


def __getattr__(name: str) -> Any:
    """Everything but the version is imported when it is first asked for: JAX takes its time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "TASKS":
        return importlib.import_module("diffjax.tasks.registry").tasks()
    homes = {"METHODS": "diffjax.methods.registry", "UserError": "diffjax.errors"}
    return getattr(importlib.import_module(homes.get(name, "diffjax.library")), name)


def __dir__() -> list[str]:
    return __all__
