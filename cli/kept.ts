// What became of the blocks of a GGUF, in a line for each way that a weight was taken.
import type { KeptWeight } from '../compiler/quantise/carry-plan.ts'
import { table } from './table.ts'

const WHY: Readonly<Record<NonNullable<KeptWeight['why']>, string>> = {
  asked: '--keep names it',
  merged: 'an adapter is merged into it',
  float: 'it is a float in the file',
  format: 'the format has no form without loss',
}

export function summariseKept(kept: ReadonlyMap<string, KeptWeight>): string {
  const rows = new Map<string, string[]>()
  for (const [module, { format, storage, carrier, why }] of kept) {
    const how = carrier ? `carried over as ${storage}, exact` : `${storage}: ${why === undefined ? '' : WHY[why]}`
    const key = `${format}\0${how}`
    rows.set(key, [...(rows.get(key) ?? []), module])
  }
  const lines = [...rows].map(([key, modules]) => {
    const [first = '', ...others] = modules
    return [...key.split('\0'), String(modules.length), others.length === 0 ? first : `${first}, …`]
  })
  return table(['in the GGUF', 'in the artifact', 'weights', ''], lines)
}
