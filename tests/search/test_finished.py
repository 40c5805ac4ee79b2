"""Kept studies: which are listed, which is picked, and what the error says where none or several
fit.
"""

from pathlib import Path

import optuna
import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import StoreError
from sensitivity.search.finished import (
    KeptStudy,
    Wanted,
    assume_settings,
    list_optuna_studies,
    pick_study,
)
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store

DATABASE = Path("runs.db")


def study(
    name: str,
    *,
    seed: int = 0,
    finished: int = 8,
    settings: bool = True,
    sampler: SamplerName = SamplerName.KNAPSACK,
    emulate: bool | None = False,
) -> KeptStudy:
    """A study of a budget of 8 that searched nvfp4 for b200."""
    made = SearchSettings(
        formats=(FormatName.NVFP4,),
        target="b200",
        budget=8,
        seed=seed,
        sampler=sampler,
        emulate=emulate,
    )
    return KeptStudy(name=name, settings=made if settings else None, finished=finished)


def pick(studies: list[KeptStudy], wanted: Wanted) -> KeptStudy:
    """`pick_study` among studies of "m"."""
    return pick_study(studies, wanted, model="m", database=DATABASE)


def test_the_only_study_is_the_one() -> None:
    """One study needs no settings; settings that are its own find it among others; it is found by
    name.
    """
    one = study("m-nvfp4-b200-1")
    assert pick([one], Wanted()) == one
    assert pick([one, study("m-nvfp4-b200-2", seed=1)], Wanted(seed=0)) == one
    assert pick([one, study("m-nvfp4-b200-2", seed=1)], Wanted(name="m-nvfp4-b200-1")) == one
    assert (
        pick(
            [one, study("m-nvfp4-b200-2", sampler=SamplerName("random"))],
            Wanted(sampler=SamplerName.KNAPSACK),
        )
        == one
    )


def test_several_are_listed_with_trials_and_settings() -> None:
    """Where the settings fit several studies, the error lists each with its trials and settings."""
    with pytest.raises(StoreError) as raised:
        pick([study("m-a"), study("m-b", seed=1, finished=3)], Wanted(target="b200"))
    text = str(raised.value)
    for words in (
        "2 studies of m in runs.db have `target` b200",
        "expected one",
        "`study` NAME",
        "m-a: 8 of 8",
        "m-b: 3 of 8",
        "`seed` 1",
        "`calibrate`",
    ):
        assert words in text


def test_kernels_tell_studies_apart() -> None:
    """A study that kept to emulation is named as such, and found by it; one of an earlier version,
    which did not say, may be either.
    """
    native, emulated = study("m-a"), study("m-b", emulate=True)
    assert pick([native, emulated], Wanted(emulate=True)) == emulated
    assert pick([native, emulated], Wanted(emulate=False)) == native
    assert "`emulate`" in emulated.describe()
    assert "`emulate`" not in native.describe()
    with pytest.raises(StoreError, match=r"no study of m in runs\.db has without `emulate`"):
        pick([emulated], Wanted(emulate=False))
    old = study("m-c", emulate=None)
    for emulate in (True, False):
        assert pick([old], Wanted(emulate=emulate)) == old


def test_a_study_that_is_not_there_is_said_with_those_that_are() -> None:
    """Settings that no study has are repeated, with the studies that there are; for an empty
    database the next step is a search.
    """
    with pytest.raises(
        StoreError,
        match=r"no study of m in runs\.db has `study` x `seed` 7; expected one of\n  m-a: 8 of 8",
    ):
        pick([study("m-a")], Wanted(name="x", seed=7))
    with pytest.raises(
        StoreError, match=r"holds no study of m; .* run `sensitivity search` on m first"
    ):
        pick([], Wanted())
    with pytest.raises(StoreError, match="has no finished trial"):
        pick([study("m-a", finished=0)], Wanted())


def test_studies_without_settings_may_be_any() -> None:
    """An earlier version's study is picked where it is alone, with what is given and a search's
    defaults as its settings.
    """
    old = study("m-nvfp4-b200-0", settings=False)
    assert pick([old], Wanted(seed=3)) == old
    assert "settings not kept" in old.describe()
    assumed = assume_settings(Wanted(seed=3), target="b200", budget=8)
    assert assumed == SearchSettings(formats=(FormatName.NVFP4,), target="b200", budget=8, seed=3)


def test_a_database_lists_its_studies_of_one_model(tmp_path: Path) -> None:
    """Studies of other models are left out, even with a longer name; finished trials are counted,
    baselines apart, and settings come back as they were.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with Store.open(tmp_path / "s.db") as store:
        for name, kept in (
            ("tiny-nvfp4-b200-0123abcd", None),
            ("tiny-flux-nvfp4-b200-0123abcd", None),
            (
                "tiny-mxfp8+nvfp4-b200-00000000",
                {
                    "model": "tiny",
                    "formats": ["mxfp8", "nvfp4"],
                    "target": "b200",
                    "budget": 5,
                    "seed": 2,
                    "sampler": "tpe",
                    "granularity": "layer",
                    "calibrated": False,
                },
            ),
        ):
            made = optuna.create_study(storage=store.url, study_name=name)
            made.set_user_attr("sensitivity", 1)
            if kept is not None:
                made.set_user_attr("settings", kept)
                for label in ("none", ""):
                    trial = made.ask()
                    trial.set_user_attr("label", label)
                    made.tell(trial, 1.0)
                made.ask()
        found = list_optuna_studies(store, "tiny")
    assert [s.name for s in found] == ["tiny-nvfp4-b200-0123abcd", "tiny-mxfp8+nvfp4-b200-00000000"]
    assert [s.finished for s in found] == [0, 2]
    assert [s.baselines for s in found] == [0, 1]
    assert "1 of 5 trials" in found[1].describe()
    assert found[0].settings is None
    assert found[1].settings == SearchSettings(
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        target="b200",
        budget=5,
        seed=2,
        sampler=SamplerName("tpe"),
        granularity="layer",
        calibrated=False,
    )
