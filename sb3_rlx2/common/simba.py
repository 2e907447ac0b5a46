"""SimBa: actors and critics of residual blocks with layer normalization, from normalized observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_rlx2.common.observation_norm import ObservationNorm
from sb3_rlx2.engine.programs import Program
from sb3_rlx2.sparse import linear_layers
from sb3_rlx2.sparse.checks import check_count
from sb3_rlx2.sparse.unit_norm import UnitNorm, normalize_units, unit_norms
from sb3_rlx2.sparse.units import LinearLayer

NetArch = Sequence[int] | Mapping[str, Sequence[int]]

DEFAULT_NET_ARCH: Mapping[str, Sequence[int]] = {"pi": (128,), "qf": (512, 512)}
"""The paper's: one block of 128 for the actor, two of 512 for each critic."""
WEIGHT_DECAY = 0.01


class ResidualBlock(nn.Module):
    """``x + W2 f(W1 LN(x))``, with an inverted bottleneck (SimBa, section 4.2).

    :param width: number of features
    :param expansion: how many times as many there are between the two layers
    :param activation_fn: f
    """

    def __init__(self, width: int, expansion: int, activation_fn: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, expansion * width),
            activation_fn(),
            nn.Linear(expansion * width, width),
        )

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply the block.

        :param x: [..., width]
        """
        return cast(th.Tensor, x + self.body(x))

    def add_to_program(self, program: Program, value: int) -> int:
        """Append it to a program of the compiled engine.

        :param program: the program so far
        :param value: number of the value that it reads
        :return: number of the value that it returns
        """
        return program.add("sum", [value, program.apply(self.body, value)], program.widths[value])


class SimBaMixin(BasePolicy):
    """Gives an off-policy actor-critic policy the networks of SimBa.

    Put it before a policy class of Stable-Baselines3 (``class MyPolicy(SimBaMixin, SACPolicy)``); every other argument
    of that class keeps its meaning. A network is a linear embedding, residual blocks, a layer normalization, and the
    heads of that class. Observations are normalized by running statistics, which all networks share and which change in
    ``observe`` alone. Layers begin as in SimBa: embedding and heads orthogonal, blocks by He's normal distribution,
    biases zero. The optimizer is by default SimBa's too: AdamW with a weight decay of 0.01.

    Source: Lee et al., "SimBa: Simplicity Bias for Scaling Up Parameters in Deep Reinforcement Learning", ICLR 2025,
    https://arxiv.org/abs/2410.09754, section 4.

    :param observation_space: a ``Box`` that is no image
    :param action_space: as for the policy class
    :param lr_schedule: as for the policy class
    :param net_arch: the width of each residual block, ``[256, 256]``, or ``{"pi": [...], "qf": [...]}`` for actor and
        critics; all blocks of a network have one width. None (default): ``{"pi": [128], "qf": [512, 512]}``
    :param activation_fn: activation in the blocks, default ReLU
    :param args: as for the policy class
    :param expansion: how many times as wide the inside of a block is, default 4
    :param unit_norm: whether the weights that lead to each unit of embedding and blocks keep norm 1, default False, see
        ``UnitNorm``; heads are free, as no normalization follows them
    :param features_extractor_class: ``ObservationNorm`` (default), whose arguments ``features_extractor_kwargs`` may
        hold, or ``FlattenExtractor``: observations as they are
    :param kwargs: as for the policy class
    :raises ValueError: for an argument that is not allowed
    """

    computes_as_sb3: ClassVar[bool] = True
    """This class changes which networks there are, and not what a policy computes with them."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: NetArch | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        *args: Any,
        expansion: int = 4,
        unit_norm: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = ObservationNorm,
        **kwargs: Any,
    ) -> None:
        if features_extractor_class not in (ObservationNorm, FlattenExtractor):
            raise ValueError(
                f"features_extractor_class={features_extractor_class.__name__} is not allowed with SimBaPolicy: it "
                "must be ObservationNorm or FlattenExtractor"
            )
        widths = block_widths(DEFAULT_NET_ARCH if net_arch is None else net_arch)
        # The networks are built, by make_actor and make_critic, inside of the policy's own __init__
        self.expansion = check_count(expansion, "expansion", 1)
        if not isinstance(unit_norm, bool):
            raise ValueError(f"unit_norm={unit_norm!r} is not allowed: it must be True or False")
        self.unit_norm = unit_norm
        self._n_blocks = {name: len(blocks) for name, blocks in widths.items()}
        if "optimizer_class" not in kwargs:
            given = kwargs.get("optimizer_kwargs") or {}
            kwargs |= {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": WEIGHT_DECAY, **given}}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            {name: blocks[:1] for name, blocks in widths.items()},
            activation_fn,
            *args,
            features_extractor_class=features_extractor_class,
            **kwargs,
        )
        cast(Any, self).net_arch = widths

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """The one features extractor that all networks share: it has no parameters."""
        actor = self._modules.get("actor")
        return super().make_features_extractor() if actor is None else cast(Any, actor).features_extractor

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """As in Stable-Baselines3, with residual blocks."""
        actor = super().make_actor(features_extractor)  # type: ignore[misc]
        name = "latent_pi" if hasattr(actor, "latent_pi") else "mu"
        setattr(actor, name, self._with_blocks(getattr(actor, name), "pi"))
        for head in ("mu", "log_std"):
            if isinstance(layer := getattr(actor, head, None), nn.Linear):
                _orthogonal(layer)
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """As in Stable-Baselines3, with residual blocks."""
        critic = super().make_critic(features_extractor)  # type: ignore[misc]
        for place, network in enumerate(critic.q_networks):
            critic.q_networks[place] = self._with_blocks(network, "qf")
            setattr(critic, f"qf{place}", critic.q_networks[place])
        return critic

    def _with_blocks(self, network: nn.Sequential, name: str) -> nn.Sequential:
        """Embedding and head of a network of one hidden layer, with blocks in between."""
        embedding, _, *head = network
        width = cast(nn.Linear, embedding).out_features
        blocks = [
            ResidualBlock(width, self.expansion, cast(Any, self).activation_fn) for _ in range(self._n_blocks[name])
        ]
        for layer in (embedding, *head):
            if isinstance(layer, nn.Linear):
                _orthogonal(layer)
        for layer in (module for block in blocks for module in block.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        return nn.Sequential(embedding, *blocks, nn.LayerNorm(width), *head)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.keep_unit_norm()
        for name in ("actor", "critic") if self.unit_norm else ():
            if (target := self._modules.get(f"{name}_target")) is not None:
                target.load_state_dict(cast(nn.Module, self._modules[name]).state_dict())

    def keep_unit_norm(self, at_once: bool = True) -> None:
        """Let units keep norm 1 from now on, if ``unit_norm`` says so and the optimizers do not see to it yet.

        The algorithms of this package call it before updates: an optimizer may have been replaced.

        :param at_once: whether to normalize now, or only after each step of the optimizers, default True
        """
        for network in (self.actor, self.critic) if self.unit_norm else ():
            known = cast(Any, network)
            if not unit_norms(known.optimizer):
                UnitNorm(_hidden_layers(known), known.optimizer, at_once)

    def normalize_units(self, name: str) -> None:
        """Give the units of a network and of its target norm 1, if ``unit_norm`` says so.

        :param name: name of the network
        """
        for network in (getattr(self, name), self._modules.get(f"{name}_target")) if self.unit_norm else ():
            for layer in () if network is None else _hidden_layers(network):
                normalize_units(layer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.keep_unit_norm(at_once=False)  # copies of optimizers have no hooks

    def observe(self, observations: npt.NDArray[Any]) -> None:
        """Count observations into the running statistics, with which all networks normalize from then on.

        The algorithms of this package call it with each observation that they act on while they learn, once. With those
        of Stable-Baselines3 call it from a callback (``self.model.policy.observe(self.model._last_obs)``).

        :param observations: [n, ...], as the networks get them
        """
        extractor = cast(Any, self.actor).features_extractor
        if isinstance(extractor, ObservationNorm):
            extractor.update(observations)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"expansion": self.expansion, "unit_norm": self.unit_norm}
        return {**super()._get_constructor_parameters(), **own}


def _hidden_layers(network: Any) -> list[LinearLayer]:
    """Embedding and blocks of an actor or critic."""
    bodies = network.q_networks if hasattr(network, "q_networks") else [getattr(network, "latent_pi", network.mu)]
    hidden = [module for body in bodies for module in body if isinstance(module, ResidualBlock)]
    return [cast(LinearLayer, body[0]) for body in bodies] + [
        layer for block in hidden for layer in linear_layers(block).values()
    ]


def _orthogonal(layer: nn.Linear) -> None:
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)


def block_widths(net_arch: Any) -> dict[str, list[int]]:
    """The blocks' widths of actor and critics.

    :param net_arch: as for ``SimBaPolicy``
    :raises ValueError: if it is none of a ``SimBaPolicy``
    """
    given = net_arch if isinstance(net_arch, Mapping) else {"pi": net_arch, "qf": net_arch}
    for name in ("pi", "qf"):
        blocks: Any = given.get(name)
        is_list = isinstance(blocks, (list, tuple)) and len(blocks) > 0 and set(given) == {"pi", "qf"}
        if not is_list or any(type(width) is not int or width < 1 or width != blocks[0] for width in blocks):
            raise ValueError(
                f"net_arch={net_arch!r} is not allowed with SimBaPolicy: it must be a list with the width of each "
                "residual block, all of a network the same, or a dict of such lists for 'pi' and 'qf'"
            )
    return {name: list(given[name]) for name in ("pi", "qf")}
