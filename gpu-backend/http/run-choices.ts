// The rows of one request, side by side: their pieces as they come, and one end for all of them.
import type { EngineClient } from '../engine/client.ts'
import type { GenerateRequest, Piece } from '../engine/request.ts'

export interface Indexed {
  readonly index: number
  readonly piece: Piece
}

/** Ends when every row has; the first error, and leaving the loop, ends all. Throws what `generate` throws. */
export async function* runChoices(
  engine: EngineClient,
  requests: readonly GenerateRequest[],
  signal: AbortSignal,
): AsyncGenerator<Indexed, void, undefined> {
  const others = new AbortController()
  const both = AbortSignal.any([signal, others.signal])
  const rows = requests.map((request) => engine.generate(request, both))
  const next = (index: number) => rows[index]!.next().then((result) => ({ index, result }))
  // All are asked at once, so that they share their first step.
  const pending = new Map(rows.map((_, index) => [index, next(index)]))
  try {
    while (pending.size > 0) {
      const { index, result } = await Promise.race(pending.values())
      if (result.done) pending.delete(index)
      else {
        pending.set(index, next(index))
        yield { index, piece: result.value }
      }
    }
  } finally {
    others.abort()
    await Promise.allSettled(pending.values())
  }
}
