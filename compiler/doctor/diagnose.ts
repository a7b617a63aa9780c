// Adapters + base → what is to be said of their ranks, directions and overlaps. Without running the model.
import type { Change } from '../adapter/change.ts'
import { transpose } from '../adapter/low-rank.ts'
import type { AdapterInput } from '../adapter/read-changes.ts'
import { openWeights } from '../adapter/weights-file.ts'
import { inputError, quote } from '../errors.ts'
import type { Base } from '../merge/open-base.ts'
import { readAdaptersFor } from '../merge/read-adapters.ts'
import { type FloatDtype, isFloatDtype } from '../safetensors/dtypes.ts'
import { type FloatTensorSource, isFloatTensor, readFloats } from '../safetensors/stream.ts'
import { figuresOf } from './figures.ts'
import { intrudersOf } from './intruders.ts'
import { overlapOf } from './overlap.ts'
import { recommend } from './recommend.ts'
import { type AdapterReport, DOCTOR_SCHEMA, type DoctorReport, type ModuleReport, type PairReport } from './report.ts'
import { isFlagged, judge, judgeAdapter } from './saturation.ts'
import { describeAdapter, describeModule } from './sentences.ts'
import { type StoredModule, spectrumOf } from './spectrum.ts'

export interface ReadAdapter {
  readonly name: string
  /** By the base's module path, in code point order. */
  readonly modules: ReadonlyMap<string, AdapterModule>
  /** Nothing but A and B of linears. */
  readonly isWhole: boolean
  readonly notes: readonly string[]
}

export interface AdapterModule extends StoredModule {
  /** W is stored [in, out]. */
  readonly transposed: boolean
}

export interface DiagnoseOptions {
  /** Leading directions of W0 + ΔW to look at; none without. */
  readonly intruders?: number
  readonly onModule?: (done: number, total: number) => void
}

/** A weight that is decoded whole for intruders: 1 GiB as float32, above any linear of a layer. */
const MAX_WEIGHT_ELEMENTS = 2 ** 28
/** More directions than this are no longer leading, and cost the square of their number. */
export const MAX_INTRUDERS = 64

/** Throws one `InputError` with every problem of every adapter. */
export async function readForDiagnosis(base: Base, inputs: readonly AdapterInput[]): Promise<ReadAdapter[]> {
  if (inputs.length === 0) throw inputError('adapter-name', 'no adapters are given; the doctor needs at least one')
  const seen = new Set<string>()
  for (const { name } of inputs) {
    if (seen.has(name)) throw inputError('adapter-name', `adapter ${quote(name)} is given twice; write name=folder`)
    seen.add(name)
  }
  const adapters: ReadAdapter[] = []
  for (const [place, { name, changes }] of (await readAdaptersFor(base, inputs)).entries()) {
    const { folder } = inputs[place] as AdapterInput
    const { tensors } = await openWeights(folder, `adapter ${quote(name)}`)
    const modules = new Map<string, AdapterModule>()
    for (const change of changes) {
      if (change.kind !== 'low-rank') continue
      const dtypes = dtypesOf(change, (tensor) => tensors.get(tensor)?.dtype)
      modules.set(change.tensor.replace(/\.weight$/, ''), { ...change, dtypes })
    }
    if (modules.size === 0) {
      throw inputError('adapter-format', `adapter ${quote(name)} has no lora_A and lora_B; there is no rank to look at`)
    }
    adapters.push({ name, modules, isWhole: changes.every(isPlain), notes: notesOn(name, changes) })
  }
  return adapters
}

/** The sources of a low-rank change are A, then B. */
function dtypesOf({ sources }: Change, dtypeOf: (tensor: string) => string | undefined): StoredModule['dtypes'] {
  const [A, B] = sources.map((source) => floatDtype(dtypeOf(source)))
  return { A: A ?? 'F32', B: B ?? 'F32' }
}

function floatDtype(dtype: string | undefined): FloatDtype | undefined {
  return dtype !== undefined && isFloatDtype(dtype as FloatDtype) ? (dtype as FloatDtype) : undefined
}

/** PEFT names the factors of an embedding by themselves. */
function isPlain(change: Change): boolean {
  const isEmbedding = change.sources.some((source) => source.includes('lora_embedding_'))
  return change.kind === 'low-rank' && change.magnitude === undefined && !isEmbedding
}

function notesOn(name: string, changes: readonly Change[]): string[] {
  const others = changes.filter(({ kind }) => kind !== 'low-rank').length
  const isDora = changes.some((change) => change.kind === 'low-rank' && change.magnitude !== undefined)
  return [
    ...(others === 0 ? [] : [`${name} also changes ${others} tensors that have no rank (saved whole, biases, rows)`]),
    ...(isDora ? [`${name} is DoRA: the figures are of s·B·A, before each row is scaled to its magnitude`] : []),
  ]
}

/** One module at a time: memory is that of the adapters' factors, and of one weight of the base for intruders. */
export async function diagnose(
  base: Base,
  adapters: readonly ReadAdapter[],
  { intruders, onModule = () => {} }: DiagnoseOptions = {},
): Promise<DoctorReport> {
  if (intruders !== undefined && !(Number.isSafeInteger(intruders) && intruders >= 1 && intruders <= MAX_INTRUDERS)) {
    throw inputError(
      'adapter-option',
      `intruders among ${intruders} directions; give a number from 1 to ${MAX_INTRUDERS}`,
    )
  }
  const notes = adapters.flatMap((adapter) => adapter.notes)
  const total = adapters.reduce((sum, { modules }) => sum + modules.size, 0)
  let done = 0
  const reports: AdapterReport[] = []
  for (const { name, modules } of adapters) {
    const ofModules: ModuleReport[] = []
    for (const [path, module] of modules) {
      const found = intruders === undefined ? undefined : await findIntruders(base, path, module, intruders, notes)
      ofModules.push({ ...diagnoseModule(path, module), ...(found && { intruders: found }) })
      done += 1
      onModule(done, total)
    }
    reports.push(summarise(name, ofModules))
  }
  return { schema: DOCTOR_SCHEMA, base: base.name, adapters: reports, overlaps: overlapsOf(adapters), notes }
}

export function diagnoseModule(path: string, module: StoredModule): ModuleReport {
  const { r, out, scaling } = module
  const { values, tolerance } = spectrumOf(module)
  const figures = figuresOf(values, tolerance, r)
  const judged = judge(figures, r, Math.min(module.in, out))
  const report = { module: path, in: module.in, out, r, scaling, values, tolerance, ...figures, ...judged }
  return { ...report, sentence: describeModule(report) }
}

/** What runs of the model say, beside what the spectra do; a comparison of ranks decides where the spectra cannot. */
export function withMeasured(
  report: AdapterReport,
  measured: Pick<AdapterReport, 'forgetting' | 'task' | 'comparison' | 'ladder'>,
): AdapterReport {
  const { comparison, ladder } = measured
  const known = { evidence: comparison?.evidence, ...(ladder && { sufficient: ladder.sufficient }) }
  const modules = report.modules.map((module) => {
    const judged = { ...module, ...judge(module, module.r, Math.min(module.in, module.out), known) }
    return { ...judged, sentence: describeModule(judged) }
  })
  return { ...summarise(report.name, modules, measured), ...measured }
}

function summarise(
  name: string,
  modules: ModuleReport[],
  measured: Pick<AdapterReport, 'comparison' | 'ladder'> = {},
): AdapterReport {
  const verdict = judgeAdapter(
    modules.map((module) => module.verdict),
    measured.comparison?.evidence,
  )
  const count = (rank: (module: ModuleReport) => number) =>
    modules.reduce((sum, module) => sum + rank(module) * (module.in + module.out), 0)
  const found = modules.flatMap(({ intruders }) => intruders?.count ?? [])
  return {
    name,
    verdict,
    flagged: isFlagged(verdict),
    sentence: describeAdapter(verdict, modules, measured),
    parameters: count(({ r }) => r),
    recommendedParameters: count(({ recommendedRank }) => recommendedRank),
    recommended: recommend(modules),
    ...(found.length === 0 ? {} : { intruders: found.reduce((sum, n) => sum + n, 0) }),
    modules,
  }
}

async function findIntruders(
  base: Base,
  path: string,
  module: AdapterModule,
  k: number,
  notes: string[],
): Promise<ModuleReport['intruders']> {
  const stored = base.tensors.get(`${path}.weight`)
  // The reader has matched the module to a float tensor of the base.
  if (stored === undefined || !isFloatTensor(stored)) throw new Error(`sidepath bug: ${path} has no weight`)
  if (module.in * module.out > MAX_WEIGHT_ELEMENTS) {
    notes.push(`${path}: ${module.out} × ${module.in} is more than ${MAX_WEIGHT_ELEMENTS} numbers; no intruders sought`)
    return undefined
  }
  const W = await readWeight(stored, module)
  const found = intrudersOf(W, module, k)
  let sum = 0
  for (const value of W) sum += value * value
  if (!Number.isFinite(sum)) {
    throw inputError('tensor-not-finite', `${base.name}: ${quote(stored.name)} holds NaN or infinity; it is broken`)
  }
  const norm = Math.hypot(...spectrumOf(module).values)
  return { ...found, relativeNorm: norm / Math.sqrt(sum) }
}

async function readWeight(stored: FloatTensorSource, { in: columns, out, transposed }: AdapterModule) {
  const values = await readFloats(stored)
  return transposed ? transpose(values, columns, out) : values
}

function overlapsOf(adapters: readonly ReadAdapter[]): PairReport[] {
  return adapters.flatMap((first, place) =>
    adapters.slice(place + 1).map((second) => ({
      first: first.name,
      second: second.name,
      modules: [...first.modules].flatMap(([path, module]) => {
        const other = second.modules.get(path)
        return other === undefined ? [] : [{ module: path, ...overlapOf(measured(module), measured(other)) }]
      }),
    })),
  )
}

function measured(module: AdapterModule) {
  const spectrum = spectrumOf(module)
  return { module, spectrum, rank: figuresOf(spectrum.values, spectrum.tolerance, module.r).rank }
}
