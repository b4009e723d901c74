"""Groups, chords, chains and links whose members are duplicates (`canvas = "dedupe"`), as Celery itself completes them."""

import json
import time

import harness
import pytest

ASK = """
import json
def outcome(result, timeout=30):
    try:
        value = result.get(timeout=timeout)
    except Exception as raised:
        return [type(raised).__name__, str(raised)]
    return ["value", value]
"""


def rule(task, name="c", unique="until_finished", **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[rule]]\nname = "{name}"\ntask = "live.{task}"\nunique = "{unique}"\ncanvas = "dedupe"\n{lines}'


@pytest.fixture
def gate_of(oncegate, store, results):
    """Makes a proxy that reads results."""

    def make(rules, extra="", **parts):
        parts = {"store": store.url, **parts}
        gate = oncegate(rules, extra=f"[results]\nurl = {harness.toml_string(results.url)}\n{extra}", **parts)
        if gate.direct:
            pytest.skip("there is no proxy")
        return gate

    return make


@pytest.fixture
def ask(stack, results):
    """What a producer's code prints as JSON in its last line."""

    def run(gate, code, **options):
        done = stack.produce(gate, ASK + code, **{"result_url": results.url, **options})
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


def joined(gate, count, name="c"):
    gate.expect("oncegate_results_joined_total", count, rule=name, backend="worker")
    assert gate.count("oncegate_deliveries_total", rule=name, decision="joined") == count


@pytest.mark.parametrize("kind", ["memory:", "redis"])
def test_a_chord_of_fifty_with_forty_duplicates(gate_of, stack, store, results, scoreboard, ask, kind):
    gate = gate_of(rule("add"), store="memory:" if kind == "memory:" else store.url)
    sent = ask(
        gate,
        """
body = chord([add.s(i % 10, 1000) for i in range(50)])(total.s())
print(json.dumps(body.id))
""",
    )
    gate.expect_publishes(50, "forwarded", rule="c")
    stack.worker(gate, concurrency=2, result_url=results.url)
    value = ask(gate, f"print(json.dumps(outcome(app.AsyncResult({sent!r}))))")
    assert value == ["value", 50 * 1000 + 5 * 45]
    runs = scoreboard.drain()
    assert sorted(run["args"] for run in runs if run["task"] == "live.add") == [[i, 1000] for i in range(10)]
    assert len([run for run in runs if run["task"] == "live.total"]) == 1
    joined(gate, 40)


@pytest.fixture
def database(workspace):
    """A result backend that only Celery can read."""
    return f"db+sqlite:///{workspace / f'results{harness.number()}.sqlite'}"


def test_a_chord_of_fifty_with_forty_duplicates_on_a_database(oncegate, stack, store, database, scoreboard, ask):
    gate = oncegate(rule("add"), store=store.url)
    sent = ask(
        gate,
        """
body = chord([add.s(i % 10, 1000) for i in range(50)])(total.s())
print(json.dumps(body.id))
""",
        result_url=database,
    )
    gate.expect_publishes(50, "forwarded", rule="c")
    stack.worker(gate, concurrency=2, result_url=database)
    value = ask(gate, f"print(json.dumps(outcome(app.AsyncResult({sent!r}))))", result_url=database)
    assert value == ["value", 50 * 1000 + 5 * 45]
    runs = scoreboard.drain()
    assert sorted(run["args"] for run in runs if run["task"] == "live.add") == [[i, 1000] for i in range(10)]
    joined(gate, 40)




@pytest.mark.parametrize("backend", ["redis", "rpc", "database"])
def test_a_chain_whose_middle_is_a_duplicate(gate_of, oncegate, stack, store, results, database, scoreboard, ask, backend):
    if backend == "redis":
        gate, url = gate_of(rule("gated")), results.url
    else:
        gate, url = oncegate(rule("gated"), store=store.url), {"rpc": "rpc://", "database": database}[backend]
    stack.worker(gate, concurrency=4, result_url=url)
    code = """
import threading
holder = gated.delay("g")
last = chain(plain.s(7), gated.si("g"), note.s("end"))()
threading.Timer(1.5, lambda: board().rpush(f"{NAME}:gate:g", "go")).start()
print(json.dumps([outcome(holder), outcome(last), outcome(last.parent)]))
"""
    assert ask(gate, code, result_url=url) == [["value", "g"], ["value", ["g", "end"]], ["value", "g"]]
    joined(gate, 1)
    runs = scoreboard.drain()
    assert len([run for run in runs if run["task"] == "live.gated" and run["phase"] == "begin"]) == 1
