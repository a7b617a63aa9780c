// The adapters of one merge, read against its base: every problem of every one of them is told at once.
import type { AdapterChanges } from '../adapter/change.ts'
import { type AdapterInput, readChanges } from '../adapter/read-changes.ts'
import { Problems } from '../errors.ts'
import type { Base } from './open-base.ts'

/** Throws one `InputError`. */
export async function readAdaptersFor(base: Base, inputs: readonly AdapterInput[]): Promise<AdapterChanges[]> {
  const problems = new Problems()
  const adapters: AdapterChanges[] = []
  for (const input of inputs) {
    const changes = await problems.collect(() => readChanges(input, base.tensors))
    if (changes !== undefined) adapters.push(changes)
  }
  problems.throwIfAny()
  return adapters
}
