"""What the tests of the libraries' examples share: the example's own rule file, its application, its end.

The proxy runs with the file under config/examples/ as it is; only the addresses come from the environment, which
goes before the file.
"""

import harness
import pytest

EXAMPLES = harness.ROOT / "config" / "examples"


def _addresses(port, admin_port, upstream_port, store, results):
    environment = {
        "ONCEGATE_PROXY__LISTEN": f"127.0.0.1:{port}",
        "ONCEGATE_PROXY__UPSTREAM": f"amqp://127.0.0.1:{upstream_port}",
        "ONCEGATE_ADMIN__LISTEN": f"127.0.0.1:{admin_port}",
        "ONCEGATE_STORE__URL": store,
        "ONCEGATE_LOG__DECISIONS": "all",
    }
    if results:
        environment["ONCEGATE_RESULTS__URL"] = results
    return environment


class Library:
    """A proxy under a library's rule file, and its README's application with workers and producers."""

    def __init__(self, name, gate, stack, store, scoreboard, vhost, result_url):
        self.gate, self.store, self.scoreboard, self.vhost = gate, store, scoreboard, vhost
        self._stack = stack
        self._options = {"library": name.replace("-", "_"), "result_url": result_url}

    @property
    def queue(self):
        return self._stack.queue

    def worker(self, concurrency=1):
        return self._stack.worker(self.gate, concurrency=concurrency, **self._options)

    def produce(self, code, **conf):
        return self._stack.produce(self.gate, code, conf=conf, **self._options).stdout

    def produce_confirmed(self, code):
        """By a producer that waits for confirms, without which none hears of its duplicate."""
        return self.produce(code, broker_transport_options={"confirm_publish": True})

    def wait_messages(self, count):
        harness.wait_until(lambda: self._stack.messages() == count, lambda: f"{count} messages, are {self._stack.messages()}")

    def occupy(self):
        """Has the worker's one process run something else, so that what comes after it waits in the worker."""
        self.produce("celery_app.send_task('live.gated', ('slot',))")
        harness.wait_until(lambda: self.scoreboard.runs_of("live.gated", phase="begin"), "the process to be taken")

    def vacate(self):
        self.scoreboard.open_gate("slot")

    def wake(self, seconds, times=1):
        """Ends so many of the examples' sleeps, of those that are to last so long, begun already or to come."""
        self.scoreboard.open_gate(f"sleep {seconds}", times)

    def runs(self, task, phase="begin"):
        return self.scoreboard.runs_of(f"tasks.{task}", phase=phase)

    def wait_runs(self, task, count, phase="begin"):
        """Waits until a task has begun, or come to an end, so many times; no more than that have."""
        harness.wait_until(
            lambda: len(self.runs(task, phase)) >= count,
            lambda: f"{count} of {task} at {phase}: {self.scoreboard.drain()}",
        )
        runs = self.runs(task, phase)
        assert len(runs) == count, runs
        return runs

    def wait_begun(self, task, task_id):
        harness.wait_until(
            lambda: self.scoreboard.runs_of(f"tasks.{task}", phase="begin", id=task_id), lambda: f"{task_id} to begin: {self.scoreboard.drain()}"
        )

    def locks(self, state=None):
        return [lock for lock in self.store.locks() if state is None or lock["state"] == state]

    def wait_lock(self, state):
        harness.wait_until(lambda: self.locks(state), lambda: f"a lock to be {state}: {self.locks()}")
        [lock] = self.locks(state)
        return lock

    def wait_free(self):
        harness.wait_until(lambda: not self.locks(), lambda: f"the locks to go: {self.locks()}")

    def forwarded(self, count, rule):
        self.gate.expect_publishes(count, "forwarded", rule=rule)

    def dropped(self, count, rule):
        self.gate.expect_publishes(count, "dropped", rule=rule)

    def released(self, count, rule, reason):
        self.gate.expect("oncegate_locks_released_total", count, rule=rule, reason=reason)


@pytest.fixture
def library(workspace, broker, vhost, stack, store, scoreboard):
    """Makes the proxy and the application of a library's example."""
    made = []

    def make(name, results=None):
        if harness.DIRECT:
            gate = harness.Bare(broker.port)
        else:
            port, admin_port = harness.free_port(), harness.free_port()
            text = (EXAMPLES / f"{name}.toml").read_text()
            environment = _addresses(port, admin_port, broker.port, store.url, results and results.url)
            gate = harness.Gate(workspace, text, port, admin_port, env=environment)
            made.append(gate)
            gate.start()
        return Library(name, gate, stack, store, scoreboard, vhost, results and results.url)

    yield make
    for gate in made:
        gate.stop()
