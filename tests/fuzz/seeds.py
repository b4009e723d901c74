#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets, from the recorded bytes of the other tests: seeds.py DIRECTORY"""

import bz2
import json
import lzma
import pathlib
import sys
import zlib

TESTS = pathlib.Path(__file__).resolve().parent.parent
SERIALIZERS = {"json": 0, "pickle": 1, "msgpack": 2, "yaml": 3}
COMPRESSIONS = {"gzip": 1, "zlib": 1, "bzip2": 2, "xz": 3, "lzma": 3, "zstd": 4, "zstandard": 4, "brotli": 5}


def rows(name):
    with open(TESTS / "celery" / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def sized(data):
    return len(data).to_bytes(2, "big") + data


def messages():
    for row in rows("messages.jsonl"):
        header, body = bytes.fromhex(row["header"]), bytes.fromhex(row["body"])
        yield b"\x80" + sized(header) + body
        for serializer, kind in SERIALIZERS.items():
            if f"/{serializer}/none/" in row["name"]:
                yield bytes([kind]) + body
                yield bytes([kind | 1 << 2]) + zlib.compress(body)
                yield bytes([kind | 2 << 2]) + bz2.compress(body)
                yield bytes([kind | 3 << 2]) + lzma.compress(body)


def bodies():
    yield from messages()
    for row in rows("compressed.jsonl"):
        name = row["compression"].removeprefix("application/").removeprefix("x-")
        yield bytes([COMPRESSIONS.get(name, 6) << 2]) + bytes.fromhex(row["body"])
    for row in rows("yaml_scalars.jsonl"):
        yield b"\x03[[" + row["text"].encode() + b"], {}, {}]"
    for row in rows("json_values.jsonl"):
        yield b"\x00[[" + row["json"].encode() + b"], {}, {}]"
    for pickle in pickles():
        yield b"\x01" + pickle


def pickles():
    for name in ("json_values.jsonl", "known_objects.jsonl", "other_objects.jsonl"):
        for row in rows(name):
            yield from map(bytes.fromhex, row["pickles"])
    for row in rows("messages.jsonl"):
        if "/pickle/none/" in row["name"]:
            yield bytes.fromhex(row["body"])


def captures():
    """Each recorded connection as a list of (side, frame)."""
    for path in sorted((TESTS / "wire" / "golden").glob("*.txt")):
        frames, side = [], None
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("##") or not line:
                continue
            if line.startswith("# "):
                side = line.split()[1]
            else:
                frames.append((side, bytes.fromhex(line)))
        yield frames


def sessions():
    # Recorded connections, from the protocol header on.
    for frames in captures():
        for choice in (0x80, 0x90):
            script = bytes([choice])
            for side, frame in frames:
                if len(frame) < 65536:
                    script += bytes([0 if side == "client" else 1]) + sized(frame)
            yield script
    # Publishes of a logged-in client (2: channel, flags, id), with what the store (6: which, answer), the broker and time do to them.
    publish, confirm = b"\x02\x00\x00\x01", b"\x0d\x00\x04"
    ack, nack, returned = b"\x04\x00\x00\x01", b"\x04\x00\x02\x01", b"\x10\x00\x02\x01"
    ends = [b"", b"\x09", b"\x0a", b"\x0b", b"\x0b\x0c", b"\x0d\x00\x0c", b"\x0d\x00\x02", b"\x0e\x00\x0c", b"\x0e\x00\x02"]
    for choice in range(0, 128, 2):
        for answer in range(8):
            end = ends[(choice // 2 + answer) % len(ends)]
            answered = bytes([6, 0, answer])
            yield bytes([choice]) + publish + answered + ack + end
            yield bytes([choice]) + confirm + publish + publish + answered + end + answered + returned + ack + b"\x08\x20"
            yield bytes([choice]) + confirm + publish + end + answered + nack
    # Deliveries (3: channel, flags, tag) to both consumers, settled and not.
    for end in ends:
        consume = b"\x0d\x00\x08\x0d\x01\x09"
        yield b"\x00" + consume + b"\x03\x00\x00\x01\x03\x01\x04\x01" + end + b"\x05\x00\x00\x01\x03\x00\x00\x02\x05\x00\x0a\x02"


def frames():
    for capture in captures():
        for wanted in ("client", "server"):
            yield b"".join(frame for side, frame in capture if side == wanted)[8 * (wanted == "client") :]


def headers():
    return (bytes.fromhex(row["header"]) for row in rows("messages.jsonl"))


def signals():
    for row in rows("signals.jsonl"):
        if "body" in row:
            yield bytes([SERIALIZERS[row["name"].split("/")[0]]]) + bytes.fromhex(row["body"])


TARGETS = {"body": bodies, "content": headers, "frame": frames, "pickle": pickles, "session": sessions, "signals": signals}

for target, seeds in TARGETS.items():
    folder = pathlib.Path(sys.argv[1]) / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number:04}").write_bytes(seed)
