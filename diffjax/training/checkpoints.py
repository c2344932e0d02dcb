"""Checkpoints of all runs: the one place that speaks to Orbax."""

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from diffjax.errors import UserError, first_line
from diffjax.files import is_full_disk

KEPT = 2


class Checkpoints:
    """Checkpoints in one folder, numbered upwards; the newest two are kept, and what :meth:`save` is told to.

    A checkpoint holds a tree of arrays and a small JSON record. It appears whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(create=False, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._is_open = True
        self._then: Callable[[], None] = lambda: None  # once what is being written stands

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written; nothing more will be."""
        if self._is_open:
            self._is_open = False
            try:
                self.settle()
            finally:
                self._manager.close()

    def save(
        self,
        number: int,
        state: Any,
        record: dict[str, Any],
        keep: Collection[int] | None = (),
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins to write checkpoint ``number``; nobody may change the arrays before :meth:`settle`.

        Args:
          keep: what stays of older ones but the newest, once this one stands (None: all).
          then: called once it stands.

        Raises:
          UserError: it cannot be written, or the one before could not.
        """
        self.settle()
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        with self._writable():
            self._manager.save(number, args=arguments, force=True)

        def stands() -> None:
            then()
            if keep is not None:
                for old in self.numbers()[:-KEPT]:
                    if old not in keep:
                        self._manager.delete(old)

        self._then = stands

    def settle(self) -> None:
        """Waits for what is being written.

        Raises:
          UserError: it could not be written.
        """
        then, self._then = self._then, lambda: None
        with self._writable():
            self._manager.wait_until_finished()
        then()

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Turns what keeps a checkpoint from being written into one line; a full disk stays an ``OSError``."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if is_full_disk(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder)) from error
            raise UserError(f"{self._folder}: a checkpoint cannot be written ({first_line(error)})") from error

    def numbers(self) -> list[int]:
        """The numbers of those that stand, upwards."""
        return sorted(self._manager.all_steps())

    def delete(self, number: int) -> None:
        """Deletes checkpoint ``number``."""
        self._manager.delete(number)

    def record(self, number: int) -> dict[str, Any]:
        """The JSON record of checkpoint ``number`` alone."""
        return self._restore(number, record=ocp.args.JsonRestore())["record"]

    def restore(self, number: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State and record of checkpoint ``number``; ``like`` gives structure, shapes, types and holders.

        Raises:
          UserError: if it cannot be read.
        """
        restored = self._restore(number, state=ocp.args.StandardRestore(like), record=ocp.args.JsonRestore())
        return restored["state"], restored["record"]

    def _restore(self, number: int, **arguments: Any) -> Any:
        try:
            return self._manager.restore(number, args=ocp.args.Composite(**arguments))
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"{self._folder}: checkpoint {number} cannot be read ({first_line(error)}); delete its folder to fall "
                "back to the one before"
            ) from error


class StoredCheckpoints:
    """Checkpoints that somebody else made, to look into; nothing is changed, and no device of theirs is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        handlers = {"state": ocp.PyTreeCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # it warns that what is opened for reading is opened for reading
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)
        finally:
            logging.set_verbosity(verbosity)

    def __enter__(self) -> "StoredCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def numbers(self) -> list[int]:
        """The numbers of those that stand, upwards."""
        return sorted(self._manager.all_steps())

    def record(self, number: int) -> dict[str, Any]:
        """The JSON record of checkpoint ``number``."""
        with self._readable(number):
            return self._manager.restore(number, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]

    def parts(self, number: int, names: Iterable[str] | None = None) -> dict[str, Any]:
        """The parts of the state of these names that there are (None: all): dictionaries and lists of arrays."""
        with self._readable(number):
            stored = self._manager.item_metadata(number)["state"].tree
            wanted = {
                name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored[name])
                for name in (stored if names is None else names)
                if name in stored
            }
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=on_host, partial_restore=True)
            return self._manager.restore(number, args=ocp.args.Composite(state=arguments))["state"]

    @contextmanager
    def _readable(self, number: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"{self._folder}: checkpoint {number} cannot be read ({first_line(error)}); choose another step"
            ) from error
