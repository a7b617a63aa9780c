// The artifact's description: what `compile` emits, and what the backend and the gateway may rely on.
// Specification in words: docs/artifact-format.md.
import * as z from 'zod'

export const MANIFEST_SCHEMA = 'sidepath.artifact/1'
export const MANIFEST_FILE = 'manifest.json'

/** SHA-256, lower-case hex. */
export const Digest = z.string().regex(/^[0-9a-f]{64}$/)

/** Names of adapters, as the compiler takes them and the gateway registers them. */
export const AdapterName = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}$/)

const Count = z.int().min(1)

export const ArchitectureSchema = z.strictObject({
  /** `model_type` of config.json. */
  family: z.enum(['llama', 'mistral', 'qwen2', 'qwen3', 'phi3', 'gemma2', 'gemma3_text', 'gpt2', 'olmo2', 'granite']),
  hiddenSize: Count,
  intermediateSize: Count,
  layers: Count,
  heads: Count,
  kvHeads: Count,
  headDim: Count,
  vocabSize: Count,
  maxPositions: Count,
})
export type Architecture = z.infer<typeof ArchitectureSchema>

/** One linear that the low-rank path can attach to. */
export const LinearSchema = z.strictObject({
  /** Path in the base, e.g. `model.layers.0.self_attn.q_proj`. */
  module: z.string(),
  in: Count,
  out: Count,
})
export type Linear = z.infer<typeof LinearSchema>

export const AdapterEntrySchema = z.strictObject({
  name: AdapterName,
  /** SHA-256 of `file`, the id under which a backend loads it; of its would-be bytes at weight 1 where it was merged. */
  digest: Digest,
  /** SHA-256 of the would-be bytes at weight 1; only where it was stacked at another. */
  unweighted: Digest.optional(),
  /** Largest rank over the adapter's modules. */
  r: Count,
  loraAlpha: z.number(),
  useRslora: z.boolean(),
  /** Weight in a merge or a stack; 1 where the adapter is routed. */
  weight: z.number(),
  /** Per module: its rank and the scaling that was folded into B, times the weight. */
  modules: z.record(z.string(), z.strictObject({ r: Count, scaling: z.number() })),
  /** `adapters/<digest>.safetensors`; routed and stacked only. */
  file: z.string().optional(),
})
export type AdapterEntry = z.infer<typeof AdapterEntrySchema>

/** One line of the coverage report: a tensor of an adapter and the linear of the base that it changes. */
export const CoverageSchema = z.strictObject({
  adapter: AdapterName,
  tensor: z.string(),
  module: z.string(),
  /** How the linear was found. */
  evidence: z.enum(['checkpoint-name']),
})

export const FileEntrySchema = z.strictObject({ path: z.string(), bytes: z.int().min(0), sha256: Digest })
export type FileEntry = z.infer<typeof FileEntrySchema>

/** How the weights of the base are stored where they are not float32. */
export const QuantisationSchema = z.strictObject({
  /** `keep`: the blocks of the GGUF that the base is, without rounding. */
  method: z.enum(['int4', 'int8', 'nf4', 'fp16', 'keep']),
  /** `none` where nothing was rounded. */
  rounding: z.enum(['rtn', 'search', 'gptq', 'none']),
  /** `gptq` only: SHA-256 of the token ids that it was calibrated on, each as eight bytes. */
  calibration: Digest.optional(),
  /** Of the method; `bitsPerWeight` is what it comes to with scales, zero points and exceptions. */
  bits: z.union([z.literal(4), z.literal(8), z.literal(16)]),
  /** Weights that share a scale. */
  block: z.union([z.literal(16), z.literal(32), z.literal(64), z.literal(128)]),
  /** Where the zero of a block lies: in the middle, at an integer, or anywhere (int4 only). */
  grid: z.enum(['symmetric', 'asymmetric', 'affine']),
  /** Modules that are stored in another way than the method's, and how. */
  exceptions: z.record(z.string(), z.enum(['float32', 'float16', 'int8', 'int4'])),
  /** What products with integer weights make of their activations; without it, int8 beside int8 and float beside int4. */
  activations: z.enum(['float', 'int8']).optional(),
  /** `keep` only: modules whose blocks were carried over, and the format that the GGUF has them in. */
  carried: z.record(z.string(), z.string()).optional(),
  /** Over the embedding, every linear and the head; norms are float32 beside them. */
  bitsPerWeight: z.number(),
})
export type Quantisation = z.infer<typeof QuantisationSchema>

export const ManifestSchema = z.strictObject({
  schema: z.literal(MANIFEST_SCHEMA),
  target: z.enum(['routed', 'stacked', 'merged']),
  base: z.strictObject({
    /** SHA-256 over the base's configuration and tensors, independent of file layout. */
    digest: Digest,
    architecture: ArchitectureSchema,
    /** Token ids that end a generation. */
    eosTokenIds: z.array(z.int().min(0)).min(1),
  }),
  opset: z.int(),
  /** Storage type of the weights in the graphs that `quantisation` does not speak of. */
  dtype: z.enum(['float32']),
  quantisation: QuantisationSchema.optional(),
  adapters: z.array(AdapterEntrySchema),
  /** Linears that have a place in the bank, in graph order; empty unless `routed`. */
  bank: z.array(LinearSchema),
  /** Linears that have a side path for the stack, in graph order; `stacked` only. */
  stack: z.array(LinearSchema).min(1).optional(),
  graphs: z.strictObject({
    /** The ecosystem's form: `past_key_values` in, `logits` and `present` out. */
    model: z.string(),
    /** The form that the backend runs: the KV cache is an input only. Shares the weights of `model`. */
    engine: z.string(),
    /** That form without low-rank paths, for steps of base rows alone; `routed` only. */
    base: z.string().optional(),
    /** That form for steps whose rows all use one adapter; `routed` only, and only where linears could be joined. */
    shared: z.string().optional(),
  }),
  coverage: z.array(CoverageSchema),
  /** Every other file of the artifact. */
  files: z.array(FileEntrySchema),
})
export type Manifest = z.infer<typeof ManifestSchema>

/** BERT (and what is one under another name, such as MiniLM) and ModernBERT. */
export const EncoderArchitectureSchema = z.strictObject({
  family: z.enum(['bert', 'modernbert']),
  hiddenSize: Count,
  intermediateSize: Count,
  layers: Count,
  heads: Count,
  headDim: Count,
  vocabSize: Count,
  maxPositions: Count,
})
export type EncoderArchitecture = z.infer<typeof EncoderArchitectureSchema>

/** How token vectors become the vector of a text; several modes are laid side by side. */
export const PoolingSchema = z.strictObject({
  modes: z.array(z.enum(['cls', 'max', 'mean', 'mean_sqrt_len'])).min(1),
  /** Divided by its Euclidean length. */
  normalize: z.boolean(),
})
export type Pooling = z.infer<typeof PoolingSchema>

/** An encoder has one graph, no cache, and no end of a generation. All else is as in a decoder's manifest. */
export const EncoderManifestSchema = ManifestSchema.omit({ base: true, graphs: true }).extend({
  task: z.enum(['hidden-states', 'sentence-embedding', 'classification']),
  base: z.strictObject({ digest: Digest, architecture: EncoderArchitectureSchema }),
  /** Of the graph, the hidden states first. */
  outputs: z.array(z.enum(['last_hidden_state', 'pooler_output', 'sentence_embedding', 'logits'])).min(1),
  /** `sentence-embedding` only. */
  pooling: PoolingSchema.optional(),
  /** `classification` only: the name of each column of the logits. */
  labels: z.array(z.string()).min(1).optional(),
  /** Where a longer text is to be cut; at most the architecture's `maxPositions`. */
  maxTokens: Count,
  graphs: z.strictObject({ model: z.string() }),
})
export type EncoderManifest = z.infer<typeof EncoderManifestSchema>

export type AnyManifest = Manifest | EncoderManifest

/** What a compiled adapter is read against: of a decoder's manifest or an encoder's. */
export type LowRankManifest = Pick<AnyManifest, 'bank' | 'stack'> & { readonly base: Pick<Manifest['base'], 'digest'> }

/** Paths of an artifact's graphs, each once. */
export const graphFiles = ({ graphs }: Pick<AnyManifest, 'graphs'>): string[] => [
  ...new Set(Object.values(graphs).filter((path) => path !== undefined)),
]

export const isEncoder = (manifest: AnyManifest): manifest is EncoderManifest => 'task' in manifest

/** Names of graph inputs and outputs. Shapes: docs/artifact-format.md. */
export const graphNames = {
  inputIds: 'input_ids',
  attentionMask: 'attention_mask',
  positionIds: 'position_ids',
  logits: 'logits',
  pastKey: (layer: number) => `past_key_values.${layer}.key`,
  pastValue: (layer: number) => `past_key_values.${layer}.value`,
  presentKey: (layer: number) => `present.${layer}.key`,
  presentValue: (layer: number) => `present.${layer}.value`,
  adapterSlots: 'adapter_slots',
  bankA: (module: string) => `bank.${module}.lora_A`,
  bankB: (module: string) => `bank.${module}.lora_B`,
  // The names that ONNX Runtime's adapter files use, so that such a file feeds a stacked graph as it is.
  stackA: (module: string) => `${module}.lora_A.weight`,
  stackB: (module: string) => `${module}.lora_B.weight`,
  // Engine form only.
  /** Of the site, which is known by its first linear's module. */
  pathA: (module: string) => `path.${module}.lora_A`,
  pathB: (module: string) => `path.${module}.lora_B`,
  /** Of all linears of a site. */
  sharedA: (module: string) => `shared.${module}.lora_A`,
  sharedB: (module: string) => `shared.${module}.lora_B`,
  pastLengths: 'past_lengths',
  logitIndices: 'logit_indices',
  cacheKey: (layer: number) => `cache.${layer}.key`,
  cacheValue: (layer: number) => `cache.${layer}.value`,
  newKey: (layer: number) => `new.${layer}.key`,
  newValue: (layer: number) => `new.${layer}.value`,
  // Encoders only.
  tokenTypeIds: 'token_type_ids',
  lastHiddenState: 'last_hidden_state',
  poolerOutput: 'pooler_output',
  sentenceEmbedding: 'sentence_embedding',
} as const
