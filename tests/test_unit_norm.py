"""Units whose weights keep norm 1, in any module and with any optimizer."""

import pytest
import torch as th
from torch import nn

from sb3_rlx2.sparse import SparseLinear, TopologyEvolver, UnitNorm, sparse_layers, sparsify


def network():
    th.manual_seed(0)
    return nn.Sequential(
        sparsify(nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 40)), 0.8), nn.Linear(40, 3)
    )


def norms(layer):
    weight = layer.weight.detach()
    return weight.norm(dim=1)[(weight != 0).any(dim=1)]


def step(module, optimizer):
    optimizer.zero_grad()
    module(th.randn(64, 20)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, th.optim.AdamW, th.optim.SGD])
def test_sparse_and_dense_units_have_norm_1_after_each_step_and_evolution(optimizer_class):
    module = network()
    optimizer = optimizer_class(module.parameters(), lr=0.1, weight_decay=0.1)
    layers = [module[0][0], module[0][2], module[1]]
    norm = UnitNorm(layers[1:], optimizer)
    evolver = TopologyEvolver(sparse_layers(module), optimizer, "set", interval=2, progress=lambda _: 0.0)
    biases = module[1].bias.detach().clone()
    for _ in range(5):
        step(module, optimizer)
        for layer in norm.layers:
            th.testing.assert_close(norms(layer), th.ones(len(norms(layer))))
    assert evolver.counters["evolutions"] == 2
    assert not th.allclose(norms(layers[0]), th.ones(len(norms(layers[0]))), atol=1e-3)
    assert not th.equal(module[1].bias, biases)
    norm.close()
    for _ in range(2):  # the first one evolves
        step(module, optimizer)
    assert not th.allclose(norms(layers[2]), th.ones(3), atol=1e-4)


def test_units_without_a_norm_stay_as_they_are():
    mask = th.zeros(4, 3, dtype=th.bool)
    mask[[0, 1, 1, 3], [0, 0, 2, 1]] = True
    layer = SparseLinear(3, 4, 4, connections=mask)
    with th.no_grad():
        layer.values.copy_(th.tensor([5.0, 0.0, 0.0, 3e38]))
    UnitNorm([layer], th.optim.SGD(layer.parameters()))
    assert layer.values.tolist() == [1.0, 0.0, 0.0, pytest.approx(3e38)]


def test_what_cannot_be_kept_is_refused():
    module = network()
    optimizer = th.optim.Adam(module[0].parameters())
    with pytest.raises(ValueError, match=r"does not hold the weights of layers\[1\]"):
        UnitNorm([module[0][0], module[1]], optimizer)
    with pytest.raises(ValueError, match=r"layers\[0\] is a ReLU"):
        UnitNorm([nn.ReLU()], optimizer)
