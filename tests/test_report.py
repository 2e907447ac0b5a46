"""What a model is made of: counts against the networks themselves, and FLOPs against the paper's table."""

import io
import json
import math
import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALGORITHMS, Still, one_output, quick
from sb3_contrib import TQC, CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.envs import FakeImageEnv
from torch import nn

import sb3_rlx2.td3
from sb3_rlx2 import RLx2CrossQ, RLx2SAC, RLx2TD3
from sb3_rlx2.analysis.network_parts import network_parts
from sb3_rlx2.analysis.report import report
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.sparse import SparseLinear, relocate, sparse_layers
from sb3_rlx2.sparse.units import dormant_units, mean_activity
from sb3_rlx2.zoo import report as command

PAPER = [  # RLx2, table 2: sparsities, size, FLOPs of training and of an action
    (RLx2TD3, "HalfCheetah-v5", 0.90, 0.85, 0.133, 0.138, 0.100),
    (RLx2TD3, "Hopper-v5", 0.98, 0.95, 0.040, 0.043, 0.020),
    (RLx2TD3, "Walker2d-v5", 0.97, 0.95, 0.043, 0.045, 0.030),
    (RLx2TD3, "Ant-v5", 0.96, 0.88, 0.093, 0.100, 0.040),
    (RLx2SAC, "HalfCheetah-v5", 0.90, 0.80, 0.180, 0.197, 0.100),
    (RLx2SAC, "Hopper-v5", 0.98, 0.95, 0.044, 0.048, 0.020),
    (RLx2SAC, "Walker2d-v5", 0.90, 0.90, 0.100, 0.113, 0.100),
    (RLx2SAC, "Ant-v5", 0.90, 0.75, 0.220, 0.239, 0.100),
]


@pytest.fixture(scope="module", params=ALGORITHMS)
def trained(request):
    return request.param("MlpPolicy", "Pendulum-v1", **quick()).learn(150)


@pytest.mark.parametrize(("algorithm", "env", "actor", "critic", "size", "train", "test"), PAPER)
def test_flops_and_size_beside_the_papers_table(algorithm, env, actor, critic, size, train, test):
    model = algorithm("MlpPolicy", env, actor_sparsity=actor, critic_sparsity=critic, buffer_size=1)
    found = model.report()
    assert found.flops.action_ratio == pytest.approx(test, abs=5e-4)
    if algorithm is RLx2TD3:
        assert found.flops.update_ratio == pytest.approx(train, abs=0.003)
    else:
        assert found.flops.update_ratio == pytest.approx(train, rel=0.07)
    # The paper's size has TD3's online networks, but SAC's target critics too
    counted = [net for net in found.networks if algorithm is RLx2SAC or "_target" not in net.name]
    connections = sum(net.total("connections") for net in counted)
    assert connections / sum(net.total("dense_connections") for net in counted) == pytest.approx(size, abs=1e-3)


def test_flops_of_an_actor_that_is_at_rest_in_offline_phases():
    def flops(**phases):
        return (
            RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.5, critic_sparsity=0.0, **phases))
            .report()
            .flops
        )

    plain, offline = flops(), flops(offline_interval=10, offline_updates=30)  # 40 updates, 10 of them the actor's
    assert offline.update.actor == plain.update.actor / 4
    assert offline.update.evolution == plain.update.evolution / 4  # the critics' is 0
    assert offline.update[:2] == plain.update[:2]


def test_flops_of_an_update_by_hand():
    actor, q = 2 * (3 * 32 + 32 * 32 + 32), 2 * (4 * 32 + 32 * 32 + 32)
    dense = {"topology": "dense", "n_steps": 1, "dynamic_buffer": False}
    td3 = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(**dense, policy_delay=4)).report().flops
    assert td3.action == td3.dense_action == actor
    assert td3.update == (32 * (actor + 2 * q), 32 * 6 * q, 32 * (3 * actor + 2 * q) / 4, 0)
    assert td3.update_ratio == 1.0
    sac_actor = actor + 2 * 32  # the second head
    sac = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**dense)).report().flops
    assert sac.update == (32 * (sac_actor + 2 * q), 32 * 6 * q, 32 * (3 * sac_actor + 4 * q), 0)
    sparse = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.5, critic_sparsity=0.0)).report().flops
    assert sparse.update.target == 32 * (3 * sparse.action + 2 * q)
    assert sparse.dense_update == sac.update
    assert sparse.update.evolution == 32 * (sac_actor - sparse.action) / 20
    crossq = RLx2CrossQ("MlpPolicy", "Pendulum-v1", **quick(**dense)).report().flops
    assert crossq.update == (32 * sac_actor, 32 * 12 * q, 32 * (3 * sac_actor + 4 * q) / 3, 0)
    half = RLx2CrossQ("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.5, critic_sparsity=0.5)).report()
    of_critics = half.flops.update.critic / (32 * 6)
    of_actor = half.flops.action
    assert half.flops.update.target == 32 * 3 * of_actor
    expected = 32 * (2 * (2 * q - of_critics) + (sac_actor - of_actor) / 3) / 20
    assert half.flops.update.evolution == pytest.approx(expected)


@pytest.mark.parametrize("topology", ["set", "static"])
def test_only_dense_gradients_cost_flops_at_evolution(topology):
    assert RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology=topology)).report().flops.update.evolution == 0.0


def test_connections_and_bytes_are_those_of_the_networks(trained, tmp_path):
    found = trained.report()
    layers = {
        f"{part.owner}.{name}": layer for part in network_parts(trained.policy) for name, layer in part.layers.items()
    }
    reports = {f"{net.name.split('.')[0]}.{layer.name}": layer for net in found.networks for layer in net.layers}
    assert reports.keys() == layers.keys()
    for name, layer in layers.items():
        assert reports[name].connections == (layer.nnz if isinstance(layer, SparseLinear) else layer.weight.numel())
        assert trained.policy.get_submodule(name) is layer
    norms = [(name, module) for name, module in trained.policy.named_modules() if isinstance(module, BatchRenorm1d)]
    names, left_out = tuple(name for name, _ in norms), {p for _, module in norms for p in module.parameters()}
    state = {key: tensor for key, tensor in trained.policy.state_dict().items() if not key.startswith(names)}
    assert found.total("weight_bytes") == sum(tensor.nbytes for tensor in state.values())
    states = {**trained.actor.optimizer.state, **trained.critic.optimizer.state}
    entries = [entry for key, state in states.items() if key not in left_out for entry in state.values()]
    assert found.total("optimizer_bytes") == sum(entry.nbytes for entry in entries)
    trained.save(tmp_path / "model")
    assert found.checkpoint_bytes == pytest.approx((tmp_path / "model.zip").stat().st_size, rel=0.01)
    assert found.checkpoint_bytes > sum(layer.checkpoint_bytes for layer in reports.values())


def test_dense_bytes_are_those_of_the_dense_model():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(60)
    dense = model.to_dense().learn(60)
    other = report(dense)
    assert (
        model.report().total("dense_weight_bytes") == other.total("weight_bytes") == other.total("dense_weight_bytes")
    )
    assert model.report().total("dense_optimizer_bytes") == other.total("optimizer_bytes")


def test_units_that_lost_all_inputs_or_outputs():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.5))
    mask = model.actor.mu[2].mask
    mask[:5] = False  # five units of the second layer without inputs
    mask[:, :3] = False  # three units of the first without outputs
    model.actor.mu[2] = SparseLinear.from_dense(model.actor.mu[2].to_dense(), connections=mask)
    layers = model.report().networks[0].layers
    assert layers[1].units_without_inputs == int((~mask.any(dim=1)).sum()) >= 5
    assert layers[0].units_without_outputs == int((~mask.any(dim=0)).sum()) >= 3
    assert layers[2].units_without_outputs is None
    sac = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick())
    heads = sac.actor.mu.mask | sac.actor.log_std.mask
    assert sac.report().networks[0].layers[1].units_without_outputs == int((~heads.any(dim=0)).sum())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_outputs_without_a_path_are_told_by_report_and_scalars(algorithm):
    model = algorithm(
        "MlpPolicy", "Pendulum-v1", **quick(critic_sparsity=0.9, topology="static", **one_output(algorithm))
    )
    assert all(net.total("unreachable_outputs") == 0 for net in model.report().networks)
    owners = [name for name in ("critic", "critic_target") if hasattr(model, name)]
    (first, *others), (second, *others_of_second) = zip(
        *(list(sparse_layers(getattr(model, name).qf0).values())[:2] for name in owners), strict=True
    )
    # The first layer leads to units 0 to 7, the second reads the others
    relocate(first, th.arange(first.nnz), mirrors=others)
    reads = [position for position in range(32 * 32) if position % 32 > 7][: second.nnz]
    relocate(second, th.tensor(reads), mirrors=others_of_second)
    found_report = model.report()
    found = {net.name: net.total("unreachable_outputs") for net in found_report.networks}
    assert {name for name, count in found.items() if count} == {f"{name}.qf0" for name in owners}
    assert found_report.networks[0].layers[0].unreachable_outputs is None
    by_name = {net["name"]: net for net in found_report.to_dict()["networks"]}
    assert by_name["critic.qf0"]["layers"][-1]["unreachable_outputs"] == found["critic.qf0"] == 1
    assert "no path" in str(found_report)
    model.learn(60)
    assert model.logger.name_to_value["rlx2/actor_unreachable_outputs"] == 0
    assert model.logger.name_to_value["rlx2/critic_unreachable_outputs"] == 1
    other = algorithm("MlpPolicy", "Pendulum-v1", **quick(critic_sparsity=0.9, **one_output(algorithm)))
    model.critic.load_state_dict(other.critic.state_dict())
    assert attached_evolvers(model)["critic"].unreachable_outputs == 0


def test_dormant_units_by_hand():
    hidden, last = nn.Linear(2, 4, bias=False), nn.Linear(4, 1)
    with th.no_grad():
        hidden.weight.copy_(th.tensor([[1.0, 0.0], [0.0, 0.0], [0.02, 0.0], [-1.0, 0.0]]))
    network = nn.Sequential(hidden, nn.ReLU(), last)
    batch = th.tensor([[1.0, 3.0], [3.0, -1.0]])
    (activity,) = mean_activity([[hidden], [last]], lambda: network(batch))
    th.testing.assert_close(activity, th.tensor([2.0, 0.0, 0.04, 0.0]))
    # The layer's average is 0.51: 0.04 is dormant at τ = 0.1, but not at 0.025
    assert dormant_units(activity, 0.025).tolist() == [False, True, False, True]
    assert dormant_units(activity, 0.1).tolist() == [False, True, True, True]
    assert dormant_units(th.zeros(3)).all()
    assert not hidden._forward_pre_hooks
    assert not last._forward_pre_hooks


def test_activity_is_what_a_normalization_reads():
    hidden, norm, last = nn.Linear(1, 2, bias=False), BatchRenorm1d(2), nn.Linear(2, 1)
    with th.no_grad():
        hidden.weight.copy_(th.tensor([[2.0], [-1.0]]))
        norm.bias.fill_(1.0)
    network = nn.Sequential(hidden, nn.ReLU(), norm, last).eval()
    batch = th.tensor([[1.0], [3.0]])
    (activity,) = mean_activity([[hidden], [last]], lambda: network(batch), [norm])
    assert activity.tolist() == [4.0, 0.0]
    assert not norm._forward_hooks


@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2SAC])
def test_dormant_units_of_residual_blocks_are_those_whose_activation_is_zero(algorithm):
    policy_kwargs = {"net_arch": [8, 8]}
    model = algorithm("SimBaPolicy", "Pendulum-v1", **quick(policy_kwargs=policy_kwargs)).learn(120)
    inside = model.critic.qf1[2].body[1]
    with th.no_grad():
        inside.values.zero_()
        inside.bias.copy_(th.tensor([-1.0, 0.0, 1.0, 2.0]).repeat(8))
    found = {net.name: {layer.name: layer.dormant_units for layer in net.layers} for net in model.report().networks}
    assert found["critic.qf1"]["qf1.2.body.1"] == 16
    assert found["critic.qf0"]["qf0.2.body.1"] < 16
    hidden = [name for name, units in found["critic.qf1"].items() if units is not None]
    assert hidden == ["qf1.1.body.1", "qf1.2.body.1"]  # embedding and ends of blocks have no activation
    assert sum(units is not None for units in found["actor"].values()) == 2
    assert not any(module._forward_hooks for module in model.policy.modules())


def test_dormant_units_need_a_batch_and_grow_with_the_threshold(trained):
    low, high = trained.report(), trained.report(dormant_threshold=0.5)
    assert low.n_samples == 1024
    for one, other in zip(low.networks, high.networks, strict=True):
        assert one.dormant_share <= other.dormant_share <= 1.0
    assert high.networks[0].dormant_share > low.networks[0].dormant_share > 0.0
    everything = trained.report(dormant_threshold=1e9)
    assert all(net.dormant_share == 1.0 for net in everything.networks)
    fresh = type(trained)("MlpPolicy", "Pendulum-v1", **quick()).report()
    assert fresh.n_samples == 0
    assert fresh.networks[0].dormant_share is None


def test_dormant_units_are_sought_on_transitions_that_are_held():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(buffer_size=100, buffer_distance_threshold=1e9)).learn(130)
    buffer = model.replay_buffer
    buffer.shrink(0.5)
    rows = set(buffer.rows_held().tolist())
    assert len(rows) == buffer.size() < 100
    gone = [row for row in range(100) if row not in rows]
    before = model.report()
    buffer.observations[gone] = math.nan
    assert model.report() == before


def test_a_report_changes_neither_the_model_nor_random_streams(trained):
    trained.policy.set_training_mode(True)
    parameters = {name: tensor.clone() for name, tensor in trained.policy.state_dict().items()}
    numpy_state, torch_state = np.random.get_state(), th.random.get_rng_state()
    assert trained.report() == trained.report()
    assert all(np.array_equal(one, other) for one, other in zip(numpy_state, np.random.get_state(), strict=True))
    assert th.equal(torch_state, th.random.get_rng_state())
    assert trained.policy.training
    assert trained.actor.training
    assert all(th.equal(tensor, parameters[name]) for name, tensor in trained.policy.state_dict().items())


def test_inputs_by_connections(trained):
    inputs = {given.name: given.connections for given in trained.report().inputs}
    assert list(inputs) == ["0", "1", "2", "action 0"]
    first = next(iter(sparse_layers(trained.actor).values()))
    assert [inputs[name]["actor"] for name in "012"] == first.mask.sum(dim=0).tolist()
    q = next(iter(sparse_layers(trained.critic.qf0).values()))
    assert [counts["critic.qf0"] for counts in inputs.values()] == q.mask.sum(dim=0).tolist()
    assert "actor" not in inputs["action 0"]


def test_inputs_of_dict_observations_have_their_keys():
    space = spaces.Dict({"goal": spaces.Box(-1, 1, (2,)), "at": spaces.Box(-1, 1, (3,))})
    env = Still(space, spaces.Box(-1, 1, (1,)))
    model = RLx2TD3("MultiInputPolicy", env, **quick(n_steps=1, dynamic_buffer=False)).learn(60)
    found = model.report()
    names = [given.name for given in found.inputs]
    assert sorted(names[:-1]) == ["at[0]", "at[1]", "at[2]", "goal[0]", "goal[1]"]
    assert found.n_samples == 1024


def test_a_features_extractor_that_is_shared_is_counted_once():
    env = FakeImageEnv(discrete=False, screen_height=36, screen_width=36)
    kwargs = quick(n_steps=1, dynamic_buffer=False, buffer_size=10, policy_kwargs={"share_features_extractor": True})
    model = RLx2TD3("CnnPolicy", env, **kwargs)
    found = model.report()
    tensors = {id(tensor): tensor.nbytes for tensor in model.policy.state_dict(keep_vars=True).values()}
    assert found.total("weight_bytes") == sum(tensors.values())
    shared = {network.name: network.shared_with for network in found.networks if network.shared_with is not None}
    assert shared["critic.features_extractor"] == "actor.features_extractor"
    kwargs["policy_kwargs"] = {"share_features_extractor": False}
    extractor = next(network for network in found.networks if network.name == "critic.features_extractor")
    # The critics' loss does not train what is the actor's
    passes_back = 2 * extractor.total("flops") * model.batch_size
    own = RLx2TD3("CnnPolicy", env, **kwargs).report().flops.update
    assert found.flops.update == own._replace(critic=own.critic - passes_back)


def test_a_features_extractor_is_counted_too():
    env = FakeImageEnv(discrete=False, screen_height=36, screen_width=36)
    model = RLx2SAC("CnnPolicy", env, **quick(n_steps=1, dynamic_buffer=False, buffer_size=10))
    found = model.report()
    extractor = next(net for net in found.networks if net.name == "actor.features_extractor")
    first = extractor.layers[0]
    assert first.shape == (32, 1, 8, 8)
    assert first.flops == 2 * 32 * 64 * 8 * 8  # 36 x 36 pixels, kernel 8, stride 4: 8 x 8 positions
    assert found.inputs == ()
    assert found.flops.action == extractor.total("flops") + found.networks[0].total("flops")


@pytest.mark.parametrize("stock", [TD3, SAC, DDPG, CrossQ])
def test_stock_sb3_models_too(stock):
    model = stock("MlpPolicy", "Pendulum-v1", learning_starts=10, buffer_size=100, policy_kwargs={"net_arch": [8]})
    found = report(model.learn(20))
    assert found.flops.update_ratio == 1.0
    assert {net.density for net in found.networks} == {1.0}
    sparse = TD3(
        sb3_rlx2.td3.MlpPolicy,
        "Pendulum-v1",
        buffer_size=1,
        policy_kwargs={"net_arch": [32, 32], "actor_sparsity": 0.5},
    )
    assert report(sparse).networks[0].density == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_reported_is_refused(trained):
    with pytest.raises(ValueError, match="not for PPO"):
        report(PPO("MlpPolicy", "Pendulum-v1", device="cpu"))
    with pytest.raises(ValueError, match="dormant_threshold=-1 is not allowed"):
        trained.report(dormant_threshold=-1)
    with pytest.raises(ValueError, match="n_samples=0 is not allowed"):
        trained.report(n_samples=0)


def test_formats_say_the_same(trained, capsys):
    found = trained.report()
    plain = json.loads(found.to_json())
    assert plain["flops"]["update"]["total"] == found.flops.update.total
    assert plain["networks"][0]["layers"][0]["connections"] == found.networks[0].layers[0].connections
    assert plain["networks"][0]["dormant_share"] == found.networks[0].dormant_share
    ratio = f"{found.flops.update_ratio:.1%}"
    markdown = found.to_markdown()
    for text in (str(found), markdown):
        assert ratio in text
        assert ("critic_target" in text) == hasattr(trained, "critic_target")
        assert "action 0" in text
    for block in markdown.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
    found.print()
    assert ratio in capsys.readouterr().out


def test_without_rich_plain_text_is_printed(trained, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    trained.report().print()
    assert capsys.readouterr().out == f"{trained.report()}\n"


def test_the_command_reports_a_saved_model(trained, tmp_path, capsys):
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "buffer.pkl")
    path = str(tmp_path / "model.zip")
    command.main([path, "--json", "--replay-buffer", str(tmp_path / "buffer.pkl")])
    found = json.loads(capsys.readouterr().out)
    assert found == {
        **json.loads(trained.report().to_json()),
        "checkpoint_bytes": (tmp_path / "model.zip").stat().st_size,
    }
    command.main([path, "--markdown"])
    assert "no replay buffer at hand" in capsys.readouterr().out
    command.main([path])
    assert type(trained).__name__ in capsys.readouterr().out


@pytest.mark.parametrize("stock", [TD3, SAC, TQC, CrossQ])
def test_the_command_knows_stock_models(stock, tmp_path, capsys):
    stock("MlpPolicy", "Pendulum-v1", buffer_size=1, policy_kwargs={"net_arch": [8]}).save(tmp_path / "model")
    assert command.algorithm_of(tmp_path / "model.zip") == stock.__name__.lower()
    command.main([str(tmp_path / "model.zip"), "--json"])
    assert json.loads(capsys.readouterr().out)["algorithm"] == stock.__name__


def test_the_command_takes_a_sparse_model_of_stock_policies(tmp_path):
    RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(buffer_size=1, topology="dense")).save(tmp_path / "model")
    assert command.algorithm_of(tmp_path / "model.zip") == "rlx2_sac"
    assert isinstance(command.load_model(tmp_path / "model.zip"), RLx2SAC)
    assert type(command.load_model(tmp_path / "model.zip", algo="rlx2_sac")) is RLx2SAC


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        command.main([str(argument) for argument in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_command_refuses_what_is_no_model(trained, tmp_path, capsys):
    whole = tmp_path / "model.zip"
    trained.save(whole)
    bytes_ = whole.read_bytes()
    assert "there is no such file" in refused(capsys, tmp_path / "nowhere.zip")
    no_model, cut_short = "is no model: model.save() writes a zip archive", "is damaged or was cut short"
    for name, content, message in (
        ("text.zip", b"hello", no_model),
        ("empty.zip", b"", no_model),
        ("cut.zip", bytes_[: len(bytes_) // 2], cut_short),
    ):
        (tmp_path / name).write_bytes(content)
        assert f"{name} {message}" in refused(capsys, tmp_path / name)
    middle = len(bytes_) // 2
    (tmp_path / "flipped.zip").write_bytes(bytes_[:middle] + b"\0" * 64 + bytes_[middle + 64 :])
    assert "flipped.zip is damaged: " in refused(capsys, tmp_path / "flipped.zip")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    assert "arrays.npz is no model: it is a zip archive without" in refused(capsys, tmp_path / "arrays.npz")
    (tmp_path / "buffer.pkl").write_bytes(b"hello")
    assert "buffer.pkl is no replay buffer, or was cut short" in refused(
        capsys, whole, "--replay-buffer", tmp_path / "buffer.pkl"
    )
    assert "dormant_threshold=-1.0 is not allowed" in refused(capsys, whole, "--dormant-threshold", -1)
    assert "dormant_threshold=inf is not allowed" in refused(capsys, whole, "--dormant-threshold", "inf")
    assert "seed=-1 is not allowed: it must be a whole number >= 0" in refused(capsys, whole, "--seed", -1)
    assert "invalid choice" in refused(capsys, whole, "--algo", "ppo")


@pytest.mark.parametrize("form", [[], ["--markdown"], ["--json"]])
def test_the_command_prints_where_there_is_no_greek(form, tmp_path, monkeypatch):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    arguments = [str(tmp_path / "model.zip"), "--replay-buffer", str(tmp_path / "buffer.pkl"), *form]
    assert command.main(arguments) == 0
    sys.stdout.flush()
    assert b"actor" in written.getvalue()
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])


def test_the_command_refuses_models_of_other_algorithms(tmp_path, capsys):
    PPO("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "ppo")
    assert (
        "not a model of rlx2_td3, rlx2_sac, rlx2_ddpg, rlx2_tqc, rlx2_crossq, rlx2_dqn, rlx2_qrdqn, "
        "td3, sac, ddpg, tqc, crossq, dqn, qrdqn" in refused(capsys, tmp_path / "ppo.zip")
    )
    assert "cannot be loaded as SAC" in refused(capsys, tmp_path / "ppo.zip", "--algo", "sac")
