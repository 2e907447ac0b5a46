"""A study for tests, which is over in seconds."""

import pytest

SHORT = {"learning_starts": 100, "batch_size": 16, "buffer_size": 1000, "buffer_min_size": 100}
STUDY = {
    "environments": ["Pendulum-v1"],
    "seeds": 2,
    "steps": 300,
    "evaluation": {"every": 100, "episodes": 1},
    "hyperparameters": SHORT,
    "methods": {
        "RLx2": {"algorithm": "rlx2_td3"},
        "SS": {"algorithm": "rlx2_td3", "config": "ss", "seeds": [5]},
    },
}


def write_study(folder, **changes):
    """Write the study with changes to a file, and return its path."""
    yaml = pytest.importorskip("yaml")
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path
