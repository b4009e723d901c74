"""Decisions as messages: what is published to `events.exchange`, in which virtual host, and what becomes of it where it cannot be."""

import json
import time

import amqp
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


def controls(broker, *vhosts, user="guest:guest"):
    return "[control]\n" + "".join(
        f'[control.vhosts.{harness.toml_string(vhost)}]\nurl = "amqp://{user}@127.0.0.1:{broker.port}"\n' for vhost in vhosts
    )


def events(exchange="oncegate"):
    return f"[events]\nexchange = {harness.toml_string(exchange)}\n"


class Told:
    """Whoever binds a queue to the exchange, at the broker itself or through a proxy."""

    def __init__(self, port, vhost, exchange="oncegate", key="#", declare=True, queue=""):
        self.connection = amqp.Connection(f"127.0.0.1:{port}", virtual_host=vhost)
        self.connection.connect()
        self.channel = self.connection.channel()
        if declare:
            self.channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
        self.queue, _, _ = self.channel.queue_declare(queue, exclusive=not queue, auto_delete=False)
        self.channel.queue_bind(self.queue, exchange, key)
        self.seen = []

    def read(self):
        while (message := self.channel.basic_get(self.queue, no_ack=True)) is not None:
            self.seen.append((message.delivery_info["routing_key"], json.loads(message.body), message))
        return self.seen

    def wait(self, **wanted):
        """The first decision with these fields."""

        def found():
            return next((one for one in self.read() if all(one[1].get(key) == value for key, value in wanted.items())), None)

        harness.wait_until(found, lambda: f"a decision with {wanted}: {[one for _, one, _ in self.seen]}")
        return found()

    def close(self):
        self.connection.collect()


@pytest.fixture
def told(broker, vhost):
    made = []

    def make(port=None, vhost=vhost, **options):
        watch = Told(port or broker.port, vhost, **options)
        made.append(watch)
        return watch

    yield make
    for watch in made:
        watch.close()


@pytest.fixture
def gate(oncegate, broker, vhost):
    def make(*vhosts, rules=RULE, control=None, exchange="oncegate"):
        vhosts = vhosts or (vhost,)
        made = oncegate(rules, extra=(control or controls(broker, *vhosts)) + events(exchange))
        for name in vhosts:
            made.expect("oncegate_control_up", 1, vhost=name)
        return made

    return make


def dropped(proxy, reason):
    return proxy.count("oncegate_events_dropped_total", reason=reason)


def quiet(proxy):
    assert [dropped(proxy, reason) for reason in ("overflow", "unavailable", "refused")] == [0, 0, 0], proxy.log()[-2000:]


def duplicates(stack, proxy, name="1"):
    stack.produce(proxy, f"note.delay({name!r}); note.delay({name!r})")


def test_each_decision_is_told_as_the_api_tells_it(gate, told, stack, vhost):
    watch = told()
    proxy = gate()
    duplicates(stack, proxy)
    key, first, _ = watch.wait(decision="forwarded")
    assert key == "note.forwarded"
    key, second, message = watch.wait(decision="dropped")
    assert key == "note.dropped"
    assert second["holder"] == first["id"] and second["vhost"] == vhost and second["rule"] == "note", second
    harness.wait_until(lambda: proxy.get("/api/v1/decisions").json()["decisions"], "the decision to be shown")
    assert second in proxy.get("/api/v1/decisions").json()["decisions"]
    properties = message.properties
    assert properties["content_type"] == "application/json" and properties["delivery_mode"] == 1, properties
    assert properties["app_id"] == "oncegate" and abs(time.time() - properties["timestamp"]) < 60, properties
    proxy.expect("oncegate_events_published_total", len(watch.read()))
    quiet(proxy)


def test_releases_are_told_where_the_lock_was(gate, told, stack, scoreboard, vhost):
    watch = told(key="*.released")
    proxy = gate()
    worker = stack.worker(proxy)
    duplicates(stack, proxy)
    [run] = scoreboard.wait_runs(1)
    _, released, _ = watch.wait(event="release")
    assert (released["id"], released["reason"], released["vhost"]) == (run["id"], "started", vhost), released
    worker.stop()


def test_the_exchange_is_made_and_bindings_choose(gate, told, stack):
    proxy = gate()
    # What nobody binds the broker drops, and that is no loss.
    duplicates(stack, proxy, "unheard")
    proxy.expect("oncegate_events_published_total", 2)
    some = told(declare=False, key="*.dropped")
    duplicates(stack, proxy)
    some.wait(decision="dropped")
    proxy.expect("oncegate_events_published_total", 4)
    assert [key for key, _, _ in some.read()] == ["note.dropped"]
    quiet(proxy)


def test_an_exchange_of_another_kind_is_taken_as_it_is(gate, told, stack, broker, vhost):
    watch = told(declare=False, exchange="amq.fanout")
    proxy = gate(control=controls(broker, vhost), exchange="amq.fanout")
    duplicates(stack, proxy)
    watch.wait(decision="dropped")
    quiet(proxy)


@pytest.fixture
def vhosts(broker):
    """Two more."""
    made = [broker.add_vhost(), broker.add_vhost()]
    yield made
    for name in made:
        broker.delete_vhost(name)


def test_each_virtual_host_is_told_of_its_own(gate, told, vhost, vhosts, raw):
    other, bare = vhosts
    proxy = gate(vhost, other)
    here, there = told(), told(vhost=other)
    for name, ids in ((vhost, "ab"), (other, "cd"), (bare, "efg")):
        client = raw(proxy.port, vhost=name)
        client.open_channel()
        client.declare("q")
        for task_id in ids:
            _, properties, payload = wire.task_message("live.note", args=["x"], task_id=task_id)
            client.publish(1, "", "q", payload, properties)
    here.wait(id="b", decision="dropped", holder="a")
    there.wait(id="d", decision="dropped", holder="c")
    proxy.expect_publishes(4, "dropped", rule="note")
    assert {one["vhost"] for _, one, _ in here.read()} == {vhost}
    assert {one["vhost"] for _, one, _ in there.read()} == {other}
    proxy.expect_log("no account of its own there")
    assert proxy.log().count("no account of its own there") == 1
    quiet(proxy)


def test_a_broker_that_starts_anew_is_told_again(gates, own_broker, workspace, scoreboard):
    control = f'[control]\nurl = "amqp://guest:guest@127.0.0.1:{own_broker.port}"\n'
    proxy = gates(own_broker.port, RULE, extra=control + events())
    proxy.expect("oncegate_control_up", 1, vhost="/")
    environment = harness.app_environment(proxy.port, "/", "q", scoreboard)
    harness.run_producer(environment, "note.delay('1'); note.delay('1')")
    proxy.expect("oncegate_events_published_total", 2)
    own_broker.kill()
    proxy.expect("oncegate_control_up", 0, vhost="/")
    own_broker.start()
    proxy.expect("oncegate_control_up", 1, vhost="/")
    watch = Told(own_broker.port, "/", declare=False)
    harness.run_producer(environment, "note.delay('2'); note.delay('2')")
    watch.wait(decision="dropped")
    watch.close()
    assert dropped(proxy, "refused") == 0 and dropped(proxy, "overflow") == 0


def test_an_exchange_that_is_deleted_is_made_again(gate, told, stack, broker, vhost):
    proxy = gate()
    duplicates(stack, proxy)
    proxy.expect("oncegate_events_published_total", 2)
    broker.api("DELETE", f"exchanges/{vhost}/oncegate")
    duplicates(stack, proxy, "lost")
    harness.wait_until(
        lambda: proxy.count("oncegate_events_published_total") + dropped(proxy, "refused") == 4, "what was told meanwhile to be counted"
    )
    # What finds it gone is lost, and counted; the next finds it made again.
    assert dropped(proxy, "refused") >= 1
    duplicates(stack, proxy, "asks for it")
    watch = told(declare=False)
    duplicates(stack, proxy, "2")
    watch.wait(decision="dropped")
    assert dropped(proxy, "overflow") == 0 and dropped(proxy, "unavailable") == 0


def test_a_consumer_that_is_slow_delays_nothing(gate, told, stack, scoreboard, raw):
    """Its queue fills up, and the broker says no to what comes then."""
    watch = told()
    watch.channel.queue_delete(watch.queue)
    arguments = {"x-max-length": 10, "x-overflow": "reject-publish"}
    watch.queue, _, _ = watch.channel.queue_declare("", exclusive=True, arguments=arguments)
    watch.channel.queue_bind(watch.queue, "oncegate", "#")
    proxy = gate()
    stack.produce(proxy, "for _ in range(200): note.delay('1')")
    proxy.expect_publishes(199, "dropped", rule="note")
    harness.wait_until(
        lambda: proxy.count("oncegate_events_published_total") + dropped(proxy, "refused") == 200, "each to be counted"
    )
    assert dropped(proxy, "refused") >= 100
    watch.read()
    duplicates(stack, proxy, "2")
    watch.wait(decision="dropped", id=proxy.get("/api/v1/decisions?limit=1").json()["decisions"][0]["id"])


def test_a_broker_that_reads_nothing_delays_nothing(gates, own_broker, scoreboard):
    control = f'[control]\nurl = "amqp://guest:guest@127.0.0.1:{own_broker.port}"\n'
    proxy = gates(own_broker.port, RULE, extra=control + events())
    proxy.expect("oncegate_control_up", 1, vhost="/")
    environment = harness.app_environment(proxy.port, "/", "q", scoreboard)
    harness.run_producer(environment, "note.delay('1')")
    proxy.expect("oncegate_events_published_total", 1)
    own_broker.ctl("set_vm_memory_high_watermark", "0.00001")
    # A duplicate never reaches the broker: its alarm does not stop it.
    harness.run_producer(environment, "for _ in range(3000): note.delay('1')")
    proxy.expect_publishes(3000, "dropped", rule="note")
    own_broker.ctl("set_vm_memory_high_watermark", "0.6")
    harness.wait_until(
        lambda: proxy.count("oncegate_events_published_total") + proxy.count("oncegate_events_dropped_total") == 3001,
        lambda: f"each to be counted: {proxy.count('oncegate_events_published_total')}",
    )


def check(tmp_path, broker, text, connect=True):
    config = tmp_path / "oncegate.toml"
    config.write_text(f'[proxy]\nupstream = ["amqp://127.0.0.1:{broker.port}"]\n{text}\n{RULE}')
    done = harness.run_cli("check", config, "--json", *(["--connect"] if connect else []))
    found = json.loads(done.stdout)
    return done.returncode, [one["message"] for one in found["warnings"]], found.get("connect", [])


LEAST = {"configure": r"^(oncegate\..*|celeryev)$", "write": r"^(amq\.default|oncegate\..*|celery\.pidbox)$", "read": r"^(oncegate\..*|celeryev)$"}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_missing_right_is_said_once_and_by_check(gate, told, stack, broker, vhost, tmp_path, is_there):
    user = f"u{harness.number()}"
    broker.add_user(user, "secret", vhost, **LEAST)
    if is_there:
        told()
    control = controls(broker, vhost, user=f"{user}:secret")
    text = control + events()
    code, _, found = check(tmp_path, broker, text)
    failed = [one["message"] for one in found if one["verdict"] == "failed"]
    assert code == 69 and len(failed) == 1, found
    assert "decisions cannot be published" in failed[0] and "403" in failed[0] and "events.exchange" in failed[0], failed
    proxy = gate(vhost, control=control)
    for turn in range(3):
        duplicates(stack, proxy, str(turn))
    proxy.expect("oncegate_events_dropped_total", 6, reason="refused")
    assert proxy.log().count("the broker refuses decisions") == 1, proxy.log()[-2000:]
    proxy.expect_publishes(3, "dropped", rule="note")
    rights = {"configure": r"^(oncegate\..*|oncegate|celeryev)$", "write": r"^(amq\.default|oncegate|oncegate\..*|celery\.pidbox)$"}
    broker.add_user(user, "secret", vhost, **{**LEAST, **rights})
    code, _, found = check(tmp_path, broker, text)
    assert code == 0, found

    def told_again():
        duplicates(stack, proxy, "again")
        return proxy.count("oncegate_events_published_total") > 0

    harness.wait_until(told_again, "the rights to be found", interval=1)


def test_check_says_where_nothing_is_published(broker, tmp_path):
    code, [said], _ = check(tmp_path, broker, events(), connect=False)
    assert code == 0 and "events.exchange" in said and "no decision is published" in said, said


def test_a_reload_turns_it_on_and_off(gate, told, stack):
    watch = told()
    proxy = gate()
    text = proxy.config.read_text()
    duplicates(stack, proxy)
    proxy.expect("oncegate_events_published_total", 2)
    proxy.config.write_text(text.replace(events(), ""))
    proxy.expect("oncegate_config_reloads_total", 1, result="success")
    duplicates(stack, proxy, "2")
    proxy.expect_publishes(2, "dropped", rule="note")
    assert proxy.count("oncegate_events_published_total") == 2
    proxy.config.write_text(text)
    proxy.expect("oncegate_config_reloads_total", 2, result="success")
    duplicates(stack, proxy, "3")
    proxy.expect("oncegate_events_published_total", 4)
    assert len(watch.read()) == 4
    # The connection has stood all the time.
    assert proxy.log().count("the control connection stands") == 1
    quiet(proxy)


def test_who_reads_them_through_a_proxy_makes_no_more_of_them(gate, told, stack):
    """Their bodies name a task and its id, as those of old task messages do."""
    proxy = gate(rules='[[rule]]\nname = "all"\ntask = "*"\nunique = "until_finished"\n')
    watch = told(port=proxy.port, declare=True)
    duplicates(stack, proxy)
    watch.wait(decision="dropped")
    proxy.expect("oncegate_events_published_total", 2)
    seen = []
    watch.channel.basic_consume(watch.queue, callback=seen.append, no_ack=False)
    # What was read is behind it by the time that these are decided.
    duplicates(stack, proxy, "2")
    proxy.expect("oncegate_events_published_total", 4)
    while len(seen) < 2:
        watch.connection.drain_events(timeout=harness.DEADLINE)
    assert len(watch.seen) == 2 and [message.delivery_info["routing_key"] for message in seen] == ["all.forwarded", "all.dropped"]
    duplicates(stack, proxy, "3")
    proxy.expect("oncegate_events_published_total", 6)
    assert proxy.count("oncegate_deliveries_total", rule="all") == 0
    quiet(proxy)
