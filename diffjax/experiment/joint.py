"""Groups of several experiments that train in one program: which go together, and who acts beside whom."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from diffjax.data.transitions import has_trajectories
from diffjax.experiment.plan import Group, Plan, Run, phase_lengths
from diffjax.experiment.prepare import Ready
from diffjax.methods.base import acting_values, without_acting
from diffjax.records.schema import RunId
from diffjax.training.batches import Prepared
from diffjax.words import count


class Member(NamedTuple):
    """A group of an experiment, as one of those that train in one program."""

    ready: Ready
    number: int  # of the group in its experiment

    @property
    def group(self) -> Group:
        """The runs."""
        return self.ready.plan.groups[self.number]

    @property
    def data(self) -> Prepared:
        """What its runs are trained on."""
        return self.ready.data[self.number]

    @property
    def trained(self) -> tuple[Run, ...]:
        """Its part of the run axis."""
        return self.group.trained

    @property
    def runs(self) -> tuple[RunId, ...]:
        """Who the runs are."""
        return tuple(self.ready.config.run(run.seed, run.setting) for run in self.group.runs)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Updates of each phase."""
        return phase_lengths(self.ready.plan.method, self.ready.plan.protocol)

    @property
    def name(self) -> str:
        """What the progress calls it, and a checkpoint, which says who trained in its program."""
        return self.ready.plan.name

    @property
    def label(self) -> str:
        """What tells it from all others that could train in its program."""
        runs = count(len(self.trained), "run")
        return f"{self.name} {self.number} ({runs}, {self.ready.config.dataset.fingerprint})"


def members_of(ready: Ready) -> tuple[Member, ...]:
    """The groups of an experiment."""
    return tuple(Member(ready, number) for number in range(len(ready.plan.groups)))


def program_of(member: Member) -> Any:
    """What must be equal of groups for them to share a program, and the ends of their intervals; hashable."""
    plan = member.ready.plan
    protocol, view = plan.protocol, plan.method.view
    *before, main = member.lengths
    interval = protocol.eval_interval
    # What is computed for all rows of the data is held for each run; other data sets' rows would be in vain.
    reads_all_rows = view.return_to_go or any(phase.relabel is not None for phase in plan.method.phases)
    return (
        plan.method,
        plan.spec,
        protocol.sampling,
        jax.tree.structure(without_acting(member.trained[0].hyper)),
        tuple(before),
        main % interval and main,  # a shorter last interval is an end that the others do not have
        interval,
        protocol.episodes,
        plan.experiment.matmul_precision,
        has_trajectories(member.data.transitions),
        member.ready.config.dataset.fingerprint if reads_all_rows else "",
    )


def together(plans: Sequence[Plan]) -> Iterator[list[int]]:
    """Experiments that may share programs, by their numbers."""
    found: dict[object, list[int]] = {}
    for number, planned in enumerate(plans):
        found.setdefault((planned.method, planned.spec), []).append(number)
    yield from found.values()


class Played(NamedTuple):
    """A run that acts in a round: whose it is, and which training acts."""

    member: int
    run: int  # place in the member's group
    training: int  # place on the run axis of all


class Round(NamedTuple):
    """Runs that act by programs of one kind, side by side; no training acts twice in a round."""

    played: tuple[Played, ...]
    hyper: tuple[Any, ...]  # of each


def rounds(members: Sequence[Member], live: Collection[int], most: int) -> tuple[Round, ...]:
    """Every run of the live members once: its training with its way of acting; ``most`` runs in a round at most.

    Runs go together whose ways of acting differ in traced values alone.
    """
    found: list[tuple[Any, dict[int, Played], dict[int, Any]]] = []
    first = 0
    for number, member in enumerate(members):
        for place, (run, training) in enumerate(zip(member.group.runs, member.group.training, strict=True)):
            if number not in live:
                continue
            hyper = dataclasses.replace(member.trained[training].hyper, **acting_values(run.hyper))
            kind, where = jax.tree.structure(hyper), first + training
            fitting = [one for one in found if one[0] == kind and where not in one[1] and len(one[1]) < most]
            if not fitting:
                fitting = [(kind, {}, {})]
                found += fitting
            _, played, hypers = fitting[0]
            played[where] = Played(number, place, where)
            hypers[where] = hyper
        first += len(member.trained)
    # In the order of the run axis, so that the runs of one member stand together.
    return tuple(
        Round(tuple(played[where] for where in sorted(played)), tuple(hypers[where] for where in sorted(hypers)))
        for _, played, hypers in found
    )
