"""Seeing what a worker does by its lock, and what an operator does with locks."""

import json

import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to ask")

GATED = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "until_finished"\n'
ADD = '[[rule]]\nname = "a"\ntask = "live.add"\nunique = "until_finished"\nparams = "a, b"\n'


@pytest.fixture(params=["redis", "memory"])
def place(request, store):
    return store.url if request.param == "redis" else "memory:"


@pytest.fixture
def ask(vhost):
    """Asks about a call as its producer would make it."""

    def ask(gate, path, task, *args, **more):
        return gate.post(f"/api/v1/{path}", {"task": task, "args": list(args), "vhost": vhost, **more})

    return ask


@pytest.fixture
def lookup(ask):
    def lookup(gate, task, *args):
        answer = ask(gate, "lookup", task, *args)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return lookup


def wait_for(lookup, gate, what, *call, **wanted):
    def found():
        seen = lookup(gate, *call)
        return seen if all(seen[name] == value for name, value in wanted.items()) else None

    return harness.wait_until(found, lambda: f"{what}: {lookup(gate, *call)}\n{gate.log()[-2000:]}")


def audit(gate, **wanted):
    """The audit lines that say this."""
    # The last line may not be whole yet.
    text, _, _ = gate.log().rpartition("\n")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]


def test_a_lookup_tells_whether_a_task_runs_and_where(oncegate, stack, scoreboard, place, lookup, ask):
    gate = oncegate(GATED, store=place)
    call = ("live.gated", "one")
    assert lookup(gate, *call)["locked"] is False
    stack.produce(gate, "print(gated.delay('one').id)")
    waits = wait_for(lookup, gate, "a call that waits", *call, state="queued")
    assert waits["locked"] is True and waits["worker"] is None and waits["expires_in"] > 0
    worker = stack.worker(gate)
    scoreboard.wait_runs(1)
    runs = wait_for(lookup, gate, "a call that runs", *call, state="running")
    assert runs["holder"] == waits["holder"] and runs["worker"] == f"{worker.node}@test"
    # The same in a list.
    shown = json.loads(gate.run_cli("locks", "show", runs["digest"], "--json").stdout)
    assert shown["state"] == "running" and shown["worker"] == runs["worker"] and shown["expires"] == runs["expires"]
    assert f"held by {runs['holder']} on {worker.node}@test" in gate.run_cli("locks", "list").stdout
    # A key that a task holds cannot be made to rest.
    busy = ask(gate, "cooldown", *call, seconds=60)
    assert busy.status_code == 409 and busy.json()["error"]["code"] == "held", busy.text
    assert runs["holder"] in busy.json()["error"]["message"]
    assert lookup(gate, *call)["state"] == "running"
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    over = wait_for(lookup, gate, "a call that is over", *call, locked=False)
    assert over["holder"] is None and over["worker"] is None and over["state"] is None


def test_a_cooldown_by_hand_drops_calls_until_it_ends(oncegate, stack, scoreboard, place, lookup, ask):
    gate = oncegate(ADD, store=place)
    stack.worker(gate)
    done = ask(gate, "cooldown", "live.add", 1, 1, seconds=3600)
    assert done.status_code == 200, done.text
    rests = done.json()
    assert rests["locked"] is True and rests["state"] == "cooldown" and 3500 < rests["expires_in"] <= 3600
    stack.produce(gate, "add.delay(1, 1); add.delay(a=1, b=1); add.delay(2, 2); fence.delay()")
    assert [run["args"] for run in scoreboard.wait_runs(2)] == [[2, 2], []]
    gate.expect_publishes(2, "dropped", rule="a")
    # Its end is brought near, and comes on the store's clock.
    assert ask(gate, "cooldown", "live.add", kwargs={"a": 1, "b": 1}, seconds=1).json()["digest"] == rests["digest"]
    wait_for(lookup, gate, "the end of the cooldown", "live.add", 1, 1, locked=False)
    stack.produce(gate, "add.delay(1, 1); fence.delay()")
    assert [run["task"] for run in scoreboard.wait_runs(4)[2:]] == ["live.add", "live.fence"]
    gate.expect_publishes(2, "dropped", rule="a")
    gate.expect("oncegate_cooldowns_total", 2, rule="a")
    lines = harness.wait_until(
        lambda: len(found := audit(gate, path="/api/v1/cooldown", status=200)) == 2 and found, "two lines of audit"
    )
    assert [(line["rule"], line["digest"], line["seconds"]) for line in lines] == [
        ("a", rests["digest"], 3600),
        ("a", rests["digest"], 1),
    ]


def test_a_cooldown_by_hand_can_be_taken_back(oncegate, stack, scoreboard, store, ask):
    gate = oncegate(ADD, store=store.url)
    stack.worker(gate)
    digest = ask(gate, "cooldown", "live.add", 1, 1, seconds=3600).json()["digest"]
    assert [lock["state"] for lock in store.locks()] == ["cooldown"]
    assert gate.run_cli("locks", "release", digest).returncode == 0
    assert store.locks() == []
    stack.produce(gate, "add.delay(1, 1)")
    assert scoreboard.wait_runs(1)[0]["task"] == "live.add"
    gate.expect_publishes(0, "dropped")


def test_a_cooldown_of_an_observing_rule_drops_nothing(oncegate, stack, scoreboard, store, ask):
    gate = oncegate(ADD + 'mode = "observe"\n', store=store.url)
    stack.worker(gate)
    done = ask(gate, "cooldown", "live.add", 1, 1, seconds=3600).json()
    assert done["mode"] == "observe" and done["state"] == "cooldown"
    assert [lock["shadow"] for lock in json.loads(gate.run_cli("locks", "list", "--json").stdout)["locks"]] == [True]
    stack.produce(gate, "add.delay(1, 1)")
    scoreboard.wait_runs(1)
    gate.expect_publishes(1, "dropped", rule="a", mode="observe")


def test_a_rule_that_asks_for_the_queue_says_so(oncegate, ask):
    gate = oncegate(ADD + 'queue = "slow"\n')
    for path, more in (("lookup", {}), ("cooldown", {"seconds": 60})):
        answer = ask(gate, path, "live.add", 1, 1, exchange="tasks", **more)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_rule", answer.text
        assert "rule a asks for its queue: name `queue`" in answer.json()["error"]["message"]
        assert ask(gate, path, "live.add", 1, 1, exchange="tasks", queue="slow", **more).status_code == 200


def clear(run_cli, *arguments):
    done = run_cli("locks", "clear", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["released"], answer["skipped_running"]


def test_clear_leaves_what_runs_unless_it_is_told_not_to(oncegate, stack, scoreboard, place, lookup):
    gate = oncegate(GATED, store=place)
    stack.worker(gate)
    stack.produce(gate, "gated.delay('one'); gated.delay('two')")
    scoreboard.wait_runs(1)
    first = wait_for(lookup, gate, "one to run", "live.gated", "one", state="running")
    wait_for(lookup, gate, "two to wait", "live.gated", "two", state="queued")

    assert clear(gate.run_cli, "--rule", "g", "--dry-run") == (1, 1)
    assert lookup(gate, "live.gated", "two")["locked"] is True
    unasked = gate.run_cli("locks", "clear", "--rule", "g")
    assert unasked.returncode == 77 and lookup(gate, "live.gated", "two")["locked"] is True
    assert clear(gate.run_cli, "--rule", "other", "--yes") == (0, 0)
    assert clear(gate.run_cli, "--older-than", "1h", "--yes") == (0, 0)
    assert clear(gate.run_cli, "--rule", "g", "--yes") == (1, 1)
    assert lookup(gate, "live.gated", "two")["locked"] is False
    # One runs on and has its lock.
    assert lookup(gate, "live.gated", "one")["holder"] == first["holder"]
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")

    assert clear(gate.run_cli, "--task", "live.gated", "--include-running", "--yes") == (1, 0)
    stack.produce(gate, "gated.delay('one')")
    second = wait_for(lookup, gate, "another to hold the key", "live.gated", "one", state="queued")
    assert second["holder"] != first["holder"]
    gate.expect_publishes(3, "forwarded", rule="g")
    gate.expect("oncegate_locks_released_total", 2, rule="g", reason="admin")
    # The end of the first does not free the lock of the second.
    scoreboard.open_gate("one")
    scoreboard.open_gate("two")
    assert len(scoreboard.wait_runs(5)) == 5
    wait_for(lookup, gate, "the second to run", "live.gated", "one", state="running", holder=second["holder"])
    scoreboard.open_gate("one")
    scoreboard.wait_runs(6)
    wait_for(lookup, gate, "the second to be over", "live.gated", "one", locked=False)


def test_clear_straight_to_the_store(oncegate, stack, scoreboard, store, lookup):
    gate = oncegate(GATED, store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated.delay('one'); gated.delay('two')")
    scoreboard.wait_runs(1)
    runs = wait_for(lookup, gate, "one to run", "live.gated", "one", state="running")
    straight = ("--store", store.url)
    shown = json.loads(harness.run_cli("locks", "show", runs["digest"], *straight, "--json").stdout)
    assert shown["state"] == "running" and shown["worker"] == runs["worker"]
    assert clear(harness.run_cli, "--all", "--dry-run", *straight) == (1, 1)
    assert len(store.locks()) == 2
    assert clear(harness.run_cli, "--all", "--yes", *straight) == (1, 1)
    assert [lock["holder"] for lock in store.locks()] == [runs["holder"]]
    assert clear(harness.run_cli, "--all", "--include-running", "--yes", *straight) == (1, 0)
    assert store.locks() == []
    assert clear(harness.run_cli, "--all", "--yes", *straight) == (0, 0)
    for name in ("one", "two"):
        scoreboard.open_gate(name)
    assert len(scoreboard.wait_runs(4)) == 4


def test_exit_codes(oncegate, store):
    gate = oncegate(GATED, store=store.url)
    nothing = "0" * 64
    assert gate.run_cli("locks", "list").returncode == 0
    for place in ((), ("--store", store.url)):
        assert gate.run_cli("locks", "show", nothing, *place).returncode == 1
        assert gate.run_cli("locks", "release", nothing, *place).returncode == 1
        assert gate.run_cli("locks", "clear", *place).returncode == 64
        assert gate.run_cli("locks", "show", "xyz", *place).returncode == 64
    store.kill()
    # The proxy is there and its store is not: that may pass.
    assert gate.run_cli("locks", "list").returncode == 75
    assert gate.run_cli("locks", "list", "--store", store.url).returncode == 69
    gate.kill()
    assert gate.run_cli("locks", "list").returncode == 69
