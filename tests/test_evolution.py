"""Prune and grow against a plain reference on dense arrays."""

import copy
import math
import re
import warnings

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sb3_rlx2.sparse import (
    SET,
    RigL,
    SparseLinear,
    StaticTopology,
    TopologyEvolver,
    TopologyRule,
    relocate,
    resolve_rule,
    sparse_layers,
    sparsify,
)
from sb3_rlx2.sparse.recording import TopologyRecord
from sb3_rlx2.sparse.rules import next_connections
from sb3_rlx2.sparse.schedules import cosine_drop_fraction

OPTIMIZERS = [
    lambda p: th.optim.Adam(p, lr=1e-2),
    lambda p: th.optim.Adam(p, lr=1e-2, amsgrad=True),
    lambda p: th.optim.SGD(p, lr=1e-2, momentum=0.9),
    lambda p: th.optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
]


def dense_arrays(layer, optimizer, target):
    """Everything that belongs to the connections, as dense arrays."""
    rows_cols = np.nonzero(layer.mask.numpy())
    arrays = {}
    aligned = {"value": layer.values, "target": target.values}
    aligned |= {
        name: moment
        for name, moment in optimizer.state[layer.values].items()
        if th.is_tensor(moment) and moment.dim() > 0
    }
    for name, vector in aligned.items():
        arrays[name] = np.zeros((layer.out_features, layer.in_features), dtype=np.float32)
        arrays[name][rows_cols] = vector.detach().numpy()
    return arrays


def reference_step(mask, arrays, growth_score, fraction):
    """Prune and grow, written out for one layer on dense arrays."""
    present = [tuple(position) for position in np.argwhere(mask)]
    count = math.floor(fraction * len(present))
    by_magnitude = sorted(present, key=lambda position: abs(arrays["value"][position]))
    kept = set(by_magnitude[count:])
    absent = [tuple(position) for position in np.ndindex(*mask.shape) if tuple(position) not in kept]
    grown = sorted(absent, key=lambda position: -growth_score[position])[:count]
    new_mask = np.zeros_like(mask)
    for position in kept | set(grown):
        new_mask[position] = True
    # What was absent before starts at zero; what was dropped and came back never went
    return new_mask, {name: np.where(mask & new_mask, array, 0) for name, array in arrays.items()}


@given(
    st.integers(2, 9), st.integers(2, 9), st.data(), st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(OPTIMIZERS)
)
@settings(max_examples=60, deadline=None)
def test_a_rigl_step_equals_the_dense_reference(in_features, out_features, data, seed, fraction, make_optimizer):
    nnz = data.draw(st.integers(1, in_features * out_features - 1))
    th.manual_seed(seed)
    layer = SparseLinear(in_features, out_features, nnz)
    target = SparseLinear(in_features, out_features, nnz)
    target.load_state_dict(layer.state_dict())
    with th.no_grad():
        target.values.add_(0.1)
    optimizer = make_optimizer(layer.parameters())
    x = th.randn(16, in_features)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    optimizer.zero_grad()
    layer.request_dense_grad()
    layer(x).square().mean().backward()
    mask, arrays = layer.mask.numpy(), dense_arrays(layer, optimizer, target)
    expected_mask, expected = reference_step(mask, arrays, np.abs(layer.dense_grad.numpy()), fraction)

    moved = relocate(layer, next_connections(layer, RigL(), fraction).indices, mirrors=[target], optimizers=[optimizer])

    np.testing.assert_array_equal(layer.mask.numpy(), expected_mask)
    assert th.equal(target.indices, layer.indices)
    for name, array in dense_arrays(layer, optimizer, target).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert layer.nnz == nnz
    assert bool((layer.indices[1:] > layer.indices[:-1]).all())
    assert moved.dropped == moved.grown == int((mask & ~expected_mask).sum()) == int((~mask & expected_mask).sum())


@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 1000))
@settings(deadline=None)
def test_set_keeps_the_strongest_and_grows_among_the_absent(nnz, fraction, seed):
    th.manual_seed(seed)
    layer = SparseLinear(6, 5, nnz)
    count = math.floor(fraction * nnz)
    strongest = set(layer.indices[layer.values.detach().abs().argsort(descending=True)[: nnz - count]].tolist())
    new = next_connections(layer, SET(), fraction).indices
    assert len(set(new.tolist())) == nnz
    assert strongest <= set(new.tolist())


def test_set_grows_everywhere_with_equal_chance():
    th.manual_seed(0)
    layer = SparseLinear(10, 10, 20)
    counts = th.zeros(100)
    for _ in range(2000):
        counts[next_connections(layer, SET(), 0.5).indices] += 1
    kept = layer.indices[layer.values.detach().abs().argsort(descending=True)[:10]].long()
    grown = np.delete(counts.numpy(), kept.numpy())
    assert bool((counts[kept] == 2000).all())
    assert grown.mean() == pytest.approx(2000 * 10 / 90)
    assert grown.std() < 3 * math.sqrt(grown.mean())


def test_cosine_drop_fraction():
    assert cosine_drop_fraction(0.5, 0.0) == 0.5
    assert cosine_drop_fraction(0.5, 0.5) == pytest.approx(0.25)
    assert cosine_drop_fraction(0.5, 1.0) == pytest.approx(0.0)
    assert cosine_drop_fraction(0.5, 1.7) == pytest.approx(0.0)


def test_relocate_refuses_what_does_not_fit_and_changes_nothing():
    th.manual_seed(0)
    layer, stranger = SparseLinear(5, 5, 6), SparseLinear(5, 5, 6)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(ValueError, match="not sorted"):
        relocate(layer, th.tensor([1, 0, 2, 3, 4, 5]))
    with pytest.raises(ValueError, match="out of range"):
        relocate(layer, th.tensor([0, 1, 2, 3, 4, 25]))
    with pytest.raises(RuntimeError, match="mirrored layer"):
        relocate(layer, th.arange(6), mirrors=[stranger])
    for mirrors in ([layer], [copy.deepcopy(layer)] * 2):
        with pytest.raises(ValueError, match="mirrors: a layer is there twice"):
            relocate(layer, th.arange(6), mirrors=mirrors)
    optimizer = th.optim.SGD(layer.parameters())
    optimizer.state[layer.values]["factors"] = th.zeros(3, 2)
    with pytest.raises(RuntimeError, match="'factors'"):
        relocate(layer, th.arange(6), optimizers=[optimizer])
    assert all(th.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_relocate_bumps_the_version_and_moves_the_gradient():
    layer = SparseLinear(4, 1, 2, connections=th.tensor([[True, False, True, False]]))
    layer(th.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    version = layer.topology_version
    relocate(layer, th.tensor([1, 2]))
    assert layer.topology_version > version
    assert layer.values.grad.tolist() == [0.0, 3.0]
    assert layer.values[0].item() == 0.0


def test_moments_shared_between_two_optimizers_are_not_corrupted():
    th.manual_seed(0)
    first, second = SparseLinear(5, 5, 8), SparseLinear(5, 5, 8)
    second.load_state_dict(first.state_dict())
    optimizers = [th.optim.Adam(layer.parameters()) for layer in (first, second)]
    first(th.ones(1, 5)).sum().backward()
    optimizers[0].step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    before = optimizers[1].state[second.values]["exp_avg"].clone()
    relocate(first, th.arange(8), optimizers=[optimizers[0]])
    assert th.equal(optimizers[1].state[second.values]["exp_avg"], before)


class TestAverages:
    """Averages and target networks of a network whose topology evolves."""

    def start(self, multi_avg_fn=None, **kwargs):
        th.manual_seed(0)
        network = sparsify(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)), 0.7)
        average = AveragedModel(network, multi_avg_fn=multi_avg_fn, **kwargs)
        return network, average, th.optim.Adam(network.parameters(), lr=1e-2)

    def update(self, network, optimizer):
        optimizer.zero_grad()
        network(th.randn(32, 6)).square().mean().backward()
        optimizer.step()

    @pytest.mark.parametrize("rule", ["rigl", "set"])
    def test_an_average_of_mirrors_is_that_of_each_connection(self, rule):
        decay = 0.9
        network, average, optimizer = self.start(get_ema_multi_avg_fn(decay))
        layers, averages = sparse_layers(network), sparse_layers(average.module)
        mirrors = {name: [layer] for name, layer in averages.items()}
        evolver = TopologyEvolver(layers, optimizer, rule, interval=3, progress=lambda n: n / 50, mirrors=mirrors)
        average.update_parameters(network)
        expected = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        for _ in range(20):
            self.update(network, optimizer)
            average.update_parameters(network)
            for name, layer in layers.items():
                # A connection that is dropped loses its average, a new one starts at zero
                before = expected[name] * layer.mask
                expected[name] = decay * before + (1 - decay) * layer.weight.detach()
                assert th.equal(averages[name].indices, layer.indices)
                th.testing.assert_close(averages[name].weight.detach(), expected[name])
        assert evolver.counters["evolutions"] == 6

    def test_an_average_that_is_no_mirror_is_warned_of_at_the_first_evolution(self):
        network, average, optimizer = self.start()
        TopologyEvolver(sparse_layers(network), optimizer, "set", interval=2, progress=lambda n: n / 50)
        self.update(network, optimizer)
        average.update_parameters(network)
        with pytest.warns(UserWarning, match=r"mix values of different connections.*mirrors="):
            self.update(network, optimizer)

    def test_a_target_network_that_is_no_mirror_is_warned_of(self):
        network, _, optimizer = self.start()
        target = copy.deepcopy(network).requires_grad_(False)
        TopologyEvolver(sparse_layers(network), optimizer, "set", interval=1, progress=lambda n: n / 50)
        with th.no_grad():
            for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        with pytest.warns(UserWarning, match="mix values of different connections"):
            self.update(network, optimizer)

    @pytest.mark.filterwarnings("error")
    def test_copies_that_nobody_averages_are_no_reason_to_warn(self):
        network, average, optimizer = self.start()  # not yet averaged
        snapshot, member, loaded = (copy.deepcopy(network) for _ in range(3))
        loaded.load_state_dict(network.state_dict())
        other = th.optim.Adam(member.parameters())
        evolver = TopologyEvolver(sparse_layers(network), optimizer, "set", interval=1, progress=lambda n: n / 10)
        for _ in range(12):
            self.update(member, other)
            self.update(network, optimizer)
        assert evolver.counters["evolutions"] == 9
        # Averaging that starts when evolution is over
        for _ in range(2):
            average.update_parameters(network)
        th.testing.assert_close(average.module[0].weight, network[0].weight)
        assert not th.equal(snapshot[0].indices, network[0].indices)

    @pytest.mark.parametrize("rows", [2, 256])
    def test_averaged_indices_are_an_error_when_they_are_used(self, rows):
        network = sparsify(nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 1)), 0.9)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        for _ in range(2):
            average.update_parameters(network)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"indices of a SparseLinear were overwritten.*use_buffers=False"):
                average(th.randn(rows, 200))


class TestEvolver:
    def start(self, rule, interval=3, end=100, **kwargs):
        th.manual_seed(0)
        network = sparsify(
            nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)), 0.7
        )
        optimizer = th.optim.Adam(network.parameters(), lr=1e-2)
        seen = []
        evolver = TopologyEvolver(
            sparse_layers(network), optimizer, rule, interval=interval, progress=lambda updates: updates / end,
            on_evolution=seen.append, **kwargs,
        )  # fmt: skip
        return network, optimizer, evolver, seen

    def update(self, network, optimizer):
        optimizer.zero_grad()
        network(th.randn(32, 6)).square().mean().backward()
        optimizer.step()

    def test_every_interval_updates_until_the_end_and_the_step_is_skipped(self):
        network, optimizer, evolver, seen = self.start(RigL(), end=10)
        for update in range(1, 15):
            old = {name: layer.weight.clone() for name, layer in sparse_layers(network).items()}
            bias = network[0].bias.detach().clone()
            steps = [int(state["step"]) for state in optimizer.state.values()]
            self.update(network, optimizer)
            evolved = update in (3, 6, 9)
            assert th.equal(bias, network[0].bias) == evolved
            if evolved:
                assert [int(state["step"]) for state in optimizer.state.values()] == steps
                for name, layer in sparse_layers(network).items():
                    # Values of connections that stay are untouched, new ones are zero
                    assert th.equal(layer.weight * (layer.weight != 0), th.where(layer.mask, old[name], 0.0))
        assert [evolution.update for evolution in seen] == [3, 6, 9]
        assert evolver.counters == {"updates": 14, "evolutions": 3}
        fractions = [evolution.drop_fraction for evolution in seen]
        assert fractions == [cosine_drop_fraction(0.5, update / 10) for update in (3, 6, 9)]
        assert all(0 < evolution.dropped == evolution.grown for evolution in seen[:2])

    def test_dense_gradients_are_collected_at_evolution_steps_only(self):
        network, optimizer, _, _ = self.start(RigL(), interval=4)
        for update in range(1, 9):
            optimizer.zero_grad()
            network(th.randn(32, 6)).square().mean().backward()
            collected = [layer.dense_grad is not None for layer in sparse_layers(network).values()]
            assert all(collected) if update % 4 == 0 else not any(collected)
            optimizer.step()

    def test_counters_go_on_where_they_stood(self):
        counters = {"updates": 2, "evolutions": 7}
        network, optimizer, _, seen = self.start(RigL(), counters=counters)
        self.update(network, optimizer)
        assert [evolution.update for evolution in seen] == [3]
        assert counters == {"updates": 3, "evolutions": 8}

    def test_static_topology_never_moves(self):
        network, optimizer, _, seen = self.start(StaticTopology())
        before = {name: layer.indices.clone() for name, layer in sparse_layers(network).items()}
        for _ in range(7):
            self.update(network, optimizer)
        assert not seen
        assert all(th.equal(layer.indices, before[name]) for name, layer in sparse_layers(network).items())

    def test_a_new_rule_overrides_one_score(self):
        class FirstFree(SET):
            def growth_score(self, layer):
                return -th.arange(layer.in_features * layer.out_features, dtype=th.float32)

        network, optimizer, _, _ = self.start(FirstFree(), interval=1)
        layer = network[0]
        strongest = layer.indices[layer.values.detach().abs().argsort(descending=True)]
        count = math.floor(cosine_drop_fraction(0.5, 0.01) * layer.nnz)
        kept = set(strongest[: layer.nnz - count].tolist())
        free = [position for position in range(96) if position not in kept][:count]
        self.update(network, optimizer)
        assert layer.indices.tolist() == sorted(kept | set(free))

    def test_where_the_growth_score_is_minus_infinity_nothing_grows(self):
        class OnlyTheFirstRows(SET):
            def growth_score(self, layer):
                score = super().growth_score(layer)
                score[2:] = -th.inf
                return score

        network, optimizer, _, _ = self.start(OnlyTheFirstRows(), interval=1, drop_fraction=1.0)
        layer = network[2]
        before, strength = layer.indices.clone(), layer.values.detach().abs().clone()
        self.update(network, optimizer)
        new = [position for position in layer.indices.tolist() if position not in before.tolist()]
        assert max(new) < 2 * 16
        assert layer.mask[:2].all()
        gone = ~th.isin(before, layer.indices)
        spared = ~gone & (before >= 2 * 16)
        # Fewer went than were to go, and these were the weakest
        assert strength[gone & (before >= 2 * 16)].max() < strength[spared].min()

    def test_a_network_without_sparse_layers_is_left_alone(self):
        network = nn.Sequential(nn.Linear(6, 1))
        optimizer = th.optim.SGD(network.parameters(), lr=0.1)
        evolver = TopologyEvolver(sparse_layers(network), optimizer, RigL(), interval=1, progress=lambda updates: 0.0)
        before = network[0].weight.detach().clone()
        self.update(network, optimizer)
        assert not th.equal(network[0].weight, before)
        assert evolver.counters == {"updates": 1, "evolutions": 0}

    def test_numpy_numbers_are_numbers(self):
        _, _, evolver, _ = self.start(RigL(), interval=np.int64(4))
        assert evolver.interval == 4

    def test_layers_without_a_gradient_are_left_alone(self):
        network, optimizer, _, seen = self.start(SET(), interval=1)
        before = network[2].indices.clone()
        optimizer.zero_grad()
        network[0](th.randn(4, 6)).sum().backward()
        optimizer.step()
        assert set(seen[0].layers) == {"0"}
        assert th.equal(network[2].indices, before)

    def test_closed_evolver_does_nothing(self):
        network, optimizer, evolver, seen = self.start(SET(), interval=1)
        evolver.close()
        self.update(network, optimizer)
        assert not seen

    def test_layers_with_too_few_connections_to_evolve_are_named(self):
        network, optimizer, _, _ = self.start(RigL(), drop_fraction=0.02)
        few = {name: layer.nnz for name, layer in sparse_layers(network).items() if math.floor(0.02 * layer.nnz) == 0}
        assert 0 < len(few) < len(sparse_layers(network))
        named = ", ".join(rf"'{name}' \({nnz}\)" for name, nnz in few.items())
        with pytest.warns(UserWarning, match=rf"never evolve, since .* is 0: {named} with drop_fraction=0.02$"):
            self.update(network, optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.update(network, optimizer)
            for rule, fraction in ((StaticTopology(), 0.02), (RigL(), 0.2)):
                network, optimizer, _, _ = self.start(rule, drop_fraction=fraction)
                self.update(network, optimizer)

    def test_nan_is_an_error_that_names_layer_and_update(self):
        network, optimizer, _, _ = self.start(RigL(), interval=1)
        optimizer.zero_grad()
        (network(th.randn(4, 6)).mean() * float("nan")).backward()
        with pytest.raises(ValueError, match="layer '0', update 1: the growth score"):
            optimizer.step()

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("interval", 0), ("interval", 2.5), ("interval", True), ("interval", "3"), ("drop_fraction", 0.0),
            ("drop_fraction", 1.5), ("drop_fraction", True), ("drop_fraction", "half"), ("drop_fraction", math.nan),
            ("progress", 0.5), ("on_evolution", []), ("rule", "snip"), ("rule", None), ("rule", RigL),
            ("counters", {"updates": 3}), ("counters", 0),
        ],
    )  # fmt: skip
    def test_bad_arguments(self, argument, value):
        network = sparsify(nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 1)), 0.5)
        optimizer = th.optim.SGD(network.parameters())
        arguments = {"rule": "set", "progress": lambda updates: 0.0, argument: value}
        with pytest.raises(ValueError, match=re.escape(f"{argument}={value!r}")) as error:
            TopologyEvolver(sparse_layers(network), optimizer, **arguments)
        assert "\n" not in str(error.value)
        assert not optimizer._optimizer_step_pre_hooks

    def test_layers_optimizer_counters_and_mirrors_of_the_wrong_kind(self):
        network = sparsify(nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 1)), 0.5)
        optimizer, layers = th.optim.SGD(network.parameters()), sparse_layers(network)
        layer, twin, other = layers["0"], copy.deepcopy(layers["0"]), SparseLinear(6, 16, 5)
        scheduler = th.optim.lr_scheduler.ConstantLR(optimizer)
        for arguments, message in (
            ({"layers": network}, "layers is a Sequential: it must be a mapping of names to SparseLinear"),
            ({"layers": [layer]}, "layers is a list: it must be a mapping"),
            ({"layers": dict(network.named_modules())}, "layers[''] is a Sequential, not a SparseLinear"),
            ({"optimizer": scheduler}, "optimizer is a ConstantLR, not a torch.optim.Optimizer"),
            ({"optimizer": network.parameters()}, "optimizer is a generator, not"),
            ({"counters": {"updates": -1, "evolutions": 0}}, "counters['updates']=-1 is not allowed"),
            ({"mirrors": [twin]}, "mirrors is a list: it must be a mapping of names in `layers`"),
            ({"mirrors": {"0": twin}}, "mirrors['0'] is SparseLinear("),
            ({"mirrors": {"0": [nn.Linear(6, 16)]}}, "mirrors['0'] is [Linear("),
            ({"mirrors": {"target.0": [twin]}}, "mirrors: 'target.0' is none of the layers ['0'"),
            ({"mirrors": {"0": [layer]}}, "a layer is there twice"),
            ({"mirrors": {"0": [twin, twin]}}, "a layer is there twice"),
            ({"layers": {"0": layer, "again": layer}}, "a layer is there twice"),
            (
                {"mirrors": {"0": [other]}},
                "layer '0' and its mirror (target network, average) have different connections",
            ),
        ):
            arguments = {"layers": layers, "optimizer": optimizer, "rule": "set", "progress": math.cos, **arguments}
            with pytest.raises(ValueError, match=re.escape(message)):
                TopologyEvolver(**arguments)
        assert not optimizer._optimizer_step_pre_hooks

    def test_an_optimizer_made_before_sparsify_is_an_error(self):
        network = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 1))
        optimizer = th.optim.SGD(network.parameters())
        layers = sparse_layers(sparsify(network, 0.5))
        with pytest.raises(
            ValueError, match="optimizer does not hold the values of layer '0': make the optimizer after"
        ):
            TopologyEvolver(layers, optimizer, "set", progress=math.cos)
        layers["0"].requires_grad_(False)  # what is frozen belongs to no optimizer
        TopologyEvolver({"0": layers["0"]}, optimizer, "set", progress=math.cos)

    def test_a_rule_may_be_given_by_name(self):
        _, _, evolver, _ = self.start("rigl")
        assert isinstance(evolver.rule, RigL)
        layer = SparseLinear(6, 5, 8)
        th.manual_seed(0)
        by_name = next_connections(layer, "set", 0.5).indices
        th.manual_seed(0)
        assert th.equal(by_name, next_connections(layer, SET(), 0.5).indices)


def test_resolve_rule():
    assert isinstance(resolve_rule("rigl"), RigL)
    rule = TopologyRule()
    assert resolve_rule(rule) is rule
    for unknown in ("snip", None, RigL):
        with pytest.raises(ValueError, match=r"is unknown: allowed are \['dense', 'rigl', 'set', 'static'\]"):
            resolve_rule(unknown)


@pytest.mark.parametrize("fraction", [-0.1, 1.2, math.nan, "0.5"])
def test_a_drop_fraction_out_of_range_is_refused(fraction):
    layer = SparseLinear(10, 10, 30)
    with pytest.raises(ValueError, match=r"drop_fraction=.* is not allowed: it must be a number in 0 <= drop_fraction"):
        next_connections(layer, "set", fraction)


@pytest.mark.parametrize(
    ("name", "score", "found"),
    [
        ("drop_score", lambda layer: layer.values[:10], r"\(10,\): it must be a tensor of shape \(30,\)"),
        ("drop_score", lambda layer: layer.weight, r"\(12, 10\): it must be a tensor of shape \(30,\)"),
        ("growth_score", lambda layer: layer.weight.T, r"\(10, 12\): it must be a tensor of shape \(12, 10\)"),
        ("growth_score", lambda layer: layer.values, r"\(30,\): it must be a tensor of shape \(12, 10\)"),
        ("growth_score", lambda layer: None, r"NoneType: it must be a tensor of shape \(12, 10\)"),
    ],
)
def test_scores_of_another_shape_are_refused(name, score, found):
    rule = type("Mine", (SET,), {name: lambda self, layer: score(layer)})()
    with pytest.raises(ValueError, match=f"Mine.{name} is {found}"):
        next_connections(SparseLinear(10, 12, 30), rule, 0.5)


@pytest.mark.parametrize("dtype", [th.bool, th.int64])
def test_scores_may_be_whole_numbers(dtype):
    layer = SparseLinear(10, 12, 30)

    class Last(SET):
        def growth_score(self, layer):
            return (th.arange(120).view(12, 10) >= 60).to(dtype)

    exchange = next_connections(layer, Last(), 0.5)
    assert len(exchange.indices) == 30
    assert (exchange.grown >= 60).all()


def test_an_optimizer_has_one_evolver():
    network = sparsify(nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 10)), 0.5)
    optimizer, layers = th.optim.Adam(network.parameters()), sparse_layers(network)
    first = TopologyEvolver({"0": layers["0"]}, optimizer, "rigl", progress=lambda update: 0.0)
    with pytest.raises(ValueError, match=r"optimizer has a TopologyEvolver already, .*: close\(\) that one"):
        TopologyEvolver({"1": layers["1"]}, optimizer, "set", progress=lambda update: 0.0)
    first.close()
    TopologyEvolver({"1": layers["1"]}, optimizer, "set", progress=lambda update: 0.0)


def test_a_closure_which_would_come_too_late_is_refused():
    network = sparsify(nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 10)), 0.5)
    optimizer = th.optim.Adam(network.parameters())
    TopologyEvolver(sparse_layers(network), optimizer, "rigl", interval=2, progress=lambda update: 0.0)
    for arguments, kwargs in (((lambda: 0.0,), {}), ((), {"closure": lambda: 0.0})):
        with pytest.raises(ValueError, match=r"optimizer.step\(closure\) is not allowed while a topology evolves"):
            optimizer.step(*arguments, **kwargs)


def test_an_empty_record_has_arrays():
    record = TopologyRecord({"a": (3, 4)})
    arrays = record.to_arrays()
    assert arrays["layers/a"].shape == (0, 2)
    assert len(TopologyRecord.from_arrays({"a": (3, 4)}, arrays)) == 0
