"""Policies that were not trained, for tests of what is made of one."""

import dataclasses

import numpy as np
from method_tools import SPEC, fresh_state, tiny

from diffjax.data.observations import ObservationTransform
from diffjax.files import plain
from diffjax.policy import About, Policy
from diffjax.training.program import Acting


def untrained(name: str, variant: str) -> Policy:
    """A policy of observations with a transform."""
    method, hyper = tiny(name, variant)
    transform = ObservationTransform(np.arange(5, dtype=np.float32), np.full(5, 2.0, np.float32))
    about = About(
        method=name,
        variant=variant,
        preset="paper",
        task="hopper-medium-v2",
        env="Hopper-v4",
        dataset="unlabelled",
        dataset_fingerprint="0",
        seed=0,
        setting="",
        step=3,
        hyper=plain(dataclasses.asdict(hyper)),
        observation_dim=SPEC.observation_dim,
        action_dim=SPEC.action_dim,
        matmul_precision="highest",
        versions={"diffjax": "0"},
        score=1.5,
    )
    return Policy(method, Acting(fresh_state(method, hyper), hyper, transform), about)
