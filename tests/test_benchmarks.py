"""The benchmarks as a user runs them, and the FLOP counter against counts made by hand."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from absl import flags
from launcher_tools import launch, refused

from diffjax.experiment.settings import check_overrides, resolve
from diffjax.launch import benchmark
from diffjax.methods.registry import METHODS, get_method
from diffjax.results import pictures
from diffjax.training.flops import dot_flops, period, update_flops
from diffjax.types import Spec

ROOT = Path(__file__).parents[1]
TINY = ("--set=hidden_dims=16,16", "--set=batch_size=8")


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
    settings = {"hidden_dims": "16,16", "batch_size": "8"} | settings
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


def test_inference_benchmark(tmp_path: Path) -> None:
    out, picture = tmp_path / "new" / "out", tmp_path / "latency.png"
    methods = "--methods=bc,diffusion_bc,dtql"
    asked = (methods, *TINY, "--batch=1,6", "--rows=2048", "--calls=20", "--seconds=60", f"--plot={picture}")
    result = run("inference.py", f"--out={out}", *asked)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows, content = read(out, "inference")
    stated = [tuple(row[name] for name in ("method", "variant", "batch", "candidates", "slice")) for row in rows]
    assert stated == [
        ("bc", "default", "1", "1", "1"),
        ("bc", "default", "6", "1", "6"),
        ("diffusion_bc", "default", "1", "1", "1"),
        ("diffusion_bc", "default", "6", "1", "6"),
        ("dtql", "default", "1", "1024", "1"),
        ("dtql", "default", "6", "1024", "2"),
    ]
    assert [row["network_evaluations"] for row in rows] == ["1", "1", "5", "5", "1", "1"]
    for row in rows:
        assert (row["observation_dim"], row["action_dim"], row["calls"]) == ("17", "6", "20")
        assert 0 < float(row["p50_ms"]) <= float(row["p95_ms"])
        assert float(row["actions_per_s"]) > 0
        assert float(row["compile_s"]) > 0
        assert row["selection"] in result.stdout
    assert content["hyper"]["dtql"]["hidden_dims"] == [16, 16]
    assert {"jax", "device", "cpu_count", "diffjax"} <= content["machine"].keys()
    assert [str(each["p50_ms"]) for each in content["measurements"]] == [row["p50_ms"] for row in rows]
    assert content["notes"][0] in result.stdout

    before = (out / "inference.json").read_bytes()
    again = run("inference.py", f"--out={out}", methods, *TINY)
    assert (again.returncode, again.stdout, len(again.stderr.splitlines())) == (2, "", 1)
    assert (out / "inference.json").read_bytes() == before


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
    assert [(row["runs"], row["devices"]) for row in rows] == [("1", "1"), ("2", "2")]
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
        for name in ("ms_per_update", "ratio", "updates_per_s", "ceiling_share", "compile_s"):
            assert float(row[name]) > 0
        each, together = float(row["updates_per_s"]), float(row["run_updates_per_s"])
        assert together == pytest.approx(int(row["runs"]) * each)
    assert rows[0]["ratio"] == "1.0"
    assert rows[0]["data_copies"] == ""
    assert float(rows[1]["data_copies"]) == pytest.approx(1.0 - flag / data_mib, abs=0.002)
    assert max(content["matmul_gflop_per_s"].values()) > 0
    assert content["machine"]["devices"] == "2"
    assert "run-updates/s" in result.stdout


def test_programs_compiled_side_by_side_have_no_time_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("--methods=bc,iql", "--set=hidden_dims=16", "--set=batch_size=8", "--batch=1", "--calls=3")
    result = run("inference.py", f"--out={out}", *asked, "--compile_jobs=2")
    assert result.returncode == 0, result.stderr
    rows, content = read(out, "inference")
    assert [(row["method"], row["compile_s"]) for row in rows] == [("bc", ""), ("iql", "")]
    assert [each["compile_s"] for each in content["measurements"]] == [None, None]


def test_what_there_is_no_time_for_is_named() -> None:
    with benchmark.Measuring(3, budget_s=0.0) as measuring:
        assert list(benchmark.compiled_ahead(str, {"one": 1, "two": 2}, 2, measuring)) == []
    assert measuring.skipped == ("not measured within 0 s: one; two",)
    with benchmark.Measuring(3) as measuring:
        made = list(benchmark.compiled_ahead(str, {"one": 1, "two": 2, "three": 3}, 2, measuring))
    assert (made, measuring.skipped) == ([("one", "1"), ("two", "2"), ("three", "3")], ())


def test_a_budget_of_nothing_measures_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("training.py", f"--out={out}", "--methods=bc", "--transitions=10", "--budget_s=0")
    assert (result.returncode, result.stdout) == (2, "")
    assert "not measured within 0 s: bc" in result.stderr.splitlines()[-1]


def test_the_picture_of_latencies_depends_on_nothing_but_them(tmp_path: Path) -> None:
    inference = runpy.run_path(str(ROOT / "benchmarks" / "inference.py"))
    rows = [
        inference["Latency"]("dac", "default", 11, 3, 10, 50, "rule", batch, batch, 20, 2.5 * batch, 4.0, 400.0, 1.0)
        for batch in (1, 64)
    ]
    for name in ("a.svg", "b.svg"):
        with pictures.style("plot"):
            pictures.write_figure(inference["latency_figure"](["dac"] * 2, rows), tmp_path / name)
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
        ("inference.py", "--batch=1,two", "1,64,1024"),
        ("inference.py", "--batch=0", "1,64,1024"),
        ("inference.py", "--plot=latency.gif", ".png"),
        ("inference.py", "--plot=no/where.png", "no does not exist"),
        ("training.py", "--set=width=3", "width"),
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


@pytest.mark.parametrize("script", ["inference.py", "simulators.py", "training.py"])
def test_help(script: str) -> None:
    result = launch(f"benchmarks/{script}", "--help")
    assert result.returncode == 0
    assert f"python benchmarks/{script} --out=" in result.stdout


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
