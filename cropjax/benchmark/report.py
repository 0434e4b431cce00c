"""What was measured: lines on the screen, a JSON with every single time, a figure of cost against crop."""

import json
import os
from dataclasses import dataclass, field

from cropjax.benchmark.measure import OURS, Line, Times
from cropjax.errors import UserError
from cropjax.workdir import write_text

# Share of the machine from which others are warned of, and cores that a party keeps busy while it waits. A busy machine
# is no fair one: where half of it was taken, torch, whose threads wait for the slowest, took tens of times as long.
BUSY = 0.05
COLUMNS = "{:9} {:36} {:20} {:>10} {:>21} {:>7} {:>9} {:>9} {:>7} {:>7} {:>10}"
HEADER = COLUMNS.format(
    "suite", "what", "who", "median", "fastest..slowest", "ratio", "by round", "GFLOP", "% peak", "others", "memory"
)


@dataclass
class Row:
    """Times of all parties, or values whose names end in their unit.

    `flop` of one run, `peak` in FLOP/s, `memory` {party: bytes}; `point` is where a time lies in a figure.
    """

    suite: str
    what: str
    times: Times | None = None
    flop: float | None = None
    peak: float | None = None
    memory: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    point: dict | None = None

    @property
    def utilization(self):
        """FLOP/s over the peak, 0...1; None where one of them is not known."""
        return self.flop / self.times.median() / self.peak if self.times and self.flop and self.peak else None

    def lines(self):
        """The row on the screen, a line a party."""
        found = [self._party(name) for name in self.times.seconds] if self.times else []
        if self.values:
            values = ", ".join(_shown(name, value) for name, value in self.values.items())
            found.append(f"{self.suite:9} {self.what:36} {values}".rstrip())
        if self.times and self.times.others > BUSY:
            found.append(
                f"  warning: other processes used {self.times.others:.0%} of the machine meanwhile; measure again"
            )
        for name, cores in self.times.idle_cores.items() if self.times else ():
            if cores > BUSY:
                found.append(f"  warning: {name} kept {cores:.2f} cores busy while the others were timed")
        return found

    def _party(self, name):
        ours, times = name == OURS, self.times
        return COLUMNS.format(
            self.suite if ours else "",
            self.what if ours else "",
            name,
            duration(times.median(name)),
            "{}..{}".format(*map(duration, times.spread(name))),
            "" if ours else f"{times.ratio(name):.2f}",
            "" if ours else f"{times.ratio_by_round(name):.2f}",
            f"{self.flop / 1e9:.1f}" if ours and self.flop else "",
            f"{100 * self.utilization:.1f}" if ours and self.utilization else "",
            f"{times.others:.1%}" if ours else "",
            _shown("", self.memory[name], "bytes") if name in self.memory else "",
        ).rstrip()

    def json(self):
        report = {"suite": self.suite, "what": self.what, **self.values}
        if self.times:
            report["parties"] = {name: self._party_json(name) for name in self.times.seconds}
            report |= {"others_share": self.times.others, "flop": self.flop, "peak_flop_per_second": self.peak}
            report |= {"utilization": self.utilization}
        return report | ({"point": self.point} if self.point else {})

    def _party_json(self, name):
        fastest, slowest = self.times.spread(name)
        report = {"median": self.times.median(name), "fastest": fastest, "slowest": slowest}
        if name != OURS:
            report |= {"ratio": self.times.ratio(name), "ratio_by_round": self.times.ratio_by_round(name)}
        report |= {"idle_cores": self.times.idle_cores.get(name), "peak_bytes": self.memory.get(name)}
        return report | {"seconds": self.times.seconds[name]}


def duration(seconds):
    """Three digits: 1.23 s, 45.6 ms."""
    value, unit = (seconds, "s") if seconds >= 1 else (1e3 * seconds, "ms")
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def _shown(name, value, unit=None):
    unit = unit or name.rpartition("_")[2]
    words = name.removesuffix(f"_{unit}").replace("_", " ")
    match unit:
        case "bytes":
            size = f"{value / 2**30:.2f} GiB" if abs(value) >= 2**30 else f"{value / 2**20:.1f} MiB"
            return f"{words} {size}".lstrip()
        case "seconds":
            sign = "-" if value < 0 else ""
            return f"{words} {sign}{duration(abs(value))}"
        case "share":
            return f"{words} {value:.1%}"
        case _:
            return f"{name.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.4g}'}"


def notes(peaks, matrix, about):
    """What stands below the table: the peaks {dtype: FLOP/s}, and what the rivals said of themselves."""
    for dtype, flop in peaks.items():
        yield f"100 % is a product of two {matrix}x{matrix} matrices of {dtype}: {flop / 1e9:.0f} GFLOP/s"
    for name, said in about.items():
        if "versions" not in said:  # it only read files
            continue
        versions = ", ".join(f"{package} {version}" for package, version in said.get("versions", {}).items())
        same = f", logits {said['logits_difference']:.1e} from ours" if "logits_difference" in said else ""
        yield f"{name}: {versions}, {said.get('device')}, {said.get('parameters')} parameters{same}"


def write_json(path, report):
    try:
        write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"--json={path} cannot be written ({error.strerror})") from error


def write_figure(path, rows):
    """Seconds against the pixels of a batch, forward and training, every party with its line, as a PNG."""
    from matplotlib.figure import Figure  # slow, and only here

    points = [row for row in rows if row.point and row.point["axis"] == "crops"]
    kinds = list(dict.fromkeys(row.point["kind"] for row in points))
    figure = Figure(figsize=(6 * len(kinds), 4.5), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        some = [row for row in points if row.point["kind"] == kind]
        pixels = [row.point["pixels"] for row in some]
        for name in some[0].times.seconds:
            medians = [row.times.median(name) for row in some]
            ends = [[abs(row.times.spread(name)[i] - m) for row, m in zip(some, medians, strict=True)] for i in (0, 1)]
            drawn = axes.errorbar(pixels, medians, ends, fmt="o", capsize=3, label=name)
            if len(set(pixels)) > 1:
                line = Line.fit(pixels, medians)
                ends = [0, max(pixels)]
                seconds = [line.intercept + line.seconds_per_pixel * x for x in ends]
                axes.plot(ends, seconds, "--", linewidth=1, color=drawn[0].get_color())
        axes.set_xticks(pixels, [str(row.point["size"][0]) for row in some])
        axes.set(
            title=f"{kind}, batch {some[0].point['batch']}", xlabel="side of the crop, at its pixels", xlim=(0, None)
        )
        axes.set(ylabel="seconds, median and range of the rounds", ylim=(0, None))
        axes.legend()
    temporary = path.with_name(path.name + ".tmp")
    try:
        figure.savefig(temporary, format="png", dpi=150)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
