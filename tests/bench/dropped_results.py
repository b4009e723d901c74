"""How long callers of dropped tasks wait for the results of their holders: a random run with real Celery.

Starts a broker, a store, a result backend, two proxies and a worker on free ports, publishes tasks with random keys and durations, waits
for the result of every one, and prints what the dropped ones have waited after their holder's end (or after their own publish, if that was
later), in milliseconds. Needs what `tests/live` needs; run it with the interpreter of its virtual environment:

    target/venv/bin/python tests/bench/dropped_results.py [--tasks 2000] [--keys 50] [--backend redis|rpc] [--seed 1]

ONCEGATE_BIN names the proxy's binary.
"""

import argparse
import datetime
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

BENCH = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH.parent / "live"))

import harness  # noqa: E402

RULES = """[[rule]]
name = "timed"
task = "bench.timed"
unique = "until_finished"
key = ["args[0]"]
"""

# Publishes in one thread, in which results are taken as they come, so that each has its time.
PRODUCER = """
import random, socket, sys, time
from celery.exceptions import TaskRevokedError
from results_app import app, timed
seed, tasks, keys = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dice, came, calls = random.Random(seed), {}, []
def drain(seconds):
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            app.backend.result_consumer.drain_events(timeout=left)
        except (socket.timeout, TimeoutError):
            pass
def note(result):
    came.setdefault(result.id, time.time())
for _ in range(tasks):
    key = dice.randrange(keys)
    at = time.time()
    result = timed.delay(key, dice.choice([1, 5, 20, 60]))
    result.then(note, on_error=note)
    calls.append((result, key, at))
    drain(dice.choice([0, 0.001, 0.005, 0.02]))
end = time.monotonic() + 60
while len(came) < tasks and time.monotonic() < end:
    drain(0.2)
report = {"missing": tasks - len(came), "wrong": 0, "revoked": 0, "ran": 0, "waits": []}
for result, key, at in calls:
    try:
        value = result.get(timeout=1 if result.id not in came else 10)
        report["wrong"] += value != key
    except TaskRevokedError:
        report["revoked"] += 1
    except Exception:
        continue
    meta = result._get_task_meta()
    if "duplicate_of" not in meta:
        report["ran"] += 1
    elif result.id in came:
        report["waits"].append([came[result.id], at, meta["date_done"]])
import json
print(json.dumps(report))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--backend", choices=["redis", "rpc"], default="redis")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    wanted = parser.parse_args()
    started = []

    def start(server):
        started.append(server)
        server.start()
        return server

    with tempfile.TemporaryDirectory(prefix="oncegate-results-") as workspace:
        workspace = pathlib.Path(workspace)
        try:
            measure(wanted, workspace, start, started)
        finally:
            for server in reversed(started):
                server.stop()


def measure(wanted, workspace, start, started):
    broker, store, results = start(harness.RabbitMQ(workspace)), start(harness.Redis(workspace)), start(harness.Redis(workspace))
    broker.wait_ready()
    vhost = broker.add_vhost()
    if wanted.backend == "redis":
        backend, extra = results.url, f"[results]\nurl = {harness.toml_string(results.url)}\n"
    else:
        backend, extra = "rpc://", f'[control]\nurl = "amqp://guest:guest@127.0.0.1:{broker.port}/{vhost}"\n'
    gates = [start(harness.new_gate(workspace, broker.port, RULES, store=store.url, extra=extra)) for _ in range(2)]
    if wanted.backend == "rpc":
        for gate in gates:
            gate.expect("oncegate_control_up", 1, vhost=vhost)
    scoreboard = harness.Scoreboard(store, "bench")

    def environment(gate):
        made = harness.app_environment(gate.port, vhost, "bench", scoreboard, result_url=backend)
        return {**made, "APP_MODULE": "results_app", "PYTHONPATH": f"{BENCH}:{made['PYTHONPATH']}"}

    started.append(harness.Worker(workspace, environment(gates[1]), scoreboard, concurrency=4))
    arguments = [str(number) for number in (wanted.seed, wanted.tasks, wanted.keys)]
    done = subprocess.run([sys.executable, "-c", PRODUCER, *arguments], env=environment(gates[0]), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    show(wanted, json.loads(done.stdout.splitlines()[-1]))


def show(wanted, report):
    waits = sorted(1000 * (came - max(at, datetime.datetime.fromisoformat(end).timestamp())) for came, at, end in report["waits"])
    print(f"backend {wanted.backend}, seed {wanted.seed}: {wanted.tasks} tasks of {wanted.keys} keys, {report['ran']} ran, {len(waits)} dropped")
    print(f"without a result: {report['missing']}, with a wrong one: {report['wrong']}, revoked: {report['revoked']}")
    if waits:
        at = lambda part: waits[min(len(waits) - 1, int(part * len(waits)))]  # noqa: E731
        print(f"waited after the holder's end, ms: median {statistics.median(waits):.0f}, 99 % {at(0.99):.0f}, worst {waits[-1]:.0f}")
    if report["missing"] or report["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
