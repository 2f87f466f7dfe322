"""The command line: ``pyrotome COMMAND``; every error becomes one message and an exit code."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from ... import __version__
from ...drivers.base import DeviceError
from ...drivers.registry import check_drivers, driver_class, installed
from ...protocols.config.faults import FAULTS, parse_fault
from ...protocols.config.recipe import Recipe, load_recipe
from ...protocols.config.rig import ROLES, Rig, Streams, load_rig, simulated_rig
from ...protocols.core.documents import load_model, read_text
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    BadRequest,
    Request,
    Simple,
    Submit,
    TakeLease,
)
from ..runtime.processes import ChildFailed
from .keys import keys

if TYPE_CHECKING:
    from ..resume.interrupted_run import Interrupted

app = typer.Typer(
    name="pyrotome",
    help="Live in-situ heating experiments in electron microscopes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

app.add_typer(keys)

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The experiment, a YAML file.")
]
RigOption = Annotated[
    Path | None,
    typer.Option("--rig", metavar="RIG", help="The instrument, a YAML file; else simulated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ControlOption = Annotated[
    str, typer.Option("--endpoint", metavar="E", help="Control endpoint of the daemon.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="FILE", envvar="PYROTOME_KEY", help="Your key, for a daemon that asks."
    ),
]
_CONTROL = Streams().control
_MONITOR = Streams().monitor


def _out() -> Console:
    return Console()


def _err() -> Console:
    return Console(stderr=True)


def _rig_of(path: Path | None, recipe: Recipe | None = None) -> tuple[Rig, str]:
    """The rig named, or the simulated microscope with the recipe's high tension."""
    if path is not None:
        rig, text = load_rig(path)
    else:
        rig = simulated_rig()
        if recipe is not None and rig.simulator is not None:
            column = rig.simulator.column.model_copy(update={"voltage_kv": recipe.beam.voltage_kv})
            simulator = rig.simulator.model_copy(update={"column": column})
            rig = rig.model_copy(update={"simulator": simulator})
        text = "# the built-in simulated microscope\n" + rig.model_dump_json(
            by_alias=True, indent=1
        )
    try:
        check_drivers(rig)
    except BadInput as error:
        where = f"{path or 'built-in rig'}: {error.where}"
        raise BadInput(where, error.problem) from None
    return rig, text


def _refuse_existing(path: Path | None) -> None:
    if path is not None and path.exists():
        raise BadInput(str(path), "exists already; nothing is overwritten, name another file")


@app.command(
    epilog="Examples: `pyrotome run examples/recipes/quickstart.yaml -o demo.nxs`, "
    "`pyrotome run --resume demo.nxs`"
)
def run(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="The experiment, a YAML file; with --resume a run file."
        ),
    ],
    rig: RigOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Run file; never overwritten."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(metavar="X", help="Run simulated time this much faster; else 1."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of a file that is not complete.")
    ] = False,
    simulator_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Let the simulated world write its own log there."),
    ] = None,
    simulator_fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE:FAULT[@START]",
            help="Let a simulated instrument misbehave, as `pyrotome simulate --fault` does.",
        ),
    ] = None,
) -> None:
    """Run one experiment from start to end in the foreground.

    A run that was killed, aborted or failed goes on with --resume: it takes the frames that are
    missing, holds what is left of its holds, and charges to the dose what came before.
    """
    from ..resume.interrupted_run import check_fit, is_run_file
    from ..run.experiment import new_output
    from ..schedule.plan import make_plan
    from .foreground import run_foreground

    if speed is not None and not (math.isfinite(speed) and 0 < speed <= 1000):
        raise BadInput("--speed", f"{speed:g} is not between 0 and 1000")
    faults = [parse_fault(text, "--simulator-fault") for text in simulator_fault or ()]
    _refuse_existing(simulator_log)
    interrupted = _interrupted(recipe, output) if resume else None
    if interrupted is not None:
        name, recipe_text = str(interrupted.path), interrupted.manifest.recipe_text
        recipe_model = load_model(Recipe, recipe_text, f"the recipe in {name}")
        rig_model, rig_text = _rig_of_run(rig, interrupted)
    else:
        if is_run_file(recipe):
            raise BadInput(str(recipe), "is not text but a run file; to go on with it, --resume")
        name, (recipe_model, recipe_text) = str(recipe), load_recipe(recipe)
        rig_model, rig_text = _rig_of(rig, recipe_model)
    plan = make_plan(recipe_model, rig_model, name)
    if interrupted is not None:
        check_fit(interrupted, rig_model, plan)
        target = interrupted.path
        if speed is None and rig_model.simulator is not None:
            speed = interrupted.manifest.speed
    else:
        target = new_output(output, recipe_model.title)
    texts, rig_file = (recipe_text, rig_text), str(rig.absolute()) if rig is not None else None
    code = asyncio.run(
        run_foreground(
            plan, texts, rig_model, target, 1.0 if speed is None else speed, simulator_log,
            rig is None, rig_file, interrupted, faults,
        )
    )  # fmt: skip
    raise typer.Exit(code)


def _notice(text: str) -> None:
    _err().print(text, style="dim", highlight=False, soft_wrap=True)


def _interrupted(target: Path, output: Path | None) -> Interrupted:
    """The run that is to go on, named by its file or by its recipe and file."""
    from ..resume.interrupted_run import is_run_file, read_interrupted, same_recipe

    if not target.exists():
        raise BadInput(str(target), "no such file; name the file of the interrupted run")
    if is_run_file(target):
        if output is not None:
            raise BadInput("-o", f"a run goes on in its own file, {target}")
        return read_interrupted(target, _notice)
    text = read_text(target)
    if output is None:
        raise BadInput(
            str(target), "is no run file; name that of the interrupted run, or add it with -o"
        )
    if not is_run_file(output):
        raise BadInput(str(output), "is no run file" if output.exists() else "no such file")
    interrupted = read_interrupted(output, _notice)
    same_recipe(interrupted, text, str(target))
    return interrupted


def _rig_of_run(path: Path | None, interrupted: Interrupted) -> tuple[Rig, str]:
    """The rig named, or that in the file of an interrupted run."""
    from ..resume.interrupted_run import rig_of_run

    if path is not None:
        return _rig_of(path)
    rig, text = rig_of_run(interrupted)
    check_drivers(rig)
    return rig, text


@app.command(epilog="Example: `pyrotome check examples/recipes/cu_sintering.yaml`")
def check(recipe: RecipeArgument, rig: RigOption = None, as_json: JsonOption = False) -> None:
    """Validate a recipe and print its plan; touches no hardware."""
    from ..schedule.plan import make_plan
    from .progress import plan_table

    recipe_model, _ = load_recipe(recipe)
    rig_model, _ = _rig_of(rig, recipe_model)
    plan = make_plan(recipe_model, rig_model, str(recipe))
    if as_json:
        _print_json(plan.summary())
    else:
        _out().print(plan_table(plan))


@app.command(epilog="Example: `pyrotome serve --rig examples/rigs/simulated.yaml`")
def serve(
    rig: Annotated[Path, typer.Option("--rig", metavar="RIG", help="The instrument, a YAML file.")],
    speed: Annotated[
        float, typer.Option(metavar="X", help="Run simulated time this much faster.")
    ] = 1.0,
) -> None:
    """Run the daemon alone, waiting for control."""
    from .foreground import serve_until_stopped

    if not (math.isfinite(speed) and 0 < speed <= 1000):
        raise BadInput("--speed", f"{speed:g} is not between 0 and 1000")
    rig_model, rig_text = _rig_of(rig)
    raise typer.Exit(asyncio.run(serve_until_stopped(rig_model, rig_text, speed)))


def _ask(
    endpoint: str, key: Path | None, request: Request, timeout_s: float = 5.0
) -> dict[str, Any]:
    from ..client.client import NoDaemon, ask, read_key

    try:
        reply = ask(endpoint, request, timeout_s, read_key(key))
    except NoDaemon as error:
        _fail(str(error), EXIT_DEVICE)
    if not reply.ok:
        _fail(reply.error or "refused", reply.code or EXIT_FAILED)
    return reply.data


def _control(
    endpoint: str, key: Path | None, request: Request, timeout_s: float = 5.0
) -> dict[str, Any]:
    """Ask for what needs the control lease; it is taken or renewed where nobody else has it."""
    token = _ask(endpoint, key, TakeLease(verb="lease"))["token"]
    return _ask(endpoint, key, request.model_copy(update={"token": token}), timeout_s)


@app.command(epilog="Example: `pyrotome submit examples/recipes/quickstart.yaml`")
def submit(
    recipe: RecipeArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Run file, on the daemon's machine."),
    ] = None,
    endpoint: ControlOption = _CONTROL,
    key: KeyOption = None,
) -> None:
    """Let a served daemon run a recipe."""
    text = read_text(recipe)
    request = Submit(
        verb="submit",
        recipe=text,
        name=str(recipe),
        output=str(output.absolute()) if output is not None else None,
    )
    data = _control(endpoint, key, request)
    _out().print(
        f"run {data['run']} started: {data['frames']} frames into {data['file']}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


@app.command(epilog="Example: `pyrotome status --json`")
def status(
    as_json: JsonOption = False, endpoint: ControlOption = _CONTROL, key: KeyOption = None
) -> None:
    """Say what a daemon is doing."""
    from .progress import status_lines

    data = _ask(endpoint, key, Simple(verb="status"))
    if as_json:
        _print_json(data)
        return
    for name, value in status_lines(data):
        _out().print(f"{name:>12}  {value}", highlight=False)


@app.command(epilog="Example: `pyrotome pause --endpoint tcp://127.0.0.1:5570`")
def pause(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Finish the exposure or hold under way, then wait at standby."""
    _control(endpoint, key, Simple(verb="pause"))
    _out().print("pausing: the exposure or hold under way is finished first")


@app.command(epilog="Example: `pyrotome resume`")
def resume(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Go on after a pause."""
    _control(endpoint, key, Simple(verb="resume"))
    _out().print("resumed")


@app.command(epilog="Example: `pyrotome abort`")
def abort(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """End the experiment safely: beam blanked, heater at its safe level, file closed."""
    _control(endpoint, key, Simple(verb="abort"), timeout_s=180.0)
    _out().print("aborted: beam blanked, heater at its safe level, file closed")


@app.command(epilog="Example: `pyrotome safe`")
def safe(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Emergency stop: beam blanked and heater at its safe level, whatever is going on."""
    _ask(endpoint, key, Simple(verb="safe"), timeout_s=180.0)
    _out().print("safe: beam blanked, heater at its safe level")


@app.command(epilog="Example: `pyrotome clear`")
def clear(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Take back a panic, after looking at beam and heater: both must confirm that they are safe."""
    data = _ask(endpoint, key, Simple(verb="clear"), timeout_s=180.0)
    for step in data["steps"]:
        _out().print(step["action"] if step["confirmed"] else f"NOT {step['action']}")


@app.command(epilog="Examples: `pyrotome lease`, `pyrotome lease --release`")
def lease(
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take it from whoever holds it; admins may.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="Give it back.")] = False,
    endpoint: ControlOption = _CONTROL,
    key: KeyOption = None,
) -> None:
    """Take control, or renew it, before somebody else does.

    Commands that control take it by themselves where nobody else has it; it runs out by itself.
    """
    if take_over and release:
        raise BadInput("--release", "give the lease back, or take it over, not both")
    if release:
        _ask(endpoint, key, Simple(verb="release"))
        _out().print("released: anybody may take control")
        return
    data = _ask(endpoint, key, TakeLease(verb="lease", take_over=take_over))
    _out().print(
        f"'{data['holder']}' has control for {data['seconds']:g} s unless renewed", highlight=False
    )


@app.command(epilog="Example: `pyrotome watch --endpoint tcp://127.0.0.1:5571 --json`")
def watch(
    endpoint: Annotated[
        str, typer.Option("--endpoint", metavar="E", help="Monitor endpoint of the daemon.")
    ] = _MONITOR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Stop after so many seconds.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Watch a running experiment from anywhere."""
    from ..client.client import read_key
    from .watch import watch_endpoint

    watch_endpoint(endpoint, as_json, seconds, _out(), _err(), read_key(key))


@app.command(
    epilog="Examples: `pyrotome simulate --rig examples/rigs/simulated.yaml`, "
    "`pyrotome simulate --fault detector:hang@20s+5s --fault 'stage:slow=200 ms'`, "
    "`pyrotome simulate --fault heater:errorx2`"
)
def simulate(
    rig: RigOption = None,
    speed: Annotated[
        float, typer.Option(metavar="X", help="Run simulated time this much faster.")
    ] = 1.0,
    simulator_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The simulated world's own log.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE:FAULT[=LATE][xTIMES][@START][+DURATION]",
            help=f"Let a wire misbehave: {', '.join(FAULTS)}. May be given several times.",
        ),
    ] = None,
) -> None:
    """Run only the simulators; prints each wire's endpoint.

    A wire misbehaves from START on (experiment time since the wires are open), for DURATION or
    until it has done so TIMES times. Lines typed while the simulators run switch faults in the same
    way: `heater:hang`, and `heater:none` to clear all faults of that wire.
    """
    from .foreground import simulate_until_stopped

    if not (math.isfinite(speed) and 0 < speed <= 1000):
        raise BadInput("--speed", f"{speed:g} is not between 0 and 1000")
    faults = [parse_fault(text) for text in fault or ()]
    rig_model, _ = _rig_of(rig)
    if rig_model.simulator is None:
        raise BadInput(f"{rig}", "has no key 'simulator': there is nothing to simulate")
    _refuse_existing(simulator_log)
    code = asyncio.run(simulate_until_stopped(rig_model, speed, simulator_log, faults))
    raise typer.Exit(code)


@app.command(epilog="Example: `pyrotome inspect demo.nxs --json`")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a run file holds, also while it grows."""
    from ...protocols.runfile.summary import inspect_file
    from .describe import describe_file

    if as_json:
        _print_json(inspect_file(file))
    else:
        _out().print(describe_file(file))


@app.command(epilog="Example: `pyrotome recover killed.nxs`")
def recover(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")],
    as_json: JsonOption = False,
) -> None:
    """Make the file of a killed run readable and say what it holds.

    A healthy file is not touched. What is done can be interrupted and repeated at any moment.
    """
    from ..recording.recovery import recover as recover_file
    from .describe import describe_file

    found = recover_file(file)
    done, lost = list(found.done), list(found.lost)
    if as_json:
        recovered = {"repaired": found.repaired, "done": done, "lost": lost}
        _print_json({**found.report, "recovered": recovered})
        return
    for line in done or ["there is nothing to do"]:
        _out().print(f"{file}: {line}", soft_wrap=True, highlight=False, markup=False)
    for line in lost:
        _err().print(f"{file}: lost: {line}", soft_wrap=True, highlight=False, markup=False)
    _out().print(describe_file(file))


def _analysis(module: str, *arguments: object) -> NoReturn:
    """Become a command of the analysis: streams, Ctrl-C and the exit code are then its own."""
    command = [sys.executable, "-P", "-m", f"pyrotome.analysis.{module}"]
    if "--debug" in sys.argv[1:]:
        command.append("--debug")
    command += [str(argument) for argument in arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


def _given(**options: object) -> list[str]:
    """Options that were given, as one word each, so that a value may begin with a dash."""
    return [
        f"--{name.replace('_', '-')}={value}"
        for name, value in options.items()
        if value is not None
    ]


@app.command(
    "import",
    epilog="Example: `pyrotome import HAADF.mrc --tilts HAADF.rawtlt --pixel-size '3.36 nm' "
    "-o needle.nxs`",
)
def import_(
    stack: Annotated[
        Path,
        typer.Argument(metavar="STACK", help="MRC (.mrc .st .ali), .npz, EMD, NXtomo or .tif."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Run file; never overwritten.")
    ],
    tilts: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Angles in degrees, one a line; else those in STACK."),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(metavar="Q", help="Such as '3.36 nm'; else what STACK says."),
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Else the name of STACK.")
    ] = None,
    entry: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which stack of an HDF5 file with several.")
    ] = None,
) -> None:
    """Make a run file of a tilt series from elsewhere.

    Whole numbers are kept exactly, where they span no more than 16 bits; fractions are kept in
    65535 steps between the lowest and the highest.
    """
    options = _given(output=output, tilts=tilts, pixel_size=pixel_size, title=title, entry=entry)
    _analysis("commands.import_", *options, "--", stack)


@app.command(
    epilog="Examples: `pyrotome process run.nxs`, "
    "`pyrotome process needle.nxs --pipeline sirt.yaml -o with_volume.nxs`"
)
def process(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")],
    series: Annotated[
        int | None, typer.Option(metavar="N", help="Only this tilt series; else all frames.")
    ] = None,
    pipeline: Annotated[
        Path | None,
        typer.Option(
            metavar="P.yaml", help="Steps as in a recipe's block 'analysis'; else the recipe's own."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Leave FILE alone and write a copy with results."
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for table and plots; else beside the file."),
    ] = None,
    no_tables: Annotated[
        bool, typer.Option("--no-tables", help="Write no table and no plots.")
    ] = False,
) -> None:
    """Carry out the analysis pipeline offline, by the same code as online.

    Results are added to FILE, beside those that are there. Interrupted, it leaves FILE as it was.
    Where necks are measured, FILE_necks.csv, FILE_growth.png and FILE_model.png are written too.
    """
    options = _given(series=series, pipeline=pipeline, output=output, tables=tables)
    _analysis("commands.process", *options, *(["--no-tables"] if no_tables else []), "--", file)


@app.command(
    epilog="Examples: `pyrotome export run.nxs --series 2 --what volume --to volume.mrc`, "
    "`pyrotome export run.nxs --what necks --to necks.csv`, "
    "`pyrotome export run.nxs --what growth --to growth.png`, "
    "`pyrotome export run.nxs --what heater --to run`"
)
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")],
    to: Annotated[
        Path,
        typer.Option(
            metavar="OUT", help=".mrc, .emd or .tif by its ending; .csv for tables, .png for plots."
        ),
    ],
    series: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Which tilt series, if there are several; tables take all of them."
        ),
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="frames, an image or volume (denoised, volume, ...), a table (necks, shifts, "
            "heater, tuning) or a plot (growth, model, tuning).",
        ),
    ] = None,
) -> None:
    """Write frames, volumes, tables or plots for other programs; overwrites nothing."""
    options = _given(to=to, series=series, what=what)
    _analysis("commands.export", *options, "--", file)


@app.command(epilog="Example: `pyrotome drivers`")
def drivers(as_json: JsonOption = False) -> None:
    """List the installed drivers."""
    from rich.table import Table

    rows: list[dict[str, str]] = []
    for name in installed():
        for role in ROLES:
            try:
                found = driver_class(name, role)
            except BadInput as error:
                if "is not a" in error.problem:
                    continue
                rows.append({"name": name, "role": "?", "summary": error.problem})
                break
            options = ", ".join(found.Options.model_fields) or "none"
            rows.append({"name": name, "role": role, "summary": found.summary, "options": options})
            break
    if as_json:
        _print_json(rows)
        return
    table = Table()
    for column in ("name", "role", "summary", "options"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(row.get(c, "") for c in ("name", "role", "summary", "options")))
    _out().print(table)


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"pyrotome {__version__}\n")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Live in-situ heating experiments in electron microscopes."""


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"pyrotome: {message}\n")
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command ``pyrotome``."""
    # `--debug` works wherever it is written.
    debug = "--debug" in sys.argv[1:]
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    code = EXIT_FAILED
    try:
        app(args=arguments, standalone_mode=True)
    except SystemExit as leaving:
        raise SystemExit(leaving.code) from None
    except BrokenPipeError:
        raise SystemExit(code) from None
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            code, message = EXIT_INTERRUPTED, "interrupted"
        elif isinstance(error, (BadInput, BadRequest)):
            code, message = EXIT_BAD_INPUT, str(error)
        elif isinstance(error, DeviceError):
            code, message = EXIT_DEVICE, str(error)
        elif isinstance(error, ChildFailed):
            message = str(error)
        else:
            message = f"unexpected {type(error).__name__}: {error} (run again with --debug)"
        sys.stderr.write(f"pyrotome: {message}\n")
    raise SystemExit(code)
