"""Models to export, of every algorithm and with every operation."""

import warnings

import gymnasium as gym
import numpy as np
import torch as th
from sb3_contrib import QRDQN, CrossQ
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_rlx2 import RLx2CrossQ, RLx2DDPG, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC
from sb3_rlx2.sparse import SparseLinear

ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.ELU(0.7), nn.LeakyReLU(0.2), nn.SiLU(), nn.GELU(), nn.GELU("tanh")]


class Walk(gym.Env):
    """A few observations that drift, and actions with bounds that differ."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float64)
    action_space = gym.spaces.Box(np.array([-1.0, 0.5], np.float32), np.array([3.0, 0.75], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(size=5) * [1.0, 10.0, 0.1, 1.0, 3.0] + [0.0, 5.0, 1.0, -2.0, 0.0], 0
        return self.x.copy(), {}

    def step(self, action):
        self.steps += 1
        self.x += 0.1 * self.np_random.normal(size=5) + 0.01 * action.sum()
        return self.x.copy(), float(-np.abs(self.x).sum()), False, self.steps == 50, {}


class Choice(Walk):
    """The same with discrete actions."""

    action_space = gym.spaces.Discrete(4)


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + self.block(x)


def sparse(n_in, n_out, share=0.3):
    return SparseLinear(n_in, n_out, max(1, int(share * n_in * n_out)), connections="random")


def connected(n_in, n_out, *connections):
    """A layer with these connections: output and input of each."""
    mask = th.zeros(n_out, n_in, dtype=th.bool)
    mask[tuple(zip(*connections, strict=True))] = True
    return SparseLinear.from_dense(nn.Linear(n_in, n_out), connections=mask)


NETWORKS = {
    **{str(act): lambda act=act: [sparse(5, 24), act, sparse(24, 20), act, sparse(20, 2)] for act in ACTIVATIONS},
    "one layer": lambda: [sparse(5, 2, 0.6)],
    "dense": lambda: [nn.Linear(5, 19), nn.ReLU(), nn.Linear(19, 2)],
    "wide": lambda: [sparse(5, 350), nn.ReLU(), sparse(350, 290, 0.06), nn.ReLU(), sparse(290, 2, 0.9)],
    "dead units": lambda: [sparse(5, 60, 0.1), nn.ReLU(), sparse(60, 60, 0.01), nn.ReLU(), sparse(60, 2, 0.1)],
    "nothing but biases": lambda: [sparse(5, 6, 0.0), nn.ReLU(), sparse(6, 5, 0.0), nn.ReLU(), sparse(5, 2, 0.0)],
    "two activations": lambda: [
        sparse(5, 20), nn.ReLU(), nn.Tanh(), sparse(20, 20), nn.Tanh(), nn.ELU(), sparse(20, 2),
    ],
    "one activation of several slopes": lambda: [
        *(sparse(5, 20), nn.LeakyReLU(0.5), sparse(20, 20), nn.LeakyReLU(), nn.Linear(20, 20), nn.LeakyReLU(0.2)),
        *(sparse(20, 20), nn.ELU(0.3), sparse(20, 20), nn.ELU(), sparse(20, 2)),
    ],
    "nobody reads what is connected": lambda: [
        *(connected(5, 6, (4, 0), (5, 1)), nn.ReLU(), connected(6, 6, (0, 4), (1, 5)), nn.ReLU()),
        connected(6, 2, (0, 3), (1, 3)),
    ],
    "layer norm": lambda: [
        nn.LayerNorm(5), sparse(5, 32), nn.LayerNorm(32), nn.ReLU(), sparse(32, 32), nn.SiLU(), nn.LayerNorm(32),
        sparse(32, 2),
    ],
    "residual": lambda: [
        sparse(5, 32), nn.ReLU(), Residual(nn.Sequential(nn.LayerNorm(32), sparse(32, 48), nn.ReLU(), sparse(48, 32))),
        Residual(nn.Sequential(sparse(32, 32, 0.05), nn.Tanh())), sparse(32, 2),
    ],
    "everything": lambda: [
        sparse(5, 16), nn.LayerNorm(16), nn.SiLU(), Residual(nn.Sequential(sparse(16, 16), nn.ELU())), sparse(16, 30),
        nn.LeakyReLU(), nn.Linear(30, 16), nn.ReLU(), sparse(16, 16), nn.Tanh(), sparse(16, 2),
    ],
    "residual on the observation": lambda: [
        Residual(nn.Sequential(sparse(5, 16), nn.ReLU(), sparse(16, 5))), sparse(5, 2),
    ],
}  # fmt: skip
"""Modules of an actor's network by name."""


def with_network(name, normalizes=False):
    """RLx2TD3 with a network of the list."""
    model = normalized(RLx2TD3) if normalizes else quick(RLx2TD3)
    th.manual_seed(1)
    model.policy.actor.mu = nn.Sequential(*NETWORKS[name](), nn.Tanh())
    with th.no_grad():
        for module in model.policy.actor.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return model


GREEDY = ["RLx2DQN", "RLx2QRDQN", "DQN", "QRDQN", "RLx2DQN with VecNormalize"]
"""Those of ``MODELS`` whose actions are discrete."""
TASKS = dict.fromkeys((RLx2DQN, RLx2QRDQN, DQN, QRDQN), Choice)


LEARNED = 90
"""Environment steps of those that have learned a little."""


def quick(algorithm, env=None, **kwargs):
    """A model that is made in no time."""
    kwargs = {"policy_kwargs": {"net_arch": [64, 48]}, "buffer_size": 500, "seed": 0, "device": "cpu", **kwargs}
    return algorithm("MlpPolicy", env or DummyVecEnv([TASKS.get(algorithm, Walk)]), **kwargs)


def normalized(algorithm, **kwargs):
    """A model that has learned a little on normalized observations."""
    env = VecNormalize(DummyVecEnv([TASKS.get(algorithm, Walk)]), clip_obs=2.0, epsilon=1e-4)
    model = quick(algorithm, env, learning_starts=50, batch_size=16, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(LEARNED)
    return model


def simba(algorithm):
    """A model with SimBa's networks that has learned a little."""
    policy_kwargs = {"net_arch": [24], "features_extractor_kwargs": {"clip": 1.5, "epsilon": 1e-4}}
    model = algorithm(
        "SimBaPolicy", DummyVecEnv([Walk]), policy_kwargs=policy_kwargs, learning_starts=50, batch_size=16,
        buffer_size=500, seed=0, device="cpu",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.learn(LEARNED)


MODELS = {
    "RLx2TD3": lambda: quick(RLx2TD3),
    "RLx2SAC": lambda: quick(RLx2SAC),
    "RLx2DDPG": lambda: quick(RLx2DDPG),
    "RLx2TQC": lambda: quick(RLx2TQC),
    "RLx2CrossQ": lambda: normalized(RLx2CrossQ),
    "CrossQ": lambda: normalized(CrossQ),
    "TD3": lambda: quick(TD3),
    "SAC": lambda: quick(SAC),
    "RLx2DQN": lambda: quick(RLx2DQN),
    "RLx2QRDQN": lambda: quick(RLx2QRDQN),
    "DQN": lambda: quick(DQN),
    "QRDQN": lambda: quick(QRDQN),
    "RLx2DQN with VecNormalize": lambda: normalized(RLx2DQN),
    "RLx2TD3 with VecNormalize": lambda: normalized(RLx2TD3),
    "SAC with VecNormalize": lambda: normalized(SAC),
    "RLx2TD3 with SimBaPolicy": lambda: simba(RLx2TD3),
    "RLx2SAC with SimBaPolicy": lambda: simba(RLx2SAC),
    **{name: lambda name=name: with_network(name, normalizes=name == "everything") for name in NETWORKS},
}


def observations(count=200, seed=0):
    """Raw observations of the task, float32."""
    scale, middle = np.array([1.0, 10.0, 0.1, 1.0, 3.0]), np.array([0.0, 5.0, 1.0, -2.0, 0.0])
    return (np.random.default_rng(seed).normal(size=(count, 5)) * scale + middle).astype(np.float32)


def predictions(model, raw):
    """What the model does about raw observations."""
    env = model.get_vec_normalize_env()
    return model.predict(raw if env is None else env.normalize_obs(raw), deterministic=True)[0]


def apart(model, raw, actions, others):
    """How far actions are from others, as a share of the largest size; discrete ones: of the largest value."""
    if actions.dtype.kind != "i":
        return np.abs(actions - others) / LARGEST
    values = action_values(model, raw)
    one, other = (np.take_along_axis(values, some.reshape(-1, 1), 1) for some in (actions, others))
    return np.abs(one - other) / np.abs(values).max()


def action_values(model, raw):
    """The values of discrete actions, as the model's network tells them."""
    env, network = model.get_vec_normalize_env(), getattr(model.policy, "q_net", None) or model.policy.quantile_net
    with th.no_grad():
        values = network(th.as_tensor(raw if env is None else env.normalize_obs(raw))).double()
    return (values.mean(1) if values.ndim == 3 else values).numpy()


LARGEST = np.maximum(np.abs(Walk.action_space.low), np.abs(Walk.action_space.high))
