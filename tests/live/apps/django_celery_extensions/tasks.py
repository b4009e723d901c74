"""The examples of django-celery-extensions' documentation, with Celery's own class as base.

Changed: `base=DjangoTask` is `base=Task`; the documentation calls each of its tasks `notify_user`, here they have names of their own; there is no
Django, so the user is only a number, and the command is a function. The library's task options stay where they are: to Celery they are
attributes without a meaning. `autoretry_for` needs `max_retries`, which the library takes from the number of delays.
"""

from datetime import timedelta

from celery import Task
from somewhere import celery_app, wait_for


class NotifyException(Exception):
    pass


def notify(user_pk):
    """Until the test says so."""
    wait_for(f"notify {user_pk}")
    return True


@celery_app.task(base=Task, bind=True, autoretry_for=(NotifyException,), max_retries=3, default_retry_delays=(60, 120, 180))
def notify_user_with_retries(self, user_pk):
    raise NotifyException(user_pk)


@celery_app.task(base=Task, bind=True, unique=True, stale_time_limit=60)
def notify_user_once(self, user_pk):
    was_notified = notify(user_pk)
    return was_notified


@celery_app.task(base=Task, name="command.clearsessions", unique=True)
def clearsessions():
    return notify("clearsessions")


@celery_app.task(base=Task, bind=True, ignore_task_after_success_timedelta=timedelta(hours=5))
def notify_user_sometimes(self, user_pk):
    if user_pk < 0:
        raise NotifyException(user_pk)
    return True
