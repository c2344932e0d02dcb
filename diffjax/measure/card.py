"""The speed card of a machine: a page made of nothing but the measurements that lie in a folder.

A folder has what the benchmarks wrote, ``NAME.json`` each; what is not there is left out of the card.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffjax.errors import UserError
from diffjax.files import read_json, writable, write_text
from diffjax.launch.benchmark import digits
from diffjax.words import count

CARD = "table.md"
MEASURED = ("inference", "training")
STAGES = ("device", "goldens", *MEASURED, "runs", "grid")
"""The measurements that a folder may have."""
Rows = Sequence[Mapping[str, Any]]


def write(folder: Path) -> Path:
    """Writes the card beside the measurements and returns its path."""
    text = card(folder)
    with writable(folder, "results"):
        write_text(folder / CARD, text)
    return folder / CARD


def card(folder: Path) -> str:
    """The card in Markdown.

    Raises:
      UserError: nothing was measured there.
    """
    found = {name: read_json(folder / f"{name}.json") for name in STAGES if (folder / f"{name}.json").is_file()}
    if not found:
        names = ", ".join(f"{name}.json" for name in STAGES)
        raise UserError(f"{folder} has none of {names}; name a folder that a benchmark wrote")
    rows = {name: content["measurements"] for name, content in found.items()}
    parts = [[f"# Speed card: {_device(next(iter(found.values()))['machine'])}"], list(_facts(found))]
    if any(name in rows for name in MEASURED):
        parts.append(list(_table(rows.get("inference", ()), rows.get("training", ()))))
    parts += [list(lines) for lines in _stages(rows)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _device(machine: Mapping[str, Any]) -> str:
    if machine["platform"] == "cpu":
        return f"{machine['cpus_usable']} cores of {machine['processor']}"
    return f"{machine['devices']} x {machine['device']}"


def _facts(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    machine = next(iter(found.values()))["machine"]
    packages = ", ".join(f"{name} {machine[name]}" for name in ("diffjax", "jax", "jaxlib", "python"))
    yield f"- {packages}, {machine['platform']}"
    for name, content in found.items():
        if best := content.get("ceilings"):
            product, copied = max(best["matmul_gflop_per_s"].values()), best["copy_gb_per_s"]
            yield f"- {name}: best float32 product {digits(product)} GFLOP/s, copy {digits(copied)} GB/s"
        if name in MEASURED:
            sizes = {(row["observation_dim"], row["action_dim"]) for row in content["measurements"]}
            told = " and ".join(f"{observed} + {acted}" for observed, acted in sorted(sizes))
            rows = sorted({row["batch_size"] for row in content["measurements"] if "batch_size" in row})
            minibatches = f", minibatches of {' and '.join(map(str, rows))}" if rows else ""
            yield f"- {name}: preset {content.get('preset', 'of the runs')}, observation + action {told}{minibatches}"


def _table(acting: Rows, training: Rows) -> Iterator[str]:
    """A line per method, setting and precision; the headings say batch sizes and numbers of runs."""
    batches, counts = sorted({row["batch"] for row in acting}), sorted({row["runs"] for row in training})
    least, most = batches[:1], batches[1:][-1:]
    one, many = counts[:1], counts[1:][-1:]
    heads = ["method", "precision"]
    for batch in least:
        heads += [f"{count(batch, 'action')}, ms (p50 / p95)", "as published, ms", "gain"]
    heads += [f"actions/s, batch {batch}" for batch in most]
    for runs in one:
        heads += [f"update of {count(runs, 'run')}, ms", "as published, ms", "gain", "hours of one run"]
        heads += ["first update, s (cold / warm)"]
    heads += [part for runs in many for part in (f"run-updates/s, {runs} runs", f"gain, {runs} runs")]
    yield _line(heads)
    yield "|---|---|" + "---:|" * (len(heads) - 2)
    names = dict.fromkeys((_name(row), row["matmul_precision"]) for row in (*acting, *training))
    for name, precision in names:
        own = [row for row in (*acting, *training) if (_name(row), row["matmul_precision"]) == (name, precision)]
        cells = [name, precision]
        for batch in least:
            found = [row for row in own if row.get("batch") == batch]
            cells += [_joined(found, "p50_ms", "p95_ms"), _cell(found, "published_ms"), _cell(found, "gain")]
        cells += [_cell([row for row in own if row.get("batch") == batch], "actions_per_s") for batch in most]
        for runs in one:
            phases = [row for row in own if row.get("runs") == runs]
            last = [row for row in phases if row["phase"] == "main"]
            cells += [_cell(last, "ms_per_update"), _cell(last, "published_ms"), _cell(last, "gain")]
            cells += [digits(_hours(phases)), _joined(last, "first_update_cold_s", "first_update_warm_s")]
        for runs in many:
            last = [row for row in own if row.get("runs") == runs and row["phase"] == "main"]
            cells += [_cell(last, "run_updates_per_s"), _cell(last, "gain")]
        yield _line(cells)


def _name(row: Mapping[str, Any]) -> str:
    """A method with its setting, whatever its phase."""
    return str(row["label"]).removesuffix(f" {row['phase']}") if "phase" in row else str(row["label"])


def _hours(phases: Rows) -> float | None:
    """All updates of one run at the time that each takes; None without a main phase."""
    if not any(row["phase"] == "main" for row in phases):
        return None
    return sum(row["phase_updates"] * row["ms_per_update"] / row["runs"] for row in phases) / 3.6e6


def _stages(rows: Mapping[str, Rows]) -> Iterator[Iterator[str]]:
    """What else a folder has, a paragraph each."""
    if found := rows.get("goldens"):
        yield (
            f"- goldens, {row['file']}: {row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped"
            f"{'' if row['is_finished'] else ', not finished'}"
            for row in found
        )
    if found := rows.get("runs"):
        yield (
            f"- {row['method']}, {row['task']}: {row['seeds']} seeds, {row['updates']:,} of "
            f"{row['published_updates']:,} updates in {digits(row['hours'])} h, score "
            f"{digits(row['score'])} ± {digits(row['score_std'])}"
            for row in found
        )
    if found := rows.get("grid"):
        yield (f"- {row['method']}: {row['arithmetic']}" for row in found)


def _cell(rows: Rows, name: str) -> str:
    return " / ".join(digits(row[name]) for row in rows) or "-"


def _joined(rows: Rows, first: str, second: str) -> str:
    return " / ".join(f"{digits(row[first])} / {digits(row[second])}" for row in rows) or "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
