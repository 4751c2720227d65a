"""`wardround-verify`: check an evidence bundle, offline, trusting nobody in it.

Exit status: 0 verified, 1 tampered, 2 incomplete, 3 usage (the policy, a pin or a receipt cannot
be read). The last line of the output says it in words.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TypeVar

from wardround.privacy.bundle import Bundle
from wardround.privacy.commands import INTERRUPTED
from wardround.privacy.errors import BundleInvalid, MalformedData, WardroundError
from wardround.privacy.notes import Note
from wardround.privacy.verify.findings import EXIT, Finding, Findings, Verification
from wardround.privacy.verify.policy import Policy
from wardround.privacy.verify.receipts import SavedReceipt
from wardround.privacy.verify.verifier import verify

USAGE = 3
T = TypeVar("T")
_COLOURS = {"verified": "32", "tampered": "31", "incomplete": "33"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status; 130 where it was interrupted."""
    try:
        sys.exit(run(arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return USAGE if stop.code else 0
    try:
        policy = _read(options.policy, _policy)
        pins = [_read(path, _pin) for path in options.pin]
        receipts = [_read(path, SavedReceipt.from_bytes) for path in options.receipt]
        with options.bundle.open("rb"):
            pass  # a file that cannot be read at all says nothing about the evidence
    except OSError as error:
        print(f"wardround-verify: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    except WardroundError as error:
        print(f"wardround-verify: {error}", file=sys.stderr)
        return USAGE
    try:
        with Bundle(options.bundle) as bundle:
            result = verify(
                bundle,
                policy,
                pins=pins,
                receipts=receipts,
                replay=options.replay,
                recompute_epsilon=options.recompute_epsilon,
                every_signature=options.every_signature,
                jobs=os.cpu_count() or 1,
            )
    except BundleInvalid as error:
        findings = Findings()
        findings.add("bundle", None, "a bundle as a coordinator writes it", str(error))
        sites = tuple(policy.sites)
        result = Verification(0, "", 0, sites, policy.quorum, (), False, findings.all())
    try:
        if options.json:
            print(json.dumps(result.to_json(), indent=2, sort_keys=True))
        else:
            _show(result)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has gone; the exit status stands
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT[result.status]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wardround-verify",
        description="Check an evidence bundle offline. Keys come from the policy file alone.",
        epilog="exit status: 0 verified, 1 tampered, 2 incomplete, 3 usage",
    )
    parser.add_argument("bundle", type=Path, help="the evidence bundle (zip)")
    parser.add_argument(
        "--policy", type=Path, required=True, help="keys of log and sites, quorum: your own file"
    )
    parser.add_argument(
        "--pin",
        type=Path,
        action="append",
        default=[],
        metavar="NOTE",
        help="a checkpoint that you or a site kept; may be given again",
    )
    parser.add_argument(
        "--receipt",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a receipt that a site kept for one of its statements; may be given again",
    )
    parser.add_argument(
        "--replay", action="store_true", help="add up the retained masked uploads again"
    )
    parser.add_argument(
        "--recompute-epsilon",
        action="store_true",
        help="price the logged privacy events again (needs wardround[accounting])",
    )
    parser.add_argument(
        "--every-signature",
        action="store_true",
        help="check each signature: every statement's, not only the newest of a chain, and "
        "the cosignatures of old checkpoints too; on every core",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    return parser


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    """Return what a file of the auditor's own says; MalformedData names it where it cannot be."""
    data = path.read_bytes()
    try:
        return parse(data)
    except (UnicodeDecodeError, WardroundError) as error:
        raise MalformedData(f"{path}: {error}") from None


def _policy(data: bytes) -> Policy:
    return Policy.from_text(data.decode())


def _pin(data: bytes) -> bytes:
    Note.from_bytes(data)
    return data


def _show(result: Verification) -> None:
    for finding in result.findings:
        print(_finding(finding))
    if result.findings:
        print()
    print(f"checkpoint   {result.size} entries")
    print(f"root         {result.root or '-'}")
    cosigners = ", ".join(result.cosigners) or "nobody"
    print(f"cosigned by  {cosigners} (quorum {result.quorum} of {len(result.witnesses)})")
    covered = result.colluders_covered
    print(
        "split view   "
        + (
            "possible even without a colluding site"
            if covered is None
            else f"impossible with up to {covered} site{'s' * (covered != 1)} colluding with "
            "the coordinator"
        )
    )
    models = f", {len(result.remade)} models made again from them" if result.remade else ""
    print(f"replayed     {len(result.replayed)} aggregates{models}")
    if result.hidden:
        told = (
            f"{len(result.hidden)} of them down to the sum under the group masks; what it says, "
            "and the step to the next model, only the sites can redo: they sign it"
        )
        print(_wrapped("group mode   ", told))
    print(f"recomputed   {len(result.recomputed)} privacy spends")
    broken, count = sum(f.breaks for f in result.findings), len(result.findings)
    missing = "1 thing is missing" if count == 1 else f"{count} things are missing"
    line = {
        "verified": "verified",
        "tampered": f"tampered: {broken} finding{'s' * (broken != 1)}",
        "incomplete": f"incomplete: {missing}, nothing contradicts",
    }[result.status]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        line = f"\033[{_COLOURS[result.status]}m{line}\033[0m"
    print(line)


def _finding(finding: Finding) -> str:
    where = "the log" if finding.entry is None else f"entry {finding.entry}"
    weight = "tampered" if finding.breaks else "incomplete"
    return "\n".join(
        (
            f"{weight}  {where}: {finding.told} [{finding.check}]",
            _wrapped("    expected  ", finding.expected),
            _wrapped("    found     ", finding.found),
        )
    )


def _wrapped(label: str, text: str) -> str:
    """Return a text as lines of a terminal; a digest stays whole."""
    return fill(
        _plain(text), 80, initial_indent=label, subsequent_indent=" " * len(label),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _plain(text: str) -> str:
    """Nothing from a bundle reaches a terminal as a control sequence, nor what it cannot show."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


if __name__ == "__main__":
    main()
