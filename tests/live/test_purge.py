"""The keys of tasks whose queue is purged or deleted are free again."""

import subprocess
import sys

import harness
import pytest

PLAIN = '[[rule]]\nname = "g"\ntask = "live.note"\nunique = "until_finished"\n'
GATED = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_finished"\n'
LATE = '[[rule]]\nname = "g"\ntask = "live.late"\nunique = "until_finished"\nacks_late = true\n'


def holders(store):
    return sorted(lock["holder"] for lock in store.locks())


def queued(store, count):
    """Waits until that many locks are known to lie in their queues."""
    harness.wait_until(
        lambda: sum(lock["state"] == "queued" for lock in store.locks()) == count,
        lambda: f"{count} queued locks: {store.locks()}",
    )


def celery_purge(stack, gate):
    """`celery purge`, as operators run it: `queue.purge` through the proxy."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "app", "purge", "-f"],
        env=stack.environment(gate),
        cwd=harness.APPS,
        capture_output=True,
        text=True,
        timeout=harness.DEADLINE * 2,
    )
    assert done.returncode == 0, f"celery purge: {done.stdout}{done.stderr}"
    return done.stdout


def freed(gate, count):
    gate.expect("oncegate_locks_released_total", count, rule="g", reason="purged")


def test_celery_purge_frees_the_keys_of_queued_tasks(oncegate, stack, store, scoreboard):
    gate = oncegate(PLAIN, store=store.url)
    stack.produce(gate, "note.delay(1), note.delay(2), note.delay(3)")
    queued(store, 3)
    stack.produce(gate, "note.delay(1)")
    gate.expect_publishes(1, "dropped", rule="g")
    assert "Purged 3 messages" in celery_purge(stack, gate)
    harness.wait_until(lambda: not store.locks(), "the locks to go")
    freed(gate, 3)
    gate.expect_log('"reason":"purged"')
    stack.produce(gate, "note.delay(1)")
    gate.expect_publishes(4, "forwarded", rule="g")
    stack.worker(gate)
    [run] = scoreboard.wait_runs(1)
    assert run["args"] == [1]
    harness.wait_until(lambda: not store.locks(), "the lock to go with its task")


@pytest.mark.parametrize("nowait", [False, True])
def test_a_deleted_queue_frees_the_keys_of_its_tasks(oncegate, stack, store, nowait):
    gate = oncegate(PLAIN, store=store.url)
    stack.produce(gate, "note.delay(1), note.delay(2)")
    queued(store, 2)
    stack.produce(
        gate,
        f"""
with app.connection_for_write() as connection:
    channel = connection.default_channel
    channel.queue_delete({stack.queue!r}, nowait={nowait})
    channel.close()
""",
    )
    harness.wait_until(lambda: not store.locks(), "the locks to go")
    freed(gate, 2)
    stack.produce(gate, "note.delay(1)")
    gate.expect_publishes(3, "forwarded", rule="g")


def test_a_delete_that_is_refused_frees_nothing(oncegate, stack, store):
    gate = oncegate(PLAIN, store=store.url)
    stack.produce(gate, "note.delay(1)")
    queued(store, 1)
    stack.produce(gate, "app.amqp.queues.add('second'); note.apply_async((2,), queue='second')")
    queued(store, 2)
    [first] = [lock for lock in store.locks() if lock["queue"] == stack.queue]
    stack.produce(
        gate,
        f"""
from amqp.exceptions import PreconditionFailed
with app.connection_for_write() as connection:
    try:
        connection.default_channel.queue_delete({stack.queue!r}, if_empty=True)
    except PreconditionFailed:
        pass
    else:
        raise AssertionError("it was deleted")
with app.connection_for_write() as connection:
    connection.default_channel.queue_purge("second")
""",
    )
    # One scan begins after another: the first has freed nothing once the second has.
    freed(gate, 1)
    assert holders(store) == [first["holder"]]


@pytest.mark.parametrize("task, rules", [("gated", GATED), ("late", LATE)])
def test_the_lock_of_a_running_task_stays(oncegate, stack, store, scoreboard, task, rules):
    gate = oncegate(rules, store=store.url)
    stack.worker(gate, "--prefetch-multiplier", "1")
    stack.produce(gate, f"{task}.delay('running')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: any(lock["state"] == "running" for lock in store.locks()), "the start to be known")
    [running] = store.locks()
    # With one process and a prefetch of one, where the first is acked late the others stay in the queue.
    stack.produce(gate, f"[{task}.delay(str(number)) for number in range(3)]")
    queued(store, 3)
    celery_purge(stack, gate)
    harness.wait_until(lambda: gate.count("oncegate_locks_released_total", rule="g", reason="purged") >= 2, "the locks to go")
    assert running["holder"] in holders(store)
    stack.produce(gate, f"{task}.delay('running')")
    gate.expect_publishes(1, "dropped", rule="g")
    for name in ("running", "0"):
        scoreboard.open_gate(name)
    harness.wait_until(lambda: running["holder"] not in holders(store), "the lock to go with its task")
    gate.expect("oncegate_locks_released_total", 0, rule="g", reason="lapsed")


def test_the_same_queue_name_in_another_vhost_is_another_queue(oncegate, stack, broker, store, scoreboard):
    gate = oncegate(PLAIN, store=store.url)
    stack.produce(gate, "note.delay(1)")
    other = broker.add_vhost()
    try:
        elsewhere = harness.app_environment(gate.port, other, stack.queue, scoreboard)
        harness.run_producer(elsewhere, "note.delay(1)")
        queued(store, 2)
        assert {lock["queue"] for lock in store.locks()} == {stack.queue}
        assert len({lock["vhost"] for lock in store.locks()}) == 2
        celery_purge(stack, gate)
        freed(gate, 1)
        [left] = store.locks()
        assert left["vhost"] == other
        listed = gate.get("/api/v1/locks").json()["locks"]
        assert [lock["vhost"] for lock in listed] == [other]
        harness.run_producer(elsewhere, "note.delay(1)")
        gate.expect_publishes(1, "dropped", rule="g")
    finally:
        broker.delete_vhost(other)


def test_a_purge_through_another_proxy_frees_what_this_one_locked(oncegate, stack, store):
    first, second = (oncegate(rules, store=store.url) for rules in (PLAIN, PLAIN))
    stack.produce(first, "note.delay(1)")
    queued(store, 1)
    celery_purge(stack, second)
    harness.wait_until(lambda: not store.locks(), "the lock to go")
    freed(second, 1)
    stack.produce(first, "note.delay(1)")
    first.expect_publishes(2, "forwarded", rule="g")


def test_a_purge_while_the_store_is_away_is_made_up_for(oncegate, stack, store):
    gate = oncegate(PLAIN, store=store.url)
    stack.produce(gate, "note.delay(1)")
    queued(store, 1)
    store.freeze()
    celery_purge(stack, gate)
    gate.expect_log("cannot be freed now")
    store.thaw()
    harness.wait_until(lambda: not store.locks(), "the lock to go")
    freed(gate, 1)
