// Runs what surgery made beside the original: without an adapter it must give the same, bit for bit; with one, what the
// original gives with the whole delta beside each linear (dense-form.ts), within what the types and sizes leave room for.
//
//   error ≤ (M + E) · ( 32·u·(√N + √L) + 4·(h·√5L + 2⁻⁸·√L₈ + e·√L) )        per output of the graph
//
// M is the largest |value| of the output, E the most that the adapter moves it. u: unit roundoff of float32, in which sums
// are taken and weights merged; N: twice the lengths of the sums of all linears, as the rest of a layer is no longer; L:
// linears; h: unit roundoff of float16 or bfloat16, where values are rounded to those between operators; L₈: linears whose
// operator may round activations to 8 bits; e: the largest rounding of a merge into codes. 32 and 4 are the factors of
// verify/bounds.ts, with its reasons.
import type { WeightedAdapter } from '../adapter/read-all.ts'
import { type AdapterEntry, graphNames, type Linear, type Manifest } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import { groupDeltas } from '../group-deltas.ts'
import type { Folder, OutFolder } from '../host.ts'
import { mixAdapters } from '../mix-adapters.ts'
import { applyEdits } from '../onnx/edit.ts'
import type { SurgeryModel } from '../onnx/read-graph.ts'
import { type CompiledAdapter, type CompiledModule, readAdapter } from '../read-adapter.ts'
import { withFile } from '../read-file.ts'
import { halfTable } from '../safetensors/decode.ts'
import { CHUNK_BYTES } from '../safetensors/stream.ts'
import { stackOf } from '../verify/side-path.ts'
import { compareOutputs, exactly, type Outputs, rowsOf } from './compare-outputs.ts'
import { denseForm } from './dense-form.ts'
import { type Drawn, drawInputs, unprobed } from './draw-inputs.ts'
import type { Site } from './linear.ts'
import type { ProbeFeeds, ProbeFolder, ProbeHost, ProbeResult, ProbeSession } from './probe-session.ts'

const SEED = 1
const AMPLIFICATION = 32
const ROUNDING_AMPLIFICATION = 4
const ACTIVATION_ROUNDOFF = 2 ** -8
const SHORT_ROUNDOFF: Readonly<Record<string, number>> = { float16: 2 ** -11, bfloat16: 2 ** -8 }
/** Results that are rounded for each linear: its own, the path's sum, a norm, an activation or a product, a residual. */
const VALUES_A_LINEAR = 5
const FLOAT32_ROUNDOFF = 2 ** -24

/** One form against another on one file, over all probes. */
export type SurgeryCheck = {
  readonly file: string
  /** `base`, an adapter, or several with their weights. */
  readonly subject: string
  readonly form: string
  readonly against: 'original' | 'original + dense delta'
  /** That comes nearest to its bound, or furthest beyond it. */
  readonly output: string
  readonly maxError: number
  /** 0 where nothing may differ. */
  readonly bound: number
  /** M + E of that output. */
  readonly magnitude: number
  /** The most that the subject moves any output. */
  readonly effect: number
  readonly ok: boolean
}

export type SurgeryVerification = {
  readonly seed: number
  /** Of each probe. */
  readonly probes: readonly { readonly batch: number; readonly tokens: number; readonly past: number }[]
  readonly checks: readonly SurgeryCheck[]
  readonly notes: readonly string[]
}

export interface Operated {
  readonly target: Manifest['target']
  readonly digest: string
  /** The linears that have a path, or were merged into. */
  readonly linears: readonly Linear[]
  readonly targeted: readonly { readonly model: SurgeryModel; readonly sites: readonly Site[] }[]
  /** All linears of each file, changed or not. */
  readonly found: readonly (readonly Site[])[]
  readonly adapters: readonly WeightedAdapter[]
  readonly entries: readonly AdapterEntry[]
  /** Data files of the original. */
  readonly locations: readonly string[]
  /** The largest relative error of a merge into codes; 0 where there was none. */
  readonly rounding: number
}

interface Subject {
  readonly name: string
  readonly adapters: readonly WeightedAdapter[]
  /** As the written files have them; `undefined` where they are in the weights. */
  readonly modules: ReadonlyMap<string, CompiledModule> | undefined
}

/** Throws `InputError` where a graph cannot be run on inputs that we make up, and where a bound is exceeded. */
export async function verifySurgery(operated: Operated, host: ProbeHost): Promise<SurgeryVerification> {
  const subjects = await subjectsOf(operated, host.made.folder)
  const checks: SurgeryCheck[] = []
  const notes: string[] = []
  const probes = new Map<string, Omit<Drawn, 'feeds'>>()
  for (const [index, { model, sites }] of operated.targeted.entries()) {
    const all = operated.found[index] ?? []
    const drawn = drawInputs(model, all, SEED)
    for (const { batch, tokens, past } of drawn) probes.set(`${batch} ${tokens} ${past}`, { batch, tokens, past })
    const run: FileRun = { operated, host, model, sites, all, drawn }
    const base = await runOriginal(run)
    checks.push(...(await checkFile(run, base, subjects, notes)))
  }
  const problems = checks.flatMap(problemOf)
  if (problems.length > 0) throw inputError('onnx-unsupported', problems.join('\n'))
  return { seed: SEED, probes: [...probes.values()], checks, notes }
}

interface FileRun {
  readonly operated: Operated
  readonly host: ProbeHost
  readonly model: SurgeryModel
  readonly sites: readonly Site[]
  readonly all: readonly Site[]
  readonly drawn: readonly Drawn[]
}

async function runOriginal({ host, model, drawn }: FileRun): Promise<Outputs[]> {
  const { file } = model
  let outputs: Outputs[]
  try {
    outputs = await runAll(
      host.original,
      file,
      drawn.map(({ feeds }) => feeds),
    )
  } catch (error) {
    throw unprobed(file, `the original does not run on made-up inputs (${firstLine(error)})`)
  }
  const finite = outputs.every((one) =>
    [...one.values()].every(({ values }) => values.every((value) => !Number.isNaN(value))),
  )
  if (!finite) throw unprobed(file, 'the original gives NaN on made-up inputs')
  return outputs
}

async function checkFile(
  run: FileRun,
  base: readonly Outputs[],
  subjects: readonly Subject[],
  notes: string[],
): Promise<SurgeryCheck[]> {
  const { operated, host, model, drawn } = run
  const { target, linears } = operated
  const { file } = model
  const checks: SurgeryCheck[] = []
  const made = await host.made.openGraph(file)
  try {
    for (const [index, subject] of subjects.entries()) {
      const { name, modules } = subject
      const feedsOf = ({ feeds, batch }: Drawn, slots?: readonly number[]): ProbeFeeds =>
        modules === undefined ? feeds : { ...feeds, ...sideFeeds(target, linears, modules, batch, slots) }
      if (index === 0 && modules !== undefined) {
        const plain: Outputs[] = []
        for (const one of drawn) {
          const side = sideFeeds(target, linears, target === 'routed' ? modules : new Map(), one.batch)
          plain.push(await outputsOf(made, { ...one.feeds, ...side }))
        }
        checks.push({ file, subject: 'base', form: target, against: 'original', ...exactly(plain, base) })
      }
      const dense = await runDense(run, subject)
      const own: Outputs[] = []
      for (const one of drawn) own.push(await outputsOf(made, feedsOf(one, slotsOf(one.batch, ADAPTER_SLOT))))
      const bound = roomOf(run, subject)
      const tally = compareOutputs(own, dense, base, bound)
      checks.push({ file, subject: name, form: target, against: 'original + dense delta', ...tally })
      if (tally.effect <= tally.bound) {
        notes.push(
          `${file}: ${quote(name)} moves no output by more than ${tally.effect.toPrecision(3)}, within the bound of ` +
            `${tally.bound.toPrecision(3)}; the comparison says little`,
        )
      }
      if (target === 'routed') checks.push(...(await checkMixed({ run, made, subject, base, dense, bound })))
    }
  } finally {
    await made.release()
  }
  return checks
}

const ADAPTER_SLOT = 2

const slotsOf = (batch: number, slot: number) => Array.from({ length: batch }, () => slot)

interface Mixed {
  readonly run: FileRun
  readonly made: ProbeSession
  readonly subject: Subject
  readonly base: readonly Outputs[]
  readonly dense: readonly Outputs[]
  readonly bound: number
}

/** Row 0 as the base, the others with the adapter: one batch, each row by its own slot. */
async function checkMixed({ run, made, subject, base, dense, bound }: Mixed): Promise<SurgeryCheck[]> {
  const { operated, model, drawn } = run
  const own: Outputs[] = []
  const wanted: Outputs[] = []
  const before: Outputs[] = []
  for (const [at, one] of drawn.entries()) {
    const [plain, tuned] = [base[at] as Outputs, dense[at] as Outputs]
    if (one.batch < 2) continue
    const slots = slotsOf(one.batch, ADAPTER_SLOT).with(0, 0)
    const side = sideFeeds('routed', operated.linears, subject.modules ?? new Map(), one.batch, slots)
    own.push(rowsOf(await outputsOf(made, { ...one.feeds, ...side }), one.batch))
    wanted.push(rowsOf(plain, one.batch, rowsOf(tuned, one.batch)))
    before.push(rowsOf(plain, one.batch))
  }
  if (own.every((outputs) => outputs.size === 0)) return []
  const found = compareOutputs(own, wanted, before, bound)
  const names = { file: model.file, subject: `base | ${subject.name}`, form: 'routed, a row each' }
  return [{ ...names, against: 'original + dense delta', ...found }]
}

/** Slot 0 zeros, slot 1 NaN, slot 2 the adapter: what reads a slot that no row has shows. */
function sideFeeds(
  target: Manifest['target'],
  linears: readonly Linear[],
  modules: ReadonlyMap<string, CompiledModule>,
  batch: number,
  slots: readonly number[] = slotsOf(batch, 0),
): ProbeFeeds {
  const feeds: Record<string, ProbeFeeds[string]> = {}
  const float = (data: Float32Array, ...dims: number[]) => ({ type: 'float32', data, dims }) as const
  if (target === 'stacked') {
    const { feeds: pairs } = stackOf({ stack: [...linears] }, modules)
    for (const [name, { data, dims }] of Object.entries(pairs)) feeds[name] = float(data as Float32Array, ...dims)
    return feeds
  }
  const rank = Math.max(1, ...[...modules.values()].map(({ r }) => r))
  for (const { module, in: inSize, out } of linears) {
    const A = new Float32Array(3 * inSize * rank).fill(Number.NaN, inSize * rank, 2 * inSize * rank)
    const B = new Float32Array(3 * rank * out).fill(Number.NaN, rank * out, 2 * rank * out)
    const found = modules.get(module)
    if (found !== undefined) {
      for (let i = 0; i < inSize; i += 1) {
        A.set(found.A.subarray(i * found.r, (i + 1) * found.r), (ADAPTER_SLOT * inSize + i) * rank)
      }
      B.set(found.B, ADAPTER_SLOT * rank * out)
    }
    feeds[graphNames.bankA(module)] = float(A, 3, inSize, rank)
    feeds[graphNames.bankB(module)] = float(B, 3, rank, out)
  }
  feeds[graphNames.adapterSlots] = { type: 'int64', data: BigInt64Array.from(slots, BigInt), dims: [slots.length] }
  return feeds
}

/** Each adapter, and all of them where they work together. */
async function subjectsOf({ target, adapters, entries, linears, digest }: Operated, made: Folder): Promise<Subject[]> {
  const named = (some: readonly WeightedAdapter[]) =>
    some.map(({ name, weight }) => (weight === 1 ? name : `${name}*${weight}`)).join(' + ')
  if (target === 'merged') return [{ name: named(adapters), adapters, modules: undefined }]
  const lists = target === 'stacked' ? { bank: [], stack: [...linears] } : { bank: [...linears] }
  const read: CompiledAdapter[] = []
  for (const { file = '' } of entries) {
    const adapter = await withFile(made, file, (source) => readAdapter(source, { ...lists, base: { digest } }))
    if (adapter === undefined) throw inputError('file-missing', `${made.name}: there is no ${quote(file)}`)
    read.push(adapter)
  }
  const single = adapters.map((adapter): Subject => {
    const modules = read.find(({ name }) => name === adapter.name)?.modules
    return { name: named([adapter]), adapters: [adapter], modules }
  })
  if (target === 'routed' || adapters.length === 1) return single
  return [...single, { name: named(adapters), adapters, modules: mixAdapters(read) }]
}

async function runDense({ operated, host, model, sites, drawn }: FileRun, { adapters }: Subject): Promise<Outputs[]> {
  const scratch = await host.scratch()
  try {
    for (const location of operated.locations) await copyFile(host.original.folder, location, scratch.out)
    const taken = new Set(operated.locations)
    let location = 'sidepath-dense.bin'
    while (taken.has(location)) location = `_${location}`
    const data = await scratch.out.create(location)
    const edits = await denseForm(sites, groupDeltas(adapters), data, location)
    await data.close()
    const graph = await scratch.out.create('sidepath-dense.onnx')
    await graph.write(applyEdits(model.bytes, model.file, edits))
    await graph.close()
    return await runAll(
      scratch,
      'sidepath-dense.onnx',
      drawn.map(({ feeds }) => feeds),
    )
  } finally {
    await scratch.discard()
  }
}

async function copyFile(from: Folder, path: string, to: OutFolder): Promise<void> {
  await withFile(from, path, async (source) => {
    const copy = await to.create(path)
    for (let at = 0; at < source.size; at += CHUNK_BYTES) {
      await copy.write(await source.read(at, Math.min(CHUNK_BYTES, source.size - at)))
    }
    await copy.close()
  })
}

async function runAll(folder: ProbeFolder, file: string, feeds: readonly ProbeFeeds[]): Promise<Outputs[]> {
  const session = await folder.openGraph(file)
  try {
    const outputs: Outputs[] = []
    for (const one of feeds) outputs.push(await outputsOf(session, one))
    return outputs
  } finally {
    await session.release()
  }
}

async function outputsOf(session: ProbeSession, feeds: ProbeFeeds): Promise<Outputs> {
  const results = await session.run(feeds)
  return new Map(Object.entries(results).map(([name, { data, dims }]) => [name, { values: numbersOf(data), dims }]))
}

/** Bits of halves, where the platform has no array of them, are widened. */
function numbersOf(data: ProbeResult['data']): Float64Array {
  if (!(data instanceof Uint16Array)) return Float64Array.from(data, Number)
  const halves = halfTable()
  return Float64Array.from(data, (bits) => halves[bits] as number)
}

/** The factor of M + E. */
function roomOf({ operated, all, sites }: FileRun, { adapters }: Subject): number {
  const nodes = [...new Map(all.map((site) => [site.node, site])).values()]
  const rank = Math.max(...adapters.flatMap(({ modules }) => modules.map(({ r }) => r)))
  const sums = 2 * nodes.reduce((total, site) => total + site.in + rank, 0)
  const unit = Math.max(0, ...sites.map(({ type }) => SHORT_ROUNDOFF[type] ?? 0))
  const rounds = nodes.filter(({ codec }) => {
    if (codec?.op === 'DequantizeLinear') return true
    return codec?.op === 'MatMulNBits' && (codec.ints.get('bits') === 8 || codec.ints.get('accuracy_level') === 4)
  })
  const floats = FLOAT32_ROUNDOFF * (Math.sqrt(sums) + Math.sqrt(nodes.length))
  const values = unit * Math.sqrt(VALUES_A_LINEAR * nodes.length)
  const codes = ACTIVATION_ROUNDOFF * Math.sqrt(rounds.length) + operated.rounding * Math.sqrt(nodes.length)
  return AMPLIFICATION * floats + ROUNDING_AMPLIFICATION * (values + codes)
}

function problemOf({ file, subject, form, against, output, maxError, bound, effect, ok }: SurgeryCheck): string[] {
  const about = `${file}: ${quote(subject)}, ${form}`
  if (!ok) {
    const most = bound === 0 ? 'nothing may differ' : `the bound is ${bound.toPrecision(3)}`
    return [
      `${about} differs from the ${against} by ${maxError.toPrecision(3)} on the output ${quote(output)}; ${most}`,
    ]
  }
  if (against === 'original' || effect > 0) return []
  return [`${about}: its outputs are the base's, bit for bit; the adapter does nothing, as before its training`]
}

const firstLine = (error: unknown) =>
  String(error instanceof Error ? error.message : error)
    .split('\n', 1)[0]
    ?.slice(0, 200)
