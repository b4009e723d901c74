"""Starts a broker, a store, Oncegate and a worker, sends 100 calls, and shows what became of them."""

import os
import pathlib
import signal
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "live"))

import harness  # noqa: E402

CALLS = 100
CUSTOMERS = 10
RULE = """
[[rule]]
task   = "reports.generate"
unique = "until_finished"
params = "customer_id, region='eu'"
key    = ["customer_id", "region"]
"""
PRODUCER = f"""
from tasks import end, generate
for call in range({CALLS}):
    customer = call % {CUSTOMERS} + 1
    # The same call, written in the ways that people write it.
    if call % 3 == 0:
        generate.delay(customer)
    elif call % 3 == 1:
        generate.delay(customer, "eu")
    else:
        generate.delay(customer_id=customer, region="eu")
end.delay()
"""


def leave(_number, _frame):
    raise KeyboardInterrupt


class Show:
    def __init__(self, directory):
        self.directory = directory
        self.runs = directory / "runs"
        self.runs.touch()
        self.started = []

    def keep(self, thing):
        self.started.append(thing)
        return thing

    def stop(self):
        for thing in reversed(self.started):
            thing.stop()

    def lines(self, word):
        return [line for line in self.runs.read_text().splitlines() if line.split()[0] == word]

    def wait_line(self, word, worker):
        def seen():
            if worker and not worker.alive():
                raise AssertionError(f"the worker ended:\n{worker.output()[-3000:]}")
            return self.lines(word)

        harness.wait_until(seen, f"the worker to write '{word}'", 120, 0.05)

    def run(self):
        print("starting a private RabbitMQ, Redis and Oncegate …", flush=True)
        broker = self.keep(harness.RabbitMQ(self.directory)).start()
        store = self.keep(harness.Redis(self.directory)).start()
        port, admin_port = harness.free_port(), harness.free_port()
        upstream = f"amqp://127.0.0.1:{broker.port}"
        config = harness.compose(upstream, port, admin_port, f"redis://127.0.0.1:{store.port}/1", RULE)
        gate = self.keep(harness.Gate(self.directory, config, port, admin_port, name="oncegate")).start()
        environment = {
            **os.environ,
            "APP_BROKER": f"amqp://guest:guest@127.0.0.1:{port}//",
            "APP_RESULTS": f"redis://127.0.0.1:{store.port}/2",
            "APP_RUNS": str(self.runs),
        }
        print("\nthe rule:" + RULE)
        # Before the worker is there: a call that is made after the end of the first is none of its duplicates.
        print(f"sending {CALLS} reports.generate.delay() for {CUSTOMERS} customers …", flush=True)
        subprocess.run([sys.executable, "-c", PRODUCER], env=environment, cwd=HERE, check=True, timeout=120)
        print("starting a Celery worker …", flush=True)
        worker = self.keep(
            harness.Process(
                "worker",
                [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "1", "--loglevel", "INFO"],
                self.directory,
                environment,
                cwd=HERE,
            )
        )
        self.wait_line("end", worker)
        right = self.report(gate)
        if "--keep" in sys.argv[1:]:
            self.hold(broker, store, gate, environment)
        return right

    def report(self, gate):
        runs = self.lines("run")
        forwarded = gate.publishes("forwarded", rule="reports.generate")
        dropped = gate.publishes("dropped", rule="reports.generate")
        print(f"\nsent:    {CALLS} calls, {CALLS - CUSTOMERS} of them duplicates")
        print(f"ran:     {len(runs)} tasks:", ", ".join(line[4:] for line in runs))
        print(f"metrics: {forwarded:.0f} forwarded, {dropped:.0f} dropped\n")
        for line in gate.get("/metrics").text.splitlines():
            if line.startswith("oncegate_publishes_total"):
                print("  " + line)
        wanted = sorted(f"run {customer} eu" for customer in range(1, CUSTOMERS + 1))
        right = sorted(runs) == wanted and forwarded == CUSTOMERS and dropped == CALLS - CUSTOMERS
        print("\nas it should be" if right else "\nNOT as it should be", flush=True)
        return right

    @staticmethod
    def hold(broker, store, gate, environment):
        print(
            f"""
broker through Oncegate   {environment["APP_BROKER"]}
RabbitMQ itself           amqp://guest:guest@127.0.0.1:{broker.port}//
RabbitMQ's own page       http://127.0.0.1:{broker.http_port}/  (guest, guest)
Redis                     {store.url}
Oncegate's admin address  {gate.admin_url}/
configuration             {gate.config}
Ctrl-C stops all.""",
            flush=True,
        )
        while True:
            time.sleep(3600)


def main():
    signal.signal(signal.SIGTERM, leave)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="oncegate-quickstart-"))
    directory.chmod(0o755)
    show = Show(directory)
    try:
        return 0 if show.run() else 1
    except AssertionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if "--keep" in sys.argv[1:] else 130
    finally:
        show.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
