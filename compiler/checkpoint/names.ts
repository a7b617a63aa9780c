// The tensors of a Llama checkpoint: which ones a configuration demands, and which of them are linears.
import type { Architecture, Linear } from '../contract.ts'

export const EMBEDDING = 'model.embed_tokens.weight'
export const FINAL_NORM = 'model.norm.weight'
export const HEAD = 'lm_head.weight'

export const inputNorm = (layer: number) => `model.layers.${layer}.input_layernorm.weight`
export const postAttentionNorm = (layer: number) => `model.layers.${layer}.post_attention_layernorm.weight`

/** The seven linears of each layer, in graph order: those that the bank has a place for. `lm_head` is not among them. */
export function layerLinears(architecture: Architecture): Linear[] {
  const { hiddenSize, intermediateSize, headDim } = architecture
  const queries = architecture.heads * headDim
  const keys = architecture.kvHeads * headDim
  return Array.from({ length: architecture.layers }, (_, layer) => {
    const prefix = `model.layers.${layer}`
    return [
      { module: `${prefix}.self_attn.q_proj`, in: hiddenSize, out: queries },
      { module: `${prefix}.self_attn.k_proj`, in: hiddenSize, out: keys },
      { module: `${prefix}.self_attn.v_proj`, in: hiddenSize, out: keys },
      { module: `${prefix}.self_attn.o_proj`, in: queries, out: hiddenSize },
      { module: `${prefix}.mlp.gate_proj`, in: hiddenSize, out: intermediateSize },
      { module: `${prefix}.mlp.up_proj`, in: hiddenSize, out: intermediateSize },
      { module: `${prefix}.mlp.down_proj`, in: intermediateSize, out: hiddenSize },
    ]
  }).flat()
}

/** Name → shape of every tensor that the checkpoint must have, linears as PyTorch stores them: [out, in]. */
export function requiredTensors(architecture: Architecture, tiedHead: boolean): Map<string, readonly number[]> {
  const { hiddenSize, vocabSize, layers } = architecture
  const norms = Array.from({ length: layers }, (_, layer) => [inputNorm(layer), postAttentionNorm(layer)]).flat()
  return new Map<string, readonly number[]>([
    [EMBEDDING, [vocabSize, hiddenSize]],
    ...layerLinears(architecture).map((linear) => [`${linear.module}.weight`, [linear.out, linear.in]] as const),
    ...[...norms, FINAL_NORM].map((name) => [name, [hiddenSize]] as const),
    ...(tiedHead ? [] : [[HEAD, [vocabSize, hiddenSize]] as const]),
  ])
}

/** Buffers that old versions of transformers saved; they hold nothing that the configuration does not say. */
export function isBuffer(name: string): boolean {
  return name.endsWith('.rotary_emb.inv_freq')
}
