"""JAX's switches: pinned where they would change numbers, recorded where they may be set."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_tools import timeless
from launcher_tools import REPOSITORY, data_file, launch, refused

from diffjax import numerics
from diffjax.numerics import jax_options, pinned, random_key

BITS_OF_SEVEN = [2895194379, 4185947648, 1300703658]  # threefry2x32, partitionable
SWITCHES = {
    "jax_default_prng_impl": "rbg",
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_threefry_partitionable": False,
}


@pytest.fixture
def options() -> Iterator[Callable[[str, object], None]]:
    """Sets options of JAX for the length of a test: a function of name and value."""
    before = {}

    def set_option(name: str, value: object) -> None:
        old = jax.config.values[name]
        before.setdefault(name, getattr(old, "value", old))
        jax.config.update(name, value)

    yield set_option
    for name, value in before.items():
        jax.config.update(name, value)


def test_pinned_switches_are_at_their_places_and_come_back(options):
    for name, value in SWITCHES.items():
        options(name, value)
    with pinned():
        assert str(jax.random.key_impl(jax.random.key(7))) == "threefry2x32"
        assert jax.random.bits(random_key(7), (3,)).tolist() == BITS_OF_SEVEN
        assert jnp.asarray(np.arange(3.0)).dtype == jnp.float32
        assert (jnp.float32(1.5) * jnp.arange(2, dtype=jnp.int32)).tolist() == [0.0, 1.5]
        assert (jnp.ones((2, 3)) * jnp.ones(3)).shape == (2, 3)
    assert jnp.asarray(np.arange(3.0)).dtype == jnp.float64
    assert str(jax.random.key_impl(jax.random.key(7))) == "rbg"
    assert str(jax.random.key_impl(random_key(7))) == "threefry2x32"
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) * jnp.ones(3)


FILES = ("evaluations.csv", "metrics.jsonl")


def train(tmp_path: Path, method: str, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A tiny run in the folder ``name``."""
    data = tmp_path / "hopper.hdf5"
    flags = ["--task=hopper-medium-v2", f"--dataset={data if data.exists() else data_file(data)}", "--preset=quick"]
    flags += ["--steps=2", "--eval_interval=2", "--episodes=1", "--set=hidden_dims=8", "--set=batch_size=8"]
    return launch("experiments/train.py", f"--method={method}", *flags, f"--out={tmp_path / name}", *more)


def config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text()) | {"flags": [], "execution": {}}


def test_a_run_is_the_same_under_any_switch(tmp_path, options):
    for name in ("plain", "switched"):
        run = train(tmp_path, "dac", name, "--set=num_critics=2")
        assert run.returncode == 0, run.stderr
        for option, value in SWITCHES.items():
            options(option, value)
    for file in FILES:
        plain, switched = (timeless((tmp_path / name / file).read_bytes()) for name in ("plain", "switched"))
        assert plain == switched
    assert config_of(tmp_path / "plain") == config_of(tmp_path / "switched")
    assert train(tmp_path, "dac", "plain", "--set=num_critics=2", "--resume").returncode == 0


def test_an_option_that_counts_is_recorded_and_makes_another_experiment(tmp_path, options, monkeypatch):
    assert train(tmp_path, "bc", "plain").returncode == 0
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    refused(train(tmp_path, "bc", "plain", "--resume"), "holds another experiment", "jax_options", "fast_math=true")
    assert train(tmp_path, "bc", "fast").returncode == 0
    assert config_of(tmp_path / "fast")["jax_options"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
    assert train(tmp_path, "bc", "fast", "--resume").returncode == 0
    options("jax_random_seed_offset", 3)
    refused(train(tmp_path, "bc", "fast", "--resume"), "jax_options.jax_random_seed_offset")


def test_what_is_recorded(options, monkeypatch, optimised):
    for name in [name for name in os.environ if name.startswith(("JAX_", "XLA_"))]:
        monkeypatch.delenv(name)
    assert jax_options() == {}
    options("jax_debug_nans", True)
    options("jax_optimization_level", "O1")
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")  # set, whatever its default is
    monkeypatch.setenv("JAX_ENABLE_X64", "1")  # pinned
    monkeypatch.setenv("JAX_DISABLE_JIT", "0")  # the default
    for name in ("JAX_PLATFORMS", "JAX_LOG_COMPILES", "JAX_COMPILATION_CACHE_DIR", "JAX_TRACEBACK_FILTERING"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_gpu_x=2 --xla_dump_to=/x --xla_force_host_platform_device_count=4 --xla_cpu_a=1"
    )
    assert jax_options() == {
        "XLA_FLAGS": "--xla_cpu_a=1 --xla_gpu_x=2",
        "jax_cpu_collectives_implementation": "gloo",
        "jax_debug_nans": True,
        "jax_optimization_level": "O1",
    }
    assert json.loads(json.dumps(jax_options())) == jax_options()


LAUNCHERS = {
    "experiments/train.py": ["--method=bc", "--task=pendulum-mixed"],
    "experiments/sweep.py": ["--methods=bc", "--task=pendulum-mixed"],
    "experiments/collect.py": ["--task=pendulum-mixed", "--format=hdf5"],
    "experiments/bandit.py": ["--figure=dac"],
    "benchmarks/inference.py": ["--methods=bc"],
    "benchmarks/training.py": ["--methods=bc"],
}


@pytest.mark.parametrize("script", LAUNCHERS)
def test_a_platform_that_is_not_there_is_one_line(script, tmp_path, monkeypatch, options):
    """As jax says it where a plugin is missing; the last test asks jax itself."""

    def devices() -> None:
        raise AssertionError

    options("jax_platforms", "cuda")
    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setattr(numerics, "clear_backends", lambda: None)
    run = launch(script, *LAUNCHERS[script], f"--out={tmp_path / 'out'}")
    refused(run, "JAX_PLATFORMS=cuda", "unset it, or set JAX_PLATFORMS=cpu")
    assert not (tmp_path / "out").exists()
    options("jax_disable_jit", True)
    refused(launch(script, *LAUNCHERS[script], f"--out={tmp_path / 'out'}"), "JAX_DISABLE_JIT", "unset it")
    assert jax.config.values["jax_platforms"] == "cuda"


def test_a_platform_that_jax_does_not_know_is_one_line(tmp_path):
    script = str(REPOSITORY / "experiments" / "train.py")
    command = [sys.executable, script, "--method=bc", "--task=pendulum-mixed", f"--out={tmp_path / 'out'}"]
    environment = os.environ | {"JAX_PLATFORMS": "nonsense"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    refused(run, "JAX_PLATFORMS=nonsense", "not in the list of known backends", "set JAX_PLATFORMS=")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "in_program"),
    [("highest", "n.HIGHEST)"), ("high", "n.HIGH)"), ("default", "n.DEFAULT)"), ("bfloat16", "n=BF16_BF16_F32")],
)
def test_a_precision_reaches_the_products_of_a_program(name: str, in_program: str) -> None:
    """Also ``bfloat16``, which JAX itself takes for ``default``."""
    with numerics.matmul_precision(name):
        program = jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2)))
    assert in_program in str(program)
