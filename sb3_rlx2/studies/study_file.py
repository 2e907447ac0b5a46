"""The file of a study, and the runs that it asks for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import gymnasium

from sb3_rlx2.common.argument_ranges import MOST_SEED
from sb3_rlx2.common.arguments import did_you_mean
from sb3_rlx2.studies.algorithms import ALGORITHMS
from sb3_rlx2.studies.hyperparameters import parse_yaml, read_entry
from sb3_rlx2.studies.model import allowed_names, check_entry

TRAIN = "sb3_rlx2.studies.training:train"
STUDY_KEYS = (
    *("title", "reproduces", "environments", "seeds", "steps", "evaluation", "checkpoint_every", "hyperparameters"),
    *("methods", "reference", "published", "quick"),
)
QUICK_KEYS = ("environments", "seeds", "steps", "evaluation", "hyperparameters")
METHOD_KEYS = (
    *("algorithm", "config", "hyperparameters", "on", "environments", "seeds", "steps", "program", "options", "after"),
)
NONE_MEANS = ("action_noise",)
"""Hyperparameters for which null is a value of its own."""
FULL_ONLY = ("on", "environments", "seeds", "steps")
EVALUATION_KEYS = ("every", "episodes")


@dataclass(frozen=True)
class Method:
    """What is compared: an algorithm with its hyperparameters.

    :param name: what the study calls it
    :param algorithm: a key of ``sb3_rlx2.studies.algorithms.ALGORITHMS``
    :param config: the name of a packaged baseline (``"rigl"``) or a YAML file; None (default): the algorithm's own
    :param hyperparameters: what comes instead of that file's, default none
    :param on: the same for one environment only, by its id, default none
    :param environments: those that it is run on; None (default): all of the study
    :param seeds: by environment; those of the study where there are none, default none
    :param steps: None (default): those of the study
    :param program: ``module:function`` that makes a run, called with its folder (``RunFolder``), default
        ``"sb3_rlx2.studies.training:train"``
    :param options: further settings for the program, default none
    :param after: methods whose finished runs, of the same environment and seed, the program needs, default none
    """

    name: str
    algorithm: str
    config: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environments: tuple[str, ...] | None = None
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    steps: int | None = None
    program: str = TRAIN
    options: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What a study file says.

    :param path: the file
    :param title: what it is about, in a line
    :param reproduces: what of which paper; empty: nothing
    :param environments: ids
    :param seeds: of every method that has no others
    :param steps: environment steps of every method that has no others
    :param methods: by name
    :param evaluate_every: environment steps between two evaluations, default 10,000
    :param evaluation_episodes: noise-free episodes of an evaluation, default 10
    :param checkpoint_every: environment steps between two checkpoints, default 50,000
    :param hyperparameters: of every method, where it has no others, default none
    :param reference: the method whose score counts as 100%; None (default): scores are not related to any
    :param published: scores that a paper states, in percent of its reference, by environment and method, default none
    :param is_quick: whether it is the short form, for trying, default False
    :param quick_hyperparameters: of every method in the short form, whatever else it has, default none
    """

    path: Path
    title: str
    reproduces: str
    environments: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    methods: Mapping[str, Method]
    evaluate_every: int = 10_000
    evaluation_episodes: int = 10
    checkpoint_every: int = 50_000
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    is_quick: bool = False
    quick_hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its ending, with ``-quick`` for the short form."""
        return f"{self.path.stem}-quick" if self.is_quick else self.path.stem


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run.

    :param environment: its id
    :param method: what the study calls the method
    :param seed: of all random generators
    :param steps: environment steps
    :param algorithm: a key of ``ALGORITHMS``
    :param hyperparameters: all of them, in the format of the zoo's YAML files
    :param evaluate_every: environment steps between two evaluations
    :param evaluation_episodes: episodes of an evaluation
    :param checkpoint_every: environment steps between two checkpoints
    :param program: ``module:function`` that makes the run, default ``"sb3_rlx2.studies.training:train"``
    :param options: further settings for the program, default none
    :param after: methods whose finished runs, of the same environment and seed, the program needs, default none
    """

    environment: str
    method: str
    seed: int
    steps: int
    algorithm: str
    hyperparameters: Mapping[str, Any]
    evaluate_every: int
    evaluation_episodes: int
    checkpoint_every: int
    program: str = TRAIN
    options: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RunSettings:
        """What ``to_dict`` made.

        :param given: a dictionary; what later versions have added may be missing
        """
        known = {item.name: given[item.name] for item in fields(cls) if item.name in given}
        return cls(**known | {"after": _after(given.get("after"))})

    def difference(self, other: RunSettings) -> str | None:
        """What makes a run another one, in words; None: nothing. Checkpoints do not.

        :param other: settings to compare with
        """
        mine, others = (json.loads(json.dumps(each.to_dict())) for each in (self, other))  # as a file has them
        for ours in (mine, others):
            del ours["checkpoint_every"]
            ours.update({f"hyperparameters.{name}": value for name, value in ours.pop("hyperparameters").items()})
        for name in mine.keys() | others.keys():
            if mine.get(name) != others.get(name):
                return f"{name} is {mine.get(name)!r} there and {others.get(name)!r} here"
        return None

    @property
    def folder(self) -> Path:
        """Where the run is, below the results of its study."""
        return Path(file_name(self.environment), file_name(self.method), f"seed_{self.seed}")


def file_name(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.+=-]+", "_", text)


def read_study(path: Path, quick: bool = False) -> Study:
    """Read a study file and check it.

    :param path: a YAML file
    :param quick: its short form, for trying: what its ``quick`` says comes instead of the rest, and methods have no
        environments, seeds, steps and hyperparameters for an environment of their own; default False
    :raises ValueError: for the first thing that is wrong; the message names the file and the key
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        given = parse_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that there is not
        raise ValueError(f"{path}: no study can be read from this file ({error})") from error
    if (key := _key_twice(yaml.compose(text))) is not None:
        raise ValueError(f"{path}: the key {key!r} is there twice, and YAML would forget the first")
    if not isinstance(given, dict):
        raise ValueError(f"{path}: no study: the keys environments, methods, seeds and steps are expected")
    try:
        return _study(path, _quick(given) if quick else given, quick)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _key_twice(node: Any) -> str | None:
    """A key that a mapping below a node of YAML has more than once; None if there is none."""
    pairs = node.value if node is not None and node.id == "mapping" else ()
    keys = [key.value for key, _ in pairs if key.id == "scalar"]
    below = [value for _, value in pairs] if pairs else node.value if node is not None and node.id == "sequence" else []
    return next((key for key in keys if keys.count(key) > 1), None) or next(filter(None, map(_key_twice, below)), None)


def expand(study: Study) -> list[RunSettings]:
    """All runs of a study: those of the first seed of everything first.

    :param study: the study
    :raises ValueError: if a hyperparameter is unknown, there are none for an environment, or a run needs one that the
        study does not make
    """
    runs = [settings for method in study.methods.values() for settings in _runs(study, method)]
    there, order = {(run.method, run.environment, run.seed) for run in runs}, list(study.methods)
    for run in runs:
        for name in run.after:
            if (name, run.environment, run.seed) not in there:
                raise ValueError(
                    f"{study.path}: methods, {run.method}, after: {name} is not run on {run.environment} with seed "
                    f"{run.seed}"
                )

    def position(run: RunSettings) -> tuple[int, int, int]:
        seeds = study.methods[run.method].seeds.get(run.environment, study.seeds)
        return seeds.index(run.seed), study.environments.index(run.environment), order.index(run.method)

    return sorted(runs, key=position)


def select(runs: Sequence[RunSettings], names: Collection[str]) -> list[RunSettings]:
    """Those runs that belong to the methods and environments which are named.

    :param runs: of a study
    :param names: methods and environments; where none is a method, all methods, and the same for environments
    :raises ValueError: if a name is neither
    """
    methods, environments = {run.method for run in runs}, {run.environment for run in runs}
    for name in names:
        if name not in methods | environments:
            raise ValueError(f"only: {name!r} is no method or environment{did_you_mean(name, methods | environments)}")
    methods, environments = methods & set(names) or methods, environments & set(names) or environments
    chosen = [run for run in runs if run.method in methods and run.environment in environments]
    if not chosen:
        raise ValueError(f"only: no method among {', '.join(names)} is run on an environment among them")
    return chosen


def _quick(given: Mapping[str, Any]) -> dict[str, Any]:
    changes = _mapping(given.get("quick"), "quick")
    if not changes:
        raise ValueError("quick is missing: the study has no short form")
    _check_keys(changes, QUICK_KEYS, "quick: ")
    methods = {
        name: {key: value for key, value in _method_entry(entry, f"methods, {name}").items() if key not in FULL_ONLY}
        for name, entry in _mapping(given.get("methods"), "methods").items()
    }
    own = {key: value for key, value in changes.items() if key != "hyperparameters"}
    return {**given, **own, "methods": methods, "published": {}}


def _study(path: Path, given: Mapping[str, Any], quick: bool = False) -> Study:
    _check_keys(given, STUDY_KEYS, "")
    for key in ("environments", "methods", "seeds", "steps"):
        if key not in given:
            raise ValueError(f"{key} is missing")
    environments = _names(given["environments"], "environments")
    for name in environments:
        if ":" not in name and name not in gymnasium.registry:
            raise ValueError(
                f"environments: there is no {name!r}{did_you_mean(name, gymnasium.registry)} "
                "(module:id imports the module that registers it)"
            )
    if not isinstance(given["methods"], dict) or not given["methods"]:
        raise ValueError("methods: a mapping of names to what they are is expected")
    methods = {str(name): _method(str(name), entry, environments) for name, entry in given["methods"].items()}
    for label, names in (("environments", environments), ("methods", tuple(methods))):
        _check_folders(names, label)
    for method in methods.values():
        for name in method.after:
            if name not in methods or name == method.name:
                raise ValueError(f"methods, {method.name}, after: {name!r} is no other method")
    reference = None if given.get("reference") is None else str(given["reference"])
    if reference is not None and reference not in methods:
        raise ValueError(f"reference: {reference!r} is no method{did_you_mean(reference, methods)}")
    published = _mapping(given.get("published"), "published")
    for name, scores in published.items():
        if name not in environments:
            hint = did_you_mean(str(name), environments)
            raise ValueError(f"published: {name!r} is none of the environments{hint}")
        for of, score in _mapping(scores, f"published, {name}").items():
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise ValueError(f"published, {name}, {of}: a number is expected, not {score!r}")
    published = {name: {str(of): score for of, score in scores.items()} for name, scores in published.items() if scores}
    short = _mapping(given["quick"].get("hyperparameters"), "quick, hyperparameters") if quick else {}
    known = {name for method in methods.values() for name in allowed_names(method.algorithm)}
    for name in short:
        if name not in known:
            raise ValueError(
                f"quick, hyperparameters: {name!r} is unknown to all methods{did_you_mean(str(name), known)}"
            )
    evaluation = _mapping(given.get("evaluation"), "evaluation")
    _check_keys(evaluation, EVALUATION_KEYS, "evaluation: ")
    return Study(
        path,
        str(given.get("title") or path.stem),
        str(given.get("reproduces") or ""),
        environments,
        _seeds(given["seeds"], "seeds"),
        _count(given["steps"], "steps"),
        methods,
        _count(evaluation.get("every", 10_000), "evaluation, every"),
        _count(evaluation.get("episodes", 10), "evaluation, episodes"),
        _count(given.get("checkpoint_every", 50_000), "checkpoint_every"),
        _mapping(given.get("hyperparameters"), "hyperparameters"),
        reference,
        published,
        quick,
        short,
    )


def _method(name: str, entry: Any, environments: Collection[str]) -> Method:
    label = f"methods, {name}"
    entry = _method_entry(entry, label)
    _check_keys(entry, METHOD_KEYS, f"{label}: ")
    algorithm, config = entry.get("algorithm"), entry.get("config")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        known = f"{', '.join(ALGORITHMS)}{did_you_mean(str(algorithm), ALGORITHMS)}"
        raise ValueError(f"{label}, algorithm: {algorithm!r} is unknown: allowed are {known}")
    if not isinstance(config, str | None):
        raise ValueError(f"{label}, config: {config!r} is not allowed: the name of a baseline, or a file")
    on = _mapping(entry.get("on"), f"{label}, on")
    on = {key: _mapping(value, f"{label}, on, {key}") for key, value in on.items()}
    own = _names(entry["environments"], f"{label}, environments") if "environments" in entry else None
    of_seeds = entry["seeds"] if isinstance(entry.get("seeds"), dict) else ()
    for key in (*on, *(own or ()), *of_seeds):
        if key not in environments:
            raise ValueError(f"{label}: {key!r} is none of the environments{did_you_mean(str(key), environments)}")
    return Method(
        name,
        algorithm,
        config,
        _mapping(entry.get("hyperparameters"), f"{label}, hyperparameters"),
        on,
        own,
        _seeds_by_environment(entry.get("seeds", {}), environments, f"{label}, seeds"),
        _count(entry["steps"], f"{label}, steps") if "steps" in entry else None,
        str(entry.get("program", TRAIN)),
        _mapping(entry.get("options"), f"{label}, options"),
        _needed(entry.get("after"), f"{label}, after"),
    )


def _method_entry(given: Any, label: str) -> dict[str, Any]:
    """What stands below a method's name. YAML 1.1 reads the key ``on`` as true."""
    entry: Mapping[Any, Any] = _mapping(given, label)
    return {"on" if key is True else key: value for key, value in entry.items()}


def _runs(study: Study, method: Method) -> Iterator[RunSettings]:
    for environment in method.environments or study.environments:
        try:
            entry = read_entry(method.algorithm, environment.rpartition(":")[2], method.config, study.path.parent)
            own = {**study.hyperparameters, **method.hyperparameters, **method.on.get(environment, {})}
            if "n_timesteps" in own:
                raise ValueError("hyperparameters: n_timesteps is not allowed here: steps says how many")
            entry |= own
            for name, value in study.quick_hyperparameters.items():
                if name in allowed_names(method.algorithm) and own.get(name, value) is not None:
                    entry[name] = value
            entry = {name: value for name, value in entry.items() if value is not None or name in NONE_MEANS}
            check_entry(method.algorithm, entry, "hyperparameters")
        except ValueError as error:
            raise ValueError(f"{study.path}: methods, {method.name}: {error}") from error
        entry.pop("n_timesteps", None)
        for seed in method.seeds.get(environment, study.seeds):
            yield RunSettings(
                environment,
                method.name,
                seed,
                method.steps or study.steps,
                method.algorithm,
                entry,
                study.evaluate_every,
                study.evaluation_episodes,
                study.checkpoint_every,
                method.program,
                method.options,
                method.after,
            )


def _check_keys(given: Mapping[str, Any], allowed: Collection[str], label: str) -> None:
    for key in given:
        if key not in allowed:
            raise ValueError(f"{label}{key!r} is unknown{did_you_mean(str(key), allowed)}")


def _check_folders(names: Sequence[str], label: str) -> None:
    """Each of these has a folder of its name."""
    of_folder: dict[str, str] = {}
    for name in names:
        folder = file_name(name)
        if not folder.strip("."):
            raise ValueError(f"{label}: {name!r} is not allowed: a folder is named after it")
        if of_folder.setdefault(folder, name) != name:
            raise ValueError(f"{label}: {of_folder[folder]!r} and {name!r} would share the folder {folder}")


def _mapping(given: Any, label: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"{label}: a mapping is expected, not {given!r}")
    return given


def _needed(given: Any, label: str) -> tuple[str, ...]:
    if not isinstance(given or "", str | list) or not all(isinstance(name, str) for name in given or ""):
        raise ValueError(f"{label}: the name of a method is expected, or a list of names, not {given!r}")
    return _after(given)


def _names(given: Any, label: str) -> tuple[str, ...]:
    if not isinstance(given, list) or not given or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{label}: a list of names is expected, not {given!r}")
    return tuple(dict.fromkeys(given))


def _seeds(given: Any, label: str) -> tuple[int, ...]:
    if _is_count(given):
        return tuple(range(int(given)))
    if (
        not isinstance(given, list)
        or not given
        or not all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in given)
    ):
        raise ValueError(f"{label}: {given!r} is not allowed: how many, or a list of integers from 0 to 2**32 - 1")
    return tuple(dict.fromkeys(given))


def _after(given: Any) -> tuple[str, ...]:
    """One method or several; None: none."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def _seeds_by_environment(given: Any, environments: Collection[str], label: str) -> dict[str, tuple[int, ...]]:
    if isinstance(given, dict):
        return {name: _seeds(seeds, f"{label}, {name}") for name, seeds in given.items()}
    return dict.fromkeys(environments, _seeds(given, label))


def _count(given: Any, label: str) -> int:
    if not _is_count(given):
        raise ValueError(f"{label}: {given!r} is not allowed: it must be an integer >= 1")
    return int(given)


def _is_count(given: Any) -> bool:
    # YAML reads 1.0e+6 as a float
    return (
        not isinstance(given, bool)
        and isinstance(given, (int, float))
        and 1 <= given < math.inf
        and given == int(given)
    )
