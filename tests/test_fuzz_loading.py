"""Damaged checkpoints and replay buffers: none crashes, hangs, or trains on in silence with what cannot be right."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def fuzz_loading(monkeypatch, tmp_path):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    import fuzz_loading

    return fuzz_loading


@pytest.mark.parametrize(("cases", "seed", "flags"), [(30, 8, []), (20, 4, ["--without-pickle"])])
def test_damaged_files_are_clean_errors_or_train_as_something_that_could_be_right(cases, seed, flags, tmp_path):
    command = [sys.executable, BENCHMARKS / "fuzz_loading.py", "--cases", str(cases), "--seed", str(seed)]
    run = subprocess.run(
        [*command, "--workers", "1", *flags, "--out", tmp_path / "table.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    rows = list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))
    total = dict(zip(rows[2][2:], map(int, rows[-1][2:]), strict=True))
    assert sum(total.values()) == cases
    met = ["clean error", "equal"] if flags else ["clean error", "equal", "legal change"]  # fewer cases, fewer of these
    assert min(total[outcome] for outcome in met) > 0, "every kind of outcome was met"


def test_what_loading_does_not_check_is_found(fuzz_loading, monkeypatch, tmp_path):
    import fuzz_damage

    monkeypatch.setattr(fuzz_loading, "ORIGINALS", {"td3_plain": fuzz_loading.ORIGINALS["td3_plain"]})
    fuzz_loading.make_originals(tmp_path)
    worker = fuzz_loading.Worker(tmp_path, 0)

    def becomes(**settings):
        members = fuzz_damage.read_members(tmp_path / "td3_plain.zip")
        members["data"].update(settings)
        fuzz_damage.write_members(tmp_path / "damaged.zip", members)
        return worker.run("td3_plain", "checkpoint")["outcome"]

    assert (becomes(), becomes(gamma=0.5), becomes(gamma=1.5)) == ("equal", "legal change", "clean error")
    monkeypatch.setattr("sb3_rlx2.common.off_policy_algorithm.check_learning_arguments", lambda attributes: None)
    assert (becomes(), becomes(gamma=0.5), becomes(gamma=1.5)) == ("equal", "legal change", "silent change")
    assert becomes(batch_size="text") == "traceback"


def test_a_process_that_dies_or_hangs_is_told_and_replaced(fuzz_loading, monkeypatch, tmp_path):
    asker = fuzz_loading.Asker(tmp_path, 0)
    first = 'input(); print(\'{"kind": "k"}\', flush=True); '
    asker._command = [sys.executable, "-c", f"{first}import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    row = asker.ask(3)
    assert (row["number"], row["kind"], row["outcome"], row["detail"]) == (3, "k", "crash", "exit status -11")
    monkeypatch.setattr(fuzz_loading, "TIMEOUT_S", 5)
    asker._command = [sys.executable, "-c", f"{first}import time; time.sleep(600)"]
    assert asker.ask(4)["outcome"] == "hang"
    asker._command = [sys.executable, "-c", f'{first}print(\'{{"outcome": "equal"}}\', flush=True)']
    assert asker.ask(5)["outcome"] == "equal"
    asker.close()
