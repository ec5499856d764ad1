"""Progress of stages: plain lines in a log, a bar on a terminal, nothing when quiet."""

import io
import json
import re
import time

import pytest

from musc_ray.runtime.progress import Progress, Stage


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


def test_lines_of_a_stage(log: io.StringIO, clock: Clock) -> None:
    with Progress(log, interval_seconds=10, clock=clock) as progress, progress.stage("extract", 240, "images") as stage:
        for _ in range(8):
            clock.now += 5
            stage.advance(30)
    assert log.getvalue().splitlines() == [
        "extract: started, 240 images",
        "extract: 60/240 images (25 %), 6 images/s, 30.0 s left",
        "extract: 120/240 images (50 %), 6 images/s, 20.0 s left",
        "extract: 180/240 images (75 %), 6 images/s, 10.0 s left",
        "extract: 240/240 images (100 %), 6 images/s, 0.00 s left",
        "extract: done after 40.0 s, 240/240 images (100 %), 6 images/s",
    ]
    assert (stage.done, stage.seconds, stage.failed) == (240, 40.0, False)


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
        clock.now += 10
        stage.advance(20)
        assert stage.rate == 2.0
        assert stage.seconds_left == 40.0
        clock.now += 40
        stage.advance(80)
    lines = log.getvalue().splitlines()
    assert lines[1] == "extract: 120/200 images (60 %), 2 images/s, 40.0 s left"
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
    assert lines[1] == "extract: 2/4 images (50 %), 0.2 images/s, 10.0 s left, 2 broken images"
    assert lines[2] == "extract: 4/4 images (100 %), 0.2 images/s, 0.00 s left"


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
        assert (stage.failed, stage.done, stage.seconds) == (True, 4, 8.0)
        with progress.stage("report", 1, "pages") as following:
            following.advance()
    assert not following.failed


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
    assert (stage.done, stage.seconds, stage.failed, broken.failed) == (10, 50.0, False, True)


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
    clock.now += 1000
    stage.advance(1_000_000)
    assert stage.summary == "1,000,000/10,000,000 images (10 %), 1,000 images/s, 2 h 30 min left"
    stage.advance(9_500_000)
    assert stage.seconds_left == 0.0


# --- terminal -----------------------------------------------------------------------------------------------------


def plain(terminal: Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def shown_live(terminal: Terminal, text: str) -> str:
    """What the bar shows once `text` is in it; it is redrawn ten times a second."""
    deadline = time.monotonic() + 10
    while text not in plain(terminal) and time.monotonic() < deadline:
        time.sleep(0.02)
    return plain(terminal)


def test_a_bar_on_a_terminal(terminal: Terminal, clock: Clock) -> None:
    with Progress(terminal, clock=clock) as progress, progress.stage("extract", 240, "images") as stage:
        clock.now += 10
        stage.already_done(40)
        stage.advance(20)
        stage.note("[red]group a[/red]")
        live = shown_live(terminal, "60/240")
        clock.now += 80
        stage.advance(180)
    assert "\u2501" in live
    assert "extract" in live
    assert "0:00:10" in live
    assert "60/240 images (25 %), 2 images/s, 1 min 30 s left, [red]group a[/red]" in live
    end = plain(terminal).splitlines()[-1]
    assert "done after 1 min 30 s, 240/240 images (100 %), 2.22 images/s, 40 done earlier" in end
    assert (stage.done, stage.seconds) == (240, 90.0)
    # the cursor is back
    assert terminal.getvalue().rstrip("\n").endswith("\x1b[?25h")


def test_a_failed_bar_is_closed(terminal: Terminal, clock: Clock) -> None:
    stage = break_a_stage(Progress(terminal, clock=clock), clock, None)
    assert "failed after 8.0 s, 4 images, 0.5 images/s" in plain(terminal).splitlines()[-1]
    assert terminal.getvalue().rstrip("\n").endswith("\x1b[?25h")
    assert stage.failed


def test_the_terminal_is_free_between_stages_and_each_bar_stays_once(terminal: Terminal, clock: Clock) -> None:
    progress = Progress(terminal, clock=clock)
    for name in ("extract", "mutual"):
        with progress.stage(name, 1, "shards") as stage:
            clock.now += 2
            stage.advance()
        assert terminal.getvalue().rstrip("\n").endswith("\x1b[?25h")
        terminal.write(f"after {name}\n")
    lines = [line for line in plain(terminal).splitlines() if "done after" in line or line.startswith("after")]
    assert [line.split()[0] for line in lines] == ["extract", "after", "mutual", "after"]


def test_bars_of_stages_within_each_other(terminal: Terminal, clock: Clock) -> None:
    progress = Progress(terminal, clock=clock)
    with progress.stage("extract", 1, "shards") as outer:
        with progress.stage("mutual", 1, "tiles") as inner:
            inner.advance()
        clock.now += 2
        outer.advance()
    end = plain(terminal).splitlines()[-2:]
    assert "done after 2.0 s, 1/1 shards" in end[0]
    assert "done after 0.00 s, 1/1 tiles" in end[1]


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
    assert [record["stages"][-1]["done"] for record in records] == [15, 30, 30]
    last = records[-1]
    assert [stage["name"] for stage in last["stages"]] == ["catalog", "mutual"]
    assert json.loads(json.dumps(last)) == last
    assert last["stages"][1] == {
        "name": "mutual",
        "unit": "tiles",
        "done": 30,
        "total": 100,
        "seconds": 10.0,
        "ended": True,
        "summary": "done after 10.0 s, 30/100 tiles (30 %), 3 tiles/s",
    }
    assert records[0]["stages"][1]["summary"] == "15/100 tiles (15 %), 3 tiles/s, 28.3 s left"


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
    with progress.watched(lambda stage: seen.append((stage.done, stage.failed))):
        break_a_stage(progress, clock, 8)
    assert seen == [(0, False), (4, False), (4, True)]
