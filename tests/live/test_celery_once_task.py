"""Both locks of celery-once-task's README example with plain tasks, under config/examples/celery-once-task.toml."""

import harness
import pytest


@pytest.fixture
def once(library):
    return library("celery-once-task")


def ids(runs):
    return [run["id"] for run in runs]


def test_calling_it_multiple_times_queues_one(once):
    first = once.produce("for _ in range(3): print(my_task.delay(42, 7).id)").split()[0]
    once.dropped(2, "my-task")
    once.wait_messages(1)
    assert once.wait_lock("queued")["holder"] == first
    # Two calls with different arguments are separate tasks; and by name, which the library does not see, is no other call.
    once.produce("my_task.delay(43, 7)\ncelery_app.send_task('tasks.my_task', (42, 7))")
    once.dropped(3, "my-task")
    once.worker()
    runs = once.wait_runs("my_task", 2, "SUCCESS")
    assert [run["args"] for run in runs] == [[42, 7], [43, 7]]
    assert ids(runs)[0] == first
    once.wait_free()
    once.released(2, "my-task", "started")
    once.produce("my_task.delay(42, 7)")
    once.wait_runs("my_task", 3, "SUCCESS")


def test_by_position_and_by_name_are_one_call(once):
    once.produce("my_task.delay(42, 7)\nmy_task.delay(42, taskArg2=7)\nmy_task.delay(taskArg2=7, taskArg1=42)")
    once.dropped(2, "my-task")
    once.wait_messages(1)


def test_arguments_that_change_on_the_wire(once):
    """A tuple is a list in the worker, and a number that is a key a string: the library's worker misses the lock."""
    once.produce("for _ in range(2): my_task.delay(((1, 2),), {1: 'one'})")
    once.dropped(1, "my-task")
    once.worker()
    once.wait_runs("my_task", 1, "SUCCESS")
    once.wait_free()
    once.released(1, "my-task", "started")


def test_only_prevent_duplicate_queueing(once):
    once.produce("for _ in range(3): allow_parallel_runs.delay()")
    once.dropped(2, "once")
    once.worker()
    once.wait_runs("allow_parallel_runs", 1, "SUCCESS")
    once.wait_free()


def test_the_lock_goes_when_the_worker_takes_the_task(once):
    once.worker()
    first = once.produce("print(lasts.delay('one').id)").strip()
    once.wait_runs("lasts", 1)
    once.wait_free()
    once.released(1, "once", "started")
    # One runs and one waits; a third is a duplicate of the one that waits.
    second = once.produce("print(lasts.delay('one').id)\nlasts.delay('one')").strip()
    once.dropped(1, "once")
    assert [lock["holder"] for lock in once.locks()] == [second]
    once.scoreboard.open_gate("one", 2)
    assert ids(once.wait_runs("lasts", 2, "SUCCESS")) == [first, second]
    once.wait_free()


def test_runs_may_overlap(once):
    once.worker(concurrency=2)
    for count in (1, 2):
        once.produce("lasts.delay('one')")
        once.wait_runs("lasts", count)
        once.wait_free()
    assert once.runs("lasts", "SUCCESS") == []
    once.dropped(0, "once")


@pytest.mark.parametrize("task", ["retries", "retries_late"])
def test_a_retry_is_not_lost(once, task):
    """While one runs, another is queued and holds the lock; the first one's retry is sent all the same.

    With the library the retry of a task that acknowledges late is dropped, even if nothing else is queued.
    """
    once.worker()
    first = once.produce(f"print({task}.delay('one').id)").strip()
    once.wait_runs(task, 1)
    once.wait_free()
    second = once.produce(f"print({task}.delay('one').id)").strip()
    once.forwarded(2, "once")
    assert [lock["holder"] for lock in once.locks()] == [second]
    once.scoreboard.open_gate("one", 2)
    runs = once.wait_runs(task, 2, "SUCCESS")
    assert sorted(ids(runs)) == sorted([first, second])
    assert [run["retries"] for run in runs] == [1, 1]
    once.wait_free()
    once.dropped(0, "once")


def test_a_revoke_in_the_queue_frees_the_lock(once):
    once.worker()
    once.occupy()
    first = once.produce("print(my_task.delay(42, 7).id)").strip()
    once.produce(f"celery_app.control.revoke({first!r})")
    once.wait_free()
    # That of the queue, and that of the run: a worker has it in hand.
    once.released(2, "my-task", "revoked")
    second = once.produce("print(my_task.delay(42, 7).id)").strip()
    once.vacate()
    assert ids(once.wait_runs("my_task", 1, "SUCCESS")) == [second]


def test_what_a_killed_worker_had_not_begun_stays_locked(once):
    killed = once.worker()
    once.occupy()
    first = once.produce("print(allow_parallel_runs.delay().id)").strip()
    once.forwarded(1, "once")
    killed.kill()
    once.produce("allow_parallel_runs.delay()")
    once.dropped(1, "once")
    once.worker()
    # Where the broker had not heard by then that the killed one had begun its task, that one runs first.
    once.vacate()
    assert ids(once.wait_runs("allow_parallel_runs", 1, "SUCCESS")) == [first]
    once.wait_free()
    once.released(1, "once", "started")


def run_free(once):
    harness.wait_until(lambda: not once.store.client.keys("*:run:*"), "the running lock to go")


def test_a_second_run_is_rejected_while_the_first_runs(once):
    """Also by a worker of another machine, and by a task that acknowledges early."""
    for _ in range(2):
        once.worker()
    first = once.produce("print(report.delay('one').id)").strip()
    once.wait_runs("report", 1)
    once.produce("report.delay('one')\nreport.delay('two')")
    once.gate.expect("oncegate_deliveries_total", 1, rule="report", decision="dropped")
    once.scoreboard.open_gate("one")
    once.scoreboard.open_gate("two")
    assert first in ids(once.wait_runs("report", 2, "SUCCESS"))
    run_free(once)
    once.produce("report.delay('one')")
    once.scoreboard.open_gate("one")
    once.wait_runs("report", 3, "SUCCESS")


def test_a_retry_is_not_rejected_by_its_own_running_lock(once):
    """With the library the retry is rejected by the lock of the run that it comes from."""
    for _ in range(2):
        once.worker()
    first = once.produce("print(report_again.delay('one').id)").strip()
    once.scoreboard.open_gate("one", 2)
    [run] = once.wait_runs("report_again", 1, "SUCCESS")
    assert (run["id"], run["retries"]) == (first, 1)
    run_free(once)


def test_each_lock_goes_in_its_turn(once):
    once.worker()
    once.occupy()
    once.produce("for _ in range(2): my_task.delay(42, 7)")
    once.dropped(1, "my-task")
    once.vacate()
    once.wait_runs("my_task", 1, "SUCCESS")
    run_free(once)
    once.released(1, "my-task", "started")
    once.released(1, "my-task", "success")


def test_the_lock_outlives_the_eta(once):
    """The library counts its hour from the call: a call two hours ahead is queued twice after one."""
    once.produce("for _ in range(2): my_task.apply_async((42, 7), countdown=7200)")
    once.dropped(1, "my-task")
    once.forwarded(1, "my-task")
    [lock] = once.locks()
    assert 10_200_000 < once.store.client.pttl(lock["key"]) <= 10_800_000


def test_without_redis_every_call_runs(once):
    """The library takes a Redis that does not answer for a lock that is held, and drops every call."""
    once.worker()
    once.store.kill()
    once.produce("for _ in range(3): my_task.delay(42, 7)")
    once.wait_runs("my_task", 3, "SUCCESS")
    once.dropped(0, "my-task")
