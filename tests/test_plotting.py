"""The pictures of a baseline: which numbers are drawn, and that files come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import plot_baseline
from scripts.baseline_summary import ALL, ANY, ANY_DYNAMIC, Share, Summary, share_of, summarise
from scripts.plot_style import style
from selector import baseline
from strategies.base import VOID, Candidate
from strategies.registry import portfolio
from tests import synthetic

PNG = b"\x89PNG\r\n"
MEASURED = Path(__file__).parent.parent / "training_data"

USAGE, HTP, FX = (Candidate(strategy=name) for name in ("usage_based", "htp", "fx"))
USAGE_VOID = Candidate(strategy="usage_based", weights=VOID)
HTP_STATIC = Candidate(strategy="htp", dynamic=False)


def record(
    model: str, family: str, candidate: Candidate, seconds: float, *, right: bool = True
) -> baseline.Record:
    return baseline.Record(
        model=model,
        features=synthetic.model_features(family).to_json(),
        candidate=baseline.CandidateRecord.of(candidate),
        success=right,
        export_seconds=seconds,
    )


@pytest.fixture(scope="module")
def summary() -> Summary:
    records = [
        # Without weights or with them is one candidate, and right where either is.
        record("a", "encoder", USAGE_VOID, 0.2, right=False),
        record("a", "encoder", USAGE, 0.5),
        record("a", "encoder", HTP, 0.9),
        record("a", "encoder", FX, 4.0),
        record("b", "encoder", USAGE_VOID, 0.1),
        record("b", "encoder", HTP, 1.0),
        record("b", "encoder", FX, 4.0, right=False),
        record("c", "cnn", USAGE_VOID, 0.3, right=False),
        record("c", "cnn", HTP, 1.0, right=False),
        record("c", "cnn", HTP_STATIC, 1.5),
        record("c", "cnn", FX, 2.0, right=False),
        record("d", "cnn", FX, 3.0, right=False),
    ]
    return summarise(baseline.new_baseline(records))


def test_models_are_counted_by_family_and_candidate(summary: Summary) -> None:
    assert summary.models == 4
    assert summary.families == {"encoder": 2, "cnn": 2}
    assert summary.candidates == (
        "usage_based[dynamic]",
        "htp[dynamic]",
        "htp[static]",
        "fx[dynamic]",
    )
    success = summary.success
    assert success["encoder", "usage_based[dynamic]"] == Share(right=2, of=2)
    assert success["cnn", "usage_based[dynamic]"] == Share(right=0, of=1)
    assert success["cnn", "htp[static]"] == Share(right=1, of=1)
    assert ("encoder", "htp[static]") not in success
    assert success[ALL, "fx[dynamic]"] == Share(right=1, of=4)
    assert success[ALL, ANY] == Share(right=3, of=4)
    assert success[ALL, ANY_DYNAMIC] == Share(right=2, of=4)


def test_seconds_are_those_of_right_files_by_candidate_and_weights(summary: Summary) -> None:
    assert summary.seconds == {
        "usage_based[dynamic,void]": (0.1,),
        "usage_based[dynamic]": (0.5,),
        "htp[dynamic]": (0.9, 1.0),
        "htp[static]": (1.5,),
        "fx[dynamic]": (4.0,),
    }


def test_strategies_are_compared_model_by_model(summary: Summary) -> None:
    everyone = frozenset({"usage_based", "htp", "fx"})
    two = frozenset({"usage_based", "htp"})
    assert summary.together == {everyone: 1, two: 1, frozenset({"htp"}): 1, frozenset(): 1}
    assert summary.together_dynamic == {everyone: 1, two: 1, frozenset(): 2}
    assert share_of("htp", summary.together) == Share(right=3, of=4)
    # 0.9 seconds are not twice 0.5, and 1.0 are more than twice 0.1.
    assert summary.leads["usage_based"].faster == ("b",)
    assert summary.leads["htp"].only == ("c",)
    assert summary.leads["fx"].only == summary.leads["fx"].faster == ()


def test_the_numbers_stand_in_the_pictures(summary: Summary) -> None:
    with style():
        success = plot_baseline.draw_success(summary)
        seconds = plot_baseline.draw_seconds(summary)
        strategies = plot_baseline.draw_strategies(summary)
    cells = [text.get_text() for text in success.axes[0].texts]
    assert len(cells) == 2 * len(summary.success)
    assert cells.count("1 of 4") == 1
    assert {"25 %", "75 %", "3 of 4"} <= set(cells)
    assert [text.get_text() for text in seconds.axes[0].texts][:4] == ["0.1 s", "1", "0.5 s", "1"]
    assert seconds.axes[0].get_xscale() == "log"
    notes = [text.get_text() for text in strategies.axes[-1].texts]
    assert "25.0 %: the only one for 1, at least 2 times as fast for 0 more" in notes


def test_a_share_is_rounded_but_never_to_all_or_none() -> None:
    shares = [Share(right=right, of=1000) for right in (0, 1, 500, 999, 1000)]
    assert [plot_baseline.percent(share) for share in shares] == [0, 1, 50, 99, 100]


def test_the_collected_baseline_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = MEASURED.glob("baseline.json*")
    assert plot_baseline.main([str(source), "--out", str(tmp_path / "new")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    assert len(written) == 3
    assert all(path.read_bytes().startswith(PNG) for path in written)
    found = summarise(baseline.read(source))
    assert {str(item) for item in portfolio(scripting=True)} >= set(found.candidates)
    assert all(
        share.right <= found.success[row, ANY].right for (row, _), share in found.success.items()
    )


def test_what_is_no_baseline_is_one_line_and_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = synthetic.write_baseline(tmp_path / "empty.json", [])
    for source in (empty, tmp_path / "missing.json"):
        assert plot_baseline.main([str(source), "--out", str(tmp_path / "out")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
