"""From released shares to the masks that must come off the sum, bad shares routed around."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from wardround.privacy.errors import SharesRejected, TooFewSites
from wardround.privacy.secagg import keys, shamir
from wardround.privacy.secagg.checks import others, share_point
from wardround.privacy.secagg.masking import Stream
from wardround.privacy.secagg.messages import Shares, SurvivorSet, Task, UploadHeader
from wardround.privacy.secagg.parameters import RunSpec


@dataclass(slots=True)
class Recovery:
    """Opens the secrets of one attempt.

    `suspects` are the sites whose shares disagreed with a secret that was found; they are asked
    last. (Either they lied, or the owner of the secret dealt them a wrong share.)
    """

    spec: RunSpec
    task: Task
    survivors: SurvivorSet
    headers: Mapping[str, UploadHeader]
    suspects: set[str] = field(default_factory=set)

    def masks(self, released: Mapping[str, Shares]) -> list[Stream]:
        """Return the streams that are in the sum: self masks of U, pair masks towards the dead.

        Raises TooFewSites when fewer than t sites released shares, SharesRejected when no secret
        is found that matches its commitment.
        """
        if len(released) < self.spec.threshold:
            raise TooFewSites(
                f"{len(released)} sites released shares; {self.spec.threshold} must. "
                "Ask the others again; the survivors of this attempt cannot change any more"
            )
        context, sites = self.survivors.context, self.survivors.sites
        masks, pair_index = [], 0
        for index, site in enumerate(sites):
            header = self.headers[site]
            commit = partial(_commit_self, context, site)
            shares = {name: answer.self_shares[index] for name, answer in released.items()}
            secret = self._secret(site, shares, commit, header.self_commitment)
            masks.append(Stream(keys.stream_key(secret)))
            for position, peer in enumerate(others(self.task.participants, site)):
                if peer in sites:
                    continue
                commit = partial(_commit_pair, context, site, peer)
                shares = {name: answer.pair_shares[pair_index] for name, answer in released.items()}
                secret = self._secret(site, shares, commit, header.pair_commitments[position])
                masks.append(Stream(keys.stream_key(secret), 1 if site < peer else -1))
                pair_index += 1
        return masks

    def _secret(
        self,
        owner: str,
        shares: Mapping[str, bytes],
        commit: Callable[[bytes], bytes],
        commitment: bytes,
    ) -> bytes:
        """Return the secret that `owner` committed to, whichever t good shares it takes."""
        threshold = self.spec.threshold
        usable = sorted(
            (name for name, share in shares.items() if len(share) == 32),
            key=lambda name: (name in self.suspects, name),
        )
        if len(usable) < threshold:
            raise SharesRejected(f"{owner} dealt fewer than {threshold} shares that open", owner)
        chosen = usable[:threshold]
        secret = self._combine(chosen, shares)
        if commit(secret) == commitment:
            return secret
        points = {share_point(self.spec, name): name for name in usable}
        try:
            wrong = shamir.decode(list(points), [shares[name] for name in usable], threshold)
        except SharesRejected:
            raise SharesRejected(
                f"the shares of a secret of {owner} do not open it, and too many of them are "
                "wrong to tell which",
                owner,
            ) from None
        suspects = {points[point] for point in wrong}
        chosen = [name for name in usable if name not in suspects][:threshold]
        secret = self._combine(chosen, shares)
        if commit(secret) != commitment:
            raise SharesRejected(f"{owner} dealt shares of another secret", owner)
        self.suspects |= suspects
        return secret

    def _combine(self, names: list[str], shares: Mapping[str, bytes]) -> bytes:
        points = [share_point(self.spec, name) for name in names]
        return shamir.combine(points, [shares[name] for name in names])


def _commit_self(context: bytes, site: str, secret: bytes) -> bytes:
    return keys.commit("self-mask", context, secret, site)


def _commit_pair(context: bytes, site: str, peer: str, secret: bytes) -> bytes:
    return keys.commit("pair-secret", context, secret, *sorted((site, peer)))
