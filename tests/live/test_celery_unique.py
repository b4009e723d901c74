"""celery-unique's README example with plain tasks, under config/examples/celery-unique.toml."""

import harness
import pytest

# Its countdowns are 100 and 50 seconds; it sleeps for 100, here `get` waits.
STEP_3 = """
async_result_1 = add_first_and_last.apply_async(args=(1, 2, 3), countdown=10)
async_result_2 = add_first_and_last.apply_async(args=(3, 2, 1), countdown=10)
async_result_3 = add_first_and_last.apply_async(args=(1, 2), kwargs={'c': 3}, countdown=5)

for result in async_result_1, async_result_2, async_result_3:
    result.get(timeout=60, propagate=False)

# Check and see the status of each task
assert async_result_1.status == 'REVOKED', async_result_1.status
assert async_result_2.status == 'SUCCESS', async_result_2.status
assert async_result_3.status == 'SUCCESS', async_result_3.status
print(async_result_2.id, async_result_3.id)
"""


@pytest.fixture
def unique(library, results):
    return library("celery-unique", results)


def replaced(unique, count, rule):
    unique.gate.expect_publishes(count, "replaced", rule=rule)
    unique.released(count, rule, "replaced")


def test_step_3(unique):
    unique.worker()
    second, third = unique.produce(STEP_3).split()
    runs = unique.wait_runs("add_first_and_last", 2, "SUCCESS")
    assert {run["id"]: run["args"] for run in runs} == {second: [3, 2, 1], third: [1, 2]}
    replaced(unique, 1, "add-first-and-last")
    unique.wait_free()


def test_the_older_does_not_run_after_its_workers_were_restarted(unique):
    """The library's revoke is in the workers' memory alone."""
    worker = unique.worker()
    unique.produce("add_first_and_last.apply_async((1, 2, 3), countdown=10)")
    harness.wait_until(lambda: unique.wait_lock("queued").get("worker"), "the worker to have it")
    newer = unique.produce("print(add_first_and_last.apply_async((1, 5, 3), countdown=8).id)").strip()
    replaced(unique, 1, "add-first-and-last")
    worker.kill()
    unique.worker()
    [run] = unique.wait_runs("add_first_and_last", 1, "SUCCESS")
    assert run["id"] == newer
    unique.wait_messages(0)
    unique.gate.expect("oncegate_deliveries_total", 1, rule="add-first-and-last", decision="superseded")


def test_the_mail_comes_after_the_last_visit(unique):
    unique.worker()
    visits = unique.produce("for _ in range(3): print(re_engage.apply_async((17,), countdown=5).id)").split()
    unique.produce("re_engage.apply_async((18,), countdown=5)")
    runs = unique.wait_runs("re_engage", 2, "SUCCESS")
    assert [run["id"] for run in runs if run["args"] == [17]] == visits[-1:]
    unique.wait_free()


def test_a_call_without_a_time_of_its_own_is_not_unique(unique):
    unique.worker()
    unique.produce("for _ in range(2): add_first_and_last.delay(1, 2, 3)")
    unique.wait_runs("add_first_and_last", 2, "SUCCESS")
    replaced(unique, 0, "add-first-and-last")
    assert unique.locks() == []
