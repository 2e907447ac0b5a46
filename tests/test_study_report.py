"""What a study says: statistics, tables, files and pictures of its finished runs."""

import csv
import json
import shutil
from dataclasses import replace

import pytest

from sb3_rlx2.studies import expand, read_study
from sb3_rlx2.studies.archive import restore, write_archive
from sb3_rlx2.studies.report import StudyReport
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.runner import run_folders

yaml = pytest.importorskip("yaml")
pytest.importorskip("scipy")

SESSION = {"machine": "a machine", "version": "1", "commit": "abc", "packages": {"torch": "2"}}
HEADER = (
    "step,mean_return,std_return,min_return,mean_length,updates,actor_connections,critic_connections,"
    "cpu_seconds,wall_seconds\n"
)


@pytest.fixture
def results(tmp_path):
    """A study of two environments with runs of made-up returns; the last seed of RLx2 is not finished."""
    path = tmp_path / "pendulums.yml"
    methods = {name: {"algorithm": "rlx2_td3", "seeds": seeds} for name, seeds in (("RLx2", 4), ("dense", 2))}
    study = {
        "title": "Two pendulums",
        "environments": ["Pendulum-v1", "InvertedPendulum-v5"],
        "seeds": 4,
        "steps": 2000,
        "evaluation": {"every": 100, "episodes": 3},
        "methods": methods,
        "reference": "dense",
        "published": {"Pendulum-v1": {"RLx2": 98.1, "Tiny": 60.5}},
    }
    path.write_text(yaml.safe_dump(study))
    folders = run_folders(read_study(path), tmp_path / "runs")
    for folder in folders:
        settings = folder.settings
        level = (100 if settings.method == "dense" else 80) + settings.seed
        ends = settings.method == "dense" or settings.seed < 3
        count = 20 if ends else 5
        rows = "".join(
            f"{100 * i},{level if i > 10 else 0},1,{level - 2},200,{100 * i - 50},10,20,{60 * i},{90 * i}\n"
            for i in range(1, count + 1)
        )
        folder.evaluations.write_text(HEADER + rows)
        sessions = [SESSION, {**SESSION, "machine": "another machine"}][: 2 if level == 80 else 1]
        folder.write("sessions.json", {"sessions": sessions})
        if ends:
            folder.write("finished.json", {"step": 2000})
    return path, tmp_path / "runs", folders


def test_a_reference_below_0_leaves_the_probability_and_no_percentages(tmp_path):
    path = tmp_path / "pendulum.yml"
    methods = {name: {"algorithm": "rlx2_td3"} for name in ("RLx2", "dense")}
    study = {"environments": ["Pendulum-v1", "CartPole-v1"], "seeds": 2, "steps": 200, "methods": methods}
    path.write_text(yaml.safe_dump({**study, "reference": "dense"}))
    for folder in run_folders(read_study(path), tmp_path / "runs"):
        settings = folder.settings
        level = -0.3 if settings.environment == "Pendulum-v1" else 40.0
        level -= 0.15 * (settings.method == "dense") + 0.01 * settings.seed
        folder.evaluations.write_text(HEADER + f"200,{level},0,{level},200,100,10,20,60,90\n")
        folder.write("finished.json", {})
    text = StudyReport(read_study(path), tmp_path / "runs").to_markdown()
    assert "| RLx2 | 2 of 2 | -0.305 [-0.310, -0.300] | -0.305 [-0.310, -0.300] | -0.310 | - |" in text
    assert "Without Pendulum-v1, where the mean of dense is not above 0." in text
    assert "| dense | 100 [100, 100] | 100 [100, 100] | 100 |" in text
    assert "| RLx2 | - | 1.00 [1.00, 1.00] |" in text
    assert "last 10 evaluations, or of all where there are fewer, one every" in text


def test_methods_are_compared_on_the_environments_that_they_share(tmp_path):
    path = tmp_path / "some.yml"
    environments = ["Pendulum-v1", "CartPole-v1", "MountainCarContinuous-v0"]
    on = {"RLx2": environments, "RigL": environments[:2], "dense": environments, "later": environments[1:]}
    methods = {name: {"algorithm": "rlx2_td3", "environments": own} for name, own in on.items()}
    study = {"environments": environments, "seeds": 4, "steps": 200, "methods": methods, "reference": "dense"}
    path.write_text(yaml.safe_dump(study))
    level = {"RLx2": 90, "RigL": 40, "dense": 100, "later": 80}
    for folder in run_folders(read_study(path), tmp_path / "runs"):
        settings = folder.settings
        if settings.method == "later" and settings.environment == environments[2]:
            continue  # not finished: on one environment alone, of which its own table tells
        score = level[settings.method] + settings.seed
        folder.evaluations.write_text(HEADER + f"200,{score},0,{score},200,100,10,20,60,90\n")
        folder.write("finished.json", {})
    report = StudyReport(read_study(path), tmp_path / "runs")
    assert report.groups == [
        (tuple(environments), ("RLx2", "dense")),
        (tuple(environments[:2]), ("RLx2", "RigL", "dense")),
    ]
    text = report.to_markdown()
    assert "## Together on Pendulum-v1, CartPole-v1, in percent of dense" in text
    assert "|  | RLx2 | RigL | dense |" in text
    assert "| RLx2 | - | 1.00 [1.00, 1.00] | 0.00 [0.00, 0.00] |" in text
    assert "| dense | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | - |" in text


def test_methods_that_lack_an_environment_are_in_no_picture_of_all(results, tmp_path):
    path, runs, folders = results
    report = StudyReport(read_study(path), runs)
    assert [group.methods for group in report.groups] == [("RLx2", "dense")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "profiles.png").touch()  # of that report
    for folder in folders:
        if (folder.settings.environment, folder.settings.method) == ("Pendulum-v1", "RLx2"):
            (folder.path / "finished.json").unlink(missing_ok=True)
    assert StudyReport(read_study(path), runs).groups == []
    names = {file.name for file in StudyReport(read_study(path), runs).write(tmp_path / "out")}
    assert "profiles.png" not in names
    assert not (tmp_path / "out" / "profiles.png").exists()
    assert "profiles" not in (tmp_path / "out" / "report.md").read_text()


def test_unfinished_runs_are_listed_and_count_for_nothing(results):
    path, runs, _ = results
    report = StudyReport(read_study(path), runs)
    assert list(report.scores("Pendulum-v1", "RLx2")) == [80, 81, 82]
    text = report.to_markdown()
    assert "10 of 12 runs are finished" in text
    assert "| RLx2 | 3 of 4 | 81 [80, 82] | 81 [80, 82] | 80 | 81 | 98.1 |" in text
    assert "| Tiny | - | - | - | - | - | 60.5 |" in text  # the paper's, and not of this study
    assert "of 3 seeds or fewer they are hardly more than the range of their scores" in text
    assert "| Pendulum-v1 | RLx2 | 3 | waiting | 500 of 2,000 | 0 |" in text
    assert "Not begun" not in text
    for seed in (1, 3):
        shutil.rmtree(runs / "Pendulum-v1" / "RLx2" / f"seed_{seed}")
    assert "Not begun, by seed: Pendulum-v1 RLx2 (1, 3).\n" in StudyReport(read_study(path), runs).to_markdown()


def test_every_cell_says_what_stands_behind_it(results):
    path, runs, _ = results
    text = StudyReport(read_study(path), runs).to_markdown()
    assert "| RLx2 | 2,000 | 1,950 | 20.0 | 10, 20 | 1, 2 |" in text
    assert "| dense | 2,000 | 1,950 | 20.0 | 10, 20 | 1 |" in text
    assert "1. a machine, one thread a run; sb3-rlx2 1, commit abc; torch 2\n2. another machine, one thread" in text
    assert "## Together on Pendulum-v1, InvertedPendulum-v5, in percent of dense" in text


def test_a_report_shows_an_evaluation_that_is_not_a_number(results):
    path, runs, folders = results
    folders[0].evaluations.write_text(HEADER + "2000,nan,0,nan,200,1950,10,20,60,90\n")
    text = StudyReport(read_study(path), runs).to_markdown()
    assert "| RLx2 | 3 of 4 | nan | nan | nan | nan | 98.1 |" in text
    assert "Diverged, by seed, with returns that are no numbers: Pendulum-v1 RLx2 (0)." in text


def test_a_report_of_a_study_that_has_no_finished_run_names_those_that_are_not(results, tmp_path):
    path, _, _ = results
    folders = run_folders(read_study(path), tmp_path / "new")
    folders[0].evaluations.write_text(HEADER)
    text = StudyReport(read_study(path), tmp_path / "new").to_markdown()
    assert "0 of 12 runs are finished" in text
    assert "| Pendulum-v1 | RLx2 | 3 | waiting | 0 of 2,000 | - |" in text


def test_published_methods_may_have_numbers_for_names(tmp_path):
    path = tmp_path / "study.yml"
    study = {"environments": ["Pendulum-v1"], "seeds": 1, "steps": 200, "methods": {80: {"algorithm": "rlx2_td3"}}}
    path.write_text(yaml.safe_dump({**study, "published": {"Pendulum-v1": {80: 12, 90: 7}}}))
    (folder,) = run_folders(read_study(path), tmp_path / "runs")
    folder.evaluations.write_text(HEADER + "200,3,0,3,200,100,10,20,60,90\n")
    folder.write("finished.json", {})
    text = StudyReport(read_study(path), tmp_path / "runs").to_markdown()
    assert "| 80 | 1 of 1 | 3.00 | 3.00 | 3.00 | 12 |\n| 90 | - | - | - | - | 7 |" in text


def test_names_do_not_break_tables(tmp_path):
    path = tmp_path / "study.yml"
    study = {"environments": ["Pendulum-v1"], "seeds": 1, "steps": 200, "methods": {"a|b": {"algorithm": "rlx2_td3"}}}
    path.write_text(yaml.safe_dump(study))
    (folder,) = run_folders(read_study(path), tmp_path / "runs")
    folder.evaluations.write_text(HEADER + "200,3,0,3,200,100,10,20,60,90\n")
    folder.write("finished.json", {})
    assert "| a\\|b | 1 of 1 | 3.00 |" in StudyReport(read_study(path), tmp_path / "runs").to_markdown()


def test_files_of_a_report_hold_the_finished_runs(results, tmp_path):
    pytest.importorskip("matplotlib")
    path, runs, _ = results
    written = StudyReport(read_study(path), runs).write(tmp_path / "out")
    names = {file.name for file in written}
    assert {"report.md", "evaluations.csv", "learning.png", "learning.svg", "scores.svg", "profiles.png"} <= names
    with (tmp_path / "out/evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["exp_name", "env_name", "seed", "metric", "env_step", "value"]
    returns = [row for row in rows if row["metric"] == "avg_return" and row["exp_name"] == "RLx2"]
    assert len(returns) == 2 * 3 * 20
    assert "![learning](learning.png)" in (tmp_path / "out/report.md").read_text()
    # The same runs give the same files
    before = {file: file.read_bytes() for file in written}
    StudyReport(read_study(path), runs).write(tmp_path / "out")
    assert {file: file.read_bytes() for file in written} == before


@pytest.fixture
def planned(results, tmp_path):
    """The runs of the study, of which those that are finished stand in ``runs.jsonl``."""
    path, _, folders = results
    write_archive(folders, tmp_path / "runs.jsonl")
    return expand(read_study(path))


def test_finished_runs_of_another_machine_are_skipped_once_restored(results, tmp_path):
    path, runs, folders = results
    write_archive(folders, tmp_path / "runs.jsonl")
    planned = expand(read_study(path))
    assert restore(tmp_path / "runs.jsonl", tmp_path / "new", planned) == 10
    there, here = (StudyReport(read_study(path), place) for place in (runs, tmp_path / "new"))
    assert [run.rows for run in there.finished] == [run.rows for run in here.finished]
    assert restore(tmp_path / "runs.jsonl", tmp_path / "new", planned) == 0
    for line in ("{}", json.dumps({"settings": planned[0].to_dict(), "evaluations": "", "sessions": {}})):
        (tmp_path / "bad.jsonl").write_text(f"{line}\n")
        with pytest.raises(ValueError, match=r"bad\.jsonl: no finished runs"):
            restore(tmp_path / "bad.jsonl", tmp_path / "bad", planned)
    assert not (tmp_path / "bad").exists()


def test_what_a_run_that_was_cut_off_left_is_removed_where_it_is_restored(planned, tmp_path):
    folder = RunFolder(tmp_path / "new" / planned[0].folder)
    folder.prepare(planned[0])
    for name in ("best/model.zip", "checkpoint/step", "model.zip", "vecnormalize.pkl", "error.txt"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("of another training")
    assert restore(tmp_path / "runs.jsonl", tmp_path / "new", planned) == 10
    names = {file.name for file in folder.path.iterdir()} - {"lock"}
    assert names == {"run.json", "evaluations.csv", "sessions.json", "finished.json"}
    assert not folder.error


def test_runs_of_another_study_or_of_other_settings_are_not_restored(results, tmp_path):
    path, _, folders = results
    write_archive(folders, tmp_path / "runs.jsonl")
    planned = [run for run in expand(read_study(path)) if run.method == "dense"]
    assert restore(tmp_path / "runs.jsonl", tmp_path / "some", planned) == 4
    assert {file.parts[-3] for file in (tmp_path / "some").glob("*/*/*/run.json")} == {"dense"}
    longer = [replace(run, steps=3000) for run in planned]
    with pytest.raises(ValueError, match=r"of other settings \(steps is 2000 there and 3000 here\)"):
        restore(tmp_path / "runs.jsonl", tmp_path / "other", longer)
    assert not (tmp_path / "other").exists()


def test_nothing_is_restored_where_a_folder_has_a_run_of_other_settings(planned, tmp_path):
    dense = [run for run in planned if run.method == "dense"]
    last = RunFolder(tmp_path / "new" / dense[-1].folder)
    last.prepare(replace(dense[-1], steps=3000))
    last.write("sessions.json", {})
    with pytest.raises(ValueError, match=r"holds a run of other settings \(steps is 3000 there and 2000 here\)"):
        restore(tmp_path / "runs.jsonl", tmp_path / "new", planned)
    assert [*(tmp_path / "new").rglob("run.json")] == [last.path / "run.json"]


def test_a_run_that_another_process_makes_is_not_restored(planned, tmp_path):
    made = RunFolder(tmp_path / "new" / planned[0].folder)
    made.prepare(planned[0])
    with made.locked():
        assert restore(tmp_path / "runs.jsonl", tmp_path / "new", planned) == 9
    assert not made.is_finished


def test_the_command_line_writes_a_report(results, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from sb3_rlx2.zoo.command_line import main

    path, runs, _ = results
    assert (
        main(["study", "report", str(path), "--results", str(runs), "--last", "1", "--out", str(tmp_path / "o")]) == 0
    )
    assert str(tmp_path / "o" / "report.md") in capsys.readouterr().out
    assert main(["study", "report", str(path), "--results", str(runs), "--last", "0"]) == 2
    assert RunFolder(runs / "InvertedPendulum-v5/dense/seed_0").is_finished


def test_the_confidence_that_is_asked_for_is_that_of_the_table(results):
    path, runs, _ = results
    table = StudyReport(read_study(path), runs, confidence=0.5).to_markdown()
    assert "| RLx2 | 3 of 4 | 81 [81, 81] | 81 [81, 81] |" in table


def test_each_metric_of_an_evaluation_is_a_row_of_its_own(results):
    path, runs, _ = results
    rows = {tuple(row[:5]): float(row[5]) for row in StudyReport(read_study(path), runs)._long_rows()}
    names = ("avg_return", "std_return", "min_return", "avg_length")
    assert [rows["RLx2", "Pendulum-v1", 0, name, 2000] for name in names] == [80.0, 1.0, 78.0, 200.0]
