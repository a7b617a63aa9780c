// How a text is cut before byte-pair merges, by the name that GGUF gives it; as the original tokenizers write it.
import { inputError, quote } from '../../errors.ts'

/** Steps of `pre_tokenizer` in tokenizer.json, and what goes with them. */
export interface PreTokenizer {
  readonly steps: readonly object[]
  /** A token that is in the vocabulary whole is not built by merges. */
  readonly ignoreMerges?: boolean
  readonly normalizer?: object
  /** Where the file does not say. */
  readonly addBos?: boolean
}

const bytes = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})

const split = (pattern: string) => ({
  type: 'Split',
  pattern: { Regex: pattern },
  behavior: 'Isolated',
  invert: false,
})

/** Llama 3's, with at most `digits` digits a piece. */
const wordsAndDigits = (digits: string) =>
  split(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" +
      `\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  )

/** GPT-2's: the words of `ByteLevel` itself. */
const GPT2: PreTokenizer = { steps: [bytes(true)] }
/** `Digits` of the original, written out: implementations of it differ on digits that are not ASCII. */
const SMOLLM: PreTokenizer = { steps: [split('\\p{N}'), bytes(true)] }
const LLAMA3: PreTokenizer = { steps: [wordsAndDigits('{1,3}'), bytes(false)], ignoreMerges: true, addBos: true }
const DBRX: PreTokenizer = { steps: [wordsAndDigits('{1,3}'), bytes(false)] }
const QWEN2: PreTokenizer = { steps: [wordsAndDigits(''), bytes(false)], normalizer: { type: 'NFC' } }
/** What llama.cpp does where the file names no pre-tokenizer: there is no original to be like. */
const DEFAULT: PreTokenizer = {
  steps: [
    split('[\\p{P}\\$\\+<=>\\^~\\|]+'),
    split("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"),
    split('\\p{N}+'),
    split('[0-9][0-9][0-9]'),
    bytes(false),
  ],
}

const BY_NAME: ReadonlyMap<string, PreTokenizer> = new Map([
  ['default', DEFAULT],
  ['gpt-2', GPT2],
  ['olmo', GPT2],
  ['smollm', SMOLLM],
  ['refact', SMOLLM],
  ['llama-bpe', LLAMA3],
  ['llama3', LLAMA3],
  ['llama-v3', LLAMA3],
  ['dbrx', DBRX],
  ['qwen2', QWEN2],
])

/** Throws `InputError` for a name that is not known: another cut would give other tokens in silence. */
export function preTokenizer(file: string, name: string): PreTokenizer {
  const found = BY_NAME.get(name)
  if (found !== undefined) return found
  throw inputError(
    'gguf-unsupported',
    `${file}: tokenizer.ggml.pre is ${quote(name)}; ${[...BY_NAME.keys()].join(', ')} are read, give the Hugging Face ` +
      'folder',
  )
}
