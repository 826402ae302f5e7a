"""What torchrun and gloo guess from a host's name, and so get wrong where that resolves to 127.0.1.1 or to nothing: who hosts
the rendezvous, the address that other hosts reach this one at, its interface. Here it is found by asking the kernel."""

import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Sequence

from gsam.launch.options import Options

SIOCGIFADDR = 0x8915


def settle(arguments: Sequence[str], options: Options) -> tuple[list[str], dict[str, str]]:
    """torchrun's arguments and variables of its environment, with what was not given. Only for several hosts and c10d.

    Raises ValueError where the endpoint has no address or there is no way to it.
    """
    if options.nodes[1] == 1 or options.backend != "c10d" or not options.endpoint:
        return list(arguments), {}
    name = options.endpoint
    if not name.endswith("]"):  # an IPv6 address without a port
        name = name.rpartition(":")[0] or name
    name = name.strip("[]")
    family, address = _resolve(name, f"--rdzv-endpoint={options.endpoint}")
    ours = _ours(family, address)
    more = []
    if "is_host" not in options.rendezvous and _guess(name) != ours:
        conf = {**options.rendezvous, "is_host": str(int(ours))}
        more.append("--rdzv-conf=" + ",".join(f"{key}={value}" for key, value in conf.items()))
    if options.local_addr:
        local = _resolve(options.local_addr, f"--local-addr={options.local_addr}")[1]
    elif ours and _loopback(address) and not (name == "localhost" or _loopback(name)):
        print(
            f"launch: --rdzv-endpoint={options.endpoint}: this host resolves {name} to {address}, where no other host "
            "can reach it; if the start hangs give --local-addr=<its address in the network>",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return options.added(arguments, more), {}
    else:
        local = address if ours else _facing(family, address, options.endpoint)
        more.append(f"--local-addr={local}")
    interface = _interface(local)
    known = "GLOO_SOCKET_IFNAME" in os.environ or interface is None
    return options.added(arguments, more), {} if known else {"GLOO_SOCKET_IFNAME": interface}


def _resolve(name: str, given: str) -> tuple[int, str]:
    try:
        family, _, _, _, address = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(
            f"{given}: this host finds no address for {name} ({error.strerror}); give a name that all hosts know, or an address"
        ) from None
    return family, address[0]


def _ours(family: int, address: str) -> bool:
    """Only addresses of this host can be bound."""
    with socket.socket(family, socket.SOCK_STREAM) as test:
        try:
            test.bind((address, 0))
        except OSError:
            return False
    return True


def _guess(name: str) -> bool | None:
    """torchrun's own idea of whether this host is the endpoint; None where it would fail."""
    if name == "localhost" or _loopback(name) or name == socket.gethostname():
        return True
    try:
        mine, its = ({info[4][0] for info in socket.getaddrinfo(n, None)} for n in (socket.gethostname(), name))
    except OSError:
        return None
    return bool(mine & its)


def _facing(family: int, address: str, endpoint: str) -> str:
    """This host's address on the way to another. Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        try:
            way.connect((address, 9))
        except OSError as error:
            raise ValueError(
                f"--rdzv-endpoint={endpoint}: no way to {address} from this host ({error.strerror})"
            ) from None
        return way.getsockname()[0]


def _interface(address: str) -> str | None:
    """Name of the network interface with this address, where it is an IPv4 address and its first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", name.encode()))[20:24]
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(found) == address:
                return name
    return None


def _loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
