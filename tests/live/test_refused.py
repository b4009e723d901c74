"""Duplicates whose producer hears of them: `on_duplicate = "raise"` and `"reject"` with Celery's own producer."""

import json
import re

import harness
import pika
import wire
from wire import Confirm

CONFIRMING = {"broker_transport_options": {"confirm_publish": True}}


def rule(on_duplicate):
    return f'[[rule]]\nname = "r"\ntask = "live.gated"\nunique = "until_finished"\non_duplicate = "{on_duplicate}"\n'


RAISES = """
from amqp.exceptions import PreconditionFailed
first = gated.delay("one").id
for _ in range(3):
    try:
        gated.delay("one")
        print("passed")
    except PreconditionFailed as error:
        print(error.reply_code, error.reply_text)
plain.delay(1)
gated.delay("two")
print(first)
"""


def test_a_duplicate_raises_in_a_confirming_producer(oncegate, stack, store, scoreboard):
    """The producer reads who holds the key and for how long, and goes on: what it publishes next arrives."""
    gate = oncegate(rule("raise"), store=store.url)
    *raised, first = stack.produce(gate, RAISES, conf=CONFIRMING).stdout.splitlines()
    assert len(raised) == 3
    for line in raised:
        found = re.fullmatch(r"406 oncegate: duplicate of (\S+), expires in (\d+) s", line)
        assert found, line
        assert found[1] == first
        assert 86_000 < int(found[2]) <= 86_400
    gate.expect_publishes(3, "raised", rule="r")
    gate.expect_publishes(2, "forwarded", rule="r")
    gate.expect("oncegate_exceptions_total", 0, reason="raise_fallback")
    scoreboard.open_gate("one")
    scoreboard.open_gate("two")
    stack.worker(gate, conf=CONFIRMING)
    runs = scoreboard.wait_runs(5)
    assert [run["args"] for run in runs if run.get("phase") != "end"] == [["one"], [1], ["two"]]


def test_a_producer_without_confirms_is_told_nothing(oncegate, stack, store):
    """py-amqp would blame the next publish, and lose it."""
    gate = oncegate(rule("raise"), store=store.url)
    stack.produce(gate, "gated.delay('one')\nfor _ in range(3): gated.delay('one'); plain.delay(1)", conf={})
    gate.expect_publishes(3, "dropped", rule="r")
    gate.expect("oncegate_exceptions_total", 3, rule="r", reason="raise_fallback")
    assert stack.messages() == 4


def test_a_retry_never_raises_in_its_worker(oncegate, stack, store, scoreboard):
    rule = '[[rule]]\nname = "r"\ntask = "live.flaky"\nunique = "until_finished"\non_duplicate = "raise"\n'
    gate = oncegate(rule, store=store.url)
    stack.worker(gate, conf=CONFIRMING)
    stack.produce(gate, "flaky.delay(2)", conf=CONFIRMING)
    runs = scoreboard.wait_runs(3)
    assert [run["retries"] for run in runs] == [0, 1, 2]
    gate.expect_publishes(0, "raised", rule="r")


def test_a_rejected_duplicate_is_one_nack_among_acks(oncegate, raw, store):
    gate = oncegate(rule("reject").replace("live.gated", "watched.*"), store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("rejected", durable=True)
    client.call(Confirm.Select(), Confirm.SelectOk)
    for argument in (1, 1, 2, 2, 3):
        _, properties, payload = wire.task_message("watched.one", (argument,))
        client.send(wire.publish_bytes(1, "", "rejected", payload, properties))
    confirms = wire.Confirms()
    wire.read_confirms(client, confirms, 5)
    assert (confirms.acked, confirms.nacked) == ({1, 3, 5}, {2, 4})
    assert client.count("rejected") == 3
    gate.expect_publishes(2, "rejected", rule="r")


def test_a_rejected_duplicate_fails_in_a_confirming_producer(oncegate, stack, store):
    gate = oncegate(rule("reject"), store=store.url)
    code = """
gated.delay("one")
try:
    gated.delay("one")
    print("passed")
except Exception as error:
    print(type(error).__name__)
"""
    said = stack.produce(gate, code, conf=CONFIRMING).stdout.strip()
    assert said and said != "passed", said
    assert gate.publishes("rejected", rule="r") >= 1
    assert stack.messages() == 1


DEAD_LETTER = rule("dead_letter") + 'dead_letter = { routing_key = "duplicates" }\n'


def test_a_duplicate_is_dead_lettered(oncegate, stack, store, broker, vhost, raw):
    """Its copy lies in the rule's queue and says why; the producer hears that all is well."""
    control = harness.account(broker.port, vhost)
    gate = oncegate(DEAD_LETTER, store=store.url, extra=control)
    gate.expect("oncegate_control_up", 1, vhost=vhost)
    admin = raw()
    admin.open_channel()
    admin.declare("duplicates", durable=True)
    first, second = stack.produce(gate, "print(gated.delay('one').id, gated.delay('one').id)", conf=CONFIRMING).stdout.split()
    gate.expect_publishes(1, "dead_lettered", rule="r")
    connection = pika.BlockingConnection(pika.ConnectionParameters(port=broker.port, virtual_host=vhost))
    _, properties, body = connection.channel().basic_get("duplicates", auto_ack=True)
    connection.close()
    headers = properties.headers
    assert (headers["id"], headers["task"]) == (second, "live.gated")
    assert (headers["x-oncegate-reason"], headers["x-oncegate-holder"], headers["x-oncegate-rule"]) == ("duplicate", first, "r")
    assert json.loads(body)[0] == ["one"]
    assert stack.messages() == 1


def test_a_duplicate_whose_dead_letter_no_queue_takes_is_dropped_and_counted(oncegate, stack, store, broker, vhost):
    control = harness.account(broker.port, vhost)
    gate = oncegate(DEAD_LETTER, store=store.url, extra=control)
    gate.expect("oncegate_control_up", 1, vhost=vhost)
    stack.produce(gate, "gated.delay('one'); gated.delay('one')", conf=CONFIRMING)
    gate.expect_publishes(1, "dropped", rule="r")
    gate.expect("oncegate_exceptions_total", 1, rule="r", reason="dead_letter_failed")
    assert stack.messages() == 1
