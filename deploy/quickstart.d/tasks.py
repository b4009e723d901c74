"""The application of the quickstart: nothing in it knows of Oncegate but the address in APP_BROKER."""

import os

from celery import Celery

app = Celery("quickstart", broker=os.environ["APP_BROKER"], backend=os.environ["APP_RESULTS"])
app.conf.broker_connection_retry_on_startup = True


def note(line):
    """One short line, appended whole."""
    with open(os.environ["APP_RUNS"], "a") as runs:
        runs.write(line + "\n")


@app.task(name="reports.generate")
def generate(customer_id, region="eu"):
    note(f"run {customer_id} {region}")
    return f"report of {customer_id}"


@app.task(name="quickstart.end")
def end():
    """No rule matches it. One worker runs one task at a time: when this one runs, all before it have run."""
    note("end")
