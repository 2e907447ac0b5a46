"""The pages of docs/ name everything that there is, with its default; `make docs` checks links and runs doctests."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import sb3_rlx2
import sb3_rlx2.errors
import sb3_rlx2.files
import sb3_rlx2.resume
import sb3_rlx2.sparse
from sb3_rlx2 import RLx2CrossQ, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3
from sb3_rlx2.common.policies import SparseNetworksMixin
from sb3_rlx2.common.simba import SimBaMixin

DOCS = Path(__file__).parents[1] / "docs"
NO_VALUE = ("policy", "env")


def parameter_tables():
    """Rows of docs/parameters.md: for each parameter its cells by the table's head."""
    rows, head = {}, []
    for line in (DOCS / "parameters.md").read_text("utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0] == "parameter":
            head = cells
        elif cells and not set(cells[0]) <= set("-"):
            rows.setdefault(cells[0], {}).update(zip(head, cells, strict=True))
    return rows


@pytest.mark.parametrize(
    ("function", "column"),
    [
        (RLx2TD3.__init__, "TD3"),
        (RLx2SAC.__init__, "SAC"),
        (RLx2CrossQ.__init__, "CrossQ"),
        (RLx2DQN.__init__, "DQN"),
        (RLx2QRDQN.__init__, "QR-DQN"),
        (SparseNetworksMixin.__init__, "default"),
        (SimBaMixin.__init__, "SimBa"),
    ],
)
def test_every_parameter_is_documented_with_its_default(function, column):
    tables = parameter_tables()
    skipped = ("self", "args", "kwargs", "_init_setup_model")
    parameters = {
        name: parameter for name, parameter in inspect.signature(function).parameters.items() if name not in skipped
    }
    if column == "SimBa":  # the others are SB3's
        own = inspect.Parameter.KEYWORD_ONLY
        parameters = {name: p for name, p in parameters.items() if p.kind is own and not name.startswith("features_")}
    assert {name for name, row in tables.items() if column in row} == set(parameters)
    for name, parameter in parameters.items():
        if name not in NO_VALUE:
            assert ast.literal_eval(tables[name][column]) == parameter.default, name
        else:
            assert parameter.default is inspect.Parameter.empty


@pytest.mark.parametrize(
    "module",
    [sb3_rlx2, sb3_rlx2.sparse, sb3_rlx2.errors, sb3_rlx2.files, sb3_rlx2.resume],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_in_the_reference(module):
    pages = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    for name in module.__all__:
        if not name.startswith("__"):
            assert re.search(rf":: (sb3_rlx2|{module.__name__})\.{name}$", pages, re.MULTILINE), name


def public_functions():
    """Every public function, class and method with the docstring that describes its parameters."""
    for module in (sb3_rlx2, sb3_rlx2.sparse, sb3_rlx2.errors, sb3_rlx2.files, sb3_rlx2.resume):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) and not issubclass(found, Exception):
                yield f"{module.__name__}.{name}", found.__init__, inspect.getdoc(found)
                for method, value in inspect.getmembers(found):
                    function = getattr(value, "__func__", value)
                    is_own = inspect.isfunction(function) and function.__module__.startswith("sb3_rlx2")
                    if is_own and not method.startswith("_"):
                        yield f"{module.__name__}.{name}.{method}", function, inspect.getdoc(function)
            elif inspect.isfunction(found):
                yield f"{module.__name__}.{name}", found, inspect.getdoc(found)


def described(docstring):
    """What a docstring says of each parameter."""
    parts = re.split(r"^:(?:param (\w+)|return|raises .*?):", docstring or "", flags=re.MULTILINE)
    return {name: text for name, text in zip(parts[1::2], parts[2::2], strict=True) if name}


def test_every_docstring_describes_all_parameters_and_says_their_defaults():
    lacking = []
    for label, function, docstring in public_functions():
        texts = described(docstring)
        for name, parameter in inspect.signature(function).parameters.items():
            kinds = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name in ("self", "cls") or parameter.kind in kinds:
                continue
            has_default = parameter.default is not parameter.empty
            if name not in texts or (has_default and "default" not in texts[name].lower()):
                lacking.append(f"{label}: {name}")
    assert lacking == []
    assert sum(1 for _ in public_functions()) > 90
