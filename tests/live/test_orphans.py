"""Workers that are gone, and workers that only seem so, with real Celery: what they ran early-acked is lost, or runs on."""

import types

import harness
import pytest
import wire

RULES = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_finished"\norphan_grace = "2s"\n'
# Longer than any worker takes to come or to come back; `hurry` ends it.
PATIENT = RULES.replace('"2s"', '"1h"')


@pytest.fixture
def start_one(stack, broker, vhost, scoreboard):
    """Has a task run, and the proxy know where; its id."""

    def start(gate, worker):
        stack.produce(gate, "gated.delay('one')")
        scoreboard.wait_runs(1)

        def running():
            return [lock for lock in gate.get("/api/v1/locks").json()["locks"] if lock["state"] == "running"]

        [lock] = harness.wait_until(running, "the start to be known")
        assert lock["worker"] == f"{worker.node}@test"
        # The ack is in the broker's hands, so nothing is delivered again.
        harness.wait_until(lambda: broker.settled(vhost, stack.queue), "the ack to arrive")
        return lock["holder"]

    return start


def hurry(gate):
    """The grace of a reload holds from now on."""
    gate.config.write_text(gate.config.read_text().replace(PATIENT, RULES))
    done = gate.run_cli("reload")
    assert done.returncode == 0, done.stdout + done.stderr


def mailboxes(relay):
    """How many connections have carried the mailbox of a worker."""
    return sum(b".celery.pidbox" in record["to_broker"] for record in relay.connections)


def duplicate(client, stack, gate):
    """The same call again, dropped, from a client that is connected already: a producer takes a while to start."""
    _, properties, payload = wire.task_message("live.gated", ("one",))
    client.publish(1, "", stack.queue, payload, properties)
    gate.expect_publishes(1, "dropped", rule="g")


def freed(gate, store, reason):
    # The grace, the life of a note, the looks and the questions take up to half a minute by themselves.
    harness.wait_until(lambda: not store.locks(), "the lock to go", 2 * harness.DEADLINE)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason=reason)


def another_runs(stack, gate, scoreboard, runs):
    """The next call is no duplicate, and runs to its end."""
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(runs + 2)[runs:]] == ["begin", "end"]


def answers(relay):
    """How many connections of a worker have carried an answer to a question of the proxy's."""
    return sum(b"oncegate.reply." in record["to_broker"] for record in relay.connections)


def test_a_killed_worker_loses_its_lock_after_the_grace(oncegate, stack, store, scoreboard, raw, start_one):
    gate = oncegate(RULES, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    worker = stack.worker(gate)
    start_one(gate, worker)
    worker.kill()
    duplicate(client, stack, gate)
    freed(gate, store, "crash")
    stack.worker(gate)
    another_runs(stack, gate, scoreboard, 1)


def test_the_memory_store_knows_the_same(oncegate, stack, scoreboard, start_one):
    gate = oncegate(RULES)
    worker = stack.worker(gate)
    start_one(gate, worker)
    worker.kill()
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="crash")
    stack.worker(gate)
    another_runs(stack, gate, scoreboard, 1)


def test_a_worker_started_anew_under_its_name_does_not_know_the_task(oncegate, stack, store, scoreboard, relays, start_one):
    gate = oncegate(PATIENT, store=store.url)
    worker = stack.worker(gate)
    start_one(gate, worker)
    worker.kill()
    relay = relays(gate.port)
    stack.worker(types.SimpleNamespace(port=relay.port), node=worker.node)
    hurry(gate)
    freed(gate, store, "crash")
    assert answers(relay) > 0, "it was asked"
    another_runs(stack, gate, scoreboard, 1)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_reconnects_keeps_the_lock_of_what_runs_on(oncegate, stack, store, scoreboard, relays, start_one, pool):
    gate = oncegate(PATIENT, store=store.url)
    relay = relays(gate.port)
    worker = stack.worker(types.SimpleNamespace(port=relay.port), "-P", pool)
    task = start_one(gate, worker)
    relay.cut()
    harness.wait_until(lambda: mailboxes(relay) == 2, "the worker to be back")
    hurry(gate)
    harness.wait_until(lambda: answers(relay), "the worker to be asked")
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    assert [lock["holder"] for lock in store.locks()] == [task]
    scoreboard.open_gate("one")
    freed(gate, store, "success")
    assert gate.count("oncegate_locks_released_total", rule="g", reason="crash") == 0
    assert [run["id"] for run in scoreboard.wait_runs(2)] == [task, task]


def test_a_proxy_started_anew_keeps_the_lock_of_what_runs_on(oncegate, stack, store, scoreboard, relays, start_one):
    gate = oncegate(PATIENT, store=store.url)
    relay = relays(gate.port)
    worker = stack.worker(types.SimpleNamespace(port=relay.port))
    task = start_one(gate, worker)
    gate.kill()
    gate.start()
    harness.wait_until(lambda: mailboxes(relay) == 2, "the worker to be back")
    hurry(gate)
    harness.wait_until(lambda: answers(relay), "the worker to be asked")
    assert [lock["holder"] for lock in store.locks()] == [task]
    scoreboard.open_gate("one")
    freed(gate, store, "success")
    assert gate.count("oncegate_locks_released_total", rule="g", reason="crash") == 0


def test_another_proxy_frees_what_a_worker_and_its_proxy_leave(oncegate, stack, store, scoreboard, start_one):
    one, other = oncegate(RULES, store=store.url), oncegate(RULES, store=store.url)
    worker = stack.worker(one)
    start_one(one, worker)
    harness.wait_until(lambda: len(store.client.keys("*:proxy:*")) == 2, "both proxies to tell that they are there")
    [note] = harness.wait_until(lambda: store.client.keys("*:node:*"), "the worker to be told of")
    assert note.endswith(f":{worker.node}@test")
    assert store.client.pttl(note) <= 15_000
    one.kill()
    worker.kill()
    freed(other, store, "crash")
    stack.worker(other)
    another_runs(stack, other, scoreboard, 1)
