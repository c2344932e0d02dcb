"""Policies through ``jax.export``: StableHLO for CPUs, CUDA GPUs and TPUs, with any number of rows."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from diffjax.errors import UserError
from diffjax.export.program import BATCH, Input, observation_input, write_program
from diffjax.files import check_parent
from diffjax.numerics import PRNG, matmul_precision, pinned
from diffjax.policy import Policy, act_rows

PLATFORMS = ("cpu", "cuda", "tpu")
KEY = Input("key", (2,), "uint32", "jax.random.key_data(jax.random.key(seed)); another one for every call")
CALL = """\
import jax
from jax import export
policy = export.deserialize(bytearray(open({file!r}, "rb").read()))
{call}"""
RANDOM_CALL = "action = policy.call(observation, jax.random.key_data(jax.random.key(0)))"
PLAIN_CALL = "action = policy.call(observation)"


def exported(policy: Policy) -> export.Exported:
    """The function ``(observation[, key]) -> action``; its parameters are constants of the program.

    ``observation (batch, observation_dim)`` float32; ``key (2,)`` uint32, the data of a threefry2x32 key, only where
    acting draws random numbers: the same key gives the action of :meth:`Policy.act`.
    """

    def act(observation: jax.Array, data: jax.Array | None = None) -> jax.Array:
        data = jnp.zeros(2, jnp.uint32) if data is None else data
        key = jax.random.wrap_key_data(data, impl=PRNG)
        return policy.in_units(act_rows(key, policy.method, policy.spec, policy.acting, observation))

    (batch,) = export.symbolic_shape(BATCH)
    shapes = [jax.ShapeDtypeStruct((batch, policy.spec.observation_dim), jnp.float32)]
    shapes += [jax.ShapeDtypeStruct((2,), jnp.uint32)] if policy.is_random else []
    with pinned(), matmul_precision(policy.about.matmul_precision):
        return export.export(jax.jit(act), platforms=PLATFORMS)(*shapes)


def save(policy: Policy, path: str | Path) -> None:
    """Writes the program and, beside it, its description as ``.json``.

    Raises:
      UserError: the files cannot be written, or flatbuffers is missing.
    """
    path = Path(path)
    check_parent("out", path)
    try:
        content = exported(policy).serialize()
    except ImportError:
        raise UserError('jax.export needs flatbuffers; install it with pip install "diffjax[export]"') from None
    call = CALL.format(file=path.name, call=RANDOM_CALL if policy.is_random else PLAIN_CALL)
    inputs = (observation_input(policy), *((KEY,) if policy.is_random else ()))
    write_program(path, content, "jax.export (StableHLO)", call, policy, inputs)
