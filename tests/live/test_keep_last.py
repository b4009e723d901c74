"""At most one runs and one waits: the newest, with its arguments, which is let go when the one that runs ends."""

import json
import threading

import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="without a proxy every call runs")


def rules(task="gated", more="key = []\n"):
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "until_finished"\non_duplicate = "keep_last"\norphan_grace = "2s"\nlease = "3s"\n{more}'


def phases(scoreboard, task="live.gated"):
    return [(run["id"], run["phase"]) for run in scoreboard.drain() if run["task"] == task]


def whole(*ids):
    return [(one, phase) for one in ids for phase in ("begin", "end")]


def one_runs(stack, gate, scoreboard, store, task="gated", name="one"):
    """The first call runs, and that is known."""
    [first] = stack.calls(gate, f"call({task}, '{name}')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
    return first


@pytest.mark.parametrize("pool", [1, 4], ids=["one at a time", "four at a time"])
def test_the_newest_waits_for_the_end_of_the_one_that_runs(oncegate, stack, store, scoreboard, pool):
    gate = oncegate(rules(), store=store.url)
    stack.worker(gate, concurrency=pool)
    first = one_runs(stack, gate, scoreboard, store)
    later = stack.calls(gate, "for name in ('two', 'three', 'four'): call(gated, name)")
    gate.expect_publishes(3, "kept", rule="g")
    gate.expect("oncegate_deliveries_total", 2, rule="g", decision="superseded")
    assert phases(scoreboard) == [(first, "begin")]
    scoreboard.open_gate("one")
    scoreboard.open_gate("four")
    scoreboard.wait_runs(4)
    stack.all_done(store)
    assert phases(scoreboard) == whole(first, later[2])
    gate.expect_publishes(1, "forwarded", rule="g")
    assert gate.count("oncegate_exceptions_total", rule="g") == 0


def test_with_the_store_in_memory_too(oncegate, stack, scoreboard):
    gate = oncegate(rules())
    stack.worker(gate, concurrency=4)
    [first] = stack.calls(gate, "call(gated, 'one')")
    scoreboard.wait_runs(1)
    later = stack.calls(gate, "for name in ('two', 'three'): call(gated, name)")
    gate.expect_publishes(2, "kept", rule="g")
    scoreboard.open_gate("one")
    scoreboard.open_gate("three")
    scoreboard.wait_runs(4)
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="superseded")
    assert phases(scoreboard) == whole(first, later[1])


def test_of_those_in_the_queue_the_first_and_the_last_run(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("note"), store=store.url)
    stack.calls(gate, "for n in range(20): call(note, n)")
    gate.expect_publishes(19, "kept", rule="g")
    stack.worker(gate)
    scoreboard.wait_runs(2)
    stack.all_done(store)
    assert [run["args"] for run in scoreboard.drain()] == [[0], [19]]


@pytest.mark.parametrize("end", ["failure", "revoke", "crash"])
def test_it_is_let_go_whatever_ends_the_other(oncegate, stack, store, scoreboard, broker, vhost, end):
    task = "gated_failure" if end == "failure" else "gated"
    gate = oncegate(rules(task), store=store.url, extra=harness.account(broker.port, vhost))
    gate.expect("oncegate_control_up", 1, vhost=vhost)
    worker = stack.worker(gate)
    first = one_runs(stack, gate, scoreboard, store, task)
    [second] = stack.calls(gate, f"call({task}, 'two')")
    gate.expect_publishes(1, "kept", rule="g")
    if end == "failure":
        scoreboard.open_gate("one")
    elif end == "revoke":
        stack.produce(gate, f"app.control.revoke('{first}', terminate=True, signal='SIGKILL')")
    else:
        # It had acknowledged early: what it ran is lost with it, as without a proxy.
        worker.kill()
        stack.worker(gate)
    scoreboard.open_gate("two")
    ran = lambda: (second, "end") in phases(scoreboard, f"live.{task}")  # noqa: E731
    harness.wait_until(ran, lambda: f"it to run: {scoreboard.drain()}")
    stack.all_done(store)
    assert [run for run in phases(scoreboard, f"live.{task}") if run[0] == second] == whole(second)


def test_a_late_task_whose_worker_is_killed_runs_again_before_what_waits(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("late", "key = []\nacks_late = true\n"), store=store.url)
    worker = stack.worker(gate)
    first = one_runs(stack, gate, scoreboard, store, "late")
    [second] = stack.calls(gate, "call(late, 'two')")
    gate.expect_publishes(1, "kept", rule="g")
    worker.kill()
    stack.worker(gate, concurrency=2)
    scoreboard.open_gate("one", 2)
    scoreboard.open_gate("two")
    harness.wait_until(lambda: (second, "end") in phases(scoreboard, "live.late"), "it to run")
    stack.all_done(store)
    ran = [run for run in phases(scoreboard, "live.late") if run[1] == "end"]
    assert ran == [(first, "end"), (second, "end")]


def test_a_retry_of_the_one_that_runs_comes_before_what_waits(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated_retry"), store=store.url)
    stack.worker(gate)
    first = one_runs(stack, gate, scoreboard, store, "gated_retry")
    [second] = stack.calls(gate, "call(gated_retry, 'two')")
    scoreboard.open_gate("one")
    scoreboard.open_gate("two")
    scoreboard.wait_runs(6)
    stack.all_done(store)
    assert [run[0] for run in phases(scoreboard, "live.gated_retry")] == [first] * 3 + [second] * 3


def test_a_long_wait_is_spent_in_a_delay_queue(oncegate, stack, store, scoreboard, broker, vhost):
    gate = oncegate(rules(more='key = []\nhold_max = "1s"\n'), store=store.url, extra=harness.account(broker.port, vhost))
    gate.expect("oncegate_control_up", 1, vhost=vhost)
    stack.worker(gate)
    first = one_runs(stack, gate, scoreboard, store)
    later = stack.calls(gate, "call(gated, 'two')")
    parked = lambda: gate.count("oncegate_messages_parked_total", rule="g")  # noqa: E731
    harness.wait_until(lambda: parked() >= 2, "it to be parked twice")
    later += stack.calls(gate, "call(gated, 'three')")
    harness.wait_until(lambda: parked() >= 5, "the newer to be parked")
    scoreboard.open_gate("one")
    scoreboard.open_gate("three")
    scoreboard.wait_runs(4)
    harness.wait_until(lambda: gate.count("oncegate_messages_unparked_total", rule="g") == parked(), "all to be back")
    stack.all_done(store)
    assert phases(scoreboard) == whole(first, later[1])


@pytest.mark.parametrize("what", ["proxy", "store"])
def test_what_is_killed_while_one_waits_loses_nothing(oncegate, stack, store, scoreboard, what):
    gate = oncegate(rules(), store=store.url)
    stack.worker(gate)
    first = one_runs(stack, gate, scoreboard, store)
    later = stack.calls(gate, "for name in ('two', 'three'): call(gated, name)")
    gate.expect_publishes(2, "kept", rule="g")
    # A store that is emptied forgets who was superseded, too.
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="superseded")
    if what == "proxy":
        gate.kill()
        gate.start()
    else:
        # It comes back empty.
        store.kill()
        store.start()
    scoreboard.open_gate("one")
    scoreboard.open_gate("three")
    harness.wait_until(lambda: (later[1], "end") in phases(scoreboard), lambda: f"the newest to run: {scoreboard.drain()}")
    stack.all_done(store)
    assert phases(scoreboard) == whole(first, later[1])


def test_one_that_waits_and_is_revoked_does_not_run(oncegate, stack, store, scoreboard):
    gate = oncegate(rules(), store=store.url)
    stack.worker(gate)
    first = one_runs(stack, gate, scoreboard, store)
    [second] = stack.calls(gate, "call(gated, 'two')")
    gate.expect("oncegate_held_messages", 1)
    stack.produce(gate, f"app.control.revoke('{second}')")
    harness.wait_until(lambda: not store.client.keys("oncegate:last:*"), "its place to be free")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    stack.all_done(store)
    assert phases(scoreboard) == whole(first)


@pytest.mark.parametrize("result, outcome", [("join", ["value", "four"]), ("revoke", ["TaskRevokedError"]), ("success", ["value", None])])
def test_the_older_get_what_the_rule_says(oncegate, stack, store, results, scoreboard, result, outcome):
    gate = oncegate(
        rules(more=f'key = []\nresult = "{result}"\n'),
        store=store.url,
        extra=f"[results]\nurl = {harness.toml_string(results.url)}\n",
    )
    stack.worker(gate, result_url=results.url)
    one_runs(stack, gate, scoreboard, store)
    code = """
import json
calls = [gated.delay(name) for name in ('two', 'three', 'four')]
def outcome(call):
    try:
        return ["value", call.get(timeout=30)]
    except Exception as error:
        return [type(error).__name__]
print(json.dumps([outcome(call) for call in calls]))
"""
    outcomes = []
    ask = lambda: outcomes.extend(json.loads(stack.produce(gate, code, result_url=results.url).stdout))  # noqa: E731
    asking = threading.Thread(target=ask)
    asking.start()
    gate.expect_publishes(3, "kept", rule="g")
    # The commits may come after that.
    harness.wait_until(lambda: store.client.hget(store.client.keys("oncegate:last:*")[0], "state") == "queued", "the last to wait")
    scoreboard.open_gate("one")
    scoreboard.open_gate("four")
    asking.join()
    assert outcomes == [outcome] * 2 + [["value", "four"]]
    stack.all_done(store)


def test_an_observing_rule_keeps_nothing_back(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("note", 'key = []\nmode = "observe"\n'), store=store.url)
    stack.calls(gate, "for n in range(3): call(note, n)")
    gate.expect_publishes(2, "kept", rule="g", mode="observe")
    stack.worker(gate)
    scoreboard.wait_runs(3)


def test_of_many_from_everywhere_two_at_a_time_are_left(oncegate, stack, store, scoreboard):
    """Four producers on two proxies publish one key while it runs, and while workers are killed and started anew."""
    gates = [oncegate(rules("note", "key = []\n"), store=store.url) for _ in range(2)]
    crew = [stack.worker(gate, concurrency=2) for gate in gates]
    ids, errors = [], []

    def produce(gate, number):
        try:
            ids.extend(stack.calls(gate, f"for n in range(50): call(note, {number}, n)"))
        except Exception as error:
            errors.append(error)

    producers = [threading.Thread(target=produce, args=(gates[n % 2], n)) for n in range(4)]
    for producer in producers:
        producer.start()
    crew[0].kill()
    crew[0] = stack.worker(gates[0], concurrency=2)
    for producer in producers:
        producer.join()
    assert not errors, errors
    [last] = stack.calls(gates[0], "call(note, 'last')")
    harness.wait_until(lambda: last in {run["id"] for run in scoreboard.drain()}, "the last to run")
    stack.all_done(store)
    runs = scoreboard.drain()
    assert len(set(ids)) == 200
    # A task that its killed worker had acknowledged early is lost with it, as without a proxy.
    assert runs[-1]["id"] == last and len({run["id"] for run in runs}) == len(runs)
    dropped = sum(gate.count("oncegate_deliveries_total", rule="g", decision="superseded") for gate in gates)
    assert len(runs) + dropped <= 201
