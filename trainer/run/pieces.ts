// How many pieces the targets of a run come in.

/** Logits of a piece: large enough for the matrix kernels, small beside the activations of a layer or two. */
const PIECE_BYTES = 32 * 1024 * 1024
/** Each is a copy of the head's nodes. */
const MAX_PIECES = 16

/** `targets`: the most of a run. */
export function piecesFor(vocabSize: number, targets: number): number {
  return Math.min(MAX_PIECES, Math.max(1, Math.ceil((4 * vocabSize * targets) / PIECE_BYTES)))
}
