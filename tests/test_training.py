"""The training program: sharded equals whole, resumed equals uninterrupted, one bad run does not stop the others."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_tools import random_hdf5
from method_tools import SPEC, largest_difference, tiny

from diffjax.data.transitions import Transitions
from diffjax.experiment import run as experiment
from diffjax.experiment import trainer
from diffjax.experiment.plan import Experiment, plan
from diffjax.launch.progress import TrainingProgress
from diffjax.methods.base import View
from diffjax.records.folder import ResultsFolder, read_config, read_evaluations, read_status
from diffjax.records.schema import RunStatus
from diffjax.studies.collect.store import store_dataset
from diffjax.tasks.registry import get_task
from diffjax.training import program as program_module
from diffjax.training.batches import prepare
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.evaluation import episode_keys, episode_seeds, evaluate, play, policy_of
from diffjax.training.memory import size_of
from diffjax.training.program import (
    NEVER,
    Program,
    RunSetup,
    mean_metrics,
    pieces,
    run_sharding,
    stack_runs,
)

ROWS = 200


def random_data(seed: int = 0) -> Transitions:
    rng = np.random.default_rng(seed)
    return Transitions(
        observation=rng.normal(size=(ROWS, SPEC.observation_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (ROWS, SPEC.action_dim)).astype(np.float32),
        reward=rng.normal(size=ROWS).astype(np.float32),
        terminal=rng.random(ROWS) < 0.1,
        end=np.arange(ROWS) == ROWS - 1,
        row=np.arange(ROWS - 1, dtype=np.int32),
    )


PART = prepare(random_data(), View(), reward=(2.0, -1.0), action_clip=1.0).part


def setup_of(hyper, seed: int) -> RunSetup:
    return RunSetup(jax.random.key(seed), PART, hyper)


def train(program, setup, steps, pieces=1):
    data = program.replicate(random_data())
    state = program.init(setup, data)
    bounds = np.linspace(0, steps, pieces + 1).astype(int)
    for first, last in itertools.pairwise(bounds):
        state, sums = program.advance(len(program.method.phases) - 1, state, int(first), int(last), setup, data)
    return state, sums


def test_pieces_do_not_matter():
    method, hyper = tiny("bc", "default")
    setup = stack_runs([setup_of(hyper, seed) for seed in range(2)])
    program = Program(method, SPEC, "uniform")
    whole, _ = train(program, setup, 12)
    cut, _ = train(program, setup, 12, pieces=5)
    assert largest_difference(whole, cut) == 0.0


def test_a_run_is_the_same_whatever_runs_beside_it():
    """One by one, as on a CPU, and side by side, as elsewhere; delayed updates among them."""
    method, hyper = tiny("td3_bc", "default")
    setups = [setup_of(dataclasses.replace(hyper, alpha=3.0), 1), setup_of(hyper, 4)]
    alone, sums = train(Program(method, SPEC, "shuffled"), stack_runs(setups[1:]), 10)
    for one_by_one in (True, False):
        program = Program(method, SPEC, "shuffled", one_by_one=one_by_one)
        beside, beside_sums = train(program, stack_runs(setups), 10)
        assert largest_difference(jax.tree.map(lambda x: x[1:], beside), alone) < 1e-5
        assert largest_difference(jax.tree.map(lambda x: x[1:], beside_sums), sums) < 1e-4


def test_runs_one_by_one_need_the_memory_of_one_beside_their_states():
    method, hyper = tiny("bc", "default")
    data = random_data()

    def temporaries(one_by_one, runs):
        setup = stack_runs([setup_of(hyper, seed) for seed in range(runs)])
        compiled = Program(method, SPEC, "uniform", one_by_one=one_by_one).compiled(0, runs, setup, data)
        found = compiled.memory_analysis()
        assert found.alias_size_in_bytes > 0.9 * size_of(Program(method, SPEC, "uniform").init(setup, data).method)
        return found.temp_size_in_bytes

    assert temporaries(True, 32) < 1.5 * temporaries(True, 2)
    assert temporaries(False, 32) > 8 * temporaries(False, 2)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_bad_run_is_found_and_the_others_go_on(one_by_one):
    method, hyper = tiny("td3_bc", "default")
    bad = dataclasses.replace(hyper, alpha=float("inf"))
    setup = stack_runs([setup_of(hyper, 0), setup_of(bad, 1), setup_of(hyper, 2)])
    program = Program(method, SPEC, "uniform", one_by_one=one_by_one)
    state, sums = train(program, setup, 6)
    assert np.asarray(state.first_bad_step).tolist() == [NEVER, 1, NEVER]  # the policy moves on every second step
    assert np.isfinite(mean_metrics(sums)["critic/loss"][[0, 2]]).all()
    alone, _ = train(program, stack_runs([setup_of(hyper, 2)]), 6)
    good = jax.tree.map(lambda x: x[2:], state.method)
    assert largest_difference(good, alone.method) < 1e-5
    keys = jax.random.split(jax.random.key(0), (3, 4))
    action = program.act(state.acting(setup.hyper), keys, 0, jnp.ones((3, 4, SPEC.observation_dim)))
    assert np.all(np.asarray(action[1]) == 0.0)
    assert np.all(np.asarray(action[0]) != 0.0)


def test_metrics_of_delayed_updates_are_means_over_those_that_took_place():
    method, hyper = tiny("td3_bc", "default")
    setup = stack_runs([setup_of(hyper, 0)])
    _, sums = train(Program(method, SPEC, "uniform"), setup, 7)
    assert float(sums["critic/loss"].weight[0]) == 7
    assert float(sums["actor/loss"].weight[0]) == 3
    means = mean_metrics(sums)
    assert means["actor/loss"][0] == pytest.approx(float(sums["actor/loss"].total[0]) / 3)


def test_the_compiled_program_holds_the_data_once():
    """Arguments and temporaries for four runs stay far below two copies of a large data set."""
    method, hyper = tiny("bc", "default")
    setup = stack_runs([setup_of(hyper, seed) for seed in range(4)])
    program = Program(method, SPEC, "uniform")
    rows = 200_000
    data = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), random_data())
    size = sum(x.nbytes for x in jax.tree.leaves(data))
    state = program.init(setup, data)
    lowered = program_module._advance.lower(program, 0, state, jnp.array([0, 2], jnp.int32), setup, data)
    memory = lowered.compile().memory_analysis()
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < 1.2 * size
    assert "f32[4,200000" not in lowered.compile().as_text()


def test_several_seeds_or_rates_compile_once():
    method, hyper = tiny("bc", "default")
    program = Program(method, SPEC, "uniform")
    before = program_module._advance._cache_size()
    for rate in (1e-3, 1e-4):
        setup = stack_runs([setup_of(dataclasses.replace(hyper, actor_lr=rate), seed) for seed in (5, 6)])
        train(program, setup, 3)
        train(program, setup, 9)
    assert program_module._advance._cache_size() <= before + 1


SHARDED = """
import sys
from pathlib import Path
from typing import Any
import jax
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_training import largest_difference, setup_of, tiny, train, SPEC
from diffjax.training import program as program_module
from diffjax.training.program import Program, run_sharding, stack_runs
DEVICES = jax.local_devices()
assert len(DEVICES) == 8

def on(count):
    jax.local_devices = lambda: DEVICES[:count]

for name, devices, runs, one_by_one in (("bc", 8, 9, True), ("bc", 3, 5, False)):
    on(devices)
    method, hyper = tiny(name, "default")
    setup = stack_runs([setup_of(hyper, seed) for seed in range(runs)])
    whole, whole_sums = train(Program(method, SPEC, "uniform"), setup, 50)
    program = Program(method, SPEC, "uniform", run_sharding(runs), one_by_one)
    assert program.sharding.mesh.size == devices
    split, sums = train(program, program.place(setup), 50)
    kernels = [leaf for leaf in jax.tree.leaves(split.method) if leaf.ndim > 1]
    assert all(len(leaf.sharding.device_set) == devices for leaf in kernels)
    assert all(leaf.shape[0] == -(-runs // devices) * devices for leaf in kernels)
    cut = lambda tree: jax.tree.map(lambda leaf: leaf[:runs], tree)
    assert largest_difference(whole, cut(split)) < 1e-5, name
    assert largest_difference(whole_sums, cut(sums)) < 1e-3, name
    keys = jax.random.split(jax.random.key(0), (runs, 2))
    observed = jax.numpy.ones((runs, 2, SPEC.observation_dim))
    alone = Program(method, SPEC, "uniform").act(whole.acting(setup.hyper), keys, 0, observed)
    hyper = program.place(setup).hyper
    together = program.act(split.acting(hyper), program.place(keys), 0, program.place(observed))
    assert largest_difference(alone, together[:runs]) < 1e-4
    text = program_module._act.lower(program, split.acting(hyper), program.place(keys), np.int32(0),
                                     program.place(observed)).compile().as_text()
    from test_training import random_data
    bounds = program.replicate(program_module.jnp.array([0, 2], "int32"))
    text += program_module._advance.lower(
        program, len(method.phases) - 1, split, bounds, program.place(setup), program.replicate(random_data())
    ).compile().as_text()
    words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    assert not [word for word in words if word in text], name

from test_training import experiment_on_data, scores
one, many = Path(sys.argv[2]) / "one", Path(sys.argv[2]) / "many"
for out, devices in ((one, 1), (many, 3)):
    on(devices)
    experiment_on_data(out, Path(sys.argv[2]), seeds=tuple(range(5)))
assert len(scores(one)) == 10
for key, score in scores(one).items():
    assert abs(score - scores(many)[key]) < 1e-2, (key, score)
"""


def experiment_on_data(out: Path, folder: Path, **changes: Any) -> ResultsFolder:
    """Cloning in five numbers, in seconds."""
    task = get_task("pendulum-mixed")
    data = random_hdf5(folder / "tiny.hdf5", task.observation_dim, task.action_dim)
    overrides = (("steps", "4"), ("eval_interval", "2"), ("episodes", "1"), ("hidden_dims", "4"))
    wanted = {"method": "bc", "task": task.id, "overrides": overrides, "dataset": str(data)} | changes
    return experiment.run_experiment(Experiment(out=out, preset="quick", **wanted), TrainingProgress(), store_dataset)


def scores(out: Path) -> dict[tuple[int, str, int], float]:
    return {(row.seed, row.setting, row.step): row.score for row in read_evaluations(out)}


def test_any_number_of_devices_equals_one(tmp_path):
    """9 runs on 8 devices, 5 on 3: all devices train, padding is not to be seen, nothing is sent around."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    }
    folder = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", SHARDED, str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder.parent,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_one_device_is_not_split_over(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    assert run_sharding(4) is None


def test_config_of_an_experiment_is_json():
    planned = plan(Experiment(method="dac", task="hopper-medium-v2", out=Path("x"), settings=("eta=0.5", "eta=1")))
    assert [run.setting for group in planned.groups for run in group.runs] == ["eta=0.5", "eta=1"]
    assert len(planned.groups) == 1
    static = plan(Experiment(method="dac", task="hopper-medium-v2", out=Path("x"), settings=("num_critics=2", "eta=1")))
    assert len(static.groups) == 2
    json.dumps(dataclasses.asdict(planned.protocol))


def test_status_keeps_its_order_and_what_is_finished(tmp_path, monkeypatch):
    task = get_task("pendulum-mixed")
    data = random_hdf5(tmp_path / "tiny.hdf5", task.observation_dim, task.action_dim)
    settings = ("actor_lr=1e-3;batch_size=4", "actor_lr=1e-3;batch_size=8", "actor_lr=1e-4;batch_size=4")
    overrides = (("steps", "4"), ("eval_interval", "2"), ("episodes", "1"), ("hidden_dims", "4"))
    wanted = Experiment(
        "bc", "pendulum-mixed", tmp_path / "out", preset="quick", settings=settings, overrides=overrides,
        dataset=str(data), resume=True,
    )  # fmt: skip
    calls = itertools.count(1)

    def interrupted(*args):
        if next(calls) == 4:  # the last interval of the second group
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run_experiment(wanted, TrainingProgress(), store_dataset)
    stopped = [
        RunStatus(read_config(wanted.out).run(0, setting), state)
        for setting, state in zip(settings, ("complete", "running", "complete"), strict=True)
    ]
    assert [one._replace(wall_time="") for one in read_status(wanted.out)] == stopped

    def unreadable(*args):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "restore", unreadable)
        with pytest.raises(RuntimeError):
            experiment.run_experiment(wanted, TrainingProgress(), store_dataset)
    assert [one._replace(wall_time="") for one in read_status(wanted.out)] == stopped
    experiment.run_experiment(wanted, TrainingProgress(), store_dataset)
    assert [run.status for run in read_status(wanted.out)] == ["complete"] * 3


def test_runs_that_only_act_differently_are_trained_once():
    settings = ("candidates=1", "candidates=5", "candidates=1;eta=2", "num_critics=2")
    planned = plan(Experiment(method="dac", task="hopper-medium-v2", out=Path("x"), settings=settings, seeds=(0, 1)))
    first, second = planned.groups
    assert [(run.setting, run.seed) for run in first.runs] == [(s, seed) for s in settings[:3] for seed in (0, 1)]
    assert first.training == (0, 1, 0, 1, 2, 3)
    assert [(run.setting, run.seed) for run in first.trained] == [(s, seed) for s in settings[0:3:2] for seed in (0, 1)]
    one, five = first.rounds
    assert (one.runs, five.runs) == ((0, 1, 4, 5), (2, 3))
    assert [(hyper.candidates, hyper.eta) for hyper in one.hyper] == [(1, 1.0), (1, 1.0), (1, 2.0), (1, 2.0)]
    assert [(hyper.candidates, hyper.eta) for hyper in five.hyper] == [(5, 1.0), (5, 1.0), (5, 2.0), (5, 2.0)]
    assert second.training == (0, 1)


@pytest.mark.parametrize(
    ("start", "stop", "count", "expected"),
    [
        (0, 10, 4, [(0, 2), (2, 5), (5, 8), (8, 10)]),
        (7, 10, 1, [(7, 10)]),
        (7, 10, 20, [(7, 8), (8, 9), (9, 10)]),
        (5, 5, 20, []),
    ],
)
def test_pieces_by_hand(start, stop, count, expected):
    assert pieces(start, stop, count) == expected


class Still:
    """A simulator in host memory, in which nothing moves."""

    num_envs, horizon, version = 4, 5, "still 1"
    observation_dim, action_dim = SPEC.observation_dim, SPEC.action_dim

    def reset(self, seeds):
        return np.ones((self.num_envs, self.observation_dim), np.float32)

    def step(self, action):
        assert isinstance(action, np.ndarray)
        never = np.zeros(self.num_envs, bool)
        return self.reset(action), np.ones(self.num_envs), never, never

    def close(self):
        pass


def test_a_step_of_an_evaluation_is_one_transfer_up_and_one_down(monkeypatch, capfd):
    method, hyper = tiny("bc", "default")
    program, setup = Program(method, SPEC, "uniform"), stack_runs([setup_of(hyper, seed) for seed in (0, 1)])
    acting = program.init(setup, random_data()).acting(setup.hyper)
    keys, asarray = episode_keys(setup.key, 0, 2), np.asarray
    down = []

    def counted(value, *arguments, **options):
        down.extend([value.shape] * isinstance(value, jax.Array))
        return asarray(value, *arguments, **options)

    steps = play(policy_of(keys, program, acting), Still(), episode_seeds(keys), np.ones(4, bool))
    next(steps)  # which compiles
    monkeypatch.setattr(np, "asarray", counted)
    with jax.transfer_guard("log_explicit"):
        capfd.readouterr()
        assert len(list(steps)) == Still.horizon - 1
    assert down == [(2, 2, SPEC.action_dim)] * (Still.horizon - 1)
    assert capfd.readouterr().err.count("host-to-device transfer") == Still.horizon - 1
