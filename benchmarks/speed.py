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
import importlib
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from sb3_contrib import CrossQ
from speed_models import TASKS, VALUE_BASED, dense_model, exploration, filled, sbx_model, sparse_model
from speed_picture import plot
from speed_products import kernels, layers
from stable_baselines3.common.env_util import make_vec_env
from timing import best_times, write

from sb3_rlx2 import RLx2CrossQ
from sb3_rlx2.engine import updates as engine

_STARTED = time.clock_gettime(time.CLOCK_MONOTONIC)


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
