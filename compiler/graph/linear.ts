// The product with a weight, by the operator that reads the weight as it is stored; the one place that knows storage.
import { assert } from '../errors.ts'
import { MICROSOFT } from '../onnx/encode.ts'
import type { ExternalTensor, Graph, Node } from '../onnx/model.ts'
import { quantisedNames } from '../quantise/place.ts'
import type { GraphBuilder } from './builder.ts'

type Quantised = NonNullable<ExternalTensor['quantised']>

/** TensorProto.DataType.FLOAT */
const FLOAT = 1
const NF4 = 1
/**
 * What the activations are rounded to within the operator: 1 leaves them in fp32, 4 makes int8 of them, block by block.
 * Measured on ONNX Runtime 1.30, one core, 1536 × 576: 4 bits cost 0.08 ms a row in fp32, as a float weight does; 8 bits
 * cost 1.4 ms, for that kernel unpacks the whole weight each time, but 0.04 ms with int8.
 */
const ACCURACY_LEVEL = { float: 1, int8: 4 } as const

/** Name of the node that multiplies by a linear's weight: what passes look for. */
export const linearNode = (module: string) => `${module}.MatMul`
/** The name of a linear's weight in the graph, [in, out]: transposed as compared with the checkpoint. */
export const linearWeight = (module: string) => `${module}.MatMul.weight`

/** The operators that multiply by a weight; x is the first input of each. */
const LINEAR_OPERATORS: ReadonlySet<string> = new Set(['MatMul', 'MatMulNBits', 'MatMulBnb4'])
const centredNode = (node: string) => `${node}.centred`

/** x of the node `linear`, whose only output is x·Wᵀ. */
export function linearInput({ nodes }: Graph, linear: Node): string {
  // An affine weight's node adds two products, of which the centred one has x as it is.
  const isSum = linear.op === 'Add' || linear.op === 'Gemm'
  const product = isSum ? nodes.find(({ name }) => name === centredNode(linear.name)) : linear
  const x = product?.inputs[0]
  assert(product !== undefined && LINEAR_OPERATORS.has(product.op) && x !== undefined, `${linear.name} is no linear`)
  return x
}

/** What a linear's x is like: `kept`, a zero, as Reshape has it, for each axis of x before the last. */
export interface LinearShape {
  readonly kept: readonly 0[]
}

/** x [.., in] → x·Wᵀ [.., out], and + b where the linear has a bias. */
export function writeLinear(
  builder: GraphBuilder,
  module: string,
  x: string,
  { kept }: LinearShape,
  hasBias = false,
): string {
  const product = writeProduct(builder, [linearWeight(module)], linearNode(module), x, kept)
  return hasBias ? builder.node('Add', `${module}.biased`, [product, builder.weight(`${module}.bias`)]) : product
}

/**
 * Beyond this many bytes of several weights together, one product takes so long that what joining them spares is nothing
 * beside it, and the joined weight would be there twice while the graph is loaded.
 */
const MAX_JOINED_BYTES = 8 * 1024 * 1024

/** Linears that read one value, as one: what their names are called by then. */
export const joinedModule = ([first = '', ...others]: readonly string[]): string =>
  [first, ...others.map((module) => module.slice(module.lastIndexOf('.') + 1))].join('.')

/** Whether the weights of these linears are stored alike, so that one product can read them side by side. */
export function canJoin(builder: GraphBuilder, modules: readonly string[]): boolean {
  const forms = modules.map((module) => storedForm(builder, linearWeight(module)))
  const bytes = forms.reduce((sum, form) => sum + form.bytes, 0)
  return modules.length > 1 && new Set(forms.map(({ key }) => key)).size === 1 && bytes <= MAX_JOINED_BYTES
}

/** As `writeLinear`, of several that `canJoin`: [.., out₀ + out₁ + …]. Weights and biases are joined when the graph is loaded. */
export function writeJoined(
  builder: GraphBuilder,
  modules: readonly string[],
  x: string,
  { kept }: LinearShape,
  hasBias = false,
): string {
  const joined = joinedModule(modules)
  const product = writeProduct(builder, modules.map(linearWeight), linearNode(joined), x, kept)
  if (!hasBias) return product
  const biases = modules.map((module) => builder.weight(`${module}.bias`))
  return builder.node('Add', `${joined}.biased`, [product, concat(builder, `${joined}.bias`, biases, 0)])
}

function writeProduct(
  builder: GraphBuilder,
  weights: readonly string[],
  node: string,
  x: string,
  kept: readonly 0[],
): string {
  const quantised = writeQuantised(builder, weights, node, x, kept)
  if (quantised !== undefined) return quantised
  const matrices = weights.map((weight) => builder.weight(weight))
  return builder.node('MatMul', node, [x, concat(builder, `${node}.weights`, matrices, 1)])
}

function concat(builder: GraphBuilder, name: string, parts: readonly string[], axis: number): string {
  const [only = ''] = parts
  return parts.length === 1 ? only : builder.node('Concat', name, parts, { axis })
}

/** `key`: equal for weights that one operator can read side by side. */
function storedForm(builder: GraphBuilder, weight: string): { readonly key: string; readonly bytes: number } {
  const names = quantisedNames(weight)
  for (const name of [names.half, names.nf4, names.int4, names.int8, weight]) {
    const stored = builder.find(name)
    if (stored === undefined) continue
    const { block, rounds, centre, in: inSize } = stored.quantised ?? {}
    const beside = [names.scales, names.offsets, names.zeroPoints].map((part) => builder.find(part)?.type ?? 'float32')
    const has = [names.offsets, names.zeroPoints].map((part) => builder.find(part) !== undefined)
    const kind = name.slice(weight.length)
    return { key: JSON.stringify([kind, block, rounds, centre, inSize, beside, has]), bytes: stored.bytes }
  }
  assert(false, `there is no weight ${weight}`)
}

/** Logits [n, vocabulary] of [n, hidden]. */
export function writeHead(builder: GraphBuilder, weight: string, x: string): string {
  const quantised = writeQuantised(builder, [weight], 'lm_head.MatMul', x, [0])
  return quantised ?? builder.node('Gemm', 'lm_head.Gemm', [x, builder.weight(weight)], { transB: 1 })
}

/** Rows of the embedding, float32, for each id. */
export function writeEmbedding(builder: GraphBuilder, weight: string, ids: string): string {
  const names = quantisedNames(weight)
  if (builder.find(names.half) !== undefined) {
    const rows = builder.node('Gather', 'embed.halves', [builder.weight(names.half), ids], { axis: 0 })
    return builder.node('Cast', 'embed', [rows], { to: FLOAT })
  }
  const codes = builder.find(names.rows)?.quantised
  if (codes === undefined) return builder.node('Gather', 'embed', [builder.weight(weight), ids], { axis: 0 })
  const inputs = [builder.weight(names.rows), ids, writeScales(builder, weight), ...zeroPoints(builder, weight)]
  const attributes = { bits: 8, block_size: codes.block, gather_axis: 0, quantize_axis: 1 }
  if (builder.find(names.offsets) === undefined) {
    return builder.node('GatherBlockQuantized', 'embed', inputs, attributes, MICROSOFT)
  }
  const centred = builder.node('GatherBlockQuantized', 'embed.centred', inputs, attributes, MICROSOFT)
  // [batch, tokens, blocks, 1] beside [batch, tokens, blocks, block]
  const apart = builder.node('Reshape', 'embed.apart', [centred, builder.ints(0, 0, -1, codes.block)])
  const rows = builder.node('Gather', 'embed.offsets', [writeBlockOffsets(builder, weight, codes), ids], { axis: 0 })
  const column = builder.node('Unsqueeze', 'embed.offsets.column', [rows, builder.ints(-1)])
  const moved = builder.node('Add', 'embed.moved', [apart, column])
  return builder.node('Reshape', 'embed', [moved, builder.ints(0, 0, codes.in)])
}

/** `undefined` where the weights, which are stored alike, are not quantised. */
function writeQuantised(
  builder: GraphBuilder,
  weights: readonly string[],
  node: string,
  x: string,
  kept: readonly 0[],
): string | undefined {
  const [first = ''] = weights
  const all = weights.map(quantisedNames)
  const names = quantisedNames(first)
  if (builder.find(names.half) !== undefined) {
    const halves = all.map(({ half }) => builder.weight(half))
    // Folded when the graph is loaded: half the file, the same memory and speed as float32.
    const float = builder.node('Cast', `${node}.float`, [concat(builder, `${node}.halves`, halves, 0)], { to: FLOAT })
    return builder.node('MatMul', node, [x, builder.node('Transpose', `${node}.turned`, [float], { perm: [1, 0] })])
  }
  if (builder.find(names.nf4) !== undefined) return writeNf4(builder, weights, node, x)
  for (const storage of ['int4', 'int8'] as const) {
    const quantised = builder.find(names[storage])?.quantised
    if (quantised === undefined) continue
    const codes = all.map((name) => builder.weight(name[storage]))
    const scales = weights.map((weight) => writeScales(builder, weight))
    const zeros = weights.flatMap((weight) => zeroPoints(builder, weight))
    const inputs = [
      x,
      concat(builder, `${node}.codes`, codes, 0),
      concat(builder, `${node}.scales`, scales, 0),
      ...(zeros.length === 0 ? [] : [concat(builder, `${node}.zero_points`, zeros, 0)]),
    ]
    const attributes = {
      K: quantised.in,
      N: outOf(
        builder,
        all.map((name) => name[storage]),
      ),
      bits: storage === 'int4' ? 4 : 8,
      block_size: quantised.block,
      accuracy_level: quantised.rounds ? ACCURACY_LEVEL.int8 : ACCURACY_LEVEL.float,
    }
    if (builder.find(names.offsets) === undefined) {
      return builder.node('MatMulNBits', node, inputs, attributes, MICROSOFT)
    }
    const centred = builder.node('MatMulNBits', centredNode(node), inputs, attributes, MICROSOFT)
    return writeOffsets(builder, weights, node, { x, centred, quantised, kept })
  }
  return undefined
}

function outOf(builder: GraphBuilder, codes: readonly string[]): number {
  return codes.reduce((sum, name) => sum + (builder.find(name)?.quantised?.out ?? 0), 0)
}

/**
 * The centred product and, for each block, c times the sum of its x. The sums are computed once where several linears share
 * x. A matrix is added to within the product with it.
 */
function writeOffsets(
  builder: GraphBuilder,
  weights: readonly string[],
  node: string,
  {
    x,
    centred,
    quantised,
    kept,
  }: { readonly x: string; readonly centred: string; readonly quantised: Quantised } & LinearShape,
): string {
  const sums = `${x}.sums_of_${quantised.block}`
  if (!builder.has(sums)) {
    const blocks = builder.ints(...kept, quantised.in / quantised.block, quantised.block)
    const apart = builder.node('Reshape', `${sums}.apart`, [x, blocks])
    builder.node('ReduceSum', sums, [apart, builder.ints(-1)], { keepdims: 0 })
  }
  const offsets = weights.map((weight) => writeBlockOffsets(builder, weight, quantised))
  const float = concat(builder, `${node}.offsets`, offsets, 0)
  if (kept.length === 1) return builder.node('Gemm', node, [sums, float, centred], { transB: 1 })
  const turned = builder.node('Transpose', `${node}.offsets.turned`, [float], { perm: [1, 0] })
  return builder.node('Add', node, [centred, builder.node('MatMul', `${node}.offset`, [sums, turned])])
}

/** c of each block, [out, blocks]. Folded when the graph is loaded. Once a weight. */
function writeBlockOffsets(builder: GraphBuilder, weight: string, { centre }: Quantised): string {
  const { offsets } = quantisedNames(weight)
  const stored = writeHalves(builder, offsets)
  if (centre === undefined) return stored
  const centred = `${offsets}.centred`
  if (builder.has(centred)) return centred
  const shift = builder.node('Mul', `${offsets}.shift`, [writeScales(builder, weight), builder.float(centre)])
  return builder.node('Add', centred, [stored, shift])
}

/** Halves in the file, float32 for the operators; folded when the graph is loaded. Once a weight. */
function writeScales(builder: GraphBuilder, weight: string): string {
  return writeHalves(builder, quantisedNames(weight).scales)
}

/** Those that are float32 in the file already, as blocks carried over may have them, are taken as they are. */
function writeHalves(builder: GraphBuilder, weight: string): string {
  if (builder.find(weight)?.type !== 'float16') return builder.weight(weight)
  const float = `${weight}.float`
  return builder.has(float) ? float : builder.node('Cast', float, [builder.weight(weight)], { to: FLOAT })
}

function zeroPoints(builder: GraphBuilder, weight: string): string[] {
  const name = quantisedNames(weight).zeroPoints
  return builder.find(name) === undefined ? [] : [builder.weight(name)]
}

function writeNf4(builder: GraphBuilder, weights: readonly string[], node: string, x: string): string {
  const all = weights.map((weight) => quantisedNames(weight).nf4)
  const { in: K = 0, block = 0 } = builder.find(all[0] ?? '')?.quantised ?? {}
  const codes = all.map((name) => builder.weight(name))
  const absmax = weights.map((weight) =>
    writeAbsmax(builder, weight, weights.length === 1 ? node : `${node}.${weight}`),
  )
  const inputs = [x, concat(builder, `${node}.nf4`, codes, 0), concat(builder, `${node}.absmax.all`, absmax, 0)]
  const attributes = { K, N: outOf(builder, all), block_size: block, quant_type: NF4 }
  return builder.node('MatMulBnb4', node, inputs, attributes, MICROSOFT)
}

/** â = k · scale, as quantise/nf4.ts says, is folded when the graph is loaded. */
function writeAbsmax(builder: GraphBuilder, weight: string, at: string): string {
  const names = quantisedNames(weight)
  const shape = builder.find(names.nf4)?.quantised
  assert(shape !== undefined, `${weight} is not stored as NF4`)
  const codes = builder.node('Cast', `${at}.codes`, [builder.weight(names.magnitudes)], { to: FLOAT })
  const grouped = builder.node('Mul', `${at}.absmax.groups`, [codes, builder.weight(names.magnitudeScales)])
  const flat = builder.node('Reshape', `${at}.absmax.flat`, [grouped, builder.ints(-1)])
  // The last group is padded.
  const ends = [builder.ints(0), builder.ints((shape.in * shape.out) / shape.block), builder.ints(0)]
  return builder.node('Slice', `${at}.absmax`, [flat, ...ends])
}
