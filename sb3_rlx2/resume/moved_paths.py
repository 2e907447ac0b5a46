"""Paths in a checkpoint, after its folder was moved or copied together with what lies beside it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_rlx2.resume.training_state import log_entries


def move_along(state: dict[str, Any], folder: Path) -> None:
    """Let paths beside or below the folder of a checkpoint be where they lie from it now.

    One that is not there stays what it was, if its old folder is still there. But where the old folder of the
    checkpoint is still there, this is a copy: logs are then new beside it, and those of the other one stay whole.

    :param state: of the checkpoint; one of an earlier version does not say where its folder was and stays as it is
    :param folder: where it is now
    """
    if "folder" not in state:
        return
    old, new = os.path.dirname(state["folder"]), os.path.dirname(os.path.realpath(folder))
    if old == new:
        return

    is_copy = os.path.isdir(state["folder"])

    def is_below(path: str) -> bool:
        return path == old or path.startswith(os.path.join(old, ""))

    def moved(path: str) -> str:
        if not is_below(path):
            return path
        there = os.path.normpath(os.path.join(new, os.path.relpath(path, old)))
        stays = os.path.isfile(path) if is_copy else os.path.exists(os.path.dirname(path))  # a file is what is read
        return there if os.path.exists(there) or not stays else path

    def moved_log(path: str) -> str:
        if is_copy and is_below(path):
            return os.path.normpath(os.path.join(new, os.path.relpath(path, old)))
        if is_copy:
            warnings.warn(
                f"{path} belongs to the training in {state['folder']} too, of which this is a copy: it is taken back "
                "to the checkpoint",
                stacklevel=2,
            )
        return moved(path)

    logs = set()
    for entry in log_entries(state):
        logs.add(entry["path"])
        entry["path"] = moved_log(entry["path"])
    logger = state["logger"]
    if logger["dir"] is not None and is_below(logger["dir"]):
        logger["dir"] = moved_log(logger["dir"])
    for output in logger["formats"]:
        if "folder" in output:
            output["folder"] = moved_log(output["folder"])
    state["recipe"] = _with_texts(state["recipe"], lambda text: moved_log(text) if text in logs else moved(text))


def _with_texts(tree: Any, change: Callable[[str], str]) -> Any:
    """A tree with each text in it changed, but those that are keys."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _with_texts(entry, change) for key, entry in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_with_texts(entry, change) for entry in tree)
    return tree
