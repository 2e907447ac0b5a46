"""Sparse versions of Stable-Baselines3's policies."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_rlx2.common.batch_renorm import replace_batch_renorm
from sb3_rlx2.common.stages import network_stages
from sb3_rlx2.common.topology import EVOLVERS
from sb3_rlx2.engine.acting import FastActor
from sb3_rlx2.engine.networks import learning_networks
from sb3_rlx2.engine.support import why_not_acting
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.sparse import sparsify
from sb3_rlx2.sparse.allocation import AllocationName
from sb3_rlx2.sparse.checks import check_sparsity
from sb3_rlx2.sparse.layers import ConnectionsName, WeightScale
from sb3_rlx2.sparse.units import Stages

CONNECTION_ARGUMENTS = ("allocation", "connections", "weight_scale", "sparse_features_extractor")

FAST_ACTOR = "fast_actor"
EXPLORING = ("predict", "scale_action", "unscale_action")
"""Methods of a policy that Stable-Baselines3 explores with; an object may have its own."""

PREDICTING = ("_predict", "obs_to_tensor")
"""Methods of a policy that ``predict`` calls for the network's outputs; an object may have its own."""

Observation = npt.NDArray[Any]


class SparseNetworksMixin(BasePolicy):
    """What sparse policies share, whatever networks they have.

    :param args: as for the policy class
    :param allocation: how connections are distributed over layers: ``"erdos_renyi"`` (default) or ``"uniform"``
    :param connections: which connections are present at first: ``"magnitude"`` (default) or ``"random"``
    :param weight_scale: ``"dense"`` (default) or ``"fan_in"``, see ``SparseLinear``
    :param sparse_features_extractor: whether the linear layers of the features extractor (a CNN's last layer) are
        sparse too, default False; convolutions are dense always
    :param kwargs: as for the policy class, and the sparsities
    """

    sparsity_defaults: ClassVar[Mapping[str, str]]
    """Arguments that are sparsities, each with the attribute of the class that is its default."""
    default_net_arch: ClassVar[Sequence[int] | None] = None
    computes_as_sb3: ClassVar[bool] = True
    """This very class changes which weights there are, and not what a policy computes with them."""

    def __init__(
        self,
        *args: Any,
        allocation: AllocationName = "erdos_renyi",
        connections: ConnectionsName = "magnitude",
        weight_scale: WeightScale = "dense",
        sparse_features_extractor: bool = False,
        **kwargs: Any,
    ) -> None:
        # The networks are built inside of the policy's own __init__
        for name, default in self.sparsity_defaults.items():
            given = kwargs.pop(name, None)
            setattr(self, name, check_sparsity(getattr(self, default) if given is None else given, name))
        self.allocation: AllocationName = allocation
        self.connections: ConnectionsName = connections
        self.weight_scale: WeightScale = weight_scale
        self.sparse_features_extractor = sparse_features_extractor
        if self.default_net_arch is not None and kwargs.get("net_arch") is None and len(args) < 4:
            kwargs["net_arch"] = list(self.default_net_arch)
        super().__init__(*args, **kwargs)

    def _sparsify(self, network: nn.Module, parts: Sequence[nn.Module], argument: str) -> None:
        sparsity: float = getattr(self, argument)
        if sparsity == 0.0:
            return
        replace_batch_renorm(network)
        extractor = network.features_extractor
        assert isinstance(extractor, nn.Module)
        place = f"{argument}={sparsity} in {type(network).__name__}"
        try:
            for part, stages in zip(parts, network_stages(network), strict=True):
                self._sparsify_part(part, sparsity, exclude=[extractor], stages=stages)
            if self.sparse_features_extractor:
                place = f"sparse_features_extractor=True, {place}"
                self._sparsify_part(extractor, sparsity)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error

    def _sparsify_part(
        self, part: nn.Module, sparsity: float, exclude: Sequence[nn.Module] = (), stages: Stages = ()
    ) -> None:
        sparsify(
            part,
            sparsity,
            allocation=self.allocation,
            connections=self.connections,
            weight_scale=self.weight_scale,
            exclude=exclude,
            stages=stages,
        )

    def predict(
        self,
        observation: Observation | dict[str, Observation],
        state: tuple[Observation, ...] | None = None,
        episode_start: Observation | None = None,
        deterministic: bool = False,
    ) -> tuple[Observation, tuple[Observation, ...] | None]:
        """As in Stable-Baselines3; actors that the compiled code covers are computed from their connections alone.

        :param observation: the observation or observations
        :param state: handed back as it is, default None
        :param episode_start: not used, default None
        :param deterministic: whether SAC's actions are to be without noise, default False
        :return: the actions and ``state``
        """
        shape = self.observation_space.shape
        found = None
        if isinstance(observation, np.ndarray) and shape in (observation.shape, observation.shape[1:]):
            is_single = observation.shape == shape
            found = self.fast_actions(observation[None] if is_single else observation, deterministic)
        if found is None:
            return super().predict(observation, state, episode_start, deterministic)
        self.set_training_mode(False)
        return (found.squeeze(axis=0) if is_single else found), state

    @abstractmethod
    def fast_actions(self, observations: Observation, deterministic: bool = False) -> Observation | None:
        """Actions for the environment from connections alone, if the compiled code covers the policy.

        :param observations: [n, ...]
        :param deterministic: whether actions are to be without noise
        :return: actions [n, ...]; None if it does not
        """

    def _fast_outputs(self, observations: Observation, deterministic: bool) -> tuple[Observation, Observation] | None:
        """What ``FastActor`` returns; None if the compiled code does not cover the policy."""
        actor = self._fast_actor()
        return None if actor is None else actor(observations, deterministic)

    def _fast_actor(self) -> FastActor | None:
        """The compiled actor, if it covers this policy; decided anew when anything that this rests on has changed."""
        if not vars(self).keys().isdisjoint(PREDICTING):
            return None
        cached: tuple[Watch, FastActor | None] | None = self.__dict__.get(FAST_ACTOR)
        if cached is None or not cached[0].holds:
            watch = Watch()
            # A class below ours may have another forward pass
            is_covered = why_not_acting(watch, self) is None and FastActor.is_worth_it(self)
            cached = self.__dict__[FAST_ACTOR] = (watch, FastActor(self) if is_covered else None)
        return cached[1]

    def set_training_mode(self, mode: bool) -> None:
        """As in Stable-Baselines3, but done only where it changes anything: this is called at every step."""
        for network in (self, *learning_networks(self).values()):
            if network.training is not mode:
                super().set_training_mode(mode)

    def __getstate__(self) -> dict[str, Any]:
        # Evolvers listen to this very policy's optimizers: a copy gets its own from evolve_topology
        return {name: value for name, value in self.__dict__.items() if name not in (EVOLVERS, FAST_ACTOR)}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            **{name: getattr(self, name) for name in policy_arguments(type(self))},
        }


class SparsePolicyMixin(SparseNetworksMixin):
    """Makes the linear layers of an off-policy actor-critic policy sparse.

    Put it before a policy class of Stable-Baselines3 (``class MyPolicy(SparsePolicyMixin, TD3Policy)``); every argument
    of that class keeps its meaning. Sparsity is met by the actor as a whole and by each critic network on its own.
    Target networks have the same connections. A layer that gets all of its connections stays a ``torch.nn.Linear``;
    with sparsity 0 the network is the dense one. SAC's two heads count as one layer of twice the width, as in RLx2's
    experiments. Each output has a path from some input (``sparsify``); inputs are those of the first layer after the
    features extractor.

    :param args: as for the policy class
    :param actor_sparsity: fraction of the actor's weights that are missing, in [0, 1); None: the class's default
    :param critic_sparsity: fraction of each critic's weights that are missing, in [0, 1); None: the class's default
    :param allocation: how connections are distributed over layers: ``"erdos_renyi"`` (default) or ``"uniform"``
    :param connections: which connections are present at first: ``"magnitude"`` (default) or ``"random"``
    :param weight_scale: ``"dense"`` (default) or ``"fan_in"``, see ``SparseLinear``
    :param sparse_features_extractor: whether the linear layers of the features extractor (a CNN's last layer) are
        sparse too, default False; convolutions are dense always
    :param kwargs: as for the policy class
    :raises ValueError: for a sparsity out of range or one that leaves a layer without a connection or the last layer
        with fewer than outputs, for unknown names, or for a sparse features extractor that actor and critic share
    """

    default_actor_sparsity: ClassVar[float] = 0.90
    default_critic_sparsity: ClassVar[float] = 0.85
    sparsity_defaults: ClassVar[Mapping[str, str]] = {
        "actor_sparsity": "default_actor_sparsity",
        "critic_sparsity": "default_critic_sparsity",
    }
    computes_as_sb3: ClassVar[bool] = True

    def __init__(
        self,
        *args: Any,
        actor_sparsity: float | None = None,
        critic_sparsity: float | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("sparse_features_extractor") and kwargs.get("share_features_extractor"):
            raise ValueError(
                "sparse_features_extractor=True is not allowed with share_features_extractor=True: the shared layers "
                "belong to two optimizers and could not evolve with both"
            )
        super().__init__(*args, actor_sparsity=actor_sparsity, critic_sparsity=critic_sparsity, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """As in Stable-Baselines3, with sparse linear layers."""
        actor = super().make_actor(features_extractor)  # type: ignore[misc]
        self._sparsify(actor, [actor], "actor_sparsity")
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """As in Stable-Baselines3, with sparse linear layers."""
        critic = super().make_critic(features_extractor)  # type: ignore[misc]
        self._sparsify(critic, getattr(critic, "q_networks", [critic]), "critic_sparsity")
        return critic

    def fast_actions(self, observations: Observation, deterministic: bool = False) -> Observation | None:
        """Actions for the environment from the actor's connections alone, if the compiled code covers it.

        :param observations: [n, ...]
        :param deterministic: whether SAC's actions are to be without noise, default False
        :return: actions [n, ...]; None if it does not
        """
        found = self._fast_outputs(observations, deterministic)
        if found is None:
            return None
        return self.unscale_action(found[0].reshape(len(observations), *cast(spaces.Box, self.action_space).shape))

    def explore(
        self, observations: Observation, action_noise: ActionNoise | None
    ) -> tuple[Observation, Observation, Observation] | None:
        """Actions to explore with, from the actor's connections alone, if the compiled code covers it.

        :param observations: [n, ...]
        :param action_noise: called for what is added to actions in [-1, 1]; None: nothing is
        :return: actions for the environment and the same in [-1, 1], [n, ...] each, and the latter without any noise,
            [n, action_dim]; None if the compiled code does not cover the policy
        """
        actor = self._fast_actor()
        if actor is None or not vars(self).keys().isdisjoint(EXPLORING):
            return None
        action, noise_free = actor(observations, False)
        return *actor.exploration(action, None if action_noise is None else action_noise()), noise_free


class SparseValuePolicyMixin(SparseNetworksMixin):
    """Makes the linear layers of a policy sparse that has one network and its target: a value for each discrete action.

    Put it before such a policy class (``class MyPolicy(SparseValuePolicyMixin, DQNPolicy)``); every argument of that
    class keeps its meaning. Otherwise as ``SparsePolicyMixin``.

    :param args: as for the policy class
    :param sparsity: fraction of the network's weights that are missing, in [0, 1); None: the class's default
    :param allocation: how connections are distributed over layers: ``"erdos_renyi"`` (default) or ``"uniform"``
    :param connections: which connections are present at first: ``"magnitude"`` (default) or ``"random"``
    :param weight_scale: ``"dense"`` (default) or ``"fan_in"``, see ``SparseLinear``
    :param sparse_features_extractor: whether the linear layers of the features extractor (a CNN's last layer) are
        sparse too, default False; convolutions are dense always
    :param kwargs: as for the policy class
    :raises ValueError: for a sparsity out of range or one that leaves a layer without a connection or the last layer
        with fewer than outputs, or for unknown names
    """

    default_sparsity: ClassVar[float] = 0.90
    sparsity_defaults: ClassVar[Mapping[str, str]] = {"sparsity": "default_sparsity"}
    computes_as_sb3: ClassVar[bool] = True

    def __init__(self, *args: Any, sparsity: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, sparsity=sparsity, **kwargs)

    def make_q_net(self) -> Any:
        """As in Stable-Baselines3's ``DQNPolicy``, with sparse linear layers."""
        return self._sparse_network(super().make_q_net())  # type: ignore[misc]

    def make_quantile_net(self) -> Any:
        """As in sb3-contrib's ``QRDQNPolicy``, with sparse linear layers."""
        return self._sparse_network(super().make_quantile_net())  # type: ignore[misc]

    def _sparse_network(self, network: nn.Module) -> nn.Module:
        self._sparsify(network, [network], "sparsity")
        return network

    def fast_actions(self, observations: Observation, deterministic: bool = False) -> Observation | None:
        """Greedy actions from connections alone, if the compiled code covers the network.

        :param observations: [n, ...]
        :param deterministic: has no effect: exploration is the algorithm's business, default False
        :return: [n] int64; None if it does not
        """
        found = self._fast_outputs(observations, True)
        return None if found is None else found[0]


def policy_arguments(policy_class: type[SparseNetworksMixin]) -> tuple[str, ...]:
    """Names of the arguments that sparse policies have beside those of the dense ones.

    :param policy_class: a sparse policy class
    """
    return (*policy_class.sparsity_defaults, *CONNECTION_ARGUMENTS)


def sparse_policy_class(policy_class: type[BasePolicy], known: Iterable[type[BasePolicy]]) -> type[BasePolicy]:
    """The sparse version of a policy class; one that is sparse already is returned as it is.

    :param policy_class: a policy class of an off-policy algorithm
    :param known: sparse policy classes that stand for the classes that they make sparse
    """
    if issubclass(policy_class, SparseNetworksMixin):
        return policy_class
    for sparse_class in known:
        if dense_policy_class(sparse_class) is policy_class:
            return sparse_class
    return _make_sparse(policy_class)


@functools.cache
def _make_sparse(policy_class: type[BasePolicy]) -> type[BasePolicy]:
    mixin = SparsePolicyMixin if hasattr(policy_class, "make_actor") else SparseValuePolicyMixin
    return type(f"Sparse{policy_class.__name__}", (mixin, policy_class), {})


def dense_policy_class(policy_class: type[BasePolicy]) -> type[BasePolicy]:
    """The class that a sparse policy class makes sparse: the first of its ancestors that is not sparse.

    :param policy_class: a policy class, sparse or dense
    """
    return next(
        ancestor
        for ancestor in policy_class.__mro__
        if issubclass(ancestor, BasePolicy) and not issubclass(ancestor, SparseNetworksMixin)
    )
