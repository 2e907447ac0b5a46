"""SparseLinear against a dense layer multiplied by a mask."""

import copy
import io
import operator
import pickle

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from sb3_rlx2.kernels.structure import MOST_FEATURES
from sb3_rlx2.sparse import SparseLinear, dense_state_dict, densify, density, sparse_layers, sparsify, summarize


@st.composite
def layers(draw):
    in_features, out_features = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    nnz = draw(st.integers(1, in_features * out_features))
    th.manual_seed(draw(st.integers(0, 10**6)))
    return SparseLinear(
        in_features,
        out_features,
        nnz,
        bias=draw(st.booleans()),
        connections=draw(st.sampled_from(["magnitude", "random"])),
        weight_scale=draw(st.sampled_from(["dense", "fan_in"])),
    )


@given(layers())
def test_indices_are_sorted_unique_in_range_and_compact(layer):
    indices = layer.indices
    assert indices.dtype == th.int32
    assert layer.values.shape == indices.shape == (layer.nnz,)
    assert bool((indices[1:] > indices[:-1]).all())
    assert int(indices[0]) >= 0
    assert int(indices[-1]) < layer.in_features * layer.out_features
    assert int(layer.mask.sum()) == layer.nnz
    assert th.equal(layer.weight[layer.mask], layer.values.detach())
    assert set(layer.state_dict()) <= {"values", "indices", "bias"}


@given(layers(), st.integers(1, 5))
def test_outputs_and_gradients_match_a_masked_dense_layer(layer, batch):
    x = th.randn(batch, layer.in_features, requires_grad=True)
    dense_x = x.detach().clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    bias = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()

    layer.request_dense_grad()
    loss = layer(x).square().sum()
    loss.backward()
    # The mask stands in the product so that autograd sees it, the dense gradient is that of the masked weight itself
    masked = weight * layer.mask
    masked.retain_grad()
    F.linear(dense_x, masked, bias).square().sum().backward()

    th.testing.assert_close(x.grad, dense_x.grad)
    th.testing.assert_close(layer.values.grad, weight.grad[layer.mask])
    assert bool((weight.grad[~layer.mask] == 0).all())
    th.testing.assert_close(layer.dense_grad, masked.grad)
    if bias is not None:
        th.testing.assert_close(layer.bias.grad, bias.grad)


def test_second_derivatives():
    th.manual_seed(0)
    layer = SparseLinear(4, 3, 6).double()
    x = th.randn(2, 4, dtype=th.double, requires_grad=True)
    assert th.autograd.gradgradcheck(lambda x, v: th.func.functional_call(layer, {"values": v}, x), (x, layer.values))


def test_dense_gradient_is_summed_within_one_loss_and_starts_anew_after_zero_grad():
    th.manual_seed(0)
    layer = SparseLinear(5, 5, 7)
    optimizer = th.optim.SGD(layer.parameters(), lr=0.0)
    first, second, other = th.randn(3, 5), th.randn(3, 5), th.randn(3, 5)

    def dense_gradient(*batches):
        weight = layer.weight.detach().clone().requires_grad_()
        sum(F.linear(batch, weight, layer.bias).square().sum() for batch in batches).backward()
        return weight.grad

    layer.request_dense_grad()
    layer(other).square().sum().backward()  # somebody else's loss, cleared by zero_grad below
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none=set_to_none)
        (layer(first).square().sum() + layer(second).square().sum()).backward()
        th.testing.assert_close(layer.dense_grad, dense_gradient(first, second))
    layer(other).square().sum().backward()  # no zero_grad: accumulated, as autograd does with values.grad
    th.testing.assert_close(layer.dense_grad, dense_gradient(first, second, other))
    th.testing.assert_close(layer.dense_grad[layer.mask], layer.values.grad)
    layer.release_dense_grad()
    assert layer.dense_grad is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_dense_gradients_are_summed_where_those_of_the_connections_are_0(set_to_none):
    layer = SparseLinear(3, 1, 1, connections=th.tensor([[True, False, False]]))
    optimizer = th.optim.SGD(layer.parameters(), lr=0.0)
    layer.request_dense_grad()
    for _ in range(2):
        optimizer.zero_grad(set_to_none=set_to_none)
        layer(th.tensor([[0.0, 5.0, 0.0]])).sum().backward()
        layer(th.tensor([[0.0, 0.0, 2.0]])).sum().backward()
        layer(th.tensor([[1.0, 0.0, 1.0]])).sum().backward()
        assert layer.dense_grad.tolist() == [[1.0, 5.0, 3.0]]
    optimizer.zero_grad(set_to_none=set_to_none)
    layer(th.tensor([[0.0, 5.0, 0.0]])).sum().backward()
    optimizer.zero_grad(set_to_none=set_to_none)  # of zeros
    layer(th.tensor([[0.0, 0.0, 2.0]])).sum().backward()
    assert layer.dense_grad.tolist() == [[0.0, 0.0, 2.0]]


@given(layers())
def test_to_dense_and_back(layer):
    x = th.randn(3, layer.in_features)
    dense = layer.to_dense()
    assert type(dense) is nn.Linear
    th.testing.assert_close(dense(x), layer(x))
    again = SparseLinear.from_dense(dense, connections=layer.mask)
    assert th.equal(again.values, layer.values)
    assert th.equal(again.indices, layer.indices)
    with th.no_grad():
        dense.weight.zero_()
    assert again.values.detach().abs().sum() > 0


def test_magnitude_keeps_the_largest_weights():
    th.manual_seed(0)
    linear = nn.Linear(10, 20)
    layer = SparseLinear.from_dense(linear, 37)
    weakest = layer.values.detach().abs().min()
    assert bool((linear.weight[~layer.mask].abs() <= weakest).all())


def test_fan_in_scale_keeps_the_variance_of_a_dense_unit():
    th.manual_seed(0)
    linear = nn.Linear(400, 50)
    layer = SparseLinear.from_dense(linear, 2000, connections="random", weight_scale="fan_in")
    x = th.randn(2000, 400)
    assert F.linear(x, layer.weight).var().item() == pytest.approx(F.linear(x, linear.weight).var().item(), rel=0.1)


@pytest.mark.parametrize("nnz", [0, 13, 2.0])
def test_impossible_number_of_connections(nnz):
    with pytest.raises(ValueError, match=f"nnz={nnz} is not allowed"):
        SparseLinear(4, 3, nnz)


def test_bad_names_and_masks():
    with pytest.raises(ValueError, match="connections='biggest'"):
        SparseLinear(4, 3, 5, connections="biggest")
    with pytest.raises(ValueError, match="weight_scale='he'"):
        SparseLinear(4, 3, 5, weight_scale="he")
    with pytest.raises(ValueError, match=r"a mask must be bool, of shape \(3, 4\)"):
        SparseLinear(4, 3, 5, connections=th.ones(3, 4, dtype=th.bool))
    with pytest.raises(ValueError, match="nnz=None"):
        SparseLinear.from_dense(nn.Linear(4, 3))


def test_writing_to_weight_is_an_error():
    layer = SparseLinear(4, 3, 5)
    before = layer.values.detach().clone()
    with pytest.raises(AttributeError, match="write to `values`"):
        layer.weight = th.zeros(3, 4)
    with pytest.raises((AttributeError, KeyError)):
        layer.weight = nn.Parameter(th.zeros(3, 4))
    for write in (
        lambda: nn.init.orthogonal_(layer.weight),
        lambda: nn.init.normal_(layer.weight),
        lambda: layer.weight.data.normal_(),
        lambda: setattr(layer.weight, "data", th.zeros(3, 4)),
        lambda: layer.weight.detach().zero_(),
        lambda: layer.weight.__setitem__((0, 0), 1.0),
        lambda: operator.imul(layer.weight, 2.0),
        lambda: layer.weight.requires_grad_(False),
        lambda: layer.weight.t()[1:].unsqueeze(0).copy_(th.zeros(1, 3, 3)),
        lambda: layer.weight.chunk(3)[0].fill_(1.0),
        lambda: F.relu(layer.weight, inplace=True),
        lambda: th.neg(th.zeros(3, 4), out=layer.weight),
        lambda: th._foreach_mul_([layer.weight], 2.0),
    ):
        for context in (th.enable_grad, th.no_grad):
            with context(), pytest.raises(RuntimeError, match="inplace update"):
                write()
    assert th.equal(layer.values, before)
    layer.weight.detach().clone().zero_()  # a clone is free
    assert type(layer.weight + 1.0) is th.Tensor
    assert th.equal(layer.weight.to_sparse().to_dense(), layer.weight)
    th.zeros(3, 4).add_(layer.weight)


def test_a_penalty_on_weight_is_one_on_values():
    th.manual_seed(0)
    layer = SparseLinear(4, 3, 5)
    layer.weight.square().sum().backward()
    th.testing.assert_close(layer.values.grad, 2 * layer.values.detach())
    layer.values.requires_grad_(False)
    assert not layer.weight.requires_grad
    with th.no_grad():
        assert not SparseLinear(4, 3, 5).weight.requires_grad


def test_a_penalty_on_weight_is_in_the_dense_gradient_too():
    th.manual_seed(0)
    layer, x = SparseLinear(5, 5, 7, bias=False), th.randn(3, 5)
    weight = layer.weight.detach().clone().requires_grad_()
    layer.request_dense_grad()
    for output, kernel in ((layer(x), layer.weight), (F.linear(x, weight), weight)):
        (output.square().sum() + (kernel @ kernel.T - th.eye(5)).square().sum()).backward()
    th.testing.assert_close(layer.dense_grad, weight.grad)
    th.testing.assert_close(layer.values.grad, weight.grad[layer.mask])


def test_a_penalty_on_weight_where_torch_traces_and_transforms():
    class Penalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = SparseLinear(4, 3, 5)

        def forward(self, x):
            return self.layer(x).square().sum() + self.layer.weight.square().sum()

    th.manual_seed(0)
    module, x = Penalized(), th.randn(2, 4)
    parameters = dict(module.named_parameters())
    expected = th.autograd.grad(module(x), list(parameters.values()))
    gradients = th.func.grad(lambda p: th.func.functional_call(module, p, x))(parameters)
    for ours, theirs in zip(gradients.values(), expected, strict=True):
        th.testing.assert_close(ours, theirs)
    th.testing.assert_close(th.export.export(module, (x,)).module()(x), module(x))
    th.testing.assert_close(th.compile(module, backend="eager", fullgraph=True)(x), module(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("batch", [2, 256])
def test_a_scripted_network_computes_and_learns_the_same(batch):
    th.manual_seed(0)
    network = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 40, bias=False), nn.Linear(40, 4))
    x = th.randn(batch, 200)
    scripted = th.jit.script(sparsify(network, 0.9))
    file = io.BytesIO()
    th.jit.save(scripted, file)
    file.seek(0)
    gradients = []
    for module in (network, scripted, th.jit.load(file)):
        th.testing.assert_close(module(x), network(x))
        gradients.append(th.autograd.grad(module(x).square().sum(), list(module.parameters())))
    for ours, theirs in zip(gradients[1] + gradients[2], gradients[0] * 2, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_load_checks_the_connections():
    layer, other = SparseLinear(4, 3, 5), SparseLinear(4, 3, 5)
    version = layer.topology_version
    layer.load_state_dict(other.state_dict())
    assert th.equal(layer.indices, other.indices)
    assert th.equal(layer.values, other.values)
    assert layer.topology_version > version

    before = layer.state_dict()["values"].clone()
    for indices, message in (
        (th.tensor([3, 2, 1, 0, 4], dtype=th.int32), "not sorted"),
        (th.tensor([0, 1, 2, 2, 4], dtype=th.int32), "not sorted and unique"),
        (th.tensor([0, 1, 2, 3, 12], dtype=th.int32), "out of range"),
        (th.tensor([-1, 1, 2, 3, 4], dtype=th.int32), "out of range"),
        (th.tensor([0.0, 1, 2, 3, 4]), "must be integers"),
        (th.tensor([0, 1, 2], dtype=th.int32), "5 connections are expected"),
    ):
        state = {"values": th.zeros(5), "indices": indices, "bias": th.zeros(3)}
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)
        assert th.equal(layer.values, before)


def test_copies_and_pickles_even_while_the_dense_gradient_is_collected():
    layer = SparseLinear(4, 3, 5)
    layer.request_dense_grad()
    layer(th.ones(1, 4)).sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert th.equal(twin.values, layer.values)
        assert th.equal(twin.indices, layer.indices)
        assert twin.dense_grad is None


def test_moving_a_module_changes_its_topology_version():
    layer = SparseLinear(4, 3, 5)
    version = layer.topology_version
    layer.to("cpu")
    assert layer.topology_version > version


class TestSparsify:
    def network(self):
        th.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Sequential(nn.Linear(32, 32), nn.Tanh()), nn.Linear(32, 2))

    @given(st.floats(0.0, 0.97))
    @settings(max_examples=20)
    def test_number_of_connections_is_exact(self, sparsity):
        network = sparsify(self.network(), sparsity)
        total = 8 * 32 + 32 * 32 + 32 * 2
        assert sum(layer.connections for layer in summarize(network)) == round((1 - sparsity) * total)

    def test_layers_with_all_connections_stay_dense(self):
        network = sparsify(self.network(), 0.0)
        assert not sparse_layers(network)
        network = sparsify(self.network(), 0.8)
        assert type(network[3]) is nn.Linear  # 2 x 32: Erdős-Rényi would give it more than it can have
        assert set(sparse_layers(network)) == {"0", "2.0"}

    def test_exclude_and_training_mode(self):
        network = self.network().eval()
        sparsify(network, 0.5, exclude=[network[2]])
        assert set(sparse_layers(network)) <= {"0", "3"}
        assert not any(module.training for module in network.modules())

    def test_a_layer_used_twice_stays_one_layer(self):
        shared = nn.Linear(16, 16)
        network = sparsify(nn.Sequential(nn.Linear(4, 16), shared, nn.ReLU(), shared), 0.8)
        assert isinstance(network[1], SparseLinear)
        assert network[1] is network[3]

    def test_densify_keeps_the_outputs(self):
        network = sparsify(self.network(), 0.8)
        x = th.randn(5, 8)
        expected = network(x)
        dense = self.network()
        dense.load_state_dict(dense_state_dict(network))
        th.testing.assert_close(dense(x), expected)
        th.testing.assert_close(densify(network)(x), expected)
        assert not sparse_layers(network)

    def test_what_cannot_be_sparse(self):
        with pytest.raises(ValueError, match="sparsity=False is not allowed"):
            sparsify(self.network(), False)
        with pytest.raises(ValueError, match="no linear layer"):
            sparsify(nn.Sequential(nn.ReLU()), 0.5)
        with pytest.raises(ValueError, match="from_dense"):
            sparsify(nn.Linear(4, 4), 0.5)
        with pytest.raises(ValueError, match="without a single connection"):
            sparsify(self.network(), 0.9999)
        tied = nn.ModuleDict({"embedding": nn.Embedding(10, 16), "head": nn.Linear(16, 10)})
        tied["head"].weight = tied["embedding"].weight
        with pytest.raises(ValueError, match="shares its weight"):
            sparsify(tied, 0.5)

    def test_frozen_layers_stay_frozen(self):
        network = self.network()
        network[0].requires_grad_(False)
        network[3].bias.requires_grad_(False)
        sparsify(network, 0.6)
        assert [p.requires_grad for p in network[0].parameters()] == [False, False]
        assert densify(network)[0].weight.requires_grad is False
        assert network[2][0].weight.requires_grad
        assert network[3].bias.requires_grad is False

    @pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda layer: layer.register_forward_hook(lambda *_: None), "its hooks"),
            (lambda layer: layer.register_full_backward_pre_hook(lambda *_: None), "its hooks"),
            (lambda layer: layer.weight.register_hook(lambda grad: grad), "its hooks"),
            (lambda layer: layer.bias.register_post_accumulate_grad_hook(lambda p: None), "its hooks"),
            (nn.utils.weight_norm, "the parametrization"),
            (nn.utils.parametrizations.weight_norm, "the parametrization"),
            (nn.utils.parametrizations.spectral_norm, "the parametrization"),
            (lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()), "the parametrization"),
        ],
    )
    def test_what_a_layer_would_lose_is_an_error_that_names_it(self, change, reason):
        network = self.network()
        change(network[2][0])
        change(network[3])  # gets all of its connections, and stays as it is
        counted = set(summarize(network))
        with pytest.raises(ValueError, match=rf"layer '2\.0' cannot be sparse: {reason} .*`exclude`"):
            sparsify(network, 0.8)
        assert set(summarize(network)) == counted
        sparsify(network, 0.5, exclude=[network[2]])
        assert set(sparse_layers(network)) == {"0"}
        assert isinstance(network[3], nn.Linear)

    def test_shared_weights_and_biases_are_an_error(self):
        for name in ("weight", "bias"):
            network = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32))
            setattr(network[1], name, getattr(network[0], name))
            with pytest.raises(ValueError, match=f"layer '0' cannot be sparse: another module shares its {name}"):
                sparsify(network, 0.5)
            assert set(sparse_layers(sparsify(network, 0.5, exclude=network[:2]))) == {"2"}

    @pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
    def test_a_lazy_layer_is_sparse_only_after_it_has_run(self):
        network = nn.Sequential(nn.LazyLinear(32), nn.Linear(32, 32))
        with pytest.raises(ValueError, match=r"layer '0' is a LazyLinear.*run the network once"):
            sparsify(network, 0.5)
        without = copy.deepcopy(network)
        assert set(sparse_layers(sparsify(without, 0.5, exclude=[without[0]]))) == {"1"}
        network(th.randn(2, 20))
        assert set(sparse_layers(sparsify(network, 0.5))) == {"0", "1"}

    @given(st.floats(0.1, 0.95), st.floats(0.5, 0.95))
    @settings(max_examples=20)
    def test_layers_that_are_sparse_already_count(self, first, sparsity):
        network = nn.Sequential(sparsify(self.network(), first), nn.ReLU(), self.network())
        before = {name: layer.nnz for name, layer in sparse_layers(network).items()}
        weights = 2 * (8 * 32 + 32 * 32 + 32 * 2)
        try:
            sparsify(network, sparsity)
        except ValueError:
            assert sum(before.values()) > (1 - sparsity) * weights - 32 * 2 - 3
            return
        assert sum(layer.connections for layer in summarize(network)) == round((1 - sparsity) * weights)
        assert before.items() <= {name: layer.nnz for name, layer in sparse_layers(network).items()}.items()

    def test_a_second_time_the_same_sparsity_changes_nothing_and_another_is_an_error(self):
        network = sparsify(self.network(), 0.8)
        before = copy.deepcopy(network.state_dict())
        sparsify(network, 0.8)
        assert all(th.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert before.keys() == network.state_dict().keys()
        for sparsity in (0.5, 0.99):
            with pytest.raises(ValueError, match=rf"sparsity={sparsity} is .*densify\(module\) first"):
                sparsify(network, sparsity)
        sparsify(densify(network), 0.5)
        assert density(network) == pytest.approx(0.5, abs=1e-3)
        only_sparse = sparsify(nn.Sequential(nn.Linear(30, 30)), 0.9)
        assert sparsify(only_sparse, 0.9)[0].nnz == 90
        with pytest.raises(ValueError, match=r"sparsity=0\.5 is 450 of 900 connections"):
            sparsify(only_sparse, 0.5)

    def test_arguments_of_the_wrong_type(self):
        with pytest.raises(ValueError, match=r"module is a list, not a torch\.nn\.Module"):
            sparsify([nn.Linear(4, 4)], 0.5)
        with pytest.raises(ValueError, match=r"exclude: '2' is not a torch\.nn\.Module"):
            sparsify(self.network(), 0.5, exclude=["2"])

    def test_what_is_no_linear_layer_stays_dense(self):
        class Own(nn.Linear):
            pass

        network = nn.ModuleList(
            [nn.Linear(32, 32), Own(32, 32), nn.LSTM(8, 8), nn.Conv2d(3, 3, 3), nn.Bilinear(4, 4, 4)]
        )
        kinds = [type(module) for module in network]
        sparsify(network, 0.5)
        assert [type(module) for module in network] == [SparseLinear, *kinds[1:]]
        assert network[0].nnz == 512

    def test_attention_keeps_its_own_projection(self):
        network = sparsify(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 0.7)
        assert set(sparse_layers(network)) == {"linear1", "linear2"}
        x = th.randn(2, 3, 16)
        assert network(x).shape == (2, 3, 16)
        with th.no_grad():  # PyTorch's fast path reads `weight`
            th.testing.assert_close(network.eval()(x), densify(copy.deepcopy(network))(x), rtol=1e-4, atol=1e-5)


def test_connections_that_are_overwritten_unseen_are_those_that_count():
    a, b = (SparseLinear(256, 256, 3000) for _ in "ab")
    x = th.randn(256, 256)
    assert not th.allclose(a(x), b(x))
    with th.no_grad():  # the counts of writes to both are the same
        th.testing.assert_close(th.func.functional_call(a, b.state_dict(), (x,)), b(x))
    for target, source in zip([*a.parameters(), *a.buffers()], [*b.parameters(), *b.buffers()], strict=True):
        target.data.copy_(source.data)
    assert th.equal(a(x), b(x))
    a.indices = a.indices.flip(0)
    with pytest.raises(ValueError, match="were overwritten: connection indices are not sorted and unique"):
        a(x)


def test_layers_too_wide_for_the_kernels_are_computed_by_pytorch():
    n_in = MOST_FEATURES + 1
    layer = SparseLinear(n_in, 1, 50, connections="random")
    x = th.zeros(1, n_in)
    x[0, layer.indices.long()] = th.arange(50.0)
    with th.no_grad():
        th.testing.assert_close(layer(x), (layer.values @ th.arange(50.0) + layer.bias).view(1, 1))
    with pytest.raises(ValueError, match=f"a layer of {n_in} -> 1 is too large for the kernels"):
        _ = layer.structure


def test_a_layer_with_a_parametrized_bias_can_be_copied():
    class Twice(nn.Module):
        def forward(self, bias):
            return 2 * bias

    layer = SparseLinear(6, 4, 10)
    parametrize.register_parametrization(layer, "bias", Twice())
    x = th.randn(3, 6)
    assert th.equal(copy.deepcopy(layer)(x), layer(x))


def test_a_single_layer_is_not_densified_in_place():
    with pytest.raises(ValueError, match=r"module is a SparseLinear, .* its to_dense\(\) is the dense layer"):
        densify(SparseLinear(4, 4, 3))
