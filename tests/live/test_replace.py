"""The newest call wins: an older one that has not started ends REVOKED, wherever its message is."""

import json
import threading
from datetime import datetime, timedelta, timezone

import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="without a proxy every call runs")

KEYED = 'key = ["args[0]"]\n'


def rules(task="note", unique="until_finished", more=KEYED):
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "{unique}"\non_duplicate = "replace"\nlease = "3s"\n{more}'


def state(results, task_id):
    found = results.client.get(f"celery-task-meta-{task_id}")
    return json.loads(found)["status"] if found else "PENDING"


def ends(results, task_id, wanted):
    harness.wait_until(lambda: state(results, task_id) == wanted, lambda: f"{task_id} to end {wanted}, is {state(results, task_id)}")


def ran(scoreboard, task="live.note"):
    return [run["args"] for run in scoreboard.drain() if run["task"] == task]


def lock(store):
    [found] = store.locks()
    return found


@pytest.mark.parametrize("unique", ["until_started", "until_finished", "until_started+while_running"])
def test_the_newest_of_those_in_the_queue_runs(oncegate, stack, store, results, scoreboard, unique):
    gate = oncegate(rules(unique=unique), store=store.url)
    ids = stack.calls(gate, "for n in range(5): call(note, 'k', n)\ncall(note, 'other', 0)", result_url=results.url)
    # Those that a newer one has outrun replace nothing.
    harness.wait_until(lambda: gate.publishes("replaced", rule="g") + gate.publishes("forwarded", rule="g") == 6, "all to be decided")
    stack.worker(gate, result_url=results.url)
    ends(results, ids[4], "SUCCESS")
    ends(results, ids[5], "SUCCESS")
    for older in ids[:4]:
        ends(results, older, "REVOKED")
    assert sorted(ran(scoreboard)) == [["k", 4], ["other", 0]]
    gate.expect("oncegate_deliveries_total", 4, rule="g", decision="superseded")
    harness.wait_until(lambda: not store.locks(), "the locks to go")
    assert gate.count("oncegate_exceptions_total", rule="g") == 0


def test_with_the_store_in_memory_too(oncegate, stack, results, scoreboard):
    gate = oncegate(rules())
    ids = stack.calls(gate, "for n in range(5): call(note, 'k', n)", result_url=results.url)
    stack.worker(gate, result_url=results.url)
    ends(results, ids[4], "SUCCESS")
    for older in ids[:4]:
        ends(results, older, "REVOKED")
    assert ran(scoreboard) == [["k", 4]]


def test_the_producer_hears_that_the_older_was_revoked(oncegate, stack, store, results):
    gate = oncegate(rules(), store=store.url)
    stack.worker(gate, result_url=results.url)
    code = """
from celery.exceptions import TaskRevokedError
older, newer = note.apply_async(('k', 1), countdown=60), note.apply_async(('k', 2))
assert newer.get(timeout=30) == ['k', 2]
try:
    older.get(timeout=30)
except TaskRevokedError as error:
    print('revoked', older.state)
"""
    assert stack.produce(gate, code, result_url=results.url).stdout == "revoked REVOKED\n"


def test_one_that_has_started_is_not_replaced(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules("gated", more="key = []\n"), store=store.url)
    stack.worker(gate, result_url=results.url)
    [first] = stack.calls(gate, "call(gated, 'one')", result_url=results.url)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: lock(store)["state"] == "running", "the start to be known")
    [second] = stack.calls(gate, "call(gated, 'two')", result_url=results.url)
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    ends(results, first, "SUCCESS")
    assert state(results, second) == "PENDING"
    assert gate.publishes("replaced", rule="g") == 0


def test_one_that_a_worker_holds_for_its_time_is_revoked_there(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules(), store=store.url)
    worker = stack.worker(gate, result_url=results.url)
    [older] = stack.calls(gate, "call(note, 'k', 1, countdown=8)", result_url=results.url)
    harness.wait_until(lambda: lock(store).get("worker"), "the worker to have it")
    [newer] = stack.calls(gate, "call(note, 'k', 2, countdown=5)", result_url=results.url)
    ends(results, older, "REVOKED")
    # It is known to be revoked by the worker's memory alone; the next worker has none.
    worker.kill()
    stack.worker(gate, result_url=results.url)
    ends(results, newer, "SUCCESS")
    harness.wait_until(lambda: stack.messages() == 0 and not store.locks(), "all to be done")
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="superseded")
    stack.produce(gate, "plain.delay()")
    scoreboard.wait_runs(1)
    assert ran(scoreboard) == [["k", 2]]
    assert state(results, older) == "REVOKED"
    assert gate.count("oncegate_exceptions_total", rule="g") == 0


def test_one_that_waits_in_a_busy_worker_is_revoked_there(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules(), store=store.url)
    stack.worker(gate, result_url=results.url)
    stack.produce(gate, "gated.delay('slot')")
    scoreboard.wait_runs(1)
    [older] = stack.calls(gate, "call(note, 'k', 1)", result_url=results.url)
    harness.wait_until(lambda: lock(store).get("worker"), "the worker to have it")
    [newer] = stack.calls(gate, "call(note, 'k', 2)", result_url=results.url)
    ends(results, older, "REVOKED")
    scoreboard.open_gate("slot")
    ends(results, newer, "SUCCESS")
    assert ran(scoreboard) == [["k", 2]]
    assert gate.count("oncegate_exceptions_total", rule="g") == 0


@pytest.mark.parametrize("control", [False, True], ids=["by the lock", "by control"])
def test_one_that_a_worker_of_the_other_proxy_holds_is_revoked_there(oncegate, stack, store, results, scoreboard, broker, vhost, control):
    extra = harness.account(broker.port, vhost) if control else ""
    front, back = (oncegate(rules(), store=store.url, extra=extra) for _ in range(2))
    if control:
        front.expect("oncegate_control_up", 1, vhost=vhost)
    stack.worker(back, result_url=results.url)
    [older] = stack.calls(front, "call(note, 'k', 1, countdown=8)", result_url=results.url)
    harness.wait_until(lambda: lock(store).get("worker"), "the worker to have it")
    [newer] = stack.calls(front, "call(note, 'k', 2)", result_url=results.url)
    ends(results, newer, "SUCCESS")
    ends(results, older, "REVOKED")
    assert ran(scoreboard) == [["k", 2]]


def test_the_older_runs_if_no_queue_takes_the_newer(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules(), store=store.url)
    nowhere = "queue=Queue('nowhere', Exchange(''), routing_key='nowhere', no_declare=True)"
    older, _ = stack.calls(gate, f"call(note, 'k', 1)\ncall(note, 'k', 2, {nowhere})", result_url=results.url)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="returned")
    assert (lock(store)["holder"], lock(store)["state"]) == (older, "queued")
    stack.worker(gate, result_url=results.url)
    ends(results, older, "SUCCESS")
    assert ran(scoreboard) == [["k", 1]]
    assert gate.count("oncegate_locks_released_total", rule="g", reason="replaced") == 0


def test_the_older_is_replaced_by_the_next_that_does_not_fail(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules(), store=store.url)
    nowhere = "queue=Queue('nowhere', Exchange(''), routing_key='nowhere', no_declare=True)"
    ids = stack.calls(gate, f"call(note, 'k', 1)\ncall(note, 'k', 2, {nowhere})\ncall(note, 'k', 3)", result_url=results.url)
    stack.worker(gate, result_url=results.url)
    ends(results, ids[2], "SUCCESS")
    ends(results, ids[0], "REVOKED")
    assert ran(scoreboard) == [["k", 3]]


def test_a_retry_of_a_superseded_task_does_not_run(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules("late_retry", more="key = []\nacks_late = true\n"), store=store.url)
    stack.worker(gate, result_url=results.url)
    [older] = stack.calls(gate, "call(late_retry, 'one', 3)", result_url=results.url)
    scoreboard.wait_runs(1)
    scoreboard.open_gate("one")
    # It waits for its retry, which another replaces.
    harness.wait_until(lambda: lock(store)["state"] == "queued", "the retry to be known")
    [newer] = stack.calls(gate, "call(late_retry, 'two', 0)", result_url=results.url)
    gate.expect_publishes(1, "replaced", rule="g")
    scoreboard.open_gate("two")
    ends(results, older, "REVOKED")
    harness.wait_until(lambda: stack.messages() == 0 and not store.locks(), "all to be done")
    stack.produce(gate, "fence.apply_async(countdown=4)")
    harness.wait_until(lambda: scoreboard.runs_of("live.fence"), "the time of the retry to pass")
    assert [run["id"] for run in scoreboard.runs_of("live.late_retry", phase="begin")] == [older, newer]


def test_an_observing_rule_replaces_nobody(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules(more=KEYED + 'mode = "observe"\n'), store=store.url)
    ids = stack.calls(gate, "for n in range(3): call(note, 'k', n)", result_url=results.url)
    gate.expect_publishes(2, "replaced", rule="g", mode="observe")
    stack.worker(gate, result_url=results.url)
    for one in ids:
        ends(results, one, "SUCCESS")
    assert len(ran(scoreboard)) == 3


PRODUCERS = 10
EACH = 100


@pytest.mark.parametrize("held", [False, True], ids=["queued", "held for their time"])
def test_of_a_thousand_from_everywhere_exactly_the_newest_runs(oncegate, stack, store, results, scoreboard, held):
    """Ten producers on two proxies publish one key, while workers are killed and started anew."""
    gates = [oncegate(rules(), store=store.url) for _ in range(2)]
    crew = [stack.worker(gate, result_url=results.url) for gate in gates]
    # None may begin before the last is published: they are for later, or the workers have something else to do.
    eta = (datetime.now(timezone.utc) + timedelta(seconds=harness.DEADLINE)).isoformat()
    options = f"eta=datetime.fromisoformat({eta!r})" if held else ""
    if not held:
        for gate in gates:
            stack.produce(gate, "gated.delay('slot')")
        scoreboard.wait_runs(2)
    code = f"from datetime import datetime\nfor n in range({EACH}): call(note, 'k', n, {options})"
    ids, errors = [], []

    def produce(gate, code):
        try:
            ids.extend(stack.calls(gate, code, result_url=results.url))
        except Exception as error:
            errors.append(error)

    def decided():
        return sum(gate.publishes(decision, rule="g") for gate in gates for decision in ("replaced", "forwarded"))

    producers = [threading.Thread(target=produce, args=(gates[n % 2], code)) for n in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    for n, gate in enumerate(gates if held else []):
        harness.wait_until(lambda seen=n * 400: decided() > seen, "some to be published")
        crew[n].kill()
        crew[n] = stack.worker(gate, result_url=results.url)
    for producer in producers:
        producer.join()
    assert not errors, errors
    for worker in crew:
        worker.kill()
    [last] = stack.calls(gates[0], "call(note, 'k', 'last')", result_url=results.url)
    # Forwarded are the first, and those that a newer one has outrun.
    harness.wait_until(lambda: decided() == PRODUCERS * EACH + 1, "all to be at the broker")
    for gate in gates:
        stack.worker(gate, result_url=results.url)
    ends(results, last, "SUCCESS")
    for older in ids:
        ends(results, older, "REVOKED")
    assert len(set(ids)) == PRODUCERS * EACH
    assert ran(scoreboard) == [["k", "last"]]
    for gate in gates:
        assert gate.publishes("dropped", rule="g") == gate.count("oncegate_exceptions_total", rule="g") == 0
