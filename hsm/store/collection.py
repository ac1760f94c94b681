"""Shares on their way together: takes them one by one, says what is wrong with each, forgets them when time is up.

Pure: texts and `now` (monotonic seconds) in, data out. It asks nobody and opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from hsm.shared.logs import Secret
from hsm.store import share_text
from hsm.store.share_text import ShareFault, Wrong
from hsm.store.shares import Share, ShareSet, combine

DEFAULT_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A share was accepted."""

    index: int
    set_name: str
    missing: int
    """How many more are needed."""

    @property
    def sentence(self) -> str:
        """For people."""
        more = f"{self.missing} more needed" if self.missing else "that is enough"
        return f"share {self.index} of set {self.set_name} accepted, {more}"


class Collection:
    """The shares of one set that were given so far."""

    def __init__(self, share_set: ShareSet, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.share_set = share_set
        self._timeout_s = timeout_s
        self._shares: dict[int, Share] = {}
        self._forget_at = float("inf")

    @property
    def indices(self) -> tuple[int, ...]:
        """Which shares are here."""
        return tuple(sorted(self._shares))

    @property
    def missing(self) -> int:
        """How many more are needed."""
        return max(0, self.share_set.threshold - len(self._shares))

    def seconds_left(self, now: float) -> float | None:
        """Until the shares here are forgotten, unless another one comes; None while there are none."""
        return max(0.0, self._forget_at - now) if self._shares else None

    def take(self, share: Share, now: float) -> Taken | Wrong:
        """Accept a share, or say what is wrong with it; a wrong one changes nothing."""
        self.expire(now)
        wrong = self._fault_of(share)
        if wrong is not None:
            return wrong
        self._shares[share.index] = share
        self._forget_at = now + self._timeout_s
        return Taken(share.index, self.share_set.name, self.missing)

    def take_text(self, text: str, now: float) -> Taken | Wrong:
        """Like `take`, from what somebody typed."""
        share = share_text.decode(text)
        return share if isinstance(share, Wrong) else self.take(share, now)

    def expire(self, now: float) -> bool:
        """Forget the shares when nobody gave another one for too long; True when there were some."""
        is_over = bool(self._shares) and now >= self._forget_at
        if is_over:
            self.forget()
        return is_over

    def forget(self) -> None:
        """Drop all shares."""
        self._shares.clear()
        self._forget_at = float("inf")

    def secret(self) -> Secret[bytearray]:
        """What the shares open the vault with; they are forgotten. Raises ValueError while some are missing."""
        try:
            return Secret(combine(list(self._shares.values())))
        finally:
            self.forget()

    def _fault_of(self, share: Share) -> Wrong | None:
        mine, name = self.share_set, share.set_id.hex()
        if share.set_id != mine.set_id:
            sentence = (
                f"share {share.index} of set {name} belongs to another vault, or to shares that were replaced:"
                f" this vault is opened by set {mine.name}"
            )
            return Wrong(ShareFault.OTHER_SET, sentence)
        if not mine.made(share):
            sentence = (
                f"share {share.index} is not the one that was made for this vault: it was typed without a mistake,"
                f" but is another one than share {share.index} of set {mine.name}"
            )
            return Wrong(ShareFault.NOT_MADE, sentence)
        if share.index in self._shares:
            sentence = f"share {share.index} was given already; {self.missing} more of the others needed"
            return Wrong(ShareFault.GIVEN_ALREADY, sentence)
        return None
