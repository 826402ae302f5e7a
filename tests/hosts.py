"""Two hosts on one machine: network namespaces with addresses, host names and /etc/hosts of their own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import ROOT

NAMED = 'hostname "$0" && exec "$@"'


@dataclass(frozen=True)
class Host:
    name: str
    space: str
    device: str
    address: str

    def start(self, words: Sequence[str], log: Path, **env: str) -> subprocess.Popen:
        """The process itself, not one that wraps it."""
        inside = ["ip", "netns", "exec", self.space, "unshare", "--uts", "sh", "-c", NAMED, self.name]
        with log.open("ab") as out:
            return subprocess.Popen(
                [*inside, *words], cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            )  # fmt: skip

    def pids(self) -> list[int]:
        """Every process on this host."""
        return [int(word) for word in ip("netns", "pids", self.space).split()]

    def lose_power(self) -> None:
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def link(self, state: str) -> None:
        """state: up or down, of its only cable."""
        ip("-n", self.space, "link", "set", self.device, state)

    @contextmanager
    def only_knows(self, lines: str) -> Iterator[None]:
        """Other names in /etc/hosts of the processes that are started meanwhile."""
        names = Path("/etc/netns", self.space, "hosts")
        before = names.read_text()
        names.write_text(f"127.0.0.1 localhost\n{lines}\n")
        yield
        names.write_text(before)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Connected by a cable. Skips the test where that is not possible."""
    _need_namespaces()
    mark = f"{os.getpid() % 0xFFFF:x}"
    hosts = tuple(Host(f"node{x}", f"gsam{mark}{x}", f"gs{mark}{x}", f"10.77.0.{n}") for n, x in enumerate("ab", 1))
    try:
        _connect(hosts)
        yield hosts
    finally:
        for host in hosts:
            if Path("/run/netns", host.space).exists():
                host.lose_power()
                ip("netns", "del", host.space)
            shutil.rmtree(f"/etc/netns/{host.space}", ignore_errors=True)


def _need_namespaces() -> None:
    if os.getuid() != 0:
        pytest.skip("network namespaces need root")
    if not shutil.which("ip") and shutil.which("apt-get"):
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["apt-get", "install", "-y", "iproute2"], capture_output=True, timeout=120)
    if not shutil.which("ip"):
        pytest.skip("no iproute2, and apt-get did not install it")
    if subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True).returncode:
        pytest.skip("this root may not make network namespaces")


def _connect(hosts: tuple[Host, Host]) -> None:
    for host in hosts:
        ip("netns", "add", host.space)
        names = Path("/etc/netns", host.space, "hosts")  # `ip netns exec` puts it in the place of /etc/hosts
        names.parent.mkdir(parents=True)
        names.write_text("127.0.0.1 localhost\n" + "".join(f"{other.address} {other.name}\n" for other in hosts))
    ip("link", "add", hosts[0].device, "netns", hosts[0].space, "type", "veth", "peer", "name", hosts[1].device,
       "netns", hosts[1].space)  # fmt: skip
    for host in hosts:
        ip("-n", host.space, "addr", "add", f"{host.address}/24", "dev", host.device)
        for device in ("lo", host.device):
            ip("-n", host.space, "link", "set", device, "up")
