"""``pixelloom train --sweep FIELD VALUES``: one run for each value, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pixelloom.cli.console import say, say_table


def sweep_runs(
    recipe: str | None,
    sweep: tuple[str, str],
    overrides: Mapping[str, object],
    *,
    config: Path | None,
    out: Path | None,
    resume: bool,
    force: bool,
) -> None:
    """Train a run for each value, and print the table, the best value and the folder of the runs."""
    from pixelloom.runs.sweep import best_of, carry_out_sweep, plan_sweep, table_of

    field, values = sweep[0].removeprefix("--").replace("-", "_"), sweep[1]
    base, runs = plan_sweep(
        recipe, field, values, config=config, out=out, overrides=overrides, resume=resume, force=force
    )
    rows = carry_out_sweep(base, field, runs, resume=resume, force=force)
    say_table(*table_of(field, rows))
    if (best := best_of(rows)) is not None:
        say(f"best: --{field} {best.value} ({best.best:.4g} {best.metric})")
    say(str(base))
