"""``rlx2 study``: many trainings from one file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from sb3_rlx2.studies.archive import restore
from sb3_rlx2.studies.executors import dask_executor, local_executor, slurm_executor, usable_cores
from sb3_rlx2.studies.progress import live_progress, overview
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.runner import run_all, run_folders
from sb3_rlx2.studies.statistics import N_LAST
from sb3_rlx2.studies.study_file import Study, expand, read_study

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs of a study, or tell how far they are.

    :param argv: command line; None: ``sys.argv``
    :return: exit status: 1 if a run failed
    :raises ValueError: if the study file is wrong, or a folder holds another run
    """
    arguments = _parser().parse_args(argv)
    study = read_study(arguments.study, arguments.quick)
    if arguments.results is None:
        arguments.results = Path("results") / study.name
    return {"run": _run, "status": _status, "report": _report}[arguments.command](study, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlx2 study", description="Many trainings from one file.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("study", type=Path, metavar="FILE.yml", help="the study")
    common.add_argument("--results", type=Path, metavar="FOLDER", help="folder of its runs (default: results/FILE)")
    common.add_argument("--quick", action="store_true", help="its short form, for trying")
    run = commands.add_parser("run", parents=[common], help="make its runs; those that are finished are skipped")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, metavar="N", help="runs at a time, one thread each (default: one a core)")
    where.add_argument(
        "--dask", metavar="ADDRESS", help="on workers of Dask: address or --scheduler-file of its scheduler"
    )
    where.add_argument(
        "--slurm",
        nargs="*",
        metavar="OPTION=VALUE",
        help="as jobs of Slurm, with options of submitit (timeout_min=240)",
    )
    run.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="runs of these methods (default: all), on these environments (default: all)",
    )
    run.add_argument(
        "--restore", type=Path, metavar="runs.jsonl", help="finished runs, of another machine, that a report wrote"
    )
    commands.add_parser("status", parents=[common], help="how far its runs are")
    report = commands.add_parser("report", parents=[common], help="tables, CSV and pictures of its finished runs")
    report.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: report below the results)")
    report.add_argument(
        "--last",
        type=int,
        default=N_LAST,
        metavar="N",
        help=f"evaluations that make a score (default: {N_LAST}; paper: 30)",
    )
    report.add_argument("--confidence", type=float, default=0.95, help="size of intervals (default: 0.95)")
    return parser


def _run(study: Study, arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs {arguments.jobs} is not allowed: it must be at least 1")
    if arguments.restore is not None:
        restore(arguments.restore, arguments.results, expand(study))
    folders = run_folders(study, arguments.results, arguments.only or ())
    executor = _executor(arguments)
    is_local = arguments.dask is None and arguments.slurm is None
    at_a_time = (arguments.jobs or usable_cores()) if is_local else None
    try:
        with live_progress() as look:
            failed = run_all(folders, executor, look, at_a_time)
    except KeyboardInterrupt:
        print("Stopped: the same command goes on", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # ends the processes of the runs too, for which the executor would wait
    executor.shutdown()
    print(overview(folders)[0])
    for folder, reason in failed:
        print(f"failed: {folder.path}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _executor(arguments: argparse.Namespace) -> Executor:
    if arguments.dask is not None:
        return dask_executor(arguments.dask)
    if arguments.slurm is not None:
        options = [option.partition("=")[::2] for option in arguments.slurm]
        values = {name: int(value) if value.isdigit() else value for name, value in options}
        return slurm_executor(arguments.results / "slurm", values)
    return local_executor(arguments.jobs)


def _status(study: Study, arguments: argparse.Namespace) -> int:
    planned = [(RunFolder(arguments.results / settings.folder), settings) for settings in expand(study)]
    there = [folder for folder, settings in planned if folder.check(settings)]
    not_begun = [settings for folder, settings in planned if folder not in there]
    found, each = overview(there)
    found = found._replace(steps_left=found.steps_left + sum(settings.steps for settings in not_begun))
    for folder, run in zip(there, each, strict=True):
        settings = folder.settings
        rows = folder.rows()
        last = f"{rows[-1]['mean_return']:10.1f}" if rows else f"{'':>10}"
        name = f"{settings.environment}  {settings.method}  seed {settings.seed}"
        print(f"{name:<50} {run.state:<9}{run.step:>11,} of {settings.steps:,}{last}")
    print(", ".join(filter(None, (str(found), f"{len(not_begun)} not begun" * bool(not_begun)))))
    return 0


def _report(study: Study, arguments: argparse.Namespace) -> int:
    from sb3_rlx2.studies.report import StudyReport

    if arguments.last < 1:
        raise ValueError(f"--last {arguments.last} is not allowed: it must be at least 1")
    if not 0.0 < arguments.confidence < 1.0:
        raise ValueError(f"--confidence {arguments.confidence} is not allowed: it must lie between 0 and 1")
    if not arguments.results.is_dir():
        raise ValueError(f"--results {arguments.results} is no folder: there are no runs of this study")
    report = StudyReport(study, arguments.results, arguments.last, arguments.confidence)
    for path in report.write(arguments.out or arguments.results / "report"):
        print(path)
    return 0
