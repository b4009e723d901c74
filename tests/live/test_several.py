"""Two proxies, one store: producers on one, workers on the other, and either of them killed or replaced."""

import threading

import harness
import pytest
import wire
from wire import Basic, Confirm


def rules(task, unique="until_finished", **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "{unique}"\n{lines}'


@pytest.fixture
def two(oncegate, store):
    """Makes a proxy for producers and one for workers, with one store."""

    def make(rules, **parts):
        gates = oncegate(rules, store=store.url, **parts), oncegate(rules, store=store.url, **parts)
        if gates[0].direct:
            pytest.skip("there are no proxies")
        return gates

    return make


def addresses(vhost, *gates):
    """As any failover list of Celery's: the next when one fails."""
    return {"broker_url": ";".join(f"amqp://guest:guest@127.0.0.1:{gate.port}/{vhost}" for gate in gates)}


def no_lock(store):
    harness.wait_until(lambda: not store.locks(), "the lock to go")


def released(gates, wanted, reason):
    """Which of them is told first is up to the order of things."""
    harness.wait_until(
        lambda: sum(gate.count("oncegate_locks_released_total", rule="g", reason=reason) for gate in gates) == wanted,
        f"{wanted} released: {reason}",
    )


def runs_known(stack, store):
    """The store knows that the task runs, and the broker that it is acknowledged."""
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    return store.locks()[0]


def crashes(*gates):
    return sum(gate.count("oncegate_locks_released_total", rule="g", reason="crash") for gate in gates)


@pytest.mark.parametrize("task, reason", [("gated", "success"), ("gated_failure", "failure"), ("late", "success")])
def test_a_task_of_the_other_proxy_holds_its_key_until_it_ends(two, stack, store, scoreboard, task, reason):
    front, back = two(rules(task, acks_late="true" if task == "late" else "false"))
    worker = stack.worker(back)
    stack.produce(front, f"{task}.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(front, f"{task}.delay('one')")
    front.expect_publishes(1, "dropped", rule="g")
    stack.produce(back, f"{task}.delay('one')")
    back.expect_publishes(1, "dropped", rule="g")
    [lock] = store.locks()
    assert lock["worker"] == f"{worker.node}@test"
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    no_lock(store)
    stack.produce(front, f"{task}.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(4)] == ["begin", "end"] * 2
    no_lock(store)
    # A late ack may be heard before the event.
    if task != "late":
        released((front, back), 2, reason)


@pytest.mark.parametrize("task", ["flaky", "flaky_late"])
def test_retries_pass_from_proxy_to_proxy_and_are_never_dropped(two, stack, store, scoreboard, vhost, task):
    front, back = two(rules(task, acks_late="true" if task == "flaky_late" else "false"))
    # A retry is taken by the next that is free, on the one proxy or the other.
    for gate in (front, back):
        stack.worker(gate)
    stack.produce(front, f"{task}.delay(5)")
    assert [run["retries"] for run in scoreboard.wait_runs(6)] == [0, 1, 2, 3, 4, 5]
    no_lock(store)
    assert sum(gate.publishes("dropped", rule="g") for gate in (front, back)) == 0
    stack.produce(back, f"{task}.delay(5)")
    assert len(scoreboard.wait_runs(12)) == 12
    no_lock(store)


@pytest.mark.parametrize("way", ["front", "beside"])
def test_a_run_revoked_by_a_third_client_frees_its_key(two, stack, store, scoreboard, broker, way):
    front, back = two(rules("gated"))
    stack.worker(back)
    stack.produce(front, "gated.delay('one')")
    [run] = scoreboard.wait_runs(1)
    runs_known(stack, store)
    third = front if way == "front" else harness.Bare(broker.port)
    stack.produce(third, f"app.control.revoke({run['id']!r}, terminate=True, signal='SIGKILL')")
    no_lock(store)
    released((front, back), 1, "revoked")
    stack.produce(front, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(3)] == ["begin", "begin", "end"]


def test_a_call_revoked_in_its_queue_frees_its_key_and_does_not_run(two, stack, store, scoreboard):
    front, back = two(rules("gated"))
    stack.produce(front, "gated.delay('one')")
    [lock] = store.locks()
    stack.produce(back, f"app.control.revoke({lock['holder']!r})")
    no_lock(store)
    stack.produce(front, "gated.delay('one')")
    stack.worker(back)
    back.expect("oncegate_deliveries_total", 1, rule="g", decision="superseded")
    scoreboard.open_gate("one")
    assert lock["holder"] not in {run["id"] for run in scoreboard.wait_runs(2)}


def test_one_of_many_calls_runs_whichever_proxy_takes_them_and_hands_them_over(two, stack, store, scoreboard, broker):
    gates = two(rules("gated"))
    for gate in gates:
        stack.worker(gate, concurrency=2)
    producers = [
        threading.Thread(target=stack.produce, args=(gate, "for n in range(30): gated.delay('one')")) for gate in gates
    ]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    harness.wait_until(lambda: sum(gate.publishes("dropped", rule="g") for gate in gates) == 59, "all but one to be dropped")
    # Nor does one that comes beside both.
    stack.produce(harness.Bare(broker.port), "for n in range(10): gated.delay('one')")
    harness.wait_until(
        lambda: sum(gate.count("oncegate_deliveries_total", rule="g", decision="dropped") for gate in gates) == 10,
        "all ten to be dropped at their delivery",
    )
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(2)] == ["begin", "end"]
    no_lock(store)
    stack.produce(gates[1], "fence.delay()")
    assert len(scoreboard.wait_runs(3)) == 3


def test_producers_of_both_get_every_confirm(two, raw, store):
    gates = two('[[rule]]\nname = "g"\ntask = "watched.*"\nunique = "until_expired"\n')
    clients = [raw(gate.port) for gate in gates]
    for client in clients:
        client.open_channel()
        client.declare("both")
        client.call(Confirm.Select(), Confirm.SelectOk)
    everything = [wire.Confirms() for _ in clients]
    readers = [
        threading.Thread(target=wire.read_confirms, args=(client, confirms, 500))
        for client, confirms in zip(clients, everything)
    ]
    for reader in readers:
        reader.start()
    for number in range(500):
        for client in clients:
            _, properties, payload = wire.task_message("watched.both", (number,))
            client.publish(1, "", "both", payload, properties)
    for reader in readers:
        reader.join()
    for confirms in everything:
        assert confirms.acked == set(range(1, 501)) and not confirms.surplus
    harness.wait_until(lambda: clients[0].count("both") == 500, lambda: f"500 messages, are {clients[0].count('both')}")


@pytest.mark.parametrize("where", ["the other", "the same"])
def test_a_proxy_killed_loses_no_running_task(two, stack, store, scoreboard, vhost, where):
    """Its worker reconnects, to the other proxy or to the same started anew, and runs on."""
    front, back = two(rules("gated", orphan_grace='"20s"'))
    worker = stack.worker(back, conf=addresses(vhost, back, front) if where == "the other" else None)
    stack.produce(front, "gated.delay('one')")
    [run] = scoreboard.wait_runs(1)
    runs_known(stack, store)
    back.kill()
    if where == "the same":
        back.start()
        harness.wait_until(lambda: "Connected to amqp" in worker.log().split("Connection to broker lost")[-1], "the worker")
    stack.produce(front, "gated.delay('one')")
    front.expect_publishes(1, "dropped", rule="g")
    # Past the grace, the notes' life and the questions, the lock stands: the worker knows the task.
    harness.wait_until(lambda: store.client.keys(f"*:node:*:{worker.node}@test"), "the worker to be seen again")
    assert [lock["holder"] for lock in store.locks()] == [run["id"]]
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    no_lock(store)
    gates = [front] if where == "the other" else [front, back]
    assert crashes(*gates) == 0
    stack.produce(front, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(4)] == ["begin", "end"] * 2
    no_lock(store)


@pytest.mark.parametrize("killed", [False, True])
def test_a_task_that_runs_longer_than_its_ttl_keeps_its_key(two, stack, store, scoreboard, vhost, killed):
    front, back = two(rules("gated", ttl='"20s"', orphan_grace='"20s"'))
    stack.worker(back, conf=addresses(vhost, back, front))
    stack.produce(front, "gated.delay('one')")
    [run] = scoreboard.wait_runs(1)
    begun = int(runs_known(stack, store)["expires"])
    if killed:
        back.kill()

    def renewed():
        [lock] = store.locks()
        assert lock["holder"] == run["id"]
        return int(lock["expires"]) > begun + 20_000

    harness.wait_until(renewed, "the lock to outlive its first ttl", 90, 0.2)
    stack.produce(front, "gated.delay('one')")
    front.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(2)
    no_lock(store)
    assert crashes(front) == 0


def test_a_proxy_and_its_worker_killed_free_the_key_by_the_other(two, stack, store, scoreboard):
    front, back = two(rules("gated", orphan_grace='"2s"'))
    worker = stack.worker(back)
    stack.produce(front, "gated.delay('one')")
    scoreboard.wait_runs(1)
    runs_known(stack, store)
    back.kill()
    worker.kill()
    stack.produce(front, "gated.delay('one')")
    front.expect_publishes(1, "dropped", rule="g")
    no_lock(store)
    assert crashes(front) == 1
    stack.worker(front)
    stack.produce(front, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(3)] == ["begin", "begin", "end"]


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_proxy_killed_before_its_commit_leaves_no_key_locked(gates, workspace, own_broker, store, relays, scoreboard, request, confirmed):
    """Between the publish and the broker's confirm, or between the confirm and the commit."""
    text = rules("gated", lease='"3s"')
    way = relays(store.port)
    front = gates(own_broker.port, text, store=f"redis://127.0.0.1:{way.port}/0")
    back = gates(own_broker.port, text, store=store.url)
    if front.direct:
        pytest.skip("there are no proxies")
    harness.wait_until(lambda: front.get("/readyz").json()["status"] == "ok", "the store to be there")
    client = wire.connect(front.port, "/")
    request.addfinalizer(client.drop)
    client.open_channel()
    client.declare("commit", durable=True)
    client.call(Confirm.Select(), Confirm.SelectOk)
    own_broker.freeze()
    _, properties, payload = wire.task_message("live.gated", ("one",))
    client.publish(1, "", "commit", payload, properties)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["leased"], "the lease")
    if confirmed:
        # Nobody listens there: no commit gets through.
        way.upstream_port = harness.free_port()
        way.cut()
        own_broker.thaw()
        assert isinstance(client.wait(Basic.Ack), Basic.Ack)
        front.kill()
    else:
        front.kill()
        own_broker.thaw()
    no_lock(store)
    environment = harness.app_environment(back.port, "/", "commit", scoreboard)
    harness.wait_until(lambda: back.get("/readyz").json()["status"] == "ok", "the store to be there")
    code = "print(gated.delay('one').id); fence.delay()"
    second = harness.run_producer(environment, code).stdout.strip()
    back.expect_publishes(1, "forwarded", rule="g")
    worker = harness.Worker(workspace, environment, scoreboard)
    request.addfinalizer(worker.stop)
    # If the broker has the first one too, it has run before: its id is known to the key, and no duplicate.
    scoreboard.open_gate("one", 2)
    marks = 3
    while scoreboard.wait_runs(marks)[-1]["task"] != "live.fence":
        marks += 1
    runs = scoreboard.wait_runs(marks)
    assert [run["phase"] for run in runs if run["id"] == second] == ["begin", "end"]
    no_lock(store)


def test_a_rolling_restart_under_load_loses_nothing_and_runs_nothing_twice(two, stack, store, scoreboard, vhost):
    front, back = two(rules("add", "until_expired") , proxy='drain_delay = "0s"\ndrain_timeout = "1m"')
    conf = {**addresses(vhost, front, back), "worker_prefetch_multiplier": 1}
    for gate in (front, back):
        stack.worker(gate, concurrency=2, conf=addresses(vhost, gate, back if gate is front else front))
    count = 300
    # Each call is made twice, by two producers: one runs, and the other is a duplicate wherever it passes.
    code = f"import time\nfor n in range({count}):\n    add.delay(n, 0)\n    time.sleep(0.02)\n"
    errors = []

    def produce(gate):
        try:
            stack.produce(gate, code, conf=conf)
        except BaseException as error:
            errors.append(error)

    producers = [threading.Thread(target=produce, args=(gate,)) for gate in (front, back)]
    for producer in producers:
        producer.start()
    seen = 0
    for gate in (front, back, front, back):
        seen += 20
        scoreboard.wait_runs(seen)
        gate.terminate()
        assert gate.process.wait() == 0, gate.log()[-4000:]
        gate.start()
    for producer in producers:
        producer.join()
    assert not errors
    scoreboard.wait_runs(count)
    stack.produce(front, "for n in range(20): fence.delay()")
    runs = scoreboard.wait_runs(count + 20)
    assert sorted(run["args"][0] for run in runs if run["task"] == "live.add") == list(range(count))
    assert len(store.locks()) == count
