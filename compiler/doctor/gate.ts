// A promotion check: thresholds that a report must meet. What is not measured does not pass.
import { z } from 'zod'
import { inputError } from '../errors.ts'
import { describeIssues } from '../read-file.ts'
import type { Json } from '../strict-json.ts'
import type { AdapterReport, DoctorReport, PairReport } from './report.ts'

/** All of them optional; each bounds every adapter, or every pair of adapters. */
export const GateSchema = z.strictObject({
  schema: z.literal('sidepath.gate/1'),
  /** false: a rank that is too low, or may be, fails. */
  allowFlagged: z.boolean().optional(),
  /** Largest share of the modules of an adapter that may be at their limit. */
  maxShareAtLimit: z.number().min(0).max(1).optional(),
  /** Largest share of the parameters that the recommended ranks would spare. */
  maxSpareParameters: z.number().min(0).max(1).optional(),
  /** Intruder dimensions of an adapter, over all modules. */
  maxIntruders: z.int().min(0).optional(),
  /** On general text: mean KL(base ‖ adapter) in nats, and perplexity over that of the base. */
  maxForgettingKl: z.number().min(0).optional(),
  maxForgettingPerplexityRatio: z.number().positive().optional(),
  /** On text of the task: perplexity over that of the base. */
  maxTaskPerplexityRatio: z.number().positive().optional(),
  /** Means over the modules of a pair. */
  maxOverlap: z.number().min(0).max(1).optional(),
  maxSignConflict: z.number().min(0).max(1).optional(),
})
export type Gate = z.infer<typeof GateSchema>
type Threshold = Exclude<keyof Gate, 'schema'>

export interface GateResult {
  readonly threshold: Threshold
  /** An adapter, or `a + b`. */
  readonly subject: string
  readonly bound: number | boolean
  /** `null`: not measured, which does not pass. */
  readonly found: number | boolean | null
  readonly ok: boolean
}

/** Throws `InputError` (`config-invalid`). `name`: of the file, for the message. */
export function parseGate(json: Json, name: string): Gate {
  const parsed = GateSchema.safeParse(json)
  if (parsed.success) return parsed.data
  throw inputError('config-invalid', `${name}: no gate that docs/doctor.md describes: ${describeIssues(parsed.error)}`)
}

type Measure<T> = (subject: T) => number | boolean | undefined

const OF_ADAPTER: { readonly [key in Threshold]?: Measure<AdapterReport> } = {
  allowFlagged: ({ flagged }) => flagged,
  maxShareAtLimit: ({ modules }) =>
    modules.filter(({ verdict }) => verdict === 'at-limit' || verdict === 'too-low').length / modules.length,
  maxSpareParameters: ({ parameters, modules }) => spareParameters(modules) / parameters,
  maxIntruders: ({ intruders }) => intruders,
  maxForgettingKl: ({ forgetting }) => forgetting?.meanKl,
  maxForgettingPerplexityRatio: ({ forgetting }) => forgetting && forgetting.perplexity / forgetting.basePerplexity,
  maxTaskPerplexityRatio: ({ task }) => task && task.perplexity / task.basePerplexity,
}

const OF_PAIR: { readonly [key in Threshold]?: Measure<PairReport> } = {
  maxOverlap: ({ modules }) =>
    mean(modules.map(({ writeOverlap, readOverlap }) => Math.max(writeOverlap, readOverlap))),
  maxSignConflict: ({ modules }) => mean(modules.map(({ signConflict }) => signConflict)),
}

/** Every threshold of the gate against every subject that it bounds. */
export function applyGate(gate: Gate, { adapters, overlaps }: DoctorReport): GateResult[] {
  const thresholds = (Object.keys(gate) as (keyof Gate)[]).filter((key) => key !== 'schema')
  return thresholds.flatMap((threshold) => {
    const bound = gate[threshold]
    if (bound === undefined) return []
    const [ofAdapter, ofPair] = [OF_ADAPTER[threshold], OF_PAIR[threshold]]
    return [
      ...(ofAdapter ? adapters.map((adapter) => result(threshold, adapter.name, bound, ofAdapter(adapter))) : []),
      ...(ofPair ? overlaps.map((pair) => result(threshold, nameOf(pair), bound, ofPair(pair))) : []),
    ]
  })
}

function result(threshold: Threshold, subject: string, bound: number | boolean, found: number | boolean | undefined) {
  if (found === undefined) return { threshold, subject, bound, found: null, ok: false }
  const ok = typeof bound === 'boolean' ? bound || found === false : Number(found) <= bound
  return { threshold, subject, bound, found, ok }
}

function spareParameters(modules: AdapterReport['modules']): number {
  return modules.reduce((sum, module) => {
    return sum + Math.max(0, module.r - module.recommendedRank) * (module.in + module.out)
  }, 0)
}

function nameOf({ first, second }: PairReport): string {
  return `${first} + ${second}`
}

/** Of nothing 0: adapters that share no module do not overlap. */
function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length
}
