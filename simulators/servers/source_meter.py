"""A source-measure unit on the simulated chip: settings, output, readings and error queue.

What the commands mean is from wire cards A2 and A3. Overheads, noise and the leads' resistance are
illustrative, ranges and the refusal of readings with the output off (on the 2450) from memory [M].
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import scpi
from ..world.microscope import World

LINE_HZ = 50.0
LEAD_OHM = 6.0  # both leads together; what two-wire sensing adds
NOISE_OF_RANGE = 1e-6  # at one power line cycle
_QUEUE = 10
_NEVER = math.inf


@dataclass(frozen=True)
class Model:
    """What tells the two instruments apart.

    `overhead_s` is what a reading takes beyond its integration.
    """

    identity: str
    overhead_s: float
    volt_ranges: tuple[float, ...]
    amp_ranges: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


MODEL_2400 = Model(
    "KEITHLEY INSTRUMENTS INC.,MODEL 2400,0000001,C34 pyrotome simulator",
    0.003,
    (0.2, 2.0, 20.0, 200.0),
)
MODEL_2450 = Model(
    "KEITHLEY INSTRUMENTS,MODEL 2450,00000002,1.7.0 pyrotome simulator",
    0.001,
    (0.02, 0.2, 2.0, 20.0, 200.0),
)

_NUMBER, _COUNT, _BOOL, _WORD = "number", "count", "bool", "word"
_Setting = tuple[str, float | str, float, float]


def _number(start: float, low: float = 0.0, high: float = _NEVER) -> _Setting:
    return (_NUMBER, start, low, high)


def _switch(start: int = 0) -> _Setting:
    return (_BOOL, float(start), 0.0, 1.0)


def _word(start: str) -> _Setting:
    return (_WORD, start, 0.0, 0.0)


def _count(start: int, high: int = 100_000) -> _Setting:
    return (_COUNT, float(start), 1.0, float(high))


OUTPUT = "OUTPut[:STATe]"
FUNCTION = "SOURce:FUNCtion[:MODE]"
AMPS = "SOURce:CURRent[:LEVel][:IMMediate][:AMPLitude]"
AMPS_RANGE = "SOURce:CURRent:RANGe"
VOLTS = "SOURce:VOLTage[:LEVel][:IMMediate][:AMPLitude]"
VOLTS_RANGE = "SOURce:VOLTage:RANGe"
SENSE_FUNCTION = "SENSe:FUNCtion[:ON]"
SENSE_ALL = "SENSe:FUNCtion:ALL"
SENSE_RANGE = "SENSe:VOLTage:RANGe"
ELEMENTS = "FORMat:ELEMents[:SENSe]"
RSENSE = "SYSTem:RSENse"
_AUTO = ":AUTO"
# The 2450 keeps under other names what the 2400 has.
_VLIMIT = "SOURce:CURRent:VLIMit[:LEVel]"
_ILIMIT = "SOURce:VOLTage:ILIMit[:LEVel]"
_PROTECTION = "SENSe:VOLTage:PROTection[:LEVel]"
_CURRENT_PROTECTION = "SENSe:CURRent:PROTection[:LEVel]"
_SAME = {
    _VLIMIT: _PROTECTION,
    _ILIMIT: _CURRENT_PROTECTION,
    "SOURce:CURRent:VLIMit[:LEVel]:TRIPped": "SENSe:VOLTage:PROTection[:LEVel]:TRIPped",
    "SENSe:VOLTage:RSENse": RSENSE,
    "SENSe:RESistance:RSENse": RSENSE,
    "SENSe:CURRent:RSENse": RSENSE,
    "SENSe:VOLTage:AZERo[:STATe]": "SYSTem:AZERo[:STATe]",
    "SOURce:CURRent:DELay": "SOURce:DELay",
    "SOURce:CURRent:DELay:AUTO": "SOURce:DELay:AUTO",
    "SOURce:VOLTage:DELay": "SOURce:DELay",
    "SOURce:VOLTage:DELay:AUTO": "SOURce:DELay:AUTO",
}
_SENSES = ("VOLTage", "CURRent", "RESistance")

_SETTINGS: dict[str, _Setting] = {
    OUTPUT: _switch(),
    FUNCTION: _word("VOLT"),
    AMPS: _number(0.0, -1.05, 1.05),
    AMPS_RANGE: _number(1e-4, -1.05, 1.05),
    AMPS_RANGE + _AUTO: _switch(1),
    "SOURce:CURRent:MODE": _word("FIX"),
    "SOURce:CURRent:READ:BACK": _switch(1),
    VOLTS: _number(0.0, -210.0, 210.0),
    VOLTS_RANGE: _number(20.0, -210.0, 210.0),
    VOLTS_RANGE + _AUTO: _switch(1),
    "SOURce:VOLTage:MODE": _word("FIX"),
    "SOURce:VOLTage:READ:BACK": _switch(1),
    _PROTECTION: _number(21.0, 0.0, 210.0),
    _CURRENT_PROTECTION: _number(1.05e-4, 0.0, 1.05),
    "SOURce:DELay": _number(0.0, 0.0, 9999.0),
    "SOURce:DELay:AUTO": _switch(1),
    "SOURce:CLEar:AUTO": _switch(),
    SENSE_FUNCTION: _word("VOLT"),
    "SENSe:FUNCtion:CONCurrent": _switch(1),
    "SENSe:RESistance:MODE": _word("MAN"),
    **{f"SENSe:{sense}:NPLCycles": _number(1.0, 0.01, 10.0) for sense in _SENSES},
    **{f"SENSe:{sense}:RANGe": _number(20.0, -2.1e8, 2.1e8) for sense in _SENSES},
    **{f"SENSe:{sense}:RANGe:AUTO": _switch(1) for sense in _SENSES},
    **{f"SENSe:{sense}:AVERage[:STATe]": _switch() for sense in _SENSES},
    **{f"SENSe:{sense}:AVERage:TCONtrol": _word("REP") for sense in _SENSES},
    **{f"SENSe:{sense}:AVERage:COUNt": _count(10, 100) for sense in _SENSES},
    "SENSe:AVERage[:STATe]": _switch(),
    "SENSe:AVERage:TCONtrol": _word("REP"),
    "SENSe:AVERage:COUNt": _count(10, 100),
    RSENSE: _switch(),
    "SYSTem:AZERo[:STATe]": _word("1"),
    "SYSTem:LFRequency": _count(50, 60),
    "SYSTem:LFRequency:AUTO": _switch(1),
    "OUTPut:SMODe": _word("NORM"),
    "OUTPut:CURRent:SMODe": _word("NORM"),
    "OUTPut:VOLTage:SMODe": _word("NORM"),
    "FORMat[:DATA]": _word("ASC"),
    "DISPlay:ENABle": _switch(1),
    "ROUTe:TERMinals": _word("FRON"),
    "TRIGger:COUNt": _count(1),
    "TRIGger:DELay": _number(0.0, 0.0, 999.9999),
    "ARM:COUNt": _count(1),
    "TRACe:POINts": _count(100),
    "STATus:MEASurement:ENABle": _number(0.0),
    "*SRE": _number(0.0),
}
# Taken, and without effect on what is simulated.
_SILENT = ("*WAI", "*TRG", "ABORt", "SYSTem:BEEPer[:IMMediate]", "STATus:PRESet", "TRIGger:CLEar")
_ACTIONS = (
    "*IDN", "*RST", "*CLS", "*OPC", "*STB", "*LANG", "READ", "MEASure", "SYSTem:ERRor[:NEXT]",
    *(f"MEASure:{sense}" for sense in _SENSES), SENSE_ALL, ELEMENTS,
    "SENSe:VOLTage:PROTection[:LEVel]:TRIPped",
)  # fmt: skip
_VOCABULARY = scpi.Vocabulary([*_SETTINGS, *_SAME, *_SILENT, *_ACTIONS])
_ORDER = ("VOLT", "CURR", "RES", "TIME", "STAT")
_WORDS = {"VOLTAGE": "VOLT", "CURRENT": "CURR", "RESISTANCE": "RES", "STATUS": "STAT"}
_COMPLIANCE_BIT, _REMOTE_SENSE_BIT = 1 << 3, 1 << 22


class Refused(Exception):
    """The message goes into the error queue and is not answered."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class SourceMeter:
    """One instrument on the chip of a world.

    Parameters
    ----------
    world : World
        Whose chip is connected.
    clock : ExperimentClock
        Time of settings and readings.
    model : Model
        Which instrument it is.
    """

    def __init__(self, world: World, clock: ExperimentClock, model: Model) -> None:
        self._world, self._clock, self.model = world, clock, model
        self._rng = np.random.default_rng([world.config.seed, 5])
        self._errors: deque[int] = deque()
        self._started_ns = clock.now_ns()
        self._values: dict[str, float | str] = {}
        self._sensed: set[str] = set()
        self._elements: tuple[str, ...] = _ORDER
        self._has_output = False  # the chip belongs to another wire until the output is on
        self._reset()

    async def execute(self, line: str, refuse: bool = False) -> str | None:
        """Carry out a message; its answers joined by ``;``, None where there is none.

        Parameters
        ----------
        line : str
            Without its end.
        refuse : bool
            Refuse every reading in it.
        """
        answers: list[str] = []
        try:
            for unit in scpi.parse_program(line):
                header = _VOCABULARY.find(unit.path)
                if header is None:
                    raise Refused(scpi.UNDEFINED_HEADER)
                header = _SAME.get(header, header)
                if refuse and header.startswith(("READ", "MEAS")):
                    raise Refused(scpi.EXECUTION_ERROR)
                if (answer := await self._carry_out(header, unit)) is not None:
                    answers.append(answer)
        except BadMessage:
            self._refuse(scpi.UNDEFINED_HEADER)
        except Refused as error:
            self._refuse(error.code)
        return ";".join(answers) or None

    def _refuse(self, code: int) -> None:
        if len(self._errors) < _QUEUE:
            self._errors.append(code)
        else:
            self._errors[-1] = scpi.QUEUE_OVERFLOW

    def _reset(self) -> None:
        self._values = {header: start for header, (_, start, _, _) in _SETTINGS.items()}
        self._sensed = {"CURR"}
        self._elements = _ORDER
        self._drive()

    async def _carry_out(self, header: str, unit: scpi.Unit) -> str | None:
        arguments = unit.arguments
        if header in _SILENT:
            return None
        if header in _SETTINGS:
            if unit.query:
                return self._value_text(header)
            self._set(header, arguments)
            return None
        if header == ELEMENTS:
            if unit.query:
                return ",".join(self._elements)
            chosen = {_WORDS.get(a.upper(), a.upper()) for a in arguments}
            if not chosen or chosen - set(_ORDER):
                raise Refused(scpi.ILLEGAL_PARAMETER)
            # They come back in this order, whatever order was requested [M].
            self._elements = tuple(e for e in _ORDER if e in chosen)
        elif header == SENSE_ALL:
            self._sensed = {"VOLT", "CURR", "RES"}
        elif header == "*RST":
            self._reset()
        elif header == "*CLS":
            self._errors.clear()
        elif header == "*IDN":
            return self.model.identity
        elif header in {"*OPC", "*STB"}:
            return ("1" if header == "*OPC" else "0") if unit.query else None
        elif header == "*LANG":
            if self.model is not MODEL_2450:
                raise Refused(scpi.UNDEFINED_HEADER)
            return "SCPI" if unit.query else None
        elif header == "SYSTem:ERRor[:NEXT]":
            code = self._errors.popleft() if self._errors else scpi.NO_ERROR
            return scpi.error_reply(code)
        elif header.endswith("TRIPped"):
            return "1" if self._reading_now()[2] else "0"
        else:
            sense = header.partition(":")[2]
            return await self._read(_WORDS.get(sense.upper()), arguments)
        return None

    # Settings

    def _value_text(self, header: str) -> str:
        kind = _SETTINGS[header][0]
        value = self._values[header]
        if header == SENSE_FUNCTION:
            return ",".join(f'"{name}"' for name in _ORDER if name in self._sensed)
        if kind == _NUMBER and isinstance(value, float):
            return scpi.number(value, plus=False)
        return str(value) if kind == _WORD else f"{value:.0f}"

    def _set(self, header: str, arguments: tuple[str, ...]) -> None:
        if not arguments:
            raise Refused(scpi.MISSING_PARAMETER)
        kind, _, low, high = _SETTINGS[header]
        text = arguments[0].upper()
        if header == SENSE_FUNCTION:
            names = {_WORDS.get(a.upper(), a.upper()).split(":")[0] for a in arguments}
            if names - {"VOLT", "CURR", "RES"}:
                raise Refused(scpi.ILLEGAL_PARAMETER)
            # Concurrent functions are added to one another on the 2400, the 2450 has one.
            both = self.model is MODEL_2400 and self._values["SENSe:FUNCtion:CONCurrent"]
            self._sensed = names | (self._sensed if both else set[str]())
            return
        if kind == _WORD:
            self._values[header] = _WORDS.get(text, {"ON": "1", "OFF": "0"}.get(text, text))
            if header == FUNCTION:
                if self._values[FUNCTION] not in {"VOLT", "CURR"}:
                    self._values[FUNCTION] = "VOLT"
                    raise Refused(scpi.ILLEGAL_PARAMETER)
                self._values[OUTPUT] = 0.0
                self._drive()
            return
        value = {"ON": 1.0, "OFF": 0.0, "MIN": low, "MAX": high}.get(text)
        if value is None:
            try:
                value = float(text)
            except ValueError:
                raise Refused(scpi.DATA_TYPE_ERROR) from None
        if not low <= value <= high:
            raise Refused(scpi.OUT_OF_RANGE)
        self._check_range(header, value)
        if header in {AMPS_RANGE, VOLTS_RANGE, SENSE_RANGE}:
            ranges = self.model.amp_ranges if header == AMPS_RANGE else self.model.volt_ranges
            value = _range_for(abs(value), ranges)
        if header + _AUTO in self._values:
            self._values[header + _AUTO] = 0.0
        self._values[header] = value
        if header in {OUTPUT, AMPS, VOLTS, RSENSE, _PROTECTION, _CURRENT_PROTECTION, SENSE_RANGE}:
            self._drive()

    def _check_range(self, header: str, value: float) -> None:
        """Refuse a level beyond a range that is fixed; an automatic one follows it."""
        for level, chosen, ranges in (
            (AMPS, AMPS_RANGE, self.model.amp_ranges),
            (VOLTS, VOLTS_RANGE, self.model.volt_ranges),
        ):
            if header == level:
                if self._values[chosen + _AUTO]:
                    self._values[chosen] = _range_for(abs(value), ranges)
                elif abs(value) > 1.05 * self._real(chosen):
                    raise Refused(scpi.OUT_OF_RANGE)

    def _real(self, header: str) -> float:
        value = self._values[header]
        return value if isinstance(value, float) else 0.0

    # Output

    def _drive(self) -> None:
        on = bool(self._values[OUTPUT])
        if not on and not self._has_output:
            return
        self._has_output = on
        amps, volts = self._limits() if on else (0.0, 0.0)
        self._world.heater.drive(self._clock.now_ns(), amps, volts)

    def _limits(self) -> tuple[float, float]:
        """Highest current, and voltage across the heater, that the output allows."""
        lead_ohm = 0.0 if self._values[RSENSE] else LEAD_OHM
        if self._values[FUNCTION] == "CURR":
            amps, volts = abs(self._real(AMPS)), self._real(_PROTECTION)
            if self.model is MODEL_2400 and not self._values[SENSE_RANGE + _AUTO]:
                volts = min(volts, 1.05 * self._real(SENSE_RANGE))  # "range compliance"
        else:
            amps, volts = self._real(_CURRENT_PROTECTION), abs(self._real(VOLTS))
        return amps, max(0.0, volts - amps * lead_ohm)

    def _reading_now(self, t_ns: int | None = None) -> tuple[float, float, bool]:
        """Current through and voltage across the sense leads, and whether a limit holds them."""
        if not self._values[OUTPUT]:
            return 0.0, 0.0, False
        t_ns = self._clock.now_ns() if t_ns is None else t_ns
        heater_ohm = self._world.heater.resistance_ohm(t_ns)
        amps, volts = self._limits()
        current = min(amps, volts / heater_ohm)
        lead_ohm = 0.0 if self._values[RSENSE] else LEAD_OHM
        limited = current < amps if self._values[FUNCTION] == "CURR" else current == amps
        sign = math.copysign(1.0, self._real(AMPS if self._values[FUNCTION] == "CURR" else VOLTS))
        return sign * current, sign * current * (heater_ohm + lead_ohm), limited

    # Readings

    async def _read(self, sense: str | None, arguments: tuple[str, ...]) -> str:
        if not self._values[OUTPUT]:
            raise Refused(scpi.NOT_WITH_OUTPUT_OFF)
        sensed = self._sensed if sense is None else {sense}
        nplc = self._real("SENSe:VOLTage:NPLCycles")
        if "RES" in sensed:
            nplc = self._real("SENSe:RESistance:NPLCycles")
        functions = 2 if len(sensed) > 1 or "RES" in sensed else 1
        if self.model is MODEL_2450 and self._values["SOURce:CURRent:READ:BACK"]:
            functions = 2
        integration_s = nplc / LINE_HZ
        await self._clock.sleep(self._real("SOURce:DELay") + 0.5 * integration_s)
        current, voltage, limited = self._reading_now()
        # A second function is measured after the first.
        await self._clock.sleep((functions - 0.5) * integration_s + self.model.overhead_s)
        volts_range = self._real(SENSE_RANGE)
        if self._values[SENSE_RANGE + _AUTO]:
            volts_range = _range_for(abs(voltage), self.model.volt_ranges)
        voltage = _noisy(self._rng, voltage, volts_range, nplc)
        amps_range = self._real(AMPS_RANGE)
        if self._values[FUNCTION] == "VOLT":
            amps_range = _range_for(abs(current), self.model.amp_ranges)
        current = _noisy(self._rng, current, amps_range, nplc)
        if self.model is MODEL_2450:
            return self._reading_2450(sensed, current, voltage, arguments)
        return self._reading_2400(sensed, current, voltage, limited)

    def _reading_2400(self, sensed: set[str], current: float, voltage: float, limited: bool) -> str:
        # What is not measured is answered with the programmed source, or NaN.
        if "CURR" not in sensed and "RES" not in sensed and self._values[FUNCTION] == "CURR":
            current = self._real(AMPS)
        status = _COMPLIANCE_BIT * limited + _REMOTE_SENSE_BIT * bool(self._values[RSENSE])
        resistance = voltage / current if "RES" in sensed and current else math.nan
        values = {
            "VOLT": voltage if sensed & {"VOLT", "RES"} else math.nan,
            "CURR": current,
            "RES": resistance,
            "TIME": (self._clock.now_ns() - self._started_ns) * 1e-9,
            "STAT": float(status),
        }
        return ",".join(scpi.number(values[element]) for element in self._elements)

    def _reading_2450(
        self, sensed: set[str], current: float, voltage: float, arguments: tuple[str, ...]
    ) -> str:
        reading = current
        if "RES" in sensed:
            reading = voltage / current if current else math.nan
        elif "VOLT" in sensed:
            reading = voltage
        values = {
            "SOUR": current if self._values[FUNCTION] == "CURR" else voltage,
            "READ": reading,
            "REL": (self._clock.now_ns() - self._started_ns) * 1e-9,
        }
        wanted = [argument.upper()[:4] for argument in arguments[1:]] or ["READ"]
        if not set(wanted) <= set(values):
            raise Refused(scpi.ILLEGAL_PARAMETER)
        return ",".join(scpi.number(values[name], plus=False) for name in wanted)


def _noisy(rng: np.random.Generator, value: float, range_of: float, nplc: float) -> float:
    """A value as it is measured in a range; infinite beyond it."""
    if abs(value) > 1.06 * range_of:
        return math.copysign(math.inf, value)
    sigma = NOISE_OF_RANGE * range_of / math.sqrt(nplc)
    return value + sigma * float(rng.standard_normal())


def _range_for(value: float, ranges: tuple[float, ...]) -> float:
    return next((r for r in ranges if value <= 1.05 * r), ranges[-1])
