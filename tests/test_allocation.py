"""How connections are distributed over layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_rlx2.sparse import allocate

SHAPES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6)
PAPER_CRITIC = {"0": (256, 23), "2": (256, 256), "4": (1, 256)}


@given(SHAPES, st.floats(0, 0.99), st.sampled_from(["erdos_renyi", "uniform"]))
def test_total_is_exact_and_every_layer_fits(shapes, sparsity, allocation):
    named = {str(i): shape for i, shape in enumerate(shapes)}
    try:
        counts = allocate(named, sparsity, allocation)
    except ValueError:
        # The only reason there is: even the exact share of some layer rounds to nothing
        total = (1 - sparsity) * sum(o * i for o, i in shapes)
        least = min(o + i for o, i in shapes) / sum(o + i for o, i in shapes)
        if allocation == "uniform":
            least = min(o * i for o, i in shapes) / sum(o * i for o, i in shapes)
        assert total * least < 1.5
        return
    assert sum(counts.values()) == round((1 - sparsity) * sum(o * i for o, i in shapes))
    for name, (out, in_) in named.items():
        assert 1 <= counts[name] <= out * in_


@given(SHAPES, st.floats(0.01, 0.99))
def test_erdos_renyi_solves_for_one_epsilon_over_the_layers_that_are_not_dense(shapes, sparsity):
    named = {str(i): shape for i, shape in enumerate(shapes)}
    try:
        counts = allocate(named, sparsity)
    except ValueError:
        return
    # Within the rounding of one connection, open layers share one ε, and full layers would exceed density 1 at it
    open_layers = [name for name, (out, in_) in named.items() if counts[name] < out * in_ - 1]
    if open_layers:
        low = max((counts[name] - 1) / sum(named[name]) for name in open_layers)
        high = min((counts[name] + 1) / sum(named[name]) for name in open_layers)
        assert low <= high
        for name, (out, in_) in named.items():
            if counts[name] == out * in_:
                assert high * (out + in_) >= out * in_ - 1


def test_erdos_renyi_on_the_papers_critic():
    counts = allocate(PAPER_CRITIC, 0.85)
    weights = 256 * 23 + 256 * 256 + 256
    epsilon = (round(0.15 * weights) - 256) / (256 + 23 + 512)  # the last layer is dense
    assert counts["4"] == 256
    assert counts["0"] == pytest.approx(epsilon * 279, abs=1)
    assert counts["2"] == pytest.approx(epsilon * 512, abs=1)


def test_uniform_gives_one_density():
    counts = allocate({"a": (100, 50), "b": (10, 100)}, 0.9, "uniform")
    assert counts == {"a": 500, "b": 100}


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), 2, "0.5"])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"sparsity=.*0 <= sparsity < 1"):
        allocate(PAPER_CRITIC, sparsity)


def test_no_layer():
    with pytest.raises(ValueError, match="no linear layer"):
        allocate({}, 0.5)


def test_unknown_allocation():
    with pytest.raises(ValueError, match=r"allocation='er'.*erdos_renyi"):
        allocate(PAPER_CRITIC, 0.5, "er")


def test_layer_without_a_connection():
    with pytest.raises(ValueError, match="leaves layer '4'"):
        allocate(PAPER_CRITIC, 0.999, "uniform")


@given(SHAPES, st.integers(2, 4), st.floats(0, 0.9), st.sampled_from(["erdos_renyi", "uniform"]))
def test_a_group_gets_what_one_layer_of_its_joint_width_gets(shapes, members, sparsity, allocation):
    (out, in_), *others = shapes
    joint = {"group": (members * out, in_)} | {str(i): shape for i, shape in enumerate(others)}
    apart = {f"member {i}": (out, in_) for i in range(members)} | {str(i): shape for i, shape in enumerate(others)}
    group = [f"member {i}" for i in range(members)]
    try:
        expected = allocate(joint, sparsity, allocation)
        counts = allocate(apart, sparsity, allocation, groups=[group])
    except ValueError:
        return
    own = [counts.pop(name) for name in group]
    assert sum(own) == expected.pop("group")
    assert max(own) - min(own) <= 1
    assert counts == expected


def test_connections_of_a_group_are_divided_in_proportion_to_sizes():
    counts = allocate({"a": (30, 10), "b": (10, 10), "c": (40, 40)}, 0.5, "uniform", groups=[["b", "a"]])
    assert counts == {"a": 150, "b": 50, "c": 800}


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([["0", "9"]], "layer '9' is unknown: allowed are"),
        ([["0"], ["2"], ["2"]], "layer '2' is in another group too"),
        ([["0", "2"]], r"must read the same inputs; their numbers differ \('0': 23, '2': 256\)"),
    ],
)
def test_groups_that_do_not_fit(groups, problem):
    with pytest.raises(ValueError, match=f"groups.*{problem}"):
        allocate(PAPER_CRITIC, 0.5, groups=groups)
