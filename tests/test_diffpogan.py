"""DiffPoGAN's policy loss by hand, with and without the terms that its ablation leaves out."""

import math

import jax.numpy as jnp
import pytest
from method_tools import random_batches, tiny

from diffjax.methods import diffpogan, diffpogan_paper
from diffjax.methods import diffusion_policy as dp


@pytest.mark.parametrize(
    ("variant", "switches", "loss", "weight"),
    [
        ("code", {}, 2 * 0.05 * 0.4 - 1 + 0.01 * math.log(2), 2),
        ("code", {"discriminator_weighting": False}, 0.05 * 0.4 - 1 + 0.01 * math.log(2), 1),
        ("code", {"adversarial_term": False}, 2 * 0.05 * 0.4 - 1, 2),
        ("code", {"adversarial_term": False, "likelihood_weight": -1.0}, 2 * 0.05 * 0.4 - 1, 2),
        ("code", {"discriminator_weighting": False, "adversarial_term": False}, 0.05 * 0.4 - 1, 1),
        ("paper", {}, 2 * 0.05 * 0.4 - 1 + 0.01 * math.log(2), 2),
        ("paper", {"discriminator_weighting": False}, 0.05 * 0.4 - 1 + 0.01 * math.log(2), 1),
        ("paper", {"adversarial_term": False}, 2 * 0.05 * 0.4 - 1, 2),
        ("paper", {"discriminator_weighting": False, "adversarial_term": False}, 0.05 * 0.4 - 1, 1),
    ],
)
def test_diffpogan_without_its_terms(monkeypatch, variant, switches, loss, weight):
    """``L_d = 0.4``, ``L_q = -1``; the judge says 0.25 of the data and 0.5 of the policy; ``c = 50``."""
    hyper = diffpogan.Hyper(divergence="wgan" if variant == "code" else "ga").replace(**switches)
    data = random_batches(*tiny("diffpogan", variant))[0]
    data = data._replace(action=jnp.full_like(data.action, 0.25))
    own = jnp.full_like(data.action, 0.5)
    monkeypatch.setattr(dp, "denoising_loss", lambda *_: jnp.full(len(own), 0.4))
    monkeypatch.setattr(dp, "q_term", lambda *_: (jnp.float32(-1), own))
    monkeypatch.setattr(diffpogan, "judge", lambda _, __, samples: samples.action[:, 0])
    draws = dp.PolicyDraws(None, None, None)
    if variant == "code":
        value, parts = diffpogan.actor_loss(None, None, None, own, jnp.float32(0.25), 50.0, draws, hyper, data)
    else:
        value, parts = diffpogan_paper.actor_loss(None, None, None, draws, hyper, data)
    assert float(value) == pytest.approx(loss, abs=1e-6)
    assert float(parts["actor/bc_weight"]) == pytest.approx(weight)
