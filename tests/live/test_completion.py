"""What a lock listens to, how it is learnt when tasks acknowledge, and messages that expire with their lock."""

import time

import harness
import pytest

# Longer than the distance in time from which on an ack is taken to come after a run, and not with its start.
APART = 0.7
# The lock of the task that runs behind others goes by its end, which is heard after theirs.
FENCE = '[[rule]]\nname = "fence"\ntask = "live.fence"\nunique = "{unique}"\n'
SILENT = "[control]\nenable_events = false\n"


def rule(task, unique="until_finished", **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in {"ttl": '"1h"', **keys}.items())
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "{unique}"\n{lines}{FENCE.format(unique=unique)}'


def locks(store):
    return [lock for lock in store.locks() if lock["rule"] == "g"]


def lock(store):
    [found] = locks(store)
    return found


def no_lock(store):
    harness.wait_until(lambda: not locks(store), "the lock to go")


def running(store, count=1):
    harness.wait_until(lambda: [lock["state"] for lock in locks(store)] == ["running"] * count, "the start to be known")


def all_is_heard(gate, stack, **options):
    """What a worker told of all that it was given before has been heard, where it runs one task at a time."""
    stack.produce(gate, "fence.delay()", **options)
    harness.wait_until(lambda: gate.count("oncegate_locks_released_total", rule="fence") == 1, "the fence to end")


def left_seconds(found):
    return int(found["expires"]) / 1000 - time.time()


def test_redis_alone_hears_neither_events_nor_early_acks(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("note", completion='["redis"]'), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "note.delay(1)")
    scoreboard.wait_runs(1)
    all_is_heard(gate, stack)
    assert left_seconds(lock(store)) > 3000
    stack.produce(gate, "note.delay(1)")
    gate.expect_publishes(1, "dropped", rule="g")


def test_redis_alone_hears_no_late_ack(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("late", acks_late="true", completion='["redis"]', settle_grace='"1ms"'), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "late.delay('one')")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    all_is_heard(gate, stack)
    assert left_seconds(lock(store)) > 3000


def test_redis_alone_hears_the_result_backend(oncegate, stack, store, results, scoreboard):
    backend = f"[results]\nurl = {harness.toml_string(results.url)}\n"
    gate = oncegate(SILENT + rule("gated", completion='["redis"]'), store=store.url, extra=backend)
    harness.wait_until(lambda: "the result backend is connected" in gate.log(), "the result backend to be connected")
    stack.worker(gate, result_url=results.url)
    stack.produce(gate, "gated.delay('one')", result_url=results.url)
    running(store)
    scoreboard.open_gate("one")
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")


def test_acks_alone_end_a_task_that_acknowledges_late(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("late", acks_late="true", completion='["ack"]'), store=store.url)
    stack.worker(gate, result_url="rpc://")
    stack.produce(gate, "late.delay('one')", result_url="rpc://")
    scoreboard.wait_runs(1)
    running(store)
    stack.produce(gate, "late.delay('one')", result_url="rpc://")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    no_lock(store)
    # The event and the result told of a success, which is not listened to.
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="ended")
    stack.produce(gate, "late.delay('one')", result_url="rpc://")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(4)) == 4


@pytest.mark.parametrize("events", [False, True])
def test_events_alone_hear_no_ack(oncegate, stack, store, scoreboard, events):
    rules = rule("note", unique="until_started", completion='["events"]')
    gate = oncegate(("" if events else SILENT) + rules, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "note.delay(1)")
    scoreboard.wait_runs(1)
    if events:
        no_lock(store)
        gate.expect("oncegate_locks_released_total", 1, rule="g", reason="started")
    else:
        all_is_heard(gate, stack)
        assert lock(store)["state"] == "queued"
        # The worker alone knows that the task has run; the operator can still free it.
        assert left_seconds(lock(store)) > 3000


def test_a_revoke_counts_whatever_is_listed(oncegate, stack, store):
    gate = oncegate(rule("note", completion='["redis"]'), store=store.url)
    stack.produce(gate, "note.apply_async((1,), countdown=3600)")
    stack.produce(gate, f"app.control.revoke({lock(store)['holder']!r})")
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="revoked")


def test_acks_that_come_after_the_run_are_found_out(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("late", completion='["ack"]'), store=store.url)
    stack.worker(gate)
    for number in range(4):
        stack.produce(gate, f"late.delay('{number}')")
        holder = scoreboard.wait_runs(2 * number + 1)[-1]["id"]
        harness.wait_until(lambda: {"running"} == {lock["state"] for lock in locks(store) if lock["holder"] == holder}, "the start")
        time.sleep(APART)
        scoreboard.open_gate(str(number))
        scoreboard.wait_runs(2 * number + 2)
    # Before three runs have shown it, an ack ends only what was heard to end before it came.
    harness.wait_until(lambda: all(lock["holder"] != holder for lock in locks(store)), "the last lock to go by its ack")
    assert gate.count("oncegate_locks_released_total", rule="g") == gate.count("oncegate_locks_released_total", rule="g", reason="ended")
    stack.produce(gate, "late.delay('3')")
    scoreboard.open_gate("3")
    assert len(scoreboard.wait_runs(10)) == 10


def test_early_acks_never_end_a_task(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("gated"), store=store.url)
    stack.worker(gate)
    for number in range(4):
        stack.produce(gate, "gated.delay('one')")
        scoreboard.wait_runs(2 * number + 1)
        running(store)
        time.sleep(APART)
        stack.produce(gate, "gated.delay('one')")
        gate.expect_publishes(number + 1, "dropped", rule="g")
        scoreboard.open_gate("one")
        scoreboard.wait_runs(2 * number + 2)
        no_lock(store)
    gate.expect("oncegate_locks_released_total", 4, rule="g", reason="success")


def test_a_rule_of_which_no_end_is_heard_is_told_of_once(oncegate, stack, store, scoreboard):
    gate = oncegate(SILENT + rule("note"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "for number in range(10): note.delay(number)")
    scoreboard.wait_runs(10)
    assert "none was heard to end" not in gate.log()
    # What is not heard within a minute may still come; one more ack after it tells.
    time.sleep(61)
    stack.produce(gate, "for number in range(10, 20): note.delay(number)")
    scoreboard.wait_runs(20)
    harness.wait_until(lambda: "none was heard to end" in gate.log(), "the warning")
    [line] = [line for line in gate.log().splitlines() if "none was heard to end" in line]
    assert '"rule":"g"' in line.replace(" ", "") and "acks_late = true" in line and "WARN" in line.upper()


def test_a_message_that_outlives_its_lock_never_runs(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("note", ttl='"5s"', expires_with_lock="true"), store=store.url)
    stack.produce(gate, "note.delay(1)")
    gate.expect_publishes(1, "forwarded", rule="g")
    # Nobody takes it from its queue until its lock has gone by its ttl.
    no_lock(store)
    worker = stack.worker(gate)
    harness.wait_until(lambda: "Discarding revoked task" in worker.log() or "expired" in worker.log(), "the worker to discard it")
    stack.produce(gate, "note.delay(1)")
    gate.expect_publishes(2, "forwarded", rule="g")
    [run] = scoreboard.wait_runs(1)
    all_is_heard(gate, stack)
    assert [again["id"] for again in scoreboard.runs_of("live.note")] == [run["id"]]


def test_a_message_that_expires_with_its_lock_runs_and_is_retried_in_time(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("flaky", expires_with_lock="true"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "flaky.apply_async((2,), time_limit=60)")
    assert [run["retries"] for run in scoreboard.wait_runs(3)] == [0, 1, 2]
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")


def test_a_message_of_protocol_1_is_left_as_it_is_and_that_is_told(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("note", expires_with_lock="true"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "note.delay(1)", conf={"task_protocol": 1})
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: "does not expire with its lock" in gate.log(), "the log to tell")
