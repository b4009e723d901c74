"""A rule with real Celery tasks: what runs, what is dropped, when a lock goes."""

import harness
import wire

RULE = """
[[rule]]
name = "add"
task = "live.add"
unique = "until_finished"
"""


def test_a_hundred_calls_with_ninety_duplicates_run_ten_times(oncegate, stack, store, scoreboard):
    gate = oncegate(RULE, store=store.url)
    stack.worker(gate, quick=False)
    stack.produce(gate, "for n in range(100): add.delay(n % 10, 1)\nfence.delay()")
    runs = scoreboard.wait_runs(11)
    assert [run["task"] for run in runs[-1:]] == ["live.fence"]
    assert sorted(run["args"][0] for run in runs[:-1]) == list(range(10))
    gate.expect_publishes(10, "forwarded", rule="add")
    gate.expect_publishes(90, "dropped", rule="add")


def test_the_same_with_the_embedded_store(oncegate, stack, scoreboard):
    gate = oncegate(RULE)
    stack.worker(gate)
    stack.produce(gate, "for n in range(100): add.delay(n % 10, 1)\nfence.delay()")
    runs = scoreboard.wait_runs(11)
    assert sorted(run["args"][0] for run in runs[:-1]) == list(range(10))
    gate.expect_publishes(90, "dropped", rule="add")
