"""How do workers that begin a study together price it alike? `SharedPrices`: one measures for all.

A search by measured latency is decided by the times of its shapes, which are in the study's name
(`search.kept_prices`). Each worker that measured by itself would get other times, and begin a study
of its own. So the first one claims the measurement and keeps its rows in the study's database; the
others wait, and price with these rows. A worker that dies in it is replaced by the next.

    shared = SharedPrices(store, Claims(store, worker), spec, request)
    prepare(spec, request, measuring=shared.following(measuring), studies=shared.find)

Rows hold for one model, one way of running it, one kind of GPU, and one set of versions. Who
predicts prices asks for none, and waits for nobody.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sensitivity.core.words import first_line
from sensitivity.errors import StoreError
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.latency.shape_times import ShapeTimes
from sensitivity.latency.timing.shape_timing import machine_of
from sensitivity.search.claims import Claim, Claims
from sensitivity.search.finished import find_prices
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.search.patience import patient
from sensitivity.search.store import Store
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.progress import Measuring, Say, silent
from sensitivity.workflows.requests import SearchRequest

OF_A_SEARCH = "prices of a search"
"""In the place of a compile mode: the row holds all rows of a search, and not one shape's."""
POLL_S = 0.5


@dataclass
class SharedPrices:
    """The measured prices that the workers of a database share.

    Attributes:
        store: the database.
        claims: of this worker.
        spec: the study.
        request: what is asked for.
        say: called with whom it waits for.
        machine: gives what the rows hold for.
    """

    store: Store
    claims: Claims
    spec: StudySpec
    request: SearchRequest
    say: Say = silent
    machine: Callable[[str], dict[str, str]] = machine_of
    _claim: Claim | None = field(default=None, init=False)

    def find(self) -> list[KeptPrices]:
        """Rows to price with, those of this search first. If nobody has measured it yet, this
        worker is to, and it has the claim on it until `following` is told the times; while another
        worker is at it, it waits.
        """
        said = False
        while (kept := patient(self._kept)) is None and self._claim is None:
            self._claim = patient(lambda: self.claims.take(OF_A_SEARCH, self._key))
            if self._claim is None:
                if not said:
                    self.say("waiting for another worker to measure the times of shapes")
                    said = True
                time.sleep(POLL_S)
        if kept is None and (kept := patient(self._kept)) is not None:
            self._release()
        known = patient(lambda: find_prices(self.store, self.spec.name))
        return known if kept is None else [kept, *known]

    def following(self, measuring: Measuring | None) -> Measuring:
        """The same follower of a measurement, after which the times are kept for others."""
        own = measuring or Measuring()

        def measured(times: ShapeTimes) -> None:
            if self._claim is not None:
                prices = KeptPrices(
                    machine=dict(times.machine),
                    compile_mode=times.compile_mode,
                    rows=tuple(row.to_json() for row in times.rows.values()),
                )
                patient(
                    lambda: self.store.save_shape_time(
                        self._where, OF_A_SEARCH, self._key, prices.to_json()
                    )
                )
                self._release()
            own.measured(times)

        return replace(own, measured=measured)

    def _release(self) -> None:
        if self._claim is not None:
            self.claims.release(self._claim)
        self._claim = None

    def _kept(self) -> KeptPrices | None:
        """What a worker has measured for this search; None where none has."""
        row = self.store.find_shape_times(self._where, OF_A_SEARCH).get(self._key)
        try:
            return None if row is None else KeptPrices.from_json(row, study=self.spec.name)
        except StoreError as error:
            self.say(first_line(error))
            return None

    @property
    def _where(self) -> dict[str, str]:
        return {"prices of": self.spec.name}

    @property
    def _key(self) -> str:
        """A digest of what is priced, and where."""
        priced = {
            "study": self.spec.model_dump(mode="json"),
            "formats": list(self.request.formats),
            "runtime": choose_runtime(self.request.runtime).name,
            "machine": self.machine(self.request.device),
        }
        return hashlib.sha256(json.dumps(priced, sort_keys=True).encode()).hexdigest()
