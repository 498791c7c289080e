"""Where the launchers of a group agree: on which attempt they are, where its workers meet, and how it went.

One machine alone needs nobody. Of several, node 0 keeps a store at MASTER_ADDR:MASTER_PORT for as long as it lives.
An attempt begins when every node has joined it, and ends when one of them says so, is lost or comes a second time,
which means that it was started anew. Then node 0 hears what failed where, picks what explains the rest, and says
whether there is to be another attempt. The workers of each attempt meet in a store of their own, on a fresh port:
what an earlier attempt left in a store makes gloo fail or hang.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from swift import launch
from swift.dist import Launch
from swift.errors import InternalError, UnavailableError
from swift.launch import Failure
from swift.log import get_logger

POLL = 0.2
SILENT = 30.0  # seconds after which a machine that does not speak is lost
LEARN = 15.0  # seconds in which all machines say what failed there
JOIN = 1800.0  # seconds for which machines wait for each other
TRY = 10.0  # seconds in which a store that is there answers
SIOCGIFADDR = 0x8915
logger = get_logger()


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended for the whole group; `failure` is None when all went well, `again` when another follows."""

    failure: Failure | None
    again: bool = False


class Alone:
    """One machine, which agrees with itself."""

    def __init__(self, plan: Launch) -> None:
        self.plan, self.attempt = plan, -1
        self.store: Store | None = None

    def begin(self) -> RendezvousHandler:
        """Where the workers of the next attempt meet."""
        self.attempt += 1
        port = (self.plan.port or 0) if self.attempt == 0 else 0
        self.store = _served(port)
        return Place(self.plan, self.store, "127.0.0.1", self.store.port, self.attempt)

    def ended_elsewhere(self) -> bool:
        """Whether the attempt is over for a reason that lies with another machine."""
        return False

    def done(self) -> None:
        """The workers of this machine are done."""

    def settle(self, failure: Failure | None) -> Verdict:
        """How the attempt ended, after what this machine knows of it."""
        return Verdict(failure, _again(failure, self.attempt, self.plan))


class Group:
    """One of several machines."""

    def __init__(self, plan: Launch) -> None:
        self.plan, self.attempt, self.node = plan, -1, plan.node_rank
        self.main = plan.node_rank == 0
        self.told = 0.0
        self.heard: dict[int, tuple[bytes, float]] = {}
        self.served: TCPStore | None = None
        self.store = self._connect()

    def _connect(self) -> Store:
        """The store of node 0, which is waited for."""
        plan, end = self.plan, time.monotonic() + JOIN
        assert plan.port is not None
        patience = timedelta(seconds=TRY)  # nothing interrupts a try, so that it has to be short
        while True:
            try:
                store = TCPStore(plan.address, plan.port, None, self.main, patience, wait_for_workers=False)
                break
            except RuntimeError as error:  # torch's store has no narrower one
                where = f"{plan.address}:{plan.port}"
                if self.main or time.monotonic() > end:
                    what, why = f"node 0 does not answer at {where}", str(error).splitlines()[0]
                    raise UnavailableError("RUN-05", what, why=why, fix=ADDRESS) from None
                logger.info(f"waiting for node 0 at {where}")
        store.set_timeout(timedelta(seconds=SILENT))
        if self.main:
            store.set("attempt", "0")
        return store

    def begin(self) -> RendezvousHandler:
        """Where the workers of the next attempt meet, once all machines are there.

        Raises:
            InternalError: node 0 went away meanwhile.
            UnavailableError: not all machines came.
        """
        try:
            return self._join()
        except RuntimeError:
            what = "node 0 went away before all machines were there"
            raise InternalError("RUN-05", what, fix="start it again on all machines") from None

    def _join(self) -> RendezvousHandler:
        while True:
            self._wait(lambda: self.store.check(["attempt"]), "node 0 to begin")
            self.attempt = int(self.store.get("attempt"))
            self.own = PrefixStore(f"attempt-{self.attempt}", self.store)
            if self.own.add(f"joined-{self.node}", 1) == 1:
                break
            self.own.set("ended", f"node {self.node} was started anew")
            last = self.attempt
            self._wait(lambda last=last: int(self.store.get("attempt")) > last, "the others to begin anew")
        names = [f"joined-{node}" for node in range(self.plan.nodes)]
        if self.main:
            self._wait(lambda: self.own.check(names), f"{self.plan.nodes} machines")
            self.served = _served(0)
            self.own.set("port", str(self.served.port))
        self._wait(lambda: self.own.check(["port"]), f"{self.plan.nodes} machines")
        port = int(self.own.get("port"))
        store = self.served or TCPStore(self.plan.address, port, is_master=False, wait_for_workers=False)
        self.told, self.heard = 0.0, {}
        return Place(self.plan, store, self.plan.address, port, self.attempt)

    def ended_elsewhere(self) -> bool:
        """Say that this machine is there, and look whether another ended the attempt, or is lost."""
        now = time.monotonic()
        if now - self.told < POLL * 5:
            return False
        self.told = now
        try:
            self.own.set(f"alive-{self.node}", str(time.time_ns()))
            if self.main and (lost := self._lost(now)) is not None:
                self.own.set("ended", f"node {lost} is lost")
            return self.own.check(["ended"])
        except RuntimeError:  # node 0 is gone, and its store with it
            return True

    def _lost(self, now: float) -> int | None:
        """A node that has said nothing for long."""
        for node in range(1, self.plan.nodes):
            if self.own.check([f"done-{node}"]):
                continue
            word = self.own.get(f"alive-{node}") if self.own.check([f"alive-{node}"]) else b""
            before, since = self.heard.get(node, (None, now))
            if word != before:
                self.heard[node] = word, now
            elif now - since > SILENT:
                return node
        return None

    def done(self) -> None:
        """The workers of this machine are done."""
        self.own.set(f"done-{self.node}", "1")

    def settle(self, failure: Failure | None) -> Verdict:
        """How the attempt ended for all, after what this machine knows of it.

        Raises:
            InternalError: node 0 is gone.
        """
        try:
            if not self.own.check(["ended"]):
                self.own.set("ended", "a worker failed")
            self.own.set(f"report-{self.node}", json.dumps(None if failure is None else asdict(failure)))
            if self.main:
                self._judge()
            self._wait(lambda: self.own.check(["verdict"]), "the verdict of node 0", 2 * LEARN)
            said = json.loads(self.own.get("verdict"))
            self.own.add("heard", 1)
            if self.main and not said["again"]:
                self._wait(lambda: self.own.add("heard", 0) >= self.reported, "", LEARN, quiet=True)
        except (RuntimeError, UnavailableError):
            return self._without_node_0(failure)
        return Verdict(None if said["failure"] is None else Failure(**said["failure"]), said["again"])

    def _judge(self) -> None:
        """Hear all machines, and say what explains the rest and whether to begin anew."""
        names = [f"report-{node}" for node in range(self.plan.nodes)]
        self._wait(lambda: self.own.check(names), "", LEARN, quiet=True)
        told = {node: json.loads(self.own.get(name)) for node, name in enumerate(names) if self.own.check([name])}
        self.reported = len(told)
        failures = [Failure(**word) for word in told.values() if word is not None]
        lost = next((node for node in range(self.plan.nodes) if node not in told), None)
        why = self.own.get("ended").decode()
        if why.startswith("node ") or lost is not None or not failures:  # what else failed, failed for that
            failures = [failure for failure in failures if failure.order == 0 and not failure.asked]
            failures.append(self._gone(why if lost is None else f"node {lost} is lost"))
        found = launch.earliest(failures)
        again = _again(found, self.attempt, self.plan)
        self.own.set("verdict", json.dumps({"failure": asdict(found), "again": again}))
        if again:
            self.store.set("attempt", str(self.attempt + 1))

    def _gone(self, why: str) -> Failure:
        fix = "start it again: with --max_restarts the others wait for it"
        error = InternalError("RUN-05", why, fix=fix)
        node = int(why.split()[1]) if why.startswith("node ") else self.node
        return Failure(node * self.plan.processes, str(error), error.exit_code, 0, order=1)

    def _without_node_0(self, failure: Failure | None) -> Verdict:
        """Wait for node 0 to come again, where that is allowed."""
        found = self._gone("node 0 is lost") if failure is None or failure.order > 1 else failure
        again = _again(found, self.attempt, self.plan)
        if again:
            self.store = self._connect()
        return Verdict(found, again)

    def _wait(self, ready: Callable[[], bool], what: str, seconds: float = JOIN, *, quiet: bool = False) -> None:
        end, said = time.monotonic() + seconds, quiet
        while not ready():
            if time.monotonic() > end:
                if quiet:
                    return
                raise UnavailableError("RUN-05", f"waited {seconds:.0f} s for {what}", fix=ADDRESS)
            if not said and time.monotonic() > end - seconds + 5:
                said = True
                logger.info(f"waiting for {what}")
            time.sleep(POLL)


ADDRESS = "the same MASTER_ADDR, MASTER_PORT and NNODES on every machine, and a port that they can reach"


class Place(RendezvousHandler):
    """Where the workers of one attempt meet, in the agent's terms."""

    def __init__(self, plan: Launch, store: Store, address: str, port: int, attempt: int) -> None:
        self.plan, self.store, self.at, self.attempt = plan, store, RendezvousStoreInfo(address, port), attempt

    def get_backend(self) -> str:
        """Its name."""
        return "swift"

    @property
    def use_agent_store(self) -> bool:
        """The workers connect to this store; none of them has to serve one."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Who is who."""
        return RendezvousInfo(PrefixStore("agents", self.store), self.plan.node_rank, self.plan.nodes, self.at)

    def is_closed(self) -> bool:
        """It is open while there is an attempt."""
        return False

    def set_closed(self) -> None:
        """Nothing is to be closed."""

    def num_nodes_waiting(self) -> int:
        """Nobody joins later."""
        return 0

    def get_run_id(self) -> str:
        """A name of the attempt."""
        return f"swift-{self.attempt}"

    def shutdown(self) -> bool:
        """The store goes with the attempt."""
        return True


def meeting(plan: Launch) -> Alone | Group:
    """Whom this machine agrees with."""
    return Alone(plan) if plan.nodes == 1 else Group(plan)


def interface(address: str, port: int) -> str | None:
    """The network interface by which this machine reaches an address; None for itself, and where nobody knows.

    gloo takes the one of the host's name, which on many machines is the loopback.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError:
            return None
        own = probe.getsockname()[0]
        if own.startswith("127."):
            return None
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(found[20:24]) == own:
                return name
    return None


def _served(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)


def _again(failure: Failure | None, attempt: int, plan: Launch) -> bool:
    return failure is not None and failure.may_pass and attempt < plan.restarts
