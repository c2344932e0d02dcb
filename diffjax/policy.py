"""A finished run as a policy: read from its folder or from a file, acting on one observation or many.

``load(folder)`` reads a run's checkpoint, ``policy.save(path)`` writes what acting needs into one file, and
``load(path)`` reads that. A policy sees observations as its run did, and acts by its paper's evaluation rule on any
device, whatever it was trained on.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from diffjax.data.observations import ActionTransform, ObservationTransform
from diffjax.errors import UserError, first_line
from diffjax.experiment.settings import acting_differently
from diffjax.experiment.stored import StoredRuns, hyper_of, named_leaves, state_of
from diffjax.files import check_parent, plain, read_arrays, writable, write_arrays
from diffjax.methods.base import Method, no_draws
from diffjax.methods.registry import get_method
from diffjax.numerics import matmul_precision, pinned, random_key
from diffjax.records.entries import from_entries, to_entries
from diffjax.records.folder import CONFIG
from diffjax.records.schema import Config, Evaluation, RunId
from diffjax.training.program import Acting
from diffjax.types import ActionBounds, Spec

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
    source: str = ""  # folder of the run
    score: float | None = None  # normalised, of the run's own evaluation at this step
    return_mean: float | None = None
    episodes: int | None = None
    action_low: tuple[float, ...] | None = None  # the actions that -1 and 1 stand for, where they were scaled
    action_high: tuple[float, ...] | None = None


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
        """Actions as the run's evaluations chose them: in ``[-1, 1]``, or in the data's units if it scaled them.

        Args:
          observation: one ``(observation_dim,)`` or a batch ``(batch, observation_dim)``, as the environment gives it.
          key: for policies that draw random numbers; row ``i`` of a batch draws from ``fold_in(key, i)``.

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
        with pinned(), matmul_precision(self.about.matmul_precision):
            action = np.asarray(act_compiled(key, self.method, self.spec, self.acting, np.atleast_2d(observed)))
        action = self.in_units(action)
        return action[0] if observed.ndim == 1 else action

    @property
    def action_bounds(self) -> ActionBounds | None:
        """The actions that the run calls -1 and 1, where it scaled them."""
        low, high = self.about.action_low, self.about.action_high
        return None if low is None or high is None else ActionBounds(low, high)

    def in_units(self, action: Any) -> Any:
        """Actions of the networks, in ``[-1, 1]``, as the environment takes them."""
        return action if self.action_bounds is None else self.action_bounds.in_units(action)

    def with_acting(self, **values: Any) -> "Policy":
        """The same networks under another way of acting: ``candidates=1``, say.

        Raises:
          UserError: training reads it too, it is unknown, or its value is out of range.
        """
        about, given = self.about, {name: str(value) for name, value in values.items()}
        hyper = acting_differently(about.method, about.variant, self.acting.hyper, given)
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
        arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(self.acting.state).items() if name in read}
        for part, transform in (("observation", self.acting.observation), ("action", self.acting.action)):
            parts = {} if transform is None else transform._asdict()
            arrays |= {f"{part}/{name}": np.asarray(leaf) for name, leaf in parts.items()}
        content = {"format_version": FORMAT_VERSION, **to_entries(self.about)}
        with writable(path):
            write_arrays(path, content, arrays)


def act_row(draws: Any, method: Method[Any, Any], spec: Spec, acting: Acting, observation: jax.Array) -> jax.Array:
    """One action ``(action_dim,)`` in ``[-1, 1]``, 0 where it would be no number.

    ``observation (observation_dim,)`` is as the environment gives it; ``draws`` are of the method's ``draw_action``.
    """
    action = acting.as_recorded(method.act(draws, spec, acting.state, acting.hyper, acting.observation(observation)))
    return jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)


def act_rows(key: jax.Array, method: Method[Any, Any], spec: Spec, acting: Acting, observation: jax.Array) -> jax.Array:
    """Actions ``(batch, action_dim)``; row ``i`` draws from ``fold_in(key, i)``."""

    def act(row: jax.Array, observation: jax.Array) -> jax.Array:
        draws = method.draw_action(jax.random.fold_in(key, row), spec, acting.hyper)
        return act_row(draws, method, spec, acting, observation)

    return jax.vmap(act)(jnp.arange(observation.shape[0], dtype=jnp.uint32), observation)


act_compiled = jax.jit(act_rows, static_argnums=(1, 2))
"""One program per method, sizes and static hyper-parameters; parameters are arguments."""


def _leaves_read(policy: Policy) -> set[str]:
    """The names of the state's leaves that acting reads: no moments of optimisers, no networks of training alone."""
    names = list(named_leaves(policy.acting.state))

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
    stored = StoredRuns(folder)
    config = stored.config
    run = config.run(_chosen(folder, "seed", seed, config.seeds), _chosen(folder, "setting", setting, config.settings))
    return policy_of(stored, run, step)


def policy_of(stored: StoredRuns, run: RunId, step: int | str | None = None) -> Policy:
    """The policy of one of several stored runs; ``step`` as in :func:`load`."""
    step = stored.chosen_step(run, step)
    acting, evaluation = stored.acting(run, step), stored.evaluations(run).get(step)
    config = dataclasses.replace(stored.config, env=stored.config.env or stored.task.env_id)
    about = about_run(config, run, step, acting.hyper, stored.spec, evaluation, str(stored.folder.absolute()))
    return Policy(stored.method, acting, about)


def about_run(
    config: Config, run: RunId, step: int, hyper: Any, spec: Spec, evaluation: Evaluation | None, source: str = ""
) -> About:
    """What is to be said of a run's policy at a step; ``source`` is its folder."""
    return About(
        method=config.method,
        variant=config.variant,
        preset=config.preset,
        task=config.task,
        env=config.env or "",
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
        source=source,
        score=evaluation and evaluation.score,
        return_mean=evaluation and evaluation.return_mean,
        episodes=evaluation and evaluation.episodes,
        action_low=config.dataset.action_low,
        action_high=config.dataset.action_high,
    )


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


def _from_file(path: Path) -> Policy:
    try:
        content, arrays = read_arrays(path)
        transform = ObservationTransform(*(arrays.pop(f"observation/{name}") for name in ObservationTransform._fields))
        own = {name: arrays.pop(f"action/{name}") for name in ActionTransform._fields if f"action/{name}" in arrays}
        action_transform = ActionTransform(**own) if own else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no policy's file, or is damaged ({first_line(error)}); save it again") from None
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format_version is {version!r}, this program reads {FORMAT_VERSION}; update diffjax")
    about = from_entries(About, content, str(path))
    method, _ = get_method(about.method, about.variant)
    hyper = hyper_of(method, about.hyper, str(path))
    spec = Spec(about.observation_dim, about.action_dim)
    state = state_of(method, spec, hyper, arrays, False, path, about.versions.get("diffjax", "another one"))
    return Policy(method, Acting(state, hyper, transform, action_transform), about)
