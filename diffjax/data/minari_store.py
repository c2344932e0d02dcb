"""Minari data sets: read as flat arrays, fetched where they are not stored, and written whole or not at all.

Layout: ``ROOT/<namespace>/<name>-v<N>/data/{main_data.hdf5, metadata.json}`` with ``ROOT`` the environment
variable MINARI_DATASETS_PATH or ``~/.minari/datasets``. Every episode holds one observation more than
actions, so no transition is lost at a time limit.
"""

import difflib
import importlib.util
import json
import logging
import os
import shutil
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from diffjax.data.goals import flatten_observation
from diffjax.data.hdf5 import check_no_old_minari
from diffjax.data.minari_folders import ID, counts, dataset_folder, datasets_root, is_complete
from diffjax.data.transitions import (
    MAX_ACTION,
    Dataset,
    Transitions,
    as_flags,
    check_action_range,
    check_numbers,
    check_rows,
    check_sizes,
    check_values,
    check_whole_numbers,
    largest_action,
    make_dataset,
    one_line,
)
from diffjax.errors import UserError
from diffjax.types import Spec

HUB = "hf://"
"""How ``MINARI_REMOTE`` begins where Minari asks the hub that is its default."""
ANSWER_S = 10.0  # to wait for a first answer


class Episode(NamedTuple):
    """One episode of ``T`` steps.

    ``observation (T + 1, observation_dim)``, ``action (T, action_dim)``, ``reward (T,)``; ``terminal`` says
    that the environment ended it, otherwise a time limit did; ``seed`` is the reset's.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminal: bool
    seed: int | None = None


def load_minari(source: str, spec: Spec | None = None) -> Dataset:
    """Read a data set by its id or by its folder; episodes in the order of their ids.

    What is not stored is fetched through Minari first. Every step begins a transition; each episode's final
    observation is one more row, with zero action and reward. The label is the data set's id. Observations and
    actions must be flat arrays; dictionaries of goal environments are flattened by `flatten_observation`.

    Raises:
      UserError: names the data set and its defect.
    """
    data = _data_folder(source)
    metadata = _read_metadata(source, data)
    for kind in ("observation", "action"):
        _check_space(source, kind, metadata)
    try:
        transitions, first = _read_arrays(source, spec, data, metadata)
    except MemoryError as error:
        raise UserError(f"{source}: does not fit into memory ({one_line(error)})") from error

    def locate(row: int) -> str:
        episode = int(np.searchsorted(first, row, side="right")) - 1
        return f"episode {episode}, step {row - first[episode]}"

    return make_dataset(
        transitions,
        source=source,
        label=metadata["dataset_id"],
        locate=locate,
        ref_min=_number(metadata.get("ref_min_score")),
        ref_max=_number(metadata.get("ref_max_score")),
        env_id=_env_id(metadata),
    )


def write_minari(
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    env_id: str,
    algorithm: str,
    description: str,
    ref_min: float | None = None,
    ref_max: float | None = None,
    provenance: Mapping[str, Any] | None = None,
    exist_ok: bool = False,
) -> Path:
    """Store ``episodes`` under ``dataset_id`` with ``minari.create_dataset_from_buffers``; return the folder.

    It is written under a hidden folder beside its place and then renamed, so that a reader meets a whole data
    set or none; a half-written one in its place is replaced. If another process was first, its data set
    stays: fine with ``exist_ok``, an error without. ``provenance`` (JSON values) and ``env_id`` are stored in
    the metadata. Minari is pointed at the hidden folder through MINARI_DATASETS_PATH, so no other thread may
    use Minari meanwhile.

    Raises:
      UserError: the id is malformed or taken, an episode is malformed, or the folder cannot be written.
    """
    target = dataset_folder(dataset_id)
    if is_complete(target):
        return _keep(dataset_id, target, exist_ok)
    if not episodes:
        raise UserError(f"{dataset_id}: no episode to store; at least one is needed")
    for index, episode in enumerate(episodes):
        observation, action, reward, terminal, _ = episode
        flags = _last_only(len(reward), terminal)
        where = f"{dataset_id}: episode {index}"
        _check_episode(where, observation, action, reward, flags)
        check_values(where, observation, action, reward, "step {}".format)
        largest, step = largest_action(action)
        check_action_range(where, largest, f"step {step}")
        if (observation.shape[1], action.shape[1]) != _sizes(episodes[0]):
            raise UserError(f"{where} differs in size from episode 0; all must agree")
    root = datasets_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _hidden_root(root) as temporary:
            with _minari_root(str(temporary)):
                dataset = _create(dataset_id, episodes, algorithm, description)
                dataset.storage.update_metadata(_extra_metadata(env_id, ref_min, ref_max, provenance))
            if not _move(temporary, dataset_id, target):
                return _keep(dataset_id, target, exist_ok)
    except OSError as error:
        raise UserError(
            f"{dataset_id}: cannot be written under {root} ({one_line(error)}); "
            "set MINARI_DATASETS_PATH to a folder with room that you may write"
        ) from error
    return target


def fetch_minari(dataset_id: str) -> Path:
    """Fetch a data set through Minari (MINARI_REMOTE says from where); return its folder, where it appears whole.

    Minari is pointed at a hidden folder as in `write_minari`.

    Raises:
      UserError: Minari cannot fetch it; says what is stored instead.
    """
    target, root = dataset_folder(dataset_id), datasets_root()
    is_new = not root.exists()
    try:
        _check_reachable()
        print(f"{dataset_id}: is not stored under {root}; fetching it with Minari", file=sys.stderr, flush=True)
        root.mkdir(parents=True, exist_ok=True)
        with _hidden_root(root) as temporary:
            with _minari_root(str(temporary)), redirect_stdout(sys.stderr), _quiet_hub():
                minari.download_dataset(dataset_id)
            _move(temporary, dataset_id, target)
    # Each of Minari's remotes fails in its own client's way, an HTTP library's exceptions among them.
    except Exception as error:
        if is_new:
            with suppress(OSError):
                root.rmdir()
        near = difflib.get_close_matches(dataset_id, _stored_ids(), n=3, cutoff=0.0)
        raise UserError(
            f"{dataset_id}: no such Minari data set under {root} (MINARI_DATASETS_PATH), and Minari cannot fetch it "
            f"({type(error).__name__}: {one_line(error)[:200]}); run 'minari download {dataset_id}' where there is a "
            f"network and copy its folder there; stored here: {', '.join(near) or 'none'}"
        ) from error
    return target


def _stored_ids() -> list[str]:
    root = datasets_root()
    folders = [entry.parent.parent.relative_to(root) for entry in root.glob("**/data/metadata.json")]
    return sorted(folder.as_posix() for folder in folders if not folder.parts[0].startswith("."))


def _data_folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        for data in (path / "data", path):
            if (data / "metadata.json").is_file():
                return data
        for data in (path / "data", path):
            check_no_old_minari(source, data)
        raise UserError(
            f"{source}: is a folder without a Minari data set (data/metadata.json) and without recordings (.hdf5, .h5, "
            ".npz); give an HDF5 file or a Minari id"
        )
    if not ID.fullmatch(source) and (path.is_absolute() or path.suffix or source.startswith((".", "~"))):
        raise UserError(f"{source}: no such file; give the path of an HDF5 file or a local Minari id")
    folder = dataset_folder(source)
    if not folder.exists():
        return fetch_minari(source) / "data"
    check_no_old_minari(source, folder / "data")
    return folder / "data"


def _read_metadata(source: str, data: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((data / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source}: {data / 'metadata.json'} cannot be read ({one_line(error)}); "
            "delete the folder and fetch or make it again"
        ) from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("dataset_id"), str):
        raise UserError(f"{source}: {data / 'metadata.json'} names no data set; delete the folder, make it again")
    if not counts(metadata):
        raise UserError(f"{source}: holds no episodes (half-written); delete the folder and make it again")
    return metadata


def _read_episodes(source: str, data: Path) -> Iterator[minari.EpisodeData]:
    try:
        dataset = minari.MinariDataset(data)
        _check_ids(source, dataset)
        yield from dataset.iterate_episodes()
    except (MemoryError, UserError):
        raise
    except ImportError as error:  # of Minari's storages all but HDF5 need it
        raise UserError(
            f"{source}: is stored in a format that needs pyarrow ({one_line(error)}); install it with "
            "'python -m pip install pyarrow'"
        ) from error
    # Minari hands what it finds to JSON, NumPy and HDF5, so damage shows as any exception. What fails in the
    # loop over these episodes does not pass through here.
    except Exception as error:
        raise UserError(
            f"{source}: Minari cannot read it ({type(error).__name__}: {one_line(error)}); "
            "delete the folder and fetch or make it again"
        ) from error


def _check_ids(source: str, dataset: minari.MinariDataset) -> None:
    seen: dict[int, int] = {}
    for index, metadata in enumerate(dataset.storage.get_episode_metadata(range(dataset.total_episodes))):
        if "id" in metadata and (first := seen.setdefault(int(metadata["id"]), index)) != index:
            raise UserError(
                f"{source}: episodes {first} and {index} are both called {metadata['id']}; each needs an id of its own"
            )


def _check_space(source: str, kind: str, metadata: dict[str, Any]) -> None:
    try:
        space = dict(json.loads(metadata[f"{kind}_space"]))
    except (KeyError, TypeError, ValueError):
        return  # older data sets leave it to their environment; then the arrays decide
    if space.get("type") == "Dict":
        if kind == "observation":
            return  # laid flat; what does not fit together is found then
        entries = ", ".join(space.get("subspaces", {}))
        raise UserError(f"{source}: actions are a dictionary ({entries}); concatenate its entries into one array")
    if space.get("type") != "Box":
        raise UserError(f"{source}: {kind}s come from a {space.get('type')} space; a Box of numbers is needed")


def _flat(where: str, observation: Any) -> np.ndarray:
    try:
        return np.asarray(flatten_observation(observation))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: its observations cannot be flattened ({type(error).__name__}: {one_line(error)}); an array, or "
            "a dictionary of arrays with one row per step is needed"
        ) from error


def _check_episode(
    where: str, observation: np.ndarray, action: np.ndarray, reward: np.ndarray, terminal: np.ndarray
) -> None:
    arrays = {"observations": observation, "actions": action, "rewards": reward, "terminations": terminal}
    for key, array in arrays.items():
        check_numbers(where, key, array.dtype, flags=key == "terminations")
        ndim = 2 if key in ("observations", "actions") else 1
        if array.ndim != ndim:
            right = f"(steps, {key[:-1]}_dim)" if ndim == 2 else "(steps,)"
            raise UserError(f"{where}: {key!r} has shape {array.shape}; {right} is needed")
        if array.size:
            check_whole_numbers(where, key, array, array.dtype)
    steps = len(reward)
    if steps < 1:
        raise UserError(f"{where}: has no steps; at least one is needed")
    if (len(observation), len(action), len(terminal)) != (steps + 1, steps, steps):
        raise UserError(
            f"{where}: has {len(observation)} observations, {len(action)} actions, {steps} rewards and "
            f"{len(terminal)} terminations; one observation more than actions is needed, the rest equal"
        )


def _read_arrays(
    source: str, spec: Spec | None, data: Path, metadata: dict[str, Any]
) -> tuple[Transitions, np.ndarray]:
    """The data set and the first row of each episode."""
    steps, episodes = metadata["total_steps"], metadata["total_episodes"]
    rows = steps + episodes
    check_rows(source, rows)
    begins = np.ones(rows, bool)
    first = np.zeros(episodes, np.int64)
    row = 0
    for index, episode in enumerate(_read_episodes(source, data)):
        observation, action = _flat(f"{source}: episode {index}", episode.observations), np.asarray(episode.actions)
        reward, terminal = np.asarray(episode.rewards), np.asarray(episode.terminations)
        _check_episode(f"{source}: episode {index}", observation, action, reward, terminal)
        if index == 0:
            check_sizes(source, observation.shape[1], action.shape[1], spec)
            # Zeros, as they are what an episode's final row holds beside its observation.
            observations = np.zeros((rows, observation.shape[1]), np.float32)
            actions = np.zeros((rows, action.shape[1]), np.float32)
            rewards, terminals = np.zeros(rows, np.float32), np.zeros(rows, bool)
        if (observation.shape[1], action.shape[1]) != (observations.shape[1], actions.shape[1]):
            raise UserError(f"{source}: episode {index} differs in size from episode 0; all must agree")
        first[index], last = row, row + len(reward)
        if last < rows:
            # What float32 cannot hold becomes infinity, which the checks then name.
            with np.errstate(over="ignore"):
                observations[row : last + 1] = observation
                actions[row:last] = action
                rewards[row:last] = reward
            terminals[row:last] = as_flags(f"{source}: episode {index}", "terminations", terminal)
            begins[last] = False
        row = last + 1
    if row != rows:
        raise UserError(
            f"{source}: holds {row - episodes} steps where its metadata count {steps}; "
            "delete the folder and fetch or make it again"
        )
    begin_rows = np.flatnonzero(begins).astype(np.int32)
    return Transitions(observations, actions, rewards, terminals, ~begins, begin_rows), first


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def _env_id(metadata: dict[str, Any]) -> str | None:
    if isinstance(metadata.get("env_id"), str):
        return metadata["env_id"]
    try:
        return str(json.loads(metadata["env_spec"])["id"])
    except (KeyError, TypeError, ValueError):
        return None


def _keep(dataset_id: str, target: Path, exist_ok: bool) -> Path:
    if exist_ok:
        return target
    raise UserError(f"{dataset_id}: is already stored at {target}; choose another version or delete it first")


def _sizes(episode: Episode) -> tuple[int, int]:
    return episode.observation.shape[1], episode.action.shape[1]


def _last_only(steps: int, flag: bool) -> np.ndarray:
    values = np.zeros(steps, bool)
    values[-1:] = flag
    return values


def _create(dataset_id: str, episodes: Sequence[Episode], algorithm: str, description: str) -> minari.MinariDataset:
    buffers: list[EpisodeBuffer] = [
        EpisodeBuffer(  # Minari declares lists and stores arrays
            id=index,
            seed=None if episode.seed is None else int(episode.seed),
            observations=np.asarray(episode.observation, np.float32),  # type: ignore[arg-type]
            actions=np.asarray(episode.action, np.float32),  # type: ignore[arg-type]
            rewards=np.asarray(episode.reward, np.float32),  # type: ignore[arg-type]
            terminations=_last_only(len(episode.reward), episode.terminal),  # type: ignore[arg-type]
            truncations=_last_only(len(episode.reward), not episode.terminal),  # type: ignore[arg-type]
        )
        for index, episode in enumerate(episodes)
    ]
    observation_dim, action_dim = _sizes(episodes[0])
    with warnings.catch_warnings():
        # Minari asks for an author, an address and a link; these data are made by the program itself.
        warnings.filterwarnings("ignore", message=".*(is set to None|env_spec is None)", category=UserWarning)
        return minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            algorithm_name=algorithm,
            description=description,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32),
            action_space=gymnasium.spaces.Box(-MAX_ACTION, MAX_ACTION, (action_dim,), np.float32),
            data_format="hdf5",
        )


def _extra_metadata(
    env_id: str, ref_min: float | None, ref_max: float | None, provenance: Mapping[str, Any] | None
) -> dict[str, Any]:
    extra: dict[str, Any] = {"env_id": env_id, "provenance": dict(provenance or {})}
    references = {"ref_min_score": ref_min, "ref_max_score": ref_max}
    extra |= {key: float(value) for key, value in references.items() if value is not None}
    # Given as a specification, not through Minari's `env`, which would build the environment.
    if env_id in gymnasium.registry:
        extra["env_spec"] = gymnasium.spec(env_id).to_json()
    return extra


@contextmanager
def _hidden_root(root: Path) -> Iterator[Path]:
    # Beside the data sets, as a rename cannot cross file systems; hidden, so that Minari does not list it.
    with tempfile.TemporaryDirectory(prefix=".diffjax-", dir=root) as temporary:
        yield Path(temporary)


def _check_reachable() -> None:
    """That Minari's usual remote answers, asked once: its client would try again for half a minute.

    Raises:
      ConnectionError: it does not.
    """
    remote = os.environ.get("MINARI_REMOTE", HUB)
    if not remote.startswith(HUB) or importlib.util.find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:  # said at once by the client
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        return  # an answer all the same
    except urllib.error.URLError as error:
        # The client has certificates of its own.
        if isinstance(error.reason, OSError) and not isinstance(error.reason, ssl.SSLError):
            raise ConnectionError(f"{constants.ENDPOINT} does not answer: {one_line(error.reason)}") from None


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """While the client of Minari's usual remote logs errors alone."""
    with suppress(ImportError):
        import huggingface_hub.utils  # noqa: F401  sets the level itself when it is imported
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _minari_root(root: str) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = root
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _namespaces(dataset_id: str) -> Iterable[str]:
    parts = dataset_id.split("/")[:-1]
    return ("/".join(parts[: depth + 1]) for depth in range(len(parts)))


def _copy_namespaces(temporary: Path, dataset_id: str) -> None:
    root = temporary.parent
    for namespace in _namespaces(dataset_id):
        (root / namespace).mkdir(exist_ok=True)
        page = root / namespace / "namespace_metadata.json"
        if not page.exists() and (made := temporary / namespace / page.name).exists():
            os.replace(made, page)


def _move(temporary: Path, dataset_id: str, target: Path) -> bool:
    """Rename the finished data set into place; False if a whole one came first."""
    _copy_namespaces(temporary, dataset_id)
    while True:
        try:
            os.rename(temporary / dataset_id, target)
            return True
        except OSError:
            if not target.exists():
                raise
        if is_complete(target):
            return False
        if not target.is_dir() or any(entry.name != "data" for entry in target.iterdir()):
            raise UserError(f"{dataset_id}: {target} holds something else; choose another version or delete it")
        half_written = temporary / "half-written"
        with suppress(FileNotFoundError):  # another process moved it first
            os.rename(target, half_written)
            shutil.rmtree(half_written)
