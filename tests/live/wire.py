"""A bare AMQP client that sends what it is told, keeps every byte it gets, and reconnects or retries nothing."""

import json
import re
import socket
import struct
import time
import uuid

import pamqp.frame
from pamqp import body, commands, header, heartbeat
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue, Tx  # noqa: F401

PREAMBLE = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Closed(Exception):
    """The other side ended the connection."""


def encode(frame, channel=0):
    return pamqp.frame.marshal(frame, channel)


def publish_bytes(channel, exchange, routing_key, payload, properties=None, mandatory=False, frame_max=131072):
    """All frames of one publish."""
    properties = properties or Basic.Properties(delivery_mode=2)
    frames = [
        encode(Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory), channel),
        encode(header.ContentHeader(body_size=len(payload), properties=properties), channel),
    ]
    step = frame_max - 8
    for start in range(0, len(payload), step):
        frames.append(encode(body.ContentBody(payload[start : start + step]), channel))
    return b"".join(frames)


def task_message(task, args=(), kwargs=None, task_id=None, **headers):
    """A Celery message of protocol 2: (id, properties, body)."""
    task_id = task_id or str(uuid.uuid4())
    fields = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": repr(tuple(args))[:1000],
        "kwargsrepr": repr(kwargs or {})[:1000],
        "origin": "gen1@test",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **headers,
    }
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    payload = json.dumps([list(args), kwargs or {}, embed]).encode()
    properties = Basic.Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=fields,
        delivery_mode=2,
        priority=0,
        correlation_id=task_id,
        reply_to=str(uuid.uuid4()),
    )
    return task_id, properties, payload


def split_frames(data):
    """(type, channel, payload) of each whole frame in a byte stream that begins with a frame."""
    frames, at = [], 0
    while at + 7 <= len(data):
        kind, channel, size = struct.unpack_from(">BHI", data, at)
        if at + size + 8 > len(data):
            break
        frames.append((kind, channel, bytes(data[at + 7 : at + 7 + size])))
        at += size + 8
    return frames, bytes(data[at:])


class Raw:
    """One connection. `frames` holds every frame that came, in order, as (type, channel, payload)."""

    def __init__(self, port, timeout=60.0, host="127.0.0.1", wrap=None):
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if wrap:
            self.socket = wrap(self.socket)
        self.frames = []
        self._buffer = bytearray()
        self._timeout = timeout
        self.frame_max = 131072

    # Sending
    def send(self, data):
        self.socket.sendall(data)

    def method(self, frame, channel=0):
        self.send(encode(frame, channel))

    def publish(self, channel, exchange, routing_key, payload=b"x", properties=None, mandatory=False):
        self.send(publish_bytes(channel, exchange, routing_key, payload, properties, mandatory, self.frame_max))

    # Receiving
    def next_frame(self, timeout=None):
        """The next frame, heartbeats included."""
        end = time.monotonic() + (timeout or self._timeout)
        while True:
            if len(self._buffer) >= 7:
                kind, channel, size = struct.unpack_from(">BHI", self._buffer)
                if len(self._buffer) >= size + 8:
                    assert self._buffer[size + 7] == 0xCE, "a frame must end with 0xCE"
                    frame = (kind, channel, bytes(self._buffer[7 : 7 + size]))
                    del self._buffer[: size + 8]
                    self.frames.append(frame)
                    return frame
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no frame; the last were {[describe(f) for f in self.frames[-5:]]}")
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(262144)
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("end of file")
            self._buffer += data

    def wait(self, kind, channel=None, timeout=None):
        """Reads on until a method of this type comes, and returns it decoded."""
        while True:
            frame = self.next_frame(timeout)
            if frame[0] != METHOD or (channel is not None and frame[1] != channel):
                continue
            decoded = decode(frame)
            if isinstance(decoded, kind):
                return decoded
            if isinstance(decoded, (Connection.Close, Channel.Close)) and not self._awaits_close(kind):
                raise Closed(f"{type(decoded).__name__} {decoded.reply_code} {decoded.reply_text}")

    @staticmethod
    def _awaits_close(kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return any(k in (Connection.Close, Channel.Close, Connection.CloseOk) for k in kinds)

    def content(self, channel=None):
        """The content that follows a method with content: (header, body)."""
        head = None
        data = b""
        while head is None or len(data) < head.body_size:
            frame = self.next_frame()
            if channel is not None and frame[1] != channel or frame[0] == HEARTBEAT:
                continue
            if frame[0] == HEADER:
                head = decode(frame)
            elif frame[0] == BODY:
                data += frame[2]
        return head, data

    def until_closed(self, timeout=None):
        """Reads to the end of the connection."""
        try:
            while True:
                self.next_frame(timeout)
        except Closed:
            pass

    def until_closed_with_reply(self):
        """Waits for the broker's connection.close, answers it and reads to the end."""
        self.wait(Connection.Close)
        self.method(Connection.CloseOk())
        self.until_closed()

    def until_closed_or_reply(self, kind):
        """Waits for a reply, or for the end of the connection where the broker knows no such method."""
        try:
            self.wait((kind, Connection.Close))
        except Closed:
            pass

    # Dialogue
    def handshake(self, vhost="/", user="guest", password="guest", capabilities=None, heartbeat=0):
        self.send(PREAMBLE)
        self.wait(Connection.Start)
        properties = {"product": "test", "capabilities": CAPABILITIES if capabilities is None else capabilities}
        self.method(Connection.StartOk(client_properties=properties, response=f"\0{user}\0{password}"))
        tune = self.wait(Connection.Tune)
        self.frame_max = tune.frame_max
        self.method(Connection.TuneOk(channel_max=tune.channel_max, frame_max=tune.frame_max, heartbeat=heartbeat))
        self.method(Connection.Open(virtual_host=vhost))
        self.wait(Connection.OpenOk)
        return self

    def open_channel(self, channel=1):
        self.method(Channel.Open(), channel)
        self.wait(Channel.OpenOk, channel)
        return channel

    def call(self, frame, reply, channel=1):
        self.method(frame, channel)
        return self.wait(reply, channel)

    def declare(self, queue, channel=1, **options):
        return self.call(Queue.Declare(queue=queue, **options), Queue.DeclareOk, channel)

    def count(self, queue, channel=1):
        """How many messages a queue has ready."""
        return self.declare(queue, channel, passive=True).message_count

    def close(self):
        """Ends the connection as the protocol has it."""
        try:
            self.method(Connection.Close(200, "done", 0, 0))
            self.wait(Connection.CloseOk)
        except (Closed, OSError):
            pass
        self.socket.close()

    def drop(self):
        """Ends the connection with a bare end of file."""
        self.socket.close()


def connect(port, vhost, **options):
    return Raw(port).handshake(vhost, **options)


def decode(frame):
    kind, channel, payload = frame
    data = struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"
    return pamqp.frame.unmarshal(data)[2]


def describe(frame):
    kind, channel, payload = frame
    if kind == METHOD:
        decoded = decode(frame)
        values = {name: value for name, value in decoded}
        return f"{channel}:{decoded.name}{values}"
    return f"{channel}:{ {HEADER: 'header', BODY: 'body', HEARTBEAT: 'heartbeat'}.get(kind, kind)}[{len(payload)}]{payload[:80]!r}"


class Confirms:
    """Counts confirms of one channel; every sequence number may be confirmed once."""

    def __init__(self):
        self.acked = set()
        self.nacked = set()
        self.surplus = []
        self._lowest = 1

    def take(self, tag, multiple, positive=True):
        known = self.acked | self.nacked if multiple and tag == 0 else None
        numbers = [tag]
        if multiple:
            numbers = [n for n in range(self._lowest, tag + 1) if n not in self.acked and n not in self.nacked]
            self._lowest = max(self._lowest, tag + 1)
            if not numbers or known is not None:
                self.surplus.append((tag, multiple))
        for n in numbers:
            if n in self.acked or n in self.nacked:
                self.surplus.append((n, multiple))
            (self.acked if positive else self.nacked).add(n)

    def __len__(self):
        return len(self.acked) + len(self.nacked)


_ACK = struct.pack(">HH", 60, 80)
_NACK = struct.pack(">HH", 60, 120)


def take_confirm(confirms, frame):
    """Counts a frame if it is a confirm; false if it is none."""
    kind, _, payload = frame
    if kind != METHOD or payload[:4] not in (_ACK, _NACK):
        return False
    tag, bits = struct.unpack_from(">QB", payload, 4)
    confirms.take(tag, bool(bits & 1), payload[:4] == _ACK)
    return True


def read_confirms(client, confirms, wanted, timeout=200.0):
    """Reads confirms until this many numbers are answered. Looks at nothing else, so that it keeps up."""
    end = time.monotonic() + timeout
    while len(confirms) < wanted:
        kind, _, payload = client.next_frame(max(0.1, end - time.monotonic()))
        client.frames.clear()
        if kind != METHOD or take_confirm(confirms, (kind, 1, payload)):
            continue
        if isinstance(decode((kind, 1, payload)), (Channel.Close, Connection.Close)):
            raise Closed(describe((kind, 1, payload)))


# What the broker makes up, and so differs from one run to the next.
_MADE_UP = [
    (re.compile(rb"amq\.gen-[A-Za-z0-9_-]{22}"), b"amq.gen-MASKED"),
    (re.compile(rb"amq\.ctag-[A-Za-z0-9_-]{22}"), b"amq.ctag-MASKED"),
    (re.compile(rb".amq\.rabbitmq\.reply-to\.[A-Za-z0-9+/=_.-]+", re.S), b"amq.rabbitmq.reply-to.MASKED"),
    (re.compile(rb"og[0-9]+x[0-9]+@localhost"), b"NODE"),
]


def masked(frames, *names):
    """Frames per channel, heartbeats left out, with what the broker makes up masked."""
    channels = {}
    for kind, channel, payload in frames:
        if kind == HEARTBEAT:
            continue
        for pattern, mask in _MADE_UP:
            payload = pattern.sub(mask, payload)
        for name in names:
            payload = payload.replace(name.encode(), b"NAME")
        channels.setdefault(channel, []).append((kind, payload))
    return channels


def heartbeat_frame():
    return encode(heartbeat.Heartbeat())


__all__ = [name for name in dir() if not name.startswith("_")]
assert commands
