"""Files of hyperparameters in the zoo's format: where ours are, and what may be wrong with one."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gymnasium

import sb3_rlx2
from sb3_rlx2.common.arguments import constructor_arguments, did_you_mean

# What the zoo itself takes from an entry; everything else goes to the algorithm
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}
# What the zoo passes to the algorithm by itself
TAKEN = {"self", "env", "device", "seed", "tensorboard_log", "verbose", "_init_setup_model"}
REQUIRED = ("n_timesteps", "policy")
SUFFIXES = (".yml", ".yaml", ".py")


def hyperparameter_folder() -> Path:
    """Where the packaged files of hyperparameters are: in the package, or beside it in a checkout."""
    package = Path(sb3_rlx2.__file__).parent
    packaged = package / "hyperparams"
    return packaged if packaged.is_dir() else package.parent / "hyperparams"


def hyperparameter_file(algo: str, config: str | None = None) -> str:
    """The file of hyperparameters that ``--conf-file`` means.

    :param algo: the zoo's name of the algorithm, such as ``"rlx2_td3"``
    :param config: the name of a baseline (``"rigl"``, ``"set"``, ``"ss"`` or ``"tiny"``), a file, or a Python module;
        None (default): the algorithm's own file
    :return: path of a file or name of a module
    :raises ValueError: if it is none of these
    """
    folder = hyperparameter_folder()
    if config is None:
        return str(folder / f"{algo}.yml")
    family = algo.removeprefix("rlx2")  # rlx2_td3 has baselines/rigl_td3.yml
    baselines = {path.stem.removesuffix(family): str(path) for path in folder.glob(f"baselines/*{family}.yml")}
    if config in baselines:
        return baselines[config]
    if not config.endswith(SUFFIXES) and not _is_module(config):
        raise ValueError(
            f"--conf-file {config}: this is no file ({', '.join(SUFFIXES)}), no Python module and no baseline "
            f"({', '.join(sorted(baselines))}){did_you_mean(config, baselines)}"
        )
    return config


def check_file(config: str, env_id: str) -> None:
    """Check what a YAML file says for an environment, before the zoo reads it.

    :param config: path of the file; anything but YAML is left to the zoo
    :param env_id: id of the environment
    :raises ValueError: if it is no YAML, no mapping of environments to hyperparameters, or misspells the environment
    """
    if not config.endswith((".yml", ".yaml")):
        return
    import yaml

    try:
        entries = yaml.safe_load(Path(config).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is no valid YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{config} holds no environments: each is a key with its hyperparameters below it")
    if env_id in entries:
        if not isinstance(entries[env_id], dict):
            raise ValueError(f"{config}, {env_id}: hyperparameters are expected below it, not {entries[env_id]!r}")
        return
    unknown = [str(name) for name in entries if name not in gymnasium.registry]
    for close in difflib.get_close_matches(env_id, unknown, n=1, cutoff=0.8):
        raise ValueError(f"{config}: {close!r} is no environment. Did you mean {env_id!r}?")


def check_entry(algo: str, entry: Mapping[str, Any], place: str) -> None:
    """Check the hyperparameters of one environment: their names, and values that YAML reads otherwise than meant.

    :param algo: the zoo's name of the algorithm
    :param entry: hyperparameters, as the zoo read them
    :param place: what messages say of where they come from
    :raises ValueError: for the first key that is wrong; the message names it and what may have been meant
    """
    from rl_zoo3.utils import ALGOS

    algorithm = ALGOS[algo]
    arguments = {name: value for name, value in inspect.signature(algorithm).parameters.items() if name not in TAKEN}
    _check_names(entry, arguments.keys() | ZOO_KEYS, place)
    for key in REQUIRED:
        if key not in entry:
            raise ValueError(f"{place}: {key} is missing")
    for key, value in entry.items():
        _check_value(f"{place}: {key}", value, arguments[key].annotation if key in arguments else None)
    policy = getattr(algorithm, "policy_aliases", {}).get(entry["policy"])
    policy_kwargs = _evaluated(entry, "policy_kwargs", place)
    if policy is not None and isinstance(policy_kwargs, Mapping):
        _check_names(policy_kwargs, constructor_arguments(policy), f"{place}, policy_kwargs")
    _evaluated(entry, "replay_buffer_kwargs", place)
    _evaluated(entry, "replay_buffer_class", place)


def _check_names(given: Collection[str], allowed: Collection[str], place: str) -> None:
    for key in given:
        if key not in allowed:
            raise ValueError(f"{place}: {key!r} is unknown{did_you_mean(str(key), allowed)}")


def _check_value(place: str, value: Any, annotation: Any) -> None:
    if isinstance(value, str) and _is_number(value):
        raise ValueError(f"{place}: {value} is text to YAML. Write it as !!float {value}, or as a plain integer")
    if place.endswith(": learning_rate") and isinstance(value, str) and not _is_number(value.partition("_")[2]):
        raise ValueError(f"{place}: {value!r} is not allowed: a number, or lin_ and a number such as lin_1e-3")
    # Annotations are text where a module postpones them
    expected = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    accepted = {"int": ("int",), "float": ("int", "float"), "bool": ("bool",)}.get(expected)
    if accepted is not None and type(value).__name__ not in accepted:
        raise ValueError(f"{place}: {value!r} is of type {type(value).__name__}, allowed is {' or '.join(accepted)}")


def _evaluated(entry: Mapping[str, Any], key: str, place: str) -> Any:
    """The value as the zoo sees it: text is Python, evaluated among the names of its experiment manager."""
    import rl_zoo3.exp_manager

    value = entry.get(key)
    if not isinstance(value, str):
        return value
    try:
        return eval(value, dict(vars(rl_zoo3.exp_manager)))
    except Exception as error:
        raise ValueError(f"{place}: {key}: {value} is not valid Python: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
