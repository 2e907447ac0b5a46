"""Numbers, tables and memory in C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_rlx2.export.sparse_policy import Array

WIDTH = 110
TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "int16": "int16_t",
    "int32": "int32_t",
}


def number(value: float) -> str:
    """A floating-point number of single precision, exactly.

    :param value: the number
    """
    text = np.format_float_scientific(np.float32(value), unique=True, trim="0", exp_digits=1)
    return f"{text.replace('e+', 'e')}F"


def table(name: str, values: Array, comment: str = "") -> str:
    """A constant array.

    :param name: its name
    :param values: one-dimensional, at least one
    :param comment: what it is
    """
    kind = values.dtype.name
    if kind == "float32":
        entries = [number(value) for value in values]
    else:
        entries = [f"{value}{'U' if kind.startswith('u') else ''}" for value in values.tolist()]
    lines, line = [], "   "
    for entry in entries:
        if len(line) + len(entry) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {entry},"
    lines.append(line.rstrip(","))
    head = f"/* {comment} */\n" if comment else ""
    return f"{head}static const {TYPES[kind]} {name}[{len(values)}] = {{\n" + "\n".join(lines) + "\n};\n"


@dataclass(frozen=True)
class Buffer:
    """Memory for one value while an action is computed.

    :param kind: its element type, ``"float"`` or ``"int16_t"``
    :param size: number of elements
    """

    kind: str
    size: int


@dataclass(frozen=True)
class Call:
    """A call of a function, which reads buffers and writes one.

    :param text: the call, with ``{0}``, ``{1}`` for what it reads and ``{out}`` for what it writes
    :param reads: numbers of buffers
    :param writes: number of a buffer
    :param is_in_place: whether it may write where it reads
    """

    text: str
    reads: tuple[int, ...]
    writes: int
    is_in_place: bool = False


def offsets(calls: Sequence[Call], buffers: dict[int, Buffer]) -> tuple[dict[int, int], dict[str, int]]:
    """Where in memory buffers lie, those together that are not needed at the same time, and how much memory it takes.

    :param calls: in order
    :param buffers: those that memory is needed for
    :return: offsets by number of the buffer, and elements in all by type
    """
    last = {number: place for place, call in enumerate(calls) for number in call.reads}
    places: dict[int, int] = {}
    sizes = {"float": 0, "int16_t": 0}
    for place, call in enumerate(calls):
        buffer = buffers[call.writes]
        live = [n for n in places if buffers[n].kind == buffer.kind and last.get(n, len(calls)) >= place]
        ending = [n for n in call.reads if n in live and last[n] == place and call.is_in_place]
        if ending:
            offset = places[ending[0]]
        else:
            offset = 0
            for n in sorted(live, key=lambda n: places[n]):
                if places[n] < offset + buffer.size:
                    offset = max(offset, places[n] + buffers[n].size)
        places[call.writes] = offset
        sizes[buffer.kind] = max(sizes[buffer.kind], offset + buffer.size)
    return places, sizes
