"""Where trajectories end, in the words of several layouts.

``terminals``, ``terminated``, ``terminations`` or ``terminal``: the environment ended the episode after this row.
``timeouts``, ``truncated``, ``truncations`` or ``timeout``: a time limit did.
``masks`` (IQL, OGBench): 0 where the environment ended the episode. Beside them ``terminals`` marks the end of each
trajectory, whatever ended it, and ``valids`` (OGBench's compact form) is 0 on rows that hold a last observation only.
``dones``, ``done``, ``dones_float`` (IQL) and ``episode_terminals`` (d3rlpy) mark the end of each trajectory. They need
one of the others beside them: alone they do not say what ended it, and a time limit taken for a terminal teaches that
nothing follows.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from diffjax.errors import UserError

TERMINALS, TIMEOUTS, MASKS, VALIDS, DONES = "terminals", "timeouts", "masks", "valids", "dones"
FLAG_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        TERMINALS: ("terminals", "terminated", "terminations", "terminal"),
        TIMEOUTS: ("timeouts", "truncated", "truncations", "timeout"),
        MASKS: ("masks",),
        VALIDS: ("valids",),
        DONES: ("dones", "done", "dones_float", "episode_terminals"),
    }
)
_RIGHT = "store 'terminals' (the environment ended the episode) and 'timeouts' (a time limit did)"
_FIRST_AND_LAST = ("is_first", "is_last", "is_terminal", "step_type")


class Flags(NamedTuple):
    """``terminal (rows,)`` bool: nothing follows the row; ``end (rows,)`` bool: a trajectory's last row.

    ``timeout (rows,)`` bool marks ends that begin no transition; it is None where the file does not say where time
    limits are.
    """

    terminal: np.ndarray
    end: np.ndarray
    timeout: np.ndarray | None


def check_flag_keys(source: str, keys: Collection[str], found: Callable[[], list[str]]) -> None:
    """Refuse a file whose flags, named as in `FLAG_KEYS`, do not say which rows are terminal.

    Raises:
      UserError: says what is ambiguous or missing, and what to store.
    """
    if TERMINALS in keys or MASKS in keys or {DONES, TIMEOUTS} <= set(keys):
        return
    if DONES in keys:
        name = next(key for key in FLAG_KEYS[DONES] if key in found())
        raise UserError(
            f"{source}: has {name!r} without 'terminals' or 'timeouts', so that it may mean either; {_RIGHT}"
        )
    if first := next((key for key in _FIRST_AND_LAST if key in found()), None):
        raise UserError(
            f"{source}: marks steps with {first!r}, which leaves open whether a row's action and reward come before "
            f"its observation or after it; let row i hold what follows observation i, and {_RIGHT}"
        )
    others = ", ".join(map(repr, found()[:10])) or "nothing"
    raise UserError(f"{source}: has no 'terminals'; {_RIGHT}, found {others}")


def read_flags(arrays: Mapping[str, np.ndarray]) -> Flags:
    """The flags of a file from its bool arrays ``(rows,)``, named as in `FLAG_KEYS`."""
    timeout = arrays.get(TIMEOUTS)
    done = arrays.get(DONES)
    if MASKS not in arrays:
        terminal = arrays[TERMINALS] if TERMINALS in arrays else done & ~timeout  # type: ignore[operator]
        if done is not None and (done & ~terminal).any():
            limits = done & ~terminal
            timeout = limits if timeout is None else timeout | limits
        return Flags(terminal, terminal | timeout if timeout is not None else terminal.copy(), timeout)
    terminal = ~arrays[MASKS]
    marks = [arrays[key] for key in (TERMINALS, TIMEOUTS, DONES) if key in arrays]
    end = np.logical_or.reduce(marks) if marks else terminal.copy()
    if VALIDS in arrays:
        end = ~arrays[VALIDS]
        return Flags(terminal, end, end.copy())
    limits = end & ~terminal
    return Flags(terminal, end, limits if timeout is not None or limits.any() else None)
