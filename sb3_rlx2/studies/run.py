"""One run in one process: ``python -m sb3_rlx2.studies.run FOLDER``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sb3_rlx2.files import replacing
from sb3_rlx2.studies.provenance import provenance
from sb3_rlx2.studies.run_folder import RunFolder

FINISHED, FAILED, BUSY = 0, 1, 3
"""Exit status of a run; ``BUSY``: another process makes it."""
ATTEMPTS = 10
PAUSE = 0.05  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Make a run, from its beginning or from where it was killed.

    :param argv: command line; None: ``sys.argv``
    :return: exit status
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_rlx2.studies.run", description="One run of a study.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--with-parent", action="store_true", help="end when stdin is closed")
    arguments = parser.parse_args(argv)
    if arguments.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return make_run(RunFolder(arguments.folder))


def make_run(run: RunFolder) -> int:
    """Make a run in this process, on one thread.

    :param run: its folder, with its settings
    :return: ``FINISHED``, ``FAILED`` (``error.txt`` says why) or ``BUSY``
    """
    import torch as th

    from sb3_rlx2.studies.model import import_object

    with ExitStack() as stack:
        if not _lock(run, stack):
            return BUSY
        if run.is_finished:
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            return FINISHED
        (run.path / "error.txt").unlink(missing_ok=True)
        sessions = run.record("sessions.json").get("sessions", [])
        run.write("sessions.json", {"sessions": [*sessions, provenance()]})
        th.set_num_threads(1)
        try:
            import_object(run.settings.program, "program")(run)
        except (Exception, SystemExit) as error:  # an environment may end the process too, or try to
            with replacing(run.path / "error.txt", "w", encoding="utf-8") as file:
                file.write(f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
            traceback.print_exc()
            return FAILED
        run.write("finished.json", {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **(run.rows() or [{}])[-1]})
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # last: without it, a run that is not finished begins anew
    return FINISHED


def _lock(run: RunFolder, stack: ExitStack) -> bool:
    """Whoever asks for the progress of a run holds its lock for a moment, so it is tried more than once."""
    for _ in range(ATTEMPTS):
        try:
            stack.enter_context(run.locked())
            return True
        except BlockingIOError:
            time.sleep(PAUSE)
    return False


def _end_with_parent() -> None:
    """The other end of stdin is closed when the parent ends, however it ends."""
    while os.read(0, 4096):
        pass
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main())
