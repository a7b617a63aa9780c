// The answer of a foreign backend, built anew: the public name, ids of our own, and of the rest only what OpenAI's clients
// read. What an upstream calls its models, its builds, its requests and its cache stays there.
import * as z from 'zod'
import { upstreamError } from '../errors.ts'
import type { Endpoint } from '../infer/parse-request.ts'
import type { Translator } from './driver.ts'

const Index = z.int().min(0).max(4096).default(0)
const Bytes = z.array(z.number()).nullish()
const Top = z.object({ token: z.string(), logprob: z.number(), bytes: Bytes })
const Logprobs = z
  .object({
    content: z.array(Top.extend({ top_logprobs: z.array(Top).optional() })).nullish(),
    refusal: z.null().optional(),
    tokens: z.array(z.string()).optional(),
    token_logprobs: z.array(z.number().nullable()).optional(),
    top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullish(),
    text_offset: z.array(z.number()).optional(),
  })
  .nullish()
const Finish = z.enum(['stop', 'length', 'tool_calls', 'content_filter', 'function_call']).nullish()
/** Engines have reasons of their own, such as `eos_token`: an answer that ended is one that stopped. */
const FinishReason = z
  .unknown()
  .transform((reason) => (typeof reason === 'string' ? (Finish.safeParse(reason).data ?? 'stop') : null))
const Called = z.object({ name: z.string().optional(), arguments: z.string().optional() })
const ToolCall = z.object({
  index: Index.optional(),
  id: z.string().nullish(),
  type: z.literal('function').nullish(),
  function: Called,
})
const Message = z.object({
  role: z.literal('assistant').optional(),
  content: z.string().nullish(),
  refusal: z.string().nullish(),
  tool_calls: z.array(ToolCall).nullish(),
})
const Choice = z.object({
  index: Index,
  message: Message.optional(),
  delta: Message.optional(),
  text: z.string().optional(),
  logprobs: Logprobs,
  finish_reason: FinishReason,
})
const Count = z.int().min(0)
/** Not the details: how much of a prompt was cached says what others have asked. */
const Usage = z.object({ prompt_tokens: Count, completion_tokens: Count.optional(), total_tokens: Count.optional() })
const Generated = z.object({ choices: z.array(Choice), usage: Usage.nullish() })
const Embedded = z.object({
  data: z.array(
    z.object({ object: z.literal('embedding'), index: Index, embedding: z.union([z.string(), z.array(z.number())]) }),
  ),
  usage: Usage.nullish(),
})
type Choice = z.infer<typeof Choice>

/** Far above the longest event; what is longer is no event but an attack, or a server that has lost its mind. */
const MAX_EVENT_CHARS = 1 << 20

export interface Rewriting {
  readonly endpoint: Endpoint
  readonly model: string
  readonly requestId: string
  readonly createdS: number
  /** Whether the caller asked for a last chunk with the usage alone. */
  readonly includeUsage: boolean
  readonly translator: Translator | undefined
}

const PREFIX = { chat: 'chatcmpl', completions: 'cmpl', embeddings: 'embd' } as const
const OBJECT = {
  chat: ['chat.completion', 'chat.completion.chunk'],
  completions: ['text_completion', 'text_completion'],
  embeddings: ['list', 'list'],
} as const

function renameCalls(choice: Choice, requestId: string): Choice {
  const rename = (message: Choice['message']) =>
    message?.tool_calls == null
      ? message
      : {
          ...message,
          tool_calls: message.tool_calls.map((call, at) =>
            call.id == null ? call : { ...call, id: `call_${requestId}_${choice.index}_${call.index ?? at}` },
          ),
        }
  const { message, delta, ...rest } = choice
  return {
    ...rest,
    ...(message === undefined ? {} : { message: rename(message) }),
    ...(delta === undefined ? {} : { delta: rename(delta) }),
  }
}

function headOf({ endpoint, model, requestId, createdS }: Rewriting, isChunk: boolean) {
  const object = OBJECT[endpoint][isChunk ? 1 : 0]
  return endpoint === 'embeddings'
    ? { object, model }
    : { id: `${PREFIX[endpoint]}-${requestId}`, object, created: createdS, model }
}

/** Throws where it is not what was asked for. */
export function rewriteWhole(bytes: Uint8Array, rewriting: Rewriting): Uint8Array {
  const parsed: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  const value = rewriting.translator === undefined ? parsed : rewriting.translator.whole(parsed)
  const head = headOf(rewriting, false)
  const encode = (answer: object) => new TextEncoder().encode(JSON.stringify(answer))
  if (rewriting.endpoint === 'embeddings') {
    const { data, usage } = Embedded.parse(value)
    return encode({ ...head, data, ...(usage ? { usage } : {}) })
  }
  const { choices, usage } = Generated.parse(value)
  if (choices.length === 0) throw upstreamError(502, 'upstream_invalid')
  const renamed = choices.map((choice) => renameCalls(choice, rewriting.requestId))
  return encode({ ...head, choices: renamed, ...(usage ? { usage } : {}) })
}

/** Splits server-sent events, however they are cut into pieces. */
function createEventReader(): (piece: string) => string[] {
  let rest = ''
  let data: string[] = []
  let held = 0
  return (piece) => {
    const events: string[] = []
    const lines = (rest + piece).split('\n')
    rest = lines.pop() ?? ''
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw
      if (line.startsWith('data:')) {
        data.push(line.slice(line[5] === ' ' ? 6 : 5))
        held += line.length
      } else if (line === '' && data.length > 0) {
        events.push(data.join('\n'))
        data = []
        held = 0
      }
    }
    if (rest.length + held > MAX_EVENT_CHARS) throw upstreamError(502, 'upstream_invalid')
    return events
  }
}

/** One event in, the text of none, one or two out. */
export function createChunkWriter(rewriting: Rewriting): (event: string) => string {
  const head = headOf(rewriting, true)
  const write = (chunk: object) => `data: ${JSON.stringify({ ...head, ...chunk })}\n\n`
  /** The last chunk with a reason to end waits for the usage, which goes along where nobody asked for one by itself. */
  let last: { choices: Choice[] } | undefined
  const release = (usage?: object) => {
    const text = last === undefined ? '' : write(usage === undefined ? last : { ...last, usage })
    last = undefined
    return text
  }
  const rewrite = (value: unknown): string => {
    // A server that fails after its first byte says so in an event.
    if (typeof value !== 'object' || value === null || 'error' in value) throw upstreamError(502, 'upstream_failed')
    const { choices, usage } = Generated.parse(value)
    if (choices.length === 0) {
      if (usage == null) return ''
      if (!rewriting.includeUsage) return last === undefined ? write({ choices, usage }) : release(usage)
      return release() + write({ choices, usage })
    }
    const chunk = {
      choices: choices.map((choice) => renameCalls(choice, rewriting.requestId)),
      ...(usage ? { usage } : {}),
    }
    const before = release()
    if (choices.every((choice) => choice.finish_reason === null)) return before + write(chunk)
    last = chunk
    return before
  }
  return (event) => {
    if (event === '[DONE]') {
      const owed = (rewriting.translator?.end() ?? []).map(rewrite).join('')
      return `${owed}${release()}data: [DONE]\n\n`
    }
    const value: unknown = JSON.parse(event)
    const values = rewriting.translator === undefined ? [value] : rewriting.translator.chunk(value)
    return values.map(rewrite).join('')
  }
}

/** Reads only when it is read: a slow caller makes a slow upstream, and nothing piles up between them. */
export function rewriteStream(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  rewriting: Rewriting,
): ReadableStream<Uint8Array> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const encoder = new TextEncoder()
  const readEvents = createEventReader()
  const write = createChunkWriter(rewriting)
  let ended = false
  let failure: unknown
  return new ReadableStream<Uint8Array>(
    {
      async pull(sink) {
        if (failure !== undefined) throw failure
        for (;;) {
          const { done, value } = await reader.read()
          if (done) return sink.close()
          // Whatever follows the end is not an answer.
          if (ended) continue
          let text = ''
          try {
            for (const event of readEvents(decoder.decode(value, { stream: true }))) {
              if (ended) break
              text += write(event)
              ended = event === '[DONE]'
            }
          } catch (error) {
            // What came before it in the same piece was an answer still.
            if (text === '') throw error
            failure = error
          }
          if (text !== '') return sink.enqueue(encoder.encode(text))
        }
      },
      async cancel(reason) {
        await reader.cancel(reason)
      },
    },
    { highWaterMark: 0 },
  )
}
