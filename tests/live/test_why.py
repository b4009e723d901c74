"""`oncegate why`: what was decided about a task, asked for by its id, at any proxy of the fleet."""

import json

import harness
import pytest
import wire

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy that decides")

RULE = """
[[rule]]
name = "note"
task = "live.note"
unique = "until_started"
"""


def publish(raw, gate, vhost, *ids, queue="q", argument="x"):
    client = raw(gate.port, vhost=vhost)
    client.open_channel()
    client.declare(queue)
    for task_id in ids:
        _, properties, payload = wire.task_message("live.note", args=[argument], task_id=task_id)
        client.publish(1, "", queue, payload, properties)
    client.close()


def why(gate, task_id):
    """What `GET /api/v1/tasks/{id}` says, once it knows of a decision."""

    def known():
        answer = gate.get(f"/api/v1/tasks/{task_id}")
        return answer.status_code == 200 and answer.json()["decisions"]

    harness.wait_until(known, lambda: f"{task_id} to be on record: {gate.get(f'/api/v1/tasks/{task_id}').text}")
    return gate.get(f"/api/v1/tasks/{task_id}").json()


def test_any_proxy_tells_why_a_task_was_dropped_and_who_holds_its_key(oncegate, raw, vhost, store):
    one, other = oncegate(RULE, store=store.url), oncegate(RULE, store=store.url)
    publish(raw, one, vhost, "first", "second")
    answer = why(other, "second")
    assert answer["scope"] == "fleet"
    [decision] = answer["decisions"]
    wanted = {"event": "publish", "decision": "dropped", "rule": "note", "holder": "first", "task": "live.note", "vhost": vhost}
    assert wanted.items() <= decision.items(), decision
    assert decision["instance"] != answer["instance"]
    done = other.run_cli("why", "second")
    assert done.returncode == 0 and " dropped " in done.stdout and "holder=first" in done.stdout, done
    done = other.run_cli("why", "first", "--json")
    held = json.loads(done.stdout)
    assert done.returncode == 0 and held["locks"][0]["holder"] == "first" and held["locks"][0]["state"] == "queued", held
    done = other.run_cli("why", "first")
    assert done.returncode == 0 and "holds " in done.stdout and "rule=note" in done.stdout, done
    done = one.run_cli("why", "nobody")
    assert done.returncode == 1 and "nothing is on record" in done.stderr, done
    # All of it goes by itself.
    for key in store.client.scan_iter("oncegate:decided:*"):
        assert 0 < store.client.pttl(key) <= 24 * 3_600_000, key


def test_what_was_decided_last_is_on_record_after_the_end(oncegate, raw, vhost, store):
    proxy = oncegate(RULE, store=store.url, proxy='drain_delay = "0s"')
    publish(raw, proxy, vhost, "a", *(f"b{number}" for number in range(50)))
    proxy.expect_publishes(50, "dropped", rule="note")
    proxy.terminate()
    assert proxy.process.wait() == 0
    other = oncegate(RULE, store=store.url)
    for number in range(50):
        assert other.get(f"/api/v1/tasks/b{number}").json()["decisions"][0]["holder"] == "a", number


def test_a_memory_store_knows_too_and_a_reload_changes_what_is_kept(oncegate, raw, vhost):
    proxy = oncegate(RULE)
    publish(raw, proxy, vhost, "a", "b")
    assert why(proxy, "b")["decisions"][0]["holder"] == "a"
    proxy.expect("oncegate_decisions_recorded_total", 1)
    proxy.config.write_text(proxy.config.read_text() + "[decisions]\nmax = 0\n")
    proxy.expect("oncegate_config_reloads_total", 1, result="success")
    publish(raw, proxy, vhost, "c")
    proxy.expect_publishes(2, "dropped", rule="note")
    # What was decided last a proxy shows as long as it remembers.
    assert why(proxy, "c")["decisions"][0]["holder"] == "a"
    assert proxy.count("oncegate_decisions_recorded_total") == 1


def test_records_go_after_their_time(oncegate, raw, vhost, store):
    short = '[decisions]\nkeep = "1s"\n'
    one, other = oncegate(RULE, store=store.url, extra=short), oncegate(RULE, store=store.url, extra=short)
    publish(raw, one, vhost, "a", "b")
    why(other, "b")
    harness.wait_until(lambda: other.get("/api/v1/tasks/b").status_code == 404, "the record to go")
    assert other.run_cli("why", "b").returncode == 1


def test_a_store_that_is_slow_delays_no_message(oncegate, raw, vhost, store):
    """What cannot be written down is left out and counted; what this proxy has decided just now it tells by itself."""
    proxy = oncegate(RULE, store=store.url)
    publish(raw, proxy, vhost, "a", "b")
    proxy.expect("oncegate_decisions_recorded_total", 1)
    store.freeze()
    try:
        harness.wait_until(lambda: proxy.get("/api/v1/status").json()["store"]["circuit"] == "closed", "the store to be believed")
        publish(raw, proxy, vhost, "c")
        answer = proxy.get("/api/v1/tasks/b").json()
        assert answer["decisions"][0]["holder"] == "a", answer
        assert proxy.get("/api/v1/tasks/nobody").status_code == 503
        proxy.expect("oncegate_decisions_unrecorded_total", 1, reason="store")
    finally:
        store.thaw()
    harness.wait_until(lambda: proxy.get("/api/v1/status").json()["store"]["circuit"] == "closed", "the store to be believed")
    publish(raw, proxy, vhost, "d")
    proxy.expect("oncegate_decisions_recorded_total", 2)
    other = oncegate(RULE, store=store.url)
    assert why(other, "d")["decisions"]


def test_a_delivery_that_waits_says_for_whom(oncegate, stack, scoreboard, store):
    rule = '[[rule]]\nname = "one"\ntask = "live.gated"\nunique = "while_running"\nhold_max = "30s"\n'
    proxy = oncegate(rule, store=store.url)
    stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "gated.delay('one'); gated.delay('one')")
    [run] = scoreboard.wait_runs(1)

    def held():
        made = proxy.get("/api/v1/decisions").json()["decisions"]
        return next((one for one in made if one["decision"] == "held"), None)

    harness.wait_until(held, "one to be held")
    answer = why(proxy, held()["id"])
    assert answer["decisions"][0]["decision"] == "held" and answer["decisions"][0]["holder"] == run["id"], answer
    locks = proxy.get(f"/api/v1/tasks/{run['id']}").json()["locks"]
    assert [(lock["holder"], lock["state"], lock["unique"]) for lock in locks] == [(run["id"], "running", "while_running")], locks
    scoreboard.open_gate("one", 2)
    scoreboard.wait_runs(4)
