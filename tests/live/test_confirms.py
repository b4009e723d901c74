"""Confirm numbers, returns, and producers that leave without a word."""

import threading

import harness
import pytest
import wire
from wire import Basic, Confirm

# A flood from three connections at once waits for the store longer than the default allows one question,
# and a question that is given up is forwarded unchecked: here it is the decisions that are counted.
PATIENT = 'timeout = "120s"'

RULES = """
[[rule]]
name = "watched"
task = "watched.*"
unique = "until_expired"
ttl = "10m"
"""


def confirming(raw, gate):
    client = raw(gate.port)
    client.open_channel()
    client.call(Confirm.Select(), Confirm.SelectOk)
    return client


def pipeline(client, queue, messages, confirms, errors):
    """Writes all publishes while another thread reads the confirms."""

    def read():
        try:
            wire.read_confirms(client, confirms, len(messages))
        except Exception as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    batch = bytearray()
    for properties, payload in messages:
        batch += wire.publish_bytes(1, "", queue, payload, properties)
        if len(batch) > 60000:
            client.send(batch)
            batch.clear()
    client.send(batch)
    return reader


def test_sixty_thousand_publishes_half_of_them_duplicates(oncegate, raw, store):
    """Each number on each of three connections is confirmed once; each key is in the queue once."""
    gate = oncegate(RULES, store=store.url, store_extra=PATIENT)
    each = 20000
    admin = raw()
    admin.open_channel()
    admin.declare("bulk", durable=True)
    messages = []
    for connection in range(3):
        mine = []
        for number in range(each):
            # Half of them repeat a key: the neighbour's on this connection, or the same on another one.
            key = number // 2 if connection < 2 else 1_000_000 + number // 2
            if connection == 1:
                key += 500_000 if number % 2 else 2_000_000
            _, properties, payload = wire.task_message("watched.bulk", (key,))
            mine.append((properties, payload))
        messages.append(mine)
    clients = [confirming(raw, gate) for _ in range(3)]
    confirms = [wire.Confirms() for _ in clients]
    errors = []
    readers = [None] * 3

    def run(index):
        pipeline(clients[index], "bulk", messages[index], confirms[index], errors).join()

    for index in range(3):
        readers[index] = threading.Thread(target=run, args=(index,))
        readers[index].start()
    for reader in readers:
        reader.join()
    assert not errors, errors
    for counted in confirms:
        assert counted.acked == set(range(1, each + 1))
        assert not counted.nacked
        assert not counted.surplus, counted.surplus[:5]
    wanted = each // 2 + each + each // 2
    harness.wait_until(
        lambda: admin.count("bulk") == wanted,
        lambda: f"{wanted} messages, are {admin.count('bulk')}: {[s for s in gate.metrics() if s[0].endswith('_total')]}",
    )
    gate.expect_publishes(3 * each - wanted, "dropped", rule="watched")
    # A number too many would be told by now or never: the channel answers behind it.
    for client in clients:
        client.frames.clear()
        client.declare("bulk", passive=True)
        assert not [f for f in client.frames if f[0] == wire.METHOD and isinstance(wire.decode(f), (Basic.Ack, Basic.Nack))]


def test_the_same_keys_from_three_connections_at_once(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url, store_extra=PATIENT)
    admin = raw()
    admin.open_channel()
    admin.declare("race", durable=True)
    clients = [confirming(raw, gate) for _ in range(3)]
    confirms = [wire.Confirms() for _ in clients]
    errors = []
    threads = []
    for client, counted in zip(clients, confirms):
        messages = [wire.task_message("watched.race", (number,))[1:] for number in range(2000)]
        threads.append(threading.Thread(target=lambda c=client, m=messages, k=counted: pipeline(c, "race", m, k, errors).join()))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for counted in confirms:
        assert counted.acked == set(range(1, 2001)) and not counted.surplus
    harness.wait_until(
        lambda: admin.count("race") == 2000,
        lambda: f"one of three of each, are {admin.count('race')}: {[s for s in gate.metrics() if s[0].endswith('_total')]}",
    )


def test_confirms_selected_late_begin_at_one(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("late")
    for number in range(10):
        _, properties, payload = wire.task_message("watched.late", (number % 5,))
        client.publish(1, "", "late", payload, properties)
    client.call(Confirm.Select(), Confirm.SelectOk)
    confirms = wire.Confirms()
    for number in range(20, 30):
        _, properties, payload = wire.task_message("watched.late", (number % 25,))
        client.publish(1, "", "late", payload, properties)
    wire.read_confirms(client, confirms, 10)
    assert confirms.acked == set(range(1, 11)) and not confirms.surplus
    gate.expect_publishes(5 + 5, "dropped", rule="watched")


def test_an_unroutable_publish_leaves_no_lock(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    client = confirming(raw, gate)
    plain = raw(gate.port)
    plain.open_channel()
    task_id, properties, payload = wire.task_message("watched.lost", (1,))
    client.publish(1, "", "nowhere", payload, properties)
    assert client.wait(Basic.Ack).delivery_tag == 1
    harness.wait_until(lambda: not store.locks(), "no lock")
    gate.expect("oncegate_locks_released_total", 1, rule="watched", reason="returned")
    _, properties, payload = wire.task_message("watched.lost", (2,))
    plain.publish(1, "", "nowhere", payload, properties)
    gate.expect("oncegate_locks_released_total", 2, rule="watched", reason="returned")
    assert not store.locks()
    # No return reached either client.
    for peer in (client, plain):
        peer.declare("somewhere")
        assert not [f for f in peer.frames if f[0] == wire.METHOD and isinstance(wire.decode(f), Basic.Return)]
    # The key is free.
    _, properties, payload = wire.task_message("watched.lost", (1,))
    client.publish(1, "", "somewhere", payload, properties)
    client.wait(Basic.Ack)
    assert client.count("somewhere") == 1


def test_a_nack_leaves_no_lock(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    client = confirming(raw, gate)
    client.declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    client.publish(1, "", "full", b"the one that fits")
    client.wait(Basic.Ack)
    harness.wait_until(lambda: client.count("full") == 1, "a full queue")
    _, properties, payload = wire.task_message("watched.full", (1,))
    client.publish(1, "", "full", payload, properties)
    assert client.wait((Basic.Nack, Basic.Ack)).name == "Basic.Nack"
    harness.wait_until(lambda: not store.locks(), "no lock")
    gate.expect("oncegate_locks_released_total", 1, rule="watched", reason="unconfirmed")


def test_a_channel_closed_by_the_broker_leaves_no_lock(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    client = confirming(raw, gate)
    _, properties, payload = wire.task_message("watched.closed", (1,))
    client.publish(1, "no-such-exchange", "x", payload, properties)
    assert client.wait(wire.Channel.Close).reply_code == 404
    client.method(wire.Channel.CloseOk(), 1)
    harness.wait_until(lambda: not store.locks(), "no lock")


@pytest.mark.parametrize("task", ["watched.exit", "other.exit"])
def test_a_thousand_producers_that_publish_once_and_leave(oncegate, raw, store, vhost, task):
    """A bare end of file behind the publish, with nothing confirmed: every message must arrive.

    RabbitMQ itself loses some of these when it is spoken to straight: its channel is ended with its connection
    before it has read all. The proxy closes its own connection only after the broker has taken what was sent.
    """
    gate = oncegate(RULES, store=store.url)
    admin = raw()
    admin.open_channel()
    admin.declare("exits", durable=True)

    def produce(numbers):
        for number in numbers:
            client = wire.Raw(gate.port).handshake(vhost)
            client.open_channel()
            _, properties, payload = wire.task_message(task, (number,))
            client.publish(1, "", "exits", payload, properties)
            client.drop()

    threads = [threading.Thread(target=produce, args=(range(start, 1000, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    harness.wait_until(lambda: admin.count("exits") == 1000, lambda: f"1000 messages, are {admin.count('exits')}")
    if task.startswith("watched"):
        gate.expect_publishes(1000, "forwarded", rule="watched")
        harness.wait_until(
            lambda: gate.direct or len([lock for lock in store.locks() if lock["state"] == "queued"]) == 1000,
            "1000 locks that the broker's word has made whole",
        )


def test_celery_producers_that_exit_at_once(oncegate, stack, store, broker):
    gate = oncegate(RULES + '[[rule]]\ntask = "live.add"\nunique = "until_finished"\n', store=store.url)
    for number in range(3):
        stack.produce(gate, f"add.delay({number}, 0)\nimport os; os._exit(0)")
        stack.produce(gate, f"plain.delay({number})\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)", check=False)
    harness.wait_until(lambda: stack.messages() == 6, lambda: f"6 messages, are {stack.messages()}")


def test_a_half_publish_is_discarded(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    admin = raw()
    admin.open_channel()
    admin.declare("half")
    for number in range(5):
        client = raw(gate.port)
        client.open_channel()
        _, properties, payload = wire.task_message("watched.half", (number,))
        whole = wire.publish_bytes(1, "", "half", payload, properties)
        client.send(whole + whole[: len(whole) * number // 5])
        client.drop()
    harness.wait_until(lambda: admin.count("half") == 5, lambda: f"5 messages, are {admin.count('half')}")


def test_the_order_of_a_channel_is_kept(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("order")
    batch = b""
    for number in range(500):
        task = "watched.order" if number % 3 else "other.order"
        _, properties, payload = wire.task_message(task, (number,))
        batch += wire.publish_bytes(1, "", "order", payload, properties)
    client.send(batch)
    client.call(Basic.Consume(queue="order", no_ack=True), wire.Basic.ConsumeOk)
    got = []
    for _ in range(500):
        client.wait(Basic.Deliver)
        got.append(int(client.content()[1].split(b"]")[0].strip(b"[")))
    assert got == list(range(500))


def test_unmatched_traffic_is_the_same_bytes_on_both_sides(oncegate, relays, broker, stack, scoreboard):
    """What a Celery producer and worker say to the proxy is what the proxy says to the broker, and the other way."""
    behind = relays(broker.port)
    if harness.DIRECT:
        front = behind
    else:
        front = relays(oncegate(RULES, upstream=f"amqp://127.0.0.1:{behind.port}").port)

    class Through:
        port = front.port

    stack.worker(Through, conf={"broker_heartbeat": 0})
    stack.produce(Through, "for n in range(20): plain.delay(n)\nfence.delay()")
    scoreboard.wait_runs(21)

    def frames(data, preamble):
        kept, rest = wire.split_frames(data[8:] if preamble else data)
        # What is still on its way is a frame of its own kind, so that it is no end of what is compared.
        return [frame for frame in kept if frame[0] != wire.HEARTBEAT] + [("half", rest, b"")] * bool(rest)

    def whole(relay):
        return not any(kind == "half" for sides in conversations(relay) for side in sides for kind, _, _ in side)

    def conversation(connection):
        asked, answered = frames(bytes(connection["to_broker"]), True), frames(bytes(connection["to_client"]), False)
        # A client that just goes says no goodbye; the proxy says it to the broker in its place.
        if asked and b"oncegate: the client is gone" in asked[-1][2]:
            asked.pop()
            if answered and answered[-1][2] == b"\x00\x0a\x00\x33":
                answered.pop()
        return asked, answered

    def conversations(relay):
        # The proxy's own look at whether the broker is there says nothing that counts as a client's.
        return sorted(conversation(c) for c in relay.connections if len(c["to_broker"]) > 8)

    def differences():
        pairs = zip(conversations(front), conversations(behind))
        return [(len(a[0]), len(b[0]), len(a[1]), len(b[1]), a[0][-2:], b[0][-2:]) for a, b in pairs if a != b]

    def same():
        return conversations(front) == conversations(behind) and whole(front)

    harness.wait_until(same, lambda: f"the same frames on both sides: {differences()}")
