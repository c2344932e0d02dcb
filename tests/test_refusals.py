"""Nonsense values through the launchers: each is refused in one line that names it, and no folder is left."""

from pathlib import Path

import pytest
from launcher_tools import data_file, launch, refused

from diffjax.errors import UserError
from diffjax.experiment import run as experiment_run
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.run import run_experiment
from diffjax.launch.progress import TrainingProgress

# Method, assignment, and words of the refusal beside the name and value.
NONSENSE = [
    *(("dac", f"{name}=-1", "at least 0") for name in ("rho", "eta", "eta_lr", "bc_threshold", "max_grad_norm")),
    *(("dac", f"{name}=-1", "above 0") for name in ("actor_lr", "critic_lr", "max_action", "eta_max")),
    ("dac", "actor_lr=0", "above 0"),
    ("dac", "actor_lr=nan", "finite"),
    ("dac", "actor_lr=inf", "finite"),
    ("dac", "eta_max=1e+39", "within ±3.4e+38"),
    ("dac", "tau=0", "above 0 and at most 1"),
    ("dac", "tau=2", "above 0 and at most 1"),
    ("dac", "discount=5", "at least 0 and at most 1"),
    ("dac", "discount=-0.1", "at least 0 and at most 1"),
    ("dac", "eta_min=101", "at most eta_max (100)"),
    ("dac", "max_action=0", "above 0"),
    ("dac", "temperature=-1", "at least 0"),
    ("dac", "lr_decay_steps=-1", "at least 0"),
    ("dac", "ema_interval=0", "at least 1"),
    ("dac", "ema_start=-1", "at least 0"),
    ("dac", "num_critics=0", "at least 1"),
    ("dac", "sampler=heun", "ancestral, ddim, dpmpp2m"),
    ("dac", "sampler_steps=6", "at most diffusion_steps (5)"),
    ("dac", "ddim_eta=1.5", "at least 0 and at most 1"),
    ("qgpo", "sampler=ancestral", "dpm, euler, heun"),
    ("dac", "num_critics=2.5", "an integer"),
    ("dac", "target_samples=0", "at least 1"),
    ("dac", "candidates=-3", "at least 1"),
    ("dac", "diffusion_steps=0", "at least 1"),
    ("dac", "batch_size=0", "at least 1"),
    ("dac", "batch_size=1e400", "an integer"),
    ("dac", "batch_size=nan", "an integer"),
    ("dac", "batch_size=0x10", "an integer"),
    ("dac", "batch_size=1000000000000", "at most 2147483647"),
    ("dac", "hidden_dims=0", "at least 1"),
    ("dac", "hidden_dims=-8,8", "at least 1"),
    ("dac", "hidden_dims=[8,8", "integers"),
    ("dac", "hidden_dims=()", "empty"),
    ("dac", "hidden_dims=8,99999999999", "at most 2147483647"),
    ("dac", "guidance=sof", "soft"),
    ("dac", "schedule=none", "cosine"),
    ("dql", "ema_decay=1", "below 1"),
    ("dql", "ema_decay=2", "below 1"),
    ("dql", "lr_decay_epochs=-1", "at least 0"),
    ("dql", "max_q_backup=2", "true or false"),
    ("dql", "time_dim=1", "at least 4"),
    ("dql", "time_dim=2", "at least 4"),
    ("dql", "time_dim=7", "a multiple of 2"),
    ("dtql", "expectile=0", "above 0 and below 1"),
    ("dtql", "expectile=1", "above 0 and below 1"),
    ("dtql", "sigma_min=0", "above 0"),
    ("dtql", "sigma_min=81", "below sigma_max (80)"),
    ("dtql", "sigma_data=0", "above 0"),
    ("dtql", "alpha=-1", "at least 0"),
    ("dtql", "pretrain_steps=-1", "at least 0"),
    ("dtql", "pretrain_steps=nan", "finite"),
    ("dtql", "pretrain_steps=10.5", "a whole number"),
    ("dtql_kl", "generator_sigma=0", "above 0"),
    ("diffcps", "lambda_min=101", "at most lambda_max (100)"),
    ("diffcps", "kappa=-1", "at least 0"),
    ("diffcps", "policy_interval=0", "at least 1"),
    ("diffpogan", "discriminator_lr=0", "above 0"),
    ("diffpogan", "flow_hidden_dim=0", "at least 1"),
    ("diffpogan", "flow_couplings=0", "at least 1"),
    ("diffpogan", "bc_weight=-1", "at least 0"),
    *(("bc", f"{name}=0", "at least 1") for name in ("steps", "eval_interval")),
    ("bc", "episodes=-1", "at least 0"),
    ("bc", "steps=3000000000", "at most 2147483647"),
    ("bc", "episodes=1.5", "an integer"),
    ("bc", "offline_rank=-1", "at least 0"),
    ("bc", "action_clip=0", "above 0"),
    ("bc", "action_clip=nan", "above 0"),
    ("bc", "reward=rawer", "raw"),
    ("bc", "sampling=none", "uniform"),
    ("bc", "selection=worst", "best"),
]


@pytest.fixture(scope="module")
def hopper(tmp_path_factory) -> Path:
    return data_file(tmp_path_factory.mktemp("data") / "hopper.hdf5")


@pytest.mark.parametrize(("method", "assignment", "words"), NONSENSE, ids=[f"{m}:{a}" for m, a, _ in NONSENSE])
def test_nonsense_is_refused_and_leaves_no_folder(hopper, tmp_path, method, assignment, words):
    out = tmp_path / "out"
    flags = [f"--method={method}", "--task=hopper-medium-v2", f"--dataset={hopper}", f"--out={out}"]
    name, value = assignment.split("=")
    run = launch("experiments/train.py", *flags, f"--set={assignment}")
    refused(run, name, value.strip("()"), words)
    assert not out.exists()
    if "," not in value:
        refused(launch("experiments/train.py", *flags, f"--grid={assignment}"), name)
        assert not out.exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--steps=3000000000", "at most 2147483647"),
        ("--steps=-1", "steps"),
        ("--num_seeds=0", "num_seeds"),
        ("--first_seed=-1", "first_seed"),
        ("--first_seed=99999999999", "at most 4294967295"),
        ("--top_percent=0", "0 percent"),
        ("--top_percent=nan", "nan percent"),
        ("--top_percent=101", "top_percent"),
        ("--ref_scores=5,5", "MIN,MAX"),
        ("--set=actor_lr=", "name=value"),
        ("--grid=actor_lr=,1", "actor_lr"),
        ("--grid=actor_lr=1e-3,-1", "actor_lr=-1"),
        ("--grid=steps=1,2", "--set"),
        ("--out=", "missing --out=DIR"),
    ],
)
def test_flags_that_make_no_sense(hopper, tmp_path, flag, words):
    out = tmp_path / "out"
    flags = ["--method=bc", "--task=hopper-medium-v2", f"--dataset={hopper}", f"--out={out}", "--preset=quick"]
    refused(launch("experiments/train.py", *flags, flag), words)
    assert not out.exists()


@pytest.mark.parametrize("script", ["benchmarks/inference.py", "benchmarks/training.py"])
@pytest.mark.parametrize("assignment", ["batch_size=0", "hidden_dims=[8", "actor_lr=-1", "discount=nan", "nothing=1"])
def test_benchmarks_refuse_the_same(tmp_path, script, assignment):
    out = tmp_path / "out"
    refused(launch(script, "--methods=dac", f"--set={assignment}", f"--out={out}"), assignment.split("=")[0])
    assert not out.exists()


def test_the_corrected_command_works_after_data_were_refused(tmp_path):
    """A reward transform without a scale is found in the data, before a folder is made."""
    out = tmp_path / "out"
    dataset = data_file(tmp_path / "demonstrations.hdf5", reward=0.0)
    flags = ["--method=bc", "--task=hopper-medium-v2", f"--dataset={dataset}", "--preset=quick", f"--out={out}"]
    for transform in ("dac_iql_locomotion", "normalize"):
        refused(launch("experiments/train.py", *flags, f"--set=reward={transform}"), transform, "--set reward=raw")
        assert not out.exists()
    small = ["--steps=2", "--eval_interval=2", "--episodes=1", "--set=hidden_dims=8", "--set=batch_size=8"]
    run = launch("experiments/train.py", *flags, *small, "--set=reward=raw")
    assert run.returncode == 0, run.stderr
    assert (out / "evaluations.csv").is_file()


def test_networks_that_cannot_be_made_leave_no_folder(hopper, tmp_path, monkeypatch):
    """Shapes that do not fit are said in a line, and the folder is not made before they are known."""

    def broken(key, spec, hyper):
        raise ValueError("shapes do not fit")

    request = Experiment("bc", "hopper-medium-v2", tmp_path / "out", preset="quick", dataset=str(hopper))
    good = plan(request)
    monkeypatch.setattr(
        experiment_run, "plan", lambda experiment: good._replace(method=good.method._replace(init=broken))
    )
    with pytest.raises(UserError, match=r"^method bc: init fails: ValueError: shapes do not fit$"):
        run_experiment(request, TrainingProgress(), None)
    assert not (tmp_path / "out").exists()
