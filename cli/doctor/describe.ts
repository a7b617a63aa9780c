// A diagnosis for the terminal.
import type { GateResult } from '../../compiler/doctor/gate.ts'
import type { AdapterReport, DoctorReport, PairReport } from '../../compiler/doctor/report.ts'
import { table } from '../table.ts'

/** Modules that are listed: those that stand out. `--json` and `--html` have all of them. */
const LISTED_MODULES = 12
/** Modules, or their names, that a line has room for. */
const LISTED_KEYS = 8
/** What stands out comes first. */
const ORDER = ['too-low', 'at-limit', 'unused', 'spare', 'fits']

export function describeReport({ adapters, overlaps, notes }: DoctorReport, gate: readonly GateResult[]): string {
  const parts = [
    ...adapters.map(describeAdapter),
    ...(adapters.some(({ task, forgetting }) => task ?? forgetting) ? [describeLosses(adapters)] : []),
    ...(overlaps.length > 0 ? [describeOverlaps(overlaps)] : []),
    ...(notes.length > 0 ? [notes.map((note) => `note: ${printable(note)}`).join('\n')] : []),
    ...(gate.length > 0 ? [describeGate(gate)] : []),
  ]
  return parts.join('\n\n')
}

function describeAdapter({
  name,
  verdict,
  sentence,
  modules,
  parameters,
  recommendedParameters,
  recommended,
  intruders,
}: AdapterReport) {
  const sorted = [...modules].sort((a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict) || b.tail - a.tail)
  const listed = sorted.slice(0, LISTED_MODULES)
  const rows = listed.map((module) => [
    printable(module.module),
    String(module.r),
    String(module.rank),
    module.stableRank.toFixed(2),
    module.effectiveRank.toFixed(2),
    `${module.k90}/${module.k99}`,
    module.tail.toFixed(2),
    ...(intruders === undefined ? [] : [module.intruders === undefined ? '–' : String(module.intruders.count)]),
    module.verdict,
    String(module.recommendedRank),
  ])
  const head = ['module', 'r', 'rank', 'stable', 'effective', 'k 90/99 %', 'tail', 'verdict', 'try r']
  if (intruders !== undefined) head.splice(7, 0, 'intruders')
  const rest = modules.length - listed.length
  return [
    `${name}: ${verdict}`,
    printable(sentence),
    `${parameters} parameters, ${recommendedParameters} at the recommended ranks`,
    ...(modules.every(({ r, recommendedRank }) => r === recommendedRank) ? [] : [describeRetraining(recommended)]),
    ...(intruders === undefined ? [] : [`${intruders} intruder dimensions`]),
    '',
    table(head, rows),
    ...(rest > 0 ? [`… and ${rest} more modules, in --json and --html`] : []),
  ].join('\n')
}

/** As the options of `sidepath train`, where they fit on a line. */
function describeRetraining({ r, rank_pattern: pattern, leave_out: unused }: AdapterReport['recommended']): string {
  const keys = Object.entries(pattern)
  if (keys.length + unused.length > LISTED_KEYS) return `those: recommended.rank_pattern in --json`
  const options = [`--r ${r}`, ...keys.map(([key, rank]) => `--rank-pattern ${printable(key)}=${rank}`)].join(' ')
  return `to train at those: ${options}${unused.length === 0 ? '' : `, without ${unused.map(printable).join(', ')}`}`
}

function describeLosses(adapters: readonly AdapterReport[]): string {
  const rows = adapters.flatMap(({ name, task, forgetting }) =>
    [['task', task] as const, ['general', forgetting] as const].flatMap(([text, found]) =>
      found === undefined
        ? []
        : [
            [
              name,
              text,
              String(found.tokens),
              found.basePerplexity.toFixed(3),
              found.perplexity.toFixed(3),
              found.meanKl.toFixed(4),
              found.maxKl.toFixed(3),
            ],
          ],
    ),
  )
  const losses = table(['adapter', 'text', 'tokens', 'base ppl', 'adapter ppl', 'mean KL', 'max KL'], rows)
  const ladders = adapters.flatMap(({ name, ladder, task }) =>
    ladder === undefined
      ? []
      : [
          [
            name,
            ...ladder.rungs.map(({ k, loss }) => `${k}: ${loss.toFixed(4)}`),
            `all: ${task?.loss.toFixed(4) ?? '–'}`,
          ].join('  '),
        ],
  )
  return [losses, ...(ladders.length > 0 ? ['', 'loss on the task with the first k directions', ...ladders] : [])].join(
    '\n',
  )
}

function describeOverlaps(overlaps: readonly PairReport[]): string {
  const rows = overlaps.map(({ first, second, modules }) => [
    `${first} + ${second}`,
    String(modules.length),
    ...(modules.length === 0
      ? ['–', '–', '–', '–', '–']
      : [
          percent(mean(modules.map(({ writeOverlap }) => writeOverlap))),
          percent(mean(modules.map(({ readOverlap }) => readOverlap))),
          mean(modules.map(({ deltaCosine }) => deltaCosine)).toFixed(3),
          percent(mean(modules.map(({ signConflict }) => signConflict))),
          percent(mean(modules.map(({ cancelled }) => cancelled))),
        ]),
  ])
  return table(['pair', 'modules', 'write overlap', 'read overlap', 'cosine', 'sign conflict', 'cancelled'], rows)
}

function describeGate(gate: readonly GateResult[]): string {
  return gate
    .map(({ threshold, subject, bound, found, ok }) => {
      const value =
        found === null ? 'not measured' : String(typeof found === 'number' ? Number(found.toPrecision(6)) : found)
      return `${ok ? 'ok    ' : 'FAILED'} ${threshold} ${String(bound)}: ${subject} ${value}`
    })
    .join('\n')
}

/** Names come from files of strangers: a terminal must not obey them. */
function printable(text: string): string {
  return text.replace(/\p{C}/gu, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`)
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}
