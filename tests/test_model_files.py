"""Files that are no model, not whole, or from another version: what loading says."""

import json
import shutil
import zipfile

import gymnasium
import pytest
from helpers import ALGORITHMS, quick
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.common.model_files import CHECKPOINT_FORMAT, check_model_file
from sb3_rlx2.errors import ModelFileError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saved models by algorithm."""
    folder = tmp_path_factory.mktemp("models")
    paths = {algorithm: folder / f"{algorithm.__name__}.zip" for algorithm in ALGORITHMS}
    for algorithm, path in paths.items():
        algorithm("MlpPolicy", "Pendulum-v1", **quick()).save(path)
    return paths


def rewritten(path, to, change):
    """A copy of a saved model whose JSON data went through ``change``."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                change(data)
                content = json.dumps(data).encode()
            new.writestr(name, content)
    return to


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whole_file(algorithm, saved):
    check_model_file(saved[algorithm])
    assert algorithm.load(saved[algorithm]).checkpoint_format == CHECKPOINT_FORMAT
    assert isinstance(algorithm.load(saved[algorithm].with_suffix("")), algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_cut_short(algorithm, saved, share, tmp_path):
    content = saved[algorithm].read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match=r"cut.zip is damaged or was cut short"):
        algorithm.load(path)


def test_flipped_byte(saved, tmp_path):
    content = bytearray(saved[RLx2TD3].read_bytes())
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / "flipped.zip"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"flipped.zip is damaged"):
        RLx2TD3.load(path)


def test_no_model(tmp_path):
    (tmp_path / "notes.zip").write_text("not a model")
    with pytest.raises(ModelFileError, match=r"notes.zip is no model"):
        RLx2TD3.load(tmp_path / "notes.zip")
    shutil.make_archive(str(tmp_path / "other"), "zip", tmp_path, "notes.zip")
    with pytest.raises(ModelFileError, match=r"other.zip is no model: it is a zip archive without data and policy.pth"):
        RLx2TD3.load(tmp_path / "other.zip")
    with pytest.raises(FileNotFoundError):
        RLx2TD3.load(tmp_path / "missing.zip")
    with pytest.raises(ModelFileError, match=r"missing.zip: there is no such file"):
        check_model_file(tmp_path / "missing.zip")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_incompatible_version(algorithm, saved, tmp_path):
    newer = rewritten(saved[algorithm], tmp_path / "newer.zip", lambda data: data.update(checkpoint_format=99))
    with pytest.raises(ModelFileError, match=r"format 99, and sb3-rlx2 .* reads format 1"):
        algorithm.load(newer)
    other = rewritten(saved[algorithm], tmp_path / "other.zip", lambda data: data.pop("action_space"))
    with pytest.raises(ModelFileError, match=rf"other.zip cannot be loaded as {algorithm.__name__}"):
        algorithm.load(other)


def test_other_algorithm(saved, tmp_path):
    with pytest.raises(ModelFileError, match=r"do not fit this RLx2TD3|cannot be loaded as RLx2TD3"):
        RLx2TD3.load(saved[RLx2SAC])
    TD3("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "dense.zip")
    with pytest.raises(ModelFileError, match=r"do not fit this RLx2TD3|cannot be loaded as RLx2TD3"):
        RLx2TD3.load(tmp_path / "dense.zip")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unknown_argument_of_load(algorithm, saved):
    message = (
        rf"^{algorithm.__name__}.load\(\) got the unknown argument 'topology_intervall'. Did you mean 'topology_int"
    )
    with pytest.raises(ValueError, match=message):
        algorithm.load(saved[algorithm], topology_intervall=5)
    # An argument of the constructor, and an attribute that is none
    model = algorithm.load(saved[algorithm], topology_interval=5, num_timesteps=7)
    assert (model.topology_interval, model.num_timesteps) == (5, 7)


def test_arguments_of_a_class_of_ones_own(saved):
    class Mine(RLx2TD3):
        def __init__(self, *args, patience=3, **kwargs):
            super().__init__(*args, **kwargs)
            self.patience = patience
            self.seen = 0

    assert vars(Mine.load(saved[RLx2TD3], patience=5, seen=2, tau=0.01)).items() >= {"patience": 5, "seen": 2}.items()
    with pytest.raises(ValueError, match=r"'patiance'. Did you mean 'patience'"):
        Mine.load(saved[RLx2TD3], patiance=5)


@pytest.mark.parametrize("device", ["meta", "gpu", 7.5])
def test_device_that_is_none(saved, device):
    with pytest.raises(ValueError, match=rf"^device='{device}' is not (allowed|available): [^\n]+$") as caught:
        RLx2TD3.load(saved[RLx2TD3], device=device)
    assert not isinstance(caught.value, ModelFileError), "it is not the file's fault"


def test_other_environment(saved):
    with pytest.raises(ModelFileError, match=r"Observation spaces do not match"):
        RLx2TD3.load(saved[RLx2TD3], env=gymnasium.make("InvertedPendulum-v5"))


def test_replay_buffer_files(saved, tmp_path):
    model = RLx2TD3("MlpPolicy", make_vec_env("Pendulum-v1", 2), **quick(buffer_size=40))
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "buffer.pkl").read_bytes()[:500])
    own = model.replay_buffer
    with pytest.raises(ModelFileError, match=r"cut.pkl is no replay buffer, or was cut short"):
        model.load_replay_buffer(tmp_path / "cut.pkl")
    assert model.replay_buffer is own
    one = RLx2TD3.load(saved[RLx2TD3], env=gymnasium.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"the replay buffer is for n_envs=2, and the model has n_envs=1"):
        one.load_replay_buffer(tmp_path / "buffer.pkl")
