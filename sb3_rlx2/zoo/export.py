"""``rlx2 export``: a saved model's policy as C, ONNX, safetensors or NumPy file."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.common.arguments import did_you_mean
from sb3_rlx2.common.saving.vec_normalize import read_vec_normalize
from sb3_rlx2.export import observations as sources
from sb3_rlx2.export.export import N_OBSERVATIONS, PRECISIONS, TARGETS, export
from sb3_rlx2.export.reading import read_policy
from sb3_rlx2.export.sparse_policy import Array
from sb3_rlx2.sparse.checks import check_count
from sb3_rlx2.zoo.report import KNOWN, load_model

NO_STATISTICS = "none"


def main(argv: Sequence[str] | None = None) -> int:
    """Export a saved model's policy.

    :param argv: command line; None: ``sys.argv``
    :return: exit status
    :raises ValueError: for a file that cannot be loaded or a policy that cannot be exported; nothing is written then
    """
    arguments = _parser().parse_args(argv)
    for package in arguments.gym_packages:
        importlib.import_module(package)
    if arguments.check is not None:
        check_count(arguments.check, "--check", 1)
    check_count(arguments.seed, "--seed", 0)
    model = load_model(arguments.model, arguments.algo, arguments.replay_buffer)
    statistics = _statistics(arguments.model, arguments.vec_normalize, model)
    observations = _observations(arguments, model, statistics)
    report = export(
        model,
        arguments.out,
        arguments.to,
        name=arguments.name,
        precision=arguments.precision,
        sparse=arguments.sparse,
        with_main=arguments.main,
        vec_normalize=statistics,
        observations=observations,
        seed=arguments.seed,
    )
    print(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlx2 export",
        description="Write a saved model's policy, as it acts without noise, as code or data that needs neither "
        "PyTorch nor this package, and check it against predict.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.zip")
    parser.add_argument("--to", choices=TARGETS, required=True, help="what to write")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where; made if it is not there")
    parser.add_argument("--name", default="policy", help="of the files, and of C's functions (default: policy)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of C's tables (default: float32)")
    parser.add_argument("--main", action="store_true", help="for C: a program too that tests the policy")
    parser.add_argument("--sparse", action="store_true", help="for ONNX: sparse initializers")
    parser.add_argument(
        "--check", type=int, metavar="N", help="check, and calibrate integers, on N observations of the environment"
    )
    parser.add_argument("--env", metavar="ID", help="the environment (default: found from the model's path)")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register the environment")
    parser.add_argument(
        "--replay-buffer", type=Path, metavar="PATH", help="saved buffer whose observations check and calibrate instead"
    )
    parser.add_argument(
        "--vec-normalize",
        type=str,
        metavar="PATH",
        help="saved VecNormalize (default: found beside the model); none: observations are normalized already",
    )
    parser.add_argument("--algo", choices=KNOWN, help="the model's algorithm (default: found from the file)")
    parser.add_argument("--seed", type=int, default=0, help="of environment and draws (default: 0)")
    return parser


def _statistics(path: Path, given: str | None, model: OffPolicyAlgorithm) -> VecNormalize | None:
    """The VecNormalize of a model: the one that is given, or that lies where the zoo or SB3's callbacks put it."""
    was_normalized = getattr(model, "observations_were_normalized", None)
    if given == NO_STATISTICS:
        model.observations_were_normalized = False  # type: ignore[attr-defined]
        return None
    if given is not None:
        return read_vec_normalize(given)
    if was_normalized is False:
        return None
    checkpoint = re.fullmatch(r"(.*)_(\d+_steps)", path.stem)
    names = [f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}"] if checkpoint else []
    names += ["vecnormalize", "vec_normalize"]
    places = [path.parent, path.parent / path.stem, *(path.parent / name for name in _environments(path))]
    for place in places:
        for name in names:
            for suffix in (".safetensors", ".pkl"):
                if (found := place / f"{name}{suffix}").is_file():
                    print(f"observations are normalized by {found}")
                    return read_vec_normalize(found)
    if was_normalized:
        raise ValueError(
            f"{path}: the model was trained with VecNormalize, and its statistics are not beside it: say with "
            "--vec-normalize where they are, or none if the policy will get normalized observations"
        )
    return None


def _observations(
    arguments: argparse.Namespace, model: OffPolicyAlgorithm, statistics: VecNormalize | None
) -> Array | None:
    """Observations of the environment, if they are asked for or integers need them."""
    if arguments.check is None and (arguments.replay_buffer is not None or arguments.precision == "float32"):
        return None
    env = arguments.env or next(iter(_environments(arguments.model)), None)
    if env is None:
        needed = "--check" if arguments.check is not None else f"{arguments.precision} without --replay-buffer"
        raise ValueError(f"{needed} needs the environment: say with --env which it is")
    if env not in gymnasium.registry:
        raise ValueError(f"--env {env}: there is no such environment{did_you_mean(env, gymnasium.registry)}")
    policy = read_policy(model, statistics)
    return sources.from_environment(policy, env, arguments.check or N_OBSERVATIONS[arguments.precision], arguments.seed)


def _environments(path: Path) -> list[str]:
    """Ids of environments that a model's path tells: the zoo's ``…/Hopper-v5_1/Hopper-v5.zip``."""
    names = [path.stem, *(re.sub(r"_\d+$", "", parent.name) for parent in path.absolute().parents[:2])]
    return [name for name in dict.fromkeys(names) if name in gymnasium.registry]
