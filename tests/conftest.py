"""What every test runs under: the CPU, exact float32 matmuls, a compilation cache, reproducible examples."""

import contextlib
import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "diffjax",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],  # the first example compiles
)
settings.load_profile("diffjax")


QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# Fused loops through MLIR take the compiler twice as long as through LLVM alone; a little optimisation is enough.
COMPILER = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=1",
    "--xla_llvm_disable_expensive_passes=true",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--optimised", action="store_true", help="compile every program as users do, which takes longer")


def pytest_configure(config: pytest.Config) -> None:
    # Environment variables, so that launchers started by a test inherit them. A cache with a bound has a lock
    # too, and so is safe for several workers.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if config.pluginmanager.has_plugin("cacheprovider"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    else:
        os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "0")  # not the user's own
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(1 << 30))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if not config.option.optimised:
        given = os.environ.get("XLA_FLAGS", "").split()  # a worker's hold them already
        os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys((*given, *COMPILER)))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a Minari id that is not stored is answered at once
    # Where in the source an operation stands is looked up for each, which takes a sixth of the time.
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")
    # Tracing makes millions of objects that stay; to look through them again and again takes a tenth of the time.
    gc.set_threshold(200_000, 50, 1_000_000)

    import jax  # reads the variables above

    jax.config.update("jax_default_matmul_precision", "highest")


@pytest.hookimpl(optionalhook=True)  # of a plugin that one can do without
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share compiled programs or data run in one process: a file's, in some files a method's."""
    from xdist.scheduler import LoadScopeScheduling

    class BySharing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if Path(file).name.startswith(("test_methods", "test_learning", "test_golden_dql_family", "test_export")):
                return f"{file} {re.split('[-_]', test.partition('[')[2])[0]}"
            return file

    return BySharing(config, log)


# Long enough to be worth the compiler's time.
LONG = ("test_collect", "test_toys")


@contextlib.contextmanager
def compiled_quickly(quickly: bool) -> Iterator[None]:
    """Without most optimisations, or with; launchers that a test starts follow."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quickly)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(QUICKLY, str(int(quickly)))
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def unoptimised(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most tests run a program once or twice, and it compiles in a third of the time without most optimisations."""
    with compiled_quickly(not (request.config.option.optimised or request.module.__name__ in LONG)):
        yield


@pytest.fixture
def optimised() -> Iterator[None]:
    """A test that compares programs of different sizes to the bit, or is about options: as users compile them."""
    with compiled_quickly(False):
        yield


@pytest.fixture
def quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """A short test among long ones."""
    with compiled_quickly(not request.config.option.optimised):
        yield


@pytest.fixture(scope="session")
def goldens_dir() -> Path:
    """The recordings of the authors' programs: `tests/goldens`, or the folder named by `DIFFJAX_GOLDENS`."""
    folder = Path(os.environ.get("DIFFJAX_GOLDENS") or Path(__file__).parent / "goldens").resolve()
    assert folder.is_dir(), f"no folder of goldens at {folder}"
    return folder
