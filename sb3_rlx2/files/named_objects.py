"""Classes, functions and objects that files hold by name, from one list that users may add to."""

from __future__ import annotations

import collections
import enum
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from torch import nn, optim

from sb3_rlx2.errors import ModelFileError

Thing = TypeVar("Thing", bound="type | Callable[..., Any]")


class Entry(NamedTuple):
    """A class or function that files may name.

    :param thing: the class or function
    :param name: its name in files
    :param to_state: gives the state of an object of that class; None: files hold no objects of it
    :param from_state: makes such an object of its state
    """

    thing: Any
    name: str
    to_state: Callable[[Any], Any] | None
    from_state: Callable[[Any], Any] | None


_by_name: dict[str, Entry] = {}
_by_thing: dict[Any, Entry] = {}


def register(
    thing: Thing,
    name: str | None = None,
    *,
    objects: bool = True,
    to_state: Callable[[Any], Any] | None = None,
    from_state: Callable[[Any], Any] | None = None,
) -> Thing:
    """Let files without pickle hold a class, its objects, or a function, by name.

    Register it before a model is saved, and, under the same name, before it is loaded. It can be used as a decorator.

    :param thing: the class or function
    :param name: its name in files; None (default): module and name, as in ``"my_package.schedules.Warmup"``
    :param objects: of a class: whether files may hold objects of it too, default True
    :param to_state: gives an object's state, made of what ``write_state`` takes; None (default): its attributes, the
        fields of a named tuple, or the name of an enum's member
    :param from_state: makes an object of such a state; None (default): without calling the class, by its attributes
    :return: the class or function
    :raises ValueError: if it has no name that is found again, or if the name is that of something else
    """
    if not callable(thing):
        raise ValueError(
            f"{thing!r} is not allowed: register a class or a function, and objects of a class are included"
        )
    if name is None:
        name = f"{thing.__module__}.{thing.__qualname__}"
        if "<" in name:
            raise ValueError(f"{name} is not allowed as a name: pass one, as in register(schedule, 'my_schedule')")
    if name in _by_name and not _is_same(_by_name[name].thing, thing):
        raise ValueError(f"name={name!r} is taken by {_by_name[name].thing!r}: pass another name")
    if isinstance(thing, type) and objects:
        default_to, default_from = _defaults(thing)
        entry = Entry(thing, name, to_state or default_to, from_state or default_from)
    else:
        entry = Entry(thing, name, None, None)
    _by_name[name] = _by_thing[thing] = entry
    return thing


def name_of(thing: Any) -> str | None:
    """The name in files of a class or function; None: it has none.

    :param thing: the class or function
    """
    try:
        return _by_thing[thing].name if thing in _by_thing else None
    except TypeError:  # not hashable
        return None


def named(name: Any) -> Any:
    """The class or function of a name.

    :param name: its name in files
    :raises ModelFileError: if there is none of this name
    """
    return _entry(name).thing


def describe(value: Any) -> tuple[str, Any] | None:
    """The name of an object's class and the object's state; None: files hold no objects of that class.

    :param value: the object
    """
    entry = _by_thing.get(type(value))
    return None if entry is None or entry.to_state is None else (entry.name, entry.to_state(value))


def restore(name: Any, state: Any) -> Any:
    """The object that ``describe`` described.

    :param name: of its class
    :param state: its state
    :raises ModelFileError: if the class is not known, or the state cannot be one of its
    """
    entry = _entry(name)
    if entry.from_state is None:
        raise ModelFileError(f"it has an object of {name}, of which files hold none")
    try:
        return entry.from_state(state)
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"it has an object of {name} that cannot be: {error}") from error


def _is_same(one: Any, other: Any) -> bool:
    """Whether two are one, or one is the other defined anew, as in a notebook."""
    return one is other or all(getattr(one, key) == getattr(other, key) for key in ("__module__", "__qualname__"))


def _entry(name: Any) -> Entry:
    entry = _by_name.get(name) if isinstance(name, str) else None
    if entry is None:
        raise ModelFileError(
            f"it needs {name!r}, which is not known here. If it is yours, and you trust it, say what it is before: "
            f"sb3_rlx2.files.register(..., {name!r})"
        )
    return entry


def _defaults(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if issubclass(cls, enum.Enum):
        return lambda value: value.name, lambda state: cls[state]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return tuple, lambda state: cls(*state)
    return _attributes, lambda state: _with_attributes(cls, state)


def _attributes(value: Any) -> dict[str, Any]:
    return dict(vars(value))


def _with_attributes(cls: type, state: Any) -> Any:
    made: Any = object.__new__(cls)
    for name in state:
        # A method of this name would be hidden
        if name.startswith("__") or callable(getattr(cls, name, None)):
            raise ModelFileError(f"it has a value for {name} of a {cls.__name__}, which is no attribute")
    vars(made).update(state)
    return made


def _generator(state: dict[str, Any]) -> np.random.Generator:
    bit_generators = {cls.__name__: cls for cls in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937)}
    made = bit_generators[state["bit_generator"]](0)
    made.state = cast(Any, state)
    return np.random.Generator(made)


def _random_state(state: tuple[Any, ...]) -> np.random.RandomState:
    made = np.random.RandomState(0)
    made.set_state(state)
    return made


NAMES_ONLY = (
    *(("builtins", cls) for cls in (bool, int, float, str)),
    *(("numpy", cls) for cls in (np.bool_, np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64)),
    *(("numpy", cls) for cls in (np.uint8, np.uint16, np.uint32, np.uint64)),
    *(
        ("torch.nn", cls)
        for cls in (nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh)
    ),
    *(
        ("torch.nn", cls)
        for cls in (nn.Identity, nn.LayerNorm, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU)
    ),
    *(("torch.nn", cls) for cls in (nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign)),
    *(("torch.nn", cls) for cls in (nn.Tanh, nn.Tanhshrink, nn.Threshold)),
    *(("torch.optim", cls) for cls in (optim.ASGD, optim.Adadelta, optim.Adagrad, optim.Adam, optim.AdamW)),
    *(("torch.optim", cls) for cls in (optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Rprop, optim.SGD)),
)
for _module, _class in NAMES_ONLY:
    register(_class, f"{_module}.{_class.__name__}", objects=False)
register(
    collections.OrderedDict,
    "collections.OrderedDict",
    to_state=lambda value: [*value.items()],
    from_state=lambda state: collections.OrderedDict(state),
)
register(
    collections.deque,
    "collections.deque",
    to_state=lambda value: ([*value], value.maxlen),
    from_state=lambda state: collections.deque(*state),
)
register(type(pathlib.Path()), "pathlib.Path", to_state=str, from_state=pathlib.Path)
register(
    np.random.Generator,
    "numpy.random.Generator",
    to_state=lambda value: value.bit_generator.state,
    from_state=_generator,
)
register(
    np.random.RandomState,
    "numpy.random.RandomState",
    to_state=lambda value: value.get_state(),
    from_state=_random_state,
)
