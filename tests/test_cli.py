"""The command-line wrapper: every bad input is one line on stderr and status 2."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from launcher_tools import REPOSITORY, launch

from diffjax.errors import UserError, unknown_name
from diffjax.experiment.settings import parse_setting
from diffjax.launch import cli

LAUNCHER = '''
"""A launcher for tests.

examples:
  python launcher.py --out=DIR
"""
import errno, sys, time
from absl import flags, logging
from diffjax.launch import cli
from diffjax.errors import UserError

def define_flags(values):
    cli.define_path(values, "out", "DIR: Where it goes.")
    flags.DEFINE_integer("steps", 1000, "How many updates.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("rate", 0.5, "How fast.", flag_values=values)
    flags.DEFINE_enum("preset", "paper", ["paper", "quick"], "Which sizes.", flag_values=values)
    flags.DEFINE_bool("resume", False, "Go on where it stopped.", flag_values=values)
    flags.DEFINE_multi_string("set", None, "name=value: Override one.", flag_values=values)
    flags.DEFINE_string("fault", "", "What goes wrong.", flag_values=values)

def main(args):
    if args.fault == "user":
        raise UserError("two\\nlines")
    if args.fault == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", args.out + "/evaluations.csv")
    if args.fault == "store":
        raise ValueError("RESOURCE_EXHAUSTED: write failed [OS error 28: No space left on device]")
    if args.fault == "bug":
        raise RuntimeError("a bug")
    if args.fault == "library":
        logging.warning("Waiting for previous save to complete took 1.5 seconds.")
    if args.fault == "sleep":
        print("ready", flush=True)
        time.sleep(60)
    print(args.out, args.steps, args.rate, args.preset, args.resume, cli.parse_settings(args.set))

if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
'''


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("launcher") / "launcher.py"
    script.write_text(LAUNCHER)
    return script


def run_apart(script: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, whose streams are files."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, str(script), *arguments], env=environment, text=True, check=False, **pipes)


def complaint(result: subprocess.CompletedProcess[str], status: int = 2) -> str:
    assert result.returncode == status
    assert result.stderr.endswith("\n")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr.removesuffix("\n")


def test_flags_reach_main(launcher: Path) -> None:
    result = launch(
        launcher, "--out=a", "--steps", "7", "--preset=quick", "--resume", "--set", "eta=1,2", "--set=rho=0"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "a 7 0.5 quick True {'eta': '1,2', 'rho': '0'}\n"


def test_a_path_may_begin_at_home(launcher: Path) -> None:
    assert launch(launcher, "--out=~/a/~b").stdout.split()[0] == os.path.expanduser("~") + "/a/~b"


def test_warnings_of_libraries_are_not_shown(launcher: Path) -> None:
    result = run_apart(launcher, "--out=a", "--fault=library")
    assert (result.returncode, result.stderr) == (0, "")


def test_flags_from_a_file(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "flags").write_text("--out=b\n--steps=3\n")
    result = launch(launcher, f"--flagfile={tmp_path / 'flags'}")
    assert result.stdout == "b 3 0.5 paper False {}\n"


def test_help_is_a_page(launcher: Path) -> None:
    result = launch(launcher, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: python {launcher} --out=DIR [flags]\n\nA launcher for tests.\n")
    assert "examples:\n  python launcher.py --out=DIR\n" in result.stdout
    entries = result.stdout.split("flags:\n\n")[1].split("\n\n")
    assert entries == [
        "  --out=DIR\n        Where it goes. (required)",
        "  --steps=N\n        How many updates. (a positive integer; default: 1000)",
        "  --rate=X\n        How fast. (a number; default: 0.5)",
        "  --preset=paper|quick\n        Which sizes. (default: paper)",
        "  --[no]resume\n        Go on where it stopped. (default: off)",
        "  --set=name=value\n        Override one. (may be repeated)",
        "  --fault=TEXT\n        What goes wrong.",
        "  --flagfile=FILE\n        Read flags from FILE, one per line.",
        "  --help\n        Show this page.\n",
    ]


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_wins_over_mistakes(launcher: Path, flag: str) -> None:
    assert launch(launcher, "--bogus", flag).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=a", "--stpes=3"], "unknown flag --stpes; did you mean --steps?"),
        (["--out=a", "--no-resume"], "unknown flag --no-resume; did you mean --noresume or --resume?"),
        (["--out=a", "--zzz"], "unknown flag --zzz; see --help"),
        (["--out=a", "--steps=many"], "--steps=many is not a positive integer"),
        (["--out=a", "--steps=0"], "--steps=0 is not a positive integer"),
        (["--out=a", "--steps="], "--steps= is not a positive integer"),
        (["--out=a", "--rate=fast"], "--rate=fast is not a number"),
        (["--out=a", "--preset=quik"], "--preset=quik is not one of paper, quick; did you mean quick?"),
        (["--out=a", "--preset=full"], "--preset=full is not one of paper, quick"),
        (["--out=a", "--resume=maybe"], "--resume=maybe is not one of true, false"),
        (["--out=a", "--noresume=1"], "--noresume=1 does not take an argument (--help lists all flags)"),
        (["--out"], "Missing value for flag --out (--help lists all flags)"),
        (["--out=a", "b"], "unexpected argument 'b'; flags are written --name=value (see --help)"),
        (
            ["--out=a", "--resume", "true"],
            "unexpected argument 'true'; flags are written --name=value (see --help)",
        ),
        ([], "missing --out=DIR: Where it goes."),
        (["--out=a", "--set=eta"], "--set eta is not an assignment; write --set name=value"),
        (["--out=a", "--fault=user"], "two lines"),
    ],
)
def test_a_mistake_is_one_line(launcher: Path, arguments: list[str], message: str) -> None:
    result = launch(launcher, *arguments)
    assert complaint(result) == f"launcher.py: {message}"
    assert result.stdout == ""


def test_missing_flagfile(launcher: Path, tmp_path: Path) -> None:
    message = complaint(launch(launcher, f"--flagfile={tmp_path / 'none'}"))
    assert str(tmp_path / "none") in message
    assert message.startswith("launcher.py: Unable to open flagfile")


@pytest.mark.parametrize("fault", ["disk", "store"])
def test_full_disk_names_the_folder(launcher: Path, tmp_path: Path, fault: str) -> None:
    result = run_apart(launcher, f"--out={tmp_path}", f"--fault={fault}")
    assert complaint(result) == f"launcher.py: no space left in {tmp_path}; free some and run it again"


def test_full_disk_behind_stdout(launcher: Path) -> None:
    with open("/dev/full", "w") as full:
        result = run_apart(launcher, "--out=a", stdout=full)
    assert complaint(result).startswith("launcher.py: no space left in ")


def test_a_closed_pipe_is_silent(launcher: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        result = run_apart(launcher, "--out=a", stdout=pipe)
    assert (result.returncode, result.stderr) == (1, "")


def test_a_bug_is_a_traceback(launcher: Path) -> None:
    result = run_apart(launcher, "--out=a", "--fault=bug")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("RuntimeError: a bug\n")


def test_an_ascii_terminal_prints(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom diffjax.launch import cli\n"
        "sys.exit(cli.launch(lambda args: print('1 ± 2'), lambda values: None, description=''))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (0, b"1 ? 2\n")


def test_interrupt(launcher: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    # Tests that run in the background of a shell ignore Ctrl-C, and their children inherit that.
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"import runpy, signal, sys; {heed}; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(launcher), "--out=a", "--fault=sleep"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "launcher.py: interrupted\n")


def test_launch_reads_nothing_of_the_global_flags(capsys: pytest.CaptureFixture[str]) -> None:
    def define_flags(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("count", 2, "How many.", flag_values=values)

    seen = []
    main = lambda args: seen.append(args.count)  # noqa: E731
    for argv in (["program"], ["program", "--count=5"]):
        assert cli.launch(main, define_flags, description="", argv=argv) == 0
    assert seen == [2, 5]
    assert "count" not in flags.FLAGS
    assert capsys.readouterr() == ("", "")


def test_other_os_errors_propagate() -> None:
    def main(args: flags.FlagValues) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        cli.launch(main, lambda values: None, description="", argv=["program"])


def test_parse_list() -> None:
    assert cli.parse_list("methods", "dac, dtql") == ("dac", "dtql")
    assert cli.parse_list("methods", "dac", allowed=("dac", "dtql")) == ("dac",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--methods= has an empty item; write --methods=first,second"),
        ("dac,,dtql", "--methods=dac,,dtql has an empty item; write --methods=first,second"),
        ("dac,dac", "--methods names dac twice; name it once"),
        ("dac,dtlq", "unknown value in --methods: 'dtlq'; did you mean dtql?"),
        ("zzz", "unknown value in --methods: 'zzz'; one of: dac, dtql"),
    ],
)
def test_parse_list_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        cli.parse_list("methods", text, allowed=("dac", "dtql"))
    assert str(error.value) == message


def test_parse_settings() -> None:
    assert cli.parse_settings(None) == {}
    assert cli.parse_settings(["eta=0.1", "betas=0.9,0.99", "name=a=b"]) == {
        "eta": "0.1",
        "betas": "0.9,0.99",
        "name": "a=b",
    }


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["eta"], "--set eta is not an assignment; write --set name=value"),
        (["=1"], "--set =1 is not an assignment; write --set name=value"),
        (["eta="], "--set eta= is not an assignment; write --set name=value"),
        (["eta=1", "eta=2"], "--set gives eta twice (1 and 2); give it once"),
    ],
)
def test_parse_settings_mistakes(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        cli.parse_settings(assignments)
    assert str(error.value) == message


def test_grid() -> None:
    grid = cli.parse_grid(["eta=0.1,1", "rho=0,1.5"])
    assert grid == {"eta": ["0.1", "1"], "rho": ["0", "1.5"]}
    assert cli.grid_settings(grid) == ("eta=0.1;rho=0", "eta=0.1;rho=1.5", "eta=1;rho=0", "eta=1;rho=1.5")
    assert cli.grid_settings(cli.parse_grid(None)) == ("",)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["eta"], "--grid eta is not an assignment; write --grid name=value"),
        (["eta=1,,2"], "--grid eta=1,,2 is not a list; write --grid eta=first,second"),
        (["eta=1;2"], "--grid eta=1;2 is not a list; write --grid eta=first,second"),
        (["eta=1,1"], "--grid eta names 1 twice; name it once"),
        (["rho=1"], "rho is given by both --set and --grid; choose one"),
    ],
)
def test_grid_mistakes(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        cli.parse_grid(assignments, fixed=("rho",))
    assert str(error.value) == message


names = st.text("abc_", min_size=1, max_size=5)
values = st.lists(st.text("0123456789.e-", min_size=1, max_size=5), min_size=1, max_size=3, unique=True)


@given(st.dictionaries(names, values, max_size=3))
def test_settings_of_a_grid_parse_back(grid: dict[str, list[str]]) -> None:
    settings = cli.grid_settings(grid)
    count = 1
    for choices in grid.values():
        count *= len(choices)
    assert len(set(settings)) == count
    for setting in settings:
        chosen = parse_setting(setting)
        assert list(chosen) == list(grid)
        assert all(value in grid[name] for name, value in chosen.items())


def test_unknown_name_lists_all_when_none_is_close() -> None:
    assert str(unknown_name("task", "zzz", ["a", "b"])) == "unknown task 'zzz'; one of: a, b"
    assert str(unknown_name("method", "dax", ["dac"])) == "unknown method 'dax'; did you mean dac?"
