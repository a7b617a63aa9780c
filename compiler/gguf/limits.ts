// Bounds on what a GGUF header may make us hold; each is beyond any published model.

/** A vocabulary of 260,000 with its merges and scores takes about 15 MB. */
export const MAX_HEADER_BYTES = 100_000_000
/** The richest model cards in the wild have a few hundred keys. */
export const MAX_KEYS = 4096
/** The largest public mixtures of experts have a few thousand. */
export const MAX_TENSORS = 65_536
/** Keys are at most this long by the specification; so is nothing that we look for. */
export const MAX_KEY_BYTES = 65_535
/** ggml itself keeps 64. */
export const MAX_NAME_BYTES = 256
/** A chat template of 1 MB would be the longest in the world by far. */
export const MAX_STRING_BYTES = 8_000_000
/** ggml's own. */
export const MAX_DIMS = 4
/** Larger alignments than a page are of no use to anybody. */
export const MAX_ALIGNMENT = 1 << 16
