"""Where the applications of the libraries' examples find their Celery app.

Runs are noted from Celery's own signals, so that the tasks stand as their authors wrote them.
"""

import json
import os
import time
import types

from app import NAME, app, board
from celery import signals

celery_app = app


def note_run(task, task_id, phase, args, kwargs):
    record = {
        "task": task.name,
        "id": task_id,
        "args": list(args or ()),
        "kwargs": dict(kwargs or {}),
        "retries": task.request.retries,
        "phase": phase,
        "pid": os.getpid(),
        "at": time.time(),
    }
    board().rpush(f"{NAME}:runs", json.dumps(record, default=str))


@signals.task_prerun.connect
def begins(sender=None, task_id=None, args=None, kwargs=None, **_):
    if sender.name.startswith("tasks."):
        note_run(sender, task_id, "begin", args, kwargs)


@signals.task_postrun.connect
def ends(sender=None, task_id=None, args=None, kwargs=None, state=None, **_):
    """Not sent where the run is killed, by a hard time limit or a revoke."""
    if sender.name.startswith("tasks."):
        note_run(sender, task_id, state, args, kwargs)


def wait_for(name):
    """Until the test opens the gate of this name."""
    assert board().blpop([f"{NAME}:gate:{name}"], timeout=120), "nobody opened the gate"


def sleep(seconds):
    """As long as the test lets it last: on no machine is it over before the test has looked."""
    wait_for(f"sleep {seconds}")


# What the applications know as `time`.
slow_time = types.SimpleNamespace(sleep=sleep)
