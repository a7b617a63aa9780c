// The adapters of rank-task.py, and what numpy says of them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { diagnose, type ReadAdapter, readForDiagnosis } from '../../compiler/doctor/diagnose.ts'
import { type Base, openBase } from '../../compiler/merge/open-base.ts'
import { openFolder } from '../../runtime/disk.ts'

export const ORACLE = join(import.meta.dirname, 'oracle')
export const TINY = join(import.meta.dirname, '../parity/oracle/tiny/base')
export const DEMO = join(import.meta.dirname, '../../examples/demo')
export const RANKS = [1, 2, 4, 8, 16]

export interface SpectrumFigures {
  readonly values: number[]
  readonly stableRank: number
  readonly effectiveRank: number
  readonly energyAt: number[]
  readonly k90: number
  readonly k99: number
  readonly tail: number
}

export interface Oracle {
  readonly spectra: Record<string, Record<string, SpectrumFigures>>
  readonly intruders: Record<
    string,
    Record<string, { values: number[]; cosines: number[]; count: number; relativeNorm: number }>
  >
  readonly overlaps: Record<string, Record<string, Record<string, number | number[]>>>
  readonly truncated: Record<string, { k: number; errors: Record<string, number> }>
  readonly losses: Record<string, { tokens: number; baseLoss: number; loss: number; meanKl: number; maxKl: number }>
}

export const oracle: Oracle = JSON.parse(readFileSync(join(ORACLE, 'numpy.json'), 'utf8'))

/** `folders`: below the oracle's; the name is the path with a dash. */
export async function withAdapters<T>(
  folders: readonly string[],
  use: (base: Base, adapters: ReadAdapter[]) => Promise<T>,
  [at, below] = [TINY, ORACLE],
): Promise<T> {
  const base = await openBase(openFolder(at))
  try {
    const inputs = folders.map((path) => ({ name: nameOf(path), folder: openFolder(join(below, path)) }))
    return await use(base, await readForDiagnosis(base, inputs))
  } finally {
    await base.close()
  }
}

export const nameOf = (path: string) => path.replace('/', '-')

/** The base of a task of rank-task.py. */
export const baseOf = (task: string) => (task === 'demo' ? join(DEMO, 'base') : TINY)

export function diagnosed(folders: readonly string[], intruders?: number) {
  const base = baseOf(folders[0]?.split('/')[0] ?? '')
  const options = intruders === undefined ? {} : { intruders }
  return withAdapters(folders, (opened, adapters) => diagnose(opened, adapters, options), [base, ORACLE])
}
