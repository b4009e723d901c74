"""Running locks: of two tasks of one key one waits, held at the proxy, and what comes behind it goes on."""


import harness
import pika
import pytest

RULES = '[[rule]]\nname = "g"\ntask = "live.gated"\nunique = "while_running"\norphan_grace = "2s"\n'

CLASSIC = {}
QUORUM = {"task_default_queue_type": "quorum"}


def held(gate, wanted):
    harness.wait_until(lambda: gate.count("oncegate_held_messages") == wanted, f"{wanted} to be held")


def decided(gate, wanted, decision):
    gate.expect("oncegate_deliveries_total", wanted, rule="g", decision=decision)


def phases(runs, task="live.gated"):
    return [run["phase"] for run in runs if run["task"] == task]


@pytest.mark.parametrize("conf", [CLASSIC, QUORUM], ids=["classic", "quorum"])
def test_the_second_waits_until_the_first_has_ended_and_others_go_on(oncegate, stack, store, scoreboard, conf):
    gate = oncegate(RULES, store=store.url)
    for _ in range(2):
        stack.worker(gate, concurrency=2, conf=conf)
    stack.produce(gate, "gated.delay('one')", conf=conf)
    scoreboard.wait_runs(1)
    stack.produce(gate, "for _ in range(20): gated.delay('one')", conf=conf)
    held(gate, 20)
    assert gate.count("oncegate_held_oldest_seconds") > 0
    # Two workers have windows of eight places, more than which are held.
    stack.produce(gate, "for n in range(50): plain.delay(n)", conf=conf)
    runs = scoreboard.wait_runs(51)
    assert phases(runs) == ["begin"]
    for done in range(21):
        scoreboard.open_gate("one")
        runs = scoreboard.wait_runs(51 + 1 + 2 * done + (done < 20))
    assert phases(runs) == ["begin", "end"] * 21
    held(gate, 0)
    decided(gate, 20, "held")
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    assert gate.count("oncegate_deliveries_total", rule="g", decision="forwarded_unchecked") == 0


def test_what_waits_runs_in_the_order_in_which_it_came(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES.replace("live.gated", "live.late") + "acks_late = true\nkey = []\n", store=store.url)
    for _ in range(2):
        stack.worker(gate, concurrency=2)
    stack.produce(gate, "late.delay('0')")
    scoreboard.wait_runs(1)
    for number in range(1, 6):
        stack.produce(gate, f"late.delay('{number}')")
        held(gate, number)
    for number in range(6):
        scoreboard.open_gate(str(number))
    runs = scoreboard.wait_runs(12, timeout=60)
    assert [(run["args"][0], run["phase"]) for run in runs] == [(str(number), phase) for number in range(6) for phase in ("begin", "end")]


def test_one_that_is_not_to_wait_is_dropped(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES + 'on_running = "drop"\n', store=store.url)
    for _ in range(2):
        stack.worker(gate, concurrency=2)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(gate, "for _ in range(3): gated.delay('one')\ngated.delay('two')")
    decided(gate, 3, "dropped")
    scoreboard.wait_runs(2)
    scoreboard.open_gate("one")
    scoreboard.open_gate("two")
    runs = scoreboard.wait_runs(4)
    assert sorted(run["args"][0] for run in runs) == ["one", "one", "two", "two"]
    harness.wait_until(lambda: stack.messages() == 0, "the queue to be empty")
    # The key is free again.
    harness.wait_until(lambda: not store.client.keys("*:run:*"), "the running locks to go")
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert len(scoreboard.wait_runs(6)) == 6
    assert gate.count("oncegate_held_messages") == 0


def test_two_locks_let_one_run_and_one_wait_and_drop_the_third(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES.replace('"while_running"', '"until_started+while_running"'), store=store.url)
    for _ in range(2):
        stack.worker(gate, concurrency=2)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    harness.wait_until(lambda: not store.locks(), "the publish lock to go with the start")
    stack.produce(gate, "gated.delay('one')")
    held(gate, 1)
    stack.produce(gate, "gated.delay('one')")
    gate.expect_publishes(1, "dropped", rule="g")
    scoreboard.open_gate("one", 2)
    assert phases(scoreboard.wait_runs(4)) == ["begin", "end"] * 2
    harness.wait_until(lambda: not store.locks(), "the publish lock of the second to go")
    stack.produce(gate, "gated.delay('one')")
    scoreboard.open_gate("one")
    assert phases(scoreboard.wait_runs(6)) == ["begin", "end"] * 3


def test_a_retry_keeps_the_lock(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES.replace("live.gated", "live.gated_retry"), store=store.url)
    for _ in range(2):
        stack.worker(gate, concurrency=2)
    stack.produce(gate, "gated_retry.delay('one')")
    [first] = scoreboard.wait_runs(1)
    stack.produce(gate, "gated_retry.delay('one')")
    held(gate, 1)
    scoreboard.open_gate("one", 2)
    runs = scoreboard.wait_runs(6)
    assert [run["phase"] for run in runs] == ["begin", "end", "retried"] * 2
    assert [run["id"] == first["id"] for run in runs] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_after_a_crash_the_one_that_waits_runs(oncegate, stack, store, scoreboard, late):
    task = "late" if late else "gated"
    rules = RULES.replace("live.gated", f"live.{task}") + f"acks_late = {str(late).lower()}\nkey = []\n"
    gate = oncegate(rules, store=store.url)
    first = stack.worker(gate)
    stack.produce(gate, f"{task}.delay('one')")
    scoreboard.wait_runs(1)
    stack.worker(gate)
    stack.produce(gate, f"{task}.delay('two')")
    held(gate, 1)
    first.kill()
    # What is late-acked comes again; nobody knows that its first run is over until the worker is known to be gone.
    left = {"one", "two"} if late else {"two"}
    done = 1
    while left:
        runs = scoreboard.wait_runs(done + 1)
        name = runs[done]["args"][0]
        assert runs[done]["phase"] == "begin"
        left.remove(name)
        scoreboard.open_gate(name)
        runs = scoreboard.wait_runs(done + 2)
        assert (runs[done + 1]["args"][0], runs[done + 1]["phase"]) == (name, "end")
        done += 2
    held(gate, 0)


def running_lock(store):
    """The one running lock, if there is one."""
    return next((store.client.hgetall(key) for key in store.client.keys("*:run:*")), {})


def expires_ms(store):
    return int(running_lock(store).get("expires", 0))


def test_a_run_that_was_acknowledged_early_outlives_its_running_ttl(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES + 'running_ttl = "3s"\n', store=store.url)
    for _ in range(2):
        stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(gate, "gated.delay('one')")
    held(gate, 1)
    first = expires_ms(store)
    harness.wait_until(lambda: expires_ms(store) > first + 6_000, "the running lock to be renewed for two of its lives")
    held(gate, 1)
    assert phases(scoreboard.wait_runs(1)) == ["begin"]
    scoreboard.open_gate("one", 2)
    assert phases(scoreboard.wait_runs(4)) == ["begin", "end"] * 2
    harness.wait_until(lambda: not running_lock(store), "the running lock to go")


def test_a_warm_shutdown_gives_back_what_is_held(oncegate, stack, store, scoreboard):
    gate = oncegate(RULES + 'acks_late = false\n', store=store.url)
    first = stack.worker(gate)
    stack.produce(gate, "gated.delay('one')")
    scoreboard.wait_runs(1)
    stack.produce(gate, "gated.delay('one')")
    held(gate, 1)
    first.terminate()
    held(gate, 0)
    harness.wait_until(lambda: stack.messages() == 1, "it to be in its queue")
    scoreboard.open_gate("one", 2)
    stack.worker(gate)
    assert phases(scoreboard.wait_runs(4)) == ["begin", "end"] * 2


def test_a_multiple_of_a_client_settles_nothing_that_is_held(oncegate, stack, vhost, store):
    rule = RULES.replace("live.gated", "live.late") + "acks_late = true\nkey = []\n"
    gate = oncegate(rule, store=store.url)
    names = ["late", "plain", "late", "plain", "late", "plain"]
    stack.produce(gate, "\n".join(f"{name}.delay({number})" for number, name in enumerate(names)))
    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{gate.port}/{vhost}"))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=2)
    seen = []

    def see(_channel, method, properties, _body):
        seen.append((method.delivery_tag, properties.headers["argsrepr"]))

    def sees(wanted):
        harness.wait_until(lambda: connection.process_data_events(0.05) or len(seen) >= len(wanted), f"{wanted}")
        assert [args for _, args in seen] == wanted
        assert [tag for tag, _ in seen] == sorted({tag for tag, _ in seen})

    channel.basic_consume(stack.queue, see)
    sees(["(0,)", "(1,)"])
    channel.basic_ack(seen[1][0])
    sees(["(0,)", "(1,)", "(3,)"])
    channel.basic_ack(seen[2][0])
    sees(["(0,)", "(1,)", "(3,)", "(5,)"])
    held(gate, 2)
    # The first ends with this, and not those that wait for it.
    channel.basic_ack(seen[3][0], multiple=True)
    sees(["(0,)", "(1,)", "(3,)", "(5,)", "(2,)"])
    channel.basic_ack(0, multiple=True)
    sees(["(0,)", "(1,)", "(3,)", "(5,)", "(2,)", "(4,)"])
    channel.basic_nack(seen[5][0], requeue=True)
    sees(["(0,)", "(1,)", "(3,)", "(5,)", "(2,)", "(4,)", "(4,)"])
    channel.basic_ack(seen[6][0])
    connection.close()
    assert stack.messages() == 0
    decided(gate, 2, "held")
