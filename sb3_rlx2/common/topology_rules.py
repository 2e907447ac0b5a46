"""The ``topology`` argument of an algorithm: one rule for all of its networks, or one for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from sb3_rlx2.sparse import TopologyRule, resolve_rule

Topology = str | TopologyRule | Mapping[str, str | TopologyRule]


def resolve_rules(topology: Topology, networks: Collection[str]) -> dict[str, TopologyRule]:
    """The rule of each network.

    :param topology: ``"rigl"``, ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule`` for all networks; or a dict
        that has one of these for each
    :param networks: names of the networks
    :return: by network
    :raises ValueError: if a rule is unknown, or a dict has not exactly these networks
    """
    if not isinstance(topology, dict):
        return dict.fromkeys(networks, resolve_rule(cast(str, topology)))
    if set(topology) != set(networks):
        raise ValueError(
            f"topology={topology!r} is not allowed: as a dict it must have a rule for each of {list(networks)}"
        )
    return {name: resolve_rule(topology[name], f"topology[{name!r}]") for name in networks}


def check_topology(topology: Topology) -> None:
    """Raise a ValueError that names the first rule that is unknown.

    :param topology: as for ``resolve_rules``, of networks that are not known yet
    """
    _named(topology)


def is_sparse(topology: Topology) -> bool:
    """Whether any network is sparse.

    :param topology: as for ``resolve_rules``
    :raises ValueError: if a rule is unknown
    """
    return any(rule.sparse for rule in _named(topology).values())


def _named(topology: Topology) -> dict[str, TopologyRule]:
    return resolve_rules(topology, tuple(topology) if isinstance(topology, dict) else ("all",))
