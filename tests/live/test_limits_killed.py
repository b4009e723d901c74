"""kill -9 of the proxy, the broker and the store while limited messages are held and parked: all run, none early, none twice."""

import harness
import limiting
import pytest

pytestmark = pytest.mark.skipif(harness.DIRECT, reason="there is no proxy to limit anything")

CLASSIC = {}
QUORUM = {"task_default_queue_type": "quorum"}
KINDS = pytest.mark.parametrize("conf", [CLASSIC, QUORUM], ids=["classic", "quorum"])

# Six go at once, six are held for the 12 s that they wait, and six are parked.
TIMES, PER, ALL = 6, 12, 18
RULES = f"""
[[rule]]
name = "g"
task = "live.note"
orphan_grace = "2s"
hold_max = "14s"
[[rule.limit]]
times = {TIMES}
per = "{PER}s"
"""


@pytest.fixture(scope="module")
def broker(workspace):
    """A node of this module's own, to kill."""
    server = harness.RabbitMQ(workspace)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def lasting_store(tmp_path):
    """A store that has all on its disk that it has ever answered."""
    server = harness.Redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def gate(oncegate, broker, vhost):
    """A proxy with an account of its own, which is connected."""

    def make(store):
        made = oncegate(RULES, store=store.url, extra=harness.account(broker.port, vhost))
        made.expect("oncegate_control_up", 1, vhost=vhost)
        return made

    return make


class Case:
    """Two proxies and two workers, the messages, and what has become of them."""

    def __init__(self, gate, stack, store, scoreboard, broker, vhost, conf):
        self.stack, self.store, self.scoreboard, self.broker, self.vhost, self.conf = stack, store, scoreboard, broker, vhost, conf
        self.handed = limiting.HandedOver(store)
        self.settled, self.parked = set(), 0
        self.gates = [gate(store), gate(store)]
        for proxy in self.gates:
            stack.worker(proxy, concurrency=2, conf=conf)

    def publish(self):
        """Returns once all that has to wait does, and with what has run by then and is surely settled."""
        self.stack.produce(self.gates[0], f"for n in range({ALL}): note.delay(n)", conf=self.conf)
        harness.wait_until(self._rests, lambda: f"some to be held and some parked: {[gate.counted() for gate in self.gates]}")

    def _rests(self):
        """All that the broker has out is held by the proxies, and nothing is about to be parked."""
        ran = {run["id"] for run in self.scoreboard.drain()}
        held = sum(gate.count("oncegate_held_messages") for gate in self.gates)
        queues = {queue["name"]: queue for queue in self._queues()}
        own = queues[self.stack.queue]
        parked = sum(queue["messages_ready"] for name, queue in queues.items() if name.startswith("oncegate.park."))
        if len(ran) + held + parked != ALL or not held or not parked or (own["messages_ready"], own["messages_unacknowledged"]) != (0, held):
            return False
        self.settled, self.parked = ran, parked
        return True

    def all_ran(self):
        """Waits until all have run, and judges. Twice may have run only what was handed over and not known to be settled."""

        def done():
            self.handed.look()
            return len({run["id"] for run in self.scoreboard.drain()}) == ALL and self._left() == 0

        harness.wait_until(done, lambda: f"all to run: {len(self.scoreboard.drain())} have, {self._left()} are left", timeout=100, interval=0.2)
        return [run["id"] for run in self.scoreboard.drain()]

    def _left(self):
        names = (self.stack.queue, "oncegate.park.")
        return sum(queue["messages"] for queue in self._queues() if queue["name"].startswith(names))

    def _queues(self):
        """As each queue has told of itself, at the latest when it came to rest."""
        queues = self.broker.api("GET", f"queues/{self.vhost}?disable_stats=true&enable_queue_totals=true")
        return [{"messages": 0, "messages_ready": 0, "messages_unacknowledged": 0, **queue} for queue in queues]


@pytest.fixture
def case(gate, stack, scoreboard, broker, vhost):
    return lambda store, conf: Case(gate, stack, store, scoreboard, broker, vhost, conf)


def twice(ids):
    return {task_id for task_id in ids if ids.count(task_id) > 1}


@KINDS
def test_the_proxy_is_killed(case, store, conf):
    test = case(store, conf)
    test.publish()
    victim = max(test.gates, key=lambda gate: gate.count("oncegate_held_messages"))
    victim.kill()
    # What was handed over meanwhile may have been on its way, in either direction.
    on_the_way = set(test.handed.look().at) - test.settled
    victim.start()
    ids = test.all_ran()
    assert twice(ids) <= on_the_way
    test.handed.keep_to(TIMES, PER)


@KINDS
def test_the_broker_is_killed(case, broker, stack, vhost, store, conf):
    test = case(store, conf)
    test.publish()
    if conf is CLASSIC:
        # A classic queue has acks in memory for a while.
        broker.write_down(stack.queue, vhost=vhost)
    before = set(test.handed.look().at) - test.settled
    broker.kill(written=conf is CLASSIC)
    on_the_way = before | set(test.handed.look().at) - test.settled
    broker.start()
    ids = test.all_ran()
    assert twice(ids) <= on_the_way
    test.handed.keep_to(TIMES, PER)


@KINDS
def test_the_store_is_killed_and_has_its_data(case, lasting_store, conf):
    test = case(lasting_store, conf)
    test.publish()
    test.handed.look()
    lasting_store.kill()
    lasting_store.start()
    ids = test.all_ran()
    assert not twice(ids)
    test.handed.keep_to(TIMES, PER)


@KINDS
def test_the_store_is_killed_and_has_nothing_left(case, store, conf):
    test = case(store, conf)
    test.publish()
    store.kill()
    store.start()
    ids = test.all_ran()
    assert not twice(ids)
    # From then on, as of what was before nobody knows any more: of those that were parked at least.
    assert len(test.handed.at) >= test.parked
    test.handed.keep_to(TIMES, PER)
