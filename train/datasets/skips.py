"""Samples that could not be used: counted by reason, and listed up to a bound."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["N_LISTED", "SkipReport", "Skipped"]

N_LISTED = 10_000  # a damaged collection must not fill the memory with its names


@dataclass(frozen=True, slots=True)
class Skipped:
    """One sample, or one shard's rest, that was left out. reason: a class of a few words."""

    key: str
    reason: str
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        """What skipped.jsonl says of it."""
        return {"key": self.key, "reason": self.reason, "detail": self.detail}

    def line(self) -> str:
        """That, as JSON with the end of the line."""
        return json.dumps(self.to_json(), ensure_ascii=False) + "\n"


@dataclass
class SkipReport:
    """All skips so far. count: times; reasons: times by reason; listed: each key once, bounded."""

    reasons: Counter[str] = field(default_factory=Counter)
    listed: list[Skipped] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set, repr=False)

    @property
    def count(self) -> int:
        """How many times something was skipped; a bad sample counts in every epoch."""
        return self.reasons.total()

    def add(self, skips: Iterable[Skipped]) -> list[Skipped]:
        """Count these, list those whose keys are new, and give back what was listed."""
        new = []
        for skip in skips:
            self.reasons[skip.reason] += 1
            if skip.key not in self._keys and len(self.listed) < N_LISTED:
                self._keys.add(skip.key)
                new.append(skip)
        self.listed += new
        return new

    def __str__(self) -> str:
        """`12 skipped: 9 missing, 3 truncated`."""
        parts = [f"{n:,} {reason}" for reason, n in self.reasons.most_common()]
        return f"{self.count:,} skipped" + (f": {', '.join(parts)}" if parts else "")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` is the inverse."""
        return {
            "reasons": dict(self.reasons),
            "listed": [skip.to_json() for skip in self.listed],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SkipReport:
        """What `to_json` gave."""
        listed = [Skipped(**skip) for skip in values["listed"]]
        return cls(Counter(values["reasons"]), listed, {skip.key for skip in listed})

    @classmethod
    def joined(cls, reports: Iterable[SkipReport]) -> SkipReport:
        """The skips of several reports in one."""
        joined = cls()
        for report in reports:
            joined.add(report.listed)  # counts each once: what was skipped again comes on top
            joined.reasons += report.reasons - Counter(skip.reason for skip in report.listed)
        return joined
