"""C99 functions that policies are made of. No library is needed: the mathematical ones are their own.

Polynomials are fitted at Chebyshev's points; ``tests/test_export_c.py`` compares each function with double precision.
"""

from __future__ import annotations

from typing import NamedTuple

from sb3_rlx2.export.c_text import number


class Function(NamedTuple):
    """A C function.

    :param text: its definition
    :param needs: names of the functions that it calls
    """

    text: str
    needs: tuple[str, ...] = ()


# --- of a number ---

_EXPM1 = """
/* e^x - 1 for 0 <= x <= 88, with a relative error below 2e-7 */
static float exp_minus_1(float x)
{
    /* x = n ln 2 + r: e^x = 2^n e^r */
    const float n = (float)(int32_t)((x * 1.44269504F) + 0.5F);
    const float r = (x - (n * 0.693359375F)) - (n * -2.12194440e-4F);
    const float e = r * (1.0F + (r * (0.5F + (r * (1.66666667e-1F + (r * (4.16663528e-2F
                    + (r * (8.33329847e-3F + (r * (1.39411189e-3F + (r * 1.98992849e-4F))))))))))));
    float scale = 1.0F;
    float power = 2.0F;
    uint32_t bits = (uint32_t)n;

    while (bits != 0U)
    {
        if ((bits & 1U) != 0U)
        {
            scale *= power;
        }
        power *= power;
        bits >>= 1U;
    }
    return (scale * e) + (scale - 1.0F);
}
"""

_TANH = """
/* Hyperbolic tangent, with an error below 2e-7 */
static float hyperbolic_tangent(float x)
{
    const float size = (x < 0.0F) ? -x : x;
    float y = size; /* NaN stays */

    if (size > 9.0F)
    {
        y = 1.0F;
    }
    else if (size <= 9.0F)
    {
        const float e = exp_minus_1(2.0F * size);
        y = e / (e + 2.0F);
    }
    else
    {
        /* NaN */
    }
    return (x < 0.0F) ? -y : y;
}
"""

_RELU = """
static float relu(float x)
{
    return (x < 0.0F) ? 0.0F : x;
}
"""

_LEAKY_RELU = """
static float leaky_relu(float x, float slope)
{
    return (x < 0.0F) ? (slope * x) : x;
}
"""

_ELU = """
static float elu(float x, float alpha)
{
    float y = x;

    if (x < -80.0F)
    {
        y = -alpha;
    }
    else if (x < 0.0F)
    {
        const float e = exp_minus_1(-x);
        y = -alpha * (e / (e + 1.0F));
    }
    else
    {
        /* x itself */
    }
    return y;
}
"""

_SILU = """
/* x / (1 + e^-x) */
static float silu(float x)
{
    float y = x;

    if (x < -80.0F)
    {
        y = 0.0F;
    }
    else if (x < 0.0F)
    {
        y = x / (exp_minus_1(-x) + 2.0F);
    }
    else if (x <= 80.0F)
    {
        const float e = exp_minus_1(x);
        y = x * ((e + 1.0F) / (e + 2.0F));
    }
    else
    {
        /* x itself */
    }
    return y;
}
"""

_GELU = """
/* x times the probability that a normally distributed number is below x */
static float gelu(float x)
{
    const float z = ((x < 0.0F) ? -x : x) * 7.07106781e-1F;
    float y = x;

    if (z < 1.0F)
    {
        const float t = z * z;
        const float e = z * (1.12837917F + (t * (-3.76126267e-1F + (t * (1.12835947e-1F + (t * (-2.68542120e-2F
                        + (t * (5.18908743e-3F + (t * (-8.01686431e-4F + (t * 7.87587512e-5F))))))))))));
        y = 0.5F * x * ((x < 0.0F) ? (1.0F - e) : (1.0F + e));
    }
    else if (z < 4.2F)
    {
        const float t = 1.0F / (1.0F + z);
        const float p = -3.79334078e-4F + (t * (5.72870304e-1F + (t * (4.81322136e-1F + (t * (7.03883229e-1F
                        + (t * (-1.46969449F + (t * (8.83481675e-1F + (t * -1.62627878e-1F)))))))))));
        const float tail = 0.5F * (p / (exp_minus_1(z * z) + 1.0F));
        y = x * ((x < 0.0F) ? tail : (1.0F - tail));
    }
    else if (x < 0.0F)
    {
        y = 0.0F;
    }
    else
    {
        /* x itself */
    }
    return y;
}
"""

_GELU_TANH = """
static float gelu_tanh(float x)
{
    return 0.5F * x * (1.0F + hyperbolic_tangent(7.97884561e-1F * (x + (4.4715e-2F * x * x * x))));
}
"""

_ROOT = """
/* 1 / sqrt(x) for x > 0 */
static float inverse_root(float x)
{
    float scaled = x;
    float factor = 1.0F;
    float y;
    uint32_t i;

    for (i = 0U; (i < 80U) && (scaled > 2.0F); i++)
    {
        scaled *= 0.25F;
        factor *= 0.5F;
    }
    for (i = 0U; (i < 80U) && (scaled < 0.5F); i++)
    {
        scaled *= 4.0F;
        factor *= 2.0F;
    }
    y = 1.5F - (0.5F * scaled);
    for (i = 0U; i < 5U; i++)
    {
        y *= 1.5F - (0.5F * scaled * y * y);
    }
    return y * factor;
}
"""

# --- of many numbers ---

_NORMALIZE = """
/* Running mean and standard deviation of observations; the mean is the sum of two numbers */
static void normalize(const float *observation, float *y)
{
    uint32_t i;

    for (i = 0U; i < @OBSERVATION_SIZE; i++)
    {
        const float x = ((observation[i] - observation_mean[i]) - observation_mean_rest[i]) * observation_scale[i];

        if (x > @CLIP)
        {
            y[i] = @CLIP;
        }
        else if (x < -@CLIP)
        {
            y[i] = -@CLIP;
        }
        else
        {
            y[i] = x;
        }
    }
}
"""

_ACTION = """
/* From [-1, 1] to the bounds of the action */
static void rescale(const float *x, float *action)
{
    uint32_t i;

    for (i = 0U; i < @ACTION_SIZE; i++)
    {
        action[i] = action_low[i] + (action_half_range[i] * (hyperbolic_tangent(x[i]) + 1.0F));
    }
}
"""

_GREEDY = """
/* The number of the largest value, of equal ones the first */
static void greedy(const float *values, int32_t *action)
{
    uint32_t best = 0U;
    uint32_t i;

    for (i = 1U; i < @ACTIONS; i++)
    {
        if (values[i] > values[best])
        {
            best = i;
        }
    }
    action[0] = (int32_t)best;
}
"""

_LAYER_NORM = """
static void layer_norm(uint32_t n, const float *weights, const float *biases, float epsilon, const float *x, float *y)
{
    float mean = 0.0F;
    float variance = 0.0F;
    float rate;
    uint32_t i;

    for (i = 0U; i < n; i++)
    {
        mean += x[i];
    }
    mean /= (float)n;
    for (i = 0U; i < n; i++)
    {
        variance += (x[i] - mean) * (x[i] - mean);
    }
    rate = inverse_root((variance / (float)n) + epsilon);
    for (i = 0U; i < n; i++)
    {
        y[i] = ((x[i] - mean) * rate * weights[i]) + biases[i];
    }
}
"""

_SUM = """
static void add(uint32_t n, const float *x1, const float *x2, float *y)
{
    uint32_t i;

    for (i = 0U; i < n; i++)
    {
        y[i] = x1[i] + x2[i];
    }
}
"""

_TO_LEVELS = """
/* Numbers as integers: multiples of their units, cut off at the limit */
static void to_levels(uint32_t n, const float *rates, float limit, const float *x, int16_t *y)
{
    uint32_t i;

    for (i = 0U; i < n; i++)
    {
        const float level = x[i] * rates[i];

        if (level >= limit)
        {
            y[i] = (int16_t)limit;
        }
        else if (level > -limit)
        {
            y[i] = (int16_t)((level < 0.0F) ? (level - 0.5F) : (level + 0.5F));
        }
        else
        {
            y[i] = (int16_t)-limit; /* NaN too */
        }
    }
}
"""

_TO_LEVELS_OF_ONE_UNIT = (
    _TO_LEVELS.replace("to_levels", "to_levels_of_one_unit")
    .replace("const float *rates", "float rate")
    .replace("rates[i]", "rate")
    .replace("multiples of their units", "multiples of one unit")
)

FUNCTIONS = {
    "exp_minus_1": Function(_EXPM1),
    "hyperbolic_tangent": Function(_TANH, ("exp_minus_1",)),
    "relu": Function(_RELU),
    "leaky_relu": Function(_LEAKY_RELU),
    "elu": Function(_ELU, ("exp_minus_1",)),
    "silu": Function(_SILU, ("exp_minus_1",)),
    "gelu": Function(_GELU, ("exp_minus_1",)),
    "gelu_tanh": Function(_GELU_TANH, ("hyperbolic_tangent",)),
    "inverse_root": Function(_ROOT),
    "normalize": Function(_NORMALIZE),
    "rescale": Function(_ACTION, ("hyperbolic_tangent",)),
    "greedy": Function(_GREEDY),
    "layer_norm": Function(_LAYER_NORM, ("inverse_root",)),
    "add": Function(_SUM),
    "to_levels": Function(_TO_LEVELS),
    "to_levels_of_one_unit": Function(_TO_LEVELS_OF_ONE_UNIT),
}
ACTIVATIONS = {"tanh": "hyperbolic_tangent"}
"""Where an activation's function has another name than itself."""


WITH_PARAMETER = ("elu", "leaky_relu")
"""Activations whose parameter is part of the code."""


def activation_call(function: str, parameter: float, argument: str) -> tuple[str, tuple[str, ...]]:
    """An activation of a number in C, and the functions that it needs.

    :param function: name of the activation, ``""`` for none
    :param parameter: its parameter
    :param argument: the number, in C
    """
    if not function:
        return argument, ()
    name = ACTIVATIONS.get(function, function)
    parameters = f", {number(parameter)}" if function in WITH_PARAMETER else ""
    return f"{name}({argument}{parameters})", (name,)
