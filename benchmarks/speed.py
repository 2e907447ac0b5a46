"""How fast sparse training is, beside what else there is. Everything alternates (A B A B …) and the best time counts.

    python benchmarks/speed.py updates     gradient updates of TD3 and SAC: ours, our torch path, SB3's dense, SBX's
    python benchmarks/speed.py values      gradient updates of DQN and QR-DQN beside the dense ones, in processor time
    python benchmarks/speed.py crossq      gradient updates of CrossQ, which PyTorch computes, in processor time
    python benchmarks/speed.py steps       whole environment steps, and what collecting one costs beside env.step
    python benchmarks/speed.py vectorised  environment steps with one and with eight environments
    python benchmarks/speed.py residual    the update with SimBaPolicy's residual blocks, and with the same densely
    python benchmarks/speed.py scaling     the update with width, sparsity and batch size
    python benchmarks/speed.py kernels     single products: GFLOP/s of useful work beside other code and the core's peak
    python benchmarks/speed.py layers      SparseLinear with kernels beside its dense path, and what the rule takes
    python benchmarks/speed.py memory      peak memory of a wide agent beside dense
    python benchmarks/speed.py threads     one training alone and two side by side, each on one thread and on two
    python benchmarks/speed.py plot        the picture of all of it

Each writes benchmarks/results/speed_NAME.csv; SBX and SparseProp are measured if the extra ``bench`` is installed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import importlib
import importlib.util
import itertools
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from peaks import multiply_adds
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise

from sb3_rlx2 import RLx2CrossQ, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC
from sb3_rlx2.engine import updates as engine
from sb3_rlx2.files import replacing
from sb3_rlx2.kernels import autograd
from sb3_rlx2.kernels import products as k
from sb3_rlx2.sparse import SparseLinear

RESULTS = Path(__file__).parent / "results"
# The paper's sparsities of actor and critics
TASKS = {
    "td3": {
        "HalfCheetah-v5": (0.90, 0.85), "Hopper-v5": (0.98, 0.95), "Walker2d-v5": (0.97, 0.95), "Ant-v5": (0.96, 0.88),
    },
    "sac": {
        "HalfCheetah-v5": (0.90, 0.80), "Hopper-v5": (0.98, 0.95), "Walker2d-v5": (0.90, 0.90), "Ant-v5": (0.90, 0.75),
    },
    "tqc": {"HalfCheetah-v5": (0.90, 0.90)},  # not in the paper
}  # fmt: skip
OURS = {"td3": RLx2TD3, "sac": RLx2SAC, "tqc": RLx2TQC}
DENSE = {"td3": TD3, "sac": SAC, "tqc": TQC}
VALUE_BASED: dict[str, tuple[Any, Any]] = {"dqn": (DQN, RLx2DQN), "qrdqn": (QRDQN, RLx2QRDQN)}
N_DATA = 5000
_STARTED = time.clock_gettime(time.CLOCK_MONOTONIC)


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def best_times(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    budget: float = 0.15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of one call of each function: the best of some rounds in which all take turns.

    :param functions: what to time, by name
    :param rounds: number of rounds
    :param budget: seconds for each function in each round
    :param clock: tells seconds; ``time.process_time`` for one thread on a machine that others use too
    """
    repeats, best = {}, dict.fromkeys(functions, float("inf"))
    for name, function in functions.items():
        function()
        times = []
        for _ in range(5):  # one that happens to be slow would make for a few calls only, with cold caches
            start = clock()
            function()
            times.append(clock() - start)
        repeats[name] = max(1, int(budget / min(times)))
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            for _ in range(repeats[name]):
                function()
            best[name] = min(best[name], (clock() - start) / repeats[name])
    return best


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table and write it as CSV."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(str(row[column])) for row in rows)) for column in columns]
    for line in [columns, *([str(row[column]) for column in columns] for row in rows)]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"speed_{name}.csv"
    with replacing(path, "w", newline="") as file:
        file.write(f"# python {shlex.join(sys.argv)}\n# {processor()}, torch {th.__version__}\n")
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(path)


def read(name: str) -> list[dict[str, str]]:
    """What ``write`` has written; nothing if it has not."""
    path = RESULTS / f"speed_{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def filled(model: Any) -> Any:
    """A model with random transitions in its buffer, ready to train."""
    model.learn(N_DATA)
    model.set_logger(Logger(None, []))
    return model


def sparse_model(
    algo: str,
    env: str | gym.Env,
    sparsities: tuple[float, float],
    engine: str = "auto",
    policy: str = "MlpPolicy",
    **kwargs: Any,
) -> Any:
    """One of ours, with data."""
    kwargs = {"buffer_size": 20_000, "learning_starts": 10**9, "n_steps": 1, "n_steps_delay": 0, **kwargs}
    kwargs |= {"actor_sparsity": sparsities[0], "critic_sparsity": sparsities[1], "engine": engine}
    return filled(OURS[algo](policy, env, seed=0, device="cpu", **kwargs))


def dense_model(algo: str, env: str | gym.Env, policy: str | type = "MlpPolicy", **kwargs: Any) -> Any:
    """SB3's, with data."""
    kwargs = {"buffer_size": 20_000, "learning_starts": 10**9, "policy_kwargs": {"net_arch": [256, 256]}, **kwargs}
    return filled(DENSE[algo](policy, env, seed=0, device="cpu", **kwargs))


def sbx_model(algo: str, env: str) -> Any | None:
    """SBX's, with data; None without the extra."""
    if importlib.util.find_spec("sbx") is None:
        return None
    import sbx

    kwargs = {"buffer_size": 20_000, "learning_starts": 10**9, "policy_kwargs": {"net_arch": [256, 256]}}
    return filled(
        {"td3": sbx.TD3, "sac": sbx.SAC, "tqc": sbx.TQC}[algo]("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    )


def around_compiled_call(model: Any, calls: int = 2000) -> float:
    """Median of the microseconds that a call of ``train`` takes beside the compiled one in its midst."""
    loop, inside, whole = engine.update_loop, [], []

    def timed(address: int, threads: int) -> int:
        start = time.perf_counter()
        completed = loop(address, threads)
        inside.append(time.perf_counter() - start)
        return completed

    vars(engine)["update_loop"] = timed
    try:
        for _ in range(calls):
            start = time.perf_counter()
            model.train(1, 256)
            whole.append(time.perf_counter() - start)
    finally:
        vars(engine)["update_loop"] = loop
    return 1e6 * float(np.median(np.subtract(whole, inside)))


def updates(arguments: argparse.Namespace) -> None:
    """Milliseconds of a gradient update, as ``train`` is called at each step."""
    rows = []
    for algo in arguments.algos:
        for env, sparsities in TASKS[algo].items():
            models = {
                "dense SB3": dense_model(algo, env),
                "compiled": sparse_model(algo, env, sparsities),
                "compiled, n=3": sparse_model(algo, env, sparsities, n_steps=3),
                "torch path": sparse_model(algo, env, sparsities, engine="torch"),
                "SBX": sbx_model(algo, env),
            }
            calls = {name: (lambda m=m: m.train(1, 256)) for name, m in models.items() if m is not None}
            for threads in arguments.threads:
                th.set_num_threads(threads)
                # JAX has threads of its own and cannot be held to one from inside of a process
                seconds = best_times(calls, arguments.rounds)
                row: dict[str, Any] = {"algorithm": algo, "environment": env, "threads": threads}
                row |= {"sparsity": f"{sparsities[0]:.0%}/{sparsities[1]:.0%}"}
                for name in models:
                    row[f"{name} ms"] = f"{1e3 * seconds[name]:.3f}" if name in seconds else ""
                row["speed-up over dense"] = f"{seconds['dense SB3'] / seconds['compiled']:.1f}"
                row["over SBX"] = f"{seconds['SBX'] / seconds['compiled']:.1f}" if "SBX" in seconds else ""
                row["Python around the compiled call, µs"] = f"{around_compiled_call(models['compiled']):.0f}"
                rows.append(row)
                print(row, flush=True)
    write("updates", rows)


def values(arguments: argparse.Namespace) -> None:
    """Milliseconds of processor time of a gradient update of value networks of 256, 256, 90% sparse, on one thread.

    Batches are those of the algorithms' defaults (32) and of most of the zoo's hyperparameters (128).
    """
    th.set_num_threads(1)
    rows = []
    for (algo, (stock, ours)), batch_size in itertools.product(VALUE_BASED.items(), (32, 128)):
        common: dict[str, Any] = {
            "buffer_size": 20_000, "learning_starts": 10**9, "policy_kwargs": {"net_arch": [256, 256]}, "seed": 0,
            "device": "cpu", "batch_size": batch_size,
        }  # fmt: skip
        models = {"dense": filled(stock("MlpPolicy", "LunarLander-v3", **copy.deepcopy(common)))}
        for name, own in {
            "compiled": {"n_steps": 1},
            "compiled, n=3": {"n_steps_delay": 0},
            "torch path": {"n_steps": 1, "engine": "torch"},
        }.items():
            models[name] = filled(ours("MlpPolicy", "LunarLander-v3", sparsity=0.90, **copy.deepcopy(common), **own))
        calls = {name: (lambda m=model, n=batch_size: m.train(1, n)) for name, model in models.items()}
        seconds = best_times(calls, arguments.rounds, clock=time.process_time)
        row: dict[str, Any] = {"algorithm": algo, "environment": "LunarLander-v3", "batch": batch_size}
        row |= {f"{name} ms": f"{1e3 * seconds[name]:.3f}" for name in models}
        rows.append(row | {"speed-up over dense": f"{seconds['dense'] / seconds['compiled']:.1f}"})
        print(rows[-1], flush=True)
    write("values", rows)


def crossq(arguments: argparse.Namespace) -> None:
    """Milliseconds of processor time of an update of CrossQ on HalfCheetah, networks as by default, on one thread."""
    th.set_num_threads(1)
    common: dict[str, Any] = {"buffer_size": 20_000, "learning_starts": 10**9, "seed": 0, "device": "cpu"}
    models = {"dense": filled(CrossQ("MlpPolicy", "HalfCheetah-v5", **common))}
    for sparsities in ((0.90, 0.80), (0.98, 0.95)):
        own = {"actor_sparsity": sparsities[0], "critic_sparsity": sparsities[1], "n_steps": 1}
        name = f"{sparsities[0]:.0%}/{sparsities[1]:.0%}"
        models[name] = filled(RLx2CrossQ("MlpPolicy", "HalfCheetah-v5", **common, **own))
    calls = {name: (lambda m=model: m.train(3, 256)) for name, model in models.items()}  # one of the actor
    seconds = best_times(calls, arguments.rounds, clock=time.process_time)
    rows = [
        {
            "sparsity of actor/critics": name,
            "ms": f"{1e3 * each / 3:.1f}",
            "speed-up over dense": f"{seconds['dense'] / each:.1f}",
        }
        for name, each in seconds.items()
    ]
    write("crossq", rows)


class TimedEnv(gym.Wrapper):
    """Adds up the seconds that the environment itself takes."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.seconds = 0.0

    def step(self, action: Any) -> Any:
        """As the environment's."""
        start = time.perf_counter()
        result = self.env.step(action)
        self.seconds += time.perf_counter() - start
        return result

    def reset(self, **kwargs: Any) -> Any:
        """As the environment's."""
        start = time.perf_counter()
        result = self.env.reset(**kwargs)
        self.seconds += time.perf_counter() - start
        return result


def steps(arguments: argparse.Namespace) -> None:
    """Environment steps per second of ``learn``, and what collecting one costs beside the environment."""
    th.set_num_threads(1)
    write("steps", [steps_on(algo, env, arguments.rounds) for algo in TASKS for env in TASKS[algo]])


def exploration(algo: str, env: gym.Env) -> dict[str, Any]:
    """The noise that RLx2TD3 has by default, for SB3's TD3; SAC has none."""
    n_act = env.action_space.shape[0]
    return {"action_noise": NormalActionNoise(np.zeros(n_act), np.full(n_act, 0.1))} if algo == "td3" else {}


def steps_on(algo: str, env: str, rounds: int) -> dict[str, Any]:
    """The row of ``steps`` for one algorithm and environment."""
    envs = {name: TimedEnv(gym.make(env)) for name in ("dense", "compiled")}
    models = {
        "dense": dense_model(algo, envs["dense"], **exploration(algo, envs["dense"])),
        "compiled": sparse_model(algo, envs["compiled"], TASKS[algo][env]),
    }

    def per_step(name: str, count: int) -> tuple[float, float]:
        """Seconds of a step of ``learn``, in all and beside the environment."""
        envs[name].seconds, start = 0.0, time.perf_counter()
        models[name].learn(count, reset_num_timesteps=False, log_interval=10**9)
        total = time.perf_counter() - start
        return total / count, (total - envs[name].seconds) / count

    best = {(name, what): float("inf") for name in models for what in ("step", "collecting")}
    for updates_per_step, what, count in ((1, "step", 300), (0, "collecting", 2000)):
        for model in models.values():
            model.learning_starts, model.gradient_steps = 0, updates_per_step
        for _ in range(rounds):
            for name in models:
                seconds = per_step(name, count)[what == "collecting"]
                best[name, what] = min(best[name, what], seconds)
    observation = np.zeros(envs["dense"].observation_space.shape)
    actor, flat = models["compiled"].policy._fast_actor(), observation.astype(np.float32)[None]
    acting = best_times(
        {
            "dense": lambda: models["dense"].predict(observation, deterministic=True),
            "compiled": lambda: models["compiled"].predict(observation, deterministic=True),
            "network": lambda: actor(flat, True),
        },
        rounds,
    )
    row = {
        "algorithm": algo,
        "environment": env,
        "dense steps/s": f"{1 / best['dense', 'step']:.0f}",
        "compiled steps/s": f"{1 / best['compiled', 'step']:.0f}",
        "speed-up": f"{best['dense', 'step'] / best['compiled', 'step']:.1f}",
        "collecting beside the environment, dense µs": f"{1e6 * best['dense', 'collecting']:.0f}",
        "compiled µs": f"{1e6 * best['compiled', 'collecting']:.0f}",
        "share": f"{best['compiled', 'collecting'] / best['dense', 'collecting']:.0%}",
        "predict, dense µs": f"{1e6 * acting['dense']:.0f}",
        "predict, compiled µs": f"{1e6 * acting['compiled']:.0f}",
        "network, compiled µs": f"{1e6 * acting['network']:.1f}",
    }
    print(row, flush=True)
    return row


def vectorised(arguments: argparse.Namespace) -> None:
    """Environment steps per second of ``learn``, with one environment and with eight that step one after the other."""
    th.set_num_threads(1)
    rows = []
    for algo, env in itertools.product(("td3", "sac"), ("Hopper-v5", "HalfCheetah-v5")):
        models = {
            n_envs: sparse_model(algo, make_vec_env(env, n_envs), TASKS[algo][env], gradient_steps=n_envs)
            for n_envs in (1, 8)
        }
        best = dict.fromkeys(models, float("inf"))
        for model in models.values():
            model.learning_starts = 0
        for _ in range(arguments.rounds):
            for n_envs, model in models.items():
                start = time.perf_counter()
                model.learn(800, reset_num_timesteps=False, log_interval=10**9)
                best[n_envs] = min(best[n_envs], (time.perf_counter() - start) / 800)
        row = {"algorithm": algo, "environment": env}
        row |= {f"{n_envs} at once, steps/s": f"{1 / seconds:.0f}" for n_envs, seconds in best.items()}
        rows.append(row | {"speed-up": f"{best[1] / best[8]:.2f}"})
        print(rows[-1], flush=True)
    write("vectorised", rows)


SIMBA = [
    *(("td3", 512, 0.95), ("sac", 512, 0.95), ("tqc", 512, 0.95), ("sac", 512, 0.98), ("sac", 512, 0.99)),
    *(("sac", 256, 0.95), ("sac", 256, 0.98), ("sac", 256, 0.99)),
]
"""Algorithm, width of the two blocks of each critic, sparsity of the critics."""


def residual(arguments: argparse.Namespace) -> None:
    """Milliseconds of processor time of an update with SimBaPolicy, of its dense twin, and with a dense MlpPolicy."""
    th.set_num_threads(1)
    rows, env = [], "HalfCheetah-v5"
    for algo, width, sparsity in SIMBA:
        dense_policy = importlib.import_module(f"sb3_rlx2.{algo}.policies").DenseSimBaPolicy
        policy_kwargs = {"net_arch": {"pi": [128], "qf": [width, width]}}
        unit_norm = policy_kwargs | {"unit_norm": True}
        sparsities = (0.90, sparsity)
        models = {
            "dense MlpPolicy": dense_model(algo, env),
            "dense twin": dense_model(algo, env, policy=dense_policy, policy_kwargs=dict(policy_kwargs)),
            "compiled": sparse_model(algo, env, sparsities, policy="SimBaPolicy", policy_kwargs=dict(policy_kwargs)),
            "units of norm 1": sparse_model(algo, env, sparsities, policy="SimBaPolicy", policy_kwargs=unit_norm),
        }
        # Two updates: TD3's actor takes part in every other
        calls = {name: (lambda m=model: m.train(2, 256)) for name, model in models.items()}
        seconds = best_times(calls, arguments.rounds, clock=time.process_time)
        row = {
            "algorithm": algo,
            "environment": env,
            "critic blocks": f"2 x {width}",
            "sparsity": f"90%/{sparsity:.0%}",
        }
        row |= {f"{name} ms": f"{500 * seconds[name]:.2f}" for name in models}
        row["speed-up"] = f"{seconds['dense twin'] / seconds['compiled']:.1f}"
        row["updates per dense MlpPolicy update"] = f"{seconds['dense MlpPolicy'] / seconds['compiled']:.1f}"
        rows.append(row)
        print(row, flush=True)
    write("residual", rows)


def scaling(arguments: argparse.Namespace) -> None:
    """The TD3 update with width and sparsity at batch 256, and with batch size at width 256, on HalfCheetah."""
    rows = []
    settings = [(width, sparsity, 256) for width in (256, 512, 1024, 2048) for sparsity in (0.90, 0.95, 0.99)]
    settings += [(256, 0.90, batch) for batch in (512, 1024, 2048, 4096)]
    th.set_num_threads(1)
    for width, sparsity, batch in settings:
        policy_kwargs = {"net_arch": [width, width]}
        dense = dense_model("td3", "HalfCheetah-v5", policy_kwargs=policy_kwargs)
        ours = sparse_model("td3", "HalfCheetah-v5", (sparsity, sparsity), policy_kwargs=policy_kwargs)
        calls = {"dense": lambda m=dense, b=batch: m.train(2, b), "ours": lambda m=ours, b=batch: m.train(2, b)}
        seconds = best_times(calls, 3)
        rows.append(
            {
                "width": width,
                "sparsity": sparsity,
                "batch": batch,
                "dense ms": f"{500 * seconds['dense']:.2f}",
                "compiled ms": f"{500 * seconds['ours']:.2f}",
                "speed-up": f"{seconds['dense'] / seconds['ours']:.1f}",
            }
        )
        print(rows[-1], flush=True)
    write("scaling", rows)


def kernels(arguments: argparse.Namespace) -> None:
    """GFLOP/s of useful work of each product of a 256 x 256 layer with 256 samples, and a core's peaks, one thread."""
    th.set_num_threads(1)
    calls, operations = multiply_adds()
    seconds = best_times(calls, arguments.rounds, 0.03)
    peaks = {name: f"{operations / each / 1e9:.0f}" for name, each in seconds.items()}
    rows = [kernels_at(sparsity, arguments.rounds) | peaks for sparsity in (0.85, 0.90, 0.95, 0.98)]
    write("kernels", rows)


def kernels_at(sparsity: float, rounds: int) -> dict[str, Any]:
    """The row of ``kernels`` for one sparsity."""
    n, batch = 256, 256
    tiles = batch // k.TILE
    layer = SparseLinear(n, n, round((1 - sparsity) * n * n), connections="random")
    s, values, bias = layer.structure, layer.values.detach(), layer.bias.detach()
    x, y, dx = (th.randn(tiles, n, k.TILE) for _ in range(3))
    ordered = values[th.from_numpy(s.sources[: layer.nnz]).long()]
    d_values, d_bias = th.zeros(layer.nnz + k.PADDING), th.zeros(n)
    address = {name: array.ctypes.data for name, array in vars(s).items() if isinstance(array, np.ndarray)}
    per_tile = n * k.ROW_BYTES

    def forward() -> None:
        for t in range(tiles):
            k.product(n, address["rows"], address["columns"], values.data_ptr(), bias.data_ptr(),
                      x.data_ptr() + t * per_tile, y.data_ptr() + t * per_tile, True)  # fmt: skip

    def input_gradient() -> None:
        for t in range(tiles):
            k.input_gradient(0, n, address["column_starts"], address["outputs"], ordered.data_ptr(),
                             y.data_ptr() + t * per_tile, x.data_ptr() + t * per_tile,
                             dx.data_ptr() + t * per_tile, False)  # fmt: skip

    def weight_gradient() -> None:
        for t in range(tiles):
            k.weight_gradient(n, address["rows"], address["columns"], y.data_ptr() + t * per_tile,
                              x.data_ptr() + t * per_tile, d_values.data_ptr(), d_bias.data_ptr())  # fmt: skip

    dense_weight, flat = layer.weight.detach().clone(), th.randn(batch, n)
    csr, columns = dense_weight.to_sparse_csr(), th.randn(n, batch)
    calls: dict[str, Callable[[], object]] = {
        "forward": forward,
        "input gradient": input_gradient,
        "weight gradient": weight_gradient,
        "F.linear": lambda: th.nn.functional.linear(flat, dense_weight),
        "CSR": lambda: csr @ columns,
    }
    if importlib.util.find_spec("sparseprop") is not None:
        from sparseprop.modules import SparseLinear as SparseProp

        module = SparseProp.from_dense(dense_layer(dense_weight))
        calls["SparseProp forward"] = lambda: module(flat)
    seconds = best_times(calls, rounds)
    useful, dense = 2 * layer.nnz * batch, 2 * n * n * batch
    row: dict[str, Any] = {"sparsity": sparsity}
    for name in ("forward", "input gradient", "weight gradient", "CSR", "SparseProp forward"):
        row[name] = f"{useful / seconds[name] / 1e9:.1f}" if name in seconds else ""
    row["F.linear (dense work)"] = f"{dense / seconds['F.linear'] / 1e9:.1f}"
    row["forward over F.linear"] = f"{seconds['F.linear'] / seconds['forward']:.1f}"
    return row


def dense_layer(weight: th.Tensor) -> th.nn.Linear:
    """A linear layer with a given weight."""
    linear = th.nn.Linear(weight.shape[1], weight.shape[0])
    with th.no_grad():
        linear.weight.copy_(weight)
    return linear


def layers(arguments: argparse.Namespace) -> None:
    """Forward and backward of one SparseLinear: kernels beside the dense path, and what the rule says."""
    th.set_num_threads(1)
    shapes = ((17, 256), (256, 6), (256, 256), (1024, 1024))
    settings = itertools.product((64, 256, 1024), shapes, (0.02, 0.1, 0.3, 0.5))
    write("layers", [layer_at(*setting, arguments.rounds) for setting in settings])


def layer_at(batch: int, shape: tuple[int, int], density: float, rounds: int) -> dict[str, Any]:
    """The row of ``layers`` for one layer."""
    layer, rule = SparseLinear(*shape, max(int(density * shape[0] * shape[1]), 1)), autograd.are_kernels_faster
    x, g = th.randn(batch, shape[0], requires_grad=True), th.randn(batch, shape[1])

    def step(kernels: bool) -> None:
        autograd.are_kernels_faster = lambda *_: kernels
        th.autograd.grad(layer(x), [x, layer.values, layer.bias], g)

    try:
        seconds = best_times({"dense": lambda: step(False), "kernels": lambda: step(True)}, rounds, 0.03)
    finally:
        autograd.are_kernels_faster = rule
    return {
        "batch": batch,
        "inputs": shape[0],
        "outputs": shape[1],
        "density": density,
        "dense path µs": f"{1e6 * seconds['dense']:.0f}",
        "kernels µs": f"{1e6 * seconds['kernels']:.0f}",
        "ratio": f"{seconds['dense'] / seconds['kernels']:.2f}",
        "the rule takes": "kernels" if rule(batch, *shape, layer.nnz) else "dense",
    }


def memory(arguments: argparse.Namespace) -> None:
    """Peak resident memory, beyond that of the imports, of agents with hidden layers of 2048."""
    rows = []
    for name, sparsity in (("dense SB3", None), ("90%", 0.90), ("95%", 0.95), ("99%", 0.99)):
        command = [sys.executable, __file__, "peak", *([] if sparsity is None else ["--sparsity", str(sparsity)])]
        peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rows.append(
            {
                "agent": name,
                "peak MiB": f"{peak['peak'] - peak['imports']:.0f}",
                "checkpoint MiB": f"{peak['file']:.1f}",
            }
        )
    write("memory", rows)


def threads(arguments: argparse.Namespace) -> None:
    """Milliseconds of a TD3 update on HalfCheetah, alone and beside a second training, each with so many threads."""
    rows = []
    for trainings, count in ((1, 1), (1, 2), (2, 1), (2, 2)):
        command = [sys.executable, __file__, "train_for", "--count", str(count), "--seconds", "10"]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(trainings)]
        each = [process.communicate()[0].splitlines()[-1] for process in processes]
        rows.append({"trainings": trainings, "threads each": count, "ms an update": " and ".join(each)})
    write("threads", rows)


def train_for(arguments: argparse.Namespace) -> None:
    """One training for ``threads``."""
    th.set_num_threads(1)
    model = sparse_model("td3", "HalfCheetah-v5", TASKS["td3"]["HalfCheetah-v5"])
    th.set_num_threads(arguments.count)
    model.train(100, 256)
    time.sleep(max(0.0, 15.0 - time.clock_gettime(time.CLOCK_MONOTONIC) + _STARTED))  # until all are ready
    start, updates_done = time.perf_counter(), 0
    while time.perf_counter() < start + arguments.seconds:
        for _ in range(20):
            model.train(1, 256)
        updates_done += 20
    print(f"{1e3 * (time.perf_counter() - start) / updates_done:.2f}")


def peak(arguments: argparse.Namespace) -> None:
    """One agent for ``memory``."""
    th.set_num_threads(1)

    def resident() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    imports, policy_kwargs = resident(), {"net_arch": [2048, 2048]}
    if arguments.sparsity is None:
        model = dense_model("td3", "HalfCheetah-v5", policy_kwargs=policy_kwargs)
    else:
        model = sparse_model("td3", "HalfCheetah-v5", (arguments.sparsity,) * 2, policy_kwargs=policy_kwargs)
    model.train(20, 256)
    path = Path(f"/tmp/speed_memory_{os.getpid()}.zip")
    model.save(path)
    print(json.dumps({"imports": imports, "peak": resident(), "file": path.stat().st_size / 2**20}))
    path.unlink()


def plot(arguments: argparse.Namespace) -> None:
    """Draw the speed-ups of updates, of width and of batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.8), width_ratios=(1.5, 1, 1))
    colors = {"td3": "#0072B2", "sac": "#E69F00"}
    paper = {"td3": (7.2, 23, 22, 10), "sac": (5.1, 20.8, 8.8, 4.2)}
    for i, algo in enumerate(paper):
        rows = [row for row in read("updates") if row["algorithm"] == algo and row["threads"] == "1"]
        x = np.arange(len(rows)) + (i - 0.5) * 0.4
        heights = [float(row["speed-up over dense"]) for row in rows]
        axes[0].bar(
            x, heights, 0.38, color=colors[algo], label=f"RLx2{algo.upper()}", hatch=("", "//")[i], edgecolor="w"
        )
        axes[0].plot(
            x, paper[algo][: len(rows)], "k_", ms=16, mew=2, label="the paper's FLOPs ratio" if i == 0 else None
        )
        for at, height in zip(x, heights, strict=True):
            axes[0].annotate(f"{height:.1f}", (at, height), ha="center", va="bottom", fontsize=8)
    names = [env.removesuffix("-v5") for env in TASKS["td3"]]
    axes[0].set_xticks(range(len(names)), names)
    axes[0].set(title="one update against dense SB3, one thread", ylabel="times as fast")
    rows = read("scaling")
    styles = {"0.9": ("#0072B2", "o-"), "0.95": ("#009E73", "s--"), "0.99": ("#D55E00", "^:")}
    for sparsity, (color, style) in styles.items():
        points = [
            (int(r["width"]), float(r["speed-up"])) for r in rows if r["sparsity"] == sparsity and r["batch"] == "256"
        ]
        axes[1].plot(*zip(*points, strict=True), style, color=color, label=f"{float(sparsity):.0%} sparse")
    axes[1].set(title="TD3 update, batch 256", xlabel="units in each hidden layer", xscale="log", yscale="log")
    axes[1].set_xticks([256, 512, 1024, 2048], ["256", "512", "1024", "2048"])
    axes[1].set_yticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    points = [(int(r["batch"]), float(r["speed-up"])) for r in rows if r["width"] == "256" and r["sparsity"] == "0.9"]
    axes[2].plot(*zip(*points, strict=True), "o-", color="#0072B2")
    axes[2].set(title="TD3 update, 256 x 256, 90% sparse", xlabel="batch size", xscale="log", ylim=(0, None))
    axes[2].set_xticks([256, 512, 1024, 2048, 4096], ["256", "512", "1024", "2048", "4096"])
    for axis in axes:
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:2]:
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    with replacing(RESULTS / "speed.png") as file:
        figure.savefig(file, dpi=150)
    print(RESULTS / "speed.png")


FUNCTIONS = (
    updates, values, crossq, steps, vectorised, residual, scaling, kernels, layers, memory, peak, threads, train_for,
    plot,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in FUNCTIONS:
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("--rounds", type=int, default=7, help="rounds in which all take turns")
        if function is updates:
            command.add_argument("--threads", type=int, nargs="+", default=[1, 2])
            command.add_argument("--algos", nargs="+", default=list(TASKS), choices=TASKS)
        if function is train_for:
            command.add_argument("--count", type=int, default=1)
            command.add_argument("--seconds", type=float, default=10.0)
        if function is peak:
            command.add_argument("--sparsity", type=float)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
