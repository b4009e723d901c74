"""Hostile bytes close the connection that sent them; nobody else notices."""

import random
import socket
import struct

import harness
import pytest
import wire
from wire import Basic, Confirm, Connection

RULES = """
[[rule]]
name = "watched"
task = "watched.*"
unique = "until_expired"
"""


def frame(kind, channel, payload, end=b"\xce"):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def nested_table(depth):
    """A field table with a table in a table, `depth` times: legal to read, deadly to a naive reader."""
    data = b""
    for _ in range(depth):
        data = b"\x01kF" + struct.pack(">I", len(data)) + data
    return struct.pack(">I", len(data)) + data


def nested_array(depth):
    data = b""
    for _ in range(depth):
        data = b"A" + struct.pack(">I", len(data)) + data
    return struct.pack(">I", len(data) + 2) + b"\x01k" + data


def start_ok(table):
    return frame(1, 0, struct.pack(">HH", 10, 11) + table + b"\x05PLAIN" + struct.pack(">I", 12) + b"\0guest\0guest" + b"\x05en_US")


def publish_with_headers(table, routing_key=b"bad"):
    method = frame(1, 1, struct.pack(">HHH", 60, 40, 0) + b"\x00" + bytes([len(routing_key)]) + routing_key + b"\x00")
    header = frame(2, 1, struct.pack(">HHQH", 60, 0, 1, 0x2000) + table)
    return method + header + frame(3, 1, b"x")


RNG = random.Random(7)
BEFORE_LOGIN = {
    "random bytes": RNG.randbytes(4096),
    "a browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + RNG.randbytes(200),
    "AMQP 1.0": b"AMQP\x00\x01\x00\x00",
    "AMQP 1.0 with SASL": b"AMQP\x03\x01\x00\x00",
    "preamble then noise": wire.PREAMBLE + RNG.randbytes(2000),
    "half a frame": wire.PREAMBLE + b"\x01\x00\x00\x00\x00",
    "length of 4 GiB": wire.PREAMBLE + b"\x01\x00\x00\xff\xff\xff\xff" + b"x" * 100,
    "length beyond the first frame_max": wire.PREAMBLE + frame(1, 0, b"\x00\x0a\x00\x0b" + b"x" * 300000),
    "wrong end of frame": wire.PREAMBLE + frame(1, 0, b"\x00\x0a\x00\x0b", b"\x00"),
    "empty method": wire.PREAMBLE + frame(1, 0, b""),
    "table nested 5,000 deep": wire.PREAMBLE + start_ok(nested_table(5000)),
    "array nested 5,000 deep": wire.PREAMBLE + start_ok(nested_array(5000)),
    "table longer than its frame": wire.PREAMBLE + start_ok(b"\x7f\xff\xff\xff"),
    "publish before login": wire.PREAMBLE + wire.publish_bytes(1, "", "x", b"x"),
    "start-ok twice": wire.PREAMBLE + start_ok(b"\0\0\0\0") * 2,
}
AFTER_LOGIN = {
    "random bytes": RNG.randbytes(4096),
    "half a frame": b"\x01\x00\x01\x00\x00\x01",
    "length of 4 GiB": b"\x03\x00\x01\xff\xff\xff\xff" + b"x" * 1000,
    "frame above frame_max": frame(3, 1, b"x" * 140000),
    "wrong end of frame": frame(1, 1, b"\x00\x3c\x00\x28\x00\x00\x00\x00\x00", b"\xcf"),
    "method cut short": frame(1, 1, b"\x00\x3c"),
    "publish cut short": frame(1, 1, b"\x00\x3c\x00\x28\x00\x00\xff"),
    "body larger than told": wire.encode(Basic.Publish(routing_key="x"), 1)
    + frame(2, 1, struct.pack(">HHQH", 60, 0, 2, 0))
    + frame(3, 1, b"xxxxx"),
    "header of another class": wire.encode(Basic.Publish(routing_key="x"), 1) + frame(2, 1, struct.pack(">HHQH", 50, 0, 0, 0)),
    "body of 2^63": wire.encode(Basic.Publish(routing_key="x"), 1) + frame(2, 1, struct.pack(">HHQH", 60, 0, 2**63, 0)),
    "property list that never ends": wire.encode(Basic.Publish(routing_key="x"), 1)
    + frame(2, 1, struct.pack(">HHQ", 60, 0, 1) + b"\xff\xff" * 500),
    "headers nested 5,000 deep": publish_with_headers(nested_table(5000)),
    "arrays nested 5,000 deep": publish_with_headers(nested_array(5000)),
    "headers longer than their frame": publish_with_headers(b"\x00\x00\xff\xff" + b"x" * 20),
    "unknown field type": publish_with_headers(struct.pack(">I", 4) + b"\x01kQx"),
    "heartbeat on a channel": frame(8, 1, b""),
    "heartbeat with a payload": frame(8, 0, b"boom"),
}


class Bystander:
    """A connection that works before, during and after."""

    def __init__(self, port, vhost):
        self.client = wire.connect(port, vhost)
        self.client.open_channel()
        self.client.declare("bystander", exclusive=True)
        self.client.call(Confirm.Select(), Confirm.SelectOk)
        self.sent = 0

    def check(self):
        self.sent += 1
        self.client.publish(1, "", "bystander", b"still here")
        assert self.client.wait(Basic.Ack).delivery_tag == self.sent


@pytest.fixture
def bystander(module_gate, vhost):
    bystander = Bystander(module_gate.port, vhost)
    bystander.check()
    yield bystander
    bystander.check()
    assert module_gate.direct or module_gate.process.alive()
    bystander.client.drop()


@pytest.mark.parametrize("name", BEFORE_LOGIN)
def test_before_login(module_gate, bystander, name):
    with socket.create_connection(("127.0.0.1", module_gate.port)) as bad:
        bad.settimeout(20)
        try:
            bad.sendall(BEFORE_LOGIN[name])
            bystander.check()
            bad.shutdown(socket.SHUT_WR)
            while bad.recv(65536):
                pass
        except OSError:
            # Reset or already ended.
            pass
    bystander.check()


@pytest.mark.parametrize("name", AFTER_LOGIN)
def test_after_login(module_gate, bystander, vhost, name):
    bad = wire.connect(module_gate.port, vhost)
    bad.open_channel()
    try:
        bad.send(AFTER_LOGIN[name])
        bystander.check()
        bad.socket.shutdown(socket.SHUT_WR)
        bad.until_closed(20)
    except (ConnectionError, AssertionError, OSError):
        # A reset, or an answer that is no frame: the connection is at its end either way.
        pass
    bad.drop()
    bystander.check()


def test_mutated_traffic(module_gate, bystander, vhost):
    """Whole dialogues with a few bytes turned over; the seed is fixed."""
    _, properties, payload = wire.task_message("watched.mutant", (1, "two", {"three": [4]}))
    good = wire.encode(wire.Queue.Declare(queue="mutants"), 1) + wire.publish_bytes(1, "", "mutants", payload, properties)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(RNG.randint(1, 6)):
            bad[RNG.randrange(len(bad))] = RNG.randrange(256)
        client = wire.connect(module_gate.port, vhost)
        client.open_channel()
        try:
            client.send(bytes(bad))
        except OSError:
            pass
        client.drop()
    bystander.check()


def test_deep_headers_on_a_watched_queue_are_forwarded_as_the_broker_takes_them(module_gate, raw):
    """RabbitMQ takes nesting that fits its frame; so must the proxy, and it forwards what it does not read."""
    client = raw(module_gate.port)
    client.open_channel()
    client.declare("deep")
    client.send(publish_with_headers(nested_table(1000), b"deep"))
    harness.wait_until(lambda: client.count("deep") == 1, "the message")


def test_a_body_of_100_megabytes(oncegate, raw, vhost):
    gate = oncegate(RULES)
    bystander = Bystander(gate.port, vhost)
    client = raw(gate.port)
    client.open_channel()
    client.declare("large")
    client.call(Confirm.Select(), Confirm.SelectOk)
    _, properties, _ = wire.task_message("watched.large", (1,))
    payload = b"[[" + b"1," * (50 * 1024 * 1024) + b"1], {}, {}]"
    try:
        client.publish(1, "", "large", payload, properties)
    except OSError:
        pass
    answer = client.wait((Basic.Ack, wire.Channel.Close))
    bystander.check()
    if isinstance(answer, wire.Channel.Close):
        # RabbitMQ 4 takes no message above 16 MiB.
        assert answer.reply_code == 406
    else:
        assert answer.delivery_tag == 1
        assert client.count("large") == 1
    if not gate.direct:
        gate.expect("oncegate_messages_unkeyable_total", 1, rule="watched", reason="too_large")
    bystander.client.drop()


UNREADABLE = {
    "content_type": (lambda p: setattr(p, "content_type", "application/unheard-of"), b"whatever"),
    "pickle": (lambda p: (setattr(p, "content_type", "application/x-python-serialize"), setattr(p, "content_encoding", "binary")), b"\x80\x04cos\nsystem\n"),
    "compression": (lambda p: p.headers.update(compression="application/x-gzip"), b"this is no zlib data"),
}


@pytest.mark.parametrize("reason", UNREADABLE)
def test_what_cannot_be_read_is_forwarded_and_counted(oncegate, raw, store, reason):
    gate = oncegate(RULES, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("unreadable")
    change, payload = UNREADABLE[reason]
    for _ in range(3):
        _, properties, _ = wire.task_message("watched.unreadable", (1,))
        change(properties)
        client.publish(1, "", "unreadable", payload, properties)
    harness.wait_until(lambda: client.count("unreadable") == 3, "all three")
    gate.expect("oncegate_messages_unkeyable_total", 3, rule="watched", reason=reason) if not gate.direct else None


def test_a_missing_argument_is_forwarded_and_counted(oncegate, raw, store):
    gate = oncegate('[[rule]]\nname = "w"\ntask = "watched.*"\nunique = "until_expired"\nparams = "a, b"\nkey = ["b"]\n', store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("missing")
    for _ in range(2):
        _, properties, payload = wire.task_message("watched.missing", (1,))
        client.publish(1, "", "missing", payload, properties)
    harness.wait_until(lambda: client.count("missing") == 2, "both")
    gate.expect("oncegate_messages_unkeyable_total", 2, rule="w", reason="missing_argument") if not gate.direct else None


def test_idle_connections_before_login_are_ended(oncegate):
    gate = oncegate(RULES, proxy='handshake_timeout = "1s"')
    if gate.direct:
        return
    silent = socket.create_connection(("127.0.0.1", gate.port))
    half = socket.create_connection(("127.0.0.1", gate.port))
    half.sendall(b"AMQP")
    for peer in (silent, half):
        peer.settimeout(30)
        try:
            while peer.recv(4096):
                pass
        except ConnectionError:
            pass
        peer.close()


def test_connections_beyond_the_limit_are_refused(oncegate, vhost):
    gate = oncegate(RULES, proxy="max_connections = 3")
    if gate.direct:
        return
    kept = [wire.connect(gate.port, vhost) for _ in range(3)]
    with pytest.raises((wire.Closed, OSError)):
        wire.connect(gate.port, vhost)
    kept[0].close()

    def again():
        try:
            return wire.connect(gate.port, vhost)
        except (wire.Closed, OSError):
            return None

    kept[0] = harness.wait_until(again, "a place to be free again", interval=0.2)
    for client in kept:
        client.drop()
    assert Connection
