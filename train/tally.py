"""What becomes of the rows of a split: read = kept + rejected, by source and by reason."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO, Any

from sumzero.config import Source
from sumzero.errors import DataError
from sumzero.log import logger
from sumzero.records import Reject

_SHOWN = 5  # rejects that are logged each


class Tally:
    """Counts a split's rows, source by source, and lists rejects as they come."""

    def __init__(self) -> None:
        self._sources: list[dict[str, Any]] = []
        self._all_reasons = Counter[str]()
        self._first: Reject | None = None
        self._reasons = Counter[str]()

    def reject(self, rejects: Iterable[Reject], out: IO[str]) -> None:
        """Lists and counts rejects of the source at hand."""
        for reject in rejects:
            self._first = self._first or reject
            self._reasons[reject.kind] += 1
            if self._reasons.total() <= _SHOWN:
                logger.warning("%s:%d: %s; row rejected", reject.file, reject.line, reject.reason)
            out.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")

    def close(self, source: Source, kept: int) -> None:
        """Ends the source at hand. Raises DataError where none of its rows can be used."""
        first, reasons = self._first, self._reasons
        self._first, self._reasons = None, Counter()
        said = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        if not kept and first is None:
            raise DataError(f"{source.path}: has no rows")
        if not kept and first is not None:
            raise DataError(
                f"{first.file}:{first.line}: {first.reason}; no row of {source.path} can be used "
                f"({said})"
            )
        rejected = reasons.total()
        if rejected > _SHOWN:
            logger.warning("%s: %d rows rejected: %s", source.path, rejected, said)
        counts = {"read": kept + rejected, "kept": kept, "rejected": rejected}
        by_reason = dict(reasons.most_common())
        self._sources.append({"path": source.path, **counts, "rejected_by_reason": by_reason})
        self._all_reasons += reasons

    def summary(self) -> dict[str, Any]:
        """For the report."""
        total = {key: sum(x[key] for x in self._sources) for key in ("read", "kept", "rejected")}
        by_reason = dict(self._all_reasons.most_common())
        return total | {"rejected_by_reason": by_reason, "sources": self._sources}
