"""Workers that are gone, and workers that only seem so, with real Celery: what they ran early-acked is lost, or runs on."""

import types

import harness
import pytest

RULES = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_finished"\norphan_grace = "2s"\n'


def start_one(stack, gate, store, scoreboard, worker):
    """A task runs, and the store knows where; its id."""
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
    [lock] = store.locks()
    assert lock["worker"] == f"{worker.node}@test"
    # The ack is in the broker's hands, so nothing is delivered again.
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    return lock["holder"]


def freed(gate, store, reason):
    harness.wait_until(lambda: not store.locks(), "the lock to go")
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason=reason)


def another_runs(stack, gate, scoreboard, runs):
    """The next call is no duplicate, and runs to its end."""
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(runs + 2)[runs:]] == ["begin", "end"]


def answers(relay):
    """How many connections of a worker have carried an answer to a question of the proxy's."""
    return sum(b"oncegate.reply." in record["to_broker"] for record in relay.connections)


def test_a_killed_worker_loses_its_lock_after_the_grace(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES, store=store.url)
    worker = stack.worker(gate)
    start_one(stack, gate, store, scoreboard, worker)
    worker.kill()
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    freed(gate, store, "crash")
    stack.worker(gate)
    another_runs(stack, gate, scoreboard, 1)


def test_the_memory_store_knows_the_same(oncegate, stack, scoreboard):
    gate = oncegate(RULES)
    worker = stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    worker.kill()
    harness.wait_until(lambda: gate.count("oncegate_locks_released_total", rule="g", reason="crash") == 1, "the lock to go")
    stack.worker(gate)
    another_runs(stack, gate, scoreboard, 1)


def test_a_worker_started_anew_under_its_name_does_not_know_the_task(oncegate, stack, store, scoreboard, relays):
    gate = oncegate(RULES, store=store.url)
    worker = stack.worker(gate)
    start_one(stack, gate, store, scoreboard, worker)
    worker.kill()
    relay = relays(gate.port)
    stack.worker(types.SimpleNamespace(port=relay.port), node=worker.node)
    freed(gate, store, "crash")
    assert answers(relay) > 0, "it was asked"
    another_runs(stack, gate, scoreboard, 1)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_reconnects_keeps_the_lock_of_what_runs_on(oncegate, stack, store, scoreboard, relays, pool):
    gate = oncegate(RULES, store=store.url)
    relay = relays(gate.port)
    worker = stack.worker(types.SimpleNamespace(port=relay.port), "-P", pool)
    task = start_one(stack, gate, store, scoreboard, worker)
    relay.cut()
    harness.wait_until(lambda: answers(relay), "the worker to be asked")
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    assert [lock["holder"] for lock in store.locks()] == [task]
    scoreboard.open_gate("one")
    freed(gate, store, "success")
    assert gate.count("oncegate_locks_released_total", rule="g", reason="crash") == 0
    assert [run["id"] for run in scoreboard.wait_runs(2)] == [task, task]


def test_a_proxy_started_anew_keeps_the_lock_of_what_runs_on(oncegate, stack, store, scoreboard, relays):
    # The worker may take longer than a note lives to come back, and has this long.
    gate = oncegate(RULES.replace('"2s"', '"20s"'), store=store.url)
    relay = relays(gate.port)
    worker = stack.worker(types.SimpleNamespace(port=relay.port))
    task = start_one(stack, gate, store, scoreboard, worker)
    gate.kill()
    gate.start()
    harness.wait_until(lambda: answers(relay), "the worker to be asked")
    assert [lock["holder"] for lock in store.locks()] == [task]
    scoreboard.open_gate("one")
    freed(gate, store, "success")
    assert gate.count("oncegate_locks_released_total", rule="g", reason="crash") == 0


def test_another_proxy_frees_what_a_worker_and_its_proxy_leave(oncegate, stack, store, scoreboard):
    one, other = oncegate(RULES, store=store.url), oncegate(RULES, store=store.url)
    worker = stack.worker(one)
    start_one(stack, one, store, scoreboard, worker)
    harness.wait_until(lambda: len(store.client.keys("*:proxy:*")) == 2, "both proxies to tell that they are there")
    [note] = harness.wait_until(lambda: store.client.keys("*:node:*"), "the worker to be told of")
    assert note.endswith(f":{worker.node}@test")
    assert 0 < store.client.pttl(note) <= 15_000
    one.kill()
    worker.kill()
    freed(other, store, "crash")
    stack.worker(other)
    another_runs(stack, other, scoreboard, 1)
