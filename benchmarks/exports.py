"""What exported policies take and give: bytes, time, instructions on microcontrollers, return.

    python benchmarks/exports.py sizes                       the paper's agents, untrained: as large as trained ones
    python benchmarks/exports.py returns --results FOLDER …  the best runs of studies: return with C beside predict
    python benchmarks/exports.py plot                        size against return, time against return

``sizes`` and ``returns`` write benchmarks/results/exports_NAME.csv. The microcontrollers' columns need
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
from speed import TASKS, processor
from trained_agents import best_run, load_run

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.export.c_compiler import find_compiler
from sb3_rlx2.export.export import export
from sb3_rlx2.export.observations import from_environment
from sb3_rlx2.export.reading import read_policy

RESULTS = Path(__file__).parent / "results"
N_OBSERVATIONS = 2000
EPISODES = 50
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
    observations = from_environment(read_policy(model), model.env.envs[0].spec.id, N_OBSERVATIONS, 0)
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


def mean_return(env: str, act: Callable[[np.ndarray], np.ndarray]) -> float:
    """Over episodes with seeds of their own, the same for each policy."""
    task, total = gym.make(env), 0.0
    for seed in range(EPISODES):
        observation, _ = task.reset(seed=1000 + seed)
        is_over = False
        while not is_over:
            observation, reward, terminated, truncated, _ = task.step(act(observation))
            total, is_over = total + float(reward), terminated or truncated
    return total / EPISODES


def of_library(folder: Path, n_act: int) -> Callable[[np.ndarray], np.ndarray]:
    """An exported policy, through ctypes."""
    library = folder / f"policy{time.monotonic_ns()}.so"
    subprocess.run([find_compiler() or "cc", "-O2", "-shared", "-fPIC", folder / "policy.c", "-o", library], check=True)
    policy_act = ctypes.CDLL(str(library)).policy_act

    def act(observation: np.ndarray) -> np.ndarray:
        raw, action = np.ascontiguousarray(observation, np.float32), np.empty(n_act, np.float32)
        policy_act(raw.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p))
        return action

    return act


def returns(results: list[Path]) -> None:
    """The best run of each method of some studies on each environment: return, size and time."""
    rows = []
    for of_method in (path for folder in results for path in sorted(folder.glob("*/*")) if path.is_dir()):
        run = best_run([of_method])
        if run is None:
            continue
        settings = run.settings
        model, statistics = load_run(run)
        layers = read_policy(model, statistics).layers
        present = sum(len(layer.values) for layer in layers) / sum(layer.n_in * layer.n_out for layer in layers)
        observations = from_environment(read_policy(model, statistics), settings.environment, N_OBSERVATIONS, 0)

        def predict(observation: np.ndarray, model: Any = model, statistics: Any = statistics) -> np.ndarray:
            known = observation if statistics is None else statistics.normalize_obs(observation)
            return model.predict(known, deterministic=True)[0]

        predicted = mean_return(settings.environment, predict)
        for precision in ("float32", "int16", "int8"):
            with TemporaryDirectory() as name:
                folder = Path(name)
                report = export(model, folder, precision=precision, vec_normalize=statistics, observations=observations)
                found = mean_return(settings.environment, of_library(folder, model.action_space.shape[0]))
                rows.append(
                    {
                        "task": settings.environment,
                        "method": settings.method,
                        "weights": f"{present:.0%}",
                        "steps": settings.steps,
                        "precision": precision,
                        "tables": report.table_bytes,
                        "C µs": f"{microseconds_of_c(folder, observations):.2f}",
                        "return of predict": f"{predicted:.1f}",
                        "return in C": f"{found:.1f}",
                        "difference": f"{abs(found / predicted - 1):.2%}",
                        "largest difference of an action": f"{report.agreement.largest:.1e}",
                        "bound": "" if report.bound is None else f"{report.bound:.2g}",
                    }
                )
            print(rows[-1], flush=True)
    note = f"Mean of {EPISODES} episodes; of each method the run with the best last evaluation"
    write("returns", rows, "python benchmarks/exports.py returns --results FOLDER ...", note)


PRECISIONS = (("float32", "o", "#0072B2"), ("int16", "^", "#009E73"), ("int8", "s", "#D55E00"))


PICTURED = ("RLx2", "recipe", "dense")


def plot() -> None:
    """The two pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    with (RESULTS / "exports_returns.csv").open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rows = [row for row in rows if row["method"] in PICTURED]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for column, label, name in (("tables", "bytes of tables in flash", "size"), ("C µs", "µs of an action", "time")):
        figure, axes = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.6), layout="constrained", squeeze=False)
        for axis, task in zip(axes[0], tasks, strict=True):
            for precision, marker, color in PRECISIONS:
                of_task = [row for row in rows if row["task"] == task and row["precision"] == precision]
                xs = [float(row[column]) for row in of_task]
                ys = [float(row["return in C"]) for row in of_task]
                axis.plot(xs, ys, marker, color=color, label=precision, linestyle="none")
                for x, y, row in zip(xs, ys, of_task, strict=True):
                    offset = (0, {"float32": 7, "int16": -13, "int8": -22}[precision])
                    what = f"{row['method']}, {row['weights']}"
                    axis.annotate(what, (x, y), offset, textcoords="offset points", ha="center", fontsize=8)
            axis.set(xscale="log", xlabel=label, title=task)
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.margins(0.15, 0.3)
            axis.grid(alpha=0.3)
        axes[0][0].set_ylabel("return")
        axes[0][0].legend(title="tables", loc="lower left")
        figure.savefig(RESULTS / f"exports_{name}.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sizes", "returns", "plot"))
    parser.add_argument("--results", type=Path, nargs="+", help="folders of studies' results, with their models")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if arguments.what == "returns" and arguments.results is None:
        parser.error("returns needs --results")
    {"sizes": sizes, "returns": lambda: returns(arguments.results), "plot": plot}[arguments.what]()


if __name__ == "__main__":
    main()
