"""Write files of each kind as this version does: ``python tests/saved_files/make.py`` makes the folder of its version.

They are kept, and tests of all later versions load them. What each loaded model predicts is in ``expected.json``. What
is there already stays as it is: only algorithms that have come since are added.
"""

import copy
import json
from pathlib import Path

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2 import RLx2CrossQ, RLx2DDPG, RLx2SAC, RLx2TD3, RLx2TQC, TopologyHistoryCallback, __version__
from sb3_rlx2.common.saving.vec_normalize import save_vec_normalize

ALGORITHMS = (RLx2TD3, RLx2SAC, RLx2DDPG, RLx2TQC, RLx2CrossQ)
OBSERVATIONS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
SETTINGS = {
    "learning_starts": 20,
    "batch_size": 8,
    "buffer_size": 60,
    "policy_kwargs": {"net_arch": [8]},
    "actor_sparsity": 0.4,
    "critic_sparsity": 0.4,
    "topology_interval": 10,
    "n_steps_delay": 20,
    "buffer_min_size": 20,
    "buffer_check_interval": 25,
    "buffer_distance_threshold": 0.0,
    "seed": 0,
    "device": "cpu",
}


def main() -> None:
    folder = Path(__file__).parent / __version__
    folder.mkdir(exist_ok=True)
    expected = folder / "expected.json"
    actions = json.loads(expected.read_text()) if expected.is_file() else {}
    for algorithm in ALGORITHMS:
        if algorithm.__name__ in actions:
            continue
        env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
        model = algorithm("MlpPolicy", env, **copy.deepcopy(SETTINGS))
        history = folder / "history.npz" if algorithm is RLx2TD3 else None
        model.learn(80, TopologyHistoryCallback(history) if history else None)
        model.save(folder / f"{algorithm.__name__}.zip")
        model.save(folder / f"{algorithm.__name__}.safetensors")
        actions[algorithm.__name__] = model.predict(OBSERVATIONS, deterministic=True)[0].tolist()
        if algorithm is RLx2TD3:
            for suffix in ("pkl", "safetensors"):
                model.save_replay_buffer(folder / f"buffer.{suffix}")
                save_vec_normalize(env, folder / f"statistics.{suffix}")
            actions["rewards"] = model.replay_buffer.rewards[model.replay_buffer.rows_held()].tolist()
            actions["mean"] = env.obs_rms.mean.tolist()
    expected.write_text(json.dumps(actions))
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
