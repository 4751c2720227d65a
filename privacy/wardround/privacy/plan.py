"""The study plan: a text that a person reads, a digest that coordinator signs and sites approve.

A researcher writes it as TOML; `StudyPlan.from_toml` checks it; `StudyPlan.canonical` is the one
byte form that is hashed, signed by the coordinator, approved by each site and written to the log.
Decimals (epsilon, clip, learning rate) stay decimals from the file to the digest: no binary
rounding stands between what a person read and what was signed.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from types import UnionType
from typing import Any, Literal, Self, TypeAlias, get_args, get_origin, get_type_hints

from wardround.privacy import canonical
from wardround.privacy.canonical import Json
from wardround.privacy.errors import MalformedData, PlanInvalid
from wardround.privacy.identity import SITE_NAME, Signer, check_site_name, verify_signature
from wardround.privacy.model import TensorLayout, dimension

FORMAT = 1
MAX_SITES = 50
MAX_DIMENSION = 200_000_000
MAX_EPSILON = 100
_SIGNING_LABEL = b"wardround/v1/plan\0"

Mode: TypeAlias = Literal["local_steps", "one_step"]
Unit: TypeAlias = Literal["patient", "image"]
Relation: TypeAlias = Literal["add-remove", "replace-one"]
TaskKind: TypeAlias = Literal[
    "image-classification-2d", "segmentation-3d", "tabular", "tabular-moments"
]
Argument: TypeAlias = str | int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """Who wants what, and why it is lawful. `legal_basis` and `dpia` are references, not claims."""

    id: str
    title: str
    purpose: str
    legal_basis: str
    dpia: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What is learnt. `input_shape` is (channels, height, width[, depth]) or (features,).

    `loss` names a loss of the catalogue; empty: the usual one of the task. "tabular-moments"
    learns nothing but the mean of each column and of its square, for a scaling common to all sites.
    """

    kind: TaskKind
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    loss: str = ""

    @property
    def data_kind(self) -> str:
        """The kind of data set that is read: moments are those of a table."""
        return self.kind.removesuffix("-moments")


@dataclass(frozen=True, slots=True)
class Model:
    """The network by name, its arguments, the seed of its first weights, and every tensor of it."""

    name: str
    seed: int
    tensors: tuple[TensorLayout, ...]
    arguments: tuple[tuple[str, Argument], ...] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """How a site trains between two exchanges.

    `local_steps` noisy steps a round with a local optimiser (federated averaging), or `one_step`:
    one noisy gradient step a round.
    """

    rounds: int
    mode: Mode
    local_steps: int
    optimiser: Literal["sgd", "adamw"]
    learning_rate: Decimal
    microbatch: int = 32


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How updates become the next model. FedAvg: the mean, weighted by samples."""

    rule: Literal["fedavg"] = "fedavg"


@dataclass(frozen=True, slots=True)
class Privacy:
    """Differential privacy at each site; see NIST SP 800-226 for what such a claim must state.

    `clip` bounds the L2 norm of one unit's gradient; Gaussian noise of standard deviation
    `noise_multiplier * clip` is added to each step's sum over a Poisson sample of rate
    `sample_rate`. The run may cost a site at most `target_epsilon` at `delta`.
    """

    unit: Unit
    relation: Relation
    clip: Decimal
    noise_multiplier: Decimal
    sample_rate: Decimal
    target_epsilon: Decimal
    delta: Decimal
    max_images_per_patient: int = 1
    shared_noise: bool = False


@dataclass(frozen=True, slots=True)
class SecureAggregation:
    """Thresholds and encoding of the protected sum; bounds are those of privacy/README.md.

    `update_clip` bounds each coordinate of an update; `max_weight` bounds a site's sample count.
    """

    threshold: int
    colluders: int
    min_cohort: int
    max_weight: int
    update_clip: Decimal
    ring_bits: Literal[16, 32] = 32
    group_mode: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out evaluation: an aggregate over fewer than `min_count` samples is not shown."""

    min_count: int = 20


@dataclass(frozen=True, slots=True)
class Participants:
    """The sites that are asked, by enrolled name, in alphabetical order."""

    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A whole plan. Building one checks it: a plan that exists is consistent."""

    study: Study
    task: Task
    model: Model
    training: Training
    privacy: Privacy
    secure_aggregation: SecureAggregation
    participants: Participants
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()
    format: int = FORMAT

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a plan file. Raises PlanInvalid with the section and field that is wrong."""
        try:
            table = tomllib.loads(text, parse_float=Decimal)
        except (tomllib.TOMLDecodeError, InvalidOperation) as error:
            raise PlanInvalid(f"the plan is not valid TOML: {error}") from None
        return cls.from_json(table)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a plan from nested tables, from TOML or from its canonical form."""
        plan = _read(cls, value, "plan")
        if not isinstance(plan, cls):
            raise PlanInvalid("the plan is not a table")
        return plan

    @classmethod
    def from_canonical(cls, data: bytes) -> Self:
        """Read canonical bytes; PlanInvalid when they are not what `canonical` would write."""
        try:
            plan = cls.from_json(canonical.loads_object(data))
        except MalformedData as error:
            raise PlanInvalid(str(error)) from None
        if plan.canonical() != data:
            raise PlanInvalid("the plan is not in canonical form")
        return plan

    def canonical(self) -> bytes:
        """Return the one byte form of this plan."""
        value = _write(self)
        return canonical.dumps(value)

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the canonical plan: what sites approve."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def dimension(self) -> int:
        """Number of model coordinates."""
        return dimension(self.model.tensors)

    @property
    def steps_per_round(self) -> int:
        """Noisy steps of one training round."""
        return self.training.local_steps if self.training.mode == "local_steps" else 1


@dataclass(frozen=True, slots=True)
class SignedPlan:
    """A plan in canonical bytes with the coordinator's Ed25519 signature (64 bytes)."""

    plan_bytes: bytes
    signature: bytes

    @classmethod
    def sign(cls, plan: StudyPlan, signer: Signer) -> Self:
        """Sign `plan` with the coordinator's key."""
        data = plan.canonical()
        return cls(data, signer.sign(_SIGNING_LABEL + data))

    def open(self, coordinator_public: bytes) -> StudyPlan:
        """Return the plan. Raises SignatureInvalid or PlanInvalid; nothing is read unverified."""
        verify_signature(coordinator_public, self.signature, _SIGNING_LABEL + self.plan_bytes)
        return StudyPlan.from_canonical(self.plan_bytes)

    def to_json(self) -> dict[str, Json]:
        """Return the canonical-JSON object of this signed plan."""
        return {"plan": self.plan_bytes.decode("ascii"), "signature": self.signature.hex()}

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> Self:
        """Read what `to_json` wrote; MalformedData for anything else."""
        plan, signature = value.get("plan"), value.get("signature")
        if set(value) != {"plan", "signature"} or not (
            isinstance(plan, str) and isinstance(signature, str)
        ):
            raise MalformedData("a signed plan has exactly a plan and a signature")
        try:
            return cls(plan.encode("ascii"), bytes.fromhex(signature))
        except ValueError:
            raise MalformedData("a signed plan is ASCII with a hexadecimal signature") from None


def _check(plan: StudyPlan) -> None:
    """Raise PlanInvalid for a plan whose parts do not fit together."""
    training, privacy, secagg = plan.training, plan.privacy, plan.secure_aggregation
    sites, n = plan.participants.sites, len(plan.participants.sites)
    t, c = secagg.threshold, secagg.colluders
    try:
        for site in sites:
            check_site_name(site)
    except MalformedData as error:
        raise PlanInvalid(str(error)) from None
    rules: tuple[tuple[bool, str], ...] = (
        (bool(SITE_NAME.fullmatch(plan.study.id)), "study.id: a-z, 0-9, inner hyphens, at most 32"),
        (plan.format == FORMAT, f"format must be {FORMAT}"),
        (bool(plan.study.purpose.strip()), "study.purpose is empty: say what the data are for"),
        (bool(plan.study.legal_basis.strip()), "study.legal_basis is empty: name the reference"),
        (list(sites) == sorted(set(sites)), "participants.sites must be sorted, each named once"),
        (3 <= n <= MAX_SITES, f"participants.sites names {n}; 3 to {MAX_SITES} are needed"),
        (0 <= c <= n - 2, "secure_aggregation.colluders must be 0 to participants - 2"),
        (2 * t > n + c and t <= n, f"secure_aggregation.threshold must be {(n + c) // 2 + 1}..{n}"),
        (
            max(3, t, c + 2) <= secagg.min_cohort <= n,
            f"secure_aggregation.min_cohort must be {max(3, t, c + 2)}..{n}",
        ),
        (1 <= secagg.max_weight < 2**24, "secure_aggregation.max_weight must be 1..16777215"),
        (0 < secagg.update_clip <= 1000, "secure_aggregation.update_clip must be in (0, 1000]"),
        (1 <= training.rounds <= 10_000, "training.rounds must be 1..10000"),
        (1 <= training.local_steps <= 100_000, "training.local_steps must be 1..100000"),
        (
            training.mode == "local_steps" or training.local_steps == 1,
            "training.local_steps must be 1 when training.mode is one_step",
        ),
        (0 < training.learning_rate <= 100, "training.learning_rate must be in (0, 100]"),
        (1 <= training.microbatch <= 65_536, "training.microbatch must be 1..65536"),
        (0 < privacy.clip <= 1_000_000, "privacy.clip must be in (0, 1000000]"),
        (0 < privacy.noise_multiplier <= 1000, "privacy.noise_multiplier must be in (0, 1000]"),
        (0 < privacy.sample_rate <= 1, "privacy.sample_rate must be in (0, 1]"),
        (
            0 < privacy.target_epsilon <= MAX_EPSILON,
            f"privacy.target_epsilon must be in (0, {MAX_EPSILON}]",
        ),
        (0 < privacy.delta < Decimal("0.01"), "privacy.delta must be in (0, 0.01)"),
        (1 <= privacy.max_images_per_patient <= 10_000, "privacy.max_images_per_patient: 1..10000"),
        (
            not privacy.shared_noise or training.mode == "one_step",
            "privacy.shared_noise is sound only with training.mode one_step",
        ),
        (
            not privacy.shared_noise or secagg.ring_bits == 32,
            "privacy.shared_noise needs secure_aggregation.ring_bits 32: 16 bits cut the noise",
        ),
        (len(plan.task.classes) >= 2, "task.classes must name at least two"),
        (len(set(plan.task.classes)) == len(plan.task.classes), "task.classes names one twice"),
        (all(0 < size <= 4096 for size in plan.task.input_shape), "task.input_shape: 1..4096 each"),
        (0 < plan.dimension <= MAX_DIMENSION, "model.tensors must hold 1..200000000 numbers"),
        (
            len({tensor.name for tensor in plan.model.tensors}) == len(plan.model.tensors),
            "model.tensors names one twice",
        ),
        (plan.evaluation.min_count >= 1, "evaluation.min_count must be at least 1"),
    )
    for holds, message in rules:
        if not holds:
            raise PlanInvalid(message)


def _read(kind: Any, value: object, where: str) -> Any:
    """Read `value` as the dataclass or type `kind`, strictly; PlanInvalid names `where`."""
    origin = get_origin(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise PlanInvalid(f"{where} must be a table")
        hints = get_type_hints(kind)
        known = {field.name for field in fields(kind)}
        if unknown := sorted(set(value) - known):
            raise PlanInvalid(
                f"{where} has an unknown field {unknown[0]!r}; known: {sorted(known)}"
            )
        found = {name: _read(hints[name], value[name], f"{where}.{name}") for name in value}
        try:
            return kind(**found)
        except TypeError:
            needed = [f.name for f in fields(kind) if f.name not in found]
            raise PlanInvalid(f"{where} lacks {needed[0]!r}") from None
    if origin is Literal:
        if value not in get_args(kind) or isinstance(value, bool):
            raise PlanInvalid(f"{where} must be one of {get_args(kind)}, not {value!r}")
        return value
    if kind == tuple[tuple[str, Argument], ...]:
        pairs = value.items() if isinstance(value, Mapping) else None
        if pairs is None:
            raise PlanInvalid(f"{where} must be a table")
        return tuple(sorted((str(k), _read(Argument, v, f"{where}.{k}")) for k, v in pairs))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise PlanInvalid(f"{where} must be a list")
        return tuple(_read(get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is UnionType:
        if isinstance(value, list):
            return _read(tuple[int, ...], value, where)
        return _read(str if isinstance(value, str) else int, value, where)
    if kind is Decimal:
        return _decimal(value, where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise PlanInvalid(f"{where} must be {kind.__name__}, not {value!r}")
    if isinstance(value, str) and not value.isprintable():
        raise PlanInvalid(f"{where} must be one line of printable text")
    return value


def _decimal(value: object, where: str) -> Decimal:
    try:
        number = Decimal(value) if isinstance(value, str | int | Decimal) else None
    except InvalidOperation:
        number = None
    if number is None or isinstance(value, bool) or not number.is_finite():
        raise PlanInvalid(f"{where} must be a number, not {str(value)!r}")
    if not of_sensible_size(number):
        raise PlanInvalid(f"{where} is out of every sensible range")
    return number


def decimal_text(number: Decimal) -> str:
    """Return the one spelling of `number`: no exponent for plain sizes, no trailing zeros."""
    plain = number.normalize()
    return f"{plain:f}" if -7 < plain.adjusted() < 16 else str(plain)


def spelled(number: Decimal) -> str:
    """Return the one spelling of `number` in ledger and log; `inf` where there is no bound."""
    return decimal_text(number).lower() if number.is_finite() else "inf"


def of_sensible_size(number: Decimal) -> bool:
    """Whether a person may mean the finite `number`: it is written with a power of ten up to 30."""
    return abs(number.adjusted()) <= 30


def _write(value: object) -> Json:
    """Return the canonical-JSON form of a dataclass tree of this module."""
    if isinstance(value, Model):
        return {
            "name": value.name,
            "seed": value.seed,
            "tensors": [_write(tensor) for tensor in value.tensors],
            "arguments": {key: _write(argument) for key, argument in value.arguments},
        }
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, tuple):
        return [_write(item) for item in value]
    if is_dataclass(value):
        return {field.name: _write(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, str | int | bool):
        return value
    raise MalformedData(f"a plan cannot hold a {type(value).__name__}")
