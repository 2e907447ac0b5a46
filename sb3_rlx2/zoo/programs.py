"""The zoo's own programs, run with this package's algorithms registered."""

from __future__ import annotations

import runpy
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

from sb3_rlx2.zoo.adapters import DOWNLOAD, adapted, replaced
from sb3_rlx2.zoo.downloads import FLAG
from sb3_rlx2.zoo.registration import check_installed, register


def run(module: str, arguments: Sequence[str], prog: str) -> None:
    """Run a module of the zoo as ``python -m`` would, with this package's algorithms registered.

    :param module: name of the module, such as ``"rl_zoo3.train"``
    :param arguments: what follows on the command line
    :param prog: what its help calls the program
    :raises ImportError: if rl-zoo3 is not installed
    :raises ValueError: for an unknown environment, a model file that is none, a value that is no Python, or a run to
        resume that another process still trains
    """
    check_installed()
    from sb3_rlx2.zoo.checkpoints import HELP, Checkpoints, checkpoints_of, resuming
    from sb3_rlx2.zoo.experiment import RLx2ExperimentManager
    from sb3_rlx2.zoo.program_arguments import check_program_arguments

    register()
    name = module.rpartition(".")[2]
    checkpoints = Checkpoints()
    if name == "train":
        checkpoints, arguments = checkpoints_of(arguments)
    trusts_downloads = name in DOWNLOAD and FLAG in arguments
    if trusts_downloads:
        arguments = [argument for argument in arguments if argument != FLAG]
    check_program_arguments(name, arguments)
    with (
        adapted(name, trusts_downloads),
        replaced(RLx2ExperimentManager, "checkpoints", checkpoints),
        replaced(sys, "argv", [prog, *arguments]),
        nullcontext() if checkpoints.run is None else resuming(checkpoints.run),
        warnings.catch_warnings(),
    ):
        # rl_zoo3.plots has imported its programs already
        warnings.filterwarnings("ignore", "'rl_zoo3.* found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit:
            if name == "train" and {"-h", "--help"} & {*arguments}:
                print(HELP)
            raise
