"""Access to gymnasium-robotics, which need not be installed."""

import contextlib
import importlib
import io

import gymnasium

from diffjax.errors import UserError


def import_robotics() -> None:
    """Import gymnasium-robotics, which registers its environments, without the notice that it prints.

    Raises:
      UserError: it is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("gymnasium_robotics")
    except ImportError:
        raise UserError("this simulator needs gymnasium-robotics; install diffjax[envs]") from None


def require_registered(env_id: str) -> None:
    """Make sure that Gymnasium knows an id, if need be by importing gymnasium-robotics.

    Raises:
      UserError: neither knows it.
    """
    if env_id in gymnasium.registry:
        return
    try:
        import_robotics()
    except UserError:
        raise UserError(
            f"Gymnasium knows no environment {env_id!r}; if it is one of gymnasium-robotics, install diffjax[envs]"
        ) from None
    if env_id not in gymnasium.registry:
        raise UserError(f"neither Gymnasium nor gymnasium-robotics knows an environment {env_id!r}")
