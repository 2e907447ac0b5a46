"""What was read through a watch is noticed when it changes, and nothing else is."""

import copy
import ctypes
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch as th

from sb3_rlx2.engine import tensors
from sb3_rlx2.engine.objects import SameObjects
from sb3_rlx2.engine.watch import Watch


class Thing:
    def __init__(self):
        self.value, self.list, self.hooks, self.known = object(), [1, object()], {}, OrderedDict(a=1, b=2)
        self.tensor, self.memory = th.zeros(4, 4), th.zeros(4)
        self.parameter = th.nn.Parameter(th.zeros(2))
        self.states = {self.parameter: object(), self.tensor: object()}
        self.indices, self.array = th.arange(3), np.zeros((2, 3), np.float32)
        self.other = 0

    def result(self):
        return self.value


def watched(thing):
    watch = Watch()
    watch.type_of(thing)
    for name in ("value", "missing", "tensor"):
        watch.item(vars(thing), name)
    watch.sequence(thing.list)
    watch.keys(thing.hooks)
    watch.tensor(thing.tensor)
    watch.tensor(thing.memory)
    watch.keys(thing.known)
    watch.entries(thing.states)
    watch.attributes(thing.parameter, "requires_grad", "_backward_hooks")
    watch.numbers(thing.indices)
    watch.array(thing.array)
    watch.call(thing.result)
    return watch


def freeing_its_memory(thing):
    # Without the watch, the allocator could give the second one the address of the first
    thing.memory.data = th.zeros(1)
    thing.memory.data = th.zeros(4)


CHANGES = {
    "another object": lambda thing: setattr(thing, "value", object()),
    "an equal object": lambda thing: setattr(thing, "tensor", thing.tensor.detach()),
    "what was missing": lambda thing: setattr(thing, "missing", 1),
    "class": lambda thing: setattr(thing, "__class__", type("Other", (Thing,), {})),
    "longer list": lambda thing: thing.list.append(1),
    "other entry": lambda thing: thing.list.__setitem__(1, object()),
    "hook": lambda thing: thing.hooks.update({3: print}),
    "one key more": lambda thing: thing.known.update(c=1),
    "one key less": lambda thing: thing.known.pop("b"),
    "another key": lambda thing: (thing.known.pop("b"), thing.known.update(c=2)),
    "one tensor more": lambda thing: thing.states.update({thing.memory: 1}),
    "one tensor less": lambda thing: thing.states.pop(thing.tensor),
    "state of a tensor": lambda thing: thing.states.update({thing.tensor: object()}),
    "type": lambda thing: setattr(thing.tensor, "data", thing.tensor.double()),
    "not on a device": lambda thing: th.utils.swap_tensors(thing.tensor, th.zeros(4, 4, device="meta")),
    "type in place": lambda thing: setattr(thing.tensor, "data", thing.tensor.view(th.int32)),
    "transposed": lambda thing: setattr(thing.tensor, "data", thing.tensor.T),
    "shape": lambda thing: setattr(thing.tensor, "data", thing.tensor.view(2, 8)),
    "cut": lambda thing: setattr(thing.tensor, "data", thing.tensor[:2]),
    "moved": lambda thing: setattr(thing.tensor, "data", thing.tensor.clone()),
    "moved there and back": freeing_its_memory,
    "larger": lambda thing: thing.memory.resize_(1000),
    "frozen": lambda thing: thing.parameter.requires_grad_(False),
    "gradient hook": lambda thing: thing.parameter.register_hook(print),
    "index": lambda thing: thing.indices.__setitem__(0, 5),
    "array of another shape": lambda thing: thing.array.resize((3, 2), refcheck=False),
}


@pytest.fixture(params=["DLPack", "methods"])
def way_of_comparing_tensors(request, monkeypatch):
    if request.param == "methods":
        monkeypatch.setattr(tensors, "exchange_function", lambda: None)
    elif tensors.exchange_function() is None:
        pytest.skip("this PyTorch has no DLPack C exchange API")


@pytest.mark.usefixtures("way_of_comparing_tensors")
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_what_was_read_is_noticed(change):
    thing = Thing()
    watch = watched(thing)
    assert watch.holds
    CHANGES[change](thing)
    assert not watch.holds


@pytest.mark.usefixtures("way_of_comparing_tensors")
def test_numbers_and_what_was_not_read_may_change():
    thing = Thing()
    watch = watched(thing)
    thing.other = 1
    thing.tensor.fill_(1)
    thing.memory.add_(1)
    thing.array[:] = 1
    thing.known["a"] = 5
    thing.known.move_to_end("a")
    assert watch.holds
    own, thing.value = thing.value, object()
    assert not watch.holds
    thing.value = own
    assert watch.holds


def test_all_items_of_a_dict_are_read_at_once():
    things = {"a": 1, "b": object()}
    for change in ({"c": 1}, {"b": object()}):
        watch = Watch()
        assert watch.items(things) == things
        assert watch.holds
        things.update(change)
        assert not watch.holds


@pytest.mark.parametrize("tensor", [th.zeros(3, device="meta"), th.zeros(3).to_sparse()], ids=["meta", "sparse"])
def test_a_tensor_without_memory_counts_as_changed(tensor):
    watch = Watch()
    watch.tensor(tensor)
    assert not watch.holds


def test_what_dlpack_cannot_describe_leaves_no_exception_behind():
    if tensors.exchange_function() is None:
        pytest.skip("this PyTorch has no DLPack C exchange API")
    tensor = th.zeros(3)
    same = tensors.SameTensors([tensor], [tensor.detach()])
    assert same.hold()
    th.utils.swap_tensors(tensor, th.zeros(3, device="meta"))
    assert not same.hold()
    ctypes.pythonapi.PyErr_Occurred.restype = ctypes.c_void_p
    assert ctypes.pythonapi.PyErr_Occurred() is None


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_addresses_are_not_copied(duplicate):
    same = SameObjects([], [({}, 0)], [], [], [])
    assert same.hold()
    with pytest.raises(TypeError, match="addresses"):
        duplicate(same)
