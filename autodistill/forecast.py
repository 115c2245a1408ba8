"""The predicted cost of a search, and how it is displayed. No torch is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_GIB, _MIB = 2**30, 2**20


@dataclass(frozen=True)
class TeacherWork:
    """What the teacher computes in a search: an estimate.

    Attributes:
        flash_samples: in the flash set, whose hidden states are kept.
        samples: on which the teacher has to run, besides a few batches for checks; those that are stored are left out.
        stored_samples: on which it need not run, since an earlier run stored what is needed.
        seconds: that it takes.
        disk_bytes: of everything that the teacher cache will hold.
    """

    flash_samples: int
    samples: int
    stored_samples: int
    seconds: float
    disk_bytes: int


@dataclass(frozen=True)
class Forecast:
    """The predicted cost of a search: an estimate from one batch of typical size, and one or a few students.

    Attributes:
        training_samples: in the training data; None if the data loader does not know.
        padding: the share of positions that are padding, between 0 and 1.
        teacher: the work of the teacher, once for the whole search.
        memory_bytes: of the models, gradients, optimizer and kept features; what a backward pass keeps comes on top.
        flash_seconds: for each trial; the mean over the students that were measured.
        regular_seconds: the same, for each trial that is trained to the end.
        trials: that remain to be run; None if their number is not known.
        promoted: the share of trials that is trained to the end.
        limits: what is limited by a setting, with the remedy; a sentence each.
        elastic_seconds: of the training of the elastic student, once for the whole search; 0 if there is none.

    Examples:
        >>> forecast = Forecast(6000, 0.1, TeacherWork(5400, 5400, 0, 90.0, 2**30), 2**30, 20.0, 100.0, trials=20)
        >>> forecast.trial_seconds, forecast.search_seconds
        (120.0, 2490.0)
        >>> print(forecast.describe())
        predicted from one batch: the teacher runs on 5,400 samples (1.5 min; 1 GiB on disk), a trial trains for 2 \
min, and 20 trials with the teacher for 42 min, without evaluation
    """

    training_samples: int | None
    padding: float
    teacher: TeacherWork
    memory_bytes: int
    flash_seconds: float
    regular_seconds: float
    trials: int | None = None
    promoted: float = 1.0
    limits: tuple[str, ...] = ()
    elastic_seconds: float = 0.0

    @property
    def trial_seconds(self) -> float:
        """Of a trial that is trained to the end, without its evaluation."""
        return self.flash_seconds + self.regular_seconds

    @property
    def search_seconds(self) -> float | None:
        """Of all trials, the elastic student and the teacher; None if the number of trials is not known."""
        if self.trials is None:
            return None
        shared = self.teacher.seconds + self.elastic_seconds
        return shared + self.trials * (self.flash_seconds + self.promoted * self.regular_seconds)

    def describe(self) -> str:
        """The forecast in one line, with the remedies."""
        teacher, seconds = self.teacher, self.search_seconds
        line = (
            f"predicted from one batch: the teacher runs on {teacher.samples:,} samples "
            f"({format_seconds(teacher.seconds)}; {format_bytes(teacher.disk_bytes)} on disk), "
        )
        if self.elastic_seconds:
            line += f"the elastic student trains for {format_seconds(self.elastic_seconds)}, "
        line += f"a trial trains for {format_seconds(self.trial_seconds)}"
        if seconds is not None:
            line += f", and {self.trials} trials with the teacher for {format_seconds(seconds)}"
        return "; ".join([f"{line}, without evaluation", *self.limits])

    def rows(self) -> Iterator[tuple[str, str]]:
        """The rows of a table: what is predicted, and the value with its unit."""
        teacher, samples, seconds = self.teacher, self.training_samples, self.search_seconds
        yield "training samples", "unknown" if samples is None else f"{samples:,}"
        yield "padding", f"{100 * self.padding:.0f} %"
        yield "samples of the flash set", f"{teacher.flash_samples:,}"
        stored = f" ({teacher.stored_samples:,} more are stored)" if teacher.stored_samples else ""
        yield "samples that the teacher runs on", f"{teacher.samples:,}{stored}"
        yield "time of the teacher", format_seconds(teacher.seconds)
        yield "disk for the teacher's features", format_bytes(teacher.disk_bytes)
        yield "memory for models and features", format_bytes(self.memory_bytes)
        if self.elastic_seconds:
            yield "distillation of the elastic student", format_seconds(self.elastic_seconds)
        yield "flash distillation of a trial", format_seconds(self.flash_seconds)
        yield "regular distillation of a trial", format_seconds(self.regular_seconds)
        if seconds is not None and self.trials:
            yield f"search of {self.trials} trials", f"{format_seconds(seconds)}, without evaluation"


def format_seconds(seconds: float) -> str:
    """A duration in seconds, minutes or hours, with two digits.

    Examples:
        >>> format_seconds(0.123), format_seconds(12.3), format_seconds(600), format_seconds(36000)
        ('0.12 s', '12 s', '10 min', '10 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds)} s"


def format_bytes(size: float) -> str:
    """A size in GiB or MiB, with two digits.

    Examples:
        >>> format_bytes(3 * 2**29), format_bytes(2**20)
        ('1.5 GiB', '1 MiB')
    """
    return f"{size / _GIB:.2g} GiB" if size >= _GIB else f"{_two_digits(size / _MIB)} MiB"


def _two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}" if value < 1 or value == int(value) else f"{value:.1f}"
