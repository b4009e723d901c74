"""Checks by kombu's own readers what tests/celery/accumulate.rs compares: `accumulated.jsonl`.

    venv/bin/python tests/celery/accumulated.py
"""

import json
from pathlib import Path

import amqp.serialization
from kombu import compression, serialization

HERE = Path(__file__).parent
serialization.enable_insecure_serializers()


def rows(name):
    return [json.loads(line) for line in (HERE / name).read_text().splitlines()]


def message(header):
    found = amqp.serialization.GenericContent()
    found.PROPERTIES = amqp.basic_message.Message.PROPERTIES
    found._load_properties(60, header, 12)
    return found.properties


def load(header, body):
    told = message(header)
    name = told.get("application_headers", {}).get("compression")
    if name:
        body = compression.decompress(body, name)
    return serialization.loads(body, told["content_type"], told["content_encoding"], accept=None, force=True)


# What this Python has no module for.
ABSENT = {"application/zstd", "application/x-brotli"} - {kind for kind in compression._decoders}

captured = {row["name"]: row for row in rows("messages.jsonl")}
checked = rows("accumulated.jsonl")
for row in checked:
    original = captured[row["name"]]
    header = bytes.fromhex(original["header"])
    if message(header).get("application_headers", {}).get("compression") in ABSENT:
        continue
    _, _, embed = load(header, bytes.fromhex(original["body"]))
    args, kwargs, after = load(header, bytes.fromhex(row["body"]))
    assert list(args) == [json.loads(row["result"])], row["name"]
    assert kwargs == {"index": 0} and after == embed and type(after) is type(embed), row["name"]
print(f"{len(checked)} messages are right")
