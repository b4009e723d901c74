"""Limits: so many hand-overs in any window, over all workers and proxies; what waits is held or parked, in order, and starves nobody."""

import time

import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to limit anything")

CLASSIC = {}
QUORUM = {"task_default_queue_type": "quorum"}
KINDS = pytest.mark.parametrize("conf", [CLASSIC, QUORUM], ids=["classic", "quorum"])

def rule(limits, task="note", more=""):
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\norphan_grace = "2s"\nhold_max = "1s"\n{more}\n' + "".join(
        f"[[rule.limit]]\n{limit}\n" for limit in limits
    )


@pytest.fixture
def gate(oncegate, broker, vhost, store):
    """Makes a proxy with an account of its own; returns once that is connected."""

    def make(rules, **options):
        options.setdefault("store", store.url)
        account = harness.account(broker.port, vhost)
        made = oncegate(rules, extra=account, **options)
        made.expect("oncegate_control_up", 1, vhost=vhost)
        return made

    return make


def of(runs, task="live.note"):
    return [run for run in runs if run["task"] == task]


def no_window_is_too_full(store, runs, most, per):
    """By the times of the last hand-over of each task, on the store's clock, in milliseconds."""
    slots = [store.client.keys(f"oncegate:slot:*:{task_id}") for task_id in {run["id"] for run in runs}]
    times = sorted(int(store.client.hget(slot, "at")) for [slot] in slots)
    for first, last in zip(times, times[most:]):
        assert last - first >= per * 1000, f"{most + 1} within {last - first} ms: {times}"


def counted(gates, decision):
    return sum(gate.count("oncegate_deliveries_total", rule="g", decision=decision) for gate in gates)


@KINDS
def test_two_proxies_and_two_workers_share_one_limit(gate, stack, store, scoreboard, conf):
    rules = rule(['times = 10\nper = "2s"'])
    gates = [gate(rules), gate(rules)]
    for proxy in gates:
        stack.worker(proxy, concurrency=4, conf=conf)
    stack.produce(gates[0], "for n in range(50): note.delay(n)", conf=conf)
    stack.produce(gates[1], "for n in range(30): plain.delay(n)", conf=conf)
    runs = scoreboard.wait_runs(80, timeout=60)
    limited, others = of(runs), of(runs, "live.plain")
    assert sorted(run["args"][0] for run in limited) == list(range(50))
    no_window_is_too_full(store, limited, 10, 2)
    assert len(others) == 30
    assert counted(gates, "parked") > 0 and counted(gates, "forwarded_unchecked") == 0


@KINDS
def test_order_is_kept_while_messages_are_held_and_parked(gate, stack, scoreboard, conf):
    proxy = gate(rule(['times = 10\nper = "1s"\nburst = 1']))
    stack.worker(proxy, concurrency=1, conf=conf)
    stack.produce(proxy, "for n in range(60): note.delay(n)", conf=conf)
    runs = scoreboard.wait_runs(60, timeout=60)
    assert [run["args"][0] for run in runs] == list(range(60))
    assert counted([proxy], "parked") > 0 and counted([proxy], "held") > 0


def test_without_an_account_what_waits_is_held_and_others_pass(oncegate, stack, store, scoreboard):
    proxy = oncegate(rule(['rate = "2/h"']), store=store.url)
    worker = stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "for n in range(200): note.delay(n)")
    scoreboard.wait_runs(2)
    harness.wait_until(lambda: proxy.count("oncegate_held_messages") == 198, "198 to be held")
    stack.produce(proxy, "for n in range(50): plain.delay(n)")
    runs = scoreboard.wait_runs(52)
    assert len(of(runs)) == 2
    worker.stop()
    harness.wait_until(lambda: stack.messages() == 198, "what was held to be back in its queue")


def test_a_killed_proxy_loses_nothing_that_it_held(gate, stack, store, scoreboard):
    rules = rule(['times = 4\nper = "2s"\nhold_max = "30s"'])
    first, second = gate(rules), gate(rules)
    stack.worker(first, concurrency=2)
    stack.produce(second, "for n in range(16): note.delay(n)")
    scoreboard.wait_runs(4)
    first.kill()
    stack.worker(second, concurrency=2)
    runs = scoreboard.wait_runs(16, timeout=60)
    assert sorted({run["args"][0] for run in runs}) == list(range(16))
    no_window_is_too_full(store, runs, 4, 2)


def test_unique_and_limited_together_lose_nothing(gate, stack, scoreboard, store):
    rules = rule(['times = 3\nper = "1s"'], more='unique = "until_finished"\n')
    gates = [gate(rules), gate(rules)]
    for proxy in gates:
        stack.worker(proxy, concurrency=2)
    stack.produce(gates[0], "for n in range(15): note.delay(n)")
    stack.produce(gates[1], "for n in range(14, -1, -1): note.delay(n)")
    scoreboard.wait_runs(15, timeout=60)
    harness.wait_until(lambda: not store.client.keys("*:lock:*"), "no lock to be left", timeout=60)
    scoreboard.drain()
    runs = scoreboard.runs_of("live.note")
    assert {run["args"][0] for run in runs} == set(range(15))
    no_window_is_too_full(store, runs, 3, 1)
    # The key is free: the same again runs.
    before = len(runs)
    stack.produce(gates[0], "note.delay(3)")
    scoreboard.wait_runs(before + 1)


def test_while_running_and_limited_together(gate, stack, store, scoreboard):
    proxy = gate(rule(['times = 2\nper = "1s"'], task="gated", more='unique = "while_running"\n'))
    for _ in range(2):
        stack.worker(proxy, concurrency=4)
    stack.produce(proxy, "for name in 'aabb': gated.delay(name)")
    scoreboard.wait_runs(2)
    for name in "aabb":
        scoreboard.open_gate(name)
    runs = scoreboard.wait_runs(8, timeout=60)
    for name in "ab":
        assert [run["phase"] for run in runs if run["args"] == [name]] == ["begin", "end"] * 2
    no_window_is_too_full(store, runs, 2, 1)


def test_retries_of_celery_are_limited_too(gate, stack, scoreboard):
    proxy = gate(rule(['times = 1\nper = "2s"'], task="flaky"))
    stack.worker(proxy, concurrency=2)
    began = time.time()
    stack.produce(proxy, "flaky.delay(2)")
    runs = scoreboard.wait_runs(3, timeout=60)
    assert [run["retries"] for run in runs] == [0, 1, 2]
    assert all(run["at"] >= began + 2 * before for before, run in enumerate(runs))


def test_retries_that_do_not_count_run_at_once(gate, stack, scoreboard):
    proxy = gate(rule(['rate = "1/h"\ncount_retries = false'], task="flaky"))
    stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "flaky.delay(2)")
    runs = scoreboard.wait_runs(3)
    assert [run["retries"] for run in runs] == [0, 1, 2]


def test_each_key_has_its_own_limit(gate, stack, scoreboard):
    proxy = gate(rule(['rate = "1/h"\nkey = ["args[0]"]', 'times = 3\nper = "1h"']))
    stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "for name in 'aabbaccd': note.delay(name)")
    runs = scoreboard.wait_runs(3)
    assert sorted(run["args"][0] for run in runs) == ["a", "b", "c"]
    harness.wait_until(lambda: counted([proxy], "parked") >= 5, "the rest to be parked")


def test_a_task_with_an_eta_is_limited_at_its_eta(gate, stack, store, scoreboard):
    proxy = gate(rule(['times = 2\nper = "2s"']))
    stack.worker(proxy, concurrency=4)
    stack.produce(proxy, "for n in range(3): note.apply_async((n,), countdown=3)\nfor n in range(3, 5): note.delay(n)")
    runs = scoreboard.wait_runs(5, timeout=60)
    assert sorted(run["args"][0] for run in runs[:2]) == [3, 4], "those to come do not take the places of those that are due"
    no_window_is_too_full(store, runs, 2, 2)


def test_so_many_run_at_a_time(gate, stack, scoreboard):
    rules = rule(["concurrent = 2"], task="gated")
    gates = [gate(rules), gate(rules)]
    for proxy in gates:
        stack.worker(proxy, concurrency=4)
    stack.produce(gates[0], "for name in 'abcdef': gated.delay(name)")
    begun, ended = scoreboard.wait_runs(2), 0
    while ended < 6:
        open_now = [run["args"][0] for run in begun if run["phase"] == "begin"]
        ends = {run["args"][0] for run in begun if run["phase"] == "end"}
        running = [name for name in open_now if name not in ends]
        assert 1 <= len(running) <= 2, begun
        scoreboard.open_gate(running[0])
        ended += 1
        # Its end, and the beginning of the next one, if there is one.
        begun = scoreboard.wait_runs(2 * ended + min(2, 6 - ended), timeout=60)
    assert sorted(run["args"][0] for run in begun if run["phase"] == "end") == list("abcdef")


def test_what_waits_for_too_long_is_dropped_or_handed_over(gate, stack, scoreboard):
    proxy = gate(
        rule(['rate = "1/h"\nmax_wait = "2s"\non_max_wait = "drop"'], more='unique = "until_finished"\n')
        + rule(['rate = "1/h"\nmax_wait = "2s"\non_max_wait = "deliver"'], task="add").replace('"g"', '"d"')
    )
    stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "for n in range(3): note.delay(n)\nfor n in range(3): add.delay(n, n)")
    scoreboard.wait_runs(4)
    proxy.expect("oncegate_deliveries_total", 2, rule="g", decision="dropped")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    # What was dropped has freed its key.
    stack.produce(proxy, "note.delay(1)")
    proxy.expect("oncegate_deliveries_total", 3, rule="g", decision="dropped")
    assert proxy.publishes("dropped", rule="g") == 0
