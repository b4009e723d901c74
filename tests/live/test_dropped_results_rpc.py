"""What the ids of dropped tasks get where callers use Celery's RPC backend."""

import json

import harness
import pytest
from test_dropped_results import ASK, JOINED, rules

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="without a proxy nothing is dropped")


@pytest.fixture
def gate_of(oncegate, broker, vhost, store):
    """Makes a proxy that publishes results by an account of its own."""

    def make(rules, extra="", control=True, **parts):
        account = harness.account(broker.port, vhost) if control else ""
        gate = oncegate(rules, extra=f"{account}{extra}", **{"store": store.url, **parts})
        if control:
            gate.expect("oncegate_control_up", 1, vhost=vhost)
        return gate

    return make


# One after the other: the results of all calls of a thread come through one queue.
DUPLICATES = """
first = {task}.delay('a')
duplicates = [{task}.delay('a') for _ in range({count})]
print(json.dumps([first.id, [outcome(duplicate, 40) for duplicate in duplicates]]))
"""
RPC = '[results]\nkind = "rpc"\n'


def asked(stack, gate, code, result_url="rpc://", **options):
    """What a producer's code prints as JSON in its last line."""
    done = stack.produce(gate, ASK + code, result_url=result_url, **options)
    return json.loads(done.stdout.strip().splitlines()[-1])


def nothing_waits(store):
    left = lambda: [key for pattern in ("join*", "more*", "awaited*") for key in store.client.keys(f"oncegate:{pattern}")]  # noqa: E731
    harness.wait_until(lambda: not left(), lambda: f"everybody to have a result: {left()}")


@pytest.mark.parametrize("kind", ["memory:", "redis"])
@pytest.mark.parametrize("told", ["auto", "rpc"])
def test_duplicates_get_what_the_holder_gives(gate_of, stack, store, scoreboard, kind, told):
    gate = gate_of(rules(), extra=RPC if told == "rpc" else "", store="memory:" if kind == "memory:" else store.url)
    queued = harness.in_background(asked, stack, gate, DUPLICATES.format(task="gated", count=2))
    gate.expect_publishes(2, "dropped", rule="g")
    stack.worker(gate, result_url="rpc://")
    scoreboard.wait_runs(1)
    running = harness.in_background(asked, stack, gate, "print(json.dumps(outcome(gated.delay('a'), 30)))")
    gate.expect_publishes(3, "dropped", rule="g")
    scoreboard.open_gate("a")
    first, outcomes = queued()
    assert [outcome[1:] for outcome in [*outcomes, running()]] == [["value", "a"]] * 3
    gate.expect(JOINED, 3, rule="g", backend="rpc")
    assert {run["id"] for run in scoreboard.wait_runs(2)} == {first}
    nothing_waits(store)


def test_producer_and_worker_on_different_proxies(gate_of, stack, store, scoreboard):
    front, back = gate_of(rules()), gate_of(rules())
    stack.worker(back, result_url="rpc://")
    asks = harness.in_background(asked, stack, front, DUPLICATES.format(task="gated", count=1))
    front.expect_publishes(1, "dropped", rule="g")
    scoreboard.wait_runs(1)
    scoreboard.open_gate("a")
    _, [outcome] = asks()
    assert outcome[1:] == ["value", "a"]
    nothing_waits(store)


@pytest.mark.parametrize("result", ["join", "revoke", "success"])
def test_a_caller_whose_queue_another_proxy_has_seen(gate_of, stack, store, scoreboard, result):
    front, back = gate_of(rules(result=f'"{result}"')), gate_of(rules(result=f'"{result}"'))
    stack.worker(back, concurrency=2, result_url="rpc://")
    first = stack.produce(back, "print(gated.delay('a').id)", result_url="rpc://").stdout.strip()
    scoreboard.wait_runs(1)
    # The worker publishes the second step, and names the queue that the producer has declared.
    code = "from celery import chain\nprint(json.dumps(outcome(chain(note.si('x'), gated.si('a')).delay(), 40)))"
    asks = harness.in_background(asked, stack, front, code)
    back.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("a")
    expected = {"join": ["value", "a"], "revoke": ["TaskRevokedError", f"duplicate of {first}"], "success": ["value", None]}
    assert asks()[1:] == expected[result]
    nothing_waits(store)


def test_a_worker_that_names_a_queue_that_no_proxy_has_seen(gate_of, stack, store, scoreboard, broker):
    gate = gate_of(rules(result='"revoke"'))
    stack.worker(gate, concurrency=2, result_url="rpc://")
    stack.produce(gate, "gated.delay('a')", result_url="rpc://")
    scoreboard.wait_runs(1)
    bare = harness.Bare(broker.port)
    code = """
from celery import chain
from celery.exceptions import TimeoutError
step = chain(note.si('x'), gated.si('a')).delay()
step.parent.get(timeout=20)
print(json.dumps(outcome(step, 3)))
"""
    late = asked(stack, bare, code)
    gate.expect_publishes(1, "dropped", rule="g")
    assert late[1] == "TimeoutError"
    scoreboard.open_gate("a")


def test_another_proxy_finishes_what_one_has_begun(gate_of, stack, store, scoreboard):
    front, back = gate_of(rules()), gate_of(rules())
    stack.worker(back, result_url="rpc://")
    stack.produce(back, "gated.delay('a')", result_url="rpc://")
    scoreboard.wait_runs(1)
    # The proxy that has dropped it does nothing from now on.
    second = harness.in_background(asked, stack, front, "print(json.dumps(outcome(gated.delay('a'), 40)))")
    front.expect_publishes(1, "dropped", rule="g")
    harness.wait_until(lambda: store.client.keys("oncegate:join:*"), "the second to wait")
    front.process.freeze()
    try:
        scoreboard.open_gate("a")
        nothing_waits(store)
    finally:
        front.process.thaw()
    assert second()[1:] == ["value", "a"]


def test_a_duplicate_in_the_cooldown_gets_the_result_at_once(gate_of, stack, store):
    gate = gate_of(rules("add", cooldown='"1m"'))
    stack.worker(gate, result_url="rpc://")
    first = asked(stack, gate, "print(json.dumps(outcome(add.delay(2, 3))))")
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["cooldown"], "the key to rest")
    second = asked(stack, gate, "print(json.dumps(outcome(add.delay(2, 3))))")
    assert (first[1:], second[1:]) == (["value", 5], ["value", 5])
    assert first[0] != second[0]
    gate.expect_publishes(1, "dropped", rule="g")


def test_a_duplicate_of_one_that_has_ended_and_keeps_its_lock(gate_of, stack, store):
    gate = gate_of(rules("add", unique="until_expired", ttl='"1m"'))
    stack.worker(gate, result_url="rpc://")
    code = "first = outcome(add.delay(2, 3))\nprint(json.dumps([first, outcome(add.delay(2, 3))]))"
    first, second = asked(stack, gate, code)
    assert (first[1:], second[1:]) == (["value", 5], ["value", 5])
    gate.expect_publishes(1, "dropped", rule="g")


def test_a_failure_is_passed_on(gate_of, stack, store, scoreboard):
    gate = gate_of(rules("gated_failure"))
    stack.worker(gate, result_url="rpc://")
    asks = harness.in_background(asked, stack, gate, DUPLICATES.format(task="gated_failure", count=1))
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("a")
    _, [outcome] = asks()
    assert outcome[1:] == ["ValueError", "a"]
    nothing_waits(store)


def test_a_revoke_is_passed_on(gate_of, stack, store):
    gate = gate_of(rules("note"))
    worker = stack.worker(gate, result_url="rpc://")
    code = """
first = note.apply_async(('a',), countdown=4)
second = note.delay('a')
app.control.revoke(first.id, destination=['%s@test'], reply=True, timeout=5)
print(json.dumps(outcome(second, 40)))
"""
    outcome = asked(stack, gate, code % worker.node)
    # The worker writes REVOKED at once where it can; to a caller it publishes it only when the time of the task has come.
    assert outcome[1] == "TaskRevokedError"
    nothing_waits(store)


def test_of_a_holder_that_leaves_no_result_the_outcome_is_unknown(gate_of, stack, store, scoreboard):
    gate = gate_of(rules())
    stack.worker(gate, "-E", result_url="rpc://")
    code = """
first = gated.apply_async(('a',), ignore_result=True)
print(json.dumps([first.id, outcome(gated.delay('a'), 40)]))
"""
    asks = harness.in_background(asked, stack, gate, code)
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("a")
    first, outcome = asks()
    assert outcome[1:] == ["TaskRevokedError", f"duplicate of {first}: outcome unknown"]
    gate.expect(JOINED, 0, rule="g", backend="rpc")
    nothing_waits(store)


def test_a_result_that_is_too_large_is_unknown(gate_of, stack, store):
    gate = gate_of(rules("note", key="[]"))
    code = """
first = note.delay('x' * 70000)
second = note.delay('a')
print(json.dumps(outcome(second, 40)))
"""
    asks = harness.in_background(asked, stack, gate, code)
    gate.expect_publishes(1, "dropped", rule="g")
    stack.worker(gate, result_url="rpc://")
    assert "outcome unknown" in asks()[2]


@pytest.mark.parametrize("result, expected", [("revoke", "TaskRevokedError"), ("success", "value")])
def test_what_needs_no_holder_comes_at_once(gate_of, stack, result, expected):
    gate = gate_of(rules(result=f'"{result}"'))
    code = "first, second = gated.delay('a'), gated.delay('a')\nprint(json.dumps([first.id, outcome(second)]))"
    first, second = asked(stack, gate, code)
    assert second[1:] == ([expected, f"duplicate of {first}"] if result == "revoke" else [expected, None])
    gate.expect_publishes(1, "dropped", rule="g")


def test_a_duplicate_found_late_gets_its_result_too(gate_of, stack, store, scoreboard, broker):
    gate = gate_of(rules())
    bare = harness.Bare(broker.port)
    conf = {"task_default_delivery_mode": 2}
    stack.produce(gate, "gated.delay('a')", result_url="rpc://")
    # This one goes past the proxy, and is found when it is delivered.
    late = harness.in_background(asked, stack, bare, "print(json.dumps(outcome(gated.delay('a'), 40)))", conf=conf)
    harness.wait_until(lambda: stack.messages() == 2, "both to be there")
    stack.worker(gate, concurrency=2, result_url="rpc://")
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="dropped")
    scoreboard.open_gate("a")
    assert late()[1:] == ["value", "a"]
    nothing_waits(store)


def test_what_on_running_drops_joins_the_run(gate_of, stack, store, scoreboard):
    gate = gate_of(rules(unique="while_running", on_running='"drop"'))
    stack.worker(gate, concurrency=2, result_url="rpc://")
    stack.produce(gate, "gated.delay('a')", result_url="rpc://")
    scoreboard.wait_runs(1)
    asks = harness.in_background(asked, stack, gate, "print(json.dumps(outcome(gated.delay('a'))))")
    harness.wait_until(lambda: store.client.keys("oncegate:join:*"), "the other to be dropped")
    scoreboard.open_gate("a")
    assert asks()[1:] == ["value", "a"]


def test_until_started_waits_for_the_end(gate_of, stack, store, scoreboard):
    gate = gate_of(rules(unique="until_started"))
    asks = harness.in_background(asked, stack, gate, DUPLICATES.format(task="gated", count=1))
    gate.expect_publishes(1, "dropped", rule="g")
    stack.worker(gate, result_url="rpc://")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the lock to go at the start")
    scoreboard.open_gate("a")
    _, [outcome] = asks()
    assert outcome[1:] == ["value", "a"]


def test_who_uses_another_backend_waits_in_vain_and_costs_nothing(gate_of, stack, store, results):
    gate = gate_of(rules("note"))
    asked(stack, gate, "note.delay('a')\nnote.delay('a')\nprint('1')", result_url=results.url)
    gate.expect_publishes(1, "dropped", rule="g")
    assert not store.client.keys("oncegate:join*")
    lines = [line for line in gate.log().splitlines() if "rpc://" in line and '"rules":"g"' in line]
    assert len(lines) == 1, gate.log()


def test_a_caller_that_is_gone_is_nobody(gate_of, stack, store, scoreboard):
    gate = gate_of(rules(), extra=RPC)
    stack.produce(gate, "gated.delay('a')\ngated.delay('a')", result_url=None)
    gate.expect_publishes(1, "dropped", rule="g")
    assert store.client.keys("oncegate:join:*")
    stack.worker(gate, result_url="rpc://")
    scoreboard.open_gate("a")
    nothing_waits(store)
    gate.expect(JOINED, 0, rule="g", backend="rpc")
    assert "No queue of that name" not in gate.log()


def test_without_an_account_nothing_changes(gate_of, stack, store, scoreboard):
    gate = gate_of(rules(), extra=RPC, control=False)
    stack.produce(gate, "gated.delay('a')\ngated.delay('a')", result_url="rpc://")
    gate.expect_publishes(1, "dropped", rule="g")
    assert not store.client.keys("oncegate:join*")
    lines = [line for line in gate.log().splitlines() if "get no result" in line]
    assert len(lines) == 1 and "[control]" in lines[0], lines


def test_results_wait_while_the_account_is_cut_off(gate_of, stack, store, scoreboard, broker, vhost):
    broker.add_user("gate", "gate", vhost)
    gate = gate_of(rules(), control=False, extra=f'[control]\nurl = "amqp://gate:gate@127.0.0.1:{broker.port}/{vhost}"\n')
    gate.expect("oncegate_control_up", 1, vhost=vhost)
    stack.worker(gate, result_url="rpc://")
    asks = harness.in_background(asked, stack, gate, DUPLICATES.format(task="gated", count=1))
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.wait_runs(1)
    broker.add_user("gate", "other", vhost)
    broker.api("DELETE", "connections/username/gate")
    gate.expect("oncegate_control_up", 0, vhost=vhost)
    scoreboard.open_gate("a")
    scoreboard.wait_runs(1)
    broker.add_user("gate", "gate", vhost)
    _, [outcome] = asks()
    assert outcome[1:] == ["value", "a"]
    nothing_waits(store)


def test_two_hundred_duplicates_of_one_key(gate_of, stack, store, scoreboard):
    gate = gate_of(rules())
    stack.worker(gate, result_url="rpc://")
    code = """
first = gated.delay('a')
duplicates = [gated.delay('a') for _ in range(200)]
print(json.dumps([outcome(duplicate, 60)[1:] for duplicate in duplicates]))
"""
    asks = harness.in_background(asked, stack, gate, code)
    gate.expect_publishes(200, "dropped", rule="g")
    scoreboard.open_gate("a")
    assert asks() == [["value", "a"]] * 200
    gate.expect(JOINED, 200, rule="g", backend="rpc")


def test_what_debounce_outdates_gets_the_result_of_the_newest(gate_of, stack, store):
    gate = gate_of(rules("note", debounce='"1s"', key="[]"))
    stack.worker(gate, result_url="rpc://")
    code = "calls = [note.delay(n) for n in range(3)]\nprint(json.dumps([outcome(call, 40)[1:] for call in calls]))"
    assert asked(stack, gate, code) == [["value", [2]]] * 3
    nothing_waits(store)


def test_a_superseded_id_hears_it_from_the_worker(gate_of, stack, store):
    gate = gate_of(rules("note", on_duplicate='"replace"', key="[]"))
    code = """
older, newer = note.delay(1), note.delay(2)
ends = [outcome(older, 40)[1:], outcome(newer, 40)[1:]]
print(json.dumps([ends, "duplicate_of" in older._get_task_meta()]))
"""
    asks = harness.in_background(asked, stack, gate, code)
    gate.expect_publishes(1, "replaced", rule="g")
    stack.worker(gate, result_url="rpc://")
    assert asks() == [[["TaskRevokedError", "expired"], ["value", [2]]], False]
    nothing_waits(store)
