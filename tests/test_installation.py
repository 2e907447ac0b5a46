"""What the package asks for is what it needs, and its lower bounds are what `make lower-bounds` runs."""

import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

TRAIN_WITHOUT_MUJOCO = """
import sys, warnings
sys.modules["mujoco"] = None
from sb3_rlx2 import RLx2TD3
warnings.simplefilter("error")
model = RLx2TD3("MlpPolicy", "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [16]}, batch_size=16,
                topology="static", n_steps=1, dynamic_buffer=False)
model.learn(20)
print(model._n_updates)
"""


def declared(requirements):
    """Package and lower bound of each requirement that has one."""
    found = (re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in found if match}


def pinned(name):
    lines = (ROOT / "tests" / "lower-bounds" / name).read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def release(version):
    return tuple(int(part) for part in version.split("."))


def of_extras(*names):
    return declared(requirement for name in names for requirement in PROJECT["optional-dependencies"][name])


def test_the_package_asks_for_no_mujoco():
    assert not [requirement for requirement in PROJECT["dependencies"] if "mujoco" in requirement]
    assert "gymnasium" in of_extras("mujoco")


def test_it_trains_where_mujoco_cannot_be_imported():
    command = [sys.executable, "-W", "ignore", "-c", TRAIN_WITHOUT_MUJOCO]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "10"


def test_lower_bounds_of_the_package_are_those_that_are_run():
    core = pinned("core.txt")
    bounds = declared(PROJECT["dependencies"])
    assert bounds.keys() == {"torch", "numba", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib"}
    assert bounds == {name: core[name] for name in bounds}


def test_lower_bounds_of_the_extras_are_those_that_are_run():
    extras = pinned("extras.txt")
    bounds = of_extras("mujoco", "zoo", "plot", "tensorboard")
    assert {"gymnasium", "rl-zoo3", "matplotlib", "rliable", "tensorboard"} <= bounds.keys()
    for package in bounds.keys() & extras.keys():
        assert release(extras[package])[: len(release(bounds[package]))] == release(bounds[package]), package
