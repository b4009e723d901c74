"""Redis restarted empty, and a broker restarted, while a task is queued, delivered or running: its key stays locked."""

import harness
import pytest
import wire


def rules(task, **keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "until_finished"\n{lines}'


def restart_empty(store):
    store.kill()
    store.start()
    assert store.client.info("persistence")["rdb_last_load_keys_loaded"] == 0, "what is there came after the restart"


def locked_again(store, holder):
    """Nobody has published anything since the restart: who keeps the lock has taken it again."""
    [lock] = harness.wait_until(store.locks, "the lock to be taken again")
    assert lock["holder"] == holder
    return lock


def dropped(stack, gate, task, wanted=1):
    stack.produce(gate, f"{task}.delay('one')")
    gate.expect_publishes(wanted, "dropped", rule="g")


def ends(stack, gate, store, scoreboard, task, marks):
    """The task ends, its key is free, and the next call runs."""
    scoreboard.open_gate("one")
    scoreboard.wait_runs(marks + 1)
    harness.wait_until(lambda: not store.locks(), "the lock to go")
    stack.produce(gate, f"{task}.delay('one')")
    scoreboard.open_gate("one")
    runs = scoreboard.wait_runs(marks + 3)
    assert [run["phase"] for run in runs[marks + 1 :]] == ["begin", "end"]
    assert runs[-1]["id"] != runs[0]["id"]
    harness.wait_until(lambda: not store.locks(), "the lock to go")


def test_queued_when_the_store_forgets_it_is_decided_at_its_delivery(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated"), store=store.url)
    stack.produce(gate, "gated.delay('one')")
    [before] = store.wait_locks(1, "queued")
    restart_empty(store)
    stack.worker(gate)
    scoreboard.wait_runs(1)
    assert locked_again(store, before["holder"])
    dropped(stack, gate, "gated")
    ends(stack, gate, store, scoreboard, "gated", 1)


def test_of_two_calls_that_a_forgetful_store_let_pass_one_runs(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated"), store=store.url)
    stack.produce(gate, "gated.delay('one')")
    store.wait_locks(1, "queued")
    restart_empty(store)
    stack.produce(gate, "gated.delay('one')")
    harness.wait_until(lambda: stack.messages() == 2, "both to be queued")
    harness.wait_until(store.locks, "the second to have the lock")
    stack.worker(gate, concurrency=2)
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="dropped")
    scoreboard.open_gate("one", 2)
    assert [run["phase"] for run in scoreboard.wait_runs(2)] == ["begin", "end"]
    harness.wait_until(lambda: not store.locks(), "the lock to go")
    stack.produce(gate, "fence.delay()")
    assert [run["task"] for run in scoreboard.wait_runs(3)] == ["live.gated", "live.gated", "live.fence"]


@pytest.mark.parametrize("task, conf", [("late", {}), ("gated", {"task_acks_late": True})])
def test_running_unacknowledged_it_is_locked_again(oncegate, stack, store, scoreboard, task, conf):
    gate = oncegate(rules(task, acks_late="true"), store=store.url)
    stack.worker(gate, conf=conf)
    stack.produce(gate, f"{task}.delay('one')")
    [run] = scoreboard.wait_runs(1)
    store.wait_locks(1, "running")
    for _ in range(2):
        restart_empty(store)
        lock = locked_again(store, run["id"])
        assert "-" not in lock["publishes"], "its message is in flight"
        # Its start was heard before, and is not forgotten.
        store.wait_locks(1, "running")
    dropped(stack, gate, task)
    ends(stack, gate, store, scoreboard, task, 1)


def test_running_acknowledged_it_is_locked_again(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated"), store=store.url)
    worker = stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    [run] = scoreboard.wait_runs(1)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
    for _ in range(2):
        restart_empty(store)
        lock = locked_again(store, run["id"])
        assert (lock["state"], lock["worker"]) == ("running", f"{worker.node}@test")
        assert "-" in lock["publishes"], "its message is settled"
    dropped(stack, gate, "gated")
    ends(stack, gate, store, scoreboard, "gated", 1)


def test_what_a_worker_has_in_hand_and_has_not_begun_is_locked_again(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated") + rules("note").replace('"g"', '"n"'), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated.delay('one'); note.delay(1); note.delay(2)")
    [run] = scoreboard.wait_runs(1)
    gate.expect("oncegate_deliveries_total", 2, rule="n", decision="forwarded")
    before = {lock["holder"] for lock in store.wait_locks(3)}
    assert run["id"] in before
    restart_empty(store)
    harness.wait_until(lambda: {lock["holder"] for lock in store.locks()} == before, "all three to be locked again")
    stack.produce(gate, "note.delay(1); note.delay(2)")
    gate.expect_publishes(2, "dropped", rule="n")
    scoreboard.open_gate("one")
    scoreboard.wait_runs(4)
    harness.wait_until(lambda: not store.locks(), "the locks to go")


def test_delivered_while_the_store_is_away_it_is_locked_when_the_store_is_back(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "fence.delay()")
    scoreboard.wait_runs(1)
    store.kill()
    stack.produce(gate, "gated.delay('one')")
    runs = scoreboard.wait_runs(2)
    gate.expect("oncegate_deliveries_total", 1, rule="g", decision="forwarded_unchecked")
    store.start()
    assert locked_again(store, runs[1]["id"])
    dropped(stack, gate, "gated")
    ends(stack, gate, store, scoreboard, "gated", 2)


def test_ended_while_the_store_was_away_it_is_not_locked_again(oncegate, stack, store, scoreboard):
    gate = oncegate(rules("gated"), store=store.url)
    stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: [lock["state"] for lock in store.locks()] == ["running"], "the start to be known")
    store.kill()
    scoreboard.open_gate("one")
    # The event of its end is told before the fence's.
    scoreboard.wait_runs(2)
    stack.produce(gate, "fence.delay()")
    scoreboard.wait_runs(3)
    store.start()
    harness.wait_until(lambda: gate.get("/readyz").json()["status"] == "ok", "the store to be back")
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(5)[3:]] == ["begin", "end"]
    harness.wait_until(lambda: not store.locks(), "the lock to go")


def test_killed_after_its_lock_was_taken_again_a_worker_loses_it(oncegate, stack, store, scoreboard, broker, vhost, raw):
    gate = oncegate(rules("gated", orphan_grace='"2s"'), store=store.url)
    worker = stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    [run] = scoreboard.wait_runs(1)
    # Acknowledged, as far as the broker knows: it is not delivered again.
    store.wait_locks(1, "running")
    harness.wait_until(lambda: broker.settled(vhost, stack.queue), "the ack to arrive")
    client = raw(gate.port)
    client.open_channel()
    restart_empty(store)
    locked_again(store, run["id"])
    worker.kill()
    # From a client that is connected already: a producer takes a while to start, and the lock goes meanwhile.
    _, properties, payload = wire.task_message("live.gated", ("one",))
    client.publish(1, "", stack.queue, payload, properties)
    gate.expect_publishes(1, "dropped", rule="g")
    harness.wait_until(lambda: not store.locks(), "the lock to go", 2 * harness.DEADLINE)
    gate.expect("oncegate_locks_released_total", 1, rule="g", reason="crash")
    stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert [run["phase"] for run in scoreboard.wait_runs(3)[1:]] == ["begin", "end"]


def test_the_broker_restarted_while_queued_delivered_and_running(gates, workspace, own_broker, store, scoreboard, request):
    """What was delivered runs again, and once more; what runs early-acked ends; nobody else runs for their keys."""
    gate = gates(
        own_broker.port, rules("gated") + rules("late", acks_late="true").replace('"g"', '"l"'), store=store.url
    )
    environment = harness.app_environment(gate.port, "/", "restart", scoreboard)
    workers = [harness.Worker(workspace, environment, scoreboard, concurrency=3)]
    request.addfinalizer(lambda: [worker.stop() for worker in workers])

    def produce(code):
        return harness.run_producer(environment, code)

    def wait_locks(wanted, what):
        harness.wait_until(lambda: {lock["holder"] for lock in store.locks()} == wanted, what)

    produce("gated.delay('early'); late.delay('late')")
    early, late = sorted(scoreboard.wait_runs(2), key=lambda run: run["task"])
    produce("gated.apply_async(('queued',), queue='nobody')")
    holders = {lock["holder"] for lock in store.wait_locks(3)}
    assert {early["id"], late["id"]} < holders
    harness.wait_until(
        lambda: {lock["holder"]: lock["state"] for lock in store.locks()}[early["id"]] == "running", "the early ack to be known"
    )
    own_broker.write_down("restart", "nobody")
    own_broker.kill(written=True)
    own_broker.start()
    # The worker comes back, and is given what it had not acknowledged: the same again.
    again = scoreboard.wait_runs(3)[2]
    assert (again["id"], again["phase"]) == (late["id"], "begin")
    wait_locks(holders, "the keys to be locked still")
    produce("gated.delay('early'); late.delay('late'); gated.apply_async(('queued',), queue='nobody')")
    gate.expect_publishes(2, "dropped", rule="g")
    gate.expect_publishes(1, "dropped", rule="l")
    scoreboard.open_gate("early")
    scoreboard.open_gate("late", 2)
    scoreboard.wait_runs(6)
    wait_locks(holders - {early["id"], late["id"]}, "the keys of what has ended to be free")
    produce("gated.delay('early'); late.delay('late')")
    scoreboard.open_gate("early")
    scoreboard.open_gate("late")
    assert len(scoreboard.wait_runs(10)) == 10


@pytest.mark.parametrize("task", ["gated", "late"])
def test_what_waits_for_a_run_does_not_begin_beside_it_when_the_store_forgets(oncegate, stack, store, scoreboard, task):
    """One proxy follows the run, another holds what waits for it and is the first to reach the empty store."""
    late = str(task == "late").lower()
    lines = f'[[rule]]\nname = "g"\ntask = "live.{task}"\nunique = "while_running"\nacks_late = {late}\n'
    runs_on, waits_on = oncegate(lines, store=store.url), oncegate(lines, store=store.url)
    if runs_on.direct:
        pytest.skip("there are no proxies")
    stack.worker(runs_on)
    stack.produce(runs_on, f"{task}.delay('one')")
    [first] = scoreboard.wait_runs(1)
    stack.worker(waits_on)
    # Each worker is given some of them.
    stack.produce(waits_on, f"for _ in range(4): {task}.delay('one')")

    def held():
        return [gate.count("oncegate_held_messages") for gate in (runs_on, waits_on)]

    harness.wait_until(lambda: sum(held()) == 4 and held()[1] > 0, "all to be held")

    def run_locks():
        return [store.client.hget(key, "holder") for key in store.client.keys("*:run:*")]

    def reached():
        """The one that waits has asked the empty store; before that it is of no use that the run is known again."""
        return store.client.keys("*:seen:*") or run_locks()

    for _ in range(2):
        runs_on.process.freeze()
        restart_empty(store)
        harness.wait_until(reached, "the one that waits to ask")
        runs_on.process.thaw()
        harness.wait_until(lambda: run_locks() == [first["id"]], "the run to be locked again")
        assert sum(held()) == 4
    assert [run["phase"] for run in scoreboard.wait_runs(1)] == ["begin"]
    scoreboard.open_gate("one", 5)
    runs = scoreboard.wait_runs(10)
    assert [run["phase"] for run in runs] == ["begin", "end"] * 5
    assert len({run["id"] for run in runs}) == 5
    harness.wait_until(lambda: not run_locks(), "the running lock to go")
