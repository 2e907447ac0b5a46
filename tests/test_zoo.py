"""The zoo's commands with this package's algorithms: each does what the zoo documents."""

import inspect
import stat
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from zoo_helpers import DISCRETE, environment, run_folder, train

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.zoo import ALGORITHMS, register
from sb3_rlx2.zoo.command_line import main

rl_zoo3 = pytest.importorskip("rl_zoo3")
yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of the zoo with a run of each algorithm: evaluations, checkpoints, replay buffer."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--eval-episodes", "2", "--save-freq", "30", "--save-replay-buffer", "--num-threads", "1"]
    for algo in ALGORITHMS:
        # The later --eval-freq counts
        assert train(folder, *flags, "--eval-freq", "30", algo=algo) == 0
    return folder


@pytest.fixture
def headless(monkeypatch):
    """Nothing opens a window."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_train_leaves_what_the_zoo_leaves(algo, runs):
    folder = run_folder(runs, algo)
    for name in (f"{environment(algo)}.zip", "best_model.zip", "rl_model_30_steps.zip", "rl_model_60_steps.zip"):
        model = ALGORITHMS[algo].load(folder / name)
    assert (model.num_timesteps, model.topology_interval, model.n_steps_delay) == (60, 10, 10)
    assert list(np.load(folder / "evaluations.npz")["timesteps"]) == [30, 60]
    assert (folder / "replay_buffer.pkl").is_file()
    config = dict(yaml.unsafe_load((folder / environment(algo) / "config.yml").read_text()))
    assert (config["topology"], config["n_timesteps"], config["gamma"]) == (
        *("rigl", 50_000 if algo in DISCRETE else 20_000),
        model.gamma,
    )


def test_a_baseline_is_one_flag(tmp_path):
    assert train(tmp_path, "--conf-file", "set") == 0
    model = RLx2TD3.load(run_folder(tmp_path) / "Pendulum-v1.zip")
    assert (model.topology, model.n_steps, model.dynamic_buffer) == ("set", 1, False)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("default: {n_timesteps: 50, policy: MlpPolicy, actor_sparsity: 0.5}")
    assert train(tmp_path, "--conf-file", str(path), "-n", "-1") == 0
    model = RLx2TD3.load(run_folder(tmp_path) / "Pendulum-v1.zip")
    assert (model.num_timesteps, model.actor_sparsity) == (50, 0.5)


@pytest.mark.parametrize("algo", ["rlx2_sac", "rlx2_td3"])
def test_robust_networks_are_a_line_of_a_file(algo, tmp_path):
    path = tmp_path / "simba.yml"
    path.write_text(
        "Pendulum-v1:\n  n_timesteps: 60\n  policy: SimBaPolicy\n"
        "  normalize: \"{'norm_obs': False, 'norm_reward': True}\"\n"
        '  policy_kwargs: "dict(net_arch=dict(pi=[16], qf=[24, 24]), unit_norm=True)"\n'
    )
    assert train(tmp_path, "--conf-file", str(path), "-n", "-1", algo=algo) == 0
    model = ALGORITHMS[algo].load(run_folder(tmp_path, algo) / "Pendulum-v1.zip")
    assert len(model.critic.qf0) == 5
    assert model.actor.features_extractor.count == 60
    assert main(["enjoy", "--algo", algo, "--env", "Pendulum-v1", "-f", str(tmp_path), "-n", "10", "--no-render"]) == 0


def test_vectorized_environments_and_logs(tmp_path):
    flags = ["--vec-env", "subproc", "--tensorboard-log", str(tmp_path / "tb"), "--progress", "--uuid"]
    assert train(tmp_path, *flags, params=["n_envs:2", "normalize:True"], algo="rlx2_sac") == 0
    folder = next((tmp_path / "rlx2_sac").glob("Pendulum-v1_1_*"))
    assert RLx2SAC.load(folder / "Pendulum-v1.zip").n_envs == 2
    assert (folder / "Pendulum-v1" / "vecnormalize.pkl").is_file()
    assert next((tmp_path / "tb" / "Pendulum-v1").glob("RLx2SAC_1/events*"))


def test_track(tmp_path, monkeypatch):
    class Config(dict):
        def setdefaults(self, values):
            self.update(values)

    config = Config()
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **kwargs: types.SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.chdir(tmp_path)
    assert train(tmp_path, "--track") == 0
    assert config["saved_hyperparams"]["topology"] == "rigl"
    assert next((tmp_path / "runs").glob("Pendulum-v1__rlx2_td3__1__*/Pendulum-v1/RLx2TD3_1/events*"))


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("which", [[], ["--load-best"], ["--load-checkpoint", "30"], ["--load-last-checkpoint"]])
def test_enjoy(algo, which, runs, capsys):
    arguments = ["--algo", algo, "--env", environment(algo), "-f", str(runs), "-n", "200", "--no-render"]
    assert main(["enjoy", *arguments, *which]) == 0
    assert "Mean reward: " in capsys.readouterr().out


def test_runs_that_begin_at_the_same_time_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("rl_zoo3.exp_manager.get_latest_run_id", lambda *_: 0)  # what each of them sees
    assert [train(tmp_path) for _ in "12"] == [0, 0]
    assert train(tmp_path, params=["actor_sparsity:1.5"]) == 2
    assert {path.name for path in (tmp_path / "rlx2_td3").iterdir()} == {"Pendulum-v1_1", "Pendulum-v1_2"}
    assert all((run_folder(tmp_path, number=number) / "Pendulum-v1.zip").is_file() for number in (1, 2))


def test_stock_algorithms_take_the_zoos_default_for_what_it_knows_under_another_name(tmp_path):
    of = ["--algo", "td3", "--env", "InvertedDoublePendulum-v5", "-n", "10", "--eval-freq", "-1", "--verbose", "0"]
    assert main(["train", *of, "-f", str(tmp_path), "--device", "cpu", "-params", "buffer_size:100"]) == 0


def test_enjoy_passes_over_runs_that_saved_no_model(tmp_path, monkeypatch, capsys):
    assert train(tmp_path) == 0

    def fails(*args, **kwargs):
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(RLx2TD3, "train", fails)
        with pytest.raises(RuntimeError, match="the power is gone"):
            train(tmp_path)
    assert (run_folder(tmp_path, number=2) / "0.monitor.csv").is_file(), "what it has written stays"
    arguments = ["--algo", "rlx2_td3", "--env", "Pendulum-v1", "-f", str(tmp_path), "-n", "5", "--no-render"]
    assert main(["enjoy", *arguments]) == 0
    output = capsys.readouterr().out
    assert "Experiment 2 has saved no model" in output
    assert str(run_folder(tmp_path, number=1)) in output
    assert train(tmp_path) == 0
    assert run_folder(tmp_path, number=3).is_dir(), "the next run has a folder of its own"


def test_acting_needs_no_room_for_transitions(runs, monkeypatch):
    sizes = []
    load = RLx2SAC.load.__func__
    monkeypatch.setattr(
        RLx2SAC,
        "load",
        classmethod(lambda cls, *args, **kwargs: sizes.append(kwargs["buffer_size"]) or load(cls, *args, **kwargs)),
    )
    main(["enjoy", "--algo", "rlx2_sac", "--env", "Pendulum-v1", "-f", str(runs), "-n", "1", "--no-render"])
    assert sizes == [1]
    assert rl_zoo3.ALGOS["rlx2_sac"] is RLx2SAC, "the algorithm is itself again afterwards"


def test_record_video(runs, tmp_path, headless):
    pytest.importorskip("pygame")
    pytest.importorskip("moviepy")
    arguments = ["--algo", "rlx2_td3", "--env", "Pendulum-v1", "-f", str(runs), "-n", "3", "-o", str(tmp_path)]
    assert main(["record-video", *arguments]) == 0
    assert next(tmp_path.glob("final-model-rlx2_td3-Pendulum-v1*.mp4")).stat().st_size > 0


def test_record_training_knows_the_algorithms_in_its_processes(runs, tmp_path, headless, monkeypatch):
    pytest.importorskip("pygame")
    pytest.importorskip("moviepy")
    # Stands for ffmpeg: writes a file where the output belongs
    program = tmp_path / "ffmpeg"
    program.write_text(
        '#!/bin/sh\nfor word in "$@"; do case "$word" in *.mp4) output="$word";; esac; done\ncp /dev/null "$output"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    only_final = tmp_path / "logs" / "rlx2_td3" / "Pendulum-v1_1"
    (only_final / "Pendulum-v1").mkdir(parents=True)
    for name in ("Pendulum-v1.zip", "Pendulum-v1/config.yml", "Pendulum-v1/args.yml"):
        (only_final / name).write_bytes((run_folder(runs) / name).read_bytes())
    arguments = ["--algo", "rlx2_td3", "--env", "Pendulum-v1", "-f", str(tmp_path / "logs"), "-n", "3"]
    assert main(["record-training", *arguments]) == 0
    assert (only_final / "videos" / "training.mp4").is_file()


def test_benchmark(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--no-hub", "--log-dir", str(runs), "--benchmark-dir", "out", "-n", "200", "--num-threads", "1"]
    assert main(["benchmark", *arguments, "--test-mode"]) == 0
    assert "|Pendulum-v1|" in Path("out/benchmark.md").read_text()


def test_plots(runs, tmp_path, headless, monkeypatch):
    pytest.importorskip("seaborn")
    monkeypatch.chdir(tmp_path)
    of = ["-a", "rlx2_td3", "-e", "Pendulum-v1", "-f", str(runs)]
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    assert main(["plot-train", *of]) == 0
    # It leaves out what has a single run
    train(tmp_path, "--eval-freq", "30", "--eval-episodes", "2")
    train(tmp_path, "--eval-freq", "30", "--eval-episodes", "2", "--seed", "2")
    two = ["-a", "rlx2_td3", "-e", "Pendulum-v1", "-f", str(tmp_path)]
    assert main(["all-plots", *two, "--no-display", "-o", "results"]) == 0
    assert main(["plot-from-file", "-i", "results.pkl", "-o", "figure.png"]) == 0
    assert Path("figure.png").stat().st_size > 0


def test_push_to_hub_and_load_from_it(runs, tmp_path, monkeypatch, capsys):
    """With a folder in the place of the hub."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    hub = tmp_path / "the_hub"

    class Hub:
        def create_repo(self, **kwargs):
            hub.mkdir()
            return "https://example.org"

        def snapshot_download(self, local_dir, **kwargs):
            local_dir.mkdir(parents=True)

        def upload_folder(self, folder_path, **kwargs):
            for path in folder_path.rglob("*"):
                if path.is_file():
                    (hub / path.name).write_bytes(path.read_bytes())

    def download(repo_id, filename, **kwargs):
        if not (hub / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(hub / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    of = ["--algo", "rlx2_td3", "--env", "Pendulum-v1", "-orga", "someone"]
    assert main(["push-to-hub", *of, "-f", str(runs), "--no-render"]) == 0
    card = (hub / "README.md").read_text()
    assert "python -m sb3_rlx2 load-from-hub --algo rlx2_td3 --env Pendulum-v1 -orga someone" in card
    assert "pip install 'sb3-rlx2[zoo]'" in card
    assert "rl_zoo3" not in card.replace("rl-baselines3-zoo", "")

    assert main(["load-from-hub", *of, "-f", "downloaded"]) == 2
    assert "rlx2_td3-Pendulum-v1.zip of someone/rlx2_td3-Pendulum-v1 holds pickled objects" in capsys.readouterr().err
    assert not (tmp_path / "downloaded").exists()
    assert main(["load-from-hub", *of, "-f", "downloaded", "--trusted"]) == 0
    folder = run_folder(tmp_path / "downloaded")
    assert zipfile.is_zipfile(folder / "Pendulum-v1.zip")
    assert main(["enjoy", *of[:4], "-f", "downloaded", "-n", "5", "--no-render"]) == 0

    model = hub / "rlx2_td3-Pendulum-v1.zip"
    assert main(["convert", str(model), str(hub / "model.safetensors")]) == 0
    (hub / "model.safetensors").rename(model)  # the content tells what it is
    monkeypatch.setenv("RLX2_TRUSTED", "0")
    assert main(["load-from-hub", *of, "-f", "without_pickle"]) == 0
    assert main(["enjoy", *of[:4], "-f", "without_pickle", "-n", "5", "--no-render"]) == 0
    (hub / "config.yml").write_text("- !!python/object/apply:os.system ['true']")
    assert main(["load-from-hub", *of, "-f", "again"]) == 2
    assert "config.yml of someone/rlx2_td3-Pendulum-v1 makes objects of its own choice" in capsys.readouterr().err


def test_the_zoos_own_experiments_stay_as_they_are():
    import rl_zoo3.exp_manager
    import rl_zoo3.train

    register()
    ours = rl_zoo3.exp_manager.ExperimentManager
    assert rl_zoo3.train.ExperimentManager is ours
    (zoos,) = ours.__bases__
    assert all(
        method.__module__ == "rl_zoo3.exp_manager" for method in vars(zoos).values() if inspect.isfunction(method)
    )


def test_nothing_is_replaced_after_a_program(runs):
    import huggingface_sb3
    from rl_zoo3 import utils

    def replaceable():
        return (
            dict(utils.ALGOS),
            utils.get_model_path,
            utils.get_latest_run_id,
            utils.get_hf_trained_models,
            utils.StoreDict.__call__,
            subprocess.call,
            huggingface_sb3.load_from_hub,
        )

    before = replaceable()
    main(["enjoy", "--algo", "rlx2_sac", "--env", "Pendulum-v1", "-f", str(runs), "-n", "1", "--no-render"])
    assert replaceable() == before


def test_a_script_of_ones_own(tmp_path, monkeypatch):
    import rl_zoo3.train

    register()
    arguments = [
        "train",
        "--algo",
        "rlx2_sac",
        "--env",
        "Pendulum-v1",
        "-n",
        "30",
        "--eval-freq",
        "-1",
        "-f",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--verbose", "0", "-params", "learning_starts:20", "batch_size:4"])
    rl_zoo3.train.train()
    assert (run_folder(tmp_path, "rlx2_sac") / "Pendulum-v1.zip").is_file()
