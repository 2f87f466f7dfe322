"""Every wire decoder takes 100,000 bad messages and answers with BadMessage or with what was sent.

`PYROTOME_FUZZ` sets another number, `-rP` shows the counts.
"""

import os
import random
import time
from collections.abc import Iterator

import pytest
from wire_samples import DECODERS, NASTY, bad_messages

COUNT = int(os.environ.get("PYROTOME_FUZZ", "100000"))
# CPU seconds that one message may take: a hang, or work that grows with its square, takes more.
SLOWEST_S = 0.5


@pytest.mark.parametrize("name", DECODERS)
def test_valid_messages_are_taken(name):
    decoder, rng = DECODERS[name], random.Random(1)
    refused = 0
    for parts in decoder.seeds:
        for _ in range(20):
            try:
                decoder.take(list(parts), rng)
            except decoder.refuses:
                refused += 1
    # A message goes to one of several parsers, and not every one is for it.
    assert refused < 0.9 * 20 * len(decoder.seeds)


@pytest.mark.parametrize("name", DECODERS)
def test_bad_messages(name):
    decoder, rng = DECODERS[name], random.Random(20261121)
    clock, take, refuses = time.thread_time, decoder.take, decoder.refuses
    refused, slowest_s, slowest = 0, 0.0, b""

    def messages_to_take() -> Iterator[list[bytes]]:
        for raw in NASTY:
            parts = list(decoder.seeds[0])
            for k in range(len(parts)):
                yield [*parts[:k], raw, *parts[k + 1 :]]
        yield from bad_messages(decoder.seeds, rng, COUNT)

    count = 0
    before = clock()
    for parts in messages_to_take():
        count += 1
        try:
            take(parts, rng)
        except refuses:
            refused += 1
        except Exception as error:
            shown = [part if len(part) < 400 else (part[:400], len(part)) for part in parts]
            pytest.fail(f"{error!r} at message {count}: {shown}", pytrace=True)
        after = clock()
        if after - before > slowest_s:
            slowest_s, slowest = after - before, b"|".join(part[:60] for part in parts)
        before = after
    assert count >= COUNT
    assert slowest_s < SLOWEST_S, slowest
