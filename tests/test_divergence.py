"""An update is made wholly or not at all, whatever ends it, and all counts are those of the updates made."""

import copy
import functools
import math

import numpy as np
import pytest
import torch as th
from helpers import (
    ALGORITHMS,
    COMPILED,
    GAUSSIAN,
    assert_counts_agree,
    differing,
    everything,
    in_turn,
    quick,
    with_transitions,
)

from sb3_rlx2 import RLx2CrossQ, RLx2SAC, RLx2TD3
from sb3_rlx2.common.buffers import draw
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.errors import DivergenceError

BATCH = 32
ENGINE = "compiled"
WAYS = [
    (RLx2TD3, {}),
    (RLx2TD3, {"policy_delay": 3}),
    (RLx2SAC, {}),
    (RLx2SAC, {"ent_coef": 0.1}),
    (RLx2SAC, {"n_steps": 1, "dynamic_buffer": False}),
]
OF_CROSSQ = [(RLx2CrossQ, {}), (RLx2CrossQ, {"policy_delay": 2})]
"""There is no compiled code for them, and running statistics change before an optimizer's first step."""


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def _engine(request, monkeypatch):
    monkeypatch.setitem(globals(), "ENGINE", request.param)


@functools.cache
def _model(algorithm, settings):
    return with_transitions(algorithm, 1900, **dict(settings))


def model_of(algorithm, **kwargs):
    if ENGINE == "compiled" and algorithm not in COMPILED:
        pytest.skip("it has no compiled updates")
    settings = {"batch_size": BATCH, "n_steps_delay": 0, "topology_interval": 12, "n_steps": 3, **kwargs}
    model = copy.deepcopy(_model(algorithm, tuple(settings.items())))
    model.engine = ENGINE
    model.set_random_seed(5)
    return model


def with_the_actor(algorithm):
    """Arguments with which the actor is updated each time."""
    return {"policy_delay": 1} if algorithm in (RLx2TD3, RLx2CrossQ) else {}


def row_of_update(model, number):
    """A row that is in the batch of this of the next updates, and in none before it."""
    twin = copy.deepcopy(model)
    state = np.random.get_state()
    drawn = np.empty((2, number, BATCH), np.int64)
    draw(twin.replay_buffer, drawn)
    rows = drawn[0]
    np.random.set_state(state)
    reach = np.concatenate(rows[:-1])[:, None] + np.arange(model.n_steps)
    return next(row for row in rows[-1] if row not in reach)


def after_updates(model, count):
    """What a copy of the model is like after so many updates, with the random numbers that come next."""
    states = np.random.get_state(), th.get_rng_state()
    twin = copy.deepcopy(model)
    if count:
        twin.train(count, BATCH)
    np.random.set_state(states[0])
    th.set_rng_state(states[1])
    return everything(twin)


def assert_goes_on(model):
    """It learns, just as a copy with tables of its own does."""
    expected = after_updates(model, 30)
    model.train(30, BATCH)
    assert not differing(everything(model), expected)
    assert_counts_agree(model)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@pytest.mark.parametrize(
    ("algorithm", "kwargs", "number", "reward"),
    in_turn(
        ((*way, number) for way in [*WAYS, *OF_CROSSQ] for number in (2, 14)),
        [math.nan, math.inf, -1e30],
    ),
)
def test_what_float32_cannot_hold_is_a_divergence_that_leaves_all_as_it_was(algorithm, kwargs, number, reward):
    model = model_of(algorithm, **kwargs)
    row = row_of_update(model, number)
    expected = after_updates(model, number - 1)
    original = model.replay_buffer.rewards[row].copy()
    model.replay_buffer.rewards[row] = reward
    loss = "nan" if math.isnan(reward) else "inf"
    with pytest.raises(DivergenceError, match=f"critic_loss is {loss} at update {number}: training has diverged"):
        model.train(40, BATCH)
    assert not differing(everything(model), expected)
    assert_counts_agree(model)
    model.replay_buffer.rewards[row] = original
    assert_goes_on(model)


@pytest.mark.parametrize(("algorithm", "kwargs"), WAYS)
@pytest.mark.parametrize("number", [2, 14])
def test_a_moment_that_float32_cannot_hold_is_a_divergence_too(algorithm, kwargs, number):
    # Outputs and losses stay as they are; the gradient of the first layer's weights is past 1e19
    model = model_of(algorithm, topology="static", **kwargs)
    row = row_of_update(model, number)
    nets = [*model.critic.q_networks, *model.critic_target.q_networks]
    with th.no_grad():
        for net in nets:
            net[0].values.mul_(1e-28)
    model.lr_schedule = lambda _: 1e-30
    expected = after_updates(model, number - 1)
    model.replay_buffer.observations[row] = 1e24
    actor = model.actor.latent_pi if algorithm in GAUSSIAN else model.actor.mu
    with th.no_grad():
        actor[0].values.mul_(1e-24)
    expected |= {name: tensor for name, tensor in everything(model).items() if name.startswith("policy.actor")}
    with pytest.raises(DivergenceError, match=r"critic_loss is [\d.e+]+ at update \d+, and the step of its optimizer"):
        model.train(40, BATCH)
    assert model._n_updates == number - 1
    assert_counts_agree(model)
    moments = [tensor for state in model.critic.optimizer.state.values() for tensor in state.values()]
    assert all(tensor.isfinite().all() for tensor in moments)


@pytest.mark.parametrize("delay", [1, 3, 5])
def test_where_the_actors_loss_diverges_the_critics_step_of_that_update_is_taken_back(delay):
    model = model_of(RLx2TD3, policy_delay=delay, topology="static")
    model.train(delay, BATCH)
    expected = after_updates(model, delay - 1)
    bias = model.actor.mu[0].bias
    original = bias.detach().clone()
    with th.no_grad():
        bias.fill_(math.nan)
    with pytest.raises(DivergenceError, match=f"actor_loss is nan at update {2 * delay}:"):
        model.train(40, BATCH)
    assert_counts_agree(model)
    with th.no_grad():
        bias.copy_(original)
    assert not differing(everything(model), expected)
    assert_goes_on(model)


@pytest.mark.parametrize("ent_coef", ["auto", 0.1])
def test_where_sacs_actor_loss_diverges_the_steps_of_critic_and_coefficient_are_taken_back(ent_coef):
    model = model_of(RLx2SAC, ent_coef=ent_coef)
    model.train(5, BATCH)
    expected = everything(model)
    schedule = model.lr_schedule
    model.lr_schedule = lambda _: 1e30  # after that step Q is past 1e38
    with pytest.raises(DivergenceError, match=r"actor_loss is \S+ at update 6: training has diverged"):
        model.train(40, BATCH)
    assert not differing(everything(model), expected)
    model.lr_schedule = schedule
    assert_goes_on(model)


@pytest.mark.parametrize("ent_coef", ["auto", 0.1])
def test_a_step_of_the_actor_that_is_not_finite_is_taken_back_with_the_whole_update(ent_coef):
    model = model_of(RLx2SAC, ent_coef=ent_coef)
    model.train(5, BATCH)
    state = model.actor.optimizer.state[next(iter(model.actor.parameters()))]
    state["exp_avg"].fill_(3e38)
    state["exp_avg_sq"].zero_()
    expected = everything(model)
    with pytest.raises(DivergenceError, match=r"actor_loss is \S+ at update 6, and the step of its optimizer"):
        model.train(40, BATCH)
    assert not differing(everything(model), expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("reward", [math.nan, 3e38])
def test_a_divergence_at_an_evolution_step_leaves_all_as_it_was(algorithm, reward):
    model = model_of(algorithm, **with_the_actor(algorithm))
    row = row_of_update(model, 12)
    expected = after_updates(model, 11)
    original = model.replay_buffer.rewards[row].copy()
    model.replay_buffer.rewards[row] = reward
    with pytest.raises(DivergenceError, match=r"critic_loss is \w+ at update 12:"):
        model.train(40, BATCH)
    assert not differing(everything(model), expected)
    assert model.topology_counters["critic"] == {"updates": 11, "evolutions": 0}
    model.replay_buffer.rewards[row] = original
    assert_goes_on(model)
    assert model.topology_counters["critic"]["evolutions"] == 3


def test_where_the_actors_loss_diverges_the_critics_evolution_is_taken_back():
    model = model_of(RLx2TD3, policy_delay=12)
    expected = after_updates(model, 11)
    bias = model.actor.mu[0].bias
    original = bias.detach().clone()
    with th.no_grad():
        bias.fill_(math.nan)
    with pytest.raises(DivergenceError, match="actor_loss is nan at update 12:"):
        model.train(40, BATCH)
    with th.no_grad():
        bias.copy_(original)
    assert not differing(everything(model), expected)
    assert_goes_on(model)


class _ListenerError(Exception):
    pass


@pytest.mark.parametrize(("algorithm", "kwargs"), [*WAYS, *OF_CROSSQ])
@pytest.mark.parametrize("network", ["critic", "actor"])
def test_an_exception_at_an_evolution_leaves_all_as_it_was(algorithm, kwargs, network):
    model = model_of(algorithm, **kwargs)
    number = 12 * (getattr(model, "policy_delay", 1) if network == "actor" else 1)
    expected = after_updates(model, number - 1)
    model._evolve_topology()
    evolver = attached_evolvers(model)[network]
    original = evolver.on_evolution

    def listener(evolution):
        raise _ListenerError(evolution)

    evolver.on_evolution = listener
    with pytest.raises(_ListenerError):
        model.train(100, BATCH)
    assert model._n_updates == number - 1
    assert not differing(everything(model), expected)
    assert_counts_agree(model)
    evolver.on_evolution = original
    assert_goes_on(model)
    assert model.topology_counters[network]["evolutions"] > 0


def step_hooks(model):
    optimizers = [model.actor.optimizer, model.critic.optimizer, getattr(model, "ent_coef_optimizer", None)]
    return [(len(o._optimizer_step_pre_hooks), len(o._optimizer_step_post_hooks)) for o in optimizers if o is not None]


@pytest.mark.parametrize("_engine", ["torch"], indirect=True)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("loss", ["critic_loss", "actor_loss"])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_with_dense_topology_too_and_from_the_first_update_on(algorithm, loss, number, monkeypatch):
    kwargs = {**with_the_actor(algorithm), "topology": "dense", "engine": "auto", "n_steps": 1, "dynamic_buffer": False}
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(**kwargs))
    model.learn(50)
    expected = after_updates(model, number - 1)
    hooks = step_hooks(model)
    # The critic's networks compute the critic's loss, and then the first of them the actor's
    calls = 2 * (number - 1) + (loss == "actor_loss")
    network = model.critic.q_networks[0]

    def forward(inputs):
        nonlocal calls
        calls -= 1
        q = type(network).forward(network, inputs)
        return q * math.nan if calls < 0 else q  # gradients of a product by 1 may be rounded otherwise

    monkeypatch.setattr(network, "forward", forward)
    with pytest.raises(DivergenceError, match=f"{loss} is nan at update {number}: "):
        model.train(10, BATCH)
    monkeypatch.undo()
    assert not differing(everything(model), expected)
    assert model._n_updates == number - 1
    assert step_hooks(model) == hooks
    model.train(10, BATCH)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_entropy_loss_or_learning_rate_that_is_not_finite(algorithm):
    model = model_of(algorithm, **with_the_actor(algorithm))
    model.train(3, BATCH)
    expected = everything(model)
    schedule = model.lr_schedule
    model.lr_schedule = lambda _: math.nan
    with pytest.raises(DivergenceError, match=r"loss is \S+ at update 4, and the step of its optimizer is not finite"):
        model.train(5, BATCH)
    assert not differing(everything(model), expected)
    model.lr_schedule = schedule
    if algorithm in GAUSSIAN:
        model.target_entropy = math.nan
        with pytest.raises(DivergenceError, match="ent_coef_loss is nan at update 4: "):
            model.train(5, BATCH)
        assert not differing(everything(model), expected)


@pytest.mark.parametrize("_engine", ["torch"], indirect=True)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_ctrl_c_at_a_step_of_sb3s_train_leaves_whole_updates(algorithm, network):
    model = model_of(algorithm, **with_the_actor(algorithm))
    model.train(3, BATCH)
    expected = after_updates(model, 4)
    hooks = step_hooks(model)
    steps = 0

    def interrupt(*_):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt

    handle = getattr(model, network).optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.train(10, BATCH)
    handle.remove()
    assert model._n_updates == 7
    assert not differing(everything(model), expected)
    assert step_hooks(model) == hooks
    assert_goes_on(model)


@pytest.mark.parametrize("_engine", ["torch"], indirect=True)
@pytest.mark.parametrize("number", [2, 14])
def test_running_statistics_that_float32_cannot_hold_are_a_divergence(number):
    model = model_of(RLx2CrossQ)
    row = row_of_update(model, number)
    expected = after_updates(model, number - 1)
    original = model.replay_buffer.observations[row].copy()
    model.replay_buffer.observations[row] = 1e24  # its square is in the variance; normalized it is a small number
    with pytest.raises(DivergenceError, match=rf"critic_loss is [\d.e+]+ at update {number}, and the step of its"):
        model.train(40, BATCH)
    assert not differing(everything(model), expected)
    model.replay_buffer.observations[row] = original
    assert_goes_on(model)


@pytest.mark.parametrize("_engine", ["torch"], indirect=True)
def test_an_exception_between_statistics_and_first_step_takes_the_statistics_back(monkeypatch):
    model = model_of(RLx2CrossQ)
    expected = after_updates(model, 4)
    calls, network = 0, model.critic.q_networks[1]

    def forward(inputs):
        nonlocal calls
        if inputs.shape[0] == 2 * BATCH:  # the other critic's statistics have changed
            calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return type(network).forward(network, inputs)

    monkeypatch.setattr(network, "forward", forward)
    with pytest.raises(KeyboardInterrupt):
        model.train(40, BATCH)
    monkeypatch.undo()
    assert not differing(everything(model), expected)
    assert_goes_on(model)
