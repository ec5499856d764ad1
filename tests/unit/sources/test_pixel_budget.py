"""How many pixels the threads of a process decode at the same time."""

import threading

from musc_ray.sources.pixel_budget import PixelBudget


def test_large_images_are_decoded_alone_and_small_ones_beside_each_other():
    budget, now, most = PixelBudget(100), [0, 0], [0, 0]
    lock, both = threading.Lock(), threading.Barrier(2, timeout=20)

    def decode(pixels: int | None, meets: bool) -> None:
        with budget.take(pixels):
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
