"""Files that are no model, not whole, or from another version: what loading says."""

import io
import json
import math
import pickle
import re
import shutil
import zipfile

import gymnasium
import pytest
import torch as th
from helpers import ALL, environment, quick
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env

from sb3_rlx2 import RLx2DDPG, RLx2SAC, RLx2TD3
from sb3_rlx2.common.saving.model_files import CHECKPOINT_FORMAT, check_model_file, read_algorithm
from sb3_rlx2.errors import CheckpointMismatchError, ModelFileError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saved models by algorithm."""
    folder = tmp_path_factory.mktemp("models")
    paths = {algorithm: folder / f"{algorithm.__name__}.zip" for algorithm in ALL}
    for algorithm, path in paths.items():
        algorithm("MlpPolicy", environment(algorithm), **quick()).save(path)
    return paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with moments."""
    path = tmp_path_factory.mktemp("trained") / "model.zip"
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(80)
    model.save(path)
    return path


def rewritten(path, to, change, member="data"):
    """A copy of a saved model whose JSON data, or another member, went through ``change``; None leaves it out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == member and change is None:
                continue
            if name == member == "data":
                data = json.loads(content)
                change(data)
                content = json.dumps(data).encode()
            elif name == member:
                tensors = th.load(io.BytesIO(content), weights_only=True)
                buffer = io.BytesIO()
                th.save(change(tensors) or tensors, buffer)
                content = buffer.getvalue()
            new.writestr(name, content)
    return to


def refusal(load, path):
    """What is said when a file is loaded that cannot be: one line that names the file."""
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("algorithm", ALL)
def test_whole_file(algorithm, saved):
    check_model_file(saved[algorithm])
    assert algorithm.load(saved[algorithm]).checkpoint_format == CHECKPOINT_FORMAT
    assert isinstance(algorithm.load(saved[algorithm].with_suffix("")), algorithm)


@pytest.mark.parametrize("algorithm", ALL)
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


@pytest.mark.parametrize("algorithm", ALL)
def test_incompatible_version(algorithm, saved, tmp_path):
    newer = rewritten(saved[algorithm], tmp_path / "newer.zip", lambda data: data.update(checkpoint_format=99))
    with pytest.raises(ModelFileError, match=r"format 99, and sb3-rlx2 .* reads format 1"):
        algorithm.load(newer)
    other = rewritten(saved[algorithm], tmp_path / "other.zip", lambda data: data.pop("action_space"))
    with pytest.raises(ModelFileError, match=rf"other.zip cannot be loaded as {algorithm.__name__}"):
        algorithm.load(other)


@pytest.mark.parametrize("algorithm", ALL)
def test_a_file_names_its_algorithm(algorithm, saved, tmp_path):
    class Derived(algorithm):
        pass

    Derived("MlpPolicy", environment(algorithm), **quick()).save(tmp_path / "derived.zip")
    for path in (saved[algorithm], tmp_path / "derived.zip"):
        assert read_algorithm(path) == algorithm.__name__
        assert isinstance(Derived.load(path), Derived)
        assert type(algorithm.load(path)) is algorithm


@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2SAC])
def test_a_file_that_was_saved_before_files_named_their_algorithm(algorithm, saved, tmp_path):
    unnamed = rewritten(saved[algorithm], tmp_path / "unnamed.zip", lambda data: data.pop("algorithm_name"))
    assert read_algorithm(unnamed) == algorithm.__name__
    assert type(algorithm.load(unnamed)) is algorithm


@pytest.mark.parametrize("algorithm", ALL)
def test_other_algorithm(algorithm, saved, tmp_path):
    for other in {*ALL} - {algorithm}:
        path = saved[other]
        assert refusal(algorithm.load, path) == f"{path} is a model of {other.__name__}, not of {algorithm.__name__}"
    stock = (TD3, "TD3"), (SAC, "SAC"), (PPO, "another algorithm")
    path = tmp_path / "stock.zip"
    for other, name in stock:
        other("MlpPolicy", "Pendulum-v1", device="cpu").save(path)
        assert refusal(algorithm.load, path).startswith(f"{path} is a model of {name}, not of {algorithm.__name__}")
    odd = rewritten(saved[algorithm], tmp_path / "odd.zip", lambda data: data.update(algorithm_name=[1]))
    assert refusal(algorithm.load, odd) == f"{odd} is a model of another algorithm, not of {algorithm.__name__}"


@pytest.mark.parametrize("algorithm", ALL)
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


@pytest.mark.parametrize(
    ("algorithm", "attributes", "message"),
    [
        (RLx2TD3, {"tau": 5}, "tau=5 is not allowed: it must be a number in 0 <= tau <= 1"),
        (RLx2TD3, {"gamma": 2}, "gamma=2 is not allowed"),
        (RLx2TD3, {"buffer_size": 0.5}, "buffer_size=0.5 is not allowed: it must be a whole number >= 1"),
        (RLx2TD3, {"buffer_size": 2**50}, "Unable to allocate"),
        (RLx2TD3, {"_n_updates": 166.7}, "_n_updates=166.7 is not allowed: it must be a whole number >= 0"),
        (RLx2TD3, {"num_timesteps": -1}, "num_timesteps=-1 is not allowed"),
        (RLx2TD3, {"_total_timesteps": math.nan}, "_total_timesteps=nan is not allowed"),
        (RLx2TD3, {"_episode_num": "5"}, "_episode_num='5' is not allowed"),
        (RLx2TD3, {"policy_delay": 0}, "policy_delay=0 is not allowed"),
        (RLx2TD3, {"ep_info_buffer": "none"}, "ep_info_buffer='none' is not allowed: it must be a deque or None"),
        (RLx2TD3, {"replay_buffer": 5}, "replay_buffer=5 is not allowed: it must be a ReplayBuffer"),
        (RLx2TD3, {"train": 5}, "it has a value for train, which is no setting"),
        (RLx2TD3, {"topology_counters": 5}, r"topology_counters=5 .* a dict of \['actor', 'critic'\]"),
        (RLx2TD3, {"topology_counters": {}, "_n_updates": 5}, r"topology_counters={} .* 'actor' is missing"),
        (RLx2TD3, {"topology_counters": {"actor": {"updates": 5}, "critic": 5}}, r"updates and evolutions"),
        (
            RLx2TD3,
            {"topology_counters": {name: {"updates": 1, "evolutions": 2} for name in ("actor", "critic")}},
            "an evolution is one of the updates",
        ),
        (RLx2SAC, {"target_entropy": math.inf}, "target_entropy=inf is not allowed"),
        (RLx2SAC, {"ent_coef": "auto_0"}, "ent_coef='auto_0' is not allowed"),
        (RLx2DDPG, {"policy_delay": 3}, "policy_delay=3 is not allowed: DDPG does not have it"),
    ],
)
def test_numbers_in_a_file_have_the_ranges_of_the_arguments(algorithm, attributes, message, saved, tmp_path):
    file = rewritten(saved[algorithm], tmp_path / "odd.zip", lambda data: data.update(attributes))
    assert re.search(message, refusal(algorithm.load, file))


@pytest.mark.parametrize("name", ["gamma", "seed", "_n_updates", "topology_counters", "actor_sparsity"])
def test_what_decides_how_a_model_learns_must_be_in_its_file(name, saved, tmp_path):
    file = rewritten(saved[RLx2TD3], tmp_path / "short.zip", lambda data: data.pop(name))
    assert f"it has no {name}" in refusal(RLx2TD3.load, file)
    if name == "gamma":
        assert RLx2TD3.load(file, gamma=0.5).gamma == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"pytorch_variables.pth has \[\], expected \['log_ent_coef'\]"),
        (lambda tensors: {"log_ent_coef": None}, "log_ent_coef is a NoneType, not a tensor"),
        (lambda tensors: {"log_ent_coef": th.tensor([math.nan])}, "log_ent_coef has 1 of 1 numbers that are NaN"),
        (lambda tensors: {"log_ent_coef": th.zeros(1, dtype=th.float64)}, r"float64, expected torch.float32"),
        (lambda tensors: {"log_ent_coef": th.zeros(())}, r"log_ent_coef is \(\), expected \(1,\)"),
        (lambda tensors: {**tensors, "policy": th.zeros(1)}, r"has \['log_ent_coef', 'policy'\]"),
        (lambda tensors: "log_ent_coef", "pytorch_variables.pth is a str, not a dict"),
    ],
)
def test_the_entropy_coefficient_must_be_in_the_file_of_a_model_that_learns_it(change, message, saved, tmp_path):
    file = rewritten(saved[RLx2SAC], tmp_path / "odd.zip", change, "pytorch_variables.pth")
    assert re.search(message, refusal(RLx2SAC.load, file))


def _weights(tensors):
    return next(tensor for name, tensor in tensors.items() if name.endswith("values"))


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("policy", lambda policy: _weights(policy)[:2].fill_(math.nan), r"values has 2 of \d+ numbers that are NaN"),
        ("policy", lambda policy: _weights(policy)[0].fill_(math.inf), r"values has 1 of \d+ numbers"),
        ("policy", lambda policy: dict.fromkeys(policy, "text"), "is a str, not a tensor"),
        ("policy", lambda policy: {name: tensor.long() for name, tensor in policy.items()}, "is of type torch.int64"),
        ("policy", lambda policy: {name: tensor.to_sparse() for name, tensor in policy.items()}, "no ordinary tensor"),
        ("policy", lambda policy: "text", "policy is a str, not a state dict"),
        ("critic.optimizer", lambda adam: "text", "critic.optimizer is a str, not a state dict"),
        ("critic.optimizer", lambda adam: adam.update(state=5), "has a state that is a int, not a dict"),
        ("critic.optimizer", lambda adam: adam.update(param_groups=[5]), "no list of dicts"),
        ("critic.optimizer", lambda adam: adam["state"].update({0: 5}), "state of parameter 0 that is a int"),
        ("critic.optimizer", lambda adam: adam["state"].pop(0), r"critic.optimizer has state of \d+ of \d+ parameters"),
        ("critic.optimizer", lambda adam: adam["state"][0].update(exp_avg="text"), "exp_avg is a str, not a tensor"),
        ("critic.optimizer", lambda adam: adam["state"][0].pop("exp_avg_sq"), "expected exp_avg, exp_avg_sq"),
        ("critic.optimizer", lambda adam: adam["state"][0]["exp_avg"].fill_(math.nan), "exp_avg has .* NaN"),
        ("critic.optimizer", lambda adam: adam["state"][0]["exp_avg_sq"].fill_(-1), "exp_avg_sq has negative numbers"),
        ("critic.optimizer", lambda adam: adam["state"][0]["step"].fill_(-1), "step has negative numbers"),
        ("critic.optimizer", lambda adam: adam["state"][0]["step"].fill_(0.5), "step is 0.5, expected a whole number"),
        ("critic.optimizer", lambda adam: adam["state"][0].update(step=True), "step is a bool, not a tensor"),
        ("critic.optimizer", lambda adam: adam["state"][0]["step"].fill_(math.nan), "step has 1 of 1 .* NaN"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0]["params"].reverse(), r"expected 0 .. \d+ in order"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].update(amsgrad=True), r"'amsgrad'\] is True, expec"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].update(maximize=1), r"'maximize'\] is 1, expected"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].update(betas=(0.9,)), r"'betas'\] is \(0.9,\), e"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].update(betas=(0.9, 2)), "Invalid beta parameter"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].update(eps=math.nan), r"'eps'\] is nan, expec"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].update(weight_decay=1e30), "float32 can hold"),
        ("critic.optimizer", lambda adam: adam["state"].update({0: {}}), "has no state of parameter 0, expected"),
        ("critic.optimizer", lambda adam: adam["param_groups"][0].pop("eps"), r"'eps'\] is missing"),
    ],
)  # fmt: skip
def test_tensors_and_optimizer_states_that_cannot_be_are_refused(member, change, message, trained, tmp_path):
    def damage(tensors):
        changed = change(tensors)  # a new content, or what a change in place returns
        return changed if changed == "text" or (member == "policy" and isinstance(changed, dict)) else None

    file = rewritten(trained, tmp_path / "odd.zip", damage, f"{member}.pth")
    for load in (RLx2TD3.load, RLx2TD3.load(trained).set_parameters):
        assert re.search(message, refusal(load, file))


@pytest.mark.parametrize(
    "change", [lambda data: data.pop("ep_success_buffer"), lambda data: data.update(ep_info_buffer=None)]
)
def test_statistics_of_episodes_are_there_together(change, trained, tmp_path):
    file = rewritten(trained, tmp_path / "odd.zip", change)
    assert "ep_info_buffer and ep_success_buffer are not allowed one without" in refusal(RLx2TD3.load, file)


def test_states_that_are_loaded_are_no_part_of_a_graph(trained):
    model = RLx2TD3.load(trained)
    parameters = model.get_parameters()
    state = parameters["critic.optimizer"]["state"][0]
    state["step"] = th.nn.Parameter(state["step"])
    model.set_parameters(parameters)
    assert not any(e.requires_grad for state in model.critic.optimizer.state.values() for e in state.values())


def test_a_text_in_place_of_a_tensor_is_a_misfit(trained):
    model = RLx2TD3.load(trained)
    with pytest.raises(CheckpointMismatchError, match=r"is a str, not a tensor"):
        model.set_parameters({"policy": dict.fromkeys(model.policy.state_dict(), "text")}, exact_match=False)


def test_odd_archives(saved, tmp_path):
    content = saved[RLx2TD3].read_bytes()
    directory = content.index(b"PK\x01\x02")
    for offset, value in ((10, 99), (8, 1)):  # an unknown method of compression; a password
        odd = bytearray(content)
        odd[directory + offset] = value
        (tmp_path / "odd.zip").write_bytes(odd)
        assert "odd.zip is" in refusal(RLx2TD3.load, tmp_path / "odd.zip")
    rewritten(saved[RLx2TD3], tmp_path / "twice.zip", lambda data: None)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twice.zip", "a") as archive:
        archive.writestr("data", "{}")
    assert "it has data more than once" in refusal(RLx2TD3.load, tmp_path / "twice.zip")
    for data in (b"\xff\xfe", b"[]", b"{", b"{}"):
        with zipfile.ZipFile(saved[RLx2TD3]) as old, zipfile.ZipFile(tmp_path / "odd.zip", "w") as new:
            for name in old.namelist():
                new.writestr(name, data if name == "data" else old.read(name))
        refusal(RLx2TD3.load, tmp_path / "odd.zip")


def test_open_files_are_checked_too(saved):
    with saved[RLx2TD3].open("rb") as file:
        assert isinstance(RLx2TD3.load(file), RLx2TD3)
    content = saved[RLx2TD3].read_bytes()
    assert isinstance(RLx2TD3.load(io.BytesIO(content)), RLx2TD3)
    with pytest.raises(ModelFileError, match="the open file is damaged or was cut short"):
        RLx2TD3.load(io.BytesIO(content[: len(content) // 2]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\x80\x04",
        pickle.dumps("a text"),
        pickle.dumps({"observations": 5}),
        b"c__builtin__\nint\n(V\xff\ntR.",
        b"\x80\x04\x8c\x02\xff\xfe.",  # a text that is no UTF-8
        b"\x80\x04C\x01",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes longer than memory
        b"cnumpy\nndarray\n(tR.",
        b"cno_such_module\nThing\n.",
    ],
)
def test_odd_pickles_are_no_replay_buffers(content, saved, tmp_path):
    model = RLx2TD3.load(saved[RLx2TD3])
    own = model.replay_buffer
    (tmp_path / "odd.pkl").write_bytes(content)
    assert "odd.pkl is no replay buffer" in refusal(model.load_replay_buffer, tmp_path / "odd.pkl")
    assert model.replay_buffer is own


def test_other_environment(saved):
    with pytest.raises(ModelFileError, match=r"Observation spaces do not match"):
        RLx2TD3.load(saved[RLx2TD3], env=gymnasium.make("MountainCarContinuous-v0"))


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
