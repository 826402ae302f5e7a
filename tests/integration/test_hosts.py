"""One training on two hosts, really on two: network namespaces with addresses, names and a cable. Hosts die, cables are cut."""

import os
import signal
import sys
import time
import uuid

import pytest

from scripts.resume_check import differences, family, steps_done
from tests.hosts import two_hosts
from tests.integration.test_faults import SMALL, settings
from tests.integration.test_launch import alive
from tests.processes import finish, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# Two groups of 20 pictures: one process adds their two gradients, two hosts with one rank each do, to the same sum.
GROUPS = [*SMALL, "optimizer.group_size=20", "train.epochs=120st", "data.backend=folder"]
ENDED_S = 120  # some seconds on a quiet machine


@pytest.fixture(scope="module")
def hosts():
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def alone(fashion_root, tmp_path_factory):
    """A run of one process, left alone."""
    folder = tmp_path_factory.mktemp("alone")
    assert finish(settings(GROUPS, folder / "run", fashion_root), folder / "log") == 0
    return folder / "run"


class Run:
    """The same command on both hosts, again and again."""

    def __init__(self, hosts, words, folder, *options):
        self.hosts, self.words, self.folder, self.options = hosts, words, folder, options

    def log(self, host):
        return self.folder.with_name(f"{host.name}.log")

    def start(self, host, rendezvous, **env):
        torchrun = [
            f"--rdzv-id={rendezvous}",
            "--nproc-per-node=1",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=nodea:29500",
        ]
        words = [sys.executable, "scripts/launch.py", "--nnodes=2", *torchrun, *self.options, "train.py", *self.words]
        return host.start(words, self.log(host), **env)

    def replace(self, host, process):
        """The host loses power; the same command is started there, in the same rendezvous."""
        host.lose_power()
        assert process.wait(ENDED_S) == -9
        return self.start(
            host, next(word for word in process.args if word.startswith("--rdzv-id="))[len("--rdzv-id=") :]
        )

    def both(self, **env):
        name = uuid.uuid4().hex
        return [self.start(host, name, **env) for host in self.hosts]

    def until_step(self, step, process):
        until(lambda: steps_done(self.folder) >= step, process, self.log(self.hosts[0]))


def ended(processes, hosts, log):
    """Exit codes; no process is left on either host."""
    codes = [process.wait(ENDED_S) for process in processes]
    deadline = time.monotonic() + ENDED_S
    while left := [pid for host in hosts for pid in host.pids() if alive(pid)]:
        assert time.monotonic() < deadline, (left, log.read_text()[-3000:])
        time.sleep(0.05)
    return codes


def test_two_hosts_train_like_one_process_whichever_is_lost(hosts, alone, fashion_root, tmp_path):
    """Each part is killed, cut off or asked in turn; the same two commands go on from there and end like one process that
    was left alone, bit for bit."""
    a, b = hosts
    run = Run(hosts, settings(GROUPS, tmp_path / "run", fashion_root), tmp_path / "run")
    log = run.log(a)

    processes = run.both()
    run.until_step(10, processes[0])
    b.lose_power()
    assert ended(processes, hosts, log)[0] == 1

    processes = run.both()
    run.until_step(25, processes[0])
    a.lose_power()  # the host of the rendezvous
    assert ended(processes, hosts, log)[1] not in (0, 75)

    processes = run.both()
    run.until_step(40, processes[0])
    processes[1].send_signal(signal.SIGTERM)  # one of them is asked, both leave
    assert ended(processes, hosts, log) == [75, 75]

    processes = run.both()
    run.until_step(55, processes[0])
    processes[1].kill()  # a supervisor: its ranks leave, and so do the others
    assert ended(processes, hosts, log) == [75, -9]

    processes = run.both(GSAM_TIMEOUT_S="5")
    run.until_step(70, processes[0])
    b.link("down")  # nothing says so to either host
    codes = ended(processes, hosts, log)
    b.link("up")
    assert not {0, 75} & set(codes)

    processes = run.both()
    assert ended(processes, hosts, log) == [0, 0], log.read_text()[-3000:]
    assert [text for text in differences(alone, run.folder) if text != "last.pt: world"] == []
    assert log.read_text().count("continuing at step") == 5
    assert (run.folder / "DONE").exists()


def test_a_training_goes_on_without_a_lost_host_and_takes_it_back(hosts, fashion_root, tmp_path):
    a, b = hosts
    words = [*settings(GROUPS, tmp_path / "run", fashion_root), "train.epochs=4000st"]
    waits = "--rdzv-conf=last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"  # else 30 s and 15 s
    run = Run(hosts, words, tmp_path / "run", "--nnodes=1:2", "--max-restarts=3", waits)
    log = run.log(a)

    def trains_on(ranks):
        until(lambda: f"{ranks} rank(s)" in log.read_text().split("continuing at step")[-1], one, log)
        run.until_step(steps_done(run.folder) + 10, one)

    one, other = run.both()
    run.until_step(10, one)
    b.lose_power()
    trains_on(1)
    other = run.replace(b, other)
    trains_on(2)
    one.send_signal(signal.SIGTERM)
    assert ended([one, other], hosts, log) == [75, 75], log.read_text()[-3000:]
    steps = [row for row in log.read_text().splitlines() if "continuing at step" in row]
    assert len(steps) == 2 and all("m = 20" in row for row in steps)


def test_with_restarts_a_fixed_number_of_hosts_waits_for_the_lost_one(hosts, alone, fashion_root, tmp_path):
    """It may be asked to leave while it waits, when there is nothing to save. A lost rank is started again with all others."""
    a, b = hosts
    waits = "--rdzv-conf=keep_alive_interval=1,keep_alive_max_attempt=3"
    run = Run(hosts, settings(GROUPS, tmp_path / "run", fashion_root), tmp_path / "run", "--max-restarts=2", waits)
    one, other = run.both()
    run.until_step(10, one)
    b.lose_power()
    until(lambda: len(a.pids()) == 2, one, run.log(a))  # the supervisor and torchrun
    one.send_signal(signal.SIGTERM)
    assert ended([one, other], hosts, run.log(a)) == [75, -9]
    one, other = run.both()
    run.until_step(20, one)
    os.kill(family(other.pid)[2], signal.SIGKILL)
    until(lambda: run.log(a).read_text().count("continuing at step") == 2, one, run.log(a))
    run.until_step(steps_done(run.folder) + 20, one)
    assert ended([one, run.replace(b, other)], hosts, run.log(a)) == [0, 0], run.log(a).read_text()[-3000:]
    assert [text for text in differences(alone, run.folder) if text != "last.pt: world"] == []


def test_hosts_whose_names_lead_nowhere(hosts, fashion_root, tmp_path):
    """No host knows the name of the other, and its own resolves to 127.0.1.1: addresses are enough."""
    a, b = hosts
    words = [*settings(GROUPS, tmp_path / "run", fashion_root), "train.epochs=2st", "schedule.warmup_steps=0"]
    run = Run(hosts, words, tmp_path / "run", f"--rdzv-endpoint={a.address}:29500")
    with a.only_knows("127.0.1.1 nodea"), b.only_knows(""):
        processes = run.both()
        assert ended(processes, hosts, run.log(a)) == [0, 0], run.log(a).read_text()[-3000:]
