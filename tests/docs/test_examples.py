"""Each example runs on small data, in this process; those that start Ray or take long are `slow`."""

from pathlib import Path

import pytest
from PIL import Image

from llava_core.checkpoints.untrained import write_untrained
from pipelines.synthetic.corpus import SyntheticConfig, make_corpus
from pipelines.synthetic.drawn import DrawnConfig, write_drawn
from tests.docs.pages import PAGES, ROOT, blocks
from tests.e2e.caption_cases import write_corpus
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server  # noqa: F401

Said = pytest.CaptureFixture[str]


def test_each_example_is_shown_by_a_page_and_run_here() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    shown = {Path(block.snippet).stem for page in PAGES for block in blocks(page) if block.snippet}
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert shown == names
    assert names <= tests


def test_bring_checkpoint(tmp_path: Path, capsys: Said) -> None:
    from examples.bring_checkpoint import main

    write_untrained(tmp_path / "model")
    Image.linear_gradient("L").resize((200, 120)).convert("RGB").save(tmp_path / "a.png")
    assert main(str(tmp_path / "model"), tmp_path / "a.png", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["own", "hf", "original"]
    assert len({line.split(":", 1)[1] for line in lines}) == 1


@pytest.mark.slow
@pytest.mark.ray
def test_ask_questions(tmp_path: Path, capsys: Said, ray_session: None) -> None:
    from examples.ask_questions import main

    folder = write_corpus(tmp_path / "photos", 3)
    assert main(str(folder), tmp_path / "out" / "answers", max_new_tokens=2) == 0
    said = capsys.readouterr().out
    for name in ("person", "where"):
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
        assert "'EMPTY': 1, 'NOT_IMAGE': 1, 'TRUNCATED': 1" in line
        assert sum(int(word.strip("},")) for word in line.split() if word.strip("},").isdigit()) == 6


@pytest.mark.slow
@pytest.mark.ray
def test_caption_s3(
    s3_bucket: S3Bucket,  # noqa: F811
    capsys: Said,
    ray_session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from examples.caption_s3 import main

    for name, value in s3_bucket.delta_options.items():
        monkeypatch.setenv(name, value)
    for path in (write_corpus(tmp_path / "photos", 3)).rglob("*.*"):
        s3_bucket.put(f"photos/{path.name}", path.read_bytes())
    assert main(f"{s3_bucket.uri}/photos", f"{s3_bucket.uri}/captions", max_new_tokens=2) == 0
    assert "rejected: {'EMPTY': 1, 'NOT_IMAGE': 1, 'TRUNCATED': 1}" in ordered(capsys.readouterr().out)


def ordered(said: str) -> str:
    """The last line, with the counts of its dictionary in the order of their names."""
    head, _, counts = said.splitlines()[-1].partition("{")
    return head + "{" + ", ".join(sorted(counts.rstrip("}").split(", "))) + "}"


@pytest.mark.slow
@pytest.mark.ray
def test_curate(tmp_path: Path, capsys: Said, ray_session: None) -> None:
    from examples.curate import main

    make_corpus(tmp_path, SyntheticConfig(rows=60, seed=4, planted=0.5, least_side=100, most_side=140))
    assert main(str(tmp_path / "corpus"), str(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    first, second = (line for line in said.splitlines() if line.startswith("kept "))
    assert "BLURRED" not in first and "BLURRED" in second
    assert said.count("probe: ") == 1, "the second run reads no image"


@pytest.mark.slow
@pytest.mark.ray
def test_decontaminate(tmp_path: Path, capsys: Said, ray_session: None) -> None:
    from examples.decontaminate import main

    truth = make_corpus(tmp_path, SyntheticConfig(rows=20, seed=11, planted=0, least_side=100, most_side=140))
    (tmp_path / "evaluation").mkdir()
    shown = tmp_path / "corpus" / truth[7].name
    Image.open(shown).convert("RGB").save(tmp_path / "evaluation" / "x.jpg", quality=80)
    assert main(str(tmp_path / "corpus"), str(tmp_path / "evaluation"), str(tmp_path / "out")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "1 of 20 rows show an evaluation image"
    assert said[-2].startswith(f"{shown}: near, ")


@pytest.mark.slow
@pytest.mark.ray
def test_train_three_stages(tmp_path: Path, capsys: Said, ray_session: None) -> None:
    from examples.train_three_stages import main

    write_untrained(tmp_path / "model")
    data = str(write_drawn(tmp_path / "drawn", 12, DrawnConfig(seed=3)))
    assert main(data, tmp_path / "out", str(tmp_path / "model"), limit_steps=2, batch_size=4) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said[-4:-1]] == [
        f"{one}: 2 steps" for one in ("align", "instruct", "highres")
    ]
    assert (tmp_path / "out/model/config.json").is_file()


@pytest.mark.slow
def test_resume_and_repair(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.resume_and_repair import main

    monkeypatch.chdir(ROOT)
    assert main(tmp_path / "photos", tmp_path / "captions") == 0
    said = capfd.readouterr().out
    assert "stopped with exit code 1; " in said
    assert "after the same command again: (48, 48, 1)" in said
    assert "after the file was mended: (48, 48, 0)" in said


@pytest.mark.slow
@pytest.mark.ray
def test_tune_throughput(tmp_path: Path, capsys: Said, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.tune_throughput import main

    monkeypatch.chdir(tmp_path)
    assert main(str(write_corpus(tmp_path / "photos", 4)), max_new_tokens=2, batch_sizes=(2,)) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["batch size 2", "fast", "high quality"]
    assert all("images/s " in line and "tokens/s " in line for line in said)
    assert not (tmp_path / "out").exists()
