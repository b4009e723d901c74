"""The examples of celery-singleton's README, with Celery's own class as base.

Changed: `base=Singleton` is `base=Task`. The task options of the library stay where they are: to Celery they are
attributes without a meaning. `self.time.sleep`, which has no `self`, is `time.sleep`, and
`time` is one in which a sleep lasts until the test ends it. The calls of the README stand in the test.
"""

from celery import Task
from somewhere import celery_app, wait_for
from somewhere import slow_time as time


@celery_app.task(base=Task)
def do_stuff(*args, **kwargs):
    time.sleep(4)
    return "I just woke up"


@celery_app.task(base=Task, unique_on=["user_id"])
def do_something(username, otherarg=None):
    time.sleep(5)


@celery_app.task(base=Task, lock_expiry=10)
def runs_for_12_seconds():
    time.sleep(12)


@celery_app.task(base=Task, raise_on_duplicate=True)
def raises_on_duplicate(*args, **kwargs):
    time.sleep(3)


# Not in the README: ends that its examples do not come to.


@celery_app.task(base=Task)
def fails(name):
    wait_for(name)
    raise ValueError(name)


@celery_app.task(base=Task, bind=True, max_retries=5)
def retries(self, times):
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries


@celery_app.task(base=Task, acks_late=True)
def late(name):
    wait_for(name)
