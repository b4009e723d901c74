"""A Celery application as users write them; where it connects comes from the environment."""

import json
import os
import socket
import time

import redis
from celery import Celery, chain, chord, group, signals  # noqa: F401
from kombu import Exchange, Queue


def _application():
    celery = Celery("app", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"] or None)
    queue = os.environ["APP_QUEUE"]
    celery.conf.update(
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
        **json.loads(os.environ["APP_CONF"]),
    )
    return celery


app = _application()
NAME = os.environ["APP_SCOREBOARD_NAME"]
_board = None


def board():
    """One connection per process: pool children must not share their parent's."""
    global _board
    if _board is None or _board[0] != os.getpid():
        _board = (os.getpid(), redis.Redis.from_url(os.environ["APP_SCOREBOARD"], decode_responses=True, socket_timeout=None))
    return _board[1]


def mark(task, **fields):
    record = {
        "task": task.name,
        "id": task.request.id,
        "args": list(task.request.args or ()),
        "kwargs": dict(task.request.kwargs or {}),
        "retries": task.request.retries,
        "pid": os.getpid(),
        "at": time.time(),
        **fields,
    }
    board().rpush(f"{NAME}:runs", json.dumps(record, default=str))


@signals.worker_ready.connect
def ready(sender=None, **_):
    board().rpush(f"{NAME}:ready:{sender.hostname.split('@')[0]}", "ready")


@app.task(bind=True, name="live.add")
def add(self, a, b):
    mark(self)
    return a + b


@app.task(bind=True, name="live.note")
def note(self, *args, **kwargs):
    mark(self)
    return list(args)


@app.task(bind=True, name="live.plain")
def plain(self, *args, **kwargs):
    """No rule names this one."""
    mark(self)
    return len(args)


@app.task(bind=True, name="live.bulk")
def bulk(self, number, blob):
    mark(self, args=[number], kwargs={})


@app.task(bind=True, name="live.plainbulk")
def plainbulk(self, number, blob):
    mark(self, args=[number], kwargs={})


@app.task(bind=True, name="live.fence")
def fence(self, *args):
    """Runs after all that was sent before it, where one worker runs one task at a time."""
    mark(self)


def _wait_gate(self, name):
    mark(self, phase="begin")
    assert board().blpop([f"{NAME}:gate:{name}"], timeout=120), "nobody opened the gate"
    mark(self, phase="end")


@app.task(bind=True, name="live.gated")
def gated(self, name):
    _wait_gate(self, name)
    return name


@app.task(bind=True, name="live.gated_failure")
def gated_failure(self, name):
    _wait_gate(self, name)
    raise ValueError(name)


@app.task(bind=True, name="live.late", acks_late=True)
def late(self, name):
    _wait_gate(self, name)
    return name


@app.task(bind=True, name="live.flaky", max_retries=5)
def flaky(self, fails):
    mark(self)
    if self.request.retries < fails:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True, name="live.retrying", max_retries=5)
def retrying(self, fails):
    """Retries after Celery's own delay, of three minutes."""
    mark(self, eta=self.request.eta)
    if self.request.retries < fails:
        raise self.retry()
    return self.request.retries


@app.task(bind=True, name="live.tick")
def tick(self, *args):
    """A task that beats publish."""
    mark(self, origin=self.request.origin)


@app.task(bind=True, name="live.gated_retry", max_retries=5)
def gated_retry(self, name):
    if self.request.retries:
        mark(self, phase="retried")
        return
    _wait_gate(self, name)
    raise self.retry(countdown=0)


@app.task(bind=True, name="live.late_retry", max_retries=5, acks_late=True)
def late_retry(self, name, countdown):
    _wait_gate(self, name)
    if countdown and not self.request.retries:
        raise self.retry(countdown=countdown)


@app.task(bind=True, name="live.flaky_late", max_retries=5, acks_late=True)
def flaky_late(self, fails):
    mark(self)
    if self.request.retries < fails:
        raise self.retry(countdown=0)
    return self.request.retries


def _put_off(self, times):
    mark(self)
    if board().incr(f"{NAME}:again:{self.request.id}") <= times:
        self.request.retries -= 1
        raise self.retry(countdown=0)


@app.task(bind=True, name="live.again", max_retries=0)
def again(self, times):
    """Puts itself off as libraries' rate limits do, by retries that count for nothing."""
    _put_off(self, times)


@app.task(bind=True, name="live.again_late", max_retries=0, acks_late=True)
def again_late(self, times):
    _put_off(self, times)


@app.task(bind=True, name="live.failing")
def failing(self, *args):
    mark(self)
    raise ValueError(args)


@app.task(bind=True, name="live.total")
def total(self, numbers):
    mark(self)
    return sum(numbers)


HOST = socket.gethostname()
assert Exchange and Queue
