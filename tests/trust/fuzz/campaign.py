"""A million bad inputs and more: ``make fuzz``, and in some seconds what CI runs.

Wire decoders, control requests and stream messages are those of ``wire_samples.py``; here come what
people write (recipes, rigs, quantities), the journal of a run, a live control socket, and run files
that are cut off and whose bits have flipped. Everything is seeded mutation of valid input; where
atheris is installed (extra ``fuzz``), it then goes on from the same seeds, led by coverage.

Each target counts its inputs. A refusal is one of the documented exceptions, and everything else is
a finding; the slowest input is reported, and one that takes longer than its bound is a finding too.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wire_samples
import yaml
from fuzz_count import Count
from fuzz_files import fuzz_files
from fuzz_led import Absent, fuzz_led
from fuzz_live import fuzz_live

from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.core.units import parse_quantity
from pyrotome.protocols.messages.journal import (
    Begun,
    Ended,
    Exposed,
    RunLine,
    Trigger,
    line_of,
    parse_journal,
)

ROOT = Path(__file__).resolve().parents[3]
# CPU seconds that one input may take, and on top of that for each megabyte: YAML is slow to read.
SLOWEST_S, SLOWEST_S_PER_MB = 2.0, 40.0


@dataclass(frozen=True)
class Target:
    """Something that takes bytes, and raises one of `refuses` or returns."""

    take: Callable[[bytes], object]
    seeds: Sequence[bytes]
    refuses: tuple[type[Exception], ...]
    nasty: Sequence[bytes] = ()
    tokens: Sequence[bytes] = ()
    share: float = 1.0


# --- what people write ------------------------------------------------------------------------

YAML_TOKENS = (
    b"[", b"]", b"{", b"}", b":", b"- ", b"\n", b"\n  ", b"&a ", b"*a", b"<<: *a", b"!!binary ",
    b"!!python/object/apply:os.system ['true']", b"!!set ", b"!!timestamp ", b"? ", b"|\n", b">\n",
    b"%YAML 9.9\n", b"---\n", b"...\n", b"\t", b"#", b"'", b'"', b"~", b"null", b"true", b".nan",
    b".inf", b"-.inf", b"1e999", b"-1", b"0", b"9" * 30, b"9" * 5000, b"0x" + b"f" * 40, b"1_0",
    b"1:30:00", b"2001-01-01", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\0", b"\xc2\x85",
    b"nan degC", b"inf s", b"1e308 h", b"-5 s", b"0 s", b"300 kV", b"5 parsec", b"1 s**99",
    b"2**10**10 s", b"1 s + 1 s", b"1/0 s", b"\xc2\xb0C", b"1 e/nm^2", b"9e99 e/nm^2", b"% ",
    b"100000", b"100001", b"1e-9 deg", b"1e9 degC", b"__class__", b"beam", b"steps",
)  # fmt: skip


def _bomb(levels: int, wide: int) -> bytes:
    lines = ["a0: &a0 [x, x]"]
    for k in range(1, levels):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * wide)}]")
    return "\n".join(lines).encode()


YAML_NASTY = (
    b"", b"\0", b"\xff\xfe", b"[" * 2_000, b"{a: " * 1_000, b"- " * 5_000, b"a: " * 5_000,
    _bomb(9, 9), _bomb(30, 9), b"&a [*a]", b"&a {b: *a}", b"<<: &a {<<: *a}", b"? [1, 2]\n: 3",
    b"steps: &s [*s]", b"steps: &s [{cycle: {then: *s}}]", b"9" * 100_000, b"a: " + b"9" * 50_000,
    b"'" + b"a" * 100_000, b"a: |\n" + b" x\n" * 20_000,
    b"\n".join(b"a%d: 1" % k for k in range(4_000)),
    b"a: 1\n" * 2, b"!!python/object/apply:os.system ['exit 9']", b"!!binary AAAA",
    b"2001-99-99", b"a: 2001-99-99", b"a: !!int 'x'", b"a: !!float 'x'",
    b"a: 1:2:3:4" + b":1" * 500,
    b"title: " + "\u202e".encode() * 400, b"\xf0\x9f\xa6\xa0: 1", b"%TAG ! tag:\n--- !x y",
)  # fmt: skip


def _take_model(model: type[Any]) -> Callable[[bytes], object]:
    rig = simulated_rig()

    def take(raw: bytes) -> None:
        # As `read_text` does it.
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise BadInput("", "is not text") from None
        found = load_model(model, text, "fuzz")
        if isinstance(found, Recipe):
            plan = make_plan(found, rig, "fuzz")
            assert math.isfinite(plan.duration_s)
            assert plan.frames >= 0

    return take


def _examples(*kinds: str) -> list[bytes]:
    found = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*/*.yaml"))]
    return [raw for raw in found if all(kind.encode() in raw for kind in kinds)]


QUANTITIES = [
    b"200 degC", b"300 kV", b"2 pA", b"10 us", b"16 nm", b"260 e/nm^2", b"1 degC/s", b"5 %",
    b"3 K", b"1.5e-3 h", b"-40 deg", b"60 deg/s",
]  # fmt: skip
UNITS = ("degC", "s", "deg", "pA", "kV", "nm", "elementary_charge/nm**2", "delta_degC/s")


def _take_quantity(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    value = parse_quantity(text, UNITS[len(raw) % len(UNITS)], "5 s")
    assert math.isfinite(value)


JOURNAL = b"".join(
    line_of(1_800_000_000_000_000_000 + k, entry)
    for k, entry in enumerate((
        RunLine(run="r"), Begun(index=0), Ended(index=0, next=1), Begun(index=1),
        Trigger(stack="series_001", first=0, count=3, dose_e_per_nm2=1.5),
        Exposed(stack="series_001"), Ended(index=1, next=2), RunLine(run="r", resumed=1),
    ))
)  # fmt: skip


def _take_journal(raw: bytes) -> None:
    from pyrotome.daemon.resume.journal_history import History

    entries, damaged = parse_journal(raw)
    assert len(entries) + len(damaged) <= raw.count(b"\n")
    history = History.of(entries)
    assert history.last_ns >= 0
    for charged in getattr(history, "charged", {}).values():
        assert charged >= 0
        assert math.isfinite(charged)


TARGETS: dict[str, Target] = {
    "recipe": Target(
        _take_model(Recipe), _examples("steps:", "beam:"), (BadInput,), YAML_NASTY, YAML_TOKENS, 0.1
    ),
    "rig": Target(
        _take_model(Rig), [*_examples("heater:", "driver:"),
        yaml.safe_dump(simulated_rig().model_dump(mode="json", by_alias=True)).encode()],
        (BadInput,), YAML_NASTY, YAML_TOKENS, 0.1,
    ),
    "quantity": Target(_take_quantity, QUANTITIES, (ValueError,), (), YAML_TOKENS, 1.0),
    "journal": Target(
        _take_journal, [JOURNAL], (), (b"\n" * 10_000, b"[" * 90_000 + b"\n"), (), 0.5
    ),
}  # fmt: skip


def _mutations(target: Target, count: int, rng: random.Random) -> Iterator[bytes]:
    yield from target.seeds
    yield from target.nasty
    tokens, seeds = target.tokens, target.seeds
    for _ in range(max(0, count - len(seeds) - len(target.nasty))):
        raw = seeds[int(rng.random() * len(seeds))]
        for _ in range(1 + int(rng.random() * 3)):
            other = seeds[int(rng.random() * len(seeds))]
            if tokens and rng.random() < 0.4:
                at = int(rng.random() * (len(raw) + 1))
                token = tokens[int(rng.random() * len(tokens))]
                raw = raw[:at] + token + raw[at + int(rng.random() * 2) * len(token) :]
            elif tokens and rng.random() < 0.4:
                raw = _value_changed(raw, tokens, rng)
            else:
                raw = wire_samples.mutated(raw, other, rng)
        yield raw


def _value_changed(raw: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """Another value after one of the colons: what people get wrong most."""
    colons = [k for k, byte in enumerate(raw) if byte == 0x3A]
    if not colons:
        return raw
    at = colons[int(rng.random() * len(colons))]
    end = min(
        (k for k in (raw.find(b, at) for b in (b"\n", b",", b"}")) if k >= 0), default=len(raw)
    )
    return raw[: at + 1] + b" " + tokens[int(rng.random() * len(tokens))] + raw[end:]


def fuzz(name: str, count: int, seed: int = 20261121) -> Count:
    """Give so many inputs to a target."""
    target, rng, found = TARGETS[name], random.Random(seed), Count(name)
    clock = time.thread_time
    for raw in _mutations(target, count, rng):
        found.inputs += 1
        before = clock()
        try:
            target.take(raw)
        except target.refuses:
            found.refused += 1
        except Exception as error:
            if len(found.findings) < 20:
                found.findings.append(f"{error!r} for {raw[:300]!r} ({len(raw)} bytes)")
        took_s = clock() - before
        if took_s > found.slowest_s:
            found.slowest_s, found.slowest = took_s, raw[:200]
            if took_s > SLOWEST_S + SLOWEST_S_PER_MB * len(raw) * 1e-6:
                found.findings.append(f"{took_s:.1f} s for {raw[:200]!r} ({len(raw)} bytes)")
    return found


def fuzz_wires(count: int) -> list[Count]:
    """Each decoder of the wires, as its own test does it."""
    counts: list[Count] = []
    for name, decoder in wire_samples.DECODERS.items():
        found, rng = Count(name), random.Random(20261121)
        clock = time.thread_time
        for parts in wire_samples.bad_messages(decoder.seeds, rng, count):
            found.inputs += 1
            before = clock()
            try:
                decoder.take(parts, rng)
            except decoder.refuses:
                found.refused += 1
            except Exception as error:
                found.findings.append(f"{error!r} for {[part[:200] for part in parts]}")
            found.slowest_s = max(found.slowest_s, clock() - before)
        counts.append(found)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="inputs of a usual target")
    parser.add_argument("--files", type=int, default=1_000, help="damaged run files")
    parser.add_argument("--live", type=int, default=20_000, help="requests to a live daemon")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument(
        "--atheris-s", type=int, default=20, help="seconds of each coverage-led run"
    )
    arguments = parser.parse_args()
    began_s = time.monotonic()
    counts: list[Count] = []

    def add(*found: Count) -> None:
        for count in found:
            counts.append(count)
            print(count.line(), flush=True)
            for finding in count.findings:
                print(f"    {finding}", flush=True)

    for name, target in TARGETS.items():
        add(fuzz(name, int(arguments.count * target.share), arguments.seed))
    add(*fuzz_wires(arguments.count))
    add(fuzz_files(arguments.files, arguments.seed))
    add(fuzz_live(arguments.live, arguments.seed))
    with contextlib.suppress(Absent):
        add(*fuzz_led(arguments.atheris_s))
    inputs = sum(count.inputs for count in counts)
    findings = sum(len(count.findings) for count in counts)
    print(f"{inputs} inputs, {findings} findings, {time.monotonic() - began_s:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
