"""The application of `dropped_results.py`: that of the live tests and one task that takes a while."""

import time

from app import *  # noqa: F403
from app import app


@app.task(name="bench.timed")
def timed(key, milliseconds):
    time.sleep(milliseconds / 1000)
    return key
