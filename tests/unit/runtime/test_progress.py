"""Progress of stages and phases: plain lines in a log, live lines on a terminal, nothing when quiet."""

import io
import json
import logging
import re
import sys
import threading
import time

import pytest

from musc_ray.runtime import progress_lines
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.stage import Stage
from musc_ray.settings.credentials import log_to_stderr
from tests.helpers.screen import Screen


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    return Terminal()


def break_a_stage(progress: Progress, clock: Clock, total: int | None) -> Stage:
    """A stage of 8 seconds that does 4 images and fails."""
    stages = []

    def run() -> None:
        with progress.stage("extract", total, "images") as stage:
            stages.append(stage)
            stage.advance(4)
            clock.now += 8
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        run()
    return stages[0]


def interrupt(clock: Clock, seconds: float) -> None:
    """Press Ctrl-C after some seconds."""
    clock.now += seconds
    raise KeyboardInterrupt


def test_lines_of_a_stage(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, interval_seconds=10, clock=clock) as progress, progress.stage("extract", 240, "images") as stage:
        for _ in range(8):
            clock.now += 5
            stage.advance(30)
    assert log.getvalue().splitlines() == [
        "extract: started, 240 images",
        "extract: 60/240 images (25 %), 6 images/s",
        "extract: 120/240 images (50 %), 6 images/s, 20.0 s left",
        "extract: 180/240 images (75 %), 6 images/s, 10.0 s left",
        "extract: 240/240 images (100 %), 6 images/s",
        "extract: done after 40.0 s, 240/240 images (100 %), 6 images/s",
    ]
    assert (stage.done, stage.seconds, stage.outcome) == (240, 40.0, "done")


def test_many_small_steps_give_at_most_one_line_an_interval(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, interval_seconds=10, clock=clock) as progress, progress.stage("mutual", 1000, "tiles") as stage:
        for _ in range(1000):
            clock.now += 0.0625
            stage.advance()
            stage.note("busy")
    # 62.5 seconds: start, six intervals, end
    assert len(log.getvalue().splitlines()) == 8


def test_a_stage_in_less_than_an_interval_has_two_lines(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("reduce", 3, "groups") as stage:
        clock.now += 9.9
        stage.advance(3)
    assert log.getvalue().splitlines() == [
        "reduce: started, 3 groups",
        "reduce: done after 9.9 s, 3/3 groups (100 %), 0.303 groups/s",
    ]


def test_what_an_earlier_run_did_counts_as_done_but_not_in_the_rate(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("extract", 200, "images") as stage:
        stage.already_done(100)
        assert stage.rate is None
        assert stage.seconds_left is None
        for _ in range(3):
            clock.now += 10
            stage.advance(20)
        assert stage.rate == pytest.approx(2.0)
        assert stage.seconds_left == pytest.approx(20.0)
        clock.now += 20
        stage.advance(40)
    lines = log.getvalue().splitlines()
    assert lines[3] == "extract: 160/200 images (80 %), 2 images/s, 20.0 s left"
    assert lines[-1] == "extract: done after 50.0 s, 200/200 images (100 %), 2 images/s, 100 done earlier"
    assert (stage.done, stage.earlier) == (200, 100)


def test_all_done_earlier_has_no_rate(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("extract", 5, "shards") as stage:
        stage.already_done(5)
    assert log.getvalue().splitlines()[-1] == "extract: done after 0.00 s, 5/5 shards (100 %), 5 done earlier"


def test_a_stage_without_a_total(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("catalog", unit="files") as stage:
        clock.now += 10
        stage.advance(12_340)
        assert stage.seconds_left is None
    assert log.getvalue().splitlines() == [
        "catalog: started",
        "catalog: 12,340 files, 1,234 files/s",
        "catalog: done after 10.0 s, 12,340 files, 1,234 files/s",
    ]


def test_a_stage_of_nothing(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("extract", 0, "images"):
        pass
    assert log.getvalue().splitlines() == ["extract: started, 0 images", "extract: done after 0.00 s, 0/0 images"]


def test_a_note_stands_in_the_next_lines_only(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("extract", 4, "images") as stage:
        stage.note("2 broken images")
        assert len(log.getvalue().splitlines()) == 1
        clock.now += 10
        stage.advance(2)
        stage.note("")
        clock.now += 10
        stage.advance(2)
    lines = log.getvalue().splitlines()
    assert lines[1] == "extract: 2/4 images (50 %), 0.2 images/s, 2 broken images"
    assert lines[2] == "extract: 4/4 images (100 %), 0.2 images/s"


def test_a_log_holds_no_control_characters(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.stage("score\x1b[2J a\r\nb", 2, "images") as stage:
        clock.now += 20
        stage.note("group 'caf\u00e9\x1b]0;x\x07\n\ttop'")
        stage.advance(2)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", log.getvalue())
    assert len(log.getvalue().splitlines()) == 3
    assert "caf\u00e9" in log.getvalue()


def test_an_exception_ends_the_stage_as_failed(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress:
        stage = break_a_stage(progress, clock, 10)
        assert log.getvalue().splitlines()[-1] == "extract: failed after 8.0 s, 4/10 images (40 %), 0.5 images/s"
        assert (stage.outcome, stage.done, stage.seconds) == ("failed", 4, 8.0)
        with progress.stage("report", 1, "pages") as following:
            following.advance()
    assert following.outcome == "done"


def test_seconds_run_during_the_stage_and_stop_at_its_end(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress:
        with progress.stage("extract") as stage:
            clock.now += 3
            assert stage.seconds == 3.0
        clock.now += 100
        assert stage.seconds == 3.0


def test_stages_within_each_other(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress:
        with progress.stage("extract", 2, "images") as outer, progress.stage("mutual", 1, "tiles") as inner:
            clock.now += 10
            outer.advance(2)
            inner.advance()
        names = [line.split(":")[0] for line in log.getvalue().splitlines()]
    assert names == ["extract", "mutual", "extract", "mutual", "mutual", "extract"]


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_quiet_shows_nothing_but_counts(stream_type: type[io.StringIO], clock: Clock) -> None:
    stream = stream_type()
    with Progress(stream, quiet=True, clock=clock) as progress:
        with progress.stage("extract", 10, "images") as stage:
            clock.now += 50
            stage.advance(10)
            stage.note("x")
        with pytest.raises(KeyError), progress.stage("mutual", 10, "tiles") as broken:
            raise KeyError
    assert stream.getvalue() == ""
    assert (stage.done, stage.seconds, stage.outcome, broken.outcome) == (10, 50.0, "done", "failed")


def test_the_standard_stream_is_the_error_stream_of_the_moment(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    with Progress(clock=clock) as progress, progress.stage("extract", 1, "images") as stage:
        stage.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("extract: started, 1 images\n")


def test_durations_and_large_counts(clock: Clock) -> None:
    stage = Stage("extract", 10_000_000, "images", clock, lambda _: None)
    for _ in range(4):
        clock.now += 250
        stage.advance(250_000)
    assert stage.summary == "1,000,000/10,000,000 images (10 %), 1,000 images/s, 2 h 30 min left"
    stage.advance(9_500_000)
    assert stage.seconds_left == 0.0


# --- terminal -----------------------------------------------------------------------------------------------------


def screen(terminal: Terminal) -> Screen:
    return Screen(terminal.getvalue())


def shown_live(terminal: Terminal, text: str) -> list[str]:
    """What the terminal shows once `text` is there; it is redrawn ten times a second."""
    deadline = time.monotonic() + 10
    while text not in (shown := "\n".join(screen(terminal).lines)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return shown.splitlines()


def test_a_bar_on_a_terminal(terminal: Terminal, clock: Clock) -> None:
    with Progress(terminal, clock=clock) as progress, progress.stage("extract", 240, "images") as stage:
        stage.already_done(40)
        for _ in range(4):
            clock.now += 5
            stage.advance(10)
        stage.note("[red]group a[/red]")
        live = shown_live(terminal, "group a")
        clock.now += 80
        stage.advance(160)
    assert len(live) == 1
    assert live[0].startswith(f"extract {24 * chr(0x2501)} 0:00:20 80/240 images (33 %), 2 images/s, 1 min 20 s left")
    assert live[0].endswith(", [red]group a[/red]")
    assert screen(terminal).lines == [
        "extract: done after 1 min 40 s, 240/240 images (100 %), 2 images/s, 40 done earlier, [red]group a[/red]"
    ]
    assert (stage.done, stage.seconds) == (240, 100.0)
    assert screen(terminal).has_cursor


def test_a_failed_bar_is_closed(terminal: Terminal, clock: Clock) -> None:
    stage = break_a_stage(Progress(terminal, clock=clock), clock, None)
    assert screen(terminal).lines == ["extract: failed after 8.0 s, 4 images, 0.5 images/s"]
    assert screen(terminal).has_cursor
    assert stage.outcome == "failed"


def test_the_terminal_is_free_between_stages_and_each_bar_stays_once(terminal: Terminal, clock: Clock) -> None:
    progress = Progress(terminal, clock=clock)
    for name in ("extract", "mutual"):
        with progress.stage(name, 1, "shards") as stage:
            clock.now += 2
            stage.advance()
        assert screen(terminal).has_cursor
        terminal.write(f"after {name}\n")
    assert [line.split()[0] for line in screen(terminal).lines] == ["extract:", "after", "mutual:", "after"]


def test_bars_of_stages_within_each_other(terminal: Terminal, clock: Clock) -> None:
    progress = Progress(terminal, clock=clock)
    with progress.stage("extract", 1, "shards") as outer:
        with progress.stage("mutual", 1, "tiles") as inner:
            inner.advance()
        clock.now += 2
        outer.advance()
    assert screen(terminal).lines == [
        "mutual: done after 0.00 s, 1/1 tiles (100 %)",
        "extract: done after 2.0 s, 1/1 shards (100 %), 0.5 shards/s",
    ]


def test_standard_output_is_left_alone_while_a_bar_is_live(
    terminal: Terminal, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(terminal, clock=clock) as progress, progress.stage("extract", 1, "images"):
        print("result")
    assert capsys.readouterr().out == "result\n"
    assert "result" not in terminal.getvalue()


def test_a_dumb_terminal_gets_lines(terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Progress(terminal, clock=clock) as progress, progress.stage("extract", 1, "images") as stage:
        stage.advance()
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().startswith("extract: started, 1 images\n")


def test_records_of_all_stages_at_ends_and_now_and_then(clock: Clock) -> None:
    progress, records = Progress(quiet=True, clock=clock), []
    with progress.stage("catalog", None, "images") as stage:
        stage.advance(7)
    progress.record(records.append)
    with progress.stage("mutual", 100, "tiles") as stage:
        for _ in range(10):
            clock.now += 1
            stage.advance(3)
    assert [record["stages"][-1]["done"] for record in records] == [0, 15, 30, 30]
    last = records[-1]
    assert [stage["name"] for stage in last["stages"]] == ["catalog", "mutual"]
    assert json.loads(json.dumps(last)) == last
    assert last["stages"][1] == {
        "name": "mutual",
        "unit": "tiles",
        "done": 30,
        "total": 100,
        "earlier": 0,
        "seconds": 10.0,
        "seconds_left": None,
        "ended": True,
        "outcome": "done",
        "summary": "done after 10.0 s, 30/100 tiles (30 %), 3 tiles/s",
    }
    assert records[1]["stages"][1]["summary"] == "15/100 tiles (15 %), 3 tiles/s, 28.3 s left"
    assert records[1]["stages"][1]["seconds_left"] == 28.3
    assert [record["phases"] for record in records] == [[], [], [], []]


def test_a_failed_stage_is_recorded_as_such(clock: Clock) -> None:
    progress, records = Progress(quiet=True, clock=clock), []
    progress.record(records.append)
    break_a_stage(progress, clock, 10)
    assert records[-1]["stages"][0]["summary"].startswith("failed after 8.0 s")


def test_watchers_see_every_change_of_a_stage_as_long_as_they_look(clock: Clock) -> None:
    seen = []
    progress = Progress(quiet=True, clock=clock)
    watch = progress.watched(lambda stage: seen.append((stage.name, stage.done, stage.earlier, dict(stage.further))))
    with watch, progress.stage("extract", 240, "images") as stage:
        stage.already_done(60)
        stage.count(bytes_written=100, errors=0)
        stage.count(bytes_written=20, errors=1)
        stage.advance(5)
    with progress.stage("publish", 1, "groups") as later:
        later.advance()
    assert seen == [
        ("extract", 0, 0, {}),
        ("extract", 60, 60, {}),
        ("extract", 65, 60, {"bytes_written": 120, "errors": 1}),
        ("extract", 65, 60, {"bytes_written": 120, "errors": 1}),
    ]
    assert stage.as_dict()["bytes_written"] == 120


def test_a_failed_stage_is_watched_to_its_end(clock: Clock) -> None:
    seen = []
    progress = Progress(quiet=True, clock=clock)
    with progress.watched(lambda stage: seen.append((stage.done, stage.outcome))):
        break_a_stage(progress, clock, 8)
    assert seen == [(0, None), (4, None), (4, "failed")]


def test_ctrl_c_just_when_a_stage_begins_ends_it_as_stopped(log: io.StringIO, clock: Clock) -> None:
    progress = Progress(log, clock=clock)
    progress.record(lambda state: interrupt(clock, 1) if state["stages"][-1]["outcome"] is None else None)
    with pytest.raises(KeyboardInterrupt), progress.stage("extract", 10, "images"):
        pass
    assert log.getvalue().splitlines() == [
        "extract: started, 10 images",
        "extract: stopped after 1.0 s, 0/10 images (0 %)",
    ]


def test_ctrl_c_ends_a_stage_as_stopped(log: io.StringIO, clock: Clock) -> None:
    progress, records = Progress(log, clock=clock), []
    progress.record(records.append)
    with pytest.raises(KeyboardInterrupt), progress.stage("extract", 10, "images") as stage:
        interrupt(clock, 3)
    assert log.getvalue().splitlines()[-1] == "extract: stopped after 3.0 s, 0/10 images (0 %)"
    assert stage.outcome == "stopped"
    assert records[-1]["stages"][0]["summary"].startswith("stopped after 3.0 s")


# --- phases -------------------------------------------------------------------------------------------------------


def test_a_phase_is_a_live_line_at_once_and_leaves_none_if_it_was_short(terminal: Terminal, clock: Clock) -> None:
    with Progress(terminal, clock=clock) as progress:
        with progress.phase("loading the model"):
            at_once = screen(terminal)
            clock.now += 0.9
        assert screen(terminal).lines == []
        assert screen(terminal).has_cursor
        terminal.write("result\n")
    assert at_once.lines == ["\u280b loading the model 0:00:00"]
    assert not at_once.has_cursor
    assert screen(terminal).lines == ["result"]


def test_a_phase_that_lasts_leaves_a_line_with_its_time(terminal: Terminal, clock: Clock) -> None:
    with Progress(terminal, clock=clock) as progress:
        with progress.phase("loading the model"):
            clock.now += 75
            live = shown_live(terminal, "0:01:15")
        with pytest.raises(KeyboardInterrupt), progress.phase("compiling kernels"):
            interrupt(clock, 2)
    assert [line[2:] for line in live] == ["loading the model 0:01:15"]
    assert screen(terminal).lines == [
        "loading the model: done after 1 min 15 s",
        "compiling kernels: stopped after 2.0 s",
    ]


def test_phases_of_threads_within_a_stage(terminal: Terminal, clock: Clock) -> None:
    both, seen = threading.Barrier(3), []
    with Progress(terminal, clock=clock) as progress, progress.stage("extract", 4, "images") as stage:

        def load(name: str) -> None:
            with progress.phase(name):
                both.wait()
                both.wait()

        threads = [threading.Thread(target=load, args=[f"loading {name}"]) for name in "ab"]
        for thread in threads:
            thread.start()
        both.wait()
        seen = screen(terminal).lines
        both.wait()
        for thread in threads:
            thread.join()
        stage.advance(4)
        after = screen(terminal).lines
    assert sorted(line.split()[0] for line in seen) == ["extract", "\u280b", "\u280b"]
    assert [line.split()[0] for line in after] == ["extract"]
    assert len(screen(terminal).lines) == 1
    assert screen(terminal).has_cursor


def test_many_threads_share_a_progress(terminal: Terminal) -> None:
    with Progress(terminal) as progress, progress.stage("extract", 800, "images") as stage:

        def work() -> None:
            for _ in range(100):
                with progress.phase("loading"):
                    stage.count(bytes_written=1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stage.advance(800)
    assert len(screen(terminal).lines) == 1
    assert screen(terminal).lines[0].startswith("extract: done after ")
    assert stage.further["bytes_written"] == 800


@pytest.mark.parametrize(("columns", "encoding"), [(80, "utf-8"), (40, "utf-8"), (80, "ascii")])
def test_a_live_line_is_one_line_of_any_terminal(
    columns: int, encoding: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Terminal, "encoding", encoding, raising=False)
    terminal = Terminal()
    with Progress(terminal, clock=clock) as progress, progress.stage("mutual", 40_000, "tiles") as stage:
        for _ in range(4):
            clock.now += 100
            stage.advance(1_000)
        stage.note("0.31 TFLOP/s in each of the eight workers")
        with progress.phase("starting workers on nodes that the autoscaler adds"):
            live = shown_live(terminal, "starting")
    assert [line.split()[0] for line in live] == ["mutual", "|" if encoding == "ascii" else "\u280b"]
    assert max(map(len, live)) <= columns
    if columns == 80:
        assert "0:06:40 4,000/40,000 tiles (10 %), 10 tiles/s, 1 h 0 min left" in live[0]
    if encoding == "ascii":
        assert terminal.getvalue().isascii() or live[0].endswith("\u2026")
        assert live[0].startswith("mutual #---------")


def test_a_phase_of_a_log_is_shown_once_it_lasts(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_lines, "MIN_PHASE_SECONDS", 0.05)
    with Progress(log) as progress, progress.phase("loading the model"):
        deadline = time.monotonic() + 10
        while not log.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.getvalue() == "loading the model ...\n"
    assert re.fullmatch(r"loading the model \.\.\.\nloading the model: done after [0-9.]+ s\n", log.getvalue())


def test_a_short_phase_is_not_in_a_log(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, clock=clock) as progress, progress.phase("loading the model"):
        clock.now += 0.9
    assert log.getvalue() == ""


def test_a_quiet_phase(terminal: Terminal) -> None:
    with Progress(terminal, quiet=True) as progress, progress.phase("loading the model"):
        pass
    assert terminal.getvalue() == ""


def test_records_name_the_phases_at_work(clock: Clock) -> None:
    progress, records = Progress(quiet=True, clock=clock), []
    progress.record(records.append)
    with progress.stage("extract", 10, "images"):
        with progress.phase("starting workers"):
            clock.now += 5
        with progress.phase("a short one"):
            pass
    with progress.phase("stopping the workers"):
        clock.now += 5
    phases = [record["phases"] for record in records]
    assert phases == [[], ["starting workers"], [], ["a short one"], []]


def test_a_phase_before_the_first_unit_is_no_part_of_the_rate(clock: Clock) -> None:
    with Progress(quiet=True, clock=clock) as progress, progress.stage("extract", 10, "images") as stage:
        with progress.phase("starting workers"):
            clock.now += 60
        for _ in range(3):
            clock.now += 2
            stage.advance()
            assert stage.rate == pytest.approx(0.5)
        assert stage.seconds_left == pytest.approx(14.0)
    assert stage.rate == pytest.approx(3 / 66)  # of the whole


def test_a_warning_stands_above_the_live_lines(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stderr", terminal)
    log_to_stderr()
    with Progress(clock=clock) as progress, progress.stage("extract", 4, "images"):
        logging.getLogger("musc_ray").warning("A shard is broken: password=%s.", "hunter2000")
        live = screen(terminal).lines
        clock.now += 2
    logging.getLogger("musc_ray").warning("Done.")
    assert live[0] == "A shard is broken: password=***"
    assert live[1].startswith("extract ")
    assert screen(terminal).lines == [live[0], "extract: done after 2.0 s, 0/4 images (0 %)", "Done."]
