"""Directives that show what benchmarks wrote, with the commands that they say made it.

``{benchmark} footprint.csv`` shows a file as it is; ``{learning} HalfCheetah-v5`` the score of each run of a task.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
N_LAST = 10  # evaluations that make a score


class BenchmarkDirective(SphinxDirective):
    """A table of ``benchmarks/results``, as it is."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Command, machine, table."""
        comments, rows = self.read(RESULTS / self.arguments[0])
        return [_code(comments[:1]), *(_paragraph(comment) for comment in comments[1:]), _table(rows)]

    def read(self, path: Path) -> tuple[list[str], list[list[str]]]:
        """Comments at the head of a file, without their ``#``, and the rows below them."""
        if not path.is_file():
            raise self.error(f"{path}: there is no such result")
        self.env.note_dependency(str(path))
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        comments = [",".join(row).removeprefix("# ") for row in rows if row[0].startswith("#")]
        return comments, [row for row in rows if not row[0].startswith("#")]


class LearningDirective(BenchmarkDirective):
    """The score of each run of a task: the mean of its last evaluations."""

    def run(self) -> list[nodes.Node]:
        """Commands, machine, table."""
        place = RESULTS / self.arguments[0]
        paths = sorted(place.parent.glob(f"learning_{place.name}_*.csv"))
        if not paths:
            raise self.error(f"there are no results for {self.arguments[0]}")
        table = [["algorithm", "seed", "steps", f"mean return of the last {N_LAST} evaluations"]]
        commands, machines = [], set()
        for path in paths:
            comments, rows = self.read(path)
            commands.append(comments[0])
            machines.update(comments[1:])
            columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
            score = sum(map(float, columns["mean_return"][-N_LAST:])) / N_LAST
            algorithm, seed = re.fullmatch(r".*?_.*?_(.*)_seed(\d+)", path.stem).groups()
            table.append([algorithm, seed, f"{int(columns['step'][-1]):,}", f"{score:.0f}"])
        return [_code(commands), *map(_paragraph, sorted(machines)), _table(table)]


def _code(lines: list[str]) -> nodes.literal_block:
    text = "\n".join(lines)
    return nodes.literal_block(text, text, language="sh")


def _paragraph(text: str) -> nodes.paragraph:
    return nodes.paragraph(text, text)


def _table(rows: list[list[str]]) -> nodes.table:
    # What was not measured, such as a package that was not installed, is no column
    shown = [place for place, _ in enumerate(rows[0]) if any(row[place] for row in rows[1:])]
    rows = [[row[place] for place in shown] for row in rows]
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in rows[0]), cols=len(rows[0]))
    group += nodes.thead("", _row(rows[0]))
    group += nodes.tbody("", *map(_row, rows[1:]))
    return nodes.table("", group, classes=["benchmark"])


def _row(cells: list[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", _paragraph(cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about the directives."""
    app.add_directive("benchmark", BenchmarkDirective)
    app.add_directive("learning", LearningDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
