"""Kill processes of running experiments at random moments, and see what is left: ``make chaos``.

Each round starts `pyrotome run` on a microscope that stands beside it, kills one of daemon,
recorder, analysis and simulators with SIGKILL, at any moment from the start of the process to its
end, and goes on with ``run --resume`` until the experiment is complete; now and then it kills that,
too, or strikes twice. Witnesses are the microscope's own log, and a subscriber to the monitor that
notes which frames were acknowledged and what was in them.

After every attempt: the file is readable after `pyrotome recover`, every acknowledged frame is in
it with its pixels, beam and heater are safe. At the end: the file equals the schedule.

``--seed N`` replays one round, ``--kills``, ``--jobs`` and ``--first-seed`` make many.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import psutil
import yaml
import zmq
from command_line import TINY
from microscope import Microscope, environment

from pyrotome.daemon.schedule.plan import Plan, make_plan
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.runfile.layout import RECORDED

VICTIMS = ("daemon", "recorder", "analysis", "simulators")
MODULES = {
    "recorder": "pyrotome.daemon.recording.recorder",
    "analysis": "pyrotome.analysis.online.worker",
    "guardian": "pyrotome.daemon.safety.guardian",
}
# Wall seconds of an attempt that nobody disturbs, until one has been seen.
TYPICAL_S = 9.0
ATTEMPT_TIMEOUT_S = 120.0
SAFE_TIMEOUT_S = 30.0
HOLDS_S = (0.6, 0.8, 0.5)
HOLD_TOLERANCE_S = 0.2
TILT_TOLERANCE_DEG = 0.2

TILTS = {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "5 deg"}}
RECIPE: dict[str, Any] = {
    "title": "Chaos",
    **TINY,
    "limits": {"temperature": "900 degC", "dose": "1000 e/nm^2"},
    "steps": [
        {"heat": {"to": "200 degC", "rate": "400 degC/s"}},
        {"reference": {"frames": 8}},
        {
            "cycle": {
                "standby": "200 degC", "processing": "350 degC",
                "holds": [f"{hold:g} s" for hold in HOLDS_S], "then": [TILTS],
            }
        },
    ],
    "analysis": [{"reconstruct": {"method": "sirt", "iterations": 1, "binning": 2}}],
}  # fmt: skip


class Broken(AssertionError):
    """A promise that was not kept."""


def must(true: bool, *said: object) -> None:
    """Raise Broken with what is said, unless it is true."""
    if not true:
        raise Broken(" ".join(str(word) for word in said))


@dataclass
class Tally:
    """What all rounds have seen together."""

    kills: Counter[str] = field(default_factory=Counter[str])
    rounds: int = 0
    attempts: int = 0
    resumes: int = 0
    acknowledged: int = 0
    compared: int = 0
    lost: int = 0
    to_cold_s: list[float] = field(default_factory=list[float])
    to_dark_s: list[float] = field(default_factory=list[float])
    interrupted_holds: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


class Witness:
    """A subscriber of the monitor: which frames it saw, and how many were acknowledged."""

    def __init__(self, endpoint: str) -> None:
        self.pixels: dict[tuple[str, int], set[str]] = {}
        self.durable = 0
        self.said: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(endpoint,), name="witness")
        self._thread.start()

    def _follow(self, endpoint: str) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as link:
            link.set(zmq.LINGER, 0)
            link.set(zmq.RCVHWM, 0)
            link.connect(endpoint)
            link.subscribe(b"")
            while not self._over.is_set():
                if not link.poll(50):
                    continue
                topic, raw, *payload = link.recv_multipart()
                head = json.loads(raw)
                if topic == b"state":
                    recorder = head.get("recorder") or {}
                    self.durable = max(self.durable, int(recorder.get("durable") or 0))
                elif topic.startswith(b"frame/") and payload:
                    key = (head["series"], head["index"])
                    self.pixels.setdefault(key, set()).add(_digest(payload[0]))
                elif topic == b"event":
                    self.said.append(f"{head['level']} {head['source']} {head['message']}")

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


class Attempt:
    """One `pyrotome run`, from its start to its end."""

    def __init__(self, arguments: list[str], folder: Path, number: int) -> None:
        self.errors = folder / f"errors-{number}.txt"
        with self.errors.open("w") as errors, (folder / f"output-{number}.txt").open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pyrotome.daemon", *arguments],
                cwd=folder, stdout=out, stderr=errors, stdin=subprocess.DEVNULL, env=environment(),
            )  # fmt: skip
        self.began_s = time.monotonic()
        self.witness: Witness | None = None
        self.relatives: dict[int, psutil.Process] = {}

    @property
    def text(self) -> str:
        return self.errors.read_text()

    def look(self) -> None:
        """Find the monitor and the processes that have come."""
        if self.witness is None and (rest := self.text.partition("--endpoint")[2].split()):
            self.witness = Witness(rest[0].rstrip(","))
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.relatives[child.pid] = child

    def pid_of(self, victim: str) -> int | None:
        """The process to kill, if it is there."""
        if victim == "daemon":
            return self.process.pid
        for relative in list(self.relatives.values()):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                if relative.is_running() and relative.cmdline()[2] == MODULES[victim]:
                    return relative.pid
        return None

    def until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        """Go on until something is true, the attempt is over, or for so long."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.look()
            if true():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        return False

    def end(self, microscope_alive: Callable[[], bool]) -> int:
        """Exit code, when all of its processes are gone."""
        self.until(lambda: False, ATTEMPT_TIMEOUT_S - (time.monotonic() - self.began_s))
        must(self.process.poll() is not None, "the run does not end:", self.text[-1500:])
        guardian = self.pid_of("guardian")
        if guardian is not None and not microscope_alive():
            # It would try for another minute to reach a microscope that will not come back.
            psutil.Process(guardian).kill()
        _, left = psutil.wait_procs(list(self.relatives.values()), timeout=45)
        must(not left, "processes are left:", left)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for relative in self.relatives.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                relative.kill()
        psutil.wait_procs(list(self.relatives.values()), timeout=5)
        if self.witness is not None:
            self.witness.close()


class Round:
    """One experiment that is killed until it has been killed often enough, and then completes."""

    def __init__(self, seed: int, folder: Path, tally: Tally, most_kills: int) -> None:
        self.seed, self.folder, self.tally = seed, folder, tally
        self.rng = random.Random(seed)
        self.kills_left = min(most_kills, self.rng.choice((1, 2, 2, 3)))
        self.microscope = Microscope(folder)
        self.file = folder / "run.nxs"
        self.plan: Plan = make_plan(Recipe.model_validate(RECIPE), self.microscope.rig)
        self.places = [(s.name, k) for s in self.plan.stacks for k in range(s.frames)]
        self.pixels: dict[tuple[str, int], set[str]] = {}
        self.acknowledged = 0
        self.attempts = 0
        self.typical_s = TYPICAL_S
        self.story: list[str] = []

    def run(self) -> None:
        """Everything; raises Broken."""
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        rig = self.microscope.write_rig()
        try:
            # A daemon that is killed at its very end leaves a file that is complete.
            while self.attempt(rig) != 0 and not self.complete():
                must(self.attempts < 12, "it does not complete")
            self.compare()
        finally:
            self.microscope.close()

    def complete(self) -> bool:
        """Whether nothing is left to do."""
        if not self.file.exists():
            return False
        found = pyrotome(self.folder, "inspect", self.file.name, "--json")
        return found.returncode == 0 and json.loads(found.stdout)["status"] == "complete"

    def attempt(self, rig: Path) -> int:
        """Run or resume, with a kill if there is one left."""
        if not self.microscope.alive:
            self.microscope.start()
            self.story.append("simulators started again")
        resumed = self.file.exists()
        arguments = ["run", "--resume", self.file.name] if resumed else ["run", "recipe.yaml"]
        arguments += ["--rig", str(rig)] if not resumed else []
        arguments += ["-o", self.file.name] if not resumed else []
        attempt = Attempt(arguments, self.folder, self.attempts)
        self.attempts += 1
        self.story.append(" ".join(arguments[:2]))
        killed: list[tuple[str, int]] = []
        try:
            if self.kills_left:
                killed = self.kill(attempt)
            code = attempt.end(lambda: self.microscope.alive)
            took_s = time.monotonic() - attempt.began_s
            self.story.append(f"exit {code} after {took_s:.1f} s")
            self.judge(attempt, code, killed)
            with self.tally.lock:
                self.tally.attempts += 1
                self.tally.resumes += resumed
        except Broken as error:
            said = attempt.witness.said[-12:] if attempt.witness is not None else []
            raise Broken(f"{error}\n{attempt.text[-2500:]}\n" + "\n".join(said)) from None
        finally:
            attempt.close()
        return code

    def kill(self, attempt: Attempt) -> list[tuple[str, int]]:
        """Strike at a random moment, now and then twice; who was killed when (UTC ns)."""
        victim = self.rng.choice(VICTIMS)
        moment_s = self.rng.uniform(0.0, self.typical_s)
        second_s = self.rng.uniform(0.0, 0.6) if self.rng.random() < 0.3 else None
        attempt.until(lambda: time.monotonic() - attempt.began_s >= moment_s, moment_s + 1)
        killed = [(victim, at)] if (at := self.strike(attempt, victim)) else []
        if killed and second_s is not None and victim != "daemon":
            # What follows a death is safing: the daemon dies in the middle of it.
            attempt.until(lambda: False, second_s)
            if at := self.strike(attempt, "daemon"):
                killed.append(("daemon", at))
        return killed

    def strike(self, attempt: Attempt, victim: str) -> int | None:
        """Kill a process as soon as it is there; when (UTC ns), or None if it never was."""
        if victim == "simulators":
            if attempt.process.poll() is not None:
                return None
            at = time.time_ns()
            self.microscope.kill()
        else:
            attempt.until(lambda: attempt.pid_of(victim) is not None, 30)
            pid = attempt.pid_of(victim)
            if pid is None or attempt.process.poll() is not None:
                return None
            at = time.time_ns()
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.kills_left -= 1
        with self.tally.lock:
            self.tally.kills[victim] += 1
        self.story.append(f"killed {victim} after {time.monotonic() - attempt.began_s:.2f} s")
        return at

    def judge(self, attempt: Attempt, code: int, killed: list[tuple[str, int]]) -> None:
        """What must hold after every attempt."""
        text, who = attempt.text, {victim for victim, _ in killed}
        must("Traceback" not in text, "a traceback")
        if not who or who == {"analysis"}:
            must(code == 0, "exit code", code, "although nothing vital was killed")
        elif "daemon" not in who:
            must(code in {0, 1, 3}, "exit code", code)
        self.judge_safety(killed)
        witness = attempt.witness
        durable = witness.durable if witness is not None else 0
        for key, digests in (witness.pixels if witness is not None else {}).items():
            self.pixels.setdefault(key, set()).update(digests)
        if not self.file.exists():
            must(durable == 0, "frames were acknowledged, and there is no file")
            return
        recovered = pyrotome(self.folder, "recover", self.file.name)
        must(recovered.returncode == 0, "recover:", recovered.returncode, recovered.stderr)
        recorded = self.recorded()
        new = max(0, durable - self.acknowledged)
        self.acknowledged = max(self.acknowledged, durable)
        lost = max(0, self.acknowledged - len(recorded))
        with self.tally.lock:
            self.tally.acknowledged += new
            self.tally.lost += lost
        must(lost == 0, f"{self.acknowledged} acknowledged, {len(recorded)} in the file")
        # They come in the order of the plan: what is there has no holes before its end.
        must(recorded == set(self.places[: len(recorded)]), "frames have holes:", sorted(recorded))

    def judge_safety(self, killed: list[tuple[str, int]]) -> None:
        """By the microscope's own log; a microscope that was killed is a cold one."""
        if not self.microscope.alive:
            return
        end = time.monotonic() + SAFE_TIMEOUT_S
        while not (log := self.microscope.log()).safe:
            must(
                time.monotonic() < end, "NOT SAFE: blanked", log.blanked, "setpoint",
                log.setpoint_c, "temperature", log.temperature_c,
            )  # fmt: skip
            time.sleep(0.05)
        deaths = [at for victim, at in killed if victim == "daemon"]
        if deaths:
            with self.tally.lock:
                self.tally.to_cold_s.append(log.cold_after_s(deaths[-1]))
                self.tally.to_dark_s.append(log.dark_after_s(deaths[-1]))

    def recorded(self) -> set[tuple[str, int]]:
        """Frames in the file; each that the witness saw must hold the same pixels."""
        found: set[tuple[str, int]] = set()
        compared = 0
        with h5py.File(self.file) as file:
            for stack in self.plan.stacks:
                detector = file[f"{stack.name}/instrument/detector"]
                keys, data = detector["image_key"][()], detector["data"]
                for index in range(stack.frames):
                    if keys[index] != RECORDED:
                        continue
                    found.add((stack.name, index))
                    seen = self.pixels.get((stack.name, index))
                    if seen is not None:
                        compared += 1
                        must(
                            _digest(data[index].astype("<u2").tobytes()) in seen,
                            f"frame {index} of {stack.name} has other pixels than were sent",
                        )
        with self.tally.lock:
            self.tally.compared += compared
        return found

    def compare(self) -> None:
        """The finished file against the schedule and the microscope's own account."""
        done = pyrotome(self.folder, "inspect", self.file.name, "--json")
        must(done.returncode == 0, done.stderr)
        found = json.loads(done.stdout)
        must(found["status"] == "complete", found["status"])
        must(self.recorded() == set(self.places), "frames are missing")
        must(found["lost_frames"] == 0, found["lost_frames"], "frames lost")
        wanted = {s.name: list(s.tilt_deg) for s in self.plan.stacks if s.kind == "series"}
        must({s["name"] for s in found["series"]} == set(wanted), "other series")
        for series in found["series"]:
            for is_deg, asked_deg in zip(series["tilt_deg"], wanted[series["name"]], strict=True):
                must(abs(is_deg - asked_deg) <= TILT_TOLERANCE_DEG, series["name"], is_deg)
        for hold, requested_s in zip(found["holds"], HOLDS_S, strict=True):
            achieved_s = hold["achieved_s"]
            must(achieved_s is not None, "hold", hold["index"], "was not achieved")
            must(
                abs(achieved_s - requested_s) <= HOLD_TOLERANCE_S,
                f"hold {hold['index']}: {achieved_s} s instead of {requested_s} s",
            )
        # Never less than the exposures, and not much more than what the blanker let through; when
        # exactly it switched is not known, the less the busier the computer is.
        logs = self.microscope.logs_of_all()
        exposed = sum(log.exposed_e_per_nm2 for log in logs)
        parked = max(0.0, sum(log.fluence_e_per_nm2 for log in logs) - exposed)
        beam = Recipe.model_validate(RECIPE).beam
        burst = 8 * beam.dose_per_frame_e_per_nm2
        dose, truly = found["dose_e_per_nm2"], f"{exposed} and {parked} while parked truly"
        most = 1.02 * exposed + 1.5 * parked + self.attempts * burst
        must(0.98 * exposed - 1e-9 <= dose <= most, f"dose {dose} in the file, {truly}")


def pyrotome(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env=environment(),
    )  # fmt: skip


def play(seed: int, tally: Tally, most_kills: int, keep: bool = False) -> None:
    """One round; what goes wrong is noted in the tally with its seed."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    this: Round | None = None
    problem = ""
    try:
        this = Round(seed, folder, tally, most_kills)
        this.run()
    except Broken as error:
        problem = str(error)
    except Exception:
        problem = traceback.format_exc()
    with tally.lock:
        tally.rounds += 1
        if this is not None:
            print(
                f"seed {seed}: {'BROKEN' if problem else 'kept'}: {'; '.join(this.story)}",
                flush=True,
            )
        if problem:
            story = "; ".join(this.story) if this is not None else "did not begin"
            tally.failures.append((seed, f"{story}\n{problem}"))
    if problem and keep:
        print(f"seed {seed}: kept {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def chaos(kills: int, first_seed: int, jobs: int = 1, keep: bool = False) -> Tally:
    """Rounds with seeds that count up from one, until so many processes have been killed."""
    tally = Tally()
    seeds = iter(range(first_seed, first_seed + 10_000))

    def work() -> None:
        while True:
            with tally.lock:
                left = kills - tally.killed
                if left <= 0 or len(tally.failures) >= 5:
                    return
                seed = next(seeds)
            play(seed, tally, max(1, left), keep)

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work) for _ in range(jobs)]:
            done.result()
    return tally


def report(tally: Tally, wall_s: float) -> str:
    """The table."""
    cold, dark = max(tally.to_cold_s, default=0.0), max(tally.to_dark_s, default=0.0)
    lines = [
        f"kills                  {tally.killed}  "
        + ", ".join(f"{victim} {tally.kills[victim]}" for victim in VICTIMS),
        f"rounds                 {tally.rounds}, {tally.attempts} attempts, "
        f"{tally.resumes} of them resumed",
        f"frames acknowledged    {tally.acknowledged}, lost {tally.lost}; "
        f"{tally.compared} comparisons of pixels",
        f"heater cold after      {cold:.2f} s at worst "
        f"({len(tally.to_cold_s)} deaths of the daemon)",
        f"beam blanked after     {dark:.2f} s at worst",
        f"wall time              {wall_s:.0f} s",
        f"broken promises        {len(tally.failures)}",
    ]
    for seed, problem in tally.failures:
        lines.append(f"\nseed {seed} (replay with --seed {seed}): {problem}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seed", type=int, help="replay this round alone")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at the same time")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failed rounds")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    if arguments.seed is not None:
        tally = Tally()
        play(arguments.seed, tally, 100, arguments.keep)
    else:
        tally = chaos(arguments.kills, arguments.first_seed, arguments.jobs, arguments.keep)
    print(report(tally, time.monotonic() - began_s))
    late = max([*tally.to_cold_s, *tally.to_dark_s], default=0.0)
    return 1 if tally.failures or tally.lost or late > 1.0 else 0


if __name__ == "__main__":
    sys.exit(main())
