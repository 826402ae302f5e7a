"""The parts of supervised torchrun: what is read of its arguments, what a host's network decides, ending with the parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gsam.launch import network
from gsam.launch.options import Options, read
from gsam.launch.process import children, environment
from tests.processes import ROOT

TWO = ["--nnodes=2", "--rdzv-backend=c10d"]


def settled(*words):
    return network.settle([*TWO, *words, "train.py"], read([*TWO, *words, "train.py"]))


def test_torchruns_options_are_read_as_torchrun_reads_them(monkeypatch):
    words = "--nnodes 1:4 --max_restarts=3 --rdzv_backend c10d --rdzv-conf join_timeout=20,is_host=1"
    found = read([*words.split(), "train.py", "-m", "optimizer=sam,gsam", "--cfg", "job"])
    assert found == Options((1, 4), 3, "c10d", "", {"join_timeout": "20", "is_host": "1"}, "", 7)
    assert found.elastic and found.rendezvous_s == 60 + 20 + 30
    assert read(["train.py"]) == Options((1, 1), 0, "", "", {}, "", 0)
    short = read("--nnode=2 --max-restart 3 -t 1 -- train.py --nnodes=4 --max-restarts=7".split())
    assert (short.nodes, short.max_restarts, short.count) == ((2, 2), 3, 5)
    with pytest.raises(ValueError, match="--nnodes=two --max-restarts=: numbers, as in --nnodes=2 or --nnodes=1:4"):
        read(["--nnodes=two", "train.py"])
    with pytest.raises(ValueError, match="--rdzv-conf=join_timeout=abc: a number of seconds"):
        read(["--rdzv-conf=join_timeout=abc", "train.py"])
    with pytest.raises(ValueError, match="required: script.*; torchrun's options come before the script"):
        read(["--nnodes=2"])
    monkeypatch.setenv("PET_NNODES", "8")  # torchrun's own variables
    assert read(["train.py"]).nodes == (8, 8) and not read(["train.py"]).elastic


def test_an_address_of_this_host_makes_it_the_host_of_the_rendezvous(monkeypatch):
    """127.0.0.2 stands for an address that the host's name does not resolve to: torchrun alone would wait for ever."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert settled("--rdzv-endpoint=127.0.0.1:29500") == (
        [*TWO, "--rdzv-endpoint=127.0.0.1:29500", "--local-addr=127.0.0.1", "train.py"],
        {"GLOO_SOCKET_IFNAME": "lo"},
    )
    monkeypatch.setattr(network, "_loopback", lambda text: False)
    words, _ = settled("--rdzv-endpoint=127.0.0.2:29500", "--rdzv-conf", "join_timeout=20")
    assert words[-3:] == ["--rdzv-conf=join_timeout=20,is_host=1", "--local-addr=127.0.0.2", "train.py"]
    given = ["--rdzv-endpoint=127.0.0.2:29500", "--rdzv-conf=is_host=0", "--local-addr=127.0.0.1"]
    assert settled(*given)[0] == [*TWO, *given, "train.py"]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert settled(*given)[1] == {}


def test_one_host_and_other_backends_are_left_alone():
    for given in ("--standalone", "--nnodes=1 --rdzv-backend=c10d --rdzv-endpoint=nowhere:1", "--nnodes=2"):
        words = [*given.split(), "train.py"]
        assert network.settle(words, read(words)) == (words, {})


@pytest.mark.parametrize("endpoint", ["[::1]", "[::1]:29500", "::1:29500"])
def test_an_endpoint_may_be_an_address_of_ipv6(endpoint):
    assert "--local-addr=::1" in settled(f"--rdzv-endpoint={endpoint}")[0]


def test_a_name_that_this_host_does_not_know_is_one_message():
    with pytest.raises(
        ValueError, match=r"--rdzv-endpoint=no.such.host.invalid:1: this host finds no address for no.such"
    ):
        settled("--rdzv-endpoint=no.such.host.invalid:1")


def test_a_name_that_only_this_host_can_reach_is_warned_about(monkeypatch, capfd):
    """Debian gives a host's own name 127.0.1.1."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("127.0.1.1", 0))])
    words, found = settled("--rdzv-endpoint=node1:29500")
    assert "--local-addr" not in " ".join(words) and found == {}
    assert "this host resolves node1 to 127.0.1.1, where no other host can reach it" in capfd.readouterr().err


PARENT = "from functools import partial; from gsam.launch.process import end_with; import os, subprocess, sys, time\n"


def parent_of(child: str, then: str) -> subprocess.Popen:
    start = f"child = subprocess.Popen([sys.executable, '-c', {child!r}], preexec_fn=partial(end_with, os.getpid()))"
    words = [sys.executable, "-uc", f"{PARENT}{start}\nprint(child.pid)\n{then}"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def gone(pid: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while (alive := "PPid" in _status(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive


def _status(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return "" if "State:\tZ" in text else text


def test_a_child_ends_with_its_parent_however_that_ends():
    for number in (signal.SIGKILL, signal.SIGTERM):
        with parent_of("import time; time.sleep(100)", "time.sleep(100)") as process:
            child = int(process.stdout.readline())
            assert children(process.pid) == [child] and environment(child)["PATH"] == os.environ["PATH"]
            process.send_signal(number)
            process.wait(20)
            assert gone(child)


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path):
    """As if the parent had ended between the birth of its child and the child's wish to end with it."""
    file = tmp_path / "started"
    code = f"{PARENT}end_with(os.getppid() + 1)\nopen({str(file)!r}, 'w')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 128 + signal.SIGTERM
    assert not file.exists()


JOB = """
import sys; from gsam.cli import run_child
sys.exit(run_child([sys.executable, "-uc", "import os, time; print(os.getpid()); time.sleep(100)"]))
"""


def test_a_command_started_by_run_child_ends_with_the_starter():
    """So does a training with the reproduce.py or the `train.py -m` that started it."""
    with subprocess.Popen([sys.executable, "-c", JOB], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
        assert gone(child)


CHILD = """
import signal, sys; from gsam.launch.child import run
run([sys.executable, "-uc", "import os, signal; print(os.getpid()); print(int(signal.sigwait([signal.SIGUSR1])))"], ())
"""


def test_srun_is_asked_to_let_its_tasks_save_when_what_started_it_is_killed():
    """To srun SIGTERM means to kill at once; SIGUSR1 it passes on."""
    masked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" + CHILD
    with subprocess.Popen([sys.executable, "-c", masked], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
        assert process.stdout.readline() == f"{int(signal.SIGUSR1)}\n" and gone(child)


def test_help_is_ours_and_then_torchruns():
    words = [sys.executable, "scripts/launch.py", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(
        "usage: python scripts/launch.py [torchrun's options] train.py"
    )
    assert "--rdzv-endpoint" in done.stdout.split("which says:")[1]
