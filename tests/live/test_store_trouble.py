"""A store that is absent, slow, read-only or stands still: nothing is lost, and nobody waits for ever."""

import threading
import time

import harness
import pytest
import wire
from wire import Basic, Confirm


def rules(**options):
    lines = "".join(f"{key} = {harness.json.dumps(value)}\n" for key, value in options.items())
    return f'[[rule]]\nname = "bulk"\ntask = ["live.bulk", "live.add", "watched.*"]\nunique = "until_expired"\n{lines}'


FREEZE = """
import os, signal, threading
conf = app.conf
blob = "x" * 100_000
task = {task}
bulk.app.connection_for_write().ensure_connection(max_retries=3)
for n in range(200):
    task.delay(n, blob)
"""


@pytest.mark.parametrize("task", ["bulk", "plainbulk"])
def test_a_store_that_stands_still_loses_nothing(oncegate, stack, store, scoreboard, task):
    """200 messages of 100 kB against a store frozen for five seconds; py-amqp gives an unread socket about two."""
    gate = oncegate(rules(), store=store.url)
    stack.produce(gate, "plain.delay()")
    store.freeze()
    thaw = threading.Timer(5, store.thaw)
    thaw.start()
    try:
        stack.produce(gate, FREEZE.format(task=task))
    finally:
        thaw.join()
    harness.wait_until(lambda: stack.messages() == 201, lambda: f"201 messages, are {stack.messages()}")
    stack.worker(gate)
    runs = scoreboard.wait_runs(201)
    assert sorted(run["args"][0] for run in runs if run["args"]) == list(range(200))


@pytest.mark.parametrize("confirms", [False, True])
def test_an_absent_store_forwards_all(oncegate, stack, scoreboard, confirms):
    gate = oncegate(rules(), store=f"redis://127.0.0.1:{harness.free_port()}/0")
    conf = {"broker_transport_options": {"confirm_publish": True}} if confirms else None
    stack.worker(gate, conf=conf)
    stack.produce(gate, "for n in range(20): add.delay(1, 1)\nfence.delay()", conf=conf)
    runs = scoreboard.wait_runs(21)
    assert len([run for run in runs if run["task"] == "live.add"]) == 20
    gate.expect_publishes(0, "dropped")
    assert gate.direct or gate.publishes("forwarded_unchecked", rule="bulk") == 20
    assert gate.direct or gate.count("oncegate_store_up") == 0
    assert gate.direct or gate.get("/readyz").json()["status"] == "degraded"


def test_a_read_only_store_forwards_all(oncegate, raw, workspace, store):
    replica = harness.Redis(workspace, "--replicaof", "127.0.0.1", str(store.port)).start()
    try:
        gate = oncegate(rules(), store=replica.url)
        client = raw(gate.port)
        client.open_channel()
        client.declare("ro")
        for _ in range(10):
            _, properties, payload = wire.task_message("watched.ro", (1,))
            client.publish(1, "", "ro", payload, properties)
        harness.wait_until(lambda: client.count("ro") == 10, "all ten messages")
        assert gate.direct or gate.publishes("forwarded_unchecked", rule="bulk") == 10
    finally:
        replica.stop()


def test_the_store_comes_back(oncegate, raw, store, workspace):
    gate = oncegate(rules(), store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("back")
    store.kill()

    def publish():
        _, properties, payload = wire.task_message("watched.back", (1,))
        client.publish(1, "", "back", payload, properties)

    publish()
    publish()
    harness.wait_until(lambda: client.count("back") == 2, "both, unchecked")
    store.start()

    def dropped():
        publish()
        client.count("back")
        return gate.publishes("dropped", rule="bulk") > 0

    harness.wait_until(dropped, "duplicates to be dropped again", 30, 0.2)


def test_a_store_killed_under_load_loses_nothing(oncegate, raw, store):
    gate = oncegate(rules(), store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("load")
    client.call(Confirm.Select(), Confirm.SelectOk)
    confirms = wire.Confirms()
    reader = threading.Thread(target=wire.read_confirms, args=(client, confirms, 2000))
    reader.start()
    for number in range(2000):
        if number == 700:
            store.kill()
        if number == 1400:
            store.start()
        _, properties, payload = wire.task_message("watched.load", (number,))
        client.publish(1, "", "load", payload, properties)
    reader.join()
    assert confirms.acked == set(range(1, 2001)) and not confirms.surplus
    harness.wait_until(lambda: client.count("load") == 2000, lambda: f"2000 messages, are {client.count('load')}")


def test_wait_decides_when_the_store_answers_again(oncegate, raw, store):
    gate = oncegate(rules(on_store_error="wait", store_wait="60s"), store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("wait")
    client.open_channel(2)
    store.freeze()
    try:
        for _ in range(5):
            _, properties, payload = wire.task_message("watched.wait", (1,))
            client.publish(1, "", "wait", payload, properties)
        # The other channel goes on, and sees that none of the five has left.
        time.sleep(1)
        assert client.count("wait", 2) == 0
    finally:
        store.thaw()
    harness.wait_until(lambda: client.count("wait", 2) == 1, "one of five, once the store is back", 90)
    gate.expect_publishes(4, "dropped", rule="bulk")


def test_wait_ends_with_store_wait(oncegate, raw):
    gate = oncegate(rules(on_store_error="wait", store_wait="1s"), store=f"redis://127.0.0.1:{harness.free_port()}/0")
    client = raw(gate.port)
    client.open_channel()
    client.declare("ends")
    for _ in range(5):
        _, properties, payload = wire.task_message("watched.ends", (1,))
        client.publish(1, "", "ends", payload, properties)
    client.open_channel(2)
    harness.wait_until(lambda: client.count("ends", 2) == 5, "all five, unchecked")
    assert gate.direct or gate.publishes("forwarded_unchecked", rule="bulk") == 5


def test_reject_is_one_nack(oncegate, raw):
    gate = oncegate(rules(on_store_error="reject", store_wait="1s"), store=f"redis://127.0.0.1:{harness.free_port()}/0")
    client = raw(gate.port)
    client.open_channel()
    client.declare("no")
    client.call(Confirm.Select(), Confirm.SelectOk)
    for number in range(1, 4):
        _, properties, payload = wire.task_message("watched.no", (number,))
        client.publish(1, "", "no", payload, properties)
        answer = client.wait((Basic.Nack, Basic.Ack))
        assert (answer.name, answer.delivery_tag) == ("Basic.Nack", number)
    client.publish(1, "", "no", b"no task at all")
    assert client.wait((Basic.Nack, Basic.Ack)).name == "Basic.Ack"
    assert client.count("no") == 1


def test_other_traffic_goes_on_while_the_store_stands_still(oncegate, raw, store):
    gate = oncegate(rules(), store=store.url)
    waiting, other = raw(gate.port), raw(gate.port)
    for client in (waiting, other):
        client.open_channel()
    other.declare("going")
    store.freeze()
    try:
        _, properties, payload = wire.task_message("watched.still", (1,))
        waiting.publish(1, "", "going", payload, properties)
        for number in range(50):
            other.publish(1, "", "going", b"unmatched")
            assert other.count("going") >= number
    finally:
        store.thaw()
    harness.wait_until(lambda: other.count("going") == 51, "all messages")
