"""Running locks: of two tasks of one key one waits, held at the proxy, and what comes behind it goes on."""


import harness
import pytest

RULES = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "while_running"\norphan_grace = "2s"\n'
LATE = RULES.replace("live.gated", "live.late").replace("while_running", "while_running") + "acks_late = true\n"

CLASSIC = {}
QUORUM = {"task_default_queue_type": "quorum"}


def held(gate, wanted):
    harness.wait_until(lambda: gate.count("oncegate_held_messages") == wanted, f"{wanted} to be held")


def decided(gate, wanted, decision):
    gate.expect("oncegate_deliveries_total", wanted, rule="g", decision=decision)


def phases(runs, task="live.gated"):
    return [run["phase"] for run in runs if run["task"] == task]


@pytest.mark.parametrize("conf", [CLASSIC, QUORUM], ids=["classic", "quorum"])
def test_the_second_waits_until_the_first_has_ended_and_others_go_on(oncegate, stack, store, scoreboard, conf):
    gate = oncegate(RULES, store=store.url)
    for _ in range(2):
        stack.worker(gate, concurrency=2, conf=conf)
    stack.produce(gate, "gated.delay('one')", conf=conf)
    scoreboard.wait_runs(1)
    stack.produce(gate, "for _ in range(20): gated.delay('one')", conf=conf)
    held(gate, 20)
    assert gate.count("oncegate_held_oldest_seconds") > 0
    # Two workers have windows of eight places, more than which are held.
    stack.produce(gate, "for n in range(50): plain.delay(n)", conf=conf)
    runs = scoreboard.wait_runs(51)
    assert phases(runs) == ["begin"]
    for done in range(21):
        scoreboard.open_gate("one")
        runs = scoreboard.wait_runs(51 + 1 + 2 * done + (done < 20))
    assert phases(runs) == ["begin", "end"] * 21
    held(gate, 0)
    decided(gate, 20, "held")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    assert gate.count("oncegate_deliveries_total", rule="g", decision="forwarded_unchecked") == 0
