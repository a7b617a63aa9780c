// A Llama of random float32 weights, 2048 wide, whose layers cost what those of a model of a billion parameters cost.
import type { Folder } from '../../compiler/host.ts'
import { noise } from './fixture.ts'

const WIDTH = 2048
const HEADS = 32
const KV_HEADS = 8
const INTERMEDIATE = 5632
const LAYERS = 3
const VOCABULARY = 4096

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: WIDTH,
  intermediate_size: INTERMEDIATE,
  num_hidden_layers: LAYERS,
  num_attention_heads: HEADS,
  num_key_value_heads: KV_HEADS,
  vocab_size: VOCABULARY,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  hidden_act: 'silu',
  tie_word_embeddings: true,
  eos_token_id: 2,
  torch_dtype: 'float32',
}

/** As a folder in memory; no tensor is there in full. */
export function wideBase(): Folder {
  const kv = (WIDTH / HEADS) * KV_HEADS
  const layer = (index: number): [string, number[]][] =>
    Object.entries({
      'input_layernorm.weight': [WIDTH],
      'post_attention_layernorm.weight': [WIDTH],
      'self_attn.q_proj.weight': [WIDTH, WIDTH],
      'self_attn.k_proj.weight': [kv, WIDTH],
      'self_attn.v_proj.weight': [kv, WIDTH],
      'self_attn.o_proj.weight': [WIDTH, WIDTH],
      'mlp.gate_proj.weight': [INTERMEDIATE, WIDTH],
      'mlp.up_proj.weight': [INTERMEDIATE, WIDTH],
      'mlp.down_proj.weight': [WIDTH, INTERMEDIATE],
    }).map(([name, shape]) => [`model.layers.${index}.${name}`, shape])
  const tensors: [string, number[]][] = [
    ['model.embed_tokens.weight', [VOCABULARY, WIDTH]],
    ['model.norm.weight', [WIDTH]],
    ...Array.from({ length: LAYERS }, (_, index) => layer(index)).flat(),
  ]
  let end = 0
  const header = Object.fromEntries(
    tensors.map(([name, shape]) => {
      const start = end
      end += 4 * shape.reduce((product, size) => product * size)
      return [name, { dtype: 'F32', shape, data_offsets: [start, end] }]
    }),
  )
  const text = new TextEncoder().encode(JSON.stringify(header))
  const front = new Uint8Array(8 + text.length)
  new DataView(front.buffer).setBigUint64(0, BigInt(text.length), true)
  front.set(text, 8)
  const weights = new Uint8Array(noise(1 << 18).buffer)
  return {
    name: 'wide',
    async open(path) {
      if (path === 'config.json') return source(path, new TextEncoder().encode(JSON.stringify(CONFIG)))
      if (path !== 'model.safetensors') return undefined
      const read = async (offset: number, length: number) => {
        const bytes = new Uint8Array(length)
        for (let at = 0; at < length; ) {
          const from = offset + at
          const part =
            from < front.length ? front.subarray(from) : weights.subarray((from - front.length) % weights.length)
          const piece = part.subarray(0, length - at)
          bytes.set(piece, at)
          at += piece.length
        }
        return bytes
      }
      return { name: path, size: front.length + end, read, close: async () => {} }
    },
  }
}

function source(name: string, bytes: Uint8Array<ArrayBuffer>) {
  const read = async (offset: number, length: number) => bytes.slice(offset, offset + length)
  return { name, size: bytes.length, read, close: async () => {} }
}
