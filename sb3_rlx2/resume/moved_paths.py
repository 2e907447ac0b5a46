"""Paths in a checkpoint, after its folder was moved or copied together with what lies beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_rlx2.resume.training_state import log_entries


def move_along(state: dict[str, Any], folder: Path) -> None:
    """Let paths beside or below the folder of a checkpoint be where they lie from it now.

    One that is not there stays what it was, if its old folder is still there.

    :param state: of the checkpoint; one of an earlier version does not say where its folder was and stays as it is
    :param folder: where it is now
    """
    if "folder" not in state:
        return
    old, new = os.path.dirname(state["folder"]), os.path.dirname(os.path.realpath(folder))
    if old == new:
        return

    def moved(path: str) -> str:
        if not path.startswith(os.path.join(old, "")) and path != old:
            return path
        there = os.path.normpath(os.path.join(new, os.path.relpath(path, old)))
        return there if os.path.exists(there) or not os.path.exists(os.path.dirname(path)) else path

    for entry in log_entries(state):
        entry["path"] = moved(entry["path"])
    logger = state["logger"]
    for place in (logger, *logger["formats"]):
        for name in ("dir", "folder"):
            if place.get(name) is not None:
                place[name] = moved(place[name])
    state["recipe"] = _with_texts(state["recipe"], moved)


def _with_texts(tree: Any, change: Callable[[str], str]) -> Any:
    """A tree with each text in it changed, but those that are keys."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _with_texts(entry, change) for key, entry in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_with_texts(entry, change) for entry in tree)
    return tree
