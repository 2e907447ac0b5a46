"""The first use compiles and says so; later processes find the code on the disk, wherever that is."""

import os
import subprocess
import sys

CODE = """
from sb3_rlx2 import RLx2TD3
model = RLx2TD3("MlpPolicy", "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [16]}, engine="compiled",
                actor_sparsity=0.5, critic_sparsity=0.5, batch_size=16)
model.learn(20)
print(model._n_updates)
"""


def test_the_first_process_says_that_it_compiles_and_the_second_need_not(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    environment.pop("NUMBA_CACHE_DIR", None)
    printed = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout.split("\n"))
    assert printed[0][0].startswith("Compiling the sparse engine")
    assert printed[0][1] == printed[1][0] == "10"
    assert list(tmp_path.glob("sb3_rlx2/compiled-*/*td3_updates*.nbi"))
