"""Workers that connect straight to the broker, past every proxy, while producers pass: what `[control]` learns of them and asks them."""

import json
import signal
import types

import amqp
import harness
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to hear or ask")


def rules(*tasks, grace="2s"):
    return "\n".join(
        f'[[rule]]\nname = "{task}"\ntask = "live.{task}"\nunique = "until_finished"\norphan_grace = "{grace}"\n' for task in tasks
    )


@pytest.fixture
def gate(oncegate, broker, vhost, store):
    """Makes a proxy with an account of its own in the test's virtual host; returns once that is connected."""

    def make(*tasks, control=None, up=True, grace="2s"):
        made = oncegate(rules(*tasks, grace=grace), store=store.url, extra=control or harness.account(broker.port, vhost))
        made.expect("oncegate_control_up", 1 if up else 0, vhost=vhost)
        return made

    return make


class Mailboxes:
    """A queue of the test's own, beside those of the workers."""

    def __init__(self, broker, vhost):
        self.connection = amqp.Connection(f"127.0.0.1:{broker.port}", virtual_host=vhost)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.channel.exchange_declare("celery.pidbox", "fanout", durable=False, auto_delete=False)
        self.name, _, _ = self.channel.queue_declare(exclusive=True)
        self.channel.queue_bind(self.name, "celery.pidbox")
        self.seen = []

    def read(self):
        while (message := self.channel.basic_get(self.name, no_ack=True)) is not None:
            self.seen.append(json.loads(message.body))
        return self.seen

    def sent(self, method, node):
        """Those of a method for one node."""
        return [one for one in self.read() if one["method"] == method and one["destination"] == [f"{node}@test"]]


@pytest.fixture
def mailboxes(broker, vhost):
    """All that is sent to workers, seen from a queue of the test's own, and that it never is for all of them."""
    watch = Mailboxes(broker, vhost)
    yield watch
    for message in watch.read():
        assert message["destination"], f"a broadcast: {message}"
        assert not message["pattern"] and not message["matcher"], message


@pytest.fixture
def straight(stack, broker):
    """Starts a worker that connects to the broker itself, past the proxy."""

    def start(*arguments, **options):
        return stack.worker(types.SimpleNamespace(port=broker.port), *arguments, **options)

    return start


def state(store):
    return [lock["state"] for lock in store.locks()]


def begin(stack, gate, store, scoreboard, mailboxes, worker, task, name="one"):
    """A task runs on a worker that reports it; its id. Events are on before it is published."""
    harness.wait_until(lambda: mailboxes.sent("enable_events", worker.node), "the worker to be told to publish events")
    harness.wait_until(lambda: "Events of group {task} enabled by remote." in worker.log(), "the worker to publish events")
    stack.produce(gate, f"{task}.delay({name!r})")
    runs = scoreboard.wait_runs(1)
    harness.wait_until(lambda: state(store) == ["running"], lambda: f"the start to be known: {store.locks()}")
    [lock] = store.locks()
    assert lock["worker"] == f"{worker.node}@test"
    return runs[0]["id"]


@pytest.mark.parametrize("task,reason", [("gated", "success"), ("gated_failure", "failure")])
def test_the_end_is_learnt_of_a_worker_that_passes_no_proxy(gate, stack, store, scoreboard, straight, mailboxes, task, reason):
    proxy = gate(task)
    worker = straight()
    begin(stack, proxy, store, scoreboard, mailboxes, worker, task)
    stack.produce(proxy, f"{task}.delay('one')")
    proxy.expect_publishes(1, "dropped", rule=task)
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule=task, reason=reason)
    assert store.locks() == []
    stack.produce(proxy, f"{task}.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(4)] == ["begin", "end", "begin", "end"]
    proxy.expect("oncegate_locks_released_total", 2, rule=task, reason=reason)


def test_a_retry_keeps_the_lock_until_the_last_run_ends(gate, stack, store, scoreboard, straight, mailboxes):
    proxy = gate("gated_retry")
    worker = straight()
    task = begin(stack, proxy, store, scoreboard, mailboxes, worker, "gated_retry")
    scoreboard.open_gate("one")
    # The retry is published by the worker, past the proxy too.
    assert [(run["phase"], run["id"]) for run in scoreboard.wait_runs(3)] == [(phase, task) for phase in ("begin", "end", "retried")]
    proxy.expect("oncegate_locks_released_total", 1, rule="gated_retry", reason="success")
    assert proxy.count("oncegate_locks_released_total", rule="gated_retry") == 1
    assert store.locks() == []


def test_a_worker_that_starts_anew_is_told_again(gate, straight, mailboxes):
    gate("gated")
    worker = straight()
    harness.wait_until(lambda: len(mailboxes.sent("enable_events", worker.node)) == 1, "the worker to be told")
    worker.kill()
    straight(node=worker.node)
    harness.wait_until(lambda: len(mailboxes.sent("enable_events", worker.node)) == 2, "the worker to be told again")


def test_events_are_left_alone_where_the_configuration_says_so(gate, straight, mailboxes, broker, vhost, stack, store, scoreboard):
    proxy = gate("gated", control=harness.account(broker.port, vhost) + "enable_events = false\n")
    # This one publishes them by itself.
    worker = straight("-E")
    stack.produce(proxy, "gated.delay('one')")
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="success")
    assert mailboxes.sent("enable_events", worker.node) == []


def test_a_worker_on_the_proxy_is_heard_once_and_not_told_twice(gate, stack, store, scoreboard, mailboxes):
    proxy = gate("gated")
    worker = stack.worker(proxy)
    stack.produce(proxy, "gated.delay('one')")
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="success")
    assert mailboxes.sent("enable_events", worker.node) == [], "it was told through its own mailbox"


def test_a_killed_worker_that_passes_no_proxy_is_asked_and_loses_its_lock(gate, stack, store, scoreboard, straight, mailboxes):
    proxy = gate("gated")
    worker = straight()
    task = begin(stack, proxy, store, scoreboard, mailboxes, worker, "gated")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    worker.kill()
    stack.produce(proxy, "gated.delay('one')")
    proxy.expect_publishes(1, "dropped", rule="gated")
    harness.wait_until(lambda: not store.locks(), "the lock to go", timeout=90)
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="crash")
    asked = mailboxes.sent("query_task", worker.node)
    assert len(asked) >= 2 and all(one["arguments"]["ids"] == [task] for one in asked), asked
    straight()
    stack.produce(proxy, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(3)] == ["begin", "begin", "end"]


def test_a_worker_without_heartbeats_answers_and_keeps_its_lock(gate, stack, store, scoreboard, straight, mailboxes):
    proxy = gate("gated")
    worker = straight("-E", "--without-heartbeat")
    stack.produce(proxy, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: state(store) == ["running"], "the start to be known")
    harness.wait_until(lambda: mailboxes.sent("query_task", worker.node), "the worker to be asked")
    # Two questions without an answer would have freed it by the time of the third; one with an answer is asked again a minute later.
    stack.produce(proxy, "gated.delay('one')")
    proxy.expect_publishes(1, "dropped", rule="gated")
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="success")
    assert proxy.count("oncegate_locks_released_total", rule="gated", reason="crash") == 0


def test_a_worker_that_says_nothing_keeps_its_lock_as_long_as_its_mailbox_is_there(gate, stack, store, scoreboard, straight, mailboxes):
    """A worker whose main process is busy neither answers nor publishes anything; its pool runs on."""
    proxy = gate("gated")
    worker = straight()
    task = begin(stack, proxy, store, scoreboard, mailboxes, worker, "gated")
    worker.process.send(signal.SIGSTOP)
    harness.wait_until(lambda: len(mailboxes.sent("query_task", worker.node)) >= 3, "the worker to be asked", timeout=120)
    assert [lock["holder"] for lock in store.locks()] == [task]
    worker.process.send(signal.SIGCONT)
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="success")
    assert proxy.count("oncegate_locks_released_total", rule="gated", reason="crash") == 0


def test_a_worker_started_anew_does_not_know_the_task(gate, stack, store, scoreboard, straight, mailboxes):
    proxy = gate("gated")
    worker = straight()
    begin(stack, proxy, store, scoreboard, mailboxes, worker, "gated")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    worker.kill()
    straight(node=worker.node)
    harness.wait_until(lambda: not store.locks(), "the lock to go", timeout=90)
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="crash")


def test_two_proxies_share_the_events(gate, oncegate, stack, store, scoreboard, straight, mailboxes, broker, vhost):
    one, other = gate("gated"), gate("gated")
    worker = straight()
    harness.wait_until(lambda: "Events of group {task} enabled by remote." in worker.log(), "the worker to publish events")
    runs = 6
    for number in range(runs):
        stack.produce(one if number % 2 else other, f"gated.delay('g{number}')")
        scoreboard.open_gate(f"g{number}")
    scoreboard.wait_runs(2 * runs)

    def released():
        return sum(proxy.count("oncegate_locks_released_total", rule="gated", reason="success") for proxy in (one, other))

    harness.wait_until(lambda: released() == runs, lambda: f"all locks to go: {released()}")
    assert store.locks() == []


def test_the_control_connection_comes_back_with_its_broker(workspace, own_broker, gates, store, scoreboard):
    vhost = own_broker.add_vhost()
    control = harness.account(own_broker.port, vhost)
    proxy = gates(own_broker.port, rules("note"), store=store.url, extra=control)
    proxy.expect("oncegate_control_up", 1, vhost=vhost)
    own_broker.kill()
    proxy.expect("oncegate_control_up", 0, vhost=vhost)
    own_broker.start()
    harness.wait_until(lambda: proxy.count("oncegate_control_up", vhost=vhost) == 1, "the control connection to be there again")
    said = [json.loads(line)["event"] for line in proxy.log().splitlines() if "control connection" in line]
    assert len(said) == 3, said
    environment = harness.app_environment(own_broker.port, vhost, "q", scoreboard)
    worker = harness.Worker(workspace, environment, scoreboard)
    try:
        harness.wait_until(lambda: "Events of group {task} enabled by remote." in worker.log(), "the worker to publish events")
        harness.run_producer(harness.app_environment(proxy.port, vhost, "q", scoreboard), "note.delay(1)")
        scoreboard.wait_runs(1)
        proxy.expect("oncegate_locks_released_total", 1, rule="note", reason="success")
    finally:
        worker.stop()


def check(tmp_path, broker, control, rule=None):
    config = tmp_path / "oncegate.toml"
    config.write_text(f'[proxy]\nupstream = ["amqp://127.0.0.1:{broker.port}"]\n{control}{rule or rules("note")}')
    done = harness.run_cli("check", config, "--connect", "--json")
    report = json.loads(done.stdout)
    found = [one for one in report["connect"] if one["what"].startswith("control ")]
    return done.returncode, [(one["verdict"], one["message"]) for one in found], report["control"]


# To the default exchange go the results of dropped ids, and parked messages.
LEAST = {
    "configure": r"^(oncegate\..*|celeryev)$",
    "write": r"^(oncegate\..*|celery\.pidbox|amq\.default)$",
    "read": r"^(oncegate\..*|celeryev)$",
}
FOLLOWING = r"^(oncegate\..*|celery\.pidbox)$"


def test_the_least_rights_that_are_told_are_enough(broker, vhost, tmp_path, gate, straight, mailboxes, stack, store, scoreboard):
    user = f"u{harness.number()}"
    broker.add_user(user, "secret", vhost, **LEAST)
    control = harness.account(broker.port, vhost, f"{user}:secret")
    code, [(verdict, said)], [rights] = check(tmp_path, broker, control)
    assert (code, verdict) == (0, "ok"), said
    patterns = " ".join(f"'{LEAST[right]}'" for right in ("configure", "write", "read"))
    assert rights.endswith(f"rabbitmqctl set_permissions -p '{vhost}' '{user}' {patterns}"), rights
    proxy = gate("gated", control=control)
    worker = straight()
    begin(stack, proxy, store, scoreboard, mailboxes, worker, "gated")
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="success")


PARKS = '[[rule]]\nname = "note"\ntask = "live.note"\nunique = "while_running"\n'
PARKING = LEAST


@pytest.mark.parametrize(
    "right,without,refused",
    [
        (None, None, None),
        ("configure", r"^(oncegate\.(events|reply\..*)|celeryev)$", "to configure"),
        ("write", FOLLOWING, "to write to the exchange amq.default"),
        ("read", r"^(oncegate\.(events|reply\..*)|celeryev)$", "to read"),
    ],
)
def test_the_rights_that_parking_takes_are_told_and_tried(broker, vhost, tmp_path, right, without, refused):
    user = f"u{harness.number()}"
    broker.add_user(user, "secret", vhost, **{**PARKING, **({right: without} if right else {})})
    code, found, [rights] = check(tmp_path, broker, harness.account(broker.port, vhost, f"{user}:secret"), PARKS)
    patterns = " ".join(f"'{PARKING[right]}'" for right in ("configure", "write", "read"))
    assert rights.endswith(f"rabbitmqctl set_permissions -p '{vhost}' '{user}' {patterns}"), rights
    if right is None:
        assert (code, [verdict for verdict, _ in found]) == (0, ["ok"]), found
        assert "oncegate.park" not in broker.ctl("list_queues", "-p", vhost, "name", "--quiet")
        return
    [(verdict, said)] = found
    assert (code, verdict) == (69, "failed"), said
    assert "messages cannot be parked" in said and "403 ACCESS_REFUSED" in said, said
    assert all(word in said for word in refused.split()), said


@pytest.mark.parametrize("result, kind", [("join", "auto"), ("revoke", "rpc"), ("none", "auto"), ("join", "none")])
def test_the_right_to_publish_results_is_told_and_tried(broker, vhost, tmp_path, result, kind):
    user = f"u{harness.number()}"
    broker.add_user(user, "secret", vhost, **{**LEAST, "write": FOLLOWING})
    control = harness.account(broker.port, vhost, f"{user}:secret") + f'[results]\nkind = "{kind}"\n'
    rule = f'[[rule]]\nname = "note"\ntask = "live.note"\nunique = "until_started"\nresult = "{result}"\n'
    code, [(verdict, said)], _ = check(tmp_path, broker, control, rule)
    if "none" in (result, kind):
        assert (code, verdict) == (0, "ok"), said
        return
    assert (code, verdict) == (69, "failed"), said
    assert "the results of dropped ids cannot be published" in said and "403 ACCESS_REFUSED" in said, said
    assert "The account needs the right to write to the exchange amq.default" in said, said


@pytest.mark.parametrize(
    "right,without,refused",
    [
        ("configure", r"^celeryev$", ["the queue oncegate.events cannot be declared", "the answers of workers cannot be consumed"]),
        ("write", r"^oncegate\..*$", ["workers cannot be told anything"]),
        ("read", r"^oncegate\..*$", ["cannot be bound to the exchange of task events"]),
    ],
)
def test_a_missing_right_is_told_and_the_proxy_works_on(
    broker, vhost, tmp_path, gate, straight, stack, scoreboard, mailboxes, right, without, refused
):
    # Celery's exchange of events is there.
    mailboxes.channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
    user = f"u{harness.number()}"
    broker.add_user(user, "secret", vhost, **{**LEAST, right: without})
    control = harness.account(broker.port, vhost, f"{user}:secret")
    code, found, _ = check(tmp_path, broker, control)
    assert code == 69
    for text in refused:
        assert any(
            verdict == "failed" and text in said and "403 ACCESS_REFUSED" in said and f"to {right}" in said
            for verdict, said in found
        ), found
    proxy = gate("note", control=control, up=False)
    harness.wait_until(lambda: "no control connection" in proxy.log(), "it to be told")
    straight("-E")
    stack.produce(proxy, "note.delay(1); note.delay(1)")
    scoreboard.wait_runs(1)
    proxy.expect_publishes(1, "dropped", rule="note")
    assert proxy.count("oncegate_control_up", vhost=vhost) == 0


@pytest.mark.parametrize(
    "user,path,said,remedy",
    [
        ("guest:wrong", "{vhost}", "403 ACCESS_REFUSED", "Write the user and the password"),
        ("guest:guest", "nowhere", "530 NOT_ALLOWED", "Is there a virtual host"),
    ],
)
def test_an_account_that_cannot_log_in_is_told(broker, vhost, tmp_path, oncegate, stack, user, path, said, remedy):
    name = path.format(vhost=vhost)
    control = harness.account(broker.port, name, user)
    code, [(verdict, message)], _ = check(tmp_path, broker, control)
    assert (code, verdict) == (69, "failed") and said in message and remedy in message, message
    proxy = oncegate(rules("note"), extra=control)
    harness.wait_until(lambda: "no control connection" in proxy.log() and said in proxy.log(), "it to be told")
    assert proxy.count("oncegate_control_up", vhost=name) == 0
    stack.produce(proxy, "note.delay(1); note.delay(1)")
    proxy.expect_publishes(1, "dropped", rule="note")
    assert "wrong" not in proxy.log()


def test_tls_is_that_of_the_upstream(broker, vhost, certificates, oncegate, tmp_path):
    trusted = f"[proxy.upstream_tls]\nca = {harness.toml_string(certificates.ca)}\n"
    control = f'[control]\nurl = "amqps://guest:guest@localhost:{broker.tls_port}/{vhost}"\n'
    proxy = oncegate(rules("note"), extra=trusted + control)
    proxy.expect("oncegate_control_up", 1, vhost=vhost)
    code, [(verdict, said)], _ = check(tmp_path, broker, trusted + control)
    assert (code, verdict) == (0, "ok"), said
    code, [(verdict, said)], _ = check(tmp_path, broker, control)
    assert (code, verdict) == (69, "failed") and "the TLS handshake failed" in said, said


def test_a_reload_brings_and_takes_the_control_connection(broker, vhost, oncegate, store):
    proxy = oncegate(rules("note"), store=store.url)
    assert proxy.count("oncegate_control_up") == 0 and "oncegate_control_up" not in proxy.get("/metrics").text
    text = proxy.config.read_text()
    proxy.config.write_text(text + harness.account(broker.port, vhost))
    proxy.expect("oncegate_control_up", 1, vhost=vhost)
    proxy.config.write_text(text)
    harness.wait_until(lambda: "oncegate_control_up{" not in proxy.get("/metrics").text, "it to be taken away")


def test_headers_of_any_depth_end_nothing(gate, stack, store, scoreboard, straight, mailboxes, raw):
    """Whoever may publish in a virtual host writes headers there; a table within a table within a table is legal."""
    proxy = gate("gated")
    client = mailboxes.connection.channel()
    inner = b""
    for _ in range(10_000):
        inner = b"\x01aF" + len(inner).to_bytes(4, "big") + inner
    client.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
    publish_raw(client, "celeryev", "task.multi", inner)
    worker = straight()
    begin(stack, proxy, store, scoreboard, mailboxes, worker, "gated")
    scoreboard.open_gate("one")
    proxy.expect("oncegate_locks_released_total", 1, rule="gated", reason="success")
    assert proxy.process.alive()


def publish_raw(channel, exchange, routing_key, table):
    """A publish whose header table is these octets, written past the library's own encoder."""
    message = amqp.Message("{}", content_type="application/json", content_encoding="utf-8")
    flags = (1 << 15 | 1 << 14 | 1 << 13).to_bytes(2, "big")
    encoded = b"\x10application/json" + b"\x05utf-8" + len(table).to_bytes(4, "big") + table
    message._serialize_properties = lambda: flags + encoded
    channel.basic_publish(message, exchange, routing_key)
