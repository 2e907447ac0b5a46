"""Runs of a short study taken from a longer one that has trained alike so far, instead of making them again.

    python benchmarks/first_steps.py LONG/runs.jsonl SHORT.yml first_steps.jsonl
    rlx2 study run SHORT.yml --restore first_steps.jsonl

A run serves if its settings are those of the short study but for its method's name and its steps: then its first
evaluations are those that the short run would make, bit for bit on the same machine. What follows the length of a
training must not: learning rates that anneal are left out, and so is DQN; of evolution, which anneals too, the short
study states the long one's end (``topology_end``).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sb3_rlx2.files import replacing
from sb3_rlx2.studies import expand, read_study
from sb3_rlx2.studies.study_file import RunSettings

EXPLORING_BY_LENGTH = ("rlx2_dqn", "rlx2_qrdqn", "dqn", "qrdqn")  # exploration_fraction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="finished runs of the longer study, as its report wrote them")
    parser.add_argument("study", type=Path, help="file of the short study")
    parser.add_argument("out", type=Path, help="file for the runs that were found")
    arguments = parser.parse_args()
    longer = [json.loads(line) for line in arguments.runs.read_text(encoding="utf-8").splitlines()]
    with replacing(arguments.out, "w", encoding="utf-8") as file:
        for run in first_steps(longer, expand(read_study(arguments.study))):
            file.write(json.dumps(run) + "\n")
            print(run["settings"]["environment"], run["settings"]["method"], run["settings"]["seed"])


def first_steps(longer: Iterable[Mapping[str, Any]], planned: Iterable[RunSettings]) -> Iterator[dict[str, Any]]:
    """The runs of a short study that longer runs contain.

    :param longer: lines of the longer study's ``runs.jsonl``
    :param planned: runs of the short study
    :return: lines of the short study's
    """
    found = [(RunSettings.from_dict(line["settings"]), line) for line in longer]
    for run in planned:
        for settings, line in found:
            if settings.steps > run.steps and _as_long_as(settings, run).difference(run) is None:
                yield _cut(line, run)
                break


def _as_long_as(longer: RunSettings, run: RunSettings) -> RunSettings:
    """The settings of a longer run, were it as long as a short one and called so."""
    hyperparameters = dict(longer.hyperparameters)
    if longer.algorithm in EXPLORING_BY_LENGTH or isinstance(hyperparameters.get("learning_rate"), str):
        return longer  # another run, whatever its length
    hyperparameters.setdefault("topology_end", longer.steps)
    return replace(longer, method=run.method, steps=run.steps, hyperparameters=hyperparameters)


def _cut(line: Mapping[str, Any], run: RunSettings) -> dict[str, Any]:
    header, *rows = line["evaluations"].splitlines()
    kept = [row for row in rows if int(row.partition(",")[0]) <= run.steps]
    evaluations = "\n".join([header, *kept]) + "\n"
    last = list(csv.DictReader(io.StringIO(evaluations)))[-1]
    finished = {"time": line["finished"]["time"], **{name: float(value) for name, value in last.items()}}
    return {**line, "settings": run.to_dict(), "finished": finished, "evaluations": evaluations}


if __name__ == "__main__":
    main()
