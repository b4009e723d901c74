"""A worker is shut down while a task runs, the ways that Celery has: the key is free when the task cannot run any more, and not before."""

import signal

import celery
import harness
import pytest

SOFT = pytest.mark.skipif(celery.VERSION < (5, 5), reason="this Celery has no soft shutdown")
TASKS = pytest.mark.parametrize("task", ["gated", "late"])


@pytest.fixture
def running(oncegate, stack, store, scoreboard):
    """A worker in which a task runs that has its key."""

    def start(task, **conf):
        gate = oncegate(
            f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "until_finished"\norphan_grace = "2s"\n', store=store.url
        )
        worker = stack.worker(gate, conf=conf)
        stack.produce(gate, f"{task}.delay('one')")
        scoreboard.wait_runs(1)
        if task == "gated":
            harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
        stack.produce(gate, f"{task}.delay('one')")
        gate.expect_publishes(1, "dropped", rule="g")
        return gate, worker

    return start


def freed(gate, store, reason):
    harness.wait_until(lambda: not store.locks(), "the lock to go", 2 * harness.DEADLINE)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason=reason)


def phases(scoreboard, count):
    return [run["phase"] for run in scoreboard.wait_runs(count)]


def next_runs(gate, stack, store, scoreboard, task, before):
    """The next call is no duplicate, and runs to its end."""
    stack.produce(gate, f"{task}.delay('one')")
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(before + 2)
    assert [run["phase"] for run in runs[before:]] == ["begin", "end"]
    assert runs[before]["id"] != runs[0]["id"]
    harness.wait_until(lambda: not store.locks(), "the lock to go")


@TASKS
def test_warm_what_runs_keeps_its_key_to_its_end(running, stack, store, scoreboard, task):
    gate, worker = running(task)
    worker.terminate()
    harness.wait_until(lambda: "Warm shutdown" in worker.log(), "the shutdown to begin")
    stack.produce(gate, f"{task}.delay('one')")
    gate.expect_publishes(2, "dropped", rule="g")
    scoreboard.open_gate("one")
    assert phases(scoreboard, 2) == ["begin", "end"]
    freed(gate, store, "success")
    worker.process.wait()
    stack.worker(gate)
    next_runs(gate, stack, store, scoreboard, task, 2)


def cold(gate, worker, stack, store, scoreboard, task):
    worker.process.send(signal.SIGQUIT)
    worker.process.wait()
    if task == "gated":
        # It was acknowledged, and nobody has it any more.
        freed(gate, store, "crash")
        stack.worker(gate)
        return next_runs(gate, stack, store, scoreboard, task, 1)
    # Its message is back in the queue, and still has the key.
    stack.produce(gate, "late.delay('one')")
    gate.expect_publishes(2, "dropped", rule="g")
    stack.worker(gate)
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(3)
    assert [run["phase"] for run in runs] == ["begin", "begin", "end"] and len({run["id"] for run in runs}) == 1
    freed(gate, store, "success")
    return next_runs(gate, stack, store, scoreboard, task, 3)


@TASKS
def test_cold_what_is_lost_is_free_and_what_comes_back_is_not(running, stack, store, scoreboard, task):
    cold(*running(task), stack, store, scoreboard, task)


@SOFT
@TASKS
def test_soft_what_does_not_end_in_time_is_as_after_a_cold_one(running, stack, store, scoreboard, task):
    cold(*running(task, worker_soft_shutdown_timeout=1), stack, store, scoreboard, task)


@SOFT
@TASKS
def test_soft_what_ends_in_time_frees_its_key(running, stack, store, scoreboard, task):
    gate, worker = running(task, worker_soft_shutdown_timeout=10)
    worker.process.send(signal.SIGQUIT)
    harness.wait_until(lambda: "Soft Shutdown" in worker.log(), "the shutdown to begin")
    scoreboard.open_gate("one")
    assert phases(scoreboard, 2) == ["begin", "end"]
    freed(gate, store, "success")
    worker.kill()
    stack.worker(gate)
    next_runs(gate, stack, store, scoreboard, task, 2)
