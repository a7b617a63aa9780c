// `/v1/completions` and `/v1/chat/completions`: from a checked body to running rows and their answer.
import { randomInt } from 'node:crypto'
import type { Context } from 'hono'
import type { Exporter } from '../../telemetry/otlp.ts'
import { type Capability, ChatCompletionRequest, CompletionRequest, promptsOf } from '../contract.ts'
import type { EngineClient } from '../engine/client.ts'
import { runnableOf } from '../engine/mix.ts'
import type { GenerateRequest } from '../engine/request.ts'
import { BackendError } from '../errors.ts'
import type { Text } from '../text/tokenizer.ts'
import { type Answer, UsageCount } from './answer.ts'
import { chatAnswer } from './chat-answer.ts'
import { templateMessages } from './chat-messages.ts'
import { completionAnswer } from './completion-answer.ts'
import type { Env, Log } from './env.ts'
import type { Metrics } from './metrics.ts'
import { readBody } from './read-body.ts'
import { callConstraintOf, constraintOf } from './response-format.ts'
import { type Indexed, runChoices } from './run-choices.ts'
import { streamEvents } from './stream.ts'
import { tokenTexts } from './token-texts.ts'
import { type TracedRows, traceRows } from './trace-rows.ts'

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
  readonly metrics: Metrics
  /** Undefined: nobody looks at traces. */
  readonly exporter?: Exporter | undefined
}

type Body = CompletionRequest | ChatCompletionRequest

interface Job {
  readonly body: Body
  readonly requests: readonly GenerateRequest[]
  /** Each prompt counts once, however many answers it gets. */
  readonly promptTokens: number
  readonly answer: Answer
}

export async function complete(context: Context<Env>, options: GenerateOptions): Promise<Response> {
  const body = await readBody(context.req.raw, CompletionRequest)
  const text = textOf(options)
  const capability = context.get('capability')
  const { maxPositions, vocabSize } = options.engine.info
  const longest = maxPositions - (body.max_tokens === 0 ? 0 : 1)
  const prompts = promptsOf(body.prompt).map((prompt) => {
    if (typeof prompt === 'string') return { ids: text.encode(prompt, longest), text: prompt }
    checkIds(prompt, vocabSize)
    return { ids: prompt, text: body.echo === true ? text.decode(prompt) : '' }
  })
  const logprobs = body.logprobs ?? undefined
  const common = {
    ...commonOf(body, capability, vocabSize),
    logprobs,
    scorePrompt: logprobs !== undefined && body.echo === true,
  }
  const n = body.n ?? 1
  const allowance = allowanceOf(capability, prompts.length * n)
  const repeated = prompts.flatMap((prompt) => Array.from({ length: n }, (_, index) => ({ prompt, index })))
  const requests = repeated.map(({ prompt: { ids }, index }): GenerateRequest => {
    const maxTokens = Math.min(body.max_tokens ?? Math.min(COMPLETION_MAX_TOKENS, maxPositions - ids.length), allowance)
    return { ...common, promptIds: ids, maxTokens, sampling: samplingOf(body, index) }
  })
  const answer = completionAnswer(
    repeated.map(({ prompt }) => prompt),
    {
      ...headOf(context, options),
      echo: body.echo === true,
      logprobs: logprobs !== undefined,
      tokenTexts: tokenTexts(text),
      decode: text.decode,
    },
  )
  const promptTokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0)
  return run(context, options, { body, requests, promptTokens, answer })
}

export async function chat(context: Context<Env>, options: GenerateOptions): Promise<Response> {
  const body = await readBody(context.req.raw, ChatCompletionRequest)
  const text = textOf(options)
  const capability = context.get('capability')
  const { maxPositions, vocabSize } = options.engine.info
  const tools = body.tool_choice === 'none' ? undefined : (body.tools ?? undefined)
  const constraint = constraintOf(body.response_format) ?? callConstraintOf(tools, body.tool_choice)
  const promptIds = text.encodeChat(templateMessages(body.messages), maxPositions - 1, tools)
  const logprobs = body.logprobs === true ? (body.top_logprobs ?? 0) : undefined
  const n = body.n ?? 1
  const asked = body.max_completion_tokens ?? body.max_tokens
  const maxTokens = Math.min(
    asked ?? Math.min(CHAT_MAX_TOKENS, maxPositions - promptIds.length),
    allowanceOf(capability, n),
  )
  const common = { ...commonOf(body, capability, vocabSize), promptIds, maxTokens, logprobs, constraint }
  const requests = Array.from({ length: n }, (_, index) => ({ ...common, sampling: samplingOf(body, index) }))
  const answer = chatAnswer(n, {
    ...headOf(context, options),
    logprobs: logprobs !== undefined,
    tokenTexts: tokenTexts(text),
    tools: tools?.map((tool) => tool.function.name),
  })
  return run(context, options, { body, requests, promptTokens: promptIds.length, answer })
}

function commonOf(body: Body, { adapter, tenant }: Capability, vocabSize: number) {
  const foreign = Object.keys(body.logit_bias ?? {}).find((id) => Number(id) >= vocabSize)
  if (foreign !== undefined) {
    const message = `"logit_bias": there is no token ${foreign}; this model has ${vocabSize}`
    throw new BackendError('request_invalid', message, 'logit_bias')
  }
  const stop = body.stop ?? []
  return { stop: typeof stop === 'string' ? [stop] : stop, ...runnableOf(adapter), tenant }
}

/** Answers of one request each have a seed of their own, and the first has the caller's. */
function samplingOf(body: Body, index: number): GenerateRequest['sampling'] {
  return {
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    seed: body.seed == null ? randomInt(MAX_RANDOM_SEED) : body.seed + index,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    logitBias: Object.entries(body.logit_bias ?? {}).map(([id, bias]) => [Number(id), bias] as const),
  }
}

/** The capability bounds what the whole request may produce; each answer gets an equal share. */
function allowanceOf({ maxTokens }: Capability, choices: number): number {
  const share = Math.floor(maxTokens / choices)
  if (share > 0) return share
  const message = `"n": ${choices} answers are asked for, and ${maxTokens} tokens are allowed in all`
  throw new BackendError('request_invalid', message, 'n')
}

async function run(context: Context<Env>, options: GenerateOptions, job: Job): Promise<Response> {
  const { body, requests, promptTokens, answer } = job
  const count = new UsageCount(promptTokens, body.n ?? 1)
  const gone = new AbortController()
  const { signal } = context.req.raw
  if (signal.aborted) gone.abort()
  else signal.addEventListener('abort', () => gone.abort(), { once: true })
  const rows = traceRows(options.exporter, context)
  const asked = rows === undefined ? requests : requests.map((request) => ({ ...request, timed: true }))
  const pieces = meter(runChoices(options.engine, asked, gone.signal), context, options, promptTokens, rows)
  if (!body.stream) return whole(context, pieces, answer, count)
  // Refusals have a status of their own: the answer begins when there is something to send.
  const first = await pieces.next()
  return new Response(
    streamEvents(resume(first, pieces), {
      answer,
      count,
      includeUsage: body.stream_options?.include_usage ?? false,
      continuousUsage: body.stream_options?.continuous_usage_stats ?? false,
      gone,
    }),
    { headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' } },
  )
}

async function whole(
  context: Context<Env>,
  pieces: AsyncIterable<Indexed>,
  { head, choices }: Answer,
  count: UsageCount,
): Promise<Response> {
  for await (const indexed of pieces) {
    count.add(indexed)
    choices[indexed.index]!.add(indexed.piece)
  }
  return context.json({
    ...head,
    choices: choices.map((choice) => choice.whole()),
    usage: count.usage,
  })
}

async function* resume(first: IteratorResult<Indexed, void>, rest: AsyncIterable<Indexed>): AsyncGenerator<Indexed> {
  if (first.done) return
  yield first.value
  yield* rest
}

/** Logs and counts one generation, however it ends. */
async function* meter(
  pieces: AsyncIterable<Indexed>,
  context: Context<Env>,
  { log, now, metrics }: GenerateOptions,
  promptTokens: number,
  rows: TracedRows | undefined,
): AsyncGenerator<Indexed, void, undefined> {
  const startMs = now()
  const recording = metrics.record(promptTokens)
  let firstMs: number | null = null
  let completionTokens = 0
  let cachedTokens = 0
  let outcome = 'aborted'
  let ended: string | undefined
  try {
    for await (const indexed of pieces) {
      const { index, piece } = indexed
      firstMs ??= now() - startMs
      completionTokens += piece.ids.length
      cachedTokens += piece.cachedTokens ?? 0
      recording.tokens(index, piece.ids.length)
      rows?.piece(indexed)
      ended = piece.finish ?? ended
      yield indexed
    }
    outcome = ended ?? outcome
  } catch (error) {
    if (error instanceof BackendError) outcome = error.code
    else if (!context.req.raw.signal.aborted) outcome = 'failed'
    throw error
  } finally {
    const { tenant, adapter: claimed, model } = context.get('capability')
    const { adapter } = runnableOf(claimed)
    const times = { firstMs, totalMs: now() - startMs }
    const { requestId, trace } = context.var
    recording.end(outcome)
    rows?.end(outcome, { prompt: promptTokens, completion: completionTokens })
    log({
      event: 'generation',
      requestId,
      ...trace,
      tenant,
      adapter,
      model,
      promptTokens,
      cachedTokens,
      completionTokens,
      outcome,
      ...times,
    })
  }
}

function headOf(context: Context<Env>, { now }: GenerateOptions): { model: string; created: number } {
  return { model: context.get('capability').model, created: Math.floor(now() / 1000) }
}

function checkIds(ids: readonly number[], vocabSize: number): void {
  const bad = ids.find((id) => id >= vocabSize)
  if (bad === undefined) return
  throw new BackendError('request_invalid', `"prompt": there is no token ${bad}; this model has ${vocabSize}`, 'prompt')
}

function textOf({ text }: GenerateOptions): Text {
  if (text === undefined) throw new BackendError('request_invalid', 'this artifact has no tokenizer and serves no text')
  return text
}
