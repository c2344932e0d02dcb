"""What a help page says of the methods: which there are, and of one its hyper-parameters and their published values."""

import ast
import dataclasses
import importlib.resources
import inspect
import io
import math
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffjax.experiment.settings import PROTOCOL_ENTRIES, Protocol, Settings, phase_entries, resolve
from diffjax.methods.registry import HOMES, METHODS, get_method
from diffjax.ranges import KINDS, Range

if TYPE_CHECKING:
    from diffjax.methods.base import Method

WIDTH = 100

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "action_weight": "weight of the first step's actions in the loss of a plan",
        "activation": "activation function",
        "actor_architecture": "network of the actor",
        "actor_blocks": "residual blocks",
        "actor_layer_norm": "LayerNorm in the policy's network",
        "actor_lr": "learning rate of the policy",
        "actor_norm": "LayerNorm in the actor",
        "actor_objective": "weights of the cloning loss: none, or by the advantage",
        "attention": "attention in the denoiser's network",
        "batch_size": "rows of a minibatch",
        "bc_threshold": "cloning loss at which eta stands still",
        "bc_weight": "weight of behaviour cloning",
        "behavior_batch_size": "rows of a minibatch of the phase that learns the behaviour policy",
        "behavior_hidden_dims": "hidden layers of the behaviour policy",
        "candidates": "actions that one is chosen from when acting",
        "choice": "how an action is chosen from the candidates",
        "clip_denoised": "clip the denoised action",
        "clip_gap_max": "largest conservative gap",
        "clip_gap_min": "smallest conservative gap",
        "condition_dims": "layers on the condition",
        "covariance": "variance of the reverse steps",
        "critic_hidden_dims": "hidden layers of the critics",
        "critic_layer_norm": "LayerNorm in the critics",
        "critic_lr": "learning rate of the critics",
        "critic_norm": "LayerNorm in the critics",
        "diffusion_steps": "steps of the diffusion chain",
        "dim_mults": "channels of each level, in multiples of dim",
        "discount": "discount factor",
        "discriminator_hidden_dims": "hidden layers of the discriminator",
        "discriminator_lr": "learning rate of the discriminator",
        "divergence": "divergence of the adversarial loss",
        "ema_decay": "decay of the averaged weights",
        "ema_interval": "updates from one change of the averaged weights to the next",
        "ema_start": "first update that changes the averaged weights",
        "ensemble_target": "how the critics' values become one target",
        "error": "loss of the denoiser",
        "eta_lr": "learning rate of eta",
        "eta_max": "largest eta",
        "eta_min": "smallest eta",
        "expectile": "expectile that V regresses to",
        "flow_couplings": "coupling layers of the flow that measures the likelihood",
        "flow_hidden_dim": "width of the flow that measures the likelihood",
        "guidance": "how the critics guide the policy",
        "guidance_hidden_dims": "hidden layers of the guidance network",
        "guidance_loss": "loss of the guidance network",
        "guidance_lr": "learning rate of the guidance network",
        "guidance_scale": "scale of the guidance when acting",
        "guide_scale": "scale of the guide's gradient",
        "guide_steps": "gradient steps of the guide per denoising step",
        "guide_stop": "denoising step below which nothing guides",
        "guide_strength": "what scales the guide's gradient",
        "hidden_dims": "hidden layers",
        "lagrange": "learn the conservative term's weight",
        "lambda_init": "initial multiplier",
        "lambda_lr": "learning rate of the multiplier",
        "lambda_max": "largest multiplier",
        "lambda_min": "smallest multiplier",
        "learn_std": "learn the policy's standard deviation",
        "likelihood": "stand-in for the policy's likelihood",
        "log_std_max": "largest logarithm of the policy's standard deviation",
        "log_std_min": "smallest logarithm of the policy's standard deviation",
        "lr_decay_epochs": "cosine decay of the learning rates, in epochs; 0 keeps them constant",
        "lr_decay_steps": "cosine decay of learning rates, in updates",
        "max_action": "size that an action never exceeds",
        "max_grad_norm": "norm at which gradients are clipped; 0 clips none",
        "max_q_backup": "the target takes the best of several next actions",
        "max_target_backup": "the target takes the best of several next actions",
        "max_weight": "largest weight",
        "noise_law": "distribution of noise levels in training",
        "num_critics": "critics of the ensemble",
        "policy_interval": "critic updates per update of the policy",
        "prediction": "what the denoiser predicts",
        "sample_target": "how the values of the sampled next actions become one",
        "sampler": "sampler of actions",
        "sampler_steps": "steps of the sampler",
        "schedule": "noise schedule",
        "score_network": "size of the behaviour policy's score network",
        "sigma_data": "standard deviation of the data, as the denoiser is scaled by",
        "sigma_max": "largest noise level",
        "sigma_min": "smallest noise level",
        "support_actions": "actions sampled per state from the behaviour policy",
        "target_samples": "next actions sampled per state for the target",
        "tau": "Polyak rate of the targets",
        "termination_penalty": "taken from the reward where an episode terminates",
        "time_dim": "features of the time step",
        "time_min": "smallest diffusion time in training",
        "tune_temperature": "learn the temperature",
        "value_dim_mults": "channels of each level of the value network, in multiples of dim",
        "value_lr": "learning rate of V",
        "value_norm": "LayerNorm in V",
        "value_objective": "loss of V",
        "value_reduction": "how the values of the sampled actions become V",
        "value_samples": "actions sampled per state for V",
        "weight_decay": "weight decay of AdamW",
        "weighting": "how advantages become weights",
        "with_replacement": "sample the candidates with replacement",
    }
)
"""Fields that mean the same in every ``Hyper``; what a method adds stands as a comment behind its field."""


def listing() -> str:
    """The methods with their variants, a line each; imports none of them."""
    lines = []
    for name in METHODS:
        variants = list(HOMES[name]) if name in HOMES else list(METHODS[name])
        text = f"variants: {', '.join(variants)}" if len(variants) > 1 else ""
        lines.append(f"  {name:14}{_headline(name)}")
        lines += [f"  {'':14}{text}"] if text else []
    return "\n".join(lines)


def page(name: str, variant: str = "", task: str = "", preset: str = "paper") -> str:
    """A method's own page: what it is, and what ``--set`` takes, with the values for a task.

    Raises:
      UserError: for an unknown method, variant or preset.
    """
    method, variant = get_method(name, variant)
    found = resolve(name, task, preset, variant)
    variants = ", ".join(METHODS[name])
    parts = [
        f"{name}: {_headline(name)}" if _headline(name) else name,
        f"variants (--variant): {variants}; this is {variant}" if len(METHODS[name]) > 1 else "",
        _filled(_source(found, task, preset), ""),
        "hyper-parameters (--set NAME=VALUE, or --grid NAME=V1,V2):",
        *_entries(method.hyper, found.hyper, is_hyper=True),
        "protocol (--set NAME=VALUE):",
        *_protocol(method, found.protocol),
    ]
    return "\n\n".join(part for part in parts if part)


def _source(found: Settings, task: str, preset: str) -> str:
    """Where the values come from."""
    if not task:
        return f"Values are the defaults of preset {preset}; --task=ID shows those of a task."
    words = {
        "published": "published",
        "untuned": "untuned (nothing is published for it)",
        "quick": "of preset quick, never for publication",
    }
    of = f": {found.source}" if found.source else ""
    return f"Values for {task} are {words[found.tuning]}{of}."


def _entries(fields_of: type, values: Any, is_hyper: bool) -> Iterator[str]:
    """A paragraph for each field of a dataclass."""
    said = comments(fields_of)
    for field in dataclasses.fields(fields_of):
        if not is_hyper and field.name not in PROTOCOL_ENTRIES:
            continue
        value, default = getattr(values, field.name), field.default
        changed = f" (default {_text(default)})" if value != default else ""
        facts = [_allowed(field)]
        if is_hyper:
            static = field.metadata.get("pytree_node") is False
            facts.append("a program per value" if static else "")
            facts.append("read only when acting" if field.metadata.get("acting") else "")
        body = [_meaning(field.name, said.get(field.name, "")), "; ".join(filter(None, facts))]
        yield "\n".join([f"  {field.name}={_text(value)}{changed}", *(_filled(one, " " * 6) for one in body if one)])


def _protocol(method: "Method[Any, Any]", protocol: Protocol) -> Iterator[str]:
    yield from _entries(Protocol, protocol, is_hyper=False)
    for entry, phase in phase_entries(method).items():
        steps = protocol.phase_steps[phase]
        yield f"  {entry}={_text(steps)}\n      updates of the phase {phase}; below 1 a share of steps"


def _allowed(field: "dataclasses.Field[Any]") -> str:
    """``a number, at least 0``; ``one of lcb, min``."""
    choices = [one for one in field.metadata.get("choices", ()) if one]
    if choices:
        return f"one of {', '.join(choices)}"
    limits: Range = field.metadata.get("range", Range())
    return ", ".join(filter(None, (KINDS.get(type(field.default), "a name"), limits.words)))


def _meaning(name: str, comment: str) -> str:
    """What is always true of a name, and what a method adds; a comment that says the former again stands alone."""
    general = MEANINGS.get(name, "")
    if comment.split()[:1] == general.split()[:1]:
        general = ""
    return "; ".join(filter(None, (general, comment)))


def _text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:g}"
    return str(value)


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def comments(fields_of: type) -> dict[str, str]:
    """What stands as a comment behind each field of a dataclass in its source, or else in that of the class it is from.

    None of a class whose source is not there.
    """
    found: dict[str, str] = {}
    for cls in reversed(fields_of.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(cls))
        except (OSError, TypeError):
            continue
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        at = {one.start[0]: one.string.lstrip("# ") for one in tokens if one.type == tokenize.COMMENT}
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for one in definition.body:
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                lines = range(one.lineno, (one.end_lineno or one.lineno) + 1)
                if said := " ".join(at[line] for line in lines if line in at):
                    found[one.target.id] = said
    return found


def _headline(name: str) -> str:
    """The first line of the docstring of a method of ours, read without importing it."""
    if name not in HOMES:
        return ""
    module = next(iter(HOMES[name].values())).partition(".")[0]
    source = importlib.resources.files("diffjax.methods").joinpath(f"{module}.py").read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(source)) or ""
    return " ".join(said.partition("\n\n")[0].split()).partition("). ")[0].rstrip(".")
