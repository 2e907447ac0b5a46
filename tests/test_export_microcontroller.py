"""Exported policies run on emulated microcontrollers, and compute there what ``predict`` does."""

import sys
from pathlib import Path

import numpy as np
import pytest
from export_helpers import MODELS, TASKS, observations, predictions, quick

from sb3_rlx2 import RLx2DQN, RLx2TD3
from sb3_rlx2.export.c_compiler import compiled_policy
from sb3_rlx2.export.checks import agreement
from sb3_rlx2.export.reading import read_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import microcontroller

MISSING = microcontroller.why_not()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.mark.parametrize("board", microcontroller.BOARDS)
@pytest.mark.parametrize("precision", ["float32", "int16", "int8"])
@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2DQN])
def test_ten_thousand_actions_are_those_of_predict(algorithm, precision, board, tmp_path):
    sparsity = {"sparsity" if algorithm in TASKS else "actor_sparsity": 0.98}
    model = quick(algorithm, policy_kwargs={"net_arch": [256, 256]}, **sparsity)
    raw, dtype = observations(10_000), np.int32 if algorithm in TASKS else np.float32
    report = model.export(tmp_path, precision=precision, observations=raw)
    ran = microcontroller.run(microcontroller.BOARDS[board], tmp_path / "policy.c", raw, tmp_path, dtype=dtype)
    found = agreement(read_policy(model), raw, ran.actions, predictions(model, raw).reshape(ran.actions.shape))
    assert found.n == 10_000
    assert found.largest <= report.agreement.allowed
    on_host = compiled_policy(tmp_path / "policy.c", tmp_path / "policy.so", len(ran.actions[0]), "cc", dtype=dtype)
    np.testing.assert_array_equal(ran.actions, on_host(raw))
    assert ran.ram_bytes == 0
    assert report.stack_bytes < ran.stack_bytes < report.stack_bytes + 400
    assert report.table_bytes < ran.flash_bytes < report.table_bytes + 2000
    # A connection takes some instructions of integers, and hundreds of emulated floating-point numbers
    assert 2_000 < ran.instructions < (400_000 if (precision, board) == ("float32", "Cortex-M0+") else 40_000)


@pytest.mark.parametrize("board", microcontroller.BOARDS)
@pytest.mark.parametrize("precision", ["float32", "int16", "int8"])
def test_every_operation_runs_there(precision, board, tmp_path):
    model, raw = MODELS["everything"](), observations(200)
    report = model.export(tmp_path, precision=precision, observations=raw)
    ran = microcontroller.run(microcontroller.BOARDS[board], tmp_path / "policy.c", raw, tmp_path)
    policy = read_policy(model, model.get_vec_normalize_env())
    found = agreement(policy, raw, ran.actions, predictions(model, raw))
    assert found.largest <= (found.allowed if report.bound is None else report.bound)


def test_a_policy_that_is_too_large_is_an_error(tmp_path):
    model = quick(RLx2TD3, policy_kwargs={"net_arch": [256, 256]}, topology="dense")
    model.export(tmp_path, observations=observations(10))
    with pytest.raises(ValueError, match="does not fit into the 256 KiB of flash"):
        microcontroller.run(microcontroller.BOARDS["Cortex-M0+"], tmp_path / "policy.c", np.zeros((1, 5)), tmp_path)
