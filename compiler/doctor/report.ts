// What a diagnosis says, as JSON. Each figure: docs/doctor.md.
import { z } from 'zod'
import { EVIDENCE } from './evidence.ts'
import { VERDICTS } from './saturation.ts'

export const DOCTOR_SCHEMA = 'sidepath.doctor/1'

const Share = z.number().min(0).max(1)
const Count = z.int().min(0)
const Difference = z.strictObject({ value: z.number(), standardError: z.number() }).readonly()

export const IntrudersSchema = z.strictObject({
  k: Count,
  count: Count,
  values: z.array(z.number()).readonly(),
  cosines: z.array(z.number()).readonly(),
  residual: z.number(),
  /** ‖ΔW‖_F / ‖W0‖_F */
  relativeNorm: z.number(),
})

export const ModuleSchema = z.strictObject({
  module: z.string(),
  in: Count,
  out: Count,
  r: Count,
  scaling: z.number(),
  /** Singular values of s·B·A, descending. */
  values: z.array(z.number()).readonly(),
  tolerance: z.number(),
  rank: Count,
  norm: z.number(),
  stableRank: z.number(),
  effectiveRank: z.number(),
  energyAt: z.array(Share).readonly(),
  k90: Count,
  k99: Count,
  tail: z.number(),
  verdict: z.enum(VERDICTS),
  recommendedRank: Count,
  /** The verdict in words. */
  sentence: z.string(),
  intruders: IntrudersSchema.optional(),
})
export type ModuleReport = z.infer<typeof ModuleSchema>

export const LossSchema = z.strictObject({
  tokens: Count,
  baseLoss: z.number(),
  loss: z.number(),
  basePerplexity: z.number(),
  perplexity: z.number(),
  meanKl: z.number(),
  maxKl: z.number(),
})

export const ComparisonSchema = z.strictObject({
  against: z.string(),
  gain: Difference,
  share: z.number(),
  evidence: z.enum(EVIDENCE),
})

export const LadderSchema = z.strictObject({
  rungs: z.array(z.strictObject({ k: Count, loss: z.number(), lost: Difference })).readonly(),
  /** The smallest k of a rung whose loss is as good as the whole adapter's; its largest rank where none is. */
  sufficient: Count,
})

export const AdapterSchema = z.strictObject({
  name: z.string(),
  verdict: z.enum(VERDICTS),
  /** The verdict is `too-low` or `at-limit`. */
  flagged: z.boolean(),
  sentence: z.string(),
  /** Numbers in A and B, now and at the recommended ranks. */
  parameters: Count,
  recommendedParameters: Count,
  /** The recommended ranks as training takes them. */
  recommended: z.strictObject({
    r: Count,
    rank_pattern: z.record(z.string(), Count),
    leave_out: z.array(z.string()).readonly(),
  }),
  intruders: Count.optional(),
  modules: z.array(ModuleSchema),
  /** On general text. */
  forgetting: LossSchema.optional(),
  /** On text of the task. */
  task: LossSchema.optional(),
  /** Against an adapter of the same call with a larger rank. */
  comparison: ComparisonSchema.optional(),
  /** Loss on the task with the leading k directions only. */
  ladder: LadderSchema.optional(),
})
export type AdapterReport = z.infer<typeof AdapterSchema>

export const OverlapSchema = z.strictObject({
  module: z.string(),
  writeCosines: z.array(z.number()).readonly(),
  readCosines: z.array(z.number()).readonly(),
  writeOverlap: z.number(),
  readOverlap: z.number(),
  deltaCosine: z.number(),
  signConflict: Share,
  cancelled: z.number(),
  rows: Count,
})

export const PairSchema = z.strictObject({
  first: z.string(),
  second: z.string(),
  /** Of the modules that both change. */
  modules: z.array(OverlapSchema),
})
export type PairReport = z.infer<typeof PairSchema>

export const DoctorReportSchema = z.strictObject({
  schema: z.literal(DOCTOR_SCHEMA),
  base: z.string(),
  adapters: z.array(AdapterSchema),
  overlaps: z.array(PairSchema),
  notes: z.array(z.string()),
})
export type DoctorReport = z.infer<typeof DoctorReportSchema>
