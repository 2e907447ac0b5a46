"""What a compiled update is told: the fields of its two tables of numbers, one of integers and one of floats."""

from __future__ import annotations

import itertools

_integer = itertools.count()

# How much
BATCH, SHARDS, UPDATES, PHASES = (next(_integer) for _ in range(4))
UPDATES_BEFORE, UPDATES_WITHIN = (next(_integer) for _ in range(2))  # in all, and in this call to train
N_OBS, N_ACT, N_CRITICS, ACTIVATION = (next(_integer) for _ in range(4))
POLICY_DELAY, TARGET_INTERVAL = (next(_integer) for _ in range(2))

# First rows in the table of layers, and numbers of layers
ACTOR, ACTOR_TARGET, CRITIC, CRITIC_TARGET = (next(_integer) for _ in range(4))
ACTOR_LAYERS, CRITIC_LAYERS = (next(_integer) for _ in range(2))
# Rows in the table of parameters: the actor's, the critics', the entropy coefficient's
ACTOR_PARAMETERS, CRITIC_PARAMETERS, COEFFICIENT, PARAMETERS_END = (next(_integer) for _ in range(4))

# The replay buffer's arrays (addresses) and how to read them
OBSERVATIONS, NEXT_OBSERVATIONS, ACTIONS, REWARDS, DONES, TIMEOUTS = (next(_integer) for _ in range(6))
IS_DOUBLE, N_ENVS, N_ROWS, NEWEST, N_STEPS = (next(_integer) for _ in range(5))
SAMPLED_ROWS, SAMPLED_ENVS = (next(_integer) for _ in range(2))  # int64 [updates, batch]
POWERS = next(_integer)  # γ^0 .. γ^n, float32
OBS_MEAN, OBS_STD = (next(_integer) for _ in range(2))  # float64 [n_obs]; 0: not normalized
NOISE, NEXT_NOISE = (next(_integer) for _ in range(2))  # float32 [updates, batch, n_act]
# States between the first and the last of n-step returns: for each tile of each update where its entries begin (int64
# [updates * tiles + 1]), and for each entry its sample, place in the buffer and number of steps (int64), and its noise
BETWEEN_STARTS, BETWEEN_ENTRIES, BETWEEN_NOISE = (next(_integer) for _ in range(3))

# Memory (addresses), and what each thread has of its own (offsets in bytes)
INPUTS, GRADIENTS, SHARD_BYTES, LOSSES = (next(_integer) for _ in range(4))
SHARED = next(_integer)  # int64 that all threads write: see below
ACTOR_GRADIENTS, CRITIC_GRADIENTS = (next(_integer) for _ in range(2))  # numbers of floats
ACTOR_MEMORY, ACTOR_TILE_BYTES = (next(_integer) for _ in range(2))  # what SAC's actor keeps of every tile
ACTOR_BYTES, CRITIC_BYTES = (next(_integer) for _ in range(2))  # activations of a tile in one network
THREAD_MEMORY, THREAD_BYTES = (next(_integer) for _ in range(2))
NEXT_INPUT, ACTOR_OUTPUTS, CRITIC_OUTPUTS, OUTPUT_GRADIENT, SPARE, ACTION_GRADIENT, ROWS_OF_TILE, HEADS = (
    next(_integer) for _ in range(8)
)
INTEGERS = next(_integer)

_float = itertools.count()
TARGET_NOISE_CLIP, TAU, GAMMA, CLIP_OBS, REWARD_STD, CLIP_REWARD = (next(_float) for _ in range(6))
ACTOR_RATE, ACTOR_BETA1, ACTOR_BETA2, ACTOR_EPSILON = (next(_float) for _ in range(4))
CRITIC_RATE, CRITIC_BETA1, CRITIC_BETA2, CRITIC_EPSILON = (next(_float) for _ in range(4))
COEFFICIENT_RATE, COEFFICIENT_BETA1, COEFFICIENT_BETA2, COEFFICIENT_EPSILON = (next(_float) for _ in range(4))
TARGET_ENTROPY, FIXED_COEFFICIENT = (next(_float) for _ in range(2))
FLOATS = next(_float)

# Parts of an update, bits of PHASES: all of them, or up to and from where a topology evolves
CRITIC_GRADIENT, CRITIC_STEP, ACTOR_GRADIENT, ACTOR_STEP, TARGETS = (1 << i for i in range(5))
ALL_PHASES = CRITIC_GRADIENT | CRITIC_STEP | ACTOR_GRADIENT | ACTOR_STEP | TARGETS

# Columns of the results, one row an update; NaN where there is nothing
CRITIC_LOSS, ACTOR_LOSS, COEFFICIENT_LOSS, COEFFICIENT_VALUE = range(4)
DIVERGED = 4  # column of the loss with which the update diverged
RESULTS = 5

# int64 that threads write: the barrier's counter, whether a step of Adam was not finite, updates completed so far,
# number of threads
BARRIER, IS_NOT_FINITE, COMPLETED, THREADS = range(4)
SHARED_FIELDS = 4
