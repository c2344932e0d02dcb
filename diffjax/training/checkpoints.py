"""Checkpoints of all runs: the one place that speaks to Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffjax.errors import UserError

KEPT = 2


class Checkpoints:
    """Checkpoints in one folder, numbered upwards; the newest two are kept.

    A checkpoint holds a tree of arrays and a small JSON record. It appears whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, number: int, state: Any, record: dict[str, Any]) -> None:
        """Writes checkpoint ``number``; returns once it stands."""
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        self._manager.save(number, args=arguments, force=True)
        self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """Number of the newest checkpoint."""
        return self._manager.latest_step()

    def record(self, number: int) -> dict[str, Any]:
        """The JSON record of checkpoint ``number`` alone."""
        return self._restore(number, record=ocp.args.JsonRestore())["record"]

    def restore(self, number: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State and record of checkpoint ``number``; ``like`` gives structure, shapes, types and sharding.

        Raises:
          UserError: if it cannot be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._restore(number, state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore())
        return restored["state"], restored["record"]

    def _restore(self, number: int, **arguments: Any) -> Any:
        try:
            return self._manager.restore(number, args=ocp.args.Composite(**arguments))
        except (ValueError, KeyError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self._folder}: checkpoint {number} cannot be read ({reason}); delete its folder to fall back to "
                "the one before"
            ) from error
