// Base, data and settings of a page → everything that a plan or a run needs, with nothing of the weights read yet.
import { readConfig } from '../../compiler/checkpoint/config.ts'
import type { Decoder } from '../../compiler/checkpoint/decoder.ts'
import { inputError } from '../../compiler/errors.ts'
import type { ByteSource, Folder } from '../../compiler/host.ts'
import { openText } from '../../gpu-backend/text/tokenizer.ts'
import type { Example } from '../data/example.ts'
import { holdOut } from '../data/order.ts'
import { readJsonl } from '../data/read-jsonl.ts'
import { selectLora } from '../lora/select.ts'
import type { LoraSpec } from '../lora/spec.ts'
import { checkOptions, type TrainOptions } from '../run/options.ts'
import { longestOf, optionsOf, type Settings } from './settings.ts'

export interface Job {
  readonly config: Decoder
  readonly spec: LoraSpec
  readonly options: TrainOptions
  readonly examples: readonly Example[]
  readonly heldOut: readonly Example[]
}

/** Throws `InputError`, for data with every bad line of it. */
export async function openJob(base: Folder, data: ByteSource, settings: Settings): Promise<Job> {
  const config = await readConfig(base)
  const { maxPositions, vocabSize } = config.architecture
  const { heldOutShare, seed } = settings
  if (!(heldOutShare >= 0 && heldOutShare < 1)) {
    throw inputError('train-option', `the held-out share is ${heldOutShare}; give a share from 0 to below 1`)
  }
  // What is wrong with the options is said before the data is read, whose lines hang on one of them.
  checkOptions(optionsOf(settings, maxPositions, 1), maxPositions)
  const text = await openText(base)
  if (text === undefined) {
    throw inputError('file-missing', `${base.name} has no tokenizer.json; put the base's own there`)
  }
  const words = { encode: text.tokenIds, render: text.render, endId: config.eosTokenIds[0] }
  const maxTokens = longestOf(settings, maxPositions)
  const found = await readJsonl(data, words, { maxTokens, badLines: 'refuse', vocabSize })
  const { train: examples, held: heldOut } = holdOut(found.examples, heldOutShare, seed)
  const options = optionsOf(settings, maxPositions, examples.length)
  checkOptions(options, maxPositions)
  return { config, spec: selectLora(config.architecture, options.lora), options, examples, heldOut }
}
