"""The networks of a policy, part by part."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch as th
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_rlx2.common.stages import VALUE_LAYERS, first_layer, network_stages
from sb3_rlx2.engine.networks import LEARNING
from sb3_rlx2.sparse import linear_layers
from sb3_rlx2.sparse.units import LinearLayer, Stages

OWNERS = (*LEARNING, *(f"{name}_target" for name in LEARNING))
ParametricLayer = LinearLayer | nn.Conv2d


class Part(NamedTuple):
    """A part of a network.

    :param name: such as ``"actor"``, ``"critic.qf0"``, ``"q_net"`` or ``"critic_target.features_extractor"``
    :param owner: the attribute of the policy that holds it
    :param layers: its linear and convolutional layers, by their name in the owner
    :param stages: names of its linear layers in the order in which data pass them, those of one stage reading the same
        inputs; empty where that order is not known, and for a features extractor
    :param first: names of the layers that read the network's input; empty where they are not known
    :param shared_with: the earlier part that has the very same layers; None (default): there is none
    """

    name: str
    owner: str
    layers: dict[str, ParametricLayer]
    stages: tuple[tuple[str, ...], ...]
    first: tuple[str, ...] = ()
    shared_with: str | None = None

    def stage(self, place: int) -> list[LinearLayer]:
        """The layers of a stage."""
        return [cast(LinearLayer, self.layers[name]) for name in self.stages[place]]


def network_parts(policy: nn.Module) -> list[Part]:
    """The parts of a policy's online and target networks.

    :param policy: a policy of an off-policy algorithm, sparse or dense
    """
    parts: list[Part] = []
    extractors: dict[nn.Module, str] = {}
    for owner in OWNERS:
        network: Any = getattr(policy, owner, None)
        if network is None:
            continue
        if owner.startswith("critic"):
            for place, (q_network, stages) in enumerate(zip(network.q_networks, network_stages(network), strict=True)):
                parts.append(_part(f"{owner}.qf{place}", owner, {f"qf{place}": q_network}, stages))
        else:
            modules = {
                name: module
                for name in ("latent_pi", "mu", "log_std", *VALUE_LAYERS)
                if isinstance(module := getattr(network, name, None), nn.Module)
            }
            parts.append(_part(owner, owner, modules, network_stages(network)[0]))
        layers = _parametric(network.features_extractor, "features_extractor.")
        if layers:
            name = f"{owner}.features_extractor"
            first = extractors.setdefault(network.features_extractor, name)
            parts.append(Part(name, owner, layers, (), shared_with=None if first == name else first))
    return parts


def _part(name: str, owner: str, modules: dict[str, nn.Module], stages: Stages) -> Part:
    layers = {
        f"{key}.{inner}".rstrip("."): layer
        for key, module in modules.items()
        for inner, layer in linear_layers(module).items()
    }
    names = {layer: key for key, layer in layers.items()}
    is_whole = names.keys() == {layer for stage in stages for layer in stage}
    ordered = tuple(tuple(names[layer] for layer in stage) for stage in stages) if is_whole else ()
    reader = first_layer(*modules.values())
    first = ordered[0] if ordered else () if reader is None else (names[reader],)
    return Part(name, owner, dict(layers), ordered, first)


def _parametric(module: nn.Module, prefix: str) -> dict[str, ParametricLayer]:
    convolutions = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    return {f"{prefix}{name}": layer for name, layer in (*convolutions.items(), *linear_layers(module).items())}


def input_names(network: Any) -> list[str] | None:
    """Names of the observation dimensions that a network's first layer reads, in order.

    :param network: an actor or a critic
    :return: such as ``"3"``, or ``"achieved_goal[1]"`` for Dict observations; None where a features extractor stands
        between observations and first layer
    """
    extractor, space = network.features_extractor, network.observation_space
    if isinstance(extractor, FlattenExtractor):
        return [str(place) for place in range(extractor.features_dim)]
    if isinstance(extractor, CombinedExtractor) and isinstance(space, spaces.Dict):
        if not all(isinstance(module, nn.Flatten) for module in extractor.extractors.values()):
            return None
        return [f"{key}[{place}]" for key in extractor.extractors for place in range(get_flattened_obs_dim(space[key]))]
    return None


@th.no_grad()
def convolution_positions(model: OffPolicyAlgorithm, part: Part) -> dict[str, int]:
    """At how many output positions each convolution of a features extractor is applied.

    :param model: to which the part belongs
    :param part: a part whose layers may be convolutions
    """
    convolutions = {name: layer for name, layer in part.layers.items() if isinstance(layer, nn.Conv2d)}
    if not convolutions:
        return {}
    positions: dict[str, int] = {}
    network: Any = getattr(model.policy, part.owner)

    def listen(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: th.Tensor) -> None:
            positions[name] = output.shape[-2] * output.shape[-1]

        return hook

    handles = [layer.register_forward_hook(listen(name)) for name, layer in convolutions.items()]
    try:
        observation, _ = model.policy.obs_to_tensor(cast(Any, create_empty_array(model.observation_space, n=1)))
        network.extract_features(observation, network.features_extractor)
    finally:
        for handle in handles:
            handle.remove()
    return positions
