"""The examples of celery-heimdall's README, with Celery's own class as base.

Changed: `base=HeimdallTask` is `base=Task`. The `heimdall` options stay where they are: to Celery they are an
attribute without a meaning. The README calls each of its tasks `generate_report`; here they have names of their own,
and the one that the API call uses keeps that one. What `delay()` raises is py-amqp's PreconditionFailed, and the holder stands in its text. `time` is one in which a sleep lasts until the test ends it.
"""

import somewhere
from amqp.exceptions import PreconditionFailed as AlreadyQueuedError
from celery import Task, shared_task
from somewhere import slow_time as time


@shared_task(base=Task, heimdall={'unique': True})
def generate_report(customer_id):
    time.sleep(10)


def my_api_call(customer_id: int):
    return {
        'status': 'RUNNING',
        'task_id': generate_report.delay(customer_id).id
    }


@shared_task(
    base=Task,
    heimdall={
        'unique': True,
        'unique_timeout': 60 * 60
    }
)
def generate_report_expiry(customer_id):
    pass


@shared_task(
    base=Task,
    heimdall={
        'unique': True,
        'key': lambda args, kwargs: 'generate_report'
    }
)
def generate_report_custom_key(customer_id):
    pass


@shared_task(
    base=Task,
    heimdall={
        'unique': True,
        'unique_timeout': 60 * 60,
        'unique_wait_for_expiry': True
    }
)
def generate_report_interval(customer_id):
    pass


@shared_task(
    base=Task,
    heimdall={
        'times': 2,
        'per': 60
    }
)
def download_report_from_amazon(customer_id):
    pass


@shared_task(
    base=Task,
    heimdall={
        'unique': True,
        'unique_raises': True
    }
)
def generate_report_or_raise(customer_id):
    time.sleep(10)


def my_api_call_that_raises(customer_id: int):
    try:
        task = generate_report_or_raise.delay(customer_id)
        return {'status': 'STARTED', 'task_id': task.id}
    except AlreadyQueuedError as exc:
        # oncegate: duplicate of ID, expires in N s
        likely_culprit, expires_in = exc.reply_text.split(' of ')[1].split(', expires in ')
        return {'status': 'ALREADY_RUNNING', 'task_id': likely_culprit, 'expires_in': expires_in}


# Not in the README: ends that its examples do not come to.

celery_app = somewhere.celery_app


@shared_task(base=Task, heimdall={'unique': True})
def fails(customer_id):
    somewhere.wait_for(customer_id)
    raise ValueError(customer_id)


@shared_task(base=Task, bind=True, max_retries=5, heimdall={'unique': True})
def retries(self, times):
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries
