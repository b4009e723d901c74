"""Several beats with one schedule: each entry is published once, and another beat goes on when the one that had it is gone."""

import os
import sys

import celery
import harness
import pytest

# Celery's beat says of itself what it is; before, only its origin tells.
TOLD = tuple(map(int, celery.__version__.split(".")[:2])) >= (5, 7)
# Long enough for a beat that ticks every second not to lose its turn on a busy machine.
LEASE = "10s"
ORIGINS = '["gen*@*"]'

by_header = pytest.param("", id="by the header", marks=pytest.mark.skipif(not TOLD, reason="this Celery's beat writes no header"))
by_origin = pytest.param(f"beat_origins = {ORIGINS}", id="by the origin")


def rule(*lines, lease=LEASE):
    return "\n".join(['[[rule]]\nname = "b"\ntask = "live.tick"', f'beat_lease = "{lease}"', *lines, ""])


class Beat:
    """A real `celery beat`, with a file of its own."""

    def __init__(self, workspace, stack, gate, schedule):
        name = f"beat-{harness.number()}"
        environment = stack.environment(gate, conf={"beat_schedule": schedule, "beat_max_loop_interval": 1})
        self.process = harness.Process(
            name,
            [sys.executable, "-m", "celery", "-A", "app", "beat", "-s", workspace / f"{name}.db", "--pidfile=", "--loglevel", "DEBUG"],
            workspace,
            environment,
            cwd=harness.APPS,
        )
        self.origin = f"gen{self.process.pid}@{os.uname().nodename}"

    def sent(self):
        """How many publishes it has made."""
        return self.process.output().count("sent. id->")


@pytest.fixture
def beats(workspace, stack):
    made = []

    def start(gate, count=2, args=("a",)):
        schedule = {"tick": {"task": "live.tick", "schedule": 1.0, "args": list(args)}}
        for _ in range(count):
            made.append(Beat(workspace, stack, gate, schedule))
        return made[-count:]

    yield start
    for beat in made:
        beat.process.stop()


def origins(runs):
    return {run["origin"] for run in runs}


def wait_sent(beat, count):
    harness.wait_until(lambda: beat.sent() >= count, f"{count} publishes of a beat")


@pytest.mark.parametrize("told", [by_header, by_origin])
def test_one_of_two_beats_publishes_each_tick_and_the_other_goes_on_when_it_is_gone(oncegate, stack, store, scoreboard, beats, told):
    gate = oncegate(rule(told), store=store.url)
    stack.worker(gate)
    both = beats(gate)
    for beat in both:
        wait_sent(beat, 4)
    first = scoreboard.wait_runs(4)
    [owner] = [beat for beat in both if origins(first) == {beat.origin}]
    [other] = [beat for beat in both if beat is not owner]
    harness.wait_until(lambda: gate.publishes("dropped", rule="b") >= 3, "the other's to be dropped")
    assert f'"holder":"{owner.origin}"' in gate.log() and '"reason":"beat_lease"' in gate.log()

    owner.process.kill()
    dead = owner.sent()
    harness.wait_until(lambda: any(run["origin"] == other.origin for run in scoreboard.runs_of("live.tick")), "the other to go on")
    wait_sent(other, other.sent() + 3)
    runs = scoreboard.runs_of("live.tick")
    # It may have been killed behind a publish, before it wrote that down.
    assert len([run for run in runs if run["origin"] == owner.origin]) in (dead, dead + 1)
    turns = [run["origin"] for run in runs]
    assert turns == sorted(turns, key=[owner.origin, other.origin].index), "one after the other"
    assert [key for key in store.client.scan_iter("oncegate:beat:*")], "the store knows whose it is"


def test_a_tick_runs_once_and_never_again_while_it_is_locked(oncegate, stack, store, scoreboard, beats):
    gate = oncegate(rule('unique = "until_expired"', 'ttl = "1h"', f"beat_origins = {ORIGINS}"), store=store.url)
    stack.worker(gate)
    both = beats(gate)
    for beat in both:
        wait_sent(beat, 3)
    harness.wait_until(lambda: gate.publishes("dropped", rule="b") >= 5, "all but one to be dropped")
    assert gate.publishes("forwarded", rule="b") == 1
    assert len(scoreboard.runs_of("live.tick")) == 1
    reasons = {reason for reason in ("beat_lease", "duplicate") if f'"reason":"{reason}"' in gate.log()}
    assert reasons == {"beat_lease", "duplicate"}, "its own are duplicates of the key, another's of the entry"


def test_other_producers_and_other_entries_are_left_alone(oncegate, stack, scoreboard, beats):
    gate = oncegate(rule('beat_origins = ["gen*@no-such-host"]'))
    stack.worker(gate)
    stack.produce(gate, "tick.delay('a'); tick.delay('a')")
    stack.produce(gate, "tick.delay('a')")
    assert len(scoreboard.wait_runs(3)) == 3
    beats(gate, 1, ["a"])
    beats(gate, 1, ["b"])
    harness.wait_until(
        lambda: {run["args"][0] for run in scoreboard.runs_of("live.tick")[3:]} == {"a", "b"}, "both entries, each by its own beat"
    )
    assert gate.publishes("dropped", rule="b") == 0


def test_an_observing_rule_only_counts(oncegate, stack, scoreboard, beats):
    gate = oncegate(rule('mode = "observe"', f"beat_origins = {ORIGINS}"))
    stack.worker(gate)
    both = beats(gate)
    for beat in both:
        wait_sent(beat, 3)
    harness.wait_until(lambda: origins(scoreboard.runs_of("live.tick")) == {beat.origin for beat in both}, "both to run")
    harness.wait_until(lambda: gate.publishes("dropped", rule="b", mode="observe") >= 2, "what would be dropped to be counted")
