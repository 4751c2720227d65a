"""What the site admits: policy.toml against a study plan. Default deny; each rule has a name.

The policy is the operator's word. Whatever it does not name is refused, and the refusal says
which rule refused and what the operator may do about it.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from wardround.client.errors import ConfigInvalid, Refused
from wardround.privacy.plan import StudyPlan, of_sensible_size

_FIELDS = {
    "task": str,
    "data": str,
    "epsilon": Decimal,
    "delta": Decimal,
    "unit": str,
    "min_cohort": int,
    "min_patients": int,
    "peers": list,
    "shared_noise": bool,
    "require_group_mode": bool,
    "expires": date,
}
_DEFAULTS = {"require_group_mode": False}
"""What a block need not say."""


@dataclass(frozen=True, slots=True)
class Admission:
    """One `[[admit]]` block: the studies that may run on the data set `data`."""

    task: str
    data: str
    epsilon: Decimal
    delta: Decimal
    unit: str
    min_cohort: int
    min_patients: int
    peers: frozenset[str]
    shared_noise: bool
    require_group_mode: bool
    expires: date


@dataclass(frozen=True, slots=True)
class Policy:
    """A site's policy. `digest` is the SHA-256 (hex) of the file, named in every approval."""

    admissions: tuple[Admission, ...]
    total_epsilon: Decimal
    total_delta: Decimal
    digest: str

    def admit(self, plan: StudyPlan, *, today: date | None = None) -> Admission:
        """Return the block that admits `plan`; else raise Refused with the rule nearest to it.

        Cohort size and budget spent are the data set's and the ledger's to check.
        """
        day = today or datetime.now(UTC).date()
        candidates = [block for block in self.admissions if block.task == plan.task.kind]
        if not candidates:
            raise Refused(
                "task",
                f"the policy admits no study of the task {plan.task.kind}; "
                "add an [[admit]] block to policy.toml if it should",
            )
        refusals: list[Refused] = []
        for block in candidates:
            refusal = _first_refusal(block, plan, day, self)
            if refusal is None:
                return block
            refusals.append(refusal)
        raise refusals[0]


def _first_refusal(block: Admission, plan: StudyPlan, day: date, policy: Policy) -> Refused | None:
    privacy = plan.privacy
    strangers = sorted(set(plan.participants.sites) - block.peers)
    rules: tuple[tuple[bool, str, str], ...] = (
        (day <= block.expires, "expires", f"admission ended on {block.expires}"),
        (
            not strangers,
            "peers",
            f"the plan names {', '.join(strangers[:5])}, which the policy does not list as peers",
        ),
        (
            plan.secure_aggregation.min_cohort >= block.min_cohort,
            "min_cohort",
            f"the plan opens sums over {plan.secure_aggregation.min_cohort} sites; "
            f"the policy asks for at least {block.min_cohort}",
        ),
        (
            privacy.unit == block.unit or privacy.unit == "patient",
            "unit",
            f"the plan protects one {privacy.unit}; the policy asks for the {block.unit}",
        ),
        (
            privacy.target_epsilon <= block.epsilon,
            "epsilon",
            f"the plan may cost epsilon {privacy.target_epsilon}; "
            f"the policy allows {block.epsilon} for one study",
        ),
        (
            privacy.target_epsilon <= policy.total_epsilon,
            "total",
            f"the plan may cost epsilon {privacy.target_epsilon}; "
            f"the policy allows {policy.total_epsilon} in total",
        ),
        (
            privacy.delta <= min(block.delta, policy.total_delta),
            "delta",
            f"the plan's delta is {privacy.delta}; the policy allows "
            f"{min(block.delta, policy.total_delta)}",
        ),
        (
            block.shared_noise or not privacy.shared_noise,
            "shared_noise",
            "the plan shares noise between sites, which the policy does not allow",
        ),
        (
            plan.secure_aggregation.group_mode or not block.require_group_mode,
            "group_mode",
            "the coordinator could read sums and models of the plan, which the policy does not "
            "allow; ask for a plan with group_mode = true",
        ),
    )
    for holds, rule, message in rules:
        if not holds:
            return Refused(rule, f"{message}; change policy.toml if you agree to more")
    return None


def load(path: Path) -> Policy:
    """Read policy.toml; ConfigInvalid names the block and field that is wrong."""
    try:
        data = path.read_bytes()
        table = tomllib.loads(data.decode(), parse_float=Decimal)
    except FileNotFoundError:
        raise ConfigInvalid("policy.toml is missing; nothing is admitted without it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"policy.toml is not valid TOML: {error}") from None
    if unknown := sorted(set(table) - {"total", "admit"}):
        raise ConfigInvalid(f"policy.toml has an unknown setting {unknown[0]!r}")
    total = table.get("total")
    if not isinstance(total, dict) or set(total) != {"epsilon", "delta"}:
        raise ConfigInvalid("policy.toml needs [total] with epsilon and delta")
    blocks = table.get("admit", [])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise ConfigInvalid("policy.toml: what is admitted stands in blocks that begin [[admit]]")
    return Policy(
        admissions=tuple(_admission(block, i + 1) for i, block in enumerate(blocks)),
        total_epsilon=_decimal(total["epsilon"], "policy.toml: [total] epsilon"),
        total_delta=_delta(total["delta"], "policy.toml: [total] delta"),
        digest=hashlib.sha256(data).hexdigest(),
    )


def _admission(written: dict[str, object], number: int) -> Admission:
    where, block = f"policy.toml: [[admit]] block {number}", _DEFAULTS | written
    if unknown := sorted(set(block) - set(_FIELDS)):
        raise ConfigInvalid(f"{where} has an unknown field {unknown[0]!r}")
    if missing := [name for name in _FIELDS if name not in block]:
        raise ConfigInvalid(f"{where} lacks {missing[0]!r}")
    for name, kind in _FIELDS.items():
        value = block[name]
        number_like = kind is Decimal and isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, kind) and not number_like:
            raise ConfigInvalid(f"{where}: {name} must be {_spoken(kind)}, not {value!r}")
    peers = block["peers"]
    expires = block["expires"]
    if not isinstance(peers, list) or not all(isinstance(peer, str) for peer in peers):
        raise ConfigInvalid(f"{where}: peers must be a list of site names")
    return Admission(
        task=str(block["task"]),
        data=str(block["data"]),
        epsilon=_decimal(block["epsilon"], f"{where}: epsilon"),
        delta=_delta(block["delta"], f"{where}: delta"),
        unit=str(block["unit"]),
        min_cohort=int(str(block["min_cohort"])),
        min_patients=int(str(block["min_patients"])),
        peers=frozenset(peers),
        shared_noise=block["shared_noise"] is True,
        require_group_mode=block["require_group_mode"] is True,
        expires=date.fromisoformat(str(expires)[:10]),
    )


def _decimal(value: object, where: str) -> Decimal:
    number = Decimal(value) if isinstance(value, Decimal | int) else Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or number <= 0:
        written = value if isinstance(value, Decimal) else repr(value)
        raise ConfigInvalid(f"{where} must be a number above 0, not {written}")
    if not of_sensible_size(number):
        raise ConfigInvalid(f"{where} is out of every sensible range: {number}")
    return number


def _delta(value: object, where: str) -> Decimal:
    if (delta := _decimal(value, where)) >= 1:
        raise ConfigInvalid(f"{where} must be below 1, well under 1 / patients; not {delta}")
    return delta


def _spoken(kind: type) -> str:
    return {Decimal: "a number", int: "a whole number", str: "a text", list: "a list"}.get(
        kind, "a date like 2027-12-31" if kind is date else "true or false"
    )
