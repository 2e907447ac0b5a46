"""The report of a study: tables, files for other programs, and pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sb3_rlx2.analysis.plots.runs import Run
from sb3_rlx2.files.atomic import replacing
from sb3_rlx2.studies.archive import write_archive
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.statistics import (
    N_LAST,
    Array,
    estimate,
    iqm,
    mean,
    percent_of,
    probability_of_improvement,
    run_score,
    score_form,
)
from sb3_rlx2.studies.study_file import RunSettings, Study, expand

METRICS = {
    "avg_return": "mean_return",
    "std_return": "std_return",
    "min_return": "min_return",
    "avg_length": "mean_length",
}
LONG_COLUMNS = ("exp_name", "env_name", "seed", "metric", "env_step", "value")
"""These and ``avg_return`` are what the result files of SimbaV2 have."""
FEW_SEEDS = 3
"""Of so few the bootstrap's interval is hardly more than their range."""
NOTHING = "-"
PICTURES = ("learning", "scores", "profiles")


@dataclass(frozen=True)
class FinishedRun:
    """A run that reached its last step.

    :param folder: of the run
    :param rows: its evaluations
    :param score: mean of the last ones
    """

    folder: RunFolder
    rows: Sequence[Mapping[str, float]]
    score: float

    @property
    def environment(self) -> str:
        """Id of its environment."""
        return self.folder.settings.environment

    @property
    def method(self) -> str:
        """What the study calls its method."""
        return self.folder.settings.method

    @property
    def last(self) -> Mapping[str, float]:
        """Its last evaluation."""
        return self.rows[-1]


class Group(NamedTuple):
    """Methods that are compared over the same environments.

    :param environments: those of one method at least, all of them
    :param methods: all that have finished runs on each of these
    """

    environments: tuple[str, ...]
    methods: tuple[str, ...]


class StudyReport:
    """What the finished runs of a study say. Runs that are not finished are listed, and count for nothing.

    :param study: the study
    :param results: folder of its results
    :param n_last: how many of a run's last evaluations make its score, default 10 (the paper: 30)
    :param confidence: size of intervals, default 0.95
    :raises ValueError: if a folder holds a run of other settings
    """

    def __init__(self, study: Study, results: Path, n_last: int = N_LAST, confidence: float = 0.95) -> None:
        self.study, self.n_last, self.confidence = study, n_last, confidence
        self.finished: list[FinishedRun] = []
        self.unfinished: list[RunFolder] = []
        self.not_begun: list[RunSettings] = []
        self.planned = expand(study)
        for settings in self.planned:
            folder = RunFolder(results / settings.folder)
            if not folder.check(settings):
                self.not_begun.append(settings)
                continue
            if folder.is_finished and (rows := folder.rows()):
                score = run_score([row["mean_return"] for row in rows], n_last)
                self.finished.append(FinishedRun(folder, rows, score))
            else:
                self.unfinished.append(folder)

    def scores(self, environment: str, method: str) -> Array:
        """Scores of the finished runs of a method on an environment, by seed.

        :param environment: id
        :param method: name
        """
        return np.array([run.score for run in self._of(environment, method)])

    def _of(self, environment: str, method: str) -> list[FinishedRun]:
        return [run for run in self.finished if (run.environment, run.method) == (environment, method)]

    @property
    def environments(self) -> list[str]:
        """Those with finished runs."""
        return [name for name in self.study.environments if any(run.environment == name for run in self.finished)]

    def methods(self, environment: str) -> list[str]:
        """Methods with finished runs on an environment.

        :param environment: id
        """
        return [name for name in self.study.methods if self._of(environment, name)]

    def percent(self, method: str) -> dict[str, Array]:
        """Scores of a method in percent of the reference's mean, by environment, see ``percent_of``.

        :param method: name
        """
        reference = self.study.reference
        if reference is None:
            return {}
        own = {name: scores for name in self.environments if len(scores := self.scores(name, method))}
        return percent_of(own, {name: self.scores(name, reference) for name in self.environments})

    @property
    def groups(self) -> list[Group]:
        """What can be compared over several environments, where the reference has finished runs, too."""
        reference = self.study.reference
        on = {
            method: tuple(name for name in self.environments if len(self.scores(name, method)))
            for method in self.study.methods
        }
        of_reference = on.get(reference or "", ())
        shared = {method: tuple(name for name in own if name in of_reference) for method, own in on.items()}
        found = [
            Group(environments, tuple(method for method, own in shared.items() if {*environments} <= {*own}))
            for environments in dict.fromkeys(shared.values())
            if environments and len(environments) >= min(2, len(self.environments))
        ]
        found = [group for group in found if len(group.methods) > 1]
        return sorted(found, key=lambda group: -len(group.environments))

    # --- Markdown ---

    def to_markdown(self, pictures: Sequence[str] = ()) -> str:
        """Tables of everything, as Markdown.

        :param pictures: names of files to show, default none
        """
        study = self.study
        lines = [f"# {study.title}", ""]
        if study.reproduces:
            lines += [f"Reproduces {study.reproduces}.", ""]
        fewer = ", or of all where there are fewer" * any(len(run.rows) < self.n_last for run in self.finished)
        is_few = any(1 < len(self.scores(run.environment, run.method)) <= FEW_SEEDS for run in self.finished)
        few = f"; of {FEW_SEEDS} seeds or fewer they are hardly more than the range of their scores" * is_few
        lines += [
            f"The score of a run is the mean of its last {self.n_last} evaluations{fewer}, one every "
            f"{study.evaluate_every:,} environment steps, of {study.evaluation_episodes} noise-free episodes each. "
            "IQM: interquartile mean over seeds. "
            f"In brackets: {100 * self.confidence:g}% stratified-bootstrap intervals{few}. "
            f"{len(self.finished)} of {len(self.planned)} runs are finished; the others count for nothing here.",
            "",
        ]
        if diverged := [run.folder.settings for run in self.finished if np.isnan(run.score)]:
            lines += [f"Diverged, by seed, with returns that are no numbers: {_by_seed(diverged)}.", ""]
        for environment in self.environments:
            lines += [f"## {environment}", "", *self._score_table(environment), "", *self._run_table(environment), ""]
        for group in self.groups:
            lines += [*self._together(group), *self._pairs(group)]
        lines += [f"![{Path(name).stem}]({name})\n" for name in pictures]
        lines += self._unfinished_runs()
        lines += self._machines()
        return "\n".join(lines).rstrip() + "\n"

    def _score_table(self, environment: str) -> list[str]:
        reference, published = self.study.reference, self.study.published.get(environment, {})
        head = ["method", "seeds", "IQM", "mean", "worst seed"]
        head += [f"% of {reference}"] * (reference is not None) + ["paper, % of dense"] * bool(published)
        rows = []
        for method in dict.fromkeys((*self.study.methods, *published)):
            planned = len(self._planned(environment, method))
            scores = self.scores(environment, method)
            if not len(scores) and method not in published:
                continue
            row = [method, f"{len(scores)} of {planned}" if planned else NOTHING]
            if len(scores):
                found = [estimate([scores], measure, confidence=self.confidence) for measure in (iqm, mean)]
                row += [found[0].text(), found[1].text(), f"{scores.min():{score_form(scores.min())}}"]
            else:
                row += [NOTHING] * 3
            if reference is not None:
                related = self.percent(method).get(environment)
                row.append(NOTHING if related is None else f"{related.mean():.0f}")
            if published:
                row.append(str(published.get(method, NOTHING)))
            rows.append(row)
        return _table(head, rows)

    def _run_table(self, environment: str) -> list[str]:
        head = ["method", "steps", "updates", "core-minutes a run", "connections of actor, critics", "made by"]
        rows = []
        for method in self.methods(environment):
            runs = self._of(environment, method)
            minutes = [run.last["cpu_seconds"] / 60 for run in runs]
            connections = sorted({(run.last["actor_connections"], run.last["critic_connections"]) for run in runs})
            rows.append(
                [
                    method,
                    _range([run.last["step"] for run in runs]),
                    _range([run.last["updates"] for run in runs]),
                    f"{np.mean(minutes):.1f}",
                    "; ".join(f"{actor:,.0f}, {critics:,.0f}" for actor, critics in connections),
                    ", ".join(str(number) for number in self._numbers_of_makers(runs)),
                ]
            )
        return _table(head, rows)

    def _together(self, group: Group) -> list[str]:
        """Measures over several environments."""
        reference, methods = self.study.reference, group.methods
        lines = [f"## Together on {', '.join(group.environments)}, in percent of {reference}", ""]
        related = {method: _only(self.percent(method), group.environments) for method in methods}
        if left_out := [name for name in group.environments if name not in related[methods[0]]]:
            lines += [f"Without {', '.join(left_out)}, where the mean of {reference} is not above 0.", ""]
        rows = []
        for method, own in related.items():
            scores, row = list(own.values()), [NOTHING] * 3
            if scores:
                row = [estimate(scores, each, confidence=self.confidence).text(".0f") for each in (iqm, mean)]
                row.append(f"{min(float(of_one.min()) for of_one in scores):.0f}")
            rows.append([method, *row])
        return [*lines, *_table(["method", "IQM", "mean", "worst run"], rows), ""]

    def _pairs(self, group: Group) -> list[str]:
        """The probability of improvement of each method on each other one."""
        rows = []
        for ours in group.methods:
            row = [ours]
            for theirs in group.methods:
                pairs = [(self.scores(name, ours), self.scores(name, theirs)) for name in group.environments]
                better = probability_of_improvement(*zip(*pairs, strict=True), confidence=self.confidence)
                row.append(NOTHING if ours == theirs else better.text(".2f"))
            rows.append(row)
        sentence = "Probability that a run of the row's method scores higher than one of the column's:"
        return [sentence, "", *_table(["", *group.methods], rows), ""]

    def _unfinished_runs(self) -> list[str]:
        if not (self.unfinished or self.not_begun):
            return []
        rows = []
        for folder in self.unfinished:
            settings, evaluations = folder.settings, folder.rows()
            last = evaluations[-1]["mean_return"] if evaluations else 0.0
            rows.append(
                [
                    settings.environment,
                    settings.method,
                    str(settings.seed),
                    folder.progress().state,
                    f"{int(evaluations[-1]['step']) if evaluations else 0:,} of {settings.steps:,}",
                    f"{last:{score_form(last)}}" if evaluations else NOTHING,
                ]
            )
        head = ["environment", "method", "seed", "state", "evaluated at step", "return there"]
        lines = ["## Not finished", ""]
        if rows:
            lines += [*_table(head, rows), ""]
        if self.not_begun:
            lines += [f"Not begun, by seed: {_by_seed(self.not_begun)}.", ""]
        return lines

    def _machines(self) -> list[str]:
        command = f"rlx2 study run {self.study.path.name}{' --quick' * self.study.is_quick}"
        makers = [f"{number}. {maker}" for number, maker in enumerate(self._makers(self.finished), start=1)]
        return ["## Made by", "", f"`{command}`", "", *makers]

    def _makers(self, runs: Iterable[FinishedRun]) -> list[str]:
        """Machine and versions of each process that worked on some runs, each once."""
        sessions = [session for run in runs for session in run.folder.record("sessions.json").get("sessions", [])]
        makers = (
            f"{session['machine']}, one thread a run; sb3-rlx2 {session['version']}, commit {session['commit']}; "
            + ", ".join(f"{name} {version}" for name, version in session["packages"].items())
            for session in sessions
        )
        return list(dict.fromkeys(makers))

    def _numbers_of_makers(self, runs: Iterable[FinishedRun]) -> list[int]:
        every = self._makers(self.finished)
        return sorted(every.index(maker) + 1 for maker in self._makers(runs))

    def _planned(self, environment: str, method: str) -> list[int]:
        return [run.seed for run in self.planned if (run.environment, run.method) == (environment, method)]

    # --- files ---

    def write(self, folder: Path) -> list[Path]:
        """Write everything: ``report.md``, ``evaluations.csv`` (long), ``runs.csv``, ``runs.jsonl`` and pictures.

        Pictures of an earlier report that the runs do not make any more are removed.

        :param folder: where, made if need be
        :return: the files
        """
        folder.mkdir(parents=True, exist_ok=True)
        pictures = self._draw(folder) if self.finished else []
        for name in PICTURES:
            for earlier in {folder / f"{name}.png", folder / f"{name}.svg"} - {*pictures}:
                earlier.unlink(missing_ok=True)
        paths = [folder / name for name in ("report.md", "evaluations.csv", "runs.csv", "runs.jsonl")]
        shown = [path.name for path in pictures if path.suffix == ".png"]
        with replacing(paths[0], "w", encoding="utf-8") as file:
            file.write(self.to_markdown(shown))
        _write_csv(paths[1], LONG_COLUMNS, self._long_rows())
        _write_csv(paths[2], RUN_COLUMNS, self._run_rows())
        write_archive([run.folder for run in self.finished], paths[3])
        return [*paths, *pictures]

    def _long_rows(self) -> Iterable[Sequence[object]]:
        for run in self.finished:
            for metric, column in METRICS.items():
                for row in run.rows:
                    step = int(row["step"])
                    yield run.method, run.environment, run.folder.settings.seed, metric, step, f"{row[column]:.3f}"

    def _run_rows(self) -> Iterable[Sequence[object]]:
        for run in self.finished:
            sessions = run.folder.record("sessions.json").get("sessions", [])
            yield (
                run.method,
                run.environment,
                run.folder.settings.seed,
                f"{run.score:.2f}",
                *(int(run.last[name]) for name in ("step", "updates", "actor_connections", "critic_connections")),
                f"{run.last['cpu_seconds'] / 60:.2f}",
                " ".join(dict.fromkeys(session["commit"] for session in sessions)),
                "; ".join(dict.fromkeys(session["machine"] for session in sessions)),
            )

    def _draw(self, folder: Path) -> list[Path]:
        from sb3_rlx2.analysis.plots.learning import draw_learning_curves
        from sb3_rlx2.analysis.plots.style import save
        from sb3_rlx2.studies.pictures import draw_profiles, draw_scores

        curves = [
            Run(
                run.environment,
                run.method,
                str(run.folder.settings.seed),
                np.array([row["step"] for row in run.rows]),
                np.array([row["mean_return"] for row in run.rows]),
            )
            for method in self.study.methods
            for run in self.finished
            if run.method == method
        ]
        scores = {
            environment: {method: self.scores(environment, method) for method in self.methods(environment)}
            for environment in self.environments
        }
        figures = {"learning": draw_learning_curves(curves, confidence=self.confidence)}
        figures["scores"] = draw_scores(scores, self.confidence)
        percent = {
            ", ".join(group.environments): {
                method: related
                for method in group.methods
                if (related := _only(self.percent(method), group.environments))
            }
            for group in self.groups
        }
        percent = {title: by_method for title, by_method in percent.items() if by_method}
        if percent:
            assert self.study.reference is not None
            figures["profiles"] = draw_profiles(percent, self.study.reference)
        return [path for name, figure in figures.items() for path in save(figure, folder / name, dpi=150)]


RUN_COLUMNS = (
    *("exp_name", "env_name", "seed", "score", "env_steps", "updates", "actor_connections", "critic_connections"),
    *("core_minutes", "commit", "machine"),
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _by_seed(runs: Iterable[RunSettings]) -> str:
    seeds: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        seeds.setdefault((run.environment, run.method), []).append(str(run.seed))
    return "; ".join(f"{environment} {method} ({', '.join(own)})" for (environment, method), own in seeds.items())


def _only(scores: Mapping[str, Array], environments: Sequence[str]) -> dict[str, Array]:
    return {name: own for name, own in scores.items() if name in environments}


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
