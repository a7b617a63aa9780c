// Which files of a repository are pulled: what a base or an adapter needs, or what --include names.
import { checkChosen } from './check-path.ts'
import { PullError } from './errors.ts'
import { matches } from './glob.ts'
import type { RemoteFile } from './listing.ts'

/** Configuration and tokenizer, at the top of a repository. */
const CONFIG = new Set([
  'config.json',
  'generation_config.json',
  'adapter_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'vocab.txt',
  'merges.txt',
  'chat_template.json',
  'chat_template.jinja',
  'modules.json',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
])
/** The modules of a sentence-transformers model: `1_Pooling/config.json`, `2_Dense/model.safetensors`. */
const MODULE = /^\d_\w{1,40}\/(config\.json|model\.safetensors)$/
/** What transformers, PEFT and MLX load; repositories often hold the same weights under other names too. */
const WEIGHTS =
  /^(model(-\d{5}-of-\d{5})?|adapter_model(-\d{5}-of-\d{5})?|adapters|pytorch_lora_weights)\.safetensors(\.index\.json)?$/
const ANY_WEIGHTS = /^[^/]+\.safetensors(\.index\.json)?$/
const MAX_PATTERNS = 64
const MAX_PATTERN_CHARS = 256
/** 400 B parameters in fp32. */
const MAX_TOTAL_BYTES = 2 * 2 ** 40

export function selectFiles(
  repo: string,
  listed: readonly RemoteFile[],
  include: readonly string[] | undefined,
): readonly RemoteFile[] {
  const chosen = include === undefined ? byDefault(repo, listed) : byPatterns(repo, listed, include)
  checkChosen(
    repo,
    chosen.map(({ path }) => path),
  )
  const bytes = chosen.reduce((sum, file) => sum + file.bytes, 0)
  if (bytes > MAX_TOTAL_BYTES) {
    throw new PullError(
      'too-large',
      `${repo}: the files have ${bytes} bytes together; at most ${MAX_TOTAL_BYTES} are pulled, choose some with --include.`,
    )
  }
  return chosen
}

function byDefault(repo: string, listed: readonly RemoteFile[]): RemoteFile[] {
  const named = listed.filter(({ path }) => WEIGHTS.test(path))
  const weights = named.length > 0 ? named : listed.filter(({ path }) => ANY_WEIGHTS.test(path))
  if (weights.length === 0) {
    const gguf = listed.some(({ path }) => path.endsWith('.gguf'))
    const hint = gguf
      ? "it has GGUF files, choose one with --include, e.g. --include '*Q4_K_M.gguf'"
      : "name what you want, e.g. --include 'onnx/*'"
    throw new PullError('nothing-selected', `${repo} holds no safetensors at its top; ${hint}.`)
  }
  const taken = new Set(weights)
  return listed.filter((file) => taken.has(file) || CONFIG.has(file.path) || MODULE.test(file.path))
}

function byPatterns(repo: string, listed: readonly RemoteFile[], include: readonly string[]): RemoteFile[] {
  if (include.length > MAX_PATTERNS || include.some((pattern) => pattern.length > MAX_PATTERN_CHARS)) {
    throw new PullError(
      'pattern-invalid',
      `--include: at most ${MAX_PATTERNS} patterns of ${MAX_PATTERN_CHARS} characters are taken.`,
    )
  }
  for (const pattern of include) {
    if (listed.some(({ path }) => matches(pattern, path))) continue
    throw new PullError('nothing-selected', `${repo}: --include ${JSON.stringify(pattern)} matches no file of it.`)
  }
  return listed.filter(({ path }) => include.some((pattern) => matches(pattern, path)))
}
