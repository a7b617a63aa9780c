// Inputs for a graph that nobody described to us: by the names that exporters of decoders use, else by type and dimensions.
// Drawn from a seed, so that a run can be repeated.
import { inputError, quote } from '../errors.ts'
import { allGraphs, findTensor, type SurgeryModel } from '../onnx/read-graph.ts'
import type { OnnxValue } from '../onnx/summary.ts'
import { toHalf } from '../quantise/half.ts'
import type { Site } from './linear.ts'
import type { ProbeFeeds, ProbeTensor } from './probe-session.ts'

export interface Drawn {
  readonly feeds: ProbeFeeds
  readonly batch: number
  readonly tokens: number
  readonly past: number
}

/** Rows, tokens and tokens before: a prefill, and a decode step on a cache. */
const SHAPES = [
  { batch: 2, tokens: 5, past: 0 },
  { batch: 2, tokens: 1, past: 3 },
] as const
type Shape = Readonly<Record<'batch' | 'tokens' | 'past', number>>

/** Elements of all inputs; fixed dimensions are the file's and may be anything. Caches of large decoders stay below. */
const MAX_ELEMENTS = 1 << 22
/** Ids where nothing says how many rows there are to look up. */
const FEW_IDS = 2
/** Size of a dimension whose name says nothing. */
const SOME = 3

const IDS = /(^|_)input_ids$/
const MASK = /attention_mask$/
const POSITIONS = /position_ids$|^cache_position$/
const PAST = /past/
const ZEROS = /token_type_ids$/

/** Throws `InputError` where an input is of a kind that cannot be drawn. */
export function drawInputs(model: SurgeryModel, sites: readonly Site[], seed: number): Drawn[] {
  const inputs = model.summary.graph.inputs.filter(({ name }) => !model.graph.initializers.has(name))
  for (const { name, type, shape } of inputs) {
    if (shape !== undefined && ['float32', 'float16', 'int64', 'int32', 'bool'].includes(type)) continue
    throw unprobed(model.file, `the input ${quote(name)} is ${type}${shape === undefined ? ' of no stated rank' : ''}`)
  }
  const drawn = SHAPES.map((wanted) => draw(model, inputs, fixed(inputs, wanted), headSize(model, sites), seed))
  // Without a cache and without free dimensions both are the same.
  const keys = drawn.map(({ feeds }) => JSON.stringify(Object.values(feeds).map(({ dims }) => dims)))
  return drawn.filter((_, at) => keys.indexOf(keys[at] as string) === at)
}

export function unprobed(file: string, why: string) {
  return inputError(
    'onnx-unprobed',
    `${file}: ${why}, so no inputs can be made up to run it with; --no-verify writes the result unchecked`,
  )
}

/** What the file fixes goes before what is wanted. */
function fixed(inputs: readonly OnnxValue[], wanted: Shape): Shape {
  const dim = (is: RegExp, at: number) => {
    const found = inputs.find(({ name, shape }) => is.test(name) && typeof shape?.[at] === 'number')?.shape?.[at]
    return typeof found === 'number' ? found : undefined
  }
  // ONNX Runtime for Node takes halves only where there are none: a cache in halves stays empty.
  const caches = inputs.filter(({ name }) => PAST.test(name))
  return {
    batch: dim(IDS, 0) ?? wanted.batch,
    tokens: dim(IDS, 1) ?? wanted.tokens,
    past: dim(PAST, 2) ?? (caches.length === 0 || caches.some(({ type }) => type === 'float16') ? 0 : wanted.past),
  }
}

function draw(
  model: SurgeryModel,
  inputs: readonly OnnxValue[],
  shape: Shape,
  headDim: number | undefined,
  seed: number,
): Drawn {
  const symbols = symbolsOf(inputs, shape, headDim)
  const random = generator(seed)
  const rows = rowsLookedUp(model)
  let left = MAX_ELEMENTS
  const feeds = Object.fromEntries(
    inputs.map((input) => {
      const dims = (input.shape ?? []).map((dim, at) =>
        typeof dim === 'number' ? dim : (symbols.get(dim ?? '') ?? sizeOf(dim, at, shape)),
      )
      const count = dims.reduce((product, size) => product * size, 1)
      if (!(count <= left)) {
        throw unprobed(model.file, `the inputs up to ${quote(input.name)} have more than ${MAX_ELEMENTS} elements`)
      }
      left -= count
      return [input.name, tensor(input, dims, valuesOf(input, dims, count, shape, rows, random))]
    }),
  )
  return { feeds, ...shape }
}

/** Of a cache whose last dimension has a name only: what the output linear takes, over the heads of the attention operator. */
function headSize({ graph }: SurgeryModel, sites: readonly Site[]): number | undefined {
  const nodes = allGraphs(graph).flatMap((inner) => inner.nodes)
  const heads = nodes.find(({ ints }) => (ints.get('num_heads') ?? 0) > 0)?.ints.get('num_heads')
  const width = sites.find(({ module }) => /\.o(ut)?_proj$/.test(module))?.in
  return heads === undefined || width === undefined || width % heads !== 0 ? undefined : width / heads
}

/** What the dimensions of the known inputs are called. */
function symbolsOf(
  inputs: readonly OnnxValue[],
  { batch, tokens, past }: Shape,
  headDim: number | undefined,
): Map<string, number> {
  const symbols = new Map<string, number>()
  const bind = (shape: OnnxValue['shape'], sizes: readonly (number | undefined)[]) => {
    for (const [at, size] of sizes.entries()) {
      const dim = shape?.[at]
      if (typeof dim === 'string' && size !== undefined && !symbols.has(dim)) symbols.set(dim, size)
    }
  }
  for (const { name, shape } of inputs) if (IDS.test(name)) bind(shape, [batch, tokens])
  for (const { name, shape } of inputs) {
    if (PAST.test(name) && shape?.length === 4) bind(shape, [batch, undefined, past, headDim])
    else if (MASK.test(name) && shape?.length === 2) bind(shape, [batch, past + tokens])
  }
  return symbols
}

function sizeOf(dim: string | null | undefined, at: number, { batch, tokens, past }: Shape): number {
  const name = dim ?? ''
  if (/batch/i.test(name) || (name === '' && at === 0)) return batch
  if (/total|\+/i.test(name)) return past + tokens
  if (/past|cache/i.test(name)) return past
  if (/seq|len|token/i.test(name)) return tokens
  return at === 0 ? batch : SOME
}

/** Of the table that the ids look up. */
function rowsLookedUp({ graph }: SurgeryModel): number {
  for (const inner of allGraphs(graph)) {
    for (const { op, inputs } of inner.nodes) {
      if (!op.startsWith('Gather') || !IDS.test(inputs[1] ?? '')) continue
      const rows = findTensor(inner, inputs[0] ?? '')?.dims[0]
      if (rows !== undefined) return rows
    }
  }
  return FEW_IDS
}

function valuesOf(
  { name, type }: OnnxValue,
  dims: readonly number[],
  count: number,
  { tokens, past }: Shape,
  rows: number,
  random: () => number,
): number[] {
  const each = (value: (index: number) => number) => Array.from({ length: count }, (_, index) => value(index))
  if (type.startsWith('float')) {
    // A mask in floats is added to the scores.
    return MASK.test(name) ? each(() => 0) : each(() => random() * 2 - 1)
  }
  if (IDS.test(name)) return each(() => Math.floor(random() * rows))
  if (MASK.test(name)) return each(() => 1)
  if (POSITIONS.test(name)) return each((index) => past + (index % (dims.at(-1) ?? 1)))
  if (ZEROS.test(name)) return each(() => 0)
  // One flag of a graph with both branches: whether there is a cache.
  if (type === 'bool' && count === 1) return [past > 0 && tokens > 0 ? 1 : 0]
  return type === 'bool' ? each(() => 1) : each((index) => (index + 1) % 2)
}

function tensor({ type }: OnnxValue, dims: readonly number[], values: readonly number[]): ProbeTensor {
  if (type === 'float32') return { type, dims, data: Float32Array.from(values) }
  if (type === 'float16') return { type, dims, data: Uint16Array.from(values, toHalf) }
  if (type === 'int64') return { type, dims, data: BigInt64Array.from(values, BigInt) }
  if (type === 'int32') return { type, dims, data: Int32Array.from(values) }
  return { type: 'bool', dims, data: Uint8Array.from(values) }
}

/** Uniform in [0, 1), of 32 bits: a linear congruence whose upper bits are mixed. */
function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    const mixed = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) >>> 0
    return ((mixed ^ (mixed >>> 13)) >>> 0) / 2 ** 32
  }
}
