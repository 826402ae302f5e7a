"""A PostgreSQL server of the test's own, on the loopback interface."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"  # made by the package; the server refuses to run as root


class Unavailable(Exception):
    """Why there can be none here."""


class Server:
    def __init__(self, folder: Path, programs: Path):
        self._folder, self._programs = folder, programs
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg2://sweeps:secret@127.0.0.1:{self.port}/postgres"

    def _run(self, *words: str) -> None:
        """As the server's user, whose output goes to a file: the server would keep a pipe open."""
        with (self._folder / "commands.log").open("ab") as log:
            code = subprocess.run(
                [str(self._programs / words[0]), *words[1:]],
                user=USER,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                timeout=60,
            ).returncode
        assert code == 0, (self._folder / "commands.log").read_text()

    def make(self) -> None:
        (self._folder / "password").write_text("secret")
        login = ["-U", "sweeps", "-A", "scram-sha-256", f"--pwfile={self._folder}/password"]
        self._run("initdb", "-D", f"{self._folder}/data", *login, "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder}"
        self._run(
            "pg_ctl", "-D", f"{self._folder}/data", "-w", "-l", f"{self._folder}/server.log", "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-m", "fast", "-w", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """Running; raises Unavailable with the reason where that is not possible."""
    if os.geteuid() != 0:
        raise Unavailable("PostgreSQL's server is started as another user, which needs root")
    found = _programs() or (_install() and _programs())
    if not found:
        raise Unavailable("PostgreSQL is not installed, and apt-get could not do it")
    folder = Path(tempfile.mkdtemp(prefix="gsam-postgres-"))
    shutil.chown(folder, USER)
    one = Server(folder, found)
    try:
        one.make()
        one.start()
        try:
            yield one
        finally:
            one.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def _install() -> bool:
    if not shutil.which("apt-get"):
        return False
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
    return subprocess.run(words, env=env, capture_output=True, timeout=240).returncode == 0
