"""The broker killed, blocked or closing: no lock stays beyond its lease, and nothing confirmed is lost."""

import contextlib
import threading

import harness
import pytest
import wire
from wire import Basic, Confirm

RULES = """
[[rule]]
name = "watched"
task = "watched.*"
unique = "until_expired"
ttl = "1h"
lease = "3s"
"""


def confirming(port, queue=None, vhost="/"):
    client = wire.connect(port, vhost)
    client.open_channel()
    if queue:
        client.declare(queue, durable=True)
    client.call(Confirm.Select(), Confirm.SelectOk)
    return client


def ids_in(port, queue):
    """The task ids of all messages of a queue, which is empty afterwards."""
    client = wire.connect(port, "/")
    client.open_channel()
    count = client.declare(queue, durable=True).message_count
    client.call(Basic.Consume(queue=queue, no_ack=True), Basic.ConsumeOk)
    found = set()
    for _ in range(count):
        client.wait(Basic.Deliver)
        found.add(client.content()[0].properties.correlation_id)
    client.close()
    return found


def test_a_killed_broker_leaves_no_lock_and_loses_nothing_confirmed(gates, own_broker, store):
    gate = gates(own_broker.port, RULES, store=store.url)
    client = confirming(gate.port, "kill")
    own_broker.write_down()
    confirms = wire.Confirms()
    ids = {}

    def read():
        try:
            wire.read_confirms(client, confirms, 10**9)
        except (wire.Closed, OSError):
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 200000):
            task_id, properties, payload = wire.task_message("watched.kill", (number,))
            ids[number] = task_id
            client.publish(1, "", "kill", payload, properties)
            if number == 3000:
                harness.wait_until(lambda: confirms.acked, "a first confirm")
                own_broker.kill(written=True)
    except OSError:
        pass
    reader.join(harness.DEADLINE)
    assert not reader.is_alive(), "the client was told nothing of the broker's end"
    # What the client has read; the proxy may have read more, which went with the connection.
    confirmed = {ids[tag] for tag in confirms.acked}
    assert confirmed
    if not gate.direct:
        # Locks whose publish was never confirmed go with the lease at the latest.
        harness.wait_until(lambda: {lock["state"] for lock in store.locks()} == {"queued"}, "only locks that the broker confirmed")
    own_broker.start()
    held = ids_in(own_broker.port, "kill")
    assert confirmed <= held, f"{len(confirmed - held)} of {len(confirmed)} that were confirmed are not there"
    if not gate.direct:
        locked = {lock["holder"] for lock in store.locks()}
        assert confirmed <= locked <= held, f"{len(confirmed)} confirmed, {len(locked)} locked, {len(held)} there"
        gate.wait_ready()
        again = confirming(gate.port, "kill")
        _, properties, payload = wire.task_message("watched.again", (1,))
        again.publish(1, "", "kill", payload, properties)
        assert again.wait(Basic.Ack).delivery_tag == 1


@contextlib.contextmanager
def memory_alarm(broker):
    """The broker takes no publishes meanwhile."""
    broker.ctl("set_vm_memory_high_watermark", "0.000001")
    try:
        yield
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.4")


def test_a_memory_alarm_delays_and_loses_nothing(oncegate, broker, vhost, store):
    # Long enough for a machine that has other things to do when a lease is to be renewed.
    gate = oncegate(RULES.replace('"3s"', '"10s"'), store=store.url)
    client = confirming(gate.port, "alarm", vhost)
    with memory_alarm(broker):
        for number in range(300):
            _, properties, payload = wire.task_message("watched.alarm", (number // 2,))
            client.publish(1, "", "alarm", payload, properties)
        assert client.wait(wire.Connection.Blocked).reason
        if not gate.direct:
            harness.wait_until(lambda: len(store.locks()) == 150, lambda: f"150 locks, are {len(store.locks())}")
            # A key with as much life as the lease ends in the same store, and the locks are still there: they are renewed.
            store.client.set("lapses", "as a lease would", px=10_000)
            harness.wait_until(lambda: not store.client.exists("lapses"), "a lease's time to be over")
            assert [lock["state"] for lock in store.locks()] == ["leased"] * 150
    confirms = wire.Confirms()
    wire.read_confirms(client, confirms, 300)
    assert confirms.acked == set(range(1, 301)) and not confirms.surplus
    wanted = 300 if gate.direct else 150
    harness.wait_until(lambda: client.declare("alarm", passive=True).message_count == wanted, f"{wanted} messages")
    assert gate.direct or len(store.locks()) == 150
    client.close()


def test_a_producer_that_leaves_during_an_alarm(oncegate, broker, vhost, raw, store):
    gate = oncegate(RULES, store=store.url)
    watcher = raw()
    watcher.open_channel()
    watcher.declare("gone", durable=True)
    clients = []
    for _ in range(5):
        client = raw(gate.port)
        client.open_channel()
        clients.append(client)
    with memory_alarm(broker):
        for number, client in enumerate(clients):
            _, properties, payload = wire.task_message("watched.gone", (number,))
            client.publish(1, "", "gone", payload, properties)
            client.drop()
    if gate.direct:
        return
    # What was read in full and not confirmed within the lease may be given up, but then no lock holds its key.
    harness.wait_until(
        lambda: not [lock for lock in store.locks() if lock["state"] == "leased"], "no lock without the broker's word"
    )
    harness.wait_until(
        lambda: len(store.locks()) <= watcher.count("gone"), "no more locks than messages"
    )


def test_the_broker_ends_the_connection(oncegate, broker, vhost, raw, store):
    gate = oncegate(RULES, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    broker.close_connections(vhost)
    closing = client.wait(wire.Connection.Close)
    assert closing.reply_code == 320
    client.method(wire.Connection.CloseOk())
    client.until_closed()


def test_an_unreachable_broker_refuses_and_recovers(gates, own_broker, store):
    gate = gates(own_broker.port, RULES, store=store.url)
    own_broker.kill()
    if not gate.direct:
        # A client that comes is told, and from then on at the latest so is who asks.
        with pytest.raises((wire.Closed, OSError)):
            wire.connect(gate.port, "/")
        harness.wait_until(lambda: gate.get("/readyz").status_code == 503, "not to be ready without a broker", interval=0.2)
        assert gate.get("/livez").status_code == 200
    with pytest.raises((wire.Closed, OSError)):
        wire.connect(gate.port, "/")
    own_broker.start()
    if not gate.direct:
        gate.wait_ready()
    confirming(gate.port, "recovered").close()


def test_a_worker_reconnects_after_the_broker_is_killed(gates, own_broker, workspace, scoreboard, store):
    gate = gates(own_broker.port, '[[rule]]\ntask = "live.add"\nunique = "until_started"\n', store=store.url)
    environment = harness.app_environment(gate.port, "/", "work", scoreboard)
    worker = harness.Worker(workspace, environment, scoreboard)
    try:
        harness.run_producer(environment, "add.delay(1, 1)")
        scoreboard.wait_runs(1)
        own_broker.kill()
        own_broker.start()
        if not gate.direct:
            gate.wait_ready()
        harness.run_producer(environment, "add.delay(2, 2)")
        # The first may run again, where the broker had not written down its ack.
        for count in (2, 3):
            runs = scoreboard.wait_runs(count)
            if runs[-1]["args"] == [2, 2]:
                break
        assert runs[-1]["args"] == [2, 2], runs
    finally:
        worker.stop()
