// Reads, computes and writes at the same time: several blocks in flight, each in a slot of its own, written in order.

/** One piece of a file: `fill` makes it, and it stays valid until it is written. */
export interface Block<Slot, Piece> {
  fill(slot: Slot): Promise<Piece>
}

/**
 * Never holds more blocks than slots. Rejects with the first error once nothing is in flight any more, so that the
 * caller may free the slots and close the files.
 */
export async function writeInOrder<Slot, Piece>(
  blocks: AsyncIterable<Block<Slot, Piece>>,
  slots: readonly Slot[],
  write: (piece: Piece) => Promise<void>,
): Promise<void> {
  const free = slots.map((): Promise<void> => Promise.resolve())
  let written = Promise.resolve()
  let failure: { readonly error: unknown } | undefined
  const failed = (error: unknown) => {
    failure ??= { error }
  }
  let turn = 0
  try {
    for await (const block of blocks) {
      const place = turn++ % slots.length
      await free[place]
      if (failure !== undefined) break
      const filled = block.fill(slots[place] as Slot)
      const before = written
      written = (async () => {
        try {
          const piece = await filled
          await before
          if (failure === undefined) await write(piece)
        } catch (error) {
          failed(error)
          await before
        }
      })()
      free[place] = written
    }
  } catch (error) {
    failed(error)
  }
  await written
  if (failure !== undefined) throw failure.error
}
