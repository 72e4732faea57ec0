"""What workers note reaches whoever asks, a sign of life without any row among it."""

from pipelines.stages import Attempts


def test_notes_are_counted_beside_the_rows_and_tokens_in_them() -> None:
    attempts = Attempts()
    assert attempts.noted() == (0, 0, 0)
    attempts.note(3, 70)
    attempts.note(0, 0)
    attempts.note(4, 0)
    assert attempts.noted() == (7, 70, 3)
