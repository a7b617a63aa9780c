// The artifact's tokenizer: text and conversations to ids, ids to text.
import { Template } from '@huggingface/jinja'
import { Tokenizer } from '@huggingface/tokenizers'
import { z } from 'zod'
import type { Folder } from '../../compiler/host.ts'
import { readJson, withFile } from '../../compiler/read-file.ts'
import type { Tool } from '../contract.ts'
import { BackendError } from '../errors.ts'
import { type TokenBytes, tokenBytes } from './token-bytes.ts'
import type { Decode } from './writer.ts'

/** The longest template on the Hub is about 20 kB. */
const MAX_TEMPLATE_CHARS = 65_536

/** Compositions and collapsed spaces do not shorten an honest text more than this. */
const NORMALISER_MARGIN = 4

const SpecialToken = z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
const TokenizerConfig = z.looseObject({
  bos_token: SpecialToken.nullish(),
  eos_token: SpecialToken.nullish(),
  clean_up_tokenization_spaces: z.boolean().nullish(),
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((given) =>
      typeof given === 'string' ? given : given?.find(({ name }) => name === 'default')?.template,
    ),
})

/** A message as chat templates know it: the content is one text, the arguments of a call are an object. */
export interface TemplateMessage {
  readonly role: string
  readonly content: string
  readonly tool_calls?: readonly object[]
  readonly tool_call_id?: string
}

export interface Text {
  /** With the special tokens that the tokenizer puts around a text. Throws `context_length_exceeded`. */
  encode(text: string, maxTokens: number): number[]
  /** The conversation in the artifact's chat template, with the beginning of an answer. */
  encodeChat(messages: readonly TemplateMessage[], maxTokens: number, tools?: readonly Tool[]): number[]
  readonly decode: Decode
  /** Undefined for a tokenizer whose tokens are not known by their bytes. */
  readonly tokens: TokenBytes | undefined
}

/** Undefined for an artifact without a tokenizer. Throws `artifact_unsuitable`. */
export async function openText(folder: Folder): Promise<Text | undefined> {
  const [model, config] = [await readJson(folder, 'tokenizer.json'), await readJson(folder, 'tokenizer_config.json')]
  if (model === undefined) return undefined
  // Through text again: the library wants ordinary objects, our reader makes ones without a prototype.
  const parsed = TokenizerConfig.safeParse(JSON.parse(JSON.stringify(config ?? {})))
  if (!parsed.success)
    throw new BackendError('artifact_unsuitable', `${folder.name}: tokenizer_config.json is not valid`)
  const tokenizer = new Tokenizer(JSON.parse(JSON.stringify(model)), parsed.data)
  const marks = [...tokenizer.get_added_tokens_decoder()].filter(([, { special }]) => special).map(([id]) => id)
  const template = await openTemplate(folder, parsed.data.chat_template)
  const longest = longestToken(tokenizer)

  function encode(text: string, maxTokens: number, special: boolean): number[] {
    // Refused before the work: no text of so many characters has few enough tokens.
    if (text.length > maxTokens * longest) throw tooLong(`${text.length} characters`, maxTokens)
    const { ids } = tokenizer.encode(text, { add_special_tokens: special })
    if (ids.length > maxTokens) throw tooLong(`${ids.length} tokens`, maxTokens)
    return ids
  }

  return {
    encode: (text, maxTokens) => encode(text, maxTokens, true),
    encodeChat(messages, maxTokens, tools) {
      if (template === undefined) {
        throw new BackendError('request_invalid', 'this base has no chat template; use /v1/completions', 'messages')
      }
      if (tools !== undefined && !template.takesTools) {
        throw new BackendError('request_invalid', 'the chat template of this base knows no tools', 'tools')
      }
      const { bos_token, eos_token } = parsed.data
      const context = {
        messages,
        ...(tools === undefined ? {} : { tools }),
        add_generation_prompt: true,
        bos_token: bos_token ?? '',
        eos_token: eos_token ?? '',
      }
      let text: string
      try {
        text = template.parsed.render(context)
      } catch {
        throw new BackendError('request_invalid', 'the chat template of this base refuses these messages', 'messages')
      }
      return encode(text, maxTokens, false)
    },
    tokens: tokenBytes(model, tokenizer.get_vocab(), new Set(marks)),
    decode: (ids) =>
      ids.length === 0
        ? ''
        : tokenizer.decode([...ids], {
            skip_special_tokens: true,
            clean_up_tokenization_spaces: parsed.data.clean_up_tokenization_spaces ?? false,
          }),
  }
}

/** A template that never names them would leave them out in silence. */
const NAMES_TOOLS = /\btools\b/

async function openTemplate(
  folder: Folder,
  inConfig: string | undefined,
): Promise<{ parsed: Template; takesTools: boolean } | undefined> {
  const inFile = await withFile(folder, 'chat_template.jinja', async (file) =>
    file.size > MAX_TEMPLATE_CHARS ? '' : new TextDecoder().decode(await file.read(0, file.size)),
  )
  const source = inFile ?? inConfig
  if (source === undefined) return undefined
  if (source === '' || source.length > MAX_TEMPLATE_CHARS) {
    throw new BackendError(
      'artifact_unsuitable',
      `${folder.name}: a chat template has 1 to ${MAX_TEMPLATE_CHARS} characters`,
    )
  }
  try {
    return { parsed: new Template(source), takesTools: NAMES_TOOLS.test(source) }
  } catch (error) {
    throw new BackendError('artifact_unsuitable', `${folder.name}: the chat template does not parse: ${String(error)}`)
  }
}

/** In characters of the vocabulary; a normaliser may shorten a text, so this is generous. */
function longestToken(tokenizer: Tokenizer): number {
  let longest = 1
  for (const token of tokenizer.get_vocab().keys()) longest = Math.max(longest, token?.length ?? 0)
  return longest * NORMALISER_MARGIN
}

function tooLong(found: string, maxTokens: number): BackendError {
  return new BackendError('context_length_exceeded', `the prompt has ${found}; at most ${maxTokens} tokens fit`)
}
