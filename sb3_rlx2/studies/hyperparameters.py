"""The packaged files of hyperparameters, and what a file says for an environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sb3_rlx2
from sb3_rlx2.common.arguments import did_you_mean

SUFFIXES = (".yml", ".yaml")


def hyperparameter_folder() -> Path:
    """Where the packaged files of hyperparameters are: in the package, or beside it in a checkout."""
    package = Path(sb3_rlx2.__file__).parent
    packaged = package / "hyperparams"
    return packaged if packaged.is_dir() else package.parent / "hyperparams"


def packaged_baselines(algorithm: str) -> dict[str, Path]:
    """The packaged files of an algorithm beside its own one.

    :param algorithm: the zoo's name of the algorithm, such as ``"rlx2_td3"``
    :return: by name, such as ``"rigl"``
    """
    family = algorithm.removeprefix("rlx2")  # rlx2_td3 has baselines/rigl_td3.yml
    return {
        path.stem.removesuffix(family): path
        for path in sorted(hyperparameter_folder().glob(f"baselines/*{family}.yml"))
    }


def parse_yaml(text: str) -> Any:
    """What YAML says. ``3e-4`` is a number, as in YAML 1.2; PyYAML alone takes it for a string.

    :param text: YAML
    :raises yaml.YAMLError: if it is none
    """
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    pattern = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+0123456789"))
    return yaml.load(text, loader)


def read_entry(
    algorithm: str, environment: str, config: str | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """The hyperparameters of an environment, or the file's default ones.

    :param algorithm: the zoo's name of the algorithm, such as ``"rlx2_td3"``
    :param environment: id of the environment
    :param config: the name of a packaged baseline or a YAML file; None (default): the algorithm's own packaged file,
        or nothing for an algorithm that has none (``"td3"``)
    :param folder: what a relative path of ``config`` is relative to; None (default): the working folder
    :return: hyperparameters in the format of the zoo's YAML files
    :raises ValueError: if there is no such file, or it says nothing for the environment
    """
    import yaml

    path = _file(algorithm, config, folder)
    if path is None:
        return {"policy": "MlpPolicy"}
    try:
        entries = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: no hyperparameters can be read from this file ({error})") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: an environment and hyperparameters below it are expected")
    entry = entries.get(environment, entries.get("default"))
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: there are no hyperparameters for {environment}, and no default ones")
    return dict(entry)


def _file(algorithm: str, config: str | None, folder: Path | None) -> Path | None:
    if config is None:
        path = hyperparameter_folder() / f"{algorithm}.yml"
        return path if path.is_file() else None
    baselines = packaged_baselines(algorithm)
    if config in baselines:
        return baselines[config]
    if not config.endswith(SUFFIXES):
        raise ValueError(
            f"config: {config!r} is no file ({', '.join(SUFFIXES)}) and no baseline of {algorithm} "
            f"({', '.join(baselines) or 'it has none'}){did_you_mean(config, baselines)}"
        )
    return (folder or Path()) / config
