// The tensors of an encoder's checkpoint: which ones a configuration demands, which are linears, and which belong to heads
// that the task leaves out. A head's model holds the encoder under a prefix; the encoder alone has none.
import type { Linear } from '../contract.ts'
import type { EncoderConfig } from './config.ts'
import type { BertConfig, ModernBertConfig } from './details.ts'

export const CLASSIFIER = 'classifier'

export interface EncoderNames {
  /** What has a side path, in graph order; the classifier, where there is one, is the last. */
  readonly linears: readonly Linear[]
  /** Linears with a bias of their own in the graph; the classifier's is in its weight. */
  readonly biased: ReadonlySet<string>
  /** Name → shape of every tensor that the checkpoint must have. */
  readonly tensors: ReadonlyMap<string, readonly number[]>
}

/** The path of the encoder in the model of a head. */
const OUTER = { bert: 'bert.', modernbert: 'model.' }
const EMBEDDING = { bert: 'embeddings.word_embeddings.weight', modernbert: 'embeddings.tok_embeddings.weight' }

/** What comes before every name of the encoder, by what is stored. */
export function prefixIn(stored: { has(name: string): boolean }, { architecture }: EncoderConfig): string {
  const { family } = architecture
  return stored.has(`${OUTER[family]}${EMBEDDING[family]}`) ? OUTER[family] : ''
}

/** Tensors that are stored but not used: heads of the training, and buffers that hold nothing. */
export function isLeftOut(name: string, { architecture, task }: EncoderConfig, prefix: string): boolean {
  if (name === `${prefix}embeddings.position_ids`) return true
  if (task === 'classification') return false
  return architecture.family === 'bert' ? /^cls\./.test(name) : /^(head|decoder)\./.test(name)
}

/** Checkpoints of BERT that were converted from TensorFlow call a norm's two vectors by other names. */
export function oldName(name: string): string {
  return name.replace(/LayerNorm\.weight$/, 'LayerNorm.gamma').replace(/LayerNorm\.bias$/, 'LayerNorm.beta')
}

/** `hasPooler`: the checkpoint of a BERT stores one; a classifier always needs it. */
export function encoderNames(config: EncoderConfig, prefix: string, hasPooler: boolean): EncoderNames {
  const { details, labels, architecture } = config
  const linears: Linear[] = []
  const biased = new Set<string>()
  const tensors = new Map<string, readonly number[]>()
  const norm = (name: string, hasBias: boolean) => {
    tensors.set(`${name}.weight`, [architecture.hiddenSize])
    if (hasBias) tensors.set(`${name}.bias`, [architecture.hiddenSize])
  }
  const linear = (module: string, inSize: number, out: number, hasBias: boolean) => {
    linears.push({ module, in: inSize, out })
    tensors.set(`${module}.weight`, [out, inSize])
    if (!hasBias) return
    biased.add(module)
    tensors.set(`${module}.bias`, [out])
  }
  const table = (name: string, rows: number) => tensors.set(name, [rows, architecture.hiddenSize])
  const write = { norm, linear, table }
  if (details.family === 'bert') nameBert(config, details, prefix, hasPooler, write)
  else nameModernBert(config, details, prefix, write)
  if (labels !== undefined) {
    const { hiddenSize } = architecture
    tensors.set(`${CLASSIFIER}.weight`, [labels.length, hiddenSize])
    tensors.set(`${CLASSIFIER}.bias`, [labels.length])
    // One row more than the width: the bias.
    linears.push({ module: CLASSIFIER, in: hiddenSize + 1, out: labels.length })
  }
  return { linears, biased, tensors }
}

interface Write {
  norm(name: string, hasBias: boolean): void
  linear(module: string, inSize: number, out: number, hasBias: boolean): void
  table(name: string, rows: number): void
}

export const pooler = (prefix: string) => `${prefix}pooler.dense`
export const bertLayer = (prefix: string, layer: number) => `${prefix}encoder.layer.${layer}`
export const modernBertLayer = (prefix: string, layer: number) => `${prefix}layers.${layer}`

function nameBert(
  { architecture, task }: EncoderConfig,
  { tokenTypes }: BertConfig,
  prefix: string,
  hasPooler: boolean,
  { norm, linear, table }: Write,
): void {
  const { hiddenSize, intermediateSize, layers, vocabSize, maxPositions } = architecture
  table(`${prefix}${EMBEDDING.bert}`, vocabSize)
  table(`${prefix}embeddings.position_embeddings.weight`, maxPositions)
  table(`${prefix}embeddings.token_type_embeddings.weight`, tokenTypes)
  norm(`${prefix}embeddings.LayerNorm`, true)
  for (let layer = 0; layer < layers; layer += 1) {
    const at = bertLayer(prefix, layer)
    for (const name of ['query', 'key', 'value']) linear(`${at}.attention.self.${name}`, hiddenSize, hiddenSize, true)
    linear(`${at}.attention.output.dense`, hiddenSize, hiddenSize, true)
    norm(`${at}.attention.output.LayerNorm`, true)
    linear(`${at}.intermediate.dense`, hiddenSize, intermediateSize, true)
    linear(`${at}.output.dense`, intermediateSize, hiddenSize, true)
    norm(`${at}.output.LayerNorm`, true)
  }
  if (hasPooler || task === 'classification') linear(pooler(prefix), hiddenSize, hiddenSize, true)
}

function nameModernBert(
  { architecture, task }: EncoderConfig,
  { attentionBias, mlpBias, normBias, classifierBias }: ModernBertConfig,
  prefix: string,
  { norm, linear, table }: Write,
): void {
  const { hiddenSize, intermediateSize, layers, vocabSize } = architecture
  table(`${prefix}${EMBEDDING.modernbert}`, vocabSize)
  norm(`${prefix}embeddings.norm`, normBias)
  for (let layer = 0; layer < layers; layer += 1) {
    const at = modernBertLayer(prefix, layer)
    // The embedding's norm is the first layer's.
    if (layer > 0) norm(`${at}.attn_norm`, normBias)
    linear(`${at}.attn.Wqkv`, hiddenSize, 3 * hiddenSize, attentionBias)
    linear(`${at}.attn.Wo`, hiddenSize, hiddenSize, attentionBias)
    norm(`${at}.mlp_norm`, normBias)
    linear(`${at}.mlp.Wi`, hiddenSize, 2 * intermediateSize, mlpBias)
    linear(`${at}.mlp.Wo`, intermediateSize, hiddenSize, mlpBias)
  }
  norm(`${prefix}final_norm`, normBias)
  if (task !== 'classification') return
  linear('head.dense', hiddenSize, hiddenSize, classifierBias)
  norm('head.norm', normBias)
}
