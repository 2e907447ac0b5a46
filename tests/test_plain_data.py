"""Attributes of objects go through a file and come back as they were."""

import collections
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state, write_state
from sb3_rlx2.resume.plain_data import attributes_of, other_attributes, set_attributes

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.binary(max_size=5)
)
KEYS = st.one_of(st.text(max_size=5), st.integers(), st.none(), st.tuples(st.integers(), st.text(max_size=2)))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.floats(allow_nan=False), min_size=33, max_size=40),
        st.lists(st.integers(), min_size=33, max_size=40),
        st.dictionaries(KEYS, inner, max_size=3),
        st.tuples(inner, inner),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, maxlen=5)),
    ),
    max_leaves=8,
)


def through_a_file(owner, folder, other=None):
    write_state(folder / "state", attributes_of(owner))
    other = SimpleNamespace() if other is None else other
    set_attributes(other, read_state(folder / "state"))
    return other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("states")


@settings(max_examples=150, deadline=None)
@given(value=VALUES)
def test_plain_values_come_back_with_their_types(value, folder):
    found = through_a_file(SimpleNamespace(value=value), folder).value
    assert repr(found) == repr(value)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.SFC64])
def test_a_generator_goes_on_and_stays_the_same_object(bits, folder):
    own, other = np.random.Generator(bits(1)), np.random.Generator(bits(2))
    own.normal(size=3)
    found = through_a_file(SimpleNamespace(generator=own), folder, SimpleNamespace(generator=other))
    assert found.generator is other
    assert np.array_equal(own.normal(size=5), other.normal(size=5))
    made = through_a_file(SimpleNamespace(generator=own), folder).generator
    assert np.array_equal(own.normal(size=5), made.normal(size=5))


def test_spaces_keep_their_bounds_and_get_random_states(folder):
    def make():
        return spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,)), "b": spaces.Tuple([spaces.Discrete(5)])})

    own, other = make(), make()
    own.seed(3)
    own.sample()
    found = through_a_file(SimpleNamespace(space=own), folder, SimpleNamespace(space=other)).space
    assert found is other
    for _ in range(5):
        one, another = own.sample(), other.sample()
        assert np.array_equal(one["a"], another["a"])
        assert one["b"] == another["b"]


def test_arrays_and_tensors_are_copies(folder):
    own = SimpleNamespace(array=np.arange(3.0), tensor=th.arange(3), scalar=np.float32(0.1))
    kept = attributes_of(own)
    own.array += 1
    own.tensor += 1
    assert kept["array"].tolist() == [0.0, 1.0, 2.0]
    assert kept["tensor"].tolist() == [0, 1, 2]
    assert type(kept["scalar"]) is np.float32


def test_dicts_of_other_classes_stay_what_they_are(folder):
    counts = collections.defaultdict(int, a=1)
    other = SimpleNamespace(counts=collections.defaultdict(int, b=2))
    found = through_a_file(SimpleNamespace(counts=counts), folder, other).counts
    assert found == {"a": 1}
    assert found["new"] == 0


def test_what_is_no_plain_data_is_left_out_and_named():
    owner = SimpleNamespace(plain=1, inner=[object()], function=print, array=np.array([object()]))
    assert attributes_of(owner) == {"plain": 1}
    assert other_attributes(owner) == ["inner", "array"]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"keys": 1}, "a value for keys of a Owner, which is no attribute"),
        ({"__class__": 1}, "a value for __class__"),
        ({"a": {"__kind__": "strange", "state": 1}}, "the kind 'strange'"),
        ({"a": {"__kind__": "generator", "state": {"bit_generator": "seed"}}}, "a random generator 'seed'"),
    ],
)
def test_what_no_state_has_is_refused(tree, message):
    class Owner:
        def keys(self):
            """A method."""

    with pytest.raises(ModelFileError, match=message):
        set_attributes(Owner(), tree)
