"""RigL on a plain PyTorch classifier: no reinforcement learning in sight.

Only a few of the inputs carry information. At 95% sparsity the first layer cannot look at everything; prune-and-grow
finds out where to look.
"""

from __future__ import annotations

import argparse

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_rlx2.sparse import RigL, TopologyEvolver, sparse_layers, sparsify, stages_of, summarize

N_INPUTS, N_INFORMATIVE, N_CLASSES = 200, 10, 4


def batch(size: int, teacher: nn.Module) -> tuple[th.Tensor, th.Tensor]:
    """Noise, labelled by a teacher that sees the first few inputs alone."""
    x = th.randn(size, N_INPUTS)
    with th.no_grad():
        return x, teacher(x[:, :N_INFORMATIVE]).argmax(dim=1)


def share_on_informative_inputs(network: nn.Sequential) -> float:
    """Fraction of the first layer's connections that look at an informative input."""
    mask = sparse_layers(network)["0"].mask
    return (mask[:, :N_INFORMATIVE].sum() / mask.sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    updates = 300 if arguments.short else arguments.updates

    th.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(N_INFORMATIVE, 32), nn.Tanh(), nn.Linear(32, N_CLASSES))
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=1.0)

    network = nn.Sequential(
        nn.Linear(N_INPUTS, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, N_CLASSES)
    )
    sparsify(network, 0.95)
    optimizer = th.optim.Adam(network.parameters(), lr=1e-3)
    TopologyEvolver(
        sparse_layers(network),
        optimizer,
        RigL(),
        interval=updates // 30,
        progress=lambda update: update / (0.75 * updates),
        chains=[stages_of(network)],
    )

    before = share_on_informative_inputs(network)
    for _ in range(updates):
        x, label = batch(256, teacher)
        optimizer.zero_grad()
        F.cross_entropy(network(x), label).backward()
        optimizer.step()

    for layer in summarize(network):
        print(f"layer {layer.name}: {layer.connections} of {layer.dense_connections} weights ({layer.density:.1%})")
    x, label = batch(5000, teacher)
    accuracy = (network(x).argmax(dim=1) == label).float().mean().item()
    print(f"first layer's connections on the {N_INFORMATIVE} informative of {N_INPUTS} inputs: ", end="")
    print(f"{before:.1%} -> {share_on_informative_inputs(network):.1%}")
    print(f"test accuracy: {accuracy:.1%} (chance: {1 / N_CLASSES:.0%})")


if __name__ == "__main__":
    main()
