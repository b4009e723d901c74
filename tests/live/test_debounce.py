"""A burst of calls of one key runs once: the last of them, with its arguments, when the key has been quiet."""

import json
import threading
import time

import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="without a proxy every call runs")

KEYED = 'key = ["args[0]"]\n'


def rules(quiet="2s", unique="until_started", task="note", more=KEYED):
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "{unique}"\ndebounce = "{quiet}"\nlease = "3s"\n{more}'


def ran(scoreboard, task="live.note"):
    return [run["args"] for run in scoreboard.drain() if run["task"] == task]


@pytest.mark.parametrize("unique", ["until_started", "until_finished", "until_started+while_running"])
def test_the_last_of_a_burst_runs_once_and_not_before_its_time(oncegate, stack, store, scoreboard, unique):
    gate = oncegate(rules(unique=unique), store=store.url)
    stack.worker(gate)
    began = time.time()
    ids = stack.calls(gate, "for n in range(20): call(note, 'k', n)\ncall(note, 'other', 0)")
    runs = scoreboard.wait_runs(2)
    stack.all_done(store)
    runs = scoreboard.drain()
    assert sorted(run["args"] for run in runs) == [["k", 19], ["other", 0]]
    assert {run["id"] for run in runs} == set(ids[19:])
    assert all(run["at"] >= began + 2 for run in runs)
    gate.expect_publishes(19, "debounced", rule="g")
    gate.expect_publishes(2, "forwarded", rule="g")
    gate.expect("oncegate_deliveries_total", 19, rule="g", decision="superseded")
    assert gate.count("oncegate_exceptions_total", rule="g") == 0


def test_with_the_store_in_memory_too(oncegate, stack, scoreboard):
    gate = oncegate(rules())
    stack.worker(gate)
    stack.calls(gate, "for n in range(5): call(note, 'k', n)")
    scoreboard.wait_runs(1)
    gate.expect("oncegate_deliveries_total", 4, rule="g", decision="superseded")
    assert ran(scoreboard) == [["k", 4]]


def test_one_that_waited_in_its_queue_is_found_outdated_there(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("1s"), store=store.url)
    stack.calls(gate, "for n in range(5): call(note, 'k', n)")
    gate.expect_publishes(4, "debounced", rule="g")
    stack.worker(gate)
    scoreboard.wait_runs(1)
    stack.all_done(store)
    assert ran(scoreboard) == [["k", 4]]


def test_a_later_time_of_its_own_is_kept(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("1s"), store=store.url)
    stack.worker(gate)
    began = time.time()
    stack.calls(gate, "call(note, 'k', 1)\ncall(note, 'k', 2, countdown=5)")
    [run] = scoreboard.wait_runs(1)
    assert run["args"] == ["k", 2] and run["at"] >= began + 5
    stack.all_done(store)
    assert ran(scoreboard) == [["k", 2]]


ENDLESS = """
n, until = 0, time.time() + 60
while board().llen(f"{NAME}:runs") < 2 and time.time() < until:
    call(note, 'k', n)
    n += 1
    time.sleep(PAUSE)
"""


@pytest.mark.parametrize("pause", [0.2, 0.003], ids=["now and then", "all the time"])
def test_no_run_is_put_off_for_longer_than_the_bound(oncegate, stack, store, scoreboard, pause):
    """Calls that never let the key be quiet: it runs nevertheless, and the last of them too."""
    gate = oncegate(rules("2s", more=KEYED + 'debounce_max = "3s"\n'), store=store.url)
    stack.worker(gate)
    began = time.time()
    ids = stack.calls(gate, ENDLESS.replace("PAUSE", str(pause)))
    stack.all_done(store)
    runs = scoreboard.drain()
    assert len(runs) >= 2
    order = [ids.index(run["id"]) for run in runs]
    assert order == sorted(set(order)), "each once, and none before an older one"
    assert order[-1] == len(ids) - 1, "the last one ran"
    assert runs[0]["at"] >= began + 3
    assert gate.count("oncegate_exceptions_total", rule="g") == 0


def test_a_call_while_it_runs_begins_a_new_burst(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("1s", unique="until_started+while_running", task="gated", more="key = []\n"), store=store.url)
    stack.worker(gate, concurrency=2)
    [first] = stack.calls(gate, "call(gated, 'one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: all(lock["scope"] == "while_running" for lock in store.locks()), "the start to be known")
    later = stack.calls(gate, "for name in ('two', 'three'): call(gated, name)")
    gate.expect_publishes(1, "debounced", rule="g")
    scoreboard.open_gate("one")
    scoreboard.open_gate("three")
    scoreboard.wait_runs(4)
    stack.all_done(store)
    assert [(run["id"], run["phase"]) for run in scoreboard.drain()] == [
        (first, "begin"),
        (first, "end"),
        (later[1], "begin"),
        (later[1], "end"),
    ]


def test_a_retry_is_not_put_off(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("1s", task="flaky", more="key = []\n"), store=store.url)
    stack.worker(gate)
    [only] = stack.calls(gate, "call(flaky, 2)")
    runs = scoreboard.wait_runs(3)
    assert [(run["id"], run["retries"]) for run in runs] == [(only, 0), (only, 1), (only, 2)]
    stack.all_done(store)


def test_a_revoked_one_ends_revoked(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules("3s"), store=store.url)
    stack.worker(gate, result_url=results.url)
    code = "call(note, 'k', 1)\napp.control.revoke(ids[0])"
    [only] = stack.calls(gate, code, result_url=results.url)
    harness.wait_until(lambda: "REVOKED" in (results.client.get(f"celery-task-meta-{only}") or ""), "it to be revoked")
    harness.wait_until(lambda: stack.messages() == 0 and not store.locks(), "all to be done")
    assert ran(scoreboard) == []


def test_a_long_wait_is_spent_in_a_delay_queue(oncegate, stack, store, scoreboard, broker, vhost):
    gate = oncegate(rules("6s", more=KEYED + 'hold_max = "1s"\n'), store=store.url, extra=harness.account(broker.port, vhost))
    gate.expect("oncegate_control_up", 1, vhost=vhost)
    stack.worker(gate)
    began = time.time()
    stack.calls(gate, "for n in range(5):\n    call(note, 'k', n)\n    time.sleep(0.5)")
    parked = lambda: gate.count("oncegate_messages_parked_total", rule="g")  # noqa: E731
    harness.wait_until(parked, "one to be parked")
    [run] = scoreboard.wait_runs(1)
    assert run["args"] == ["k", 4] and run["at"] >= began + 6
    harness.wait_until(lambda: gate.count("oncegate_messages_unparked_total", rule="g") == parked(), "all to be back")
    stack.all_done(store)
    assert ran(scoreboard) == [["k", 4]]


@pytest.mark.parametrize("what", ["worker", "proxy", "store"])
def test_what_is_killed_while_the_last_one_waits_changes_nothing(oncegate, stack, store, scoreboard, what):
    gate = oncegate(rules("5s"), store=store.url)
    worker = stack.worker(gate)
    ids = stack.calls(gate, "for n in range(10): call(note, 'k', n)")
    gate.expect("oncegate_held_messages", 1)
    if what == "worker":
        worker.kill()
        stack.worker(gate)
    elif what == "proxy":
        gate.kill()
        gate.start()
    else:
        # It comes back empty: what is held knows its time by itself.
        store.kill()
        store.start()
    scoreboard.wait_runs(1)
    stack.all_done(store)
    assert [(run["id"], run["args"]) for run in scoreboard.drain()] == [(ids[9], ["k", 9])]


def test_a_broker_that_is_restarted_keeps_what_is_parked(oncegate, gates, own_broker, workspace, request, store, scoreboard):
    gate = gates(
        own_broker.port,
        rules("8s", more=KEYED + 'hold_max = "1s"\n'),
        store=store.url,
        extra=harness.account(own_broker.port, "%2F"),
    )
    gate.expect("oncegate_control_up", 1, vhost="/")
    environment = harness.app_environment(gate.port, "/", "bursts", scoreboard)
    worker = harness.Worker(workspace, environment, scoreboard, concurrency=1)
    request.addfinalizer(worker.stop)
    harness.run_producer(environment, "for n in range(3): note.delay('k', n)")
    harness.wait_until(lambda: gate.count("oncegate_messages_parked_total", rule="g") >= 1, "one to be parked")
    own_broker.kill()
    own_broker.start()
    runs = scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the lock to go")
    assert [run["args"] for run in scoreboard.drain()] == [["k", 2]] and len(runs) == 1


@pytest.mark.parametrize("result, outcome", [("join", ["value", ["k", 4]]), ("revoke", ["TaskRevokedError"]), ("success", ["value", None])])
def test_the_older_get_what_the_rule_says(oncegate, stack, store, results, scoreboard, result, outcome):
    gate = oncegate(
        rules("2s", more=KEYED + f'result = "{result}"\n'),
        store=store.url,
        extra=f"[results]\nurl = {harness.toml_string(results.url)}\n",
    )
    stack.worker(gate, result_url=results.url)
    code = """
import json
calls = [note.delay('k', n) for n in range(5)]
def outcome(call):
    try:
        return ["value", call.get(timeout=30)]
    except Exception as error:
        return [type(error).__name__]
print(json.dumps([outcome(call) for call in calls]))
"""
    outcomes = json.loads(stack.produce(gate, code, result_url=results.url).stdout)
    assert outcomes == [outcome] * 4 + [["value", ["k", 4]]]
    stack.all_done(store)
    assert ran(scoreboard) == [["k", 4]]


def test_an_observing_rule_puts_nothing_off(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("1h", more=KEYED + 'mode = "observe"\n'), store=store.url)
    stack.worker(gate)
    stack.calls(gate, "for n in range(3): call(note, 'k', n)")
    scoreboard.wait_runs(3)
    assert gate.publishes(rule="g", mode="observe") == 3


def test_a_message_of_protocol_1_runs_at_once(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("1h"), store=store.url)
    stack.worker(gate, conf={"task_protocol": 1})
    stack.produce(gate, "note.delay('k', 1)", conf={"task_protocol": 1})
    assert [run["args"] for run in scoreboard.wait_runs(1)] == [["k", 1]]
    gate.expect_log("its due time stands in its body")


def test_of_many_from_everywhere_exactly_the_last_runs(oncegate, stack, store, scoreboard):
    """Four producers on two proxies publish one key, while workers are killed and started anew."""
    gates = [oncegate(rules("4s"), store=store.url) for _ in range(2)]
    crew = [stack.worker(gate) for gate in gates]
    ids, errors = [], []

    def produce(gate):
        try:
            ids.extend(stack.calls(gate, "for n in range(50): call(note, 'k', n)"))
        except Exception as error:
            errors.append(error)

    producers = [threading.Thread(target=produce, args=(gates[n % 2],)) for n in range(4)]
    for producer in producers:
        producer.start()
    for at, gate in enumerate(gates):
        crew[at].kill()
        crew[at] = stack.worker(gate)
    for producer in producers:
        producer.join()
    assert not errors, errors
    [last] = stack.calls(gates[0], "call(note, 'k', 'last')")
    crew[0].kill()
    stack.worker(gates[0])
    scoreboard.wait_runs(1)
    stack.all_done(store)
    runs = scoreboard.drain()
    assert len(set(ids)) == 200
    # A machine that is busy may let the key be quiet in between.
    assert [run["id"] for run in runs][-1] == last and len({run["id"] for run in runs}) == len(runs)
    debounced = sum(gate.publishes("debounced", rule="g") for gate in gates)
    assert len(runs) == 201 - debounced
    for gate in gates:
        assert gate.count("oncegate_exceptions_total", rule="g") == 0
