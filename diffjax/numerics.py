"""What numbers depend on beside the code, whatever the shell or a job script says: JAX's switches, keys, platforms."""

import contextlib
import os
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import jax
from jax.extend.backend import clear_backends

from diffjax.errors import UserError

PRNG = "threefry2x32"

# Options that change numbers and may be set, with JAX's defaults; those that `pinned` sets and the precision of matrix
# products, which an experiment states, are not among them.
_DEFAULTS = MappingProxyType(
    {
        "eager_constant_folding": False,
        "jax_allow_f16_reductions": True,
        "jax_compiler_enable_remat_pass": True,
        "jax_debug_infs": False,
        "jax_debug_nans": False,
        "jax_default_device": None,
        "jax_disable_jit": False,
        "jax_disable_most_optimizations": False,
        "jax_enable_custom_prng": False,
        "jax_exec_time_optimization_effort": 0.0,
        "jax_high_dynamic_range_gumbel": False,
        "jax_memory_fitting_effort": 0.0,
        "jax_memory_fitting_level": "O2",
        "jax_optimization_level": "UNKNOWN",
        "jax_random_seed_offset": 0,
        "jax_softmax_custom_jvp": False,
        "jax_threefry_gpu_kernel_lowering": False,
        "jax_use_direct_linearize": True,
        "jax_use_shardy_partitioner": True,
    }
)
_PINNED = MappingProxyType(
    {
        "jax_default_prng_impl": PRNG,
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
        "jax_threefry_partitionable": True,
    }
)
_STATED = ("jax_default_matmul_precision",)  # by every experiment
# In names of options that change no number: where programs are kept, what is printed, which devices there are.
_HARMLESS = ("cache", "log", "traceback", "dump", "pprint", "platform", "visible_devices", "num_cpu_devices")
_HARMLESS_XLA_FLAGS = ("--xla_dump", "--xla_force_host_platform_device_count")
_COMPILER_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def jax_precision(name: str) -> str:
    """JAX's word for a precision of matrix products.

    ``bfloat16`` names the algorithm, operands rounded to it and sums in float32: JAX's own ``bfloat16`` is another name
    of ``default``, by which GPUs round to TF32.
    """
    return "BF16_BF16_F32" if name == "bfloat16" else name


def matmul_precision(name: str) -> contextlib.AbstractContextManager[None]:
    """Matrix products that are traced within have this precision."""
    return jax.default_matmul_precision(jax_precision(name))


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """JAX's switches that change what a program computes, at one value: numbers in float32, keys threefry2x32."""
    with (
        jax.enable_x64(_PINNED["jax_enable_x64"]),
        jax.default_prng_impl(_PINNED["jax_default_prng_impl"]),
        jax.threefry_partitionable(_PINNED["jax_threefry_partitionable"]),
        jax.numpy_dtype_promotion(_PINNED["jax_numpy_dtype_promotion"]),
        jax.numpy_rank_promotion(_PINNED["jax_numpy_rank_promotion"]),
    ):
        yield


def pin() -> None:
    """The same for the rest of the process, in all its threads."""
    for name, value in _PINNED.items():
        jax.config.update(name, value)


def random_key(seed: int | jax.Array) -> jax.Array:
    """The key of a seed, of one implementation whatever JAX's default is."""
    return jax.random.key(seed, impl=PRNG)


def jax_options() -> dict[str, Any]:
    """What was set, in this process or in the environment, of all that may change numbers; empty on a plain machine.

    Options of JAX by their names and the compiler's variables; ``XLA_FLAGS`` in alphabetical order.
    """
    values = jax.config.values
    named = {name for name in values if name.upper() in os.environ} | _DEFAULTS.keys() & values.keys()
    options = {
        name: _plain(values[name])
        for name in sorted(named - _PINNED.keys() - set(_STATED))
        if not any(part in name for part in _HARMLESS)
        and (name not in _DEFAULTS or _plain(values[name]) != _DEFAULTS[name])
    }
    for variable in _COMPILER_VARIABLES:
        given = os.environ.get(variable, "").split()
        if flags := sorted(flag for flag in given if not flag.startswith(_HARMLESS_XLA_FLAGS)):
            options[variable] = " ".join(flags)
    return options


def check_platform() -> None:
    """That JAX finds the platform that it was told to use, and may compile; starts it.

    Raises:
      UserError: it does not, or JAX_DISABLE_JIT is set.
    """
    if jax.config.values["jax_disable_jit"]:
        raise UserError("JAX_DISABLE_JIT runs every operation alone, far too slowly to train or measure; unset it")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a platform whose plugin is not installed
        asked = jax.config.values["jax_platforms"]
        if not asked:
            raise
        try:
            jax.config.update("jax_platforms", None)
            here = jax.default_backend()
        finally:
            jax.config.update("jax_platforms", asked)
            clear_backends()
        reason = str(error).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS={asked} names a platform that JAX cannot use here{reason and f' ({reason})'}; "
            f"unset it, or set JAX_PLATFORMS={here}"
        ) from None


def _plain(value: Any) -> Any:
    """An option's value as JSON holds it; of an enumeration its value or name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    inner = getattr(value, "value", None)
    return inner if isinstance(inner, str) else getattr(value, "name", str(value))
