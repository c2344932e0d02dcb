"""Runs that go on online: the ring of transitions and the mixing by their properties, the updates, a launcher."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launcher_tools import launch, refused
from method_tools import SPEC, fresh_state, largest_difference, random_batch, tiny

from diffjax.data.sampling import offline_rows
from diffjax.data.transitions import Transitions
from diffjax.experiment import online as experiment
from diffjax.launch.progress import TrainingProgress
from diffjax.launch.stop import TRY_AGAIN
from diffjax.methods import registry
from diffjax.methods.base import View
from diffjax.policy import load
from diffjax.records.folder import read_config, read_evaluations, read_metrics, read_results, read_status
from diffjax.results.figures import panels
from diffjax.results.tables import build_table, table_labels
from diffjax.training.batches import RunData, prepare
from diffjax.training.checkpoints import StoredCheckpoints
from diffjax.training.online import (
    OnlineSetup,
    OnlineState,
    Played,
    append,
    empty_replay,
    held,
    keep_episodes,
    learn_online,
    mix,
    mixed_batches,
    owed,
    transitions_of,
    unfit,
)
from diffjax.training.program import NEVER, Program, RunSetup, stack_runs
from diffjax.types import Spec

QUICK = ("rebrac",)  # which reads next actions; the launcher takes another
CAPACITY, EPISODES, HORIZON = 12, 2, 5
ONE = Spec(observation_dim=1, action_dim=1)


def plain_part(**changes: Any) -> RunData:
    part = prepare(data_of_steps(), View()).part
    return part._replace(**{name: jnp.float32(value) for name, value in changes.items()})


def data_of_steps(rows: int = 50) -> Transitions:
    """One trajectory of negative numbers, so that a row of the data is told from one that was met."""
    return Transitions(
        observation=-1.0 - np.arange(rows, dtype=np.float32)[:, None],
        action=np.full((rows, 1), -0.5, np.float32),
        reward=-np.ones(rows, np.float32),
        terminal=np.zeros(rows, bool),
        end=np.arange(rows) == rows - 1,
        row=np.arange(rows - 1, dtype=np.int32),
    )


def numbered(first: int, lengths: list[int], terminal: list[bool]) -> Played:
    """Episodes whose observation says which step of all it is: ``1000 episode + time``, its action the time."""
    episode = first + np.arange(len(lengths))
    time = np.arange(HORIZON + 1)
    observation = (1000.0 * episode[:, None] + time).astype(np.float32)[..., None]
    action = np.broadcast_to(time[:HORIZON, None] / 10, (len(lengths), HORIZON, 1)).astype(np.float32)
    reward = observation[:, :-1, 0]
    return Played(observation, action, reward, np.array(lengths, np.int32), np.array(terminal))


@jax.jit
def add(replay: Any, played: Played) -> Any:
    return append(replay, *transitions_of(played, plain_part(), View()))


turn = st.tuples(
    st.lists(st.integers(0, HORIZON), min_size=EPISODES, max_size=EPISODES),
    st.lists(st.booleans(), min_size=EPISODES, max_size=EPISODES),
)


@given(st.lists(turn, min_size=1, max_size=6))
def test_the_ring_holds_the_newest_transitions_whole(turns):
    """The next observation is that of the step after in the same episode, whatever was overwritten."""
    replay, met = empty_replay(CAPACITY, ONE, View()), []
    for number, (lengths, terminal) in enumerate(turns):
        replay = add(replay, numbered(EPISODES * number, lengths, terminal))
        for place, (length, ends) in enumerate(zip(lengths, terminal, strict=True)):
            base = 1000.0 * (EPISODES * number + place)
            met += [(base + time, base + time + 1, 1.0 - (ends and time == length - 1)) for time in range(length)]
    assert int(replay.added) == len(met)
    size = int(held(replay))
    assert size == min(len(met), CAPACITY)
    rows = jax.device_get(replay.rows)
    order = [number % CAPACITY for number in range(len(met) - size, len(met))]
    found = [(rows.observation[at, 0], rows.next_observation[at, 0], rows.not_done[at]) for at in order]
    assert found == met[len(met) - size :]
    np.testing.assert_array_equal(rows.reward[order], rows.observation[order, 0])


@given(turn)
def test_a_next_action_is_of_the_same_episode(turn):
    """The last step before a time limit has none, and is left out; that of a terminal does not count."""
    lengths, terminal = turn
    view = View(next_action=True)
    rows, kept = jax.device_get(transitions_of(numbered(0, lengths, terminal), plain_part(), view))
    wanted = [
        time < length - (not ends) for length, ends in zip(lengths, terminal, strict=True) for time in range(HORIZON)
    ]
    assert kept.tolist() == wanted
    counts = kept & (rows.not_done == 1)
    np.testing.assert_allclose(rows.next_action[counts], rows.action[counts] + 0.1, atol=1e-6)


def test_what_was_met_is_seen_as_the_data_are():
    part = plain_part(reward_scale=2.0, reward_shift=-1.0, action_clip=0.25)
    part = part._replace(observation=part.observation._replace(center=jnp.ones(1), scale=2 * jnp.ones(1)))
    rows, _ = jax.device_get(transitions_of(numbered(0, [5, 3], [False, True]), part, View()))
    np.testing.assert_allclose(rows.observation[:5, 0], (np.arange(5) - 1) / 2)
    np.testing.assert_allclose(rows.next_observation[:5, 0], np.arange(5) / 2)
    np.testing.assert_allclose(rows.reward[:5], 2 * np.arange(5) - 1)
    np.testing.assert_allclose(rows.action[:5, 0], [0, 0.1, 0.2, 0.25, 0.25], atol=1e-6)


@given(st.floats(0, 1), st.integers(1, 256))
def test_the_share_of_the_data_is_met_to_the_nearest_row(fraction, size):
    assert abs(int(offline_rows(fraction, size)) - fraction * size) <= 0.5 + 1e-4


@given(st.integers(0, 8))
def test_mixing_takes_every_field_from_one_or_the_other(first):
    offline, online = (random_batch(jax.random.key(seed), 8, view=View(next_action=True)) for seed in (0, 1))
    for mixed, one, other in zip(*(jax.tree.leaves(batch) for batch in (mix(first, offline, online), offline, online)),
                                 strict=True):  # fmt: skip
        np.testing.assert_array_equal(mixed, np.concatenate([one[:first], other[first:]]))


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_minibatches_are_the_data_and_what_the_run_met(fraction):
    method, hyper = tiny("bc", "default")
    program = Program(method, ONE, "uniform")
    run = RunSetup(jax.random.key(0), prepare(data_of_steps(), View()).part, hyper)
    replay = add(empty_replay(CAPACITY, ONE, View()), numbered(1, [4, 0], [True, False]))
    data = jax.tree.map(jnp.asarray, data_of_steps())
    find = jax.jit(lambda step: mixed_batches(program, step, replay, jnp.float32(fraction), run, data)[0])
    seen = []
    for step in range(20):
        batch = jax.device_get(find(step))
        is_data = batch.observation[:, 0] < 0
        assert is_data.tolist() == [place < fraction * 8 for place in range(8)]
        assert np.all(np.abs(batch.next_observation - batch.observation) == 1)
        seen.append(batch.observation[:, 0].tolist())
    met = {value for value in itertools.chain(*seen) if value > 0}
    assert met == (set() if fraction == 1 else {1000, 1001, 1002, 1003})
    assert len(set(map(tuple, seen))) == 20


def tuned(name: str, due: list[int], variant: str = "default") -> tuple[OnlineState, Any]:
    """Runs with room for what they meet, after so many updates each."""
    method, hyper = tiny(name, variant)
    program, runs = Program(method, SPEC, "uniform"), len(due)
    rng = np.random.default_rng(0)
    rows = 40
    data = Transitions(
        observation=rng.normal(size=(rows, SPEC.observation_dim)).astype(np.float32),
        action=rng.uniform(-1, 1, (rows, SPEC.action_dim)).astype(np.float32),
        reward=rng.normal(size=rows).astype(np.float32),
        terminal=np.zeros(rows, bool),
        end=np.arange(rows) == rows - 1,
        row=np.arange(rows - 2, dtype=np.int32),
    )
    part = prepare(data, method.view).part
    setup = stack_runs(
        [OnlineSetup(RunSetup(jax.random.key(seed), part, hyper), jnp.int32(3), hyper) for seed in range(runs)]
    )
    fresh = OnlineState(
        fresh_state(method, hyper),
        part.observation,
        empty_replay(64, SPEC, method.view),
        jnp.int32(3),
        jnp.int32(0),
        jnp.int32(NEVER),
    )
    played = Played(
        rng.normal(size=(1, 9, SPEC.observation_dim)).astype(np.float32),
        rng.uniform(-1, 1, (1, 8, SPEC.action_dim)).astype(np.float32),
        rng.normal(size=(1, 8)).astype(np.float32),
        np.array([8], np.int32),
        np.array([False]),
    )
    state = keep_episodes(program, stack_runs([fresh] * runs), setup, stack_runs([played] * runs))
    return learn_online(program, state, jnp.asarray(due), jnp.float32(0.5), setup, jax.tree.map(jnp.asarray, data))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in registry.METHODS]
)
def test_every_method_that_learns_from_transitions_goes_on(name, optimised):
    """Compiled as users do: without optimisations XLA's CPU compiler makes ReBRAC's gradient NaN, also offline."""
    variant = next(iter(registry.METHODS[name]))
    method, _ = tiny(name, variant)
    if unfit(method):
        assert method.view.horizon > 1 or method.view.return_to_go or any(one.relabel for one in method.phases)
        return
    state, sums = tuned(name, [4], variant)
    assert np.asarray(state.updates).tolist() == [7]
    assert np.asarray(state.taken).tolist() == [8]
    assert np.asarray(state.first_bad_step).tolist() == [NEVER]
    weights = {float(metric.weight[0]) for metric in sums.values()}
    assert max(weights) == 4
    assert min(weights) >= 0


def test_a_run_is_the_same_whatever_runs_beside_it():
    """Also where others make more updates; ``td3_bc`` moves its policy on every second step of its own."""
    alone, alone_sums = tuned("td3_bc", [5])
    beside, sums = tuned("td3_bc", [5, 2])
    first = lambda tree: jax.tree.map(lambda leaf: leaf[:1], tree)  # noqa: E731
    assert largest_difference(first(beside.method), alone.method) < 1e-6
    assert np.asarray(beside.updates).tolist() == [8, 5]
    assert [float(value) for value in sums["critic/loss"].weight] == [5, 2]
    assert [float(value) for value in sums["actor/loss"].weight] == [float(alone_sums["actor/loss"].weight[0]), 1]


def test_updates_follow_the_steps_taken():
    state = OnlineState(None, None, None, np.array([10, 14]), np.array([7, 7]), None)
    setup = OnlineSetup(None, np.array([10, 10]), None)
    assert owed(state, setup, 0.5).tolist() == [3, -1]
    assert owed(state, setup, 20).tolist() == [140, 136]


STEPS = ("--steps=500", "--eval_interval=200", "--capacity=450", "--updates_per_step=0.1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small DTQL on the pendulum."""
    folder = tmp_path_factory.mktemp("online")
    run = launch(
        "experiments/train.py",
        *("--method=dtql", "--task=pendulum-mixed", "--preset=quick", "--num_seeds=2", "--steps=6"),
        *("--eval_interval=3", "--episodes=2", "--keep=all", "--set=hidden_dims=8,8", "--set=batch_size=8"),
        *("--set=candidates=2", "--set=pretrain_steps=2", f"--out={folder / 'trained'}"),
    )
    assert run.returncode == 0, run.stderr
    return folder / "trained"


@pytest.fixture(scope="module")
def small_pieces() -> Iterator[None]:
    """Updates can be interrupted though a turn asks for 20 alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "PIECE", 7)
        yield


@pytest.fixture(scope="module")
def online(trained: Path, small_pieces: None) -> Iterator[Path]:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    run = finetune(trained, "online")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"results in {trained.parent / 'online'}\n"
    assert "online: step 400: score" in run.stderr
    yield trained.parent / "online"
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def finetune(trained: Path, name: str, *more: str) -> Any:
    return launch("experiments/finetune.py", f"--runs={trained}", f"--out={trained.parent / name}", *STEPS, *more)


def numbers(folder: Path) -> tuple[list[Any], list[Any]]:
    """All that is written but the time."""
    rows = [row._replace(wall_time="") for row in read_evaluations(folder)]
    return rows, [(one.step, dict(one.metrics)) for one in read_metrics(folder)]


def test_what_is_written(trained, online):
    rows, metrics = numbers(online)
    assert [(row.step, row.seed, row.episodes) for row in rows] == [
        (step, seed, 2) for step in (0, 200, 400, 500) for seed in (0, 1)
    ]
    assert [step for step, _ in metrics] == [200, 400, 500]
    config = read_config(online)
    assert (config.online.source, config.online.capacity, config.steps) == (str(trained), 450, 500)
    assert config.hyper[""] == read_config(trained).hyper[""] | {"lr_decay_steps": 0.0}
    assert {one.status for one in read_status(online)} == {"complete"}
    record = {}
    with StoredCheckpoints(online / "checkpoints" / "0") as stored:
        for number in stored.numbers():
            record = stored.parts(number, ("updates", "taken", "replay"))
    assert record["taken"].tolist() == [600, 600]  # whole episodes of 200
    assert record["updates"].tolist() == [66, 66]
    assert record["replay"]["added"].tolist() == [600, 600]
    assert record["replay"]["rows"]["reward"].shape == (2, 450)


def test_it_begins_with_what_was_trained_and_moves_on(trained, online, tmp_path):
    """Stopped after the evaluation before the first step: the whole state is the training's, optimisers too."""
    run = finetune(trained, "begun", "--max_hours=0")
    assert run.returncode == TRY_AGAIN, run.stderr
    begun = trained.parent / "begun"
    assert [row.step for row in read_evaluations(begun)] == [0, 0]
    parts = []
    for folder in (trained, begun, online):
        with StoredCheckpoints(folder / "checkpoints" / "0") as stored:
            parts.append(stored.parts(stored.numbers()[-1], ("method",)))
    assert largest_difference(parts[0], parts[1]) == 0.0
    assert largest_difference(parts[0], parts[2]) > 0.0
    observation = np.zeros(3, np.float32)
    actions = [load(folder, seed=1).act(observation, jax.random.key(0)) for folder in (trained, begun)]
    np.testing.assert_array_equal(*actions)


def test_twice_gives_the_same_numbers_also_where_it_was_interrupted(trained, online, monkeypatch):
    looks = itertools.count(1)
    with monkeypatch.context() as patch:  # in the middle of the updates between two evaluations
        patch.setattr(TrainingProgress, "stop_status", lambda self: TRY_AGAIN if next(looks) > 6 else None)
        run = finetune(trained, "again")
    assert run.returncode == TRY_AGAIN, run.stderr
    assert "the same command with --resume goes on" in run.stderr
    out = trained.parent / "again"
    assert len(read_evaluations(out)) < 8
    assert {one.state for one in read_status(out)} == {"running"}
    run = finetune(trained, "again", "--resume")
    assert run.returncode == 0, run.stderr
    assert numbers(out) == numbers(online)


def test_tables_and_figures_show_it_beside_the_training(trained, online):
    table = build_table([read_results(trained), read_results(online)])
    label = "dtql (online, offline fraction 0.5, updates per step 0.1)"
    assert list(table_labels(table).values()) == ["dtql", label]
    (panel,) = panels(table)
    assert [line.curve.steps for line in panel.lines] == [(3, 6), (0, 200, 400, 500)]
    text = launch("experiments/tables.py", f"--runs={trained},{online}").stdout
    assert f"500 steps of the environment after the training in {trained}, evaluated" in text


def test_it_is_evaluated_again_and_exported_as_any_run(online):
    out = online.parent / "judged"
    run = launch("experiments/evaluate.py", f"--run={online}", f"--out={out}")
    assert run.returncode == 0, run.stderr
    last = [row for row in numbers(online)[0] if row.step == 500]
    assert [row._replace(wall_time="") for row in read_evaluations(out)] == last


def test_settings_noise_and_explored_values_are_recorded(trained):
    run = finetune(
        trained, "other", "--offline_fraction=0", "--noise=0.1", "--explore=candidates=1", "--set=alpha=2",
        "--seed=1", "--step=3",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    config = read_config(trained.parent / "other")
    assert (config.seeds, config.settings, config.hyper["alpha=2"]["alpha"]) == ((1,), ("alpha=2",), 2.0)
    words = "online, offline fraction 0, updates per step 0.1, candidates 1, noise 0.1, from 3"
    assert config.evaluated == words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set=alfa=1"], ["unknown hyper-parameter of dtql", "did you mean alpha"]),
        (["--set=hidden_dims=4,4"], ["--set hidden_dims=4,4", "other arrays"]),
        (["--set=alpha=two"], ["alpha=two is not"]),
        (["--explore=alpha=1"], ["that only acting reads", "'alpha'"]),
        (["--capacity=100"], ["--capacity=100 does not hold", "200 steps"]),
        (["--offline_fraction=2"], ["--offline_fraction=2"]),
        (["--step=4"], ["keeps no checkpoint of step 4, only of 3, 6"]),
        (["--step=newest"], ["--step=newest is not last, best or a number"]),
        (["--seed=7"], ["has no seed 7, only 0, 1"]),
        (["--runs=nowhere"], ["nowhere is not a folder"]),
        (["--dataset=nowhere.npz"], ["nowhere.npz"]),
        (["--unknown"], ["unknown flag --unknown"]),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(trained, flags, words):
    refused(finetune(trained, "wrong", *flags), *words)
    assert not (trained.parent / "wrong").exists()


def test_folders_that_cannot_go_on(trained, online, tmp_path):
    refused(finetune(trained, "online"), "already holds this experiment", "--resume")
    refused(finetune(trained, "online", "--noise=0.3"), "holds another experiment (online.noise")
    refused(finetune(online, "further"), "went on online already", str(trained))
    (tmp_path / "other").mkdir()
    for file in ("config.json", "status.json", "evaluations.csv", "metrics.jsonl"):
        (tmp_path / "other" / file).write_bytes((trained / file).read_bytes())
    content = json.loads((trained / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(content | {"episodes": 0}))
    refused(finetune(tmp_path / "other", "x"), "was trained without a simulator")
    content["dataset"]["fingerprint"] = "0123456789abcdef"
    (tmp_path / "other" / "config.json").write_text(json.dumps(content))
    refused(finetune(tmp_path / "other", "x"), "holds other data", "0123456789abcdef")


@pytest.mark.parametrize("view", [View(horizon=3), View(return_to_go=True)])
def test_methods_that_need_more_than_transitions(trained, view, monkeypatch):
    variants = registry.METHODS["dtql"]
    changed = {name: method._replace(view=view) for name, method in variants.items()}
    monkeypatch.setitem(registry.METHODS, "dtql", changed)
    refused(finetune(trained, "windows"), "only what learns from single transitions can go on online")
    assert dataclasses.is_dataclass(read_config(trained))
