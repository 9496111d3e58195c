"""How this process was started: alone, by torchrun, by srun, or by a process of the same run.

Variables of launchers stay in an environment after their launcher has ended, so a single variable proves nothing: a
process is one of several only if all variables of its launcher agree, or if its parent started it for this run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pixelloom.core.errors import UsageError, shortened

PARENT = "PIXELLOOM_PARENT"
"""Process id of the process that started this one for the same run."""
_TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
)
_SRUN = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_ID")
_BY_HAND = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID")
_PORTS = 1 << 16
_PASSIVE = socket.AI_PASSIVE | socket.AI_NUMERICSERV
_PREFIXES = ("TORCHELASTIC_", "LT_")  # of torchrun, and of the command line of Lightning Fabric


@dataclass(frozen=True)
class Launch:
    """How a process was started.

    Attributes:
        by: "alone": by the user; it starts the other processes of its machine, if there are any. "parent": by a
            process of this run. Otherwise the launcher.
        rank: index of the process among those that train together.
        strays: variables of launchers that are set but do not belong to ``by``.
    """

    by: Literal["alone", "parent", "torchrun", "srun"]
    rank: int = 0
    strays: tuple[str, ...] = ()


def launch(devices: int, nodes: int, environment: Mapping[str, str] = os.environ) -> Launch:
    """Determine how this process was started.

    Args:
        devices: processes on this machine that the run asks for; torchrun overrides it.
        nodes: machines that the run asks for.
        environment: environment variables.

    Raises:
        UsageError: if the run asks for several machines and nothing says which one this is, or if the parent of this
            process has ended.
    """
    processes = devices * nodes
    if processes > 1 and _number(environment, "LOCAL_RANK") > 0 and _ended(_number(environment, PARENT)):
        raise UsageError("devices: the process that started this one for the same run has ended")
    if processes > 1 and environment.get(PARENT) in (str(os.getppid()), str(os.getpid())):
        rank = _number(environment, "NODE_RANK") * devices + _number(environment, "LOCAL_RANK")
        return Launch("parent", max(rank, 0))
    if environment.get(PARENT) == str(os.getpid()):  # this process trained with others before, and now trains alone
        return Launch("alone")
    if _by_torchrun(environment):
        return Launch("torchrun", _number(environment, "RANK"))
    if processes > 1 and all(_number(environment, name) >= 0 for name in _SRUN):
        if _number(environment, "SLURM_NTASKS") == processes:
            return Launch("srun", _number(environment, "SLURM_PROCID"))
        raise UsageError(
            f"devices: srun started {environment['SLURM_NTASKS']} processes, the run asks for {devices} on each of "
            f"{nodes} machines; use srun --ntasks {processes}, or set --devices and train.nodes"
        )
    if nodes == 1:
        return Launch("alone", 0, _strays(environment))
    missing = [name for name in _BY_HAND if name not in environment]
    if missing or not 0 <= _number(environment, "NODE_RANK") < nodes:
        raise UsageError(
            f"nodes: {nodes} machines need a launcher: torchrun, srun, or {', '.join(_BY_HAND)} set on each machine "
            f"(missing or out of range: {', '.join(missing) or 'NODE_RANK'})"
        )
    return Launch(
        "alone",
        _number(environment, "NODE_RANK") * devices,
        tuple(name for name in _strays(environment) if name not in _BY_HAND),
    )


def is_further(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several and not the first, as far as this is known without a configuration."""
    if environment.get(PARENT) == str(os.getppid()):
        return True
    return _by_torchrun(environment) and _number(environment, "RANK") > 0


@contextlib.contextmanager
def hidden(names: Iterable[str]) -> Iterator[None]:
    """Remove environment variables inside the context; processes that are started there do not see them either."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.setdefault(name, value)


def _by_torchrun(environment: Mapping[str, str]) -> bool:
    if any(name not in environment for name in _TORCHRUN):
        return False
    rank, world, local_rank, local_world = (_number(environment, name) for name in _TORCHRUN[:4])
    return 0 <= rank < world and 0 <= local_rank < local_world and world % local_world == 0


def _strays(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that claim that this process is one of several."""
    found = [name for name in _RANKS if name in environment and (name != "SLURM_PROCID" or environment[name] != "0")]
    found += [name for name in environment if name.startswith(_PREFIXES)]
    if "SLURM_NTASKS" in environment and environment["SLURM_NTASKS"] != "1":
        found.append("SLURM_NTASKS")
    return tuple(found)


def check_port(nodes: int, environment: Mapping[str, str] = os.environ) -> None:
    """Check the address that the processes of a run meet at, before they are started.

    Args:
        nodes: number of machines.
        environment: MASTER_ADDR and MASTER_PORT; without a port, a free one is chosen later.

    Raises:
        UsageError: if the port is in use or none, or, for one machine, if the address is not one of this machine.
    """
    port = environment.get("MASTER_PORT")
    if port is None:
        return
    number = _number(environment, "MASTER_PORT")
    if not 0 < number < _PORTS:
        raise UsageError(f"MASTER_PORT: a port is a number of 1 to {_PORTS - 1}, not {shortened(port)!r}; unset it")
    host = environment.get("MASTER_ADDR", "")
    for address in ("", host) if nodes == 1 else ("",):
        try:
            family, _, _, _, place = socket.getaddrinfo(
                address or None, number, type=socket.SOCK_STREAM, flags=_PASSIVE
            )[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # As servers do: connections of a process that has ended do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            where = f"{address}:{port} (MASTER_ADDR, MASTER_PORT)" if address else f"port {port} (MASTER_PORT)"
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror or error}"
            raise UsageError(
                f"devices: {where} {reason}; unset the variables, and a free port of this machine is chosen"
            ) from error


def _ended(pid: int) -> bool:
    """Whether a process does not exist any more; False for -1."""
    try:
        if pid > 0:
            os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        pass
    return False


def _number(environment: Mapping[str, str], name: str) -> int:
    """The value of a variable; -1 if it is not set or not a whole number."""
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
