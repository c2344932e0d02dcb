"""Runs that take turns on the devices, and evaluation beside the training: the same experiment."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_tools import timeless
from test_joint import TASKS, kept, np_leaves, ready, request, run

from diffjax.errors import Stopped, UserError
from diffjax.experiment import provenance
from diffjax.experiment.joint import members_of
from diffjax.experiment.run import run_experiments
from diffjax.experiment.trainer import Trainer
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import read_config, read_evaluations, read_metrics
from diffjax.studies.collect.store import store_dataset
from diffjax.training import memory
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.memory import MemoryUse, fit, memory_use
from diffjax.training.program import Program
from diffjax.training.turns import Turns

SEEDS = (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds on two tasks, all at once; the data lie beside."""
    folder = tmp_path_factory.mktemp("turns")
    run(*requests(folder, folder / "whole"))
    return folder / "whole"


def requests(folder: Path, out: Path, **more: Any) -> list[Any]:
    return [request(folder, out / task, task, method="bc", seeds=SEEDS, **more) for task in TASKS]


def final(out: Path) -> list[np.ndarray]:
    with Checkpoints(out / "checkpoints" / "0") as checkpoints:
        return np_leaves(checkpoints._manager.restore(max(checkpoints.numbers()))["state"])


def alike(out: Path, whole: Path) -> None:
    """The same rows, metrics and states but for rounding."""
    for task in TASKS:
        ours, theirs = read_evaluations(out / task), read_evaluations(whole / task)
        assert [(row.seed, row.step) for row in ours] == [(row.seed, row.step) for row in theirs]
        np.testing.assert_allclose([row.score for row in ours], [row.score for row in theirs], rtol=0.05, atol=0.5)
        for own, other in zip(read_metrics(out / task), read_metrics(whole / task), strict=True):
            assert own.runs == other.runs
            for name, values in own.metrics.items():
                np.testing.assert_allclose(values, other.metrics[name], rtol=1e-4, atol=1e-5)
        for one, two in zip(final(out / task), final(whole / task), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("most", [1, 4])
def test_turns_are_as_all_at_once(whole, tmp_path, monkeypatch, capsys, most):
    """Ten runs in ten turns of one, or three of four; never more than that are on the devices."""
    at_once = []
    advance = Program.advance

    def counted(self: Program, phase: int, state: Any, *arguments: Any) -> Any:
        at_once.append(state.first_bad_step.shape[0])
        return advance(self, phase, state, *arguments)

    monkeypatch.setattr(Program, "advance", counted)
    run(*requests(whole.parent, tmp_path, max_runs_per_program=most))
    assert set(at_once) == {most}
    alike(tmp_path, whole)
    turns = {1: "10 turns of 1", 4: "3 turns of 4"}[most]
    assert f"bc on 2 tasks: 10 runs in {turns}, {most} run" in capsys.readouterr().err


def test_out_of_memory_goes_on_with_half_from_the_checkpoint(whole, tmp_path, monkeypatch, capsys):
    """As a device with room for three of the ten runs says it, in the second interval."""
    advance, calls = Program.advance, itertools.count()

    def limited(self: Program, phase: int, state: Any, start: int, *arguments: Any) -> Any:
        if start >= 2 and state.first_bad_step.shape[0] > 3:
            next(calls)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
        return advance(self, phase, state, start, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "advance", limited)
        run(*requests(whole.parent, tmp_path))
    assert next(calls) == 2  # with ten, with five; then two
    said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert [line.partition("out of")[2] for line in said] == [
        " memory with 10 runs at once; from the checkpoint with 5",
        " memory with 5 runs at once; from the checkpoint with 2",
    ]
    alike(tmp_path, whole)
    for task in TASKS:  # what goes on later does not try again
        with Checkpoints(tmp_path / task / "checkpoints" / "0") as checkpoints:
            assert checkpoints.record(3)["runs_at_once"] == 2


def test_a_run_that_never_fits_is_refused(tmp_path, monkeypatch):
    def full(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    monkeypatch.setattr(Program, "advance", full)
    with pytest.raises(UserError, match="not even one run fits into memory: RESOURCE_EXHAUSTED"):
        run(request(tmp_path, tmp_path / "out", TASKS[0]))

    def broken(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Program, "advance", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run(request(tmp_path, tmp_path / "out", TASKS[0], resume=True))


def loaded(tmp_path: Path, **changes: Any) -> Trainer:
    (member,) = members_of(ready(request(tmp_path, tmp_path / "out", TASKS[0], seeds=SEEDS, **changes)))
    trainer = Trainer([member], TrainingProgress())
    trainer.load()
    return trainer


def test_what_is_counted_is_what_is_there(tmp_path, caplog):
    """State and data by their arrays; the compiled program is the one that training runs."""
    with jax.log_compiles():
        trainer = loaded(tmp_path, settings=("actor_lr=0.01",))
        state = trainer.init()
        use = trainer.memory
        assert use.state == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        state, _ = trainer.training.advance(0, state, 0, 2, trainer.setup, trainer.data)
        trainer.training.advance(0, state, 2, 4, trainer.setup, trainer.data)
    assert len([line for line in caplog.messages if "XLA compilation of jit(_advance)" in line]) == 1
    assert use.runs == 5
    bytes_of = lambda leaf: leaf.size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.itemsize)  # noqa: E731
    assert use.data == sum(map(bytes_of, jax.tree.leaves((trainer.data, trainer.setup))))
    assert 0 < use.temporaries < 2**24
    assert use.total == use.state + use.data + use.temporaries < use.limit


def test_as_many_runs_as_fit(tmp_path, monkeypatch):
    trainer = loaded(tmp_path)
    two = memory_use(trainer.program, 2, [0], trainer.setup, trainer.data, 0)
    for limit, runs in ((trainer.memory.total, 5), (two.total, 2), (1, 1)):
        found = fit(lambda runs: trainer.program, 5, [0], trainer.setup, trainer.data, limit)
        assert found.runs == runs
    monkeypatch.setattr("diffjax.experiment.trainer.device_memory", lambda: two.total)
    trainer.load()
    assert isinstance(trainer.training, Turns)
    assert trainer.memory == two._replace(limit=two.total)


def test_memory_in_words():
    use = MemoryUse(2, 3 * 2**20, 2**31, 2**19, 2**33)
    assert use.words.startswith("2 runs at once: 3.0 MiB of state, 2.0 GiB of data, 0.5 MiB of temporaries; 8.0 GiB on")


def test_a_container_has_what_it_was_given(monkeypatch, tmp_path):
    (tmp_path / "limit").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", [str(tmp_path / "missing"), str(tmp_path / "none")])
    whole = memory.host_memory()
    assert whole > 2**28
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", [str(tmp_path / "none"), str(tmp_path / "limit")])
    assert memory.host_memory() == 1_000_000
    assert memory.device_memory() == 900_000 // len(jax.local_devices())


def test_evaluation_beside_the_training_changes_nothing(whole, tmp_path):
    run(*requests(whole.parent, tmp_path, overlap=True))
    for task in TASKS:
        ours, theirs = kept(tmp_path / task), kept(whole / task)
        assert ours == theirs | {"config.json": ours["config.json"]}
        pairs = zip(final(tmp_path / task), final(whole / task), strict=True)
        assert all(np.array_equal(one, two) for one, two in pairs)


class Asked(TrainingProgress):
    """Asks to stop once so many updates were made, or while the first interval is evaluated."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.remaining = updates

    def advance(self, updates: int) -> None:
        super().advance(updates)
        self.remaining -= updates

    def stop_status(self) -> int | None:
        return 143 if self.remaining <= 0 else None


@pytest.mark.parametrize("updates", [2, 3, 5])
def test_a_stop_with_evaluation_beside_the_training(whole, tmp_path, updates):
    with pytest.raises(Stopped):
        run_experiments(requests(whole.parent, tmp_path, overlap=True), Asked(updates), store_dataset)
    run(*requests(whole.parent, tmp_path, overlap=True, resume=True))
    for task in TASKS:
        ours, theirs = kept(tmp_path / task), kept(whole / task)
        assert ours == theirs | {"config.json": ours["config.json"]}


def test_without_memory_for_both_nothing_overlaps(tmp_path, monkeypatch, capsys):
    use = loaded(tmp_path).memory
    monkeypatch.setattr("diffjax.experiment.trainer.device_memory", lambda: use.total + use.state // 2)
    run(request(tmp_path, tmp_path / "out", TASKS[0], seeds=SEEDS, overlap=True))
    assert "--overlap has no effect" in capsys.readouterr().err


def test_where_and_how_long_is_recorded(whole):
    for task in TASKS:
        found = read_config(whole / task).execution
        assert found is not None
        assert found.devices_used == 1
        assert found.host
        assert found.start <= found.end
        assert found.hours > 0
        assert found.hours_per_run == pytest.approx(found.hours / 10)  # of ten in the program
        assert found.updates_per_second > 0
        assert 0 < found.evaluation_share + found.saving_share < 1
    raw = (whole / TASKS[0] / "evaluations.csv").read_bytes()
    assert timeless(raw).count(b"TIME") == len(read_evaluations(whole / TASKS[0])) == 15


def test_other_programs_than_it_began_with(whole, tmp_path, monkeypatch, capsys):
    """Said, recorded, and refused if that is wanted; a finished experiment is what it is."""
    asked = request(whole.parent, tmp_path / "out", TASKS[0])
    run(asked)
    began = read_config(asked.out)
    now = {**provenance.versions(), "jax": "0.99"}
    monkeypatch.setattr(provenance, "versions", lambda: now)
    before = kept(asked.out)
    run(dataclasses.replace(asked, resume=True, strict=True))
    assert kept(asked.out) == before
    longer = dict(asked.overrides) | {"steps": "8"}
    later = dataclasses.replace(asked, resume=True, overrides=tuple(longer.items()))
    change = f"began with other programs (jax {began.versions['jax']} -> 0.99)"
    with pytest.raises(UserError, match=re.escape(change) + "; leave out --strict"):
        run(dataclasses.replace(later, strict=True))
    assert kept(asked.out) == before
    capsys.readouterr()
    run(later)
    assert f"{change}; numbers may differ" in capsys.readouterr().err
    after = read_config(asked.out)
    assert after.versions == began.versions
    assert [dict(one.versions) for one in after.resumptions] == [{"jax": "0.99"}]
    assert after.execution is not None
    assert began.execution is not None
    assert after.execution.start == began.execution.start
    assert after.execution.hours > began.execution.hours
    run(dataclasses.replace(later, strict=True))  # nothing is left to do
