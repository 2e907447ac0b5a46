"""Files that appear in a folder all together, when they are done, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_rlx2.files.atomic import sync_folder


@contextmanager
def appearing_together(folder: str | Path) -> Iterator[Path]:
    """A temporary folder whose files move to another one at the end. After an exception none of them does.

    :param folder: where they are to be; made if it is not there. Files of the same names are replaced
    :raises ValueError: if it cannot be written to, or a file's name is taken by a folder
    """
    folder = Path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{folder} cannot be written: {existing} is no folder")
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".rlx2_export_", dir=existing))
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield temporary
        paths = sorted(temporary.iterdir())
        for path in paths:  # before the first one is replaced
            if (folder / path.name).is_dir():
                raise ValueError(f"{folder / path.name} cannot be written: there is a folder of this name")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                os.replace(path, folder / path.name)
            sync_folder(folder)
        except OSError as error:
            raise ValueError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
