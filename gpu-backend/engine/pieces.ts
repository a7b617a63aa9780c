// The pieces of one generation on their way from the engine to whoever reads them.
import type { Piece } from './request.ts'

/** Holds at most `max_tokens` pieces, so a slow reader costs bounded memory. */
export class Pieces {
  readonly #waiting: Piece[] = []
  #error: { readonly reason: unknown } | undefined
  #wake: () => void = () => {}
  /** The engine has nothing more to say about it; otherwise it must be told when nobody listens any more. */
  finished = false

  push(piece: Piece): void {
    this.#waiting.push(piece)
    if (piece.finish !== undefined) this.finished = true
    this.#wake()
  }

  /** The engine ended it with an error. */
  refuse(error: Error): void {
    this.finished = true
    this.fail(error)
  }

  /** The reader gives up: reading throws at once. */
  fail(reason: unknown): void {
    this.#error ??= { reason }
    this.#wake()
  }

  async *read(): AsyncGenerator<Piece, void, undefined> {
    for (;;) {
      if (this.#error !== undefined && !this.finished) throw this.#error.reason
      const piece = this.#waiting.shift()
      if (piece !== undefined) {
        yield piece
        if (piece.finish !== undefined) return
      } else if (this.#error !== undefined) throw this.#error.reason
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
    }
  }
}
