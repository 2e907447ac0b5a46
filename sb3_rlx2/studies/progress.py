"""How far a study is, as it goes."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sb3_rlx2.studies.run_folder import Progress, RunFolder

if TYPE_CHECKING:
    from rich.table import Table

LINE_SECONDS = 600.0
STATES = ("finished", "running", "stopped", "waiting", "failed")


class Look(Protocol):
    """Shows how far runs are."""

    def __call__(self, folders: Sequence[RunFolder]) -> None:
        """Show it.

        :param folders: of the runs
        """


class Overview(NamedTuple):
    """How far all runs of a study are together.

    :param counts: how many runs are in each state
    :param steps_per_second: of all that run
    :param steps_left: environment steps of all that are not finished
    """

    counts: Counter[str]
    steps_per_second: float
    steps_left: int

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts[state]} {state}" for state in STATES if self.counts[state])
        if not self.counts["running"]:
            return counts
        left = f", {duration(self.steps_left / self.steps_per_second)} left" if self.steps_per_second else ""
        return f"{counts}; {self.steps_per_second:.0f} steps/s{left}"


def overview(folders: Sequence[RunFolder]) -> tuple[Overview, list[Progress]]:
    """How far runs are.

    :param folders: of the runs
    :return: all together, and each
    """
    found = [folder.progress() for folder in folders]
    left = sum(folder.settings.steps - run.step for folder, run in zip(folders, found, strict=True))
    return Overview(Counter(run.state for run in found), sum(run.steps_per_second for run in found), left), found


def duration(seconds: float) -> str:
    """A duration in hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


@contextmanager
def live_progress() -> Iterator[Look]:
    """Show how far the runs are while they are made: a live table in a terminal, else a line now and then."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        yield _Lines()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Live(console=console, refresh_per_second=2, transient=True) as live:

        def look(folders: Sequence[RunFolder]) -> None:
            live.update(_table(folders))

        yield look


class _Lines:
    """A line for each change of how many runs are in which state, and whenever some minutes have passed."""

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None
        self._time = 0.0

    def __call__(self, folders: Sequence[RunFolder]) -> None:
        found, _ = overview(folders)
        if found.counts != self._counts or time.monotonic() >= self._time + LINE_SECONDS:
            print(f"{time.strftime('%H:%M:%S')}  {found}", file=sys.stderr, flush=True)
            self._counts, self._time = found.counts, time.monotonic()


def _table(folders: Sequence[RunFolder]) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    found, each = overview(folders)
    table = Table(title=str(found), title_justify="left", box=None)
    for column in ("environment", "method", "seed", "", "step", "steps/s", "left"):
        table.add_column(column, justify="right" if column in ("step", "steps/s", "left") else "left")
    for folder, run in zip(folders, each, strict=True):
        if run.state == "running":
            settings = folder.settings
            left = (settings.steps - run.step) / run.steps_per_second if run.steps_per_second else None
            table.add_row(
                settings.environment,
                settings.method,
                str(settings.seed),
                ProgressBar(settings.steps, run.step, width=20),
                f"{run.step:,} of {settings.steps:,}",
                f"{run.steps_per_second:.0f}",
                "" if left is None else duration(left),
            )
    return table
