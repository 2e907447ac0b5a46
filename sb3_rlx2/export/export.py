"""Export a trained policy, and check it against ``predict`` before it is called done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.export import observations as sources
from sb3_rlx2.export.c_compiler import compiled_policy, find_compiler
from sb3_rlx2.export.c_files import WrittenC, check_name, prepared, quantized, write_c, write_main
from sb3_rlx2.export.checks import Agreement, agreement, of_half_ranges, predictions
from sb3_rlx2.export.folders import appearing_together
from sb3_rlx2.export.numpy_files import write_npz, write_safetensors
from sb3_rlx2.export.onnx_files import OPSET, onnx_policy, write_onnx
from sb3_rlx2.export.quantization import Measured, Quantization
from sb3_rlx2.export.reading import read_policy
from sb3_rlx2.export.sparse_policy import Array, GreedyAction, SparsePolicy
from sb3_rlx2.sparse.checks import check_count

Target = Literal["c", "onnx", "safetensors", "numpy"]
Precision = Literal["float32", "int16", "int8"]
TARGETS: tuple[str, ...] = get_args(Target)
PRECISIONS: tuple[str, ...] = get_args(Precision)
N_OBSERVATIONS = {"float32": 1000, "int16": 10_000, "int8": 10_000}
"""For the check and for the calibration of integers, unless said otherwise."""
Act = Callable[[Array], Array]


@dataclass(frozen=True)
class ExportReport:
    """What an export has written.

    :param folder: where
    :param files: sizes in bytes by name
    :param agreement: how far its actions are from those of ``predict``
    :param notes: what else is to be known, a sentence each
    :param table_bytes: of C's constant tables, otherwise None
    :param stack_bytes: of the numbers that a call in C keeps, otherwise None
    :param measured: of integers: how far actions were from the exact ones on observations that the tables were not
        fitted to; otherwise None
    :param bound: of integers: what is proven for all observations within the range of the calibration, in the same
        units; otherwise None
    """

    folder: Path
    files: dict[str, int]
    agreement: Agreement
    notes: tuple[str, ...] = ()
    table_bytes: int | None = None
    stack_bytes: int | None = None
    measured: Measured | None = None
    bound: float | None = None

    def __str__(self) -> str:
        lines = [f"{self.folder / name}: {size:,} bytes" for name, size in self.files.items()]
        if self.table_bytes is not None:
            lines.append(
                f"tables: {self.table_bytes:,} bytes of flash; numbers of a call: {self.stack_bytes:,} of stack"
            )
        return "\n".join([*lines, f"checked on {self.agreement}", *self.notes])


@dataclass(frozen=True)
class _Made:
    """What a target has made.

    :param act: computes actions [n, n_act] from the files that were written, for raw observations
    :param notes: what is to be known
    :param written: C's sizes
    :param quantization: that of integers
    """

    act: Act
    notes: tuple[str, ...] = ()
    written: WrittenC | None = None
    quantization: Quantization | None = None


def export(
    model: OffPolicyAlgorithm,
    path: str | Path,
    to: Target = "c",
    *,
    name: str = "policy",
    precision: Precision = "float32",
    sparse: bool = False,
    with_main: bool = False,
    vec_normalize: VecNormalize | None = None,
    observations: Array | None = None,
    seed: int = 0,
) -> ExportReport:
    """Write the policy of a model, as it acts without noise, and check that it computes what ``predict`` does.

    Nothing is written unless it does.

    :param model: an off-policy algorithm of this package, Stable-Baselines3 or sb3-contrib; it is not changed
    :param path: folder for the files; made if it is not there. Files of the same names are replaced
    :param to: ``"c"`` (default), ``"onnx"``, ``"safetensors"`` (with JSON) or ``"numpy"`` (``.npz``)
    :param name: what names of files, and in C of functions, begin with, default ``"policy"``
    :param precision: ``"float32"`` (default), or of C's tables ``"int8"`` or ``"int16"``
    :param sparse: whether ONNX has sparse initializers, default False: dense ones, which every runtime reads
    :param with_main: whether C has a program too that tests the policy, default False
    :param vec_normalize: whose statistics normalize observations; None (default): the model's own, if it has one
    :param observations: raw observations [n, ...] for the check and for the calibration of integers; None
        (default): drawn from the replay buffer, or else at random
    :param seed: of these draws
    :return: what was written
    :raises ValueError: if the policy cannot be exported, an argument is not allowed, the folder cannot be written, or
        actions differ from those of ``predict``; the message says which
    """
    for argument, value, allowed in (("to", to, TARGETS), ("precision", precision, PRECISIONS)):
        if value not in allowed:
            raise ValueError(f"{argument}={value!r} is unknown: allowed are {list(allowed)}")
    for_c = [f"precision={precision!r}"] * (precision != "float32") + ["with_main=True"] * bool(with_main)
    if to != "c" and for_c:
        raise ValueError(f"to={to!r}: {for_c[0]} is possible with to='c' only")
    if vec_normalize is not None and not isinstance(vec_normalize, VecNormalize):
        raise ValueError(f"vec_normalize={vec_normalize!r} is not allowed: it must be a VecNormalize or None")
    if to != "onnx" and sparse:
        raise ValueError(f"to={to!r}: sparse=True is possible with to='onnx' only")
    check_name(name)
    check_count(seed, "seed", 0)
    vec_normalize = vec_normalize or model.get_vec_normalize_env()
    if vec_normalize is None and getattr(model, "observations_were_normalized", False):
        raise ValueError(
            "the model was trained with VecNormalize, whose statistics are missing: they are in the file that its "
            "save() wrote"
        )
    policy = read_policy(model, vec_normalize)
    if observations is None:
        observations = sources.from_buffer(model, N_OBSERVATIONS[precision], seed)
        if observations is None and precision != "float32":
            raise ValueError(
                f"{precision} is calibrated on observations: there are none, and the replay buffer is empty"
            )
        if observations is None:
            observations = sources.drawn(policy, model.observation_space, N_OBSERVATIONS[precision], seed)  # type: ignore[arg-type]
    observations = _checked(policy, observations)
    expected = predictions(model, vec_normalize, observations)
    example = _clearest(policy, observations)
    policy = replace(
        policy,
        example_observation=observations[example].astype(np.float32).ravel(),
        example_action=expected[example].astype(policy.action.dtype),
    )
    with appearing_together(path) as folder, TemporaryDirectory() as room:
        if to == "c":
            made = _make_c(policy, folder, name, precision, observations, Path(room))
        elif to == "onnx":
            made = _make_onnx(policy, folder, name, sparse)
        else:
            file = {"safetensors": write_safetensors, "numpy": write_npz}[to](policy, folder, name)
            made = _Made(_flat(SparsePolicy.load(file)))
        actions = made.act(observations)
        found = agreement(policy, observations, actions, expected)
        if made.quantization is not None:
            found = found._replace(allowed=found.allowed + of_half_ranges(policy, made.quantization.allowed))
        if not found.holds:
            raise ValueError(f"nothing is written, since the export does not compute what predict does. On {found}")
        if with_main:
            if isinstance(policy.action, GreedyAction):  # of equal values the check allows another action
                policy = replace(policy, example_action=actions[example].astype(policy.action.dtype))
            write_main(policy, folder, name, found.allowed)
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    return ExportReport(
        folder=Path(path),
        files=files,
        agreement=found,
        notes=made.notes,
        table_bytes=None if made.written is None else made.written.table_bytes,
        stack_bytes=None if made.written is None else made.written.stack_bytes,
        measured=None if made.quantization is None else made.quantization.measured,
        bound=None if made.quantization is None else made.quantization.bound,
    )


def _make_c(
    policy: SparsePolicy,
    folder: Path,
    name: str,
    precision: Precision,
    observations: Array,
    room: Path,
) -> _Made:
    policy = prepared(policy)
    quantization = None if precision == "float32" else quantized(policy, observations, precision)
    written = write_c(policy, folder, name, quantization)
    compiler = find_compiler()
    if compiler is not None:
        dtype = np.int32 if isinstance(policy.action, GreedyAction) else np.float32
        act = compiled_policy(written.path, room / f"{name}.so", policy.n_act, compiler, dtype=dtype)
        notes = [f"compiled by {compiler}"]
        if quantization is not None:
            notes.append(
                f"{quantization.measured.told(policy.action)}; proven is {quantization.bound:.2g} for all within the "
                "range of the calibration"
            )
        return _Made(act, tuple(notes), written, quantization)
    if quantization is not None:
        raise ValueError(
            f"precision={precision!r} needs a C compiler to be checked, and there is none: cc, gcc or clang"
        )
    note = "not compiled here: there is no C compiler (cc, gcc, clang). Its tables were checked"
    return _Made(_flat(policy), (note,), written)


def _make_onnx(policy: SparsePolicy, folder: Path, name: str, sparse: bool) -> _Made:
    act = onnx_policy(write_onnx(policy, folder, name, sparse))
    notes = [f"opset {OPSET}, checked by onnx.checker"]
    if act is None:
        notes.append("not computed here: the package onnxruntime is not installed. What it was made of was checked")
    return _Made(act or _flat(policy), tuple(notes))


def _flat(policy: SparsePolicy) -> Act:
    def act(observations: Array) -> Array:
        return policy.predict(observations)[0].reshape(len(observations), -1)

    return act


def _clearest(policy: SparsePolicy, observations: Array) -> int:
    """Which observation is the example: of discrete actions one that no rounding changes."""
    if not isinstance(policy.action, GreedyAction) or policy.action.n_in == 1:
        return 0
    outputs = np.sort(policy.values(observations.reshape(len(observations), -1))[policy.output])
    return int((outputs[:, -1] - outputs[:, -2]).argmax())


def _checked(policy: SparsePolicy, observations: Any) -> Array:
    allowed = f"they must be finite in single precision, at least one, each of shape {policy.observation_shape}"
    try:
        # As they are stored and sent: what is computed from them is compared, not what rounding makes of them before
        with np.errstate(over="ignore"):
            array = np.asarray(observations).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"observations are not allowed to be a {type(observations).__name__} that is no array of numbers: {allowed}"
        ) from error
    if array.ndim == 0 or len(array) == 0 or array.shape[1:] != policy.observation_shape:
        raise ValueError(f"observations of shape {array.shape} are not allowed: {allowed}")
    if not np.isfinite(array).all():
        raise ValueError(f"observations with NaN, infinite or too large numbers are not allowed: {allowed}")
    return array
