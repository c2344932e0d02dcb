"""Published numbers: every place a table can ask for exists, sums hold, what is only remembered stays apart."""

import itertools
import math
from statistics import fmean

import pytest

from diffjax.methods.registry import METHODS
from diffjax.results import published
from diffjax.results.published import Average, Score
from diffjax.tasks.registry import suite_tasks, tasks

EVERYTHING = published.scores(unverified=True)
DIFFERENTLY_PRINTED = {  # (table, method, group): computed from the table's own rows, to two places
    ("diffcps-1", "cql", "locomotion"): 63.81,  # prints 63.9
    ("diffcps-1", "iql", "locomotion"): 76.96,  # prints 76.9
    ("diffcps-1", "diffcps", "locomotion"): 92.27,  # prints 92.26
    ("dql-online", "dql", "locomotion"): 89.38,  # 89.3, remembered
}
WITHOUT_ROWS = {("momaql", "diffusion_bc", "locomotion")}


def one(method: str, task: str, table: str) -> Score:
    (found,) = (each for each in EVERYTHING if (each.method, each.task, each.table) == (method, task, table))
    return found


def decimals(value: float) -> int:
    return len(str(value).partition(".")[2])


def test_every_task_method_and_table_exists() -> None:
    assert {score.task for score in EVERYTHING} <= set(tasks())
    assert {task for members in published.groups().values() for task in members} <= set(tasks())
    assert {each.task for each in published.ablations()} <= {"", *tasks()}
    printed = (*EVERYTHING, *published.averages(True), *published.ablations(), *published.timings())
    assert {each.table for each in printed} | {"dac-curves"} == set(published.sources())
    assert {each.own for each in published.sources().values()} <= {"", *METHODS}
    lower = {each.method for each in printed if each.method == each.method.lower()}
    assert lower <= set(METHODS)


def test_the_groups_are_the_projects_suites() -> None:
    for (_, group), members in published.groups().items():
        suite = "antmaze-v0" if group == "antmaze" else group
        assert sorted(members) == sorted(suite_tasks(suite))
        assert len(set(members)) == len(members)
    assert published.groups()["dac-1", "locomotion"] == suite_tasks("locomotion")
    assert published.groups()["diffcps-1", "locomotion"][0] == "halfcheetah-medium-expert-v2"
    for average in published.averages(unverified=True):
        assert (average.table, average.group) in published.groups()
    for each in published.ablations():
        assert (each.task == "") != (each.group == "")
        assert each.task or (each.table, each.group) in published.groups()


def test_no_place_is_printed_twice() -> None:
    places = [(score.method, score.task, score.table) for score in EVERYTHING]
    assert len(set(places)) == len(places)


def test_what_is_only_remembered_comes_out_on_request_alone() -> None:
    assert {score.verified for score in published.scores()} == {"yes"}
    remembered = EVERYTHING[len(published.scores()) :]
    assert {score.verified for score in remembered} == {"mean only", "no"}
    assert not {score.table for score in published.scores()} & {score.table for score in remembered}
    assert all(average.verified for average in published.averages())
    shown = {published.preferred(score.method, score.task) for score in EVERYTHING}
    assert {score.verified for score in shown if score is not None} == {"yes"}
    assert published.preferred("dtql", "antmaze-umaze-v0") is None
    assert published.preferred("dtql", "antmaze-umaze-v0", unverified=True) == one("dtql", "antmaze-umaze-v0", "dtql-1")
    assert published.preferred("dac", "hopper-medium-v2", unverified=True) == one(
        "dac", "hopper-medium-v2", "dac-readme"
    )


def test_where_only_the_spread_is_remembered_the_mean_is_that_of_a_verified_row() -> None:
    for score in EVERYTHING:
        if score.verified == "mean only":
            assert score.spread is not None
            assert score.mean in {
                each.mean for each in published.scores() if (each.method, each.task) == (score.method, score.task)
            }


def test_columns_hold_what_they_may() -> None:
    for score in EVERYTHING:
        assert score.protocol in ("last5", "last10", "last", "best", "offline", "unknown")
        assert score.spread_kind in ("none", "std", "population std", "se", "unknown")
        assert (score.spread is None) == (score.spread_kind == "none")
        assert score.data_version in ("v0", "v1", "v2", "mixed or unknown")
        assert -10 <= score.mean <= 250
        assert score.episodes in (None, 5, 10, 20, 50, 100, 150)
        assert score.source
    assert {score.same_version for score in EVERYTHING} == {True, False}
    assert all(timing.value_max is None or timing.value_max > timing.value for timing in published.timings())


@pytest.mark.parametrize(
    ("method", "task", "table", "mean", "spread", "spread_kind", "protocol", "data_version"),
    [
        ("dac", "antmaze-large-play-v0", "dac-readme", 50.3, None, "none", "last5", "v0"),
        ("dac", "walker2d-medium-expert-v2", "dac-readme", 113.6, None, "none", "last5", "v2"),
        ("dac", "halfcheetah-medium-v2", "dac-1", 59.1, 0.4, "population std", "last5", "v2"),
        ("dql", "hopper-medium-v2", "ofql-1", 90.5, 4.6, "std", "offline", "v2"),
        ("dql", "antmaze-large-diverse-v0", "ofql-1", 56.6, 7.6, "std", "offline", "v0"),
        ("dql", "antmaze-large-diverse-v0", "diffcps-1", 57.3, None, "none", "unknown", "v0"),
        ("dql", "antmaze-umaze-v0", "diffcps-1", 93.4, None, "none", "offline", "v0"),
        ("dql", "halfcheetah-medium-v2", "doser-1", 51.5, None, "none", "unknown", "v2"),
        ("dql", "halfcheetah-medium-v2", "dql-online", 51.5, 0.3, "std", "best", "v2"),
        ("diffcps", "halfcheetah-medium-v2", "diffcps-1", 71.0, 0.5, "std", "best", "v2"),
        ("diffcps", "antmaze-large-diverse-v0", "diffcps-1", 63.6, 3.9, "std", "best", "v0"),
        ("cql", "walker2d-medium-replay-v2", "diffcps-1", 26.7, None, "none", "unknown", "v0"),
        ("cql", "walker2d-medium-replay-v2", "doser-1", 77.2, None, "none", "unknown", "v2"),
        ("DD", "hopper-medium-replay-v2", "diffcps-1", 100.0, None, "none", "unknown", "mixed or unknown"),
        ("dtql", "pen-cloned-v1", "doser-1", 81.3, None, "none", "last", "v1"),
        ("dtql", "kitchen-partial-v0", "dtql-1", 74.4, 0.3, "se", "last", "v0"),
        ("dtql", "antmaze-umaze-v0", "dtql-other", 92.6, None, "none", "unknown", "mixed or unknown"),
        ("ACL-QL", "hopper-medium-expert-v2", "doser-1", 107.2, None, "none", "unknown", "mixed or unknown"),
        ("bc", "antmaze-medium-diverse-v0", "ofql-1", 0.8, None, "none", "unknown", "mixed or unknown"),
        ("bc", "antmaze-medium-diverse-v0", "dql-1", 0.0, None, "none", "unknown", "v0"),
        ("BRAC-v", "pen-cloned-v1", "dql-1", -2.5, None, "none", "unknown", "v1"),
        ("AWR", "kitchen-partial-v0", "dql-1", 15.4, None, "none", "unknown", "v0"),
        ("cql", "pen-cloned-v1", "corl-last", 1.04, 6.62, "population std", "last", "v1"),
        ("rebrac", "antmaze-large-diverse-v2", "corl-best", 69.5, 7.26, "population std", "best", "v2"),
        ("10% BC", "hopper-medium-v2", "corl-last", 55.48, 7.3, "population std", "last", "v2"),
        ("idql", "hopper-medium-v2", "idql-1", 65.4, None, "none", "unknown", "v2"),
        ("IDQL-1", "hopper-medium-v2", "idql-1", 63.1, None, "none", "unknown", "v2"),
        ("edp", "hopper-medium-v2", "edp-2", 81.9, None, "none", "last10", "v2"),
        ("diffuser", "hopper-medium-v2", "diffuser-readme", 74.3, 1.36, "se", "last", "v2"),
    ],
)
def test_single_numbers(method, task, table, mean, spread, spread_kind, protocol, data_version) -> None:
    found = one(method, task, table)
    assert (found.mean, found.spread, found.spread_kind) == (mean, spread, spread_kind)
    assert (found.protocol, found.data_version) == (protocol, data_version)


def test_seeds_and_episodes_are_those_of_the_papers() -> None:
    printed = {
        ("dac", "antmaze-umaze-v0", "dac-readme"): (8, 10),
        ("dtql", "hopper-medium-v2", "doser-1"): (5, 10),
        ("diffcps", "antmaze-umaze-v0", "diffcps-1"): (5, 100),
        ("iql", "antmaze-umaze-v0", "diffcps-1"): (None, None),
    }
    for place, (seeds, episodes) in printed.items():
        assert (one(*place).seeds, one(*place).episodes) == (seeds, episodes)


@pytest.mark.parametrize(
    ("method", "task", "table"),
    [
        ("dac", "hopper-medium-v2", "dac-readme"),  # the only one
        ("diffcps", "hopper-medium-v2", "diffcps-1"),
        ("dql", "antmaze-large-diverse-v0", "ofql-1"),  # the first quotation
        ("dql", "antmaze-umaze-v0", "diffcps-1"),  # which the first does not quote
        ("cql", "hopper-medium-v2", "doser-1"),  # v2 before v0
        ("qgpo", "hopper-medium-v2", "diffcps-1"),  # no version known: the first
    ],
)
def test_the_preferred_of_several(method: str, task: str, table: str) -> None:
    assert published.preferred(method, task) == one(method, task, table)


def test_contradictions_are_of_one_experiment() -> None:
    """Not of another version of the data, another rule, or a program that ran everything anew."""
    diffuser = published.preferred("diffuser", "hopper-medium-v2")
    assert diffuser == one("diffuser", "hopper-medium-v2", "diffuser-readme")
    assert [(each.table, each.mean) for each in published.contradictions(diffuser)] == [("diffcps-1", 58.5)]
    quoted = one("dql", "antmaze-large-diverse-v0", "ofql-1")
    assert [each.mean for each in published.contradictions(quoted)] == [57.3]
    assert published.contradictions(one("dql", "halfcheetah-medium-v2", "dql-online")) == ()  # by the best evaluation
    assert published.contradictions(one("cql", "walker2d-medium-replay-v2", "diffcps-1")) == ()  # of v0
    assert published.contradictions(one("iql", "hopper-medium-v2", "corl-last")) == ()


def test_own_numbers_and_sources() -> None:
    assert one("dac", "hopper-medium-v2", "dac-readme").own
    assert one("dac", "hopper-medium-v2", "dac-readme").source == "DAC README"
    assert not one("dql", "hopper-medium-v2", "diffcps-1").own
    assert one("dql", "hopper-medium-v2", "diffcps-1").source == "DiffCPS (2310.05333v1), table 1"


def test_nothing_is_printed_for_diffpogan_and_a_reason_is_given() -> None:
    assert not [score for score in EVERYTHING if "pogan" in score.method.lower()]
    assert not [average for average in published.averages(unverified=True) if "pogan" in average.method.lower()]
    assert published.preferred("diffpogan", "hopper-medium-v2", unverified=True) is None
    why = "the paper's result table was not readable; nothing is filled in from memory"
    assert published.reason("diffpogan") == why
    assert published.reason("diffpogan", "kitchen-mixed-v0") == why


@pytest.mark.parametrize(
    ("method", "task", "expected"),
    [
        ("diffpogan", "hopper-medium-v2", published.NOT_READABLE),
        ("diffpogan", "pendulum-mixed", published.NOT_PUBLISHED),  # nobody prints a score of it
        ("dtql", "antmaze-umaze-v0", published.NOT_READABLE),
        ("dtql", "kitchen-mixed-v0", published.NOT_READABLE),
        ("diffcps", "pen-human-v1", published.NOT_PUBLISHED),
        ("a method of tomorrow", "hopper-medium-v2", published.NOT_PUBLISHED),
    ],
)
def test_what_is_printed_but_not_readable_is_told_from_what_is_not_printed(
    method: str, task: str, expected: str
) -> None:
    assert published.preferred(method, task) is None
    assert published.absence(method, task) == expected


def test_every_method_of_a_table_has_a_paper() -> None:
    papers = published.papers()
    assert len(papers) > 30
    assert len({paper.entry for paper in papers.values()}) == len(papers)
    named = [method for paper in papers.values() for method in paper.methods]
    assert len(set(named)) == len(named)
    without = {"bc", "diffusion_bc"}  # of no one paper
    assert set(named) == ({score.method for score in EVERYTHING} | set(METHODS)) - without
    for paper in papers.values():
        assert paper.entry.count("{") == paper.entry.count("}")
        assert all(f"  {field} = {{" in paper.entry for field in ("title", "author", "year"))
        assert "diffjax" not in paper.entry
    assert published.key("dtql_kl") == published.key("dtql") == "chen2024dtql"
    assert published.key("bc") is None


def test_a_method_without_scores_has_a_reason_whether_or_not_a_line_gives_it() -> None:
    with_scores = {score.method for score in published.scores()}
    for method in (*METHODS, "a method of tomorrow"):
        assert (published.reason(method) is None) == (method in with_scores)
    assert published.reason("a method of tomorrow", "hopper-medium-v2") == published.NOTHING_READ
    assert published.reason("dtql", "antmaze-umaze-v0") == "only the average over the suite could be verified"


def test_no_reason_is_given_where_a_score_is() -> None:
    for method, task in itertools.product(METHODS, tasks()):
        assert published.preferred(method, task) is None or published.reason(method, task) is None


@pytest.mark.parametrize("method", ["dac", "dtql", "diffcps", "dql"])
def test_what_the_methods_of_the_papers_lack_of_d4rl_has_a_reason(method: str) -> None:
    d4rl = [task for suite in ("locomotion", "antmaze-v0", "adroit", "kitchen") for task in suite_tasks(suite)]
    for task in d4rl:
        assert (published.preferred(method, task) is None) == (published.reason(method, task) is not None)


def computed(average: Average) -> float:
    """From the rows of the same table, and where that was not readable as others quoted them."""
    means, places = [], list(published.sources())
    for task in published.groups()[average.table, average.group]:
        rows = [each for each in EVERYTHING if (each.method, each.task) == (average.method, task)]
        same = [each for each in rows if each.table == average.table]
        quoted = [each for each in rows if not published.sources()[each.table].reruns]
        known = [each for each in quoted if each.verified == "yes" and not each.own]
        surest = lambda each: (not each.own, places.index(each.table))  # noqa: E731
        means.append(min(same or known or quoted, key=surest).mean)
    return math.fsum(means) if average.statistic == "sum" else fmean(means)


@pytest.mark.parametrize(
    "average", published.averages(unverified=True), ids=lambda a: f"{a.table}-{a.method}-{a.group}"
)
def test_printed_sums_and_means_are_those_of_the_rows(average: Average) -> None:
    where = (average.table, average.method, average.group)
    assert average.statistic in ("mean", "sum")
    if where in WITHOUT_ROWS:
        assert not [score for score in EVERYTHING if score.method == average.method]
        return
    difference = abs(computed(average) - average.value)
    half_a_digit = 0.5 * 10 ** -decimals(average.value) + 1e-9
    if where in DIFFERENTLY_PRINTED:
        assert difference > half_a_digit
        assert computed(average) == pytest.approx(DIFFERENTLY_PRINTED[where], abs=0.005)
    else:
        assert difference <= half_a_digit


def test_sums_and_means_of_the_papers() -> None:
    found = {(each.table, each.method, each.group, each.statistic): each for each in published.averages()}
    assert found["dac-1", "dac", "locomotion", "sum"].value == 836.4
    assert found["dac-1", "dac", "locomotion", "mean"].value == 92.9
    assert found["dac-1", "dac", "antmaze", "sum"].value == 459.9
    assert not found["dac-1", "dac", "antmaze", "mean"].printed
    assert found["dac-1", "dql", "locomotion", "sum"].value == 791.2
    assert found["dac-1", "dtql", "locomotion", "sum"].value == 798.3
    dtql = [
        found["dtql-averages", "dtql", group, "mean"].value for group in ("locomotion", "antmaze", "adroit", "kitchen")
    ]
    assert dtql == [88.7, 73.6, 72.7, 71.8]
    assert found["diffcps-1", "diffcps", "antmaze", "mean"].value == 81.67
    assert found["diffcps-1", "dql", "antmaze", "mean"].value == 69.8  # with 57.3 on antmaze-large-diverse
    assert found["dql-1", "dql", "antmaze", "mean"].value == 69.6  # with 56.6
    assert found["momaql", "diffusion_bc", "locomotion", "mean"].value == 76.3


def test_dacs_curves_end_at_the_numbers_of_its_readme() -> None:
    curves = published.dac_curves()
    readme = {score.task: score.mean for score in published.scores() if score.table == "dac-readme"}
    assert tuple(curves) == tuple(readme)
    for task, curve in curves.items():
        assert len(curve.steps) == len(curve.mean) == len(curve.std)
        assert curve.steps == tuple(range(0, curve.steps[-1] + 1, 10_000))
        if task == "antmaze-large-play-v0":  # the drawing is cut
            assert curve.steps[-1] == 1_930_000
            assert fmean(curve.mean[-5:]) == pytest.approx(49.25)
        else:
            assert curve.steps[-1] == 2_000_000
            assert fmean(curve.mean[-5:]) == pytest.approx(readme[task], abs=0.1)
    walker = curves["walker2d-medium-v2"]
    assert (walker.mean[1], walker.std[1]) == (0.662, 1.666)
    assert fmean(walker.std[-5:]) == pytest.approx(4.06, abs=0.005)


def test_ablations_and_timings() -> None:
    score = {(each.method, each.setting, each.task or each.group): each for each in published.ablations()}
    assert score["diffcps", "T=5", "locomotion"][5:7] == (92.0, 3)
    assert score["diffcps", "T=15", "antmaze"].score == 60.7
    assert score["sfbc", "T=25", "antmaze"][5:7] == (73.0, None)
    cheetah = "halfcheetah-medium-expert-v2"
    assert score["dac", "lower confidence bound of the ensemble", cheetah].score == 99.1
    assert score["dac", "minimum of the ensemble", cheetah].score == 43.2
    assert score["dql", "one DDIM step, without retraining", "locomotion"].score == 11.6
    timing = {(each.method, each.quantity, each.setting): each for each in published.timings()}
    assert timing["dql", "training, 1M updates", "T=5"][3:7] == (11.7, None, "h", "one A100")
    assert timing["dql", "decision frequency", "T=50"][3:6] == (35.5, None, "Hz")
    assert timing["dac", "one update", "T=5; 8 seeds at once"][3:6] == (2.0, 2.3, "ms")
