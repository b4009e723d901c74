#!/usr/bin/env python3
"""Writes tests/celery/signals.jsonl: what workers and their controllers tell about tasks, as it is on the wire.

    target/venv/bin/python tests/celery/signals.py

Starts a RabbitMQ and a Redis of its own, and real workers with each serializer and both result backends. Task messages are left out
(see generate.py). What else passes between Celery and RabbitMQ is noted by the relay of tests/wire/capture.py, and what the Redis
backend publishes by a subscriber. The value of each message is what kombu itself reads from it.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# Node names and tracebacks then say nothing about the machine.
socket.gethostname = lambda: "localhost"

import celery
import celery.exceptions
import kombu.serialization
import pamqp.commands
import pamqp.frame
import pamqp.header
from celery.backends.base import decompress_payload

HERE = Path(__file__).resolve().parent
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
EVENT_FIELDS = ["type", "uuid", "hostname", "timestamp", "terminated", "expired", "signum", "requeue", "retries", "freq", "active"]
NODE = "w1@worker.example.com"


def make_app(settings):
    app = celery.Celery("shop", broker=settings["broker"], backend=settings["backend"], set_as_default=False)
    serializer = settings["serializer"]
    app.conf.update(
        task_serializer=serializer,
        result_serializer=serializer,
        event_serializer=serializer,
        accept_content=SERIALIZERS,
        task_default_queue="orders",
        task_send_sent_event=True,
        task_track_started=True,
        worker_prefetch_multiplier=10,
        **settings["conf"],
    )

    @app.task(name="shop.add", shared=False)
    def add(x, y):
        return x + y

    @app.task(name="shop.fail", shared=False)
    def fail():
        raise ValueError("no")

    @app.task(name="shop.again", shared=False, bind=True, max_retries=1)
    def again(self):
        if not self.request.retries:
            raise self.retry(countdown=0, exc=ValueError("once more"))

    @app.task(name="shop.ignore", shared=False)
    def ignore():
        raise celery.exceptions.Ignore()

    @app.task(name="shop.reject", shared=False, bind=True, acks_late=True)
    def reject(self, requeue):
        if not self.request.delivery_info["redelivered"]:
            raise celery.exceptions.Reject("no", requeue=requeue)

    @app.task(name="shop.sleep", shared=False)
    def sleep(seconds):
        time.sleep(seconds)

    @app.task(name="shop.limited", shared=False, time_limit=1)
    def limited():
        time.sleep(60)

    @app.task(name="shop.custom", shared=False, bind=True)
    def custom(self):
        self.send_event("task-progress", percent=50)
        self.send_event("shop-custom", text="grüße")

    return app


def work(settings):
    app = make_app(settings)
    worker = app.Worker(pool=settings["pool"], concurrency=2, hostname=NODE, task_events=True, loglevel="ERROR")
    worker.start()
    sys.exit(worker.exitcode or 0)


class Published:
    """Collects what the Redis backend publishes."""

    def __init__(self, client):
        self.client = client
        self.messages = []
        self.pubsub = client.pubsub()
        self.pubsub.psubscribe("*")
        assert self.pubsub.get_message(timeout=10)["type"] == "psubscribe"
        self.stopping = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while not self.stopping.is_set():
            message = self.pubsub.get_message(timeout=0.1)
            if message and message["type"] == "pmessage":
                self.messages.append((message["channel"], message["data"]))

    def finish(self):
        time.sleep(0.5)
        assert self.reader.is_alive(), "nobody listened"
        self.stopping.set()
        self.reader.join()
        self.pubsub.close()
        return self.messages


def act(app, worker, settings):
    """Everything that can happen to a task, and what can be asked of a worker."""
    solo = settings["pool"] == "solo"
    tasks, control = app.tasks, app.control
    nodes = [NODE]
    while not control.ping(destination=nodes, timeout=1):
        assert worker.poll() is None, "the worker ended"
    tasks["shop.add"].delay(1, 2)
    for name in ("fail", "again", "ignore", "custom"):
        tasks[f"shop.{name}"].delay()
    for requeue in (False, True):
        tasks["shop.reject"].delay(requeue)
    tasks["shop.add"].apply_async((1, 2), countdown=2, expires=1)
    held = [tasks["shop.add"].apply_async((1, n), countdown=4).id for n in range(3)]
    asleep = tasks["shop.sleep"].delay(2).id
    app.send_task("shop.unknown")
    time.sleep(1)
    control.inspect(destination=nodes, timeout=1).query_task([asleep, held[0], "unknown"])
    control.inspect(destination=nodes, timeout=1).query_task("unknown")
    control.inspect(destination=nodes, timeout=1)._request("no-such-method")
    control.revoke(held[0], reply=True)
    control.revoke(held[1:], destination=nodes)
    control.revoke([])
    control.revoke_by_stamped_headers({"dedup": ["K1"]})
    control.rate_limit("shop.add", "100/s", reply=True)
    control.rate_limit("shop.add", 50, destination=nodes)
    control.broadcast("ping", pattern="w1@*", matcher="glob", reply=True)
    control.disable_events(reply=True)
    control.enable_events(destination=nodes, reply=True)
    control.time_limit("shop.limited", soft=30, hard=1)
    control.broadcast("heartbeat")
    time.sleep(1)
    if not solo:
        terminated = [tasks["shop.sleep"].delay(60).id for _ in range(2)]
        time.sleep(1)
        control.revoke(terminated[:1], terminate=True, signal="SIGKILL", reply=True)
        control.broadcast("terminate", arguments={"signal": "TERM", "task_id": terminated[1]})
        tasks["shop.limited"].delay()
    time.sleep(3)
    if not solo:
        tasks["shop.sleep"].delay(60)
        time.sleep(1)
    if settings["serializer"] == "json" and not settings["conf"] and settings["backend"] != "rpc://":
        obey(app, settings["rabbitmq"])
    # A cold shutdown cancels what runs; a prefork worker takes it at once.
    worker.send_signal(signal.SIGTERM if solo else signal.SIGQUIT)
    try:
        worker.wait(30)
    except subprocess.TimeoutExpired:
        worker.kill()
        raise


def obey(app, port):
    """Has a worker obey the messages of asked.jsonl, which are those that tests/celery/signals.rs makes."""
    from wire import Basic, Raw, body, encode

    for task_id in ("held-1", "held-2"):
        app.tasks["shop.add"].apply_async((1, 2), countdown=60, task_id=task_id)
    raw = Raw(port).handshake()
    raw.open_channel()
    raw.declare("oncegate.answers", exclusive=True)
    raw.call(Basic.Consume(queue="oncegate.answers", no_ack=True), Basic.ConsumeOk)
    time.sleep(1)
    said = {}
    for line in (HERE / "asked.jsonl").read_text(encoding="ascii").splitlines():
        row = json.loads(line)
        header = bytes.fromhex(row["header"])
        out = encode(Basic.Publish(exchange=row["exchange"], routing_key=""), 1)
        out += struct.pack(">BHI", 2, 1, len(header)) + header + b"\xce"
        raw.send(out + encode(body.ContentBody(row["body"].encode()), 1))
        if "ticket" not in row["body"]:
            continue
        raw.wait(Basic.Deliver)
        _, _, header = raw.next_frame()
        _, _, answer = raw.next_frame()
        assert json.loads(row["body"])["ticket"].encode() in header, header
        said[row["name"]] = json.loads(answer)[NODE]
    assert said["enable_events"] == {"ok": "task events already enabled"}, said
    assert set(said["query_task"]) == {"held-1", "held-2"}, said
    assert said["query_task"]["held-1"][1]["acknowledged"] is False, said
    assert "held-1" in said["revoke"]["ok"] and "flagged as revoked" in said["revoke"]["ok"], said
    for task_id in ("held-1", "held-2"):
        end = time.monotonic() + 10
        while app.AsyncResult(task_id).state != "REVOKED":
            assert time.monotonic() < end, f"{task_id} was not revoked"
            time.sleep(0.05)
    raw.close()


def contents(frames):
    """The messages that the client of a connection published, and the binds."""
    open_contents = {}
    for side, raw in frames:
        if side != "client" or raw[:4] == b"AMQP":
            continue
        _, channel, frame = pamqp.frame.unmarshal(raw)
        if isinstance(frame, pamqp.commands.Queue.Bind):
            yield "bind", frame
        elif isinstance(frame, pamqp.commands.Basic.Publish):
            open_contents[channel] = [frame, None, None, b""]
            continue
        content = open_contents.get(channel)
        if content is None:
            continue
        if isinstance(frame, pamqp.header.ContentHeader):
            content[1], content[2] = frame, raw[7:-1]
        elif raw[0] == 3:
            content[3] += raw[7:-1]
        else:
            continue
        if len(content[3]) >= content[1].body_size:
            yield "publish", open_contents.pop(channel)


def load(body, content_type, content_encoding):
    return kombu.serialization.loads(body, content_type, content_encoding, force=True)


def row_of(settings, publish, header, raw, body):
    """A row for a message that is no task; None for a task."""
    properties = header.properties
    headers = properties.headers or {}
    if "task" in headers:
        return None
    value = load(body, properties.content_type, properties.content_encoding)
    row = {"exchange": publish.exchange, "routing_key": publish.routing_key, "header": raw.hex(), "body": body.hex()}
    conf = settings["conf"]
    if publish.exchange == conf.get("event_exchange", "celeryev"):
        events = value if isinstance(value, list) else [value]
        return {"kind": "event", **row, "batch": isinstance(value, list), "value": [{f: e[f] for f in EVENT_FIELDS if f in e} for e in events]}
    if publish.exchange == conf.get("control_exchange", "celery") + ".pidbox":
        return {"kind": "control", **row, "value": value}
    if "ticket" in headers:
        return {"kind": "reply", **row, "ticket": headers["ticket"], "value": value}
    assert publish.exchange == "" and properties.correlation_id, publish
    return {"kind": "rpc", **row, "value": {"task_id": value["task_id"], "status": value["status"]}}


def run(name, settings):
    sys.path[:0] = [str(HERE.parent / "wire"), str(HERE.parent / "live")]
    from capture import Relay

    relay = Relay(("127.0.0.1", settings["rabbitmq"]))
    settings["broker"] = f"amqp://guest:guest@127.0.0.1:{relay.port}//"
    published = Published(settings.pop("redis_client"))
    # A worker that reads pickles refuses to run as root otherwise.
    worker = subprocess.Popen([sys.executable, __file__, json.dumps(settings)], env={**os.environ, "C_FORCE_ROOT": "1"})
    app = make_app(settings)
    try:
        act(app, worker, settings)
    finally:
        worker.kill()
        worker.wait()
        app.close()
    stored = published.finish()
    heartbeats = number = 0
    binds = set()
    for frames in list(relay.connections):
        for what, content in contents(list(frames)):
            if what == "bind":
                if (content.queue, content.exchange) in binds:
                    continue
                binds.add((content.queue, content.exchange))
                row = {"kind": "bind", "queue": content.queue, "exchange": content.exchange, "routing_key": content.routing_key}
            else:
                row = row_of(settings, *content)
            if row is None:
                continue
            if row["kind"] == "event" and row["routing_key"] == "worker.heartbeat":
                heartbeats += 1
                if heartbeats > 2:
                    continue
            number += 1
            yield {"name": f"{name}/{number}", **row}
    codec = kombu.serialization.registry.name_to_type[settings["serializer"]]
    for key, data in stored:
        if b"celery-task-meta-" not in key:
            continue
        number += 1
        value = load(decompress_payload(data), codec, "utf-8" if settings["serializer"] in ("json", "yaml") else "binary")
        yield {
            "name": f"{name}/{number}",
            "kind": "stored",
            "channel": key.decode(),
            "body": data.hex(),
            "value": {"task_id": value["task_id"], "status": value["status"]},
        }


def main():
    sys.path[:0] = [str(HERE.parent / "live")]
    import harness
    import redis

    with tempfile.TemporaryDirectory() as directory:
        broker = harness.RabbitMQ(directory).start()
        store = harness.Redis(directory).start()
        try:
            with open(HERE / "signals.jsonl", "w", encoding="ascii") as out:
                for name, pool, serializer, backend, conf in (
                    *((f"{serializer}/redis", "prefork", serializer, store.url, {}) for serializer in SERIALIZERS),
                    *((f"{serializer}/rpc", "solo" if serializer == "yaml" else "prefork", serializer, "rpc://", {}) for serializer in SERIALIZERS),
                    ("json/prefixed", "solo", "json", store.url, PREFIXED),
                ):
                    print(name, flush=True)
                    settings = {"rabbitmq": broker.port, "redis_client": redis.Redis(port=store.port), "serializer": serializer}
                    settings.update(pool=pool, backend=backend, conf=conf)
                    for row in run(name, settings):
                        out.write(json.dumps(row, default=repr) + "\n")
        finally:
            store.stop()
            broker.stop()


PREFIXED = {
    "result_backend_transport_options": {"global_keyprefix": "shop"},
    "result_compression": "gzip",
    "result_extended": True,
    "control_exchange": "shop.control",
    "event_exchange": "shopev",
    "event_queue_prefix": "shopev",
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(json.loads(sys.argv[1]))
    else:
        main()
