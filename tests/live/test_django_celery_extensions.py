"""The examples of django-celery-extensions' documentation with plain tasks, under config/examples/django-celery-extensions.toml."""

import datetime

import harness
import pytest
from wire import Basic


@pytest.fixture
def extensions(library):
    return library("django-celery-extensions")


def ask(extensions, path, task, *args, **more):
    body = {"task": f"tasks.{task}", "args": list(args), "vhost": extensions.vhost, **more}
    answer = extensions.gate.post(f"/api/v1/{path}", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_default_retry_delays(extensions, raw):
    worker = extensions.worker()
    extensions.produce("notify_user_with_retries.delay(1)")
    [run] = extensions.wait_runs("notify_user_with_retries", 1)
    harness.wait_until(lambda: worker.log().count("notify_user_with_retries") >= 2, "the retry to be with the worker")
    now = datetime.datetime.now().timestamp()
    worker.kill()
    extensions.wait_messages(1)
    client = raw()
    client.open_channel()
    client.call(Basic.Get(queue=extensions.queue), Basic.GetOk)
    headers = client.content()[0].properties.headers
    assert headers["retries"] == 1
    eta = datetime.datetime.fromisoformat(headers["eta"]).timestamp()
    assert run["at"] + 60 <= eta <= now + 60


def test_unique(extensions):
    extensions.worker()
    first = extensions.produce("print(notify_user_once.delay(1).id)").strip()
    extensions.wait_lock("running")
    extensions.produce("notify_user_once.delay(1)\nnotify_user_once.delay(user_pk=1)\nnotify_user_once.delay(2)")
    extensions.dropped(2, "once")
    for user in (1, 2):
        extensions.scoreboard.open_gate(f"notify {user}")
    runs = extensions.wait_runs("notify_user_once", 2, "SUCCESS")
    assert runs[0]["id"] == first and [run["args"] for run in runs] == [[1], [2]]
    extensions.wait_free()
    extensions.scoreboard.open_gate("notify 1")
    extensions.produce("notify_user_once.delay(1)")
    extensions.wait_runs("notify_user_once", 3, "SUCCESS")


def test_is_processing(extensions):
    assert ask(extensions, "lookup", "notify_user_once", 1)["locked"] is False
    extensions.produce("notify_user_once.delay(1)")
    assert ask(extensions, "lookup", "notify_user_once", 1)["state"] == "queued"
    extensions.worker()
    extensions.wait_lock("running")
    assert ask(extensions, "lookup", "notify_user_once", 1)["locked"] is True
    extensions.scoreboard.open_gate("notify 1")
    extensions.wait_free()
    assert ask(extensions, "lookup", "notify_user_once", 1)["locked"] is False


def test_commands_are_unique(extensions):
    extensions.worker()
    extensions.produce("clearsessions.delay()")
    extensions.wait_lock("running")
    extensions.produce("clearsessions.delay()")
    extensions.dropped(1, "commands")
    extensions.scoreboard.open_gate("notify clearsessions")
    extensions.wait_free()
    extensions.released(1, "commands", "success")


def test_ignore_task_after_success(extensions):
    extensions.worker()
    extensions.produce("notify_user_sometimes.delay(5)")
    extensions.wait_runs("notify_user_sometimes", 1, "SUCCESS")
    rests = extensions.wait_lock("cooldown")
    assert int(rests["expires"]) - int(rests["since"]) >= 5 * 3600 * 1000
    extensions.produce("notify_user_sometimes.delay(5)")
    extensions.dropped(1, "sometimes")
    # A failure does not count.
    for count in (1, 2):
        extensions.produce("notify_user_sometimes.delay(-1)")
        extensions.wait_runs("notify_user_sometimes", count, "FAILURE")
        harness.wait_until(lambda: len(extensions.locks()) == 1, "its lock to go")


def test_set_ignore_task(extensions):
    extensions.worker()
    ask(extensions, "cooldown", "notify_user_sometimes", 7, seconds=3600)
    extensions.produce("notify_user_sometimes.delay(7)\nnotify_user_sometimes.delay(8)")
    extensions.dropped(1, "sometimes")
    [run] = extensions.wait_runs("notify_user_sometimes", 1, "SUCCESS")
    assert run["args"] == [8]
