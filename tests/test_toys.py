"""The papers' toy experiments: clouds against numbers worked out by hand, and what each figure is there to show."""

import csv
import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.commands import bandit
from diffjax.launch import cli
from diffjax.studies.toys import clouds, gaussian, judging, training
from diffjax.studies.toys.figures import FIGURES, make_figure
from diffjax.studies.toys.training import Panel

REPOSITORY = Path(__file__).parents[1]
KEY = jax.random.key(0)


def test_moons_and_circles():
    np.testing.assert_allclose(clouds.moons(6), [(1, 0), (0, 1), (-1, 0), (0, 0.5), (1, -0.5), (2, 0.5)], atol=1e-6)
    np.testing.assert_allclose(
        clouds.circles(8),
        [(1, 0), (0, 1), (-1, 0), (0, -1), (0.8, 0), (0, 0.8), (-0.8, 0), (0, -0.8)],
        atol=1e-6,
    )
    moved = clouds.rescale(clouds.circles(8), 1.1, (-0.8, -0.2))
    np.testing.assert_allclose(moved[:2], [(0.3, 0.35), (-0.25, 0.9)], atol=1e-6)


def test_blobs_ring_and_roll():
    noise = np.array([[(1, 0), (0, -1)], [(0, 0), (2, 2)]], np.float32)
    blobs = clouds.blobs(np.array([(1, 2), (-3, 0)]), noise, 0.1)
    np.testing.assert_allclose(blobs, [(1.1, 2), (1, 1.9), (-3, 0), (-2.8, 0.2)], atol=1e-6)
    ring = clouds.ring(np.array([0.0, 0.25]), np.array([(1, 0), (0, -1)]))
    np.testing.assert_allclose(ring, [(1.05, 0), (0, 0.95)], atol=1e-6)
    # u = 0: t = 3 pi / 2; u = 1/2: t = 3 pi.
    roll = clouds.swiss_roll(np.array([0.0, 0.5]), np.array([(0, 0), (1, 0)]))
    np.testing.assert_allclose(roll, [(0, -4.712389), (-9.324778, 0)], atol=1e-5)
    assert clouds.grid_centers().tolist() == [[x, y] for x in (-10, -5, 0, 5, 10) for y in (-10, -5, 0, 5, 10)]


def test_rewards():
    assert clouds.closeness((0.4, -0.4))(np.array((0.1, 0.0))) == pytest.approx(-0.5)
    assert clouds.far(np.array((3.0, 4.0))) == pytest.approx(5)
    assert clouds.near(14.0)(np.array((3.0, 4.0))) == pytest.approx(9)
    np.testing.assert_allclose(clouds.hard(np.array([(-8, 8.0), (-7, 8), (8, 8)])), [22.627417, 10.630146, 11.313708])
    corners = np.array([(-0.7, 0.9), (-1, -1), (0.1, 0.2), (0.5, -0.1)])
    np.testing.assert_array_equal(clouds.corner_reward(corners), [3, 0, 1.5, 5])


def test_problems_have_the_published_sizes_and_best_actions():
    problems = {name: make_figure(name, "quick", KEY).problems for name in FIGURES}
    assert [len(p.action) for p in problems["dac"]] == [800, 1200, 400, 400]
    assert [len(p.action) for p in problems["dql"] + problems["diffcps"]] == [10_000, 5_000]
    assert [len(p.action) for p in problems["dtql"]] == [10_000] * 5
    two, three, moons, circles = problems["dac"]
    np.testing.assert_allclose(two.best, [(0.4, 0.2)])
    np.testing.assert_allclose(three.best, [(0.4, 0.4), (-0.4, -0.4)])  # two equally good regions
    for problem in (moons, circles):
        np.testing.assert_allclose(problem.centers.min(axis=0), (-0.8, -0.2), atol=1e-6)
        np.testing.assert_allclose(problem.centers.max(axis=0), (0.3, 0.9), atol=1e-6)
    (corners,) = problems["dql"]
    np.testing.assert_allclose(corners.best, [(0.8, -0.8)])
    noise = corners.reward - corners.true_reward(corners.action)
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    assert abs(noise.mean()) < 0.03
    far, hard, near, roll_far, roll_near = problems["dtql"]
    assert len(far.best) == 4
    np.testing.assert_allclose(hard.best, [(-10, 10)])
    np.testing.assert_allclose(near.best, [(0, 0)])
    assert np.linalg.norm(roll_far.best[0]) > 13.8  # the roll ends at 4.5 pi = 14.1 and begins at 1.5 pi = 4.7
    assert np.linalg.norm(roll_near.best[0]) < 5
    for problem in (two, three, moons, circles, corners):
        assert np.abs(problem.action).max() <= 1


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31 - 1))
def test_fresh_draws_lie_in_support_and_cover_the_modes(seed):
    data, fresh = (
        family(jax.random.fold_in(jax.random.key(seed), i)) for i, family in enumerate([clouds.dac_problems] * 2)
    )
    for problem, other in zip(data, fresh, strict=True):
        assert judging.in_support(problem, other.action) > 0.85
        assert judging.modes_covered(problem, other.action) == len(problem.centers)
        assert judging.in_support(problem, other.action + 5) == 0


def test_numbers_by_hand():
    action = np.array([(0, 0), (1, 0)], np.float32)
    problem = clouds.Problem("pair", action, np.zeros(2), clouds.closeness((2, 0)), action, 0.25)
    samples = np.array([(0, 0.2), (1, 0.5), (1, 0.25), (3, 0)], np.float32)
    np.testing.assert_allclose(judging.distances(samples, action), [0.2, 0.5, 0.25, 2], atol=1e-6)
    figure = make_figure("dac", "quick", KEY)._replace(problems=(problem,))
    row = judging.judge(figure, problem, "by hand", 7, "quick", 3, samples)
    assert (row.in_support, row.modes_covered, row.modes, row.steps, row.seed) == (0.5, 2, 2, 7, 3)
    assert row.distance_to_data == pytest.approx(0.7375)
    assert row.at_best == 0.5  # within 0.75 of (1, 0): the second and third
    assert row.mean_reward == pytest.approx(-(2.0099751 + 1.1180340 + 1.0307764 + 1) / 4)
    assert row.reward_at_best == -1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_arm_has_no_numbers(bad):
    figure = make_figure("dql", "quick", KEY)
    row = judging.judge(figure, figure.problems[0], "failed", 7, "quick", 3, np.full((5, 2), bad, np.float32))
    assert row.failed
    assert row.modes_covered is None
    measured = (row.in_support, row.distance_to_data, row.distance_to_best, row.at_best, row.mean_reward)
    assert np.isnan(measured).all()
    assert (row.modes, row.reward_at_best, row.samples) == (4, 5, 5)


def test_advantage_weights():
    reward = np.array([0.0, 1.0, 8.0])
    np.testing.assert_allclose(gaussian.advantage_weight(reward, 1.0), [np.exp(-3), np.exp(-2), 20], rtol=1e-6)
    np.testing.assert_array_equal(gaussian.advantage_weight(reward, np.inf), [1, 1, 1])


class Silent:
    """Hears nothing."""

    def begin(self, name, runs, total, done):
        pass

    def advance(self, updates):
        pass

    def note(self, text):
        assert "not finite" not in text

    def rate(self):
        return ""


@functools.cache
def trained(name: str, method: str, problem: str, steps: int, preset: str = "quick", **changes: object):
    """The numbers and samples of one panel."""
    figure = make_figure(name, preset, KEY, steps)
    (arm,) = (arm for arm in figure.arms if arm.name == method)
    figure = figure._replace(problems=tuple(one for one in figure.problems if one.name == problem))
    arm = dataclasses.replace(arm, hyper=dataclasses.replace(arm.hyper, **changes))
    (panel,) = training.train_arm(figure, arm, 0, 1000, Silent())
    return judging.judge(figure, panel.problem, method, steps, preset, 0, panel.samples), panel


@pytest.mark.slow
def test_dac_soft_guidance_stays_nearer_to_the_data_than_hard():
    soft, panel = trained("dac", "soft", "two", 2500, diffusion_steps=10)
    hard, _ = trained("dac", "hard", "two", 2500, diffusion_steps=10)
    assert soft.in_support > hard.in_support + 0.2
    assert soft.mean_reward > -0.7  # of the data: -1.0
    assert panel.values.shape == (100, 100)
    row, column = np.unravel_index(panel.values.argmax(), panel.values.shape)
    assert training.grid_axis()[row] < 0  # the critic rises towards (0.4, -0.4)
    assert training.grid_axis()[column] > 0


@pytest.mark.slow
def test_diffusion_covers_the_corners_that_a_gaussian_smears():
    single, _ = trained("dql", "Gaussian BC", "corners", 1000)
    diffusion, _ = trained("dql", "diffusion BC", "corners", 2500)
    assert (single.modes_covered, diffusion.modes_covered) == (0, 4)
    assert single.in_support < 0.15
    assert diffusion.in_support > 0.75


@pytest.mark.slow
def test_diffusion_ql_takes_the_lower_right_corner():
    row, panel = trained("dql", "Diffusion-QL", "corners", 2000, diffusion_steps=5)
    assert np.mean(np.all(panel.samples * (1, -1) > 0.5, axis=1)) > 0.8
    assert row.mean_reward > 4.5  # of the data: 2.4


def central(panel: training.Panel) -> float:
    """Share of the samples in the hole of the ring."""
    return float(np.mean(np.linalg.norm(panel.samples, axis=1) < 0.5))


@pytest.mark.slow
def test_a_gaussian_fills_the_ring():
    row, panel = trained("diffcps", "Gaussian AWR", "ring", 1000, hidden_dims=(16, 16, 16))
    assert central(panel) > 0.1
    assert row.in_support < 0.4


@pytest.mark.slow
def test_diffcps_leaves_the_ring_empty():
    row, panel = trained("diffcps", "DiffCPS, T=15", "ring", 5000)
    assert central(panel) < 0.02
    assert row.in_support > 0.8
    assert row.modes_covered == 36


@pytest.mark.slow
def test_trust_region_stays_in_support_where_kl_distillation_leaves_it():
    for problem in ("gaussians-near", "gaussians-far"):
        row, _ = trained("dtql", "trust region", problem, 3500)
        assert row.in_support > 0.9
        assert row.at_best > 0.9
        assert row.modes_covered == 1
    row, panel = trained("dtql", "KL distillation", "gaussians-far", 2000)
    assert row.in_support < 0.2
    assert np.mean(np.abs(panel.samples).max(axis=1) > 11.5) > 0.3  # the data end there


@pytest.mark.slow
def test_dac_at_the_published_size():
    soft, hard, denoised = (
        trained("dac", guidance, "three", 20_000, "paper")[0] for guidance in ("soft", "hard", "denoised")
    )
    assert soft.in_support > 0.85
    assert soft.in_support > hard.in_support + 0.2 > denoised.in_support
    assert soft.modes_covered >= 2  # two regions are equally good


@pytest.mark.parametrize("name", FIGURES)
def test_paper_preset_has_the_published_constants(name):
    figure = make_figure(name, "paper", KEY)
    hypers = {arm.name: arm.hyper for arm in figure.arms}
    steps = {arm.steps for arm in figure.arms}
    if name == "dac":
        assert steps == {20_000}
        for guidance, hyper in hypers.items():
            assert (hyper.guidance, hyper.bc_threshold, hyper.num_critics, hyper.eta_lr) == (guidance, 1.3, 5, 0.01)
            assert (hyper.hidden_dims, hyper.diffusion_steps, hyper.batch_size) == ((64, 64, 64), 50, 128)
            assert (hyper.actor_lr, hyper.critic_lr, hyper.eta, hyper.rho) == (1e-3, 1e-3, 1.0, 1.0)
    elif name == "dql":
        assert steps == {100_000}
        assert (hypers["Diffusion-QL"].eta, hypers["Diffusion-QL"].diffusion_steps) == (2.5, 50)
        assert (hypers["diffusion BC"].time_dim, hypers["diffusion BC"].hidden_dims) == (4, (128, 128, 128))
        assert {(hyper.actor_lr, hyper.batch_size) for hyper in hypers.values()} == {(3e-4, 100)}
    elif name == "diffcps":
        assert steps == {20_000}
        assert len({hyper.hidden_dims for hyper in hypers.values()}) == 1
    else:
        assert steps == {3_500}
        for arm, hyper in hypers.items():
            assert (hyper.batch_size, hyper.critic_lr, hyper.expectile) == (10_000, 3e-3, 0.95)
            assert hyper.hidden_dims == (256, 256, 256)
            assert hyper.actor_lr == (3e-4 if arm == "KL distillation" else 3e-3)
            assert (hyper.behavior_hidden_dims, hyper.time_dim, hyper.clip_denoised) == ((128,) * 3, 4, False)
        for arm in figure.arms:
            adapted = {p.name: arm.adapt(p, arm.hyper) for p in figure.problems_of(arm)}
            alphas = {problem: hyper.alpha for problem, hyper in adapted.items()}
            assert alphas == {problem: 0.2 if problem == "swiss-far" else 1.0 for problem in adapted}
            assert all(hyper.gamma_nll == 0 for name, hyper in adapted.items() if arm.name == "trust region")
            assert adapted["gaussians-far"].max_action == pytest.approx(np.abs(figure.problems[0].action).max())


def launch(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPOSITORY / "experiments" / "bandit.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.slow  # the launcher's other tests train one arm
def test_launcher_writes_numbers_samples_and_pictures(tmp_path, quickly):
    out = tmp_path / "new" / "toys"
    asked = ("--figure=dql", "--preset=quick", "--steps=3", "--samples=40", f"--out={out}")
    run = launch(*asked, "--format=png,svg")
    assert run.returncode == 0, run.stderr
    with open(out / "numbers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    methods = ["data", "Gaussian BC", "diffusion BC", "Gaussian + Q (TD3+BC)", "Diffusion-QL"]
    assert [row["method"] for row in rows] == methods
    assert float(rows[0]["in_support"]) > 0.9
    assert {row["steps"] for row in rows[1:]} == {"3"}
    with np.load(out / "dql_samples.npz", allow_pickle=False) as arrays:
        assert arrays["corners/data"].shape == (10_000, 2)
        assert arrays["corners/Diffusion-QL"].shape == (40, 2)
    assert (out / "dql.png").read_bytes().startswith(b"\x89PNG")
    assert "3 updates" in (out / "dql.svg").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["dql.png", "dql.svg", "dql_samples.npz", "numbers.csv"]

    before = (out / "numbers.csv").read_bytes()
    again = launch(*asked)
    assert (again.returncode, again.stdout, len(again.stderr.splitlines())) == (2, "", 1)
    assert "choose another --out" in again.stderr
    assert (out / "numbers.csv").read_bytes() == before


def test_launcher_without_matplotlib(tmp_path, monkeypatch, capsys, quickly):
    """No pictures, and the same numbers from the same seed; of one arm, which is soon trained."""

    whole = training.train_figure

    def train_first(figure, *rest):
        return whole(figure._replace(arms=figure.arms[:1]), *rest)

    monkeypatch.setattr(training, "train_figure", train_first)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = []
    for name in ("first", "second"):
        out = tmp_path / name
        asked = ["bandit.py", "--figure=dql", "--preset=quick", "--steps=3", "--samples=40", f"--out={out}"]
        assert cli.run(bandit.COMMAND, asked) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == 'no pictures without matplotlib; install it with pip install "diffjax[plots]"'
        assert sorted(path.name for path in out.iterdir()) == ["dql_samples.npz", "numbers.csv"]
        written.append((out / "numbers.csv").read_bytes())
    assert written[0] == written[1]


def test_launcher_says_which_arms_failed(tmp_path, monkeypatch, capsys):
    def train_figure(figure, seed, num_samples, listener):
        (problem,), (fine, failed, *_) = figure.problems, figure.arms
        samples = problem.action[:num_samples]
        return [Panel(problem, fine, samples, None), Panel(problem, failed, np.full_like(samples, np.nan), None)]

    monkeypatch.setattr(training, "train_figure", train_figure)
    argv = ["bandit.py", "--figure=dql", "--samples=40", "--format=svg", f"--out={tmp_path}"]
    assert cli.run(bandit.COMMAND, argv) == 0
    data, fine, failed = (line.split() for line in capsys.readouterr().out.splitlines()[1:4])
    assert (data[1:3], fine[1:4], failed) == (
        ["corners", "data"],
        ["corners", "Gaussian", "BC"],
        ["dql", "corners", "diffusion", "BC", "failed"],
    )
    with open(tmp_path / "numbers.csv", newline="") as file:
        fine, failed = list(csv.DictReader(file))[1:]
    assert (fine["modes_covered"], failed["modes_covered"], failed["modes"]) == ("1", "", "4")
    assert (failed["in_support"], failed["mean_reward"], failed["reward_at_best"]) == ("nan", "nan", "5")
    assert re.findall(r"<text[^>]*>(failed)</text>", (tmp_path / "dql.svg").read_text()) == ["failed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--figure=dak"], ["--figure", "did you mean dac"]),
        (["--format=gif"], ["--format", "png"]),
    ],
)
def test_launcher_refuses_in_one_line(tmp_path, arguments, words):
    run = launch(*arguments, f"--out={tmp_path / 'out'}")
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert all(word in run.stderr for word in words), run.stderr
    assert not (tmp_path / "out").exists()
