"""The picture of what ``speed.py`` has measured."""

from __future__ import annotations

import argparse

import numpy as np
from speed_models import TASKS
from timing import RESULTS, read

from sb3_rlx2.files import replacing


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
