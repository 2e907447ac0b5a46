"""Trained agents that come with the package, as policies that need NumPy alone."""

from __future__ import annotations

from pathlib import Path

from sb3_rlx2.common.arguments import did_you_mean
from sb3_rlx2.export.sparse_policy import SparsePolicy

FOLDER = Path(__file__).parent


def trained_agents() -> list[str]:
    """Ids of the environments for which there is a trained agent."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def load_trained(environment: str) -> SparsePolicy:
    """The trained agent of an environment. How it was trained stands in ``docs/results.md``.

    :param environment: id, one of ``trained_agents()``
    :raises ValueError: if there is no agent for this environment
    """
    known = trained_agents()
    if environment not in known:
        raise ValueError(
            f"there is no trained agent for {environment!r}: there are some for {', '.join(known)}"
            f"{did_you_mean(environment, known)}"
        )
    return SparsePolicy.load(FOLDER / f"{environment}.npz")
