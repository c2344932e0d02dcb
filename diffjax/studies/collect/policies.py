"""Policies of soft actor-critic as small files: weights and the story of how they came about."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import losses
from diffjax.errors import UserError, first_line
from diffjax.files import read_arrays, write_arrays
from diffjax.studies.collect import sac

LAYERS = 3


class Policy(NamedTuple):
    """Parameters of the actor and ``about``: environment, seed, step, evaluated returns, versions."""

    params: sac.Params
    about: dict[str, Any]


@jax.jit
def act(key: jax.Array, params: sac.Params, observation: jax.Array, temperature: jax.Array) -> jax.Array:
    """``tanh(mean + temperature std noise)``, ``(envs, action_dim)``; ``temperature (envs,)`` 0 is the mean action."""
    last = params["params"][f"Dense_{LAYERS - 1}"]["kernel"]
    width, action_dim = last.shape[0], last.shape[1] // 2
    mean, log_std = sac.policy(params, jnp.asarray(observation, jnp.float32), width, action_dim)
    noise = temperature[:, None] * jax.random.normal(key, mean.shape)
    return losses.squashed_normal(mean, log_std, noise)[0]


def save_policy(path: Path, policy: Policy) -> None:
    """Writes one ``.npz`` without pickles; it appears whole or not at all."""
    layers = policy.params["params"]
    arrays = {
        f"{part}_{index}": np.asarray(layers[f"Dense_{index}"][part], np.float32)
        for index in range(LAYERS)
        for part in ("kernel", "bias")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, policy.about, arrays)


def load_policy(path: Path) -> Policy:
    """Reads a file of :func:`save_policy`.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        about, arrays = read_arrays(path)
        layers = {
            f"Dense_{index}": {part: jnp.asarray(arrays[f"{part}_{index}"]) for part in ("kernel", "bias")}
            for index in range(LAYERS)
        }
    except FileNotFoundError:
        raise UserError(f"{path}: no such policy") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: is not a policy file ({first_line(error)}); collect it again") from error
    return Policy({"params": layers}, about)
