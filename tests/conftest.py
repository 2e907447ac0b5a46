"""Settings that all tests share."""

from importlib.util import find_spec

import pytest
import torch as th
from gymnasium.error import DependencyNotInstalled, VersionNotFound
from hypothesis import settings

# The same examples in every run, and no failure because a shared machine is slow
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    th.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    return (yield from _skip_where_tasks_are_missing())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    return (yield from _skip_where_tasks_are_missing())


def _skip_where_tasks_are_missing():
    """MuJoCo and Box2D are no part of the package, and Gymnasium before 1.0 has no -v5 tasks."""
    try:
        return (yield)
    except DependencyNotInstalled as missing:
        pytest.skip(str(missing))
    except VersionNotFound as missing:
        if find_spec("mujoco"):
            raise
        pytest.skip(str(missing))
