"""The connections of a network over time, in little memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_rlx2.sparse.checks import check_count

Bits = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


class TopologyRecord:
    """The connections of one network at many times, one bit for each possible connection.

    When there are more records than the limit, about every second one is forgotten and from then on only about every
    second one is wanted, and so forth. The first and the newest stay.

    :param shapes: (out_features, in_features) of each layer by name
    :param limit: the maximum number of records, at least 3, default 200
    :raises ValueError: for a lower limit
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], limit: int = 200) -> None:
        self.shapes = {name: (int(out), int(in_)) for name, (out, in_) in shapes.items()}
        self.limit = check_count(limit, "limit", 3)
        self.steps: list[int] = []
        self.updates: list[int] = []
        self.numbers: list[int] = []
        self._bits: dict[str, list[Bits]] = {name: [] for name in self.shapes}
        self._stride = 1

    def __len__(self) -> int:
        """Number of records."""
        return len(self.numbers)

    def wants(self, number: int) -> bool:
        """Whether a record with this number is to be added.

        :param number: counts what is recorded, such as evolutions
        """
        return not self.numbers or number - self.numbers[-1] >= self._stride

    def add(self, step: int, update: int, number: int, masks: Mapping[str, Mask]) -> None:
        """Add a record.

        :param step: environment steps or samples so far
        :param update: updates of this network so far
        :param number: counts what is recorded, such as evolutions; higher than that of the record before
        :param masks: which connections are present, bool [out_features, in_features] by layer
        """
        self.steps.append(step)
        self.updates.append(update)
        self.numbers.append(number)
        for name, bits in self._bits.items():
            bits.append(np.packbits(masks[name]))
        if len(self) > self.limit:
            self._stride *= 2
            self._keep(self._thinned())

    def _thinned(self) -> list[int]:
        kept = [0]
        for index in range(1, len(self) - 1):
            if self.numbers[index] - self.numbers[kept[-1]] >= self._stride:
                kept.append(index)
        while len(kept) >= self.limit:  # numbers that lie far apart
            kept = kept[::2]
        return [*kept, len(self) - 1]

    def _keep(self, indices: list[int]) -> None:
        self.steps = [self.steps[index] for index in indices]
        self.updates = [self.updates[index] for index in indices]
        self.numbers = [self.numbers[index] for index in indices]
        self._bits = {name: [bits[index] for index in indices] for name, bits in self._bits.items()}

    def truncate(self, step: int) -> None:
        """Forget the records of later steps.

        :param step: the last step to keep
        """
        self._keep([index for index, own in enumerate(self.steps) if own <= step])

    # --- what it shows ---

    def mask(self, layer: str, index: int) -> Mask:
        """The connections of a layer at one record: bool [out_features, in_features].

        :param layer: its name
        :param index: of the record, in order; -1: the newest
        """
        out, in_ = self.shapes[layer]
        return np.unpackbits(self._bits[layer][index], count=out * in_).astype(bool).reshape(out, in_)

    def connections(self, layer: str) -> Counts:
        """Number of connections of a layer, [records].

        :param layer: its name
        """
        return np.array([int(self.mask(layer, index).sum()) for index in range(len(self))], dtype=np.int64)

    def grown(self, layer: str) -> Counts:
        """Connections of a layer that are new since the record before, [records]; 0 at the first.

        As many were dropped. What came and went between two records is not seen.

        :param layer: its name
        """
        fresh = [0] * min(len(self), 1)
        for index in range(1, len(self)):
            new = ~self._bits[layer][index - 1] & self._bits[layer][index]
            fresh.append(int(np.unpackbits(new).sum()))
        return np.array(fresh, dtype=np.int64)

    def generations(self, layer: str) -> Counts:
        """How many connections of each generation are alive at each record, [records, records].

        Row t, column g: connections of the layer that were new at record g and present at every record since, up to t.
        Column 0 are the first record's own; the diagonal is each generation's size.

        :param layer: its name
        """
        born = np.full(self.shapes[layer], -1, dtype=np.int64)
        alive = np.zeros((len(self), len(self)), dtype=np.int64)
        before = np.zeros(self.shapes[layer], dtype=bool)
        for index in range(len(self)):
            now = self.mask(layer, index)
            born[now & ~before] = index
            alive[index] = np.bincount(born[now], minlength=len(self))
            before = now
        return alive

    def connections_per_input(self, layer: str) -> Counts:
        """How many connections lead away from each input of a layer, [records, in_features].

        :param layer: its name
        """
        _, in_ = self.shapes[layer]
        counts = [self.mask(layer, index).sum(axis=0) for index in range(len(self))]
        return np.array(counts, dtype=np.int64).reshape(len(self), in_)

    # --- on disk ---

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays for ``numpy.savez_compressed``: of connections only what changed, which compresses well."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "steps": np.array(self.steps, dtype=np.int64),
            "updates": np.array(self.updates, dtype=np.int64),
            "numbers": np.array(self.numbers, dtype=np.int64),
            "stride": np.array(self._stride),
        }
        for name, bits in self._bits.items():
            rows = np.array(bits, dtype=np.uint8).reshape(len(self), -(-math.prod(self.shapes[name]) // 8))
            rows[1:] = rows[1:] ^ rows[:-1]
            arrays[f"layers/{name}"] = rows
        return arrays

    @classmethod
    def from_arrays(
        cls, shapes: Mapping[str, tuple[int, int]], arrays: Mapping[str, npt.NDArray[Any]], limit: int = 200
    ) -> TopologyRecord:
        """What ``to_arrays`` wrote.

        :param shapes: (out_features, in_features) of each layer by name
        :param arrays: as ``to_arrays`` returned them
        :param limit: the maximum number of records, default 200
        :raises ValueError: if they do not fit the shapes
        """
        record = cls(shapes, limit)
        for name in ("steps", "updates", "numbers"):
            setattr(record, name, [int(value) for value in arrays[name]])
        record._stride = int(arrays["stride"])
        for name, (out, in_) in record.shapes.items():
            rows = arrays[f"layers/{name}"]
            if rows.dtype != np.uint8 or rows.shape != (len(record), -(-out * in_ // 8)):
                raise ValueError(f"layer {name!r}: {rows.dtype} {rows.shape} does not fit {len(record)} records")
            record._bits[name] = list(np.bitwise_xor.accumulate(rows, axis=0))
        if len(record) > record.limit:
            record._keep(record._thinned())
        return record
