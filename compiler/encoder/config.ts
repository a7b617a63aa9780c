// config.json of an encoder → the facts that its graph is built from; what would change a number and is not known here is
// refused by name.
import { z } from 'zod'
import type { EncoderArchitecture, EncoderManifest, Pooling } from '../contract.ts'
import { inputError, Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'
import { readBertConfig } from './bert-config.ts'
import type { BertConfig, ModernBertConfig } from './details.ts'
import { readModernBertConfig } from './modernbert-config.ts'
import { readPooling } from './pooling.ts'

export interface EncoderConfig {
  readonly architecture: EncoderArchitecture
  readonly task: EncoderManifest['task']
  readonly pooling: Pooling | undefined
  readonly labels: readonly string[] | undefined
  readonly maxTokens: number
  readonly details: BertConfig | ModernBertConfig
}

const READERS = { bert: readBertConfig, modernbert: readModernBertConfig }
type Family = keyof typeof READERS

/** Beyond any published classifier; a head is read into memory. */
const MAX_LABELS = 1 << 16

const Head = z.object({
  architectures: z.array(z.string()).nullish(),
  num_labels: z.int().min(1).max(MAX_LABELS).nullish(),
  id2label: z.record(z.string().regex(/^\d{1,6}$/), z.string()).nullish(),
})

/** The classes whose head is left out: what is below it is the encoder. */
const HEADLESS = /(Model|ForMaskedLM|ForPreTraining)$/
const CLASSIFIER = /ForSequenceClassification$/

/** The family of a folder that holds an encoder; `undefined` for everything else, a folder without a config included. */
export async function encoderFamily(folder: Folder): Promise<Family | undefined> {
  const json = await readJson(folder, 'config.json')
  const parsed = z.object({ model_type: z.string() }).safeParse(json)
  const family = parsed.success ? parsed.data.model_type : ''
  return Object.hasOwn(READERS, family) ? (family as Family) : undefined
}

/** Throws `InputError` that lists everything in the configuration that this compiler cannot honour. */
export async function readEncoderConfig(folder: Folder): Promise<EncoderConfig> {
  const where = `${folder.name}/config.json`
  const family = await encoderFamily(folder)
  if (family === undefined) {
    throw inputError('config-unsupported', `${where}: its model_type is none of ${Object.keys(READERS).join(', ')}`)
  }
  const json = await readJson(folder, 'config.json')
  const problems = new Problems()
  const { architecture, details } = READERS[family](json, where, problems)
  const head = Head.safeParse(json)
  if (!head.success) throw inputError('config-invalid', `${where}: ${describeIssues(head.error)}`)
  const name = head.data.architectures?.[0] ?? 'Model'
  const isClassifier = CLASSIFIER.test(name)
  if (!isClassifier && !HEADLESS.test(name)) {
    problems.add(
      'config-unsupported',
      `${where}: the architecture is ${quote(name)}; an encoder for embeddings or …ForSequenceClassification is supported`,
    )
  }
  const sentence = isClassifier ? undefined : await problems.collect(() => readPooling(folder))
  problems.throwIfAny()
  return {
    architecture,
    task: isClassifier ? 'classification' : sentence === undefined ? 'hidden-states' : 'sentence-embedding',
    pooling: sentence?.pooling,
    labels: isClassifier ? labelsOf(head.data, where) : undefined,
    maxTokens: Math.min(architecture.maxPositions, sentence?.maxTokens ?? architecture.maxPositions),
    details,
  }
}

/** As transformers: the names decide, else the number, else two. */
function labelsOf({ id2label, num_labels }: z.infer<typeof Head>, where: string): string[] {
  const named = Object.keys(id2label ?? {}).length
  const count = named > 0 ? named : (num_labels ?? 2)
  return Array.from({ length: count }, (_, index) => {
    const label = named > 0 ? id2label?.[String(index)] : `LABEL_${index}`
    if (label !== undefined) return label
    throw inputError(
      'config-invalid',
      `${where}: id2label has ${named} labels but none for ${index}; number them from 0`,
    )
  })
}
