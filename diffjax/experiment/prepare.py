"""From a request to all that training needs: data obtained, references known, shapes checked, nothing written."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr

from diffjax.data.actions import fit_actions
from diffjax.data.filters import top_percent
from diffjax.data.load import load_dataset
from diffjax.data.rewards import reward_affine
from diffjax.data.trajectories import apply_rule
from diffjax.data.transitions import Dataset
from diffjax.errors import UserError
from diffjax.experiment.footprint import check_footprint
from diffjax.experiment.plan import Plan
from diffjax.experiment.provenance import describe
from diffjax.methods.base import CLONING_LOSS
from diffjax.methods.checks import check_shapes
from diffjax.numerics import random_key
from diffjax.records.schema import Config
from diffjax.tasks.default_data import MakeData, default_dataset
from diffjax.tasks.registry import environment_bounds, make_simulator, with_references
from diffjax.training.batches import Prepared, prepare
from diffjax.types import Spec
from diffjax.words import count

NO_SIMULATOR = "none"
"""What stands for a simulator's version where nothing is evaluated."""


class Ready(NamedTuple):
    """An experiment that nothing can keep from starting any more."""

    plan: Plan  # its task with reference scores, its sizes those of the data
    data: tuple[Prepared, ...]  # of each group
    config: Config


def obtain_dataset(plan: Plan, make_data: MakeData, report: Callable[[str], None]) -> Dataset:
    """The data set that the user named, or the task's own; ``report`` takes a line about it, and warnings.

    Raises:
      UserError: if it cannot be had or does not fit the task.
    """
    experiment, task = plan.experiment, plan.task
    if experiment.dataset is None:
        dataset = default_dataset(task, make_data, mirror=experiment.mirror, report=report)
    else:
        dataset = load_dataset(
            experiment.dataset,
            plan.spec if task.env_id else None,
            horizon=task.horizon or None,
            dataset_source=experiment.dataset_source,
            task_id=task.id,
            any_actions=True,
            report=report,
        )
    return dataset if experiment.top_percent is None else top_percent(dataset, experiment.top_percent)


def make_ready(planned: Plan, dataset: Dataset, report: Callable[[str], None]) -> Ready:
    """Checks an experiment against its data, its simulator and its networks' shapes.

    ``report`` takes a line where actions were changed.

    Raises:
      UserError: they do not go together.
    """
    protocol, transitions = planned.protocol, dataset.transitions
    spec = Spec(transitions.observation.shape[1], transitions.action.shape[1])
    if planned.task.env_id and spec != planned.spec:
        raise UserError(
            f"{dataset.source}: observations of {spec.observation_dim} and actions of "
            f"{count(spec.action_dim, 'number')}; task {planned.task.id} has "
            f"{planned.spec.observation_dim} and {planned.spec.action_dim}"
        )
    evaluates = protocol.episodes > 0
    bounds = environment_bounds(planned.task) if protocol.actions == "scale" and evaluates else None
    dataset = fit_actions(dataset, protocol.actions, bounds)
    transitions = dataset.transitions
    if protocol.actions:
        report(f"{dataset.source}: {dataset.notes[-1]}")
    task = with_references(planned.task, dataset, planned.experiment.ref_scores, needed=evaluates)
    task = dataclasses.replace(task, action_bounds=dataset.action_bounds)
    planned = planned._replace(task=task, spec=spec)
    transitions = apply_rule(protocol.trajectories, transitions)
    reward = reward_affine(protocol.reward, transitions)
    views = [planned.method.view.sized(group.trained[0].hyper) for group in planned.groups]
    given = protocol.observation, reward, protocol.action_clip, dataset.episode_rows
    prepared = {view: prepare(transitions, view, *given) for view in dict.fromkeys(views)}
    data = tuple(prepared[view] for view in views)
    check_footprint(planned, data, check_networks(planned))
    version = NO_SIMULATOR
    if evaluates:
        runs_at_once = max(len(group.trained) for group in planned.groups)
        with closing(make_simulator(task, runs_at_once * protocol.episodes)) as simulator:
            version = simulator.version
    return Ready(planned, data, describe(planned, dataset, version))


def check_networks(plan: Plan) -> tuple[ClosedJaxpr, ...]:
    """That the method fits together and the networks of every group can be made; shapes only.

    Returns:
      the updates of the first group's phases, traced.
    """
    metrics = (CLONING_LOSS,) if plan.protocol.selection == "offline" else ()
    first, *others = (group.runs[0].hyper for group in plan.groups)
    updates = check_shapes(plan.experiment.method, plan.method, plan.spec, first, metrics)
    for hyper in others:
        jax.eval_shape(lambda hyper=hyper: plan.method.init(random_key(0), plan.spec, hyper))
    return updates
