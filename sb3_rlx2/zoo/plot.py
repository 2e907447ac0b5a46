"""``rlx2 plot``: pictures of trainings."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_rlx2.analysis.history import FILE_NAME
from sb3_rlx2.analysis.topology_history import TopologyHistory
from sb3_rlx2.common.argument_ranges import MOST_SEED
from sb3_rlx2.engine.networks import LEARNING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
LEAST_DPI = 10
"""Letters cannot be drawn with fewer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw pictures and print where they are.

    :param argv: command line; None: ``sys.argv``
    :return: exit status
    :raises SystemExit: with code 2 and a message, for input that cannot be read or drawn
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        import matplotlib
        import rliable
    except ImportError as error:
        parser.exit(2, f"rlx2 plot: error: {error}: pip install 'sb3-rlx2[plot]'\n")
    _ = matplotlib, rliable
    from sb3_rlx2.analysis.plots.style import save

    try:
        _read_suffix(arguments)
        if arguments.dpi < LEAST_DPI:
            raise ValueError(f"--dpi {arguments.dpi} is not allowed: it must be at least {LEAST_DPI}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            figures, stem = (_learning if arguments.kind == "learning" else _history)(arguments)
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            print(f"rlx2 plot: warning: {message}", file=sys.stderr)
        for name, figure in figures.items():
            own = stem.with_name(f"{stem.name}_{name}") if name else stem
            for path in save(figure, own, arguments.format, arguments.dpi):
                print(path)
    except (ValueError, OSError) as error:
        parser.exit(2, f"rlx2 plot: error: {error}\n")
    return 0


def _read_suffix(arguments: argparse.Namespace) -> None:
    """``--out l.png`` names a format as ``--format png`` does."""
    suffix = "" if arguments.out is None else arguments.out.suffix[1:]
    if suffix in FORMATS:
        if arguments.format is not None and suffix not in arguments.format:
            formats = " ".join(arguments.format)
            raise ValueError(f"--out {arguments.out} does not go with --format {formats}: give one of them")
        arguments.format = arguments.format or [suffix]
        arguments.out = arguments.out.with_suffix("")
    arguments.format = arguments.format or ["png", "svg"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlx2 plot", description="Pictures of trainings, as PNG and SVG.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", type=Path, metavar="PATH", help="where to write; a suffix is a --format")
    common.add_argument("--format", nargs="+", choices=FORMATS, help="default: png svg")
    common.add_argument("--dpi", type=int, default=200, help="dots per inch of PNG (default: 200)")
    learning = kinds.add_parser("learning", parents=[common], help="learning curves over seeds")
    learning.add_argument(
        "runs", nargs="+", metavar="[NAME=]PATH",
        help="evaluations.npz, learning_*.csv, or folders with such files; NAME is the algorithm's in the picture",
    )  # fmt: skip
    learning.add_argument("--reference", metavar="NAME", help="also all tasks together, in percent of this algorithm")
    learning.add_argument("--confidence", type=float, default=0.95, help="size of the intervals (default: 0.95)")
    learning.add_argument("--reps", type=int, default=2000, help="bootstrap samples (default: 2000)")
    learning.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    descriptions = {
        "buffer": "replay-buffer capacity and policy distance",
        "topology": "connectivity matrices, survival of connections, growth per layer",
        "inputs": "connections of each observation dimension",
        "history": "all of buffer, topology and inputs",
    }
    for kind, description in descriptions.items():
        command = kinds.add_parser(kind, parents=[common], help=description)
        command.add_argument(
            "history", type=Path, metavar="HISTORY", help="file of a TopologyHistoryCallback, or the folder it is in"
        )
        if kind in ("topology", "history"):
            command.add_argument("--network", choices=LEARNING, help="connectivity of this one only")
            command.add_argument("--steps", type=int, nargs="+", help="connectivity at these steps (default: four)")
    return parser


def _learning(arguments: argparse.Namespace) -> tuple[dict[str, Figure], Path]:
    from sb3_rlx2.analysis.plots.learning import draw_learning_curves
    from sb3_rlx2.analysis.plots.runs import Run, read_runs

    if not 0.0 < arguments.confidence < 1.0:
        raise ValueError(f"--confidence {arguments.confidence} is not allowed: it must lie between 0 and 1")
    if arguments.reps < 1:
        raise ValueError(f"--reps {arguments.reps} is not allowed: it must be at least 1")
    if not 0 <= arguments.seed <= MOST_SEED:
        raise ValueError(f"--seed {arguments.seed} is not allowed: it must be in 0 <= seed <= {MOST_SEED}")
    runs: list[Run] = []
    for given in arguments.runs:
        name, separator, path = given.partition("=")
        is_named = separator and not Path(given).exists()  # a path may have a "=" itself
        runs += read_runs(Path(path), name) if is_named else read_runs(Path(given))
    figure = draw_learning_curves(
        runs,
        reference=arguments.reference,
        confidence=arguments.confidence,
        reps=arguments.reps,
        seed=arguments.seed,
    )
    return {"": figure}, arguments.out or Path("learning")


def _history(arguments: argparse.Namespace) -> tuple[dict[str, Figure], Path]:
    from sb3_rlx2.analysis.plots.buffer import draw_buffer
    from sb3_rlx2.analysis.plots.inputs import draw_inputs
    from sb3_rlx2.analysis.plots.topology import draw_connectivity, draw_growth, draw_survival, sparse_layer_names

    path = arguments.history / FILE_NAME if arguments.history.is_dir() else arguments.history
    history = TopologyHistory.load(path)
    figures: dict[str, Figure] = {}
    everything = arguments.kind == "history"
    sparse = [name for name, record in history.networks.items() if sparse_layer_names(record)]
    if arguments.kind == "buffer" or (everything and history.buffer.rows):
        figures["buffer"] = draw_buffer(history)
    if arguments.kind == "topology" or (everything and sparse):
        figures["survival"], figures["growth"] = draw_survival(history), draw_growth(history)
        for name in [arguments.network] if arguments.network else sparse:
            figures[f"connectivity_{name}"] = draw_connectivity(history, name, arguments.steps)
    if arguments.kind == "inputs" or (everything and history.first_layers):
        figures["inputs"] = draw_inputs(history)
    return figures, arguments.out or path.with_suffix("")
