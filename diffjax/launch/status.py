"""How far experiments are, from any machine that sees their folders."""

import os
from pathlib import Path

from diffjax.records.folder import CONFIG, PARTS, STATUS, find_folders, read_evaluations, read_status
from diffjax.records.writer import last_writer, writer_of


def report(out: Path) -> list[str]:
    """A line for every experiment in a folder or below it.

    Raises:
      UserError: there is none.
    """
    return [f"{folder}: {state_of(folder)}" for folder in find_folders([out])]


def state_of(folder: Path) -> str:
    """``not started``, or how many of its runs are running, stopped, complete and failed, how far, and by whom."""
    if not all(os.path.isfile(folder / name) for name in (CONFIG, STATUS)):  # it is made in this order
        parts = sorted((folder / PARTS).glob("*-of-*"))
        return "; ".join(f"part {part.name}: {state_of(part)}" for part in parts) or "not started"
    statuses = read_status(folder)
    writer, last = writer_of(folder), last_writer(folder)
    # A run is called running until it is finished, also when nobody trains it any more.
    names = {"running": "running" if writer else "dead" if last else "stopped"}
    kinds = [names.get(status.state, status.state) for status in statuses]
    text = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    if "running" in [status.state for status in statuses]:
        news = last.news if last else _last_evaluation(folder)
        text += f" ({news})" * bool(news)
        text += f"; {writer.words}" if writer else f"; {last.words}, which is no more" if last else ""
    reasons = dict.fromkeys(status.reason for status in statuses if status.state == "failed")
    return "; ".join((text, *reasons))


def _last_evaluation(folder: Path) -> str:
    steps = [row.step for row in read_evaluations(folder)]
    return f"last evaluation at step {max(steps):,}" if steps else ""
