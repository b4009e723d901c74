"""Modes, bypasses, overrides, reload, drain."""

import os

import harness
import pytest
import wire
from wire import Basic, Confirm

RULES = """
[[rule]]
name = "watched"
task = "watched.*"
unique = "until_expired"
ttl = "10m"
"""


def publish(client, queue, task, args=(1,), **headers):
    task_id, properties, payload = wire.task_message(task, args, **headers)
    client.publish(1, "", queue, payload, properties)
    return task_id


def ready(raw, gate, queue):
    client = raw(gate.port)
    client.open_channel()
    client.declare(queue)
    return client


def holds(client, queue, count):
    harness.wait_until(lambda: client.count(queue) == count, lambda: f"{count} in {queue}, are {client.count(queue)}")


def test_observe_counts_and_forwards_all(oncegate, raw, store):
    gate = oncegate(RULES.replace("[[rule]]", '[[rule]]\nmode = "observe"'), store=store.url)
    client = ready(raw, gate, "observe")
    for _ in range(10):
        publish(client, "observe", "watched.observe")
    holds(client, "observe", 10)
    gate.expect_publishes(1, "forwarded", rule="watched", mode="observe")
    gate.expect_publishes(9, "dropped", rule="watched", mode="observe")


def test_an_observing_rule_and_an_off_rule_change_no_frame(oncegate, relays, broker, raw, store):
    behind = relays(broker.port)
    rules = RULES.replace("[[rule]]", '[[rule]]\nmode = "observe"') + '[[rule]]\nname = "off"\ntask = "off.*"\nunique = "until_started"\nmode = "off"\n'
    gate = oncegate(rules, store=store.url, upstream=f"amqp://127.0.0.1:{behind.port}")
    if gate.direct:
        return
    front = relays(gate.port)
    client = ready(raw, front, "frames")
    for task in ("watched.frames", "off.frames"):
        for _ in range(5):
            publish(client, "frames", task)
    holds(client, "frames", 10)
    frames = [
        [frame for frame in wire.split_frames(bytes(relay.connections[-1]["to_broker"])[8:])[0] if frame[0] != wire.HEARTBEAT]
        for relay in (front, behind)
    ]
    assert frames[0] == frames[1]


def test_bypass_stops_the_rules_below(oncegate, raw, store):
    gate = oncegate('[[rule]]\nname = "let"\ntask = "watched.let"\nbypass = true\n' + RULES, store=store.url)
    client = ready(raw, gate, "bypass")
    for _ in range(5):
        publish(client, "bypass", "watched.let")
        publish(client, "bypass", "watched.other")
    holds(client, "bypass", 6)
    gate.expect_publishes(5, "bypassed", rule="let")
    gate.expect_publishes(4, "dropped", rule="watched")


def test_continue_lets_earlier_keys_win(oncegate, raw, store):
    first = '[[rule]]\nname = "first"\ntask = "watched.*"\ncontinue = true\nkey = []\n'
    gate = oncegate(first + RULES, store=store.url)
    client = ready(raw, gate, "continue")
    for number in range(5):
        publish(client, "continue", "watched.continue", (number,))
    # One per task: the key of the first rule; unique of the second.
    holds(client, "continue", 1)


def test_the_first_rule_decides(oncegate, raw, store):
    first = '[[rule]]\nname = "first"\ntask = "watched.first"\nunique = "until_expired"\nkey = []\n'
    gate = oncegate(first + RULES, store=store.url)
    client = ready(raw, gate, "order")
    for number in range(3):
        publish(client, "order", "watched.first", (number,))
        publish(client, "order", "watched.second", (number,))
    holds(client, "order", 4)
    gate.expect_publishes(2, "dropped", rule="first")
    gate.expect_publishes(3, "forwarded", rule="watched")


def test_when_decides_by_expression(oncegate, raw, store):
    gate = oncegate(RULES + 'params = "a, b=0"\nwhen = "b > 5"\n', store=store.url)
    client = ready(raw, gate, "when")
    for _ in range(3):
        publish(client, "when", "watched.when", (1, 9))
        publish(client, "when", "watched.when", (1, 2))
    holds(client, "when", 4)


def test_queue_exchange_and_user_match(oncegate, raw, store, broker, vhost):
    rules = (
        '[[rule]]\nname = "queue"\ntask = "watched.*"\nqueue = "q-*"\nunique = "until_expired"\n'
        '[[rule]]\nname = "user"\ntask = "watched.*"\nuser = "cinderella"\nunique = "until_expired"\n'
    )
    gate = oncegate(rules, store=store.url)
    broker.add_user("cinderella", "shoe", vhost)
    guest = ready(raw, gate, "q-one")
    guest.declare("other")
    for _ in range(3):
        publish(guest, "q-one", "watched.matched")
        publish(guest, "other", "watched.matched")
    holds(guest, "q-one", 1)
    holds(guest, "other", 3)
    other = raw(gate.port, user="cinderella", password="shoe")
    other.open_channel()
    for _ in range(3):
        # Other arguments: rules that share a name space share its locks.
        publish(other, "other", "watched.matched", ("hers",))
    # Asked where they were sent, so that all of them have been decided.
    holds(other, "other", 4)


def test_vhosts_do_not_share_locks(oncegate, raw, store, broker, vhost):
    gate = oncegate(RULES, store=store.url)
    second = broker.add_vhost()
    try:
        for name in (vhost, second):
            client = raw(gate.port, vhost=name)
            client.open_channel()
            client.declare("v")
            publish(client, "v", "watched.vhost")
            publish(client, "v", "watched.vhost")
            holds(client, "v", 1)
    finally:
        broker.delete_vhost(second)


def test_namespaces_share_locks(oncegate, raw, store):
    gate = oncegate(RULES + 'namespace = "shared"\n', store=store.url)
    client = ready(raw, gate, "ns")
    publish(client, "ns", "watched.one")
    publish(client, "ns", "watched.two")
    holds(client, "ns", 1)


def test_header_overrides_need_leave(oncegate, raw, store):
    allowed = RULES.replace("watched", "allowed") + 'allow_overrides = ["key", "ttl", "bypass"]\n'
    gate = oncegate(RULES + allowed, store=store.url)
    client = ready(raw, gate, "over")
    for number in range(3):
        # The header makes different calls one key, where that is allowed.
        publish(client, "over", "allowed.key", (number,), **{"x-oncegate-key": "same"})
    holds(client, "over", 1)
    for number in range(3):
        publish(client, "over", "watched.key", (number,), **{"x-oncegate-key": "same"})
    holds(client, "over", 4)
    for _ in range(3):
        publish(client, "over", "allowed.bypass", (7,), **{"x-oncegate": "bypass"})
    holds(client, "over", 7)
    for _ in range(3):
        publish(client, "over", "watched.bypass", (7,), **{"x-oncegate": "bypass"})
    holds(client, "over", 8)
    publish(client, "over", "allowed.ttl", (8,), **{"x-oncegate-ttl": 60})
    holds(client, "over", 9)
    if not gate.direct:
        lock = harness.wait_until(
            lambda: [l for l in store.locks() if l["task"] == "allowed.ttl" and l["state"] == "queued"], "the lock to be whole"
        )[0]
        assert store.client.pttl(lock["key"]) <= 60_500


def reloads(gate, result):
    return gate.count("oncegate_config_reloads_total", result=result)


def reloaded(gate, result, before):
    harness.wait_until(lambda: reloads(gate, result) > before, lambda: f"a reload ({result}):\n{gate.log()[-2000:]}")


@pytest.mark.parametrize("how", ["SIGHUP", "file change", "replaced file"])
def test_reload(oncegate, raw, store, how):
    gate = oncegate(RULES, store=store.url)
    if gate.direct:
        pytest.skip("there is no proxy to reload")
    client = ready(raw, gate, "reload")
    for _ in range(2):
        publish(client, "reload", "later.task")
    holds(client, "reload", 2)
    text = gate.config.read_text() + RULES.replace("watched", "later")
    if how == "SIGHUP":
        text = "watch_config = false\n" + text
    # A file that is being written may be read, and refused, before it is whole.
    before = reloads(gate, "success")
    if how == "replaced file":
        other = gate.config.with_suffix(".new")
        other.write_text(text)
        os.replace(other, gate.config)
    else:
        gate.config.write_text(text)
    if how == "SIGHUP":
        gate.reload()
    reloaded(gate, "success", before)
    # The same connection is under the new rules.
    for _ in range(3):
        publish(client, "reload", "later.task")
    holds(client, "reload", 3)
    gate.expect_publishes(2, "dropped", rule="later")
    assert gate.count("oncegate_config_last_reload_successful") == 1


def test_a_wrong_file_is_refused_and_the_old_rules_stay(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url)
    if gate.direct:
        pytest.skip("there is no proxy to reload")
    client = ready(raw, gate, "wrong")
    right = gate.config.read_text()
    for text in (right + "[[rule]]\nnonsense = 1\n", right.replace("until_expired", "until_doomsday"), "not toml ["):
        before = reloads(gate, "failure")
        gate.config.write_text(text)
        gate.reload()
        reloaded(gate, "failure", before)
        assert gate.count("oncegate_config_last_reload_successful") == 0
        assert gate.process.alive()
    publish(client, "wrong", "watched.wrong")
    publish(client, "wrong", "watched.wrong")
    holds(client, "wrong", 1)
    # From N rules to none needs leave.
    before = reloads(gate, "failure")
    gate.config.write_text(right.split("[[rule]]")[0])
    gate.reload()
    reloaded(gate, "failure", before)
    publish(client, "wrong", "watched.wrong")
    publish(client, "wrong", "other")
    holds(client, "wrong", 2)


def test_drain_decides_what_was_sent_and_ends_with_320(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url, proxy='drain_delay = "1s"\ndrain_timeout = "2m"')
    if gate.direct:
        pytest.skip("there is no proxy to drain")
    admin = raw()
    admin.open_channel()
    admin.declare("drain")
    client = raw(gate.port)
    client.open_channel()
    client.call(Confirm.Select(), Confirm.SelectOk)
    for number in range(500):
        publish(client, "drain", "watched.drain", (number,))
    # Behind the last of them, so that the proxy has read them all; what has become of them is another matter.
    client.open_channel(2)
    confirms = wire.Confirms()
    for frame in client.frames:
        wire.take_confirm(confirms, frame)
    gate.terminate()
    wire.read_confirms(client, confirms, 500)
    assert confirms.acked == set(range(1, 501)) and not confirms.surplus
    closing = client.wait(wire.Connection.Close)
    assert closing.reply_code == 320
    client.method(wire.Connection.CloseOk())
    client.until_closed()
    assert gate.process.wait() == 0
    assert admin.count("drain") == 500


def test_drain_waits_for_a_started_delivery(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url, proxy='drain_delay = "0s"\ndrain_timeout = "10m"')
    if gate.direct:
        pytest.skip("there is no proxy to drain")
    worker = ready(raw, gate, "started")
    publish(worker, "started", "watched.started")
    worker.call(Basic.Consume(queue="started"), Basic.ConsumeOk)
    tag = worker.wait(Basic.Deliver).delivery_tag
    worker.content()
    gate.terminate()
    # The drain has come as far as to cancel the worker's consumer; its connection is still served.
    admin = raw()
    admin.open_channel()
    harness.wait_until(lambda: admin.declare("started", passive=True).consumer_count == 0, "the consumer to be cancelled")
    assert worker.count("started") == 0
    assert gate.process.alive()
    worker.method(Basic.Ack(delivery_tag=tag), 1)
    assert worker.wait(wire.Connection.Close).reply_code == 320
    worker.method(wire.Connection.CloseOk())
    assert gate.process.wait() == 0
    assert admin.count("started") == 0


def test_a_second_term_ends_at_once(oncegate, raw, store):
    gate = oncegate(RULES, store=store.url, proxy='drain_delay = "1h"\ndrain_timeout = "2h"')
    if gate.direct:
        pytest.skip("there is no proxy to end")
    raw(gate.port)
    gate.terminate()
    harness.wait_until(lambda: gate.get("/readyz").status_code == 503, "not to be ready while it drains")
    assert gate.get("/livez").status_code == 200
    gate.terminate()
    assert gate.process.wait() == 0


def test_celery_survives_a_restart_of_the_proxy(oncegate, stack, store, scoreboard):
    gate = oncegate('[[rule]]\ntask = "live.add"\nunique = "until_started"\n', store=store.url, proxy='drain_delay = "0s"')
    if gate.direct:
        pytest.skip("there is no proxy to restart")
    stack.worker(gate)
    stack.produce(gate, "for n in range(10): add.delay(n, n)")
    scoreboard.wait_runs(10)
    gate.terminate()
    assert gate.process.wait() == 0
    gate.start()
    stack.produce(gate, "for n in range(10, 20): add.delay(n, n)")
    assert sorted(run["args"][0] for run in scoreboard.wait_runs(20)) == list(range(20))


def test_two_proxies_share_locks(oncegate, raw, store):
    first, second = oncegate(RULES, store=store.url), oncegate(RULES, store=store.url)
    one, two = ready(raw, first, "fleet"), ready(raw, second, "fleet")
    for number in range(20):
        publish(one, "fleet", "watched.fleet", (number,))
        publish(two, "fleet", "watched.fleet", (number,))
    holds(one, "fleet", 20)
