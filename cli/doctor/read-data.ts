// Texts for the doctor, as tokens: a plain text, or JSONL of texts, conversations, prompts with completions, or token ids.
import { readFile, stat } from 'node:fs/promises'
import { z } from 'zod'
import type { TokenText } from '../../compiler/doctor/logits.ts'
import { parseJson } from '../../compiler/strict-json.ts'
import type { Text } from '../../gpu-backend/text/tokenizer.ts'
import { UserError } from '../fail.ts'

/** Read whole; the tokens that are used are fewer by far. */
const MAX_FILE_BYTES = 64 * 1024 * 1024

const Ids = z.array(z.int().min(0)).min(2)
const Message = z.object({ role: z.enum(['system', 'user', 'assistant']), content: z.string() })
const Line = z.union([
  z.object({ token_ids: Ids }).transform(({ token_ids }) => ({ kind: 'ids', ids: token_ids }) as const),
  z.object({ messages: z.array(Message).min(2) }).transform(({ messages }) => ({ kind: 'chat', messages }) as const),
  z
    .object({ prompt: z.string(), completion: z.string() })
    .transform(({ prompt, completion }) => ({ kind: 'completion', prompt, completion }) as const),
  z.object({ text: z.string() }).transform(({ text }) => ({ kind: 'text', text }) as const),
])
type Line = z.infer<typeof Line>

export interface DataLimits {
  readonly vocabSize: number
  readonly maxTokens: number
}

/** The first `maxTokens` tokens of the file. Throws `UserError` that names file and line. `text`: of the base. */
export async function readTexts(
  path: string,
  text: Text | undefined,
  { vocabSize, maxTokens }: DataLimits,
): Promise<TokenText[]> {
  const there = await stat(path).catch(() => undefined)
  if (!there?.isFile()) throw new UserError(`data: "${path}" is no file; give a .jsonl or .txt file.`)
  if (there.size > MAX_FILE_BYTES) {
    throw new UserError(`data: "${path}" has ${there.size} bytes; at most ${MAX_FILE_BYTES} are read, cut it.`)
  }
  const content = await readFile(path, 'utf8')
  const lines = path.endsWith('.jsonl') ? content.split('\n') : undefined
  const texts: TokenText[] = []
  let left = maxTokens
  const add = (found: TokenText) => {
    const ids = found.ids.slice(0, left)
    left -= ids.length
    if (ids.length > found.start) texts.push({ ids, start: found.start })
  }
  if (lines === undefined) add({ ids: withTokenizer(text, path).encode(content, Number.MAX_SAFE_INTEGER), start: 1 })
  for (const [place, line] of (lines ?? []).entries()) {
    if (left === 0) break
    if (line.trim() === '') continue
    const about = `${path}:${place + 1}`
    const found = encode(parseLine(line, about), text, about)
    const bad = found.ids.find((id) => id >= vocabSize)
    if (bad !== undefined) throw new UserError(`${about}: token id ${bad}; the base has ${vocabSize} tokens.`)
    add(found)
  }
  if (texts.length > 0) return texts
  throw new UserError(`data: "${path}" has no text of two tokens or more; give some of the adapter's task.`)
}

function parseLine(line: string, about: string): Line {
  let json: unknown
  try {
    json = parseJson(line)
  } catch (error) {
    throw new UserError(`${about}: not JSON: ${error instanceof Error ? error.message : String(error)}.`)
  }
  const parsed = Line.safeParse(json)
  if (parsed.success) return parsed.data
  throw new UserError(
    `${about}: has none of "text", "messages", "prompt" with "completion", and "token_ids" (two or more); write one.`,
  )
}

/** Of a conversation and of a completion only the answer counts; what comes before it is given. */
function encode(line: Line, given: Text | undefined, about: string): TokenText {
  if (line.kind === 'ids') return { ids: line.ids, start: 1 }
  const text = withTokenizer(given, about)
  const most = Number.MAX_SAFE_INTEGER
  if (line.kind === 'text') return { ids: text.encode(line.text, most), start: 1 }
  if (line.kind === 'completion') {
    const prompt = text.encode(line.prompt, most)
    return { ids: [...prompt, ...plain(text, line.completion)], start: Math.max(1, prompt.length) }
  }
  const answer = line.messages.at(-1)
  if (answer?.role !== 'assistant') throw new UserError(`${about}: the last of "messages" is not the assistant's.`)
  const prompt = text.encodeChat(line.messages.slice(0, -1), most)
  return { ids: [...prompt, ...plain(text, answer.content)], start: Math.max(1, prompt.length) }
}

/** Without what the tokenizer puts before every text, which is what it gives for none. */
function plain(text: Text, continuation: string): number[] {
  const ids = text.encode(continuation, Number.MAX_SAFE_INTEGER)
  const around = text.encode('', Number.MAX_SAFE_INTEGER)
  let before = 0
  while (before < around.length && around[before] === ids[before]) before += 1
  return ids.slice(before)
}

function withTokenizer(text: Text | undefined, about: string): Text {
  if (text !== undefined) return text
  throw new UserError(`${about}: the base has no tokenizer.json; give JSONL with "token_ids".`)
}
