// Writes GGUF files for tests, sound ones and broken ones, independently of the reader.

export type Value =
  | { readonly type: 'u32' | 'i32' | 'f32' | 'u64' | 'bool'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'f32s' | 'i32s'; readonly value: readonly number[] }

export interface RawTensor {
  readonly name: string
  /** As the file has it: columns first. */
  readonly sizes: readonly number[]
  readonly type: number
  readonly data: Uint8Array
  /** Instead of the one that follows from what is before it. */
  readonly offset?: number
}

export interface RawGguf {
  readonly version?: number
  readonly keys: readonly (readonly [string, Value])[]
  readonly tensors: readonly RawTensor[]
}

const ALIGNMENT = 32
const TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, u64: 10, strings: 9, f32s: 9, i32s: 9 } as const

const u32 = (value: number) => new Uint8Array(new Uint32Array([value]).buffer)
const u64 = (value: number) => new Uint8Array(new BigUint64Array([BigInt(value)]).buffer)
const f32 = (value: number) => new Uint8Array(new Float32Array([value]).buffer)
const i32 = (value: number) => new Uint8Array(new Int32Array([value]).buffer)

function text(value: string): Uint8Array[] {
  const bytes = new TextEncoder().encode(value)
  return [u64(bytes.length), bytes]
}

function encodeValue(given: Value): Uint8Array[] {
  switch (given.type) {
    case 'u32':
      return [u32(given.value)]
    case 'i32':
      return [i32(given.value)]
    case 'f32':
      return [f32(given.value)]
    case 'u64':
      return [u64(given.value)]
    case 'bool':
      return [Uint8Array.of(given.value)]
    case 'string':
      return text(given.value)
    case 'strings':
      return [u32(TYPES.string), u64(given.value.length), ...given.value.flatMap(text)]
    case 'f32s':
      return [u32(TYPES.f32), u64(given.value.length), ...given.value.map(f32)]
    case 'i32s':
      return [u32(TYPES.i32), u64(given.value.length), ...given.value.map(i32)]
  }
}

const padding = (length: number) => new Uint8Array((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT)

export function writeGguf({ version = 3, keys, tensors }: RawGguf): Uint8Array<ArrayBuffer> {
  const head: Uint8Array[] = [new TextEncoder().encode('GGUF'), u32(version), u64(tensors.length), u64(keys.length)]
  for (const [key, value] of keys) head.push(...text(key), u32(TYPES[value.type]), ...encodeValue(value))
  const data: Uint8Array[] = []
  let end = 0
  for (const { name, sizes, type, data: bytes, offset } of tensors) {
    head.push(...text(name), u32(sizes.length), ...sizes.map(u64), u32(type), u64(offset ?? end))
    const pad = padding(bytes.length)
    data.push(bytes, pad)
    end += bytes.length + pad.length
  }
  const header = Buffer.concat(head)
  return new Uint8Array(Buffer.concat([header, padding(header.length), ...data]))
}

const HIDDEN = 64
const INNER = 96
const HEADS = 4
const KV_HEADS = 2
const HEAD_DIM = 16
const LAYERS = 2
const TOKENS = ['<unk>', '<s>', '</s>', 'a', 'b', 'ab', 'Ġ', 'Ġa']
/** More rows than tokens, as padded vocabularies have. */
const VOCABULARY = 10

export const TINY_SIZES = { HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCABULARY }

export const TINY_KEYS: RawGguf['keys'] = [
  ['general.architecture', { type: 'string', value: 'llama' }],
  ['general.name', { type: 'string', value: 'tiny' }],
  ['llama.block_count', { type: 'u32', value: LAYERS }],
  ['llama.context_length', { type: 'u32', value: 64 }],
  ['llama.embedding_length', { type: 'u32', value: HIDDEN }],
  ['llama.feed_forward_length', { type: 'u32', value: INNER }],
  ['llama.attention.head_count', { type: 'u32', value: HEADS }],
  ['llama.attention.head_count_kv', { type: 'u32', value: KV_HEADS }],
  ['llama.attention.layer_norm_rms_epsilon', { type: 'f32', value: 1e-5 }],
  ['llama.rope.freq_base', { type: 'f32', value: 100_000 }],
  ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
  ['tokenizer.ggml.pre', { type: 'string', value: 'smollm' }],
  ['tokenizer.ggml.tokens', { type: 'strings', value: TOKENS }],
  ['tokenizer.ggml.token_type', { type: 'i32s', value: [3, 3, 3, 1, 1, 1, 1, 1] }],
  ['tokenizer.ggml.merges', { type: 'strings', value: ['a b', 'Ġ a'] }],
  ['tokenizer.ggml.bos_token_id', { type: 'u32', value: 1 }],
  ['tokenizer.ggml.eos_token_id', { type: 'u32', value: 2 }],
  ['tokenizer.ggml.add_bos_token', { type: 'bool', value: 1 }],
  ['tokenizer.chat_template', { type: 'string', value: '{{ messages[0].content }}' }],
]

/** Seeded blocks of any size with small finite scales: every byte below 0x3c is a half below 1. */
export function blocks(count: number, bytes: number, random: () => number): Uint8Array {
  return Uint8Array.from({ length: count * bytes }, () => Math.floor(random() * 0x3c))
}

export function floats(count: number, random: () => number): Uint8Array {
  return new Uint8Array(Float32Array.from({ length: count }, () => random() - 0.5).buffer)
}

/** Embedding in Q8_0, linears in Q4_1 and Q4_0, norms in F32; the head is the embedding. */
export function tinyTensors(random: () => number): RawTensor[] {
  const matrix = (name: string, rows: number, columns: number, type: number, size: number): RawTensor => ({
    name,
    sizes: [columns, rows],
    type,
    data: blocks((rows * columns) / 32, size, random),
  })
  const norm = (name: string): RawTensor => ({ name, sizes: [HIDDEN], type: 0, data: floats(HIDDEN, random) })
  const layer = (n: number): RawTensor[] => [
    norm(`blk.${n}.attn_norm.weight`),
    matrix(`blk.${n}.attn_q.weight`, HEADS * HEAD_DIM, HIDDEN, 3, 20),
    matrix(`blk.${n}.attn_k.weight`, KV_HEADS * HEAD_DIM, HIDDEN, 3, 20),
    matrix(`blk.${n}.attn_v.weight`, KV_HEADS * HEAD_DIM, HIDDEN, 2, 18),
    matrix(`blk.${n}.attn_output.weight`, HIDDEN, HEADS * HEAD_DIM, 3, 20),
    norm(`blk.${n}.ffn_norm.weight`),
    matrix(`blk.${n}.ffn_gate.weight`, INNER, HIDDEN, 3, 20),
    matrix(`blk.${n}.ffn_up.weight`, INNER, HIDDEN, 3, 20),
    matrix(`blk.${n}.ffn_down.weight`, HIDDEN, INNER, 8, 34),
  ]
  return [
    matrix('token_embd.weight', VOCABULARY, HIDDEN, 8, 34),
    norm('output_norm.weight'),
    ...Array.from({ length: LAYERS }, (_, n) => layer(n)).flat(),
  ]
}
