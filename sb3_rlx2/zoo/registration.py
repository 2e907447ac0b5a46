"""What RL Baselines3 Zoo has to know of RLx2TD3 and RLx2SAC."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.zoo.hyperparameters import check_entry, check_file, hyperparameter_file

ALGORITHMS: dict[str, type[RLx2TD3] | type[RLx2SAC]] = {"rlx2_td3": RLx2TD3, "rlx2_sac": RLx2SAC}


@functools.cache
def register() -> None:
    """Make ``rlx2_td3`` and ``rlx2_sac`` known to RL Baselines3 Zoo in this process.

    After it the zoo finds their hyperparameters by itself, samples theirs in a search, and checks every file of
    hyperparameters for misspelt keys. ``--conf-file`` takes the name of a baseline too (``rigl``, ``set``, ``ss``,
    ``tiny``). A script of one's own needs three lines::

        import rl_zoo3.train
        from sb3_rlx2.zoo import register

        register()  # before rl_zoo3.train.train()

    :raises ImportError: if rl-zoo3 is not installed
    """
    check_installed()
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    from sb3_rlx2.zoo import continuing, search_space

    ALGOS.update(ALGORITHMS)
    HYPERPARAMS_SAMPLER.update(search_space.SAMPLERS)
    HYPERPARAMS_CONVERTER.update(search_space.CONVERTERS)
    # In place, so that whoever has imported the class already uses it too
    wrappers: dict[str, Callable[..., Any]] = {
        "__init__": _with_our_files,
        "read_hyperparameters": _with_checks,
        "setup_experiment": _leaving_nothing_behind,
        "learn": continuing.going_on,
        "objective": search_space.knowing_the_length,
    }
    for name, wrapper in wrappers.items():
        setattr(ExperimentManager, name, wrapper(getattr(ExperimentManager, name)))


def check_installed() -> None:
    """Check that RL Baselines3 Zoo is installed.

    :raises ImportError: if it is not
    """
    if importlib.util.find_spec("rl_zoo3") is None:
        raise ImportError("RL Baselines3 Zoo is not installed: pip install 'sb3-rlx2[zoo]'")


def _with_our_files(original: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def wrapper(manager: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(manager, *args, **kwargs).arguments
        original(manager, *args, **kwargs)
        if given["algo"] in ALGORITHMS:
            manager.config = hyperparameter_file(given["algo"], given.get("config"))

    return wrapper


def _with_checks(original: Callable[..., tuple[dict[str, Any], dict[str, Any]]]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(manager: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        check_file(manager.config, manager.env_name.gym_id)
        hyperparameters, saved = original(manager)
        place = f"{manager.config}, {manager.env_name.gym_id}"
        check_entry(manager.algo, hyperparameters, place, manager.custom_hyperparams or ())
        return hyperparameters, saved

    return wrapper


def _leaving_nothing_behind(original: Callable[..., Any]) -> Callable[..., Any]:
    """What cannot be set up has no folder, which would be the latest experiment to ``enjoy``."""

    @functools.wraps(original)
    def wrapper(manager: Any) -> Any:
        is_new = not Path(manager.save_path).exists()
        try:
            return original(manager)
        except BaseException:
            if is_new:
                shutil.rmtree(manager.save_path, ignore_errors=True)
            raise

    return wrapper
