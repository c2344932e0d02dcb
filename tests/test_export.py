"""Exported policies act as the policy does, for the same random numbers, in processes that know nothing of it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import export
from launcher_tools import launch, refused
from method_tools import MOSTLY_SLOW, SPEC, TINY
from policy_tools import untrained

from diffjax.export import onnx_model, stablehlo
from diffjax.export.program import Draws, draws_of
from diffjax.policy import Policy

onnxruntime.set_default_logger_severity(3)  # it comments on the converter's leftovers
KEY = jax.random.key(3)
CANDIDATES = TINY["candidates"]
OBSERVATION = np.random.default_rng(0).normal(size=(5, SPEC.observation_dim)).astype(np.float32)


def feeds(policy: Policy, draws: Draws, rows: int) -> dict[str, np.ndarray]:
    """The random numbers that ``policy.act(..., KEY)`` draws for some rows, by their names."""
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(rows, dtype=jnp.uint32))
    drawn = jax.vmap(lambda key: policy.method.draw_action(key, policy.spec, policy.acting.hyper))(keys)
    names = [one.name for one in draws.inputs]
    return dict(zip(names, map(np.asarray, jax.tree.leaves(drawn)), strict=True))


@pytest.mark.parametrize(("name", "variant"), MOSTLY_SLOW)
def test_an_exported_policy_acts_alike(name, variant):
    policy = untrained(name, variant)
    stored = export.deserialize(bytearray(stablehlo.exported(policy).serialize()))
    draws = draws_of(policy)
    model = onnxruntime.InferenceSession(onnx_model.converted(policy, draws))
    assert stored.platforms == ("cpu", "cuda", "tpu")
    action = policy.act(OBSERVATION, KEY)
    key = (jax.random.key_data(KEY),) if policy.is_random else ()
    np.testing.assert_allclose(stored.call(OBSERVATION, *key), action, atol=2e-6)
    for rows in (1, 5):
        (other,) = model.run(None, {"observation": OBSERVATION[:rows], **feeds(policy, draws, rows)})
        np.testing.assert_allclose(other, action[:rows], atol=2e-6)


def test_any_number_of_rows():
    policy = untrained("dtql", "default")
    stored = export.deserialize(bytearray(stablehlo.exported(policy).serialize()))
    for rows in (1, 2, 5):
        action = stored.call(OBSERVATION[:rows], jax.random.key_data(KEY))
        np.testing.assert_allclose(action, policy.act(OBSERVATION, KEY)[:rows], atol=2e-6)
    np.testing.assert_allclose(policy.act(OBSERVATION[0], KEY), policy.act(OBSERVATION, KEY)[0], atol=2e-6)


def test_what_is_drawn_is_said():
    laws = {one.name: (one.shape, one.meaning) for one in draws_of(untrained("dac", "default")).inputs}
    assert laws == {
        "chain_start": (("batch", CANDIDATES, 2), "random numbers, standard normal, all independent"),
        "chain_steps": (("batch", 5, CANDIDATES, 2), "random numbers, standard normal, all independent"),
        "gumbel": (("batch", CANDIDATES), "random numbers, standard Gumbel, all independent"),
    }
    (_, uniform) = draws_of(untrained("dtql", "default")).inputs
    assert uniform.meaning == "random numbers, uniform on [0, 1), all independent"
    odd = untrained("dtql", "default")
    odd = Policy(
        odd.method._replace(draw_action=lambda key, spec, hyper: jax.random.cauchy(key)), odd.acting, odd.about
    )
    assert draws_of(odd).inputs[0].meaning == "random numbers, of a law of the method's own, all independent"
    assert draws_of(untrained("bc", "default")).inputs == ()


@pytest.mark.parametrize(
    ("form", "strangers"), [("jax", ("diffjax", "flax", "orbax")), ("onnx", ("diffjax", "jax", "flax"))]
)
def test_the_description_says_how_to_run_it_elsewhere(form, strangers, tmp_path):
    """In a process without the packages that trained it."""
    untrained("dac", "default").save(tmp_path / "policy.npz")
    out = tmp_path / f"policy.{form}"
    run = launch("experiments/export.py", f"--run={tmp_path / 'policy.npz'}", f"--format={form}", f"--out={out}")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"dac on hopper-medium-v2, seed 0, step 3, score 1.5: {out}\n"
    content = json.loads((tmp_path / "policy.json").read_text())
    assert content["inputs"][0]["shape"] == ["batch", 5]
    assert content["outputs"] == [{"name": "action", "shape": ["batch", 2], "dtype": "float32", "range": [-1.0, 1.0]}]
    assert [one["name"] for one in content["inputs"][1:]] == (
        ["key"] if form == "jax" else ["chain_start", "chain_steps", "gumbel"]
    )
    assert content["policy"]["score"] == 1.5
    lines = [
        f"import sys; sys.modules.update(dict.fromkeys({strangers!r}))",
        "import numpy as np",
        f"observation = np.array({OBSERVATION.tolist()!r}, np.float32)",
        *content["call"],
        "print(np.asarray(action).tolist())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    action = np.array(json.loads(done.stdout))
    assert action.shape == (5, 2)
    assert np.all(np.abs(action) <= 1.0)
    if form == "jax":
        np.testing.assert_allclose(action, untrained("dac", "default").act(OBSERVATION, jax.random.key(0)), atol=2e-6)


def test_other_candidates_are_exported(tmp_path):
    untrained("dac", "default").save(tmp_path / "policy.npz")
    flags = (f"--run={tmp_path / 'policy.npz'}", "--format=npz", f"--out={tmp_path / 'alone.npz'}")
    assert launch("experiments/export.py", *flags, "--set", "candidates=1").returncode == 0
    run = launch("experiments/export.py", f"--run={tmp_path / 'alone.npz'}", f"--out={tmp_path / 'a.jax'}")
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["policy"]["hyper"]["candidates"] == 1
    assert "score" not in content["policy"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format=torch"], ["--format=torch is not one of jax, onnx, npz"]),
        (["--out=no/policy.jax"], ["folder no does not exist"]),
        (["--out=policy.json"], ["policy.json", "choose another ending"]),
        (["--run=nowhere"], ["nowhere is neither a results folder"]),
        (["--seed=1"], ["leave out seed"]),
        (["--set", "eta=1"], ["'eta'", "candidates, ddim_eta, sampler, sampler_steps, temperature"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    untrained("dac", "default").save(Path("policy.npz"))
    refused(launch("experiments/export.py", "--run=policy.npz", "--out=policy.jax", *flags), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.npz"]


@pytest.mark.parametrize(("form", "package"), [("jax", "flatbuffers"), ("onnx", "jax2onnx")])
def test_a_missing_package_is_named(form, package, tmp_path, monkeypatch):
    untrained("bc", "default").save(tmp_path / "policy.npz")
    if form == "jax":

        def missing(*_):
            raise ImportError(package)

        monkeypatch.setattr(export.Exported, "serialize", missing)
    else:
        monkeypatch.setitem(sys.modules, package, None)
    run = launch(
        "experiments/export.py", f"--run={tmp_path / 'policy.npz'}", f"--format={form}", f"--out={tmp_path / 'x.out'}"
    )
    refused(run, package, "diffjax[export]")


def test_actions_leave_in_the_units_of_the_data():
    policy = untrained("bc", "default")
    low, high = (-1.0, 0.0), (3.0, 8.0)
    scaled = Policy(policy.method, policy.acting, dataclasses.replace(policy.about, action_low=low, action_high=high))
    action = policy.act(OBSERVATION)
    expected = np.array([1.0, 4.0]) + np.array([2.0, 4.0]) * action
    np.testing.assert_allclose(scaled.act(OBSERVATION), expected, atol=2e-6)
    stored = export.deserialize(bytearray(stablehlo.exported(scaled).serialize()))
    np.testing.assert_allclose(stored.call(OBSERVATION), expected, atol=2e-6)
    model = onnxruntime.InferenceSession(onnx_model.converted(scaled, draws_of(scaled)))
    np.testing.assert_allclose(model.run(None, {"observation": OBSERVATION})[0], expected, atol=2e-6)
