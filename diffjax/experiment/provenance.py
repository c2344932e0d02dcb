"""What a results folder records of its experiment: what was asked for, on which data, by which programs."""

import dataclasses
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax
import numpy as np

from diffjax.data.transitions import Dataset
from diffjax.experiment.plan import Plan
from diffjax.files import plain
from diffjax.numerics import jax_options
from diffjax.records.schema import Config, DatasetRecord, OwnTask, ReferenceRecord, Request
from diffjax.tasks.own import SUITE
from diffjax.version import __version__


def source_revision() -> str:
    """Commit of the checkout that the package runs from, or empty."""
    folder = Path(__file__).parents[1]
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def versions() -> dict[str, str]:
    """Versions of everything that a number may depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "gymnasium", "minari")
    device = jax.local_devices()[0]
    return {name: importlib.metadata.version(name) for name in packages} | {
        "diffjax": __version__,
        "revision": source_revision(),
        "python": platform.python_version(),
        "platform": device.platform,
        "device": device.device_kind,
        "devices": str(jax.local_device_count()),
    }


def request(plan: Plan) -> Request:
    """What of ``config.json`` is known before any data are read."""
    experiment, protocol = plan.experiment, plan.protocol
    return Request(
        method=experiment.method,
        variant=plan.variant,
        preset=experiment.preset,
        task=plan.task.id,
        suite=plan.task.suite,
        seeds=experiment.seeds,
        settings=experiment.settings,
        steps=protocol.steps,
        eval_interval=protocol.eval_interval,
        episodes=protocol.episodes,
        protocol=plain(protocol.entries),
        tuning=plan.tuning,
        source=plan.source,
        hyper={setting: plain(dataclasses.asdict(hyper)) for setting, hyper in plan.hypers.items()},
        matmul_precision=experiment.matmul_precision,
        env=plan.task.env_id,
        ablation=experiment.ablation,
        plugins=experiment.plugins,
        jax_options=jax_options(),
        only=experiment.only,
    )


def own_task(plan: Plan) -> OwnTask | None:
    """What a reader must know of a task that the program's table does not have."""
    task = plan.task
    if task.suite != SUITE:
        return None
    return OwnTask(task.env_id, plan.spec.observation_dim, plan.spec.action_dim, task.horizon, plain(task.env_kwargs))


def describe(plan: Plan, dataset: Dataset, simulator_version: str) -> Config:
    """The content of ``config.json``; the task of the plan has its reference scores."""
    return Config(
        **vars(request(plan)),
        dataset=DatasetRecord(
            label=dataset.label,
            source=dataset.source,
            fingerprint=dataset.fingerprint,
            transitions=int(dataset.transitions.row.size),
            episodes=int(dataset.episode_returns.size),
            return_mean=float(np.mean(dataset.episode_returns)) if dataset.episode_returns.size else None,
            action_low=dataset.action_bounds and dataset.action_bounds.low,
            action_high=dataset.action_bounds and dataset.action_bounds.high,
        ),
        reference=ReferenceRecord(
            min=plan.task.ref_min,
            max=plan.task.ref_max,
            source=plan.task.ref_source,
            given=plan.experiment.ref_scores is not None,
        ),
        versions=versions() | {"simulator": simulator_version},
        flags=plan.experiment.flags,
        own_task=own_task(plan),
        blocks=plan.blocks,
    )
