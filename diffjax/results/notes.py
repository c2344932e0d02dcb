"""The notes below a page: what a reader must know to trust its numbers."""

from collections.abc import Iterable, Iterator, Sequence

from diffjax.experiment import ablations
from diffjax.records.schema import SELECTION_RULES
from diffjax.results.aggregates import aggregate_notes
from diffjax.results.page import D4RL, SPREAD_LABELS, Block, Options, is_d4rl
from diffjax.results.protocols import PAPER
from diffjax.results.published_columns import published_notes
from diffjax.results.tables import Column, Table, column_label, evaluation_rule, table_labels


def caption(table: Table, options: Options) -> str:
    """What a cell and an average are."""
    seeds = table.usual_seeds
    shown = f"mean ± {SPREAD_LABELS[options.spread]} over {seeds} seeds"
    if seeds <= 1 or options.spread == "none":
        shown = f"the mean over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"Score 0 is a random policy, 100 an expert. A cell is {shown} unless marked with n; "
        "one seed has no ±. An average is the mean of its suite's rows above it."
    )


def remarks(table: Table, blocks: Sequence[Block], options: Options) -> list[str]:
    """What else a reader must know to trust the numbers."""
    names = {block.protocol.name for block in blocks}
    found = [] if table.ablation is None else [ablations.caption(table.ablation)]
    if "best" in names:
        found.append("Best over training takes each run's best evaluation: an oracle, it chooses by the simulator.")
    if PAPER in names:
        rules = _own_rules(table)
        found.append(f"Rules: {'; '.join(f'{method} {rule}' for method, rule in rules.items())}.")
        if len(set(rules.values())) > 1:
            found.append(
                f"The block {PAPER!r} sets each method beside its own paper, so its columns follow different rules; "
                "methods are compared under one rule, in the other blocks."
            )
    labels = dict.fromkeys(row.dataset for row in table.rows)
    if other := [label for label in labels if not is_d4rl(label)]:
        found.append(f"Data {', '.join(other)}: not {D4RL}'s, so not comparable with published D4RL scores.")
    if options.statistics:
        found += aggregate_notes(table, blocks)
    found += published_notes(blocks)
    found += _provenance(table)
    return found


def _own_rules(table: Table) -> dict[str, str]:
    """By which rule the paper of each method reads its runs."""
    rules: dict[str, str] = {}
    for (_, column), cell in table.cells.items():
        for history in cell.histories[:1]:
            rules.setdefault(column.method, SELECTION_RULES[history.own_rule])
    return rules


def _provenance(table: Table) -> Iterator[str]:
    """Updates, simulators, actions, failures."""
    configs = [folder.config for folder in table.folders]
    if trained := [config for config in configs if config.online is None]:
        yield (
            f"Updates: {_span(config.steps for config in trained)}; evaluated every "
            f"{_span(config.eval_interval for config in trained)} updates on "
            f"{_span(config.episodes for config in trained if config.episodes)} episodes."
        )
    evaluations = [evaluation for folder in table.folders for evaluation in folder.evaluations]
    if evaluations:
        simulators = dict.fromkeys(f"{item.env} ({item.simulator})" for item in evaluations)
        yield f"Simulators: {', '.join(simulators)}."
    for folder in table.folders:
        config = folder.config
        if config.online is not None:
            label = column_label(Column(config.method, config.variant, preset="", setting="", rule=""))
            yield (
                f"{label} on {config.task} went {config.online.words}: {config.steps} steps of the environment after "
                f"the training in {config.online.source}, evaluated before the first and every {config.eval_interval} "
                f"on {config.episodes} episodes."
            )
        if config.again is not None:
            label = column_label(Column(config.method, config.variant, preset="", setting="", rule=""))
            yield f"{label} on {config.task}, {config.evaluated}: evaluated after training, in {config.again.source}."
        if not config.episodes:
            yield f"{folder.path}: trained without a simulator, so it has no scores."
    for task, reference in {config.task: config.reference for config in configs if config.reference.given}.items():
        yield f"Reference scores of {task}: {reference.min} and {reference.max}, {reference.source}."
    rules: dict[str, dict[str, None]] = {}
    for item in evaluations:
        label = column_label(Column(item.method, item.variant, preset="", setting="", rule=""))
        rules.setdefault(evaluation_rule(item), {})[label] = None
    yield from (f"Actions of {', '.join(methods)}: {rule}." for rule, methods in rules.items())
    names = table_labels(table)
    for (row, column), cell in table.cells.items():
        if cell.failures:
            reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in cell.failures)
            yield f"Failed: {names[column]} on {row.task}: {reasons}."


def _span(values: Iterable[int]) -> str:
    return " / ".join(str(value) for value in sorted(set(values)))
