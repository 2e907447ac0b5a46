"""A trained policy as data, computed with NumPy alone.

This file needs nothing but NumPy: copy it to the robot, beside what ``rlx2 export --to safetensors`` or ``--to numpy``
wrote.

    policy = SparsePolicy.load("policy.safetensors")
    action, _ = policy.predict(observation)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FORMAT = "sb3-rlx2 policy 1"
ACTIVATIONS = ("relu", "tanh", "elu", "leaky_relu", "silu", "gelu", "gelu_tanh")
BATCH = 256
"""Rows of a sparse layer that are computed at a time: each has a number for every connection."""
_SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U32": "<u4", "U16": "<u2", "U8": "|u1"}


@dataclass(frozen=True)
class Normalization:
    """What VecNormalize does to observations.

    :param mean: running mean, [n_obs], float64
    :param std: square root of running variance plus epsilon, [n_obs], float64
    :param clip: results lie in [-clip, clip]
    """

    mean: Array
    std: Array
    clip: float

    def __call__(self, x: Array) -> Array:
        """Normalize, as Stable-Baselines3 does: in double precision, with a result of single precision.

        :param x: [..., n_obs]
        """
        return np.clip((x - self.mean) / self.std, -self.clip, self.clip).astype(np.float32)


@dataclass(frozen=True)
class Linear:
    """``y = W x + b`` with the present connections of ``W``, row by row.

    :param inputs: number of the value that it reads, alone in a tuple
    :param output: number of the value that it makes
    :param n_in: number of inputs
    :param values: weights, [nnz], float32
    :param columns: which input each of them reads, [nnz], unsigned integers
    :param counts: how many of them each output has, [n_out], unsigned integers
    :param bias: [n_out], float32
    """

    inputs: tuple[int, ...]
    output: int
    n_in: int
    values: Array
    columns: Array
    counts: Array
    bias: Array

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return len(self.bias)

    @property
    def is_dense(self) -> bool:
        """Whether all weights are present."""
        return len(self.values) == self.n_in * self.n_out

    @cached_property
    def ends(self) -> Array:
        """Where the connections of each output end."""
        return np.cumsum(self.counts, dtype=np.int64)

    @cached_property
    def rows(self) -> Array:
        """Which output each connection belongs to, [nnz]."""
        return np.repeat(np.arange(self.n_out), self.counts)

    @cached_property
    def dense_weight(self) -> Array:
        """``W``, [n_out, n_in], float32."""
        weight = np.zeros((self.n_out, self.n_in), np.float32)
        weight[self.rows, self.columns] = self.values
        return weight

    def __call__(self, x: Array) -> Array:
        """Apply the layer.

        :param x: [..., n_in], float64
        """
        if self.is_dense:
            return x @ self.dense_weight.T.astype(np.float64) + self.bias
        y = np.broadcast_to(self.bias.astype(np.float64), (*x.shape[:-1], self.n_out)).copy()
        filled = self.counts > 0
        if filled.any():
            # The sums of reduceat end where the next one begins
            starts = (self.ends - self.counts)[filled]
            read, made = x.reshape(-1, self.n_in), y.reshape(-1, self.n_out)
            for begin in range(0, len(read), BATCH):
                batch = slice(begin, begin + BATCH)
                made[batch, filled] += np.add.reduceat(read[batch, self.columns] * self.values, starts, axis=1)
        return y


@dataclass(frozen=True)
class Activation:
    """An activation function.

    :param inputs: number of the value that it reads, alone in a tuple
    :param output: number of the value that it makes
    :param function: one of ``ACTIVATIONS``
    :param parameter: ELU's alpha, LeakyReLU's slope; 0 for the others
    """

    inputs: tuple[int, ...]
    output: int
    function: str
    parameter: float

    def __call__(self, x: Array) -> Array:
        """Apply the function.

        :param x: of any shape, float64
        """
        if self.function == "relu":
            return np.maximum(x, 0.0)
        if self.function == "tanh":
            return np.tanh(x)
        if self.function == "elu":
            return np.where(x < 0.0, self.parameter * np.expm1(np.minimum(x, 0.0)), x)
        if self.function == "leaky_relu":
            return np.where(x < 0.0, self.parameter * x, x)
        if self.function == "silu":
            return x * 0.5 * (1.0 + np.tanh(0.5 * x))
        if self.function == "gelu":
            inner = _erf(x * math.sqrt(0.5))
        else:
            inner = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))
        y: Array = 0.5 * x * (1.0 + inner)
        return y


_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization.

    :param inputs: number of the value that it reads, alone in a tuple
    :param output: number of the value that it makes
    :param weight: [n], float32
    :param bias: [n], float32
    :param epsilon: what is added to the variance
    """

    inputs: tuple[int, ...]
    output: int
    weight: Array
    bias: Array
    epsilon: float

    def __call__(self, x: Array) -> Array:
        """Normalize.

        :param x: [..., n], float64
        """
        centered = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centered).mean(axis=-1, keepdims=True)
        normalized: Array = centered / np.sqrt(variance + self.epsilon) * self.weight + self.bias
        return normalized


@dataclass(frozen=True)
class Sum:
    """The sum of two values, such as a residual connection.

    :param inputs: numbers of the values that it reads
    :param output: number of the value that it makes
    """

    inputs: tuple[int, ...]
    output: int

    def __call__(self, x: Array, y: Array) -> Array:
        """Add.

        :param x: of any shape
        :param y: of the same shape
        """
        return x + y


@dataclass(frozen=True)
class SquashedAction:
    """Actions in a box: the hyperbolic tangent of the network's output, rescaled to the bounds.

    :param low: lower bounds, [n_act], float32
    :param high: upper bounds, [n_act], float32
    :param shape: shape of an action
    """

    low: Array
    high: Array
    shape: tuple[int, ...]
    dtype: ClassVar[type] = np.float32

    @property
    def n_in(self) -> int:
        """Number of outputs of the network that it reads."""
        return len(self.low)

    @property
    def half_range(self) -> Array:
        """Half of the distance of the bounds, [n_act], float32."""
        return np.float32(0.5) * (self.high - self.low)

    def __call__(self, x: Array) -> Array:
        """Actions.

        :param x: outputs of the network, [n, n_act]
        :return: [n, ...], float32
        """
        actions = self.low + self.half_range.astype(np.float64) * (np.tanh(x) + 1.0)
        return actions.astype(np.float32).reshape(len(x), *self.shape)


@dataclass(frozen=True)
class GreedyAction:
    """Discrete actions: the one with the largest value, and of equal values the first, as PyTorch's ``argmax`` takes.

    :param n_in: number of actions, each with its value
    """

    n_in: int
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[type] = np.int64

    def __call__(self, x: Array) -> Array:
        """Actions.

        :param x: outputs of the network, [n, n_in]
        :return: [n], int64
        """
        actions: Array = np.argmax(x, axis=-1)
        return actions


Operation = Linear | Activation | LayerNorm | Sum
OPERATIONS: dict[str, type] = {"linear": Linear, "activation": Activation, "layer_norm": LayerNorm, "sum": Sum}
Action = SquashedAction | GreedyAction
ACTIONS: dict[str, type] = {"squashed": SquashedAction, "greedy": GreedyAction}


@dataclass(frozen=True)
class SparsePolicy:
    """A policy: from raw observations to the environment's actions.

    Values are numbered; value 0 is the observation, flat and normalized. All that is exported is made from this.

    :param algorithm: name of the algorithm that trained it
    :param observation_shape: shape of an observation
    :param normalization: what VecNormalize does to observations; None: nothing
    :param operations: what the network computes, in order
    :param output: number of the value that actions are made of
    :param action: how
    :param example_observation: an observation, flat, float32
    :param example_action: the action that goes with it, flat, float32; int64 if it is discrete
    :raises ValueError: if sizes do not fit each other
    """

    algorithm: str
    observation_shape: tuple[int, ...]
    normalization: Normalization | None
    operations: tuple[Operation, ...]
    output: int
    action: Action
    example_observation: Array
    example_action: Array

    def __post_init__(self) -> None:
        try:
            self._check_sizes()
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"is no whole policy ({type(error).__name__}: {error})") from error

    @property
    def n_obs(self) -> int:
        """Number of observation dimensions."""
        return math.prod(self.observation_shape)

    @property
    def n_act(self) -> int:
        """Number of action dimensions; 1 for a discrete action."""
        return math.prod(self.action.shape)

    @property
    def layers(self) -> list[Linear]:
        """Its linear layers in order."""
        return [operation for operation in self.operations if isinstance(operation, Linear)]

    @cached_property
    def widths(self) -> dict[int, int]:
        """Number of features of each value."""
        widths = {0: self.n_obs}
        for operation in self.operations:
            width = operation.n_out if isinstance(operation, Linear) else widths[operation.inputs[0]]
            widths[operation.output] = width
        return widths

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """The action for an observation, or the actions for several, as ``predict`` of Stable-Baselines3 gives them.

        :param observation: raw observation, of shape ``observation_shape`` or [n, ...]
        :param state: handed back as it is, default None
        :param episode_start: not used, default None
        :param deterministic: only True (default) is possible
        :return: the action or actions, float32 or, discrete ones, int64; and ``state``
        :raises ValueError: for another shape, or ``deterministic=False``
        """
        if not deterministic:
            raise ValueError("deterministic=False is not possible: an exported policy acts without noise")
        observation = np.asarray(observation)
        is_single = observation.shape == self.observation_shape
        if not is_single and observation.shape[1:] != self.observation_shape:
            raise ValueError(
                f"an observation of shape {observation.shape}: allowed are {self.observation_shape} and "
                f"(n, {', '.join(map(str, self.observation_shape))})"
            )
        flat = observation.reshape(-1, self.n_obs)
        actions = self.action(self.values(flat)[self.output])
        return (actions[0] if is_single else actions), state

    def values(self, observations: Array) -> dict[int, Array]:
        """All values of the network, by their numbers, in double precision.

        :param observations: raw observations, [n, n_obs]
        """
        normalize = self.normalization or _as_float32
        values = {0: normalize(observations).astype(np.float64)}
        for operation in self.operations:
            values[operation.output] = operation(*(values[number] for number in operation.inputs))
        return values

    @classmethod
    def load(cls, path: str | Path) -> SparsePolicy:
        """Read a policy that ``rlx2 export`` wrote.

        :param path: a ``.safetensors`` file, beside which its ``.json`` lies, or an ``.npz`` file
        :raises ValueError: if it is no such file, or not whole
        """
        path = Path(path)
        try:
            if path.suffix == ".npz":
                # NumPy would leave a damaged file open
                with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
                description = json.loads(str(arrays.pop("policy")))
            else:
                arrays = read_safetensors(path)
                description = json.loads(path.with_suffix(".json").read_text("utf-8"))
            return cls.from_description(description, arrays)
        except OSError:
            raise
        except Exception as error:  # whatever a foreign or damaged file brings about
            raise ValueError(f"{path} is no policy of sb3-rlx2, or is damaged: {error}") from error

    def describe(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """The policy as what JSON can hold, and arrays by name, to which it refers."""
        arrays: dict[str, Array] = {}
        description = {"format": FORMAT, **_described(self, "", arrays)}
        description["operations"] = [
            {"kind": _kind(OPERATIONS, operation), **_described(operation, f"operation_{place}.", arrays)}
            for place, operation in enumerate(self.operations)
        ]
        description["action"] = {"kind": _kind(ACTIONS, self.action), **_described(self.action, "action.", arrays)}
        if self.normalization is not None:
            description["normalization"] = _described(self.normalization, "normalization.", arrays)
        return description, arrays

    @classmethod
    def from_description(cls, description: Mapping[str, Any], arrays: Mapping[str, Array]) -> SparsePolicy:
        """The policy that ``describe`` described.

        :param description: the first of its results
        :param arrays: the second
        :raises ValueError: if it is of another format, or not whole
        """
        if description.get("format") != FORMAT:
            raise ValueError(f"its format is {description.get('format')!r}, and {FORMAT!r} can be read")
        parts = dict(description)
        parts["operations"] = tuple(
            _read(OPERATIONS[operation["kind"]], operation, arrays) for operation in description["operations"]
        )
        parts["action"] = _read(ACTIONS[description["action"]["kind"]], description["action"], arrays)
        if description["normalization"] is not None:
            parts["normalization"] = _read(Normalization, description["normalization"], arrays)
        policy: SparsePolicy = _read(cls, parts, arrays)
        return policy

    def _check_sizes(self) -> None:
        widths, n_obs = {0: self.n_obs}, self.n_obs
        _check(self.example_observation.shape == (n_obs,), "the example's observation")
        if self.normalization is not None:
            _check(self.normalization.mean.shape == self.normalization.std.shape == (n_obs,), "the normalization")
        for place, operation in enumerate(self.operations):
            sizes = {widths[number] for number in operation.inputs}
            _check(len(sizes) == 1 and operation.output not in widths, f"operation {place}")
            (width,) = sizes
            if isinstance(operation, Linear):
                fits = (
                    operation.n_in == width
                    and operation.values.shape == operation.columns.shape == (int(operation.counts.sum()),)
                    and operation.counts.shape == operation.bias.shape
                    and (operation.columns.size == 0 or int(operation.columns.max()) < width)
                )
                _check(fits and operation.columns.dtype.kind == operation.counts.dtype.kind == "u", f"layer {place}")
                width = operation.n_out
            elif isinstance(operation, LayerNorm):
                _check(operation.weight.shape == operation.bias.shape == (width,), f"normalization {place}")
            elif isinstance(operation, Activation):
                _check(operation.function in ACTIVATIONS, f"activation {place}")
            widths[operation.output] = width
        _check(self.action.n_in == widths[self.output] > 0, "the output")
        if isinstance(self.action, SquashedAction):
            _check(self.action.low.shape == self.action.high.shape == (self.n_act,), "the shape of actions")
        _check(self.example_action.shape == (self.n_act,), "the example's action")


def read_safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file: the length of a header, the header in JSON, and the numbers.

    :param path: the file
    :raises ValueError: if it is not whole
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= len(content) - 8:
        raise ValueError("it is no safetensors file, or was cut short")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        _check(0 <= begin <= end <= len(numbers), f"tensor {name}")
        arrays[name] = np.frombuffer(numbers[begin:end], _SAFETENSORS_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _as_float32(x: Array) -> Array:
    return x.astype(np.float32)


def _check(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{what} does not fit the rest")


def _kind(kinds: Mapping[str, type], part: object) -> str:
    return next(name for name, kind in kinds.items() if type(part) is kind)


def _described(part: Any, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """Fields by name, arrays as references."""
    description: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, np.ndarray):
            arrays[prefix + field.name] = value
            value = {"array": prefix + field.name}
        description[field.name] = value
    return description


def _read(cls: Callable[..., Any], description: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:
    values: dict[str, Any] = {}
    for field in fields(cls):  # type: ignore[arg-type]
        value = description[field.name]
        if isinstance(value, Mapping):
            value = arrays[value["array"]]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)
