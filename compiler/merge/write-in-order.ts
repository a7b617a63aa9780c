// Reads, computes and writes at the same time: several blocks in flight, each in a slot of its own, written in order.

/** One piece of a file: `fill` makes its bytes, which stay valid until they are written. */
export interface Block<Slot> {
  fill(slot: Slot): Promise<Uint8Array>
}

/**
 * Never holds more blocks than slots. Rejects with the first error once nothing is in flight any more, so that the
 * caller may free the slots and close the files.
 */
export async function writeInOrder<Slot>(
  blocks: AsyncIterable<Block<Slot>>,
  slots: readonly Slot[],
  write: (bytes: Uint8Array) => Promise<void>,
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
          const bytes = await filled
          await before
          if (failure === undefined) await write(bytes)
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
