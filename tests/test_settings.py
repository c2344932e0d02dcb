"""Tables of hyper-parameters: every row builds, and the layers merge as each table's head says."""

import dataclasses
import math

import pytest

from diffjax.errors import UserError
from diffjax.experiment.settings import PRESETS, check_overrides, load_tables, parse_setting, resolve
from diffjax.methods.registry import METHODS
from diffjax.tasks.registry import tasks

ROWS = [(method, task) for method in METHODS for task in load_tables(method).get("task", {})]


@pytest.mark.parametrize("method", METHODS)
def test_a_published_row_is_of_a_task_that_exists(method):
    tables = load_tables(method)
    for rows in (tables, *tables.get("variant", {}).values()):
        assert set(rows.get("task", {})) <= set(tasks())


@pytest.mark.parametrize("method", METHODS)
def test_every_pair_builds(method):
    rows = [*load_tables(method).get("task", {}), *tasks(), "door-expert-v1", "maze2d-large-v1", "kitchen-new-v0"]
    for task in rows:
        for preset in PRESETS:
            for variant in METHODS[method]:
                settings = resolve(method, task, preset, variant)
                assert settings.protocol.steps > 0
                assert settings.source


@pytest.mark.parametrize(
    ("method", "task", "expected"),
    [
        ("dac", "hopper-medium-expert-v2", {"bc_threshold": 0.05, "rho": 1.5, "eta_lr": 1e-3, "sample_target": "mean"}),
        ("dac", "antmaze-large-play-v0", {"eta": 0.1, "eta_lr": 0.0, "rho": 1.1, "critic_lr": 1e-3}),
        ("dac", "antmaze-umaze-v0", {"rho": 1.0, "critic_lr": 3e-4, "sample_target": "max"}),
        ("dtql", "hopper-medium-v2", {"actor_lr": 1e-4, "alpha": 5.0, "lr_decay_steps": 1e6, "candidates": 1024}),
        ("dtql", "antmaze-large-diverse-v0", {"alpha": 0.5, "gamma_nll": 1.0, "batch_size": 2048, "expectile": 0.9}),
        ("dtql", "pen-cloned-v1", {"actor_lr": 1e-5, "alpha": 1500.0, "expectile": 0.7}),
        ("diffcps", "walker2d-medium-v2", {"kappa": 0.03, "max_grad_norm": 1.0, "policy_interval": 2}),
        ("diffcps", "antmaze-large-play-v0", {"policy_interval": 4, "lambda_init": 0.5, "lambda_min": 0.3}),
        ("diffpogan", "antmaze-large-play-v0", {"actor_lr": 1e-4, "policy_interval": 2, "max_q_backup": True}),
        ("cql", "hopper-medium-v2", {"cql_alpha": 10.0, "lagrange": False, "actor_lr": 3e-5, "critic_layers": 3}),
        ("cql", "antmaze-large-play-v2", {"cql_alpha": 5.0, "lagrange": True, "action_gap": 0.8, "critic_layers": 5}),
        ("cql", "pen-cloned-v1", {"cql_alpha": 1.0, "lagrange": False, "actor_lr": 1e-4}),
        ("dql", "pen-human-v1", {"eta": 0.15, "actor_lr": 3e-5, "max_grad_norm": 7.0}),
    ],
)
def test_published_rows(method, task, expected):
    settings = resolve(method, task)
    assert settings.tuning == "published"
    assert {name: getattr(settings.hyper, name) for name in expected} == expected


def test_rows_stand_in_for_tasks_without_one():
    assert resolve("dac", "hopper-medium-local").hyper == resolve("dac", "hopper-medium-v2").hyper
    assert resolve("dtql", "antmaze-umaze-v2").hyper == resolve("dtql", "antmaze-umaze-v0").hyper
    untuned = resolve("diffcps", "maze2d-umaze-v1")
    assert untuned.tuning == "untuned"
    assert untuned.hyper == resolve("diffcps", "antmaze-medium-diverse-v0").hyper
    assert resolve("dac", "hopper-medium-v2", "quick").tuning == "quick"


def test_protocols_follow_the_papers():
    dac = resolve("dac", "hopper-medium-v2").protocol
    assert (dac.reward, dac.sampling, dac.eval_interval, dac.episodes, dac.selection) == (
        "dac_iql_locomotion",
        "shuffled",
        10_000,
        10,
        "last5",
    )
    assert dac.action_clip == pytest.approx(1 - 1e-5, abs=1e-12)
    dtql = resolve("dtql", "antmaze-umaze-v0").protocol
    assert (dtql.reward, dtql.phase_steps["pretrain"], dtql.steps, dtql.episodes) == (
        "iql_antmaze",
        50_000,
        500_000,
        100,
    )
    assert resolve("diffcps", "hopper-medium-v2").protocol.selection == "best"


@pytest.mark.parametrize(
    ("own", "published"),
    [("hopper-medium-local", "hopper-medium-v2"), ("maze2d-umaze-local", "maze2d-umaze-v1")],
)
def test_local_tasks_use_the_row_of_the_task_of_their_name(own, published):
    for method in ("dac", "dtql", "diffcps", "diffpogan"):
        assert resolve(method, own).hyper == resolve(method, published).hyper
    assert resolve("diffpogan", own).tuning == resolve("diffpogan", published).tuning == "published"


def test_variants():
    assert resolve("dtql", "hopper-medium-v2", variant="one_action").hyper.candidates == 1
    paper = resolve("diffpogan", "hopper-medium-v2", variant="paper").hyper
    assert (paper.divergence, paper.policy_interval) == ("ga", 1)


def test_a_variant_with_rows_of_its_own_reads_those_alone():
    """Its common section and rows stand in the place of the method's; the quick ones, of which it has none, stay."""
    corl = resolve("iql", "hopper-medium-expert-v2", variant="corl")
    assert (corl.tuning, corl.hyper.expectile, corl.hyper.beta) == ("published", 0.5, 6.0)
    assert (corl.protocol.reward, corl.protocol.observation, corl.protocol.action_clip) == (
        "raw",
        "standardized",
        math.inf,
    )
    own = resolve("iql", "hopper-medium-expert-v2")
    assert (own.hyper.beta, own.protocol.action_clip, own.protocol.observation) == (3.0, 0.99999, "")
    assert resolve("iql", "kitchen-mixed-v0", variant="corl").tuning == "untuned"
    untuned = resolve("iql", "antmaze-umaze-v0", variant="corl")
    assert (untuned.tuning, untuned.hyper) == ("untuned", resolve("iql", "antmaze-umaze-v2", variant="corl").hyper)
    quick = resolve("iql", "pendulum-mixed", "quick", "corl")
    assert (quick.hyper.batch_size, quick.hyper.simultaneous) == (64, True)


@pytest.mark.parametrize(
    ("variant", "task", "hyper", "protocol"),
    [
        ("td3", "hopper-medium-v2", ("dpm", 1000, 10, 5.0), ("raw", 2_000_000)),
        ("td3", "antmaze-large-play-v0", ("dpm", 1000, 10, 10.0), ("cql_antmaze", 1_000_000)),
        ("crr", "kitchen-partial-v0", ("dpm", 1000, 10, 10.0), ("limits", 1_000_000)),
        ("iql", "hopper-medium-v2", ("dpm", 1000, 10, 5.0), ("dac_iql_locomotion", 2_000_000)),
        ("iql", "antmaze-large-play-v0", ("dpm", 1000, 10, 10.0), ("iql_antmaze", 1_000_000)),
        ("code", "hopper-medium-v2", ("ancestral", 100, 50, 9.0), ("raw", 2_000_000)),
        ("code", "pen-human-v1", ("ancestral", 100, 50, 7.0), ("limits", 2_000_000)),
    ],
)
def test_sections_of_a_variant_stand_in_the_place_of_the_methods(variant, task, hyper, protocol):
    """EDP's variants of paper and program."""
    found = resolve("edp", task, variant=variant)
    names = ("sampler", "diffusion_steps", "candidates", "max_grad_norm")
    assert tuple(getattr(found.hyper, name) for name in names) == hyper
    assert (found.protocol.reward, found.protocol.steps, found.protocol.selection) == (*protocol, "last10")
    assert found.tuning == "published"


def test_overrides_are_typed():
    values = check_overrides(
        "dac",
        "default",
        {"eta": "0.5", "num_critics": "1e1", "hidden_dims": "32,16", "guidance": "hard", "steps": "100"},
    )
    assert values == {"eta": 0.5, "num_critics": 10, "hidden_dims": (32, 16), "guidance": "hard", "steps": 100}
    settings = resolve("dac", "hopper-medium-v2", overrides=values)
    assert settings.hyper.hidden_dims == (32, 16)
    assert settings.protocol.steps == 100
    assert parse_setting("eta=0.5;rho=1") == {"eta": "0.5", "rho": "1"}
    assert parse_setting("") == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"et": "1"}, ["setting of dac", "'et'", "eta"]),
        ({"eta": "much"}, ["eta=much", "a number"]),
        ({"num_critics": "2.5"}, ["num_critics=2.5", "an integer"]),
        ({"num_critics": "0"}, ["num_critics", "at least 1"]),
        ({"guidance": "sof"}, ["guidance", "'sof'", "soft"]),
        ({"schedule": "vpp"}, ["schedule", "vp"]),
        ({"steps": "0"}, ["steps", "at least 1"]),
        ({"reward": "raww"}, ["reward", "raw"]),
        ({"sampling": "none"}, ["sampling", "uniform"]),
        ({"eta": "nan"}, ["eta=nan", "finite"]),
    ],
)
def test_bad_overrides_are_one_line(overrides, words):
    with pytest.raises(UserError) as caught:
        resolve("dac", "hopper-medium-v2", overrides=check_overrides("dac", "default", overrides))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("method", METHODS)
def test_plain_fields_are_numbers(method):
    """Plain fields become traced arrays, so names and shapes must be static."""
    for variant in METHODS[method].values():
        for field in dataclasses.fields(variant.hyper):
            if field.metadata.get("pytree_node", True):
                assert type(field.default) in (int, float), field.name
