"""What an engine says about one reply: the columns that `caption` and `answer` have in common, all null if rejected."""

import pyarrow as pa

GENERATED = (
    pa.field("finish_reason", pa.string()),
    pa.field("num_prompt_tokens", pa.int32()),
    pa.field("num_image_tokens", pa.int32()),
    pa.field("num_output_tokens", pa.int32()),
    pa.field("mean_logprob", pa.float32()),
    pa.field("min_logprob", pa.float32()),
    pa.field("max_tiles", pa.int32()),
    pa.field("grid_rows", pa.int32()),
    pa.field("grid_cols", pa.int32()),
    pa.field("image_height", pa.int32()),
    pa.field("image_width", pa.int32()),
)
"""`finish_reason`: "stop" or "length". Log probabilities: natural, of the generated tokens. `max_tiles`: the bound on
tiles of each image's grid that the resolution or the visual budget chose; null leaves it to the model. `grid_rows`,
`grid_cols`: tiles of the first image's grid, (0, 0) for a lone base tile. `image_height`, `image_width`: its pixels,
decoded and turned upright."""
