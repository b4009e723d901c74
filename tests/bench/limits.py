"""What limits cost: many limited messages in a queue are read past and parked, and short waits are released on time.

Starts a broker, a store and a proxy on free ports and prints Markdown. Needs what `tests/live` needs; run it with the interpreter of
its virtual environment, and with a release build of the proxy:

    ONCEGATE_BIN=target/release/oncegate target/venv/bin/python tests/bench/limits.py [--messages 100000] [--quorum] [--celery]

The parts, of which `--only` chooses one:

backlog: so many limited messages wait in a queue; a worker (a bare consumer with prefetch 8, or with --celery a real one) comes. How long
    until all of them have been read past and parked; then what unlimited tasks on the same queue and worker wait, from their publish to
    their delivery (or run); the proxy's memory; and what the broker takes in and hands out again while nothing else happens.
release: held messages are handed over when their limit permits it: how long after the permitted time, on the store's clock, the worker
    has them.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

BENCH = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH.parent / "live"))

import harness  # noqa: E402
import wire  # noqa: E402

QUEUE = "limited"
BLOB = "x" * 200
TICKS = os.sysconf("SC_CLK_TCK")


def rule(limit, hold_max):
    return f'[[rule]]\nname = "limited"\ntask = "live.note"\nhold_max = "{hold_max}"\n[[rule.limit]]\n{limit}\n'


class Task:
    """Messages of one task, encoded once and patched in place: each has its own id."""

    def __init__(self, task):
        self.id, properties, body = wire.task_message(task, [BLOB])
        self.frames = wire.publish_bytes(1, "", QUEUE, body, properties)

    def message(self, task_id):
        return self.frames.replace(self.id.encode(), task_id.encode())


class Stand:
    """The servers, the proxy, and the queue."""

    def __init__(self, workspace, started, wanted, rules):
        def start(server):
            started.append(server)
            return server.start()

        self.quorum = wanted.quorum
        self.workspace = workspace
        self.started = started
        self.broker, self.store = start(harness.RabbitMQ(workspace)), start(harness.Redis(workspace))
        self.vhost = self.broker.add_vhost()
        # What is written of each decision is no part of what is measured.
        self.gate = harness.new_gate(
            workspace, self.broker.port, rules, store=self.store.url, extra=harness.account(self.broker.port, self.vhost)
        )
        self.gate.config.write_text(self.gate.config.read_text().replace('decisions = "all"', 'decisions = "none"'))
        start(self.gate)
        self.gate.expect("oncegate_control_up", 1, vhost=self.vhost)
        client = self.connect(self.broker.port)
        client.declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"} if self.quorum else {})
        client.close()

    def connect(self, port):
        client = wire.connect(port, self.vhost)
        client.open_channel()
        return client

    def fill(self, count):
        """Puts so many limited messages into the queue, past the proxy."""
        client, task = self.connect(self.broker.port), Task("live.note")
        client.method(wire.Confirm.Select(), 1)
        client.wait(wire.Confirm.SelectOk)
        confirms = wire.Confirms()
        for first in range(0, count, 1000):
            size = min(1000, count - first)
            client.send(b"".join(task.message(str(uuid.uuid4())) for _ in range(size)))
            wire.read_confirms(client, confirms, first + size)
        client.close()

    def ready(self):
        client = self.connect(self.broker.port)
        count = client.count(QUEUE)
        client.close()
        return count

    def counters(self):
        """What the whole broker has taken in, handed out, and handed out again."""
        text = self.broker.ctl("eval", "rabbit_global_counters:overview().")
        total = lambda name: sum(int(n) for n in re.findall(rf"{name} =>\s*(\d+)", text))  # noqa: E731
        return {
            "published": total("messages_received_total"),
            "delivered": total("messages_delivered_total"),
            "redelivered": total("messages_redelivered_total"),
        }

    def cpu(self):
        """Seconds of all processors, for each server."""
        beam = int(self.broker.ctl("eval", "os:getpid().").strip().strip('"'))
        pids = {"proxy": self.gate.process.pid, "redis": self.store._process.pid, "broker": beam}
        return {name: cpu_of(pid) for name, pid in pids.items()}

    def memory(self):
        """The proxy's resident memory now and at its highest, in MB."""
        status = pathlib.Path(f"/proc/{self.gate.process.pid}/status").read_text()
        return [int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1000 for name in ("VmRSS", "VmHWM")]


def cpu_of(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class Consumer:
    """A bare worker with early acks: notes when it has each id."""

    def __init__(self, stand, prefetch=8):
        self.client = stand.connect(stand.gate.port)
        self.came = {}
        if stand.quorum:
            self.client.declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        self.client.call(wire.Basic.Qos(prefetch_count=prefetch), wire.Basic.QosOk)
        self.client.method(wire.Basic.Consume(queue=QUEUE, consumer_tag="worker"), 1)
        self.client.wait(wire.Basic.ConsumeOk)
        threading.Thread(target=self._consume, daemon=True).start()

    def _consume(self):
        try:
            while True:
                deliver = self.client.wait(wire.Basic.Deliver, timeout=3600)
                head, _ = self.client.content(1)
                self.client.frames.clear()
                self.came.setdefault(head.properties.correlation_id, time.time())
                self.client.method(wire.Basic.Ack(deliver.delivery_tag), 1)
        except (OSError, wire.Closed, TimeoutError):
            pass


class Celery:
    """A real worker: notes when each id has run."""

    def __init__(self, stand, prefetch=8):
        redis = harness.Redis(stand.workspace)
        stand.started.append(redis)
        redis.start()
        self.board = harness.Scoreboard(redis, "bench")
        conf = {"worker_prefetch_multiplier": prefetch // 2}
        if stand.quorum:
            conf["task_default_queue_type"] = "quorum"
        environment = harness.app_environment(stand.gate.port, stand.vhost, QUEUE, self.board, conf=conf)
        stand.started.append(harness.Worker(stand.workspace, environment, self.board, concurrency=2))

    @property
    def came(self):
        return {run["id"]: run["at"] for run in self.board.drain()}


def spread(values):
    values = sorted(values)
    at = lambda part: values[min(len(values) - 1, int(part * len(values)))]  # noqa: E731
    return f"median {statistics.median(values):.1f}, 99 % {at(0.99):.1f}, worst {values[-1]:.1f} ms"


def backlog(stand, wanted):
    stand.fill(wanted.messages)
    harness.wait_until(lambda: stand.ready() == wanted.messages, "the queue to be filled")
    parked = lambda: stand.gate.count("oncegate_messages_parked_total")  # noqa: E731
    before, begun = stand.cpu(), time.monotonic()
    worker = (Celery if wanted.celery else Consumer)(stand)
    shown, half = begun, None
    while (count := parked()) < wanted.messages - wanted.permitted:
        time.sleep(0.1)
        if half is None and count > wanted.messages / 2:
            half = time.monotonic() - begun
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(f"  {shown - begun:.0f} s: {count:.0f} parked, {stand.ready()} ready, held "
                  f"{stand.gate.count('oncegate_held_messages'):.0f}, memory {stand.memory()}", file=sys.stderr)
        assert time.monotonic() - begun < wanted.patience, f"{count} of {wanted.messages} parked"
    took = time.monotonic() - begun
    after = stand.cpu()
    used = ", ".join(f"{name} {after[name] - before[name]:.1f} s" for name in after)
    print(f"- {wanted.messages} messages parked in {took:.1f} s: {wanted.messages / took:.0f} per second (the first half in {half or took:.1f} s)")
    print(f"- processors meanwhile: {used}")
    print(f"- memory of the proxy: {stand.memory()[0]:.0f} MB, at most {stand.memory()[1]:.0f} MB")
    unlimited(stand, wanted, worker)
    quiet(stand, wanted)
    print(f"- memory of the proxy at the end: {stand.memory()[0]:.0f} MB, at most {stand.memory()[1]:.0f} MB")


def unlimited(stand, wanted, worker):
    """Tasks that nothing limits, through the proxy into the same queue."""
    task, client, sent = Task("live.plain"), stand.connect(stand.gate.port), {}
    for _ in range(wanted.others):
        task_id = str(uuid.uuid4())
        sent[task_id] = time.time()
        client.send(task.message(task_id))
        time.sleep(0.02)
    harness.wait_until(lambda: all(task_id in worker.came for task_id in sent), "the unlimited tasks")
    came = worker.came
    print(f"- {len(sent)} unlimited tasks meanwhile: {spread([1000 * (came[task_id] - at) for task_id, at in sent.items()])}")
    client.close()


def quiet(stand, wanted):
    """Nothing is published by anybody: what happens at the broker is Oncegate's own doing."""
    first = stand.counters()
    time.sleep(wanted.quiet)
    last = stand.counters()
    rates = ", ".join(f"{name} {last[name] - first[name]}" for name in first)
    print(f"- in {wanted.quiet:.0f} s without work, at the broker: {rates}; redelivered in all: {last['redelivered']}")


def release(stand, wanted):
    """By the store's times of hand-over: when each was permitted at the earliest, and when the worker had it."""
    worker, count = Consumer(stand, prefetch=100), wanted.times * wanted.windows
    stand.fill(count)
    harness.wait_until(lambda: len(worker.came) == count, "all to be handed over", timeout=wanted.windows * 2 + 60)
    slots = {}
    for key in stand.store.client.scan_iter("oncegate:slot:*", count=1000):
        slots[key.rsplit(":", 1)[1]] = int(stand.store.client.hget(key, "at"))
    order = sorted(slots, key=slots.get)
    late = [
        1000 * worker.came[task_id] - (slots[order[index - wanted.times]] + 1000 * wanted.per + 1)
        for index, task_id in enumerate(order) if index >= wanted.times
    ]
    took = (slots[order[-1]] - slots[order[0]]) / 1000
    allowed = count / wanted.times * wanted.per
    print(f"- {count} messages, {wanted.times} per {wanted.per:g} s: handed over after the permitted time, {spread(late)}")
    print(f"- {count - wanted.times} in {took:.2f} s on the store's clock; {100 * (allowed - wanted.per) / took:.1f} % of what the limit allows")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--others", type=int, default=500, help="unlimited tasks")
    parser.add_argument("--quiet", type=float, default=20, help="seconds without work")
    parser.add_argument("--patience", type=float, default=600, help="seconds that the parking may take")
    parser.add_argument("--quorum", action="store_true")
    parser.add_argument("--celery", action="store_true")
    parser.add_argument("--only", choices=["backlog", "release"])
    wanted = parser.parse_args()
    wanted.permitted = 1
    print(f"load {os.getloadavg()[0]:.2f}, {subprocess.run([harness.BINARY, '--version'], capture_output=True, text=True).stdout.strip()}")
    if wanted.only != "release":
        print(f"\nbacklog, {'quorum' if wanted.quorum else 'classic'}, {'celery' if wanted.celery else 'bare consumer'}:")
        on_stand(backlog, wanted, rule('rate = "1/h"', "5s"))
    if wanted.only != "backlog":
        for wanted.times, wanted.per, wanted.windows in [(1, 0.1, 300), (10, 1, 30), (100, 1, 30)]:
            print("\nrelease:")
            on_stand(release, wanted, rule(f'times = {wanted.times}\nper = "{round(1000 * wanted.per)}ms"', "10m"))


def on_stand(part, wanted, rules):
    started = []
    with tempfile.TemporaryDirectory(prefix="oncegate-limits-") as workspace:
        pathlib.Path(workspace).chmod(0o755)
        try:
            part(Stand(pathlib.Path(workspace), started, wanted, rules), wanted)
        finally:
            for server in reversed(started):
                server.stop()


if __name__ == "__main__":
    main()
