"""``rlx2``: bad input is a message on stderr and exit status 2, a bug keeps its traceback."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from zoo_helpers import run_folder, start, train

from sb3_rlx2 import RLx2TD3, __version__
from sb3_rlx2.sparse.paths import strongest_paths
from sb3_rlx2.zoo import command_line
from sb3_rlx2.zoo.command_line import COMMANDS, Command, main

ROOT = Path(__file__).parents[1]
TRAIN = ["train", "--algo", "rlx2_td3", "--verbose", "0", "--device", "cpu", "--eval-freq", "-1", "-n", "30"]
PENDULUM = [*TRAIN, "--env", "Pendulum-v1"]


@pytest.fixture(scope="module")
def zoo():
    pytest.importorskip("rl_zoo3")


@pytest.fixture(scope="module")
def run(zoo, tmp_path_factory):
    """A run of the zoo."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "--save-replay-buffer", params=["n_envs:2"])
    return folder


@pytest.fixture
def says(capsys, tmp_path, monkeypatch):
    """Whether a command fails as it should."""
    monkeypatch.chdir(tmp_path)

    def check(arguments, *messages):
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as exit_:
            status = exit_.code
        errors = capsys.readouterr().err
        assert status == 2, errors
        for message in messages:
            assert message in errors
        assert "Traceback" not in errors

    return check


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    output = capsys.readouterr().out
    assert all(f"  {name} " in output and command.summary in output for name, command in COMMANDS.items())


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sb3-rlx2 {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, zoo, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(("usage: rlx2", "usage: Gather results"))


def test_unknown_command(says):
    says(["trian"], "invalid choice: 'trian'")
    says([], "required: COMMAND")


def test_unknown_environment(says, zoo):
    for command in ("train", "enjoy", "record-video", "push-to-hub"):
        arguments = [command, "--algo", "rlx2_td3", "--env", "Hoper-v5", "-f", "logs"]
        says(arguments, f"rlx2 {command}: error: --env Hoper-v5", "Did you mean 'Hopper-v5'?")
    says([*TRAIN, "--env=Hoper-v5"], "Did you mean 'Hopper-v5'?")
    says([*PENDULUM, "--gym-packages", "no_such_package"], "--gym-packages no_such_package: No module named")
    says([*PENDULUM, "--env-kwargs", "gravty:1"], "unexpected keyword argument 'gravty'")


def test_environment_that_does_not_fit(says, zoo):
    says([*TRAIN, "--env", "CartPole-v1"], "as action spaces but Discrete(2) was provided")


@pytest.mark.parametrize("algo", ["rlx2_td3", "td3"])
def test_file_that_is_no_model(algo, says, zoo, tmp_path):
    folder = run_folder(tmp_path, algo)
    folder.mkdir(parents=True)
    path = folder / "Pendulum-v1.zip"
    path.write_text("no model")
    of = ["--algo", algo, "--env", "Pendulum-v1"]
    for command in ("enjoy", "record-video"):
        says([command, *of, "-f", tmp_path], f"{path} is no model")
    says([*PENDULUM, *of, "-i", path], f"{path} is no model")
    says([*PENDULUM, *of, "-i", "missing.zip"], "missing.zip: there is no such file")
    says(["enjoy", *of, "-f", tmp_path, "--exp-id", "7"], "Pendulum-v1_7 folder was not found")
    says(["enjoy", *of, "-f", tmp_path, "--load-last-checkpoint"], "No checkpoint found")


def test_model_that_was_cut_short(says, run, tmp_path):
    whole = (run_folder(run) / "Pendulum-v1.zip").read_bytes()
    folder = run_folder(tmp_path)
    folder.mkdir(parents=True)
    path = folder / "Pendulum-v1.zip"
    path.write_bytes(whole[: len(whole) // 2])
    says(["enjoy", "--algo", "rlx2_td3", "--env", "Pendulum-v1", "-f", tmp_path], f"{path} is damaged or was cut short")
    says([*PENDULUM, "-i", path], f"{path} is damaged or was cut short")


def test_checkpoint_of_another_version(says, zoo, tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", buffer_size=10)
    model.checkpoint_format = 99
    model.save(tmp_path / "model.zip")
    says([*PENDULUM, "-i", "model.zip"], "the checkpoint has format 99", f"sb3-rlx2 {__version__} reads format 1")


def test_model_of_another_algorithm(says, zoo, tmp_path):
    for algorithm, name in ((SAC, "sac"), (PPO, "another algorithm")):
        algorithm("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "model.zip")
        says([*PENDULUM, "-i", "model.zip"], f"-i model.zip: this is a model of {name}, and --algo is rlx2_td3")


def test_device_that_is_none(says, run):
    agent = run_folder(run) / "Pendulum-v1.zip"
    for command in ([*PENDULUM, "-i", agent], ["enjoy", "--algo", "rlx2_td3", "--env", "Pendulum-v1", "-f", run]):
        says([*command, "--device", "meta"], "error: device='meta' is not allowed: tensors on it hold no numbers")
        says([*command, "--device", "gpu"], "error: device='gpu' is not available: Expected one of cpu, cuda")


def test_values_of_flags_that_cannot_be(says, run):
    agent = run_folder(run) / "Pendulum-v1.zip"
    says([*PENDULUM, "--device", "gpu"], "error: device='gpu' is not available: Expected one of cpu, cuda")
    says([*PENDULUM, "--seed", 2**32], "--seed 4294967296 is not allowed: it must be at most 4294967295")
    says([*PENDULUM, "--n-eval-envs", "0"], "--n-eval-envs 0 is not allowed: it must be at least 1")
    says([*PENDULUM, "-optimize", "--n-trials", "0"], "--n-trials 0 is not allowed: it must be at least 1")
    arguments = ["-i", agent, "-params", "policy_kwargs:dict(net_arch=[8])"]
    says([*PENDULUM, *arguments], f"-params policy_kwargs: the policy of {agent} (-i) stays as it is")


def test_only_modules_of_the_zoo_come_with_the_zoo(says, zoo, capsys):
    says([*PENDULUM, "--gym-packages", "no_such_package"], "--gym-packages no_such_package: No module named")
    main([*PENDULUM, "--gym-packages", "no_such_package"])
    assert "pip install" not in capsys.readouterr().err


def test_model_that_does_not_fit(says, run):
    agent = run_folder(run) / "Pendulum-v1.zip"
    says([*PENDULUM, "-i", agent, "-params", "actor_sparsity:0.5"], "the parameters do not fit this RLx2TD3")
    says(
        [*PENDULUM, "--algo", "rlx2_sac", "-i", agent],
        f"-i {agent}: this is a model of rlx2_td3, and --algo is rlx2_sac",
    )
    says([*TRAIN, "--env", "MountainCarContinuous-v0", "-i", agent], "Observation spaces do not match")
    says([*PENDULUM, "-i", agent], "the replay buffer is for n_envs=2, and the model has n_envs=1")
    (run_folder(run) / "replay_buffer.pkl").write_bytes(b"")
    says([*PENDULUM, "-i", agent, "-params", "n_envs:2"], "replay_buffer.pkl is no replay buffer, or was cut short")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("actor_sparsty:0.9", "rlx2 train: error: -params: 'actor_sparsty' is unknown. Did you mean 'actor_sparsity'?"),
        ("actor_sparsity:1.5", "actor_sparsity=1.5 is not allowed"),
        ("topology:rigl", "name 'rigl' is not defined"),
        ("topology", "name:value with a value in Python is expected"),
        ("topology:'snip'", "topology='snip' is unknown: allowed are"),
        ("learning_rate:'1e-3'", "-params: learning_rate: 1e-3 is text. Write it without quotes"),
        ("learning_rate:'lin3'", "-params: learning_rate: 'lin3' is not allowed: a number above 0, or lin_ and such"),
        ("noise_std:[]", "-params: noise_std: [] is of type list, allowed is int or float"),
    ],
)
def test_misspelt_parameter(parameter, message, says, zoo):
    says([*PENDULUM, "-params", parameter], message)


def test_typo_in_yaml(says, zoo, tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("Pendulum-v1:\n  n_timesteps: 100\n  policy: 'MlpPolicy'\n  topolgy: 'set'\n")
    says([*PENDULUM, "--conf-file", path], f"{path}, Pendulum-v1: 'topolgy' is unknown. Did you mean 'topology'?")
    path.write_text("Pendulum-v1:\n  n_timesteps: 100\n policy: 'MlpPolicy'\n")
    says([*PENDULUM, "--conf-file", path], f"{path} is no valid YAML", "line 3")
    says([*PENDULUM, "--conf-file", "missing.yml"], "missing.yml")
    says([*PENDULUM, "--conf-file", "rigel"], "Did you mean 'rigl'?")


def test_database_that_is_none(says, zoo, monkeypatch):
    monkeypatch.setattr("sb3_rlx2.zoo.storage.PAUSE", 0.0)
    says([*PENDULUM, "-optimize", "--storage", "sqlite:///no/such/folder.db"], "--storage sqlite:///no/such/folder.db")


def test_folders_that_are_not_there(says, zoo):
    says(["benchmark", "--no-hub", "--log-dir", "nowhere"], "No such file or directory: 'nowhere'")
    says(["plot-from-file", "-i", "nowhere.pkl"], "nowhere.pkl")


def test_no_network(says, monkeypatch):
    def refused(arguments):
        try:
            raise ConnectionRefusedError("nobody listens")
        except OSError as error:
            raise RuntimeError("cannot connect") from error

    monkeypatch.setattr(command_line, "refused", refused, raising=False)
    monkeypatch.setitem(COMMANDS, "refused", Command("fails", "sb3_rlx2.zoo.command_line:refused"))
    says(["refused"], "rlx2 refused: error: cannot connect")


def test_benchmark_and_upload_without_a_network(says, run, monkeypatch):
    class TransportError(Exception):
        __module__ = "httpx"

    def refused(*args, **kwargs):
        raise TransportError("[Errno 111] Connection refused\nFor more information check the Hub's status")

    monkeypatch.setattr("huggingface_hub.HfApi.list_models", refused)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    line = "cannot be listed ([Errno 111] Connection refused): --no-hub evaluates those of --log-dir\n"
    says(["benchmark", "--log-dir", run], line)
    of = ["--algo", "rlx2_td3", "--env", "Pendulum-v1", "-f", run, "-orga", "someone", "--no-render"]
    says(["push-to-hub", *of], "rlx2 push-to-hub: error: [Errno 111] Connection refused")


def test_a_run_that_cannot_be_set_up_leaves_no_folder(says, run, tmp_path):
    logs = tmp_path / "logs"
    for wrong in (
        ["-params", "topology:'snip'"],
        ["--env-kwargs", "gravty:1"],
        ["-i", run_folder(run) / "Pendulum-v1.zip"],
    ):
        says([*PENDULUM, *wrong, "-f", logs], "rlx2 train: error:")
        assert not list(logs.rglob("Pendulum-v1_*"))


def test_download_that_could_run_code(says, zoo, monkeypatch, tmp_path):
    import huggingface_hub

    (tmp_path / "model.zip").write_bytes(pickle.dumps(print))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **kwargs: str(tmp_path / "model.zip"))
    for variable in ("TRUST_REMOTE_CODE", "RLX2_TRUSTED"):
        monkeypatch.delenv(variable, raising=False)
    of = ["--algo", "rlx2_td3", "--env", "Pendulum-v1"]
    says(["load-from-hub", *of, "-f", "downloaded", "-orga", "someone"], "pass --trusted if you trust whoever")


def test_record_training_without_ffmpeg(says, zoo, monkeypatch):
    monkeypatch.setenv("PATH", "")
    says(
        ["record-training", "--algo", "rlx2_td3", "--env", "Pendulum-v1"], "the program ffmpeg, which is not installed"
    )


@pytest.mark.parametrize(
    "bug",
    [
        lambda arguments: {}["key"],
        lambda arguments: int("seven"),
        lambda arguments: (_ for _ in ()).throw(ValueError("from outside of the package")),
        lambda arguments: strongest_paths([np.ones((1, 1), bool)] * 2, []),  # zip() inside of the package
    ],
)
def test_a_bug_keeps_its_traceback(bug, monkeypatch):
    monkeypatch.setattr(command_line, "broken", bug, raising=False)
    monkeypatch.setitem(COMMANDS, "broken", Command("fails", "sb3_rlx2.zoo.command_line:broken"))
    with pytest.raises((KeyError, ValueError)):
        main(["broken"])


def test_tracebacks_on_request(zoo, monkeypatch):
    monkeypatch.setenv("RLX2_TRACEBACK", "1")
    with pytest.raises(ValueError, match="Hoper-v5"):
        main([*TRAIN, "--env", "Hoper-v5"])


def test_a_command_that_is_not_the_zoos(monkeypatch):
    given = []
    monkeypatch.setattr(command_line, "added", lambda arguments: given.extend(arguments) or 3, raising=False)
    monkeypatch.setitem(COMMANDS, "added", Command("does something", "sb3_rlx2.zoo.command_line:added"))
    assert main(["added", "model.zip", "--json"]) == 3
    assert given == ["model.zip", "--json"]


def without_the_zoo(arguments, folder):
    """A finished process of ``rlx2`` where RL Baselines3 Zoo is not installed."""
    code = "import sys; sys.modules['rl_zoo3'] = None; from sb3_rlx2.zoo.command_line import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_train_without_the_zoo(tmp_path):
    result = without_the_zoo(["train", "--algo", "rlx2_td3"], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "rlx2 train: error: RL Baselines3 Zoo is not installed: pip install 'sb3-rlx2[zoo]'\n"


def test_report_and_plot_without_the_zoo(tmp_path):
    RLx2TD3("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "model.zip")
    result = without_the_zoo(["report", "model.zip", "--json"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["algorithm"] == "RLx2TD3"
    result = without_the_zoo(["plot", "history", "missing"], tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("rlx2 plot: error: missing: there is no such file")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    RLx2TD3("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "model.zip")
    command = [sys.executable, "-m", "sb3_rlx2", "report", "model.zip"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b""
    assert process.returncode == 1


def test_status_of_the_process(tmp_path, zoo):
    process = start(*TRAIN, "--env", "Hoper-v5", cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.splitlines()[-1] == (
        "rlx2 train: error: --env Hoper-v5: there is no such environment. Did you mean 'Hopper-v5'?"
    )
    assert "Traceback" not in errors


def test_console_script():
    assert f'\nrlx2 = "{main.__module__}:{main.__name__}"\n' in (ROOT / "pyproject.toml").read_text()
