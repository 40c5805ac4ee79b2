"""Which Linears carry the calibrated damage? `stored_damage`, read from a study's database.

    damage = stored_damage(pricer, spec, FormatName.NVFP4, default_storage(spec))
    damage["transformer_blocks.0.attn.to_q"]                 # 0.013: its part of the whole damage

Damage is the sum of squared errors, as the errors of independent Linears add up. `calibrate` and
every search put errors into the database. They are averaged over the calibrations that cover the
format; nothing is measured here.
"""

import math
from collections.abc import Mapping

from sensitivity.core.format_name import FormatName
from sensitivity.core.storage_url import Storage, is_missing
from sensitivity.errors import FormatError
from sensitivity.latency.pricer import Pricer
from sensitivity.search.calibration.jobs import BROKEN, jobs_of
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.spec.study_spec import StudySpec

COVERED = 0.5
"""A calibration counts if it has this part of the Linears that the best one has."""


def stored_damage(
    pricer: Pricer, spec: StudySpec, name: FormatName, storage: Storage
) -> dict[str, float]:
    """{FQN: its part of the calibrated damage in a format}; {} if nothing is calibrated.

    Args:
        pricer: prices lists of the study; its groups may have been calibrated as wholes.
        spec: the study.
        name: the format.
        storage: the study's database; it may be missing.

    Raises:
        StoreError, OutputError: the database is damaged, or cannot be opened.
        DamageError: an error in it is not what was written.
    """
    if is_missing(storage):
        return {}
    with Store.read(storage, makes_again=False) as store:
        calibrations = store.find_calibrations()
    measured = _measured(pricer, spec, name)
    shares = [
        _shares({measured[key]: error for key, error in rows.items() if key in measured})
        for rows in calibrations.values()
    ]
    most = max(map(len, shares), default=0)
    found: dict[str, list[float]] = {}
    for own in shares:
        if len(own) >= COVERED * most:
            for fqn, share in own.items():
                found.setdefault(fqn, []).append(share)
    return {fqn: sum(parts) / len(parts) for fqn, parts in found.items()}


def _measured(pricer: Pricer, spec: StudySpec, name: FormatName) -> dict[str, tuple[str, ...]]:
    """{key in the database: Linears} of all that a calibration may have measured in a format.

    Some estimators measure each Linear, some a whole group.
    """
    table = pricer.run.table
    found: dict[str, tuple[str, ...]] = {assignment_key({fqn: name}): (fqn,) for fqn in table.fqns}
    try:
        groups = make_candidates(pricer.table, spec, formats=(name,), latency=pricer.latency)
    except FormatError:
        return found
    return found | {job.key: job.fqns for job in jobs_of(groups).values()}


def _shares(errors: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """{FQN: its part of the sum of squared errors}.

    The Linears of a group that was measured as a whole share its part equally. Broken outputs count
    as the largest error.
    """
    squares = {
        fqns: min(error, BROKEN) ** 2 for fqns, error in errors.items() if math.isfinite(error)
    }
    total = sum(squares.values())
    shares: dict[str, float] = {}
    for fqns in sorted(squares, key=len):  # a Linear's own error goes before its group's
        for fqn in fqns:
            shares.setdefault(fqn, squares[fqns] / len(fqns) / total if total else 0.0)
    return shares
