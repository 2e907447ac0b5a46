"""The database that several searches for hyperparameters share."""

from __future__ import annotations

import time

ATTEMPTS = 8
PAUSE = 0.3  # seconds


def prepare_storage(url: str) -> None:
    """Make Optuna's tables in a database, unless they are there.

    Processes that start together on an empty database get in each other's way: one of them makes a table just before
    another does. Each tries again then, and finds the table.

    :param url: URL of the database, as ``--storage`` takes it, such as ``"sqlite:///study.db"``
    :raises ValueError: if there is no such database
    """
    import sqlalchemy
    from optuna.storages import RDBStorage

    for attempt in range(ATTEMPTS):
        try:
            RDBStorage(url).remove_session()
            return
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            if attempt == ATTEMPTS - 1 or isinstance(error, (sqlalchemy.exc.ArgumentError, ImportError)):
                raise ValueError(f"--storage {url} cannot be used: {error}") from error
            time.sleep(PAUSE)
