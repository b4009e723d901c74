"""Clients of every kind behave as without the proxy, with rules that match what they send."""

import asyncio
import threading
import time

import aio_pika
import celery
import harness
import pika
import pytest
import requests
import wire

RULES = """
[[rule]]
name = "watched"
task = ["watched.*", "live.add"]
unique = "until_finished"
"""

# There is one worker, so that nobody waits for more replies than its own.
INSPECT = "app.control.inspect(timeout=60, limit=1)"


def pika_parameters(gate, vhost, **options):
    return pika.ConnectionParameters(
        "127.0.0.1", gate.port, vhost, pika.PlainCredentials("guest", "guest"), **{"heartbeat": 60, **options}
    )


@pytest.fixture
def gate(oncegate, store):
    return oncegate(RULES, store=store.url)


@pytest.mark.parametrize("confirms", [False, True])
def test_celery_with_defaults_and_with_confirms(gate, stack, results, scoreboard, confirms):
    conf = {"broker_transport_options": {"confirm_publish": True}} if confirms else {}
    stack.worker(gate, result_url=results.url, conf=conf, quick=False, concurrency=2)
    done = stack.produce(
        gate,
        "print([add.delay(n, n).get(timeout=60) for n in range(10)])\n"
        "print(plain.delay(1, 2, 3).get(timeout=60))\n"
        f"print(sorted({INSPECT}.ping().values(), key=str))\n"
        f"print(list({INSPECT}.active_queues().values())[0][0]['name'])\n",
        result_url=results.url,
        conf=conf,
    )
    assert done.stdout.splitlines() == [str([2 * n for n in range(10)]), "3", "[{'ok': 'pong'}]", stack.queue]


def test_celery_with_the_rpc_backend(gate, stack, scoreboard):
    stack.worker(gate, result_url="rpc://")
    done = stack.produce(gate, "print([plain.delay(*range(n)).get(timeout=60) for n in range(5)])", result_url="rpc://")
    assert done.stdout.strip() == str(list(range(5)))


def test_celery_with_events_and_a_revoked_task(gate, stack, scoreboard, results):
    # Celery of old says that a task is revoked only when its time has come.
    countdown = 300 if celery.VERSION >= (5, 7) else 20
    stack.worker(gate, "-E", result_url=results.url)
    done = stack.produce(
        gate,
        f"r = plain.apply_async((1,), countdown={countdown})\n"
        "import time\n"
        f"while r.id not in str({INSPECT}.scheduled()): time.sleep(0.1)\n"
        "app.control.revoke(r.id)\n"
        "from celery.exceptions import TaskRevokedError\n"
        "try: r.get(timeout=60)\n"
        "except TaskRevokedError: print('revoked')\n",
        result_url=results.url,
    )
    assert done.stdout.strip() == "revoked"


def test_a_quorum_queue(gate, stack, scoreboard):
    conf = {"task_default_queue_type": "quorum", "broker_native_delayed_delivery_queue_type": "quorum"}
    stack.worker(gate, conf=conf)
    stack.produce(gate, "for n in range(20): plain.delay(n)\nfence.delay()", conf=conf)
    assert len(scoreboard.wait_runs(21)) == 21


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_every_serializer_and_compression(gate, stack, scoreboard, serializer, compression):
    conf = {"task_serializer": serializer, "accept_content": [serializer, "json"], "task_compression": compression}
    stack.produce(gate, "add.delay(1, 2); add.delay(1, 2); add.delay(2, 2)", conf=conf)
    harness.wait_until(lambda: stack.messages() == 2, lambda: f"two of three messages, are {stack.messages()}")
    gate.expect_publishes(1, "dropped", rule="watched")


def test_protocol_1(gate, stack, scoreboard):
    # The worker comes after the calls: it would otherwise free the key between them.
    stack.produce(gate, "add.delay(1, 2); add.delay(1, 2); fence.delay()", conf={"task_protocol": 1})
    stack.worker(gate)
    assert [run["task"] for run in scoreboard.wait_runs(2)] == ["live.add", "live.fence"]


def test_pika_blocking_with_confirms(gate, vhost):
    connection = pika.BlockingConnection(pika_parameters(gate, vhost))
    channel = connection.channel()
    channel.queue_declare("pika")
    channel.confirm_delivery()
    for number in range(50):
        channel.basic_publish("", "pika", b"%d" % number, mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("", "nowhere", b"x", mandatory=True)
    seen = []
    for method, _, body in channel.consume("pika", inactivity_timeout=30):
        seen.append(int(body))
        if len(seen) == 50:
            channel.basic_ack(method.delivery_tag, multiple=True)
            break
    channel.cancel()
    assert seen == list(range(50))
    assert channel.queue_declare("pika", passive=True).method.message_count == 0
    connection.close()


def test_pika_with_confirms_selected_late(gate, vhost):
    connection = pika.BlockingConnection(pika_parameters(gate, vhost))
    channel = connection.channel()
    channel.queue_declare("late")

    def publish(number):
        _, fields, payload = wire.task_message("watched.late", (number,))
        properties = pika.BasicProperties(
            content_type="application/json", content_encoding="utf-8", headers=fields.headers, correlation_id=fields.correlation_id
        )
        channel.basic_publish("", "late", payload, properties)

    for number in range(10):
        publish(number % 5)
    channel.confirm_delivery()
    for number in range(20):
        publish(number % 10)
    harness.wait_until(
        lambda: channel.queue_declare("late", passive=True).method.message_count == (30 if gate.direct else 10), "ten messages"
    )
    gate.expect_publishes(20, "dropped", rule="watched")
    connection.close()


def test_pika_multiple_acks_settle_only_what_was_seen(gate, vhost):
    connection = pika.BlockingConnection(pika_parameters(gate, vhost))
    channel = connection.channel()
    channel.queue_declare("multi")
    for number in range(30):
        channel.basic_publish("", "multi", b"%d" % number)
    channel.basic_qos(prefetch_count=10)
    got = []
    channel.basic_consume("multi", lambda _c, method, _p, body: got.append((method.delivery_tag, int(body))))
    while len(got) < 10:
        connection.process_data_events(1)
    channel.basic_ack(got[4][0], multiple=True)
    channel.basic_nack(got[9][0], multiple=True, requeue=False)
    while len(got) < 20:
        connection.process_data_events(1)
    connection.close()
    again = pika.BlockingConnection(pika_parameters(gate, vhost))
    channel = again.channel()
    harness.wait_until(lambda: channel.queue_declare("multi", passive=True).method.message_count == 20, "twenty left")
    again.close()


def test_pika_blocked_by_nobody_keeps_its_heartbeats(gate, vhost):
    """A connection with a short heartbeat and nothing to say stays up: both legs must be kept alive.

    Short, and yet long enough for a machine that has other things to do than to beat; the time is three beats' and more,
    where two that are missed end a connection.
    """
    connection = pika.BlockingConnection(pika_parameters(gate, vhost, heartbeat=3))
    channel = connection.channel()
    end = time.monotonic() + 11
    while time.monotonic() < end:
        connection.process_data_events(0.5)
    channel.queue_declare("alive", exclusive=True)
    connection.close()


def test_a_silent_client_is_ended_after_its_heartbeats(gate, vhost):
    client = wire.connect(gate.port, vhost, heartbeat=1)
    client.until_closed(60)


def test_aio_pika(gate, vhost):
    async def talk():
        connection = await aio_pika.connect_robust(f"amqp://guest:guest@127.0.0.1:{gate.port}/{vhost}")
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.set_qos(prefetch_count=20)
            queue = await channel.declare_queue("aio")

            async def send(number):
                _, fields, payload = wire.task_message("watched.aio", (number % 50,))
                await channel.default_exchange.publish(
                    aio_pika.Message(
                        payload, headers=fields.headers, content_type="application/json", content_encoding="utf-8",
                        correlation_id=fields.correlation_id,
                    ),
                    routing_key="aio",
                )

            await asyncio.gather(*(send(number) for number in range(200)))
            count = 200 if harness.DIRECT else 50
            seen = 0
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        seen += 1
                    if seen == count:
                        break
            reply = await channel.declare_queue("", exclusive=True)
            assert reply.name.startswith("amq")
            return count, seen

    count, seen = asyncio.run(asyncio.wait_for(talk(), 90))
    wanted = 200 if gate.direct else 50
    assert (count, seen) == (wanted, wanted)


def test_aio_pika_transactions(gate, vhost):
    async def talk():
        connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{gate.port}/{vhost}")
        async with connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue("aiotx")
            async with channel.transaction():
                for _ in range(3):
                    _, fields, payload = wire.task_message("watched.aiotx", (1,))
                    await channel.default_exchange.publish(
                        aio_pika.Message(payload, headers=fields.headers, content_type="application/json"), routing_key="aiotx"
                    )
            return (await channel.declare_queue("aiotx", passive=True)).declaration_result.message_count, queue.name

    assert asyncio.run(asyncio.wait_for(talk(), 60))[0] == 3


def test_flower(gate, stack, scoreboard, workspace):
    """Flower sees the worker, its tasks and its queues through the proxy."""
    worker = stack.worker(gate, "-E", quick=False)
    port = harness.free_port()
    environment = {**stack.environment(gate), "FLOWER_UNAUTHENTICATED_API": "true"}
    flower = harness.Process(
        "flower",
        [harness.sys.executable, "-m", "celery", "-A", "app", "flower", f"--port={port}", "--address=127.0.0.1"],
        workspace,
        environment,
        cwd=harness.APPS,
    )
    try:
        url = f"http://127.0.0.1:{port}/api"

        def workers():
            try:
                answer = requests.get(f"{url}/workers?refresh=true", timeout=30)
                return answer.ok and f"{worker.node}@test" in answer.json()
            except requests.RequestException:
                return False

        harness.wait_until(workers, lambda: f"Flower to see the worker: {flower.output()[-2000:]}", interval=0.3)

        def succeeded():
            # It asks workers before it listens to their events, so the first tasks may pass it by.
            stack.produce(gate, "add.delay(3, 4)")
            try:
                tasks = requests.get(f"{url}/tasks", timeout=30).json().values()
            except requests.RequestException:
                return False
            return [task for task in tasks if task["name"] == "live.add" and task["state"] == "SUCCESS"]

        harness.wait_until(succeeded, lambda: f"Flower to see a task succeed: {flower.output()[-2000:]}", interval=0.3)
    finally:
        flower.stop()


def test_many_connections_come_and_go(gate, vhost):
    errors = []

    def churn():
        try:
            for number in range(40):
                client = wire.connect(gate.port, vhost)
                client.open_channel()
                client.open_channel(2)
                client.declare("", exclusive=True)
                client.close() if number % 2 else client.drop()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=churn) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    gate.expect("oncegate_connections", 0)
