"""What the ids of dropped tasks get in Celery's Redis result backend, as callers see it that wait for them."""

import json

import harness
import pytest

# Of a call that was dropped: the value, or the exception that get() raises.
ASK = """
import json
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


@pytest.fixture
def gate_of(oncegate, store, results):
    """Makes a proxy that writes results."""

    def make(rules, extra="", **parts):
        parts = {"store": store.url, **parts}
        gate = oncegate(rules, extra=f"[results]\nurl = {harness.toml_string(results.url)}\n{extra}", **parts)
        if gate.direct:
            pytest.skip("there is no proxy")
        return gate

    return make


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
