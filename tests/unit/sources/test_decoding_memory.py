"""Large images wait for memory, none for ever: they are served in turn, and one that never fits is decoded alone."""

import threading
import time

import numpy as np
import pytest

from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.errors import ImageError
from musc_ray.sources import decoding
from musc_ray.sources.decoding import decode_for_model
from musc_ray.sources.decoding_memory import DecodingMemory
from tests.helpers.tiff_files import tiff

PATIENCE = 20


def run(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_what_is_taken_at_the_same_time_fits_or_is_alone():
    memory, generator = DecodingMemory(100), np.random.default_rng(0)
    amounts = [int(amount) for amount in generator.integers(1, 300, 60)]
    held: dict[int, int] = {}
    seen = []
    lock = threading.Lock()

    def work(number, amount):
        with memory.lease() as take:
            take(amount)
            with lock:
                held[number] = amount
                seen.append(dict(held))
            time.sleep(0.001)
            with lock:
                del held[number]

    run([threading.Thread(target=work, args=(number, amount)) for number, amount in enumerate(amounts)])
    assert len(seen) == len(amounts)
    assert all(len(each) == 1 or sum(each.values()) <= 100 for each in seen)
    assert any(len(each) > 1 for each in seen)
    assert memory.taken == 0


def test_a_large_one_is_not_overtaken_by_small_ones():
    memory, order = DecodingMemory(100), []
    first_taken, may_end = threading.Event(), threading.Event()

    def first():
        with memory.lease() as take:
            take(60)
            first_taken.set()
            may_end.wait(PATIENCE)

    def later(name, amount):
        with memory.lease() as take:
            take(amount)
            order.append(name)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    first_taken.wait(PATIENCE)
    for name, amount in (("large", 1000), ("small", 1)):
        threads.append(threading.Thread(target=later, args=(name, amount)))
        threads[-1].start()
        while len(memory._queue) < len(threads) - 1:
            time.sleep(0.001)
    assert order == []
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert order == ["large", "small"]


def test_taking_again_gives_back_first_and_errors_give_back_all():
    memory = DecodingMemory(100)
    with memory.lease() as take:
        take(90)
        take(95)  # would wait for itself
        assert memory.taken == 95

    def fail():
        with memory.lease() as take:
            take(90)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert memory.taken == 0


@pytest.mark.parametrize("crops", [None, CropInput(CropLayout(2, 2), (14, 14))])
def test_images_larger_than_all_memory_are_decoded_and_broken_ones_give_back(crops, monkeypatch):
    memory = DecodingMemory(1)
    monkeypatch.setattr(decoding, "DECODING", memory)
    values = np.arange(60 * 60, dtype=np.uint16).reshape(60, 60)
    shape = InputShape((14, 14), crops)
    for data in (tiff(values), tiff(values.astype(np.uint8))):
        results = []
        run([threading.Thread(target=lambda data=data, results=results: results.append(
            decode_for_model(data, shape, 10_000, decoding.BY_FORMAT))) for _ in range(4)])  # fmt: skip
        assert len(results) == 4
        with pytest.raises(ImageError):
            decode_for_model(data[: len(data) // 2], shape, 10_000, decoding.BY_FORMAT)
    assert memory.taken == 0


def test_large_images_are_decoded_alone_and_small_ones_beside_each_other():
    memory, now, most = DecodingMemory(300), [0, 0], [0, 0]
    lock, both = threading.Lock(), threading.Barrier(2, timeout=20)

    def decode(pixels: int | None, meets: bool) -> None:
        with memory.of_pixels(pixels):
            with lock:
                now[0] += 1
                now[1] += pixels is not None and pixels > 100
                most[:] = max(most[0], now[0]), max(most[1], now[0] * now[1])
            if meets:
                both.wait()
            with lock:
                now[0] -= 1
                now[1] -= pixels is not None and pixels > 100

    for work in ([(50, True), (50, True)], [(None, True), (25, True)], [(900, False)] * 4 + [(None, False)] * 4):
        threads = [threading.Thread(target=decode, args=arguments) for arguments in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert most[0] >= 2, "small ones met"
    assert most[1] == 1, "a large one was alone"
