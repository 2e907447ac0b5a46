"""Sparse networks for any PyTorch module. Nothing here knows reinforcement learning."""

from sb3_rlx2.sparse.allocation import allocate, erdos_renyi, uniform
from sb3_rlx2.sparse.connections import Relocation, relocate
from sb3_rlx2.sparse.conversion import dense_state_dict, densify, linear_layers, sparse_layers, sparsify
from sb3_rlx2.sparse.evolution import Evolution, EvolutionCounters, TopologyEvolver
from sb3_rlx2.sparse.layers import SparseLinear
from sb3_rlx2.sparse.reachability import stages_of, unreachable_outputs
from sb3_rlx2.sparse.rules import SET, DenseTopology, RigL, StaticTopology, TopologyRule, resolve_rule
from sb3_rlx2.sparse.schedules import Budget, Schedule
from sb3_rlx2.sparse.summary import LayerSummary, density, summarize
from sb3_rlx2.sparse.unit_norm import UnitNorm

__all__ = [
    "SET",
    "Budget",
    "DenseTopology",
    "Evolution",
    "EvolutionCounters",
    "LayerSummary",
    "Relocation",
    "RigL",
    "Schedule",
    "SparseLinear",
    "StaticTopology",
    "TopologyEvolver",
    "TopologyRule",
    "UnitNorm",
    "allocate",
    "dense_state_dict",
    "densify",
    "density",
    "erdos_renyi",
    "linear_layers",
    "relocate",
    "resolve_rule",
    "sparse_layers",
    "sparsify",
    "stages_of",
    "summarize",
    "uniform",
    "unreachable_outputs",
]
