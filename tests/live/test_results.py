"""The Redis result backend tells of workers that do not pass through the proxy."""

import harness
import pytest

RULE = """
[[rule]]
name = "g"
task = "live.{task}"
unique = "{unique}"
ttl = "1h"
"""


@pytest.fixture
def away(stack, broker):
    """Makes workers that connect straight to the broker, and tell nobody what they do but the result backend."""

    def make(results, **conf):
        quiet = ("--without-heartbeat",)
        bare = harness.Bare(broker.port)
        return stack.worker(bare, *quiet, result_url=results.url, conf={"worker_enable_remote_control": False, **conf})

    return make


def gate_of(oncegate, store, results, task, unique="until_finished", extra=""):
    return oncegate(
        RULE.format(task=task, unique=unique),
        store=store.url,
        extra=f"[results]\nurl = {harness.toml_string(results.url)}\n{extra}",
    )


def connected(gate):
    gate.expect("oncegate_circuit_open", 0, dependency="results")
    gate.expect_log("the result backend is connected")


def test_the_end_of_a_task_elsewhere_frees_its_lock(oncegate, stack, store, results, scoreboard, away):
    gate = gate_of(oncegate, store, results, "gated")
    connected(gate)
    away(results)
    stack.produce(gate, "gated.delay('one')", result_url=results.url)
    scoreboard.wait_runs(1)
    # It runs: the next call is a duplicate.
    stack.produce(gate, "gated.delay('one')", result_url=results.url)
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    harness.wait_until(lambda: not store.locks(), "the lock to go after the success")
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")
    stack.produce(gate, "gated.delay('one')", result_url=results.url)
    gate.expect_publishes(2, "forwarded", rule="g")
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(4)
    assert [run["phase"] for run in runs] == ["begin", "end", "begin", "end"]
    assert len({run["id"] for run in runs}) == 2


def test_a_failure_elsewhere_frees_too(oncegate, stack, store, results, scoreboard, away):
    gate = gate_of(oncegate, store, results, "gated_failure")
    connected(gate)
    away(results, task_track_started=True)
    stack.produce(gate, "gated_failure.delay('one')", result_url=results.url)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the lock to be running")
    stack.produce(gate, "gated_failure.delay('one')", result_url=results.url)
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    harness.wait_until(lambda: not store.locks(), "the lock to go after the failure")
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="failure")
    stack.produce(gate, "gated_failure.delay('one')", result_url=results.url)
    gate.expect_publishes(2, "forwarded", rule="g")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(4)) == 4


def test_a_retry_elsewhere_keeps_its_lock(oncegate, stack, store, results, scoreboard, away):
    gate = gate_of(oncegate, store, results, "gated_retry")
    connected(gate)
    away(results)
    stack.produce(gate, "gated_retry.delay('one')", result_url=results.url)
    scoreboard.wait_runs(1)
    scoreboard.open_gate("one")
    # The retry is published straight to the broker, and runs: never a duplicate of itself.
    runs = scoreboard.wait_runs(3)
    assert [run["phase"] for run in runs] == ["begin", "end", "retried"]
    harness.wait_until(lambda: not store.locks(), "the lock to go after the retry")
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")
    gate.expect_publishes(0, "dropped", rule="g")


def test_what_ended_while_no_proxy_listened_is_looked_up(oncegate, stack, store, results, scoreboard, away):
    gate = gate_of(oncegate, store, results, "add")
    connected(gate)
    stack.produce(gate, "add.delay(1, 2)", result_url=results.url)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["queued"], "the lock to be queued")
    gate.kill()
    away(results)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: results.client.keys("celery-task-meta-*"), "the result to be stored")
    assert len(store.locks()) == 1
    gate.start()
    harness.wait_until(lambda: not store.locks(), "the lock to go when its holder is looked up")


def test_a_backend_that_is_down_changes_nothing_else(oncegate, stack, store, results, scoreboard):
    gate = gate_of(oncegate, store, results, "add", unique="until_started")
    connected(gate)
    results.kill()
    gate.expect("oncegate_circuit_open", 1, dependency="results")
    assert gate.get("/readyz").status_code == 200
    stack.produce(gate, "add.delay(1, 2); add.delay(1, 2)")
    gate.expect_publishes(1, "dropped", rule="g")
    stack.worker(gate)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the lock to go when the task starts")


def test_the_key_prefix_of_the_application(oncegate, stack, store, results, scoreboard, away):
    gate = gate_of(oncegate, store, results, "add", extra='key_prefix = "shop"')
    connected(gate)
    away(results, result_backend_transport_options={"global_keyprefix": "shop"})
    stack.produce(gate, "add.delay(1, 2)", result_url=results.url)
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the lock to go after the success")
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="success")


def test_a_backend_with_tls(oncegate, stack, store, scoreboard, workspace, certificates, away):
    port = harness.free_port()
    server = harness.Redis(
        workspace, "--tls-port", port, "--tls-cert-file", certificates.cert, "--tls-key-file", certificates.key,
        "--tls-ca-cert-file", certificates.ca, "--tls-auth-clients", "no",
    )
    try:
        server.start()
        gate = oncegate(
            RULE.format(task="add", unique="until_finished"),
            store=store.url,
            extra=f'[results]\nurl = "rediss://127.0.0.1:{port}/0"',
            env={"SSL_CERT_FILE": str(certificates.ca)},
        )
        connected(gate)
        away(server)
        stack.produce(gate, "add.delay(1, 2)")
        scoreboard.wait_runs(1)
        harness.wait_until(lambda: not store.locks(), "the lock to go after the success")
    finally:
        server.stop()
