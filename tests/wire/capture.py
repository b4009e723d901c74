#!/usr/bin/env python3
"""Captures the golden dialogues of tests/wire/golden from real clients and a real RabbitMQ.

    capture.py 127.0.0.1:5672 tests/wire/golden [scenario ...]

Needs celery[msgpack,yaml], pika and aio-pika, and a broker with the user guest and the vhost / that nobody else uses. The scenario
`blocked` runs the command of the environment variable BLOCK, which must raise the broker's memory alarm, and UNBLOCK, which lifts it.

Each scenario runs through a relay that notes every frame. What is written, for each connection in a file of its own:

    ## what the connection is
    # client|server NAME CHANNEL FIELDS     FIELDS in JSON, as pamqp (an independent codec) decodes them
    HEX                                     the frame

Text in FIELDS is a string if it is UTF-8 and {"hex": …} if not; a byte array is {"bytes": …}, a timestamp {"seconds": …}, a decimal
{"decimal": …}.
"""

import asyncio
import datetime
import decimal
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pamqp.heartbeat


class Relay:
    """Listens on a free port, passes bytes on to the broker, and keeps the frames of each connection in the order they became whole."""

    def __init__(self, broker):
        self.broker = broker
        self.connections = []
        self.threads = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.broker)
            frames = []
            self.connections.append(frames)
            lock = threading.Lock()
            for side, source, sink in (("client", client, server), ("server", server, client)):
                thread = threading.Thread(target=self._pump, args=(side, source, sink, frames, lock), daemon=True)
                thread.start()
                self.threads.append(thread)

    @staticmethod
    def _pump(side, source, sink, frames, lock):
        buffer = b""
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            with lock:
                buffer += data
                while True:
                    length = frame_length(buffer)
                    if length is None or len(buffer) < length:
                        break
                    frames.append((side, buffer[:length]))
                    buffer = buffer[length:]
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return

    def finish(self):
        for thread in self.threads:
            thread.join(10)
        self.listener.close()
        return [frames for frames in self.connections if frames]


def frame_length(buffer):
    if buffer[:4] == b"AMQP":
        return 8
    if len(buffer) < 7:
        return None
    return 8 + struct.unpack_from(">L", buffer, 3)[0]


def plain(value):
    """What pamqp decoded, in JSON."""
    if isinstance(value, bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    if isinstance(value, datetime.datetime):
        return {"seconds": int(value.timestamp())}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def described(raw):
    _, channel, frame = pamqp.frame.unmarshal(raw)
    if isinstance(frame, pamqp.header.ProtocolHeader):
        return "protocol-header", 0, {"version": [frame.major_version, frame.minor_version, frame.revision]}
    if isinstance(frame, pamqp.heartbeat.Heartbeat):
        return "heartbeat", channel, {}
    if isinstance(frame, pamqp.body.ContentBody):
        return "body", channel, {"size": len(frame)}
    if isinstance(frame, pamqp.header.ContentHeader):
        properties = {name: value for name, value in dict(frame.properties).items() if value is not None}
        return "header", channel, {"body_size": frame.body_size, "properties": plain(properties)}
    name = re.sub(r"(?<=[a-z])([A-Z])", r"-\1", frame.name).lower()
    return name, channel, plain(dict(frame))


def write(path, title, frames):
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"## {title}\n")
        for side, raw in frames:
            name, channel, fields = described(raw)
            out.write(f"# {side} {name} {channel} {json.dumps(fields, ensure_ascii=False)}\n{raw.hex()}\n")


def celery_app(port, **settings):
    import celery

    app = celery.Celery("tasks", broker=f"amqp://guest:guest@127.0.0.1:{port}//", set_as_default=False)
    app.conf.update(**settings)

    @app.task(name="tasks.add", shared=False)
    def add(x, y, **_):
        return x + y

    @app.task(name="tasks.late", shared=False, acks_late=True, bind=True, max_retries=1)
    def late(self):
        raise self.retry(countdown=0)

    @app.task(name="tasks.rejected", shared=False, acks_late=True, bind=True)
    def rejected(self):
        raise celery.exceptions.Reject("no", requeue=False)

    return app


def celery_produce(port):
    """Celery's producer with its defaults: serializers, eta, expires, priority, a group, a chain, protocol 1"""
    import celery

    app = celery_app(port)
    add = app.tasks["tasks.add"]
    add.delay(1, 2)
    for serializer in ("msgpack", "yaml", "pickle"):
        add.apply_async((1, "zwei"), {"key": [None, True, 2.5]}, serializer=serializer)
    add.apply_async((1, 2), compression="gzip", task_id="11111111-2222-4333-8444-555555555555")
    add.apply_async((1, 2), countdown=3600, expires=7200, priority=5, headers={"x-number": 2**40, "x-float": 1.5, "x-list": [1, {"a": None}]})
    add.apply_async((1, 2), shadow="another name", time_limit=30, soft_time_limit=20, expiration=60)
    celery.group(add.s(1, 1), add.s(2, 2))()
    (add.s(1, 1) | add.s(2)).apply_async()
    celery_app(port, task_protocol=1).tasks["tasks.add"].delay(1, 2)
    app.control.purge()
    app.close()


def celery_confirm(port):
    """Celery's producer with confirm_publish and an rpc result backend, which replies to a queue of its own"""
    app = celery_app(port, broker_transport_options={"confirm_publish": True}, result_backend="rpc://")
    app.tasks["tasks.add"].delay(3, 4)
    app.tasks["tasks.add"].apply_async((5, 6), queue="celery")
    app.control.purge()
    app.close()


def celery_work(port):
    """A Celery worker with events, remote control, late acks, a retry and a rejected task"""
    app = celery_app(port, worker_prefetch_multiplier=2)
    worker = threading.Thread(
        target=lambda: app.Worker(pool="solo", hostname="worker@localhost", task_events=True, loglevel="ERROR", without_mingle=False).start()
    )
    worker.start()
    time.sleep(4)
    app.tasks["tasks.add"].delay(1, 2)
    app.tasks["tasks.late"].delay()
    app.tasks["tasks.rejected"].delay()
    app.tasks["tasks.add"].apply_async((1, 2), countdown=1)
    time.sleep(4)
    app.control.ping(timeout=1)
    app.control.revoke("11111111-2222-4333-8444-555555555555")
    app.control.shutdown()
    worker.join(20)
    app.close()


def py_amqp(port):
    """py-amqp: every type of field it can write, get, reject, nack, recover, transactions, exchange to exchange, unbind, delete"""
    import amqp

    connection = amqp.Connection(f"127.0.0.1:{port}", userid="guest", password="guest", heartbeat=0)
    connection.connect()
    channel = connection.channel()
    channel.exchange_declare("wire.source", "topic", auto_delete=False)
    channel.exchange_declare("wire.target", "fanout", auto_delete=False)
    channel.exchange_bind("wire.target", "wire.source", "a.#")
    channel.queue_declare("wire.queue", durable=True, auto_delete=False, arguments={"x-max-length": 100})
    channel.queue_bind("wire.queue", "wire.target", "")
    headers = {
        "bool": True,
        "small": 1,
        "negative": -5,
        "large": 2**40,
        "float": -0.25,
        "decimal": decimal.Decimal("3.14"),
        "text": "grüße",
        "bytes": b"\x00\xff\xfe",
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "none": None,
        "table": {"nested": {"deeper": [1, [2, {}]]}},
        "empty": {},
        "list": [],
    }
    message = amqp.Message(
        "body",
        content_type="text/plain",
        content_encoding="utf-8",
        application_headers=headers,
        delivery_mode=2,
        priority=9,
        correlation_id="correlation",
        reply_to="reply",
        expiration="60000",
        message_id="message",
        timestamp=1767323045,
        type="type",
        user_id="guest",
        app_id="app",
        cluster_id="cluster",
    )
    channel.basic_publish(message, "wire.source", "a.b", mandatory=True)
    channel.basic_publish(amqp.Message("second"), "wire.source", "a.c")
    time.sleep(0.5)
    first = channel.basic_get("wire.queue")
    second = channel.basic_get("wire.queue")
    channel.basic_reject(second.delivery_tag, requeue=True)
    channel.basic_recover(requeue=True)
    channel.basic_get("wire.queue", no_ack=True)
    tx = connection.channel()
    tx.tx_select()
    tx.basic_publish(amqp.Message("in a transaction"), "wire.source", "a.d")
    tx.tx_commit()
    tx.basic_publish(amqp.Message("rolled back"), "wire.source", "a.e")
    tx.tx_rollback()
    tx.close()
    channel.flow(True)
    channel.queue_purge("wire.queue")
    channel.basic_get("wire.queue")
    channel.queue_unbind("wire.queue", "wire.target", "")
    channel.exchange_unbind("wire.target", "wire.source", "a.#")
    channel.queue_delete("wire.queue", if_empty=True)
    channel.exchange_delete("wire.source")
    channel.exchange_delete("wire.target")
    connection.close()
    assert first is not None


def pika_connection(port, **parameters):
    import pika

    credentials = pika.PlainCredentials("guest", "guest")
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, credentials=credentials, **parameters))


def pika_publish(port):
    """pika: confirms, a return, a body of several frames, an empty body, deliveries, multiple acks, nacks, dead letters with x-death"""
    import pika

    connection = pika_connection(port, heartbeat=60, frame_max=4096)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("wire.dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "wire.dead"}
    name = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    headers = {
        "int": 1,
        "long": 2**40,
        "decimal": decimal.Decimal("3.14"),
        "bytes": b"\x00\xff",
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "none": None,
        "list": ["a", 1, [False]],
        "table": {"a": {"b": "c"}},
    }
    channel.basic_publish("", name, bytes(i % 251 for i in range(10_000)), pika.BasicProperties(headers=headers, delivery_mode=2))
    channel.basic_publish("", name, b"")
    for body in (b"one", b"two", b"three"):
        channel.basic_publish("", name, body, pika.BasicProperties(message_id=body.decode()))
    try:
        channel.basic_publish("", "wire.nowhere", b"returned", mandatory=True)
    except pika.exceptions.UnroutableError:
        pass
    channel.basic_qos(prefetch_count=10)
    tags = []
    for method, _, body in channel.consume(name, inactivity_timeout=1):
        if method is None:
            break
        tags.append(method.delivery_tag)
    channel.basic_ack(tags[1], multiple=True)
    channel.basic_nack(tags[2], requeue=False)
    channel.basic_reject(tags[3], requeue=False)
    channel.basic_nack(tags[4], requeue=True)
    channel.cancel()
    time.sleep(0.5)
    channel.basic_get("wire.dead", auto_ack=True)
    channel.queue_delete("wire.dead")
    connection.close()


def pika_errors(port):
    """pika: a publish to an exchange that is not there, an ack of an unknown tag, and a method that the broker refuses for good"""
    import pika

    connection = pika_connection(port)
    for provoke in (
        lambda channel: channel.basic_publish("wire.no-such-exchange", "key", b"body"),
        lambda channel: channel.basic_ack(99),
        lambda channel: channel.queue_declare("wire.no-such-queue", passive=True),
    ):
        channel = connection.channel()
        try:
            provoke(channel)
            connection.process_data_events(1)
        except pika.exceptions.ChannelClosedByBroker:
            pass
    channel = connection.channel()
    try:
        channel.basic_qos(prefetch_size=10)
        connection.process_data_events(1)
    except pika.exceptions.AMQPError:
        pass


def pika_secret(port):
    """pika: an exclusive consumer, a consumer cancelled by the broker, a new secret"""
    connection = pika_connection(port, client_properties={"connection_name": "wire"})
    channel = connection.channel()
    channel.queue_declare("wire.cancelled")
    channel.basic_consume("wire.cancelled", lambda *_: None, exclusive=True, consumer_tag="wire-tag")
    other = connection.channel()
    other.queue_delete("wire.cancelled")
    connection.process_data_events(1)
    try:
        connection.update_secret("wire-secret", "renewed")
    except Exception:
        return
    connection.close()


def blocked(port):
    """pika: a publisher that the broker blocks because of a memory alarm, and heartbeats"""
    connection = pika_connection(port, heartbeat=2)
    channel = connection.channel()
    subprocess.run(os.environ["BLOCK"], shell=True, check=True, stdout=subprocess.DEVNULL)
    channel.basic_publish("", "wire.nowhere", b"body")
    connection.process_data_events(2)
    subprocess.run(os.environ["UNBLOCK"], shell=True, check=True, stdout=subprocess.DEVNULL)
    connection.process_data_events(3)
    connection.close()


def aio_pika(port):
    """aio-pika: confirms, headers, a consumer, a queue with arguments"""
    import aio_pika as aio

    async def talk():
        connection = await aio.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=5)
        queue = await channel.declare_queue("wire.aio", auto_delete=True, arguments={"x-message-ttl": 60000})
        exchange = await channel.declare_exchange("wire.aio", aio.ExchangeType.DIRECT, auto_delete=True)
        await queue.bind(exchange, "key")
        headers = {"int": 7, "large": 2**40, "float": 0.5, "text": "wört", "bytes": bytearray(b"\x01\x80"), "list": [1, "a"], "table": {"a": True}, "none": None}
        message = aio.Message(b"body", headers=headers, content_type="text/plain", correlation_id="c", expiration=60, priority=3)
        await exchange.publish(message, "key")
        try:
            await exchange.publish(aio.Message(b"nobody"), "other", mandatory=True)
        except aio.exceptions.PublishError:
            pass
        async with queue.iterator() as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                break
        await queue.unbind(exchange, "key")
        await queue.delete()
        await connection.close()

    asyncio.run(talk())


SCENARIOS = (celery_produce, celery_confirm, celery_work, py_amqp, pika_publish, pika_errors, pika_secret, blocked, aio_pika)


def main():
    host, port = sys.argv[1].split(":")
    wanted = sys.argv[3:]
    for scenario in SCENARIOS:
        if wanted and scenario.__name__ not in wanted:
            continue
        relay = Relay((host, int(port)))
        scenario(relay.port)
        for number, frames in enumerate(relay.finish(), 1):
            write(os.path.join(sys.argv[2], f"{scenario.__name__}_{number}.txt"), scenario.__doc__, frames)


if __name__ == "__main__":
    main()
