"""The packages. What pyproject.toml cannot say is that hyperparams/ becomes a part of sb3_rlx2."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sb3_rlx2*"]), "sb3_rlx2.hyperparams", "sb3_rlx2.hyperparams.baselines"],
    package_dir={"sb3_rlx2.hyperparams": "hyperparams"},
    package_data={
        "sb3_rlx2": ["py.typed"],
        "sb3_rlx2.trained": ["*.npz"],
        "sb3_rlx2.hyperparams": ["*.yml"],
        "sb3_rlx2.hyperparams.baselines": ["*.yml"],
    },
)
