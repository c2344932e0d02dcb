"""Ranges of hyper-parameters and protocol: each field states one, and what lies outside is said in one line."""

import dataclasses
import math
import re

import pytest

from diffjax.errors import UserError
from diffjax.experiment.settings import Protocol, check_overrides, load_tables, resolve
from diffjax.methods import dac, dtql
from diffjax.methods.base import check_hyper
from diffjax.methods.registry import METHODS
from diffjax.ranges import Range, check_fields

# A mapping that the methods' phases fill has no default of its own; its range is tested below.
FIELDS = lambda type_: [field for field in dataclasses.fields(type_) if field.default is not dataclasses.MISSING]  # noqa: E731
TYPES = [Protocol, *{method.hyper: None for variants in METHODS.values() for method in variants.values()}]


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__module__)
def test_every_field_says_what_it_may_be_and_its_default_is(type_):
    for field in FIELDS(type_):
        if isinstance(field.default, str):
            assert field.default in field.metadata["choices"], field.name
        elif not isinstance(field.default, bool):
            assert field.metadata["range"] != Range(), field.name
    check_fields(type_())


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__module__)
def test_nothing_takes_a_nan_and_only_what_is_infinite_by_default_an_infinity(type_):
    for field in FIELDS(type_):
        if isinstance(field.default, float):
            for value in (math.nan, math.inf, -math.inf):
                if value != field.default:
                    with pytest.raises(UserError, match=f"^{field.name}={value} is out of range"):
                        check_fields(dataclasses.replace(type_(), **{field.name: value}))


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(above=0), (1e-9, 3.0), (0.0, -1.0, 1e-60)),
        (Range(at_least=0, at_most=1), (0.0, 1.0), (-1e-9, 1.5)),
        (Range(above=0, below=1), (0.5,), (0.0, 1.0, 0.99999999999)),
        (Range(at_least=4, multiple_of=2), (4, 16), (2, 5, 0, -4)),
        (Range(at_least=1), (1, (3, 1)), (0, (3, 0), (-8, 8))),
        (Range(at_least=0), (3e38,), (3.5e38, math.inf, math.nan)),
    ],
)
def test_bounds(limits, inside, outside):
    for value in inside:
        limits.check("rate", value)
    for value in outside:
        with pytest.raises(UserError, match=r"^rate=.* is out of range"):
            limits.check("rate", value)


@pytest.mark.parametrize(
    ("method", "name", "text", "right"),
    [
        ("dac", "actor_lr", "-1", "it must be above 0"),
        ("dac", "tau", "2", "it must be above 0 and at most 1"),
        ("dac", "discount", "5", "it must be at least 0 and at most 1"),
        ("dac", "eta_min", "200", "it must be at least 0 and at most eta_max (100)"),
        ("dac", "eta_max", "1e+39", "it must be above 0 and within ±3.4e+38"),
        ("dac", "critic_lr", "1e-60", "it must be above 0 and so when rounded to float32"),
        ("dac", "batch_size", "3000000000", "it must be at least 1 and at most 2147483647"),
        ("dac", "ema_start", "-1", "it must be at least 0"),
        ("dac", "hidden_dims", "-8,8", "each must be at least 1"),
        ("dac", "hidden_dims", "0", "each must be at least 1"),
        ("dtql", "sigma_min", "80", "it must be above 0 and below sigma_max (80)"),
        ("dtql", "time_dim", "1", "it must be at least 4 and a multiple of 2"),
        ("dtql", "expectile", "1", "it must be above 0 and below 1"),
        ("dtql", "action_clip", "0", "it must be above 0"),
        ("dtql", "pretrain_steps", "-1", "it must be at least 0 and at most 1e+09"),
        ("diffcps", "lambda_min", "101", "it must be at least 0 and at most lambda_max (100)"),
        ("dql", "ema_decay", "2", "it must be at least 0 and below 1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(method, name, text, right):
    with pytest.raises(UserError, match=f"^{name}={re.escape(text)} is out of range: {re.escape(right)}$"):
        resolve(method, "pendulum-mixed", overrides=check_overrides(method, "", {name: text}))


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        *(("batch_size", text, "an integer") for text in ("1e400", "nan", "0x10", "2.5", "1e-3", "")),
        *(("eta", text, "a number") for text in ("much", "0x10", "", "1,5")),
        *(("hidden_dims", text, "integers such as 256,256") for text in ("[8,8", "8,8)", "8,,8", "8 8", "(8]", "1e2")),
        ("clip_denoised", "yes", "true or false"),
    ],
)
def test_a_value_of_another_kind_is_refused(name, text, kind):
    method = "dtql" if name == "clip_denoised" else "dac"
    with pytest.raises(UserError, match=f"^{name}={re.escape(text)} is not {kind}$"):
        check_overrides(method, "", {name: text})


def test_values_at_an_edge_that_have_a_meaning_are_taken():
    values = {
        "eta_lr": 0.0,
        "max_grad_norm": 0.0,
        "lr_decay_steps": 0.0,
        "temperature": 0.0,
        "discount": 1.0,
        "tau": 1.0,
    }
    assert vars(resolve("dac", "pendulum-mixed", overrides=values).hyper).items() >= values.items()
    assert resolve("dtql", "pendulum-mixed", overrides={"behavior_hidden_dims": ()}).hyper.behavior_hidden_dims == ()
    for text in ("()", "[]"):
        with pytest.raises(UserError, match=r"^hidden_dims is empty; .* hidden_dims=256,256$"):
            resolve("dac", "pendulum-mixed", overrides=check_overrides("dac", "", {"hidden_dims": text}))
    with pytest.raises(UserError, match=r"^pretrain_steps=2.5 is neither a whole number nor below 1"):
        resolve("dtql", "pendulum-mixed", overrides={"pretrain_steps": 2.5})
    assert check_overrides("dtql", "", {"behavior_hidden_dims": "()", "hidden_dims": "[8, 8]"}) == {
        "behavior_hidden_dims": (),
        "hidden_dims": (8, 8),
    }
    assert Protocol().action_clip == math.inf


def test_hyper_parameters_made_by_hand_are_checked_the_same():
    check_hyper(dac.Hyper(eta=1, hidden_dims=(8,)))
    for wrong, words in (
        (dac.Hyper(num_critics=2.5), "num_critics=2.5 is not an integer"),
        (dac.Hyper(num_critics=True), "num_critics=True is not an integer"),
        (dac.Hyper(hidden_dims=8), "hidden_dims=8 is not integers"),
        (dac.Hyper(guidance="sof"), "unknown guidance 'sof'; did you mean soft"),
        (dac.Hyper(guidance=None), "guidance=None is not a name"),
        (dac.Hyper(eta="1"), "eta=1 is not a number"),
        (dtql.Hyper(clip_denoised=1), "clip_denoised=1 is not true or false"),
        (dtql.Hyper(sigma_max=0.001), r"sigma_min=0.002 .* below sigma_max \(0.001\)"),
    ):
        with pytest.raises(UserError, match=words):
            check_hyper(wrong)


def test_a_table_need_not_repeat_the_protocol(monkeypatch):
    """What a table leaves out has the default that the protocol declares."""
    tables = load_tables("bc")
    monkeypatch.setattr("diffjax.experiment.settings.load_tables", lambda method: tables | {"common": {"source": "x"}})
    assert resolve("bc", "hopper-medium-v2").protocol == Protocol()
