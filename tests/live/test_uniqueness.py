"""A rule with real Celery tasks: what runs, what is dropped, and when a lock goes."""

import harness
import pytest

RULE = """
[[rule]]
name = "add"
task = "live.add"
unique = "until_finished"
"""


@pytest.mark.parametrize("kind", ["redis", "memory"])
def test_a_hundred_calls_with_ninety_duplicates_run_ten_times(oncegate, stack, store, scoreboard, kind):
    gate = oncegate(RULE, store=store.url if kind == "redis" else "memory:")
    # Before any worker: a call that is made after the end of the first is none of its duplicates.
    stack.produce(gate, "for n in range(100): add.delay(n % 10, 1)\nfence.delay()")
    stack.worker(gate, quick=kind == "memory")
    runs = scoreboard.wait_runs(11)
    assert runs[-1]["task"] == "live.fence"
    assert sorted(run["args"][0] for run in runs[:-1]) == list(range(10))
    gate.expect_publishes(10, "forwarded", rule="add")
    gate.expect_publishes(90, "dropped", rule="add")


def test_other_tasks_and_other_arguments_are_left_alone(oncegate, stack, store, scoreboard):
    gate = oncegate(RULE, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "for n in range(20): plain.delay(1)\nadd.delay(1, 2); add.delay(2, 1); add.delay(1, 2.0); fence.delay()")
    runs = scoreboard.wait_runs(24)
    assert len([run for run in runs if run["task"] == "live.plain"]) == 20
    assert [run["args"] for run in runs if run["task"] == "live.add"] == [[1, 2], [2, 1], [1, 2.0]]
    gate.expect_publishes(0, "dropped")


def test_named_and_positional_arguments_are_one_key(oncegate, stack, store, scoreboard):
    gate = oncegate(RULE + "params = \"a, b=2\"\nkey = [\"a\", \"b\"]\n", store=store.url)
    stack.produce(gate, "add.delay(1, 2); add.delay(1, b=2); add.delay(a=1, b=2); add.apply_async((1,), {'b': 2}); fence.delay()")
    stack.worker(gate)
    runs = scoreboard.wait_runs(2)
    assert [run["task"] for run in runs] == ["live.add", "live.fence"]
    gate.expect_publishes(3, "dropped", rule="add")


def test_until_started_is_freed_by_the_early_ack(oncegate, stack, store, scoreboard):
    gate = oncegate('[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_started"\n', store=store.url)
    # Before any worker: the first waits in the queue, the others are duplicates.
    stack.produce(gate, "for n in range(5): gated.delay('one')")
    gate.expect_publishes(4, "dropped", rule="g")
    assert len(store.locks()) == 1
    stack.worker(gate)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the lock to go when the task starts")
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="started")
    # It runs still, and another call is taken.
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(2, "forwarded", rule="g")
    scoreboard.open_gate("one", 2)
    runs = scoreboard.wait_runs(4)
    assert [run["phase"] for run in runs] == ["begin", "end", "begin", "end"]


def test_until_finished_is_freed_by_the_late_ack(oncegate, stack, store, scoreboard):
    rule = '[[rule]]\nname = "l"\ntask = "live.late"\nunique = "until_finished"\nacks_late = true\n'
    gate = oncegate(rule, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "late.delay('one')")
    scoreboard.wait_runs(1)
    # It runs: a duplicate is dropped, where until_started would take it.
    stack.produce(gate, "late.delay('one')")
    gate.expect_publishes(1, "dropped", rule="l")
    assert len(store.locks()) == 1
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    harness.wait_until(lambda: not store.locks(), "the lock to go after the late ack")
    stack.produce(gate, "late.delay('one')")
    gate.expect_publishes(2, "forwarded", rule="l")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(4)) == 4


def test_until_expired_outlives_the_run_and_ends_with_its_ttl(oncegate, stack, store, scoreboard):
    rule = '[[rule]]\nname = "e"\ntask = "live.add"\nunique = "until_expired"\nttl = "1h"\n'
    gate = oncegate(rule, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "add.delay(1, 1); fence.delay()")
    scoreboard.wait_runs(2)
    stack.produce(gate, "add.delay(1, 1); fence.delay()")
    scoreboard.wait_runs(3)
    gate.expect_publishes(1, "dropped", rule="e")
    [lock] = store.locks()
    assert 3_000_000 < store.client.pttl(lock["key"]) <= 3_600_000
    # The hour is over.
    assert store.client.pexpire(lock["key"], 1)
    harness.wait_until(lambda: not store.locks(), "the lock to expire")
    stack.produce(gate, "add.delay(1, 1); fence.delay()")
    runs = scoreboard.wait_runs(5)
    assert len([run for run in runs if run["task"] == "live.add"]) == 2


@pytest.mark.parametrize("task", ["flaky", "flaky_late"])
def test_a_retry_is_never_a_duplicate_of_itself(oncegate, stack, store, scoreboard, task):
    late = "true" if task == "flaky_late" else "false"
    rule = f'[[rule]]\nname = "f"\ntask = "live.{task}"\nunique = "until_finished"\nacks_late = {late}\n'
    gate = oncegate(rule, store=store.url)
    stack.worker(gate)
    stack.produce(gate, f"{task}.delay(3)")
    runs = scoreboard.wait_runs(4)
    assert [run["retries"] for run in runs] == [0, 1, 2, 3]
    assert len({run["id"] for run in runs}) == 1
    gate.expect_publishes(0, "dropped")


def test_a_retry_runs_though_a_newer_call_holds_the_lock(oncegate, stack, store, scoreboard):
    gate = oncegate('[[rule]]\nname = "r"\ntask = "live.gated_retry"\nunique = "until_started"\n', store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated_retry.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the first to have started")
    # The only pool child is busy, so this one waits and holds the lock while the first retries.
    stack.produce(gate, "gated_retry.delay('one')")
    gate.expect_publishes(2, "forwarded", rule="r")
    scoreboard.open_gate("one", 2)
    runs = scoreboard.wait_runs(6)
    assert sorted(run["phase"] for run in runs) == ["begin", "begin", "end", "end", "retried", "retried"]
    assert len({run["id"] for run in runs}) == 2
    gate.expect_publishes(0, "dropped", rule="r")


def test_a_publish_repeated_with_its_own_id_is_forwarded(oncegate, raw, store, vhost):
    import wire

    gate = oncegate(RULE, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("own")
    task_id, properties, payload = wire.task_message("live.add", (1, 2))
    for _ in range(3):
        client.publish(1, "", "own", payload, properties)
    _, other, payload = wire.task_message("live.add", (1, 2))
    client.publish(1, "", "own", payload, other)
    gate.expect_publishes(1, "dropped", rule="add")
    harness.wait_until(lambda: client.count("own") == 3, "three copies of one id")
    assert [lock["holder"] for lock in store.locks()] == [task_id]


def test_the_ttl_counts_from_the_eta(oncegate, raw, store):
    import datetime

    import wire

    gate = oncegate(RULE + 'ttl = "1h"\n', store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("eta")
    eta = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=5)).isoformat()
    _, properties, payload = wire.task_message("live.add", (1, 2), eta=eta)
    client.publish(1, "", "eta", payload, properties)
    harness.wait_until(lambda: [lock for lock in store.locks() if lock["state"] == "queued"], "the lock to be queued")
    life = store.client.pttl(store.locks()[0]["key"]) / 1000
    assert 6 * 3600 - 60 < life <= 6 * 3600 + 5, life


def test_canvas_members_are_left_alone(oncegate, stack, store, results, scoreboard):
    gate = oncegate(RULE, store=store.url)
    stack.worker(gate, concurrency=2, result_url=results.url)
    done = stack.produce(
        gate,
        "print(group(add.s(1, 1), add.s(1, 1), add.s(1, 1))().get(timeout=60))\n"
        "print(chord([add.s(2, 2), add.s(2, 2)], total.s())().get(timeout=60))\n"
        "print(chain(add.s(3, 3), add.s(4), add.s(5))().get(timeout=60))\n",
        result_url=results.url,
    )
    assert done.stdout.splitlines() == ["[2, 2, 2]", "8", "15"]
    gate.expect_publishes(0, "dropped")
    assert gate.direct or gate.publishes("bypassed", rule="add") >= 5
