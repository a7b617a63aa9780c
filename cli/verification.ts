// Runs a verification on this machine and says what it found: for `sidepath verify`, and for the verbs that verify what
// they made before it becomes visible.
import type { Comparison, Verification } from '../compiler/verify/findings.ts'
import type { Sources } from '../compiler/verify/sources.ts'
import { verify } from '../compiler/verify/verify.ts'
import { graphFolder, verifyHost } from './graph-folder.ts'
import { table } from './table.ts'

/**
 * Of the weights as float32. Running two forms of both graphs takes some five times that in memory, which a compile, that
 * streams, does not otherwise need.
 */
export const MAX_RUN_BYTES = 1024 ** 3

export interface VerificationInput {
  /** Folder of the artifact. */
  readonly artifact: string
  readonly sources?: Sources
  readonly seed?: number
  /** Run no graph, for this reason. */
  readonly filesOnly?: string
  /** Where temporary folders are made. */
  readonly scratch: string
}

export async function runVerification(input: VerificationInput, showProgress: boolean): Promise<Verification> {
  const { artifact, sources, seed, filesOnly, scratch } = input
  const line = statusLine(showProgress)
  try {
    return await verify(
      {
        artifact: graphFolder(artifact),
        ...(sources === undefined ? {} : { sources }),
        ...(seed === undefined ? {} : { seed }),
        ...(filesOnly === undefined ? {} : { filesOnly }),
      },
      verifyHost(scratch),
      (what) => line.show(`verify: ${what}`),
    )
  } finally {
    line.clear()
  }
}

export function describeVerification({ comparisons, effects, notes, problems, files }: Verification): string {
  const lines = [`${files} files hashed`]
  if (comparisons.length > 0) {
    lines.push(
      '',
      table(
        ['', 'form', 'against', 'on', 'max error', 'bound', 'mean error', 'max KL', 'bound', 'top-1', ''],
        comparisons.map((line) => [
          line.subject,
          line.form,
          line.against,
          line.graph,
          line.maxError.toExponential(2),
          line.maxErrorBound.toExponential(2),
          line.meanError.toExponential(2),
          line.maxKl.toExponential(2),
          line.maxKlBound.toExponential(2),
          percent(line.top1),
          line.ok ? 'ok' : 'EXCEEDED',
        ]),
      ),
    )
  }
  if (effects.length > 0) {
    lines.push(
      '',
      table(
        ['against the base', 'max difference', 'mean difference', 'max KL', 'top-1', 'effect'],
        effects.map((line) => [
          line.subject,
          line.maxError.toPrecision(3),
          line.meanError.toPrecision(3),
          line.maxKl.toPrecision(3),
          percent(line.top1),
          line.effect,
        ]),
      ),
    )
  }
  if (notes.length > 0) lines.push('', ...notes.map((note) => `note: ${note}`))
  if (problems.length > 0) lines.push('', ...problems.map((problem) => `FAILED: ${problem}`))
  return lines.join('\n')
}

/** One line for a summary. */
export function summariseVerification({ comparisons, files, notes }: Verification): string {
  if (comparisons.length === 0) return `verified: ${files} files hashed; ${notes.join('; ')}`
  const share = (line: Comparison) => line.maxError / line.maxErrorBound
  const worst = comparisons.reduce((most, line) => Math.max(most, share(line)), 0)
  return `verified: ${comparisons.length} comparisons, the largest error at ${percent(worst)} of its bound`
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`

/** A line on stderr that the next one replaces, where stderr is a terminal. */
function statusLine(enabled: boolean): { show(text: string): void; clear(): void } {
  if (!enabled || !process.stderr.isTTY) return { show: () => {}, clear: () => {} }
  const CLEAR_LINE = '\r\u001b[2K'
  return {
    show: (text) => process.stderr.write(`${CLEAR_LINE}${text}`),
    clear: () => process.stderr.write(CLEAR_LINE),
  }
}
