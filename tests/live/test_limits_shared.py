"""Limits over two proxies and two workers: what they allow is used, order is kept, and what a worker takes with it is freed."""

import json

import harness
import limiting
import pytest
import wire

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to limit anything")

CLASSIC = {}
QUORUM = {"task_default_queue_type": "quorum"}
KINDS = pytest.mark.parametrize("conf", [CLASSIC, QUORUM], ids=["classic", "quorum"])


def rule(limit, task="note", more=""):
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\norphan_grace = "2s"\nhold_max = "1s"\n{more}\n[[rule.limit]]\n{limit}\n'


@pytest.fixture
def gate(oncegate, broker, vhost, store):
    """Makes a proxy with an account of its own; returns once that is connected."""

    def make(rules):
        made = oncegate(rules, store=store.url, extra=harness.account(broker.port, vhost))
        made.expect("oncegate_control_up", 1, vhost=vhost)
        return made

    return make


@pytest.fixture
def pair(gate, stack):
    """Makes two proxies, each with a worker."""

    def make(rules, conf=CLASSIC, concurrency=4):
        gates = [gate(rules), gate(rules)]
        for proxy in gates:
            stack.worker(proxy, concurrency=concurrency, conf=conf)
        return gates

    return make


def counted(gates, decision):
    return sum(gate.count("oncegate_deliveries_total", rule="g", decision=decision) for gate in gates)


@KINDS
def test_what_a_limit_allows_is_used(pair, stack, store, scoreboard, conf):
    times, per, count = 50, 4, 250
    gates = pair(rule(f'times = {times}\nper = "{per}s"'), conf)
    stack.produce(gates[0], f"for n in range({count}): note.delay(n)", conf=conf)
    handed = limiting.HandedOver(store)
    harness.wait_until(lambda: len(handed.look().at) == count, lambda: f"{len(handed.at)} of {count} to be handed over", timeout=90)
    runs = scoreboard.wait_runs(count)
    assert sorted(run["args"][0] for run in runs) == list(range(count))
    handed.keep_to(times, per)
    at = sorted(handed.at.values())
    assert at[-1] - at[0] <= 1000 * count / times * per / 0.95, f"{at[-1] - at[0]} ms"
    assert counted(gates, "parked") > 0


# Spaced, so that each has a time of its own: of those that are permitted at once any may be first.
SPACED = 'times = 3\nper = "1s"\nburst = 1\nkey = ["args[0]"]'
KEYED = 'for n in range(45): note.delay("abc"[n % 3], n)'


def of_key(handed, runs, key):
    """The numbers of a key by the times of their hand-overs, with those of the same time in their own order."""
    return [number for _, number in sorted((handed[run["id"]], run["args"][1]) for run in runs if run["args"][0] == key)]


@KINDS
def test_order_within_a_key_is_kept(gate, stack, store, scoreboard, conf):
    proxy = gate(rule(SPACED))
    stack.worker(proxy, concurrency=4, conf=conf)
    stack.produce(proxy, KEYED, conf=conf)
    runs = scoreboard.wait_runs(45)
    handed = {run["id"]: int(limiting.slot_of(store, run["id"])["at"]) for run in runs}
    for index, key in enumerate("abc"):
        numbers = of_key(handed, runs, key)
        assert numbers == list(range(index, 45, 3)), key
        assert not limiting.full_windows([handed[run["id"]] for run in runs if run["args"][0] == key], 3, 1)


def test_order_within_a_key_is_that_of_coming_wherever_they_wait(pair, stack, store, scoreboard):
    gates = pair(rule(SPACED))
    stack.produce(gates[0], KEYED)
    runs = scoreboard.wait_runs(45)
    slots = {run["id"]: limiting.slot_of(store, run["id"]) for run in runs}
    for key in "abc":
        of = [slots[run["id"]] for run in runs if run["args"][0] == key]
        # What came first has the lower place, at whichever proxy.
        of.sort(key=lambda slot: (int(slot["at"]), slot["place"]))
        assert [slot["place"] for slot in of] == sorted(slot["place"] for slot in of), (key, of)


def test_what_waits_for_too_long_is_dead_lettered(gate, stack, scoreboard, raw):
    more = 'unique = "until_finished"\ndead_letter = { routing_key = "late" }'
    proxy = gate(rule('rate = "1/h"\nmax_wait = "2s"\non_max_wait = "dead_letter"', more=more))
    client = raw()
    client.open_channel()
    client.declare("late", durable=True)
    stack.worker(proxy, concurrency=2)
    ids = stack.calls(proxy, "for n in range(4): call(note, n)")
    [run] = scoreboard.wait_runs(1)
    proxy.expect("oncegate_deliveries_total", 3, rule="g", decision="dead_lettered")
    letters = {}
    for _ in range(3):
        client.call(wire.Basic.Get(queue="late", no_ack=True), wire.Basic.GetOk)
        head, body = client.content(1)
        headers = head.properties.headers
        letters[headers["id"]] = (headers["x-oncegate-reason"], headers["x-oncegate-queue"], json.loads(body)[0])
    assert client.count("late") == 0
    wanted = {task_id: ("max_wait", stack.queue, [n]) for n, task_id in enumerate(ids) if task_id != run["id"]}
    assert letters == wanted
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    # Their keys are free: the same call is no duplicate.
    number = next(n for n, task_id in enumerate(ids) if task_id != run["id"])
    stack.produce(proxy, f"note.delay({number})")
    proxy.expect("oncegate_deliveries_total", 4, rule="g", decision="dead_lettered")
    assert proxy.publishes("dropped", rule="g") == 0


@pytest.mark.parametrize("task", ["gated", "late"])
def test_a_killed_worker_frees_what_it_had_of_a_limit_of_runs(gate, stack, broker, vhost, scoreboard, task):
    rules = rule("concurrent = 2", task=task).replace('"1s"', '"5m"')
    gates = [gate(rules), gate(rules)]
    victim = stack.worker(gates[0], concurrency=2)
    stack.produce(gates[1], f"for name in 'ab': {task}.delay(name)")
    first = scoreboard.wait_runs(2)
    if task == "gated":
        harness.wait_until(lambda: broker.settled(vhost, stack.queue), "the acks to arrive")
    stack.worker(gates[1], concurrency=4)
    stack.produce(gates[1], f"for name in 'cd': {task}.delay(name)")
    held = lambda: sum(proxy.count("oncegate_held_messages") for proxy in gates)  # noqa: E731
    harness.wait_until(lambda: held() == 2, lambda: f"two to be held: {[proxy.counted() for proxy in gates]}")
    assert scoreboard.drain() == first
    victim.kill()
    # What had been acknowledged is gone with the worker, the rest is delivered anew; and no more than two run at a time.
    left, ended = sorted("cd" if task == "gated" else "abcd"), []
    while len(ended) < len(left):
        runs = scoreboard.wait_runs(2 + 2 * len(ended) + min(2, len(left) - len(ended)), timeout=2 * harness.DEADLINE)[2:]
        ended = [run["args"][0] for run in runs if run["phase"] == "end"]
        running = [run["args"][0] for run in runs if run["phase"] == "begin" and run["args"][0] not in ended]
        assert 1 <= len(running) <= 2, runs
        scoreboard.open_gate(running[0])
        scoreboard.wait_runs(2 + len(runs) + 1)
        ended.append(running[0])
    assert sorted(ended) == left
