"""A growth rule of your own in ten lines, beside RigL: it spreads connections over more units."""

from __future__ import annotations

import argparse

import torch as th

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.sparse import RigL, SparseLinear, TopologyRule, sparse_layers


class Fair(RigL):
    """Grow where the gradient is large and the unit still has few connections."""

    def growth_score(self, layer: SparseLinear) -> th.Tensor:
        """Magnitude of the gradient, divided by the number of connections that the unit has already."""
        return super().growth_score(layer) / (1 + layer.mask.sum(dim=1, keepdim=True))


def connections_per_unit(rule: TopologyRule, steps: int) -> th.Tensor:
    """Train for a while; connections of each unit of the critics' second layers, sorted."""
    model = RLx2TD3(
        "MlpPolicy",
        "Pendulum-v1",
        topology=rule,
        learning_starts=100,
        topology_interval=max(1, steps // 40),
        n_steps=1,
        dynamic_buffer=False,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    model.learn(steps)
    layers = sparse_layers(model.critic)
    return th.cat([layers[f"{critic}.2"].mask.sum(dim=1) for critic in ("qf0", "qf1")]).sort().values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 800 if arguments.short else arguments.steps

    for rule in (RigL(), Fair()):
        counts = connections_per_unit(rule, steps)
        print(
            f"{rule}: connections of a unit in the critics' second layers: fewest {int(counts[0])}, "
            f"median {int(counts.median())}, most {int(counts[-1])}; none at all: {int((counts == 0).sum())} units"
        )


if __name__ == "__main__":
    main()
