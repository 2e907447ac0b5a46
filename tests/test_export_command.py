"""``rlx2 export``: files that were checked, or one line on stderr, exit status 2 and nothing written."""

import shutil

import numpy as np
import pytest
from export_helpers import LEARNED, Walk, normalized, quick
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_rlx2 import RLx2DQN, RLx2TD3
from sb3_rlx2.export.sparse_policy import SparsePolicy
from sb3_rlx2.zoo.command_line import main

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    """A model where the zoo would put it."""
    folder = tmp_path_factory.mktemp("logs") / "rlx2_td3" / "Pendulum-v1_1"
    folder.mkdir(parents=True)
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", buffer_size=10, seed=0, policy_kwargs={"net_arch": [32, 32]})
    model.save(folder / "Pendulum-v1.zip")
    return folder / "Pendulum-v1.zip"


def run(capsys, *arguments):
    capsys.readouterr()
    try:
        status = main(["export", *map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(capsys, message, folder, *arguments):
    status, _, errors = run(capsys, *arguments, "--out", folder)
    assert (status, message in errors, "Traceback" in errors) == (2, True, False), errors
    assert len(errors.strip().splitlines()) == 1 or errors.startswith("usage:")
    assert not folder.exists()


@pytest.mark.parametrize("to", ["safetensors", "numpy"])
def test_a_model_becomes_files_that_were_checked_on_the_environment(to, pendulum, capsys, tmp_path):
    status, output, _ = run(capsys, pendulum, "--to", to, "--out", tmp_path / "robot", "--check", "300")
    assert status == 0
    assert "checked on 300 observations" in output
    suffix = {"safetensors": "safetensors", "numpy": "npz"}[to]
    policy = SparsePolicy.load(tmp_path / "robot" / f"policy.{suffix}")
    observation = np.array([0.5, 0.5, 1.0], np.float32)
    expected, _ = RLx2TD3.load(pendulum).predict(observation, deterministic=True)
    np.testing.assert_allclose(policy.predict(observation)[0], expected, atol=4e-6)


@needs_compiler
def test_c_in_float32_and_int8(pendulum, capsys, tmp_path):
    status, output, _ = run(capsys, pendulum, "--to", "c", "--out", tmp_path, "--name", "swing", "--main")
    assert status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"swing.c", "swing.h", "swing_main.c"}
    assert "bytes of flash" in output
    status, output, _ = run(capsys, pendulum, "--to", "c", "--out", tmp_path / "int8", "--precision", "int8")
    assert status == 0
    assert "checked on 10000 observations" in output


@needs_compiler
def test_greedy_actions_of_discrete_ones(capsys, tmp_path):
    folder = tmp_path / "logs" / "rlx2_dqn" / "CartPole-v1_1"
    folder.mkdir(parents=True)
    model = RLx2DQN("MlpPolicy", "CartPole-v1", buffer_size=10, seed=0, policy_kwargs={"net_arch": [32, 32]})
    model.save(folder / "CartPole-v1.zip")
    for precision in ("float32", "int8"):
        command = [folder / "CartPole-v1.zip", "--to", "c", "--precision", precision, "--check", "300"]
        status, output, errors = run(capsys, *command, "--out", tmp_path / precision)
        assert (status, "checked on 300 observations" in output) == (0, True), errors
    assert "all actions are those of predict" in output


def test_onnx(pendulum, capsys, tmp_path):
    pytest.importorskip("onnx")
    status, output, _ = run(capsys, pendulum, "--to", "onnx", "--out", tmp_path, "--sparse")
    assert status == 0
    assert "opset 17" in output


def test_what_cannot_be_exported_is_told_in_one_line(pendulum, capsys, tmp_path):
    folder = tmp_path / "out"
    refused(capsys, "nothing.zip: there is no such file", folder, tmp_path / "nothing.zip", "--to", "numpy")
    refused(capsys, "invalid choice: 'tflite'", folder, pendulum, "--to", "tflite")
    refused(capsys, "name='a b' is not allowed", folder, pendulum, "--to", "c", "--name", "a b")
    refused(
        capsys,
        "precision='int8' is possible with to='c' only",
        folder,
        pendulum,
        "--to",
        "numpy",
        "--precision",
        "int8",
    )
    refused(capsys, "sparse=True is possible with to='onnx' only", folder, pendulum, "--to", "c", "--sparse")
    refused(capsys, "--check=0 is not allowed", folder, pendulum, "--to", "numpy", "--check", "0")
    with_env = [pendulum, "--to", "numpy", "--check", "9", "--env"]
    refused(capsys, "--env Pendulum-v7: there is no such environment. Did you mean", folder, *with_env, "Pendulum-v7")
    refused(capsys, "CartPole-v1 has observations and actions of shapes", folder, *with_env, "CartPole-v1")
    refused(capsys, "No module named 'no_such'", folder, pendulum, "--to", "c", "--gym-packages", "no_such")
    (tmp_path / "file").write_text("")
    status, _, errors = run(capsys, pendulum, "--to", "numpy", "--out", tmp_path / "file")
    assert (status, "file is no folder" in errors) == (2, True)
    status, _, errors = run(capsys, pendulum, "--to", "numpy", "--out", "/proc/out")
    assert (status, "/proc/out cannot be written: " in errors) == (2, True)


def test_policies_that_no_export_computes(capsys, tmp_path):
    quick(SAC, use_sde=True).save(tmp_path / "model.zip")
    refused(
        capsys, "cannot be exported: the actor has use_sde=True", tmp_path / "out", tmp_path / "model.zip", "--to", "c"
    )

    class Images(Walk):
        import gymnasium as gym

        observation_space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8)

        def reset(self, **kwargs):
            return np.zeros((3, 36, 36), np.uint8), {}

    model = RLx2TD3("CnnPolicy", DummyVecEnv([Images]), buffer_size=10, device="cpu")
    model.save(tmp_path / "images.zip")
    refused(capsys, "convolutions are not exported", tmp_path / "out", tmp_path / "images.zip", "--to", "c")


def test_statistics_are_found_beside_the_model_or_asked_for(capsys, tmp_path):
    model = normalized(RLx2TD3)
    path, statistics = tmp_path / "agent.zip", tmp_path / "vecnormalize.pkl"
    model.save(path)
    command = [path, "--to", "numpy"]
    refused(capsys, "its statistics are not beside it: say with --vec-normalize", tmp_path / "out", *command)
    refused(capsys, "No such file or directory", tmp_path / "out", *command, "--vec-normalize", statistics)
    model.get_vec_normalize_env().save(str(statistics))
    status, output, errors = run(capsys, *command, "--out", tmp_path / "out")
    assert (status, f"observations are normalized by {statistics}" in output) == (0, True), errors
    assert SparsePolicy.load(tmp_path / "out" / "policy.npz").normalization.clip == 2.0
    status, _, errors = run(capsys, *command, "--out", tmp_path / "raw", "--vec-normalize", "none")
    assert status == 0, errors
    assert SparsePolicy.load(tmp_path / "raw" / "policy.npz").normalization is None


def test_int8_needs_observations(capsys, tmp_path):
    model = quick(RLx2TD3)
    model.save(tmp_path / "agent.zip")
    command = [tmp_path / "agent.zip", "--to", "c"]
    refused(capsys, "--check needs the environment: say with --env", tmp_path / "out", *command, "--check", "5")
    refused(capsys, "--seed=-1 is not allowed", tmp_path / "out", *command, "--seed", "-1")
    message = "int8 without --replay-buffer needs the environment"
    refused(capsys, message, tmp_path / "out", *command, "--precision", "int8")


@needs_compiler
def test_a_saved_replay_buffer_calibrates(capsys, tmp_path):
    model = normalized(RLx2TD3)
    model.save(tmp_path / "agent.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.get_vec_normalize_env().save(str(tmp_path / "vec_normalize.pkl"))
    of = ["--precision", "int8", "--replay-buffer", tmp_path / "buffer.pkl", "--out", tmp_path]
    status, output, errors = run(capsys, tmp_path / "agent.zip", "--to", "c", *of)
    assert status == 0, errors
    assert f"checked on {LEARNED} observations" in output
