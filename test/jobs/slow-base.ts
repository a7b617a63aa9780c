// A base that takes long enough to compile for something to happen meanwhile: its numbers are all zero.
import { rawFile } from '../compiler/safetensors-file.ts'
import { type Files, tiny } from './service.ts'

const HIDDEN = 512
const INTERMEDIATE = 1_024
const LAYERS = 8
const VOCAB = 30_000
const HEADS = 8
const F32_BYTES = 4

export function slowBase(): Files {
  const config = JSON.parse(new TextDecoder().decode(tiny.base['config.json']))
  Object.assign(config, {
    hidden_size: HIDDEN,
    intermediate_size: INTERMEDIATE,
    num_hidden_layers: LAYERS,
    num_attention_heads: HEADS,
    num_key_value_heads: HEADS,
    head_dim: HIDDEN / HEADS,
    vocab_size: VOCAB,
  })
  const shapes = new Map<string, number[]>([
    ['model.embed_tokens.weight', [VOCAB, HIDDEN]],
    ['model.norm.weight', [HIDDEN]],
    ['lm_head.weight', [VOCAB, HIDDEN]],
  ])
  for (let layer = 0; layer < LAYERS; layer += 1) {
    const at = `model.layers.${layer}`
    for (const name of ['q', 'k', 'v', 'o']) shapes.set(`${at}.self_attn.${name}_proj.weight`, [HIDDEN, HIDDEN])
    for (const name of ['gate', 'up']) shapes.set(`${at}.mlp.${name}_proj.weight`, [INTERMEDIATE, HIDDEN])
    shapes.set(`${at}.mlp.down_proj.weight`, [HIDDEN, INTERMEDIATE])
    for (const name of ['input', 'post_attention']) shapes.set(`${at}.${name}_layernorm.weight`, [HIDDEN])
  }
  let end = 0
  const header = [...shapes].map(([name, shape]) => {
    const begin = end
    end += shape.reduce((product, size) => product * size, F32_BYTES)
    return [name, { dtype: 'F32', shape, data_offsets: [begin, end] }]
  })
  return {
    'config.json': new TextEncoder().encode(JSON.stringify(config)),
    'model.safetensors': rawFile(JSON.stringify(Object.fromEntries(header)), end),
  }
}
