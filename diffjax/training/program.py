"""The training program: one jitted loop over update steps, for every run, split over devices.

A run is one seed of one setting of one task. All arrays of a run's state and setup have the leading axis ``runs``; the
data are an argument, held once whatever the number of runs. Every random number is a function of (seed, phase, step):
no key is carried, so that a run may stop and go on anywhere.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffjax.data.observations import ActionTransform, ObservationTransform
from diffjax.data.sampling import POSITIONS
from diffjax.data.transitions import Transitions
from diffjax.losses import return_to_go
from diffjax.methods.base import Method, Metrics, labelling_phase
from diffjax.methods.checks import example_labels
from diffjax.training.batches import RunData, all_rows, gather_batch, whole_data
from diffjax.types import Batch, Spec

Tree = TypeVar("Tree")

NEVER = -1
INIT_STREAM, BATCH_STREAM, DRAW_STREAM, EVALUATION_STREAM, LABEL_STREAM, EPISODE_STREAM, REPLAY_STREAM = range(7)


class RunSetup(NamedTuple):
    """What tells one run from another; every leaf has the leading axis ``runs`` once stacked."""

    key: jax.Array
    data: RunData
    hyper: Any


class Acting(NamedTuple):
    """What the choice of an action reads: of one run, or of several with the leading axis ``runs``."""

    state: Any
    hyper: Any
    observation: ObservationTransform
    action: ActionTransform | None = None

    def as_recorded(self, action: jax.Array) -> jax.Array:
        """What a method's ``act`` returned, of one run, as the data have actions."""
        return action if self.action is None else self.action.undo(action)


class TrainState(NamedTuple):
    """State of all runs, leading axis ``runs``.

    ``method`` is what is learnt, ``observation`` and ``action`` how it sees them, ``labels`` what its phases have
    computed for every row of the data (phase -> tree of arrays ``(runs, rows, ...)``); ``first_bad_step (runs,)`` is
    the first step of the phase with a non-finite metric, or -1.
    """

    method: Any
    observation: ObservationTransform
    labels: dict[str, Any]
    first_bad_step: jax.Array
    action: ActionTransform | None = None

    def acting(self, hyper: Any) -> Acting:
        """The runs as they act under some hyper-parameters."""
        return Acting(self.method, hyper, self.observation, self.action)


def stack_runs(runs: Sequence[Tree]) -> Tree:
    """What stands for single runs (setups, or what acting reads) as one tree, leading axis ``runs``."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *runs)


def join_runs(parts: Sequence[Tree]) -> Tree:
    """Trees with the run axis in host memory, one after the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def run_sharding(num_runs: int) -> NamedSharding | None:
    """How to split the run axis over the local devices, of which there may be more than runs; None for one device."""
    devices = jax.local_devices()[:num_runs]
    if len(devices) == 1:
        return None
    mesh = jax.make_mesh((len(devices),), ("run",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec("run"))


def pieces(start: int, stop: int, count: int) -> list[tuple[int, int]]:
    """Steps ``start .. stop - 1`` cut into at most ``count`` even pieces, none empty, as (first, past the last).

    Between the calls of :meth:`Program.advance` progress is shown and Ctrl-C heard.
    """
    bounds = np.unique(np.linspace(start, stop, count + 1).round().astype(int)).tolist()
    return list(itertools.pairwise(bounds))


class Program(NamedTuple):
    """One method on tasks of one size, ready for any number of runs that share the static hyper-parameters.

    Split over devices, the run axis is as long as the next multiple of their number: what is placed is padded with
    copies of its last run, which train along and whose results nobody reads. A device trains its runs one by one, each
    through all steps of a call, or all of them side by side in every step; ``one_by_one`` None chooses by the platform.
    The results differ in rounding.
    """

    method: Method[Any, Any]
    spec: Spec
    sampling: str
    sharding: NamedSharding | None = None
    one_by_one: bool | None = None

    @property
    def takes_one_by_one(self) -> bool:
        """Whether a device trains its runs one by one: on CPUs, in whose caches the arrays of one run then stay."""
        return jax.default_backend() == "cpu" if self.one_by_one is None else self.one_by_one

    def place(self, tree: Any) -> Any:
        """Arrays with the run axis, padded and split over the devices."""
        if self.sharding is None:
            return tree
        devices = self.sharding.mesh.size

        def padded(leaf: Any) -> Any:
            missing = -leaf.shape[0] % devices
            joined = np.concatenate if isinstance(leaf, np.ndarray) else jnp.concatenate  # on the host if it is there
            return joined([leaf, *[leaf[-1:]] * missing]) if missing else leaf

        return jax.device_put(jax.tree.map(padded, tree), self.sharding)

    def from_host(self, tree: Any) -> Any:
        """Arrays of NumPy with the run axis as the program's own, which it may consume."""
        return self.place(jax.tree.map(jnp.array, tree))

    def replicate(self, tree: Any) -> Any:
        """Arrays that every device needs whole."""
        if self.sharding is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.device_put(tree, NamedSharding(self.sharding.mesh, PartitionSpec()))

    @property
    def devices(self) -> int:
        """How many compute."""
        return 1 if self.sharding is None else self.sharding.mesh.size

    def init(self, setup: RunSetup, data: Transitions) -> TrainState:
        """Fresh states of all runs."""
        return self.place(_init(self, data.reward.shape[0], setup))

    def state_shapes(self, runs: int, setup: RunSetup, data: Transitions) -> TrainState:
        """What the states of so many runs are made of, in shapes; of the setup only shapes are read."""
        found = _init.eval_shape(self, data.reward.shape[0], self._shapes(runs, setup))
        return self._shapes(runs, found)

    def compiled(self, phase: int, runs: int, setup: RunSetup, data: Transitions) -> jax.stages.Compiled:
        """What :meth:`advance` runs on so many runs, which finds it compiled then; of all arguments shapes are read."""
        whole = None if self.sharding is None else NamedSharding(self.sharding.mesh, PartitionSpec())
        held = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), data)
        state, own = self.state_shapes(runs, setup, data), self._shapes(runs, setup)
        bounds = jnp.zeros(2, jnp.int32)
        return _advance.lower(self, phase, state, bounds, own, held).compile()

    def _shapes(self, runs: int, tree: Any) -> Any:
        """What :meth:`place` makes of a tree for so many runs, in shapes."""
        padded = -(-runs // self.devices) * self.devices

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            weak = bool(getattr(leaf, "weak_type", False))
            return jax.ShapeDtypeStruct((padded, *leaf.shape[1:]), leaf.dtype, sharding=self.sharding, weak_type=weak)

        return jax.tree.map(shape, tree)

    def advance(
        self,
        phase: int,
        state: TrainState,
        start: int,
        stop: int,
        setup: RunSetup,
        data: Transitions,
    ) -> tuple[TrainState, Metrics]:
        """Steps ``start .. stop - 1`` of a phase, of all runs, also of those that met a non-finite number before.

        The old state is consumed. Metrics come as sums with weights, ``(runs,)`` each, also of padding. Where the phase
        makes labels, they are made anew before step 0 and before every step that its interval divides.
        """
        relabel = self.method.phases[phase].relabel
        if relabel is None:
            return _advance(self, phase, state, jnp.asarray([start, stop], jnp.int32), setup, data)
        interval = relabel.interval(setup.hyper) or stop  # of static fields, so a number
        sums: Metrics | None = None
        for first, last in itertools.pairwise(
            [start, *range(start - start % interval + interval, stop, interval), stop]
        ):
            if first % interval == 0:
                state = self._relabelled(phase, state, first, setup, data)
            state, piece = _advance(self, phase, state, jnp.asarray([first, last], jnp.int32), setup, data)
            sums = add_metrics(sums, piece)
        assert sums is not None
        return state, sums

    def _relabelled(self, phase: int, state: TrainState, step: int, setup: RunSetup, data: Transitions) -> TrainState:
        """The state with the labels of a phase made anew, from those that stand. The old ones are consumed."""
        name = self.method.phases[phase].name
        if step == 0:
            held = _current_labels(self, phase - 1, state.labels) if phase else None
            # The zeros of the fresh state make room first: labels may be as large as the data many times over.
            jax.tree.map(lambda leaf: leaf.delete(), state.labels[name])
            found = _first_labels(self, phase, held, state.method, jnp.int32(step), setup, data)
        else:
            found = _next_labels(self, phase, state.labels[name], state.method, jnp.int32(step), setup, data)
        return state._replace(labels=state.labels | {name: found})

    def act(self, acting: Acting, episode_key: jax.Array, time: int, observation: jax.Array) -> jax.Array:
        """Actions ``(runs, episodes, action_dim)`` for observations ``(runs, episodes, observation_dim)``.

        ``episode_key (runs, episodes)`` is folded with ``time``, the step within the episode. A run whose parameters
        are not finite acts with zeros.
        """
        return self.act_next(acting, episode_key, jnp.asarray(time, jnp.int32), observation)[0]

    def act_next(
        self, acting: Acting, episode_key: jax.Array, time: jax.Array, observation: Any
    ) -> tuple[jax.Array, jax.Array]:
        """:meth:`act`, and the next time, which stays on the devices; observations may come from host memory."""
        return _act(self, acting, episode_key, time, observation)


# Runs once: compiled without optimisation, which takes a quarter of the time.
@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0})
def _init(program: Program, rows: int, setup: RunSetup) -> TrainState:
    method, spec = program.method, program.spec

    def init_run(run: RunSetup) -> tuple[Any, dict[str, Any]]:
        labels = {
            phase.name: jax.tree.map(
                lambda x: jnp.zeros((rows, *x.shape), x.dtype), example_labels(method, number, spec, run.hyper)
            )
            for number, phase in enumerate(method.phases)
            if phase.relabel is not None
        }
        return method.init(jax.random.fold_in(run.key, INIT_STREAM), spec, run.hyper), labels

    # Types that would give way to others are made firm; an update does so, and would be compiled for both.
    state, labels = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), jax.vmap(init_run)(setup))
    observation, action = jax.tree.map(jnp.copy, (setup.data.observation, setup.data.action))
    return TrainState(state, observation, labels, jnp.full(setup.data.offset.shape, NEVER, jnp.int32), action)


def phase_key(key: jax.Array, stream: int, phase: int) -> jax.Array:
    """The key of a run for one use of random numbers in a phase."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), phase)


def _relabel(
    program: Program, phase: int, held: Any, method_state: Any, step: jax.Array, setup: RunSetup, data: Transitions
) -> Any:
    """The labels of a phase, given those that stand; one run at a time, which sees all rows of the data at once."""
    relabel = program.method.phases[phase].relabel
    assert relabel is not None
    rows = data.reward.shape[0]

    def labels_of_run(own: tuple[Any, RunSetup, Any]) -> Any:
        run_state, run, labels = own
        key = jax.random.fold_in(phase_key(run.key, LABEL_STREAM, phase), step)
        draws = relabel.draw(key, program.spec, run.hyper, rows)
        batch = whole_data(data, run.data, labels)
        return relabel.labels(draws, program.spec, run_state, run.hyper, batch, all_rows(data, run.data))

    return jax.lax.map(labels_of_run, (method_state, setup, held))


_first_labels = jax.jit(_relabel, static_argnums=(0, 1))
_next_labels = jax.jit(_relabel, static_argnums=(0, 1), donate_argnums=2)


def _current_labels(program: Program, phase: int, labels: dict[str, Any]) -> Any:
    """The labels that a phase's minibatches hold: those made last."""
    labelling = labelling_phase(program.method, phase)
    return None if labelling is None else labels[labelling.name]


def _update_run(
    program: Program,
    phase: int,
    data: Transitions,
    step: jax.Array,
    state: Any,
    run: RunSetup,
    returns: jax.Array | None,
    labels: Any,
) -> tuple[Any, Metrics]:
    """One update of one run from the data."""
    method, view = program.method, program.method.view.sized(run.hyper)
    positions, rows = POSITIONS[program.sampling], method.phases[phase].batch_size(run.hyper)
    batches = tuple(
        gather_batch(data, run.data, positions(key, step, rows, run.data.size), view, returns, labels)
        for key in jax.random.split(phase_key(run.key, BATCH_STREAM, phase), view.batches)
    )
    return update_run(program, phase, step, state, run, batches)


def update_run(
    program: Program, phase: int, step: jax.Array, state: Any, run: RunSetup, batches: tuple[Batch, ...]
) -> tuple[Any, Metrics]:
    """One update of one run from given minibatches; its draws depend on (seed, phase, step) alone."""
    key = jax.random.fold_in(phase_key(run.key, DRAW_STREAM, phase), step)
    draws = program.method.phases[phase].draw(key, program.spec, run.hyper)
    return program.method.phases[phase].update(draws, step, state, run.hyper, batches)


class _Moving(NamedTuple):
    """What updates change: of all runs, or of one."""

    method: Any
    first_bad_step: jax.Array


class _Held(NamedTuple):
    """What updates read of a run beside its data and leave as it is: of all runs, or of one."""

    setup: RunSetup
    labels: Any


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _advance(
    program: Program,
    phase: int,
    state: TrainState,
    bounds: jax.Array,
    setup: RunSetup,
    data: Transitions,
) -> tuple[TrainState, Metrics]:
    def advance_runs(moving: _Moving, held: _Held, bounds: jax.Array, data: Transitions) -> tuple[_Moving, Metrics]:
        advance_run = functools.partial(_advance_run, program, phase, bounds, data)
        over_runs = _one_by_one if program.takes_one_by_one else jax.vmap
        return over_runs(advance_run)(moving, held)

    moving = _Moving(state.method, state.first_bad_step)
    held = _Held(setup, _current_labels(program, phase, state.labels))
    if program.sharding is not None:  # every device by itself: a loop over a split axis would gather it
        own, whole = program.sharding.spec, PartitionSpec()
        advance_runs = jax.shard_map(
            advance_runs,
            mesh=program.sharding.mesh,
            in_specs=(own, own, whole, whole),
            out_specs=own,
            check_vma=False,
        )
    moving, sums = advance_runs(moving, held, bounds, data)
    return state._replace(**moving._asdict()), sums


def _one_by_one(advance_run: Callable[[Tree, Any], tuple[Tree, Any]]) -> Callable[[Tree, Any], tuple[Tree, Any]]:
    """``vmap(advance_run)`` as a loop over the leading axis; what moves stays in the memory that it has."""

    def advance_runs(moving: Tree, held: Any) -> tuple[Tree, Any]:
        def body(moving: Tree, inputs: tuple[jax.Array, Any]) -> tuple[Tree, Any]:
            run, own = inputs
            before = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, run, keepdims=False), moving)
            after, found = advance_run(before, own)
            put = lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, run, 0)  # noqa: E731
            return jax.tree.map(put, moving, after), found

        runs = jax.tree.leaves(moving)[0].shape[0]
        return jax.lax.scan(body, moving, (jnp.arange(runs), held))

    return advance_runs


def _advance_run(
    program: Program, phase: int, bounds: jax.Array, data: Transitions, moving: _Moving, held: _Held
) -> tuple[_Moving, Metrics]:
    """Steps of one run. The step is the same for all, so that under a map over runs delayed updates stay branches."""
    start, stop = bounds
    returns = None
    if program.method.view.return_to_go:
        reward = whole_data(data, held.setup.data).reward
        returns = return_to_go(reward, jnp.asarray(data.end), held.setup.hyper.discount)

    @jax.jit  # traced once for both of its uses below
    def update(step: jax.Array, state: Any) -> tuple[Any, Metrics]:
        return _update_run(program, phase, data, step, state, held.setup, returns, held.labels)

    def body(step: jax.Array, carry: tuple[_Moving, Metrics]) -> tuple[_Moving, Metrics]:
        before, sums = carry
        after, metrics = update(step, before.method)
        new_bad = (before.first_bad_step == NEVER) & ~finite_metrics(metrics)
        first_bad_step = jnp.where(new_bad, step, before.first_bad_step)
        return _Moving(after, first_bad_step), jax.tree.map(jnp.add, sums, metrics)

    _, shapes = jax.eval_shape(update, start, moving.method)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    after, sums = jax.lax.fori_loop(start, stop, body, (moving, zeros))
    new_bad = (after.first_bad_step == NEVER) & ~is_finite(after.method)
    return after._replace(first_bad_step=jnp.where(new_bad, stop - 1, after.first_bad_step)), sums


def finite_metrics(metrics: Metrics) -> jax.Array:
    """Whether all metrics of an update are finite."""
    return functools.reduce(jnp.logical_and, [jnp.isfinite(metric.total) for metric in metrics.values()])


def is_finite(tree: Any) -> jax.Array:
    """Whether all floats of a run are finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    largest = [jnp.max(jnp.abs(leaf)) for leaf in floats]  # NaN where there is one
    return jnp.isfinite(functools.reduce(jnp.maximum, largest))


@functools.partial(jax.jit, static_argnums=0)
def _act(
    program: Program, acting: Acting, episode_key: jax.Array, time: jax.Array, observation: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def act_episode(key: jax.Array, observed: jax.Array, run: Acting) -> jax.Array:
        key = jax.random.fold_in(key, time)
        seen = run.observation(observed)
        return run.as_recorded(program.method.sample_action(key, program.spec, run.state, run.hyper, seen))

    over_episodes = jax.vmap(act_episode, in_axes=(0, 0, None))
    action = jax.vmap(over_episodes)(episode_key, observation, acting)
    return jnp.where(jnp.isfinite(action), action, 0.0), time + 1


def mean_metrics(sums: Metrics) -> dict[str, np.ndarray]:
    """Means over the updates that took place, ``(runs,)`` per metric; NaN where none did."""
    means = {}
    for name, metric in jax.device_get(sums).items():
        with np.errstate(divide="ignore", invalid="ignore"):
            means[name] = np.asarray(metric.total) / np.asarray(metric.weight)
    return means


def add_metrics(first: Metrics | None, second: Metrics) -> Metrics:
    """Sums of two stretches of one phase."""
    return second if first is None else jax.tree.map(jnp.add, first, second)
