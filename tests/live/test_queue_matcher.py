"""Rules with a queue matcher at publish: workers bind on their connections, producers publish on others."""

import itertools

import harness
import pytest
import wire
from pamqp.commands import Exchange, Queue

RULE = """
[[rule]]
name = "reports"
task = "live.*"
queue = "reports*"
unique = "until_expired"
"""


def routes():
    """Where a producer sends, with no word of queues: it declares and binds nothing."""
    return {
        "task_routes": {
            "live.add": {"exchange": "direct.tasks", "routing_key": "report"},
            "live.note": {"exchange": "topic.tasks", "routing_key": "report.daily.eu"},
            "live.plain": {"exchange": "topic.tasks", "routing_key": "mail.eu"},
        }
    }


def queues(default):
    """What a worker declares and binds when it starts."""
    return {
        "task_queues": {
            default: {"exchange": default, "routing_key": default},
            "reports": {"exchange": "direct.tasks", "exchange_type": "direct", "routing_key": "report"},
            "reports.daily": {"exchange": "topic.tasks", "exchange_type": "topic", "routing_key": "report.daily.#"},
            "mail": {"exchange": "topic.tasks", "exchange_type": "topic", "routing_key": "mail.*"},
        }
    }


def unknown(gate, wanted, rule="reports"):
    gate.expect("oncegate_exceptions_total", wanted, rule=rule, reason="queue_unknown")


def test_producers_are_matched_by_the_queues_that_a_worker_has_bound(oncegate, stack, store, scoreboard, raw):
    gate = oncegate(RULE, store=store.url)
    stack.worker(gate, conf=queues(stack.queue))
    code = (
        "for n in range(20): add.delay(n % 4, 1)\n"
        "for n in range(20): note.delay(n % 5)\n"
        "for n in range(20): plain.delay(n % 5)\n"
        "for n in range(3): fence.delay()"
    )
    stack.produce(gate, code, conf=routes())
    gate.expect_publishes(31, "dropped", rule="reports")
    gate.expect_publishes(9, "forwarded", rule="reports")
    runs = scoreboard.wait_runs(4 + 5 + 20 + 3)
    count = {task: len([run for run in runs if run["task"] == f"live.{task}"]) for task in ("add", "note", "plain", "fence")}
    assert count == {"add": 4, "note": 5, "plain": 20, "fence": 3}
    unknown(gate, 0)
    # The direct exchange loses its binding: what is published there reaches no queue that is known.
    operator = raw(gate.port)
    operator.open_channel()
    operator.call(Queue.Unbind(queue="reports", exchange="direct.tasks", routing_key="report"), Queue.UnbindOk)
    stack.produce(gate, "for n in range(4): add.delay(7, 7)\nfor n in range(3): note.delay('late')", conf=routes())
    unknown(gate, 4)
    gate.expect_publishes(33, "dropped", rule="reports")
    gate.expect_publishes(10, "forwarded", rule="reports")


def test_a_delayed_task_is_matched_by_the_queue_that_it_ends_in(oncegate, stack, store, scoreboard, relays):
    pytest.importorskip("kombu.transport.native_delayed_delivery", reason="Celery has it since 5.5")
    conf = {"task_default_queue_type": "quorum", "task_default_exchange": "tasks", "task_default_exchange_type": "topic"}
    rule = f'[[rule]]\nname = "later"\ntask = "live.add"\nqueue = "{stack.queue}"\nunique = "until_expired"\n'
    gate = oncegate(rule, store=store.url)
    stack.worker(gate, conf=conf)
    relay = relays(gate.port)
    stack.produce(relay, "for n in range(6): add.apply_async((n % 2, 1), countdown=2)", conf=conf)
    # The producer is gone before the relay has read what it left behind.
    harness.wait_until(lambda: relay.connections[0]["to_broker"].count(b"\x11celery_delayed_27") == 6, "six delayed messages")
    gate.expect_publishes(2, "forwarded", rule="later")
    gate.expect_publishes(4, "dropped", rule="later")
    assert len(scoreboard.wait_runs(2)) == 2
    unknown(gate, 0, rule="later")


def test_known_queues_are_those_that_the_broker_routes_to(oncegate, store, raw):
    """The same keys straight to the broker say which ones reach the queue."""
    gate = oncegate(RULE.replace("reports*", "target"), store=store.url)
    # The bindings go through the proxy on a connection of their own, which then ends.
    worker = raw(gate.port)
    worker.open_channel()
    worker.declare("target")
    worker.declare("elsewhere")

    def bind(exchange, key, queue="target"):
        worker.call(Queue.Bind(queue=queue, exchange=exchange, routing_key=key), Queue.BindOk)

    def join(source, key, destination):
        worker.call(Exchange.Bind(destination=destination, source=source, routing_key=key), Exchange.BindOk)

    kinds = {"d": "direct", "f": "fanout", "ring": "fanout", "gone": "fanout", **dict.fromkeys(("t1", "t2", "t3", "t4", "hub"), "topic")}
    for exchange, kind in kinds.items():
        worker.call(Exchange.Declare(exchange=exchange, exchange_type=kind), Exchange.DeclareOk)
    bind("d", "a.b")
    bind("d", "*")
    bind("d", "")
    bind("f", "anything")
    bind("t1", "a.#.b")
    bind("t1", "*.c")
    bind("t2", "#.a.*.#")
    bind("t3", "a")
    bind("t3", "")
    bind("t4", "#", "elsewhere")
    bind("t4", "a.b", "elsewhere")
    join("hub", "a.#", "t1")
    join("hub", "#.c", "ring")
    join("ring", "", "hub")
    join("ring", "", "d")
    bind("gone", "")
    bind("amq.topic", "b.#")
    worker.call(Exchange.Delete(exchange="gone"), Exchange.DeleteOk)
    worker.call(Exchange.Declare(exchange="gone", exchange_type="fanout"), Exchange.DeclareOk)
    worker.close()

    words = ["a", "b", "c"]
    keys = ["", ".", "a.", "*", "#", "a.b.c.b"] + [".".join(key) for n in (1, 2, 3) for key in itertools.product(words, repeat=n)]
    ways = list(itertools.product([*kinds, "amq.topic"], keys))
    straight = raw()
    straight.open_channel()
    reached = []
    for exchange, key in ways:
        straight.publish(1, exchange, key)
        straight.call(Queue.Unbind(queue="elsewhere", exchange="t4", routing_key="none"), Queue.UnbindOk)
        if straight.call(Queue.Purge(queue="target"), Queue.PurgeOk).message_count:
            reached.append((exchange, key))
    assert 100 < len(reached) < len(ways) - 100

    producer = raw(gate.port)
    producer.open_channel()
    for exchange, key in ways:
        for _ in range(2):
            _, properties, payload = wire.task_message("live.add", (exchange, key))
            producer.publish(1, exchange, key, payload, properties)
    gate.expect_publishes(len(reached), "dropped", rule="reports")
    gate.expect_publishes(len(reached), "forwarded", rule="reports")
    # The queues of t4 are known and are others.
    unknown(gate, 2 * (len(ways) - len(reached) - len(keys)))
    harness.wait_until(lambda: straight.count("target") == len(reached), "one message of each way that leads to the queue")


def test_a_queue_that_goes_with_its_connection_is_not_known_any_more(oncegate, store, raw):
    gate = oncegate(RULE, store=store.url)
    worker, producer = raw(gate.port), raw(gate.port)
    worker.open_channel()
    producer.open_channel()
    worker.call(Exchange.Declare(exchange="e", exchange_type="direct"), Exchange.DeclareOk)
    worker.declare("reports.own", exclusive=True)
    worker.call(Queue.Bind(queue="reports.own", exchange="e", routing_key="k"), Queue.BindOk)

    def publish():
        _, properties, payload = wire.task_message("live.add", (1, 2))
        producer.publish(1, "e", "k", payload, properties)

    publish()
    publish()
    gate.expect_publishes(1, "dropped", rule="reports")
    worker.drop()
    gate.expect("oncegate_connections", 1)
    publish()
    unknown(gate, 1)
    gate.expect_publishes(1, "dropped", rule="reports")


def test_rules_that_come_later_know_what_was_bound_before(oncegate, store, raw):
    gate = oncegate("", store=store.url)
    worker, producer = raw(gate.port), raw(gate.port)
    worker.open_channel()
    producer.open_channel()
    worker.declare("reports")
    worker.call(Queue.Bind(queue="reports", exchange="amq.direct", routing_key="k"), Queue.BindOk)
    gate.config.write_text(gate.config.read_text() + RULE)
    gate.reload()
    harness.wait_until(lambda: gate.get("/api/v1/rules").json()["rules"], "the rule to be in force")
    for _ in range(3):
        _, properties, payload = wire.task_message("live.add", (1, 2))
        producer.publish(1, "amq.direct", "k", payload, properties)
    gate.expect_publishes(2, "dropped", rule="reports")
    unknown(gate, 0)
