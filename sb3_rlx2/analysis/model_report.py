"""How a report on a model is laid out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sb3_rlx2.analysis.flops import UpdateFlops
from sb3_rlx2.analysis.report_tables import print_report, to_json, to_markdown, to_text


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    :param name: its name in the network that holds it
    :param shape: (outputs, inputs), or that of a convolution's kernels
    :param connections: number of weights that are present
    :param dense_connections: number of weights that a dense layer of this shape has
    :param weight_bytes: of values, indices and bias
    :param dense_weight_bytes: of a dense layer's weight and bias
    :param optimizer_bytes: of the optimizer's state for this layer, 0 before the first update and in target networks
    :param dense_optimizer_bytes: the same for a dense layer
    :param flops: of a forward pass of one sample
    :param dense_flops: the same for a dense layer
    :param units_without_inputs: units to which no connection leads; None for a convolution
    :param units_without_outputs: hidden units from which no connection leads on; None for the last layer, in
        features extractors and where the order of the layers is not known
    :param dormant_units: hidden units that are dormant on the batch; None where the layer has no hidden units or no
        batch was there
    :param unreachable_outputs: outputs of the network to which no path leads from any of its inputs; None for hidden
        layers, in features extractors and where the order of the layers is not known
    """

    name: str
    shape: tuple[int, ...]
    connections: int
    dense_connections: int
    weight_bytes: int
    dense_weight_bytes: int
    optimizer_bytes: int
    dense_optimizer_bytes: int
    flops: float
    dense_flops: float
    units_without_inputs: int | None
    units_without_outputs: int | None
    dormant_units: int | None
    unreachable_outputs: int | None

    @property
    def units(self) -> int:
        """Number of outputs."""
        return self.shape[0]

    @property
    def density(self) -> float:
        """Fraction of the weights that are present."""
        return self.connections / self.dense_connections

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint holds of this layer: SB3 stores weights and optimizer state uncompressed."""
        return self.weight_bytes + self.optimizer_bytes


@dataclass(frozen=True)
class NetworkReport:
    """A network, such as one critic, or a features extractor.

    :param name: such as ``"actor"``, ``"critic.qf0"``, ``"critic_target.qf0"`` or ``"actor.features_extractor"``
    :param layers: its layers in order
    :param shared_with: the earlier network that has the very same layers; None (default): there is none
    """

    name: str
    layers: tuple[LayerReport, ...]
    shared_with: str | None = None

    def total(self, field: str) -> Any:
        """Sum of a field over the layers that have it; None if none has.

        :param field: name of a number in ``LayerReport``
        """
        present = [value for layer in self.layers if (value := getattr(layer, field)) is not None]
        return sum(present) if present else None

    @property
    def density(self) -> float:
        """Fraction of the weights that are present."""
        return float(self.total("connections") / self.total("dense_connections"))

    @property
    def dormant_share(self) -> float | None:
        """Share of dormant units among the hidden ones; None without a batch."""
        hidden = [layer for layer in self.layers if layer.dormant_units is not None]
        return self.total("dormant_units") / sum(layer.units for layer in hidden) if hidden else None


@dataclass(frozen=True)
class InputReport:
    """An input dimension of the networks.

    :param name: the observation dimension, such as ``"3"``, or the action dimension, such as ``"action 0"``
    :param connections: in the first layer, by network
    """

    name: str
    connections: dict[str, int]


@dataclass(frozen=True)
class FlopsReport:
    """FLOPs of an action and of an update, against Stable-Baselines3's dense algorithm (docs/flops.md).

    :param action: of one action
    :param dense_action: of one action of the dense actor
    :param batch_size: transitions in an update
    :param update: of one update
    :param dense_update: of one update of the dense algorithm with 1-step targets
    """

    action: float
    dense_action: float
    batch_size: int
    update: UpdateFlops
    dense_update: UpdateFlops

    @property
    def action_ratio(self) -> float:
        """FLOPs of an action as a fraction of dense."""
        return self.action / self.dense_action

    @property
    def update_ratio(self) -> float:
        """FLOPs of an update as a fraction of dense."""
        return self.update.total / self.dense_update.total


@dataclass(frozen=True)
class ModelReport:
    """What a model is made of.

    :param algorithm: name of its class
    :param timesteps: environment steps that it was trained for
    :param networks: actor, critics and targets
    :param flops: of an action and of an update
    :param checkpoint_bytes: size of the saved model
    :param inputs: connections of each observation and action dimension; empty behind a features extractor
    :param dormant_threshold: units are dormant whose mean activity is at most this fraction of their layer's average
    :param n_samples: transitions in the batch on which dormant units were sought; 0: there was none
    """

    algorithm: str
    timesteps: int
    networks: tuple[NetworkReport, ...]
    flops: FlopsReport
    checkpoint_bytes: int
    inputs: tuple[InputReport, ...]
    dormant_threshold: float
    n_samples: int

    def total(self, field: str) -> Any:
        """Sum of a field over all networks, layers that two of them share once; None if no layer has it.

        :param field: name of a number in ``LayerReport``
        """
        own = [network for network in self.networks if network.shared_with is None]
        present = [value for network in own if (value := network.total(field)) is not None]
        return sum(present) if present else None

    def __str__(self) -> str:
        return to_text(self)

    def print(self) -> None:
        """Print tables, with the library ``rich`` where it is installed."""
        print_report(self)

    def to_json(self) -> str:
        """The report as JSON: all fields, with densities, totals and ratios."""
        return to_json(self)

    def to_markdown(self) -> str:
        """The report as Markdown, for a model card."""
        return to_markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as nested dicts and lists, densities, totals and ratios included."""
        result: dict[str, Any] = asdict(self)
        for network, plain in zip(self.networks, result["networks"], strict=True):
            plain |= {"density": network.density, "dormant_share": network.dormant_share}
            for layer, plain_layer in zip(network.layers, plain["layers"], strict=True):
                plain_layer |= {"density": layer.density, "checkpoint_bytes": layer.checkpoint_bytes}
        result["flops"] |= {
            "update": {**self.flops.update._asdict(), "total": self.flops.update.total},
            "dense_update": {**self.flops.dense_update._asdict(), "total": self.flops.dense_update.total},
            "action_ratio": self.flops.action_ratio,
            "update_ratio": self.flops.update_ratio,
        }
        return result
