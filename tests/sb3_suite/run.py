"""Run the tests of Stable-Baselines3 and sb3-contrib with our algorithms in the place of theirs.

The tests come with the source distributions of the installed versions, which pip fetches. The hyperparameters of the
original are passed, with n_steps=1 and dynamic_buffer=False. What must differ is listed here, with the reason.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".venv" / "sb3_suite"

# Packages with files of tests and which tests of them
SUITES = {
    "stable_baselines3": (
        [
            "test_callbacks.py", "test_cnn.py", "test_custom_policy.py", "test_deterministic.py", "test_dict_env.py",
            "test_her.py", "test_identity.py", "test_n_step_replay.py", "test_predict.py", "test_run.py",
            "test_save_load.py", "test_sde.py", "test_spaces.py", "test_tensorboard.py", "test_train_eval_mode.py",
            "test_vec_normalize.py",
        ],
        "TD3 or SAC or td3 or sac or DQN or dqn or n_step or nstep",
    ),
    "sb3_contrib": (
        [
            "test_cnn.py", "test_deterministic.py", "test_dict_env.py", "test_identity.py", "test_run.py",
            "test_save_load.py", "test_train_eval_mode.py",
        ],
        "TQC or tqc or CrossQ or crossq or QRDQN or qrdqn",
    ),
}  # fmt: skip

INTEGERS = "replaces every entry of a state dict by random numbers: connections are integers with an order"
N_STEP = "expects a warning, or an AssertionError: n-step targets with a buffer that cannot have them are a ValueError"

DIFFERENCES: dict[str, dict[str, list[str]]] = {
    "stable_baselines3": {
        INTEGERS: [
            "test_save_load.py::test_save_load[TD3]",
            "test_save_load.py::test_save_load[SAC]",
            "test_save_load.py::test_save_load[DQN]",
            "test_save_load.py::test_save_load_q_net",
            "test_save_load.py::test_save_load_policy",
            "test_her.py::test_save_load",
        ],
        "expects no warning: a learn() that is too short for the topology to evolve warns once": [
            "test_save_load.py::test_warn_buffer[False-TD3]",
            "test_save_load.py::test_warn_buffer[True-TD3]",
            "test_save_load.py::test_warn_buffer[False-SAC]",
            "test_save_load.py::test_warn_buffer[True-SAC]",
            "test_save_load.py::test_warn_buffer[False-DQN]",
            "test_save_load.py::test_warn_buffer[True-DQN]",
        ],
        N_STEP: [
            "test_n_step_replay.py::test_n_steps_warns_with_custom_replay_buffer_class",
            "test_n_step_replay.py::test_n_steps_with_dict_obs",
        ],
    },
    "sb3_contrib": {
        INTEGERS: [
            "test_save_load.py::test_save_load[TQC]",
            "test_save_load.py::test_save_load[CrossQ]",
            "test_save_load.py::test_save_load[QRDQN]",
            "test_save_load.py::test_save_load_policy",
            "test_save_load.py::test_save_load_q_net",
        ],
        "expects a hundredth of one step of 5e-5 to be seen in some weight: those that are kept are the largest": [
            "test_cnn.py::test_feature_extractor_target_net[False-QRDQN]",
        ],
    },
}


def fetch_tests(package: str) -> Path:
    """Folder with the source of the installed version.

    :param package: name of the package
    """
    name = f"{package}-{version(package)}"
    if not (CACHE / name).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", CACHE, f"{package}=={version(package)}"], check=True)
        with tarfile.open(CACHE / f"{name}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    return CACHE / name


def run_suite(package: str) -> int:
    """Run a package's tests and return pytest's exit status.

    :param package: name of the package
    """
    folder, (files, chosen) = fetch_tests(package), SUITES[package]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
    command += ["-p", "swap", "-p", "no:cacheprovider", "-W", "ignore", "-k", chosen]
    for reason, tests in DIFFERENCES[package].items():
        print(f"left out, since it {reason}:\n  " + "\n  ".join(tests))
        for test in tests:
            command += ["--deselect", f"tests/{test}"]
    present = [f"tests/{name}" for name in files if (folder / "tests" / name).exists()]
    return subprocess.run([*command, *present], cwd=folder, env={**os.environ, "PYTHONPATH": str(HERE)}).returncode


def main() -> int:
    """Run the tests of the packages that are named, or of all, and return the first exit status that is not 0."""
    return next((status for package in sys.argv[1:] or SUITES if (status := run_suite(package))), 0)


if __name__ == "__main__":
    sys.exit(main())
