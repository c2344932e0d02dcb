"""The benchmarks as a user runs them, and the FLOP counter against counts made by hand."""

import csv
import json
import os
import queue
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from absl import flags
from launcher_tools import launch, refused

import diffjax
from diffjax.errors import UserError
from diffjax.experiment.settings import check_overrides, resolve
from diffjax.launch import benchmark
from diffjax.measure import acting, card, programs, training
from diffjax.measure.host_loop import HostLoop
from diffjax.methods.registry import METHODS, get_method
from diffjax.results import pictures
from diffjax.training.batches import gather_batch
from diffjax.training.flops import dot_bytes, dot_flops, period, update_flops
from diffjax.types import Spec

ROOT = Path(__file__).parents[1]
TINY = ("--set=hidden_dims=16,16,16", "--set=batch_size=8")
OPTIONS = ("jax_enable_compilation_cache", "jax_default_matmul_precision")


@pytest.fixture
def in_process() -> Iterator[None]:
    """What a benchmark sets for its process is as it was when it ran in the test's own."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def read(folder: Path, name: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.csv", f"{name}.json"]
    with open(folder / f"{name}.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return rows, json.loads((folder / f"{name}.json").read_text())


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    return x @ y


def flops(function: Any, *shapes: tuple[int, ...]) -> int:
    return dot_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_a_matrix_product_is_two_flops_per_multiplication() -> None:
    assert flops(matmul, (2, 3), (3, 5)) == 60
    assert flops(matmul, (3,), (3,)) == 6
    assert flops(lambda x, y: x + y, (2, 3), (2, 3)) == 0


def test_the_gradient_of_a_product_is_two_products() -> None:
    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(matmul(x, y) ** 2)

    assert flops(jax.grad(loss, argnums=(0, 1)), (2, 3), (3, 5)) == 3 * 60


def test_a_scan_counts_as_often_as_it_runs() -> None:
    def power(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (carry @ x, None), x, length=5)[0]

    assert flops(power, (4, 4)) == 5 * 128
    assert flops(lambda x: jax.lax.fori_loop(0, 7, lambda _, carry: carry @ x, x), (4, 4)) == 7 * 128


def test_mapped_jitted_and_rematerialised_products_count() -> None:
    assert flops(jax.vmap(matmul), (7, 2, 3), (7, 3, 5)) == 7 * 60
    assert flops(jax.vmap(matmul, in_axes=(0, None)), (7, 2, 3), (3, 5)) == 7 * 60
    assert flops(jax.jit(matmul), (2, 3), (3, 5)) == 60
    assert flops(jax.checkpoint(matmul), (2, 3), (3, 5)) == 60
    function = jax.custom_jvp(matmul)
    function.defjvp(lambda primals, tangents: (matmul(*primals), matmul(tangents[0], primals[1])))
    assert flops(function, (2, 3), (3, 5)) == 60


def test_a_branch_counts_where_it_is_taken() -> None:
    @jax.jit
    def delayed(step: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.cond(step % 3 == 0, lambda: x @ x @ x, lambda: x)

    def mixed(step: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > step, lambda: x @ x @ x, lambda: x @ x)

    step, x = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((4, 4), jnp.float32)
    program = jax.make_jaxpr(delayed)(step, x)
    assert [dot_flops(program, np.int32(number)) for number in range(7)] == [256, 0, 0, 256, 0, 0, 256]
    assert dot_flops(program) == 256
    assert dot_flops(jax.make_jaxpr(mixed)(step, x), np.int32(1)) == 256


def test_a_product_in_a_loop_of_unknown_length_is_refused() -> None:
    def grow(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 9.0, lambda y: y @ x, x)

    with pytest.raises(ValueError, match="unknown length"):
        flops(grow, (4, 4))
    assert flops(lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 9.0, lambda y: 2.0 * y, x), (4, 4)) == 0


def test_period() -> None:
    assert [period(values) for values in ([5], [5, 5, 5], [5, 3, 5, 3], [5, 3, 3, 5, 3], [1, 2, 3])] == [1, 1, 2, 3, 3]


def flops_of(name: str, **settings: str) -> list[int]:
    settings = {"hidden_dims": "16,16,16", "batch_size": "8"} | settings
    hyper = resolve(name, "halfcheetah-medium-v2", overrides=check_overrides(name, "", settings)).hyper
    return update_flops(get_method(name)[0], 0, Spec(17, 6), hyper, 6)


def test_flops_of_an_update() -> None:
    # Behaviour cloning, layers 17-16-16-16-6: forward and weight gradients 2 * 8 * (17*16 + 2*16*16 + 16*6) each,
    # gradients of the layers' inputs, but the first, 2 * 8 * (2*16*16 + 16*6).
    assert flops_of("bc") == [2 * 14_080 + 9_728] * 6


def test_flops_of_delayed_updates() -> None:
    full, short, *others = flops_of("diffcps", policy_interval="3")
    assert short < full
    assert others == [short, full, short, short]
    assert flops_of("diffcps", policy_interval="1") == [full] * 6


# GFLOP of the matrix products of one update at the published sizes, observation 17, action 6, batch 256.
AT_MOST = {"dac": 14.69, "dtql": 1.725, "diffcps": 1.694, "diffpogan": 5.064, "dql": 2.476, "iql": 0.573}


@pytest.mark.parametrize("name", AT_MOST)
def test_an_update_does_no_more_than_it_did(name: str) -> None:
    method = get_method(name)[0]
    hyper = resolve(name, "halfcheetah-medium-v2").hyper
    flops = update_flops(method, len(method.phases) - 1, Spec(17, 6), hyper, 6)
    assert 0.98 * AT_MOST[name] < 1e-9 * sum(flops) / 6 <= AT_MOST[name]  # where it does less, lower the bound


def chosen(*arguments: str, aspect: Any) -> list[str]:
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", *arguments])
    return [case.label for case in benchmark.chosen_cases(values, aspect)]


def test_every_method_is_measured_and_a_variant_where_it_differs() -> None:
    assert chosen(aspect=lambda case: None) == list(METHODS)
    acting = chosen(aspect=lambda case: (case.method.act, case.method.cost(case.hyper)))
    assert {"dtql:one_action"} <= set(acting) - set(METHODS)
    assert "diffpogan:paper" not in acting
    training = chosen(aspect=lambda case: case.method.phases)
    assert {"diffpogan:paper"} <= set(training) - set(METHODS)
    assert "dtql:one_action" not in training
    assert chosen("--methods=bc,diffpogan:paper", aspect=lambda case: None) == ["bc", "diffpogan:paper"]


def test_a_loop_on_the_host_computes_the_same_in_pieces() -> None:
    @jax.jit
    def cumulative(start: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            return carry * 0.5 + row, (carry, row)

        last, (before, seen) = jax.lax.scan(step, start, rows, reverse=True)
        return last, before - seen

    def function(x: jax.Array) -> dict[str, jax.Array]:
        last, seen = cumulative(jnp.sum(x), jnp.sin(x))
        _, doubled = jax.lax.scan(lambda carry, row: (carry, 2.0 * row), None, seen)
        return {"last": jnp.cos(last), "doubled": doubled, "unread": jnp.float32(3.0)}

    x = jnp.arange(4.0)
    loop = HostLoop(function, x)
    chex.assert_trees_all_close(loop(x), function(x), rtol=1e-6)
    # Before the loops, four iterations of each, what is made of their ends, and the rows that one of them left.
    assert loop.dispatches == 1 + 4 + 1 + 4 + 1 + 1
    straight = HostLoop(lambda x: 2.0 * x, x)
    assert straight.dispatches == 1
    np.testing.assert_array_equal(straight(x), 2.0 * x)


def small_case(name: str, **settings: str) -> benchmark.Case:
    values = flags.FlagValues()
    benchmark.define_flags(values)
    given = {"hidden_dims": "4", "batch_size": "4"} | settings
    values(["benchmark", f"--methods={name}", *(f"--set={key}={value}" for key, value in given.items())])
    (case,) = benchmark.chosen_cases(values, lambda case: None)
    return case


def test_a_chain_is_a_dispatch_for_each_of_its_steps() -> None:
    actor = acting.Actor(acting.fresh(small_case("diffusion_bc")), 1, 2048, as_published=True, is_started=False)
    assert actor.published is not None
    assert actor.published.dispatches == actor.cost.network_evaluations + 2
    np.testing.assert_allclose(actor.act_as_published(3), actor.act(3), rtol=1e-5, atol=1e-6)
    assert (actor.act(3) != actor.act(4)).any()


def test_what_products_move() -> None:
    shapes = jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32)
    assert dot_bytes(jax.make_jaxpr(matmul)(*shapes)) == 4 * (2 * 3 + 3 * 5 + 2 * 5)


def test_a_start_is_measured_cold_and_from_the_cache() -> None:
    hits: list[str] = []
    listen = lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None  # noqa: E731
    options = {name: value for name, value in jax.config.values.items() if "cache" in name}
    compiled = []

    def start() -> jax.Array:
        compiled.append(len(hits))
        return jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((3, 4)))

    jax.monitoring.register_event_listener(listen)
    try:
        result, starts = programs.started(start)
    finally:
        jax.monitoring.unregister_event_listener(listen)
    assert compiled == [0, 0]
    assert len(hits) > 0  # only the second call found its programs
    assert result.shape == (3, 3)
    assert starts.cold_s is not None
    assert starts.warm_s is not None
    assert {name: value for name, value in jax.config.values.items() if "cache" in name} == options


def test_a_grid_measures_every_value_of_those_that_have_it() -> None:
    grid = ("--grid=candidates=2,4", "--methods=bc,dtql")
    assert chosen(*grid, aspect=lambda case: None) == ["bc", "dtql candidates=2", "dtql candidates=4"]
    several = chosen("--methods=bc", "--task=hopper-medium-v2,pen-human-v1", aspect=lambda case: None)
    assert several == ["bc hopper-medium-v2", "bc pen-human-v1"]


@pytest.mark.usefixtures("in_process")
def test_inference_benchmark(tmp_path: Path) -> None:
    out, picture = tmp_path / "new" / "out", tmp_path / "latency.png"
    methods = ("--methods=bc,diffusion_bc", "--grid=diffusion_steps=2,3")
    asked = (*methods, *TINY, "--batch=1,6", "--rows=3", "--calls=20", "--seconds=60", f"--plot={picture}")
    result = launch("benchmarks/inference.py", f"--out={out}", *asked)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows, content = read(out, "inference")
    stated = [tuple(row[name] for name in ("label", "method", "setting", "batch", "slice")) for row in rows]
    assert stated == [
        ("bc", "bc", "", "1", "1"),
        ("bc", "bc", "", "6", "3"),
        ("diffusion_bc diffusion_steps=2", "diffusion_bc", "diffusion_steps=2", "1", "1"),
        ("diffusion_bc diffusion_steps=2", "diffusion_bc", "diffusion_steps=2", "6", "3"),
        ("diffusion_bc diffusion_steps=3", "diffusion_bc", "diffusion_steps=3", "1", "1"),
        ("diffusion_bc diffusion_steps=3", "diffusion_bc", "diffusion_steps=3", "6", "3"),
    ]
    assert [row["network_evaluations"] for row in rows] == ["1", "1", "2", "2", "3", "3"]
    # Two slices of a batch are two turns of a loop too.
    assert [int(row["published_dispatches"]) for row in rows[::2]] == [1, 2 + 2, 3 + 2]
    for row in rows:
        assert (row["observation_dim"], row["action_dim"], row["calls"]) == ("17", "6", "20")
        assert (row["parameters"], row["matmul_precision"], row["p99_ms"]) == ("fresh", "highest", "")
        assert 0 < float(row["p50_ms"]) <= float(row["p95_ms"])
        assert float(row["gain"]) == pytest.approx(float(row["published_ms"]) / float(row["p50_ms"]), rel=1e-3)
        for name in ("actions_per_s", "compile_s", "first_call_cold_s", "first_call_warm_s", "dot_mib", "xla_gflop"):
            assert float(row[name]) > 0
        assert (row["peak_source"], row["score"]) == ("compiler", "")
        assert row["selection"] in result.stdout
    # Layers 17-16-16-16-6 for each state.
    assert [float(row["gflop"]) for row in rows[:2]] == pytest.approx([1.76e-6, 6 * 1.76e-6], rel=1e-3)
    assert content["hyper"]["diffusion_bc diffusion_steps=2"]["hidden_dims"] == [16, 16, 16]
    assert {"jax", "device", "cpu_count", "diffjax"} <= content["machine"].keys()
    assert content["ceilings"]["copy_gb_per_s"] > 0
    assert content["notes"][0] in result.stdout

    before = (out / "inference.json").read_bytes()
    refused(launch("benchmarks/inference.py", f"--out={out}", *methods, *TINY), "exists already")
    assert (out / "inference.json").read_bytes() == before
    lines = card.card(out).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        "| method", "| bc", "| diffusion_bc diffusion_steps=2", "| diffusion_bc diffusion_steps=3"
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a method that acts by choice."""
    out = tmp_path_factory.mktemp("trained") / "ifql"
    settings = {"hidden_dims": 4, "batch_size": 4, "steps": 2, "eval_interval": 2, "episodes": 1}
    diffjax.train("ifql", "pendulum-mixed", preset="quick", seeds=2, out=out, progress=False, **settings)
    return out


@pytest.mark.usefixtures("in_process")
def test_trained_runs_are_timed_and_scored_in_the_same_setting(trained_runs: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out", tmp_path / "pareto.svg"
    result = launch(
        "benchmarks/inference.py", f"--out={out}", f"--runs={trained_runs}", "--grid=candidates=1,3", "--batch=1",
        "--episodes=2", "--calls=3", "--noas_published", f"--plot={picture}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows, _ = read(out, "inference")
    assert [(row["candidates"], row["parameters"], row["gain"]) for row in rows] == [
        ("1", str(trained_runs), ""), ("3", str(trained_runs), "")
    ]  # fmt: skip
    for row in rows:
        policies = [
            diffjax.load_policy(trained_runs, seed).with_acting(candidates=row["candidates"]) for seed in (0, 1)
        ]
        scores = [diffjax.evaluate(one, episodes=2, seed=seed).score for seed, one in enumerate(policies)]
        assert float(row["score"]) == pytest.approx(np.mean(scores), rel=1e-5)
        assert float(row["score_std"]) == pytest.approx(np.std(scores), rel=1e-4, abs=1e-6)
        assert (row["score_seeds"], row["score_episodes"]) == ("2", "2")
        assert f">ifql {row['setting']} pendulum-mixed<" in picture.read_text()

    refusals = {"--methods=bc": "--methods", "--set=discount=0.5": "candidates", "--seed=7": "7"}
    for flag, named in refusals.items():
        refused(launch("benchmarks/inference.py", f"--out={tmp_path / 'none'}", f"--runs={trained_runs}", flag), named)
    assert not (tmp_path / "none").exists()


def test_training_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(
        "training.py",
        f"--out={out}",
        "--methods=bc",
        *TINY,
        "--runs=1,2",
        "--rounds=2",
        "--seconds=0.01",
        "--transitions=50000",
        "--observation_dim=11",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert result.returncode == 0, result.stderr
    rows, content = read(out, "training")
    assert [(row["runs"], row["devices"], row["tasks"]) for row in rows] == [("1", "1", "1"), ("2", "2", "1")]
    # 50,001 rows of 11 + 6 + 1 floats and two flags, 50,000 row numbers.
    data_mib = (50_001 * (18 * 4 + 2) + 50_000 * 4) / 2**20
    flag = 50_001 / 2**20  # the ends of trajectories, which this method's program does not read and so does not hold
    for row in rows:
        assert (row["method"], row["variant"], row["phase"], row["rounds"]) == ("bc", "default", "main", "2")
        assert (row["observation_dim"], row["batch_size"]) == ("11", "8")
        assert float(row["data_mib"]) == pytest.approx(data_mib)
        assert float(row["arguments_mib"]) > data_mib - flag
        # Layers 11-16-16-16-6, counted as above.
        assert float(row["gflop_per_update"]) == pytest.approx((2 * 12_544 + 9_728) * 1e-9)
        for name in ("ms_per_update", "ratio", "updates_per_s", "ceiling_share", "copy_share", "compile_s", "peak_mib"):
            assert float(row[name]) > 0
        for name in ("first_update_cold_s", "first_update_warm_s", "published_ms"):
            assert float(row[name]) > 0
        gain = float(row["run_updates_per_s"]) * 1e-3 * float(row["published_ms"])
        assert float(row["gain"]) == pytest.approx(gain, rel=1e-3)
        assert (row["phase_updates"], row["matmul_precision"]) == ("1000000", "highest")
        each, together = float(row["updates_per_s"]), float(row["run_updates_per_s"])
        assert together == pytest.approx(int(row["runs"]) * each)
    assert rows[0]["ratio"] == "1.0"
    assert rows[0]["data_copies"] == ""
    assert float(rows[1]["data_copies"]) == pytest.approx(1.0 - flag / data_mib, abs=0.002)
    assert max(content["ceilings"]["matmul_gflop_per_s"].values()) > 0
    assert content["machine"]["devices"] == "2"
    assert "run-updates/s" in result.stdout


@pytest.mark.usefixtures("in_process")
def test_several_data_sets_and_programs_compiled_side_by_side(tmp_path: Path) -> None:
    out, picture = tmp_path / "out", tmp_path / "scaling.svg"
    result = launch(
        "benchmarks/training.py", f"--out={out}", "--methods=bc", *TINY, "--runs=2,3", "--tasks=2", "--rounds=1",
        "--seconds=0", "--transitions=50", "--compile_jobs=2", "--noas_published", f"--plot={picture}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows, content = read(out, "training")
    assert [(row["runs"], row["tasks"], row["gain"], row["compile_s"]) for row in rows] == [
        ("2", "2", "", ""), ("3", "2", "", "")
    ]  # fmt: skip
    assert content["measurements"][0]["first_update_cold_s"] is None
    # Two data sets of 51 rows and 50 row numbers.
    assert float(rows[0]["data_mib"]) == pytest.approx(2 * (51 * (24 * 4 + 2) + 50 * 4) / 2**20)
    assert "run-updates per second" in picture.read_text()


def test_runs_of_several_data_sets_each_have_their_own() -> None:
    case = small_case("bc")
    data = [training.synthetic_data(case.spec, 20, seed) for seed in range(2)]
    trainer = training.Trainer(case, 0, data, 3, copies=False, is_started=False)
    assert trainer.setup.data.offset.tolist() == [0, 20, 0]
    assert not np.array_equal(trainer.data.observation[:21], trainer.data.observation[21:])


def test_minibatches_of_numpy_are_those_of_the_program() -> None:
    case = small_case("rebrac")  # which reads the next action too
    data = [training.synthetic_data(case.spec, 20)]
    trainer = training.Trainer(case, 0, data, 1, copies=False, is_started=False)
    host = training.HostTrainer(trainer, case)
    positions = np.random.default_rng(0).integers(0, host.rows.size, 4)
    host.rng = np.random.default_rng(0)
    part = jax.tree.map(lambda leaf: leaf[0], trainer.setup.data)
    expected = gather_batch(trainer.data, part, positions, case.method.view.sized(case.hyper))
    chex.assert_trees_all_equal(host._batch(), jax.device_get(expected))


def test_what_there_is_no_time_for_is_named() -> None:
    with benchmark.Measuring(3, budget_s=0.0) as measuring:
        assert list(benchmark.compiled_ahead(str, {"one": 1, "two": 2}, 2, measuring)) == []
    assert measuring.skipped == ("not measured within 0 s: one; two",)
    with benchmark.Measuring(3) as measuring:
        made = list(benchmark.compiled_ahead(str, {"one": 1, "two": 2, "three": 3}, 2, measuring))
    assert (made, measuring.skipped) == ([("one", "1"), ("two", "2"), ("three", "3")], ())


class Measured(NamedTuple):
    """A row of a benchmark."""

    label: str
    seconds: float | None


def test_a_benchmark_goes_on_in_a_folder_of_this_machine_and_its_flags(tmp_path: Path) -> None:
    values = flags.FlagValues()
    benchmark.define_resume(values)
    values(["benchmark", "--resume"])
    rows, facts = [Measured("one", 0.25), Measured("two", None)], {"preset": "paper"}
    assert benchmark.kept(values, tmp_path, "times", Measured, facts) == []
    benchmark.write_results(tmp_path, "times", rows, (), (), facts)
    assert benchmark.kept(values, tmp_path, "times", Measured, facts) == rows
    with pytest.raises(UserError, match="measured with preset 'paper', not 'quick'"):
        benchmark.kept(values, tmp_path, "times", Measured, {"preset": "quick"})
    content = json.loads((tmp_path / "times.json").read_text())
    content["machine"]["processor"] = "another"
    (tmp_path / "times.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="measured with processor 'another'"):
        benchmark.kept(values, tmp_path, "times", Measured, facts)
    values.resume = False
    assert benchmark.kept(values, tmp_path, "times", Measured, facts) == []


def test_a_budget_of_nothing_measures_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("training.py", f"--out={out}", "--methods=bc", "--transitions=10", "--budget_s=0")
    assert (result.returncode, result.stdout) == (2, "")
    assert "not measured within 0 s: bc" in result.stderr.splitlines()[-1]


def test_the_picture_of_latencies_depends_on_nothing_but_them(tmp_path: Path) -> None:
    inference = runpy.run_path(str(ROOT / "benchmarks" / "inference.py"))
    rows = [
        acting.Latency(*["dac"] * len(acting.Latency._fields))._replace(batch=batch, p50_ms=2.5 * batch, p95_ms=4.0)
        for batch in (1, 64)
    ]
    for name in ("a.svg", "b.svg"):
        with pictures.style("plot"):
            pictures.write_figure(inference["latency_figure"](rows), tmp_path / name)
    content = (tmp_path / "a.svg").read_text()
    assert (tmp_path / "b.svg").read_text() == content
    assert {"dac", "batch 1", "batch 64", "2.50", "160"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", content))
    assert "<dc:date>" not in content


def replay(out: Path, against: Path, *arguments: str) -> list[dict[str, str]]:
    result = run("simulators.py", f"--out={out}", f"--against={against}", *arguments)
    assert result.returncode == 0, result.stderr
    rows, content = read(out, "simulators")
    assert content["against"] == str(against)
    assert all(row["simulator"] in result.stdout for row in rows)
    return rows


@pytest.mark.slow
def test_the_same_simulator_replays_to_the_bit_and_a_difference_is_found(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    result = run("simulators.py", f"--out={recorded}", "--simulators=Hopper-v4,d4rl/Maze2D-umaze", "--steps=30")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in recorded.iterdir()} == {"Hopper-v4.npz", "d4rl_Maze2D-umaze.npz"}
    rows = replay(tmp_path / "same", recorded)
    assert [row["simulator"] for row in rows] == ["Hopper-v4", "d4rl/Maze2D-umaze"]
    for row in rows:
        assert row["version"] == row["recorded_version"]
        assert row["version"].startswith(f"mujoco {mujoco.__version__}")
        assert int(row["steps"]) >= 30
        assert row["first_above_1e_12"] == ""
        differences = ("after_1", "after_10", "step_largest", "acceleration_largest", "other_constraints", "other_ends")
        assert [float(row[name]) for name in differences] == [0.0] * 6
        assert 0.0 < float(row["nudged_largest"]) < 1e-11
        assert row["recorded_return"] == row["mean_return"]
        assert row["sparse"] == "False"

    # As if an older version had gone another way from step 7 on, and ended step 29 elsewhere.
    maze = recorded / "d4rl_Maze2D-umaze.npz"
    with np.load(maze) as file:
        arrays = dict(file)
    arrays["version"] = np.array("mujoco 0")
    arrays["0/qpos"][7:] += 2e-5
    arrays["0/probe/state"][29] += 1e-4
    arrays["0/probe/solver"][3:5, 0] += 1
    np.savez(maze, **arrays)
    (row,) = replay(tmp_path / "other", recorded, "--simulators=d4rl/Maze2D-umaze")
    assert (row["recorded_version"], row["episodes"], row["steps"]) == ("mujoco 0", "1", "30")
    assert (row["first_above_1e_12"], row["first_above_1e_6"], row["first_above_1e_3"]) == ("7", "7", "")
    assert (float(row["after_1"]), row["after_100"]) == (0.0, "")
    assert float(row["after_10"]) == pytest.approx(2e-5, rel=0.6)  # relative to a position between 1 and 3
    assert float(row["step_largest"]) >= 3e-5
    assert row["other_constraints"] == "2"

    maze.write_bytes(maze.read_bytes()[:1000])
    damaged = run("simulators.py", f"--out={tmp_path / 'none'}", f"--against={recorded}")
    assert (damaged.returncode, damaged.stdout, len(damaged.stderr.splitlines())) == (2, "", 1)
    assert maze.name in damaged.stderr
    assert not (tmp_path / "none").exists()


def test_a_difference_is_relative_above_one() -> None:
    difference = runpy.run_path(str(ROOT / "benchmarks" / "simulators.py"))["difference"]
    one, other = np.array([[0.0, 4.0], [0.5, -2.0]]), np.array([[0.25, 2.0], [0.75, -2.0]])
    np.testing.assert_array_equal(difference(one, other), [0.5, 0.25])


@pytest.mark.parametrize(
    ("script", "flag", "named"),
    [
        ("inference.py", "--methods=dqcl", "dql"),
        ("inference.py", "--methods=dtql:two", "variant of dtql"),
        ("inference.py", "--task=hoper-medium-v2", "hopper-medium-v2"),
        ("inference.py", "--batch=1,two", "1,16,256,4096"),
        ("inference.py", "--batch=0", "1,16,256,4096"),
        ("inference.py", "--plot=latency.gif", ".png"),
        ("inference.py", "--plot=no/where.png", "no does not exist"),
        ("inference.py", "--grid=width=3,4", "width"),
        ("inference.py", "--seed=1", "--runs=DIR"),
        ("inference.py", "--runs=nowhere", "nowhere is not a folder"),
        ("training.py", "--set=width=3", "width"),
        ("training.py", "--tasks=2", "--runs"),
        ("accelerator.py", "--stages=devise", "device"),
        ("accelerator.py", "--precisions=bf16", "bfloat16"),
        ("accelerator.py", "--batch=0", "1,64,1024"),
        ("training.py", "--preset=huge", "paper"),
        ("training.py", "--runs=1,0", "1,4"),
        ("training.py", "--out=", "--out"),
        ("training.py", "stray", "stray"),
        ("simulators.py", "--simulators=Hoper-v4", "Hopper-v4"),
        ("simulators.py", "--against=nowhere", "--out=nowhere"),
        ("simulators.py", "--steps=0", "--steps"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(script: str, flag: str, named: str, tmp_path: Path) -> None:
    refused(launch(f"benchmarks/{script}", f"--out={tmp_path / 'out'}", flag), named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["accelerator.py", "inference.py", "simulators.py", "training.py"])
def test_help(script: str) -> None:
    result = launch(f"benchmarks/{script}", "--help")
    assert result.returncode == 0
    assert f"python benchmarks/{script} --out=" in result.stdout


@pytest.mark.usefixtures("in_process")
def test_accelerator_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "2026-01-01_cpu"
    result = launch(
        "benchmarks/accelerator.py", f"--out={out}", "--budget_s=100000", "--stages=training,inference,grid",
        "--methods=bc", *TINY, "--runs=1,2", "--batch=1,2", "--calls=3", "--seconds=0", "--transitions=50",
        "--compile_jobs=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    stages = ("device", "grid", "inference", "training")
    kept = sorted([f"{name}.{ending}" for name in stages for ending in ("csv", "json")] + [card.CARD])
    assert sorted(path.name for path in out.iterdir()) == kept
    assert result.stdout == (out / card.CARD).read_text() == card.card(out)
    assert "- training: preset paper, observation + action 17 + 6, minibatches of 8\n" in result.stdout
    contents = {name: json.loads((out / f"{name}.json").read_text()) for name in stages}
    assert all(content["measurements"] for content in contents.values())
    timed = contents["training"]["measurements"]
    assert [(row["runs"], row["first_update_cold_s"] is not None) for row in timed] == [(1, True), (2, False)]
    # Nine tasks and five seeds, of two sizes, at the pace of two runs.
    (grid,) = contents["grid"]["measurements"]
    assert grid["hours"] == pytest.approx(45 * 1_000_000 / timed[1]["run_updates_per_s"] / 3600)
    assert "x 5 seeds x 1,000,000 main updates" in grid["arithmetic"]
    lines = result.stderr.splitlines()
    assert all(re.match(r"\[\d+ of 100000 s\] ", line) for line in lines), lines
    assert any("training 1/1, about 0 s left: bc, highest" in line for line in lines)


def test_what_became_of_golden_tests_is_read_from_either_form_of_output() -> None:
    outcomes = runpy.run_path(str(ROOT / "benchmarks" / "accelerator.py"))["outcomes"]
    alone = (
        "tests/test_a.py::test_one[a b] PASSED   [ 50%]\ntests/test_a.py::test_two FAILED  [100%]\n1 failed, 1 passed"
    )
    several = "[gw0] [ 50%] PASSED tests/test_a.py::test_one[a b] \n[gw1] [100%] FAILED tests/test_a.py::test_two \n"
    assert outcomes(alone) == outcomes(several) == {"test_one[a b]": "PASSED", "test_two": "FAILED"}


def test_the_process_ends_with_the_budget() -> None:
    clock = runpy.run_path(str(ROOT / "benchmarks" / "accelerator.py"))["Clock"]
    ended: queue.Queue[int] = queue.Queue()
    clock._end.__globals__["leave"] = ended.put
    clock(0.0)
    assert ended.get(timeout=60) == 75
    stopped = clock(1000.0)
    stopped.stop()
    assert stopped._timer.finished.is_set()


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_accelerator_benchmark_trains(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = launch(
        "benchmarks/accelerator.py", f"--out={out}", "--budget_s=2000", "--stages=training,runs",
        "--methods=bc", "--run_methods=bc,iql", "--preset=quick", "--set=hidden_dims=4", "--runs=1,2", "--run_seeds=2",
        "--run_updates=4", "--transitions=50", "--seconds=0", "--episodes=1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    runs = json.loads((out / "runs.json").read_text())
    (row,) = runs["measurements"]
    assert (row["method"], row["task"], row["updates"], row["episodes"]) == ("bc", "pendulum-mixed", 4, 1)
    assert row["score"] is not None
    assert any(note.startswith("iql: ") for note in runs["notes"])
    assert "bc, pendulum-mixed: 2 seeds, 4 of" in result.stdout


@pytest.mark.slow
def test_a_file_of_golden_tests_is_run_in_a_process_of_its_own() -> None:
    golden = runpy.run_path(str(ROOT / "benchmarks" / "accelerator.py"))["_golden"]
    file, variables = ROOT / "tests" / "test_golden_fql.py", os.environ | {"PYTHONPATH": str(ROOT)}
    row = golden(file, variables, 3600.0)
    assert (row.file, row.failed, row.is_finished, row.failures) == (file.name, 0, True, "")
    assert row.passed > 0
    assert not golden(file, variables, 0.0).is_finished


KEPT = sorted(path.parent for path in (ROOT / "benchmarks" / "results").glob("*/table.md"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_card_is_made_of_its_measurements(folder: Path) -> None:
    assert (folder / card.CARD).read_text() == card.card(folder)


def test_a_folder_without_measurements_has_no_card(tmp_path: Path) -> None:
    refused(launch("benchmarks/card.py", f"--results={tmp_path}"), "inference.json")


@pytest.mark.slow
def test_sweep_benchmark(tmp_path: Path) -> None:
    """Two experiments of one size share a program together, and have one each alone."""
    done = run(
        "sweep.py", "--task=pendulum-mixed", "--methods=bc,bc:default", "--steps=4", "--eval_interval=2",
        "--episodes=1", "--set=hidden_dims=4", f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (together, apart), content = read(tmp_path / "out", "sweep")
    assert (together["way"], apart["way"]) == ("together", "one by one")
    assert (together["groups"], apart["groups"]) == ("1", "2")
    assert int(together["programs"]) < int(apart["programs"])
    assert together["run_updates"] == apart["run_updates"] == "8"
    for row in (together, apart):
        assert 0.0 < float(row["first_update_s"]) < float(row["total_s"])
        assert 0.0 < float(row["evaluation_share"]) < 1.0
    assert content["machine"]["jax"]
