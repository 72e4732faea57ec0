"""Every reason code that a row of any table may carry in `error`.

The union of the closed enums: `CorpusReason` is given by readers, `QuestionReason` by the binding of questions to
images, the others by `llava_core`.
"""

from enum import StrEnum

from llava_core.errors import ImageReason, PromptReason
from schemas.reasons import CorpusReason, QuestionReason

_KINDS: tuple[type[StrEnum], ...] = (CorpusReason, QuestionReason, ImageReason, PromptReason)

ROW_REASONS: frozenset[str] = frozenset(reason.value for kind in _KINDS for reason in kind)
"""What `error` may be; null where a row is fine."""
