"""What the tests of limits share: the hand-overs as the store has noted them, and what a limit lets go."""


def slot_of(store, task_id):
    """What the store has noted of the place and the hand-over of an id; empty if nothing."""
    slots = store.client.keys(f"oncegate:slot:*:{task_id}")
    return store.client.hgetall(slots[0]) if slots else {}


def full_windows(times, most, per):
    """Windows with more hand-overs than a limit allows: times in milliseconds, `per` in seconds."""
    times = sorted(times)
    return [(first, last) for first, last in zip(times, times[most:]) if last - first < per * 1000]


def no_window_is_too_full(store, runs, most, per):
    """By the times of the last hand-over of each task, on the store's clock, in milliseconds."""
    times = [int(slot_of(store, task_id)["at"]) for task_id in {run["id"] for run in runs}]
    assert not full_windows(times, most, per), f"more than {most} in {per} s: {sorted(times)}"


class HandedOver:
    """The last hand-over of each id on the store's clock, in milliseconds, noted while it can still be read."""

    def __init__(self, store):
        self.store = store
        self.at = {}

    def look(self):
        """Reads what there is; returns itself."""
        for key in self.store.client.keys("oncegate:slot:*"):
            at = self.store.client.hget(key, "at")
            if at:
                self.at[key.rsplit(":", 1)[1]] = int(at)
        return self

    def keep_to(self, most, per):
        """They keep to a limit."""
        assert not full_windows(self.at.values(), most, per), f"more than {most} in {per} s: {sorted(self.at.values())}"
