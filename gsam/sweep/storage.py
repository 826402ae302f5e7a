"""Where a study is kept: Optuna's journal file in a folder, or a database."""

import os
import random
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

TRIES = 6  # to make a database's tables: processes that do so at the same time disturb each other


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The journal in `folder`, or the database. Raises ValueError where it cannot be had."""
    return _journal(folder / "journal.log") if url is None else _database(url)


def _journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(str(path))))
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error}); give run.root=<another folder>") from error


class _Lock(JournalFileOpenLock):
    """Optuna's lock by an exclusively created file: it holds on NFS, and its age is judged by the waiting process's clock.

    A writer that is killed or finds the disk full may leave a line without its end; the next line would be glued to it and the
    journal could never be read again. Who takes the lock removes it.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._journal = path

    def acquire(self) -> bool:
        taken = super().acquire()
        with open(self._journal, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and _byte(file, end - 1) != b"\n":
                while end and _byte(file, end - 1) != b"\n":
                    end -= 1
                file.truncate(end)
        return taken


def _byte(file: Any, at: int) -> bytes:
    file.seek(at)
    return file.read(1)


def _database(url: str) -> BaseStorage:
    sqlite = url.startswith("sqlite")
    # A connection that broke while a trial ran is replaced. SQLite makes its writers wait: not 5 s as usual.
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(TRIES):
        try:
            storage = RDBStorage(url, options)
            break
        except (ImportError, sqlalchemy.exc.ArgumentError) as error:  # a missing driver; no URL
            raise ValueError(f"sweep.storage={_plain(url)}: {error}") from error
        except Exception as error:  # "already exists", from the database's own driver or from Optuna
            if attempt == TRIES - 1:
                raise ValueError(f"sweep.storage={_plain(url)}: {str(error).splitlines()[0]}") from error
            time.sleep(random.uniform(0.2, 1.5))
    if sqlite:
        _one_at_a_time(storage.engine)
    return storage


def _one_at_a_time(engine: sqlalchemy.Engine) -> None:
    """SQLite has no row locks, with which Optuna keeps two processes from taking one trial: every transaction begins as a
    writer's, so that what it reads stays so until it has written."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # else Python's driver begins, later and as a reader

    @sqlalchemy.event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before


def _plain(url: str) -> str:
    """Without the password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url
