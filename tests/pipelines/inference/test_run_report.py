"""The report counts what is in the table, and shows the replies and rows that a person should look at."""

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llava_core.engine.types import Request, Result
from pipelines import tables
from pipelines.accounts import counts
from pipelines.corpus import read_fragment
from pipelines.inference import run_report
from pipelines.inference.faults import Fault, faults_of, repeated_share
from pipelines.inference.job import InferenceJob
from pipelines.inference.retry import rejected_works
from pipelines.inference.rows import generate_rows
from pipelines.inference.run_report import RunFigures, Sample, bins_of, collect_figures, take_reply, throughput
from pipelines.inference.run_report_page import write_run_report
from pipelines.parts import write_fragment
from schemas.caption import CAPTION
from tests.pipelines.inference.fakes import EchoEngine, FakeDecoder
from tests.pipelines.inference.page_cases import commit, photos_job
from tests.pipelines.page_cases import HOSTILE, parsed

LOOP = "a red bus " * 10


@pytest.mark.parametrize(
    ("text", "finish", "valid", "found"),
    [
        ("A dog sleeps.", "stop", None, []),
        ("", "stop", None, [Fault.EMPTY]),
        (" … ?!", "stop", True, [Fault.EMPTY]),
        ("A dog sl", "length", None, [Fault.CUT_OFF]),
        (LOOP, "length", None, [Fault.CUT_OFF, Fault.REPEATED]),
        ("haha" * 20, "stop", None, [Fault.REPEATED]),
        ("I'm sorry, but that is private.", "stop", None, [Fault.REFUSED]),
        ("I cannot see the image.", "stop", None, [Fault.REFUSED]),
        ("As an AI language model, I have no eyes.", "stop", None, [Fault.REFUSED]),
        ("A man says: I can see you.", "stop", None, []),
        ("no no no", "stop", False, [Fault.UNREAD]),
    ],
)
def test_what_looks_wrong(text: str, finish: str, valid: bool | None, found: list[Fault]) -> None:
    assert faults_of(text, finish, valid=valid) == found


def test_repeats_are_counted_by_words_and_where_there_are_few_by_letters() -> None:
    # 12 words are 10 triples; the last 6 words repeat the first 6: triples 7 to 10 have come before
    assert repeated_share("a b c d e f a b c d e f") == pytest.approx(0.4)
    assert repeated_share("a b c d e f a b c d e g") == pytest.approx(0.3)
    # 40 letters are 35 sextets, of which 4 differ
    assert repeated_share("abcd" * 10) == pytest.approx(31 / 35)
    assert repeated_share("abcd" * 9) == 0.0


def test_throughput_is_rows_by_the_time_between_commits() -> None:
    begun = "1970-01-01T00:01:40+00:00"  # 100 s
    commits = [(110.0, 5, 50, 10), (120.0, 10, 100, 20), (140.0, 20, 400, 40)]
    # 3 stretches of 13.33 s, ending at 113.3, 126.7 and 140
    found = throughput(commits, begun)
    assert [one.rows for one in found] == pytest.approx([5 / 13.333, 10 / 13.333, 20 / 13.333], rel=1e-3)
    assert [one.new_tokens for one in found] == pytest.approx([10 / 13.333, 20 / 13.333, 40 / 13.333], rel=1e-3)
    assert found[0].seconds == pytest.approx(6.667, rel=1e-3)
    # a start after the first commit (the job was started again) is not the beginning
    assert [one.rows for one in throughput(commits, "1970-01-01T00:02:10+00:00")] == pytest.approx([1.5, 0, 2.0])
    assert throughput([], begun) == ()


def test_bins_hold_every_value_once() -> None:
    counted = {4: 1, 40: 2, 76: 4}
    bins, ends = bins_of(counted)
    # 73 values in at most 36 bins: 3 wide, 25 of them, from 4 to 79
    assert (len(bins), ends) == (25, (4, 79))
    assert {place: rows for place, rows in enumerate(bins) if rows} == {0: 1, 12: 2, 24: 4}


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = {"uid": f"u{number}", "fragment_id": "f", "text": "A dog.", "finish_reason": "stop"}
    values |= {"num_prompt_tokens": 10 * number, "num_image_tokens": 5, "num_output_tokens": number}
    return values | {"mean_logprob": -0.1 * number} | changes


def test_samples_are_bounded_and_do_not_depend_on_the_order() -> None:
    def figures(numbers: Sequence[int]) -> RunFigures:
        made = RunFigures()
        for number in numbers:
            take_reply(made, row(number, text="" if number % 2 else "A dog."))
        return made

    one, other = figures(range(1, 41)), figures(range(40, 0, -1))
    assert one.faults == {Fault.EMPTY: 20} and one.faulty == 20 and one.ok == 40
    assert one.samples[Fault.EMPTY].ordered() == other.samples[Fault.EMPTY].ordered()
    assert len(one.samples[Fault.EMPTY].rows) == run_report.SHOWN_FAULTS
    # the least log-probabilities are of the greatest numbers
    assert [int(found["uid"][1:]) for found in one.unsure.ordered()] == list(range(40, 28, -1))
    assert one.counted["letters"] == {0: 20, 6: 20}
    assert Sample(most=3).ordered() == []


def test_a_uid_that_occurs_twice_is_shown_twice() -> None:
    sample = Sample(most=3)
    for value, uid, text in [(2.0, "b", "x"), (2.0, "b", "y"), (5.0, "c", "z"), (2.0, "b", "w"), (1.0, "a", "v")]:
        sample.offer(value, {"uid": uid, "text": text})
    assert [found["text"] for found in sample.ordered()] == ["v", "x", "y"]


class OddEngine(EchoEngine):
    """Answers that look wrong, by number."""

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, in order."""
        texts = {0: "", 1: LOOP, 2: f"I cannot describe {HOSTILE}"}
        return [
            dataclasses.replace(one, text=texts.get(len(one.token_ids) - 1, one.text))
            for one in super().generate(requests)
        ]


@pytest.fixture
def job(tmp_path: Path) -> InferenceJob:
    return photos_job(tmp_path, OddEngine)


def test_the_page_shows_a_run_and_other_runs_are_left_out(job: InferenceJob) -> None:
    settings = dataclasses.replace(job.spec.settings, run_id="other0000")
    commit(dataclasses.replace(job, spec=dataclasses.replace(job.spec, settings=settings)))
    uri = f"{job.spec.table_uri}/run_report.html"
    totals = counts(job.spec.table_uri, job.run_id)
    started = datetime.fromtimestamp(0, UTC).isoformat()
    write_run_report(uri, job.works, job.spec, totals, trained=False, started=started)
    page = Path(uri).read_text()
    found = parsed(page)
    assert "script" not in {tag for tag, _ in found.tags}
    large = dict(re.findall(r"<b>([\d,]+)</b><span>([^<]+)</span>", page))
    # prompts of 100 to 108 tokens, replies of 1 to 9; odd numbers ended by their length
    assert large == {"10": "rows in", "9": "ok", "1": "rejected", "6": "look wrong"} | {
        "936": "prompt tokens",
        "45": "tokens generated",
    }
    for words in ("Empty: 1 of 1", "Cut off: 4 of 4", "Repeats itself: 1 of 1", "Refuses: 1 of 1", "NOT_IMAGE"):
        assert words in found.text
    assert f"I cannot describe {HOSTILE}" in found.text
    assert "median 104, mean 104.0, most 108" in found.text
    assert "not trained" in found.text
    assert page.count("<polyline") == 3 and page.count('<div class="plot">') == 4
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    # 7 of faults, 9 of confidence; the broken one has none
    assert len(pictures) == 16 and page.count("no picture can be had") == 1
    assert page == _again(job, uri, totals, started)


def test_tokens_of_a_fragment_whose_rows_were_made_again_count_once(tmp_path: Path) -> None:
    class Fickle(EchoEngine):
        def generate(self, requests: Sequence[Request]) -> list[Result]:
            """Refuses number 4."""
            found = super().generate(requests)
            return [
                Result(request_id=one.request_id, error="CORRUPT") if len(one.token_ids) == 5 else one for one in found
            ]

    job = photos_job(tmp_path, Fickle)
    spec, place = job.spec, {"table_uri": job.spec.table_uri, "run_id": job.run_id}
    for again in rejected_works(job):
        rows = list(read_fragment(again.fragment, settings=spec.corpus))
        numbers = {row.uid: int(Path(row.uri).stem) for row in rows}
        made = generate_rows(rows, EchoEngine(numbers), FakeDecoder(), spec.settings, spec.inquiry, again)
        receipt = write_fragment(made, CAPTION, fragment_id=again.work_id, **place)
        expected = {again.work_id: len(again.only)}
        tables.amend(spec.table_uri, [receipt], run_id=job.run_id, expected=expected, schema=CAPTION)
    assert counts(spec.table_uri, job.run_id).ok == 9
    moments = collect_figures(spec, [work.work_id for work in job.works], "").moments
    width = 2 * moments[0].seconds
    # prompts of 100 to 108 tokens, replies of 1 to 9
    assert sum(one.prompt_tokens for one in moments) * width == pytest.approx(936)
    assert sum(one.new_tokens for one in moments) * width == pytest.approx(45)


def _again(job: InferenceJob, uri: str, totals: Any, started: str) -> str:
    write_run_report(uri, job.works, job.spec, totals, trained=False, started=started)
    return Path(uri).read_text()


def test_a_run_without_a_table_has_an_empty_report(tmp_path: Path, job: InferenceJob) -> None:
    spec = dataclasses.replace(job.spec, table_uri=str(tmp_path / "nothing"))
    assert collect_figures(spec, [], "") == RunFigures()
