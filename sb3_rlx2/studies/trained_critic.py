"""RigL whose growth is guided by a critic that was trained before: what topology evolution gains from true values.

RLx2 (arXiv 2205.15043, section 4.1) argues that gradients of a critic that is still wrong grow the wrong connections.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ContinuousCritic
from torch import nn

from sb3_rlx2.common.topology import attached_evolvers, networks
from sb3_rlx2.sparse import RigL, SparseLinear, densify, sparse_layers
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.training import learn, new_model, trained_model


def train(run: RunFolder) -> None:
    """The program of a run whose topology grows by the critic of the run that it needs.

    :param run: folder of the run, of an algorithm with a deterministic actor (``"rlx2_td3"``), which is trained as
        RigL is in all else
    :raises ValueError: if the environment of one of the two is normalized
    """
    needed = run.needed[0]
    for each in (run, needed):
        if each.settings.hyperparameters.get("normalize"):
            raise ValueError(
                f"{run.settings.method} cannot grow by the critic of {needed.settings.method}: the environment of "
                f"{each.settings.method} is normalized, and the two would see other numbers"
            )
    teacher = trained_model(needed)
    rule = TrainedCriticGrowth(run.settings.seed)
    learn(run, lambda: new_model(run, topology=rule), [GuidedGrowth(cast(Any, teacher).critic)])


class GuidedGrowth(BaseCallback):
    """Binds the rule of a model that is new, or was loaded, to a trained critic.

    :param critic: Q*
    """

    def __init__(self, critic: ContinuousCritic) -> None:
        super().__init__()
        self.critic = critic

    def get_state(self) -> dict[str, Any]:
        """A checkpoint keeps nothing of this callback."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back nothing.

        :param state: empty
        """

    def _init_callback(self) -> None:
        model = cast(Any, self.model)
        model.topology.bind(model, self.critic)

    def _on_step(self) -> bool:
        return True


class TrainedCriticGrowth(RigL):
    """Grow where the gradient is largest that a trained critic Q* gives, on transitions from the replay buffer.

    For the actor that of ``-Q*(s, π(s))``, for the critics that of ``(Q(s, a) - Q*(s, a))²``.

    :param seed: of the transitions that are drawn
    """

    needs_dense_grad = False

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._model: OffPolicyAlgorithm | None = None
        self._critic: ContinuousCritic | None = None
        self._found: tuple[tuple[str, int], Mapping[SparseLinear, th.Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "_critic": None, "_found": None}

    def bind(self, model: OffPolicyAlgorithm, critic: ContinuousCritic) -> None:
        """Say whose topology is to evolve, and by which critic. A saved rule is bound anew.

        :param model: a model that is trained with this rule
        :param critic: Q*
        """
        self._model, self._critic = model, copy.deepcopy(critic, {id(cast(Any, critic).optimizer): None})
        self._critic.requires_grad_(False)

    def growth_score(self, layer: SparseLinear) -> th.Tensor:
        """Magnitude of the gradient, [out_features, in_features]."""
        if self._model is None:
            raise ValueError("TrainedCriticGrowth is not bound to a model and a trained critic: call bind()")
        for name, network in networks(self._model).items():
            if layer in sparse_layers(network).values():
                return self._gradients(name, network)[layer].abs()
        raise ValueError("TrainedCriticGrowth is bound to a model that does not have this layer")

    def _gradients(self, name: str, network: nn.Module) -> Mapping[SparseLinear, th.Tensor]:
        """Of all layers of a network, once for each of its evolutions."""
        assert self._model is not None
        assert self._critic is not None
        key = (name, attached_evolvers(self._model)[name].counters["updates"])
        if self._found is None or self._found[0] != key:
            observations, actions = self._batch(key)
            dense = densify(copy.deepcopy(network, {id(cast(Any, network).optimizer): None}))
            dense.zero_grad()
            with th.enable_grad():
                if name == "actor":
                    loss = -self._critic.q1_forward(observations, dense(observations)).mean()
                else:
                    wanted = th.cat(self._critic(observations, actions), dim=1).min(dim=1, keepdim=True).values
                    loss = th.stack([(value - wanted).square().mean() for value in dense(observations, actions)]).sum()
                loss.backward()
            layers = {layer: dense.get_submodule(own) for own, layer in sparse_layers(network).items()}
            self._found = key, {layer: cast(th.Tensor, cast(Any, own).weight.grad) for layer, own in layers.items()}
        return self._found[1]

    def _batch(self, key: tuple[str, int]) -> tuple[th.Tensor, th.Tensor]:
        """Transitions that seed, network and update determine, so that SB3's random streams stay as they are."""
        assert self._model is not None
        buffer = cast(Any, self._model.replay_buffer)
        random = np.random.default_rng([self.seed, len(key[0]), key[1]])
        rows = random.integers(buffer.size(), size=self._model.batch_size)
        columns = random.integers(buffer.n_envs, size=self._model.batch_size)
        return th.as_tensor(buffer.observations[rows, columns]), th.as_tensor(buffer.actions[rows, columns])
