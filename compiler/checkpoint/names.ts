// The tensors of a checkpoint: which ones a configuration demands, and which of them are linears.
import type { Architecture, Linear } from '../contract.ts'
import { type Decoder, HEAD } from './decoder.ts'
import { layoutOf } from './families/families.ts'

/** The linears of each layer, in graph order: those that the bank has a place for. `lm_head` is not among them. */
export function layerLinears(architecture: Architecture): Linear[] {
  const { hiddenSize, intermediateSize, headDim, heads, kvHeads } = architecture
  const { layer, qkv, o, mlp, gated, down } = layoutOf(architecture)
  const parts = [heads * headDim, kvHeads * headDim, kvHeads * headDim]
  const outs = qkv.length === 1 ? [parts.reduce((sum, size) => sum + size)] : parts
  const wide = gated && mlp.length === 1 ? 2 * intermediateSize : intermediateSize
  const shapes = [
    ...qkv.map((name, index) => ({ name, in: hiddenSize, out: outs[index] as number })),
    { name: o, in: heads * headDim, out: hiddenSize },
    ...mlp.map((name) => ({ name, in: hiddenSize, out: wide })),
    { name: down, in: intermediateSize, out: hiddenSize },
  ]
  return Array.from({ length: architecture.layers }, (_, index) =>
    shapes.map(({ name, ...sizes }) => ({ module: `${layer(index)}.${name}`, ...sizes })),
  ).flat()
}

/** Name → shape of every tensor that the checkpoint must have, as PyTorch stores them. */
export function requiredTensors(decoder: Decoder): Map<string, readonly number[]> {
  const { architecture, tiedHead, traits } = decoder
  const { hiddenSize, vocabSize, layers, headDim, heads, kvHeads, maxPositions } = architecture
  const layout = layoutOf(architecture)
  const linears = layerLinears(architecture)
  const biased = new Set(
    Array.from({ length: layers }, (_, index) =>
      (traits?.biases ?? []).map((name) => `${layout.layer(index)}.${name}`),
    ).flat(),
  )
  const norms = Array.from({ length: layers }, (_, index) =>
    Object.values(layout.norms).map((name) => `${layout.layer(index)}.${name}`),
  ).flat()
  const ofHead = layout.qkNorm === 'head'
  const qkNorms = Array.from({ length: layout.qkNorm === undefined ? 0 : layers }, (_, index) => [
    [`${layout.layer(index)}.self_attn.q_norm.weight`, [ofHead ? headDim : heads * headDim]] as const,
    [`${layout.layer(index)}.self_attn.k_norm.weight`, [ofHead ? headDim : kvHeads * headDim]] as const,
  ]).flat()
  return new Map<string, readonly number[]>([
    [layout.embedding, [vocabSize, hiddenSize]],
    ...(layout.positions === undefined ? [] : [[layout.positions, [maxPositions, hiddenSize]] as const]),
    ...linears.map(
      ({ module, in: inSize, out }) =>
        [`${module}.weight`, layout.storesTransposed ? [inSize, out] : [out, inSize]] as const,
    ),
    ...linears.filter(({ module }) => biased.has(module)).map(({ module, out }) => [`${module}.bias`, [out]] as const),
    ...qkNorms,
    ...[...norms, layout.finalNorm].flatMap((name) => [
      [`${name}.weight`, [hiddenSize]] as const,
      ...(layout.norm === 'layer' ? [[`${name}.bias`, [hiddenSize]] as const] : []),
    ]),
    ...(tiedHead ? [] : [[HEAD, [vocabSize, hiddenSize]] as const]),
  ])
}

/** Buffers that old versions of transformers saved; they hold nothing that the configuration does not say. */
export function isBuffer(name: string): boolean {
  return name.endsWith('.rotary_emb.inv_freq') || /^transformer\.h\.\d+\.attn\.(bias|masked_bias)$/.test(name)
}
