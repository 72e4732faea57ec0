"""A run in a table that needed no model."""

from pathlib import Path

from pipelines import tables
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import CorpusSettings
from pipelines.inference.config import CaptionConfig
from pipelines.inference.job import InferenceJob, freeze
from pipelines.inference.rows import generate_rows
from pipelines.parts import write_fragment
from schemas.caption import CAPTION
from tests.pipelines.inference.fakes import EchoEngine, FakeDecoder, photo


def photos_job(folder: Path, engine: type[EchoEngine] = EchoEngine) -> InferenceJob:
    """A run in a table: 9 photos of at least 3 fragments, and a broken one."""
    photos = folder / "photos"
    photos.mkdir()
    for number in range(9):
        (photos / f"{number}.jpg").write_bytes(photo(40 + number, 90, seed=number))
    (photos / "-1.jpg").write_bytes(b"<i>bad</i> photo")
    corpus = CorpusSettings(rows_per_fragment=3)
    job = freeze(CaptionConfig(input=(str(photos),), output=str(folder / "out"), prompt="Why <b>?", corpus=corpus))
    assert len(job.works) >= 3
    commit(job, engine)
    return job


def commit(job: InferenceJob, engine: type[EchoEngine] = EchoEngine) -> None:
    """Caption a job's fragments with numbers in place of a model, and commit them."""
    receipts = []
    for work in job.works:
        rows = list(read_fragment(work.fragment, settings=job.spec.corpus))
        numbers = {row.uid: int(Path(row.uri).stem) for row in rows}
        name, uri = work.work_id, job.spec.table_uri
        table = generate_rows(rows, engine(numbers), FakeDecoder(), job.spec.settings, job.spec.inquiry, work)
        receipts.append(write_fragment(table, CAPTION, table_uri=uri, fragment_id=name, run_id=job.run_id))
    tables.commit(job.spec.table_uri, receipts, run_id=job.run_id, schema=CAPTION)
