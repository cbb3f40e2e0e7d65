"""Where fitted rankers lie, how they are stored, and which one an export uses.

An artefact is a joblib file with a card beside it, JSON that vouches for it. Unpickling runs
code, so nothing is unpickled before its SHA-256 was compared with the card's.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from selector import baseline
from selector.chances import Chances
from selector.errors import InvalidRequestError, RankerError
from selector.hindsight import Counts, Hindsight
from selector.ranker import FittedRanker, Tally, feature_names
from selector.traits import Vocabulary

SCHEMA_VERSION = 7
FILE_NAME = "ranker.joblib"
BASELINES = ("baseline.json.gz", "baseline.json")
RETRAIN = "run `autoexport retrain BASELINE.json`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The ranker that an export uses.

    Attributes:
        ranker: It.
        note: Why it is not the one that was asked for, or not the shipped one.
    """

    ranker: FittedRanker
    note: str | None = None


def choose(path: Path | None = None) -> Chosen:
    """The ranker at a path, the user's own, the shipped one, or one fitted anew.

    What is refused is named in the note. The last resort is fitted on the baseline that
    comes with the package, in seconds, and kept in the user's cache folder.

    Args:
        path: The artefact that was asked for, if any.

    Raises:
        RankerError: There is none at all, and none could be fitted.
    """
    refused: list[str] = []
    for file in _places(path):
        try:
            return Chosen(ranker=load(file), note="; ".join(refused) or None)
        except RankerError as error:
            refused.append(str(error))
    ranker = _fitted_anew()
    note = "; ".join([*refused, "a ranker was fitted anew on the shipped baseline instead"])
    return Chosen(ranker=ranker, note=note)


def _places(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
    if user_path().exists():
        yield user_path()
    yield shipped_path()


def user_path() -> Path:
    """Where the user's own ranker lies, which `retrain` installs."""
    return Path(platformdirs.user_data_dir("autoexport")) / FILE_NAME


def user_baseline() -> Path:
    """Where that lies which the user's own ranker was fitted on."""
    return user_path().with_name("baseline.json.gz")


def shipped_path() -> Path:
    """Where the shipped ranker lies: inside the installed package, or beside it in a checkout."""
    return _training_data() / FILE_NAME


def shipped_baseline() -> Path:
    """Where the baseline that comes with the package lies.

    Raises:
        RankerError: There is none.
    """
    files = [_training_data() / name for name in BASELINES]
    found = next((file for file in files if file.exists()), None)
    if found is None:
        raise RankerError(f"there is no baseline in {_training_data()}; {RETRAIN}")
    return found


def card_path(path: Path) -> Path:
    """Where the card of an artefact lies: beside it."""
    return path.with_suffix(".json")


def _training_data() -> Path:
    package = Path(__file__).parent
    installed = package / "training_data"
    return installed if installed.is_dir() else package.parent / "training_data"


# Storing


def store(ranker: FittedRanker, path: Path, description: Mapping[str, Any]) -> None:
    """Writes an artefact and its card, each as a whole or not at all.

    Args:
        ranker: What to store.
        path: The artefact's, a `.joblib` file.
        description: What else the card says, as JSON values.

    Raises:
        InvalidRequestError: The folder cannot be written.
    """
    content = _dump(ranker)
    card = {
        "schema_version": SCHEMA_VERSION,
        "artefact": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "scikit_learn": version("scikit-learn"),
        "feature_names": list(feature_names()),
        **description,
    }
    text = json.dumps(card, indent=2, allow_nan=False) + "\n"
    # The artefact goes first: between the two moves the old card does not vouch for it.
    baseline.replace_file(path, content)
    baseline.replace_file(card_path(path), text.encode())


def _dump(ranker: FittedRanker) -> bytes:
    """The artefact's bytes: scikit-learn's estimators and plain data, no class of ours."""
    import joblib  # noqa: PLC0415 - loads numpy

    content = {
        "chances": {
            "vocabulary": asdict(ranker.chances.vocabulary),
            "regressions": dict(ranker.chances.regressions),
        },
        "clock": ranker.clock,
        "clock_spread": ranker.clock_spread,
        "latency": ranker.latency,
        "hindsight": {
            name: (item.right, item.wrong) for name, item in ranker.hindsight.counts.items()
        },
        "tallies": {name: (tally.right, tally.tried) for name, tally in ranker.tallies.items()},
        "medians": {name: dict(values) for name, values in ranker.medians.items()},
    }
    buffer = io.BytesIO()
    joblib.dump(content, buffer, compress=3)
    return buffer.getvalue()


# Loading


def load(path: Path) -> FittedRanker:
    """Loads a ranker, once its card vouches for it.

    Estimators of another scikit-learn may not work, so they are refused too.

    Raises:
        RankerError: It is missing, changed, or made for other versions.
    """
    card = _read_card(path)
    made_with, installed = str(card.get("scikit_learn")), version("scikit-learn")
    if _minor(made_with) != _minor(installed):
        msg = f"{path} was made with scikit-learn {made_with}, and {installed} is installed"
        raise RankerError(f"{msg}; {RETRAIN}")
    if card.get("feature_names") != list(feature_names()):
        raise RankerError(f"{path} was fitted on other features; {RETRAIN}")
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        msg = f"{path} is not the file that {card_path(path).name} describes (SHA-256 differs)"
        raise RankerError(f"{msg}; {RETRAIN}")
    return _unpickle(content, path)


@lru_cache(maxsize=4)
def _unpickle(content: bytes, path: Path) -> FittedRanker:
    import joblib  # noqa: PLC0415 - loads numpy

    try:
        fields = joblib.load(io.BytesIO(content))
        tallies = {name: Tally(*numbers) for name, numbers in fields["tallies"].items()}
        learned = fields["chances"]
        vocabulary = Vocabulary(**learned["vocabulary"])
        chances = Chances(**{**learned, "vocabulary": vocabulary})
        counts = {name: Counts(*numbers) for name, numbers in fields["hindsight"].items()}
        known = {"tallies": tallies, "hindsight": Hindsight(counts=counts), "chances": chances}
        return FittedRanker(**{**fields, **known})
    except Exception as error:
        raise RankerError(f"{path} cannot be loaded: {error}; {RETRAIN}") from error


def _read_card(path: Path) -> dict[str, Any]:
    card_file = card_path(path)
    try:
        card = json.loads(_read(card_file))
    except ValueError as error:
        raise RankerError(f"the ranker's card {card_file} is not JSON; {RETRAIN}") from error
    if not isinstance(card, dict) or card.get("schema_version") != SCHEMA_VERSION:
        raise RankerError(f"{card_file} is not a ranker's card of this version; {RETRAIN}")
    return card


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"the ranker's file {path} cannot be read ({error.strerror})"
        raise RankerError(f"{msg}; {RETRAIN}") from error


def _minor(number: str) -> tuple[str, ...]:
    return tuple(number.split(".")[:2])


# Fitting anew


@lru_cache(maxsize=1)
def _fitted_anew() -> FittedRanker:
    """Fitted on the shipped baseline, or taken from the cache if that was done before."""
    source = shipped_baseline()
    digest = hashlib.sha256(_read(source)).hexdigest()
    cached = Path(platformdirs.user_cache_dir("autoexport")) / f"ranker-{digest[:16]}.joblib"
    with contextlib.suppress(RankerError):
        return load(cached)
    from selector import training  # noqa: PLC0415 - it imports this module

    try:
        rows, _ = training.rows_of(baseline.read(source).records)
    except InvalidRequestError as error:
        raise RankerError(str(error)) from error
    ranker = training.fit(rows)
    with contextlib.suppress(InvalidRequestError):  # a cache that cannot be written
        store(ranker, cached, {"training": [{"file": source.name, "sha256": digest}]})
    return ranker
