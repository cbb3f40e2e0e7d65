"""Which ranker an export uses, and what is refused before it is unpickled."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

from selector import ranker_files, training
from selector.errors import RankerError
from selector.ranker import FittedRanker, Tally, feature_names
from selector.ranker_files import card_path, choose, load, shipped_path, store, user_path
from selector.ranking import rank_candidates
from strategies.registry import portfolio
from tests import synthetic

RANKER = FittedRanker(tallies={"htp": Tally(5, 10)}, medians={"success_seconds": {"htp": 2.0}})
OTHER = FittedRanker(tallies={"fx": Tally(7, 10)})
BEFORE_VOID = [name for name in feature_names() if name != "void"]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    store(RANKER, tmp_path / "ranker.joblib", {})
    return tmp_path / "ranker.joblib"


def change_card(path: Path, **changes: Any) -> None:
    card = json.loads(card_path(path).read_text(encoding="utf-8"))
    card_path(path).write_text(json.dumps(card | changes), encoding="utf-8")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_stored_is_loaded(stored: Path) -> None:
    assert load(stored) == RANKER


# Refused


class Explosive:
    """Proof of unpickling: it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_changed_artefact_is_refused_before_it_is_unpickled(stored: Path) -> None:
    trace = stored.with_name("exploded")
    joblib.dump(Explosive(trace), stored)
    with pytest.raises(RankerError, match=r"SHA-256 differs.*autoexport retrain"):
        load(stored)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scikit_learn": "1.2.0"}, r"made with scikit-learn 1\.2\.0, and .* is installed"),
        ({"feature_names": ["depth"]}, "fitted on other features"),
        ({"feature_names": BEFORE_VOID}, "fitted on other features"),
        ({"schema_version": 9}, "not a ranker's card of this version"),
    ],
)
def test_an_artefact_of_other_versions_is_refused(
    stored: Path, changes: dict[str, Any], message: str
) -> None:
    change_card(stored, **changes)
    with pytest.raises(RankerError, match=f"{message}.*autoexport retrain"):
        load(stored)


def test_missing_files_are_named_with_the_next_step(stored: Path) -> None:
    stored.unlink()
    with pytest.raises(RankerError, match=r"ranker\.joblib cannot be read.*autoexport retrain"):
        load(stored)
    with pytest.raises(RankerError, match=r"nowhere\.json cannot be read.*autoexport retrain"):
        load(stored.with_name("nowhere.joblib"))
    card_path(stored).write_text("{", encoding="utf-8")
    with pytest.raises(RankerError, match="is not JSON"):
        load(stored)


def test_something_else_with_a_fitting_card_is_a_ranker_error(stored: Path) -> None:
    stored.write_bytes(b"not a pickle")
    change_card(stored, sha256=hashlib.sha256(b"not a pickle").hexdigest())
    with pytest.raises(RankerError, match="cannot be loaded"):
        load(stored)


# Chosen


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation of its own: folder of training data, user's data and cache folders."""
    folder = tmp_path / "training_data"
    synthetic.write_baseline(folder / "baseline.json", synthetic.records(per_family=1))
    store(RANKER, folder / "ranker.joblib", {})
    monkeypatch.setattr(ranker_files, "_training_data", lambda: folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ranker_files._fitted_anew.cache_clear()
    yield folder
    ranker_files._fitted_anew.cache_clear()


@pytest.mark.usefixtures("package")
def test_the_shipped_ranker_serves_until_the_user_has_one(stored: Path) -> None:
    assert choose() == ranker_files.Chosen(ranker=RANKER)
    store(OTHER, user_path(), {})
    assert choose() == ranker_files.Chosen(ranker=OTHER)
    assert choose(stored) == ranker_files.Chosen(ranker=RANKER)


@pytest.mark.usefixtures("package")
def test_a_refused_ranker_gives_way_to_the_next_one(stored: Path) -> None:
    store(OTHER, user_path(), {})
    flip_a_byte(stored)
    chosen = choose(stored)
    assert chosen.ranker == OTHER
    assert chosen.note is not None
    assert "SHA-256 differs" in chosen.note


def take_away(path: Path) -> None:
    path.unlink()


def take_the_card_away(path: Path) -> None:
    card_path(path).unlink()


def of_another_scikit_learn(path: Path) -> None:
    change_card(path, scikit_learn="0.1.0")


@pytest.mark.parametrize(
    "harm", [take_away, take_the_card_away, flip_a_byte, of_another_scikit_learn]
)
def test_without_the_shipped_artefact_a_ranker_is_fitted_anew(harm: Any, package: Path) -> None:
    harm(package / "ranker.joblib")
    rows, _ = training.rows_of(synthetic.records(per_family=1))
    expected = rank_candidates(rows[0].features, portfolio(), ranker=training.fit(rows))
    ranking = rank_candidates(rows[0].features, portfolio())
    assert ranking.order == expected.order
    assert ranking.trained
    assert ranking.note is not None
    assert ranking.note.endswith("fitted anew on the shipped baseline instead")
    assert len(list((package.parent / "cache").rglob("*.joblib"))) == 1


def test_what_was_fitted_anew_is_kept(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_away(package / "ranker.joblib")
    first = choose().ranker
    ranker_files._fitted_anew.cache_clear()
    monkeypatch.delattr(training, "fit")
    assert choose().ranker.tallies == first.tallies


@pytest.mark.parametrize("rest", [None, "{", '{"schema_version": 7}'])
def test_without_any_data_the_static_order_serves(rest: str | None, package: Path) -> None:
    shutil.rmtree(package)
    if rest is not None:
        package.mkdir()
        (package / "baseline.json").write_text(rest, encoding="utf-8")
    ranking = rank_candidates(synthetic.model_features(), portfolio())
    assert not ranking.trained
    assert ranking.note


def test_the_shipped_ranker_lies_beside_the_package(root: Path) -> None:
    assert shipped_path().name == "ranker.joblib"
    assert shipped_path().parent in {root / "training_data", root / "selector" / "training_data"}
    assert load(shipped_path()).chances.regressions
