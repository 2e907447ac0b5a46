"""The parameter blocks of compiled updates: what compiled code is told, as records with named fields.

Fields are integers unless said otherwise. *Address*: of memory that outlives the call. *Offset*: in bytes from the
beginning of some memory, or in floats where said.
"""

from __future__ import annotations

from sb3_rlx2.kernels.records import FLOAT, INTEGER, Record

OPERATION = Record(
    kind=INTEGER,  # see ``operations``
    activation=INTEGER,  # of the outputs; a linear operation may have its activation in it
    activation_parameter=FLOAT,  # α of ELU, negative slope of LeakyReLU
    n_in=INTEGER,
    n_out=INTEGER,
    adds_residual=INTEGER,  # whether a linear operation adds its second source to its output
    # Values: offsets in the memory for activations; source -1 is the network's input
    source=INTEGER,
    second_source=INTEGER,  # of a sum, or of the one inside of a linear operation
    output=INTEGER,
    statistics=INTEGER,  # of a layer normalization: mean and reciprocal standard deviation, two rows
    # Parameters: addresses; of an observation normalization mean and variance, float64
    weights=INTEGER,
    bias=INTEGER,  # 0: none
    epsilon=FLOAT,
    n_normalized=INTEGER,  # of an observation normalization: so many features are normalized, the others copied
    clip=FLOAT,  # of an observation normalization: results lie in [-clip, clip]
    # Connections of a linear operation: row by row, input by input, and where gradients are wanted (see Structure)
    nnz=INTEGER,
    rows=INTEGER,
    columns=INTEGER,
    starts=INTEGER,
    outputs=INTEGER,
    sources=INTEGER,
    ordered=INTEGER,
    gradient_rows=INTEGER,
    gradient_columns=INTEGER,
    weights_gradient=INTEGER,  # offsets in a shard's gradients, in floats
    bias_gradient=INTEGER,
    # Backward: offsets in the memory for gradients of values
    output_gradient=INTEGER,
    source_gradient=INTEGER,
    second_source_gradient=INTEGER,
    transposed=INTEGER,  # of a dense layer: room for its transposed input
    reads_normalized_input=INTEGER,  # whether the source is the network's input, normalized: no parameter is before it
    # Whether an operation that comes later in the program has written to the source's gradient already
    adds=INTEGER,
    second_adds=INTEGER,
    # The activation inside of the linear operation that made the source, if this is the last to write to its gradient
    source_activation=INTEGER,
    source_parameter=FLOAT,
    second_activation=INTEGER,
    second_parameter=FLOAT,
)

NETWORK = Record(
    operations=INTEGER,  # address of the first
    n_operations=INTEGER,
    n_in=INTEGER,
    n_out=INTEGER,  # of all outputs, which lie side by side
    output=INTEGER,  # offset in the memory for activations
    output_gradient=INTEGER,  # offset in the memory for gradients of values
    activation_bytes=INTEGER,
    gradient_bytes=INTEGER,
    n_gradients=INTEGER,  # floats of a shard's gradients of parameters
    first_parameter=INTEGER,
    end_parameter=INTEGER,
    optimizer=INTEGER,  # address of its record
)

PARAMETER = Record(
    value=INTEGER,
    mean=INTEGER,
    square=INTEGER,
    step=INTEGER,
    gradient=INTEGER,  # offset in a shard's gradients, in floats
    size=INTEGER,
    target=INTEGER,  # the target network's copy; 0: there is none
    units=INTEGER,  # of weights kept at unit norm: where each unit's begin, int64 [n_units + 1]; 0: of all others
    n_units=INTEGER,
    before=INTEGER,  # value, mean, square (``size`` floats each) and step, as they were before the last step
)

OPTIMIZER = Record(
    learning_rate=FLOAT,
    beta1=FLOAT,
    beta2=FLOAT,
    epsilon=FLOAT,
    weight_decay=FLOAT,
    is_decoupled=INTEGER,  # AdamW's weight decay
    max_gradient_norm=FLOAT,  # gradients of a larger norm are scaled down to it; infinite: they are not
)

PHASE = Record(
    parts=INTEGER,  # GRADIENT, STEP or both
    network=INTEGER,  # address of the record of the network that learns
    period=INTEGER,  # takes part in every so many updates
    tile_function=INTEGER,
    begin=INTEGER,  # step function that one thread runs before the tiles; 0: none
    finish=INTEGER,  # step function that one thread runs after them; 0: none
    backward_networks=INTEGER,  # address of addresses: the networks through which gradients go back
    n_backward_networks=INTEGER,
    n_losses=INTEGER,  # the first sums of the tile function
    first_result=INTEGER,  # column of the first loss in the results
    first_parameter=INTEGER,  # of those that this phase steps, by its step functions too
    end_parameter=INTEGER,
)

TARGETS = Record(
    first_parameter=INTEGER,
    end_parameter=INTEGER,
    period=INTEGER,
    counts_within=INTEGER,  # whether the period counts from the beginning of the call to ``train``, from 0
    tau=FLOAT,
)

TASK = Record(
    # How much
    n_updates=INTEGER,
    updates_before=INTEGER,  # in all
    updates_within=INTEGER,  # in this call to ``train``
    batch=INTEGER,
    shards=INTEGER,
    n_obs=INTEGER,
    n_act=INTEGER,
    n_critics=INTEGER,
    # Records
    phases=INTEGER,
    n_phases=INTEGER,
    targets=INTEGER,
    runs_targets=INTEGER,
    is_whole=INTEGER,  # whether all parts of all phases run
    parameters=INTEGER,
    actor=INTEGER,
    actor_target=INTEGER,
    critic=INTEGER,  # or the network that tells the values of discrete actions
    critic_target=INTEGER,
    first_critic=INTEGER,  # the part of the critic that makes its first output; behind it those of the others
    algorithm=INTEGER,  # the algorithm's own block
    # The replay buffer's arrays, float32 (discrete actions int64), and how to read them
    observations=INTEGER,
    next_observations=INTEGER,
    actions=INTEGER,
    rewards=INTEGER,
    dones=INTEGER,
    timeouts=INTEGER,
    is_double=INTEGER,  # observations are float64
    n_envs=INTEGER,
    n_rows=INTEGER,
    newest=INTEGER,
    n_steps=INTEGER,
    sampled_rows=INTEGER,  # int64 [updates, batch]
    sampled_envs=INTEGER,  # the same
    powers=INTEGER,  # γ^0 .. γ^n, float32
    # VecNormalize: float64 [n_obs]; 0 where it does not normalize
    obs_mean=INTEGER,
    obs_std=INTEGER,
    clip_obs=FLOAT,
    reward_std=FLOAT,
    clip_reward=FLOAT,
    # Memory: addresses …
    inputs=INTEGER,  # what the critics read, of each tile
    kept=INTEGER,  # what an algorithm keeps of each tile from one phase to the next
    kept_bytes=INTEGER,  # of one tile
    gradients=INTEGER,
    shard_bytes=INTEGER,
    sums=INTEGER,  # float64 [MAX_SHARDS, MAX_SUMS]
    results=INTEGER,  # float64 [updates, n_results], NaN where there is nothing
    n_results=INTEGER,
    shared=INTEGER,  # block of what all threads write
    thread_memory=INTEGER,
    # … and what each thread has of its own (offsets)
    thread_bytes=INTEGER,
    next_input=INTEGER,
    actor_activations=INTEGER,
    critic_activations=INTEGER,
    value_gradients=INTEGER,
    action_gradient=INTEGER,
    rows_of_tile=INTEGER,
    heads=INTEGER,
)

SHARED = Record(
    barrier=INTEGER,  # the first field: its address is the block's
    is_not_finite=INTEGER,  # whether a step of Adam has left something that is not
    diverged=INTEGER,  # column of the loss with which an update diverged
    completed=INTEGER,  # number of updates made so far, by all calls
    threads=INTEGER,  # number of threads of the last call
)

# Parts of a phase: all of it, or up to and from where a topology evolves
GRADIENT, STEP = 1, 2
