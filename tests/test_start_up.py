"""The first use compiles, and says so where it is asked to; later processes find the code on the disk."""

import os
import subprocess
import sys

CODE = """
import sys, warnings
from sb3_rlx2 import RLx2TD3
warnings.simplefilter("error")
model = RLx2TD3("MlpPolicy", "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [16]}, engine="compiled",
                actor_sparsity=0.5, critic_sparsity=0.5, batch_size=16,
                topology="static", n_steps=1, dynamic_buffer=False, verbose=int(sys.argv[1]))
model.learn(20)
print(model._n_updates)
"""
SENTENCE = "Compiling the sparse engine"


def printed(cache, verbose):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONWARNINGS": "ignore"}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", CODE, str(verbose)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def test_the_first_process_says_that_it_compiles_where_it_is_asked_to_and_the_second_need_not(tmp_path):
    first, second = printed(tmp_path, 1), printed(tmp_path, 1)
    assert sum(line.startswith(SENTENCE) for line in first) == 1
    assert not any(line.startswith(SENTENCE) for line in second)
    assert first[-2] == second[-2] == "10"

    (loop,) = tmp_path.glob("sb3_rlx2/compiled-*/*update_loop*.nbi")
    loop.unlink()
    assert printed(tmp_path, 0) == ["10", ""]
    assert loop.exists()  # compiled anew, in silence
