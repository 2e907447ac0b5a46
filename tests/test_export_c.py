"""Policies in C compute what ``predict`` does, in float32 and in int8, with every operation."""

import ctypes
import json
import shutil
import subprocess
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from export_helpers import (
    GREEDY,
    LARGEST,
    LEARNED,
    MODELS,
    Walk,
    action_values,
    apart,
    normalized,
    observations,
    predictions,
    quick,
    with_network,
)  # fmt: skip
from helpers import in_turn
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.export import c_compiler, export
from sb3_rlx2.export.c_compiler import WARNINGS, compiled_policy
from sb3_rlx2.export.c_files import prepared, quantized, write_c, write_main
from sb3_rlx2.export.c_functions import FUNCTIONS
from sb3_rlx2.export.c_layers import runs
from sb3_rlx2.export.c_text import Buffer, Call, number, offsets
from sb3_rlx2.export.observations import from_buffer, from_environment
from sb3_rlx2.export.reading import read_policy
from sb3_rlx2.export.sparse_policy import Activation
from sb3_rlx2.trained import load_trained

C_COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
CPP_COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not C_COMPILERS, reason="there is no C compiler: gcc or clang")
HALF_RANGE = (Walk.action_space.high - Walk.action_space.low) / 2


def compiled(folder, name="policy", n_act=2, compiler=None, dtype=np.float32):
    compiler = compiler or C_COMPILERS[0]
    return compiled_policy(folder / f"{name}.c", folder / f"{name}_{compiler}.so", n_act, compiler, dtype=dtype)


# --- functions ---


def double(function):
    activation = Activation((0,), 1, function, 0.7)
    return lambda x: activation(x)


MATHEMATICS = {
    # C function: its arguments beside x, double precision, where, allowed error beside one of 2e-7 times the result
    "exp_minus_1": ([], np.expm1, (0.0, 88.0), 0.0),
    "hyperbolic_tangent": ([], np.tanh, (-100.0, 100.0), 0.0),
    "relu": ([], double("relu"), (-10.0, 10.0), 0.0),
    "leaky_relu": ([0.7], double("leaky_relu"), (-10.0, 10.0), 0.0),
    "elu": ([0.7], double("elu"), (-120.0, 20.0), 0.0),
    "silu": ([], double("silu"), (-120.0, 120.0), 1e-7),
    "gelu": ([], double("gelu"), (-20.0, 20.0), 2e-7),
    "gelu_tanh": ([], double("gelu_tanh"), (-20.0, 20.0), 1e-6),
    "inverse_root": ([], lambda x: 1.0 / np.sqrt(x), (1e-12, 1e12), 0.0),
}


@needs_compiler
@pytest.mark.parametrize("name", MATHEMATICS)
def test_mathematical_functions_are_as_good_as_single_precision_allows(name, tmp_path):
    arguments, exact, (low, high), slack = MATHEMATICS[name]
    needed, todo = [], [name]
    while todo:
        needed.insert(0, todo.pop())
        todo += FUNCTIONS[needed[0]].needs
    call = ", ".join(["x[i]", *map(number, arguments)])
    loop = f"void each(int n, const float *x, float *y) {{ for (int i = 0; i < n; i++) y[i] = {name}({call}); }}"
    source = tmp_path / "functions.c"
    source.write_text("\n".join(["#include <stdint.h>", *(FUNCTIONS[key].text for key in needed), loop]))
    library = tmp_path / "functions.so"
    subprocess.run([C_COMPILERS[0], *WARNINGS, "-Werror", "-shared", "-fPIC", source, "-o", library], check=True)
    x = np.concatenate([np.linspace(low, high, 200_001), np.geomspace(1e-9, high, 5001)]).astype(np.float32)
    x = np.concatenate([x, -x[-5001:]]) if low < 0 else x
    y = np.empty_like(x)
    ctypes.CDLL(str(library)).each(len(x), x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p))
    expected = exact(x.astype(np.float64))
    assert (np.abs(y - expected) <= 3e-7 * np.abs(expected) + slack).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_runs_of_rows_with_equally_many_connections(counts):
    pairs = runs(np.array(counts, np.uint8)).reshape(-1, 2)
    assert np.repeat(pairs[:, 1], pairs[:, 0]).tolist() == counts
    assert (np.diff(pairs[:, 1].astype(int)) != 0).all()


@given(st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 5), max_size=2), st.booleans()), min_size=1))
def test_what_is_needed_at_the_same_time_never_shares_memory(drawn):
    buffers, calls = {}, []
    for i, (size, back, in_place) in enumerate(drawn, start=1):
        reads = [max(0, i - 1 - distance) for distance in back]
        if in_place:  # as much as it reads
            reads = [read for read in reads if read and buffers[read].size == size]
        buffers[i] = Buffer("float", size)
        calls.append(Call("", tuple(reads), i, in_place))
    places, sizes = offsets(calls, buffers)
    content = {}
    memory = np.full(sizes["float"], -1)
    for call in calls:
        for read in filter(None, call.reads):
            assert (memory[places[read] : places[read] + buffers[read].size] == content[read]).all()
        memory[places[call.writes] : places[call.writes] + buffers[call.writes].size] = call.writes
        content[call.writes] = call.writes


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_are_written_exactly(value):
    assert number(value).endswith("F")
    assert np.float32(float(number(value)[:-1])) == np.float32(value)


# --- policies ---


@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_c_computes_what_predict_does(name, tmp_path):
    model, raw = MODELS[name](), observations()
    report = export.export(model, tmp_path, observations=raw)
    assert report.agreement.holds
    assert report.agreement.n == 200
    assert report.files.keys() == {"policy.c", "policy.h"}
    assert report.agreement.largest < 2e-6


@needs_compiler
@pytest.mark.parametrize("compiler", C_COMPILERS)
def test_the_check_of_the_export_is_right(compiler, tmp_path):
    model, raw = MODELS["everything"](), observations()
    report = export.export(model, tmp_path, observations=raw)
    actions = compiled(tmp_path, compiler=compiler)(raw)
    assert (np.abs(actions - predictions(model, raw)) / LARGEST).max() == pytest.approx(
        report.agreement.largest, abs=5e-7
    )


@needs_compiler
@pytest.mark.parametrize(("name", "precision"), in_turn(MODELS, ["int8", "int16"]))
def test_integers_stay_within_their_bound(name, precision, tmp_path):
    mean = {"int8": 0.005, "int16": 0.001}[precision]
    model, raw = MODELS[name](), observations(400)
    report = export.export(model, tmp_path, precision=precision, observations=raw)
    within = raw[0] + (raw[1:] - raw[0]) * np.random.default_rng(2).random((399, 1), np.float32)
    act = compiled(tmp_path, n_act=1, dtype=np.int32) if name in GREEDY else compiled(tmp_path)
    for some in (raw, within):
        actions, exact = act(some), read_policy(model, model.get_vec_normalize_env()).predict(some)[0]
        if name in GREEDY:
            largest = np.abs(action_values(model, raw)).max()
            difference = apart(model, some, actions, exact) * np.abs(action_values(model, some)).max() / largest
        else:
            difference = np.abs(actions - exact) / HALF_RANGE
        assert (difference <= report.bound + 1e-6).all()
        assert difference.mean() < mean
    header = " ".join((tmp_path / "policy.h").read_text().replace(" *", "").split())
    assert f"Proven is {report.bound:.3g} for all observations within the range" in header
    assert f"by at most {report.measured.largest:.2g} " in header


class Far(Walk):
    """Its actions lie far from 0."""

    action_space = gym.spaces.Box(200.0, 201.0, (2,), np.float32)


@needs_compiler
@pytest.mark.parametrize("env", [Walk, Far])
def test_a_shift_of_actions_is_refused_wherever_their_bounds_lie(env, tmp_path, monkeypatch):
    model, exact = quick(RLx2TD3, DummyVecEnv([env])), compiled_policy
    half_range = (env.action_space.high - env.action_space.low) / 2

    def shifted(*args, **kwargs):
        act = exact(*args, **kwargs)
        return lambda raw: (act(raw) + 0.2 * half_range).astype(np.float32)

    report = export.export(model, tmp_path / "right", precision="int8", observations=observations(400))
    assert report.agreement.holds
    monkeypatch.setattr(export, "compiled_policy", shifted)
    with pytest.raises(ValueError, match="nothing is written, since the export does not compute what predict does"):
        export.export(model, tmp_path / "wrong", precision="int8", observations=observations(400))


@needs_compiler
def test_the_bound_of_integers_says_something(tmp_path):
    reports = {
        precision: export.export(quick(RLx2TD3), tmp_path, precision=precision, observations=observations(400))
        for precision in ("int8", "int16")
    }
    assert 1e-3 < reports["int8"].bound < 0.3
    assert 1e-4 < reports["int16"].bound < 0.3


@needs_compiler
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("name", ["RLx2TD3", "RLx2QRDQN", "wide", "everything"])
def test_what_is_measured_is_what_c_does_on_observations_that_are_held_out(name, precision, tmp_path):
    model, raw = MODELS[name](), observations(400)
    report = export.export(model, tmp_path, precision=precision, observations=raw)
    policy, held_out = read_policy(model, model.get_vec_normalize_env()), raw[350:]
    actions = compiled(tmp_path, n_act=policy.n_act, dtype=np.int32 if name in GREEDY else np.float32)(held_out)
    if name in GREEDY:
        values = policy.values(held_out)[policy.output]
        largest = np.abs(policy.values(raw)[policy.output]).max()
        difference = (values.max(1) - np.take_along_axis(values, actions, 1).ravel()) / largest
    else:
        difference = np.abs(actions - policy.predict(held_out)[0]) / HALF_RANGE
    assert report.measured.n == 50
    assert difference.max() == pytest.approx(report.measured.largest, rel=0.1, abs=2e-6)
    assert difference.mean() == pytest.approx(report.measured.mean, rel=0.05, abs=1e-6)
    assert str(report).count("50 observations that the tables were not fitted to") == 1


def test_the_papers_hopper_fits_into_12_and_7_kilobytes(tmp_path):
    th.manual_seed(0)
    from sb3_rlx2.sparse import sparsify

    model = with_network("one layer")
    model.policy.actor.mu = th.nn.Sequential(
        th.nn.Linear(5, 256), th.nn.ReLU(), th.nn.Linear(256, 256), th.nn.ReLU(), th.nn.Linear(256, 2), th.nn.Tanh()
    )
    sparsify(model.policy.actor.mu, 0.98)
    policy = prepared(read_policy(model))
    assert write_c(policy, tmp_path, "policy").table_bytes <= 12 * 1024
    for precision in ("int8", "int16"):
        integers = quantized(policy, observations(), precision)
        assert write_c(policy, tmp_path, "policy", integers).table_bytes <= 7 * 1024


@needs_compiler
def test_int8_earns_what_the_trained_hopper_earns(tmp_path):
    policy, env, returns = load_trained("Hopper-v5"), gym.make("Hopper-v5"), []
    small, raw = prepared(policy), from_environment(policy, "Hopper-v5", 10_000, 0)
    written = write_c(small, tmp_path, "policy", quantized(small, raw, "int8"))
    in_c = compiled(tmp_path, n_act=3)
    for act in (lambda observation: in_c(observation[None])[0], lambda observation: policy.predict(observation)[0]):
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            total, is_over = 0.0, False
            while not is_over:
                observation, reward, terminated, truncated, _ = env.step(act(observation))
                total, is_over = total + reward, terminated or truncated
            returns.append(total)
    np.testing.assert_allclose(returns[:3], returns[3:], rtol=0.01)
    assert written.table_bytes < 4000


@pytest.mark.parametrize("precision", ["float32", "int16", "int8"])
@pytest.mark.parametrize("compiler", ["gcc", "clang", "g++", "clang++"])
def test_no_compiler_warns_and_nothing_else_is_needed(compiler, precision, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = ["-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror", "-O2", "-c"]
    flags += ["-x", "c++"] if compiler in CPP_COMPILERS else ["-std=c99", "-Wdouble-promotion", "-Wshadow"]
    for name in ("everything", "wide", "GELU(approximate='none')", "RLx2DQN"):
        model = MODELS[name]()
        policy = prepared(read_policy(model))
        integers = None if precision == "float32" else quantized(policy, observations(), precision)
        write_c(policy, tmp_path, "small", integers)
        write_main(policy, tmp_path, "small", 1e-6)
        for file in ("small", "small_main"):
            command = [compiler, *flags, tmp_path / f"{file}.c", "-o", tmp_path / f"{file}.o"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{name}: {result.stderr}"
        symbols = subprocess.run(["nm", tmp_path / "small.o"], capture_output=True, text=True, check=True).stdout
        # No function of a library, and nothing that can be written to: it may run in several threads
        kinds = {line.split()[-2] for line in symbols.splitlines()}
        assert kinds <= {"T", "t", "R", "r", "d"}, symbols
        tables = [line.split()[-1] for line in symbols.splitlines() if line.split()[-2] == "d"]
        assert all("layer_" in table for table in tables)  # addresses of tables, which a linker may have to fill in


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int16", "int8"])
def test_no_observation_leads_to_undefined_behaviour(precision, tmp_path):
    extreme = np.array([0.0, 1.0, -1e30, 3e38, np.inf, -np.inf, np.nan, 1e-40], np.float32)
    raw = np.random.default_rng(0).choice(extreme, (300, 5))
    sanitize = ("-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")
    for name in (
        "residual",
        "layer norm",
        "SiLU()",
        "GELU(approximate='none')",
        "ELU(alpha=0.7)",
        "SAC with VecNormalize",
        "RLx2DQN",
    ):
        model = MODELS[name]()
        report = export.export(model, tmp_path, precision=precision, with_main=True, observations=observations())
        assert set(report.files) == {"policy.c", "policy.h", "policy_main.c"}
        program = tmp_path / "program"
        sources = [tmp_path / "policy.c", tmp_path / "policy_main.c"]
        subprocess.run([C_COMPILERS[0], "-std=c99", *sanitize, *sources, "-o", program], check=True)
        text = "\n".join(" ".join(map(repr, map(float, row))) for row in raw)
        result = subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{name}: {result.stderr}"
        actions = np.array([line.split() for line in result.stdout.splitlines()], np.float64)
        if name in GREEDY:
            assert actions.shape == (300, 1)
            assert set(actions.ravel()) <= {0, 1, 2, 3}
            continue
        assert actions.shape == (300, 2)
        finite = np.isfinite(actions)
        assert ((actions <= LARGEST + 1e-6) | ~finite).all()


@needs_compiler
def test_nan_is_seen_in_the_action(tmp_path):
    export.export(quick(RLx2TD3), tmp_path)
    raw = observations(1)
    raw[:] = np.nan
    assert np.isnan(compiled(tmp_path)(raw)).all()


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int16", "int8"])
@pytest.mark.parametrize(("name", "wrong"), [("RLx2SAC", "7.0F, 7.0F"), ("RLx2QRDQN", "7")])
def test_the_program_tests_the_example(name, wrong, precision, tmp_path):
    export.export(
        MODELS[name](), tmp_path, name="left", precision=precision, with_main=True, observations=observations()
    )
    program, sources = tmp_path / "program", [tmp_path / "left.c", tmp_path / "left_main.c"]
    build = [C_COMPILERS[0], *WARNINGS, "-Werror", *sources, "-o", program]
    subprocess.run(build, check=True)
    assert subprocess.run([program], capture_output=True, check=False).returncode == 0
    main = sources[1].read_text()
    begin = main.index("{", main.index("example_action[")) + 1
    sources[1].write_text(main[:begin] + f" {wrong} }};" + main[main.index("};", begin) + 2 :])
    subprocess.run(build, check=True)
    assert subprocess.run([program], capture_output=True, check=False).returncode == 1


def verdict(folder, name="policy"):
    """What the program that tests a policy returns."""
    sources = [folder / f"{name}.c", folder / f"{name}_main.c"]
    subprocess.run([C_COMPILERS[0], *WARNINGS, "-Werror", *sources, "-o", folder / "program"], check=True)
    return subprocess.run([folder / "program"], capture_output=True, check=False).returncode


@needs_compiler
def test_the_program_of_an_export_that_passed_says_so_too(tmp_path, monkeypatch):
    model, raw, agreement = quick(RLx2SAC), observations(40), export.agreement

    def far(*args):
        return predictions(model, args[-1]) + (LARGEST * 2e-5).astype(np.float32)

    def lenient(*args):
        found = agreement(*args)
        return found._replace(allowed=found.largest)

    monkeypatch.setattr(export, "predictions", far)
    monkeypatch.setattr(export, "agreement", lenient)
    report = export.export(model, tmp_path, with_main=True, observations=raw)
    assert report.agreement.largest > 1e-5
    assert verdict(tmp_path) == 0


@needs_compiler
def test_the_program_of_a_policy_of_equal_values_expects_the_action_that_c_takes(tmp_path, monkeypatch):
    model, raw = MODELS["RLx2DQN"](), observations(10)
    with th.no_grad():
        for parameter in model.policy.q_net.q_net[-1].parameters():
            parameter.zero_()
    monkeypatch.setattr(export, "predictions", lambda *args: predictions(model, raw).reshape(-1, 1) + 1)
    report = export.export(model, tmp_path, with_main=True, observations=raw)
    assert report.agreement.n_other == 10
    assert verdict(tmp_path) == 0


@needs_compiler
def test_two_policies_live_in_one_program_and_threads(tmp_path):
    one, other = quick(RLx2TD3), quick(RLx2SAC, seed=3)
    export.export(one, tmp_path, name="left")
    export.export(other, tmp_path, name="right")
    library = tmp_path / "both.so"
    subprocess.run(
        [C_COMPILERS[0], "-shared", "-fPIC", tmp_path / "left.c", tmp_path / "right.c", "-o", library], check=True
    )
    both, raw, results = ctypes.CDLL(str(library)), observations(), {}

    def act(name):
        actions = np.empty((len(raw), 2), np.float32)
        for observation, action in zip(raw, actions, strict=True):
            function = getattr(both, f"{name}_act")
            function(observation.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p))
        results.setdefault(name, []).append(actions)

    threads = [threading.Thread(target=act, args=(name,)) for name in ("left", "right") for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, model in (("left", one), ("right", other)):
        assert len(results[name]) == 3
        for actions in results[name]:
            assert (np.abs(actions - predictions(model, raw)) / LARGEST < 2e-6).all()


@needs_compiler
def test_headers_of_names_that_differ_in_case_only_do_not_hide_each_other(tmp_path):
    for name in ("left", "Left"):
        export.export(quick(RLx2TD3), tmp_path, name=name, observations=observations(10))
    source = tmp_path / "both.c"
    source.write_text(
        '#include "left.h"\n#include "Left.h"\n'
        "void both(const float *x, float *y) { left_act(x, y); Left_act(x, y); }\n"
    )
    command = [C_COMPILERS[0], *WARNINGS, "-Werror", "-c", source, "-o", tmp_path / "both.o"]
    subprocess.run([*command, "-Wno-missing-prototypes"], check=True)


@pytest.mark.parametrize("to", ["c", "safetensors", "numpy"])
def test_observations_that_are_not_clipped_are_exported(to, tmp_path):
    env = VecNormalize(DummyVecEnv([Walk]), clip_obs=np.inf)
    model, raw = quick(RLx2TD3, env), observations()
    env.obs_rms.update(100.0 * raw.astype(np.float64) + 3.0)
    assert export.export(model, tmp_path, to, observations=raw).agreement.holds
    if to == "safetensors":
        description = json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)
        assert description["normalization"]["clip"] == float(np.finfo(np.float32).max)


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 7, 8, 17])
def test_what_is_measured_was_never_fitted_or_says_so(count, tmp_path):
    model, raw = quick(RLx2TD3), observations(count)
    report = export.export(model, tmp_path, precision="int8", observations=raw)
    header = " ".join((tmp_path / "policy.h").read_text().replace(" *", "").split())
    if count == 1:
        assert report.measured.is_of_fit
        assert "on the only observation, which the tables were fitted to, actions differed" in str(report)
        assert "not fitted to" not in header
        return
    held_out = max(1, count // 8)
    assert (report.measured.n, report.measured.is_of_fit) == (held_out, False)
    difference = np.abs(compiled(tmp_path)(raw[-held_out:]) - read_policy(model).predict(raw[-held_out:])[0])
    assert (difference / HALF_RANGE).max() == pytest.approx(report.measured.largest, rel=0.1, abs=2e-6)
    assert f"On {held_out} observation{'s' * (held_out > 1)} that the tables were not fitted to actions" in header


@needs_compiler
def test_columns_have_the_smallest_type(tmp_path):
    policy = prepared(read_policy(with_network("wide")))
    text = write_c(policy, tmp_path, "policy").path.read_text()
    assert "static const uint8_t layer_1_columns" in text
    assert "static const uint16_t layer_2_columns" in text


# --- the call ---


@pytest.mark.parametrize("count", [7, 1000])
def test_observations_of_the_buffer_are_drawn_once_each(count):
    env = DummyVecEnv([Walk, Walk])
    model = quick(RLx2TD3, env, learning_starts=1000).learn(100)
    drawn = from_buffer(model, count, 0)
    held = model.replay_buffer.observations[: model.replay_buffer.size()].reshape(-1, 5)
    assert len(drawn) == len(np.unique(drawn, axis=0)) == min(count, len(held))
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in held}
    np.testing.assert_array_equal(drawn, from_buffer(model, count, 0))


def test_model_export_is_the_same(tmp_path):
    model = normalized(RLx2TD3)
    report = model.export(tmp_path / "a" / "b", "safetensors", name="walker")
    assert set(report.files) == {"walker.safetensors", "walker.json", "sparse_policy.py"}
    assert {path.name: path.stat().st_size for path in (tmp_path / "a" / "b").iterdir()} == report.files
    assert f"checked on {LEARNED} observations" in str(report)


def refused(match, model, folder, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as error:
        model.export(folder, *args, **kwargs)
    assert "\n" not in str(error.value)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_arguments_that_are_not_allowed_are_named_and_nothing_is_written(tmp_path):
    model, folder = quick(RLx2TD3), tmp_path / "new" / "out"
    refused(r"to='tflite' is unknown: allowed are \['c'", model, folder, "tflite")
    refused("precision='int4' is unknown", model, folder, precision="int4")
    refused("precision='int8' is possible with to='c' only", model, folder, "numpy", precision="int8")
    for name in ("2fast", 5, None):
        refused(f"name={name!r} is not allowed: it must be a C identifier", model, folder, name=name)
    refused("seed=-1 is not allowed: it must be a whole number >= 0", model, folder, seed=-1)
    refused("int8 is calibrated on observations", model, folder, precision="int8")
    refused(r"observations of shape \(7, 4\) are not allowed", model, folder, observations=np.zeros((7, 4)))
    refused(r"observations of shape \(\) are not allowed", model, folder, observations=5)
    refused(r"observations of shape \(0,\) are not allowed", model, folder, observations=[])
    for no_numbers in ("some", [[1.0], [1.0, 2.0]], {"one": 1}):
        refused("observations are not allowed to be a .* that is no array", model, folder, observations=no_numbers)
    for unusable in (np.nan, np.inf, 1e300):
        refused("must be finite in single precision", model, folder, observations=np.full((7, 5), unusable))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/out cannot be written: .*file is no folder"):
        model.export(tmp_path / "file" / "out")


def test_a_folder_of_a_files_name_is_an_error_and_no_file_is_replaced(tmp_path):
    (tmp_path / "policy.safetensors").mkdir()
    (tmp_path / "policy.json").write_text("old")
    with pytest.raises(
        ValueError, match=r"policy\.safetensors cannot be written: there is a folder of this name"
    ) as error:
        quick(RLx2TD3).export(tmp_path, "safetensors")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"policy.safetensors", "policy.json"}
    assert (tmp_path / "policy.json").read_text() == "old"


def test_an_export_that_computes_something_else_is_refused_and_the_old_one_stays(tmp_path, monkeypatch):
    model = quick(RLx2TD3)
    model.export(tmp_path, "numpy")
    before = (tmp_path / "policy.npz").read_bytes()
    model.policy.actor.mu[0].bias.data += 0.1

    def wrong(*args):
        return predictions(*args[:1], args[2]) + 1e-3

    monkeypatch.setattr(export, "predictions", wrong)
    with pytest.raises(ValueError, match="nothing is written, since the export does not compute what predict does"):
        model.export(tmp_path, "numpy")
    assert (tmp_path / "policy.npz").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"policy.npz", "sparse_policy.py"}


def test_a_model_knows_that_its_observations_were_normalized(tmp_path):
    model = normalized(RLx2TD3)
    model.save(tmp_path / "model")
    loaded = RLx2TD3.load(tmp_path / "model")
    refused("trained with VecNormalize, whose statistics are missing", loaded, tmp_path / "out")
    env = model.get_vec_normalize_env()
    raw = observations()
    report = loaded.export(tmp_path / "out", "numpy", vec_normalize=env, observations=raw)
    assert report.agreement.largest < 2e-6
    assert not quick(RLx2TD3).observations_were_normalized


def test_without_a_compiler_float32_is_checked_by_its_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_compiler", lambda: None)
    report = quick(RLx2TD3).export(tmp_path)
    assert "not compiled here: there is no C compiler" in str(report)
    assert report.agreement.holds
    refused("needs a C compiler", quick(RLx2TD3), tmp_path / "x", precision="int8", observations=observations())


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_action_that_is_always_0_is_exported(precision, tmp_path):
    class Lame(Walk):
        action_space = gym.spaces.Box(np.array([0, -1], np.float32), np.array([0, 1], np.float32))

    report = export.export(quick(TD3, DummyVecEnv([Lame])), tmp_path, precision=precision, observations=observations())
    assert report.agreement.holds
    assert np.isfinite(report.agreement.largest)


def test_widths_of_a_search_are_numpys_integers(tmp_path):
    model = quick(RLx2TD3, policy_kwargs={"net_arch": [np.int64(16), np.int64(24)]})
    for to in ("safetensors", "numpy"):
        assert export.export(model, tmp_path, to, observations=observations()).agreement.holds
    assert json.loads(model.report().to_json())
    dense = quick(TD3, policy_kwargs={"net_arch": [np.int64(16)]})
    assert export.export(dense, tmp_path, "numpy", observations=observations()).agreement.holds


@needs_compiler
def test_code_that_a_compiler_refuses_is_an_error(tmp_path):
    (tmp_path / "broken.c").write_text("int broken(void) { return x; }")
    with pytest.raises(ValueError, match=r"does not compile broken\.c: .*undeclared"):
        c_compiler.compiled_policy(tmp_path / "broken.c", tmp_path / "broken.so", 1, C_COMPILERS[0])
