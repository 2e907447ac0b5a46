"""Compiled products inside of SparseLinear: the same results as PyTorch's, and nothing that autograd can do is lost."""

import copy

import pytest
import torch as th
from torch import nn

from sb3_rlx2.kernels import autograd
from sb3_rlx2.sparse import SparseLinear


@pytest.fixture
def layer():
    th.manual_seed(0)
    return SparseLinear(200, 300, 6000)


def dense_version(layer, x):
    """The layer's output by PyTorch alone."""
    flat = th.zeros(layer.out_features * layer.in_features).scatter(0, layer.indices.long(), layer.values)
    return nn.functional.linear(x, flat.view(layer.out_features, layer.in_features), layer.bias)


def is_compiled(y):
    return "SparseProduct" in type(y.grad_fn).__name__ or "SparseProduct" in str(y.grad_fn.next_functions)


@pytest.mark.parametrize("shape", [(128, 200), (150, 200), (5, 37, 200)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients(layer, shape, bias):
    if not bias:
        layer.bias = None
    x = th.randn(shape, requires_grad=True)
    y = layer(x)
    assert is_compiled(y)
    expected = dense_version(layer, x)
    th.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    g = th.randn_like(y)
    tensors = [x, *layer.parameters()]
    for ours, theirs in zip(th.autograd.grad(y, tensors, g), th.autograd.grad(expected, tensors, g), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients(layer):
    x = th.randn(128, 200, requires_grad=True)
    seconds = []
    for y in (layer(x), dense_version(layer, x)):
        (first,) = th.autograd.grad(y.square().sum(), x, create_graph=True)
        seconds.append(th.autograd.grad(first.square().sum(), [x, layer.values]))
    for ours, theirs in zip(*seconds, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("frozen", ["values", "bias", "x"])
def test_only_what_is_asked_for(layer, frozen):
    x = th.randn(128, 200, requires_grad=frozen != "x")
    if frozen != "x":
        getattr(layer, frozen).requires_grad_(False)
    layer(x).sum().backward()
    assert (x.grad is None) == (frozen == "x")
    assert (layer.values.grad is None) == (frozen == "values")
    assert (layer.bias.grad is None) == (frozen == "bias")


def test_a_few_samples_without_gradients(layer):
    x = th.randn(3, 200)
    with th.no_grad():
        assert autograd.cover(x, layer.values, layer.bias, 200, 300)
        th.testing.assert_close(layer(x), dense_version(layer, x), rtol=1e-4, atol=1e-5)
        th.testing.assert_close(layer(x[0]), dense_version(layer, x[0]), rtol=1e-4, atol=1e-5)
    assert not autograd.cover(x, layer.values, layer.bias, 200, 300)


@pytest.mark.parametrize(
    ("batch", "n_in", "n_out", "density", "expected"),
    # Measured ratios to the dense path: 6.7, 3.0, 4.5, 1.7; 0.7 and 0.9 (docs/performance.md)
    [
        (256, 256, 256, 0.1, True), (64, 256, 256, 0.3, True), (256, 1024, 1024, 0.1, True), (256, 17, 256, 0.1, True),
        (1024, 17, 256, 0.5, False), (64, 17, 256, 0.02, False), (256, 256, 256, 0.7, False),
    ],
)  # fmt: skip
def test_the_rule(batch, n_in, n_out, density, expected):
    assert autograd.are_kernels_faster(batch, n_in, n_out, int(density * n_in * n_out)) is expected


def test_what_traces_and_transforms_sees_torchs_operations(layer):
    x = th.randn(256, 200)
    expected = dense_version(layer, x)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return th.func.functional_call(layer, parameters, x).square().mean()

    gradients = th.func.grad(loss)(parameters, x)
    th.testing.assert_close(gradients["values"], th.autograd.grad(expected.square().mean(), layer.values)[0])
    _, tangent = th.func.jvp(lambda x: layer(x), (x,), (th.ones_like(x),))
    th.testing.assert_close(tangent, dense_version(layer, x + 1) - expected, rtol=1e-3, atol=1e-3)
    with th.autocast("cpu", dtype=th.bfloat16):
        assert layer(x).dtype == th.bfloat16
    assert not autograd.cover(x.double(), layer.values, layer.bias, 200, 300)
    traced = th.jit.trace(layer, x)
    with th.no_grad():
        layer.values.mul_(2.0)
    th.testing.assert_close(traced(x), dense_version(layer, x))


def test_follows_every_change_of_the_connections(layer):
    x = th.randn(128, 200)
    layer(x)
    other = SparseLinear(200, 300, 6000, connections="random")
    layer.load_state_dict(other.state_dict())
    th.testing.assert_close(layer(x), dense_version(other, x), rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(layer)
    th.testing.assert_close(twin(x), layer(x))
    with pytest.raises(RuntimeError):
        layer(th.randn(128, 199))


def test_a_trained_bias_alone_gets_its_gradient(layer):
    layer.values.requires_grad_(False)
    assert layer(th.randn(3, 200)).requires_grad


def test_values_in_strides(layer):
    x, strided = th.randn(128, 200), th.randn(12_000)[::2]
    layer.values.data = strided
    th.testing.assert_close(layer(x), dense_version(layer, x))


def test_other_default_types(layer):
    x = th.randn(128, 200)
    expected = dense_version(layer, x)
    before = th.get_default_dtype()
    th.set_default_dtype(th.float64)
    try:
        th.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    finally:
        th.set_default_dtype(before)


def test_connections_that_were_written_to_directly(layer):
    other, x = SparseLinear(200, 300, 6000, connections="random"), th.randn(128, 200)
    layer(x)
    with th.no_grad():
        for ours, theirs in zip(
            [*layer.parameters(), *layer.buffers()], [*other.parameters(), *other.buffers()], strict=True
        ):
            ours.copy_(theirs)
    th.testing.assert_close(layer(x), other(x))
