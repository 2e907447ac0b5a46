"""Every output depends on some input: at the start, and after each evolution step."""

import itertools
import math

import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, each_engine, in_turn, one_output, quick, targets_follow
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_rlx2.common.stages import network_stages
from sb3_rlx2.sparse import SparseLinear, TopologyEvolver, paths, sparse_layers, sparsify
from sb3_rlx2.sparse.layers import choose_connections
from sb3_rlx2.sparse.paths import cheapest_additions
from sb3_rlx2.sparse.reachability import connect_outputs, keep_paths, stages_of, unreachable_outputs
from sb3_rlx2.sparse.rules import Exchange
from sb3_rlx2.sparse.units import connection_mask

# Inputs, hidden units and outputs so few that all sets of moves can be tried
WIDTHS = st.sampled_from([(2, 3), (2, 3, 3), (2, 4, 4), (2, 3, 3, 2), (2, 3, 3, 3), (1, 3, 2, 3, 2)])


def has_path(masks):
    """Which outputs have a path: how many there are is a product of matrices."""
    ways = np.ones(masks[0].shape[1])
    for mask in masks:
        ways = mask @ ways
    return ways > 0


def random_masks(data, widths, rng, has_room):
    """Random connections, most of them of few units, so that there are dead ends.

    With ``has_room`` each layer has at least as many as there are outputs, if it can.
    """
    masks = []
    for number, (inputs, units) in enumerate(itertools.pairwise(widths), 1):
        least = widths[-1] if has_room or number == len(widths) - 1 else 1
        count = data.draw(st.integers(min(least, inputs * units), min(least + 1, inputs * units)))
        chances = np.outer(rng.random(units) ** 6, rng.random(inputs) ** 6).reshape(-1) + 1e-3
        chosen = rng.choice(inputs * units, count, replace=False, p=chances / chances.sum())
        masks.append(np.isin(np.arange(inputs * units), chosen).reshape(units, inputs))
    return masks


def fewest_additions(masks, candidates, must):
    """How many of the candidates must be added at least so that some outputs have a path: all sets are tried."""
    positions = [(level, *at) for level, mask in enumerate(candidates) for at in np.argwhere(mask)]
    for count in range(len(positions) + 1):
        for chosen in itertools.combinations(positions, count):
            extended = [mask.copy() for mask in masks]
            for level, unit, source in chosen:
                extended[level][unit, source] = True
            if has_path(extended)[must].all():
                return count
    raise AssertionError


def exchange_of(mask, gone, new):
    """The exchange that drops some connections of a layer and grows others."""
    flat = mask.flatten()
    flat[gone], flat[new] = False, True
    return Exchange(*map(th.from_numpy, (np.flatnonzero(flat), gone, new)))


def masks_after(exchanges, changed):
    """What layers have after their exchanges, but for those that ``keep_paths`` has changed."""
    masks = []
    for layer, exchange in exchanges.items():
        flat = np.zeros(layer.in_features * layer.out_features, dtype=bool)
        flat[changed.get(layer, exchange.indices).numpy()] = True
        masks.append(flat.reshape(layer.out_features, layer.in_features))
    return masks


def moves(old, new):
    return sum(int((after & ~before).sum()) for before, after in zip(old, new, strict=True))


@given(WIDTHS, st.data(), st.integers(0, 10**6), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_fewest_connections_move_that_connect_every_output(widths, data, seed, has_room):
    rng = np.random.default_rng(seed)
    masks = random_masks(data, widths, rng, has_room)
    weights = [rng.normal(size=mask.shape) for mask in masks]
    connected = connect_outputs([[mask] for mask in masks], [[weight] for weight in weights], [[True]] * len(masks))
    new = [mask for (mask,) in connected]
    assert has_path(new).all()
    assert [mask.sum() for mask in new] == [mask.sum() for mask in masks]
    if has_room:
        assert moves(masks, new) == fewest_additions(masks, [~mask for mask in masks], slice(None))


@given(WIDTHS, st.data(), st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_the_fewest_dropped_connections_stay_that_keep_a_path_to_every_output(widths, data, seed):
    rng = np.random.default_rng(seed)
    masks = random_masks(data, widths, rng, has_room=False)
    layers = [
        SparseLinear(mask.shape[1], mask.shape[0], int(mask.sum()), connections=th.from_numpy(mask)) for mask in masks
    ]
    dropped, grown, exchanges = [], [], {}
    for layer, mask in zip(layers, masks, strict=True):
        most = min(mask.sum(), (~mask).sum())
        count = data.draw(st.integers(0, most))
        gone, new = rng.permutation(np.flatnonzero(mask))[:count], rng.permutation(np.flatnonzero(~mask))[:count]
        exchanges[layer] = exchange_of(mask, gone, new)
        dropped.append(np.isin(np.arange(mask.size), gone).reshape(mask.shape))
        grown.append(np.isin(np.arange(mask.size), new).reshape(mask.shape))
    planned = [(mask & ~gone) | new for mask, gone, new in zip(masks, dropped, grown, strict=True)]

    changed = keep_paths([[layer] for layer in layers], exchanges)

    after = masks_after(exchanges, changed)
    assert [mask.sum() for mask in after] == [mask.sum() for mask in masks]
    must = has_path(masks)
    assert has_path(after)[must].all()
    # Nothing but dropped connections in place of grown ones
    for mask, plan, gone, new in zip(after, planned, dropped, grown, strict=True):
        assert not (mask & ~plan & ~gone).any()
        assert not (plan & ~mask & ~new).any()

    if all(new.sum() in (0, *range(widths[-1], new.size)) for new in grown):
        assert moves(planned, after) == fewest_additions(planned, dropped, must)


@pytest.mark.parametrize(
    ("widths", "seed"),
    [
        *itertools.product([(4, 16, 16, 48, 24), (4, 24, 24, 120)], range(30)),
        # A target needs what has given way to others
        *itertools.product([(4, 24, 24, 120)], [146, 1224]),
    ],
)
def test_layers_that_lose_connections_keep_every_path_that_there_is_room_for(widths, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    th.manual_seed(seed)
    layers = [SparseLinear(n, m, round(0.3 * n * m)) for n, m in itertools.pairwise(widths)]
    before = [connection_mask(layer).numpy() for layer in layers]
    exchanges = {}
    for layer, mask in zip(layers, before, strict=True):
        # Of the connections that stay, as many as there are units, some are new
        new_count = rng.integers(layer.out_features)
        gone = rng.permutation(np.flatnonzero(mask))[: layer.nnz - layer.out_features + new_count]
        new = rng.permutation(np.flatnonzero(~mask))[:new_count]
        exchanges[layer] = exchange_of(mask, gone, new)
    searches = []

    def counted(costs, reached, targets):
        searches.append(tuple(targets))
        assert searches.count(tuple(targets)) == 1, "each search connects the outputs that it is made for"
        return cheapest_additions(costs, reached, targets)

    monkeypatch.setattr(paths, "cheapest_additions", counted)
    changed = keep_paths([[layer] for layer in layers], exchanges)
    assert len(searches) > 0
    after = masks_after(exchanges, changed)
    assert [mask.sum() for mask in after] == [len(exchange.indices) for exchange in exchanges.values()]
    assert has_path(after)[has_path(before)].all()


def sequential(*widths):
    return nn.Sequential(*[layer for sizes in itertools.pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())])


def count_unreachable(*chains):
    return sum(int(outputs.sum()) for stages in chains for outputs in unreachable_outputs(stages))


def test_unreachable_outputs_by_hand():
    first = th.tensor([[True, False], [False, False]])
    network = nn.Sequential(
        SparseLinear(2, 2, 1, connections=first),
        nn.ReLU(),
        SparseLinear(2, 3, 3, connections=th.tensor([[True, False], [False, True], [False, True]])),
    )
    stages = stages_of(network)
    assert unreachable_outputs(stages)[0].tolist() == [False, True, True]
    two_heads = [stages[0], [stages[1][0], nn.Linear(2, 1)]]
    assert [outputs.tolist() for outputs in unreachable_outputs(two_heads)] == [[False, True, True], [False]]


@pytest.mark.parametrize("connections", ["magnitude", "random"])
@pytest.mark.parametrize("weight_scale", ["dense", "fan_in"])
def test_connections_move_within_the_dense_initialisation(connections, weight_scale):
    moved = 0
    for seed in range(8):
        th.manual_seed(seed)
        network = sequential(3, 32, 32, 12)
        dense = [layer.weight.detach().clone() for layer in network if isinstance(layer, nn.Linear)]
        state = th.get_rng_state()
        sparsify(network, 0.97, connections=connections, weight_scale=weight_scale)
        after = th.get_rng_state()
        th.set_rng_state(state)
        for layer, weight in zip(sparse_layers(network).values(), dense, strict=True):
            present = choose_connections(weight.reshape(-1), layer.nnz, tuple(weight.shape), connections)
            moved += int((~th.isin(layer.indices, present)).sum())
            expected = weight * layer.mask
            if weight_scale == "fan_in":
                expected = (
                    expected
                    * th.sqrt(3 / layer.mask.sum(dim=1, keepdim=True).clamp(min=1))
                    * math.sqrt(weight.shape[1] / 3)
                )
            th.testing.assert_close(layer.weight.clone(), expected)
        assert th.equal(after, th.get_rng_state())  # no further draws
        assert count_unreachable(stages_of(network)) == 0
    assert moved > 8


def test_more_outputs_than_are_connected_at_a_time():
    th.manual_seed(0)
    network = sparsify(sequential(4, 60, 60, 40), 0.975, connections="random")
    assert count_unreachable(stages_of(network)) == 0
    assert all(layer.nnz == 60 * 60 or layer.nnz < 150 for layer in sparse_layers(network).values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("env", "actor", "critic"), [("Hopper-v5", 0.98, 0.95), ("Walker2d-v5", 0.97, 0.95)])
def test_nothing_moves_in_networks_of_the_papers_sizes(algorithm, env, actor, critic, monkeypatch):
    monkeypatch.setattr("sb3_rlx2.sparse.paths.reconnect", None)
    for seed in range(5):
        model = algorithm("MlpPolicy", env, seed=seed, buffer_size=1, actor_sparsity=actor, critic_sparsity=critic)
        assert count_unreachable(*network_stages(model.actor), *network_stages(model.critic)) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("connections", ["magnitude", "random"])
@pytest.mark.parametrize("topology", ["rigl", "static"])
def test_small_models_are_whole_at_the_start(algorithm, connections, topology):
    policy_kwargs = one_output(algorithm).get("policy_kwargs", {}) | {"net_arch": [32, 32], "connections": connections}
    for seed in range(4):
        model = algorithm(
            "MlpPolicy", "Pendulum-v1", actor_sparsity=0.98, critic_sparsity=0.98, topology=topology, device="cpu",
            buffer_size=1, seed=seed, **{**one_output(algorithm), "policy_kwargs": policy_kwargs},
        )  # fmt: skip
        for network in (model.actor, model.critic):
            chains = network_stages(network)
            assert all(chains)
            assert count_unreachable(*chains) == 0
        assert targets_follow(model)


def test_stages_are_known_for_sequential_networks_only():
    linear, last = nn.Linear(3, 4), nn.Linear(4, 1)
    assert stages_of(nn.Sequential(nn.Sequential(linear, nn.LayerNorm(4)), nn.ReLU(), last)) == [[linear], [last]]
    assert stages_of(nn.Sequential(linear), last) == [[linear], [last]]
    square = nn.Linear(4, 4)
    unknown = [
        nn.Sequential(linear, nn.Linear(5, 1)),  # widths do not follow
        nn.Sequential(linear, square, nn.ReLU(), square, last),
        nn.Sequential(linear, nn.ModuleDict({"left": nn.Linear(4, 4)}), last),
        nn.ModuleList([linear, last]),
        type("Residual", (nn.Sequential,), {"forward": lambda self, x: x + self[0](x)})(linear, last),
    ]
    assert not any(map(stages_of, unknown))


def test_networks_of_unknown_order_keep_the_connections_that_were_drawn():
    th.manual_seed(0)
    network = nn.ModuleList([nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 1)])
    dense = [layer.weight.detach().clone() for layer in network]
    sparsify(network, 0.98)
    for layer, weight in zip(network, dense, strict=True):
        largest = weight.abs().reshape(-1).argsort(descending=True, stable=True)[: layer.nnz]
        assert layer.indices.tolist() == largest.sort().values.tolist()
    assert count_unreachable([[layer] for layer in network]) == 1


def test_given_stages_connect_the_outputs_of_any_module():
    for seed in range(8):
        th.manual_seed(seed)
        network = nn.ModuleList([nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 2), nn.Linear(32, 1)])
        sparsify(network, 0.98, stages=[[network[0]], [network[1]], [network[2], network[3]]])
        assert count_unreachable([[network[0]], [network[1]], [network[2], network[3]]]) == 0


def test_layers_that_stay_dense_or_were_sparse_before_are_left_alone():
    th.manual_seed(0)
    first = SparseLinear(3, 32, 1)
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2), nn.Linear(2, 9))
    indices, last = first.indices.clone(), network[5]
    sparsify(network, 0.99, exclude=[last])
    assert th.equal(network[0].indices, indices)
    assert network[5] is last
    assert count_unreachable(stages_of(network)) == 0


def test_too_few_connections_for_the_outputs():
    with pytest.raises(ValueError, match=r"sparsity=0.99 leaves layer '2' 4 connections for 20 outputs.*`exclude`"):
        sparsify(nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20)), 0.99, allocation="uniform")


def test_stages_that_do_not_fit():
    network = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)])
    first, second, last = network
    for stages, problem in (
        ([[first], [last, second], [last]], "a layer occurs twice"),
        ([[first], [last], [second]], "the layers of stage 2 read 4 inputs where the one before has 1 outputs"),
        ([[first, last]], "the layers of stage 0 read 3, 4 inputs where all must be equal"),
        ([[first], []], "a stage has no layer"),
        ([[nn.Linear(3, 1)]], "a layer is none of the module's"),
    ):
        with pytest.raises(ValueError, match=f"stages: {problem}"):
            sparsify(network, 0.5, stages=stages)


def evolve(network, chains, updates=20):
    """Unreachable outputs after each update, in all of which as many connections as possible are dropped."""
    optimizer = th.optim.Adam(network.parameters())
    TopologyEvolver(
        sparse_layers(network), optimizer, "set", interval=1, drop_fraction=1.0, progress=lambda _: 0.0, chains=chains
    )
    found = []
    for _ in range(updates):
        optimizer.zero_grad()
        network(th.randn(8, network[0].in_features)).square().mean().backward()
        optimizer.step()
        found.append(count_unreachable(stages_of(network)))
    return found


def test_evolution_removes_no_last_path():
    for seed in range(2):
        th.manual_seed(seed)
        network = sparsify(sequential(3, 32, 32, 12), 0.97)
        counts = {name: layer.nnz for name, layer in sparse_layers(network).items()}
        assert not any(evolve(network, [stages_of(network)]))
        assert counts == {name: layer.nnz for name, layer in sparse_layers(network).items()}
        assert any(evolve(network, []))


def test_an_output_that_has_no_path_does_not_keep_a_network_from_evolving():
    th.manual_seed(0)
    network = sparsify(sequential(3, 32, 32, 12), 0.97)
    evolve(network, [])
    lost = [count_unreachable(stages_of(network)), *evolve(network, [stages_of(network)])]
    assert lost[0] > 0
    assert lost == sorted(lost, reverse=True)


@pytest.mark.parametrize(("algorithm", "engine", "topology"), in_turn(each_engine(ALGORITHMS), ["set", "rigl", "rigl"]))
def test_models_keep_a_path_to_every_output(algorithm, engine, topology):
    class Watch(BaseCallback):
        def _on_step(self):
            chains = [*network_stages(self.model.actor), *network_stages(self.model.critic)]
            assert count_unreachable(*chains) == 0
            return True

    model = algorithm(
        "MlpPolicy", "Pendulum-v1", engine=engine, topology=topology,
        **quick(
            topology_interval=1, drop_fraction=1.0, actor_sparsity=0.97, critic_sparsity=0.97, **one_output(algorithm)
        ),
    )  # fmt: skip
    model.learn(120, callback=Watch())
    assert model.topology_counters["actor"]["evolutions"] > 20
    assert targets_follow(model)


@pytest.mark.parametrize(
    ("chains", "problem"),
    [
        (None, "is a NoneType: it must be a list"),
        ([[nn.Linear(1, 1)]], "it must be a list of stages, each a list of layers"),
        ([[[nn.ReLU()]]], "a ReLU is no linear layer"),
        ([[[nn.Linear(1, 2)], [nn.Linear(1, 1)]]], "the layers of stage 1 read 1 inputs where the one before has 2"),
    ],
)
def test_chains_that_do_not_fit(chains, problem):
    network = sparsify(sequential(3, 8, 1), 0.5)
    with pytest.raises(ValueError, match=f"chains.*{problem}"):
        TopologyEvolver(
            sparse_layers(network), th.optim.Adam(network.parameters()), "set", progress=lambda _: 0.0, chains=chains
        )
