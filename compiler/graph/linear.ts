// The product with a weight, by the operator that reads the weight as it is stored; the one place that knows storage.
import { assert } from '../errors.ts'
import type { ExternalTensor, Graph, Node } from '../onnx/model.ts'
import { quantisedNames } from '../quantise/place.ts'
import type { GraphBuilder } from './builder.ts'

type Quantised = NonNullable<ExternalTensor['quantised']>

/** Operators beyond the standard's: those of ONNX Runtime. */
const MICROSOFT = 'com.microsoft'
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
  const product = linear.op === 'Add' ? nodes.find(({ name }) => name === centredNode(linear.name)) : linear
  const x = product?.inputs[0]
  assert(product !== undefined && LINEAR_OPERATORS.has(product.op) && x !== undefined, `${linear.name} is no linear`)
  return x
}

/** x [.., in] → x·Wᵀ [.., out], and + b where the linear has a bias. */
export function writeLinear(builder: GraphBuilder, module: string, x: string, hasBias = false): string {
  const weight = linearWeight(module)
  const node = linearNode(module)
  const quantised = writeQuantised(builder, weight, node, x, [0, 0])
  const product = quantised ?? builder.node('MatMul', node, [x, builder.weight(weight)])
  return hasBias ? builder.node('Add', `${module}.biased`, [product, builder.weight(`${module}.bias`)]) : product
}

/** Logits [n, vocabulary] of [n, hidden]. */
export function writeHead(builder: GraphBuilder, weight: string, x: string): string {
  const quantised = writeQuantised(builder, weight, 'lm_head.MatMul', x, [0])
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

/** `undefined` where the weight is not quantised. `kept`: a zero, as Reshape has it, for each axis of x before the last. */
function writeQuantised(
  builder: GraphBuilder,
  weight: string,
  node: string,
  x: string,
  kept: readonly 0[],
): string | undefined {
  const names = quantisedNames(weight)
  if (builder.find(names.half) !== undefined) {
    // Folded when the graph is loaded: half the file, the same memory and speed as float32.
    const float = builder.node('Cast', `${node}.float`, [builder.weight(names.half)], { to: FLOAT })
    return builder.node('MatMul', node, [x, builder.node('Transpose', `${node}.turned`, [float], { perm: [1, 0] })])
  }
  const nf4 = builder.find(names.nf4)?.quantised
  if (nf4 !== undefined) return writeNf4(builder, weight, node, x, nf4)
  for (const storage of ['int4', 'int8'] as const) {
    const quantised = builder.find(names[storage])?.quantised
    if (quantised === undefined) continue
    const inputs = [x, builder.weight(names[storage]), writeScales(builder, weight), ...zeroPoints(builder, weight)]
    const attributes = {
      K: quantised.in,
      N: quantised.out,
      bits: storage === 'int4' ? 4 : 8,
      block_size: quantised.block,
      accuracy_level: quantised.rounds ? ACCURACY_LEVEL.int8 : ACCURACY_LEVEL.float,
    }
    if (builder.find(names.offsets) === undefined) {
      return builder.node('MatMulNBits', node, inputs, attributes, MICROSOFT)
    }
    const centred = builder.node('MatMulNBits', centredNode(node), inputs, attributes, MICROSOFT)
    return builder.node('Add', node, [centred, writeOffsets(builder, weight, node, x, quantised, kept)])
  }
  return undefined
}

/** Σ over the blocks of c times the sum of the block's x. The sums are computed once where several linears share x. */
function writeOffsets(
  builder: GraphBuilder,
  weight: string,
  node: string,
  x: string,
  shape: Quantised,
  kept: readonly 0[],
): string {
  const sums = `${x}.sums_of_${shape.block}`
  if (!builder.has(sums)) {
    const blocks = builder.ints(...kept, shape.in / shape.block, shape.block)
    const apart = builder.node('Reshape', `${sums}.apart`, [x, blocks])
    builder.node('ReduceSum', sums, [apart, builder.ints(-1)], { keepdims: 0 })
  }
  const float = writeBlockOffsets(builder, weight, shape)
  const turned = builder.node('Transpose', `${node}.offsets.turned`, [float], { perm: [1, 0] })
  return builder.node('MatMul', `${node}.offset`, [sums, turned])
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

/** â = k · scale, as quantise/nf4.ts says, is folded when the graph is loaded. */
function writeNf4(builder: GraphBuilder, weight: string, node: string, x: string, shape: Quantised): string {
  const names = quantisedNames(weight)
  const { in: K, out: N, block } = shape
  const codes = builder.node('Cast', `${node}.codes`, [builder.weight(names.magnitudes)], { to: FLOAT })
  const grouped = builder.node('Mul', `${node}.absmax.groups`, [codes, builder.weight(names.magnitudeScales)])
  const flat = builder.node('Reshape', `${node}.absmax.flat`, [grouped, builder.ints(-1)])
  // The last group is padded.
  const ends = [builder.ints(0), builder.ints((K * N) / block), builder.ints(0)]
  const absmax = builder.node('Slice', `${node}.absmax`, [flat, ...ends])
  const attributes = { K, N, block_size: block, quant_type: NF4 }
  return builder.node('MatMulBnb4', node, [x, builder.weight(names.nf4), absmax], attributes, MICROSOFT)
}
