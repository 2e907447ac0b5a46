"""``rlx2 report``: what a saved model is made of."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.analysis.report import report
from sb3_rlx2.common.saving.model_files import check_model_file, read_algorithm
from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.errors import ModelFileError, first_line
from sb3_rlx2.zoo.algorithms import ALGORITHMS, PREFIX

KNOWN: Mapping[str, type[OffPolicyAlgorithm]] = {
    **ALGORITHMS,
    **{name.removeprefix(PREFIX): algorithm.dense_class for name, algorithm in ALGORITHMS.items()},
}


def algorithm_of(path: Path) -> str:
    """Which algorithm saved a model.

    :param path: a file that ``model.save`` wrote
    :return: a key of ``KNOWN``
    :raises ModelFileError: if it is no saved model, or not whole
    :raises ValueError: if it is of an algorithm that is not known here
    """
    name = read_algorithm(path)
    for key, algorithm in KNOWN.items():
        if algorithm.__name__ == name:
            return key
    raise ValueError(f"{path}: not a model of {', '.join(KNOWN)}; if it is one, say which with --algo")


def load_model(path: Path, algo: str | None = None, replay_buffer: Path | None = None) -> OffPolicyAlgorithm:
    """Load a model to look at it, on the CPU and without an environment.

    :param path: a file that ``model.save`` wrote
    :param algo: key of ``KNOWN``; None (default): found from the file
    :param replay_buffer: a file that ``model.save_replay_buffer`` wrote; None: none
    :raises ValueError: if a file cannot be loaded; the message names it
    """
    check_model_file(path)
    algorithm = KNOWN[algo or algorithm_of(path)]
    if algorithm not in ALGORITHMS.values():  # whose own ``load`` looks at that
        check_trusted(None, str(path))
    # Its own replay buffer would be allocated in full, only to stay empty
    buffer: dict[str, Any] = {"buffer_size": 1, "replay_buffer_class": None, "replay_buffer_kwargs": {}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = cast(OffPolicyAlgorithm, cast(Any, algorithm).load(path, device="cpu", **buffer))
    except ModelFileError:  # which names the file
        raise
    except Exception as error:  # whatever unpickling and rebuilding a foreign file may raise
        raise ValueError(f"{path}: cannot be loaded as {algorithm.__name__}: {first_line(error)}") from error
    if replay_buffer is not None:
        try:
            model.load_replay_buffer(replay_buffer)
        except ModelFileError:
            raise
        except Exception as error:
            raise ValueError(f"{replay_buffer}: cannot be loaded as a replay buffer: {first_line(error)}") from error
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Print what a saved model is made of.

    :param argv: command line; None: ``sys.argv``
    :return: exit status
    :raises SystemExit: with code 2 and a message, for a file that cannot be loaded or an argument out of range
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may know no Greek, nor what observations are called
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="rlx2 report", description="What a saved model is made of.")
    parser.add_argument("model", type=Path, metavar="MODEL.zip")
    parser.add_argument("--algo", choices=KNOWN, help="the model's algorithm (default: found from the file)")
    parser.add_argument(
        "--replay-buffer",
        type=Path,
        metavar="PATH",
        help="saved buffer on which to find dormant units, with observations as they are stored",
    )
    parser.add_argument("--dormant-threshold", type=float, default=0.025, help="τ of dormant units (default: 0.025)")
    parser.add_argument(
        "--n-samples", type=int, default=1024, help="transitions to draw from the buffer (default: 1024)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default: 0)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="as Markdown, for a model card")
    arguments = parser.parse_args(argv)
    try:
        model = load_model(arguments.model, arguments.algo, arguments.replay_buffer)
        found = report(
            model,
            dormant_threshold=arguments.dormant_threshold,
            n_samples=arguments.n_samples,
            seed=arguments.seed,
            checkpoint_bytes=arguments.model.stat().st_size,
        )
    except ValueError as error:
        parser.exit(2, f"rlx2 report: error: {error}\n")
    if arguments.json:
        print(found.to_json())
    elif arguments.markdown:
        print(found.to_markdown())
    else:
        found.print()
    return 0
