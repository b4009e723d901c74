"""celery-singleton's README example with plain tasks, under config/examples/celery-singleton.toml."""

import concurrent.futures

import pytest

QUICK_START = """
async_result = do_stuff.delay(1, 2, 3, a='b')
async_result2 = do_stuff.delay(1, 2, 3, a='b')
print(async_result.id, async_result2.id)
"""

HOW_DOES_IT_WORK = """
a = do_stuff.delay(1, 2, 3)
b = do_stuff.delay(1, 2, 3)
c = do_stuff.delay(4, 5, 6)
print(a.id, b.id, c.id)
# wait for a to finish
assert a.get(timeout=60) == "I just woke up"
# the library's b is a; here it has what a has
assert b.get(timeout=60) == "I just woke up"
"""

RAISE_ON_DUPLICATE = """
from amqp.exceptions import PreconditionFailed
task1 = raises_on_duplicate.delay(1)
try:
    raises_on_duplicate.delay(1)
except PreconditionFailed as error:
    assert task1.id in error.reply_text, error
    print('DuplicateTaskError')
"""


@pytest.fixture
def singleton(library, results):
    return library("celery-singleton", results)


def ids(runs):
    return [run["id"] for run in runs]


def test_quick_start(singleton):
    singleton.worker(concurrency=2)
    first, _ = singleton.produce(QUICK_START).split()
    singleton.dropped(1, "singletons")
    [run] = singleton.wait_runs("do_stuff", 1)
    assert (run["id"], run["args"], run["kwargs"]) == (first, [1, 2, 3], {"a": "b"})
    singleton.wake(4)
    singleton.wait_runs("do_stuff", 1, "SUCCESS")
    singleton.wait_free()
    singleton.released(1, "singletons", "success")
    assert ids(singleton.runs("do_stuff")) == [first]


def test_how_does_it_work(singleton):
    singleton.worker(concurrency=2)
    with concurrent.futures.ThreadPoolExecutor() as beside:
        # It waits for a, which sleeps until the duplicate has been seen.
        script = beside.submit(singleton.produce, HOW_DOES_IT_WORK)
        singleton.dropped(1, "singletons")
        singleton.wake(4, 3)
        a, _, c = script.result().split()
    assert sorted(ids(singleton.wait_runs("do_stuff", 2))) == sorted([a, c])
    singleton.wait_free()
    # Now we can spawn a duplicate of it
    d = singleton.produce("print(do_stuff.delay(1, 2, 3).id)").strip()
    assert d in ids(singleton.wait_runs("do_stuff", 3))
    singleton.wait_runs("do_stuff", 3, "SUCCESS")
    singleton.wait_free()
    singleton.released(3, "singletons", "success")


def test_a_call_while_it_runs_is_a_duplicate(singleton):
    singleton.worker(concurrency=2)
    singleton.produce("do_stuff.delay(1)")
    singleton.wait_runs("do_stuff", 1)
    holder = singleton.wait_lock("running")["holder"]
    # By name too, which the library does not see.
    singleton.produce("celery_app.send_task('tasks.do_stuff', (1,))")
    singleton.dropped(1, "singletons")
    assert singleton.wait_lock("running")["holder"] == holder
    singleton.wake(4)
    singleton.wait_runs("do_stuff", 1, "SUCCESS")
    singleton.wait_free()
    assert ids(singleton.runs("do_stuff")) == [holder]


def test_unique_on(singleton):
    singleton.worker(concurrency=3)
    singleton.produce(
        "task1 = do_something.delay(username='bob', otherarg=99)\n"
        "task2 = do_something.delay(username='bob', otherarg=100)  # this is a duplicate of task1\n"
        "task3 = do_something.delay('bob')\n"
        "task4 = do_something.delay('alice', 99)"
    )
    # The third is one that the library takes for another: its argument goes by position.
    singleton.dropped(2, "one-per-user")
    runs = singleton.wait_runs("do_something", 2)
    assert sorted((run["args"], run["kwargs"]) for run in runs) == [
        ([], {"username": "bob", "otherarg": 99}),
        (["alice", 99], {}),
    ]
    singleton.wake(5, 2)
    singleton.wait_runs("do_something", 2, "SUCCESS")
    singleton.wait_free()
    singleton.produce("do_something.delay(username='bob', otherarg=100)")
    singleton.wait_runs("do_something", 3)


def test_raise_on_duplicate(singleton):
    assert singleton.produce_confirmed(RAISE_ON_DUPLICATE) == "DuplicateTaskError\n"
    singleton.gate.expect_publishes(1, "raised", rule="raising")
    singleton.wait_messages(1)


def test_lock_expiry(singleton):
    singleton.worker(concurrency=2)
    task1 = singleton.produce("print(runs_for_12_seconds.delay().id)\nruns_for_12_seconds.delay()").strip()
    singleton.dropped(1, "one-in-ten-seconds")
    singleton.wait_runs("runs_for_12_seconds", 1)
    singleton.wait_free()
    # The lock went by its ttl: the task still runs.
    assert singleton.runs("runs_for_12_seconds", "SUCCESS") == []
    task2 = singleton.produce("print(runs_for_12_seconds.delay().id)").strip()
    assert ids(singleton.wait_runs("runs_for_12_seconds", 2)) == [task1, task2]


def test_a_failure_frees_the_lock(singleton):
    singleton.worker()
    singleton.produce("fails.delay('one')\nfails.delay('one')")
    singleton.dropped(1, "singletons")
    singleton.scoreboard.open_gate("one")
    singleton.wait_runs("fails", 1, "FAILURE")
    singleton.wait_free()
    singleton.released(1, "singletons", "failure")


def test_a_retry_is_not_lost(singleton):
    """With the library the first retry finds its own lock, is not sent, and the lock stays for ever."""
    singleton.worker()
    singleton.produce("retries.delay(2)")
    runs = singleton.wait_runs("retries", 3)
    assert [run["retries"] for run in runs] == [0, 1, 2]
    assert len(set(ids(runs))) == 1
    singleton.wait_free()
    singleton.released(1, "singletons", "success")
    singleton.dropped(0, "singletons")


def test_a_revoke_before_the_run_frees_the_lock(singleton):
    """The library keeps the lock of a revoked task."""
    singleton.worker()
    singleton.occupy()
    first = singleton.produce("print(do_stuff.delay(1).id)").strip()
    singleton.produce(f"celery_app.control.revoke({first!r})")
    singleton.wait_free()
    singleton.released(1, "singletons", "revoked")
    second = singleton.produce("print(do_stuff.delay(1).id)").strip()
    singleton.vacate()
    singleton.wake(4)
    assert ids(singleton.wait_runs("do_stuff", 1, "SUCCESS")) == [second]


def test_a_revoke_that_ends_the_run_frees_the_lock(singleton):
    singleton.worker()
    first = singleton.produce("print(fails.delay('never').id)").strip()
    singleton.wait_runs("fails", 1)
    singleton.wait_lock("running")
    singleton.produce(f"celery_app.control.revoke({first!r}, terminate=True)")
    singleton.wait_free()
    singleton.released(1, "singletons", "revoked")
    singleton.produce("fails.delay('never')")
    singleton.wait_runs("fails", 2)


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
def test_a_time_limit_frees_the_lock(singleton, limit):
    """The library's handlers do not run when the process is killed by the hard one."""
    singleton.worker()
    singleton.produce(f"fails.apply_async(('never',), {limit}=1)")
    # Nothing else ends it: its gate stays shut. Whether its begin is noted before is up to the machine.
    singleton.released(1, "singletons", "failure")
    singleton.wait_free()
    again = singleton.produce("print(fails.delay('never').id)").strip()
    singleton.wait_begun("fails", again)


def test_a_killed_workers_task_runs_again_under_its_own_lock(singleton):
    """It acknowledges late, so the broker has it still; with the library its lock has to be cleared by hand."""
    killed = singleton.worker()
    first = singleton.produce("print(late.delay('one').id)").strip()
    singleton.wait_runs("late", 1)
    killed.kill()
    singleton.produce("late.delay('one')")
    singleton.dropped(1, "singletons")
    singleton.worker()
    assert ids(singleton.wait_runs("late", 2)) == [first, first]
    singleton.scoreboard.open_gate("one")
    singleton.wait_runs("late", 1, "SUCCESS")
    singleton.wait_free()
    singleton.released(1, "singletons", "success")


def test_clear_locks(singleton):
    """The library's deletes the locks of what runs as well."""
    singleton.worker()
    singleton.produce("fails.delay('one')\ndo_stuff.delay(1)")
    singleton.forwarded(2, "singletons")
    holder = singleton.wait_lock("running")["holder"]
    done = singleton.gate.run_cli("locks", "clear", "--rule", "singletons", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(lock["holder"], lock["state"]) for lock in singleton.locks()] == [(holder, "running")]
    singleton.produce("fails.delay('one')\ndo_stuff.delay(1)")
    singleton.dropped(1, "singletons")
    singleton.forwarded(3, "singletons")


def test_without_the_store_every_call_runs(singleton):
    """The library raises in the producer."""
    singleton.worker()
    singleton.store.kill()
    singleton.produce("for _ in range(3): retries.delay(0)")
    singleton.wait_runs("retries", 3, "SUCCESS")
    singleton.dropped(0, "singletons")
