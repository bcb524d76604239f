"""What a study searches, on what it selects, and with which resources: the models of a YAML file in ``studies/``."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ddcal.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt
from ddcal.config.places import is_url, parse_s3, webhook_problem

Scalar = str | int | float | bool | None


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
FloatRange = Annotated[tuple[FiniteFloat, FiniteFloat], BeforeValidator(_as_tuple)]
IntRange = Annotated[tuple[int, int], BeforeValidator(_as_tuple)]
Choices = Annotated[tuple[Scalar, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


def in_full(domain: Any) -> Any:
    """Return a domain as it is written in full: a list of values is short for ``choice``."""
    return {"choice": domain} if isinstance(domain, list | tuple) else domain


class Domain(Config):
    """The values that one name may take: exactly one of uniform, loguniform, int, choice.

    A list of values is short for ``choice``. Bounds are inclusive. ``when`` maps other names of the space to the values
    under which this one is active.
    """

    uniform: FloatRange | None = None
    loguniform: FloatRange | None = None
    int: IntRange | None = None
    choice: Choices | None = None
    when: dict[str, Choices] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return in_full(value)

    @property
    def kind(self) -> Literal["uniform", "loguniform", "int", "choice"]:
        """Which of the four kinds of domain this is."""
        if self.uniform is not None:
            return "uniform"
        if self.loguniform is not None:
            return "loguniform"
        return "int" if self.int is not None else "choice"

    @property
    def corners(self) -> tuple[Scalar, ...]:
        """The extreme values of a range, or every choice."""
        return tuple(getattr(self, self.kind))

    @model_validator(mode="after")
    def _check(self) -> Domain:
        given = [kind for kind in ("uniform", "loguniform", "int", "choice") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of uniform: [low, high], loguniform: [low, high], int: [low, high], "
                f"choice: [values]; this has {', '.join(given) or 'none'}"
            )
        if given[0] != "choice":
            low, high = getattr(self, given[0])
            if not low < high:
                raise ValueError(f"{given[0]} bounds are [{low:g}, {high:g}]; the first must be below the second")
            if given[0] == "loguniform" and low <= 0:
                raise ValueError(f"loguniform bounds are [{low:g}, {high:g}]; both must be above 0")
        elif len(set(map(repr, self.choice or ()))) != len(self.choice or ()):
            raise ValueError("choice holds a value twice")
        return self


class SearchConfig(Config):
    """The searcher: how many trials, how many at once, and from which seed it draws.

    Suggestions repeat exactly for one seed at concurrency 1 only; every trial replays whatever the concurrency.
    ``startup`` is how many trials are random before ``tpe``, ``gp`` and ``cma-es`` have something to learn from, and
    the population of ``nsga2``. ``enqueue`` lists points to try first; the entry ``paper`` stands for the published
    values. A space of choices and whole numbers alone is gone through without repeats, and the study ends with it.
    """

    searcher: Literal["tpe", "random", "nsga2", "gp", "cma-es", "grid"] = "tpe"
    trials: PositiveInt = 16
    concurrency: PositiveInt = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    startup: PositiveInt = 8
    enqueue: tuple[dict[str, Any] | Literal["paper"], ...] = ()

    @field_validator("enqueue", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return _as_tuple(value)


class SchedulerConfig(Config):
    """The scheduler that stops poor trials early, at points of a stage (distill, train) and within that stage alone.

    ``asha`` halves on one metric and ``moasha`` on all objectives, first at ``grace`` and then at ``reduction`` times
    the point before; ``median`` compares with the median of the others from ``grace`` on. ``grace`` is a fraction of a
    stage.
    """

    name: Literal["none", "asha", "median", "moasha"] = "none"
    metric: str | None = None
    grace: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)] = 0.25
    reduction: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] = 2.0

    @field_validator("name", mode="before")
    @classmethod
    def _no_hyperband(cls, value: Any) -> Any:
        if value == "hyperband":
            raise ValueError(
                "'hyperband' is not allowed: it pauses trials, and a paused trial keeps its place among the running "
                "ones and the stage that others wait for, while its bracket waits for trials that are held back; use "
                "asha, which never pauses"
            )
        return value


class ResourcesConfig(Config):
    """What one trial asks Ray for. ``threads`` is torch's thread count and part of every result's identity.

    ``cpu`` is how many CPUs. A trial without a GPU asks for at least as many as its threads, which are never idle: more
    of them than CPUs take longer in total (four at once on two CPUs 30 %, for the caches that they share).
    ``gpu`` is a share of a GPU, or ``auto``: measured by the first trial of each kind. ``on_oom: grow`` tries a trial
    that ran out of GPU memory once more with the next larger share.

    ``precision: tf32`` has NVIDIA's GPUs round what convolutions take to 10 bits (products of matrices stay exact);
    ``compile`` translates the loops of first derivatives into machine code (the guide's page speed says what it brings
    and needs). Both are part of every result's identity where they are not the default.
    """

    cpu: NonNegativeFloat = 1.0
    threads: PositiveInt = 1
    gpu: NonNegativeFloat | Literal["auto"] = 0.0
    on_oom: Literal["record", "grow"] = "record"
    retries: Annotated[int, Field(ge=0)] = 3
    precision: Literal["float32", "tf32"] = "float32"
    compile: bool = False

    @field_validator("gpu", mode="before")
    @classmethod
    def _gpu(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "auto" and not (number and 0.0 <= value < math.inf):
            raise ValueError(
                f"{value!r} is not allowed: must be a number of at least 0 (0.25 puts four trials on a GPU), or auto"
            )
        return value

    @property
    def cpus(self) -> float:
        """How many CPUs a trial asks Ray for."""
        return self.cpu if self.gpu else max(self.cpu, float(self.threads))

    @property
    def cpus_key(self) -> str:
        """The key that `cpus` comes from."""
        return "resources.cpu" if self.cpus == self.cpu else "resources.threads"


class StopConfig(Config):
    """When a study ends early: no new trial begins after ``hours``, or once ``plateau`` trials in a row bring nothing.

    A trial improves a study of one objective if it is feasible and better than all before, and one of several if it
    joins the Pareto front. Nothing counts before the first feasible trial. Hours count from when a driver begins, the
    first one or one that goes on with the study.

    ``before_seconds`` stops it so long before the time limit of the SLURM job that it is in, as the signal of a
    scheduler does: running trials save their state, and it goes on when it is run again.
    """

    hours: PositiveFloat | None = None
    plateau: PositiveInt | None = None
    before_seconds: PositiveFloat | None = None


Access = Literal["private", "group", "umask"]


OUTPUT = "runs"
"""The output root where nothing else is said."""


class StorageConfig(Config):
    """The output root, under which the study's folder lies, and the artefact store (default ``<output>/store``).

    ``output: s3://bucket/prefix`` keeps the study on S3: its folder lies below ``runs`` (or ``--output``) on the
    driver's disk, and its ledger is copied to S3 as it grows, so that ``run --resume`` goes on from any machine (the
    guide's page s3). The store is a folder or ``s3://bucket/prefix``. ``cache`` is a folder on each node through which
    artefacts are read: needed for S3 (default: one under the user's cache directory), useful for a slow shared file
    system.

    ``access`` is who may enter what is made for the study in the output root (its folder, MLflow's database and
    artifacts, the default store): its user alone (``private``), the folder's group too, to read and write (``group``),
    or whoever the umask lets (``umask``). A store that is named is for others too: its rights are the umask's, and with
    ``group`` the group's. What is there already keeps its rights.
    """

    output: str = OUTPUT
    store: str | None = None
    cache: str | None = None
    access: Access = "private"

    @field_validator("cache")
    @classmethod
    def _check_folder(cls, value: str | None) -> str | None:
        if value is not None and is_url(value):
            raise ValueError(
                f"{value!r} is a URL, and this must be a folder; S3 is for storage.store and storage.output"
            )
        return value

    @field_validator("output", "store")
    @classmethod
    def _check_place(cls, value: str | None) -> str | None:
        if value is not None and is_url(value):
            parse_s3(value)
        return value

    @property
    def on_s3(self) -> bool:
        """Whether the study is kept on S3, with its folder on the driver's disk."""
        return is_url(self.output)

    @property
    def root(self) -> str:
        """The output root of this machine, a folder."""
        return OUTPUT if self.on_s3 else self.output


class TrackingConfig(Config):
    """MLflow: the tracking URI (default SQLite in the output root, ``none`` for no tracking) and the experiment."""

    uri: str | None = None
    experiment: str | None = None


class NotifyConfig(Config):
    """Who is told how a study has ended, failed or stopped: each once, with a JSON of the outcome.

    ``command`` is text for the shell, which gets the JSON on its standard input; the JSON is the body of a POST to
    ``webhook``. An address that holds a secret stays out of the study: ``$NAME`` takes it from the environment of the
    driver. Plain http to another machine needs ``allow_http``. What fails here is a warning, and changes no exit code.
    """

    command: Annotated[str, Field(min_length=1)] | None = None
    webhook: str | None = None
    allow_http: bool = False

    @model_validator(mode="after")
    def _check(self) -> NotifyConfig:
        if self.webhook is not None and (problem := webhook_problem(self.webhook, self.allow_http, in_study=True)):
            raise ValueError(problem)
        return self


COMPARISON = re.compile(r"^\s*(>=|<=)\s*([0-9.eE+-]+)\s*$")


class Constraint(Config):
    """``metric >= bound`` or ``metric <= bound``; a trial that violates it is infeasible."""

    metric: str
    at_least: bool
    bound: FiniteFloat

    def violation(self, value: float) -> float:
        """Return how far ``value`` is on the wrong side: positive if violated, at most 0 if satisfied."""
        return self.bound - value if self.at_least else value - self.bound


LONGEST_NAME = 64
"""In characters: of a study."""


class StudyConfig(Config):
    """A whole study; ``base`` is a partial TrialConfig, ``space`` maps dotted trial names to domains.

    ``confirms`` is the name of the study whose leaders this one runs on fresh seeds: ``ddcal confirm`` writes it.
    """

    name: Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}$")]
    description: str = ""
    trial: Literal["ddnn", "distill"] = "ddnn"
    base: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Domain] = Field(default_factory=dict)
    objectives: Annotated[dict[str, Literal["min", "max"]], Field(min_length=1)]
    constraints: dict[str, str] = Field(default_factory=dict)
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()
    stop: StopConfig = StopConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    notify: NotifyConfig = NotifyConfig()
    confirms: str | None = None

    @property
    def parsed_constraints(self) -> tuple[Constraint, ...]:
        """The constraints as comparisons."""
        return tuple(parse_constraint(metric, text) for metric, text in self.constraints.items())

    def active(self, values: dict[str, Any], name: str) -> bool:
        """Return whether ``name`` of the space is active under the ``values`` of the names before it."""
        when = self.space[name].when
        return all(other in values and values[other] in allowed for other, allowed in when.items())


def parse_constraint(metric: str, text: str) -> Constraint:
    """Return ``text`` (``">= 0.3"`` or ``"<= 0.1"``) as a `Constraint` on ``metric``.

    Raises:
        ValueError: if the text is not such a comparison.
    """
    match = COMPARISON.match(text)
    try:
        bound = float(match.group(2)) if match else float("nan")
    except ValueError:
        bound = float("nan")
    if match is None or not math.isfinite(bound):
        raise ValueError(f'{text!r} is not a comparison; write for example ">= 0.3" or "<= 0.1"')
    return Constraint(metric=metric, at_least=match.group(1) == ">=", bound=bound)
