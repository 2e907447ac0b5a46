"""What becomes of damaged checkpoints and replay buffers with valid checksums: an error, or training in silence.

Each case damages a file of a small model, loads it, predicts and trains some steps with the compiled engine and with
SB3's own ``train``, in a process of its own that is started again when it dies or hangs. What becomes of it:

clean error    a one-line ``ModelFileError`` at loading, or a one-line ``ValueError`` later
equal          predicts and trains as the file before it was damaged
legal change   differs, and could be right: another legal learning rate, other finite weights
warned         differs, and a warning says what could not be read
silent change  differs, and cannot be right
traceback      another exception
crash          the process died
hang           no answer in time

python benchmarks/fuzz_loading.py                  # 2,000 cases, writes results/fuzz_loading.csv
python benchmarks/fuzz_loading.py --without-pickle --out benchmarks/results/fuzz_without_pickle.csv  # .safetensors
python benchmarks/fuzz_loading.py --case 17        # one case, with what was damaged and what happened
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

RESULTS = Path(__file__).parent / "results" / "fuzz_loading.csv"
OUTCOMES = ("clean error", "equal", "legal change", "warned", "silent change", "traceback", "crash", "hang")
BAD = OUTCOMES[4:]
STEPS = 12
TIMEOUT_S = 120
MEMORY_BYTES = 24 * 2**30
"""Address space of a process: a buffer that is too large is an error in it, not in the whole machine."""

COMMON: dict[str, Any] = {
    "learning_starts": 20, "batch_size": 16, "buffer_size": 300, "policy_kwargs": {"net_arch": [24, 24]},
    "topology_interval": 8, "buffer_min_size": 20, "buffer_check_interval": 16, "seed": 0, "device": "cpu",
}  # fmt: skip
SUFFIXES = {"checkpoint": ".zip", "replay buffer": ".pkl"}
WITHOUT_PICKLE = ".safetensors"
PLAIN = {"n_steps": 1, "dynamic_buffer": False}
ORIGINALS: dict[str, tuple[str, dict[str, Any]]] = {
    "td3": ("RLx2TD3", {"n_steps_delay": 10}),
    "sac": ("RLx2SAC", {"n_steps_delay": 10}),
    "td3_plain": ("RLx2TD3", PLAIN),
    "sac_plain": ("RLx2SAC", {**PLAIN, "ent_coef": 0.1}),
}
"""Name: algorithm and its arguments. With ``PLAIN`` the replay buffer is SB3's own."""


# --- the process that loads ---


class Worker:
    """Runs cases; each says what became of it.

    :param folder: where the whole files are
    :param seed: what decides, together with the number of a case, about its damage
    :param without_pickle: whether files without pickle are damaged
    """

    def __init__(self, folder: Path, seed: int, without_pickle: bool = False) -> None:
        import fuzz_oracle
        import torch as th
        from fuzz_damage import read_members
        from stable_baselines3.common.save_util import load_from_pkl

        from sb3_rlx2.sparse import sparse_layers

        th.set_num_threads(1)
        self.folder, self.seed, self.oracle = folder, seed, fuzz_oracle
        end = WITHOUT_PICKLE if without_pickle else ""
        self.suffixes = {part: suffix + end for part, suffix in SUFFIXES.items()}
        files = {name: self.whole(name) for name in ORIGINALS}
        self.members = {name: read_members(_with_pickle(files[name]["checkpoint"])) for name in ORIGINALS}
        self.buffers = {name: load_from_pkl(_with_pickle(files[name]["replay buffer"])) for name in ORIGINALS}
        self.sizes, self.traces = {}, {}
        for name in ORIGINALS:
            model = self.load(name, files[name]["checkpoint"], "torch")
            layers = sparse_layers(model.policy)
            self.sizes[name] = {
                f"{key}.indices": layer.in_features * layer.out_features for key, layer in layers.items()
            }
            for engine in ("auto", "torch"):
                self.traces[name, engine] = self.trace(name, *files[name].values(), engine)

    def whole(self, name: str) -> dict[str, Path]:
        """The files of a model before they are damaged, by part."""
        return {part: self.folder / f"{name}{suffix}" for part, suffix in self.suffixes.items()}

    def load(self, name: str, path: Path, engine: str) -> Any:
        """A model from a file, with an environment."""
        import gymnasium

        import sb3_rlx2

        return getattr(sb3_rlx2, ORIGINALS[name][0]).load(path, env=gymnasium.make("Pendulum-v1"), engine=engine)

    def trace(self, name: str, model_file: Path, buffer_file: Path, engine: str) -> list[Any]:
        """Load, predict, train: what the model answers before and after, and what it is made of then."""
        import numpy as np
        import torch as th

        model = self.load(name, model_file, engine)
        model.load_replay_buffer(buffer_file)
        observations = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)
        predicted = model.predict(observations, deterministic=True)[0]
        model.learn(STEPS, reset_num_timesteps=False)
        counts = [model.num_timesteps, model._n_updates, model.replay_buffer.pos, *_numbers(model.topology_counters)]
        tensors = [tensor for state in model.get_parameters().values() for tensor in _tensors(state)]
        if hasattr(model, "ent_coef_tensor"):
            tensors.append(model.ent_coef_tensor)
        elif getattr(model, "log_ent_coef", None) is not None:
            tensors.append(model.log_ent_coef.detach())
        after = model.predict(observations, deterministic=True)[0]
        arrays = [tensor.detach().to(th.float64).numpy().copy() for tensor in tensors]
        return [predicted, after, np.array(counts, np.float64), *arrays]

    def damage(self, number: int) -> dict[str, str]:
        """Write a damaged file, and say what is damaged.

        :param number: number of the case
        """
        from fuzz_damage import damage_buffer, damage_model, damage_state

        rng = random.Random(f"{self.seed}/{number}")
        name = rng.choice(list(ORIGINALS))
        part = "checkpoint" if rng.random() < 0.7 else "replay buffer"
        path = Path(f"damaged{self.suffixes[part]}")
        function = damage_model if part == "checkpoint" else damage_buffer
        function = damage_state if path.suffix == WITHOUT_PICKLE else function
        kind, said = function(rng, self.whole(name)[part], path)
        return {"name": name, "part": part, "kind": kind, "damage": said.encode("ascii", "backslashreplace").decode()}

    def run(self, name: str, part: str, **_: str) -> dict[str, str]:
        """What becomes of the file that was damaged last.

        :param name: which model
        :param part: which of its files
        """
        files = self.whole(name)
        files[part] = damaged = Path(f"damaged{self.suffixes[part]}").resolve()
        found = [self.outcome(name, engine, files) for engine in ("auto", "torch")]
        outcome, detail = max(found, key=lambda one: OUTCOMES.index(one[0]))
        if outcome == "legal change" and not self.could_be_right(name, part, damaged):
            outcome = "silent change"
        return {"outcome": outcome, "detail": detail}

    def outcome(self, name: str, engine: str, files: dict[str, Path]) -> tuple[str, str]:
        """What becomes of files with one of the engines, and the message of an error."""
        import numpy as np

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                trace = self.trace(name, files["checkpoint"], files["replay buffer"], engine)
            except Exception as error:
                said = str(error)
                clean = isinstance(error, ValueError) and said and "\n" not in said and _is_ours(error)
                return "clean error" if clean else "traceback", f"{type(error).__name__}: {said}"
        whole = self.traces[name, engine]
        if len(trace) == len(whole) and all(
            one.shape == other.shape and np.allclose(one, other, 1e-4, 1e-5)
            for one, other in zip(trace, whole, strict=True)
        ):
            return "equal", ""
        if not all(np.isfinite(array).all() for array in trace):
            return "silent change", "not finite"
        unread = [str(w.message).splitlines()[0] for w in caught if "Could not deserialize" in str(w.message)]
        return ("warned", unread[0]) if unread else ("legal change", "")

    def could_be_right(self, name: str, part: str, damaged: Path) -> bool:
        """Whether training could have left a damaged file."""
        from fuzz_damage import read_members
        from stable_baselines3.common.save_util import load_from_pkl

        damaged = _with_pickle(damaged)
        if part == "checkpoint":
            return bool(self.oracle.possible_members(self.members[name], read_members(damaged), self.sizes[name]))
        return bool(self.oracle.possible_buffer(self.buffers[name], load_from_pkl(damaged)))


def _with_pickle(path: Path) -> Path:
    """The same file, or what is made of one without pickle."""
    from sb3_rlx2.common.saving.converting import convert

    if path.suffix != WITHOUT_PICKLE:
        return path
    convert(path, path.with_suffix(""))
    return path.with_suffix("")


def _is_ours(error: BaseException) -> bool:
    """Whether the package or SB3 raised an error on purpose, rather than NumPy or PyTorch from within."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or any(part in trace.tb_frame.f_code.co_filename for part in ("sb3_rlx2", "stable_baselines3"))


def _numbers(nested: Any) -> list[float]:
    return [n for value in nested.values() for n in _numbers(value)] if isinstance(nested, dict) else [nested]


def _tensors(nested: Any) -> list[Any]:
    import torch as th

    if isinstance(nested, dict):
        return [tensor for value in nested.values() for tensor in _tensors(value)]
    return [nested] if isinstance(nested, th.Tensor) else []


def work(folder: Path, seed: int, without_pickle: bool) -> None:
    """Read numbers of cases from the standard input, and answer each with a line of JSON."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a damaged file prints is no answer
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        worker = Worker(folder, seed, without_pickle)
        for line in sys.stdin:
            damage = worker.damage(int(line))
            print(json.dumps(damage), file=answers, flush=True)
            print(json.dumps(worker.run(**damage)), file=answers, flush=True)


def make_originals(folder: Path) -> None:
    """Train and save the models whose files are damaged.

    :param folder: where to
    """
    import sb3_rlx2

    warnings.simplefilter("ignore")
    for name, (algorithm, arguments) in ORIGINALS.items():
        model = getattr(sb3_rlx2, algorithm)("MlpPolicy", "Pendulum-v1", **copy.deepcopy({**COMMON, **arguments}))
        model.learn(60)
        for end in ("", WITHOUT_PICKLE):
            model.save(folder / f"{name}.zip{end}")
            model.save_replay_buffer(folder / f"{name}.pkl{end}")


# --- the process that asks ---


class Asker:
    """Has cases run by a process of its own, and starts another one when it dies or hangs.

    :param folder: where the whole files are
    :param seed: of the damage
    :param without_pickle: whether files without pickle are damaged
    """

    def __init__(self, folder: Path, seed: int, without_pickle: bool = False) -> None:
        self._command = [sys.executable, __file__, "--work", str(folder), "--seed", str(seed)]
        self._command += ["--without-pickle"] if without_pickle else []
        self._process: subprocess.Popen[str] | None = None
        self._answers: Queue[str] = Queue()

    def ask(self, number: int) -> dict[str, Any]:
        """What became of a case.

        :param number: its number
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        print(number, file=self._process.stdin, flush=True)
        row: dict[str, Any] = {"number": number, "name": "?", "part": "?", "kind": "?", "damage": "?", "detail": ""}
        for _ in range(2):  # what is damaged, and what became of it
            try:
                line = self._answers.get(timeout=TIMEOUT_S)
            except Empty:
                line = ""
                row |= {"outcome": "hang", "detail": f"{TIMEOUT_S} s"}
            else:
                if not line:
                    row |= {"outcome": "crash", "detail": f"exit status {self._process.wait()}"}
            if not line:
                self.close()
                break
            row |= json.loads(line)
        return row

    def _start(self) -> None:
        self._process = process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answers = answers = Queue()

        def listen() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    answers.put(line)
            answers.put("")

        self._listener = Thread(target=listen, daemon=True)
        self._listener.start()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._listener.join()
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # what a dead process has not read
                self._process.stdin.close()
            self._process = None


def fuzz(cases: int, seed: int, workers: int, without_pickle: bool) -> list[dict[str, Any]]:
    """Run cases 0 .. ``cases``.

    :param cases: how many
    :param seed: of the damage
    :param workers: processes at once
    :param without_pickle: whether files without pickle are damaged
    """
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as folder:
        make_originals(Path(folder))
        askers = [Asker(Path(folder), seed, without_pickle) for _ in range(workers)]
        with tqdm(total=cases, unit="case") as progress, ThreadPoolExecutor(workers) as pool:

            def share(first: int) -> list[dict[str, Any]]:
                found = []
                for number in range(first, cases, workers):
                    found.append(askers[first].ask(number))
                    progress.update()
                return found

            rows = [row for found in pool.map(share, range(workers)) for row in found]
        for asker in askers:
            asker.close()
    return sorted(rows, key=lambda row: int(row["number"]))


def table(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """How often each outcome came of each kind of damage, and of all."""
    counts = Counter((row["part"], row["kind"], row["outcome"]) for row in rows)
    lines = [
        [part, kind.replace("_", " "), *(counts[part, kind, outcome] for outcome in OUTCOMES)]
        for part, kind in sorted({(row["part"], row["kind"]) for row in rows})
    ]
    return [*lines, ["all", "", *(sum(line[i] for line in lines) for i in range(2, 2 + len(OUTCOMES)))]]


def main() -> int:
    """Fuzz, print what is bad and a table, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="how many files to damage, default 2000")
    parser.add_argument("--seed", type=int, default=0, help="of the damage, default 0")
    parser.add_argument("--workers", type=int, default=2, help="processes at once, default 2")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the table")
    parser.add_argument("--without-pickle", action="store_true", help="damage .safetensors files in place of SB3's")
    parser.add_argument("--case", type=int, help="run only this one, in this process")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    if arguments.work is not None:
        work(arguments.work, arguments.seed, arguments.without_pickle)
        return 0
    if arguments.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            make_originals(Path(folder))
            os.chdir(folder)
            worker = Worker(Path(folder), arguments.seed, arguments.without_pickle)
            damage = worker.damage(arguments.case)
            print(json.dumps(damage, indent=2))
            print(json.dumps(worker.run(**damage), indent=2))
        return 0
    rows = fuzz(arguments.cases, arguments.seed, arguments.workers, arguments.without_pickle)
    for row in rows:
        if row["outcome"] in BAD:
            print("case {number}: {outcome}: {name}, {damage}: {detail}".format(**row))
    lines = table(rows)
    from sb3_rlx2.files import replacing

    with replacing(arguments.out, "w", newline="") as file:
        writer = csv.writer(file)
        flag = " --without-pickle" if arguments.without_pickle else ""
        command = f"# python benchmarks/fuzz_loading.py{flag} --cases {arguments.cases} --seed {arguments.seed}"
        writer.writerow([command])
        import torch as th

        writer.writerow([f"# {platform.machine()}, Python {platform.python_version()}, torch {th.__version__}"])
        writer.writerow(["file", "damage", *OUTCOMES])
        writer.writerows(lines)
    print(*(f"{outcome}: {count}" for outcome, count in zip(OUTCOMES, lines[-1][2:], strict=True)), sep=", ")
    return 1 if any(row["outcome"] in BAD for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
