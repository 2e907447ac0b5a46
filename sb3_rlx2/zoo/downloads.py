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

from sb3_rlx2.common.saving.trust import VARIABLE
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state

FLAG = "--trusted"
OF_HUGGINGFACE = "TRUST_REMOTE_CODE"

PICKLED = "holds pickled objects"
OF_THE_MODEL = {"data", "policy.pth"}
"""What of SB3's archive of a model is or was pickled."""

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
            # The zoo reads no statistics without pickle
            can_do_without = reason == PICKLED and not filename.endswith(".pkl")
            raise ValueError(
                f"{filename} of {repo_id} {reason}, and so can run any code when it is used: pass {FLAG} if you trust "
                f"whoever uploaded it{', or ask for a model without pickle (rlx2 convert)' if can_do_without else ''}"
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
    if name.endswith(".pkl"):  # the zoo unpickles it, whatever it is
        return PICKLED
    if zipfile.is_zipfile(path):  # a file may be this and one of ours too, and SB3 unpickles what is in it
        return _why_code_of_archive(path)
    try:
        read_state(path)
    except ModelFileError:
        return PICKLED
    return None


def _why_code_of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return PICKLED
    if OF_THE_MODEL & {*names}:
        return PICKLED
    # Curves of the training are in an archive too, which the zoo unpacks over what it has downloaded
    other = next((name for name in names if not _is_curve(name)), None)
    return None if other is None else f"holds {other!r}, which is no curve of a training"


def _is_curve(name: str) -> bool:
    return name == "evaluations.npz" or (name.endswith(".csv") and not {"/", "\\"} & {*name})


def object_made_by(text: str) -> str | None:
    """An object that a YAML file of the zoo makes, beside those that all of them do; None: there is none.

    :param text: what is in the file
    """
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        tag = getattr(event, "tag", None) or ""
        if "python/" in tag and tag.rpartition("python/")[2] not in KNOWN_TAGS:
            return str(tag.rpartition(":")[2])
    return None


def _why_code_of_yaml(text: str) -> str | None:
    if (made := object_made_by(text)) is not None:
        return f"makes objects of its own choice ({made})"
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
