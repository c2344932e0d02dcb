"""An episode of one run as a film: ``.mp4`` through ffmpeg, ``.gif`` through Pillow (extra ``video``)."""

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from diffjax.assess.episodes import Plan
from diffjax.envs.render import Filmed, filmed
from diffjax.envs.scaled import with_bounds
from diffjax.errors import UserError
from diffjax.files import check_parent, whole_file, writable
from diffjax.numerics import check_platform, matmul_precision, pinned, random_key
from diffjax.training.evaluation import Episodes, episode_keys, evaluate
from diffjax.training.program import Program, stack_runs
from diffjax.training.progress import Progress

FORMATS = (".mp4", ".gif")
MOST_FRAMES_PER_SECOND = 50.0  # what is simulated in finer steps is shown every few of them


def check_video(path: str | Path) -> None:
    """That a film of that name can be written.

    Raises:
      UserError: for another ending, a folder that is not there, or a missing package.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"--video={path} is neither FILE.mp4 nor FILE.gif")
    check_parent("video", path)
    try:
        import PIL  # noqa: F401

        if suffix == ".mp4":
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise UserError(f'a {suffix} film needs {error.name}; install it with pip install "diffjax[video]"') from None


@pinned()
def film(planned: Plan, path: str | Path, progress: Progress) -> Episodes:
    """Films the first episode of the one run that is planned, and returns it.

    Raises:
      UserError: several runs are planned, the environment cannot be drawn, or the file cannot be written.
    """
    if len(planned.played) != 1 or len(planned.steps) != 1:
        runs = ", ".join(one.trained.label for one in planned.played[:3])
        raise UserError(f"a film shows one run at one step, not {runs}, ...; choose --seed, --setting and --step")
    check_platform()
    (one,), ((step,),), stored = planned.played, planned.steps, planned.stored
    task, program = stored.task, Program(stored.method, stored.spec, "uniform")
    acting = stack_runs([stored.acting(one.trained, step)._replace(hyper=one.run.hyper)])
    keys = episode_keys(random_key(one.run.seed)[None], step, 1, planned.again.first_episode)
    scene = filmed(task.env_id, task.env_kwargs, task.horizon)
    progress.begin(f"{task.id} {planned.config.method}: {path}", 1, task.horizon, 0)
    with closing(scene.simulator), _recorder(Path(path), scene) as record:

        def stepped(time: int) -> None:
            progress.advance(1)
            record(time)

        with matmul_precision(planned.config.matmul_precision or "highest"):
            played = evaluate(keys, program, acting, with_bounds(scene.simulator, task.action_bounds), stepped)
    progress.end()
    return played


@contextmanager
def _recorder(path: Path, scene: Filmed) -> Iterator[Callable[[int], None]]:
    """What adds a frame to the file, after every few steps; the file appears whole at the end."""
    every = math.ceil(scene.rate / MOST_FRAMES_PER_SECOND)
    rate = scene.rate / every
    with writable(path, "video"), whole_file(path) as temporary:
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        with write(temporary, rate) as add:
            yield lambda time: add(scene.picture()) if time % every == 0 else None


@contextmanager
def _write_mp4(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Through a program of its own, as frames of H.264; its format is said, as the temporary name does not say it."""
    from imageio_ffmpeg import get_ffmpeg_exe

    process: subprocess.Popen[bytes] | None = None

    def add(frame: np.ndarray) -> None:
        nonlocal process
        if process is None:
            height, width, _ = frame.shape
            command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
            command += ["-s", f"{width}x{height}", "-r", f"{rate:g}", "-i", "-", "-c:v", "libx264"]
            command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", "mp4", str(path)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its own words say more
            process.stdin.write(frame.tobytes())

    try:
        yield add
    finally:
        if process is not None:
            _, complaint = process.communicate()
            if process.returncode != 0 and sys.exc_info()[0] is None:
                raise OSError(0, complaint.decode(errors="replace").strip().splitlines()[-1], str(path))


@contextmanager
def _write_gif(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    from PIL import Image

    frames: list[Image.Image] = []
    yield lambda frame: frames.append(Image.fromarray(frame).quantize(64))
    first, *others = frames
    first.save(path, format="GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
