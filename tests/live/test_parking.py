"""Parking: what may not run yet waits in a delay queue at the broker, and comes back; and dead letters in its place."""

import json
import time

import harness
import pika
import pytest
import wire

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to park anything")

CLASSIC = {}
QUORUM = {"task_default_queue_type": "quorum"}


def rule(task, more=""):
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "while_running"\norphan_grace = "2s"\nhold_max = "1s"\n{more}'


@pytest.fixture
def gate(oncegate, broker, vhost, store):
    """Makes a proxy with an account of its own; returns once that is connected."""

    def make(rules, port=None, user="guest:guest", extra="", **options):
        options.setdefault("store", store.url)
        made = oncegate(rules, extra=harness.account(port or broker.port, vhost, user) + extra, **options)
        made.expect("oncegate_control_up", 1, vhost=vhost)
        return made

    return make


class Delays:
    """The delay queues of the test's virtual host, asked at the broker itself."""

    def __init__(self, broker, vhost, prefix="oncegate.park."):
        self.broker = broker
        self.vhost = vhost
        self.prefix = prefix

    def queues(self):
        """Of each by its name: what it is, and how many messages it has."""
        columns = ["name", "type", "messages", "arguments"]
        out = self.broker.ctl("--silent", "--formatter", "json", "list_queues", "--vhost", self.vhost, *columns)
        return {queue["name"]: queue for queue in json.loads(out) if queue["name"].startswith(self.prefix)}

    def messages(self):
        return sum(queue["messages"] for queue in self.queues().values())


@pytest.fixture
def delays(broker, vhost):
    return Delays(broker, vhost)


def parked(gate):
    return gate.count("oncegate_messages_parked_total", rule="g")


def wait_parked(gate, least):
    harness.wait_until(lambda: parked(gate) >= least, lambda: f"{least} to be parked: {gate.counted()}")


def phases(runs):
    return [run["phase"] for run in runs]


def all_done(stack, delays):
    """Nothing is left of any message, neither in its queue nor in a delay queue, nor with a worker."""

    def empty():
        left = {name: queue["messages"] for name, queue in delays.queues().items()}
        return sum(left.values()) == 0 and delays.broker.settled(delays.vhost, stack.queue)

    harness.wait_until(empty, lambda: f"all messages to be gone: {delays.queues()}", interval=0.5)


@pytest.mark.parametrize("conf", [CLASSIC, QUORUM], ids=["classic", "quorum"])
def test_what_waits_for_a_run_is_parked_and_runs_after_it(gate, stack, scoreboard, delays, conf):
    proxy = gate(rule("gated"))
    for _ in range(2):
        stack.worker(proxy, concurrency=2, conf=conf)
    stack.produce(proxy, "gated.delay('one')", conf=conf)
    [first] = scoreboard.wait_runs(1)
    stack.produce(proxy, "for _ in range(3): gated.delay('one')", conf=conf)
    wait_parked(proxy, 3)
    queues = delays.queues()
    kind = "quorum" if conf is QUORUM else "classic"
    assert queues and {queue["type"] for queue in queues.values()} == {kind}, queues
    arguments = {name: value for name, _, value in next(iter(queues.values()))["arguments"]}
    assert arguments["x-dead-letter-routing-key"] == stack.queue and arguments["x-dead-letter-exchange"] == "", arguments
    if conf is QUORUM:
        assert arguments["x-dead-letter-strategy"] == "at-least-once" and arguments["x-overflow"] == "reject-publish", arguments
    # They come back, find that the run goes on, and are parked again; others pass them.
    wait_parked(proxy, 6)
    stack.produce(proxy, "for n in range(40): plain.delay(n)", conf=conf)
    runs = scoreboard.wait_runs(41)
    assert len(phases([run for run in runs if run["task"] == "live.gated"])) == 1
    scoreboard.open_gate("one", 4)
    runs = [run for run in scoreboard.wait_runs(48) if run["task"] == "live.gated"]
    assert phases(runs) == ["begin", "end"] * 4
    assert [run["id"] for run in runs[::2]] == [run["id"] for run in runs[1::2]]
    assert len({run["id"] for run in runs}) == 4 and runs[0]["id"] == first["id"]
    assert {json.dumps([run["args"], run["kwargs"], run["retries"]]) for run in runs} == {'[["one"], {}, 0]'}
    all_done(stack, delays)
    assert proxy.count("oncegate_messages_unparked_total", rule="g") == parked(proxy)
    assert proxy.count("oncegate_deliveries_total", rule="g", decision="parked") == parked(proxy)
    assert proxy.count("oncegate_held_messages") == 0
    assert proxy.count("oncegate_deliveries_total", rule="g", decision="forwarded_unchecked") == 0


def test_a_returned_copy_is_what_its_original_was(gate, stack, vhost, broker, delays):
    proxy = gate(rule("late", "acks_late = true\nkey = []\n"))
    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost}"))
    channel = connection.channel()
    channel.queue_declare(stack.queue, durable=True)
    channel.basic_qos(prefetch_count=5)
    seen = []
    channel.basic_consume(stack.queue, lambda _channel, method, properties, body: seen.append((method, properties, body)))

    def sees(count):
        harness.wait_until(lambda: connection.process_data_events(0.05) or len(seen) >= count, f"{count} deliveries")
        assert len(seen) == count

    sent = []
    for name in ("one", "two"):
        _, plain, body = wire.task_message("live.late", [name], {"list": [1, None, 2.5]}, x_own={"deep": ["table", 1]})
        names = ("content_type", "content_encoding", "delivery_mode", "correlation_id", "reply_to", "headers")
        properties = pika.BasicProperties(**{name: getattr(plain, name) for name in names})
        properties.priority, properties.timestamp, properties.type = 3, 1_800_000_000, "t"
        properties.message_id, properties.app_id = "m", "a"
        sent.append((properties, body))
    straight = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{broker.port}/{vhost}"))
    publisher = straight.channel()
    publisher.basic_publish("", stack.queue, sent[0][1], sent[0][0])
    sees(1)
    publisher.basic_publish("", stack.queue, sent[1][1], sent[1][0])
    harness.wait_until(lambda: connection.process_data_events(0.05) or parked(proxy) >= 2, "it to be parked twice")
    channel.basic_ack(seen[0][0].delivery_tag)
    sees(2)
    for (method, properties, body), (wanted, payload) in zip(seen, sent):
        assert vars(properties) == vars(wanted)
        assert body == payload
        assert (method.exchange, method.routing_key, method.redelivered) == ("", stack.queue, False)
    channel.basic_ack(seen[1][0].delivery_tag)
    connection.process_data_events(0.1)
    connection.close()
    straight.close()
    all_done(stack, delays)


def test_an_eta_is_waited_for_in_a_delay_queue(gate, stack, scoreboard, delays):
    proxy = gate(rule("note"))
    stack.worker(proxy)
    before = time.time()
    stack.produce(proxy, "note.apply_async(args=['later'], countdown=8)")
    wait_parked(proxy, 1)
    assert scoreboard.drain() == []
    stack.produce(proxy, "note.delay('now')")
    runs = scoreboard.wait_runs(2)
    assert [run["args"] for run in runs] == [["now"], ["later"]]
    assert runs[1]["at"] >= before + 8
    all_done(stack, delays)
    assert proxy.count("oncegate_messages_unparked_total", rule="g") == parked(proxy)


def test_a_proxy_that_is_killed_again_and_again_loses_nothing(gate, stack, scoreboard, delays):
    proxy = gate(rule("gated"))
    for _ in range(2):
        stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "gated.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(proxy, "for _ in range(10): gated.delay('one')")
    wait_parked(proxy, 10)
    for moment in range(3):
        proxy.kill()
        proxy.start()
        # Copies come back, and are held or on their way again: another moment each time.
        harness.wait_until(lambda: parked(proxy) > 2 * moment, lambda: f"{2 * moment + 1} to be parked: {proxy.counted()}")
    scoreboard.open_gate("one", 60)
    harness.wait_until(
        lambda: len({run["id"] for run in scoreboard.drain() if run["phase"] == "end"}) == 11,
        lambda: f"each to run: {len(scoreboard.drain())}",
        120,
    )
    all_done(stack, delays)
    # One at a time, all along.
    assert phases(scoreboard.drain()) == ["begin", "end"] * (len(scoreboard.drain()) // 2)


@pytest.fixture
def late_confirms(relays, broker):
    """A way to the broker over which its answers can be made to come late."""
    return relays(broker.port, delay=0.001)


def copy_is_sent(relay):
    sent = lambda: any(b"x-oncegate-park" in one["to_broker"] for one in relay.connections)  # noqa: E731
    harness.wait_until(sent, "the copy to be on its way to the broker")


def two_of_one_key(stack, proxy, scoreboard):
    """One runs and one waits for it; returns their ids in that order once that is so."""
    for _ in range(2):
        stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "gated.delay('one')")
    [first] = scoreboard.wait_runs(1)
    stack.produce(proxy, "gated.delay('one')")
    return first["id"]


def ends_with_two_runs(stack, scoreboard, delays, first):
    """Both run, one after the other, each once."""
    scoreboard.open_gate("one", 4)
    runs = scoreboard.wait_runs(4)
    all_done(stack, delays)
    runs = scoreboard.drain()
    assert phases(runs) == ["begin", "end"] * 2
    assert [run["id"] == first for run in runs] == [True, True, False, False]


def records(store):
    """What the store knows of parked messages, packed as it is."""
    packed = harness.redis_client.Redis(port=store.port)
    found = b"".join(b"".join(packed.hgetall(key).values()) for key in packed.keys("*:park:*"))
    packed.close()
    return found


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_kill_before_the_copy_is_sent_loses_nothing(gate, stack, scoreboard, delays, late_confirms, store, again):
    proxy = gate(rule("gated"), port=late_confirms.port)
    late_confirms.deaf = not again
    first = two_of_one_key(stack, proxy, scoreboard)
    if again:
        wait_parked(proxy, 1)
        late_confirms.deaf = True
    # The store knows of a copy that the broker never gets: what is here is all that there is.
    harness.wait_until(lambda: b"sending" in records(store), "a copy to be noted")
    proxy.kill()
    late_confirms.cut()
    late_confirms.deaf = False
    proxy.start()
    ends_with_two_runs(stack, scoreboard, delays, first)


def test_a_kill_before_the_confirm_runs_it_once(gate, stack, scoreboard, delays, late_confirms):
    proxy = gate(rule("gated"), port=late_confirms.port)
    late_confirms.delay = 3
    first = two_of_one_key(stack, proxy, scoreboard)
    # The broker has the copy, and the proxy does not know it: both come back.
    copy_is_sent(late_confirms)
    proxy.kill()
    late_confirms.delay = 0.001
    proxy.start()
    ends_with_two_runs(stack, scoreboard, delays, first)


def test_a_kill_before_the_ack_runs_it_once(gate, stack, scoreboard, delays, late_confirms, store):
    proxy = gate(rule("gated"), port=late_confirms.port, store_extra='timeout = "30s"')
    late_confirms.delay = 3
    first = two_of_one_key(stack, proxy, scoreboard)
    copy_is_sent(late_confirms)
    store.freeze()
    heard = [len(one["to_client"]) for one in late_confirms.connections]
    # The store is to be told of it, and does not answer.
    harness.wait_until(lambda: [len(one["to_client"]) for one in late_confirms.connections] != heard, "the confirm to come")
    proxy.kill()
    store.thaw()
    late_confirms.delay = 0.001
    proxy.start()
    ends_with_two_runs(stack, scoreboard, delays, first)


def test_a_returned_copy_whose_worker_is_killed_runs_again(gate, stack, scoreboard, delays):
    proxy = gate(rule("late", "acks_late = true\nkey = []\n"))
    stack.worker(proxy)
    stack.produce(proxy, "late.delay('one')")
    scoreboard.wait_runs(1)
    second = stack.worker(proxy)
    stack.produce(proxy, "late.delay('two')")
    wait_parked(proxy, 1)
    # The one that is idle gets it.
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(3)
    assert [(run["args"][0], run["phase"]) for run in runs] == [("one", "begin"), ("one", "end"), ("two", "begin")]
    proxy.expect("oncegate_messages_unparked_total", parked(proxy), rule="g")
    second.kill()
    stack.worker(proxy)
    scoreboard.open_gate("two", 3)
    harness.wait_until(lambda: ("two", "end") in {(run["args"][0], run["phase"]) for run in scoreboard.drain()}, "it to run")
    all_done(stack, delays)


def test_a_retry_of_a_returned_copy_runs(gate, stack, scoreboard, delays):
    proxy = gate(rule("gated_retry"))
    for _ in range(2):
        stack.worker(proxy, concurrency=2)
    stack.produce(proxy, "gated_retry.delay('one')")
    [first] = scoreboard.wait_runs(1)
    stack.produce(proxy, "gated_retry.delay('one')")
    wait_parked(proxy, 1)
    scoreboard.open_gate("one", 2)
    runs = scoreboard.wait_runs(6)
    assert phases(runs) == ["begin", "end", "retried"] * 2
    assert [run["id"] == first["id"] for run in runs] == [True] * 3 + [False] * 3
    all_done(stack, delays)


def test_a_copy_that_the_store_has_forgotten_runs(gate, stack, scoreboard, delays, store):
    proxy = gate(rule("note"))
    stack.worker(proxy)
    before = time.time()
    stack.produce(proxy, "note.apply_async(args=['later'], countdown=10)")
    wait_parked(proxy, 1)
    store.kill()
    store.start()
    assert store.client.keys("*:park:*") == []
    [run] = scoreboard.wait_runs(1)
    assert run["args"] == ["later"] and run["at"] >= before + 10
    all_done(stack, delays)
    assert len(scoreboard.drain()) == 1


LEAST = {
    "configure": r"^(oncegate\..*|celeryev)$",
    "write": r"^(oncegate\..*|celery\.pidbox|amq\.default)$",
    "read": r"^(oncegate\..*|celeryev)$",
}


@pytest.mark.parametrize(
    "right,without",
    [("configure", r"^(oncegate\.(events|reply).*|celeryev)$"), ("write", r"^(oncegate\..*|celery\.pidbox)$")],
    ids=["configure", "write"],
)
def test_without_the_right_to_park_it_stays_held_and_goes_back(gate, stack, scoreboard, broker, vhost, delays, right, without):
    user = f"u{harness.number()}"
    broker.add_user(user, "secret", vhost, **{**LEAST, right: without})
    proxy = gate(rule("gated"), user=f"{user}:secret", proxy='consumer_timeout = "12s"')
    first = two_of_one_key(stack, proxy, scoreboard)
    # The broker asks for the right to write where the queue will send its messages when the queue is declared.
    said = "a delay queue cannot be declared"
    proxy.expect_log(said)
    proxy.expect_log("could not be parked and stays held")
    harness.wait_until(lambda: "goes back to its queue" in proxy.log(), "it to go back to its queue")
    lines = [json.loads(line) for line in proxy.log().splitlines()]
    complaints = [line for line in lines if said in line["event"]]
    assert len(complaints) == 1 and "403" in complaints[0]["why"] and "right" in complaints[0]["remedy"], complaints
    [back, *_] = [line for line in lines if "goes back to its queue" in line["event"]]
    assert back["reason"] == "consumer_timeout"
    assert parked(proxy) == 0 and delays.messages() == 0
    ends_with_two_runs(stack, scoreboard, delays, first)


def test_the_least_rights_that_are_told_are_enough_to_park(gate, stack, scoreboard, broker, vhost, delays, tmp_path):
    user = f"u{harness.number()}"
    config = tmp_path / "oncegate.toml"
    config.write_text(f'[proxy]\nupstream = ["amqp://127.0.0.1:{broker.port}"]\n{harness.account(broker.port, vhost, f"{user}:secret")}{rule("gated")}')
    report = json.loads(harness.run_cli("check", config, "--json").stdout)
    [rights] = [note for note in report["control"] if "set_permissions" in note]
    patterns = [part for part in rights.split("'")[5::2]]
    broker.add_user(user, "secret", vhost, **dict(zip(("configure", "write", "read"), patterns)))
    done = harness.run_cli("check", config, "--connect", "--json")
    found = [(one["verdict"], one["message"]) for one in json.loads(done.stdout)["connect"] if one["what"].startswith("control ")]
    assert [verdict for verdict, _ in found] == ["ok"], found
    proxy = gate(rule("gated"), user=f"{user}:secret")
    first = two_of_one_key(stack, proxy, scoreboard)
    wait_parked(proxy, 1)
    ends_with_two_runs(stack, scoreboard, delays, first)


def test_delay_queues_of_a_long_name_are_named_by_its_hash(gate, stack, scoreboard, broker, vhost):
    stack.queue = "q" * 230
    proxy = gate(rule("gated"), extra='[park]\nprefix = "shop.later"\n')
    first = two_of_one_key(stack, proxy, scoreboard)
    wait_parked(proxy, 1)
    delays = Delays(broker, vhost, "shop.later.")
    assert delays.queues() and all(len(name.split(".")[2]) == 64 for name in delays.queues()), delays.queues()
    ends_with_two_runs(stack, scoreboard, delays, first)


DEAD_LETTER = 'on_running = "dead_letter"\ndead_letter = { routing_key = "busy" }\n'


def test_what_may_not_run_is_dead_lettered(gate, stack, scoreboard, raw, broker, vhost, delays):
    proxy = gate(rule("gated", DEAD_LETTER))
    client = raw()
    client.open_channel()
    client.declare("busy", durable=True)
    first = two_of_one_key(stack, proxy, scoreboard)
    proxy.expect("oncegate_deliveries_total", 1, rule="g", decision="dead_lettered")
    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{broker.port}/{vhost}"))
    channel = connection.channel()
    method, properties, body = harness.wait_until(
        lambda: next((got for got in [channel.basic_get("busy", auto_ack=True)] if got[0]), None), "the dead letter"
    )
    assert channel.basic_get("busy")[0] is None, "only one"
    connection.close()
    headers = properties.headers
    assert headers["task"] == "live.gated" and headers["id"] != first and json.loads(body)[0] == ["one"]
    told = {name: headers[f"x-oncegate-{name}"] for name in ("reason", "holder", "rule", "queue")}
    assert told == {"reason": "running", "holder": first, "rule": "g", "queue": stack.queue}
    assert headers["x-oncegate-time"]
    scoreboard.open_gate("one", 2)
    assert [run["id"] for run in scoreboard.wait_runs(2)] == [first, first]
    all_done(stack, delays)
    assert len(scoreboard.drain()) == 2
    assert proxy.count("oncegate_exceptions_total", reason="dead_letter_failed") == 0


def test_a_dead_letter_that_no_queue_takes_is_dropped_and_counted(gate, stack, scoreboard, delays):
    proxy = gate(rule("gated", DEAD_LETTER))
    first = two_of_one_key(stack, proxy, scoreboard)
    proxy.expect("oncegate_exceptions_total", 1, rule="g", reason="dead_letter_failed")
    proxy.expect("oncegate_deliveries_total", 1, rule="g", decision="dropped")
    proxy.expect_log("could not be dead-lettered and is dropped")
    scoreboard.open_gate("one", 2)
    assert [run["id"] for run in scoreboard.wait_runs(2)] == [first, first]
    all_done(stack, delays)
    assert len(scoreboard.drain()) == 2
