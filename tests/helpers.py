"""What several tests share."""

import itertools
import multiprocessing
import signal
import traceback
import warnings
from contextlib import contextmanager

import gymnasium as gym
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_rlx2 import RLx2CrossQ, RLx2DDPG, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC
from sb3_rlx2.common.topology import networks
from sb3_rlx2.engine import updates
from sb3_rlx2.engine.networks import optimizer_of
from sb3_rlx2.sparse import sparse_layers

COMPILED = [RLx2TD3, RLx2SAC, RLx2DDPG, RLx2TQC]
"""Those with actor and critics, for continuous actions, that have compiled updates and policies of every kind."""
ALGORITHMS = [*COMPILED, RLx2CrossQ]
"""All with actor and critics, for continuous actions."""
VALUE_BASED = [RLx2DQN, RLx2QRDQN]
"""Those with one network and its target, for discrete actions."""
ALL_COMPILED = [*COMPILED, *VALUE_BASED]
"""All that have compiled updates."""
ALL = [*ALGORITHMS, *VALUE_BASED]
GAUSSIAN = (RLx2SAC, RLx2TQC, RLx2CrossQ)
"""Those whose actor tells mean and logarithm of the standard deviation."""


class Still(gym.Env):
    """Nothing ever happens: observations are random, there is no reward and no end.

    :param observation_space: the observation space
    :param action_space: the action space
    """

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def each_engine(algorithms):
    """Pairs of an algorithm and an engine that computes its updates."""
    engines = ("compiled", "torch")
    return [(algorithm, engine) for algorithm in algorithms for engine in engines[algorithm not in ALL_COMPILED :]]


def in_turn(cases, values):
    """Cases of a test, each with one more argument, whose values take turns: not every pair, which would take long."""
    pairs = zip(cases, itertools.cycle(values), strict=False)
    return [(*(case if isinstance(case, tuple) else (case,)), value) for case, value in pairs]


def environment(algorithm):
    """A small environment whose actions an algorithm can take."""
    return "CartPole-v1" if algorithm in VALUE_BASED else "Pendulum-v1"


def learner(model):
    """Name of the network that learns in every update."""
    return [*networks(model)][-1]


def quick(**kwargs):
    """Hyperparameters with which everything that RLx2 does happens within a few hundred steps."""
    return {
        "learning_starts": 50,
        "train_freq": 1,
        "batch_size": 32,
        "buffer_size": 2000,
        "policy_kwargs": {"net_arch": [32, 32]},
        "topology_interval": 20,
        "n_steps_delay": 60,
        "buffer_min_size": 40,
        "buffer_check_interval": 50,
        "buffer_distance_threshold": 0.0,
        "seed": 0,
        "device": "cpu",
        **kwargs,
    }


def few_quantiles(algorithm, **policy_kwargs):
    """Arguments with which PyTorch computes QR-DQN fast, and on one thread: it cannot use its others after a fork."""
    quantiles = {"n_quantiles": 5} if algorithm is RLx2QRDQN else {}
    return {"policy_kwargs": {"net_arch": [32, 32], **policy_kwargs, **quantiles}}


def one_output(algorithm):
    """Arguments with which each critic has a single output, as most algorithms' have: its last layer is dense."""
    if algorithm is not RLx2TQC:
        return {}
    return {"policy_kwargs": {"net_arch": [32, 32], "n_quantiles": 1}, "top_quantiles_to_drop_per_net": 0}


def targets_follow(model):
    """Whether target networks have the connections of their online networks."""
    for name, network in networks(model).items():
        target = getattr(model, f"{name}_target", None)
        if target is not None:
            pairs = zip(sparse_layers(network).values(), sparse_layers(target).values(), strict=True)
            if not all(th.equal(online.indices, layer.indices) for online, layer in pairs):
                return False
    return True


def threads_of_last_run(model):
    """How many threads the compiled engine had in its last run."""
    return model._engine_choice.updates.n_threads


@contextmanager
def engine_threads(count):
    """The compiled engine works on this many threads, however little there is to do; a batch of 400 is enough for 3."""
    before = th.get_num_threads(), updates.CONNECTIONS_PER_THREAD
    th.set_num_threads(count)
    updates.CONNECTIONS_PER_THREAD = 1
    try:
        yield
    finally:
        th.set_num_threads(before[0])
        updates.CONNECTIONS_PER_THREAD = before[1]


def with_transitions(algorithm, count=400, **kwargs):
    """A model, compiled where it can be, with so many transitions in its replay buffer, and no update made."""
    model = algorithm(
        "MlpPolicy",
        environment(algorithm),
        engine="compiled" if algorithm in ALL_COMPILED else "torch",
        **quick(**{"learning_starts": count, "topology_end": 100_000, **few_quantiles(algorithm), **kwargs}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(count)
    model.set_logger(Logger(None, []))
    model.set_random_seed(5)
    return model


def everything(model):
    """All that training changes: parameters, connections, moments and counts, by name."""
    state = {f"policy.{name}": tensor.clone() for name, tensor in model.policy.state_dict().items()}
    optimizers = {name: optimizer_of(model.policy, name) for name in networks(model)}
    if getattr(model, "ent_coef_optimizer", None) is not None:
        optimizers["ent_coef"] = model.ent_coef_optimizer
        state["log_ent_coef"] = model.log_ent_coef.detach().clone()
    for name, optimizer in optimizers.items():
        for i, moments in enumerate(optimizer.state.values()):
            state |= {f"{name}.{i}.{key}": value.clone() for key, value in moments.items()}
    counts = {"updates": model._n_updates, "buffer": getattr(model.replay_buffer, "n_updates", model._n_updates)}
    for name, counters in model.topology_counters.items():
        counts |= {f"{name} {key}": value for key, value in counters.items()}
    return state | {name: th.tensor(value) for name, value in counts.items()}


def differing(one, other):
    """Names of what is not the same, bit for bit, in two results of ``everything``."""
    same = one.keys() == other.keys()
    return [name for name in one if not th.equal(one[name], other[name])] if same else ["other contents"]


def assert_counts_agree(model):
    """Number of updates, topology counters, Adam's step counts and the buffer's count are those of one history."""
    n_updates, delay = model._n_updates, getattr(model, "policy_delay", 1)
    assert getattr(model.replay_buffer, "n_updates", n_updates) == n_updates
    for name in networks(model):
        steps, counters = n_updates // (delay if name == "actor" else 1), model.topology_counters[name]
        assert counters["updates"] == steps, name
        for state in optimizer_of(model.policy, name).state.values():
            assert state["step"].item() == steps - counters["evolutions"], name
    if getattr(model, "ent_coef_optimizer", None) is not None:
        assert all(state["step"].item() == n_updates // delay for state in model.ent_coef_optimizer.state.values())


def apart(function, *args, timeout=120):
    """What a function returns in a process of its own, which is ended after so many seconds."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
        try:
            theirs.send((True, function(*args)))
        except BaseException:
            theirs.send((False, traceback.format_exc()))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork in a process with threads
        process = context.Process(target=work)
        process.start()
    theirs.close()
    try:
        assert ours.poll(timeout), f"no result within {timeout} seconds"
        worked, result = ours.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    assert worked, result
    return result
