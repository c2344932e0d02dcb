"""Rows of several groups in one folder: each is cut back to its own checkpoint, and damage is noticed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_results import HEADER, config, contents, error_of, evaluation, record, run

from diffjax.records.commits import Count, Ledger, Standing, read_ledgers, rows_of
from diffjax.records.folder import ResultsFolder, open_folder, read_evaluations
from diffjax.records.schema import MetricsRecord

FIRST, SECOND = (run(0), run(1)), (run(0, "eta=0.1"), run(1, "eta=0.1"))
GROUPS = (FIRST, SECOND)


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return open_folder(tmp_path / "run", config())


def rows(setting: str, step: int) -> tuple[list[MetricsRecord], list]:
    """What an interval leaves of one group."""
    metrics = MetricsRecord("main", step, tuple(run(seed, setting) for seed in (0, 1)), {"critic/loss": (0.5, 0.25)})
    return [metrics], [evaluation(setting=setting, step=step, seed=seed) for seed in (0, 1)]


def filled(folder: ResultsFolder) -> tuple[Standing, Standing]:
    """Two intervals of each group, in turns; what stood of each after its first."""
    first, second = read_ledgers(folder, GROUPS, (None, None))
    after = []
    for step in (1000, 2000):
        first.append(*rows("", step))
        second.append(*rows("eta=0.1", step))
        after.append((first.standing, second.standing))
    assert after[0][0] == Standing(Count(2, after[0][0].evaluations.checksum), Count(1, after[0][0].metrics.checksum))
    return after[0]


def test_a_group_is_cut_back_and_the_other_stays(folder: ResultsFolder) -> None:
    standing = filled(folder)
    whole = contents(folder.path)
    both = tuple(ledger.standing for ledger in read_ledgers(folder, GROUPS, (Standing(Count(4), Count(2)),) * 2))
    assert contents(folder.path) == whole
    first, _ = read_ledgers(folder, GROUPS, (standing[0], both[1]))
    assert [(row.setting, row.step) for row in read_evaluations(folder.path)] == [
        (setting, step) for setting, step in (("", 1000), ("eta=0.1", 1000), ("eta=0.1", 2000)) for _ in range(2)
    ]
    first.append(*rows("", 2000))
    assert first.standing == both[0]


def test_what_no_checkpoint_vouches_for_is_cut(folder: ResultsFolder) -> None:
    standing = filled(folder)
    whole = contents(folder.path)
    with open(folder.path / "evaluations.csv", "a") as file:
        file.write("nothing that a launcher wrote\n" + "\x00" * 9 + "\ndac,default,pa")  # killed in the middle of a row
    read_ledgers(folder, GROUPS, (Standing(Count(4), Count(2)),) * 2)
    assert contents(folder.path) == whole
    read_ledgers(folder, GROUPS, standing)
    assert len(read_evaluations(folder.path)) == 4
    read_ledgers(folder, GROUPS, (None, None))
    assert (folder.path / "evaluations.csv").read_text() == HEADER + "\n"
    assert (folder.path / "metrics.jsonl").read_text() == ""


def damaged(text: str, kind: str) -> str:
    lines = text.splitlines(keepends=True)
    changes = {
        "lost": [lines[0], *lines[2:]],
        "doubled": [*lines[:2], lines[1], *lines[3:]],
        "changed": [lines[0], lines[1].replace("1000", "1001"), *lines[2:]],
        "empty bytes": [lines[0], "\x00" * len(lines[1].encode()) + "\n", *lines[2:]],
        "foreign": [lines[0], lines[1].replace(",0,,1000", ",7,,1000"), *lines[2:]],
        "cut": lines[:3],
    }
    return "".join(changes[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("lost", "3 rows where the checkpoint recorded 4"),
        ("doubled", "rows differ from those that the checkpoint recorded"),
        ("changed", "rows differ from those that the checkpoint recorded"),
        ("empty bytes", "line 2 is damaged or of no run of this experiment"),
        ("foreign", "line 2 is damaged or of no run of this experiment"),
        ("cut", "rows where the checkpoint recorded"),
    ],
)
def test_damage_among_rows_that_stand_is_refused(folder: ResultsFolder, kind: str, words: str) -> None:
    filled(folder)
    ledgers = read_ledgers(folder, GROUPS, (Standing(Count(4), Count(2)),) * 2)
    standing = [ledger.standing for ledger in ledgers]
    path = folder.path / "evaluations.csv"
    path.write_text(damaged(path.read_text(), kind))
    before = contents(folder.path)
    message = error_of(lambda: read_ledgers(folder, GROUPS, standing))
    assert message.startswith(str(path))
    assert words in message
    assert contents(folder.path) == before


def test_metrics_are_looked_at_likewise(folder: ResultsFolder) -> None:
    standing = filled(folder)
    path = folder.path / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.25", "0.5", 1))
    assert "rows differ" in error_of(lambda: read_ledgers(folder, GROUPS, standing))


def test_an_older_version_counted_all_rows_of_a_folder(folder: ResultsFolder) -> None:
    filled(folder)
    assert rows_of(folder, FIRST, first=(6, 3)) == Standing(Count(4), Count(2))
    assert rows_of(folder, SECOND, first=(6, 3)) == Standing(Count(2), Count(1))
    assert rows_of(folder, SECOND).rows == (4, 2)
    assert "8 rows where the checkpoint recorded 9" in error_of(lambda: rows_of(folder, FIRST, first=(9, 0)))


def test_a_record_is_read_as_written(folder: ResultsFolder) -> None:
    standing, _ = filled(folder)
    assert Standing.of(standing.entries()) == standing
    for content in (None, [4, 2], {}, {"evaluations": [1, "a"]}, {"evaluations": [1, "a"], "metrics": ["1", "a"]}):
        assert Standing.of(content) is None


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=4),
    st.integers(0, 4),
    st.binary(max_size=6),
)
def test_any_text_survives_a_cut(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], keep: int, torn: bytes
) -> None:
    folder = open_folder(tmp_path_factory.mktemp("cut") / "run", config())
    ledger = Ledger(folder)
    ledger.append([record()], [evaluation(simulator=label, step=i) for i, label in enumerate(labels)])
    with open(folder.path / "evaluations.csv", "ab") as stream:
        stream.write(torn.replace(b"\n", b""))
    keep = min(keep, len(labels))
    read_ledgers(folder, (FIRST,), (Standing(Count(keep), Count(1)),))
    assert [row.simulator.split() for row in read_evaluations(folder.path)] == [
        " ".join(label.splitlines()).split() for label in labels[:keep]
    ]
