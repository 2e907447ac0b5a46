"""The trained agents that come with the package: chosen among the runs of a study, exported, and filmed.

    python benchmarks/trained_agents.py export results/million_td3   # writes sb3_rlx2/trained/*.npz
    python benchmarks/trained_agents.py export results/density --methods "20% of the weights" --environments Walker2d-v5
    python benchmarks/trained_agents.py film Walker2d-v5 walking.gif   # with MUJOCO_GL=egl: without a display

Of each environment the agent with the highest evaluation is taken, of the finished runs of the given methods: a run
keeps the agent of its best evaluation and of its last one. What was chosen, and the returns of the exported policy on
episodes whose starts it has not seen, stand in ``benchmarks/results/trained_agents.csv``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.common.saving.vec_normalize import read_vec_normalize
from sb3_rlx2.export.export import export
from sb3_rlx2.export.sparse_policy import Linear, SparsePolicy
from sb3_rlx2.files import replacing
from sb3_rlx2.studies.algorithms import ALGORITHMS
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.study_file import file_name
from sb3_rlx2.trained import FOLDER, load_trained

RESULTS = Path(__file__).parent / "results/trained_agents.csv"
EPISODES = 100
FIRST_SEED = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    choose = commands.add_parser("export", help="choose and export")
    choose.add_argument("results", type=Path, help="folder of the study's results")
    choose.add_argument("--methods", nargs="+", default=["recipe", "RLx2"], help="of the study (default: recipe, RLx2)")
    choose.add_argument("--environments", nargs="+", metavar="ENV_ID", help="default: all of which a run is finished")
    film = commands.add_parser("film", help="a GIF of an agent beside its connections")
    film.add_argument("environment", metavar="ENV_ID")
    film.add_argument("path", type=Path, metavar="FILE.gif")
    film.add_argument("--seconds", type=float, default=4.0, help="default: 4")
    arguments = parser.parse_args()
    if arguments.command == "film":
        film_agent(arguments.environment, arguments.path, arguments.seconds)
    else:
        export_best(arguments.results, arguments.methods, arguments.environments)


class Agent(NamedTuple):
    """A saved agent of a finished run.

    :param run: the run
    :param folder: where its model and the statistics that normalize its observations are
    :param step: environment steps when it was saved
    :param evaluation: its mean return then
    """

    run: RunFolder
    folder: Path
    step: int
    evaluation: float


def export_best(results: Path, methods: list[str], environments: list[str] | None) -> None:
    """Export the best agent of each environment. Rows of other environments stay in the table."""
    rows = {}
    if RESULTS.is_file():
        with RESULTS.open(encoding="utf-8") as file:
            next(file)
            rows = {row["environment"]: row for row in csv.DictReader(file)}
    for folder in sorted(results.iterdir()):
        if environments is not None and folder.name not in environments:
            continue
        best = best_agent([folder / file_name(method) for method in methods])
        if best is None:
            continue
        settings = best.run.settings
        path = FOLDER / f"{settings.environment}.npz"
        export_agent(best, path)
        policy = load_trained(settings.environment)
        returns, lengths = play(policy, settings.environment)
        rows[settings.environment] = {
            "environment": settings.environment,
            "study": results.name,
            "method": settings.method,
            "seed": settings.seed,
            "step": best.step,
            "evaluation": round(best.evaluation, 1),
            "connections": sum(len(layer.values) for layer in policy.layers),
            "bytes": path.stat().st_size,
            "return": round(float(np.mean(returns)), 1),
            "standard_deviation": round(float(np.std(returns)), 1),
            "lowest": round(float(np.min(returns)), 1),
            "whole_episodes": sum(length == 1000 for length in lengths),
        }
        print(rows[settings.environment], flush=True)
    with replacing(RESULTS, "w", encoding="utf-8", newline="") as file:
        file.write(f"# python benchmarks/trained_agents.py export results/STUDY; {EPISODES} episodes of each\n")
        writer = csv.DictWriter(file, next(iter(rows.values())), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, row in sorted(rows.items()))


def best_agent(folders: list[Path]) -> Agent | None:
    """The agent with the highest evaluation of the finished runs of some methods' folders; None if there is none."""
    runs = [RunFolder(path) for folder in folders for path in sorted(folder.glob("seed_*"))]
    agents = (agent for run in runs if run.is_finished for agent in agents_of(run))
    return max(agents, key=lambda agent: agent.evaluation, default=None)


def agents_of(run: RunFolder) -> list[Agent]:
    """The agents of a finished run: of its best evaluation, and of its last one."""
    rows = run.rows()
    best, last = max(rows, key=lambda row: row["mean_return"]), rows[-1]
    return [
        Agent(run, folder, int(row["step"]), row["mean_return"])
        for folder, row in ((run.best, best), (run.path, last))
        if (folder / "model.zip").is_file()
    ]


def load_agent(agent: Agent) -> tuple[OffPolicyAlgorithm, VecNormalize | None]:
    """The model of an agent, and what normalizes its observations."""
    statistics = agent.folder / "vecnormalize.pkl"
    model = ALGORITHMS[agent.run.settings.algorithm].load(agent.folder / "model.zip", device="cpu")
    return model, read_vec_normalize(statistics) if statistics.is_file() else None


def export_agent(agent: Agent, path: Path) -> None:
    """The policy of an agent, checked against ``predict``."""
    model, normalization = load_agent(agent)
    with tempfile.TemporaryDirectory() as folder:
        print(export(model, folder, "numpy", name="agent", vec_normalize=normalization))
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(folder) / "agent.npz", path)


def play(policy: SparsePolicy, environment: str) -> tuple[list[float], list[int]]:
    """Returns and lengths of episodes whose starts no training has seen."""
    env = gymnasium.make(environment)
    returns, lengths = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + EPISODES):
        observation, _ = env.reset(seed=seed)
        total, length, is_over = 0.0, 0, False
        while not is_over:
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
            total, length, is_over = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    env.close()
    return returns, lengths


def film_agent(environment: str, path: Path, seconds: float, frames_per_second: int = 20, size: int = 280) -> None:
    """An animated picture: the agent on the left, the connections of its network on the right."""
    from PIL import Image

    policy = load_trained(environment)
    env = gymnasium.make(environment, render_mode="rgb_array", width=size, height=size, camera_name="track")
    every = max(1, round(env.metadata["render_fps"] / frames_per_second))
    network = Image.fromarray(connections(policy, size))
    observation, _ = env.reset(seed=FIRST_SEED)
    frames = []
    for step in range(round(seconds * env.metadata["render_fps"])):
        if step % every == 0:
            frame = Image.new("RGB", (2 * size, size))
            frame.paste(Image.fromarray(env.render()), (0, 0))
            frame.paste(network, (size, 0))
            frames.append(frame)
        observation, _, terminated, truncated, _ = env.step(policy.predict(observation)[0])
        if terminated or truncated:
            break
    env.close()
    path.parent.mkdir(exist_ok=True, parents=True)
    # One palette, so that a frame holds no more than what has changed
    palette = frames[0].quantize(64, dither=Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=1000 * every // env.metadata["render_fps"], loop=0
    )
    print(f"{path}: {len(frames)} frames, {path.stat().st_size / 1e6:.2f} MB")


def connections(policy: SparsePolicy, size: int) -> np.ndarray:
    """A picture, [size, size, 3] uint8: columns are the layers' units, lines their connections; blue < 0 < red."""
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    figure = plt.figure(figsize=(size / 100, size / 100), dpi=100)
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.85))
    for place, layer in enumerate(policy.layers):
        rows, columns = layer.rows, layer.columns.astype(int)
        ends = np.stack(
            [
                np.stack([np.full(len(rows), place), height(columns, layer.n_in)], -1),
                np.stack([np.full(len(rows), place + 1), height(rows, layer.n_out)], -1),
            ],
            1,
        )
        strength = np.abs(layer.values) / np.abs(layer.values).max()
        colors = np.where(layer.values[:, None] > 0, [[0.8, 0.1, 0.1]], [[0.1, 0.2, 0.8]])
        axes.add_collection(
            LineCollection(list(ends), colors=np.column_stack([colors, 0.15 + 0.85 * strength]), linewidths=0.5)
        )
    axes.set(xlim=(-0.05, len(policy.layers) + 0.05), ylim=(-0.02, 1.02))
    axes.axis("off")
    present = sum(len(layer.values) for layer in policy.layers)
    possible = sum(layer.n_in * layer.n_out for layer in policy.layers if isinstance(layer, Linear))
    figure.suptitle(f"its {present:,} connections\n({present / possible:.1%} of a dense actor's)", fontsize=9)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
    plt.close(figure)
    return picture


def height(units: np.ndarray, count: int) -> np.ndarray:
    """Where units of a layer stand, in [0, 1]."""
    return 0.5 + (units - (count - 1) / 2) / max(count - 1, 1) * min(1.0, 0.2 + count / 128)


if __name__ == "__main__":
    main()
