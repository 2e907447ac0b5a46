"""Files of hyperparameters in the zoo's format: where ours are, and what may be wrong with one."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.common.arguments import constructor_arguments, did_you_mean, is_number
from sb3_rlx2.studies.hyperparameters import hyperparameter_folder, packaged_baselines

WRAPPERS = (str, list, dict, type, type(None))
# What the zoo itself takes from an entry, and the types that it can use; everything else goes to the algorithm
ZOO_KEYS: dict[str, tuple[type, ...]] = {
    "callback": WRAPPERS,
    "env_kwargs": (dict,),
    "env_wrapper": WRAPPERS,
    "frame_stack": (int, type(None)),
    "monitor_kwargs": (dict, str),
    "n_envs": (int,),
    "n_timesteps": (int, float),
    "noise_std": (int, float),
    "noise_type": (str,),
    "normalize": (bool, str, dict),
    "vec_env_wrapper": WRAPPERS,
}
WRAPPER_KEYS = ("callback", "env_wrapper", "vec_env_wrapper")
AT_LEAST_ONE = ("frame_stack", "n_envs", "n_timesteps")
NOISE_TYPES = ("normal", "ornstein-uhlenbeck")
# Text for these is Python, which the zoo evaluates
EVALUATED: dict[str, tuple[type, ...]] = {
    "policy_kwargs": (Mapping, type(None)),
    "replay_buffer_kwargs": (Mapping, type(None)),
    "replay_buffer_class": (type, type(None)),
}
# What the zoo passes to the algorithm by itself
TAKEN = {"self", "env", "device", "seed", "tensorboard_log", "verbose", "_init_setup_model"}
REQUIRED = ("n_timesteps", "policy")
SUFFIXES = (".yml", ".yaml", ".py")


def hyperparameter_file(algo: str, config: str | None = None) -> str:
    """The file of hyperparameters that ``--conf-file`` means.

    :param algo: the zoo's name of the algorithm, such as ``"rlx2_td3"``
    :param config: ``"fast"``, ``"fast20"``, ``"steady"`` or a baseline (``"rigl"``, ``"set"``, ``"ss"``,
        ``"tiny"``), where the algorithm has it; a file, or a Python module; None (default): the algorithm's own file
    :return: path of a file or name of a module
    :raises ValueError: if it is none of these
    """
    if config is None:
        return str(hyperparameter_folder() / f"{algo}.yml")
    baselines = packaged_baselines(algo)
    if config in baselines:
        return str(baselines[config])
    if not config.endswith(SUFFIXES) and not _is_module(config):
        raise ValueError(
            f"--conf-file {config}: this is no file ({', '.join(SUFFIXES)}), no Python module and no baseline "
            f"of {algo} ({', '.join(sorted(baselines)) or 'it has none'}){did_you_mean(config, baselines)}"
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


def check_entry(algo: str, entry: Mapping[str, Any], place: str, params: Collection[str] = ()) -> None:
    """Check the hyperparameters of one environment: their names, and values that YAML reads otherwise than meant.

    :param algo: the zoo's name of the algorithm
    :param entry: hyperparameters, as the zoo read them
    :param place: what messages say of where they come from
    :param params: keys that were given by ``-params`` instead, default none
    :raises ValueError: for the first key that is wrong; the message names it and what may have been meant
    """
    from rl_zoo3.utils import ALGOS

    algorithm = ALGOS[algo]
    arguments = {name: value for name, value in inspect.signature(algorithm).parameters.items() if name not in TAKEN}
    places = {key: "-params" if key in params else place for key in entry}
    for key in entry:
        _check_name(key, arguments.keys() | ZOO_KEYS.keys(), places[key])
    for key in REQUIRED:
        if key not in entry:
            raise ValueError(f"{place}: {key} is missing")
    for key, value in entry.items():
        _check_value(key, value, arguments[key].annotation if key in arguments else None, f"{places[key]}: {key}")
    for key in ("noise_type", "noise_std"):
        if key in entry and not {"noise_type", "noise_std"} <= entry.keys():
            raise ValueError(f"{places[key]}: {key} needs noise_type and noise_std together")
    values = {key: _evaluated(key, entry[key], places[key]) for key in EVALUATED if key in entry}
    policy = getattr(algorithm, "policy_aliases", {}).get(entry["policy"])
    if policy is not None:
        for key in values.get("policy_kwargs") or ():
            _check_name(key, constructor_arguments(policy), f"{places['policy_kwargs']}, policy_kwargs")
    activation = (values.get("policy_kwargs") or {}).get("activation_fn", type)
    if not callable(activation):
        raise ValueError(
            f"{places['policy_kwargs']}, policy_kwargs: activation_fn={activation!r} is not allowed: it must be a "
            "class of torch.nn, such as nn.ReLU"
        )
    for key, cls in (("monitor_kwargs", Monitor), ("normalize", VecNormalize)):
        if key in entry and not isinstance(entry[key], bool):
            _check_names(_python(entry[key], f"{places[key]}: {key}"), cls, f"{places[key]}, {key}")
    if issubclass(algorithm, OffPolicyAlgorithm) and entry.get("normalize") and (entry.get("frame_stack") or 1) > 1:
        raise ValueError(
            f"{places['frame_stack']}: frame_stack={entry['frame_stack']} is not allowed with normalize: the replay "
            "buffer stores observations before VecNormalize, which are not stacked"
        )
    for key in WRAPPER_KEYS:
        for name, given in _classes(entry.get(key)):
            _check_class(name, given, f"{places[key]}: {key}")


def _check_names(given: Any, cls: type, place: str) -> None:
    """Check that a value is a dict with names of arguments of a class."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{place}: {given!r} is not allowed: it must be a dict of arguments of {cls.__name__}")
    for name in given:
        _check_name(name, constructor_arguments(cls), place)


def _classes(given: Any) -> list[tuple[str, Any]]:
    """Names of classes, each with its arguments, in what the zoo takes for wrappers and callbacks."""
    items = given if isinstance(given, list) else [given]
    items = [{item: {}} if isinstance(item, str) else item for item in items]
    pairs = [pair for item in items if isinstance(item, dict) for pair in item.items()]
    return [(name, arguments) for name, arguments in pairs if isinstance(name, str)]


def _check_class(name: str, arguments: Any, place: str) -> None:
    """Check that a module has a class with such arguments; which package is missing, the zoo says itself."""
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"{place}: {name!r} is not allowed: it must be the name of a class with its module")
    try:
        found = importlib.import_module(module)
    except ImportError:
        return
    if not hasattr(found, attribute):
        raise ValueError(f"{place}: there is no {attribute!r} in {module}{did_you_mean(attribute, vars(found))}")
    place = f"{place}, {attribute}"
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{place}: {arguments!r} is not allowed: it must be a dict of arguments")
    parameters = inspect.signature(getattr(found, attribute)).parameters
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for argument in arguments:
            _check_name(argument, parameters, place)


def _python(value: Any, place: str) -> Any:
    """A value, or what it stands for where it is text."""
    import rl_zoo3.exp_manager

    if isinstance(value, str):
        try:
            return eval(value, dict(vars(rl_zoo3.exp_manager)))
        except Exception as error:
            raise ValueError(f"{place}: {value} is not valid Python: {error}") from error
    return value


def _check_name(key: str, allowed: Collection[str], place: str) -> None:
    if key not in allowed:
        raise ValueError(f"{place}: {key!r} is unknown{did_you_mean(str(key), allowed)}")


def _check_value(key: str, value: Any, annotation: Any, place: str) -> None:
    if isinstance(value, str) and is_number(value):
        if place.startswith("-params"):
            raise ValueError(f"{place}: {value} is text. Write it without quotes")
        raise ValueError(f"{place}: {value} is text to YAML. Write it as !!float {value}, or as a plain integer")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place}: {value} is not allowed: it must be a finite number")
    if key == "learning_rate":
        _check_learning_rate(value, place)
    elif key == "policy":
        _check_type(value, (str, type), place)
    elif key in ZOO_KEYS:
        _check_type(value, ZOO_KEYS[key], place)
    else:
        # Annotations are text where a module postpones them
        expected = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        accepted: tuple[type, ...] | None = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(expected)
        if accepted is not None:
            _check_type(value, accepted, place)
    if key in AT_LEAST_ONE and value is not None and value < 1:
        raise ValueError(f"{place}: {value} is not allowed: it must be at least 1")
    if key == "noise_std" and value < 0:
        raise ValueError(f"{place}: {value} is not allowed: it must be >= 0")
    if key == "noise_type" and not any(name in value for name in NOISE_TYPES):
        raise ValueError(f"{place}: {value!r} is unknown: allowed are {' and '.join(NOISE_TYPES)}")


def _check_learning_rate(value: Any, place: str) -> None:
    """The zoo turns it into a schedule, constant or linear."""
    is_plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    schedule, _, start = value.partition("_") if isinstance(value, str) else ("", "", "")
    rate = float(value) if is_plain else float(start) if schedule == "lin" and is_number(start) else math.nan
    if not 0.0 < rate < math.inf:
        raise ValueError(
            f"{place}: {value!r} is not allowed: a number above 0, or lin_ and such a number, as in lin_1e-3"
        )


def _check_type(value: Any, allowed: Collection[type], place: str) -> None:
    # To Python, True is an integer
    if (bool not in allowed and isinstance(value, bool)) or not isinstance(value, tuple(allowed)):
        names = " or ".join(_TYPE_NAMES.get(cls, cls.__name__) for cls in allowed)
        raise ValueError(f"{place}: {value!r} is of type {type(value).__name__}, allowed is {names}")


_TYPE_NAMES: dict[type, str] = {type(None): "null", Mapping: "dict", type: "a class"}


def _evaluated(key: str, value: Any, place: str) -> Any:
    """The value as the zoo sees it: text is Python, evaluated among the names of its experiment manager."""
    value = _python(value, f"{place}: {key}")
    _check_type(value, EVALUATED[key], f"{place}: {key}")
    return value


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
