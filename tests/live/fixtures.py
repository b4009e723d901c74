"""Fixtures: one broker and one scoreboard for all tests; a virtual host, a store, a proxy for each.

A test that fails shows what its proxies, workers and servers wrote. With ONCEGATE_FAILURES naming a directory, each
failure is also noted there, in a file short enough to be shown again at the end of a long run.
"""

import json
import os
import pathlib
import shutil
import signal
import tempfile
import time

import harness
import pytest
import wire

# Ends a test that hangs; no test comes near it.
TEST_LIMIT = 240


def pytest_configure(config):
    # A TERM from outside takes the same way out as Ctrl-C, so that fixtures stop what they started.
    def leave(_number, _frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)


@pytest.fixture(scope="session")
def workspace():
    path = pathlib.Path(tempfile.mkdtemp(prefix="oncegate-live-"))
    path.chmod(0o755)
    yield path
    if os.environ.get("ONCEGATE_KEEP_LOGS") != "1":
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def certificates(workspace):
    return harness.Certificates(workspace / "tls")


def running(server):
    """A server for as long as a fixture stands; what a failed start leaves is stopped too."""
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def broker(workspace, certificates):
    yield from running(harness.RabbitMQ(workspace, certificates))


@pytest.fixture
def own_broker(workspace):
    """A node of the test's own, to kill and to alarm."""
    yield from running(harness.RabbitMQ(workspace))


@pytest.fixture(scope="session")
def board_redis(workspace):
    yield from running(harness.Redis(workspace))


@pytest.fixture
def scoreboard(board_redis):
    return harness.Scoreboard(board_redis, f"t{harness.number()}")


@pytest.fixture
def vhost(broker):
    name = broker.add_vhost()
    yield name
    broker.delete_vhost(name)


@pytest.fixture
def store(workspace):
    yield from running(harness.Redis(workspace))


@pytest.fixture
def results(workspace):
    """A result backend apart from the store."""
    yield from running(harness.Redis(workspace))


@pytest.fixture(scope="module")
def module_gate(workspace, broker, request):
    """One proxy for all tests of a module that ask for it, under the module's RULES."""
    yield from running(harness.new_gate(workspace, broker.port, request.module.RULES))


@pytest.fixture
def gates(workspace):
    """Makes proxies, and stops them all."""
    made = []

    def make(upstream_port, rules="", start=True, **options):
        gate = harness.new_gate(workspace, upstream_port, rules, **options)
        made.append(gate)
        return gate.start() if start else gate

    yield make
    for gate in made:
        gate.stop()


@pytest.fixture
def oncegate(gates, broker):
    """Makes a proxy in front of the common broker."""

    def make(rules="", **options):
        return gates(broker.port, rules, **options)

    return make


@pytest.fixture
def gate_of(oncegate, store, results):
    """Makes a proxy in front of the common broker that knows the result backend."""

    def make(rules, extra="", **parts):
        parts = {"store": store.url, **parts}
        gate = oncegate(rules, extra=f"[results]\nurl = {harness.toml_string(results.url)}\n{extra}", **parts)
        if gate.direct:
            pytest.skip("there is no proxy")
        return gate

    return make


@pytest.fixture
def stack(workspace, broker, vhost, scoreboard):
    """Workers and producers of this test's virtual host and queue."""
    made = []

    class Stack:
        queue = f"q{harness.number()}"

        def environment(self, gate, **options):
            return harness.app_environment(gate.port, vhost, self.queue, scoreboard, **options)

        def worker(self, gate, *arguments, concurrency=1, quick=True, node=None, **options):
            worker = harness.Worker(
                workspace, self.environment(gate, **options), scoreboard, *arguments, concurrency=concurrency, quick=quick, node=node
            )
            made.append(worker)
            return worker

        def produce(self, gate, code, check=True, **options):
            return harness.run_producer(self.environment(gate, **options), code, check=check)

        def calls(self, gate, code, **options):
            """Runs the code, in which `call` publishes and notes an id; their ids in order."""
            head = "import json, time\nids = []\ndef call(task, *args, **options):\n    ids.append(task.apply_async(args, **options).id)\n"
            return json.loads(self.produce(gate, f"{head}{code}\nprint(json.dumps(ids))", **options).stdout)

        def all_done(self, store):
            """Waits until nothing is left: no message, with a worker or without, and no lock."""
            gone = lambda: self.messages() == 0 and not store.locks() and broker.settled(vhost, self.queue)  # noqa: E731
            harness.wait_until(gone, lambda: f"all to be done: {self.messages()} messages, {store.locks()}")

        def messages(self):
            """How many messages the queue has ready, asked at the broker itself."""
            client = wire.connect(broker.port, vhost)
            client.open_channel()
            count = client.count(self.queue)
            client.close()
            return count

    yield Stack()
    for worker in made:
        worker.stop()


@pytest.fixture
def raw(broker, vhost):
    """Makes bare clients in the test's virtual host."""
    made = []

    def make(port=None, **options):
        client = wire.connect(broker.port if port is None else port, options.pop("vhost", vhost), **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.drop()


@pytest.fixture
def relays():
    made = []

    def make(port, **options):
        relay = harness.Relay(port, **options)
        made.append(relay)
        return relay

    yield make
    for relay in made:
        relay.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    def late(_number, _frame):
        raise AssertionError(f"the test was not done after {TEST_LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # Those that earlier tests have left are of no interest; what all tests share runs on.
    harness.Process.started[:] = [process for process in harness.Process.started if process.alive()]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        # The proxies last: theirs is the story that is looked for first.
        for process in sorted(harness.Process.started, key=lambda process: process.shown):
            report.sections.append((process.name, process.story()))


# How much of a failure is noted, in characters: of what was asserted, and of what each process wrote.
ASSERTION = 2500
STORY = 2000


def pytest_runtest_logreport(report):
    """Called for each report where the run is led, whichever process ran the test."""
    directory = os.environ.get("ONCEGATE_FAILURES")
    if not directory or not report.failed or "PYTEST_XDIST_WORKER" in os.environ:
        return
    parts = [f"=== {report.nodeid} ({report.when})", report.longreprtext[-ASSERTION:]]
    own = [(name, text) for name, text in reversed(report.sections) if not name.startswith(("redis-", "epmd"))]
    for name, text in own:
        parts.append(f"--- {name}\n{text if len(text) <= STORY else text[:300] + chr(10) + '[...]' + text[300 - STORY:]}")
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{time.time_ns()}.txt").write_text("\n".join(parts) + "\n")
