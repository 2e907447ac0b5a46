"""Policies as ONNX: a graph from raw observations to the environment's actions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sb3_rlx2.export.sparse_policy import (
    Activation,
    Array,
    GreedyAction,
    LayerNorm,
    Linear,
    SparsePolicy,
    SquashedAction,
)
from sb3_rlx2.version import __version__

OPSET = 17
"""The first with LayerNormalization: ONNX Runtime 1.12."""
IR_VERSION = 8
"""That of the same release of ONNX, so that older runtimes open the file."""


def write_onnx(policy: SparsePolicy, folder: Path, name: str, sparse: bool = False) -> Path:
    """Write ``NAME.onnx``: input ``observation`` [batch, ...], output ``action`` [batch, ...], both float32.

    Discrete actions are int64, [batch].

    :param policy: the policy
    :param folder: where
    :param name: of the file
    :param sparse: whether weights are sparse initializers, default False; ONNX Runtime makes them dense when it loads
    :return: the file
    :raises ImportError: without the package ``onnx``
    """
    import onnx

    graph = _Graph(policy, sparse)
    model = onnx.helper.make_model(
        graph.finished(name),
        producer_name="sb3-rlx2",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=f"The policy of a model of {policy.algorithm}, as it acts without noise.",
    )
    onnx.helper.set_model_props(
        model,
        {
            "algorithm": policy.algorithm,
            "example_observation": " ".join(map(str, policy.example_observation.tolist())),
            "example_action": " ".join(map(str, policy.example_action.tolist())),
        },
    )
    onnx.checker.check_model(model, full_check=not sparse)  # types are not inferred through sparse ones
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def onnx_policy(path: Path) -> Callable[[Array], Array] | None:
    """Actions [n, n_act] of an ONNX file, computed by ONNX Runtime; None if it is not installed.

    :param path: the file
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def act(observations: Array) -> Array:
        (actions,) = session.run(["action"], {"observation": observations.astype(np.float32)})
        flat: Array = actions.reshape(len(observations), -1)
        return flat

    return act


class _Graph:
    """Collects nodes and initializers."""

    def __init__(self, policy: SparsePolicy, sparse: bool) -> None:
        self.policy, self.sparse = policy, sparse
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.sparse_initializers: list[Any] = []

    def finished(self, name: str) -> Any:
        """The graph."""
        from onnx import TensorProto, helper

        policy = self.policy
        names = {0: self.observation()}
        for operation in policy.operations:
            inputs = [names[number] for number in operation.inputs]
            names[operation.output] = self.operation(operation, inputs, f"value_{operation.output}")
        if isinstance(policy.action, GreedyAction):
            self.node("ArgMax", [names[policy.output]], "action", axis=1, keepdims=0)
        else:
            self.action(policy.action, names[policy.output])
        kind = TensorProto.INT64 if isinstance(policy.action, GreedyAction) else TensorProto.FLOAT
        ends = (
            ("observation", TensorProto.FLOAT, policy.observation_shape),
            ("action", kind, policy.action.shape),
        )
        observation, action = (
            helper.make_tensor_value_info(end, of_type, ["batch", *shape]) for end, of_type, shape in ends
        )
        return helper.make_graph(
            self.nodes, name, [observation], [action], self.initializers, sparse_initializer=self.sparse_initializers
        )

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Append an initializer; its name."""
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def observation(self) -> str:
        """The flat, normalized observation."""
        from onnx import TensorProto

        value, normalization = "observation", self.policy.normalization
        if len(self.policy.observation_shape) != 1:
            value = self.node(
                "Reshape", [value, self.constant("flat", np.array([-1, self.policy.n_obs]))], "flat_observation"
            )
        if normalization is not None:
            value = self.node("Cast", [value], "observation_float64", to=TensorProto.DOUBLE)
            value = self.node("Sub", [value, self.constant("observation_mean", normalization.mean)], "centered")
            value = self.node("Div", [value, self.constant("observation_std", normalization.std)], "scaled")
            limits = [self.constant(f"clip_{end}", np.array(sign * normalization.clip)) for end, sign in _ENDS]
            value = self.node("Clip", [value, *limits], "clipped")
            value = self.node("Cast", [value], "normalized_observation", to=TensorProto.FLOAT)
        return value

    def operation(self, operation: Any, inputs: list[str], output: str) -> str:
        """What one operation makes of its inputs."""
        if isinstance(operation, Linear):
            bias = self.constant(f"{output}_bias", operation.bias)
            return self.node("Gemm", [*inputs, self.weight(operation, f"{output}_weight"), bias], output, transB=1)
        if isinstance(operation, LayerNorm):
            scale = self.constant(f"{output}_scale", operation.weight)
            bias = self.constant(f"{output}_bias", operation.bias)
            return self.node("LayerNormalization", [*inputs, scale, bias], output, epsilon=operation.epsilon)
        if isinstance(operation, Activation):
            return self.activation(operation, inputs[0], output)
        return self.node("Add", inputs, output)

    def weight(self, layer: Linear, name: str) -> str:
        """The weights of a layer; its name."""
        if not self.sparse or layer.is_dense or not len(layer.values):
            return self.constant(name, layer.dense_weight)
        from onnx import helper, numpy_helper

        rows = layer.rows
        flat = rows.astype(np.int64) * layer.n_in + layer.columns
        values = numpy_helper.from_array(layer.values, name)
        indices = numpy_helper.from_array(flat, f"{name}_indices")
        self.sparse_initializers.append(helper.make_sparse_tensor(values, indices, [layer.n_out, layer.n_in]))
        return name

    def activation(self, activation: Activation, value: str, output: str) -> str:
        """An activation, those that this opset does not have made of others."""
        kind, alpha = activation.function, activation.parameter
        if kind in _NODES:
            return self.node(
                _NODES[kind], [value], output, **({"alpha": alpha} if kind in ("elu", "leaky_relu") else {})
            )
        if kind == "silu":
            return self.node("Mul", [value, self.node("Sigmoid", [value], f"{output}_sigmoid")], output)
        if kind == "gelu":
            inner = self.node("Mul", [value, self.number(np.sqrt(0.5), output, "root")], f"{output}_inner")
            rising = self.node("Erf", [inner], f"{output}_erf")
        else:
            square = self.node("Mul", [value, value], f"{output}_square")
            cube = self.node("Mul", [square, value], f"{output}_cube")
            cubic = self.node("Mul", [cube, self.number(0.044715, output, "cubic")], f"{output}_cubic")
            both = self.node("Add", [value, cubic], f"{output}_both")
            inner = self.node("Mul", [both, self.number(np.sqrt(2.0 / np.pi), output, "root")], f"{output}_inner")
            rising = self.node("Tanh", [inner], f"{output}_tanh")
        share = self.node("Add", [rising, self.number(1.0, output, "one")], f"{output}_share")
        half = self.node("Mul", [value, self.number(0.5, output, "half")], f"{output}_half")
        return self.node("Mul", [half, share], output)

    def number(self, value: float, output: str, name: str) -> str:
        """A number of single precision; its name."""
        return self.constant(f"{output}_{name}_value", np.array(value, np.float32))

    def action(self, action: SquashedAction, value: str) -> None:
        """From the network's output to the bounds of the action."""
        value = self.node("Tanh", [value], "squashed")
        value = self.node("Add", [value, self.constant("one", np.array(1.0, np.float32))], "shifted")
        value = self.node("Mul", [value, self.constant("action_half_range", action.half_range)], "rescaled")
        low = self.constant("action_low", action.low)
        if len(action.shape) == 1:
            self.node("Add", [value, low], "action")
        else:
            value = self.node("Add", [value, low], "flat_action")
            self.node("Reshape", [value, self.constant("shape", np.array([-1, *action.shape]))], "action")


_ENDS = (("low", -1.0), ("high", 1.0))
_NODES = {"relu": "Relu", "tanh": "Tanh", "elu": "Elu", "leaky_relu": "LeakyRelu"}
