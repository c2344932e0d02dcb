"""Damaged data sets of every kind: each answers with one line that names the source and the defect."""

import fcntl
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffjax.data.load import load_dataset
from diffjax.data.minari_store import Episode, write_minari
from diffjax.errors import UserError
from diffjax.types import Spec

SPEC = Spec(observation_dim=3, action_dim=2)
ROWS = 12
MINARI_ID = "toy/damaged-v0"

Content = dict[str, object]
Damage = Callable[[Path], str]


def arrays() -> dict[str, np.ndarray]:
    """A well-formed file: terminal at row 3, time limit at row 7, an unfinished tail."""
    random = np.random.default_rng(0)
    row = np.arange(ROWS)
    return {
        "observations": random.normal(size=(ROWS, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, size=(ROWS, 2)).astype(np.float32),
        "rewards": row.astype(np.float32),
        "terminals": row == 3,
        "timeouts": row == 7,
    }


def write_hdf5(path: Path, content: Content) -> str:
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file[key] = value
    return str(path)


def write_npz(path: Path, content: Content) -> str:
    np.savez(path, allow_pickle=True, **{key: np.asarray(value) for key, value in content.items()})  # type: ignore[arg-type]
    return str(path)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def assert_one_line(source: str, defect: str, spec: Spec | None = SPEC) -> None:
    with pytest.raises(UserError) as raised:
        load_dataset(source, spec)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{source}: ")
    assert defect in message


def test_what_is_damaged_here_is_sound(tmp_path):
    hdf5 = load_dataset(write_hdf5(tmp_path / "a.hdf5", dict(arrays())), SPEC)
    npz = load_dataset(write_npz(tmp_path / "a.npz", dict(arrays())), SPEC)
    assert hdf5.fingerprint == npz.fingerprint


# Arrays: the same in both containers


def changed(key: str, value: object) -> Callable[[Content], object]:
    return lambda content: content.__setitem__(key, value)


def poked(key: str, index: object, value: float) -> Callable[[Content], object]:
    return lambda content: content[key].__setitem__(index, value)  # type: ignore[attr-defined]


def first_rows(length: int) -> Callable[[Content], object]:
    return lambda content: content.update({key: value[:length] for key, value in content.items()})  # type: ignore[index]


def exchanged(content: Content) -> None:
    content["observations"], content["actions"] = content["actions"], content["observations"]


ARRAYS: dict[str, tuple[Callable[[Content], object], str]] = {
    "missing key": (
        lambda c: c.pop("actions"),
        "has no 'actions'; observations, actions, rewards, terminals, timeouts are needed, found 'observations', ",
    ),
    "nothing at all": (lambda c: c.clear(), "has no 'observations'; "),
    "no timeouts": (lambda c: c.pop("timeouts"), "has no 'timeouts'; the horizon of its task is needed"),
    "ragged lengths": (
        changed("rewards", np.zeros(ROWS - 1)),
        "the arrays differ in length (observations 12, actions 12, rewards 11, terminals 12, timeouts 12)",
    ),
    "one observation more": (changed("observations", np.zeros((ROWS + 1, 3))), "the arrays differ in length"),
    "flat observations": (
        changed("observations", np.zeros(ROWS)),
        "'observations' has shape (12,); (rows, observation_dim) is needed",
    ),
    "images": (
        changed("observations", np.zeros((ROWS, 3, 3))),
        "'observations' has shape (12, 3, 3); (rows, observation_dim) is needed",
    ),
    "scalar": (changed("rewards", np.float32(1)), "'rewards' has shape (); (rows,) is needed"),
    "filled in part": (
        lambda c: [c[key].__setitem__(slice(9, None), 0) for key in c],  # type: ignore[attr-defined]
        "the last 3 of 12 rows are zero in observations, actions and rewards, as in a file made in advance and filled "
        "in part; keep the first 9 of every array ([:9])",
    ),
    "never filled in": (
        lambda c: c.update({key: np.zeros_like(value) for key, value in c.items()}),
        "observations, actions and rewards are zero in every row; nothing was filled in",
    ),
    "no rewards": (lambda c: c.pop("rewards"), "has no 'rewards'; add one number per row by the rule of your task"),
    "only done": (
        lambda c: c.update(dones=c.pop("terminals")) or c.pop("timeouts"),
        "has 'dones' without 'terminals' or 'timeouts', so that it may mean either; store 'terminals' (the environment",
    ),
    "first and last steps": (
        lambda c: c.update(is_first=c.pop("terminals"), is_last=c.pop("timeouts")),
        "marks steps with 'is_first', which leaves open whether a row's action and reward come before",
    ),
    "no flags": (lambda c: (c.pop("terminals"), c.pop("timeouts")), "has no 'terminals'; store 'terminals' (the env"),
    "one flag twice": (
        changed("terminated", np.zeros(ROWS, bool)),
        "has both 'terminals' and 'terminated', which mean the same; leave one",
    ),
    "masks of another length": (changed("masks", np.ones(ROWS - 2)), "timeouts 12, masks 10); all must have the same"),
    "masks that are discounts": (changed("masks", np.full(ROWS, 0.99)), "'masks' holds 0.99, first at row 0"),
    "next observations of another size": (
        changed("next_observations", np.zeros((ROWS, 4))),
        "'next_observations' has shape (12, 4); (12, 3) is needed",
    ),
    "a next observation less": (
        changed("next_observations", np.zeros((ROWS - 1, 3))),
        "next_observations 11, terminals 12, timeouts 12); all must have the same",
    ),
    "next observations cut to whole numbers": (
        lambda c: c.update(next_observations=c["observations"].astype(int)),  # type: ignore[attr-defined]
        "'next_observations' has dtype int64; that of 'observations', float32, is needed",
    ),
    "next observations never filled in": (
        changed("next_observations", np.zeros((ROWS, 3))),
        "'next_observations' holds zeros or NaN at 12 of 12 rows; fill it in, or leave it out",
    ),
    "next observations repeat": (
        lambda c: c.update(next_observations=c["observations"]),
        "'next_observations' repeats 'observations' row by row; store the observation after the step",
    ),
    "two rewards per row": (changed("rewards", np.zeros((ROWS, 2))), "'rewards' has shape (12, 2); (rows,) is needed"),
    "rewards in one row": (changed("rewards", np.zeros((1, ROWS))), "'rewards' has shape (1, 12); (rows,) is needed"),
    "transposed observations": (
        changed("observations", np.zeros((3, ROWS))),
        "'observations' has shape (3, 12), its axes exchanged; (12, 3) is needed",
    ),
    "transposed actions": (changed("actions", np.zeros((2, ROWS))), "(12, 2) is needed"),
    "exchanged arrays": (
        exchanged,
        "observations have size 2 and actions 3, but the task needs 3 and 2: the two arrays are exchanged",
    ),
    "another robot": (
        changed("observations", np.zeros((ROWS, 5))),
        "have size 5 and actions 2, but the task needs 3 and 2: this is the data of another robot",
    ),
    "no columns": (changed("observations", np.zeros((ROWS, 0))), "both need at least 1"),
    "no rows": (first_rows(0), "holds 0 rows; at least 2 are needed"),
    "one row": (first_rows(1), "holds 1 rows; at least 2 are needed"),
    "only time limits": (changed("timeouts", np.ones(ROWS, bool)), "holds no transition"),
    "byte strings": (changed("actions", np.full((ROWS, 2), b"left")), "'actions' has dtype |S4; float32 is needed"),
    "complex numbers": (changed("rewards", np.zeros(ROWS, complex)), "'rewards' has dtype complex128; float32"),
    "complex flags": (changed("terminals", np.zeros(ROWS, complex)), "'terminals' has dtype complex128; bool or num"),
    "records": (changed("rewards", np.zeros(ROWS, [("r", "f4")])), "'rewards' has dtype [('r', '<f4')]; float32"),
    "truth values as rewards": (changed("rewards", np.zeros(ROWS, bool)), "'rewards' has dtype bool; float32"),
    "NaN observation": (
        poked("observations", (7, 1), np.nan),
        "'observations' holds NaN or infinity (in float32), first at row 7; every value must be finite",
    ),
    "NaN action": (poked("actions", (11, 0), np.nan), "'actions' holds NaN or infinity (in float32), first at row 11"),
    "infinite reward": (poked("rewards", 2, np.inf), "'rewards' holds NaN or infinity (in float32), first at row 2"),
    "beyond float32": (
        changed("rewards", np.full(ROWS, 1e300)),
        "'rewards' holds NaN or infinity (in float32), first at row 0",
    ),
    "wrapped unsigned 32": (
        changed("rewards", np.array([0] * 5 + [2**32 - 1] + [0] * 6, np.uint32)),
        "'rewards' holds 4294967296 at row 5, stored as uint32; whole numbers up to 16777216 fit float32",
    ),
    "wrapped unsigned 64": (
        changed("observations", np.full((ROWS, 3), 2**64 - 3, np.uint64)),
        "'observations' holds 1.844674407e+19 at row 0, stored as uint64",
    ),
    "large integers": (changed("rewards", np.arange(ROWS) - 2**40), "'rewards' holds -1.099511628e+12 at row 0"),
    "negative terminal": (
        changed("terminals", np.array([0] * 4 + [-1] + [0] * 7)),
        "'terminals' holds -1, first at row 4; 0 or 1 is needed",
    ),
    "terminal above 1": (
        changed("terminals", np.array([0, 1, 2] * 4)),
        "'terminals' holds 2, first at row 2; 0 or 1 is needed",
    ),
    "discounts as terminals": (changed("terminals", np.full(ROWS, 0.99)), "'terminals' holds 0.99, first at row 0"),
    "NaN terminal": (
        changed("terminals", np.array([0.0] * 5 + [np.nan] + [0.0] * 6)),
        "'terminals' holds nan, first at row 5; 0 or 1 is needed",
    ),
    "infinite timeout": (changed("timeouts", np.full(ROWS, np.inf)), "'timeouts' holds inf, first at row 0"),
    "action out of range": (
        poked("actions", (4, 1), -1.25),
        "'actions' reach 1.25 in size at row 4; [-1, 1] is learned: --actions=scale learns them in units of their own, "
        "--actions=clip cuts them",
    ),
    "action just out of range": (
        poked("actions", (4, 1), 1.00002),
        "'actions' reach 1.00002 in size at row 4; [-1, 1] is learned: --actions=clip cuts them",
    ),
}


@pytest.mark.parametrize("write", [write_hdf5, write_npz])
@pytest.mark.parametrize("kind", ARRAYS)
def test_every_damaged_array_is_one_line(tmp_path, kind, write):
    damage, defect = ARRAYS[kind]
    content: Content = dict(arrays())
    damage(content)
    assert_one_line(write(tmp_path / f"bad.{write.__name__.removeprefix('write_')}", content), defect)


# Files


def hdf5(path: Path, **content: object) -> str:
    """The sound file with other things under some keys; None leaves the key out."""
    whole: Content = dict(arrays()) | content
    return write_hdf5(path / "bad.hdf5", {key: value for key, value in whole.items() if value is not None})


def inside(change: Callable[[h5py.File], object], **content: object) -> Damage:
    def damage(path: Path) -> str:
        source = hdf5(path, **content)
        with h5py.File(source, "a") as file:
            change(file)
        return source

    return damage


def raw(name: str, content: bytes) -> Damage:
    def damage(path: Path) -> str:
        (path / name).write_bytes(content)
        return str(path / name)

    return damage


def cut(name: str, part: float) -> Damage:
    def damage(path: Path) -> str:
        write = write_npz if name.endswith("npz") else write_hdf5
        source = write(path / name, dict(arrays()))
        content = Path(source).read_bytes()
        Path(source).write_bytes(content[: int(part * len(content))])
        return source

    return damage


def folder(path: Path) -> str:
    (path / "bad.hdf5").mkdir()
    (path / "bad.hdf5" / "inside.txt").touch()
    return str(path / "bad.hdf5")


def pipe(path: Path) -> str:
    os.mkfifo(path / "bad.hdf5")
    return str(path / "bad.hdf5")


def dangling(path: Path) -> str:
    (path / "bad.hdf5").symlink_to(path / "gone.hdf5")
    return str(path / "bad.hdf5")


def unknown_filter(path: Path) -> str:
    source = hdf5(path, rewards=None)
    with h5py.File(source, "a") as file:
        file.create_dataset("rewards", data=np.zeros(ROWS, np.float32), compression="gzip")
    content = bytearray(Path(source).read_bytes())
    # The name of the filter follows its number (two bytes) and three more fields of two bytes.
    number = content.index(b"deflate\0") - 8
    assert content[number : number + 2] == b"\x01\x00"
    content[number : number + 2] = (32_123).to_bytes(2, "little")
    Path(source).write_bytes(content)
    return source


def damaged_chunk(path: Path) -> str:
    source = hdf5(path, rewards=None)
    with h5py.File(source, "a") as file:
        chunked = file.create_dataset("rewards", data=np.zeros(ROWS, np.float32), compression="gzip")
        chunk = chunked.id.get_chunk_info(0)
    content = bytearray(Path(source).read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    Path(source).write_bytes(content)
    return source


def external_link(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).parent / "other.hdf5", "w") as other:
        other["rewards"] = np.zeros(ROWS, np.float32)
    file["rewards"] = h5py.ExternalLink("other.hdf5", "rewards")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((ROWS,), np.float32)
    layout[:] = h5py.VirtualSource("gone.hdf5", "rewards", (ROWS,), np.float32)
    file.create_virtual_dataset("rewards", layout)


def external_values(file: h5py.File) -> None:
    other = Path(file.filename).parent / "values.bin"
    file.create_dataset("rewards", (ROWS,), np.float32, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def time_stamps(file: h5py.File) -> None:
    space = h5py.h5s.create_simple((ROWS,))
    h5py.h5d.create(file.id, b"rewards", h5py.h5t.UNIX_D32LE, space)


def half_written(file: h5py.File) -> None:
    file.create_dataset("rewards", (ROWS,), np.float32, chunks=(4,))[:5] = 1.0


def endless(file: h5py.File) -> None:
    for key, shape in {"observations": (2**31, 3), "actions": (2**31, 2)}.items():
        del file[key]
        file.create_dataset(key, shape, np.float32)


FILES: dict[str, tuple[Damage, str]] = {
    "missing file": (lambda path: str(path / "bad.hdf5"), "no such file"),
    "missing folder": (lambda path: str(path / "gone" / "bad.h5"), "no such file"),
    "missing archive": (lambda path: str(path / "bad.npz"), "no such file; give the path of an .npz file"),
    "link to no file": (dangling, "no such file"),
    "folder": (folder, "is a folder without a Minari data set (data/metadata.json) and without recordings"),
    "pipe": (pipe, "is no regular file"),
    "empty file": (raw("bad.hdf5", b""), "is not an HDF5 file; an HDF5 file in D4RL's layout is needed"),
    "empty archive": (raw("bad.npz", b""), "is not an .npz file, or a truncated one"),
    "text": (raw("bad.hdf5", b"observations, actions\n" * 100), "is not an HDF5 file"),
    "web page": (raw("bad.hdf5", b"<!doctype html><title>404</title>"), "is not an HDF5 file"),
    "text archive": (raw("bad.npz", b"observations, actions\n" * 100), "is not an .npz file"),
    "truncated": (cut("bad.hdf5", 0.9), "is a damaged or truncated HDF5 file ("),
    "first bytes only": (cut("bad.hdf5", 0.02), "is a damaged or truncated HDF5 file ("),
    "truncated archive": (cut("bad.npz", 0.9), "is not an .npz file, or a truncated one"),
    "unknown filter": (
        unknown_filter,
        "'rewards' is compressed with deflate (HDF5 filter 32123), which is not installed; install hdf5plugin",
    ),
    "damaged chunk": (damaged_chunk, "is a damaged or truncated HDF5 file ("),
    "group": (inside(lambda file: file.create_group("rewards"), rewards=None), "'rewards' is a group; an array is"),
    "null": (
        inside(lambda file: file.create_dataset("terminals", data=h5py.Empty("f4")), terminals=None),
        "'terminals' has shape None; (rows,) is needed",
    ),
    "objects": (
        inside(lambda file: file.create_dataset("rewards", data=["a"] * ROWS), rewards=None),
        "'rewards' has dtype object; float32 is needed",
    ),
    "time stamps": (
        inside(time_stamps, rewards=None),
        "'rewards' has a dtype without NumPy equivalent; float32 is right",
    ),
    "external link": (
        inside(external_link, rewards=None),
        "'rewards' is a link into another file (other.hdf5); store the array itself",
    ),
    "link to nothing": (
        inside(lambda file: file.__setitem__("rewards", h5py.SoftLink("/gone")), rewards=None),
        "'rewards' is a link to '/gone', which does not exist",
    ),
    "virtual array": (inside(virtual, rewards=None), "the values of 'rewards' lie in other files"),
    "external values": (inside(external_values, rewards=None), "the values of 'rewards' lie in other files"),
    "never written": (
        inside(lambda file: file.create_dataset("rewards", (ROWS,), np.float32), rewards=None),
        "'rewards' was never written to its end; make the file again",
    ),
    "half written": (inside(half_written, rewards=None), "'rewards' was never written to its end"),
    "endless": (inside(endless), "'observations' was never written to its end"),
    "Minari's file": (
        lambda path: write_hdf5(path / "main_data.hdf5", {"episode_0/observations": np.zeros((3, 3))}),
        "is in Minari's layout; give the data set's Minari id or its folder",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_damaged_file_is_one_line(tmp_path, kind):
    damage, defect = FILES[kind]
    assert_one_line(damage(tmp_path), defect)


def test_no_permission_is_one_line(tmp_path, monkeypatch):
    for source in (hdf5(tmp_path), write_npz(tmp_path / "bad.npz", dict(arrays()))):
        whole = Path.open

        def refused(path, *args, source=source, whole=whole, **keywords):
            if str(path) == source:
                raise PermissionError(13, "Permission denied")  # what any but root gets from a file of mode 0
            return whole(path, *args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refused)
            assert_one_line(source, "cannot be read (Permission denied); give a file that you may read")


def test_a_file_open_elsewhere_is_not_damaged(tmp_path):
    source = write_hdf5(tmp_path / "a.hdf5", dict(arrays()))
    with open(source, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 locks what it writes
        assert_one_line(source, "another process has it open and may be writing (")
        assert_one_line(source, "close it there, or set HDF5_USE_FILE_LOCKING=FALSE if nothing writes to it")
    load_dataset(source, SPEC)


def test_a_file_whose_writer_died_is_not_damaged(tmp_path):
    source = str(tmp_path / "a.hdf5")
    with h5py.File(source, "w", libver="latest") as file:
        for key, value in arrays().items():
            file[key] = value
        file.flush()
        copied = Path(source).read_bytes()
    (tmp_path / "b.hdf5").write_bytes(copied)
    assert_one_line(str(tmp_path / "b.hdf5"), "is being written, or its writer never closed it (")


@pytest.mark.parametrize("version", ["0.4.2", None])
def test_old_minari_data_sets_are_one_line_whichever_path_is_given(tmp_path, root, version):
    data = root / "robot-v0" / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        file.attrs.update({"total_episodes": 1, "total_steps": 2} | ({"minari_version": version} if version else {}))
        file["episode_0/observations"] = np.zeros((3, 3))
    name = f"Minari {version}" if version else "an old Minari"
    for source in ("robot-v0", str(data.parent), str(data), str(data / "main_data.hdf5")):
        assert_one_line(
            source, f"was written by {name}, whose layout (no metadata.json) is not read; fetch the data set"
        )


def test_minaris_own_file_names_its_folder(root):
    episode = Episode(np.zeros((3, 3)), np.zeros((2, 2)), np.ones(2), True)
    folder = write_minari(MINARI_ID, [episode], env_id="Toy", algorithm="none", description="a test")
    assert_one_line(str(folder / "data" / "main_data.hdf5"), f"give the data set's Minari id or its folder, {folder}")


@pytest.mark.parametrize("storage", ["arrow", "parquet"])
def test_storage_that_needs_a_package(storage, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow" or name.endswith("arrow_storage")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    episode = Episode(np.zeros((3, 3)), np.zeros((2, 2)), np.ones(2), True)
    folder = write_minari(MINARI_ID, [episode], env_id="Toy", algorithm="none", description="a test")
    remark(data_format=storage)(folder / "data")
    assert_one_line(MINARI_ID, "is stored in a format that needs pyarrow (")
    assert_one_line(MINARI_ID, "install it with 'python -m pip install pyarrow'")


def member(name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> Damage:
    def damage(path: Path) -> str:
        source = write_npz(path / "bad.npz", {key: value for key, value in arrays().items() if key != "rewards"})
        with zipfile.ZipFile(source, "a", method) as archive:
            archive.writestr(name, content)
        return source

    return damage


def flipped(path: Path) -> str:
    source = write_npz(path / "bad.npz", dict(arrays()))
    with zipfile.ZipFile(source) as archive:
        begin = archive.getinfo("rewards.npy").header_offset
    content = bytearray(Path(source).read_bytes())
    content[begin + 30 + len("rewards.npy") + 20 + 128 + 4] ^= 1
    Path(source).write_bytes(content)
    return source


def pickled(path: Path) -> str:
    return write_npz(path / "bad.npz", dict(arrays()) | {"rewards": np.array([1.0, "two", None] * 4, object)})


ARCHIVES: dict[str, tuple[Damage, str]] = {
    "objects": (pickled, "'rewards' has dtype object; float32 is needed"),
    "Unicode strings": (
        lambda path: write_npz(path / "bad.npz", dict(arrays()) | {"rewards": np.full(ROWS, "one")}),
        "'rewards' has dtype <U3; float32 is needed",
    ),
    "no array": (member("rewards.npy", b"not an array"), "is a damaged .npz file ("),
    "empty array file": (member("rewards.npy", b""), "is a damaged .npz file ("),
    "future version": (member("rewards.npy", b"\x93NUMPY\x07\x00" + bytes(200)), "'rewards' is no array of numbers"),
    "flipped bit": (flipped, "is a damaged .npz file (Bad CRC-32 for file 'rewards.npy')"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_every_damaged_archive_is_one_line(tmp_path, kind):
    damage, defect = ARCHIVES[kind]
    assert_one_line(damage(tmp_path), defect)


# Minari


def rewrite(data: Path, key: str, value: object) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file[key]
        if value is not None:
            file[key] = value


def attribute(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_1"].attrs["id"] = 0


def remark(**changes: object) -> Callable[[Path], object]:
    def change(data: Path) -> None:
        path = data / "metadata.json"
        metadata = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in metadata.items() if value is not None}))

    return change


MINARI: dict[str, tuple[Callable[[Path], object], str]] = {
    "no metadata": (lambda data: (data / "metadata.json").unlink(), "cannot be read ([Errno 2]"),
    "empty metadata": (lambda data: (data / "metadata.json").write_text(""), "cannot be read (Expecting value"),
    "metadata are a list": (lambda data: (data / "metadata.json").write_text("[]"), "names no data set"),
    "metadata without a name": (remark(dataset_id=None), "names no data set"),
    "zero episodes": (remark(total_episodes=0), "holds no episodes (half-written)"),
    "zero steps": (remark(total_steps=0), "holds no episodes (half-written)"),
    "counts as text": (remark(total_steps="5"), "holds no episodes (half-written)"),
    "more steps counted": (remark(total_steps=6), "holds 5 steps where its metadata count 6"),
    "more episodes counted": (remark(total_episodes=3), "Minari cannot read it (KeyError"),
    "no arrays": (lambda data: (data / "main_data.hdf5").unlink(), "Minari cannot read it (ValueError: No data found"),
    "arrays are text": (lambda data: (data / "main_data.hdf5").write_text("x" * 5000), "Minari cannot read it (OSErr"),
    "missing episode": (lambda data: rewrite(data, "episode_0", None), "Minari cannot read it (KeyError"),
    "missing array": (lambda data: rewrite(data, "episode_1/actions", None), "Minari cannot read it (KeyError"),
    "episodes of one id": (attribute, "episodes 0 and 1 are both called 0; each needs an id of its own"),
    "ragged episode": (
        lambda data: rewrite(data, "episode_1/observations", np.zeros((3, 3))),
        "episode 1: has 3 observations, 3 actions, 3 rewards and 3 terminations; one observation more",
    ),
    "NaN": (
        lambda data: rewrite(data, "episode_1/rewards", np.array([0, np.nan, 0])),
        "'rewards' holds NaN or infinity (in float32), first at episode 1, step 1",
    ),
    "terminations above 1": (
        lambda data: rewrite(data, "episode_1/terminations", np.array([0, 0, 7])),
        "episode 1: 'terminations' holds 7, first at row 2",
    ),
    "wrapped unsigned": (
        lambda data: rewrite(data, "episode_1/rewards", np.array([0, 2**32 - 1, 0], np.uint32)),
        "episode 1: 'rewards' holds 4294967295 at row 1, stored as uint32",
    ),
    "action out of range": (
        lambda data: rewrite(data, "episode_1/actions", np.full((3, 2), 2.0)),
        "'actions' reach 2 in size at episode 1, step 0",
    ),
    "strings": (
        lambda data: rewrite(data, "episode_1/observations", np.full((4, 3), b"up")),
        "episode 1: 'observations' has dtype |S2",
    ),
}


@pytest.mark.parametrize("kind", MINARI)
def test_every_damaged_minari_data_set_is_one_line(kind):
    def episode(steps: int) -> Episode:
        return Episode(np.zeros((steps + 1, 3)), np.zeros((steps, 2)), np.zeros(steps), True)

    target = write_minari(MINARI_ID, [episode(2), episode(3)], env_id="Toy", algorithm="none", description="a test")
    damage, defect = MINARI[kind]
    damage(target / "data")
    assert_one_line(MINARI_ID, defect)


def test_there_are_many_kinds():
    assert len(ARRAYS) + len(FILES) + len(ARCHIVES) + len(MINARI) > 80


def test_float64_and_small_integers_are_converted(tmp_path):
    content: Content = {key: value.astype(np.float64) for key, value in arrays().items()}
    content["rewards"] = np.arange(ROWS, dtype=np.uint8)
    content["terminals"] = np.asarray(content["terminals"]).astype(np.int8)[:, None]
    for write, name in ((write_hdf5, "a.hdf5"), (write_npz, "a.npz")):
        dataset = load_dataset(write(tmp_path / name, content), SPEC)
        plain = load_dataset(write(tmp_path / f"plain-{name}", dict(arrays())), SPEC)
        assert dataset.fingerprint == plain.fingerprint
        assert dataset.transitions.observation.dtype == np.float32
