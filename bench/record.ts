// One result file a benchmark: what was run, where, at which commit, and the raw figures behind each row.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'

export interface Row {
  /** What was measured, as the README says it. */
  readonly what: string
  /** The figure with its unit, as the README says it. */
  readonly value: string
  /** Every sample, in the unit of `value`, in the order taken. */
  readonly samples?: readonly number[]
  /** Where it is a line of a plot. */
  readonly line?: Line
}

export interface Line {
  /** Of the panel. */
  readonly title: string
  readonly name: string
  readonly points: readonly { readonly x: number; readonly y: number }[]
}

/** `name`: of the file; in `raw/` it is kept, and is not in the README. */
export function record(name: string, command: string, rows: readonly Row[]): void {
  const git = (...args: string[]) => execFileSync('git', args, { encoding: 'utf8' }).trim()
  const result = {
    command,
    machine: `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${cpus().length} cores, Node ${process.versions.node}`,
    commit: git('rev-parse', '--short', 'HEAD'),
    rows: rows.map((row) => ({
      ...row,
      ...(row.samples && {
        n: row.samples.length,
        median: quantile(row.samples, 0.5),
        p95: quantile(row.samples, 0.95),
      }),
    })),
  }
  const file = join(import.meta.dirname, 'results', `${name}.json`)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
  for (const { what, value } of rows) console.log(`${what}: ${value}`)
}

/** Nearest-rank quantile of raw samples. */
export function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN
}
