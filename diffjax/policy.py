"""A finished run as a policy: read from its folder or from a file, acting on one observation or many.

``load(folder)`` reads a run's checkpoint, ``policy.save(path)`` writes what acting needs into one file, and
``load(path)`` reads that. A policy sees observations as its run did, and acts by its paper's evaluation rule on any
device, whatever it was trained on.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from diffjax.data.observations import ObservationTransform
from diffjax.errors import UserError, first_line, unknown_name
from diffjax.experiment.plan import Run, group_runs
from diffjax.experiment.settings import check_overrides
from diffjax.files import check_parent, plain, read_arrays, writable, write_arrays
from diffjax.methods.base import Method, acting_values, check_hyper, no_draws
from diffjax.methods.registry import get_method
from diffjax.numerics import pinned, random_key
from diffjax.records.entries import from_entries, to_entries
from diffjax.records.folder import CHECKPOINTS, CONFIG, read_config, read_evaluations
from diffjax.records.schema import Evaluation, RunId
from diffjax.tasks.registry import get_task
from diffjax.training.checkpoints import StoredCheckpoints
from diffjax.types import Spec

FORMAT_VERSION = 1
"""Of files that :meth:`Policy.save` writes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """Where a policy comes from; ``hyper`` are all hyper-parameters, those of acting as they are now."""

    method: str
    variant: str
    preset: str
    task: str
    env: str
    dataset: str  # label
    dataset_fingerprint: str
    seed: int
    setting: str
    step: int  # updates of the main phase
    hyper: Mapping[str, Any]
    observation_dim: int
    action_dim: int
    matmul_precision: str
    versions: Mapping[str, str]
    score: float | None = None  # normalised, of the run's own evaluation at this step
    return_mean: float | None = None
    episodes: int | None = None


class Acting(NamedTuple):
    """The arrays that acting reads."""

    state: Any
    hyper: Any
    observation: ObservationTransform


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy of one run; made by :func:`load`."""

    method: Method[Any, Any]
    acting: Acting
    about: About

    @property
    def spec(self) -> Spec:
        """Sizes of an observation and an action."""
        return Spec(self.about.observation_dim, self.about.action_dim)

    @property
    def is_random(self) -> bool:
        """Whether acting draws random numbers, and so needs a key."""
        return self.method.draw_action is not no_draws

    def act(self, observation: Any, key: jax.Array | None = None) -> np.ndarray:
        """Actions in ``[-1, 1]`` as the run's evaluations chose them.

        Args:
          observation: one ``(observation_dim,)`` or a batch ``(batch, observation_dim)``, as the environment gives it.
          key: for policies that draw random numbers; a batch's rows draw apart.

        Returns:
          ``(action_dim,)`` or ``(batch, action_dim)``, float32.

        Raises:
          UserError: another shape, or no key where one is needed.
        """
        observed = np.asarray(observation, np.float32)
        dim = self.spec.observation_dim
        if observed.ndim not in (1, 2) or observed.shape[-1] != dim:
            raise UserError(f"an observation of shape {observed.shape}; this policy acts on ({dim},) or (batch, {dim})")
        if key is None:
            if self.is_random:
                raise UserError(f"{self.about.method} draws random numbers when acting; give a key: jax.random.key(0)")
            key = random_key(0)
        with pinned(), jax.default_matmul_precision(self.about.matmul_precision):
            return np.asarray(_act(self.method, self.spec, observed.ndim == 2, key, self.acting, observed))

    def with_acting(self, **values: Any) -> "Policy":
        """The same networks under another way of acting: ``candidates=1``, say.

        Raises:
          UserError: training reads it too, it is unknown, or its value is out of range.
        """
        about, free = self.about, acting_values(self.acting.hyper)
        for name in values:
            if name not in free:
                raise unknown_name(f"setting of {about.method} that only acting reads:", name, sorted(free))
        converted = check_overrides(about.method, about.variant, {name: str(value) for name, value in values.items()})
        hyper = dataclasses.replace(self.acting.hyper, **converted)
        check_hyper(hyper)
        about = dataclasses.replace(
            about, hyper=plain(dataclasses.asdict(hyper)), score=None, return_mean=None, episodes=None
        )
        return Policy(self.method, self.acting._replace(hyper=hyper), about)

    def save(self, path: str | Path) -> None:
        """Writes one ``.npz`` file with the arrays that acting reads and ``about``; no pickle, whole or not at all.

        Raises:
          UserError: the file's folder does not exist or cannot be written.
        """
        check_parent("out", path)
        read = _leaves_read(self)
        arrays = {name: np.asarray(leaf) for name, leaf in _named(self.acting.state).items() if name in read}
        arrays |= {f"observation/{name}": np.asarray(leaf) for name, leaf in self.acting.observation._asdict().items()}
        content = {"format_version": FORMAT_VERSION, **to_entries(self.about)}
        with writable(path):
            write_arrays(path, content, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _act(
    method: Method[Any, Any], spec: Spec, is_batch: bool, key: jax.Array, acting: Acting, observation: jax.Array
) -> jax.Array:
    """A run whose parameters are not finite acts with zeros, as it does when it is evaluated."""

    def act(key: jax.Array, observation: jax.Array) -> jax.Array:
        return method.sample_action(key, spec, acting.state, acting.hyper, acting.observation(observation))

    if is_batch:
        action = jax.vmap(act)(jax.random.split(key, observation.shape[0]), observation)
    else:
        action = act(key, observation)
    return jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)


def _named(state: Any) -> dict[str, Any]:
    """The leaves of a state by their paths, ``state/actor/params/...``."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {"state/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _leaves_read(policy: Policy) -> set[str]:
    """The names of the state's leaves that acting reads: no moments of optimisers, no networks of training alone."""
    names = list(_named(policy.acting.state))

    def act(state: Any, key: jax.Array, observation: jax.Array) -> jax.Array:
        acting = policy.acting
        return policy.method.sample_action(key, policy.spec, state, acting.hyper, observation)

    program = jax.make_jaxpr(act)(policy.acting.state, random_key(0), jnp.zeros(policy.spec.observation_dim)).jaxpr
    used = {var for equation in program.eqns for var in equation.invars if not isinstance(var, Literal)}
    used |= {var for var in program.outvars if not isinstance(var, Literal)}
    return {name for name, var in zip(names, program.invars, strict=False) if var in used}


def load(
    path: str | Path, seed: int | None = None, setting: str | None = None, step: int | str | None = None
) -> Policy:
    """The policy of a run in a results folder, or of a file that :meth:`Policy.save` wrote.

    Args:
      seed: which of the folder's runs; needed where there are several.
      setting: likewise, ``"eta=0.1;rho=1"``.
      step: updates of the main phase, ``"last"`` (the default) or ``"best"`` by the run's own evaluations, of those
        whose checkpoints were kept.

    Raises:
      UserError: nothing can be read there, or the run is not among its runs.
    """
    path = Path(path)
    if path.is_file():
        if (seed, setting, step) != (None, None, None):
            raise UserError(f"{path} holds one policy; leave out seed, setting and step")
        return _from_file(path)
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is neither a results folder (no {CONFIG} in it) nor a policy's file")
    return _from_folder(path, seed, setting, step)


def _from_folder(folder: Path, seed: int | None, setting: str | None, step: int | str | None) -> Policy:
    config = read_config(folder)
    run = config.run(_chosen(folder, "seed", seed, config.seeds), _chosen(folder, "setting", setting, config.settings))
    method, _ = get_method(config.method, config.variant)
    hypers = {name: _hyper(method, config.hyper[name], str(folder / CONFIG)) for name in config.settings}
    group, place = _place([Run(one.seed, one.setting, hypers[one.setting]) for one in config.runs], run)
    evaluations = {row.step: row for row in read_evaluations(folder) if row.run == run}
    checkpoints = folder / CHECKPOINTS / str(group)
    if not checkpoints.is_dir():
        raise UserError(f"{folder} has no checkpoints of {run.label}; a policy is read from one")
    with StoredCheckpoints(checkpoints) as stored:
        main = len(method.phases) - 1
        records = {number: stored.record(number) for number in stored.numbers()}
        numbers = {record["step"]: number for number, record in records.items() if record["phase"] == main}
        step = _chosen_step(folder, run, step, list(numbers), evaluations)
        parts = stored.parts(numbers[step], ("method", "observation"))
    parts = jax.tree.map(lambda leaf: leaf[place], parts)
    task, hyper = get_task(config.task), hypers[run.setting]
    spec = Spec(task.observation_dim, task.action_dim)
    raw = {"center": np.zeros(spec.observation_dim, np.float32), "scale": np.ones(spec.observation_dim, np.float32)}
    transform = ObservationTransform(**parts.get("observation", raw))
    made_by = config.versions.get("diffjax", "an older one")
    state = _state(method, spec, hyper, _named(parts["method"]), True, checkpoints, made_by)
    evaluation = evaluations.get(step)
    about = About(
        method=config.method,
        variant=config.variant,
        preset=config.preset,
        task=config.task,
        env=config.env or task.env_id,
        dataset=config.dataset.label,
        dataset_fingerprint=config.dataset.fingerprint,
        seed=run.seed,
        setting=run.setting,
        step=step,
        hyper=plain(dataclasses.asdict(hyper)),
        observation_dim=spec.observation_dim,
        action_dim=spec.action_dim,
        matmul_precision=config.matmul_precision or "highest",
        versions=config.versions,
        score=evaluation and evaluation.score,
        return_mean=evaluation and evaluation.return_mean,
        episodes=evaluation and evaluation.episodes,
    )
    return Policy(method, Acting(state, hyper, transform), about)


Value = TypeVar("Value", int, str)


def _chosen(folder: Path, name: str, value: Value | None, among: Sequence[Value]) -> Value:
    """The value asked for, or the only one there is."""
    known = ", ".join(map(repr, among))
    if value is None:
        if len(among) > 1:
            raise UserError(f"{folder} holds several runs; choose a {name}: {known}")
        return among[0]
    if value not in among:
        raise UserError(f"{folder} has no {name} {value!r}, only {known}")
    return value


def _chosen_step(
    folder: Path, run: RunId, step: int | str | None, kept: Sequence[int], evaluations: Mapping[int, Evaluation]
) -> int:
    """The updates of the main phase of the checkpoint that is meant."""
    if not kept:
        raise UserError(f"{folder} has no checkpoint of {run.label} with an evaluation yet")
    if isinstance(step, str) and step.isdecimal():
        step = int(step)
    if step is None or step == "last":
        return max(kept)
    if step == "best":
        scored = [one for one in kept if one in evaluations]
        if not scored:
            raise UserError(f"{folder} has no evaluation of {run.label} at a checkpoint that was kept")
        return max(scored, key=lambda one: evaluations[one].score)
    if step not in kept:
        raise UserError(f"{folder} keeps no checkpoint of step {step}, only of {', '.join(map(str, sorted(kept)))}")
    return int(step)


def _place(runs: Sequence[Run], run: RunId) -> tuple[int, int]:
    """The group of a run, and which of its trainings it is."""
    for index, group in enumerate(group_runs(runs)):
        for one, training in zip(group.runs, group.training, strict=True):
            if (one.seed, one.setting) == (run.seed, run.setting):
                return index, training
    raise AssertionError(run)


def _hyper(method: Method[Any, Any], values: Mapping[str, Any], where: str) -> Any:
    """Hyper-parameters as JSON holds them; those that an older version did not have are at their defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(method.hyper)}
    if unknown := values.keys() - fields.keys():
        raise UserError(f"{where}: {method.hyper.__module__} has no hyper-parameter {min(unknown)}; update diffjax")
    kinds: dict[str, Any] = {name: type(default) for name, default in fields.items()}
    # JSON has lists, and texts for floats that are not finite.
    typed = {name: kinds[name](value) if kinds[name] in (tuple, float) else value for name, value in values.items()}
    hyper = method.hyper(**typed)
    check_hyper(hyper)
    return hyper


def _state(
    method: Method[Any, Any], spec: Spec, hyper: Any, arrays: Mapping[str, Any], whole: bool, where: Path, made_by: str
) -> Any:
    """A state of these leaves; but where it is to be whole, those that are not among them are zeros.

    Raises:
      UserError: the method's state has other leaves.
    """
    shapes = jax.eval_shape(lambda: method.init(random_key(0), spec, hyper))
    leaves = _named(shapes)
    other = sorted(name for name, array in arrays.items() if name not in leaves or leaves[name].shape != array.shape)
    if other or (whole and (other := sorted(leaves.keys() - arrays.keys()))):
        raise UserError(
            f"{where}: the state of {method.hyper.__module__} is another there (see {other[0]}); read it with the "
            f"version of diffjax that made it, {made_by}"
        )
    nothing = lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)  # noqa: E731
    found = [arrays[name] if name in arrays else nothing(leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def _from_file(path: Path) -> Policy:
    try:
        content, arrays = read_arrays(path)
        transform = ObservationTransform(*(arrays.pop(f"observation/{name}") for name in ObservationTransform._fields))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is no policy's file, or is damaged ({first_line(error)}); save it again") from None
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format_version is {version!r}, this program reads {FORMAT_VERSION}; update diffjax")
    about = from_entries(About, content, str(path))
    method, _ = get_method(about.method, about.variant)
    hyper = _hyper(method, about.hyper, str(path))
    spec = Spec(about.observation_dim, about.action_dim)
    state = _state(method, spec, hyper, arrays, False, path, about.versions.get("diffjax", "another one"))
    return Policy(method, Acting(state, hyper, transform), about)
