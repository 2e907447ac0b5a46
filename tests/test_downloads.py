"""Files of a hub that could run code when they are used."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

pytest.importorskip("rl_zoo3")

from sb3_rlx2.files import read_state, write_state
from sb3_rlx2.zoo.command_line import main
from sb3_rlx2.zoo.downloads import why_code

OF = ["--algo", "rlx2_td3", "--env", "Pendulum-v1"]
MODEL, STATISTICS, CURVES = "rlx2_td3-Pendulum-v1.zip", "vec_normalize.pkl", "train_eval_metrics.zip"


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "content")


def test_pickles_are_found_by_content(tmp_path):
    path = tmp_path / "file"
    archive(path, "data", "policy.pth")
    assert why_code(path, "model.zip") == "holds pickled objects"
    archive(path, "evaluations.npz", "0.monitor.csv")
    assert why_code(path, "train_eval_metrics.zip") is None
    path.write_bytes(pickle.dumps([1]))
    assert why_code(path, "vec_normalize.pkl") == "holds pickled objects"
    path.write_text("anything")
    assert why_code(path, "model.zip") == "holds pickled objects"
    write_state(path, {"kind": "model"})
    assert why_code(path, "model.zip") is None
    path.write_bytes(path.read_bytes() + b" ")
    assert why_code(path, "model.zip") == "holds pickled objects"


def test_statistics_hold_pickled_objects_whatever_they_are(tmp_path):
    write_state(tmp_path / "file", {"kind": "VecNormalize"})
    assert why_code(tmp_path / "file", STATISTICS) == "holds pickled objects"


@pytest.mark.parametrize("name", ["Pendulum-v1.zip", "best_model.zip", "Pendulum-v1/args.yml", "a/b.csv", "a\\b.csv"])
def test_curves_bring_nothing_else_along(name, tmp_path):
    archive(tmp_path / "file", "evaluations.npz", "0.monitor.csv", name)
    assert "which is no curve of a training" in why_code(tmp_path / "file", CURVES)


# --- files that look like what they are not ---


class Evil:
    """Makes a file when it is unpickled."""

    ran = None

    def __reduce__(self):
        return Path.touch, (self.ran,)


def statistics_that_begin_like_a_state():
    """Bytes, of which there are 7, the last a brace; then the payload."""
    data = bytes([0x43, 7]) + b"\0" * 6 + b"{" + b"0" + pickle.dumps(Evil(), protocol=0)
    return data.ljust(struct.unpack("<Q", data[:8])[0] + 8)


def evil_model():
    model = TD3("MlpPolicy", "Pendulum-v1", buffer_size=1, policy_kwargs={"net_arch": [4]})
    model.evil = Evil()
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def model_behind_an_empty_state():
    return struct.pack("<Q", 2) + b"{}" + evil_model()


def model_inside_of_a_state():
    """A whole file of ``write_state``, with its checksum, and an archive too, of which the last is found."""
    file = io.BytesIO()
    write_state(file, {"kind": "model", "bytes": np.frombuffer(evil_model(), np.uint8)})
    file.seek(0)
    assert read_state(file)["kind"] == "model"
    return file.getvalue()


def curves_with_a_model():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zip_file:
        zip_file.writestr("Pendulum-v1.zip", evil_model())
    return file.getvalue()


def loaded_by_the_zoo(path):
    if path.name == STATISTICS:
        VecNormalize.load(str(path), DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    elif path.name == MODEL:
        TD3.load(path)
    else:
        with zipfile.ZipFile(path) as zip_file:
            TD3.load(io.BytesIO(zip_file.read("Pendulum-v1.zip")))


@pytest.mark.parametrize(
    ("name", "crafted"),
    [
        (STATISTICS, statistics_that_begin_like_a_state),
        (MODEL, model_behind_an_empty_state),
        (MODEL, model_inside_of_a_state),
        (CURVES, curves_with_a_model),
    ],
)
def test_crafted_files_are_refused_and_run_nothing(name, crafted, tmp_path, monkeypatch, capsys):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    hub = tmp_path / "hub"

    def download(repo_id, filename, **kwargs):
        if not (hub / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(hub / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(Evil, "ran", tmp_path / "ran")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLX2_TRUSTED", raising=False)
    hub.mkdir()
    write_state(hub / MODEL, {"kind": "model"})
    for settings in ("config.yml", "args.yml", "env_kwargs.yml"):
        (hub / settings).write_text("{}")
    archive(hub / CURVES, "evaluations.npz", "0.monitor.csv")
    assert main(["load-from-hub", *OF, "-orga", "someone", "-f", "harmless"]) == 0

    (hub / name).write_bytes(crafted())
    capsys.readouterr()
    assert main(["load-from-hub", *OF, "-orga", "someone", "-f", "crafted"]) == 2
    assert f"{name} of someone/rlx2_td3-Pendulum-v1 holds" in capsys.readouterr().err
    hub.rename(tmp_path / "of_sb3")
    hub = tmp_path / "of_sb3"
    assert main(["enjoy", *OF, "-f", "rl-trained-agents", "--no-render"]) == 2
    assert f"{name} of sb3/rlx2_td3-Pendulum-v1 holds" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not any((tmp_path / folder).exists() for folder in ("crafted", "rl-trained-agents"))
    try:
        loaded_by_the_zoo(hub / name)
    except Exception as error:  # after the payload
        print(error)
    assert (tmp_path / "ran").exists()


def test_trust_ends_with_the_program_that_was_given_it(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    (tmp_path / "file").write_bytes(pickle.dumps([1]))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **kwargs: str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLX2_TRUSTED", raising=False)
    enjoy = ["enjoy", *OF, "-f", "rl-trained-agents", "--no-render"]
    with pytest.raises(zipfile.BadZipFile):
        main([*enjoy, "--trusted"])
    capsys.readouterr()
    assert main([*enjoy, "--exp-id", "2"]) == 2
    assert "holds pickled objects" in capsys.readouterr().err


# --- settings ---


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!python/object/apply:collections.OrderedDict\n- - - algo\n    - rlx2_td3\n  - - seed\n    - 3\n", None),
        ("- - policy\n  - MlpPolicy\n- - normalize\n  - \"{'norm_obs': True, 'norm_reward': False}\"\n", None),
        ("{}", None),
        ("env_kwargs: !!python/tuple [1, 2]", None),
        ("- !!python/object/apply:os.system ['true']", "makes objects"),
        ("!!python/object/apply:collections.OrderedDict\n- - - a\n    - !!python/name:os.system ''\n", "makes objects"),
        ("a: !!python/object/new:collections.OrderedDict {state: [1]}", "makes objects"),
        ("!!python/object/apply:collections.OrderedDict\n- - - normalize\n    - __import__('os')\n", "has normalize"),
        ("normalize: dict(norm_obs=True)", "has normalize"),
        ("env_wrapper: gymnasium.wrappers.ClipAction", None),
        (
            "env_wrapper:\n- gymnasium.wrappers.RescaleAction: {a: -1}\n- subprocess.Popen: {args: [true]}",
            "subprocess",
        ),
        ("vec_env_wrapper: mine.Wrapper", "has vec_env_wrapper: mine.Wrapper"),
    ],
)
def test_settings_that_run_code_are_found(tmp_path, text, reason):
    (tmp_path / "file").write_text(text)
    found = why_code(tmp_path / "file", "config.yml")
    assert found is None if reason is None else reason in found
