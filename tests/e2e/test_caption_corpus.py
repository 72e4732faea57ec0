"""The main job from a folder to a table, in this process, on the shared Ray."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import polars
import pytest
import ray
from deltalake import DeltaTable

from pipelines.corpus_settings import CorpusSettings
from pipelines.inference import stage
from pipelines.inference.config import CaptionConfig
from pipelines.inference.flow import run_job
from pipelines.inference.job import InferenceJob, freeze
from pipelines.inference.stage import MAX_ATTEMPTS, InferenceStage
from pipelines.stages import Attempts, WorkerError
from tests.e2e.caption_cases import BAD, caption_config, check_table, corpus_files, use_engine, write_corpus
from tests.pipelines.hostile import hostile
from tests.pipelines.inference.fakes import photo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def run(config: CaptionConfig) -> list[str]:
    """Run the job and return what it said."""
    said: list[str] = []
    run_job(config, said.append)
    return said


def test_a_corpus_becomes_a_table_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    folder, output = write_corpus(tmp_path / "photos"), tmp_path / "out"
    config = caption_config(folder, output)
    assert len(freeze(config).works) >= 6
    said = run(config)
    table = check_table(str(output), str(folder), list(corpus_files()))
    rows = table.to_pyarrow_table().to_pylist()
    one = next(row for row in rows if row["uri"].endswith("b/c/35.png"))
    assert (one["image_height"], one["image_width"]) == (20 + 3 * 35, 90 - 2 * 35)
    assert (one["prompt"], one["model"], one["fragment_id"] != "") == (config.prompt, "tiny", True)
    assert "NOT TRAINED" in said[0] or freeze(config).trained
    assert "rows in      40\nok           37\nrejected      3" in said[-1]
    assert (output / "run_report.html").read_text().count("<polyline") == 3
    for place in (
        str(output),
        f"file://{output}/gallery.html",
        f"file://{output}/run_report.html",
        "DeltaTable(",
        "pl.read_delta(",
    ):
        assert place in said[-1]
    assert (output / "gallery.html").read_text().count("<figure>") == 37
    (record,) = (output / "_run").glob("*.json")
    found = json.loads(record.read_text())
    assert (found["status"], found["rows_in"]) == ("complete", 40)
    assert found["counts"] == {"EMPTY": 1, "NOT_IMAGE": 1, "TRUNCATED": 1, "ok": 37}

    before = sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*"))
    again = run(config)
    assert "nothing was missing" in again[-1]
    assert "rows in      40" in again[-1]
    assert sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*")) == before
    assert DeltaTable(output).version() == table.version()


def test_changed_files_replace_their_rows_and_other_settings_are_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(monkeypatch)
    folder, output = write_corpus(tmp_path / "photos", 12), tmp_path / "out"
    config = caption_config(folder, output)
    run(config)
    (folder / "06.jpg").write_bytes(photo(111, 33))
    (folder / "a" / "01.jpg").unlink()
    (folder / "b" / "new.jpg").write_bytes(photo(44, 22))
    said = run(config)
    assert "were taken out" in said[-2]
    # their neighbours, in the same fragments, are not captioned again
    assert said[1].startswith("15 rows, 2 of them to do")
    names = [name for name in corpus_files(12) if name != "a/01.jpg"] + ["b/new.jpg"]
    table = check_table(str(output), str(folder), names)
    changed = next(row for row in table.to_pyarrow_table().to_pylist() if row["uri"].endswith("/06.jpg"))
    assert (changed["image_height"], changed["image_width"]) == (111, 33)

    other = caption_config(folder, output, prompt="Why?", limit=5)
    run(other)
    runs = polars.read_delta(str(output)).group_by("run_id").len().sort("len")["len"].to_list()
    assert runs == [5, len(names)]
    said = run(caption_config(folder, output, overwrite=True))
    assert "--overwrite" in said[-2]
    check_table(str(output), str(folder), names)
    version = DeltaTable(output).version()
    assert "nothing was missing" in run(caption_config(folder, output, overwrite=True))[-1]
    assert DeltaTable(output).version() == version


def test_a_plan_says_what_it_would_take_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(monkeypatch)
    folder, output = write_corpus(tmp_path / "photos"), tmp_path / "out"
    said = run(caption_config(folder, output, plan=True))
    lines = dict(line.split(maxsplit=1) for line in said[-1].splitlines())
    assert 0 < float(lines["images/s"]) < float(lines["tokens/s"])
    assert "40 in" in said[-1]
    assert "40 rows still to do" in said[-1]
    assert "time for all" in said[-1]
    assert not output.exists()


def test_a_worker_that_is_killed_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(monkeypatch, "deliberate")
    folder, output = write_corpus(tmp_path / "photos"), tmp_path / "out"
    killed: list[int] = []

    def kill_one() -> None:
        """SIGKILL a worker's process as soon as it has written a first part."""
        until = time.monotonic() + 200
        while time.monotonic() < until and not killed:
            if any(output.glob("status=*/part-*.parquet")):
                for pid in _workers()[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one)
    thread.start()
    run(caption_config(folder, output, num_workers=2))
    thread.join()
    assert len(killed) == 1
    check_table(str(output), str(folder), list(corpus_files()))


def _workers() -> list[int]:
    """Processes that hold an engine: children of the raylet that is a child of this process."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if _read(path).startswith("ray::MapWorker") and _parent(_parent(int(path.parent.name))) == os.getpid()
    ]


def _parent(pid: int) -> int:
    after_name = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(after_name[1]) if after_name else 0


def _read(path: Path) -> str:
    """A file of /proc; empty if its process has just ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_fragment_that_keeps_killing_its_workers_is_rejected_whole(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "photos", 3)
    job = freeze(caption_config(folder, tmp_path / "out", corpus=CorpusSettings()))
    counter = ray.remote(Attempts).options(num_cpus=0).remote()
    (work,) = job.works
    for _ in range(MAX_ATTEMPTS):
        ray.get(counter.begin.remote(work.work_id))
    spec = replace(job.spec, engine_factory="tests.pipelines.inference.poison:engine")
    held = InferenceStage(spec, 1, "cpu", counter)
    answer = held({"work": json.dumps(work.to_json())})
    held.close()
    ray.kill(counter)
    assert answer["broken"] == ""
    assert json.loads(answer["receipt"])["rejected"] == {"DECODER_CRASH": 6}


def test_a_file_that_changes_under_the_job_stops_it_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(monkeypatch)
    folder, output = write_corpus(tmp_path / "photos", 3), tmp_path / "out"
    sending = stage.stream_inferred

    def change_then_send(*args: object) -> object:
        (folder / "00.png").write_bytes(photo(70, 71))
        return sending(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("pipelines.inference.flow.stream_inferred", change_then_send)
    with pytest.raises(WorkerError, match=r"InputChanged: .*00\.png changed since the plan was made"):
        run(caption_config(folder, output))


def test_images_that_end_their_decoder_are_rejected_and_their_neighbours_captioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = write_corpus(tmp_path / "photos", 12), tmp_path / "out"
    poison = {"crash": "DECODER_CRASH", "spin": "TIMEOUT", "swell": "MEMORY"}
    for what in poison:
        (folder / f"0{what}.jpg").write_bytes(hostile(photo(50, 40), what))

    def freeze_hostile(config: CaptionConfig) -> InferenceJob:
        job = freeze(config)
        box = replace(job.spec.sandbox, decoder="tests.pipelines.hostile:decode")
        engine = "tests.pipelines.inference.poison:engine"
        return replace(job, spec=replace(job.spec, sandbox=box, engine_factory=engine))

    monkeypatch.setattr("pipelines.inference.flow.freeze", freeze_hostile)
    said = run(caption_config(folder, output, decoder_seconds=0.5, decoder_bytes=2**30))
    rows = DeltaTable(output).to_pyarrow_table().to_pylist()
    found = {Path(row["uri"]).name: row["error"] for row in rows if row["error"]}
    assert found == {f"0{what}.jpg": reason for what, reason in poison.items()} | {
        Path(name).name: reason for name, (_, reason) in BAD.items()
    }
    assert [line.split()[-1] for line in said[-1].splitlines()[:3]] == ["18", "12", "6"]
