"""Deliveries that the store is asked about: what was not known, or not true any more, when a message was published."""

import harness
import pytest
import redis

FINISHED = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_finished"\n'


def no_lock(store):
    harness.wait_until(lambda: not store.locks(), "the lock to go")


def delivered(gate, wanted, decision):
    gate.expect("oncegate_deliveries_total", wanted, rule="g", decision=decision)


def test_a_duplicate_published_beside_the_proxy_is_dropped_when_it_is_delivered(oncegate, stack, broker, store, scoreboard):
    gate = oncegate(FINISHED, store=store.url)
    stack.worker(gate, concurrency=2)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(harness.Bare(broker.port), "gated.delay('one'); fence.delay()")
    delivered(gate, 1, "dropped")
    scoreboard.wait_runs(2)
    assert stack.messages() == 0
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(3)
    assert [(run["task"], run.get("phase")) for run in runs] == [("live.gated", "begin"), ("live.fence", None), ("live.gated", "end")]
    delivered(gate, 1, "forwarded")
    no_lock(store)
    # The key is free again, also for one that does not pass the proxy.
    stack.produce(harness.Bare(broker.port), "gated.delay('one')")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(5)) == 5
    delivered(gate, 2, "forwarded")


def test_a_lock_that_is_gone_is_taken_again_when_its_message_is_delivered(oncegate, stack, store, scoreboard):
    gate = oncegate(FINISHED, store=store.url)
    stack.produce(gate, "gated.delay('one')")
    [before] = store.wait_locks(1, "queued")
    client = redis.Redis.from_url(store.url)
    assert client.flushdb()
    no_lock(store)
    stack.worker(gate)
    scoreboard.wait_runs(1)
    [again] = store.locks()
    assert again["holder"] == before["holder"]
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(2)) == 2
    no_lock(store)


def test_a_task_revoked_in_its_queue_does_not_run_whichever_worker_comes(oncegate, stack, store, results, scoreboard):
    gate = oncegate(FINISHED, store=store.url)
    stack.produce(gate, "gated.delay('one')", result_url=results.url)
    [lock] = store.wait_locks(1, "queued")
    # No worker is there to remember it.
    stack.produce(gate, f"app.control.revoke({lock['holder']!r})", result_url=results.url)
    no_lock(store)
    worker = stack.worker(gate, result_url=results.url)
    delivered(gate, 1, "superseded")
    done = stack.produce(
        gate,
        "from celery.exceptions import TaskRevokedError\n"
        f"try: app.AsyncResult({lock['holder']!r}).get(timeout=60)\n"
        "except TaskRevokedError: print('revoked')\n",
        result_url=results.url,
    )
    assert done.stdout.strip() == "revoked"
    worker.stop()
    stack.worker(gate, result_url=results.url)
    # Another call of the same key does.
    stack.produce(gate, "gated.delay('one')", result_url=results.url)
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(2)
    assert lock["holder"] not in {run["id"] for run in runs}


@pytest.mark.parametrize("task", ["flaky", "flaky_late"])
def test_a_retry_is_never_dropped(oncegate, stack, store, scoreboard, task):
    gate = oncegate(f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "until_started"\n', store=store.url)
    stack.worker(gate)
    stack.produce(gate, f"{task}.delay(3)")
    assert [run["retries"] for run in scoreboard.wait_runs(4)] == [0, 1, 2, 3]
    delivered(gate, 4, "forwarded")
    delivered(gate, 0, "dropped")


def test_a_retry_runs_though_a_newer_call_has_its_key(oncegate, stack, store, scoreboard):
    gate = oncegate('[[rule]]\nname = "g"\ntask = "live.gated_retry"\nunique = "until_started"\n', store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated_retry.delay('one')")
    scoreboard.wait_runs(1)
    no_lock(store)
    stack.produce(gate, "gated_retry.delay('one')")
    # The only process is busy: the newer call waits, and has its key, before the first retries.
    gate.expect_publishes(2, "forwarded", rule="g")
    scoreboard.open_gate("one", 2)
    runs = scoreboard.wait_runs(6)
    assert sorted(run["phase"] for run in runs) == sorted(["begin", "end", "retried"] * 2)
    delivered(gate, 4, "forwarded")
    delivered(gate, 0, "dropped")


def test_a_redelivery_is_never_dropped(oncegate, stack, store, scoreboard):
    gate = oncegate('[[rule]]\nname = "g"\ntask = "live.late"\nunique = "until_finished"\nacks_late = true\n', store=store.url)
    worker = stack.worker(gate)
    stack.produce(gate, "late.delay('one')")
    scoreboard.wait_runs(1)
    worker.kill()
    # Another has taken its key meanwhile: it runs all the same.
    client = redis.Redis.from_url(store.url)
    assert client.flushdb()
    stack.worker(gate)
    runs = scoreboard.wait_runs(2)
    assert [run["phase"] for run in runs] == ["begin", "begin"]
    assert len({run["id"] for run in runs}) == 1
    scoreboard.open_gate("one")
    scoreboard.wait_runs(3)
    delivered(gate, 2, "forwarded")
    delivered(gate, 0, "dropped")
