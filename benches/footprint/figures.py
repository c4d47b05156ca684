"""A figure beside its limit."""

from dataclasses import dataclass

import tables

HEAD = ["figure", "measured", "limit", "met"]


@dataclass
class Figure:
    """What was measured. Without a limit it is there to explain the others."""

    part: str
    name: str
    value: float
    unit: str
    limit: float = None
    #: Whether the limit itself is still good.
    inclusive: bool = True

    def met(self):
        """None without a limit."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.inclusive else self.value < self.limit

    def row(self):
        """For a table."""
        sign = "≤" if self.inclusive else "<"
        limit = "-" if self.limit is None else f"{sign} {self._shown(self.limit)}"
        return [self.name, self._shown(self.value), limit, tables.yes(self.met())]

    def as_json(self):
        """For programs."""
        return {**vars(self), "met": self.met()}

    def _shown(self, value):
        number = f"{int(value):,}" if value == int(value) else tables.count(value)
        return f"{number} {self.unit}".strip()
