// Pieces made ahead of whoever takes them: several at a time, each in a slot of its own, given out in order.

/** Makes one piece in the slot that it is given. */
export type Fill<Slot, Piece> = (slot: Slot) => Promise<Piece>

/**
 * A piece is the caller's until the next one is asked for; then its slot is filled anew. Ends, by an error too, only once
 * nothing is being filled.
 */
export async function* inFlight<Slot, Piece>(
  fills: Iterable<Fill<Slot, Piece>>,
  slots: readonly Slot[],
): AsyncGenerator<Piece, void, undefined> {
  const flying: Promise<Piece>[] = []
  let turn = 0
  try {
    for (const fill of fills) {
      const oldest = flying.length === slots.length ? flying.shift() : undefined
      if (oldest !== undefined) yield await oldest
      const filling = fill(slots[turn % slots.length] as Slot)
      // A failure is told when its turn comes.
      filling.catch(() => {})
      flying.push(filling)
      turn += 1
    }
    for (let next = flying.shift(); next !== undefined; next = flying.shift()) yield await next
  } finally {
    await Promise.allSettled(flying)
  }
}
