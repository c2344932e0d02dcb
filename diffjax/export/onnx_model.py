"""Policies as ONNX models, through jax2onnx (extra ``export``): for runtimes that know nothing of JAX."""

import contextlib
import io
from pathlib import Path

import jax

from diffjax.errors import UserError, first_line
from diffjax.export.program import Draws, act_on_draws, draws_of, observation_input, write_program
from diffjax.files import check_parent
from diffjax.numerics import pinned
from diffjax.policy import Policy

OPSET = 18
"""Of the operators used, the oldest that suffices: runtimes of 2023 and later."""
CALL = """\
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # no warnings of constants that the converter left over
policy = onnxruntime.InferenceSession({file!r}, options)
rng = numpy.random.default_rng()
(action,) = policy.run(None, {feeds})"""
_DRAWN = {
    "standard normal": "rng.standard_normal({shape}, numpy.float32)",
    "uniform on [0, 1)": "rng.random({shape}, numpy.float32)",
    "standard Gumbel": "rng.gumbel(size={shape}).astype(numpy.float32)",
}


def converted(policy: Policy, draws: Draws) -> bytes:
    """The model ``(observation, *random numbers) -> action``, leading axis ``batch`` everywhere.

    The inputs are called as :func:`~diffjax.export.program.draws_of` names them; its parameters are constants.

    Raises:
      UserError: jax2onnx is missing, or has no rule for something that the method does.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import jax2onnx
    except ImportError:
        raise UserError('ONNX needs jax2onnx; install it with pip install "diffjax[export]"') from None
    inputs = (observation_input(policy), *draws.inputs)

    def act(observation: jax.Array, *arrays: jax.Array) -> jax.Array:
        return act_on_draws(policy, draws, observation, *arrays)

    with pinned(), jax.default_matmul_precision("highest"):
        try:
            model = jax2onnx.to_onnx(
                act,
                inputs=[one.shape for one in inputs],
                model_name=f"{policy.about.method} on {policy.about.task}",
                opset=OPSET,
                input_names=[one.name for one in inputs],
                output_names=["action"],
            )
        except (NotImplementedError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"jax2onnx cannot convert {policy.about.method}: {first_line(error)}") from error
    return model.SerializeToString()


def save(policy: Policy, path: str | Path) -> None:
    """Writes the model and, beside it, its description as ``.json``.

    Raises:
      UserError: the files cannot be written, or as :func:`converted`.
    """
    path = Path(path)
    check_parent("out", path)
    draws = draws_of(policy)
    content, inputs = converted(policy, draws), draws.inputs
    feeds = {one.name: next((code for law, code in _DRAWN.items() if law in one.meaning), "...") for one in inputs}
    shapes = {one.name: ", ".join(map(str, ("len(observation)", *one.shape[1:]))) for one in inputs}
    texts = ['"observation": observation']
    texts += [f'"{name}": {code.format(shape=f"({shapes[name]},)")}' for name, code in feeds.items()]
    call = CALL.format(file=path.name, feeds="{" + ", ".join(texts) + "}")
    write_program(path, content, f"ONNX, opset {OPSET}", call, policy, (observation_input(policy), *inputs))
