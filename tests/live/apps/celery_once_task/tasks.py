"""The examples of celery-once-task's README, with Celery's own class as base.

Changed: `base=OnceTask` is `base=Task`. The task options of the library stay where they are: to Celery they are
attributes without a meaning. `configure()`, the signals and the boot step are gone: what they set stands in the rule
file. The README's call `my_task.delay(42)` lacks the second argument, so the test adds one.
"""

import somewhere
from celery import Task, shared_task


@shared_task(base=Task)
def my_task(taskArg1, taskArg2):
    ...


# Only prevent duplicate queueing, allow concurrent execution
@shared_task(base=Task, running_lock=False)
def allow_parallel_runs():
    ...


# Not in the README: runs that last, and ends that its examples do not come to.

celery_app = somewhere.celery_app


@shared_task(base=Task, queue_lock=False)
def report(name):
    somewhere.wait_for(name)


@shared_task(base=Task, queue_lock=False, bind=True, max_retries=5)
def report_again(self, name):
    somewhere.wait_for(name)
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@shared_task(base=Task, running_lock=False)
def lasts(name):
    somewhere.wait_for(name)


@shared_task(base=Task, bind=True, max_retries=5, running_lock=False)
def retries(self, name):
    if self.request.retries == 0:
        somewhere.wait_for(name)
        raise self.retry(countdown=0)


@shared_task(base=Task, bind=True, max_retries=5, running_lock=False, acks_late=True)
def retries_late(self, name):
    if self.request.retries == 0:
        somewhere.wait_for(name)
        raise self.retry(countdown=0)
