"""Compare what two versions of MuJoCo simulate: whole episodes, and single steps from the same states.

First record with one version installed, then replay with the other: the same seeds, the actions of the recording.
Small differences grow along an episode, so that trajectories part in any case; a single step of the physics from the
recorded states tells rounding from another computation. What rounding does is measured with the recording: the same
step from states that differ by one unit in the last place. Differences are relative to numbers above 1, absolute below.
Recording writes OUT/SIMULATOR.npz; replaying writes OUT/simulators.csv and OUT/simulators.json.

examples:
  python benchmarks/simulators.py --out=runs/one
  python benchmarks/simulators.py --out=runs/other --against=runs/one
  python benchmarks/simulators.py --out=runs/hopper --simulators=Hopper-v4,Hopper-v5 --steps=10000
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from absl import flags

from diffjax.envs.make import make_vector
from diffjax.errors import UserError
from diffjax.files import writable
from diffjax.launch import benchmark, cli
from diffjax.tasks.registry import tasks

if TYPE_CHECKING:
    from diffjax.envs.gym_loop import GymLoop
    from diffjax.envs.mujoco_vector import MujocoVector

NAME = "simulators"
HORIZON = 1000  # steps of an episode, whatever the task's


class Difference(NamedTuple):
    """One simulator under two versions; ``recorded_`` is the recording, without a prefix is the replay.

    ``first_above_`` is the earliest step of any episode, ``after_`` the largest difference of any episode after so many
    steps; None where there is none. ``step_`` is one step of the physics, ``nudged_`` the same step of the recording's
    version from states one unit in the last place away.
    """

    simulator: str
    recorded_version: str
    version: str
    sparse: bool  # whether the solver works on sparse Jacobians
    episodes: int
    steps: int
    other_ends: int  # episodes that end at another step
    first_above_1e_12: int | None
    first_above_1e_6: int | None
    first_above_1e_3: int | None
    after_1: float | None
    after_10: float | None
    after_100: float | None
    after_1000: float | None
    recorded_return: float  # mean
    mean_return: float
    step_median: float
    step_largest: float
    nudged_median: float
    nudged_largest: float
    acceleration_largest: float
    other_constraints: int  # states with another number of contacts or constraints
    recorded_iterations: float  # of the solver, mean
    iterations: float


class Episode(NamedTuple):
    """One episode of one environment; states have a row more than steps."""

    qpos: np.ndarray
    qvel: np.ndarray
    control: np.ndarray
    reward: np.ndarray
    ended: np.ndarray  # () bool: the simulator ended it, not the actions

    @property
    def states(self) -> np.ndarray:
        """Positions and velocities side by side."""
        return np.concatenate([self.qpos, self.qvel], axis=1)


class Probe(NamedTuple):
    """What MuJoCo computes at states, a row each; ``solver``: contacts, constraints, iterations."""

    state: np.ndarray  # after one step of the physics
    acceleration: np.ndarray
    solver: np.ndarray


class Replayable(NamedTuple):
    """One episode as it is recorded."""

    seed: int
    action: np.ndarray
    episode: Episode
    probe: Probe
    nudged: np.ndarray  # states after one step of the physics from states one unit in the last place away


class Recording(NamedTuple):
    """One simulator; there is at least one episode."""

    version: str
    episodes: list[Replayable]


Simulator: TypeAlias = "MujocoVector | GymLoop"


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    cli.define_path(values, "out", "DIR: Folder for the recordings, or for the differences.")
    cli.define_path(values, "against", "DIR: Folder of recordings to replay; default: record.")
    flags.DEFINE_string(
        "simulators", None, "ID,...: Which ones; default: every MuJoCo simulator of a task.", flag_values=values
    )
    flags.DEFINE_integer(
        "steps", 3000, "Least number of steps to record of each; episodes have up to 1000.", 1, flag_values=values
    )


def mujoco_simulators() -> dict[str, Mapping[str, Any]]:
    """Every MuJoCo simulator of a task, with its arguments."""
    return {task.env_id: task.env_kwargs for task in tasks().values() if not task.env_id.startswith("diffjax/")}


def make(env_id: str) -> Simulator:
    """One environment of a simulator that is to run for 1000 steps."""
    from diffjax.envs.gym_loop import GymLoop
    from diffjax.envs.mujoco_vector import MujocoVector

    simulator = make_vector(env_id, 1, mujoco_simulators()[env_id], HORIZON)
    assert isinstance(simulator, MujocoVector | GymLoop)
    return simulator


def recording_path(folder: str | Path, env_id: str) -> Path:
    """Where a simulator is recorded."""
    return Path(folder) / f"{env_id.replace('/', '_')}.npz"


def play(simulator: Simulator, seed: int, action: np.ndarray) -> Episode:
    """An episode under given actions, until it or they end."""
    simulator.reset(np.array([seed], np.uint32))
    passed, rewards, ended = [simulator.mechanics(0)], [], False
    for row in action:
        _, reward, terminated, truncated = simulator.step(row[None])
        passed.append(simulator.mechanics(0))
        rewards.append(reward[0])
        if ended := bool(terminated[0] or truncated[0]):
            break
    return Episode(
        np.stack([each.qpos for each in passed]),
        np.stack([each.qvel for each in passed]),
        np.stack([each.control for each in passed[1:]]),
        np.array(rewards),
        np.array(ended),
    )


def probe(model: Any, qpos: np.ndarray, qvel: np.ndarray, control: np.ndarray) -> Probe:
    """One step of the physics from each state; the solver starts from no guess."""
    import mujoco

    from diffjax.envs.mujoco_vector import quiet_mujoco

    data = mujoco.MjData(model)
    states, accelerations, solver = [], [], []
    with quiet_mujoco():
        for position, velocity, force in zip(qpos, qvel, control, strict=True):
            mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:], data.ctrl[:] = position, velocity, force
            mujoco.mj_forward(model, data)
            accelerations.append(data.qacc.copy())
            solver.append((data.ncon, data.nefc, data.solver_niter[: max(data.nisland, 1)].sum()))
            mujoco.mj_step(model, data)
            states.append(np.concatenate([data.qpos, data.qvel]))
    return Probe(np.stack(states), np.stack(accelerations), np.array(solver))


def probe_episode(simulator: Simulator, episode: Episode) -> Probe:
    """The probe of every state that a step was made from; the simulator's last reset was that of the episode."""
    return probe(simulator.mechanics(0).model, episode.qpos[:-1], episode.qvel[:-1], episode.control)


def nudge(values: np.ndarray) -> np.ndarray:
    """The next larger numbers."""
    return np.nextafter(values, np.inf)


def record(simulator: Simulator, steps: int) -> list[Replayable]:
    """Episodes of seeds 0, 1, ... under uniform actions until there are enough steps."""
    episodes: list[Replayable] = []
    while steps > 0:
        seed = len(episodes)
        shape = (min(HORIZON, steps), simulator.action_dim)
        action = np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)
        episode = play(simulator, seed, action)
        nudged = episode._replace(qpos=nudge(episode.qpos), qvel=nudge(episode.qvel))
        found, moved = probe_episode(simulator, episode), probe_episode(simulator, nudged)
        episodes.append(Replayable(seed, action, episode, found, moved.state))
        steps -= len(episode.reward)
    return episodes


def write_recording(path: Path, recording: Recording) -> None:
    """Write what :func:`read_recording` reads."""
    arrays: dict[str, Any] = {"version": recording.version, "episodes": len(recording.episodes)}
    for index, each in enumerate(recording.episodes):
        arrays |= {f"{index}/seed": each.seed, f"{index}/action": each.action, f"{index}/nudged": each.nudged}
        arrays |= {f"{index}/{key}": value for key, value in each.episode._asdict().items()}
        arrays |= {f"{index}/probe/{key}": value for key, value in each.probe._asdict().items()}
    with writable(path.parent):
        np.savez(path, **arrays)


def read_recording(path: Path) -> Recording:
    """The recording of one simulator.

    Raises:
      UserError: the file is none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            episodes = [
                Replayable(
                    int(file[f"{index}/seed"]),
                    file[f"{index}/action"],
                    Episode(*(file[f"{index}/{key}"] for key in Episode._fields)),
                    Probe(*(file[f"{index}/probe/{key}"] for key in Probe._fields)),
                    file[f"{index}/nudged"],
                )
                for index in range(int(file["episodes"]))
            ]
            return Recording(str(file["version"]), episodes)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no recording of this benchmark, or damaged; record again ({reason})") from None


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Largest difference of each row, relative to numbers above 1, absolute below."""
    return (np.abs(one - other) / np.maximum(1.0, np.abs(one))).max(axis=1)


def compare(env_id: str, simulator: Simulator, recording: Recording) -> Difference:
    """Replay every recorded episode with the version installed, and probe the recorded states.

    Raises:
      UserError: the simulator is another one, not only of another version.
    """
    import mujoco

    recorded = recording.episodes
    sizes = simulator.mechanics(0)
    if recorded[0].episode.states.shape[1] != sizes.qpos.size + sizes.qvel.size:
        raise UserError(f"{env_id} was recorded with another model of the robot; record again")
    replayed, probes = [], []
    for each in recorded:
        replayed.append(play(simulator, each.seed, each.action))
        probes.append(probe_episode(simulator, each.episode))

    paths = []
    for each, replay in zip(recorded, replayed, strict=True):
        common = min(len(each.episode.states), len(replay.states))
        paths.append(difference(each.episode.states[:common], replay.states[:common]))

    def first_above(limit: float) -> int | None:
        return min((int(np.argmax(path > limit)) for path in paths if (path > limit).any()), default=None)

    def after(steps: int) -> float | None:
        return max((float(path[steps]) for path in paths if steps < len(path)), default=None)

    states = np.concatenate([each.probe.state for each in recorded])
    step = difference(states, np.concatenate([each.state for each in probes]))
    nudged = difference(states, np.concatenate([each.nudged for each in recorded]))
    acceleration = difference(
        np.concatenate([each.probe.acceleration for each in recorded]),
        np.concatenate([each.acceleration for each in probes]),
    )
    recorded_solver = np.concatenate([each.probe.solver for each in recorded])
    solver = np.concatenate([each.solver for each in probes])
    return Difference(
        simulator=env_id,
        recorded_version=recording.version,
        version=simulator.version,
        sparse=bool(mujoco.mj_isSparse(sizes.model)),
        episodes=len(recorded),
        steps=len(states),
        other_ends=sum(
            (len(each.episode.reward), bool(each.episode.ended)) != (len(replay.reward), bool(replay.ended))
            for each, replay in zip(recorded, replayed, strict=True)
        ),
        first_above_1e_12=first_above(1e-12),
        first_above_1e_6=first_above(1e-6),
        first_above_1e_3=first_above(1e-3),
        after_1=after(1),
        after_10=after(10),
        after_100=after(100),
        after_1000=after(1000),
        recorded_return=float(np.mean([each.episode.reward.sum() for each in recorded])),
        mean_return=float(np.mean([each.reward.sum() for each in replayed])),
        step_median=float(np.median(step)),
        step_largest=float(step.max()),
        nudged_median=float(np.median(nudged)),
        nudged_largest=float(nudged.max()),
        acceleration_largest=float(acceleration.max()),
        other_constraints=int((recorded_solver[:, :2] != solver[:, :2]).any(axis=1).sum()),
        recorded_iterations=float(recorded_solver[:, 2].mean()),
        iterations=float(solver[:, 2].mean()),
    )


def print_differences(rows: Sequence[Difference], notes: Sequence[str]) -> None:
    """What is in the rows, in short."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.0e}" if value else "0"

    benchmark.print_table(
        f"{rows[0].recorded_version} / {rows[0].version}",
        ("simulator", "steps", "first > 1e-6", "after 10", "after 100", "other ends", "return", "step", "rounding"),
        [
            (
                row.simulator,
                str(row.steps),
                "-" if row.first_above_1e_6 is None else str(row.first_above_1e_6),
                shown(row.after_10),
                shown(row.after_100),
                f"{row.other_ends} of {row.episodes}",
                f"{row.recorded_return:.1f} / {row.mean_return:.1f}",
                f"{shown(row.step_median)} / {shown(row.step_largest)}",
                f"{shown(row.nudged_median)} / {shown(row.nudged_largest)}",
            )
            for row in rows
        ],
    )
    print("\n" + "\n".join(f"- {note}" for note in notes))


def record_all(chosen: Sequence[str], args: flags.FlagValues) -> None:
    """Record the simulators, each in a file."""
    simulators = {env_id: make(env_id) for env_id in chosen}
    folder = benchmark.results_folder(args.out, [recording_path("", env_id).name for env_id in chosen])
    with benchmark.Measuring(len(chosen)) as measuring:
        for env_id, simulator in simulators.items():
            measuring.begin(env_id)
            recording = Recording(simulator.version, record(simulator, args.steps))
            write_recording(recording_path(folder, env_id), recording)
            measuring.done(f"{env_id}: {recording.version}, episodes: {len(recording.episodes)}")
    print(f"written to {folder}; replay with another MuJoCo: --against={folder}")


def replay_all(chosen: Sequence[str], args: flags.FlagValues) -> None:
    """Compare the simulators with their recordings, print, write."""
    recordings = {env_id: read_recording(recording_path(args.against, env_id)) for env_id in chosen}
    simulators = {env_id: make(env_id) for env_id in chosen}
    folder = benchmark.results_folder(args.out, (f"{NAME}.csv", f"{NAME}.json"))
    rows = []
    with benchmark.Measuring(len(chosen)) as measuring:
        for env_id, simulator in simulators.items():
            measuring.begin(env_id)
            rows.append(compare(env_id, simulator, recordings[env_id]))
            measuring.done(f"{env_id}: largest difference of one step {rows[-1].step_largest:.0e}")
    notes = (
        "first, after: steps of an episode; the largest difference of any, relative to numbers above 1",
        "step: one step of the physics from the recorded states, median / largest difference of the two versions",
        "rounding: the same under the recorded version alone, from states one unit in the last place away",
    )
    print_differences(rows, notes)
    benchmark.write_results(folder, NAME, rows, (), notes, {"against": args.against})
    print(f"written to {folder / NAME}.csv and .json")


def main(args: flags.FlagValues) -> None:
    """Record, or replay what was recorded."""
    known = mujoco_simulators()
    chosen = list(known) if args.simulators is None else list(cli.parse_list("simulators", args.simulators, known))
    if args.against is None:
        record_all(chosen, args)
        return
    if args.simulators is None:
        chosen = [env_id for env_id in known if recording_path(args.against, env_id).is_file()]
    if not chosen:
        raise UserError(f"{args.against} holds no recordings; make some with --out={args.against}")
    replay_all(chosen, args)


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
