"""What the ids of dropped tasks get in Celery's Redis result backend, as callers see it that wait for them."""

import json

import harness
import pytest

# Of a call that was dropped: the value, or the exception that get() raises.
ASK = """
import json
import threading
import time
def outcome(result, timeout=20):
    try:
        value = result.get(timeout=timeout)
    except Exception as raised:
        return [result.id, type(raised).__name__, str(raised)]
    return [result.id, "value", value]
"""


def rules(task="gated", unique="until_finished", **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "{unique}"\n{lines}'


def asked(stack, gate, results, code, **options):
    """What a producer's code prints as JSON in its last line."""
    done = stack.produce(gate, ASK + code, result_url=results.url, **options)
    return json.loads(done.stdout.strip().splitlines()[-1])


def backend(results):
    return results.client


@pytest.mark.parametrize("kind", ["memory:", "redis"])
def test_revoke_raises_in_the_caller_that_waits(gate_of, stack, store, results, kind):
    gate = gate_of(rules(result='"revoke"'), store="memory:" if kind == "memory:" else store.url)
    first, second = asked(
        stack, gate, results, "first, second = gated.delay('a'), gated.delay('a')\nprint(json.dumps([first.id, outcome(second)]))"
    )
    assert second[1:] == ["TaskRevokedError", f"duplicate of {first}"]
    gate.expect_publishes(1, "dropped", rule="g")
    key = f"celery-task-meta-{second[0]}"
    stored = json.loads(backend(results).get(key))
    assert (stored["status"], stored["task_id"], stored["duplicate_of"]) == ("REVOKED", second[0], first)
    assert 86_000 < backend(results).ttl(key) <= 86_400
    assert not backend(results).exists(f"celery-task-meta-{first}")


def test_success_is_none_and_lives_as_long_as_is_said(gate_of, stack, results):
    gate = gate_of(rules(result='"success"'), extra='expires = "1h"\n')
    first, second = asked(
        stack, gate, results, "first, second = gated.delay('a'), gated.delay('a')\nprint(json.dumps([first.id, outcome(second)]))"
    )
    assert second[1:] == ["value", None]
    assert 3_500 < backend(results).ttl(f"celery-task-meta-{second[0]}") <= 3_600


def test_the_key_prefix_is_honoured(gate_of, stack, results):
    gate = gate_of(rules(result='"revoke"'), extra='key_prefix = "shop"\n')
    conf = {"result_backend_transport_options": {"global_keyprefix": "shop"}}
    second = asked(stack, gate, results, "gated.delay('a')\nprint(json.dumps(outcome(gated.delay('a'))))", conf=conf)
    assert second[1] == "TaskRevokedError"
    assert backend(results).keys("*meta*") == [f"shop_celery-task-meta-{second[0]}"]


def test_nobody_is_given_what_he_does_not_want(gate_of, stack, results):
    gate = gate_of(rules(result='"revoke"') + rules("note", result='"none"').replace('"g"', '"n"'))
    code = """
gated.delay('a')
note.delay('a')
gated.apply_async(('a',), ignore_result=True)
note.delay('a')
print(json.dumps(outcome(gated.delay('a'))))
"""
    last = asked(stack, gate, results, code)
    gate.expect_publishes(2, "dropped", rule="g")
    gate.expect_publishes(1, "dropped", rule="n")
    assert backend(results).keys("*meta*") == [f"celery-task-meta-{last[0]}"]


def test_what_an_id_has_is_not_written_over(gate_of, stack, results):
    gate = gate_of(rules(result='"revoke"'))
    code = """
import redis
own = json.dumps({"status": "SUCCESS", "result": "own", "traceback": None, "children": [], "task_id": "mine"})
redis.Redis.from_url(os.environ["APP_BACKEND"]).set("celery-task-meta-mine", own)
gated.delay('a')
mine = gated.apply_async(('a',), task_id="mine")
outcome(gated.delay('a'))
print(json.dumps(outcome(mine)))
"""
    assert asked(stack, gate, results, code) == ["mine", "value", "own"]
    gate.expect_publishes(2, "dropped", rule="g")


def test_a_backend_that_was_away_gets_what_it_missed(gate_of, stack, results):
    gate = gate_of(rules(result='"revoke"'))
    results.freeze()
    try:
        done = stack.produce(gate, "gated.delay('a')\nprint(gated.delay('a').id)")
        gate.expect_publishes(1, "dropped", rule="g")
    finally:
        results.thaw()
    key = f"celery-task-meta-{done.stdout.strip()}"
    harness.wait_until(lambda: backend(results).exists(key), "the result to be written")


@pytest.mark.parametrize("result, expected", [("revoke", "REVOKED"), ("success", "SUCCESS")])
def test_what_a_killed_proxy_owed_is_given_by_another(gate_of, stack, store, results, result, expected):
    rule = rules(result=f'"{result}"')
    gate = gate_of(rule)
    results.freeze()
    try:
        done = stack.produce(gate, "gated.delay('a')\nfor _ in range(3): print(gated.delay('a').id)")
        gate.expect_publishes(3, "dropped", rule="g")
        pattern = "oncegate:more:*" if result == "revoke" else "oncegate:success:*"
        # Beside the ids there are what is known of the group, which has no name.
        waiting = lambda: sum(len(id.strip()) > 0 for key in store.client.keys(pattern) for id in store.client.hkeys(key))  # noqa: E731
        harness.wait_until(lambda: waiting() == 3, lambda: f"the store to have what is owed: {store.client.keys('oncegate:*')}")
        gate.kill()
    finally:
        results.thaw()
    gate_of(rule)
    keys = [f"celery-task-meta-{id}" for id in done.stdout.split()]
    harness.wait_until(lambda: all(backend(results).exists(key) for key in keys), "the results to be written")
    assert [json.loads(backend(results).get(key))["status"] for key in keys] == [expected] * 3
    harness.wait_until(lambda: not store.client.keys("oncegate:joining"), "nothing to be owed")


def test_a_duplicate_found_late_gets_its_result_too(gate_of, oncegate, stack, store, results, scoreboard, broker):
    gate = gate_of(rules(result='"revoke"'))
    bare = harness.Bare(broker.port)
    conf = {"task_default_delivery_mode": 2}
    first = stack.produce(gate, "print(gated.delay('a').id)", result_url=results.url).stdout.strip()
    # This one goes past the proxy, and is found when it is delivered.
    second = stack.produce(bare, "print(gated.delay('a').id)", result_url=results.url, conf=conf).stdout.strip()
    stack.worker(gate, concurrency=2, result_url=results.url)
    late = asked(stack, gate, results, f"print(json.dumps(outcome(app.AsyncResult({second!r}))))")
    assert late[1:] == ["TaskRevokedError", f"duplicate of {first}"]
    scoreboard.open_gate("a")
    assert {run["id"] for run in scoreboard.wait_runs(2)} == {first}


def test_what_on_running_drops_gets_its_result(gate_of, stack, results, scoreboard):
    gate = gate_of(rules(unique="while_running", on_running='"drop"', result='"revoke"'))
    stack.worker(gate, concurrency=2, result_url=results.url)
    first = stack.produce(gate, "print(gated.delay('a').id)", result_url=results.url).stdout.strip()
    scoreboard.wait_runs(1)
    second = asked(stack, gate, results, "print(json.dumps(outcome(gated.delay('a'))))")
    assert second[1:] == ["TaskRevokedError", f"duplicate of {first}"]
    scoreboard.open_gate("a")
    scoreboard.wait_runs(2)


@pytest.mark.parametrize("unique", ['unique = "until_finished"\n', ""])
@pytest.mark.parametrize("result", ["join", "success", "none"])
def test_what_waits_for_its_limit_for_too_long_gets_its_result(gate_of, stack, results, scoreboard, unique, result):
    limit = '[[rule.limit]]\nrate = "1/h"\nmax_wait = "1s"\non_max_wait = "drop"\n'
    gate = gate_of(f'[[rule]]\nname = "g"\ntask = "live.note"\n{unique}result = "{result}"\n{limit}')
    stack.worker(gate, result_url=results.url)
    code = """
first, second = note.delay('a'), note.delay('b')
ignored = note.apply_async(('c',), ignore_result=True)
print(json.dumps([outcome(first), outcome(second, 5)]))
"""
    first, second = asked(stack, gate, results, code)
    assert first[1:] == ["value", ["a"]]
    gate.expect("oncegate_deliveries_total", 2, rule="g", decision="dropped")
    expected = {
        "join": ["TaskRevokedError", "it has waited for a rate limit for longer than max_wait"],
        "success": ["value", None],
        "none": ["TimeoutError", "The operation timed out."],
    }
    assert second[1:] == expected[result]
    keys = [f"celery-task-meta-{first[0]}", f"celery-task-meta-{second[0]}"]
    stored = sorted(keys[: 1 if result == "none" else 2])
    assert sorted(backend(results).keys("*meta*")) == stored
    if result != "none":
        assert "duplicate_of" not in json.loads(backend(results).get(keys[1]))


def test_a_chord_of_which_a_member_waits_for_too_long_ends(gate_of, stack, results, scoreboard):
    limit = '[[rule.limit]]\nrate = "1/h"\nmax_wait = "1s"\non_max_wait = "drop"\n'
    gate = gate_of(f'[[rule]]\nname = "g"\ntask = "live.note"\n{limit}')
    stack.worker(gate, result_url=results.url)
    code = "print(json.dumps(outcome(chord([note.s(1), note.s(2)])(note.s()))[1]))"
    assert asked(stack, gate, results, code) in ("ChordError", "TaskRevokedError")
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="dropped")
    assert len([run for run in scoreboard.drain() if run["task"] == "live.note"]) == 1


def test_who_was_refused_and_publishes_again_gets_his_own(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules("gated", on_duplicate='"raise"'))
    stack.worker(gate, result_url=results.url)
    code = """
from amqp.exceptions import PreconditionFailed
first = gated.delay('a')
try:
    gated.apply_async(('a',), task_id='second')
except PreconditionFailed as refused:
    print(json.dumps([first.id, str(refused)]))
"""
    first, refused = asked(stack, gate, results, code, conf={"broker_transport_options": {"confirm_publish": True}})
    assert first in refused
    assert not store.client.keys("oncegate:join*")
    scoreboard.open_gate("a", 2)
    code = "second = gated.apply_async(('a',), task_id='second')\nprint(json.dumps(outcome(second)))"
    harness.wait_until(lambda: not store.locks(), "the first to end")
    assert asked(stack, gate, results, code) == ["second", "value", "a"]
    assert "duplicate_of" not in json.loads(backend(results).get("celery-task-meta-second"))
    assert {run["id"] for run in scoreboard.wait_runs(4)} == {first, "second"}


def test_a_superseded_id_gets_one_result_and_what_joins_the_newer_gets_the_newers(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules("gated", on_duplicate='"replace"', key="[]"))
    [older, newer] = asked(stack, gate, results, "print(json.dumps([gated.delay(name).id for name in 'ab']))")
    gate.expect_publishes(1, "replaced", rule="g")
    stack.worker(gate, result_url=results.url)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
    asks = harness.in_background(asked, stack, gate, results, "print(json.dumps(outcome(gated.delay('c'))))")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("b")
    assert asks()[1:] == ["value", "b"]
    code = f"print(json.dumps(outcome(app.AsyncResult({older!r}))))"
    assert asked(stack, gate, results, code)[1:] == ["TaskRevokedError", "expired"]
    nothing_waits(store)
    assert "duplicate_of" not in json.loads(backend(results).get(f"celery-task-meta-{older}"))
    assert {run["id"] for run in scoreboard.wait_runs(2)} == {newer}


def test_without_a_backend_nothing_changes(oncegate, stack, store, results, scoreboard):
    gate = oncegate(rules() + rules("note", result='"none"').replace('"g"', '"n"'), store=store.url)
    stack.worker(gate, result_url=results.url)
    first = stack.produce(gate, "print(gated.delay('a').id)\ngated.delay('a')", result_url=results.url).stdout.strip()
    gate.expect_publishes(1, "dropped", rule="g")
    assert not store.client.keys("oncegate:join*")
    scoreboard.open_gate("a")
    scoreboard.wait_runs(2)
    harness.wait_until(lambda: backend(results).exists(f"celery-task-meta-{first}"), "the holder's result")
    assert backend(results).keys("*meta*") == [f"celery-task-meta-{first}"]
    lines = [line for line in gate.log().splitlines() if "get no result" in line]
    assert len(lines) == 1 and '"rules":"g"' in lines[0], lines


# What a duplicate gets that joins its holder.

JOINED = "oncegate_results_joined_total"
DUPLICATES = """
import threading
first = {task}.delay('a')
duplicates = [{task}.delay('a') for _ in range({count})]
outcomes = []
threads = [threading.Thread(target=lambda d=d: outcomes.append(outcome(d, 30))) for d in duplicates]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([first.id, outcomes]))
"""


def nothing_waits(store):
    harness.wait_until(lambda: not store.client.keys("oncegate:join*"), "everybody to have a result")


@pytest.mark.parametrize("kind", ["memory:", "redis"])
def test_duplicates_get_what_the_holder_gives(gate_of, stack, store, results, scoreboard, kind):
    gate = gate_of(rules(), store="memory:" if kind == "memory:" else store.url)
    queued = harness.in_background(asked, stack, gate, results, DUPLICATES.format(task="gated", count=2))
    gate.expect_publishes(2, "dropped", rule="g")
    stack.worker(gate, concurrency=1, result_url=results.url)
    scoreboard.wait_runs(1)
    running = harness.in_background(asked, stack, gate, results, "print(json.dumps(outcome(gated.delay('a'), 30)))")
    gate.expect_publishes(3, "dropped", rule="g")
    scoreboard.open_gate("a")
    first, outcomes = queued()
    assert [outcome[1:] for outcome in [*outcomes, running()]] == [["value", "a"]] * 3
    gate.expect(JOINED, 3, rule="g", backend="redis")
    assert {run["id"] for run in scoreboard.wait_runs(2)} == {first}
    nothing_waits(store)


def test_a_failure_is_passed_on(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules("gated_failure"))
    stack.worker(gate, result_url=results.url)
    asks = harness.in_background(asked, stack, gate, results, DUPLICATES.format(task="gated_failure", count=1))
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("a")
    first, [outcome] = asks()
    assert outcome[1:] == ["ValueError", "a"]
    nothing_waits(store)


def test_a_revoke_is_passed_on(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules("note"))
    worker = stack.worker(gate, result_url=results.url)
    code = """
first = note.apply_async(('a',), countdown=600)
second = note.delay('a')
app.control.revoke(first.id, destination=['%s@test'], reply=True, timeout=5)
print(json.dumps(outcome(second, 30)))
"""
    outcome = asked(stack, gate, results, code % worker.node)
    assert outcome[1:] == ["TaskRevokedError", "revoked"]
    nothing_waits(store)


def test_of_a_holder_that_leaves_no_result_the_outcome_is_unknown(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules())
    stack.worker(gate, "-E", result_url=results.url)
    code = """
import time
first = gated.apply_async(('a',), ignore_result=True)
print(json.dumps([first.id, outcome(gated.delay('a'), 40)]))
"""
    asks = harness.in_background(asked, stack, gate, results, code)
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("a")
    first, outcome = asks()
    assert outcome[1:] == ["TaskRevokedError", f"duplicate of {first}: outcome unknown"]
    gate.expect(JOINED, 0, rule="g", backend="redis")
    nothing_waits(store)


def test_until_started_waits_for_the_end(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules(unique="until_started"))
    asks = harness.in_background(asked, stack, gate, results, DUPLICATES.format(task="gated", count=1))
    gate.expect_publishes(1, "dropped", rule="g")
    ended = asked(stack, gate, results, "gated.apply_async(('b',), ignore_result=True)\nprint(json.dumps(gated.delay('b').id))")
    gate.expect_publishes(2, "dropped", rule="g")
    stack.worker(gate, concurrency=2, result_url=results.url)
    scoreboard.wait_runs(2)
    harness.wait_until(lambda: not store.locks(), "the locks to go at the start")
    # Its holder has ended without a result: so long that of the other would be waited for, had it ended.
    scoreboard.open_gate("b")
    harness.wait_until(lambda: backend(results).exists(f"celery-task-meta-{ended}"), "the outcome to be given up")
    scoreboard.open_gate("a")
    _, [outcome] = asks()
    assert outcome[1:] == ["value", "a"]


def test_a_duplicate_in_the_cooldown_gets_the_result_at_once(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules("add", cooldown='"1m"'))
    stack.worker(gate, result_url=results.url)
    first = asked(stack, gate, results, "print(json.dumps(outcome(add.delay(2, 3))))")
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["cooldown"], "the key to rest")
    second = asked(stack, gate, results, "print(json.dumps(outcome(add.delay(2, 3))))")
    assert (first[1:], second[1:]) == (["value", 5], ["value", 5])
    assert first[0] != second[0]
    gate.expect_publishes(1, "dropped", rule="g")


def test_the_key_prefix_is_honoured_in_both_directions(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules("add", unique="until_expired", ttl='"1m"'), extra='key_prefix = "shop"\n')
    options = {"result_url": results.url, "conf": {"result_backend_transport_options": {"global_keyprefix": "shop"}}}
    stack.worker(gate, **options)
    code = "add.delay(2, 3)\nprint(json.dumps(outcome(add.delay(2, 3))))"
    assert asked(stack, gate, results, code, conf=options["conf"])[1:] == ["value", 5]


def test_five_hundred_duplicates_of_one_key(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules())
    stack.worker(gate, result_url=results.url)
    code = """
first = gated.delay('a')
duplicates = [gated.delay('a') for _ in range(500)]
print(json.dumps([outcome(duplicate, 60)[1:] for duplicate in duplicates]))
"""
    asks = harness.in_background(asked, stack, gate, results, code)
    gate.expect_publishes(500, "dropped", rule="g")
    scoreboard.open_gate("a")
    assert asks() == [["value", "a"]] * 500
    gate.expect(JOINED, 500, rule="g", backend="redis")
    assert len(backend(results).keys("celery-task-meta-*")) == 501


def test_another_proxy_finishes_what_one_has_begun(gate_of, stack, store, results, scoreboard):
    front, back = gate_of(rules()), gate_of(rules())
    stack.worker(back, result_url=results.url)
    first = stack.produce(front, "print(gated.delay('a').id)", result_url=results.url).stdout.strip()
    scoreboard.wait_runs(1)
    second = stack.produce(front, "print(gated.delay('a').id)", result_url=results.url).stdout.strip()
    front.expect_publishes(1, "dropped", rule="g")
    # The proxy that has dropped it is gone before the holder ends.
    front.kill()
    scoreboard.open_gate("a")
    assert asked(stack, back, results, f"print(json.dumps(outcome(app.AsyncResult({second!r}))))")[1:] == ["value", "a"]
    assert {run["id"] for run in scoreboard.wait_runs(2)} == {first}


def test_a_proxy_that_is_started_anew_finishes_what_was_begun(gate_of, stack, store, results, scoreboard, broker):
    gate = gate_of(rules())
    stack.worker(harness.Bare(broker.port), result_url=results.url)
    stack.produce(gate, "gated.delay('a')", result_url=results.url)
    scoreboard.wait_runs(1)
    second = stack.produce(gate, "print(gated.delay('a').id)", result_url=results.url).stdout.strip()
    gate.expect_publishes(1, "dropped", rule="g")
    gate.kill()
    scoreboard.open_gate("a")
    scoreboard.wait_runs(2)
    again = gate_of(rules())
    assert asked(stack, again, results, f"print(json.dumps(outcome(app.AsyncResult({second!r}))))")[1:] == ["value", "a"]


def test_what_on_running_drops_joins_the_run(gate_of, stack, store, results, scoreboard):
    gate = gate_of(rules(unique="while_running", on_running='"drop"'))
    stack.worker(gate, concurrency=2, result_url=results.url)
    first = stack.produce(gate, "print(gated.delay('a').id)", result_url=results.url).stdout.strip()
    scoreboard.wait_runs(1)
    asks = harness.in_background(asked, stack, gate, results, "print(json.dumps(outcome(gated.delay('a'))))")
    harness.wait_until(lambda: store.client.keys("oncegate:join:*"), "the other to be dropped")
    scoreboard.open_gate("a")
    assert asks()[1:] == ["value", "a"]
    assert {run["id"] for run in scoreboard.wait_runs(2)} == {first}
