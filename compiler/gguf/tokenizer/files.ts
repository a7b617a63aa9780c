// tokenizer.json, tokenizer_config.json and generation_config.json out of a GGUF's metadata.
import { inputError, quote } from '../../errors.ts'
import type { Metadata } from '../metadata.ts'
import { bytePairs } from './byte-pairs.ts'
import type { TokenizerModel } from './model.ts'
import { sentencePieces } from './sentence-pieces.ts'
import { KIND, readVocabulary, type Vocabulary } from './vocabulary.ts'

const MODELS: ReadonlyMap<string, (metadata: Metadata, vocabulary: Vocabulary) => TokenizerModel> = new Map([
  ['gpt2', bytePairs],
  ['llama', sentencePieces],
])

/** By file name; empty where the GGUF has no tokenizer. Throws `InputError`. */
export function tokenizerFiles(metadata: Metadata): Map<string, object> {
  const kind = metadata.string('tokenizer.ggml.model')
  if (kind === undefined || kind === 'none') return new Map()
  const read = MODELS.get(kind)
  if (read === undefined) {
    throw inputError(
      'gguf-unsupported',
      `${metadata.file}: tokenizer.ggml.model is ${quote(kind)}; ${[...MODELS.keys()].join(' and ')} are read, give the ` +
        'Hugging Face folder',
    )
  }
  const vocabulary = readVocabulary(metadata)
  const model = read(metadata, vocabulary)
  return new Map([
    ['tokenizer.json', tokenizerJson(vocabulary, model)],
    ['tokenizer_config.json', configJson(metadata, vocabulary, model)],
    ['generation_config.json', generationJson(vocabulary)],
  ])
}

function tokenizerJson({ tokens, kinds, bos, eos }: Vocabulary, model: TokenizerModel): object {
  const added = tokens.flatMap((content, id) => {
    const special = kinds[id] === KIND.control || kinds[id] === KIND.unknown
    if (!special && kinds[id] !== KIND.userDefined) return []
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }]
  })
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: model.normalizer,
    pre_tokenizer: model.preTokenizer,
    post_processor: around(tokens, model.addBos ? bos : undefined, model.addEos ? eos : undefined),
    decoder: model.decoder,
    model: model.model,
  }
}

function around(tokens: readonly string[], bos: number | undefined, eos: number | undefined): object | null {
  if (bos === undefined && eos === undefined) return null
  const special = (id: number | undefined, type: number) =>
    id === undefined ? [] : [{ SpecialToken: { id: tokens[id], type_id: type } }]
  const text = (name: string, type: number) => [
    ...special(bos, type),
    { Sequence: { id: name, type_id: type } },
    ...special(eos, type),
  ]
  const used = [...new Set([bos, eos])].filter((id) => id !== undefined)
  return {
    type: 'TemplateProcessing',
    single: text('A', 0),
    pair: [...text('A', 0), ...text('B', 1)],
    special_tokens: Object.fromEntries(
      used.map((id) => [tokens[id], { id: tokens[id], ids: [id], tokens: [tokens[id]] }]),
    ),
  }
}

function configJson(metadata: Metadata, vocabulary: Vocabulary, { addBos, addEos }: TokenizerModel): object {
  const { tokens, bos, eos, unknown, padding } = vocabulary
  const template = metadata.string('tokenizer.chat_template')
  const named = { bos_token: bos, eos_token: eos, unk_token: unknown, pad_token: padding }
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    add_bos_token: addBos,
    add_eos_token: addEos,
    clean_up_tokenization_spaces: false,
    ...Object.fromEntries(Object.entries(named).flatMap(([key, id]) => (id === undefined ? [] : [[key, tokens[id]]]))),
    ...(template === undefined ? {} : { chat_template: template }),
  }
}

function generationJson({ bos, ends }: Vocabulary): object {
  return {
    ...(bos === undefined ? {} : { bos_token_id: bos }),
    ...(ends.length === 0 ? {} : { eos_token_id: ends.length === 1 ? ends[0] : ends }),
  }
}
