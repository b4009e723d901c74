"""The life of a lock with real Celery tasks: when it goes, and when it must not."""

import time

import harness
import pytest

FINISHED = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_finished"\n'


def rule(task, **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[rule]]\nname = "g"\ntask = "{task}"\nunique = "until_finished"\n{lines}'


def no_lock(store):
    harness.wait_until(lambda: not store.locks(), "the lock to go")


def lock(store):
    [found] = store.locks()
    return found


def state(store):
    return lock(store)["state"]


def test_until_finished_lasts_to_the_end_of_an_early_acked_task(oncegate, stack, store, scoreboard):
    gate = oncegate(FINISHED, store=store.url)
    worker = stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: state(store) == "running", "the start to be known")
    assert lock(store)["worker"] == f"{worker.node}@test"
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(4)) == 4
    no_lock(store)


def test_a_failed_task_frees_its_key(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("live.failing"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "failing.delay(1)")
    scoreboard.wait_runs(1)
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="failure")


@pytest.mark.parametrize("task", ["flaky", "flaky_late"])
def test_a_retry_keeps_the_lock_until_the_last_run(oncegate, stack, store, scoreboard, task):
    gate = oncegate(rule(f"live.{task}"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, f"{task}.delay(2)")
    runs = scoreboard.wait_runs(3)
    assert [run["retries"] for run in runs] == [0, 1, 2]
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")
    assert gate.publishes("dropped", rule="g") == 0


@pytest.mark.parametrize("task", ["again", "again_late"])
@pytest.mark.parametrize("unique", ["until_started", "until_finished", "while_running", "until_started+while_running"])
def test_a_retry_that_is_not_counted_is_no_duplicate_of_its_own(oncegate, stack, store, scoreboard, task, unique):
    gate = oncegate(f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "{unique}"\n', store=store.url)
    stack.worker(gate)
    stack.produce(gate, f"{task}.delay(3)")
    runs = scoreboard.wait_runs(4)
    assert len({run["id"] for run in runs}) == 1 and [run["retries"] for run in runs] == [0] * 4
    no_lock(store)
    stack.produce(gate, f"{task}.delay(3)")
    assert len({run["id"] for run in scoreboard.wait_runs(8)}) == 2
    no_lock(store)
    assert gate.publishes("dropped", rule="g") == gate.count("oncegate_deliveries_total", rule="g", decision="dropped") == 0


def test_the_key_stays_locked_over_a_retrys_countdown(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("live.gated_retry"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated_retry.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(gate, "gated_retry.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(3)] == ["begin", "end", "retried"]
    no_lock(store)


def test_cooldown_after_success_only(oncegate, stack, store, scoreboard):
    cooling = 'cooldown = "1h"\n'
    rules = FINISHED + cooling + '[[rule]]\ntask = "live.failing"\nunique = "until_finished"\n' + cooling
    gate = oncegate(rules, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "failing.delay(1)")
    scoreboard.wait_runs(1)
    no_lock(store)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(3)
    harness.wait_until(lambda: state(store) == "cooldown", "the cooldown to begin")
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")


def test_release_on_success_keeps_the_key_after_a_failure(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("live.failing", release_on='["success"]'), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "failing.delay(1)")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: state(store) == "cooldown", "the end to be known")
    stack.produce(gate, "failing.delay(1)")
    gate.expect_publishes(1, "dropped", rule="g")


def test_a_revoke_before_the_run_frees_the_key(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("live.plain"), store=store.url)
    stack.produce(gate, "plain.apply_async((1,), countdown=3600)")
    [queued] = store.wait_locks(1, "queued")
    # No worker has ever heard of it: the revoke itself is what is seen.
    stack.produce(gate, f"app.control.revoke({queued['holder']!r})")
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="revoked")
    stack.produce(gate, "plain.delay(1)")
    gate.expect_publishes(2, "forwarded", rule="g")


def test_a_revoke_with_terminate_ends_a_run_and_frees_the_key(oncegate, stack, store, scoreboard):
    gate = oncegate(FINISHED, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: state(store) == "running", "the start to be known")
    stack.produce(gate, f"app.control.revoke({lock(store)['holder']!r}, terminate=True)")
    no_lock(store)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="revoked")


# The broker is not told: it would drop the message itself at that time.
EXPIRES = """
import datetime
from celery import signals

end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={seconds})

@signals.before_task_publish.connect
def expires(headers=None, **_):
    headers["expires"] = end.isoformat()

plain.delay(1)
print(end.timestamp())
"""


def expired(gate, store):
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="expired")
    no_lock(store)


def test_a_task_that_has_expired_when_a_worker_gets_it_frees_its_key(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("live.plain"), store=store.url)
    stack.produce(gate, EXPIRES.format(seconds=-1))
    stack.worker(gate)
    expired(gate, store)
    stack.produce(gate, "fence.delay()")
    assert [run["task"] for run in scoreboard.wait_runs(1)] == ["live.fence"]


def test_a_task_that_expires_in_the_worker_frees_its_key(oncegate, stack, store, scoreboard):
    gate = oncegate(rule("live.plain"), store=store.url)
    stack.worker(gate)
    # The only process is busy, so that what comes waits in the worker.
    stack.produce(gate, "gated.delay('busy')")
    scoreboard.wait_runs(1)
    end = float(stack.produce(gate, EXPIRES.format(seconds=3)).stdout)
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="forwarded")
    harness.wait_until(lambda: time.time() > end, "its time to be over")
    scoreboard.open_gate("busy")
    expired(gate, store)
    stack.produce(gate, "fence.delay()")
    assert [run["task"] for run in scoreboard.wait_runs(3)] == ["live.gated", "live.gated", "live.fence"]


def test_a_time_limit_frees_the_key(oncegate, stack, store, scoreboard):
    gate = oncegate(FINISHED, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated.apply_async(('one',), time_limit=1)")
    # Nothing else ends it: its gate stays shut. Whether it has come to its mark before is up to the machine.
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="failure")
    no_lock(store)
    assert not scoreboard.runs_of("live.gated", phase="end")


def test_rpc_results_free_the_key_without_any_events(oncegate, stack, store, scoreboard):
    gate = oncegate("[control]\nenable_events = false\n" + FINISHED, store=store.url)
    stack.worker(gate, result_url="rpc://")
    stack.produce(gate, "gated.delay('one')", result_url="rpc://")
    scoreboard.wait_runs(1)
    stack.produce(gate, "gated.delay('one')", result_url="rpc://")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    no_lock(store)
