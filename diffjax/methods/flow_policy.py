"""What FQL and IFQL share: hyper-parameters, networks, the flow policy and its loss.

Everything here follows FQL's authors (Park et al. 2025, arXiv 2502.02538; utils/networks.py, agents/fql.py and
agents/ifql.py, revision 719d044). There one Adam without clipping moves all networks by the gradients of one sum of
losses, taken at the old parameters. No two terms of it have a parameter in common and Adam moves each number by itself,
so that an optimiser per network makes the same steps.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax.diffusion.flow import PATHS, FlowDraws, Velocity, flow_matching
from diffjax.methods.base import Scalars, static, traced
from diffjax.nn.networks import FLAX_NORM_EPSILON, GLOROT, MLP, Ensemble, Params
from diffjax.types import Batch

NUM_CRITICS = 2


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters that FQL and IFQL share; plain fields are traced, ``static`` ones are not."""

    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # Polyak rate of the target critic
    actor_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    batch_size: int = static(256, at_least=1)
    hidden_dims: tuple[int, ...] = static((512, 512, 512, 512), at_least=1)
    actor_norm: bool = static(False)  # LayerNorm behind each activation
    critic_norm: bool = static(True)


def network(hyper: Hyper, outputs: int, norm: bool) -> MLP:
    """GELU by its tanh approximation, then the LayerNorm."""
    return MLP(
        hyper.hidden_dims,
        outputs,
        nn.gelu,
        GLOROT,
        layer_norm=norm,
        norm_last=True,
        norm_epsilon=FLAX_NORM_EPSILON,
    )


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    return Ensemble(network(hyper, 1, hyper.critic_norm), NUM_CRITICS)


def actor_network(hyper: Hyper, action_dim: int) -> MLP:
    """The velocity on ``[observation, action, time]``, and the one-step policy on ``[observation, noise]``."""
    return network(hyper, action_dim, hyper.actor_norm)


def q_values(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Both critics, ``(2, ...)``; ``observation`` broadcasts against ``action``."""
    return critics(hyper).apply(critic, observation, action)


def of_critics(q: jax.Array, loss: jax.Array, target: jax.Array) -> Scalars:
    """What is reported of the critics, at the data's actions."""
    found = {"loss": loss, "q_mean": jnp.mean(q), "q_max": jnp.max(q), "q_min": jnp.min(q)}
    return {f"critic/{name}": metric for name, metric in (found | {"target_mean": jnp.mean(target)}).items()}


def velocity(flow: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> Velocity:
    """The flow policy's velocity ``(action, time) -> (..., action_dim)``; the time, in [0, 1], enters as it is."""
    apply = actor_network(hyper, action_dim).apply
    return lambda action, time: apply(flow, observation, action, time[..., None])


def flow_loss(flow: Params, draws: FlowDraws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """Behaviour cloning: flow matching at the data's actions."""
    field = velocity(flow, hyper, batch.observation, batch.action.shape[-1])
    loss = jnp.mean(flow_matching(field, batch.action, draws))
    return loss, {"actor/bc": loss}


def flow_actions(
    flow: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array, flow_steps: int, sampler: str = "euler"
) -> jax.Array:
    """Actions of the flow policy by a solver of ``PATHS``, clipped at the end; shape of ``noise``.

    ``observation`` broadcasts against ``noise``.
    """
    action = PATHS[sampler](velocity(flow, hyper, observation, noise.shape[-1]), noise, flow_steps)[-1]
    return jnp.clip(action, -hyper.max_action, hyper.max_action)
