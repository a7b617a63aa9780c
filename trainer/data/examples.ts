// One line of JSONL → an example, with the loss on what is to be learned.
//
//   {"messages": [{"role", "content"}, …]}     each assistant's turn, up to the token that ends it
//   {"prompt": "…", "completion": "…"}         the completion and the end
//   {"text": "…"}                              everything
//
// A prompt and what follows it become tokens apart, as they do when the model is served.
import { z } from 'zod'
import { quote } from '../../compiler/errors.ts'
import { describeIssues } from '../../compiler/read-file.ts'
import { JsonError, parseJson } from '../../compiler/strict-json.ts'
import type { Example } from './example.ts'
import type { ChatMessage, TrainingText } from './text.ts'

/** Longer conversations exist; none of them fits into the positions of a base that is trained here. */
const MAX_MESSAGES = 1024

const Message = z.object({ role: z.enum(['system', 'user', 'assistant']), content: z.string() })
const Line = z.union(
  [
    z.strictObject({ messages: z.array(Message).min(1).max(MAX_MESSAGES) }),
    z.strictObject({ prompt: z.string(), completion: z.string().min(1) }),
    z.strictObject({ text: z.string().min(1) }),
  ],
  { error: 'is none of {messages: [{role, content}]}, {prompt, completion} and {text}, all of them text' },
)

/** What is wrong with a line, as the end of a sentence. */
export class LineError extends Error {
  override readonly name = 'LineError'
}

export interface LineOptions {
  /** Longer examples are refused; a plain text is cut into pieces. */
  readonly maxTokens: number
}

/** Throws `LineError`. One example, or as many as a long text has pieces. */
export function parseLine(line: string, text: TrainingText, { maxTokens }: LineOptions): Example[] {
  let json: unknown
  try {
    // Through text again: zod wants ordinary objects, our reader makes ones without a prototype.
    json = JSON.parse(JSON.stringify(parseJson(line, 'any')))
  } catch (error) {
    throw new LineError(`is not JSON: ${error instanceof JsonError ? error.message : 'it nests too deep'}`)
  }
  const parsed = Line.safeParse(json)
  if (!parsed.success) throw new LineError(describeIssues(parsed.error).replace(/^"the whole file": /, ''))
  if ('text' in parsed.data) return cut(wholeText(parsed.data.text, text), maxTokens)
  const example = 'messages' in parsed.data ? conversation(parsed.data.messages, text) : completion(parsed.data, text)
  if (example.ids.length > maxTokens) {
    throw new LineError(
      `has ${example.ids.length} tokens; at most ${maxTokens} are learned at once, shorten it or raise --max-length`,
    )
  }
  return [example]
}

function wholeText(words: string, text: TrainingText): Example {
  const ids = ended(text.encode(words, true), text)
  return { ids, isTarget: ids.map((_, at) => at > 0) }
}

function completion(
  { prompt, completion: answer }: { prompt: string; completion: string },
  text: TrainingText,
): Example {
  const before = text.encode(prompt, true)
  if (before.length === 0)
    throw new LineError('has an empty prompt, and this tokenizer begins texts with nothing; write it as text')
  const after = ended(text.encode(answer, false), text)
  return { ids: [...before, ...after], isTarget: [...before.map(() => false), ...after.map(() => true)] }
}

function ended(ids: readonly number[], { endId }: TrainingText): readonly number[] {
  return endId === undefined || ids.at(-1) === endId ? ids : [...ids, endId]
}

function conversation(messages: readonly ChatMessage[], text: TrainingText): Example {
  const ids: number[] = []
  const isTarget: boolean[] = []
  let done = ''
  let kept = 0
  messages.forEach(({ role }, turn) => {
    if (role !== 'assistant') return
    const prompt = render(messages.slice(0, turn), true, text)
    const whole = render(messages.slice(0, turn + 1), false, text)
    if (!prompt.startsWith(done) || !whole.startsWith(prompt)) {
      throw new LineError(
        'has a turn that the chat template renders in another way once it is answered; split the conversation',
      )
    }
    const before = text.encode(prompt.slice(done.length), false)
    const answer = text.encode(whole.slice(prompt.length), false)
    // What the template puts after the end is not the model's to write.
    const end = text.endId === undefined ? -1 : answer.indexOf(text.endId)
    const own = end < 0 ? answer.length : end + 1
    ids.push(...before, ...answer)
    isTarget.push(...before.map(() => false), ...answer.map((_, at) => at < own))
    kept = ids.length - answer.length + own
    done = whole
  })
  if (kept === 0) throw new LineError('has no turn of the assistant, so there is nothing to learn; add one')
  return { ids: ids.slice(0, kept), isTarget: isTarget.slice(0, kept) }
}

function render(messages: readonly ChatMessage[], addGenerationPrompt: boolean, text: TrainingText): string {
  if (messages.length === 0) throw new LineError('begins with the assistant; put a turn of the user before it')
  try {
    return text.render(messages, addGenerationPrompt)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new LineError(`is refused by the chat template (${quote(reason)}); use prompt and completion instead`)
  }
}

/** Pieces of at most `maxTokens`, each of which overlaps the one before by the token that its first target hangs on. */
function cut(example: Example, maxTokens: number): Example[] {
  const { ids, isTarget } = example
  if (ids.length < 2) throw new LineError('has fewer than two tokens, so nothing follows anything; write more')
  const pieces: Example[] = []
  for (let from = 0; from + 1 < ids.length; from += maxTokens - 1) {
    pieces.push({ ids: ids.slice(from, from + maxTokens), isTarget: isTarget.slice(from, from + maxTokens) })
  }
  return pieces
}
