"""The admin listener and the commands, against a running proxy."""

import json

import harness
import pytest
import requests
import wire

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to ask")

RULES = """
[[rule]]
name = "watched"
task = "watched.*"
unique = "until_expired"
ttl = "10m"
params = "customer_id, region='eu'"
key = ["customer_id", "region"]
"""


@pytest.fixture(params=["redis", "memory"])
def gate(oncegate, store, request):
    return oncegate(RULES, store=store.url if request.param == "redis" else "memory:")


@pytest.fixture
def held(gate, raw):
    """A lock that is held: (client, task id)."""
    client = raw(gate.port)
    client.open_channel()
    client.declare("admin")
    task_id, properties, payload = wire.task_message("watched.task", (42,))
    client.publish(1, "", "admin", payload, properties)
    harness.wait_until(lambda: [lock for lock in locks(gate) if lock["state"] == "queued"], "the lock to be whole")
    return client, task_id


def locks(gate, **query):
    answer = gate.get("/api/v1/locks", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["locks"]


def delete(gate, path):
    # Every request that changes something has to say that it is JSON: a form in a page cannot.
    return gate.http.delete(gate.admin_url + path, headers={"Content-Type": "application/json"}, timeout=harness.DEADLINE)


def test_watch_shows_each_decision_as_it_is_made(gate, raw):
    """The command prints what the proxy decides; what is asked for later is the last of it."""
    seen = harness.Process("watch", [harness.BINARY, "watch", "--json", "--admin", gate.admin_url], gate.directory)
    try:
        client = raw(gate.port)
        client.open_channel()
        client.declare("watch")
        first, properties, payload = wire.task_message("watched.task", (7,))

        def is_watched():
            # Until the command is there nobody is told that this message passes.
            client.publish(1, "", "watch", payload, properties)
            return seen.output()

        harness.wait_until(is_watched, lambda: f"the command to show something: {seen.output()}")
        second, properties, payload = wire.task_message("watched.task", (7,))
        client.publish(1, "", "watch", payload, properties)
        harness.wait_until(lambda: second in seen.output(), lambda: f"the duplicate to be shown: {seen.output()}")
        shown = [json.loads(line) for line in seen.output().splitlines()]
        [dropped] = [made for made in shown if made["id"] == second]
        assert (dropped["decision"], dropped["holder"], dropped["rule"]) == ("dropped", first, "watched")
        assert {made["decision"] for made in shown if made["id"] == first} <= {"forwarded", "reentry"}
        [last] = gate.get("/api/v1/decisions", params={"limit": 1}).json()["decisions"]
        assert (last["id"], last["holder"]) == (second, first)
    finally:
        seen.stop()


def test_probes_and_metrics(gate):
    assert gate.get("/livez").status_code == 200
    assert gate.get("/healthz").status_code == 200
    ready = gate.get("/readyz")
    assert ready.status_code == 200 and ready.json()["status"] == "ok", ready.text
    names = {name for name, _, _ in gate.metrics()}
    for name in (
        "oncegate_connections",
        "oncegate_connections_limit",
        "oncegate_store_up",
        "oncegate_build_info",
        "oncegate_config_info",
        "oncegate_config_last_reload_successful",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ):
        assert name in names, f"{name} is not among {sorted(names)}"


def test_connections_are_counted(gate, raw):
    clients = [raw(gate.port) for _ in range(3)]
    gate.expect("oncegate_connections", 3)
    clients[0].open_channel()
    clients[0].open_channel(2)
    gate.expect("oncegate_channels", 2)
    for client in clients:
        client.close()
    gate.expect("oncegate_connections", 0)
    gate.expect("oncegate_channels", 0)


def test_locks_over_http(gate, held):
    client, task_id = held
    found = locks(gate)
    assert len(found) == 1
    lock = found[0]
    assert lock["holder"] == task_id and lock["rule"] == "watched" and lock["task"] == "watched.task"
    assert [one["digest"] for one in locks(gate, rule="watched")] == [lock["digest"]] and locks(gate, rule="other") == []
    assert len(lock["digest"]) == 64
    one = gate.get(f"/api/v1/locks/{lock['digest']}")
    assert one.status_code == 200 and task_id in one.text
    assert gate.get("/api/v1/locks/" + "0" * 64).status_code == 404
    assert delete(gate, f"/api/v1/locks/{lock['digest']}").status_code == 200
    assert locks(gate) == []
    # The key is free for another id.
    _, properties, payload = wire.task_message("watched.task", (42,))
    client.publish(1, "", "admin", payload, properties)
    harness.wait_until(lambda: client.count("admin") == 2, "the second call")
    gate.expect("oncegate_locks_released_total", 1, rule="watched", reason="admin")


def test_delete_without_a_filter_is_refused(gate, held):
    answer = delete(gate, "/api/v1/locks")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "filter_required"
    assert len(locks(gate)) == 1


def test_lookup(gate, held, vhost):
    _, task_id = held
    body = {"task": "watched.task", "args": [42], "kwargs": {}, "vhost": vhost}
    answer = gate.post("/api/v1/lookup", body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["locked"] is True and found["holder"] == task_id and found["rule"] == "watched"
    assert 0 < found["expires_in"] <= 600
    assert found["digest"] == locks(gate)[0]["digest"]
    named = gate.post("/api/v1/lookup", {**body, "args": [], "kwargs": {"customer_id": 42, "region": "eu"}}).json()
    assert named["digest"] == found["digest"]
    free = gate.post("/api/v1/lookup", {**body, "args": [43]}).json()
    assert free["locked"] is False
    none = gate.post("/api/v1/lookup", {**body, "task": "unknown"})
    assert none.status_code == 404 and none.json()["error"]["code"] == "no_rule"


def test_explain_over_http(gate, vhost):
    answer = gate.post("/api/v1/explain", {"task": "watched.task", "args": [42], "vhost": vhost})
    assert answer.status_code == 200, answer.text
    assert "watched" in answer.text


def test_errors_are_json(gate):
    answer = gate.get("/api/v1/no-such-thing")
    assert answer.status_code == 404 and answer.json()["error"]["code"]
    answer = gate.http.post(gate.admin_url + "/api/v1/lookup", data="{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_foreign_pages_are_refused(gate):
    """A page in a browser on this machine must not be able to use the admin listener."""
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = requests.get(gate.admin_url + "/api/v1/locks", headers=headers, timeout=30)
        assert answer.status_code in (400, 403, 421), (headers, answer.status_code)
    answer = requests.post(
        gate.admin_url + "/api/v1/lookup", data="{}", headers={"Content-Type": "text/plain"}, timeout=30
    )
    assert answer.status_code in (400, 403, 415)


def test_locks_commands(gate, held):
    _, task_id = held
    digest = locks(gate)[0]["digest"]
    listed = gate.run_cli("locks", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert task_id in listed.stdout and json.loads(listed.stdout)
    assert digest[:8] in gate.run_cli("locks", "list").stdout
    shown = gate.run_cli("locks", "show", digest)
    assert shown.returncode == 0 and task_id in shown.stdout
    assert gate.run_cli("locks", "show", "0" * 64).returncode == 1
    released = gate.run_cli("locks", "release", digest)
    assert released.returncode == 0, released.stderr
    assert locks(gate) == []
    assert gate.run_cli("locks", "release", digest).returncode == 1


def test_locks_command_straight_to_the_store(oncegate, store, raw):
    gate = oncegate(RULES, store=store.url)
    client = raw(gate.port)
    client.open_channel()
    client.declare("straight")
    task_id, properties, payload = wire.task_message("watched.task", (1,))
    client.publish(1, "", "straight", payload, properties)
    # Whole, so that it outlives the proxy.
    store.wait_locks(1, "queued")
    gate.kill()
    listed = harness.run_cli("locks", "list", "--store", store.url)
    assert listed.returncode == 0 and store.locks()[0]["digest"][:8] in listed.stdout, listed.stderr
    assert harness.run_cli("locks", "release", store.locks()[0]["digest"], "--store", store.url).returncode == 0
    assert store.locks() == []


def test_commands_without_a_proxy_exit_with_69():
    port = harness.free_port()
    done = harness.run_cli("locks", "list", env={"ONCEGATE_ADMIN_URL": f"http://127.0.0.1:{port}"})
    assert done.returncode == 69, done.stderr


def test_check(gate, tmp_path):
    assert gate.run_cli("check", gate.config).returncode == 0
    wrong = tmp_path / "rules.toml"
    wrong.write_text(gate.config.read_text() + '[[rule]]\ntask = "x"\nunique = "until_started"\nkeys = ["a"]\n')
    done = gate.run_cli("check", wrong)
    assert done.returncode == 78
    line = wrong.read_text().splitlines().index('keys = ["a"]') + 1
    assert f"rules.toml:{line}:1" in done.stderr + done.stdout and "keys" in done.stderr + done.stdout


def test_a_constant_key_is_refused_with_the_remedy(gate, tmp_path):
    wrong = tmp_path / "rules.toml"
    wrong.write_text('[[rule]]\ntask = "x"\nunique = "until_started"\nkey = "customer_id"\n')
    done = gate.run_cli("check", wrong)
    said = done.stderr + done.stdout
    assert done.returncode == 78
    assert "rules.toml:4:" in said and 'key = "customer_id" is a constant' in said, said


@pytest.mark.parametrize("text", ["nonsense = 1\n", "[proxy]\nlisten = 7\n", '[[rule]]\ntask = "a"\nttl = "soon"\n', "["])
def test_a_wrong_config_stops_the_start(tmp_path, text):
    config = tmp_path / "oncegate.toml"
    config.write_text(text)
    done = harness.run_cli("run", "--config", config)
    assert done.returncode == 78, done.stderr
    assert "oncegate.toml:" in done.stderr + done.stdout


def test_a_default_config_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "oncegate.toml").symlink_to("/nonexistent/oncegate.toml")
    done = harness.run_cli("check", cwd=tmp_path)
    assert done.returncode == 78 and "oncegate.toml: there is no such file" in done.stderr, done.stderr


def test_an_address_in_use_exits_with_69(gate, tmp_path):
    config = tmp_path / "oncegate.toml"
    config.write_text(
        f'[proxy]\nlisten = ["127.0.0.1:{gate.port}"]\n[admin]\nlisten = "127.0.0.1:{harness.free_port()}"\n'
    )
    assert harness.run_cli("run", "--config", config).returncode == 69


def test_wrong_usage_exits_with_64():
    assert harness.run_cli("no-such-command").returncode == 64


def test_explain_command(gate):
    done = gate.run_cli("explain", "--task", "watched.task", "--args", "[42]", "--config", gate.config)
    assert done.returncode == 0 and "watched" in done.stdout, done.stderr
    again = gate.run_cli(
        "explain", "--task", "watched.task", "--kwargs", '{"region": "eu", "customer_id": 42}', "--json", "--config", gate.config
    )
    first = json.loads(gate.run_cli("explain", "--task", "watched.task", "--args", "[42]", "--json", "--config", gate.config).stdout)
    assert first["digest"] == json.loads(again.stdout)["digest"]
    assert gate.run_cli("explain", "--task", "unknown", "--config", gate.config).returncode == 1


def test_decisions_are_logged_as_json(gate, held, vhost):
    client, task_id = held
    _, properties, payload = wire.task_message("watched.task", (42,), task_id="11111111-1111-1111-1111-111111111111")
    client.publish(1, "", "admin", payload, properties)

    def dropped():
        # The last line may not be whole yet.
        for line in gate.log().rpartition("\n")[0].splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("decision") == "dropped":
                return entry
        return None

    entry = harness.wait_until(dropped, lambda: f"the decision in the log:\n{gate.log()[-2000:]}")
    assert entry["rule"] == "watched" and entry["task"] == "watched.task" and entry["vhost"] == vhost
    assert entry["id"] == "11111111-1111-1111-1111-111111111111" and entry["holder"] == task_id
    for field in ("ts", "level", "event", "digest", "client", "instance"):
        assert entry.get(field), f"{field} is not in {entry}"
    # Arguments stay out of the log.
    assert "42" not in str(entry.get("summary", ""))
