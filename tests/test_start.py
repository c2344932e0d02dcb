"""What only says, looks or lists starts without JAX, which takes its seconds to import."""

import json
import os
import subprocess
import sys
from pathlib import Path

from diffjax.methods.registry import METHODS

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "tests" / "data" / "runs_version_0"
COMPUTES = ("jax", "jaxlib", "flax", "optax", "chex", "orbax", "mujoco", "gymnasium", "minari")
RUN = f"""
import contextlib, io, json, runpy, sys
for script, *arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, (script, end.code)
    assert said.getvalue(), script
    found = [name for name in {COMPUTES} if name in sys.modules]
    assert not found, (script, arguments, found)
"""


def imports_nothing_that_computes(*commands: tuple[str, ...]) -> None:
    """In a fresh process, one after the other."""
    command = [sys.executable, "-c", RUN, json.dumps(commands)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_pages():
    scripts = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("experiments/*.py"))
    assert scripts
    scripts += ["benchmarks/simulators.py", "benchmarks/sweep.py"]
    imports_nothing_that_computes(*((script, "--help") for script in scripts))


def test_tables_tasks_and_states():
    imports_nothing_that_computes(
        ("experiments/tables.py", f"--runs={RUNS}", "--published", "--protocol=all"),
        ("experiments/tables.py", f"--runs={RUNS}", "--format=html"),
        ("experiments/tasks.py",),
        ("experiments/tasks.py", "--task=hopper-medium-v2"),
        ("experiments/status.py", f"--out={RUNS}"),
        ("experiments/sweep.py", f"--out={RUNS}", "--status"),
    )


def test_a_method_is_imported_when_it_is_looked_up():
    program = (
        "import sys; from diffjax.methods.registry import METHODS; names = list(METHODS); METHODS['bc']; "
        "print(*(name for name in names if f'diffjax.methods.{name}' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bc"]
    assert "bc" in METHODS
    assert METHODS.get("none") is None
