"""Where a study is kept: Optuna's journal file in a folder, or a database."""

import os
import random
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

OUTAGES = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)  # after which a storage may be back
LOCK_S = 30.0  # that a lock may be held, by the waiting process's clock
TRIES = 6  # to make a database's tables: processes that do so at the same time disturb each other


class DamagedJournal(Exception):
    """Which file, and what to do."""


def why(error: BaseException) -> str:
    """What is behind one of OUTAGES, in one line."""
    return (str(error.__cause__ or error).splitlines() or [repr(error)])[0]


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The journal in `folder`, or the database. Raises ValueError where it cannot be had."""
    return _journal(folder / "journal.log") if url is None else _database(url)


def _journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(_Journal(str(path), lock_obj=_Lock(str(path))))
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error}); give run.root=<another folder>") from error


class _Journal(JournalFileBackend):
    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:  # type: ignore[override]
        for _ in range(2):  # a read may have met the moment in which the next writer removed an unfinished line
            try:
                return list(super().read_logs(log_number_from))
            except ValueError as error:  # of JSON, or UTF-8
                damage = error
            time.sleep(0.2)
        raise DamagedJournal(
            f"{self._file_path} is damaged: {damage}; remove the lines that are no JSON, or give sweep.name=<another name>: "
            "what is trained is not trained again"
        )


class _Lock(JournalFileOpenLock):
    """An exclusively created file, which holds on NFS, as Optuna's. Its age is judged by the waiting process's clock. Unlike
    Optuna's, whoever has lost it, having stood still for too long, neither removes another's nor takes that for an error.

    A writer that is killed or finds the disk full may leave a line without its end; the next line would be glued to it and the
    journal could never be read again. Who takes the lock removes it.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._journal = path
        self._mine: bytes | None = None  # what the lock's file says while this process has it

    def acquire(self) -> bool:
        seen, since, pause_s = None, time.monotonic(), 0.001
        while not self._create():
            other = self._there()
            if other != seen:
                seen, since = other, time.monotonic()
            elif other is not None and time.monotonic() - since > LOCK_S:  # its process has died
                self._remove(other)
            time.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, 0.5)
        try:
            self._cut()
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        mine, self._mine = self._mine, None
        if mine is not None:
            self._remove(mine)

    def _create(self) -> bool:
        try:
            file = os.open(self._lock_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        token = uuid.uuid4().bytes
        try:
            os.write(file, token)
        except OSError:  # no room
            os.unlink(self._lock_file)
            raise
        finally:
            os.close(file)
        self._mine = token
        return True

    def _there(self) -> bytes | None:
        try:
            with open(self._lock_file, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _remove(self, which: bytes) -> None:
        if self._there() == which:
            with suppress(FileNotFoundError):
                os.unlink(self._lock_file)

    def _cut(self) -> None:
        with open(self._journal, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and _byte(file, end - 1) != b"\n":
                while end and _byte(file, end - 1) != b"\n":
                    end -= 1
                file.truncate(end)


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
    writer's, so that what it reads stays so until it has written. (Else five processes took 16 of 60 trials twice.)"""

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
