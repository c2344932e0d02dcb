"""Results folders that earlier versions wrote make the tables that those versions made, to the byte."""

from pathlib import Path

import pytest

from diffjax.records.folder import find_folders, read_results
from diffjax.results.formats import render
from diffjax.results.layout import lay_out
from diffjax.results.page import Options
from diffjax.results.tables import build_table

DATA = Path(__file__).parent / "data"
SUFFIXES = {"markdown": "md", "csv": "csv", "latex": "tex"}
SCORES = ("sweep", "grid", "failed", "hopper")
# Name of the table -> the folders it is made of, and its options.
TABLES = {
    "scores": (SCORES, Options()),
    "everything": (SCORES, Options(protocols=("all",), published=True, statistics=True)),
    "ablation": (("ablation",), Options(published=True)),
}


@pytest.mark.parametrize("name", TABLES)
def test_version_0(name: str) -> None:
    """Two methods on two tasks, a grid, a failed setting, D4RL's task with own data, an ablation; two seeds each."""
    folders, options = TABLES[name]
    found = find_folders(DATA / "runs_version_0" / folder for folder in folders)
    page = lay_out(build_table(map(read_results, found)), options)
    for format_name, suffix in SUFFIXES.items():
        expected = (DATA / "tables_version_0" / f"{name}.{suffix}").read_bytes()
        assert render(page, format_name).encode("utf-8") == expected
