"""The documents hold: what they print runs, what they name is there, and the site is built from them."""

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import jax
import pytest
import yaml
from absl import flags
from data_tools import random_hdf5
from test_rooms import FOUNDATION, ROOMS

import diffjax
from diffjax.commands import console
from diffjax.experiment.plan import phase_lengths
from diffjax.experiment.settings import resolve
from diffjax.methods.checks import example_labels
from diffjax.methods.registry import get_method
from diffjax.types import Spec

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = DOCS / "site"
TOP = ("README.md", "BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (*(ROOT / name for name in TOP), *sorted(DOCS.rglob("*.md")))
}
NOTEBOOK = json.loads((DOCS / "tutorial.ipynb").read_text())
BIBLIOGRAPHY = (ROOT / "diffjax/results/published/papers.bib").read_text()
RUN = {
    *("README.md", "docs/data.md", "docs/environment.md", "docs/method.md", "docs/policy.md"),
    *("docs/start.md", "docs/reference/results.md"),
}
"""The pages with programs; a test below runs those of each."""


class Block(NamedTuple):
    """A fenced block: its language, the file it is to be saved as, and its text."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


def commands(page: str) -> list[list[str]]:
    """Every command line of a page, split; lines that end in a backslash go on."""
    text = "".join(block.text for block in blocks(page) if not block.language).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def installed(command: list[str]) -> list[str] | None:
    """The arguments of ``diffjax``, also of ``python experiments/NAME.py``; None for another program."""
    for place, word in enumerate(command):
        if match := re.fullmatch(r"experiments/(\w+)\.py", word):
            return [match[1], *command[place + 1 :]]
    return command[1:] if Path(command[0]).name == "diffjax" else None


def measured(command: list[str]) -> list[str] | None:
    """The arguments of ``python benchmarks/NAME.py``, its name first; None for another program."""
    if len(command) > 1 and (match := re.fullmatch(r"benchmarks/(\w+)\.py", command[1])):
        return [match[1], *command[2:]]
    return None


def benchmark(name: str) -> Any:
    """A benchmark's module, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_has_flags_that_exist(page):
    for command in commands(page):
        values = flags.FlagValues()
        if (arguments := measured(command)) is not None:
            name, *rest = arguments
            benchmark(name).define_flags(values)
            assert values([name, *rest])[1:] == [], command
        arguments = installed(command)
        if arguments is None:
            continue
        name, *rest = arguments
        module = __import__(f"diffjax.commands.{name}", fromlist=["COMMAND"])
        module.COMMAND.define_flags(values)
        assert values([name, *rest])[1:] == [], command
        for needed in module.COMMAND.required:
            assert values[needed].value is not None, command


def run_page(
    page: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    leave: tuple[str, ...] = (),
    more: dict[str, list[str]] | None = None,
) -> None:
    """Saves the files of a page, then runs its commands and programs in their order.

    ``leave`` are words of commands and programs that are left out, ``more`` flags that make a command smaller.
    """
    assert all(word in PAGES[page] for word in leave)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text)
        is_program = block.file.startswith(("collect", "record")) or (block.language == "python" and not block.file)
        if is_program and not any(word in block.text for word in leave):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, block.file or page, "exec"), {"__name__": "__main__"})
        if not block.language:
            for line in block.text.replace("\\\n", " ").splitlines():
                command = shlex.split(line)
                if command[:1] == ["diffjax"] and not any(word in line for word in leave):
                    monkeypatch.setattr(sys, "argv", [*command, *(more or {}).get(command[1], [])])
                    assert console.run() == 0, line


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment and the data that docs/environment.md prints, which other pages use."""
    folder = tmp_path_factory.mktemp("reach")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for block in blocks("docs/environment.md"):
            if block.file:
                (folder / block.file).write_text(block.text)
            if block.file.startswith("collect"):
                exec(compile(block.text, block.file, "exec"), {"__name__": "__main__"})
    return folder


def test_an_environment_as_printed(reach, tmp_path, monkeypatch, capsys):
    run_page("docs/environment.md", reach, monkeypatch, more={"sweep": ["--out=runs/environment"]})
    assert "reach td3_bc" in capsys.readouterr().err
    assert re.search(r"\| reach +\| unlabelled +\| +\**-?\d", (reach / "runs/environment/table.md").read_text())


@pytest.mark.slow
def test_a_method_as_printed(reach, monkeypatch, capsys):
    run_page("docs/method.md", reach, monkeypatch)
    said = capsys.readouterr()
    assert "reach awr" in said.err
    table = (reach / "runs/reach/table.md").read_text()
    assert re.search(r"\| reach +\| unlabelled +\| +\**-?\d", table)
    assert "awr" in table.splitlines()[2]
    config = (reach / "runs/awr/config.json").read_text()
    assert re.search(r'"awr.py [0-9a-f]{16}",\s*"reach.py [0-9a-f]{16}"', config)


def test_data_without_a_simulator_as_printed(tmp_path, monkeypatch, capsys):
    leave = (
        "my_hopper",
        "hopper-medium",
        "--learn",
    )  # test_packaging.py runs the program, test_collect.py such commands
    run_page("docs/data.md", tmp_path, monkeypatch, leave)
    said = capsys.readouterr().err
    assert "observations are arm/position (2), arm/speed (2), gripper (1), side by side in this order" in said
    assert "actions scaled to [-1, 1] from the data's bounds, (-1." in said
    assert "my-robot td3_bc: main step 100: actor/bc" in said
    policy = diffjax.load_policy(tmp_path / "runs/robot", seed=1)
    assert policy.about.score is None
    assert policy.action_bounds is not None


@pytest.mark.slow
def test_a_policy_as_printed(reach, monkeypatch, capsys):
    run_page("docs/policy.md", reach, monkeypatch)
    said = capsys.readouterr()
    assert "dac (candidates=50, again: 20 episodes)" in said.out
    assert "Fitted Q evaluation on unlabelled" in said.out
    assert {path.name for path in reach.iterdir()} >= {"alone.npz", "policy.jax", "policy.onnx", "policy.json"}


def test_the_ten_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """As printed but for the size of the networks."""
    (code,) = (block.text for block in blocks("README.md") if "dj.train" in block.text and block.language == "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(code.replace("steps=100,", "steps=100, hidden_dims=(16, 16, 16), progress=False,"), space)
    assert space["action"].shape == (2,)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_first_steps_and_their_tables_as_printed(tmp_path, monkeypatch, capsys):
    """As printed but for the data, which are random, and the numbers of updates and episodes."""
    data = random_hdf5(tmp_path / "tiny.hdf5", 3, 1)
    small = ["--steps=4", "--eval_interval=2", "--episodes=1", f"--dataset={data}"]
    run_page("docs/start.md", tmp_path, monkeypatch, more={"sweep": [*small, "--num_seeds=2"]})
    run_page("docs/protocols.md", tmp_path, monkeypatch)
    run_page("docs/reference/results.md", tmp_path, monkeypatch)
    away = ("locomotion", "hopper-medium-v2", "--ablation")
    run_page("docs/sweeps.md", tmp_path, monkeypatch, away, more={"train": small})
    said = capsys.readouterr().out
    assert "pendulum-mixed" in said
    assert {path.name for path in tmp_path.iterdir()} >= {
        "policy.npz",
        "report.html",
        "table.tex",
        "table.csv",
        "figures",
    }


@pytest.mark.slow
def test_fine_tuning_as_printed(tmp_path, monkeypatch):
    data = random_hdf5(tmp_path / "tiny.hdf5", 3, 1)
    small = ["--steps=4", "--eval_interval=2", "--episodes=1"]
    more = {
        "train": [*small, f"--dataset={data}"],
        "finetune": ["--steps=400", "--eval_interval=200", "--capacity=500"],
    }
    run_page("docs/finetune.md", tmp_path, monkeypatch, more=more)
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells in their order, as a kernel would run them."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "tutorial.ipynb", "exec"), space)
    assert set(space["scores"]) == {"bc", "td3_bc", "dtql"}


def test_the_notebook_was_run():
    """In one go, and nothing failed; what the site shows are these outputs."""
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


def test_every_program_of_a_page_is_run_by_a_test():
    assert {page for page in PAGES if any(block.language == "python" for block in blocks(page))} == RUN


def slugs(page: str) -> set[str]:
    """The anchors of a page's headings, where a repository host and the site call them alike."""
    found = set()
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "")
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        host = re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-")
        found |= {site} & {host}
    return found


def links() -> Iterator[tuple[str, str, str]]:
    """Every relative link of a page, and of the notebook: where it stands, the file, the anchor."""
    notebook = "\n".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    for page, text in {**PAGES, "docs/tutorial.ipynb": notebook}.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
            if not target.startswith(("http://", "https://")):
                yield (page, *target.partition("#")[::2])


def test_every_relative_link_and_anchor_leads_somewhere():
    lost = []
    for page, target, anchor in links():
        file = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
        name = file.relative_to(ROOT).as_posix()
        if anchor.startswith("diffjax."):
            shown = re.findall(r"^::: (\S+)", PAGES[name], re.MULTILINE)
            is_there = any(anchor == each or anchor.startswith(f"{each}.") for each in shown) and resolves(anchor)
        else:
            is_there = file.exists() and (not anchor or anchor in slugs(name))
        if not is_there:
            lost.append((page, target, anchor))
    assert lost == []


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: Any = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part, None)
            return found is not None
    return False


def test_the_architecture_names_the_rooms_in_their_order_and_functions_that_exist():
    page = PAGES["docs/architecture.md"]
    first, *others = re.findall(r"^\| (`\w+`(?: `\w+`)*) \|", page, re.MULTILINE)
    assert tuple(re.findall(r"\w+", first)) == FOUNDATION
    assert tuple(name.strip("`") for name in others) == ROOMS[len(FOUNDATION) :]
    named = {name for name in re.findall(r"`(?:diffjax\.)?((?:[a-z_]+\.)+\w+)`", page) if name.split(".")[0] in ROOMS}
    assert "training.program.update_run" in named
    assert sorted(name for name in named if not resolves(f"diffjax.{name}")) == []


def functions(tree: ast.AST, above: str = "") -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Public functions and methods of a module by name, with their docstrings and those of their classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for name, function, text in functions(node, f"{above}{node.name}."):
                yield name, function, f"{ast.get_docstring(node) or ''}\n{text}"
        elif isinstance(node, ast.FunctionDef) and (node.name == "__call__" or not node.name.startswith("_")):
            yield f"{above}{node.name}", node, ast.get_docstring(node) or ""


def test_every_function_of_the_reference_says_what_it_is_and_what_it_raises():
    shown = {name for page in PAGES for name in re.findall(r"^::: (\S+)", PAGES[page], re.MULTILINE)}
    paths = {path for name in shown if (path := (ROOT / name.replace(".", "/")).with_suffix(".py")).is_file()}
    assert ROOT / "diffjax/losses.py" in paths
    silent = []
    for path in sorted(paths):
        for name, function, text in functions(ast.parse(path.read_text())):
            raises = any(isinstance(node, ast.Raise) for node in ast.walk(function))
            has_own = ast.get_docstring(function) or function.name == "setup"  # of a Linen module
            if not has_own or (raises and "raises" not in text.lower()):
                silent.append(f"{path.name}: {name}")
    assert silent == []


def published_runs() -> dict[str, tuple[str, ...]]:
    """The lines of docs/reproduce.md about a published run, by method."""
    number = r"([\d.,]+)"
    line = rf"^\| `(\w+)` \| {number} \| {number} \| {number} \| `(\w+)` \| {number} \|$"
    return {name: tuple(rest) for name, *rest in re.findall(line, PAGES["docs/reproduce.md"], re.MULTILINE)}


def test_published_lengths_are_those_of_the_tables():
    stated = published_runs()
    assert set(stated) == set(diffjax.METHODS)
    for name, (updates, before, interval, rule, _) in stated.items():
        method, variant = get_method(name, "")
        protocol = resolve(name, "halfcheetah-medium-v2", "paper", variant, {}).protocol
        lengths = phase_lengths(method, protocol)
        found = (f"{sum(lengths):,}", f"{sum(lengths[:-1]):,}", f"{protocol.eval_interval:,}", protocol.selection)
        assert found == (updates, before, interval, rule), name


@pytest.mark.slow
def test_the_memory_of_a_published_run_is_that_of_its_state():
    """By shapes alone, so exactly what stands on a device between updates; of labels for a million rows."""
    spec, rows = Spec(17, 6), 1_000_001
    for name, (*_, stated) in published_runs().items():
        method, variant = get_method(name, "")
        hyper = resolve(name, "halfcheetah-medium-v2", "paper", variant, {}).hyper
        state = jax.eval_shape(lambda method=method, hyper=hyper: method.init(jax.random.key(0), spec, hyper))
        labels = [
            example_labels(method, number, spec, hyper)
            for number, phase in enumerate(method.phases)
            if phase.relabel is not None
        ]
        sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
        sizes += [rows * leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(labels)]
        assert f"{sum(sizes) / 2**20:.1f}" == stated, name


def test_every_paper_that_is_named_is_in_the_bibliography_and_on_the_page():
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}$", BIBLIOGRAPHY, re.DOTALL | re.MULTILINE)
    assert len(entries) == BIBLIOGRAPHY.count("\n@")
    papers = {paper for _, entry in entries for paper in re.findall(r"eprint = \{(.*)\}", entry)}
    sources = [*(ROOT / "diffjax").rglob("*.py"), *(ROOT / "diffjax").rglob("*.toml"), *DOCS.glob("*.md")]
    named = {paper for path in sources for paper in re.findall(r"arXiv[ :](\d{4}\.\d{4,5})", path.read_text())}
    assert named - papers == set()
    page = PAGES["docs/papers.md"]
    assert set(re.findall(r"arxiv\.org/abs/([\d.]+)\)", page)) == papers
    stated = set(re.findall(r"`(\w+)`", page))
    assert {key for key, _ in entries} <= stated
    assert set(diffjax.METHODS) - {"bc"} <= stated


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == diffjax.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


class Addresses(HTMLParser):
    """What a page of the site links to, what it fetches, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        elif address := given.get("src") or (given.get("href") if tag == "link" else None):
            self.fetched.append(address)


def test_the_site_is_built_without_a_warning_and_holds_together(tmp_path):
    """Every link of every page leads somewhere, and nothing is fetched from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(SITE / "mkdocs.yml"), "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {}
    for path in tmp_path.rglob("*.html"):
        pages[path] = Addresses()
        pages[path].feed(path.read_text())
    assert {path.relative_to(tmp_path).as_posix() for path in pages} >= {
        *("index.html", "tutorial.html", "CHANGELOG.html"),
        *(page.relative_to(DOCS).with_suffix(".html").as_posix() for page in DOCS.rglob("*.md")),
    }
    lost = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for address in (*page.links, *page.fetched):
            target, _, anchor = unquote(address).partition("#")
            if re.match(r"(?:https?|mailto|data):", address):
                lost += [(path.name, address)] if address in page.fetched and not address.startswith("data:") else []
                continue
            file = (path.parent / target).resolve() if target else path
            is_there = file.is_file() and (not anchor or file not in pages or anchor in pages[file].anchors)
            lost += [] if is_there else [(path.name, address)]
    assert lost == []
    assert "expectile_loss" in (tmp_path / "reference" / "losses.html").read_text()
