"""Writes the messages that tests/celery.rs reads: what Celery itself would publish, and what Python reads from it.

    python3 -m venv venv && venv/bin/pip install celery==5.7.0 msgpack pyyaml brotli backports.zstd tzdata
    venv/bin/python tests/celery/generate.py

Nothing is sent: the publish of kombu's producer is intercepted, and the content header is made by py-amqp.
"""

import json
import pickle
import random
import struct
import uuid
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from zoneinfo import ZoneInfo

import amqp
import kombu.messaging
import yaml
from celery import Celery, chain, chord, group
from kombu import compression, serialization

HERE = Path(__file__).parent
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
COMPRESSIONS = [None, "gzip", "bzip2", "lzma", "zstd", "brotli"]
UTC = timezone.utc


def describe(value):
    """A text that is equal for two values only if they are equal and of the same types."""
    if value is None or value is True or value is False:
        return json.dumps(value)
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return "f" + ("nan" if value != value else struct.pack(">d", value).hex())
    if type(value) is str:
        return json.dumps(value)
    if type(value) is bytes:
        return "b" + value.hex()
    if type(value) is list:
        return "[" + ",".join(map(describe, value)) + "]"
    if type(value) is tuple:
        return "(" + ",".join(map(describe, value)) + ")"
    if type(value) in (set, frozenset):
        return "<" + ",".join(sorted(map(describe, value))) + ">"
    if type(value) is dict:
        return "{" + ",".join(sorted(describe(k) + ":" + describe(v) for k, v in value.items())) + "}"
    if type(value) in (datetime, time) and value.tzinfo is not None and type(value.tzinfo) is not timezone:
        return None
    if type(value) in (datetime, date, time):
        return f"@datetime.{type(value).__name__}({json.dumps(value.isoformat())})"
    if type(value) is timedelta:
        return f"@datetime.timedelta({value.days},{value.seconds},{value.microseconds})"
    if type(value) is Decimal:
        return f"@decimal.Decimal({json.dumps(str(value))})"
    if type(value) is uuid.UUID:
        return f"@uuid.UUID({json.dumps(str(value))})"
    if type(value) is OrderedDict:
        return "@collections.OrderedDict(" + describe(list(value.items())) + ")"
    if type(value) is bytearray:
        return f"@bytearray(b{value.hex()})"
    if type(value) is complex:
        return f"@complex({describe(value.real)},{describe(value.imag)})"
    raise TypeError(type(value))


def milliseconds(text):
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


captured = []


def publish(self, body, priority, content_type, content_encoding, headers, properties, *args, **kwargs):
    captured.append((body, priority, content_type, content_encoding, headers, properties))


kombu.messaging.Producer._publish = publish

app = Celery("shop", broker="memory://", backend="cache+memory://")
app.conf.task_default_queue = "orders"


@app.task(name="shop.add")
def add(*args, **kwargs):
    return args


@app.task(name="shop.unsure", ignore_result=True)
def ignored(*args, **kwargs):
    return args


def message(name, captured_message):
    body, priority, content_type, content_encoding, headers, properties = captured_message
    body = body.encode() if isinstance(body, str) else body
    wire = amqp.Message(
        body, priority=priority, content_type=content_type, content_encoding=content_encoding, application_headers=headers, **properties
    )
    content_header = struct.pack(">HHQ", 60, 0, len(body)) + wire._serialize_properties()
    plain = compression.decompress(body, headers["compression"]) if headers.get("compression") else body
    value = serialization.loads(plain, content_type, content_encoding, force=True)
    if isinstance(value, dict):
        args, kwargs, embed, source = value["args"], value["kwargs"], value, value
    else:
        (args, kwargs, embed), source = value, headers
    limits = source.get("timelimit") or (None, None)
    return {
        "name": name,
        "header": content_header.hex(),
        "body": body.hex(),
        "args": describe(args),
        "kwargs": describe(kwargs),
        "canvas": [bool(embed.get(part)) for part in ("callbacks", "errbacks", "chain", "chord")],
        "task": {
            "protocol": 1 if source is value else 2,
            "name": source["task"],
            "id": source["id"],
            "retries": source.get("retries") or 0,
            "replaced_task_nesting": source.get("replaced_task_nesting") or 0,
            "eta": milliseconds(source.get("eta")),
            "expires": milliseconds(source.get("expires")),
            "group": bool(source.get("group") or source.get("taskset")),
            "parent_id": source.get("parent_id"),
            "root_id": source.get("root_id"),
            "origin": source.get("origin"),
            "timelimit": list(limits),
            "ignore_result": source.get("ignore_result"),
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "priority": priority,
            "celery_beat_task": "celery_beat_task" in headers,
            "periodic_task_name": "periodic_task_name" in headers,
        },
    }


def calls(serializer):
    """Each kind of call, by name."""
    options = {"serializer": serializer}
    rich = serializer in ("json", "pickle")
    numbers = [1, -1, 1.0, 0.1, -0.0, 1e300, 2**40, -(2**63), True, None]
    numbers += [] if serializer == "msgpack" else [2**63, -(2**63) - 1, 10**40, float("inf"), float("-inf"), float("nan")]
    yield "plain", lambda: add.apply_async((1, 2), {"x": 3}, **options)
    yield "none", lambda: add.apply_async(**options)
    yield "numbers", lambda: add.apply_async((numbers,), **options)
    yield "text", lambda: add.apply_async(("", "é", "😀\u2028", "a\\b\"'\n\t\0", "0", "null", "yes", "1e3", "2026-01-02", " x ", "#", "x" * 300), **options)
    yield "nested", lambda: add.apply_async((((1, (2, ())), [{"a": [{"b": {}}]}]),), {"é": {"k": [None]}}, **options)
    yield "eta", lambda: add.apply_async((1,), eta=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))), **options)
    yield "eta_naive", lambda: add.apply_async((1,), eta=datetime(2030, 1, 2, 3, 4, 5), **options)
    yield "countdown_expires", lambda: add.apply_async((1,), countdown=60, expires=120, **options)
    yield "limits", lambda: add.apply_async((1,), time_limit=30, soft_time_limit=20.5, priority=7, shadow="other.name", **options)
    yield "given_id", lambda: add.apply_async((1,), task_id="order-é-1", root_id="r", parent_id="p", **options)
    yield "send_task", lambda: app.send_task("far.away", (1,), {"b": 2}, **options)
    yield "ignored", lambda: ignored.apply_async((1,), **options)
    yield "headers", lambda: add.apply_async((1,), headers={"x-oncegate-key": "K1", "x-oncegate-ttl": 60, "celery_beat_task": True}, **options)
    yield "periodic", lambda: add.apply_async((1,), headers={"periodic_task_name": "nightly"}, **options)
    yield "stamp", lambda: add.signature((1,), options=options).stamp(**{"x-oncegate-key": "K2", "other": ["a", "b"]}).apply_async()
    yield "stamp_list", lambda: add.signature((1,), options=options).stamp(**{"x-oncegate-key": ["K3"]}).apply_async()
    yield "links", lambda: add.apply_async((1,), link=add.s(2), link_error=add.s(3), **options)
    yield "chain", lambda: chain(add.s(1).set(**options), add.s(2), add.s(3)).apply_async()
    yield "group", lambda: group(add.s(1).set(**options), add.s(2).set(**options)).apply_async()
    yield "chord", lambda: chord([add.s(1).set(**options), add.s(2).set(**options)])(add.s(9))
    yield "replaced", lambda: add.apply_async((1,), replaced_task_nesting=2, **options)
    yield "retry", lambda: retry(options)
    if serializer in ("pickle", "yaml", "msgpack"):
        yield "bytes", lambda: add.apply_async((b"", b"\xff\0", b"abc"), **options)
    if serializer in ("pickle", "yaml"):
        yield "set", lambda: add.apply_async(({1, 2, 3},), **options)
    if serializer == "yaml":
        yield "dates", lambda: add.apply_async((date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 60), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)), **options)
    if rich:
        moments = (datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(-timedelta(hours=5, minutes=30))), date(2026, 1, 2), time(1, 2))
        yield "rich", lambda: add.apply_async((*moments, uuid.UUID(int=5), Decimal("1.10"), b"abc", b"\xff\0"), **options)


def retry(options):
    add.push_request(
        args=(1, 2), kwargs={"x": 3}, called_directly=False, id="retried-1", root_id="root-1", retries=1, is_eager=False, delivery_info={}, **options
    )
    try:
        add.retry(countdown=10, throw=False)
    finally:
        add.pop_request()


def messages():
    for protocol in (2, 1):
        app.conf.task_protocol = protocol
        app.amqp.__dict__.pop("create_task_message", None)
        for serializer in SERIALIZERS:
            for name, call in calls(serializer):
                if serializer == "yaml" and name in ("links", "chain", "chord"):
                    continue  # PyYAML cannot represent signatures.
                if protocol == 1 and name in ("chain", "chord", "stamp", "stamp_list", "replaced", "group"):
                    continue
                captured.clear()
                call()
                assert captured, name
                for number, sent in enumerate(captured):
                    yield message(f"v{protocol}/{serializer}/none/{name}/{number}", sent)
            for method in COMPRESSIONS[1:]:
                captured.clear()
                add.apply_async((1, ["abc" * 50]), {"x": "é"}, serializer=serializer, compression=method)
                yield message(f"v{protocol}/{serializer}/{method}/plain/0", captured[0])


def random_value(dice, depth=0):
    kind = dice.randrange(7 if depth > 4 else 10)
    if kind == 0:
        return dice.choice([None, True, False])
    if kind in (1, 2):
        return dice.choice([0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**200, -(3**300), dice.randrange(10**6)])
    if kind == 3:
        return dice.choice([0.0, -0.0, 1.0, 0.1, 1e-310, 1e22, -1.5, float("inf"), float("-inf"), dice.random()])
    if kind in (4, 5, 6):
        return "".join(dice.choice("aZ0 \n\\\"'\r\x00\x1a\x7f\x80éÿĀ☃😀") for _ in range(dice.choice([0, 1, 3, 20, 300])))
    if kind in (7, 8):
        return [random_value(dice, depth + 1) for _ in range(dice.choice([0, 1, 2, 3, 5]))]
    return {f"k{dice.randrange(50)}": random_value(dice, depth + 1) for _ in range(dice.choice([0, 1, 2, 4]))}


def json_values():
    dice = random.Random(20261121)
    values = [random_value(dice) for _ in range(150)]
    shared = ["text that is long enough", {"a": 1}]
    values += [[shared, shared, {"x": shared, "text that is long enough": shared[0]}], list(range(1100)), {f"n{n}": n for n in range(1100)}]
    values += [[[]] * 20, [{}] * 3]
    for value in values:
        text = json.dumps(value)
        copied = json.loads(text)
        yield {
            "json": text,
            "pickles": [pickle.dumps(value, protocol).hex() for protocol in range(6)] + [pickle.dumps(copied, protocol).hex() for protocol in (0, 2, 4)],
        }
    long = "x" * 70_000  # More than a frame.
    yield {"json": json.dumps(long), "pickles": [pickle.dumps(long, 4).hex()]}


Point = namedtuple("Point", "x y")


class Color(Enum):
    RED = 1
    BLUE = 2


class Order:
    def __init__(self, number, **more):
        self.number = number
        self.__dict__.update(more)


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Text(str):
    pass


class Items(list):
    pass


def known_objects():
    """Values of types that every protocol gives back as the same value."""
    tz = timezone(timedelta(hours=5, minutes=45))
    return [
        datetime(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime(2026, 1, 2, 3, 4, 5, 7),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(seconds=-3661, microseconds=5))),
        datetime(1, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59, 999999),
        date(2026, 1, 2),
        date(2026, 1, 3),
        time(1, 2),
        time(1, 2, 3, 4),
        time(1, 2, tzinfo=UTC),
        timedelta(1, 2, 3),
        timedelta(-1, 2, 3),
        timedelta(0),
        Decimal("1.10"),
        Decimal("1.1"),
        Decimal("-1E+5"),
        Decimal("NaN"),
        uuid.UUID(int=0),
        uuid.UUID(int=5),
        uuid.UUID(int=2**127 + 1),
        uuid.UUID(int=2**128 - 1),
        OrderedDict(a=1, b=2),
        OrderedDict(b=2, a=1),
        OrderedDict(),
        {"a": 1, "b": 2},
        {1: "int", "1": "text", (1, 2): "tuple", None: 0, 1.5: "float"},
        set(),
        {1, 2, 3},
        frozenset({"a"}),
        b"",
        b"abc",
        bytes(range(256)),
        bytearray(),
        bytearray(b"\xff\0"),
        1 + 2j,
        complex(0, -0.0),
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [1, 2],
        1,
        1.0,
        True,
        "1",
        float("nan"),
        ((1, 2), [3, {"a": (None,)}]),
    ]


def other_objects():
    """Values of all other types, no two of them equal but those of one name up to \" again\"."""
    return [
        ("order 1", Order(1)),
        ("order 1 again", Order(1)),
        ("order 1.0", Order(1.0)),
        ("order with more", Order(1, lines=[Order(2)])),
        ("point", Point(1, 2)),
        ("point swapped", Point(2, 1)),
        ("red", Color.RED),
        ("blue", Color.BLUE),
        ("slotted", Slotted(1)),
        ("slotted other", Slotted(2)),
        ("text", Text("a")),
        ("text other", Text("b")),
        ("items", Items([1, 2])),
        ("items other", Items([1])),
        ("counter", Counter("aab")),
        ("counter other", Counter("abb")),
        ("default", defaultdict(list, a=[1])),
        ("default other", defaultdict(dict, a=[1])),
        ("error", ValueError("x", 1)),
        ("error other", KeyError("x", 1)),
        ("zone summer", datetime(2026, 7, 2, 3, tzinfo=ZoneInfo("Europe/Paris"))),
        ("zone winter", datetime(2026, 1, 2, 3, tzinfo=ZoneInfo("Europe/Paris"))),
        ("zone other", datetime(2026, 1, 2, 3, tzinfo=ZoneInfo("Europe/Rome"))),
        ("zone fold", datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"))),
        ("zone fold 1", datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))),
        ("class", Order),
        ("class other", Slotted),
        ("function", len),
        ("range", range(1, 5)),
        ("range other", range(1, 6)),
        ("slice", slice(1, 2)),
    ]


def compressed():
    """Each compression by each of its names, and of 20 MiB."""
    names = ["application/x-gzip", "gzip", "zlib", "application/x-bz2", "bzip2", "bzip", "application/x-lzma", "lzma", "xz"]
    names += ["application/zstd", "zstd", "zstandard", "application/x-brotli", "brotli"]
    for name in names:
        yield {"compression": name, "size": 3, "body": compression.compress(b"abc", name)[0].hex()}
        yield {"compression": name, "size": 0, "body": compression.compress(b"", name)[0].hex()}
    for name in ("gzip", "bzip2", "lzma", "zstd", "brotli"):
        yield {"compression": name, "size": 20 << 20, "body": compression.compress(bytes(20 << 20), name)[0].hex()}


def write(name, rows):
    with open(HERE / name, "w", encoding="ascii") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def dumped(value):
    """One pickle for each protocol that can have the value."""
    pickles = []
    for protocol in range(6):
        try:
            pickles.append(pickle.dumps(value, protocol).hex())
        except TypeError:
            pass
    return pickles


def yaml_scalars():
    """Plain scalars and what PyYAML makes of them; null if it refuses."""
    texts = """~ null Null NULL nUll yes Yes YES no NO true True FALSE on Off OFF y n
        0 -0 +0 1 -1 +12 00 010 -010 08 0o10 0b101 -0b1 0b2 0b 0b_ 0x1F 0X1F 0x -0xff 0_1 1_000 _1 1__0 9223372036854775807 9223372036854775808 -9223372036854775809
        1:30 -1:30:59 1:60 01:30 1:2:3:4 1:5 1:05 190:20:30 1:30.5 190:20:30.15 -1:30.25 01:30.5
        1.0 -1.5 1. .5 -.5 +.5 +1.5 1e3 1.0e3 1.0e+3 1.5E-3 1.e+2 .5e+1 ._5 1_0.0_1 1.0e+ 1.0.0 . .. - + -- .inf -.inf +.Inf .INF .nan .NaN -.nan .Nan
        2026-01-02 2026-1-2 2026-13-02 2026-02-30 2026-01-02T03:04:05 2026-1-2t3:04:05 2026-01-02T03:04:05Z 2026-01-02T03:04:05.5+02:00 2026-01-02T03:04:05-5
        2026-01-02T03:04:05.1234567Z 2026-01-02T03:04:05. 2026-01-02T03:04 2026-01-02T25:04:05 2026-01-02T03:04:05-00:00 2026-01-02T03:04:05+25:00 0000-01-01 2026-01-02T
        2026-01-02T03:04:05+00:99 12-01-02 1.2.3 1-2 10.0.0.1 <<x == 0.0 -0.0 1e400 1.0e+400 text a:b x=1""".split()
    texts += ["2026-01-02 03:04:05", "2026-01-02  03:04:05 +02:00", "2026-01-02 03:04:05 Z", "2026-01-02 03:04:05.25 -5:30", "a b", "1 2", "<<", "="]
    for text in texts:
        try:
            value = describe(yaml.safe_load("- " + text)[0])
        except Exception:
            value = None
        yield {"text": text, "value": value}


write("compressed.jsonl", compressed())
write("yaml_scalars.jsonl", yaml_scalars())
write("messages.jsonl", messages())
write("json_values.jsonl", json_values())
write("known_objects.jsonl", ({"value": describe(value), "pickles": dumped(value)} for value in known_objects()))
write("other_objects.jsonl", ({"name": name, "pickles": dumped(value)} for name, value in other_objects()))
