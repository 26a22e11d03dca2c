"""When a process of a run counts as silent, or as waited for: by what it has told, never by a pause of its own."""

from types import SimpleNamespace

import pytest

from training.resilience.watchdog import Watch

LIMIT = 75.0


def watch_of(rank: int = 0, progress: tuple = (7, 1, 0)) -> Watch:
    watch = Watch(SimpleNamespace(process_index=rank, world_size=3, ddp_timeout=100), lambda: "the run ends")
    watch.arrive(*progress)
    return watch


def state(beat: int, *progress: int) -> dict:
    return {"beat": beat, "progress": [*progress], "process": 5, "host": "there"}


def found(watch: Watch, *looks: tuple[float, dict]) -> dict[int, str]:
    """What is found at the last of these looks, each at a time."""
    known = {}
    return [watch._unresponsive(known, states, now) for now, states in looks][-1]


def test_the_limit_is_a_share_of_the_settings():
    assert watch_of().limit == LIMIT
    assert watch_of().pause == 5
    assert Watch(SimpleNamespace(process_index=0, world_size=2, ddp_timeout=10), str).pause == pytest.approx(0.75)


def test_one_that_no_longer_beats_is_silent():
    watch = watch_of()
    live = {1: state(1, 7, 1, 0), 2: state(1, 7, 1, 0)}
    assert found(watch, (0, live), (LIMIT, live)) == {}
    gone = found(watch, (0, live), (LIMIT + 1, {1: state(1, 7, 1, 0), 2: state(2, 7, 1, 0)}))
    assert gone == {1: "process 1 (5 on there) has been silent for 76 seconds"}


def test_one_that_stays_behind_is_waited_for():
    """Behind this process, or behind another; whether in a step or a step earlier."""
    for behind, ahead in (((7, 0, 2), (7, 1, 0)), ((6, 2), (7, 1, 0)), ((7, 1, 0), (8, 0, 0))):
        watch = watch_of(progress=(0, 0, 0))
        looks = [(now, {1: state(now, *behind), 2: state(now, *ahead)}) for now in (0, 50, 76)]
        assert found(watch, *looks) == {1: "process 1 (5 on there) has been waited for by others for 76 seconds"}
        assert found(watch, *looks[:2]) == {}


def test_where_all_are_at_the_same_place_nobody_is_waited_for():
    """As in an evaluation of hours."""
    looks = [(now, {1: state(now, 7, 1, 0), 2: state(now, 7, 1, 0)}) for now in (0, 5000)]
    assert found(watch_of(), *looks) == {}


def test_only_the_time_behind_others_is_waiting():
    """After an evaluation of hours the first process has samples to draw, when others have the next batch."""
    together, ahead = {0: [7, 1, 0], 2: [7, 1, 0]}, {0: [7, 1, 0], 2: [8, 1, 0]}
    looks = [
        (now, {rank: state(now, *progress) for rank, progress in states.items()})
        for now, states in ((0, together), (5000, together), (5005, ahead), (5080, ahead), (5081, ahead))
    ]
    assert found(watch_of(rank=1), *looks[:4]) == {}
    assert found(watch_of(rank=1), *looks) == {0: "process 0 (5 on there) has been waited for by others for 76 seconds"}


def test_one_that_catches_up_is_not():
    looks = [(0, {1: state(0, 6, 2)}), (70, {1: state(70, 7, 0, 0)}), (140, {1: state(140, 7, 0, 1)})]
    assert found(watch_of(), *looks) == {}


def test_one_process_alone_has_nobody_to_watch():
    with Watch(SimpleNamespace(process_index=0, world_size=1, ddp_timeout=1), str) as watch:
        assert watch._thread is None
