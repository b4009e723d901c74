"""Groups, chords, chains and links whose members are duplicates (`canvas = "dedupe"`), as Celery itself completes them."""

import json

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
def ask(stack, results):
    """What a producer's code prints as JSON in its last line."""

    def run(gate, code, **options):
        done = stack.produce(gate, ASK + code, **{"result_url": results.url, **options})
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


def held(gate, count):
    """Waits until so many duplicates wait for their holders."""
    gate.expect("oncegate_deliveries_total", count, rule="c", decision="held")


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
holder = gated.delay("g")
last = chain(plain.s(7), gated.si("g"), note.s("end"))()
print(json.dumps([outcome(holder), outcome(last), outcome(last.parent)]))
"""
    answer = harness.in_background(ask, gate, code, result_url=url)
    held(gate, 1)
    scoreboard.open_gate("g")
    assert answer() == [["value", "g"], ["value", ["g", "end"]], ["value", "g"]]
    joined(gate, 1)
    runs = scoreboard.drain()
    assert len([run for run in runs if run["task"] == "live.gated" and run["phase"] == "begin"]) == 1


def begun(scoreboard, task):
    return len([run for run in scoreboard.drain() if run["task"] == f"live.{task}" and run.get("phase") == "begin"])


@pytest.mark.parametrize("backend", ["redis", "rpc", "database"])
def test_a_group_of_groups(gate_of, oncegate, stack, store, results, database, scoreboard, ask, backend):
    if backend == "redis":
        gate, url = gate_of(rule("gated")), results.url
    else:
        gate, url = oncegate(rule("gated"), store=store.url), {"rpc": "rpc://", "database": database}[backend]
    stack.worker(gate, concurrency=4, result_url=url)
    code = """
all = group(group(gated.s("x"), gated.s("y")), group(gated.s("x"), gated.s("x")), plain.s(1))()
print(json.dumps(outcome(all)))
"""
    answer = harness.in_background(ask, gate, code, result_url=url)
    held(gate, 2)
    for name in "xy":
        scoreboard.open_gate(name)
    # Celery makes one group of them.
    assert answer() == ["value", ["x", "y", "x", "x", 1]]
    gate.expect("oncegate_results_joined_total", 2, rule="c", backend="worker")
    assert begun(scoreboard, "gated") == 2


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack"])
def test_other_serializers_and_a_compression(gate_of, stack, results, scoreboard, ask, serializer, monkeypatch):
    # Celery asks for it where a worker of root's takes pickles.
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    gate = gate_of(rule("add"))
    conf = {"task_serializer": serializer, "accept_content": [serializer, "json"], "result_serializer": "json", "task_compression": "bzip2"}
    members = "[add.s(1, 2), add.s(3, 4), add.s(1, 2), add.s(1, 2)]"
    # A chord cannot be written in YAML, nor by Celery itself.
    canvas = f"group({members})()" if serializer == "yaml" else f"chord({members})(total.s())"
    sent = ask(gate, f"sent = {canvas}\nprint(json.dumps([part.id for part in getattr(sent, 'results', [sent])]))", conf=conf)
    gate.expect_publishes(4, "forwarded", rule="c")
    stack.worker(gate, conf=conf, result_url=results.url)
    values = ask(gate, f"print(json.dumps([outcome(app.AsyncResult(id)) for id in {sent!r}]))", conf=conf)
    assert values == [["value", value] for value in ([3, 7, 3, 3] if serializer == "yaml" else [16])]
    joined(gate, 2)
    assert len(scoreboard.runs_of("live.add")) == 2


def test_links_are_called_with_the_result(gate_of, stack, results, scoreboard, ask):
    gate = gate_of(rule("gated"))
    stack.worker(gate, concurrency=2, result_url=results.url)
    code = """
holder = gated.delay("g")
second = gated.apply_async(("g",), link=note.s("linked"))
print(json.dumps([outcome(holder), outcome(second), second.children and outcome(second.children[0]) or None]))
"""
    answer = harness.in_background(ask, gate, code)
    held(gate, 1)
    scoreboard.open_gate("g")
    assert answer()[:2] == [["value", "g"], ["value", "g"]]
    joined(gate, 1)
    harness.wait_until(lambda: [run["args"] for run in scoreboard.runs_of("live.note")] == [["g", "linked"]], "the link is called")
    assert begun(scoreboard, "gated") == 1


# Called in the worker with request, exception and traceback where its signature takes them, else published with the id of the task.
ERRBACKS = """
holder = {task}.delay("g")
second = {task}.apply_async(("g",), link=note.si("linked"), link_error=note.si("failed"))
last = chain({task}.si("g"), plain.si(1)).on_error(note.si("broken"))()
print(json.dumps([outcome(holder), outcome(second)[0], outcome(last)[0]]))
"""


@pytest.mark.parametrize("backend", ["redis", "rpc", "database"])
@pytest.mark.parametrize("task, called", [("gated_failure", ["broken", "failed"]), ("gated", ["linked"])])
def test_errbacks_are_called_where_the_holder_fails(gate_of, oncegate, stack, store, results, database, scoreboard, ask, backend, task, called):
    if backend == "redis":
        gate, url = gate_of(rule(task)), results.url
    else:
        gate, url = oncegate(rule(task), store=store.url), {"rpc": "rpc://", "database": database}[backend]
    if gate.direct:
        pytest.skip("there is no proxy")
    stack.worker(gate, concurrency=2, result_url=url)
    answer = harness.in_background(ask, gate, ERRBACKS.format(task=task), result_url=url)
    held(gate, 2)
    scoreboard.open_gate("g")
    holder, second, last = answer()
    assert (holder[0] == "value", second == "value", last == "value") == (task == "gated",) * 3
    notes = lambda: sorted(run["args"][0] for run in scoreboard.runs_of("live.note"))  # noqa: E731
    harness.wait_until(lambda: len(notes()) >= len(called), lambda: f"the links to be called: {notes()}")
    assert notes() == called
    assert begun(scoreboard, task) == 1


def test_a_holder_that_fails(gate_of, stack, results, scoreboard, ask):
    gate = gate_of(rule("gated_failure"))
    stack.worker(gate, concurrency=2, result_url=results.url)
    code = """
holder = gated_failure.delay("g")
last = chain(gated_failure.si("g"), note.s())()
body = chord([gated_failure.s("g"), add.s(1, 2)])(total.s())
print(json.dumps([outcome(holder), outcome(last)[0], outcome(body)[0]]))
"""
    answer = harness.in_background(ask, gate, code)
    held(gate, 2)
    scoreboard.open_gate("g")
    holder, last, body = answer()
    assert holder == ["ValueError", "g"]
    assert (last, body) == ("TaskRevokedError", "TaskRevokedError") or (last, body) == ("TaskRevokedError", "ChordError")
    assert begun(scoreboard, "gated_failure") == 1
    assert not scoreboard.runs_of("live.total") and not scoreboard.runs_of("live.note")
    gate.expect_log('"reason":"holder_failed"')


def test_a_holder_that_is_revoked(gate_of, stack, results, scoreboard, ask):
    gate = gate_of(rule("add"))
    sent = ask(
        gate,
        """
holder = add.delay(1, 2)
last = chain(add.si(1, 2), note.s())()
print(json.dumps([holder.id, last.id, last.parent.id]))
""",
    )
    gate.expect_publishes(2, "forwarded", rule="c")
    stack.produce(gate, f"app.control.revoke({sent[0]!r})", result_url=results.url)
    gate.expect("oncegate_locks_released_total", 1, rule="c", reason="revoked")
    stack.worker(gate, result_url=results.url)
    assert ask(gate, f"print(json.dumps(outcome(app.AsyncResult({sent[2]!r}))))")[0] == "TaskRevokedError"
    assert not scoreboard.runs_of("live.add")


def test_a_member_that_retries_is_no_duplicate(gate_of, stack, results, ask):
    gate = gate_of(rule("flaky"))
    # One child: a second one may store the success of a retry before the first has stored that it retries.
    stack.worker(gate, concurrency=1, result_url=results.url)
    assert ask(gate, "print(json.dumps(outcome(chord([flaky.s(2), flaky.s(2), add.s(1, 2)])(total.s()))))") == ["value", 7]


def test_a_member_that_is_revoked_while_it_waits(gate_of, stack, results, scoreboard, ask):
    gate = gate_of(rule("gated"))
    worker = stack.worker(gate, concurrency=2, result_url=results.url)
    code = """
holder = gated.delay("g")
last = chain(gated.si("g"), note.s())()
board().blpop([f"{NAME}:gate:revoke"], timeout=60)
last.parent.revoke()
print(json.dumps([outcome(holder), outcome(last.parent)[0]]))
"""
    answer = harness.in_background(ask, gate, code)
    held(gate, 1)
    scoreboard.open_gate("revoke")
    harness.wait_until(lambda: "flagged as revoked" in worker.log(), "the revoke to arrive")
    scoreboard.open_gate("g")
    assert answer() == [["value", "g"], "TaskRevokedError"]
    assert begun(scoreboard, "gated") == 1 and not scoreboard.runs_of("live.note")


def test_a_lock_that_lapses_lets_the_member_run(gate_of, stack, store, results, scoreboard, ask):
    gate = gate_of(rule("add", ttl='"2s"'))
    sent = ask(
        gate,
        """
add.apply_async((1, 2), queue="elsewhere")
last = chain(add.si(1, 2), note.s())()
print(json.dumps(last.id))
""",
    )
    gate.expect_publishes(2, "forwarded", rule="c")
    harness.wait_until(lambda: not store.locks(), "the lock to lapse")
    stack.worker(gate, result_url=results.url)
    assert ask(gate, f"print(json.dumps(outcome(app.AsyncResult({sent!r}))))") == ["value", [3]]
    assert len(scoreboard.runs_of("live.add")) == 1


@pytest.mark.parametrize("dies", ["worker", "proxy"])
def test_what_waits_survives(gate_of, stack, results, scoreboard, ask, store, dies):
    gate = gate_of(rule("gated"))
    # The holder runs at a worker and a proxy that live on.
    beside = gate_of(rule("gated"))
    stack.worker(beside, concurrency=1, result_url=results.url)
    holder = ask(beside, "print(json.dumps(gated.delay('g').id))")
    scoreboard.wait_runs(1)
    beside_worker = stack.worker(gate, "-Q", "members", concurrency=1, result_url=results.url)
    last = ask(
        beside,
        """
print(json.dumps(chain(gated.si("g").set(queue="members"), note.s("end"))().id))
""",
    )
    gate.expect("oncegate_deliveries_total", 1, rule="c", decision="held")
    if dies == "worker":
        beside_worker.kill()
        again = gate
    else:
        gate.kill()
        beside_worker.kill()
        again = gate_of(rule("gated"))
    stack.worker(again, "-Q", "members", concurrency=1, result_url=results.url)
    again.expect("oncegate_deliveries_total", 2 if dies == "worker" else 1, rule="c", decision="held")
    scoreboard.open_gate("g")
    assert ask(beside, f"print(json.dumps([outcome(app.AsyncResult({holder!r})), outcome(app.AsyncResult({last!r}))]))") == [
        ["value", "g"],
        ["value", ["g", "end"]],
    ]
    assert begun(scoreboard, "gated") == 1
    again.expect("oncegate_results_joined_total", 1, rule="c", backend="worker")


def test_parked_while_the_holder_runs(gate_of, broker, vhost, stack, results, scoreboard, ask):
    control = harness.account(broker.port, vhost)
    gate = gate_of(rule("gated", hold_max='"1s"'), extra=control)
    stack.worker(gate, concurrency=2, result_url=results.url)
    code = """
holder = gated.delay("g")
last = chain(gated.si("g"), note.s("end"))()
print(json.dumps([outcome(holder), outcome(last)]))
"""
    answer = harness.in_background(ask, gate, code)
    harness.wait_until(lambda: gate.count("oncegate_messages_parked_total", rule="c"), "one to be parked")
    scoreboard.open_gate("g")
    assert answer() == [["value", "g"], ["value", ["g", "end"]]]
    joined(gate, 1)
    assert begun(scoreboard, "gated") == 1


def test_results_of_duplicates_that_only_a_worker_can_store(oncegate, stack, store, database, scoreboard, ask):
    plain_rule = '[[rule]]\nname = "c"\ntask = "live.gated"\nunique = "until_finished"\n'
    gate = oncegate(plain_rule, store=store.url, extra='[results]\nkind = "worker"\n')
    if gate.direct:
        pytest.skip("there is no proxy")
    stack.worker(gate, concurrency=2, result_url=database)
    code = """
first, second, third = [gated.delay("g") for _ in range(3)]
print(json.dumps([outcome(first), outcome(second), outcome(third)]))
"""
    answer = harness.in_background(ask, gate, code, result_url=database)
    held(gate, 2)
    scoreboard.open_gate("g")
    assert answer() == [["value", "g"]] * 3
    joined(gate, 2)
    assert begun(scoreboard, "gated") == 1


def test_observe_forwards_all(oncegate, stack, store, results, scoreboard, ask):
    gate = oncegate(rule("add", mode='"observe"'), store=store.url)
    sent = ask(gate, "print(json.dumps(chord([add.s(1, 2), add.s(1, 2), add.s(1, 2)])(total.s()).id))")
    gate.expect_publishes(3, "forwarded", rule="c")
    stack.worker(gate, result_url=results.url)
    assert ask(gate, f"print(json.dumps(outcome(app.AsyncResult({sent!r}))))") == ["value", 9]
    assert len(scoreboard.runs_of("live.add")) == 3
