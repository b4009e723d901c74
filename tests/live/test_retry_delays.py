"""Retries that come after the delays of their rule: what the worker is given says so, and its own ETA is replaced."""

import datetime

import harness
import pytest

DELAYS = ["1s", "2s", "3s"]


def rule(task, **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[rule]]\nname = "d"\ntask = "live.{task}"\nretry_delays = {DELAYS}\n{lines}'.replace("'", '"')


def delays(runs):
    """How long after the run before it each retry was due, in whole seconds: a retry is published as its run ends."""
    etas = [datetime.datetime.fromisoformat(run["eta"]).timestamp() for run in runs[1:]]
    return [int(eta - before["at"]) for before, eta in zip(runs, etas)]


def retried(scoreboard, count):
    runs = scoreboard.wait_runs(count)
    assert [run["retries"] for run in runs] == list(range(count))
    assert len({run["id"] for run in runs}) == 1 and runs[0]["eta"] is None
    return runs


@pytest.mark.parametrize("keys", [{}, {"unique": '"until_finished"'}], ids=["alone", "with a lock"])
def test_each_retry_is_due_after_its_delay_and_each_later_one_after_the_last(oncegate, stack, scoreboard, keys):
    gate = oncegate(rule("retrying", **keys))
    worker = stack.worker(gate)
    stack.produce(gate, "retrying.delay(4)")
    runs = retried(scoreboard, 5)
    assert delays(runs) == [1, 2, 3, 3]
    assert all(run["at"] >= datetime.datetime.fromisoformat(run["eta"]).timestamp() for run in runs[1:])
    harness.wait_until(lambda: "succeeded" in worker.log(), "the task to end")
    assert gate.publishes(rule="d") == 5


def test_a_member_of_a_group_too(oncegate, stack, scoreboard, results):
    gate = oncegate(rule("retrying", unique='"until_finished"'))
    stack.worker(gate, result_url=results.url)
    stack.produce(gate, "assert group(retrying.s(1))().get(timeout=60) == [1]", result_url=results.url)
    assert delays(retried(scoreboard, 2)) == [1]
    gate.expect_publishes(2, "bypassed", rule="d")


def test_an_observing_rule_leaves_them_alone(oncegate, stack, scoreboard):
    gate = oncegate('[[rule]]\nname = "d"\ntask = "live.flaky"\nretry_delays = ["1h"]\nmode = "observe"\n')
    stack.worker(gate)
    stack.produce(gate, "flaky.delay(1)")
    assert [run["retries"] for run in scoreboard.wait_runs(2)] == [0, 1]
    assert gate.publishes(rule="d", mode="observe") == 2


def test_a_message_of_protocol_1_keeps_its_own_and_that_is_told_once(oncegate, stack, scoreboard):
    gate = oncegate(rule("flaky"))
    stack.worker(gate, conf={"task_protocol": 1})
    stack.produce(gate, "flaky.delay(2)", conf={"task_protocol": 1})
    assert [run["retries"] for run in scoreboard.wait_runs(3)] == [0, 1, 2]
    harness.wait_until(lambda: "keeps its own due time" in gate.log(), "the log to tell")
    assert gate.log().count("keeps its own due time") == 1 and "protocol 1" in gate.log()
