"""The examples of celery-heimdall's README with plain tasks, under config/examples/celery-heimdall.toml."""

import json

import pytest


@pytest.fixture
def heimdall(library, results):
    return library("celery-heimdall", results)


def ids(runs):
    return [run["id"] for run in runs]


def test_the_api_call_starts_one_report(heimdall):
    heimdall.worker(concurrency=2)
    answers = heimdall.produce("import json\nfor _ in range(3): print(json.dumps(my_api_call(17)))").splitlines()
    first, *_ = [json.loads(answer)["task_id"] for answer in answers]
    heimdall.dropped(2, "one-per-customer")
    heimdall.produce("print(my_api_call(18))")
    heimdall.wait_runs("generate_report", 2)
    heimdall.wake(10, 2)
    heimdall.wait_runs("generate_report", 2, "SUCCESS")
    runs = heimdall.runs("generate_report")
    assert [run["args"] for run in runs] == [[17], [18]]
    assert ids(runs)[0] == first
    heimdall.wait_free()
    heimdall.released(2, "one-per-customer", "success")
    heimdall.produce("my_api_call(17)")
    heimdall.wait_runs("generate_report", 3)


def test_a_call_while_it_runs_leaves_the_lock_to_the_holder(heimdall):
    """With the library a call by name ends as a SUCCESS that deletes the lock of the one that runs; the next overlaps."""
    heimdall.worker(concurrency=2)
    first = heimdall.produce("print(generate_report.delay(17).id)").strip()
    heimdall.wait_runs("generate_report", 1)
    heimdall.wait_lock("running")
    for count in (1, 2):
        heimdall.produce("celery_app.send_task('tasks.generate_report', (17,))")
        heimdall.dropped(count, "one-per-customer")
        assert heimdall.wait_lock("running")["holder"] == first
    heimdall.wake(10)
    heimdall.wait_runs("generate_report", 1, "SUCCESS")
    heimdall.wait_free()
    assert ids(heimdall.runs("generate_report")) == [first]


def test_by_position_and_by_name_are_one_call(heimdall):
    heimdall.worker()
    heimdall.occupy()
    heimdall.produce("generate_report_expiry.delay(17)\ngenerate_report_expiry.delay(customer_id=17)")
    heimdall.dropped(1, "one-per-customer")
    heimdall.vacate()
    heimdall.wait_free()
    assert [run["args"] for run in heimdall.wait_runs("generate_report_expiry", 1)] == [[17]]


def test_expiry(heimdall):
    """No worker ever takes the task: an hour after the call the next one goes through."""
    heimdall.produce("generate_report_expiry.delay(17)\ngenerate_report_expiry.delay(17)")
    heimdall.forwarded(1, "one-per-customer")
    heimdall.dropped(1, "one-per-customer")
    lock = heimdall.wait_lock("queued")
    assert 3_000_000 < heimdall.store.client.pttl(lock["key"]) <= 3_600_000
    # The hour is over.
    assert heimdall.store.client.pexpire(lock["key"], 1)
    heimdall.wait_free()
    heimdall.produce("generate_report_expiry.delay(17)")
    heimdall.forwarded(2, "one-per-customer")


def test_who_has_it_and_for_how_long(heimdall):
    """What `likely_culprit` and `expires_in` tell, asked before the call."""
    question = {"task": "tasks.generate_report_expiry", "args": [17], "kwargs": {}, "vhost": heimdall.vhost}
    assert heimdall.gate.post("/api/v1/lookup", question).json()["locked"] is False
    first = heimdall.produce("print(generate_report_expiry.delay(17).id)").strip()
    heimdall.wait_lock("queued")
    answer = heimdall.gate.post("/api/v1/lookup", question).json()
    assert (answer["locked"], answer["holder"]) == (True, first)
    assert 3_000 < answer["expires_in"] <= 3_600


def test_unique_raises(heimdall):
    code = "import json\nfor _ in range(2): print(json.dumps(my_api_call_that_raises(17)))"
    started, refused = [json.loads(answer) for answer in heimdall.produce_confirmed(code).splitlines()]
    assert (started["status"], refused["status"]) == ("STARTED", "ALREADY_RUNNING")
    assert refused["task_id"] == started["task_id"]
    assert 3500 < int(refused["expires_in"].split()[0]) <= 3600
    heimdall.gate.expect_publishes(1, "raised", rule="raising")


def test_custom_key(heimdall):
    heimdall.worker()
    heimdall.occupy()
    heimdall.produce("for customer in (17, 18, 19): generate_report_custom_key.delay(customer)")
    heimdall.dropped(2, "one-report")
    heimdall.vacate()
    heimdall.wait_free()
    assert [run["args"] for run in heimdall.wait_runs("generate_report_custom_key", 1)] == [[17]]
    heimdall.released(1, "one-report", "success")


def test_unique_interval_task(heimdall):
    heimdall.worker()
    heimdall.produce("generate_report_interval.delay(17)")
    heimdall.wait_runs("generate_report_interval", 1, "SUCCESS")
    heimdall.produce("generate_report_interval.delay(17)\ngenerate_report_interval.delay(18)")
    heimdall.dropped(1, "once-an-hour")
    runs = heimdall.wait_runs("generate_report_interval", 2, "SUCCESS")
    assert [run["args"] for run in runs] == [[17], [18]]
    locks = heimdall.locks()
    assert len(locks) == 2
    for lock in locks:
        assert 3_000_000 < heimdall.store.client.pttl(lock["key"]) <= 3_600_000


def test_a_retry_is_not_lost(heimdall):
    """With the library the first retry finds its own lock, and is not sent."""
    heimdall.worker()
    heimdall.produce("retries.delay(2)")
    runs = heimdall.wait_runs("retries", 3)
    assert [run["retries"] for run in runs] == [0, 1, 2]
    assert len(set(ids(runs))) == 1
    heimdall.wait_free()
    heimdall.released(1, "unique", "success")
    heimdall.dropped(0, "unique")


def test_a_failure_frees_the_lock(heimdall):
    heimdall.worker()
    heimdall.produce("fails.delay(17)\nfails.delay(17)")
    heimdall.dropped(1, "unique")
    heimdall.scoreboard.open_gate(17)
    heimdall.wait_runs("fails", 1, "FAILURE")
    heimdall.wait_free()
    heimdall.released(1, "unique", "failure")


def test_a_revoke_before_the_run_frees_the_lock(heimdall):
    heimdall.worker()
    heimdall.occupy()
    first = heimdall.produce("print(generate_report_expiry.delay(17).id)").strip()
    heimdall.produce(f"celery_app.control.revoke({first!r})")
    heimdall.wait_free()
    heimdall.released(1, "one-per-customer", "revoked")
    second = heimdall.produce("print(generate_report_expiry.delay(17).id)").strip()
    heimdall.vacate()
    assert ids(heimdall.wait_runs("generate_report_expiry", 1, "SUCCESS")) == [second]


def test_a_revoke_that_ends_the_run_frees_the_lock(heimdall):
    heimdall.worker()
    first = heimdall.produce("print(my_api_call(17)['task_id'])").strip()
    heimdall.wait_runs("generate_report", 1)
    heimdall.wait_lock("running")
    heimdall.produce(f"celery_app.control.revoke({first!r}, terminate=True)")
    heimdall.wait_free()
    heimdall.released(1, "one-per-customer", "revoked")
    heimdall.produce("my_api_call(17)")
    heimdall.wait_runs("generate_report", 2)


def test_a_hard_time_limit_frees_the_lock(heimdall):
    heimdall.worker()
    heimdall.produce("generate_report.apply_async((17,), time_limit=1)")
    # Nobody wakes it. Whether its begin is noted before is up to the machine.
    heimdall.released(1, "one-per-customer", "failure")
    heimdall.wait_free()
    again = heimdall.produce("print(my_api_call(17)['task_id'])").strip()
    heimdall.wait_begun("generate_report", again)


def test_without_the_store_every_call_runs(heimdall):
    """The library raises in the producer."""
    heimdall.worker()
    heimdall.store.kill()
    heimdall.produce("for _ in range(3): generate_report_expiry.delay(17)")
    heimdall.wait_runs("generate_report_expiry", 3, "SUCCESS")
    heimdall.dropped(0, "one-per-customer")


def test_two_downloads_a_minute_for_each_customer(heimdall):
    """With the library what is beyond the limit is published anew by the worker, again and again, and loses its place."""
    heimdall.worker()
    heimdall.produce("for n in range(5):\n for customer in (17, 18): download_report_from_amazon.delay(customer)")
    runs = heimdall.wait_runs("download_report_from_amazon", 4)
    assert sorted(run["args"] for run in runs) == [[17], [17], [18], [18]]
    heimdall.gate.expect("oncegate_held_messages", 6)
    heimdall.wait_runs("download_report_from_amazon", 4)
