"""Making this package's algorithms known to RL Baselines3 Zoo."""

from __future__ import annotations

import functools
import importlib.util

from sb3_rlx2.files import register as register_object
from sb3_rlx2.zoo.algorithms import ALGORITHMS


@functools.cache
def register() -> None:
    """Make every algorithm of ``ALGORITHMS``, such as ``rlx2_td3``, known to RL Baselines3 Zoo in this process.

    After it the zoo finds their hyperparameters by itself, samples theirs in a search, and checks every file of
    hyperparameters for misspelt keys. ``--conf-file`` takes a name too: ``fast``, ``fast20`` or a baseline (``rigl``,
    ``set``, ``ss``, ``tiny``) for ``rlx2_td3`` and ``rlx2_sac``, ``fast`` or ``steady`` for ``rlx2_tqc``.
    A script of one's own needs three lines::

        import rl_zoo3.train
        from sb3_rlx2.zoo import register

        register()  # before rl_zoo3.train.train()

    A script that makes experiments itself imports ``ExperimentManager`` from ``rl_zoo3.exp_manager`` after this call.

    :raises ImportError: if rl-zoo3 is not installed
    """
    check_installed()
    import rl_zoo3.exp_manager
    import rl_zoo3.hyperparams_opt
    import rl_zoo3.train

    from sb3_rlx2.zoo import experiment, search_space

    register_schedules()
    rl_zoo3.ALGOS.update(ALGORITHMS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER.update(search_space.SAMPLERS)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER.update(search_space.CONVERTERS)
    # The zoo has no registry of experiment managers: train takes the class from its own names
    for module in (rl_zoo3.exp_manager, rl_zoo3.train):
        vars(module)["ExperimentManager"] = experiment.RLx2ExperimentManager


def register_schedules() -> None:
    """Let files without pickle hold the zoo's schedules (``lin_0.001``) by name."""
    from rl_zoo3.utils import SimpleLinearSchedule

    register_object(SimpleLinearSchedule)


def check_installed() -> None:
    """Check that RL Baselines3 Zoo is installed.

    :raises ImportError: if it is not
    """
    if importlib.util.find_spec("rl_zoo3") is None:
        raise ImportError("RL Baselines3 Zoo is not installed: pip install 'sb3-rlx2[zoo]'")
