"""What exported policies take and give: bytes, time, instructions on microcontrollers, return.

    python benchmarks/exports.py sizes          the paper's agents, untrained: as large as trained ones
    python benchmarks/exports.py returns        the trained agents of the package: return with C beside predict
    python benchmarks/exports.py calibrations   the same in int8, calibrated on other episodes
    python benchmarks/exports.py rounding       what single precision makes of predict and of C
    python benchmarks/exports.py plot           size against return, time against return

All but the last write benchmarks/results/exports_NAME.csv. The microcontrollers' columns need
arm-none-eabi-gcc and qemu-system-arm.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import microcontroller
import numpy as np
import torch as th
from speed_models import TASKS
from timing import processor

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.export.c_compiler import compiled_policy, find_compiler
from sb3_rlx2.export.c_files import prepared, quantized, write_c
from sb3_rlx2.export.export import N_OBSERVATIONS, PRECISIONS, export
from sb3_rlx2.export.observations import from_environment
from sb3_rlx2.export.reading import read_policy
from sb3_rlx2.export.sparse_policy import SparsePolicy
from sb3_rlx2.trained import load_trained, trained_agents

RESULTS = Path(__file__).parent / "results"
FIRST_SEED, EPISODES = 1_000_000, 100
CALIBRATION_SEED = 0
TIMER = """
#include <time.h>
#include "policy.h"
double seconds(const float *observations, int n, int rounds)
{
    struct timespec start, end;
    float action[POLICY_ACTION_SIZE];
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < n; i++)
            policy_act(&observations[i * POLICY_OBSERVATION_SIZE], action);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
}
"""


def microseconds_of_c(folder: Path, observations: np.ndarray, optimize: str = "-O3") -> float:
    """Of an action: the best of many runs over the observations."""
    (folder / "timer.c").write_text(TIMER)
    library = folder / f"timer{time.monotonic_ns()}.so"
    sources = [folder / "timer.c", folder / "policy.c"]
    subprocess.run([find_compiler() or "cc", optimize, "-shared", "-fPIC", *sources, "-o", library], check=True)
    seconds = ctypes.CDLL(str(library)).seconds
    seconds.restype = ctypes.c_double
    rows = np.ascontiguousarray(observations, np.float32)
    # Less than a time slice each, so that some are not interrupted
    times = [seconds(rows.ctypes.data_as(ctypes.c_void_p), 50, 1) for _ in range(2000)]
    return 1e6 * min(times) / 50


def microseconds_of_onnx(path: Path, observations: np.ndarray) -> float | None:
    """Of an action by ONNX Runtime on one thread, one observation at a time, through its bindings in Python."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # Bound memory: what is timed is the runtime, not the conversion of arrays
    binding = session.io_binding()
    binding.bind_cpu_input("observation", np.ascontiguousarray(observations[:1], np.float32))
    binding.bind_output("action", "cpu")
    best = np.inf
    for _ in range(300):
        start = time.perf_counter()
        for _ in range(20):
            session.run_with_iobinding(binding)
        best = min(best, (time.perf_counter() - start) / 20)
    return 1e6 * float(best)


def on_boards(folder: Path, observations: np.ndarray) -> dict[str, Any]:
    """Columns of the microcontrollers."""
    columns: dict[str, Any] = {}
    for name, board in microcontroller.BOARDS.items():
        measured: tuple[Any, ...] = ("", "", "")
        if microcontroller.why_not() is None:
            try:
                ran = microcontroller.run(board, folder / "policy.c", observations[:20], folder)
                measured = (ran.flash_bytes, ran.ram_bytes + ran.stack_bytes, ran.instructions)
            except ValueError:
                measured = ("too large", "", "")
        titles = (f"{name} flash", f"{name} RAM", f"{name} instructions")
        columns |= dict(zip(titles, measured, strict=True))
    return columns


def write(name: str, rows: list[dict[str, Any]], command: str, note: str) -> None:
    """Print a table and write it as CSV."""
    path = RESULTS / f"exports_{name}.csv"
    with path.open("w", newline="") as file:
        file.write(f"# {command}\n# {processor()}, {compiler()}. {note}\n")
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text())


def compiler() -> str:
    """Name and version of the C compiler."""
    printed = subprocess.run([find_compiler() or "cc", "--version"], capture_output=True, text=True, check=True).stdout
    return printed.splitlines()[0]


def sizes() -> None:
    """The paper's agents, dense and sparse, in float32 and int8."""
    rows = []
    for algo, algorithm in (("td3", RLx2TD3), ("sac", RLx2SAC)):
        for env, (sparsity, _) in TASKS[algo].items():
            for actor_sparsity in (0.0, sparsity):
                kwargs = {"actor_sparsity": actor_sparsity} if actor_sparsity else {"topology": "dense"}
                policy_kwargs = {"net_arch": [256, 256]}
                model = algorithm("MlpPolicy", env, buffer_size=10, seed=0, policy_kwargs=policy_kwargs, **kwargs)
                rows += of_model(model, f"{algorithm.__name__} {env}", actor_sparsity)
    note = "Hidden layers of 256, 256; untrained. Bytes of tables are of flash; times in µs on one thread, by -O3"
    write("sizes", rows, "python benchmarks/exports.py sizes", note)


def of_model(model: Any, agent: str, sparsity: float) -> list[dict[str, Any]]:
    """Rows of a model: float32 and int8."""
    observations = from_environment(read_policy(model), model.env.envs[0].spec.id, N_OBSERVATIONS["int8"], 0)
    rows = []
    for precision in ("float32", "int8"):
        with TemporaryDirectory() as name:
            folder = Path(name)
            report = export(model, folder, precision=precision, observations=observations)
            row = {
                "agent": agent,
                "sparsity": f"{sparsity:.0%}",
                "precision": precision,
                "tables": report.table_bytes,
                "C µs": f"{microseconds_of_c(folder, observations):.2f}",
                "ONNX Runtime µs": "",
            }
            if precision == "float32":
                export(model, folder, "onnx", observations=observations)
                of_onnx = microseconds_of_onnx(folder / "policy.onnx", observations)
                row["ONNX Runtime µs"] = "" if of_onnx is None else f"{of_onnx:.1f}"
            rows.append(row | on_boards(folder, observations))
        print(rows[-1], flush=True)
    return rows


def returns_of(environment: str, act: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Of episodes whose starts no training has seen, the same for each policy."""
    task, returns = gym.make(environment), []
    for seed in range(FIRST_SEED, FIRST_SEED + EPISODES):
        observation, _ = task.reset(seed=seed)
        total, is_over = 0.0, False
        while not is_over:
            observation, reward, terminated, truncated, _ = task.step(act(observation))
            total, is_over = total + float(reward), terminated or truncated
        returns.append(total)
    task.close()
    return np.array(returns)


def returns() -> None:
    """The trained agents of the package: return in C beside that of predict on the same starts, and size."""
    rows = []
    for environment in trained_agents():
        policy = load_trained(environment)
        small = prepared(policy)
        calibration, others = (
            from_environment(policy, environment, N_OBSERVATIONS["int8"], seed) for seed in (CALIBRATION_SEED, 1)
        )
        predicted = returns_of(environment, lambda observation, policy=policy: policy.predict(observation)[0])
        exact = policy.predict(others)[0]
        for precision in PRECISIONS:
            with TemporaryDirectory() as name:
                folder = Path(name)
                quantization = None if precision == "float32" else quantized(small, calibration, precision)
                written = write_c(small, folder, "policy", quantization)
                act = compiled_policy(written.path, folder / "policy.so", policy.n_act, find_compiler() or "cc")
                found = returns_of(environment, lambda observation, act=act: act(np.asarray(observation)[None])[0])
                apart = np.abs(act(others) - exact) / policy.action.half_range
                boards = on_boards(folder, others)
            rows.append(
                {
                    "task": environment,
                    "precision": precision,
                    "tables": written.table_bytes,
                    "Cortex-M4F instructions": boards["Cortex-M4F instructions"],
                    **compared(found, predicted),
                    "mean difference of an action": f"{apart.mean():.1e}",
                    "largest": f"{apart.max():.1e}",
                    "proven": "" if quantization is None else f"{quantization.bound:.2g}",
                }
            )
            print(rows[-1], flush=True)
    note = (
        f"{EPISODES} episodes with the same starts for each. Differences of actions, on other episodes, in half ranges"
    )
    write("returns", rows, "python benchmarks/exports.py returns", note)


def calibrations() -> None:
    """The trained agents in int8, calibrated on other episodes: how much the return depends on them."""
    rows = []
    for environment in trained_agents():
        policy = load_trained(environment)
        small = prepared(policy)
        predicted = returns_of(environment, lambda observation, policy=policy: policy.predict(observation)[0])
        for seed in (2, 3, 4):
            quantization = quantized(small, from_environment(policy, environment, N_OBSERVATIONS["int8"], seed), "int8")
            with TemporaryDirectory() as name:
                written = write_c(small, Path(name), "policy", quantization)
                act = compiled_policy(written.path, Path(name) / "policy.so", policy.n_act, find_compiler() or "cc")
                found = returns_of(environment, lambda observation, act=act: act(np.asarray(observation)[None])[0])
            rows.append({"task": environment, "seed of the calibration": seed, **compared(found, predicted)})
            print(rows[-1], flush=True)
    note = f"int8, {EPISODES} episodes with the same starts for each"
    write("calibrations", rows, "python benchmarks/exports.py calibrations", note)


def compared(found: np.ndarray, predicted: np.ndarray) -> dict[str, str]:
    """Columns of returns of C beside those of predict, episode by episode."""
    mean, differences = predicted.mean(), found - predicted
    return {
        "return of predict": f"{mean:.1f}",
        "return in C": f"{found.mean():.1f}",
        "difference": f"{differences.mean() / mean:+.2%}",
        "standard error": f"{differences.std(ddof=1) / np.sqrt(EPISODES) / mean:.2%}",
    }


def rounding() -> None:
    """What single precision makes of the trained agents: distances of predict and of C from double precision."""
    rows = []
    for environment in trained_agents():
        policy = load_trained(environment)
        raw = from_environment(policy, environment, N_OBSERVATIONS["int8"], 1).astype(np.float32)
        exact = policy.action.low + policy.action.half_range.astype(float) * (
            np.tanh(policy.values(raw)[policy.output]) + 1.0
        )
        one, batch = (np.concatenate([in_torch(policy, some) for some in np.split(raw, n)]) for n in (len(raw), 1))
        with TemporaryDirectory() as name:
            written = write_c(prepared(policy), Path(name), "policy")
            act = compiled_policy(written.path, Path(name) / "policy.so", policy.n_act, find_compiler() or "cc")
            in_c = act(raw)
        size = np.maximum(np.abs(policy.action.low), np.abs(policy.action.high))
        for what, left, right in (
            ("predict and double precision", one, exact),
            ("C and double precision", in_c, exact),
            ("C and predict", in_c, one),
            ("predict and predict of a batch", one, batch),
        ):
            differences = (np.abs(left.astype(float) - right) / size).max(1)
            rows.append(
                {
                    "task": environment,
                    "distance of": what,
                    "largest": f"{differences.max():.1e}",
                    "share above 1e-6": f"{(differences > 1e-6).mean():.1%}",
                }
            )
    note = f"{N_OBSERVATIONS['int8']:,} observations; distances of actions as a share of their largest size"
    write("rounding", rows, "python benchmarks/exports.py rounding", note)


def in_torch(policy: SparsePolicy, raw: np.ndarray) -> np.ndarray:
    """Actions of an agent of TD3, computed as predict does: by PyTorch, in single precision."""
    x = th.as_tensor(raw if policy.normalization is None else policy.normalization(raw))
    for layer in policy.layers:
        x = th.nn.functional.linear(x, th.as_tensor(layer.dense_weight), th.as_tensor(layer.bias))
        x = th.tanh(x) if layer.output == policy.output else th.relu(x)
    low, high = policy.action.low, policy.action.high
    return low + 0.5 * (x.numpy() + 1.0) * (high - low)


MARKS = {"float32": ("o", "#0072B2"), "int16": ("^", "#009E73"), "int8": ("s", "#D55E00")}


def plot() -> None:
    """The two pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    rows, sizes = read("returns"), read("sizes")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for column, label, name in (
        ("tables", "bytes of tables in flash", "size"),
        ("Cortex-M4F instructions", "instructions of an action on a Cortex-M4F", "time"),
    ):
        figure, axes = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.6), layout="constrained", squeeze=False)
        for axis, task in zip(axes[0], tasks, strict=True):
            for row in (row for row in rows if row["task"] == task):
                x, y = float(row[column]), float(row["return in C"])
                error = float(row["standard error"].rstrip("%")) / 100 * float(row["return of predict"])
                marker, color = MARKS[row["precision"]]
                axis.errorbar(x, y, error, fmt=marker, color=color, capsize=3, label=row["precision"])
            axis.axhline(float(row["return of predict"]), color="#888888", linewidth=1, label="predict")
            for dense in sizes:
                if dense["agent"] == f"RLx2TD3 {task}" and dense["sparsity"] == "0%":
                    color = MARKS[dense["precision"]][1]
                    axis.axvline(float(dense[column]), color=color, linestyle=":", label=f"dense, {dense['precision']}")
            axis.set(xscale="log", xlabel=label, title=task)
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_ylim(0.0, 1.1 * axis.get_ylim()[1])
            axis.grid(alpha=0.3)
        axes[0][0].set_ylabel("return")
        axes[0][0].legend(loc="lower center", fontsize=8)
        figure.savefig(RESULTS / f"exports_{name}.png", dpi=120)


def read(name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (RESULTS / f"exports_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


COMMANDS = {
    "sizes": sizes,
    "returns": returns,
    "calibrations": calibrations,
    "rounding": rounding,
    "plot": plot,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    arguments = parser.parse_args()
    th.set_num_threads(1)
    COMMANDS[arguments.what]()


if __name__ == "__main__":
    main()
