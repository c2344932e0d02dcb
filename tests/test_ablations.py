"""Ablations: every one resolves and can be trained, and its table's columns are what the sweep trains."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from data_tools import random_hdf5
from launcher_tools import mistakes
from method_tools import SPEC, TINY, random_batches, tiny

from diffjax.commands.sweep import COMMAND
from diffjax.errors import UserError
from diffjax.experiment import ablations
from diffjax.experiment.ablations import columns, default_tasks, get_ablation, published_column, settings_of
from diffjax.experiment.plan import Experiment, Plan, plan
from diffjax.experiment.settings import PRESETS, check_overrides, parse_setting
from diffjax.launch import cli
from diffjax.results.published_columns import printed_scores
from diffjax.tasks.registry import get_task

NAMES = ablations.ablation_names()
MINI = "pendulum-mixed"
REPOSITORY = Path(__file__).parents[1]


def trained(name: str, task: str, preset: str) -> list[Plan]:
    """What a sweep trains for an ablation on a task, everything looked up and checked."""
    ablation = get_ablation(name)
    found = []
    for entry in ablation.methods:
        method, _, variant = entry.partition(":")
        settings = settings_of(ablation, method, variant, task, preset)
        found.append(plan(Experiment(method, task, Path("x"), variant, preset, settings=settings, ablation=name)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_resolves(name):
    ablation = get_ablation(name)
    assert ablation.tasks_from in ("the paper", "this project")
    labels = [column.label for column in columns(ablation, MINI)]
    assert len(set(labels)) == len(labels) > 1
    tasks = [get_task(task).id for task in default_tasks(ablation)]
    assert tasks
    for task in (*tasks, MINI):
        for preset in PRESETS:
            here = columns(ablation, task, preset)
            assert [column.label for column in here] == labels
            assert len({column[:3] for column in here}) == len(here)
            plans = trained(name, task, preset)
            runs = [
                (each.experiment.method, each.variant, run.setting)
                for each in plans
                for g in each.groups
                for run in g.runs
            ]
            assert sorted(runs) == sorted(column[:3] for column in here)
        assert published_column(ablation, MINI) is None
    for word in (ablation.symbol, *ablation.parameters, ablation.reported, ablation.source):
        assert word in ablations.caption(ablation)


@pytest.mark.parametrize("name", NAMES)
def test_every_column_traces(name):
    """Initialisation, an update of each phase and an action of every program of the ablation, by shapes alone."""
    programs = {}
    for column in columns(get_ablation(name), "hopper-medium-v2"):
        changes = check_overrides(column.method, column.variant, parse_setting(column.setting))
        method, hyper = tiny(column.method, column.variant, **changes)
        programs[column.method, jax.tree.structure(hyper)] = (method, hyper)
    for method, hyper in programs.values():
        start, draw_key = jax.random.key(0), jax.random.key(1)
        state = jax.eval_shape(lambda key: method.init(key, SPEC, hyper), start)  # noqa: B023
        for phase in method.phases:

            def update(key, state, batches, phase=phase, hyper=hyper):
                return phase.update(phase.draw(key, SPEC, hyper), jnp.int32(0), state, hyper, batches)

            after, metrics = jax.eval_shape(update, draw_key, state, random_batches(method, hyper))
            assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
                lambda x: (x.shape, x.dtype), state
            )
            assert metrics
        observation = jnp.zeros(SPEC.observation_dim)
        action = jax.eval_shape(lambda key, s: method.sample_action(key, SPEC, s, hyper, observation), draw_key, state)  # noqa: B023
        assert action.shape == (SPEC.action_dim,)


def test_columns_of_an_absolute_grid():
    ablation = get_ablation("dac_ensemble")
    assert columns(ablation, "hopper-medium-v2") == (
        ("dac", "default", "num_critics=2", "2"),
        ("dac", "default", "num_critics=5", "5"),
        ("dac", "default", "num_critics=10", "10"),
    )
    assert columns(ablation, MINI, "quick") == columns(ablation, "hopper-medium-v2")
    assert ablations.caption(ablation).startswith("DAC: size of the critic ensemble. Columns: H (num_critics); * marks")


def test_columns_of_factors_are_multiples_of_each_tasks_own():
    ablation = get_ablation("dtql_alpha")
    of = lambda task, preset="paper": [column.setting for column in columns(ablation, task, preset)]  # noqa: E731
    assert of("hopper-medium-expert-v2") == ["alpha=4", "alpha=10", "alpha=20", "alpha=40", "alpha=100"]
    assert of("halfcheetah-medium-v2") == ["alpha=0.2", "alpha=0.5", "alpha=1", "alpha=2", "alpha=5"]
    assert of(MINI, "quick") == ["alpha=0.06", "alpha=0.15", "alpha=0.3", "alpha=0.6", "alpha=1.5"]
    assert [column.label for column in columns(ablation, MINI)] == ["×0.2", "×0.5", "×1", "×2", "×5"]


def test_columns_of_several_methods_and_of_several_switches():
    terms = get_ablation("diffpogan_terms")
    assert [(column.setting, column.label) for column in columns(terms, MINI)] == [
        ("discriminator_weighting=true;adversarial_term=true", "full"),
        ("discriminator_weighting=true;adversarial_term=false", "no adversarial term"),
        ("discriminator_weighting=false;adversarial_term=true", "no discriminator weight"),
        ("discriminator_weighting=false;adversarial_term=false", "neither"),
    ]
    two = dataclasses.replace(terms, methods=("diffcps", "diffpogan:paper"), values={}, labels=())
    assert columns(two, MINI) == (
        ("diffcps", "default", "", "diffcps"),
        ("diffpogan", "paper", "", "diffpogan:paper"),
    )
    both = dataclasses.replace(two, values={"diffusion_steps": (5, 10)})
    assert [column.label for column in columns(both, MINI)] == [
        "diffcps, 5", "diffcps, 10", "diffpogan:paper, 5", "diffpogan:paper, 10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "task", "place"),
    [
        ("dac_guidance", "hopper-medium-v2", 0),
        ("dac_ensemble", "hopper-medium-v2", 2),
        ("dac_sample_target", "hopper-medium-v2", 0),
        ("dac_sample_target", "antmaze-umaze-v0", 1),
        ("dac_sample_target", "antmaze-umaze-v2", 1),
        ("dtql_nll", "antmaze-umaze-v0", 1),
        ("dtql_alpha", "hopper-medium-expert-v2", 2),
        ("diffcps_kappa", "antmaze-umaze-diverse-v0", 2),
        ("diffcps_lambda_min", "antmaze-umaze-v0", 2),
        ("diffcps_policy_interval", "antmaze-large-play-v0", 2),
        ("diffcps_steps", "pen-human-v1", None),
        ("diffpogan_terms", "hopper-medium-v2", 0),
    ],
)
def test_the_published_column(name, task, place):
    assert published_column(get_ablation(name), task) == place


def test_published_values_are_none_of_the_quick_presets_multiples():
    assert (
        published_column(get_ablation("dtql_alpha"), "hopper-medium-v2", "quick") == 2
    )  # quick keeps the task's alpha
    ablation = dataclasses.replace(get_ablation("dac_target"), values={}, factors={"eta_lr": (1, 2)})
    assert published_column(ablation, "hopper-medium-v2") == 0
    assert published_column(ablation, "hopper-medium-v2", "quick") is None


def test_scores_that_the_papers_print():
    steps = get_ablation("diffcps_steps")
    assert printed_scores(steps, group="locomotion") == (92.0, 87.5, 87.6)
    assert printed_scores(steps, group="antmaze") == (80.0, 60.7, 66.7)
    assert printed_scores(steps, task="hopper-medium-v2") == (None, None, None)
    target = get_ablation("dac_target")
    assert printed_scores(target, task="halfcheetah-medium-expert-v2") == (99.1, 43.2)
    assert printed_scores(get_ablation("dac_ensemble"), group="locomotion") == (None, None, None)
    assert all(len(a.study_settings) in (0, len(columns(a, MINI))) for a in (steps, target))


def test_default_tasks():
    assert default_tasks(get_ablation("dac_ensemble"))[0] == "hopper-medium-v2"
    steps = default_tasks(get_ablation("diffcps_steps"))
    assert len(steps) == 15
    assert steps[-1] == "antmaze-large-diverse-v0"


def test_unknown_names_are_answered_with_close_ones():
    with pytest.raises(UserError, match="did you mean dac_target"):
        get_ablation("dac_targets")
    with pytest.raises(UserError, match=r"one of: dac_guidance, .*diffpogan_steps"):
        get_ablation("zzz")


# The launcher.


def sweep(*arguments: object) -> int:
    return cli.run(COMMAND, ["sweep.py", *map(str, arguments)])


@pytest.fixture(scope="module")
def pendulum_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few random transitions of the embedded pendulum."""
    task = get_task(MINI)
    path = tmp_path_factory.mktemp("data") / "pendulum_tiny.hdf5"
    return random_hdf5(path, task.observation_dim, task.action_dim)


def small(path: Path, out: Path, name: str) -> list[object]:
    """A sweep of a few updates; fields that a method does not have are left out."""
    sizes = TINY | {"hidden_dims": (8,)}
    names = set.intersection(
        *({f.name for f in dataclasses.fields(p.groups[0].runs[0].hyper)} for p in trained(name, MINI, "quick"))
    )
    varied = get_ablation(name).parameters
    sets = [
        f"--set={key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in sizes.items()
        if key in names and key not in varied
    ]
    common = ["--preset=quick", "--steps=2", "--eval_interval=2", "--episodes=2", f"--task={MINI}"]
    return [f"--ablation={name}", f"--dataset={path}", f"--out={out}", *common, *sets]


def test_a_sweep_of_an_ablation(pendulum_file, tmp_path, capsys):
    arguments = small(pendulum_file, tmp_path / "kappa", "diffcps_kappa")
    assert sweep(*arguments) == 0
    folder = tmp_path / "kappa" / MINI / "diffcps"
    config = json.loads((folder / "config.json").read_text())
    assert config["ablation"] == "diffcps_kappa"
    assert config["settings"] == [column.setting for column in columns(get_ablation("diffcps_kappa"), MINI, "quick")]
    assert sweep(*arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert sweep(*arguments, "--resume") == 0
    # The same settings outside the ablation are another experiment: its table would be another.
    grid = ["--grid=kappa=0.0125,0.025,0.05,0.1,0.2", "--methods=diffcps"]
    assert sweep(*arguments[1:], *grid, "--resume") == 2
    assert 'ablation is "diffcps_kappa" there and absent now' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_trains(pendulum_file, tmp_path, name):
    assert sweep(*small(pendulum_file, tmp_path / name, name)) == 0
    for folder in (tmp_path / name / MINI).iterdir():
        status = json.loads((folder / "status.json").read_text())["runs"]
        assert {run["status"] for run in status} == {"complete"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ablation=dac_targets"], ["unknown ablation", "dac_target"]),
        (["--ablation=dac_target", "--methods=dac"], ["--methods", "--ablation"]),
        ([f"--task={MINI}"], ["--methods", "--ablation"]),
        (["--ablation=dac_target", "--grid=rho=0,1"], ["--ablation=dac_target", "--grid"]),
        (["--ablation=dac_ensemble", "--set=num_critics=3"], ["varies num_critics", "--set"]),
        (["--ablation=dac_ensemble", "--suite=mini", f"--task={MINI}"], ["--suite", "--task"]),
        (["--ablation=dac_ensemble", "--task=pendulum-mixt"], ["unknown task", MINI]),
    ],
)
def test_bad_requests_are_one_line(tmp_path, capsys, arguments, words):
    assert sweep(*arguments, f"--out={tmp_path / 'out'}") == 2
    lines = mistakes(capsys.readouterr().err)
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]
    assert not (tmp_path / "out").exists()


def test_an_ablations_own_tasks_and_the_users(tmp_path, capsys):
    assert sweep("--ablation=dac_ensemble", "--status", f"--out={tmp_path}/out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split(":")[0]).parent.name for line in lines] == list(default_tasks(get_ablation("dac_ensemble")))
    assert sweep("--ablation=dac_ensemble", "--suite=mini", "--status", f"--out={tmp_path}/out") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_listing_says_what_each_varies():
    lines = ablations.listing().splitlines()
    assert len(lines) == len(NAMES)
    assert "  dac_target" in lines[3]
    assert lines[3].endswith("dac ensemble_target=lcb,min")
    assert "alpha=own ×0.2,0.5,1,2,5" in ablations.listing()
