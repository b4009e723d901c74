"""Limits that operators pause, resume and change while tasks wait for them: on all proxies, for one value of a key, for a time."""

import json

import harness
import pytest
from test_limits import QUORUM, counted, gate, no_window_is_too_full, of, rule  # noqa: F401: a fixture among them

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to limit anything")

CONFS = pytest.mark.parametrize("conf", [{}, QUORUM], ids=["classic", "quorum"])


def patch(proxy, change, limit="1", method="PATCH"):
    answer = proxy.http.request(method, f"{proxy.admin_url}/api/v1/limits/g/{limit}", json=change, timeout=harness.DEADLINE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def limits(proxy):
    return proxy.get("/api/v1/limits").json()["limits"]


def cli(proxy, *arguments):
    done = proxy.run_cli("limits", *arguments)
    assert done.returncode == 0, done
    return done.stdout


def waiting(proxy, count):
    harness.wait_until(lambda: limits(proxy)[0]["waiting"] == count, f"{count} to wait")


@CONFS
def test_a_pause_holds_all_and_loses_nothing(gate, stack, store, scoreboard, conf):
    rules = rule(['times = 10\nper = "1s"'])
    gates = [gate(rules), gate(rules)]
    assert patch(gates[0], {"paused": True})["paused"] is True
    for proxy in gates:
        proxy.expect("oncegate_limit_paused", 1, rule="g", limit="1")
        stack.worker(proxy, concurrency=2, conf=conf)
    stack.produce(gates[0], "for n in range(20): note.delay(n)\nfor n in range(5): plain.delay(n)", conf=conf)
    stack.produce(gates[1], "for n in range(20, 30): note.delay(n)", conf=conf)
    scoreboard.wait_runs(5)
    waiting(gates[1], 30)
    assert "PAUSED" in cli(gates[1], "list")
    # Some of them are looked at again, and are parked.
    harness.wait_until(lambda: counted(gates, "parked") >= 30, "all of them to be parked")
    assert of(scoreboard.drain()) == []
    gates[0].expect_log('"decision":"parked"')
    lines = [json.loads(line) for line in gates[0].log().splitlines() if '"decision":"parked"' in line]
    assert all(line["limit"] == "1" and line["wait_ms"] > 0 for line in lines), lines
    assert "PAUSED" not in cli(gates[1], "resume", "g/1")
    runs = scoreboard.wait_runs(35, timeout=90)
    assert sorted(run["args"][0] for run in of(runs)) == list(range(30))
    no_window_is_too_full(store, of(runs), 10, 1)
    for proxy in gates:
        proxy.expect("oncegate_limit_paused", 0, rule="g", limit="1")


def test_a_pause_outlives_its_proxy_and_ends_by_itself(gate, stack, store, scoreboard):
    rules = rule(['times = 10\nper = "1s"'])
    first = gate(rules)
    begun = store.client.time()
    cli(first, "pause", "g", "--for", "8s")
    stack.produce(first, "for n in range(5): note.delay(n)")
    first.stop()
    second = gate(rules)
    [limit] = limits(second)
    assert limit["paused"] and 0 < limit["expires_in"] <= 8 and limit["pause_set"]["by"] == "-"
    stack.worker(second, concurrency=2)
    runs = scoreboard.wait_runs(5, timeout=60)
    assert sorted(run["args"][0] for run in runs) == list(range(5))
    [slot] = store.client.keys(f"oncegate:slot:*:{runs[0]['id']}")
    began_ms = begun[0] * 1000 + begun[1] // 1000
    assert int(store.client.hget(slot, "at")) >= began_ms + 8000, "none while it was paused"
    assert not limits(second)[0]["paused"]


def test_a_raised_rate_lets_those_go_that_are_held(oncegate, stack, store, scoreboard):
    # Without an account nothing is parked.
    proxy = oncegate(rule(['rate = "1/h"']), store=store.url)
    stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "for n in range(10): note.delay(n)")
    scoreboard.wait_runs(1)
    waiting(proxy, 9)
    assert "100 per 1s (configured 1 per 1h" in cli(proxy, "set", "g/1", "--rate", "100/s", "--for", "1h")
    proxy.expect("oncegate_limit_times", 100, rule="g", limit="1")
    runs = scoreboard.wait_runs(10, timeout=90)
    assert sorted(run["args"][0] for run in runs) == list(range(10))
    assert patch(proxy, {}, method="DELETE")["times"] == 1
    stack.produce(proxy, "note.delay(10)")
    waiting(proxy, 1)
    assert len(scoreboard.drain()) == 10


@CONFS
def test_a_lowered_rate_holds_for_those_that_wait(gate, stack, store, scoreboard, conf):
    rules = rule(['times = 50\nper = "1s"\nburst = 1'])
    gates = [gate(rules), gate(rules)]
    patch(gates[0], {"paused": True})
    for proxy in gates:
        stack.worker(proxy, concurrency=2, conf=conf)
    stack.produce(gates[0], "for n in range(9): note.delay(n)", conf=conf)
    waiting(gates[0], 9)
    changed = patch(gates[1], {"times": 2, "per": "2s", "paused": False})
    assert (changed["times"], changed["per"], changed["configured"]["times"]) == (2, 2, 50)
    runs = scoreboard.wait_runs(9, timeout=90)
    no_window_is_too_full(store, runs, 2, 2)


def test_one_value_of_a_key_is_paused_alone(gate, stack, scoreboard):
    proxy = gate(rule(['times = 50\nper = "1s"\nkey = ["args[0]"]']))
    stack.worker(proxy, concurrency=2)
    cli(proxy, "pause", "g/1", "--key", '"a"')
    stack.produce(proxy, "for name in 'ababcab': note.delay(name)")
    runs = scoreboard.wait_runs(4)
    assert sorted(run["args"][0] for run in runs) == ["b", "b", "b", "c"]
    listed = cli(proxy, "list")
    assert 'key "a"' in listed and "PAUSED" in listed, listed
    proxy.expect("oncegate_limit_paused", 0, rule="g", limit="1")
    [key] = limits(proxy)[0]["keys"]
    assert (key["key"], key["paused"], key["waiting"]) == ("a", True, 3)
    cli(proxy, "reset", "g/1", "--key", '"a"')
    runs = scoreboard.wait_runs(7, timeout=60)
    assert [run["args"][0] for run in runs[4:]] == ["a", "a", "a"]
    # While the limit is paused, one value of its key may go.
    cli(proxy, "pause", "g/1")
    cli(proxy, "resume", "g/1", "--key", '["b"]')
    stack.produce(proxy, "for name in 'abc': note.delay(name)")
    assert scoreboard.wait_runs(8)[7]["args"] == ["b"]
    waiting(proxy, 2)


def test_a_pause_of_tasks_at_a_time(gate, stack, scoreboard):
    proxy = gate(rule(["concurrent = 2"]))
    stack.worker(proxy, concurrency=4)
    cli(proxy, "pause", "g/1")
    stack.produce(proxy, "for n in range(6): note.delay(n)")
    waiting(proxy, 6)
    cli(proxy, "resume", "g/1")
    runs = scoreboard.wait_runs(6, timeout=60)
    assert sorted(run["args"][0] for run in runs) == list(range(6))


def test_what_cannot_be_done_is_told(gate, oncegate, store):
    proxy = gate(rule(['rate = "1/h"']))
    assert proxy.run_cli("limits", "pause", "g/2").returncode == 1
    assert proxy.run_cli("limits", "pause", "nobody").returncode == 1
    assert proxy.run_cli("limits", "pause", "g/1", "--key", "1").returncode == 64
    assert proxy.run_cli("limits", "set", "g/1", "--rate", "much").returncode == 64
    store.freeze()
    try:
        answer = proxy.get("/api/v1/limits")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        done = proxy.run_cli("limits", "pause", "g", "--json")
        assert done.returncode == 75 and json.loads(done.stdout)["error"]["code"] == "store_unavailable", done
    finally:
        store.thaw()
    harness.wait_until(lambda: proxy.get("/api/v1/limits").status_code == 200, "the store to answer again")


def test_a_pause_holds_in_the_memory_of_a_proxy(oncegate, stack, scoreboard):
    proxy = oncegate(rule(['times = 10\nper = "1s"']), store="memory:")
    cli(proxy, "pause", "g/1")
    assert proxy.run_cli("reload").returncode == 0
    stack.worker(proxy)
    stack.produce(proxy, "for n in range(3): note.delay(n)\nplain.delay(1)")
    assert of(scoreboard.wait_runs(1)) == []
    waiting(proxy, 3)
    cli(proxy, "resume", "g/1")
    assert [run["args"][0] for run in of(scoreboard.wait_runs(4, timeout=60))] == [0, 1, 2]
