"""What is downloaded from a hub, and is to run no code unless it is trusted."""

from __future__ import annotations

import ast
import functools
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sb3_rlx2.common.saving.opening import is_without_pickle
from sb3_rlx2.common.saving.trust import VARIABLE

FLAG = "--trusted"
OF_HUGGINGFACE = "TRUST_REMOTE_CODE"

KNOWN_TAGS = ("object/apply:collections.OrderedDict", "tuple")
"""What the zoo's own YAML files have, of the tags with which PyYAML makes any object."""

KNOWN_PACKAGES = ("gymnasium", "stable_baselines3", "sb3_contrib", "rl_zoo3")
WRAPPERS = ("env_wrapper", "vec_env_wrapper")


def checked(load_from_hub: Callable[..., str], is_trusted: bool) -> Callable[..., str]:
    """Wrap ``huggingface_sb3.load_from_hub``: what can run code is refused, unless it is trusted.

    :param load_from_hub: the function
    :param is_trusted: whether ``--trusted`` was given
    """

    @functools.wraps(load_from_hub)
    def wrapper(repo_id: str, filename: str, **kwargs: Any) -> str:
        trusts = is_trusted or os.environ.get(VARIABLE) == "1"
        trusts |= os.environ.get(OF_HUGGINGFACE, "").lower() in ("y", "yes", "t", "true", "on", "1")
        with _allowed_downloads():  # nothing is loaded here
            path = load_from_hub(repo_id, filename, **kwargs)
        if not trusts and (reason := why_code(Path(path), filename)) is not None:
            raise ValueError(
                f"{filename} of {repo_id} {reason}, and so can run any code when it is used: pass {FLAG} if you trust "
                "whoever uploaded it, or ask for a model without pickle (rlx2 convert)"
            )
        return path

    return wrapper


@contextmanager
def _allowed_downloads() -> Iterator[None]:
    before = os.environ.get(OF_HUGGINGFACE)
    os.environ[OF_HUGGINGFACE] = "True"
    try:
        yield
    finally:
        if before is None:
            del os.environ[OF_HUGGINGFACE]
        else:
            os.environ[OF_HUGGINGFACE] = before


def why_code(path: Path, name: str) -> str | None:
    """Say why using a file could run code that is in it; None if it cannot.

    :param path: the file
    :param name: its name in the zoo
    """
    if name.endswith((".yml", ".yaml")):
        return _why_code_of_yaml(path.read_text("utf-8"))
    with path.open("rb") as file:
        if is_without_pickle(file):
            return None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # Curves of the training are in an archive too
            return "holds pickled objects" if {"data", "policy.pth"} & {*archive.namelist()} else None
    return "holds pickled objects"


def _why_code_of_yaml(text: str) -> str | None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        tag = getattr(event, "tag", None) or ""
        if "python/" in tag and tag.rpartition("python/")[2] not in KNOWN_TAGS:
            return f"makes objects of its own choice ({tag.rpartition(':')[2]})"
    settings = yaml.load(text, Loader=PlainLoader)
    for name, value in settings.items() if isinstance(settings, dict) else settings or ():
        if name == "normalize" and isinstance(value, str):  # which the zoo evaluates
            try:
                ast.literal_eval(value)
            except (ValueError, SyntaxError):
                return f"has {name}: {value}"
        if name in WRAPPERS:
            for wrapper in [value] if isinstance(value, (str, dict)) else value or []:
                wrapper_name = next(iter(wrapper)) if isinstance(wrapper, dict) else str(wrapper)
                if wrapper_name.partition(".")[0] not in KNOWN_PACKAGES:
                    return f"has {name}: {wrapper_name}"
    return None


class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads the tags of the zoo's own files as the lists that they hold."""


def _items(loader: Any, suffix: str, node: Any) -> Any:
    items = loader.construct_sequence(node, deep=True)
    return items[0] if suffix == KNOWN_TAGS[0] and len(items) == 1 else items


PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _items)
