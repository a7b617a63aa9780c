// `/v1/completions` and `/v1/chat/completions`: from a checked body to a running row and its answer.
import { randomInt } from 'node:crypto'
import type { Context } from 'hono'
import { ChatCompletionRequest, CompletionRequest } from '../contract.ts'
import type { EngineClient } from '../engine/client.ts'
import { runnableOf } from '../engine/mix.ts'
import type { Piece } from '../engine/request.ts'
import { BackendError } from '../errors.ts'
import type { Text } from '../text/tokenizer.ts'
import type { Env, Log } from './env.ts'
import { readBody } from './read-body.ts'
import { chatShape, completionShape, type Finish, type Shape, usageOf } from './shapes.ts'
import { streamEvents } from './stream.ts'

/** As OpenAI's. */
const COMPLETION_MAX_TOKENS = 16
/** OpenAI has no limit here; a forgotten one should not hold a row for the whole context. */
const CHAT_MAX_TOKENS = 256
const MAX_RANDOM_SEED = 2 ** 47

export interface GenerateOptions {
  readonly engine: EngineClient
  /** Undefined for an artifact without a tokenizer, which cannot serve text. */
  readonly text: Text | undefined
  readonly log: Log
  /** Milliseconds of a clock. */
  readonly now: () => number
}

interface Job {
  readonly body: CompletionRequest | ChatCompletionRequest
  readonly promptIds: readonly number[]
  readonly maxTokens: { readonly asked: number | undefined; readonly byDefault: number }
  readonly shape: Shape
}

export async function complete(context: Context<Env>, options: GenerateOptions): Promise<Response> {
  const body = await readBody(context.req.raw, CompletionRequest)
  const promptIds = textOf(options).encode(body.prompt, options.engine.info.maxPositions - 1)
  const maxTokens = { asked: body.max_tokens, byDefault: COMPLETION_MAX_TOKENS }
  const shape = completionShape(context.get('capability').model, seconds(options.now()))
  return answer(context, options, { body, promptIds, maxTokens, shape })
}

export async function chat(context: Context<Env>, options: GenerateOptions): Promise<Response> {
  const body = await readBody(context.req.raw, ChatCompletionRequest)
  const promptIds = textOf(options).encodeChat(body.messages, options.engine.info.maxPositions - 1)
  const maxTokens = { asked: body.max_completion_tokens ?? body.max_tokens, byDefault: CHAT_MAX_TOKENS }
  const shape = chatShape(context.get('capability').model, seconds(options.now()))
  return answer(context, options, { body, promptIds, maxTokens, shape })
}

async function answer(context: Context<Env>, options: GenerateOptions, job: Job): Promise<Response> {
  const { body, promptIds, shape } = job
  const capability = context.get('capability')
  const room = options.engine.info.maxPositions - promptIds.length
  const wanted = job.maxTokens.asked ?? Math.min(job.maxTokens.byDefault, room)
  const stop = body.stop ?? []
  const gone = new AbortController()
  const { signal } = context.req.raw
  if (signal.aborted) gone.abort()
  else signal.addEventListener('abort', () => gone.abort(), { once: true })
  const pieces = options.engine.generate(
    {
      promptIds,
      maxTokens: Math.min(wanted, capability.maxTokens),
      sampling: {
        temperature: body.temperature ?? 1,
        topP: body.top_p ?? 1,
        seed: body.seed ?? randomInt(MAX_RANDOM_SEED),
      },
      stop: typeof stop === 'string' ? [stop] : stop,
      ...runnableOf(capability.adapter),
      tenant: capability.tenant,
    },
    gone.signal,
  )
  const metered = meter(pieces, context, options, promptIds.length)
  if (!body.stream) return whole(context, metered, shape, promptIds.length)
  // Refusals have a status of their own: the answer begins when there is something to send.
  const first = await metered.next()
  return new Response(
    streamEvents(resume(first, metered), {
      shape,
      promptTokens: promptIds.length,
      includeUsage: body.stream_options?.include_usage ?? false,
      continuousUsage: body.stream_options?.continuous_usage_stats ?? false,
      gone,
    }),
    { headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' } },
  )
}

async function whole(
  context: Context<Env>,
  pieces: AsyncIterable<Piece>,
  shape: Shape,
  promptTokens: number,
): Promise<Response> {
  let all = ''
  let tokens = 0
  let end: Finish = 'length'
  for await (const { ids, text, finish } of pieces) {
    all += text
    tokens += ids.length
    end = finish ?? end
  }
  return context.json(shape.whole(all, end, usageOf(promptTokens, tokens)))
}

async function* resume(first: IteratorResult<Piece, void>, rest: AsyncIterable<Piece>): AsyncGenerator<Piece> {
  if (first.done) return
  yield first.value
  yield* rest
}

/** Logs one line per generation, however it ends. */
async function* meter(
  pieces: AsyncIterable<Piece>,
  context: Context<Env>,
  { log, now }: GenerateOptions,
  promptTokens: number,
): AsyncGenerator<Piece, void, undefined> {
  const startMs = now()
  let firstMs: number | null = null
  let completionTokens = 0
  let outcome = 'aborted'
  try {
    for await (const piece of pieces) {
      firstMs ??= now() - startMs
      completionTokens += piece.ids.length
      outcome = piece.finish ?? outcome
      yield piece
    }
  } catch (error) {
    if (error instanceof BackendError) outcome = error.code
    else if (!context.req.raw.signal.aborted) outcome = 'failed'
    throw error
  } finally {
    const { tenant, adapter: claimed, model } = context.get('capability')
    const { adapter } = runnableOf(claimed)
    const times = { firstMs, totalMs: now() - startMs }
    const requestId = context.get('requestId')
    log({ event: 'generation', requestId, tenant, adapter, model, promptTokens, completionTokens, outcome, ...times })
  }
}

function textOf({ text }: GenerateOptions): Text {
  if (text === undefined) throw new BackendError('request_invalid', 'this artifact has no tokenizer and serves no text')
  return text
}

function seconds(ms: number): number {
  return Math.floor(ms / 1000)
}
