"""Whole selections by name: each recipe returns a config, which a caller changes with `dataclasses.replace`.

A recipe that asks for a score which a corpus lacks (CLIP score, NSFW) passes the rows without it: `rules.missing`.
"""

from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig


def permissive() -> SelectConfig:
    """Everything that can be decoded and is nobody's copy: thresholds only against images that show nothing.

    >>> permissive().rules.min_side
    32
    """
    return SelectConfig(rules=RulesConfig(min_side=32, max_aspect=20, min_entropy=0.5))


def datacomp_basic() -> SelectConfig:
    """DataComp's "basic filtering": English captions of more than two words and five characters, shorter side at
    least 200, aspect at most 3.

    Deviation: Latin script stands for English, because no language model is shipped.

    Source: DataComp (arXiv 2304.14108) section 3 and appendix; `baselines/apply_filter.py` of mlfoundations/datacomp.

    >>> datacomp_basic().rules.min_text_words
    3
    """
    rules = RulesConfig(min_side=200, max_aspect=3, min_text_chars=6, min_text_words=3, scripts=("Latin",))
    return SelectConfig(rules=rules)


def llava_highres() -> SelectConfig:
    """For LLaVA-NeXT's high-resolution stage: images with detail for more than one tile, sharp, with honest captions.

    336 is the side of a tile: an image whose shorter side is below it has nothing that the base tile does not show.

    >>> llava_highres().rules.min_side
    336
    """
    rules = RulesConfig(
        min_side=336,
        max_aspect=6,
        min_blur=60,
        min_entropy=3,
        max_border=0.5,
        min_text_chars=5,
        max_text_repetition=0.5,
        max_url_share=0.3,
        min_clip_score=0.2,
        max_nsfw=0.5,
        max_watermark=0.8,
    )
    return SelectConfig(rules=rules)
