"""The example of celery-unique's README, with Celery's own class as base.

Changed: `celery_app.Task` stays Celery's own, and there is no Redis client to hand over. The `unique_key` option stays where it is: to
Celery it is an attribute without a meaning. The calls of the README stand in the test.
"""

from somewhere import celery_app


@celery_app.task(unique_key=lambda a, b, c=0: '{} with {}'.format(a, c))
def add_first_and_last(a, b, c=0):
    return a + c


# Not in the README: the mails of its last paragraph.


@celery_app.task(unique_key=lambda user_id: user_id)
def re_engage(user_id):
    return user_id
