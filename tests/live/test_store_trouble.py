"""A store that is absent, slow, read-only or stands still: nothing is lost, and nobody waits for ever."""

import threading

import harness
import pytest
import wire
from wire import Basic, Confirm


def rules(**options):
    lines = "".join(f"{key} = {harness.json.dumps(value)}\n" for key, value in options.items())
    return f'[[rule]]\nname = "bulk"\ntask = ["live.bulk", "live.add", "watched.*"]\nunique = "until_expired"\n{lines}'


@pytest.fixture
def oncegate(oncegate):
    """As users have it: a store that does not answer is away soon."""
    return lambda rules, store_extra='timeout = "250ms"', **options: oncegate(rules, store_extra=store_extra, **options)


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
    """200 messages of 100 kB, all of them sent to a store that stands still; py-amqp gives an unread socket about two seconds."""
    gate = oncegate(rules(), store=store.url)
    stack.produce(gate, "plain.delay()")
    store.freeze()
    try:
        stack.produce(gate, FREEZE.format(task=task))
        if task == "bulk":
            gate.expect_publishes(0 if gate.direct else 200, "forwarded_unchecked", rule="bulk")
    finally:
        store.thaw()
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
    gate.expect_publishes(0 if gate.direct else 20, "forwarded_unchecked", rule="bulk")
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
        gate.expect_publishes(0 if gate.direct else 10, "forwarded_unchecked", rule="bulk")
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

    harness.wait_until(dropped, "duplicates to be dropped again", interval=0.2)


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
    marker = '[[rule]]\nname = "marker"\ntask = "marker.*"\nunique = "until_expired"\n'
    gate = oncegate(rules(on_store_error="wait", store_wait="1h") + marker, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("wait")
    client.open_channel(2)
    store.freeze()
    try:
        for _ in range(5):
            _, properties, payload = wire.task_message("watched.wait", (1,))
            client.publish(1, "", "wait", payload, properties)
        # One that does not wait, sent behind the five, is given up by the store and forwarded; none of them has left.
        client.declare("marker", 2)
        _, properties, payload = wire.task_message("marker.sent", (1,))
        client.publish(2, "", "marker", payload, properties)
        harness.wait_until(lambda: client.count("marker", 2) == 1, "the marker")
        gate.expect_publishes(1, "forwarded_unchecked", rule="marker")
        assert client.count("wait", 2) == 0
    finally:
        store.thaw()
    harness.wait_until(lambda: client.count("wait", 2) == 1, "one of five, once the store is back")
    gate.expect_publishes(4, "dropped", rule="bulk")


def keys_of(client, queue, count):
    """Takes so many messages, acknowledges them, and gives the first argument of each."""
    client.call(Basic.Consume(queue=queue, consumer_tag="c"), Basic.ConsumeOk)
    found = []
    for _ in range(count):
        tag = client.wait(Basic.Deliver).delivery_tag
        found.append(harness.json.loads(client.content()[1])[0][0])
        client.method(Basic.Ack(delivery_tag=tag), 1)
    client.call(Basic.Cancel(consumer_tag="c"), Basic.CancelOk)
    return found


def publish_thrice(client, confirms, keys):
    """Publishes every key three times, each call with an id of its own, and reads all confirms."""
    for key in keys:
        for _ in range(3):
            _, properties, payload = wire.task_message("watched.slow", (key,))
            client.publish(1, "", "slow", payload, properties)
    wanted = len(confirms) + 3 * len(keys)
    wire.read_confirms(client, confirms, wanted)
    assert confirms.acked == set(range(1, wanted + 1)) and not confirms.surplus


def slow_start(oncegate, raw, store, relays, unique, delay, timeout):
    """A proxy whose store is far away: (the way there, the proxy, a client with confirms, its confirms, a consumer)."""
    way = relays(store.port, delay=delay)
    gate = oncegate(
        rules().replace("until_expired", unique), store=f"redis://127.0.0.1:{way.port}/0", store_extra=f'timeout = "{timeout}"'
    )
    client, consumer = raw(gate.port), raw(gate.port)
    for one in (client, consumer):
        one.open_channel()
        one.declare("slow")
    client.call(Confirm.Select(), Confirm.SelectOk)
    return way, gate, client, wire.Confirms(), consumer


def test_a_slow_store_decides_as_a_fast_one(oncegate, raw, store, relays):
    """Every answer takes half a second, and no question is given up."""
    _, gate, client, confirms, consumer = slow_start(oncegate, raw, store, relays, "until_started", 0.5, "60s")
    for rounds in (1, 2):
        publish_thrice(client, confirms, range(20))
        gate.expect_publishes(20 * rounds, "forwarded", rule="bulk")
        gate.expect_publishes(40 * rounds, "dropped", rule="bulk")
        assert keys_of(consumer, "slow", 20) == list(range(20))
        assert consumer.count("slow") == 0
        harness.wait_until(lambda: not store.locks(), "all keys to be free again")
    gate.expect_publishes(0, "forwarded_unchecked")


def test_a_store_now_and_then_slower_than_its_timeout_loses_nothing(oncegate, raw, store, relays):
    """Answers take 100 ms of the 250 that a question has, or come when nobody waits for them any more."""
    way, gate, client, confirms, consumer = slow_start(oncegate, raw, store, relays, "until_expired", 0.1, "250ms")
    for number, delay in enumerate((0.1, 0.4, 0.1, 0.4, 0)):
        way.delay = delay
        # Half of the keys are new, and the late answers to the old must not be taken for theirs.
        publish_thrice(client, confirms, range(number * 10, number * 10 + 20))

    def decided(decision):
        return int(gate.publishes(decision, rule="bulk"))

    def dropped():
        publish_thrice(client, confirms, [60])
        return gate.direct or decided("dropped")

    harness.wait_until(dropped, "duplicates to be dropped", interval=0.2)
    sent = len(confirms)
    if not gate.direct:
        harness.wait_until(
            lambda: sum(map(decided, ("forwarded", "forwarded_unchecked", "dropped"))) == sent, "all to be counted"
        )
        assert decided("forwarded_unchecked")
    left = sent - decided("dropped")
    harness.wait_until(lambda: consumer.count("slow") == left, lambda: f"{left} messages, are {consumer.count('slow')}")
    assert set(keys_of(consumer, "slow", left)) == set(range(61))


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
    gate.expect_publishes(0 if gate.direct else 5, "forwarded_unchecked", rule="bulk")


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
