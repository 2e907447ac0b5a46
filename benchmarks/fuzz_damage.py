"""Damage to saved models and replay buffers that no checksum notices: the archive is written anew around it."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import pickle
import random
import warnings
import zipfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

from sb3_rlx2 import DynamicReplayBuffer
from sb3_rlx2.files import read_state, write_state

Members = dict[str, Any]

SCALARS: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.0, 0.5, 1, 1.0, 2, 3, 5, 166.7, 1e30, -1e30, 10**30, -(10**30),
    2**31, 2**53, 2**63, True, False, None, "text", "", "auto", "0.1", [], [1, 2], {}, {"a": 1}, [[]],
]  # fmt: skip
"""What is put in place of a number or another plain value."""

TOO_SLOW = ("gradient_steps", "batch_size", "n_steps")
"""Settings that may be large, but with which no test ends."""


class Odd:
    """Its pickle calls something that raises an exception where it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def odd_objects() -> list[Any]:
    """Objects for the place of a pickled attribute."""
    return [
        "text", 5, None, math.nan, [], {}, int, np.zeros(3), th.zeros(2),
        Odd(int, "text"), Odd(getattr, 5, "text"), Odd(len, 5), Odd(th.zeros, -1),
        NormalActionNoise(np.zeros(1), np.full(1, np.nan)), NormalActionNoise(np.zeros(7), np.ones(7)),
        NormalActionNoise(np.zeros(1), np.full(1, 0.3)),
        TrainFreq(0, TrainFrequencyUnit.STEP), TrainFreq(2, TrainFrequencyUnit.STEP), TrainFreq("x", "y"), (1, "x", 3),
    ]  # fmt: skip


# --- tensors ---


def damaged_tensor(rng: random.Random, tensor: th.Tensor) -> tuple[str, Any]:
    """Something in a tensor's place, and what it is."""
    flat = tensor.detach().clone()
    number = rng.randrange(max(flat.numel(), 1))
    kinds: dict[str, Callable[[], Any]] = {
        "0-dim": lambda: flat.reshape(-1)[0] if flat.numel() else th.zeros(()),
        "one dimension more": lambda: flat[None],
        "[1, 1]": lambda: flat.reshape(-1)[:1].reshape(1, 1),
        "transposed": lambda: flat.T.contiguous() if flat.dim() == 2 else flat.reshape(-1, 1),
        "shorter": lambda: flat[:-1] if flat.dim() else flat,
        "longer": lambda: th.cat([flat, flat[:1]]) if flat.dim() else flat[None],
        "empty": lambda: flat.reshape(-1)[:0],
        "float64": lambda: flat.double(),
        "float16": lambda: flat.half(),
        "bfloat16": lambda: flat.bfloat16(),
        "int64": lambda: flat.long(),
        "int8": lambda: flat.to(th.int8),
        "bool": lambda: flat.bool(),
        "complex64": lambda: flat.to(th.complex64),
        "sparse layout": lambda: flat.to_sparse() if flat.dim() else flat,
        "no memory": lambda: flat.to("meta"),
        "expanded": lambda: flat.reshape(-1)[:1].expand(flat.numel()).reshape(flat.shape),
        "not contiguous": lambda: th.stack([flat, flat], -1)[..., 0],
        "a parameter": lambda: th.nn.Parameter(flat) if flat.is_floating_point() else flat,
        "all zero": lambda: th.zeros_like(flat),
        "text": lambda: "text",
        "none": lambda: None,
        "a number": lambda: 5.0,
        "a list": lambda: flat.tolist(),
        "an array's dict": lambda: {"values": flat},
    }
    values = [math.nan, math.inf, -math.inf, -1.0, 1e30, -1e30, 0.5, 1e-40, 3.0]
    if not flat.is_floating_point():
        values = [-1, 0, 10**6, 2**31 - 1, -(2**31), 7]
        kinds |= {
            "unsorted": lambda: flat.flip(0) if flat.dim() else flat,
            "duplicates": lambda: flat.repeat_interleave(2)[: flat.numel()],
            "shifted": lambda: flat + 1,
            "negative": lambda: -flat,
            "int16": lambda: flat.to(th.int16),
            "uint8": lambda: flat.to(th.uint8),
            "float32": lambda: flat.float(),
        }
    for value in values:
        kinds[f"one entry {value}"] = lambda value=value: with_entry(flat, number, value)
        kinds[f"all entries {value}"] = lambda value=value: th.full_like(flat, value)
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]()


def with_entry(tensor: th.Tensor, number: int, value: float) -> th.Tensor:
    if tensor.numel():
        tensor.reshape(-1)[number] = value
    return tensor


# --- model files ---


def read_members(path: Any) -> Members:
    """What a model file holds: ``data`` as parsed JSON, each ``….pth`` as loaded, other members as bytes."""
    members: Members = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "data":
                members[name] = json.loads(content.decode())
            elif name.endswith(".pth"):
                members[name] = th.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            else:
                members[name] = content
    return members


def write_members(path: Any, members: Members, compression: int = zipfile.ZIP_STORED, legacy: bool = False) -> None:
    """Write a model file; members that are bytes are written as they are."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            if isinstance(content, bytes):
                archive.writestr(name, content)
            elif name == "data":
                archive.writestr(name, json.dumps(content, indent=4))
            else:
                buffer = io.BytesIO()
                th.save(content, buffer, _use_new_zipfile_serialization=not legacy)
                archive.writestr(name, buffer.getvalue())


def pickled(content: bytes) -> dict[str, Any]:
    return {":type:": "<class 'object'>", ":serialized:": base64.b64encode(content).decode()}


def random_value(rng: random.Random, name: str) -> Any:
    """A scalar, but none with which training would not end."""
    allowed = [
        value
        for value in SCALARS
        if name not in TOO_SLOW or not isinstance(value, (int, float)) or value != value or not 1e3 < value <= 2**53
    ]
    return copy.deepcopy(rng.choice(allowed))


def plain_setting(rng: random.Random, members: Members) -> str:
    names = [name for name, value in members["data"].items() if not (isinstance(value, dict) and ":type:" in value)]
    name = rng.choice(names)
    value = members["data"][name]
    if isinstance(value, dict) and value and rng.random() < 0.8:  # counters, policy_kwargs
        inner = rng.choice(list(value))
        if isinstance(value[inner], dict) and rng.random() < 0.8:
            value, name, inner = value[inner], f"{name}[{inner}]", rng.choice(list(value[inner]))
        if rng.random() < 0.2:
            del value[inner]
            return f"data: {name}[{inner}] is missing"
        value[inner] = random_value(rng, inner)
        return f"data: {name}[{inner}]={value[inner]!r}"
    members["data"][name] = random_value(rng, name)
    return f"data: {name}={members['data'][name]!r}"


def missing_setting(rng: random.Random, members: Members) -> str:
    name = rng.choice(list(members["data"]))
    del members["data"][name]
    return f"data: {name} is missing"


def further_setting(rng: random.Random, members: Members) -> str:
    name = rng.choice(
        ["note", "train", "policy", "replay_buffer", "_logger", "env", "device", "actor", "predict", "x y"]
    )
    members["data"][name] = random_value(rng, name)
    return f"data: {name}={members['data'][name]!r} is added"


def pickled_setting(rng: random.Random, members: Members) -> str:
    names = [name for name, value in members["data"].items() if isinstance(value, dict) and ":type:" in value]
    name = rng.choice(names)
    content = base64.b64decode(members["data"][name][":serialized:"])
    how = rng.choice(["cut", "flipped", "object", "object", "text"])
    if how == "cut":
        members["data"][name] = pickled(content[: rng.randrange(len(content))])
    elif how == "flipped":
        members["data"][name] = pickled(flipped(rng, content))
    elif how == "object":
        odd = rng.choice(odd_objects())
        members["data"][name] = pickled(cloudpickle.dumps(odd))
        how = f"pickle of a {type(odd).__name__}"
    else:
        members["data"][name][":serialized:"] = rng.choice(["no base64!", 5, None, ""])
    return f"data: {name}: {how}"


def tensor_of_policy(rng: random.Random, members: Members) -> str:
    policy = members["policy.pth"]
    name = rng.choice(list(policy))
    kind, policy[name] = damaged_tensor(rng, policy[name])
    return f"policy: {name.rpartition('.')[2]}: {kind}"


def names_of_policy(rng: random.Random, members: Members) -> str:
    policy = members["policy.pth"]
    name = rng.choice(list(policy))
    if rng.random() < 0.5:
        del policy[name]
        return "policy: a tensor is missing"
    policy[rng.choice(["extra", f"{name}2", "", "actor"])] = policy[name]
    return "policy: a tensor is added"


def connections(rng: random.Random, members: Members) -> str:
    """Other connections, in a network and its target alike."""
    policy = members["policy.pth"]
    name = rng.choice([name for name in policy if name.endswith("indices") and "_target" not in name])
    kind, changed = damaged_tensor(rng, policy[name])
    network, _, rest = name.partition(".")
    for key in (name, f"{network}_target.{rest}"):
        if key in policy:
            policy[key] = copy.deepcopy(changed) if not isinstance(changed, th.Tensor) else changed.clone()
    return f"policy: indices of a network and its target: {kind}"


def optimizer_of(rng: random.Random, members: Members) -> tuple[str, dict[str, Any]]:
    name = rng.choice([name for name in members if name.endswith("optimizer.pth")])
    return name.removesuffix(".pth"), members[name]


def moment(rng: random.Random, members: Members) -> str:
    name, state = optimizer_of(rng, members)
    entries = state["state"][rng.choice(list(state["state"]))]
    key = rng.choice(list(entries))
    kind, entries[key] = damaged_tensor(rng, entries[key])
    return f"{name}: {key}: {kind}"


def parts_of_state(rng: random.Random, members: Members) -> str:
    name, given = optimizer_of(rng, members)
    state = given["state"]
    number = rng.choice(list(state))
    entries = state[number]
    key = rng.choice(list(entries))
    changes: dict[str, Callable[[], Any]] = {
        "an entry is missing": lambda: entries.pop(key),
        "an entry is added": lambda: entries.update(max_exp_avg_sq=entries["exp_avg_sq"]),
        "a state is missing": lambda: state.pop(number),
        "no state": state.clear,
        "an empty state": lambda: state.update({number: {}}),
        "a state of no parameter": lambda: state.update({rng.choice([-1, 99, "0", None, 1.5]): entries}),
        "a state is a text": lambda: state.update({number: "text"}),
        "states are swapped": lambda: state.update({number: state[rng.choice(list(state))]}),
        "moments are swapped": lambda: entries.update(exp_avg=entries["exp_avg_sq"], exp_avg_sq=entries["exp_avg"]),
        "state is a list": lambda: given.update(state=[entries]),
        "state is missing": lambda: given.pop("state"),
        "groups are missing": lambda: given.pop("param_groups"),
        "a text": lambda: members.update({f"{name}.pth": "text"}),
    }
    kind = rng.choice(list(changes))
    changes[kind]()
    return f"{name}: {kind}"


def options(rng: random.Random, members: Members) -> str:
    name, given = optimizer_of(rng, members)
    group = given["param_groups"][0]
    key = rng.choice(list(group))
    if key == "params":
        group[key] = rng.choice([[], group[key][::-1], group[key][:-1], [0] * len(group[key]), "text", None, 5])
        return f"{name}: params"
    if rng.random() < 0.15:
        del group[key]
        return f"{name}: {key} is missing"
    pairs = [(0.9,), (0.9, 0.999, 0.5), (0.9, 1.0), (0.5, math.nan), (-0.1, 0.9), (0.5, 0.9), [0.9, 0.999], ("a", "b")]
    group[key] = rng.choice(pairs) if key == "betas" and rng.random() < 0.7 else copy.deepcopy(rng.choice(SCALARS))
    return f"{name}: {key}={group[key]!r}"


def variables(rng: random.Random, members: Members) -> str:
    given = members["pytorch_variables.pth"]
    how = rng.random()
    if not given or how < 0.2:
        given[rng.choice(["policy", "log_ent_coef", "gamma", "actor.mu"])] = th.zeros(1)
        return "variables: one is added"
    name = rng.choice(list(given))
    if how < 0.4:
        del given[name]
        return f"variables: {name} is missing"
    kind, given[name] = damaged_tensor(rng, given[name])
    return f"variables: {name}: {kind}"


def missing_member(rng: random.Random, members: Members) -> str:
    name = rng.choice(list(members))
    del members[name]
    return f"archive: {name} is missing"


def further_member(rng: random.Random, members: Members) -> str:
    name = rng.choice(
        ["notes.txt", "value.pth", "tensors.pth", "folder/", "policy.pth.bak", "data2", "folder/policy.pth"]
    )
    members[name] = b"text" if not name.endswith(".pth") else {"a": th.zeros(1)}
    return f"archive: {name} is added"


def garbage_member(rng: random.Random, members: Members) -> str:
    name = rng.choice([name for name in members if name == "data" or name.endswith(".pth")])
    garbage = [b"", b"text", b"[]", b"{}", b"null", b"\xff\xfe\x00", b"[" * 10**5, pickle.dumps("text"), b"PK\x03\x04"]
    members[name] = rng.choice(garbage)
    return f"archive: {name} is garbage"


def inner_bytes(rng: random.Random, members: Members) -> str:
    """Bytes inside of the archive that PyTorch wrote, with its checksums made anew."""
    name = rng.choice([name for name in members if name.endswith(".pth")])
    buffer, result = io.BytesIO(), io.BytesIO()
    th.save(members[name], buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(result, "w") as new:
        chosen = rng.choice(old.namelist())
        for member in old.namelist():
            content = old.read(member)
            if member == chosen and content:
                how = rng.choice(["flipped", "flipped", "flipped", "shorter", "longer"])
                if how == "flipped":
                    content = flipped(rng, content)
                else:
                    content = content[: len(content) // 2] if how == "shorter" else content * 2
            new.writestr(member, content)
    members[name] = result.getvalue()
    return f"archive: bytes of {name}"


def flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


MODEL_DAMAGE: list[tuple[int, Callable[[random.Random, Members], str]]] = [
    (8, plain_setting),
    (2, missing_setting),
    (1, further_setting),
    (2, pickled_setting),
    (5, tensor_of_policy),
    (1, names_of_policy),
    (2, connections),
    (6, moment),
    (3, parts_of_state),
    (3, options),
    (2, variables),
    (1, missing_member),
    (1, further_member),
    (1, garbage_member),
    (2, inner_bytes),
]


def damage_model(rng: random.Random, original: Any, path: Any) -> tuple[str, str]:
    """Write a damaged copy of a model file.

    :param rng: what decides how
    :param original: path of the whole file
    :param path: path of the copy
    :return: kind of damage, and what it is
    """
    if rng.random() < 0.05:
        return "archive", damage_archive(rng, original, path)
    members = read_members(original)
    weights, functions = zip(*MODEL_DAMAGE, strict=True)
    said, kinds = [], []
    for _ in range(rng.choice([1, 1, 1, 2])):
        function = rng.choices(functions, weights)[0]
        try:
            said.append(function(rng, members))
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError):
            continue  # the damage before has left nothing to damage here
        kinds.append(function.__name__)
    write_members(path, members)
    return kinds[0] if len(kinds) == 1 else "several", "; ".join(said)


def damage_archive(rng: random.Random, original: Any, path: Any) -> str:
    """Another archive around the same content, or one that is odd."""
    members = read_members(original)
    how = rng.choice(["deflated", "bzip2", "lzma", "legacy", "twice", "method", "password", "before", "after", "order"])
    methods = {"deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    if how == "order":
        members = dict(reversed(members.items()))
    write_members(path, members, methods.get(how, zipfile.ZIP_STORED), legacy=how == "legacy")
    if how == "twice":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(rng.choice(["data", "policy.pth"]), b"{}")
    content = bytearray(path.read_bytes())
    if how in ("method", "password"):
        at = content.rindex(b"PK\x01\x02")
        content[at + (10 if how == "method" else 8)] = 99 if how == "method" else 1
    if how == "before":
        content = bytearray(b"text" + content)
    if how == "after":
        content += b"text"
    path.write_bytes(content)
    return f"archive: {how}"


# --- files without pickle ---

FURTHER_NAMES = ("train", "_setup_model", "learn", "predict", "env", "policy", "logger", "__class__", "sample")
HEAD = ("kind", "format", "versions", "class", "ranges")


def known_objects() -> list[Any]:
    """What such a file can name, for any place."""
    return [
        th.nn.ReLU, th.optim.SGD, np.float64, np.dtype("f8"), th.float16, th.device("cpu"), np.random.default_rng(0),
        spaces.Box(-1, 1, (3,)), spaces.Discrete(10**12), spaces.Dict({"a": spaces.Box(0, 1, (2,))}), deque([1], 2),
        NormalActionNoise(np.zeros(7), np.ones(7)), TrainFreq(2, TrainFrequencyUnit.EPISODE), ReplayBuffer,
        DynamicReplayBuffer, FloatSchedule(LinearSchedule(1e-3, -1.0, 0.5)), (1, 2), {1, 2}, b"bytes", np.float32(0.5),
    ]  # fmt: skip


def damage_state(rng: random.Random, original: Any, path: Any) -> tuple[str, str]:
    """Write a damaged copy of a file without pickle, with the checksum that fits."""
    if rng.random() < 0.05:
        path.write_bytes(flipped(rng, original.read_bytes()))
        return "bytes", "flipped bytes"
    while True:
        state = read_state(original)
        damages = [damage_place(rng, state) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        with suppress(ValueError):  # what such a file cannot hold at all
            write_state(path, state)
            kinds = {"head" if kind in HEAD else kind for kind, _ in damages}
            return kinds.pop() if len(kinds) == 1 else "several", "; ".join(said for _, said in damages)


def damage_place(rng: random.Random, state: Any) -> tuple[str, str]:
    """Change something somewhere in a state, and say in which part, and what."""
    container, names = state, []
    while True:
        keys = [*container] if isinstance(container, dict) else [*range(len(container))]
        if container is state and rng.random() < 0.9:
            keys = [key for key in keys if key not in HEAD] or keys
        key = rng.choice(keys)
        names.append(str(key))
        value = container[key]
        inner = vars(value) if type(value) in (FloatSchedule, NormalActionNoise) else value
        if not (isinstance(inner, (dict, list)) and inner) or rng.random() < 0.15:
            break
        container = inner
    said = ".".join(names)
    how = rng.random()
    if how < 0.1 and isinstance(container, dict):
        del container[key]
        return names[0], f"{said} is missing"
    if how < 0.15 and isinstance(container, dict):
        name = rng.choice(FURTHER_NAMES)
        container[name] = rng.choice([*SCALARS, *known_objects()])
        return names[0], f"{said}: beside it there is {name}={container[name]!r}"
    if how < 0.7 and isinstance(value, th.Tensor):
        kind, container[key] = damaged_tensor(rng, value)
    elif how < 0.7 and isinstance(value, np.ndarray) and value.ndim and len(value):
        kind, container[key] = damaged_array(rng, value)
    else:
        container[key] = rng.choice(known_objects()) if how > 0.85 else random_value(rng, str(key))
        kind = repr(container[key])[:60]
    return names[0], f"{said}: {kind}"


# --- replay buffers ---


def damage_buffer(rng: random.Random, original: Any, path: Any) -> tuple[str, str]:
    """Write a damaged copy of a replay buffer's file; parameters as for ``damage_model``."""
    content = original.read_bytes()
    how = rng.random()
    if how < 0.05:
        path.write_bytes(flipped(rng, content))
        return "buffer's bytes", "buffer: flipped bytes"
    if how < 0.08:
        path.write_bytes(pickle.dumps(rng.choice(odd_objects())))
        return "another object", "buffer: another object"
    buffer = pickle.loads(content)
    arrays = [name for name, value in vars(buffer).items() if isinstance(value, np.ndarray)]
    others = [name for name in vars(buffer) if name not in arrays]
    said = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        how = rng.random()
        if how < 0.5:
            name = rng.choice(arrays)
            kind, changed = damaged_array(rng, getattr(buffer, name))
            setattr(buffer, name, changed)
            arrays.remove(name)
            said.append(f"buffer: {name}: {kind}")
        elif how < 0.9:
            name = rng.choice([*others, "pos", "pos", "full", "_forgotten_rows", "buffer_size", "n_envs"])
            value = rng.choice([*SCALARS, 7, 10**9, np.int64(5), np.float32(5)])
            setattr(buffer, name, copy.deepcopy(value))
            said.append(f"buffer: {name}={value!r}")
        else:
            name = rng.choice([*arrays, *others])
            vars(buffer).pop(name, None)
            arrays = [left for left in arrays if left != name]
            said.append(f"buffer: {name} is missing")
    path.write_bytes(pickle.dumps(buffer))
    return "buffer's attributes" if len(said) == 1 else "several", "; ".join(said)


def damaged_array(rng: random.Random, array: np.ndarray) -> tuple[str, Any]:
    """Something in an array's place, and what it is."""
    changed = array.copy()
    kinds: dict[str, Callable[[], Any]] = {
        "0-dim": lambda: np.zeros(()),
        "flat": lambda: changed.reshape(-1),
        "fewer rows": lambda: changed[: len(changed) // 2].copy(),
        "more rows": lambda: np.concatenate([changed, changed]),
        "no rows": lambda: changed[:0].copy(),
        "wider": lambda: np.concatenate([changed, changed], -1),
        "narrower": lambda: changed[..., :0].copy(),
        "transposed": lambda: np.asfortranarray(changed),
        "axes swapped": lambda: np.ascontiguousarray(np.swapaxes(changed, 0, 1)),
        "every second row of twice as many": lambda: np.repeat(changed, 2, 0)[::2],
        "float64": lambda: changed.astype(np.float64),
        "float16": lambda: changed.astype(np.float16),
        "int32": lambda: changed.astype(np.int32),
        "objects": lambda: changed.astype(object),
        "texts": lambda: changed.astype(str),
        "other byte order": lambda: changed.astype(changed.dtype.newbyteorder()),
        "read-only": lambda: read_only(changed),
        "text": lambda: "text",
        "none": lambda: None,
        "a list": lambda: changed.tolist(),
        "a tensor": lambda: th.as_tensor(changed),
    }
    row = rng.randrange(len(changed))
    for value in (np.nan, np.inf, -np.inf, 1e30, -1.0, 0.5, 5.0):
        kinds[f"one row {value}"] = lambda value=value: with_row(changed, row, value)
        kinds[f"all rows {value}"] = lambda value=value: np.full_like(changed, value)
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]()


def with_row(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array[row] = value
    return array


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
