"""What happened to a model's topology and replay buffer while it trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.analysis.network_parts import input_names, network_parts
from sb3_rlx2.common.topology import networks
from sb3_rlx2.errors import first_line
from sb3_rlx2.files import replacing
from sb3_rlx2.sparse import linear_layers
from sb3_rlx2.sparse.recording import TopologyRecord

FORMAT = 1
MAX_POINTS = 2000
BUFFER_COLUMNS = ("step", "size", "capacity", "n_steps")
DISTANCE_COLUMNS = ("step", "distance")

Shapes = dict[str, dict[str, tuple[int, int]]]
Array = npt.NDArray[Any]


class Series:
    """Numbers over time; when there are too many points, every second one goes.

    :param columns: names of the numbers; the first is the step
    :param rows: points so far, [points, columns]
    """

    def __init__(self, columns: Sequence[str], rows: Array | None = None) -> None:
        self.columns = tuple(columns)
        self.rows: list[tuple[float, ...]] = [] if rows is None else [tuple(map(float, row)) for row in rows]
        self.gap = 0.0

    def add(self, *row: float) -> None:
        """Add a point, unless it comes too soon after the one before; one of the same step takes its place.

        :param row: one number for each column, the step first
        """
        if self.rows and row[0] == self.rows[-1][0]:
            self.rows[-1] = row
            return
        if self.rows and row[0] - self.rows[-1][0] < self.gap:
            return
        self.rows.append(row)
        if len(self.rows) > MAX_POINTS:
            self.rows = self.rows[::2]
            self.gap = self.rows[-1][0] - self.rows[-2][0]

    def truncate(self, step: int) -> None:
        """Forget what came after a step."""
        self.rows = [row for row in self.rows if row[0] <= step]

    def __getitem__(self, column: str) -> Array:
        """A column, [points]."""
        return self.to_array()[:, self.columns.index(column)]

    def to_array(self) -> Array:
        """All points, [points, columns]."""
        return np.array(self.rows, dtype=np.float64).reshape(-1, len(self.columns))


class TopologyHistory:
    """Connections of actor and critic over time, and the replay buffer beside them.

    :param model: the model whose history is to begin
    :param max_records: the maximum number of times at which a network's connections are kept, default 200
    """

    def __init__(self, model: OffPolicyAlgorithm, max_records: int = 200) -> None:
        self.algorithm = type(model).__name__
        self.networks = {name: TopologyRecord(shapes, max_records) for name, shapes in layer_shapes(model).items()}
        self.buffer = Series(BUFFER_COLUMNS)
        self.distances = Series(DISTANCE_COLUMNS)
        self.settings: dict[str, float | None] = {
            "buffer_distance_threshold": getattr(model, "buffer_distance_threshold", None)
        }
        self.first_layers: dict[str, tuple[str, list[str]]] = {}
        self.observations: list[str] = []
        for part in network_parts(model.policy):
            names = input_names(getattr(model.policy, part.owner))
            if part.owner in self.networks and part.first and names is not None:
                self.first_layers[part.name] = (part.owner, list(part.first))
                self.observations = names

    def connections_per_input(self, part: str) -> npt.NDArray[np.int64]:
        """How many connections each input has in a network's first layer, [records, inputs].

        :param part: key of ``first_layers``: ``"actor"``, ``"critic.qf0"`` and so forth. A critic's inputs are the
            observation's dimensions, then the action's.
        """
        owner, layers = self.first_layers[part]
        total: npt.NDArray[np.int64] = sum(
            (self.networks[owner].connections_per_input(layer) for layer in layers[1:]),
            start=self.networks[owner].connections_per_input(layers[0]),
        )
        return total

    def truncate(self, step: int) -> None:
        """Forget what came after an environment step.

        :param step: the last one to keep
        """
        for record in self.networks.values():
            record.truncate(step)
        self.buffer.truncate(step)
        self.distances.truncate(step)

    def fits(self, model: OffPolicyAlgorithm) -> bool:
        """Whether a model has the layers of this history.

        :param model: the model
        """
        return {name: record.shapes for name, record in self.networks.items()} == layer_shapes(model)

    def save(self, path: str | Path) -> None:
        """Write everything to a file, or leave the one that is there as it was.

        :param path: of the ``.npz`` file; its folder is made
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        head, arrays = self._content()
        arrays = {"head": np.array(json.dumps(head)), **arrays}
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)

    def _content(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All of it: what JSON can say, and arrays."""
        head = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "settings": self.settings,
            "shapes": {name: record.shapes for name, record in self.networks.items()},
            "first_layers": self.first_layers,
            "observations": self.observations,
        }
        arrays: dict[str, Any] = {"buffer": self.buffer.to_array(), "distances": self.distances.to_array()}
        for name, record in self.networks.items():
            arrays |= {f"{name}/{key}": array for key, array in record.to_arrays().items()}
        return head, arrays

    def get_state(self) -> dict[str, Any]:
        """All of it as plain data, for a checkpoint of a training."""
        head, arrays = self._content()
        limits = {name: record.limit for name, record in self.networks.items()}
        return {"head": head, "arrays": arrays, "limits": limits, "gaps": [self.buffer.gap, self.distances.gap]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TopologyHistory:
        """A history as it was.

        :param state: what ``get_state`` returned
        """
        history = cls.__new__(cls)
        history._restore(state["head"], state["arrays"], max(state["limits"].values(), default=None))
        history.buffer.gap, history.distances.gap = state["gaps"]
        return history

    @classmethod
    def load(cls, path: str | Path, max_records: int | None = None) -> TopologyHistory:
        """Read what ``save`` wrote.

        :param path: of the ``.npz`` file
        :param max_records: the maximum number of records from now on; None (default): as many as there are, at least
            200
        :raises ValueError: if it is no such file, or one that is damaged or was cut short
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            head = json.loads(str(arrays["head"]))
            if head["format"] != FORMAT:
                raise ValueError(f"it has format {head['format']}, known is {FORMAT}: update sb3-rlx2")
            history = cls.__new__(cls)
            history._restore(head, arrays, max_records)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: there is no such file") from error
        except Exception as error:  # whatever a foreign or damaged file brings about
            problem = f"not a topology history, or one that was cut short ({first_line(error)})"
            raise ValueError(f"{path}: {problem}") from error
        return history

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, Array], max_records: int | None) -> None:
        self.algorithm = head["algorithm"]
        self.settings = head["settings"]
        self.observations = head["observations"]
        self.first_layers = {part: (owner, layers) for part, (owner, layers) in head["first_layers"].items()}
        self.buffer = Series(BUFFER_COLUMNS, arrays["buffer"])
        self.distances = Series(DISTANCE_COLUMNS, arrays["distances"])
        self.networks = {}
        for name, shapes in head["shapes"].items():
            own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
            limit = max(200, len(own["steps"])) if max_records is None else max_records
            self.networks[name] = TopologyRecord.from_arrays(
                {layer: (out, in_) for layer, (out, in_) in shapes.items()}, own, limit
            )


def layer_shapes(model: OffPolicyAlgorithm) -> Shapes:
    """(out_features, in_features) of the linear layers of a model's online networks."""
    return {
        name: {key: (layer.out_features, layer.in_features) for key, layer in linear_layers(network).items()}
        for name, network in networks(model).items()
    }
