"""The graceful end: what is in hand is finished, what is not goes to others at once, and nobody notices but by a 320."""

import re
import subprocess

import harness
import pytest
import wire
from wire import Basic, Connection

RULE = '[[rule]]\nname = "live"\ntask = "live.*"\nunique = "until_finished"\nttl = "10m"\nacks_late = true\n'


def drained(gate, code=0):
    assert gate.process.wait() == code, gate.log()[-4000:]
    assert '"ended"' in gate.log()


def draining(gate):
    gate.terminate()
    gate.expect_log("draining")


def cancelled(raw, queue):
    """Waits until the broker has no consumer of a queue."""
    admin = raw()
    admin.open_channel()
    harness.wait_until(lambda: admin.declare(queue, passive=True).consumer_count == 0, "the consumer to be cancelled")
    return admin


def consumer(raw, gate, queue, prefetch, tag="work"):
    client = raw(gate.port)
    client.open_channel()
    client.declare(queue)
    client.call(Basic.Qos(prefetch_count=prefetch), Basic.QosOk)
    client.call(Basic.Consume(queue=queue, consumer_tag=tag), Basic.ConsumeOk)
    return client


def delivery(client):
    deliver = client.wait(Basic.Deliver)
    _, body = client.content()
    return deliver, bytes(body)


def publish(client, queue, *bodies):
    for body in bodies:
        client.publish(1, "", queue, body)


def no_drain(gate):
    if gate.direct:
        pytest.skip("there is no proxy to drain")


def test_a_late_task_finishes_runs_once_and_its_worker_goes_on_at_another_proxy(oncegate, stack, store, scoreboard, vhost, raw):
    first = oncegate(RULE, store=store.url, proxy='drain_delay = "0s"\ndrain_timeout = "2m"')
    no_drain(first)
    second = oncegate(RULE, store=store.url)
    # As with any failover list of Celery's: the next address when one fails.
    addresses = ";".join(f"amqp://guest:guest@127.0.0.1:{gate.port}/{vhost}" for gate in (first, second))
    worker = stack.worker(first, conf={"broker_url": addresses, "worker_prefetch_multiplier": 1})
    stack.produce(second, "late.delay('long')")
    begun = scoreboard.wait_runs(1)[0]
    assert begun["phase"] == "begin"
    draining(first)
    cancelled(raw, stack.queue)
    # More work comes, which the worker must not get from here, and the task goes on for as long as it takes.
    stack.produce(second, "plain.delay('after')")
    harness.wait_until(lambda: stack.messages() == 1, "what comes to wait in the queue")
    assert first.process.alive(), "the task is still in hand"
    scoreboard.open_gate("long")
    drained(first)
    runs = scoreboard.wait_runs(3)
    assert [(run["task"], run.get("phase")) for run in runs] == [("live.late", "begin"), ("live.late", "end"), ("live.plain", None)]
    assert {run["id"] for run in runs[:2]} == {begun["id"]}
    # Acknowledged, so it is never delivered again: the worker takes from the second proxy what comes.
    stack.produce(second, "fence.delay()")
    runs = scoreboard.wait_runs(4)
    assert runs[3]["task"] == "live.fence" and len(runs) == 4
    assert worker.process.alive()
    second.expect("oncegate_deliveries_total", 0, rule="live", decision="superseded")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")


def test_a_late_task_outlives_a_restart_on_the_same_address(oncegate, stack, store, scoreboard):
    gate = oncegate(RULE, store=store.url, proxy='drain_delay = "0s"\ndrain_timeout = "2m"')
    no_drain(gate)
    stack.worker(gate)
    # With Celery's usual prefetch window the worker has all three in hand: each counts as started.
    stack.produce(gate, "for name in ('a', 'b', 'c'): late.delay(name)")
    scoreboard.wait_runs(1)
    gate.expect("oncegate_deliveries_total", 3, rule="live", decision="forwarded")
    draining(gate)
    for name in ("a", "b", "c"):
        scoreboard.open_gate(name)
    drained(gate)
    gate.start()
    stack.produce(gate, "fence.delay()")
    runs = scoreboard.wait_runs(7)
    assert [run["args"][0] for run in runs if run.get("phase") == "end"] == ["a", "b", "c"]
    assert runs[6]["task"] == "live.fence", "and nothing ran again"


def test_what_comes_during_a_drain_goes_to_other_workers_at_once(oncegate, raw):
    first = oncegate(proxy='drain_delay = "0s"\ndrain_timeout = "2m"')
    no_drain(first)
    second = oncegate()
    busy = consumer(raw, first, "work", 2)
    publish(busy, "work", b"1", b"2", b"3", b"4")
    tags = [delivery(busy)[0].delivery_tag for _ in range(2)]
    draining(first)
    cancelled(raw, "work")
    # Its window opens, and stays empty all the same.
    busy.method(Basic.Ack(delivery_tag=tags[0]), 1)
    other = consumer(raw, second, "work", 10)
    assert [delivery(other)[1] for _ in range(2)] == [b"3", b"4"]
    assert first.process.alive(), "2 is still in hand"
    busy.method(Basic.Ack(delivery_tag=tags[1]), 1)
    assert busy.wait(Connection.Close).reply_code == 320
    busy.method(Connection.CloseOk())
    drained(first)
    assert other.count("work") == 0


def test_a_cancelled_consumer_s_client_notices_nothing(oncegate, raw):
    gate = oncegate(proxy='drain_delay = "0s"\ndrain_timeout = "2m"')
    no_drain(gate)
    client = consumer(raw, gate, "quiet", 1)
    publish(client, "quiet", b"1", b"2")
    deliver, _ = delivery(client)
    draining(gate)
    admin = raw()
    admin.open_channel()
    harness.wait_until(
        lambda: admin.declare("quiet", passive=True).consumer_count == 0, "the consumer to be gone from the broker"
    )
    client.frames.clear()
    client.call(Basic.Qos(prefetch_count=5), Basic.QosOk)
    client.call(Basic.Cancel(consumer_tag="work"), Basic.CancelOk)
    client.call(Basic.Consume(queue="quiet", consumer_tag="work"), Basic.ConsumeOk)
    client.call(Basic.Cancel(consumer_tag="work"), Basic.CancelOk)
    harness.wait_until(lambda: admin.count("quiet") == 1, "what came for the new consumer to be back")
    client.method(Basic.Ack(delivery_tag=deliver.delivery_tag), 1)
    assert client.wait(Connection.Close).reply_code == 320
    client.method(Connection.CloseOk())
    drained(gate)
    answers = [frame for frame in client.frames if frame[0] == wire.METHOD]
    names = [wire.decode(frame).name for frame in answers]
    assert names == ["Basic.QosOk", "Basic.CancelOk", "Basic.ConsumeOk", "Basic.CancelOk", "Connection.Close"], names
    assert admin.count("quiet") == 1


def test_locks_are_whole_when_the_proxy_has_ended(oncegate, raw, store):
    gate = oncegate(RULE, store=store.url, proxy='drain_delay = "0s"')
    no_drain(gate)
    client = raw(gate.port)
    client.open_channel()
    client.declare("locks")
    for number in range(300):
        _, properties, payload = wire.task_message("live.add", (number,))
        client.publish(1, "", "locks", payload, properties)
    # Behind the last of them, so that the proxy has read them all; what has become of them is another matter.
    client.open_channel(2)
    gate.terminate()
    assert client.wait(Connection.Close).reply_code == 320
    client.method(Connection.CloseOk())
    drained(gate)
    admin = raw()
    admin.open_channel()
    locks = store.locks()
    assert len(locks) == admin.count("locks") == 300
    assert {lock["state"] for lock in locks} == {"queued"}, "none is left with its lease alone"


def test_a_second_term_cuts_a_running_delivery_and_it_comes_again(oncegate, raw):
    gate = oncegate(proxy='drain_delay = "0s"\ndrain_timeout = "2h"')
    no_drain(gate)
    client = consumer(raw, gate, "cut", 1)
    publish(client, "cut", b"1")
    delivery(client)
    draining(gate)
    gate.terminate()
    assert client.wait(Connection.Close).reply_code == 320
    # It is never answered: the end comes all the same, by its own clock.
    drained(gate)
    admin = raw()
    admin.open_channel()
    harness.wait_until(lambda: admin.count("cut") == 1, "the delivery to be back in its queue")


def test_idle_connections_are_all_told_to_go(oncegate, raw):
    gate = oncegate(proxy='drain_delay = "0s"\ndrain_timeout = "2m"')
    no_drain(gate)
    clients = [raw(gate.port) for _ in range(60)]
    gate.terminate()
    for client in clients:
        assert client.wait(Connection.Close).reply_code == 320
        client.method(Connection.CloseOk())
    drained(gate)
    assert "proxy.drain_timeout is over" not in gate.log()


def test_silent_peers_are_probed_on_both_legs(oncegate, raw, broker):
    """Without heartbeats nothing else finds a peer that has vanished."""
    gate = oncegate(proxy='tcp_keepalive = "47s"')
    no_drain(gate)
    raw(gate.port, heartbeat=0)

    def timers(filter):
        shown = subprocess.run(["ss", "-tnpoH", "state", "established", filter], capture_output=True, text=True, check=True)
        own = [line for line in shown.stdout.splitlines() if f"pid={gate.process.pid}," in line]
        # While bytes are on their way another timer is shown.
        found = [re.search(r"timer:\(keepalive,(?:(\d+)min)?(\d+)?", line) for line in own]
        return own and all(found) and [int(timer[1] or 0) * 60 + int(timer[2] or 0) for timer in found]

    for leg in (f"( sport = :{gate.port} )", f"( dport = :{broker.port} )"):
        left = harness.wait_until(lambda: timers(leg), f"the probes of {leg}")
        assert all(seconds <= 47 for seconds in left)
