"""``rlx2 convert``: files without pickle from those of Stable-Baselines3, and back."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from sb3_rlx2.common.saving.converting import convert


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file.

    :param argv: command line; None: ``sys.argv``
    :return: exit status
    :raises ValueError: for a file that cannot be converted
    """
    parser = argparse.ArgumentParser(
        prog="rlx2 convert",
        description="Convert a model, a replay buffer or the statistics of a VecNormalize between Stable-Baselines3's "
        "format (.zip, .pkl), which is unpickled and so can run code, and one without pickle (.safetensors).",
    )
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT", help="its suffix tells the format")
    parser.add_argument(
        "--not-trusted", action="store_true", help="refuse what would have to be unpickled (as RLX2_TRUSTED=0 does)"
    )
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("rl_zoo3") is not None:
        from sb3_rlx2.zoo.registration import register_schedules

        register_schedules()
    kind = convert(arguments.source, arguments.target, trusted=False if arguments.not_trusted else None)
    print(f"{arguments.target}: {kind}, {arguments.target.stat().st_size} bytes")
    return 0
