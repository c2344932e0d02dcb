"""How one number is taken from a run's evaluations: the rules by which papers report, each under its name.

A rule is a pure function of one run's history. Which rule a paper uses stands in its hyper-parameter table
(``selection``) and is recorded with every run.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from diffjax.errors import UserError, unknown_name

PAPER = "paper"
ALL = "all"
DEFAULT = ("mean", "last", "best")
OWN_MEANS = {"last5": 5, "last10": 10}
"""Papers' own rules that are a mean of the last evaluations, and of how many."""


class History(NamedTuple):
    """The evaluations of one run, oldest first, at least one, and by which rule its paper reads them.

    ``cloning_losses`` are the means of the behaviour-cloning loss over the updates before each evaluation; NaN where
    none was recorded. ``offline_rank`` is the k of the offline rule.
    """

    seed: int
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    cloning_losses: tuple[float, ...] = ()
    own_rule: str = "last"
    offline_rank: int = 0


class ReportingRule(NamedTuple):
    """What ``--protocol`` names: what a table's title calls it, and the number it takes, or None where it cannot."""

    name: str
    title: str
    select: Callable[[History], float | None]
    needs: Callable[[History], int] = lambda history: 1
    """How many evaluations of a run the rule is meant for."""


def last_mean(scores: Sequence[float], last: int) -> float:
    """The mean of the last k scores, or of all where there are fewer (DAC: k = 5)."""
    return statistics.fmean(scores[-last:])


def offline_index(losses: Sequence[float], rank: int) -> int | None:
    """Which evaluation Diffusion-QL's offline rule selects: no simulator is asked, only the cloning loss.

    The history ends at the first evaluation whose loss is above the one before, or at its own end. With ``order`` the
    places of its ``n`` losses from the smallest on, the evaluation ``i`` with ``order[i] = min(rank, n - 1)`` is taken:
    of losses that fall the ``rank``-th from the end. None without a loss. (Diffusion-QL, main.py: early stop and top_k,
    which compares the sorting permutation itself with k.)
    """
    if not losses or not all(math.isfinite(loss) for loss in losses):
        return None
    rises = (index for index in range(1, len(losses)) if losses[index] > losses[index - 1])
    kept = losses[: next(rises, len(losses) - 1) + 1]
    order = sorted(range(len(kept)), key=kept.__getitem__)
    return order.index(min(rank, len(kept) - 1))


def _offline(history: History) -> float | None:
    index = offline_index(history.cloning_losses, history.offline_rank)
    return None if index is None else history.scores[index]


def protocols(last: int = 5) -> dict[str, ReportingRule]:
    """Every rule by name; the first is the headline. ``last`` is the k of the mean."""
    mean = ReportingRule(
        "mean",
        f"mean of last {last} evaluations" if last > 1 else "mean of the last evaluation",
        lambda history: last_mean(history.scores, last),
        lambda history: last,
    )
    found = (
        mean,
        ReportingRule("last", "last evaluation", lambda history: history.scores[-1]),
        ReportingRule("best", "best over training (oracle)", lambda history: max(history.scores)),
        ReportingRule("offline", "selected offline by the cloning loss (Diffusion-QL's rule)", _offline),
        ReportingRule(
            PAPER,
            "each paper's own rule",
            lambda history: _own(history).select(history),
            lambda history: _own(history).needs(history),
        ),
    )
    return {protocol.name: protocol for protocol in found}


def _own(history: History) -> ReportingRule:
    """The rule of the paper of a run's method; its mean is of its own number, whatever a table's k."""
    if history.own_rule in OWN_MEANS:
        return protocols(OWN_MEANS[history.own_rule])["mean"]
    return protocols()[history.own_rule]


def chosen_protocols(names: Sequence[str], last: int) -> tuple[ReportingRule, ...]:
    """The rules of those names, ``all`` for every one.

    Raises:
      UserError: a name is unknown.
    """
    known = protocols(last)
    return tuple(known[name] for name in named(names, known, "protocol", "protocol", "block"))


def named(names: Sequence[str], known: Iterable[str], flag: str, kind: str, every: str) -> tuple[str, ...]:
    """What a flag names, in any case and punctuation; all for ``all``. ``kind`` and ``every`` are words for one.

    Raises:
      UserError: a name is unknown, or stands beside ``all``.
    """
    known = tuple(known)
    if tuple(names) == (ALL,):
        return known
    by_letters = {_letters(name): name for name in known}
    for name in names:
        if name == ALL:
            raise UserError(f"--{flag}=all names every {every}; leave the others out")
        if _letters(name) not in by_letters:
            raise unknown_name(kind, name, (*known, ALL))
    return tuple(by_letters[_letters(name)] for name in names)


def _letters(name: str) -> str:
    """A name as it is told from others: ``TD3+BC`` and ``td3_bc`` are one."""
    return "".join(filter(str.isalnum, name.casefold()))
