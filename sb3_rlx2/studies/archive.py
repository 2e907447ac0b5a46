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


def restore(path: Path, results: Path) -> int:
    """Make the folders of the runs in a file, where there are none yet.

    :param path: what ``write_archive`` wrote
    :param results: folder of the study's results
    :return: how many were made
    :raises ValueError: if the file cannot be read, or a folder holds a run of other settings
    """
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        runs = [(RunSettings.from_dict(line["settings"]), line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no finished runs can be read from this file ({error})") from error
    made = 0
    for settings, line in runs:
        folder = RunFolder(results / settings.folder)
        folder.prepare(settings)
        if not folder.is_finished and not folder.is_running:
            with replacing(folder.evaluations, "w", encoding="utf-8") as file:
                file.write(line["evaluations"])
            for name in RECORDS:
                folder.write(name, line[name.removesuffix(".json")])
            made += 1
    return made
