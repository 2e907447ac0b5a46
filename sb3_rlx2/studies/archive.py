"""Finished runs in one text file, from which another machine goes on: what was learned, without models and logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_rlx2.files.atomic import replacing
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.study_file import RunSettings

RECORDS = ("sessions.json", "finished.json")


def write_archive(folders: Sequence[RunFolder], path: Path) -> None:
    """Write the finished ones of some runs to a file, a line each.

    :param folders: of the runs
    :param path: of the file, whose name ends with ``.jsonl``
    """
    with replacing(path, "w", encoding="utf-8") as file:
        for folder in folders:
            if folder.is_finished:
                line = {
                    "settings": folder.settings.to_dict(),
                    **{name.removesuffix(".json"): folder.record(name) for name in RECORDS},
                    "evaluations": folder.evaluations.read_text(encoding="utf-8"),
                }
                file.write(json.dumps(line) + "\n")


def restore(path: Path, results: Path, planned: Sequence[RunSettings]) -> int:
    """Make the folders of those runs in a file that a study has, where none is finished or being made.

    :param path: what ``write_archive`` wrote
    :param results: folder of the study's results
    :param planned: the runs of the study; others are left out
    :return: how many were made
    :raises ValueError: if the file cannot be read, or a run in it, or in a folder that it has, is of other settings;
        nothing is written then
    """
    of_study = {settings.folder: settings for settings in planned}
    found: list[tuple[RunSettings, str, dict[str, Any]]] = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line: dict[str, Any] = json.loads(text)
            records = {name: line[name.removesuffix(".json")] for name in RECORDS}
            found.append((RunSettings.from_dict(line["settings"]), str(line["evaluations"]), records))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no finished runs can be read from this file ({error})") from error
    for settings, _, _ in found:
        here = of_study.get(settings.folder)
        if here is None:
            continue
        difference = settings.difference(here)
        if difference is not None:
            raise ValueError(f"{path} has a run {settings.folder} of other settings ({difference})")
        RunFolder(results / settings.folder).check(here)
    made = 0
    for settings, evaluations, records in found:
        if settings.folder not in of_study:
            continue
        folder = RunFolder(results / settings.folder)
        folder.prepare(of_study[settings.folder])
        try:
            with folder.locked():
                if folder.is_finished:
                    continue
                folder.remove_agents()  # of a run that was cut off here
                with replacing(folder.evaluations, "w", encoding="utf-8") as file:
                    file.write(evaluations)
                for name, record in records.items():
                    folder.write(name, record)
        except BlockingIOError:  # another process makes it
            continue
        made += 1
    return made
