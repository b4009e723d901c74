"""The kill switch: modes that an operator sets above those of the configuration, on all proxies, each with its end."""

import json
import signal
import time

import harness
import pytest
import wire

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy that decides")

RULES = """
[[rule]]
name = "note"
task = "live.note"
unique = "until_finished"

[[rule]]
name = "other"
task = "live.other"
unique = "until_finished"
"""


class Producer:
    """Publishes the same call again and again, each with an id of its own."""

    def __init__(self, raw, gate, vhost):
        self.client = raw(gate.port, vhost=vhost)
        self.client.open_channel()
        self.client.declare("q")

    def publish(self, task="note", count=1):
        for _ in range(count):
            _, properties, payload = wire.task_message(f"live.{task}", args=["x"])
            self.client.publish(1, "", "q", payload, properties)


def in_force(gate, mode, rule="*"):
    gate.expect("oncegate_mode_override", 1, rule=rule, mode=mode)


def nothing_in_force(gate):
    harness.wait_until(lambda: "oncegate_mode_override{" not in gate.get("/metrics").text, "nothing to be set")


def test_off_holds_on_all_proxies_until_it_is_reset(oncegate, raw, vhost, store):
    one, other = oncegate(RULES, store=store.url), oncegate(RULES, store=store.url)
    producers = [Producer(raw, gate, vhost) for gate in (one, other)]
    producers[0].publish(count=2)
    one.expect_publishes(1, "dropped", rule="note")
    begun = time.monotonic()
    done = one.run_cli("mode", "off", "--for", "30m", "--reason", "it drops what it should not")
    assert done.returncode == 0 and "all rules off until" in done.stdout, done
    for gate in (one, other):
        in_force(gate, "off")
    took = time.monotonic() - begun
    # Connections that stand follow, and forward what they would have dropped.
    for gate, producer in zip((one, other), producers):
        unmatched = gate.publishes("unmatched")
        producer.publish(count=3)
        gate.expect("oncegate_publishes_total", unmatched + 3, decision="unmatched")
    assert one.publishes("dropped") + other.publishes("dropped") == 1, took
    for gate in (one, other):
        assert "it drops what it should not" in gate.run_cli("mode", "show").stdout
        assert "it drops what it should not" in gate.run_cli("status").stdout
        shown = gate.get("/api/v1/rules").json()["rules"]
        assert {(rule["mode"], rule["configured_mode"]) for rule in shown} == {("off", "enforce")}, shown
    assert "a mode is set above that of the configuration" in other.log()
    # One that starts meanwhile is off from its first message on.
    third = oncegate(RULES, store=store.url)
    in_force(third, "off")
    Producer(raw, third, vhost).publish()
    third.expect("oncegate_publishes_total", 1, decision="unmatched")
    done = other.run_cli("mode", "reset")
    assert done.returncode == 0 and "reset: all rules off" in done.stdout, done
    for gate in (one, other, third):
        nothing_in_force(gate)
    producers[1].publish()
    other.expect_publishes(1, "dropped", rule="note")
    assert other.run_cli("mode", "reset").stdout == "nothing was set\n"


def test_one_rule_observes_and_the_others_go_on(oncegate, raw, vhost, store):
    gate = oncegate(RULES, store=store.url)
    producer = Producer(raw, gate, vhost)
    assert gate.run_cli("mode", "observe", "--rule", "note").returncode == 0
    assert gate.run_cli("mode", "observe", "--rule", "nobody").returncode == 1
    in_force(gate, "observe", rule="note")
    for task in ("note", "other"):
        producer.publish(task, 2)
    gate.expect_publishes(1, "dropped", rule="other", mode="enforce")
    gate.expect_publishes(1, "dropped", rule="note", mode="observe")
    harness.wait_until(lambda: producer.client.count("q") == 3, "all of the observed ones and one of the others to be there")


def test_a_mode_ends_by_itself(oncegate, raw, vhost, store):
    gate = oncegate(RULES, store=store.url)
    set_now = gate.http.put(gate.admin_url + "/api/v1/mode", json={"mode": "off", "expires_in": 2}, timeout=30)
    assert set_now.status_code == 200 and set_now.json()["expires_in"] == 2, set_now.text
    in_force(gate, "off")
    [key] = store.client.keys("oncegate:mode:*")
    assert 0 < store.client.pttl(key) <= 2_000
    nothing_in_force(gate)
    assert "the mode is that of the configuration again" in gate.log()
    Producer(raw, gate, vhost).publish(count=2)
    gate.expect_publishes(1, "dropped", rule="note")


def test_what_is_set_outlives_a_store_that_goes_away_but_not_its_end(oncegate, raw, vhost, store):
    gate = oncegate(RULES, store=store.url)
    assert gate.run_cli("mode", "off", "--for", "6s").returncode == 0
    in_force(gate, "off")
    store.freeze()
    try:
        Producer(raw, gate, vhost).publish(count=2)
        gate.expect("oncegate_publishes_total", 2, decision="unmatched")
        in_force(gate, "off")
        nothing_in_force(gate)
    finally:
        store.thaw()


def test_a_signal_has_every_rule_off_on_one_proxy_until_the_next_hangup(oncegate, raw, vhost, store):
    one, other = oncegate(RULES, store=store.url), oncegate(RULES, store=store.url)
    producers = [Producer(raw, gate, vhost) for gate in (one, other)]
    one.process.send(signal.SIGUSR1)
    in_force(one, "off")
    producers[0].publish(count=2)
    one.expect("oncegate_publishes_total", 2, decision="unmatched")
    assert "off on this proxy" in one.run_cli("mode", "show").stdout and "off on this proxy" in one.run_cli("status").stdout
    producers[1].publish(count=2)
    other.expect_publishes(1, "dropped", rule="note")
    # A reload that is not a hangup changes nothing of it.
    assert one.run_cli("reload").returncode == 0
    in_force(one, "off")
    one.reload()
    nothing_in_force(one)
    producers[0].publish()
    one.expect_publishes(1, "dropped", rule="note")


def test_the_environment_has_every_rule_off_from_the_start(oncegate, raw, vhost):
    gate = oncegate(RULES, env={"ONCEGATE_MODE": "off"})
    in_force(gate, "off")
    Producer(raw, gate, vhost).publish(count=2)
    gate.expect("oncegate_publishes_total", 2, decision="unmatched")
    gate.reload()
    nothing_in_force(gate)
    wrong = oncegate(RULES, env={"ONCEGATE_MODE": "on"}, start=False)
    wrong.start(wait=False)
    assert wrong.process.wait() == 78 and "ONCEGATE_MODE" in wrong.log(), wrong.log()


def test_a_memory_store_has_modes_of_its_own(oncegate):
    gate = oncegate(RULES)
    done = gate.run_cli("mode", "enforce", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["scope"] == "instance", done
    in_force(gate, "enforce")
