"""What happened to every module, as rows and as JSON; report_text.py has it in words."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from ..algebra.quadrants import Quadrants
from ..algebra.subspace import Similarity

_SIMILARITIES = [s + kind for kind in ("", "_chance", "_corrected") for s in ("left", "right")]


@dataclass(frozen=True)
class Measures:
    """What was measured on the weights of one module; None where nothing had to be.

    Attributes:
        source_rank, target_rank: k_s and k_t, the effective rank of either weight by itself.
        common_rank: k, of both subspaces.
        similarity: Phi_l and Phi_r with their chance levels.
        quadrants: energies of the four parts of the update, split by the source's subspaces.
        readouts_off: how far from the source's read-outs the copied module's are on the target, and
            the calibrated one's (where it was not fitted), as shares of their norm.
        drift: ||W_t - W_s|| / ||W_s||, of an extraction, whose source is the base.
    """

    source_rank: int | None = None
    target_rank: int | None = None
    common_rank: int | None = None
    similarity: Similarity | None = None
    quadrants: Quadrants | None = None
    readouts_off: tuple[float, float] | None = None
    drift: float | None = None


@dataclass(frozen=True)
class ModuleReport:
    """One row.

    Attributes:
        status: "moved" (by its mode, or extracted), "copied" (as it was), "shared" (with a block
            that nothing serves, see shares.py) or "skipped".
        reason: why it was copied or skipped.
        source_key, target_key: the weights, with their slice where they are fused; "" if unknown.
        source_shape, target_shape: of the weights; () where there is none.
        rank_in, rank_out: of the update, before and after; 0 where nothing came out.
        family: of the adapter; "" if unknown.
        energy_kept: energy of the result over that of the update, in [0, 1]; None where the result
            is no part of it.
        energy_dropped: share of the projected energy that the cut to `rank_out` dropped.
        shared_from: the source's block, where the target's is one that nothing serves; else "".
    """

    name: str
    status: str
    reason: str = ""
    family: str = ""
    source_key: str = ""
    target_key: str = ""
    source_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    measures: Measures = Measures()
    rank_in: int = 0
    rank_out: int = 0
    energy_kept: float | None = None
    energy_dropped: float = 0.0
    shared_from: str = ""

    def as_dict(self) -> dict[str, object]:
        """A flat row, for JSON, with the same fields for every module: None where not measured."""
        row: dict[str, object] = {k: v for k, v in asdict(self).items() if k != "measures"}
        ranks = self.measures.source_rank, self.measures.target_rank, self.measures.common_rank
        row |= dict(zip(("k_s", "k_t", "k"), ranks, strict=True))
        phi, parts = self.measures.similarity, self.measures.quadrants
        for name in _SIMILARITIES:
            row[f"phi_{name}"] = None if phi is None else _no_nan(getattr(phi, name))
        for part in fields(Quadrants):
            share = None if parts is None else getattr(parts, part.name) / (parts.total or 1.0)
            row[f"energy_{part.name}"] = share
        off = self.measures.readouts_off or (None, None)
        row |= dict(zip(("readouts_off_copied", "readouts_off"), off, strict=True))
        row["drift"] = self.measures.drift
        return row


@dataclass(frozen=True)
class Report:
    """A whole transfer.

    Attributes:
        settings: the choices, as text.
        unknown_keys: keys of the LoRA file that belong to no known family.
        notes: what the user must know about how the file was read and its blocks were paired.
        warnings: what makes the result wrong if it is so.
        widths: in which the two models differ, see module_tree.other_widths; "" where the
            mode goes from one to another.
        pairs: target block -> source block, as a user may give them; see block_pairs.py.
    """

    lora: str
    source: str
    target: str
    settings: Mapping[str, str]
    rows: tuple[ModuleReport, ...]
    unknown_keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pairs: Mapping[str, str | None] = field(default_factory=dict)
    widths: str = ""
    warnings: tuple[str, ...] = ()

    def count(self, *statuses: str) -> int:
        """How many modules have one of these statuses; all modules, if none is named.

        The parts of a fused weight are one module, which may be moved in part.
        """
        rows = (row for row in self.rows if not statuses or row.status in statuses)
        return len({(row.name, row.target_key.partition("[")[0]) for row in rows})

    @property
    def transferred(self) -> int:
        """How many modules the result has."""
        return self.count("moved", "copied", "shared")

    def to_json(self) -> str:
        """Everything, for programs."""
        head = {k: v for k, v in vars(self).items() if k not in ("rows", "settings", "pairs")}
        head |= {"settings": dict(self.settings), "pairs": dict(self.pairs)}
        head |= {"rows": [row.as_dict() for row in self.rows]}
        return json.dumps(head, indent=1, allow_nan=False)


def _no_nan(value: float) -> float | None:
    return None if value != value else value
