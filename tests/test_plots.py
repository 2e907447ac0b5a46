"""Pictures: what the axes hold, and that files are written."""

import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from rliable import metrics
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_rlx2 import RLx2TD3, TopologyHistory, TopologyHistoryCallback
from sb3_rlx2.analysis.plots.buffer import draw_buffer
from sb3_rlx2.analysis.plots.inputs import draw_inputs
from sb3_rlx2.analysis.plots.learning import draw_learning_curves
from sb3_rlx2.analysis.plots.runs import Run, average, average_over_tasks, final_score, iqm, read_runs
from sb3_rlx2.analysis.plots.style import COLORS, look
from sb3_rlx2.analysis.plots.topology import (
    connection_kinds,
    draw_connectivity,
    draw_growth,
    draw_survival,
    nearest_records,
    sparse_layer_names,
    survival,
)
from sb3_rlx2.zoo import plot as command

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
STEPS = np.arange(1.0, 6.0) * 1000


def run(environment, algorithm, name, returns, steps=STEPS):
    return Run(environment, algorithm, str(name), np.asarray(steps), np.asarray(returns, dtype=float))


def runs_of(n_runs=4, tasks=("A-v1", "B-v1"), algorithms=("ours", "dense")):
    generator = np.random.default_rng(0)
    return [
        run(task, algorithm, seed, 100 * (place + 1) + generator.normal(0, 5, 5) + np.arange(5))
        for task in tasks
        for place, algorithm in enumerate(algorithms)
        for seed in range(n_runs)
    ]


@pytest.fixture(scope="module")
def history_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "topology_history.npz"
    model = RLx2TD3(
        "MlpPolicy", "Pendulum-v1", **quick(buffer_distance_threshold=0.05, buffer_min_size=100, buffer_size=300)
    )
    model.learn(500, callback=TopologyHistoryCallback(path, buffer_freq=20))
    return path


@pytest.fixture(scope="module")
def history(history_path):
    return TopologyHistory.load(history_path)


# --- reading ---


def test_evaluations_of_the_zoo_are_read(tmp_path):
    for seed in (1, 2):
        folder = tmp_path / "rlx2_td3" / f"Walker2d-v5_{seed}"
        folder.mkdir(parents=True)
        results = np.arange(10).reshape(5, 2) + seed
        np.savez(folder / "evaluations.npz", timesteps=STEPS.astype(int), results=results, ep_lengths=results)
    first, second = read_runs(tmp_path)
    assert first[:3] == ("Walker2d-v5", "rlx2_td3", "1")
    assert second[:3] == ("Walker2d-v5", "rlx2_td3", "2")
    assert list(first.steps) == list(STEPS)
    assert list(first.returns) == [1.5, 3.5, 5.5, 7.5, 9.5]
    (named,) = read_runs(tmp_path / "rlx2_td3" / "Walker2d-v5_1" / "evaluations.npz", "mine")
    assert named.algorithm == "mine"


def test_csvs_of_the_benchmarks_are_read():
    (found,) = read_runs(RESULTS / "learning_HalfCheetah-v5_rlx2_td3_seed1.csv")
    assert found[:3] == ("HalfCheetah-v5", "rlx2_td3", "1")
    assert found.steps[0] == 5000
    assert len(found.steps) == len(found.returns) == 30
    assert {(one.algorithm, one.name) for one in read_runs(RESULTS)} >= {("td3", "0"), ("rlx2_td3", "0")}


def evaluations(folder, steps, results):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "evaluations.npz", timesteps=np.asarray(steps), results=np.asarray(results, dtype=float))
    return folder / "evaluations.npz"


def unreadable(path, message):
    with pytest.raises(ValueError, match=message) as error:
        read_runs(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([1000, 2000, 1000, 2000], "step 1000 follows step 2000: are there several trainings in this file"),
        ([1000, 1000, 2000, 3000], "steps must rise, and step 1000 follows step 1000"),
    ],
)
def test_steps_that_repeat_or_fall_are_refused(steps, message, tmp_path):
    unreadable(evaluations(tmp_path, steps, np.ones((4, 2))), message)
    csv = tmp_path / "learning_A-v1_x_seed0.csv"
    csv.write_text("".join(["step,mean_return\n", *(f"{step},1.0\n" for step in steps)]))
    unreadable(csv, message)


def test_the_same_evaluation_in_two_trainings_is_refused(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    callback = EvalCallback(make_vec_env("Pendulum-v1"), log_path=str(tmp_path), eval_freq=20, n_eval_episodes=1)
    model.learn(40, callback=callback)
    assert list(read_runs(tmp_path)[0].steps) == [20, 40]
    model.learn(40, callback=callback)
    unreadable(tmp_path / "evaluations.npz", "are there several trainings in this file")


def test_evaluations_without_numbers_are_refused(tmp_path):
    unreadable(evaluations(tmp_path, STEPS, np.ones((5, 0))), r"results of shape \(5, 0\)")
    unreadable(evaluations(tmp_path, [], []), r"results of shape \(0,\)")
    unreadable(evaluations(tmp_path, STEPS, [[1.0], [np.nan], [1.0], [1.0], [1.0]]), "must be finite numbers")
    csv = tmp_path / "learning_A-v1_x_seed0.csv"
    for rows, message in (("1000,nan\n", "finite"), ("1000,1.0\nsome,2.0\n", "some"), ("1000\n", "can be read")):
        csv.write_text(f"step,mean_return\n{rows}")
        unreadable(csv, message)


@pytest.mark.parametrize("head", ["", "step,mean_return\n", '# made by\n"# two, lines"\nstep,mean_return\n'])
def test_no_row_of_a_csv_but_its_head_is_left_out(head, tmp_path):
    csv = tmp_path / "learning_A-v1_x_seed0.csv"
    csv.write_text(f"{head}1e3,1.0\n\n2e3,2.0\n3000.0,3.0\n")
    (found,) = read_runs(csv)
    assert list(found.steps) == [1000, 2000, 3000]
    assert list(found.returns) == [1, 2, 3]


@pytest.mark.parametrize(("place", "byte"), [(8, 1), (10, 99)])  # encrypted, packed in an unknown way
@pytest.mark.parametrize("read", [read_runs, TopologyHistory.load])
def test_archives_that_python_cannot_unpack_are_refused(read, place, byte, history_path, tmp_path):
    path = tmp_path / "evaluations.npz"
    shutil.copy(evaluations(tmp_path / "run", STEPS, np.ones((5, 2))) if read is read_runs else history_path, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + place] = byte
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"evaluations\.npz: no") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_evaluations_with_a_torn_header_are_refused(tmp_path):
    path = evaluations(tmp_path, STEPS, np.ones((5, 2)))
    path.write_bytes(path.read_bytes().replace(b"'descr'", b"'descr("))
    unreadable(path, "no evaluations can be read from this file")


@given(data=st.data())
def test_damaged_evaluations_are_an_error_of_one_kind_or_numbers(data, tmp_path_factory):
    path = evaluations(tmp_path_factory.mktemp("run"), STEPS, np.ones((5, 2)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = ""
    try:
        read_runs(path)
    except ValueError as error:
        message = str(error)
    assert not message or (message.startswith(f"{path}: ") and "\n" not in message)


# --- averages ---


def test_iqm_is_rliables():
    scores = np.random.default_rng(0).normal(size=(5, 3, 7))
    expected = [metrics.aggregate_iqm(scores[..., place]) for place in range(7)]
    np.testing.assert_allclose(iqm(scores), expected)


def test_average_and_interval():
    own = runs_of(n_runs=8, tasks=("A-v1",), algorithms=("ours",))
    state = np.random.get_state()[1].copy()
    curve, again = average(own, seed=1), average(own, seed=1)
    assert np.array_equal(np.random.get_state()[1], state)
    returns = np.stack([one.returns for one in own])
    np.testing.assert_allclose(curve.iqm, np.sort(returns, axis=0)[2:6].mean(axis=0))
    assert (returns.min(axis=0) < curve.low).all()
    assert (curve.low < curve.iqm).all()
    assert (curve.iqm < curve.high).all()
    assert (curve.high < returns.max(axis=0)).all()
    assert curve.n_runs == 8
    np.testing.assert_array_equal(curve.low, again.low)
    narrow = average(own, confidence=0.5, seed=1)
    assert (narrow.high - narrow.low < curve.high - curve.low).all()


def test_runs_are_averaged_at_the_steps_that_all_have_and_what_is_left_out_is_said():
    left_out = "x on A-v1: left out are 3 of 7 evaluations, at steps that not all runs have; .* step 4000 of 5000"
    with pytest.warns(UserWarning, match=left_out):
        curve = average([run("A-v1", "x", 0, [1, 2, 3, 4, 5]), run("A-v1", "x", 1, [5, 6], [2000, 4000])], reps=20)
    assert list(curve.steps) == [2000, 4000]
    assert list(curve.iqm) == [3.5, 5.0]
    with pytest.raises(ValueError, match="x on A-v1: runs 0, 1 have no step in common"):
        average([run("A-v1", "x", 0, [1], [10]), run("A-v1", "x", 1, [1], [20])])


def test_tasks_are_resampled_each_for_itself():
    # One task scatters, the other does not: with strata the interval cannot leave the range of the mixtures
    still = [run("A-v1", "x", seed, np.full(5, 50.0)) for seed in range(4)]
    loud = [run("B-v1", "x", seed, np.full(5, 1000.0 * seed)) for seed in range(6)]
    with pytest.warns(UserWarning, match=r"the first 4 runs of each count \(there are 4 on A-v1, 6 on B-v1\)"):
        curve = average_over_tasks({"A-v1": still, "B-v1": loud}, {"A-v1": 100.0, "B-v1": 1000.0}, reps=200)
    assert curve.n_runs == 4
    percents = np.array([50, 50, 50, 50, 0, 100, 200, 300])
    np.testing.assert_allclose(curve.iqm, np.sort(percents)[2:6].mean())
    assert (curve.low >= 25).all()
    assert (curve.high <= 175).all()


def test_the_final_score_is_that_of_the_last_evaluations():
    steps = np.arange(100.0)
    assert final_score([run("A-v1", "x", 0, steps, steps), run("A-v1", "x", 1, steps + 2, steps)]) == 85.5


# --- learning curves ---


def test_learning_curves_hold_the_averages():
    runs = runs_of()
    figure = draw_learning_curves(runs, reps=50)
    assert [axes.get_title() for axes in figure.axes] == ["A-v1", "B-v1"]
    curve = average([one for one in runs if one.environment == "B-v1" and one.algorithm == "dense"], reps=50)
    dashed = [line for line in figure.axes[1].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), curve.iqm)
    assert to_hex(dashed[0].get_color()) == COLORS[1].lower()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours (4 runs)", "dense (4 runs)"]


def test_all_tasks_together_in_percent_of_a_reference():
    figure = draw_learning_curves(runs_of(), reference="dense", reps=50)
    assert [axes.get_title() for axes in figure.axes] == ["A-v1", "B-v1", "all 2 tasks"]
    ours = figure.axes[2].lines[2]
    assert ours.get_ydata() == pytest.approx(50, abs=4)
    assert "% of dense" in figure.axes[2].get_ylabel()
    with pytest.raises(ValueError, match="reference='sac' has no runs on A-v1, B-v1"):
        draw_learning_curves(runs_of(), reference="sac")


def test_an_algorithm_with_different_numbers_of_runs():
    runs = runs_of(n_runs=2, algorithms=("ours",))
    figure = draw_learning_curves(runs[:-1], reps=10)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours (1 to 2 runs)"]


def test_lines_differ_in_more_than_colour():
    looks = [look(place) for place in range(6)]
    assert len({one.color for one in looks}) == len({str(one.linestyle) for one in looks}) == 6
    assert len({one.marker for one in looks}) == 6


# --- buffer ---


def test_buffer_with_policy_distance(history):
    figure = draw_buffer(history)
    top, bottom = figure.axes
    lines = {line.get_label(): line for line in (*top.lines, *bottom.lines)}
    np.testing.assert_array_equal(lines["capacity"].get_ydata(), history.buffer["capacity"])
    assert lines["capacity"].get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(lines["size"].get_ydata(), history.buffer["size"])
    np.testing.assert_array_equal(lines["policy distance"].get_ydata(), history.distances["distance"])
    assert list(lines["threshold 0.05"].get_ydata()) == [0.05, 0.05]
    assert history.buffer["capacity"].min() < 300
    assert [text.get_text() for text in top.texts] == ["n = 3"]


def test_a_plain_buffer_has_one_panel(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(n_steps=1, dynamic_buffer=False))
    model.learn(60, callback=TopologyHistoryCallback(tmp_path / "h.npz", buffer_freq=10))
    assert len(draw_buffer(TopologyHistory.load(tmp_path / "h.npz")).axes) == 1


# --- topology ---


def test_connectivity_matrices(history):
    record = history.networks["actor"]
    places = nearest_records(record, [0, 200, 10**6])
    assert places[0] == 0
    assert places[-1] == len(record) - 1
    assert abs(record.steps[places[1]] - 200) == min(abs(step - 200) for step in record.steps)
    figure = draw_connectivity(history, "actor", [0, 200, 10**6])
    layers = sparse_layer_names(record)
    assert len(figure.axes) == len(layers) * 3
    image = figure.axes[3 * 1 + 2].images[0].get_array()
    np.testing.assert_array_equal(image, connection_kinds(record, layers[1], places[2]))
    assert [axes.get_title() for axes in figure.axes[:3]] == [f"step {record.steps[place]:,}" for place in places]


def test_kinds_of_connections(history):
    record = history.networks["critic"]
    kinds = connection_kinds(record, "qf0.2", -1 + len(record))
    np.testing.assert_array_equal(kinds > 0, record.mask("qf0.2", -1))
    alive = record.generations("qf0.2")[-1]
    assert (kinds == 1).sum() == alive[0]
    assert (kinds == 2).sum() == alive[1:].sum()


def test_survival_of_generations(history):
    record = history.networks["critic"]
    shares = survival(record)
    assert "qf0.4" not in sparse_layer_names(record)
    alive = sum(record.generations(layer) for layer in sparse_layer_names(record))
    for generation in range(len(record)):
        column = shares[generation:, generation]
        assert np.isnan(shares[:generation, generation]).all()
        if alive[generation, generation]:
            assert column[0] == 1.0
            assert (np.diff(column) <= 0).all()
            np.testing.assert_allclose(column, alive[generation:, generation] / alive[generation, generation])
    figure = draw_survival(history)
    assert [axes.get_title() for axes in figure.axes] == ["actor", "critic"]
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), shares[:, 0])


def test_growth_per_layer(history):
    figure = draw_growth(history)
    record = history.networks["actor"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert sorted(lines) == sorted(sparse_layer_names(record))
    shares = record.grown("mu.2")[1:] / record.connections("mu.2")[1:]
    np.testing.assert_array_equal(lines["mu.2"].get_ydata(), shares)
    assert 0 < shares.max() <= 0.5


# --- inputs ---


def test_inputs_over_time_and_at_the_end(history):
    figure = draw_inputs(history)
    panels = {axes.get_title(): axes for axes in figure.axes}
    actor = panels["actor: connections over time"]
    counts = history.connections_per_input("actor")
    np.testing.assert_array_equal(np.asarray(actor.collections[0].get_array()).reshape(counts.T.shape), counts.T)
    critic = panels["critic (mean of 2): connections over time"]
    assert [label.get_text() for label in critic.get_yticklabels()] == ["0", "1", "2", "action 0"]
    bars = [bar for container in figure.axes[3].containers for bar in container]
    mean = (history.connections_per_input("critic.qf0")[-1] + history.connections_per_input("critic.qf1")[-1]) / 2
    assert [bar.get_width() for bar in bars] == list(mean)
    assert bars[-1].get_hatch()
    assert not bars[0].get_hatch()


# --- the command ---


def is_picture(path):
    if path.suffix == ".svg":
        return ElementTree.parse(path).getroot().tag.endswith("svg")
    with Image.open(path) as image:
        return len(image.getcolors(maxcolors=10**6)) > 10


def test_the_command_draws_a_history(history_path, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(history_path.parent, folder)
    command.main(["history", str(folder), "--dpi", "60"])
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    kinds = ["buffer", "survival", "growth", "connectivity_actor", "connectivity_critic", "inputs"]
    assert sorted(paths) == sorted(
        folder / f"topology_history_{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")
    )
    assert all(is_picture(path) for path in paths)


def test_the_command_draws_what_is_asked_for(history_path, tmp_path, capsys):
    arguments = ["--network", "actor", "--steps", "0", "300", "--format", "png", "--dpi", "60"]
    command.main(["topology", str(history_path), *arguments, "--out", str(tmp_path / "new" / "mine")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "mine_connectivity_actor.png", "mine_growth.png", "mine_survival.png",
    ]  # fmt: skip
    for kind in ("buffer", "inputs"):
        command.main([kind, str(history_path), "--format", "svg", "--out", str(tmp_path / kind)])
        assert is_picture(tmp_path / f"{kind}_{kind}.svg")
    assert capsys.readouterr().out.count("\n") == 5


def test_the_command_draws_learning_curves(tmp_path, capsys):
    out = tmp_path / "curves"
    name = "learning_HalfCheetah-v5_{}_seed0.csv"
    arguments = [f"sparse={RESULTS / name.format('rlx2_td3')}", str(RESULTS / name.format("td3"))]
    command.main(["learning", *arguments, "--reference", "td3", "--reps", "20", "--dpi", "60", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}.png\n{out}.svg\n"
    assert is_picture(tmp_path / "curves.png")
    assert is_picture(tmp_path / "curves.svg")


def test_a_path_may_have_an_equals_sign(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr=0.1", "lr=0.2"):
        evaluations(tmp_path / "logs" / name / "A-v1_1", STEPS, np.ones((5, 2)))
    drawn = []
    monkeypatch.setattr(
        "sb3_rlx2.analysis.plots.learning.draw_learning_curves",
        lambda runs, **settings: drawn.extend(runs) or draw_learning_curves(runs, **settings),
    )
    arguments = ["learning", "logs/lr=0.1", "named=logs/lr=0.2", "--reps", "5", "--format", "svg", "--out", "l"]
    assert command.main(arguments) == 0
    assert [one.algorithm for one in drawn] == ["lr=0.1", "named"]
    assert "0.3: there is no such file" in refused(capsys, "learning", "lr=0.3")


def test_a_suffix_of_out_is_a_format(tmp_path, capsys):
    csv = RESULTS / "learning_HalfCheetah-v5_td3_seed0.csv"
    arguments = ["learning", str(csv), "--reps", "5", "--dpi", "60"]
    for formats, name, written in (
        (["--format", "png"], "l.png", ["l.png"]),
        ([], "m.svg", ["m.svg"]),
        (["--format", "png", "svg"], "n.svg", ["n.png", "n.svg"]),
        (["--format", "png"], "seeds.1", ["seeds.1.png"]),
    ):
        folder = tmp_path / name
        command.main([*arguments, *formats, "--out", str(folder / name)])
        assert sorted(path.name for path in folder.iterdir()) == written
    message = refused(capsys, *arguments, "--format", "svg", "--out", "l.png")
    assert "--out l.png does not go with --format svg" in message


def test_the_command_says_what_it_leaves_out(tmp_path, capsys):
    for seed, rows in ((0, "1000,1.0\n2000,2.0\n"), (1, "1000,1.0\n")):
        (tmp_path / f"learning_A-v1_x_seed{seed}.csv").write_text(f"step,mean_return\n{rows}")
    arguments = ["learning", str(tmp_path), "--reps", "5", "--format", "svg", "--out", str(tmp_path / "l")]
    assert command.main(arguments) == 0
    assert capsys.readouterr().err == (
        "rlx2 plot: warning: x on A-v1: left out are 1 of 3 evaluations, at steps that not all runs have; "
        "the curve ends at step 1000 of 2000\n"
    )


def test_the_same_data_give_the_same_files(history_path, tmp_path):
    for name in ("one", "two"):
        command.main(["inputs", str(history_path), "--dpi", "60", "--out", str(tmp_path / name)])
    for suffix in ("png", "svg"):
        assert (tmp_path / f"one_inputs.{suffix}").read_bytes() == (tmp_path / f"two_inputs.{suffix}").read_bytes()


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        command.main([str(argument) for argument in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_draw(history_path, tmp_path, capsys):
    assert "there is no such file" in refused(capsys, "buffer", tmp_path)
    assert "there is no such file" in refused(capsys, "learning", tmp_path / "evaluations.npz")
    assert "no evaluations.npz and no learning_*.csv below" in refused(capsys, "learning", tmp_path)
    assert "no evaluations can be read" in refused(capsys, "learning", history_path)
    (tmp_path / "learning_x.csv").write_text("step,mean_return\n")
    assert "it has no rows" in refused(capsys, "learning", tmp_path / "learning_x.csv")
    csv = RESULTS / "learning_HalfCheetah-v5_td3_seed0.csv"
    assert "not a topology history" in refused(capsys, "topology", csv)
    assert "reference='x' has no runs" in refused(capsys, "learning", csv, "--reference", "x")
    assert "--confidence 2.0 is not allowed" in refused(capsys, "learning", csv, "--confidence", 2)
    assert "--reps 0 is not allowed" in refused(capsys, "learning", csv, "--reps", 0)
    for seed in (-1, 2**32):
        assert f"--seed {seed} is not allowed: it must be in" in refused(capsys, "learning", csv, "--seed", seed)
    for dpi in (-1, 0, 1, 9):
        message = refused(capsys, "learning", csv, "--reps", 5, "--dpi", dpi, "--out", tmp_path / "l")
        assert f"--dpi {dpi} is not allowed: it must be at least 10" in message
    command.main(["learning", str(csv), "--reps", "5", "--dpi", "10", "--out", str(tmp_path / "l")])
    assert "invalid choice" in refused(capsys, "nothing")
    assert "File exists" in refused(capsys, "buffer", history_path, "--out", csv / "below")


def test_the_command_says_what_to_install(history_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rliable", None)
    assert "pip install 'sb3-rlx2[plot]'" in refused(capsys, "buffer", history_path)


def test_a_dense_model_has_no_topology_to_draw(tmp_path, capsys):
    settings = quick(topology="dense", n_steps=1, dynamic_buffer=False)
    RLx2TD3("MlpPolicy", "Pendulum-v1", **settings).learn(60, callback=TopologyHistoryCallback(tmp_path / "h.npz"))
    assert "nothing in this history is sparse" in refused(capsys, "topology", tmp_path / "h.npz")
    command.main(["history", str(tmp_path / "h.npz"), "--format", "png", "--dpi", "60"])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"h_{kind}.png") for kind in ("buffer", "inputs")]
