"""A task's own data: made by its recipe and stored once."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffjax.clock import duration
from diffjax.data.d4rl_writer import write_hdf5
from diffjax.data.minari_folders import minari_exists
from diffjax.data.minari_store import Episode, write_minari
from diffjax.errors import UserError
from diffjax.numerics import random_key
from diffjax.studies.collect import SEED, embedded, mazes, robots
from diffjax.studies.collect.recipe import Progress, Recipe
from diffjax.tasks.registry import OWN_DATA, Task
from diffjax.words import count

_MADE_BY: Mapping[str, Callable[[Task], Recipe]] = {
    "mini": lambda task: embedded.recipe(task.id),
    "robot": lambda task: robots.recipe(task.env_id, task.level),
    "maze": lambda task: mazes.recipe(task.level),
}


def recipe_of(task: Task) -> Recipe:
    """How the task's own data are made.

    Raises:
      UserError: it has none.
    """
    if task.suite not in OWN_DATA:
        raise UserError(f"task {task.id} has no data of its own; suites that do: {', '.join(OWN_DATA)}")
    return _MADE_BY[task.maker](task)


def make_episodes(recipe: Recipe, seed: int, progress: Progress) -> tuple[list[Episode], dict[str, Any]]:
    """The episodes of a recipe and their provenance."""
    episodes = recipe.collect(random_key(seed), progress)
    return episodes, {"simulator": recipe.simulator, "seed": seed} | recipe.provenance


def store_minari(
    dataset_id: str,
    recipe: Recipe,
    progress: Progress,
    ref_min: float | None = None,
    ref_max: float | None = None,
    seed: int = SEED,
    exist_ok: bool = False,
) -> Path:
    """Makes a data set and stores it as a local Minari data set; returns its folder.

    Raises:
      UserError: it is there already, or cannot be stored.
    """
    if not exist_ok and minari_exists(dataset_id):  # before the work, not after it
        raise UserError(f"{dataset_id}: is already stored; choose another version or delete it first")
    progress(f"collecting {dataset_id} (once)")
    begin = time.perf_counter()
    episodes, provenance = make_episodes(recipe, seed, progress)
    folder = write_minari(
        dataset_id,
        episodes,
        env_id=recipe.env_id,
        algorithm=recipe.algorithm,
        description=recipe.description,
        ref_min=ref_min,
        ref_max=ref_max,
        provenance=provenance,
        exist_ok=exist_ok,
    )
    steps = sum(len(episode.reward) for episode in episodes)
    seconds = time.perf_counter() - begin
    collected = f"{count(steps, 'transition')} in {count(len(episodes), 'episode')}"
    progress(f"collected {collected} in {duration(seconds)}: {folder}")
    return folder


def store_dataset(task: Task, progress: Progress) -> None:
    """Makes a task's own data and stores them as a local Minari data set.

    Raises:
      UserError: the task has none, or they cannot be stored.
    """
    recipe = recipe_of(task)
    store_minari(task.data, recipe, progress, task.ref_min, task.ref_max, exist_ok=True)


def store_hdf5(
    path: Path,
    recipe: Recipe,
    progress: Progress,
    ref_min: float | None = None,
    ref_max: float | None = None,
    seed: int = SEED,
) -> None:
    """Makes a data set and writes it as one file in D4RL's layout.

    Raises:
      UserError: the file is there already.
    """
    if path.exists():
        raise UserError(f"{path}: is already there; choose another name or delete it first")
    episodes, provenance = make_episodes(recipe, seed, progress)
    write_hdf5(
        path,
        episodes,
        env_id=recipe.env_id,
        algorithm=recipe.algorithm,
        ref_min=ref_min,
        ref_max=ref_max,
        provenance=provenance,
    )
    progress(f"collected {sum(len(episode.reward) for episode in episodes)} transitions: {path}")
