"""A linear layer that stores its connections and nothing else."""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any, ClassVar, Literal, cast

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_rlx2.kernels import autograd
from sb3_rlx2.kernels.structure import Structure
from sb3_rlx2.sparse.checks import check_count
from sb3_rlx2.sparse.dense_gradient import DenseGradient
from sb3_rlx2.sparse.read_only import ReadOnlyTensor

ConnectionsName = Literal["magnitude", "random"]
WeightScale = Literal["dense", "fan_in"]


class SparseLinear(nn.Module):
    """``y = x Wᵀ + b`` with a ``W`` of which only the present connections are stored.

    The parameter ``values`` ([nnz]) is what the optimizer sees; its i-th entry sits at position ``indices[i]`` of the
    row-major flattened ``[out_features, in_features]`` weight. Indices are sorted and unique. Neither a dense weight
    nor a mask is stored: ``weight`` and ``mask`` are made on request. ``torch.jit.script`` compiles the layer from
    PyTorch's own operations; a scripted forward pass collects no dense gradient.

    :param in_features: size of each input sample
    :param out_features: size of each output sample
    :param nnz: number of connections, 1 <= nnz <= in_features * out_features
    :param bias: whether to add a (dense) bias, default True
    :param connections: which connections are present at first: ``"magnitude"`` (default: the largest of a dense
        initialisation), ``"random"``, or a bool mask [out_features, in_features] with ``nnz`` entries that are True
    :param weight_scale: ``"dense"`` (default: values as drawn for the dense layer) or ``"fan_in"`` (each unit's values
        times sqrt(in_features / its number of connections), so that its output keeps the dense layer's variance)
    :param device: where the tensors live; None (default): PyTorch's default device
    :param dtype: floating type of values and bias; None (default): PyTorch's default
    :raises ValueError: if nnz, the mask or a name is not allowed
    """

    # No annotations of attributes here: TorchScript reads those of a class, and cannot resolve them as strings
    __jit_unused_properties__: ClassVar[list[str]] = [
        "nnz", "structure", "connections_version", "density", "mask", "weight", "dense_grad",
    ]  # fmt: skip

    def __init__(
        self,
        in_features: int,
        out_features: int,
        nnz: int,
        bias: bool = True,
        *,
        connections: ConnectionsName | th.Tensor = "magnitude",
        weight_scale: WeightScale = "dense",
        device: th.device | str | None = None,
        dtype: th.dtype | None = None,
    ) -> None:
        super().__init__()
        self._adopt(
            nn.Linear(in_features, out_features, bias=bias, device=device, dtype=dtype), nnz, connections, weight_scale
        )

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        nnz: int | None = None,
        *,
        connections: ConnectionsName | th.Tensor = "magnitude",
        weight_scale: WeightScale = "dense",
    ) -> SparseLinear:
        """A sparse layer with some of a dense layer's weights.

        :param linear: the dense layer; it is not changed, and nothing is shared with it
        :param nnz: number of connections to keep; None (default): as many as the mask in ``connections`` has
        :param connections: as for the constructor, default ``"magnitude"``
        :param weight_scale: as for the constructor, default ``"dense"``
        :raises ValueError: if nnz, the mask or a name is not allowed
        """
        if nnz is None:
            if not isinstance(connections, th.Tensor):
                raise ValueError("nnz=None is allowed only where `connections` is a mask")
            nnz = int(connections.sum())
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._adopt(linear, nnz, connections, weight_scale)
        return layer

    def _adopt(
        self, linear: nn.Linear, nnz: int, connections: ConnectionsName | th.Tensor, weight_scale: WeightScale
    ) -> None:
        self.in_features, self.out_features = int(linear.in_features), int(linear.out_features)
        size = self.in_features * self.out_features
        if check_count(nnz, "nnz", 1) > size:
            raise ValueError(
                f"nnz={nnz!r} is not allowed: 1 <= nnz <= {size} for {self.in_features} -> {self.out_features}"
            )
        if size > th.iinfo(th.int32).max:
            raise ValueError(
                f"a layer of {self.in_features} -> {self.out_features} is too large: positions are stored as int32"
            )
        dense = linear.weight.detach().reshape(-1)
        chosen = choose_connections(dense, nnz, (self.out_features, self.in_features), connections)
        values = dense[chosen]
        if weight_scale == "fan_in":
            rows = chosen // self.in_features
            fan_in = th.bincount(rows, minlength=self.out_features)[rows]
            values = values * th.sqrt(self.in_features / fan_in).to(values.dtype)
        elif weight_scale != "dense":
            raise ValueError(f"weight_scale={weight_scale!r} is unknown: allowed are 'dense' and 'fan_in'")
        self.values = nn.Parameter(values.clone(), requires_grad=linear.weight.requires_grad)
        self.indices: th.Tensor
        self.register_buffer("indices", chosen.to(th.int32))
        self.bias = None if linear.bias is None else _copy(linear.bias)
        self.topology_version = 0
        self._dense_gradient: DenseGradient | None = None
        self._structure: tuple[th.Tensor, Structure] | None = None
        self._start_watching()

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self.values.numel()

    @property
    def structure(self) -> Structure:
        """The connections as the compiled kernels want them; the layer must be on the CPU."""
        indices = self._buffers["indices"]
        assert indices is not None
        # Compared by its numbers: functional_call puts another tensor here, and writes to .data are not counted
        if self._structure is None or not _are_equal(self._structure[0], indices):
            self._refuse_bad_indices()
            made = Structure(indices.numpy(), self.in_features, self.out_features)
            self._structure = indices.clone(), made
        return self._structure[1]

    @property
    def connections_version(self) -> int:
        """A number that changes with the connections, even where somebody wrote to ``indices`` directly."""
        indices = self._buffers["indices"]
        assert indices is not None
        return (self.topology_version << 32) + _writes(indices)

    @property
    def density(self) -> float:
        """Fraction of the weights that are present."""
        return self.nnz / (self.in_features * self.out_features)

    @property
    def mask(self) -> th.Tensor:
        """Which connections are present: a new bool tensor [out_features, in_features]."""
        mask = th.zeros(self.out_features * self.in_features, dtype=th.bool, device=self.indices.device)
        mask[self.indices.long()] = True
        return mask.view(self.out_features, self.in_features)

    @property
    def weight(self) -> th.Tensor:
        """A dense copy [out_features, in_features], made from ``values``, to which gradients flow back.

        It is read-only; ``.detach().clone()`` gives a free tensor.

        :raises AttributeError: on assignment; writing to the copy raises a RuntimeError
        """
        weight = self._watched_weight()
        return weight if autograd.is_transformed() else weight.as_subclass(ReadOnlyTensor)

    @weight.setter
    def weight(self, _: th.Tensor) -> None:
        raise AttributeError(
            "SparseLinear.weight is a dense copy made on request: write to `values` (the present connections), "
            "or make a new layer with SparseLinear.from_dense"
        )

    def _dense_weight(self) -> th.Tensor:
        flat = self.values.new_zeros([self.out_features * self.in_features])
        return flat.scatter(0, self.indices.long(), self.values).view(self.out_features, self.in_features)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply the layer.

        :param x: [..., in_features]
        :return: [..., out_features]
        """
        if not th.jit.is_scripting():  # type: ignore[attr-defined]
            return self._product(x)
        # TorchScript cannot call the compiled kernels
        return F.linear(x, self._dense_weight(), self.bias)

    def _product(self, x: th.Tensor) -> th.Tensor:
        if self._dense_gradient is None and autograd.cover(
            x, self.values, self.bias, self.in_features, self.out_features
        ):
            return autograd.sparse_linear(x, self.values, self.bias, self.structure)
        if not autograd.is_transformed():
            self._check_indices()
        return F.linear(x, self._watched_weight(), self.bias)

    def _watched_weight(self) -> th.Tensor:
        weight = self._dense_weight()
        if self._dense_gradient is not None and weight.requires_grad:
            self._dense_gradient.watch(weight)
        return weight

    @property
    def dense_grad(self) -> th.Tensor | None:
        """Gradient [out_features, in_features] that goes with ``values.grad``, present and absent connections alike.

        None unless it was asked for with ``request_dense_grad`` before the forward pass.
        """
        return None if self._dense_gradient is None else self._dense_gradient.total

    def request_dense_grad(self) -> None:
        """From the next forward pass on, collect the dense gradient too (RigL's growth score needs it)."""
        if self._dense_gradient is None:
            self._dense_gradient = DenseGradient(self.values)

    def set_dense_grad(self, gradient: th.Tensor) -> None:
        """Set the gradient of all positions, and with it that of ``values``, for code that computes them itself.

        :param gradient: [out_features, in_features]
        """
        self.request_dense_grad()
        assert self._dense_gradient is not None
        self.values.grad = gradient.reshape(-1)[self.indices.long()]
        self._dense_gradient.total = gradient

    def release_dense_grad(self) -> None:
        """Stop collecting the dense gradient and free it."""
        if self._dense_gradient is not None:
            self._dense_gradient.close()
            self._dense_gradient = None

    def to_dense(self) -> nn.Linear:
        """A dense layer with the same outputs; nothing is shared with it."""
        linear: nn.Linear = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with th.no_grad():
            linear.weight.copy_(self._dense_weight())
        linear.weight.requires_grad_(self.values.requires_grad)
        if self.bias is not None:
            linear.bias = _copy(self.bias)
        return linear

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nnz={self.nnz}, "
            f"density={self.density:.4f}, bias={self.bias is not None}"
        )

    # --- writes to its tensors by others ---

    def connections_changed(self) -> None:
        """To be called by what changes values and indices together."""
        self.topology_version += 1
        self._known_writes = _writes(self.values), _writes(self.indices)
        self._checked_writes = self._known_writes[1]

    def copies_in_step(self) -> list[SparseLinear]:
        """Deep copies of this layer, with the same connections, that others keep in step with it by writing to them.

        These are averages such as ``torch.optim.swa_utils.AveragedModel``, which overwrites the indices, and target
        networks, whose values are frozen and yet change.
        """
        return [
            twin
            for twin in self._copies
            if twin._is_kept_in_step() and th.equal(twin.indices, self.indices.to(twin.indices.device))
        ]

    def _is_kept_in_step(self) -> bool:
        values, indices = self._known_writes
        return _writes(self.indices) != indices or not (self.values.requires_grad or _writes(self.values) == values)

    def _check_indices(self) -> None:
        if _writes(self.indices) != self._checked_writes:
            self._refuse_bad_indices()

    def _refuse_bad_indices(self) -> None:
        problem = index_problem(self.indices, self.nnz, self.in_features * self.out_features)
        if problem:
            raise ValueError(
                f"the indices of a SparseLinear were overwritten: {problem}. Indices cannot be averaged "
                "(AveragedModel: use_buffers=False)"
            )
        self._checked_writes = _writes(self.indices)

    def _start_watching(self) -> None:
        self._copies: weakref.WeakSet[SparseLinear] = weakref.WeakSet()
        self._known_writes = _writes(self.values), _writes(self.indices)
        self._checked_writes = self._known_writes[1]

    # --- copies, moves, loading ---

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseLinear:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self._state(), memo))
        self._copies.add(twin)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return self._state()

    def _state(self) -> dict[str, Any]:
        # Parametrized modules refuse ``__getstate__``, and can be copied
        state = {**self.__dict__, "_dense_gradient": None, "_structure": None}
        del state["_copies"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._start_watching()

    def _apply(self, *args: Any, **kwargs: Any) -> SparseLinear:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.connections_changed()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        key = prefix + "indices"
        if key in state_dict:
            problem = index_problem(state_dict[key], self.nnz, self.in_features * self.out_features)
            if problem:
                error_msgs.append(f"{key}: {problem}; the layer {prefix[:-1]!r} was not loaded")
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self.connections_changed()


def index_problem(indices: th.Tensor, nnz: int, size: int | None = None) -> str | None:
    """Say what is wrong with the positions of a layer's connections.

    :param indices: flat positions, [nnz], integers
    :param nnz: how many there must be
    :param size: in_features * out_features; None: not known
    :return: the problem in words; None if they are sorted, unique, in range and as many as they must be
    """
    if indices.dtype not in (th.int32, th.int64):
        return f"connection indices must be integers, not {indices.dtype}"
    if tuple(indices.shape) != (nnz,):
        return f"there are connection indices of shape {tuple(indices.shape)} where {nnz} connections are expected"
    if int(indices[0]) < 0 or (size is not None and int(indices[-1]) >= size):
        return f"connection indices out of range: all must lie in 0..{'' if size is None else size - 1}"
    if not bool((indices[1:] > indices[:-1]).all()):
        return "connection indices are not sorted and unique"
    return None


def _are_equal(a: th.Tensor, b: th.Tensor) -> bool:
    return a.dtype == b.dtype and th.equal(a, b)


def _writes(tensor: th.Tensor) -> int:
    """How often a tensor was written to in place; of one made in inference mode it is not known."""
    return 0 if tensor.is_inference() else tensor._version


def values_of(layer: SparseLinear | nn.Linear) -> nn.Parameter:
    """The parameter that holds a layer's weights, row by row.

    :param layer: a sparse or dense linear layer
    """
    return layer.values if isinstance(layer, SparseLinear) else cast(nn.Parameter, layer.weight)


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


def choose_connections(
    dense: th.Tensor, nnz: int, shape: tuple[int, int], connections: ConnectionsName | th.Tensor
) -> th.Tensor:
    """The connections that are present at first.

    :param dense: weights of a dense initialisation, [out_features * in_features]
    :param nnz: number of connections
    :param shape: (out_features, in_features)
    :param connections: as for ``SparseLinear``
    :return: flat positions [nnz], int64, sorted
    :raises ValueError: if the mask or the name is not allowed
    """
    if isinstance(connections, th.Tensor):
        if connections.dtype != th.bool or tuple(connections.shape) != shape or int(connections.sum()) != nnz:
            raise ValueError(
                f"connections: a mask must be bool, of shape {shape} and True at nnz={nnz} places; this one is "
                f"{connections.dtype}, {tuple(connections.shape)}, True at {int(connections.sum())}"
            )
        return connections.reshape(-1).nonzero().squeeze(1).to(dense.device)
    if connections == "magnitude":
        chosen = th.argsort(dense.abs(), descending=True, stable=True)[:nnz]
    elif connections == "random":
        chosen = th.randperm(math.prod(shape), device=dense.device)[:nnz]
    else:
        raise ValueError(f"connections={connections!r} is unknown: allowed are 'magnitude', 'random' or a bool mask")
    return chosen.sort().values
