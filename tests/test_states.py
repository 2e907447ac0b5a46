"""States come back exactly, and files that are no states are refused."""

import collections
import json
import math
import random
import re
import struct
from dataclasses import dataclass

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import safe_open

from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import named_objects, read_state, register, states, write_state

NUMPY_DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.byte_string_dtypes(max_len=5),
    npst.unicode_string_dtypes(max_len=5),
    npst.datetime64_dtypes(),
)
TORCH_DTYPES = [
    th.bool,
    th.uint8,
    th.int8,
    th.int16,
    th.int32,
    th.int64,
    th.float16,
    th.bfloat16,
    th.float32,
    th.float64,
]
TORCH_DTYPES += [th.complex64, th.complex128, th.float8_e4m3fn, th.float8_e5m2]
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw):
    dtype, shape = draw(st.sampled_from(TORCH_DTYPES)), draw(SHAPES)
    size = math.prod(shape) * th.empty(0, dtype=dtype).element_size()
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == th.bool:
        content = bytearray(byte & 1 for byte in content)
    flat = th.frombuffer(content, dtype=dtype) if size else th.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


ARRAYS = npst.arrays(NUMPY_DTYPES, SHAPES).map(lambda array: np.asfortranarray(array) if array.ndim > 1 else array)
SCALARS = npst.arrays(NUMPY_DTYPES, ()).map(lambda array: array[()])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**120, 2**130), st.floats(), st.text(), st.binary(max_size=9)
) | st.one_of(ARRAYS, SCALARS, tensors(), st.sampled_from([th.float32, th.bfloat16, np.float32, np.dtype(">f4")]))
LEAVES |= st.sampled_from([th.device("cpu"), th.device("cuda:1"), th.nn.ReLU, th.optim.AdamW])
KEYS = st.one_of(st.text(), st.integers(), st.sampled_from(["$array", "$dict", "__metadata__", "a/b", "state"]))
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(st.one_of(st.integers(), st.text(), st.none()), max_size=4),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, maxlen=5)),
    ),
    max_leaves=12,
)


def equal(one, other):
    """Whether two states are of the same types and have the same bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return (
            [*one] == [*other]
            and [*map(type, one)] == [*map(type, other)]
            and equal([*one.values()], [*other.values()])
        )
    if isinstance(one, (list, tuple, collections.deque)):
        return (
            getattr(one, "maxlen", 0) == getattr(other, "maxlen", 0)
            and len(one) == len(other)
            and all(map(equal, one, other))
        )
    if isinstance(one, th.Tensor):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return False
        return th.equal(one.contiguous().reshape(-1).view(th.uint8), other.reshape(-1).view(th.uint8))
    if isinstance(one, (np.ndarray, np.generic)):
        return (one.shape, one.dtype.str) == (other.shape, other.dtype.str) and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    return one == other


def written(tmp_path, state, name="state.safetensors"):
    write_state(tmp_path / name, state)
    return tmp_path / name


def with_header(path, change):
    """The file's content with another header, and the checksum that fits it."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    metadata = header["__metadata__"]
    metadata["state"] = json.loads(metadata["state"])
    header = change(header) or header
    header["__metadata__"]["state"] = json.dumps(metadata["state"])
    header["__metadata__"]["checksum"] = "0" * 8
    text = json.dumps(header, separators=(",", ":")).encode()
    checksum = states.zlib.crc32(text + content[end:])
    text = text.replace(b'"checksum":"00000000"', b'"checksum":"%08x"' % checksum)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[end:])


@settings(max_examples=300)
@given(state=STATES)
def test_every_state_comes_back_in_type_and_in_every_bit(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    write_state(path, state)
    assert equal(read_state(path), state)


def test_states_of_random_generators_of_optimizers_and_of_networks_come_back(tmp_path):
    generator, network = np.random.default_rng(3), th.nn.Linear(3, 2)
    optimizer = th.optim.Adam(network.parameters())
    network(th.ones(3)).sum().backward()
    optimizer.step()
    state = {
        "random": random.Random(1).getstate(),
        "numpy": np.random.RandomState(2).get_state(),
        "generator": generator,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    read = read_state(written(tmp_path, state))
    assert read["generator"].random(5).tolist() == generator.random(5).tolist()
    del read["generator"], state["generator"]
    state["network"] = collections.OrderedDict(state["network"])
    assert equal(read, state)


def test_what_needs_a_gradient_is_read_as_a_tensor_that_needs_none(tmp_path):
    read = read_state(written(tmp_path, th.nn.Parameter(th.ones(2))))
    assert type(read) is th.Tensor
    assert not read.requires_grad


def test_other_programs_read_the_tensors(tmp_path):
    path = written(
        tmp_path, {"policy": {"weight": th.arange(6.0).reshape(2, 3)}, "steps": np.arange(4, dtype=np.uint16)}
    )
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == ["policy/weight", "steps"]
        assert file.get_tensor("policy/weight").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert file.get_tensor("steps").dtype == np.uint16


@settings(max_examples=50)
@given(state=STATES)
def test_every_file_is_one_of_the_safetensors_format(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "format.safetensors"
    write_state(path, state)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["sb3_rlx2_format"] == "1"
        for name in file.keys():  # noqa: SIM118
            file.get_tensor(name)


def test_open_files_are_written_and_read_from_where_they_stand(tmp_path):
    with (tmp_path / "two").open("wb+") as file:
        file.write(b"before")
        write_state(file, {"a": th.ones(3)})
        file.seek(6)
        assert equal(read_state(file), {"a": th.ones(3)})


# --- what is not written ---


class Custom:
    def __init__(self, value):
        self.value = value

    def method(self):
        pass


@dataclass
class Point:
    x: int
    y: float


Pair = collections.namedtuple("Pair", ["first", "second"])


@pytest.fixture
def registry(monkeypatch):
    for table in ("_by_name", "_by_thing"):
        monkeypatch.setattr(named_objects, table, dict(getattr(named_objects, table)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Custom(1), r"a\.1 is an object of class Custom.*call sb3_rlx2.files.register\(Custom\)"),
        (Custom, r"a\.1 is Custom, .*register\(Custom\)"),
        (lambda x: x, r"a\.1 is .*<lambda>.*register\(<lambda>, 'a name of yours'\)"),
        ({1.5: 2}, r"a\.1 has the key 1\.5"),
        (np.array([object()]), r"a\.1 is an array of object"),
        (np.zeros(2, [("x", "f4")]), r"a\.1 has the type"),
        (th.eye(2).to_sparse(), r"a\.1 is no ordinary tensor"),
        (th.zeros(2, device="meta"), r"a\.1 is no ordinary tensor"),
        (th.nn.ReLU(), r"a\.1 is an object of class ReLU"),
    ],
)
def test_what_cannot_be_written_is_named_in_one_line_and_the_file_is_what_it_was(tmp_path, value, message):
    path = written(tmp_path, "before")
    with pytest.raises(ValueError, match=message) as raised:
        write_state(path, {"a": [0, value]})
    assert "\n" not in str(raised.value)
    assert read_state(path) == "before"


def test_what_contains_itself_is_an_error(tmp_path):
    state = []
    state.append(state)
    with pytest.raises(ValueError, match="contains itself"):
        write_state(tmp_path / "state", state)


@pytest.mark.usefixtures("registry")
def test_what_is_registered_comes_back(tmp_path):
    for thing in (Custom, Point, Pair):
        assert register(thing) is thing
    register(lambda x: x + 1, "plus one")
    state = [Custom({"a": np.ones(2)}), Point(1, 2.0), Pair(Point(0, 0.0), Custom), named_objects.named("plus one")]
    read = read_state(written(tmp_path, state))
    assert type(read[0]) is Custom
    assert read[0].value["a"].tolist() == [1, 1]
    assert read[1:] == state[1:]


@pytest.mark.usefixtures("registry")
def test_two_things_cannot_have_one_name():
    register(Custom, "mine")
    register(Custom, "mine")
    with pytest.raises(ValueError, match="name='mine' is taken by"):
        register(Point, "mine")
    with pytest.raises(ValueError, match="pass one"):
        register(lambda: 0)
    with pytest.raises(ValueError, match="register a class or a function"):
        register(3)


# --- what is not read ---


def refused(path, match=""):
    with pytest.raises(ModelFileError, match=match or None) as raised:
        read_state(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


STATE = {"a": th.arange(7.0), "b": [np.arange(3), 1.5, "text", {"c": np.float32(2)}], 3: collections.deque([1], 4)}


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    path = written(tmp_path, STATE)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        refused(path, "damaged|has format")  # what says which format it has may be what is damaged


def test_every_cut_and_every_addition_is_found(tmp_path):
    path = written(tmp_path, STATE)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)
    path.write_bytes(content + b"\0")
    refused(path, "longer than its content")


@given(content=st.binary(max_size=200))
def test_foreign_files_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "foreign"
    path.write_bytes(content)
    refused(path)
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    refused(path)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": th.ones(3)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "none that sb3-rlx2 wrote")


def test_a_newer_format_says_so(tmp_path):
    path = written(tmp_path, STATE)
    with_header(path, lambda header: header["__metadata__"].update(sb3_rlx2_format="2"))
    refused(path, r"has format '2', and this version of sb3-rlx2 reads format 1: update sb3-rlx2")


def set_state(state):
    def change(header):
        header["__metadata__"]["state"] = state

    return change


def in_tensor(**entry):
    return lambda header: header["a"].update(entry)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_state({"$named": "os.system"}), "'os.system', which is not known here"),
        (set_state({"$object": ["builtins.eval", "1"]}), "not known here"),
        (set_state({"$object": ["torch.nn.ReLU", {}]}), "of which files hold none"),
        (set_state({"$object": ["numpy.random.Generator", {"bit_generator": "os"}]}), "cannot be"),
        (set_state({"$named": ["a"]}), "not known here"),
        (set_state({"$pickle": "gASVCgAAAAAAAACMBHRleHSULg=="}), "does not know"),
        (set_state({"$dtype": "O"}), "not allowed"),
        (set_state({"$torch_dtype": "load"}), "PyTorch does not have"),
        (set_state({"$array": "b"}), ""),
        (set_state([{"$array": "a"}, {"$array": "a"}]), ""),
        (set_state({"$array": ["a", "O", [7]]}), "not allowed"),
        (set_state({"$array": ["a", "<f8", [10**12]]}), ""),
        (set_state({"$tensor": ["a", "float64", [10**12]]}), ""),
        (set_state({"$dict": [[[], 1]]}), ""),
        (set_state({"$set": [[]]}), ""),
        (set_state({"$float": "00"}), ""),
        (set_state(1), "belongs nowhere"),
        (in_tensor(shape=[10**15]), "not where it must be"),
        (in_tensor(shape=[10**15], data_offsets=[0, 4 * 10**15]), "not where it must be"),
        (in_tensor(shape=[-7]), "that can be"),
        (in_tensor(shape=[7.0]), "that can be"),
        (in_tensor(shape=[True]), "that can be"),
        (in_tensor(dtype="O"), ""),
        (in_tensor(data_offsets=[4, 32]), "not where it must be"),
        (lambda header: {"__metadata__": {**header["__metadata__"], "state": []}}, ""),
        (lambda header: {"__metadata__": {"sb3_rlx2_format": "1", "state": []}}, ""),
    ],
)
def test_what_no_state_can_have_is_refused_whatever_its_checksum_says(tmp_path, change, match):
    path = written(tmp_path, {"a": th.arange(7.0)})
    with_header(path, change)
    refused(path, match)


def test_truth_values_are_0_or_1(tmp_path):
    for value in (th.ones(2, dtype=th.bool), np.ones(2, bool)):
        path = written(tmp_path, [value])
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"\2")
        with_header(path, lambda header: None)
        refused(path, "neither 0 nor 1")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["method", "__class__", "__dict__"])
def test_attributes_that_hide_a_method_are_refused(tmp_path, name):
    register(Custom, "custom")
    path = written(tmp_path, Custom(1))
    with_header(path, set_state({"$object": ["custom", {name: 1}]}))
    refused(path, f"a value for {re.escape(name)} of a Custom, which is no attribute")


def test_what_is_nested_a_million_times_is_refused(tmp_path):
    path = written(tmp_path, [])
    nested = "[" * 10**6 + "]" * 10**6
    header = {"__metadata__": {"sb3_rlx2_format": "1", "checksum": "0" * 8, "state": nested}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.replace(b'"checksum":"00000000"', b'"checksum":"%08x"' % states.zlib.crc32(text))
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    refused(path)


def test_a_missing_file_is_an_error_of_the_operating_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "missing")
