"""Which choices of a study are finished, and at which place? The rows of `sensitivity_trials`.

A choice is known by the digest of its JSON. A study has each digest once, and its places are 0, 1,
2, ... in the order in which trials were finished, whichever process finished them.

    choice_digest((1, 0, 0))                         # 64 hexadecimal digits
    fill_finished(connection)                        # how many rows an older database lacked

The transaction that adds a trial adds its row (`search.optuna_storage`). Databases of schema 2 and
before had no such rows: what their trials say of themselves is enough to make them.
"""

import hashlib
import json
from collections.abc import Sequence

from sqlalchemy import Connection, inspect, text

from sensitivity.search.dialects import insert_or_keep
from sensitivity.search.tables import FinishedRow, table_of

_TRIALS = """
SELECT trials.study_id, trials.trial_id, places.value_json, choices.value_json FROM trials
JOIN trial_user_attributes AS places ON places.trial_id = trials.trial_id AND places.key = 'index'
JOIN trial_user_attributes AS choices
  ON choices.trial_id = trials.trial_id AND choices.key = 'choice'
WHERE trials.state IN ('COMPLETE', 'PRUNED')
  AND trials.study_id IN (SELECT study_id FROM study_user_attributes WHERE key = 'sensitivity')
  AND trials.trial_id NOT IN (SELECT trial_id FROM sensitivity_trials)
ORDER BY trials.trial_id
"""


def choice_digest(choice: Sequence[int]) -> str:
    """What a choice is known by: sha256 of its JSON."""
    return hashlib.sha256(json.dumps(list(choice)).encode()).hexdigest()


def fill_finished(connection: Connection) -> int:
    """Add the rows of trials that have none, and count them.

    Trials whose place or choice cannot be read are left out, as are second ones of a place or a
    choice: such a study is damaged, which its seals say (`search.seals`).
    """
    if not inspect(connection).has_table("trial_user_attributes"):
        return 0
    added = 0
    for study_id, trial_id, place, choice in connection.execute(text(_TRIALS)).all():
        row = {"study_id": study_id, "trial_id": trial_id}
        try:
            row |= {"place": int(place), "choice": choice_digest(json.loads(json.loads(choice)))}
        except (ValueError, TypeError, RecursionError):
            continue
        added += insert_or_keep(connection, table_of(FinishedRow), row)
    return added
