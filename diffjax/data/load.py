"""One door to every kind of data set."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diffjax.data import episodes, hdf5, joins, minari_store, npz
from diffjax.data.plausibility import implausible, summary
from diffjax.data.transitions import HDF5_SUFFIXES, JOIN, NPZ_SUFFIX, Dataset, check_action_range
from diffjax.errors import UserError
from diffjax.types import Spec


def load_dataset(
    source: str,
    spec: Spec | None = None,
    label: str | None = None,
    *,
    horizon: int | None = None,
    dataset_source: str | None = None,
    task_id: str | None = None,
    any_actions: bool = False,
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """Read and check one data set.

    ``source`` is a file in D4RL's layout (HDF5 or ``.npz``) or in robomimic's, a Minari id or folder, or a folder or
    pattern of episode files. Several joined by ``+`` make one data set (see `join_datasets`), unless a file of that
    very name exists. A Minari id that is not stored is fetched with Minari first.

    Args:
      spec: the task's sizes; None skips the comparison.
      label: replaces the data set's own.
      horizon: steps per episode, needed by files without ``timeouts``.
      dataset_source: ``"d4rl"`` calls a file D4RL's, and only if its name (that of ``task_id``, where given), its keys
        and its shapes agree with the published file.
      any_actions: takes actions beyond [-1, 1], for :func:`~diffjax.data.actions.fit_actions` to change.
      report: takes a line that says what was read, and a warning for whatever of it is implausible.

    Raises:
      UserError: names the file and its defect.
    """
    if dataset_source not in (None, "d4rl"):
        raise UserError(f"dataset source {dataset_source!r} is unknown; the only choice is 'd4rl'")
    parts = _parts(source)
    if dataset_source == "d4rl":
        if len(parts) > 1:
            raise UserError(f"{source}: dataset source 'd4rl' is one published file; leave it out to join several")
        if not _is_file_name(source) or Path(source).suffix == NPZ_SUFFIX:
            raise UserError(f"{source}: dataset source 'd4rl' needs the path of a D4RL HDF5 file")
        label = hdf5.d4rl_label(source, task_id)
    datasets = [_load_one(part, spec, horizon) for part in parts]
    dataset = joins.join_datasets(datasets) if len(datasets) > 1 else datasets[0]
    dataset = dataset if label is None else replace(dataset, label=label)
    if not any_actions:
        check_action_range(dataset.source, dataset.largest_action, dataset.largest_at)
    if report is not None:
        report(summary(dataset))
        for part in datasets:
            for line in implausible(part, horizon):
                report(f"warning: {line}")
        for path in parts if label is None else ():
            if hint := hdf5.d4rl_hint(path, task_id):
                report(f"note: {hint}")
    return dataset


def _parts(source: str) -> list[str]:
    if JOIN not in source or Path(source).expanduser().exists():
        return [source]
    parts = [part.strip() for part in source.split(JOIN)]
    if not all(parts):
        raise UserError(f"{source}: a name is missing beside {JOIN!r}; data sets are joined as in a.hdf5+b.hdf5")
    return parts


def _is_file_name(source: str) -> bool:
    path = Path(source).expanduser()
    return path.is_file() or (path.suffix in (*HDF5_SUFFIXES, NPZ_SUFFIX) and not path.is_dir())


def _load_one(source: str, spec: Spec | None, horizon: int | None) -> Dataset:
    if episodes.is_many(source):
        return episodes.load_episode_files(source, spec, horizon)
    if not _is_file_name(source):
        return minari_store.load_minari(source, spec)
    load = npz.load_npz if Path(source).suffix == NPZ_SUFFIX else hdf5.load_hdf5
    return load(source, spec, horizon)
