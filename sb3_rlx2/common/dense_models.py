"""From a dense model of Stable-Baselines3 or sb3-contrib to a sparse one, and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv

from sb3_rlx2.common.arguments import constructor_arguments, did_you_mean
from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.from_dense import arguments_of, go_on_from, load_dense, not_dense
from sb3_rlx2.common.policies import dense_policy_class, policy_arguments, sparse_policy_class
from sb3_rlx2.sparse import dense_state_dict, sparse_layers

SelfDenseModels = TypeVar("SelfDenseModels", bound="DenseModels")


class DenseModels(OffPolicyAlgorithm):
    """Makes an algorithm's models of dense ones, and dense ones of them."""

    dense_class: ClassVar[type[OffPolicyAlgorithm]]

    @classmethod
    def from_dense(
        cls: type[SelfDenseModels],
        model: OffPolicyAlgorithm | str | Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        trusted: bool | None = None,
        **kwargs: Any,
    ) -> SelfDenseModels:
        """A dense model of the base algorithm made sparse, to be trained on.

        Of each layer the weights of largest magnitude stay, as many as the algorithm would have given it (and those
        that every output needs for a path). Target networks, moments of the optimizers, the entropy coefficient, counts
        of steps and updates, learning rate and schedules, and the replay buffer go on from where they are.
        Normalization of observations is the environment's business, as in Stable-Baselines3. Parameters that are frozen
        learn again, as those of a model that was loaded.

        :param model: a model of Stable-Baselines3 or sb3-contrib, which is not changed, or the path of a saved one. Its
            replay buffer is used on, not copied, where the buffer's class allows it; actions without noise, which it
            lacks, are taken to be the stored ones
        :param env: the environment; None (default): the model's
        :param device: as for the constructor, default ``"auto"``
        :param trusted: whether a file may hold pickled objects, as for ``load``, default None
        :param kwargs: arguments of the constructor: RLx2's own, with its defaults, and such as replace the model's.
            ``n_steps`` is an argument of the dense algorithm too, so it is the model's unless it is given
        :raises ModelFileError: if the file is no model, is not whole, or is not trusted
        :raises ValueError: if the model is of another algorithm, sparse already, or without an environment, that
            environment has other spaces, an argument is unknown or out of range, or the replay buffer has another size
        """
        if isinstance(model, (str, Path)):
            model = load_dense(cls, model, env, trusted)
        if not isinstance(model, cls.dense_class) or isinstance(model, DenseModels) or sparse_layers(model.policy):
            raise ValueError(not_dense(cls, f"model={type(model).__name__}"))
        if unknown := sorted(kwargs.keys() - constructor_arguments(cls)):
            hint = did_you_mean(unknown[0], constructor_arguments(cls))
            raise ValueError(f"{cls.__name__}.from_dense() got the unknown argument {unknown[0]!r}{hint}")
        with th.random.fork_rng():
            sparse = cast(Any, cls)(device=device, **arguments_of(cls, model, env, kwargs))
        sparse.seed = kwargs.get("seed", model.seed)
        go_on_from(sparse, model)
        return cast(SelfDenseModels, sparse)

    def to_dense(self) -> OffPolicyAlgorithm:
        """The stock Stable-Baselines3 algorithm with dense networks that predict the same.

        It has this model's hyperparameters and environment. Its optimizers and its replay buffer start afresh.
        """
        dense: OffPolicyAlgorithm = cast(Any, self.dense_class)(
            policy=dense_policy_class(self.policy_class),
            env=self.env,
            learning_rate=self.learning_rate,
            device=self.device,
            _init_setup_model=False,
        )
        excluded = {*self._excluded_save_params(), "policy", "policy_class", "policy_kwargs", "seed"}
        dense.__dict__.update(
            {key: vars(self)[key] for key in vars(dense) if key in vars(self) and key not in excluded}
        )
        for name in ("observation_space", "action_space", "n_envs"):
            setattr(dense, name, getattr(self, name))
        policy_class = cast(Any, sparse_policy_class(self.policy_class, ()))
        dense.policy_kwargs = {
            key: value for key, value in self.policy_kwargs.items() if key not in policy_arguments(policy_class)
        } | {"net_arch": cast(Any, self.policy).net_arch}
        dense.replay_buffer = None
        # Both models may go on
        for name in ("action_noise", "ep_info_buffer", "ep_success_buffer"):
            setattr(dense, name, copy.deepcopy(getattr(self, name)))
        if isinstance(self.replay_buffer, DynamicReplayBuffer):
            dense.replay_buffer_class = None
            own = constructor_arguments(DynamicReplayBuffer) - constructor_arguments(ReplayBuffer)
            dense.replay_buffer_kwargs = {
                name: value for name, value in self.replay_buffer_kwargs.items() if name not in own
            }
        with th.random.fork_rng():
            dense._setup_model()
        dense.seed = self.seed
        dense.policy.load_state_dict(dense_state_dict(self.policy))
        for name in self._get_torch_save_params()[1]:
            recursive_setattr(dense, f"{name}.data", recursive_getattr(self, name).data.clone())
        return dense
