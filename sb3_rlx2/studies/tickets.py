"""Winning tickets: the connections that a training ended with, trained anew from its initial weights.

RLx2 (arXiv 2205.15043) compares them with random tickets (static random connections) and with the dynamic ones.
"""

from __future__ import annotations

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.sparse import sparse_layers
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.training import learn, new_model, trained_model


def train(run: RunFolder) -> None:
    """The program of a run on the winning ticket of the run that it needs.

    :param run: folder of the run; its seed gives both the same initial weights
    """
    learn(run, lambda: winning_ticket(run))


def winning_ticket(run: RunFolder) -> OffPolicyAlgorithm:
    """A model at its first step, with the last connections of the run that it needs.

    :param run: folder of a run with ``topology: static``
    :raises ValueError: if the two runs do not have the same sparse layers
    """
    needed = run.needed[0]
    ended = trained_model(needed)
    model, dense = new_model(run), new_model(run, topology="dense")  # both have the initial weights of this seed
    connections, own = sparse_layers(ended.policy), sparse_layers(model.policy)
    if {name: layer.nnz for name, layer in own.items()} != {name: layer.nnz for name, layer in connections.items()}:
        raise ValueError(f"{run.settings.method} and {needed.settings.method} do not have the same sparse layers")
    state = model.policy.state_dict()
    for name, layer in connections.items():
        weight = dense.policy.state_dict()[f"{name}.weight"]
        state[f"{name}.indices"] = layer.indices.clone()
        state[f"{name}.values"] = weight.reshape(-1)[layer.indices.long()]
    model.policy.load_state_dict(state)
    return model
