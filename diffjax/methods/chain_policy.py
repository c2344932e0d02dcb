"""What policies with a discrete noise model share: the diffusion, and the chain by which it is sampled.

The fields of the sampler are read by acting alone. Updates take the published chain, which is that of the fields'
defaults: they sample with :func:`~diffjax.methods.base.without_acting`.
"""

import flax.struct
import jax

from diffjax.diffusion.samplers import ChainNoise, Transition, Variance, ancestral, ddim, dpmpp2m, draw_chain_noise
from diffjax.diffusion.schedules import BETAS, DiscreteSchedule, discrete_schedule
from diffjax.methods.base import sampled_by, static, traced

SAMPLERS = ("ancestral", "ddim", "dpmpp2m")


@flax.struct.dataclass
class ChainHyper:
    """The discrete diffusion, and how it is sampled when acting; plain fields are traced, ``static`` ones are not."""

    diffusion_steps: int = static(5, at_least=1)
    schedule: str = static("vp", BETAS)
    sampler: str = static("ancestral", SAMPLERS, acting=True)
    sampler_steps: int = static(0, at_least=0, at_most="diffusion_steps", acting=True)  # 0: as many as published
    ddim_eta: float = traced(0.0, at_least=0.0, at_most=1.0, acting=True)  # share of noise that ddim draws anew


def schedule_of(hyper: ChainHyper) -> DiscreteSchedule:
    """The schedule that was trained."""
    return discrete_schedule(hyper.schedule, hyper.diffusion_steps)


def chain_steps(hyper: ChainHyper) -> int:
    """How many steps the chain takes."""
    return hyper.sampler_steps or hyper.diffusion_steps


def chain_of(hyper: ChainHyper, variance: Variance, repeats: int = 0) -> Transition:
    """The chain that the fields name; ``variance`` is that of the ancestral one alone."""
    schedule, steps = schedule_of(hyper), hyper.sampler_steps
    if hyper.sampler == "ddim":
        return ddim(schedule, hyper.ddim_eta, steps, repeats)
    if hyper.sampler == "dpmpp2m":
        return dpmpp2m(schedule, steps, repeats)
    return ancestral(schedule, variance, steps, repeats)


def draw_chain(key: jax.Array, hyper: ChainHyper, shape: tuple[int, ...], repeats: int = 0) -> ChainNoise:
    """Noise for :func:`chain_of`: a row per step, none for ``dpmpp2m``."""
    rows = 0 if hyper.sampler == "dpmpp2m" else chain_steps(hyper) + repeats
    return draw_chain_noise(key, rows, shape)


def named_sampler(selection: str, hyper: ChainHyper, steps: int) -> str:
    """A rule of evaluation with the sampler and how many steps it takes."""
    eta = f" (eta {hyper.ddim_eta:g})" if hyper.sampler == "ddim" and hyper.ddim_eta else ""
    return sampled_by(selection, hyper.sampler + eta, steps)


def chain_selection(selection: str, hyper: ChainHyper) -> str:
    """A rule of evaluation, with the sampler where that is not the published ancestral chain over all steps."""
    steps = chain_steps(hyper)
    if (hyper.sampler, steps) == ("ancestral", hyper.diffusion_steps):
        return selection
    return named_sampler(selection, hyper, steps)
